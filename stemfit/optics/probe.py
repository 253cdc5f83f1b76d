"""The electron probe, and what it makes of a point: the transfer of an incoherent dark-field image.

Aberrations are named and signed as by Krivanek, Dellby & Lupini, Ultramicroscopy 78, 1 (1999), in Angstrom:

    chi(a) = 2 pi / lambda * [ 1/2 a^2 (C10 + C12 cos 2(p - p12)) + 1/3 a^3 (C21 cos(p - p21) + C23 cos 3(p - p23))
                               + 1/4 a^4 C30 ],      psi(k) = aperture * exp(-i chi)

with a = lambda |k| the angle and p its azimuth, counter-clockwise from x as displayed (x right, y up). Defocus is -C10:
positive is underfocus. Where angles of another convention are at hand: A1 = C12, B2 = C21 / 3, A2 = C23, C3 = C30.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from stemfit.errors import UsageError
from stemfit.optics.electron import wavelength_A

Scalar = float | Tensor

VOLTAGES_KV = (10.0, 1000.0)
CONVERGENCES_MRAD = (1.0, 100.0)
MOST_BLUR_A = 30.0
"""Widest probe that is taken for one: with more, columns 3 A apart are no image, and a unit was probably mistaken."""

NODES = 8
"""Of the quadrature along each direction where the phase is flat; the integrand is analytic between the limits."""

CHUNK = 1 << 20
"""Points of the quadrature that are held at once."""

FAINT_V = 29.0
"""2 pi alpha r / lambda beyond which an Airy pattern stays below 1e-4 of its peak: its envelope is 8 / (pi v^3)."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A convergent probe. Every value but the first two may be a tensor, to differentiate with respect to it.

    Attributes
    ----------
    voltage_kV, convergence_mrad : float
        Acceleration voltage; semi-angle of the aperture.
    defocus_A : float or () tensor
        -C10, positive is underfocus, from the middle of the layer.
    astigmatism_A, astigmatism_deg : float or () tensor
        C12 and its azimuth, counter-clockwise from x as displayed.
    coma_A, coma_deg, threefold_A, threefold_deg : float or () tensor
        C21 and C23 likewise.
    c3_A : float or () tensor
        Third-order spherical aberration C30.
    source_fwhm_A : float or () tensor
        Full width at half maximum of the image of the (Gaussian) source; vibrations count as source.
    focal_spread_A : float or () tensor
        rms of the defocus from the spread of energies: Cc dE / E.

    Raises
    ------
    UsageError
        For values that no microscope for atomic resolution has, as when a unit was mistaken.
    """

    voltage_kV: float
    convergence_mrad: float
    defocus_A: Scalar = 0.0
    astigmatism_A: Scalar = 0.0
    astigmatism_deg: Scalar = 0.0
    coma_A: Scalar = 0.0
    coma_deg: Scalar = 0.0
    threefold_A: Scalar = 0.0
    threefold_deg: Scalar = 0.0
    c3_A: Scalar = 0.0
    source_fwhm_A: Scalar = 0.0
    focal_spread_A: Scalar = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for field in fields(self):
            value = _plain(getattr(self, field.name))
            if not math.isfinite(value):
                raise UsageError(f"{_said(field.name)} {value} is no number", remedy="give a finite number")
        _within("voltage", self.voltage_kV, VOLTAGES_KV, "kV", "V", 1e-3)
        _within("convergence", self.convergence_mrad, CONVERGENCES_MRAD, "mrad", "rad", 1e3)
        for name in ("source_fwhm_A", "focal_spread_A"):
            value = _plain(getattr(self, name))
            if value < 0:
                what = f"{_said(name)} {value:g} A is negative"
                raise UsageError(what, remedy="give a width of 0 or more, in Angstrom")
        if self.blur_A > MOST_BLUR_A:
            what = f"aberrations and source make the probe {self.blur_A:.3g} A wide, the limit is {MOST_BLUR_A:g} A"
            raise UsageError(what, remedy="give aberrations in Angstrom (1 nm is 10 A, 1 um is 10000 A)")

    @property
    def cutoff_per_A(self) -> float:
        """Highest spatial frequency of the image, 2 alpha / lambda: the diameter of the aperture."""
        return 2e-3 * self.convergence_mrad / wavelength_A(self.voltage_kV)

    @property
    def rays_A(self) -> float:
        """Radius by which rays miss the focus, with two standard deviations of the focal spread."""
        alpha = 1e-3 * self.convergence_mrad
        rays = alpha * abs(_plain(self.defocus_A)) + alpha * abs(_plain(self.astigmatism_A))
        rays += alpha**2 * (abs(_plain(self.coma_A)) + abs(_plain(self.threefold_A)))
        return rays + alpha**3 * abs(_plain(self.c3_A)) + 2 * alpha * _plain(self.focal_spread_A)

    @property
    def blur_A(self) -> float:
        """The same with two standard deviations of the source."""
        return self.rays_A + 2 * _plain(self.source_fwhm_A) / math.sqrt(8 * math.log(2))

    @property
    def reach_A(self) -> float:
        """Distance from which a column adds less than 1e-4 of its peak."""
        return FAINT_V / (math.pi * self.cutoff_per_A) + self.blur_A


def transfer(probe: Probe, kx: Tensor, ky: Tensor) -> Tensor:
    """Fourier transform of the image of a point: of the probe's intensity, reflected through its middle.

    At scan position R the probe |psi(r - R)|^2 meets a column at r, so that the image of the column is |psi(-x)|^2.
    Its transform is the autocorrelation of the aperture function (Kirkland, *Advanced Computing in Electron
    Microscopy*, 2nd ed., 2010, section 3.3; here conjugated, which is the reflection)

        H(q) = 1/(pi K^2) int exp(i [chi(k + q/2) - chi(k - q/2)]) d^2k     over the lens where both ends are passed,

    by Gauss-Legendre quadrature over the lens itself. The phase of a defocus f changes it by 2 pi lambda f k.q, so that
    the mean over a Gaussian spread of defocus is exact, too: exp(-2 (pi lambda spread k.q)^2). Differentiable in all
    values of the probe that are tensors.

    Parameters
    ----------
    probe : Probe
    kx, ky : tensors of equal shape
        Spatial frequency, 1/A; y up.

    Returns
    -------
    complex tensor of that shape
        1 at 0, and 0 beyond `Probe.cutoff_per_A`.
    """
    flat_x, flat_y = kx.reshape(-1), ky.reshape(-1)
    inside = torch.hypot(flat_x, flat_y) < probe.cutoff_per_A * (1 - 1e-9)
    x, y = flat_x[inside], flat_y[inside]
    u, v, weight = (torch.as_tensor(a, dtype=kx.dtype, device=kx.device) for a in _nodes(probe))
    rows = max(1, CHUNK // (u.numel() * v.numel()))
    parts = [_lens(probe, a, b, u, v, weight) for a, b in zip(x.split(rows), y.split(rows), strict=True)]
    value = torch.cat(parts) if parts else torch.zeros(0, dtype=kx.dtype.to_complex(), device=kx.device)
    sigma = probe.source_fwhm_A / math.sqrt(8 * math.log(2))
    value = value * torch.exp(-2 * (math.pi * sigma) ** 2 * (x**2 + y**2))
    return value.new_zeros(flat_x.shape).masked_scatter(inside, value).reshape(kx.shape)


def _nodes(probe: Probe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes across and along the lens, on [-1, 1], and the products of their weights.

    A polynomial of degree 2n - 1 is exact: enough nodes for the largest difference of phase, in radians.
    """
    phase = 2 * math.pi / 1e3 * probe.convergence_mrad / wavelength_A(probe.voltage_kV) * probe.rays_A
    x, w = np.polynomial.legendre.leggauss(NODES + math.ceil(0.5 * phase))
    return x, x, np.outer(w, w)


def _lens(probe: Probe, qx: Tensor, qy: Tensor, u: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Autocorrelation at frequencies (M,) inside the cutoff, from nodes u (along q), v (across), weight (v, u).

    Across q the place is K sin t: the half length of the lens, K cos t - q/2, is analytic in t up to its tips.
    """
    lam, radius = wavelength_A(probe.voltage_kV), probe.cutoff_per_A / 2
    q = torch.hypot(qx, qy)
    still = q == 0
    ux, uy = torch.where(still, 1.0, qx / torch.where(still, 1.0, q)), qy / torch.where(still, 1.0, q)
    tip = torch.acos((q / (2 * radius)).clamp(max=1))  # (M,)
    angle = tip[:, None] * v  # (M, V)
    half = radius * torch.cos(angle) - q[:, None] / 2
    area = weight * (tip[:, None] * radius * torch.cos(angle) * half)[:, :, None]  # (M, V, U)
    along, across = half[:, :, None] * u, (radius * torch.sin(angle))[:, :, None]
    kx = along * ux[:, None, None] - across * uy[:, None, None]
    ky = along * uy[:, None, None] + across * ux[:, None, None]
    dx, dy = qx[:, None, None] / 2, qy[:, None, None] / 2
    phase = aberration_phase(probe, lam * (kx + dx), lam * (ky + dy))
    phase = phase - aberration_phase(probe, lam * (kx - dx), lam * (ky - dy))
    spread = torch.exp(-2 * (math.pi * lam * probe.focal_spread_A * along * q[:, None, None]) ** 2)
    area = area * spread
    total = torch.complex((area * torch.cos(phase)).sum((1, 2)), (area * torch.sin(phase)).sum((1, 2)))
    return total / (math.pi * radius**2)


def aberration_phase(probe: Probe, ax: Tensor, ay: Tensor) -> Tensor:
    """Phase of the aperture function at angles (rad)."""
    square = ax**2 + ay**2
    two = (ax**2 - ay**2) * _cos(2, probe.astigmatism_deg, ax) + 2 * ax * ay * _sin(2, probe.astigmatism_deg, ax)
    one = ax * _cos(1, probe.coma_deg, ax) + ay * _sin(1, probe.coma_deg, ax)
    three = (ax**3 - 3 * ax * ay**2) * _cos(3, probe.threefold_deg, ax)
    three = three + (3 * ax**2 * ay - ay**3) * _sin(3, probe.threefold_deg, ax)
    path = (probe.astigmatism_A * two - probe.defocus_A * square) / 2
    path = path + (probe.coma_A * square * one + probe.threefold_A * three) / 3 + probe.c3_A * square**2 / 4
    return 2 * math.pi / wavelength_A(probe.voltage_kV) * path


def _cos(times: int, degrees: Scalar, like: Tensor) -> Tensor:
    return torch.cos(times * math.pi / 180 * torch.as_tensor(degrees, dtype=like.dtype, device=like.device))


def _sin(times: int, degrees: Scalar, like: Tensor) -> Tensor:
    return torch.sin(times * math.pi / 180 * torch.as_tensor(degrees, dtype=like.dtype, device=like.device))


def _plain(value: Scalar) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def _said(name: str) -> str:
    """Name of a value as a person says it."""
    return name.rsplit("_", 1)[0].replace("_", " ")


def _within(name: str, value: float, limits: tuple[float, float], unit: str, mistaken: str, factor: float) -> None:
    low, high = limits
    if low <= value <= high:
        return
    meant = value * factor
    hint = f"did you mean {meant:g} {unit}? " if low <= meant <= high else ""
    what = f"{name} {value:g} {unit} is outside {low:g} to {high:g} {unit}"
    raise UsageError(what, remedy=f"{hint}give {unit}, not {mistaken}")
