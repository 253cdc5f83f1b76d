"""What a column of one or two atoms does to the image of the probe, from the table that comes with the package.

The image of a column is the probe's image times the column's transfer t(g), see ``benchmarks/scattering_table.py``,
which makes the table. Between the apertures, voltages and rings of the table t is interpolated.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

from stemfit.errors import UsageError
from stemfit.optics.electron import wavelength_A

FloatArray = NDArray[np.float64]
Detector = tuple[float, float]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
FREQUENCY = (NODES + 1) / 2
"""Of the image, over the highest that the aperture passes (2 alpha / lambda)."""


class Kernel(NamedTuple):
    """Image of a column at rest under a probe without width: a Gaussian of this integral and standard deviation."""

    amplitude_A2: float
    width_A: float


class Table(NamedTuple):
    """What is in the file."""

    voltages_kV: FloatArray  # (V,)
    convergences_mrad: FloatArray  # (C,)
    rings_mrad: FloatArray  # (R + 1,), edges
    thermal_A: float  # rms per axis that the difference of the two displacements in a pair has been averaged over
    transfer_A2: dict[tuple[str, ...], FloatArray]  # (V, C, R, T), coefficients of powers of the frequency


@lru_cache(maxsize=1)
def table() -> Table:
    """Read the file."""
    with (files(__package__) / "scattering.npz").open("rb") as stream, np.load(stream) as raw:
        columns = [tuple(sorted(str(name).split("-"))) for name in raw["columns"]]
        transfer = np.moveaxis(raw["transfer_A2"].astype(np.float64), 1, 0)
        return Table(
            raw["voltages_kV"],
            raw["convergences_mrad"],
            raw["rings_mrad"],
            float(raw["thermal_A"]),
            dict(zip(columns, transfer, strict=True)),
        )


def tabulated(atoms: tuple[str, ...]) -> bool:
    """Whether the table has this stack, in any order."""
    return tuple(sorted(atoms)) in table().transfer_A2


def check(voltage_kV: float, convergence_mrad: float, detector_mrad: Detector) -> None:
    """Refuse what lies outside the table.

    Raises
    ------
    UsageError
    """
    known = table()
    low, high = known.voltages_kV[[0, -1]]
    if not low <= voltage_kV <= high:
        raise UsageError(f"voltage {voltage_kV:g} kV is outside {low:g} to {high:g} kV", remedy="leave --voltage out")
    low, high = known.convergences_mrad[[0, -1]]
    if not low <= convergence_mrad <= high:
        raise UsageError(
            f"convergence {convergence_mrad:g} mrad is outside {low:g} to {high:g} mrad",
            remedy="leave --convergence out",
        )
    first, last = known.rings_mrad[[0, -1]]
    inner, outer = detector_mrad
    if not first <= inner < outer <= last:
        raise UsageError(
            f"detector {inner:g} to {outer:g} mrad is not an annulus within {first:g} to {last:g} mrad",
            remedy=f"{in_mrad(detector_mrad)}give inner,outer in mrad, or leave --detector out",
        )


def in_mrad(detector_mrad: Detector) -> str:
    """What was probably meant by a detector that ends within 1 mrad: the angles were radians. Of others nothing."""
    inner, outer = detector_mrad
    return f"did you mean {1e3 * inner:g},{1e3 * outer:g}? " if 0 < inner < outer <= 1 else ""


@lru_cache(maxsize=8192)
def fitted(atoms: tuple[str, ...], voltage_kV: float, convergence_mrad: float, detector_mrad: Detector) -> Kernel:
    """The Gaussian whose image comes nearest to that of the column.

    Parameters
    ----------
    atoms : tuple of str
        Of the column, in any order. A stack that is not in the table counts as atoms apart.
    voltage_kV, convergence_mrad, detector_mrad
        See `check`.
    """
    seen, square, t = _seen(atoms, convergence_mrad, detector_mrad)
    slope = -2 * np.pi**2 * square
    variance = np.full(len(t), 0.005)
    for _ in range(6):  # Gauss-Newton: the exponent is small, and so is what is left after three steps
        shape = np.exp(slope * variance[:, None])
        rows = np.stack([shape, slope * shape], -1)  # (V, X, 2)
        weighted = rows * seen[..., None]
        height, change = np.linalg.solve(
            weighted.transpose(0, 2, 1) @ rows, np.einsum("vxk,vx->vk", weighted, t)[..., None]
        )[..., 0].T
        variance = variance + change / height
    width = _at_voltage(variance, voltage_kV)
    return Kernel(float(np.exp(_at_voltage(np.log(height), voltage_kV))), float(np.sqrt(max(width, 0.0))))


def common(
    atoms: tuple[str, ...], voltage_kV: float, convergence_mrad: float, detector_mrad: Detector, width_A: float
) -> float:
    """Amplitude, A^2, of the Gaussian of this width that comes nearest: what an image tells with one profile for all.

    Parameters
    ----------
    width_A : float
        Of the common profile, without the probe and thermal motion.
    atoms, voltage_kV, convergence_mrad, detector_mrad
        As in `fitted`.
    """
    seen, square, t = _seen(atoms, convergence_mrad, detector_mrad)
    shape = np.exp(-2 * np.pi**2 * square * width_A**2)
    amplitude = (seen * shape * t).sum(1) / (seen * shape**2).sum(1)
    return float(np.exp(_at_voltage(np.log(amplitude), voltage_kV)))


def _seen(
    atoms: tuple[str, ...], convergence_mrad: float, detector_mrad: Detector
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Per voltage of the table and frequency (V, X): weight in an image, squared frequency (1/A^2), transfer (A^2).

    The weight is that of least squares on the image of a sharp probe: squared transfer of an ideal aperture and of
    thermal motion, times the frequencies on a circle. The source, left out, changes amplitudes by half a percent. Of a
    pair's motion the half that both atoms share is no part of its transfer, but the other half is. Half the variance is
    taken out of it: whoever gives every column the motion of its atoms then has the pair right.
    """
    known = table()
    cutoff = np.array([2e-3 * convergence_mrad / wavelength_A(v) for v in known.voltages_kV])
    square = (cutoff[:, None] * FREQUENCY) ** 2
    aperture = 2 / np.pi * (np.arccos(FREQUENCY) - FREQUENCY * np.sqrt(1 - FREQUENCY**2))
    seen = WEIGHTS * FREQUENCY * aperture**2 * np.exp(-4 * np.pi**2 * known.thermal_A**2 * square)
    key = tuple(sorted(atoms))
    parts = [key] if key in known.transfer_A2 else [(atom,) for atom in key]
    terms = np.sum([_terms(part, convergence_mrad, detector_mrad) for part in parts], 0)
    t = terms @ FREQUENCY ** np.arange(terms.shape[1])[:, None]
    if parts == [key] and len(key) == 2:
        t = t * np.exp(np.pi**2 * known.thermal_A**2 * square)
    return seen, square, t


def _terms(column: tuple[str, ...], convergence_mrad: float, detector_mrad: Detector) -> FloatArray:
    """Coefficients of the transfer at every voltage of the table, (V, T)."""
    of_aperture, of_ring = _of_convergences(convergence_mrad), _of_rings(detector_mrad)
    return np.asarray(np.einsum("vcrt,c,r->vt", table().transfer_A2[column], of_aperture, of_ring))


@lru_cache(maxsize=256)
def _of_convergences(convergence_mrad: float) -> FloatArray:
    """Weights (C,) of the apertures in the table: their polynomial (Lagrange)."""
    nodes = table().convergences_mrad
    return np.array([
        np.prod([(convergence_mrad - other) / (node - other) for other in nodes if other != node]) for node in nodes
    ])


@lru_cache(maxsize=256)
def _of_rings(detector_mrad: Detector) -> FloatArray:
    """Weights (R,) of the rings: what is scattered up to an angle is a cubic spline between their edges."""
    edges = table().rings_mrad
    up_to = CubicSpline(edges, np.tri(len(edges), len(edges) - 1, -1))
    return np.asarray(up_to(detector_mrad[1]) - up_to(detector_mrad[0]))


def _at_voltage(values: FloatArray, voltage_kV: float) -> float:
    """Interpolate (V,) along the logarithm of the voltage."""
    return float(PchipInterpolator(np.log(table().voltages_kV), values)(np.log(voltage_kV)))
