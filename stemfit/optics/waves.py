"""What columns make of the beams of an aperture: waves on the detector, kept as products of thin matrices.

A column's wave F(k, q), in the direction k of the beam q, is a matrix of some hundred beams by some ten thousand
directions. As functions of the beam its rows are smooth: an atom is narrower than the probe, so its waves change little
over the aperture, and some ten to fifty of their combinations are all of it to `MISSED`. What a pair shows is then a
product of matrices that are as thin, for any distance, and only these are kept.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import zpstrf

from stemfit.optics.amplitude import amplitude_A
from stemfit.optics.electron import wavelength_A
from stemfit.optics.probe import Probe
from stemfit.optics.transfer import Detector

FloatArray = NDArray[np.float64]
ThinArray = NDArray[np.complex64]

FARTHEST_A = 3.65
"""Columns this far apart are neighbours: the three nearest shells of a sheet, the two of a dichalcogenide. A probe that
an aberration has not spoiled has less than a tenth of its amplitude at both."""

PERIOD_A = 10.0
"""Of the lattice of beams, for a probe in focus: two columns that far apart and their copies do not meet."""

PERIOD_STEP_A = 2.0
"""To which it is rounded up: what is kept serves all probes of about one size."""

CELL = 8
"""A beam's share of the aperture is counted on so many points per side."""

MISSED = 1e-3
"""Share of a wave, rms over beams and directions, that may be left out. What two columns show together is off by
0.1 to 0.6 % of itself then, and pixels of an image by 1e-4 of the brightest (60 and 200 kV, detectors from the edge of
the aperture on; `tests/test_neighbours.py`)."""

COARSE_A = 1.0
"""Directions that tell how the waves of an atom depend on the beam: as many as a bond of this length needs."""

CHUNK = 1 << 20
"""Beams times directions that are held at once."""


class Column(NamedTuple):
    """One column: `atoms` are (element, height in A above the plane in focus, thermal rms^2 per axis in A^2)."""

    atoms: tuple[tuple[str, float, float], ...]


class Beams(NamedTuple):
    """A square lattice of plane waves that fill the aperture, the first axis along the bond.

    Attributes
    ----------
    steps : (B, 2) int array
    share : (B,) array
        Of each cell, what lies within the aperture.
    pitch_per_A : float
    differences : (B * B,) int array
        Number of q - q', row by row of (4 n + 1)^2.
    most : int
        n.
    """

    steps: NDArray[np.int64]
    share: FloatArray
    pitch_per_A: float
    differences: NDArray[np.int64]
    most: int


class Waves(NamedTuple):
    """Waves of a column: F(k, q) times the root of the area that k stands for is `beams` @ `onto`.

    Attributes
    ----------
    beams : (B, R) array
    onto : (R, K) array
    """

    beams: ThinArray
    onto: ThinArray


class Ring(NamedTuple):
    """Directions k (K, 2) on the detector, 1/A, and the areas that they stand for (K,), 1/A^2."""

    k: FloatArray
    area: FloatArray


Optics = tuple[float, float, Detector, float]
"""Voltage (kV), convergence (mrad), detector (mrad), period (A)."""


def optics(probe: Probe, detector_mrad: Detector) -> Optics:
    """What the overlap on the detector depends on."""
    rays = 2 * probe.rays_A
    period = PERIOD_A + PERIOD_STEP_A * math.ceil(rays / PERIOD_STEP_A)
    return probe.voltage_kV, probe.convergence_mrad, detector_mrad, period


@lru_cache(maxsize=16)
def beams(voltage_kV: float, convergence_mrad: float, period_A: float) -> Beams:
    """See `Beams`."""
    radius = 1e-3 * convergence_mrad / wavelength_A(voltage_kV) * period_A  # in pitches
    most = math.floor(radius) + 1
    index = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    within = (np.arange(CELL) + 0.5) / CELL - 0.5
    x, y = index[:, 0, None, None] + within[:, None], index[:, 1, None, None] + within
    share = (np.hypot(x, y) < radius).mean((1, 2))
    index, share = index[share > 0], share[share > 0]
    apart = index[:, None] - index + 2 * most
    return Beams(index, share, 1 / period_A, (apart[..., 0] * (4 * most + 1) + apart[..., 1]).ravel(), most)


@lru_cache(maxsize=16)
def ring(voltage_kV: float, detector_mrad: Detector, apart_A: float = FARTHEST_A) -> Ring:
    """Gauss-Legendre along the radius, equal steps around: enough for the phase of two columns so far apart."""
    inner, outer = (1e-3 * angle / wavelength_A(voltage_kV) for angle in detector_mrad)
    node, weight = np.polynomial.legendre.leggauss(8 + math.ceil(math.pi / 2 * (outer - inner) * apart_A))
    count = 24 + math.ceil(2 * math.pi * outer * apart_A)
    radius, width = (outer + inner) / 2 + (outer - inner) / 2 * node, (outer - inner) / 2 * weight
    azimuth = (np.arange(count) + 0.5) * 2 * np.pi / count
    k = np.stack([np.outer(radius, np.cos(azimuth)).ravel(), np.outer(radius, np.sin(azimuth)).ravel()], -1)
    return Ring(k, np.repeat(width * radius * 2 * np.pi / count, count))


@lru_cache(maxsize=32)
def waves(column: Column, at: Optics) -> Waves:
    """See `Waves`; in free flight from a height h the phase is -pi lambda h (k^2 - q^2)."""
    voltage, convergence, detector, period = at
    lattice, onto = beams(voltage, convergence, period), ring(voltage, detector)
    flight = np.pi * wavelength_A(voltage)
    square_q, square_k = (lattice.steps**2).sum(1) * lattice.pitch_per_A**2, (onto.k**2).sum(1)
    parts = []
    for element, height, square in column.atoms:
        atom = _atom(element, square, at)
        before, behind = np.exp(1j * flight * height * square_q), np.exp(-1j * flight * height * square_k)
        parts.append(Waves(*(a.astype(np.complex64) for a in (before[:, None] * atom.beams, atom.onto * behind))))
    return parts[0] if len(parts) == 1 else _thin(parts)


def _thin(parts: list[Waves]) -> Waves:
    """The sum of waves; those of one column are nearly the same combinations of beams."""
    axes, mixed = np.linalg.qr(np.hstack([part.beams for part in parts]).astype(np.complex128))
    onto = mixed @ np.vstack([part.onto for part in parts])
    main = _main(onto @ onto.conj().T)
    return Waves((axes @ main).astype(np.complex64), (main.conj().T @ onto).astype(np.complex64))


def _main(gram: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Main axes (N, R) of vectors whose squares sum up to `gram` (N, N): all but `MISSED` of them.

    By Cholesky's factors with the largest first, until what is left is less than that: it takes R^2 N steps, not N^3.
    """
    whole = MISSED**2 * float(np.trace(gram).real)
    factor, order, rank, _ = zpstrf(gram, tol=whole / len(gram), lower=1)
    rows = np.zeros((len(gram), rank), np.complex128)
    rows[order - 1] = np.tril(factor)[:, :rank]
    axes = np.linalg.qr(rows)[0]
    strength, turned = np.linalg.eigh(axes.conj().T @ gram @ axes)
    return np.asarray(axes @ turned[:, np.cumsum(strength.clip(0)) > whole])


@lru_cache(maxsize=16)
def _atom(element: str, square_A2: float, at: Optics) -> Waves:
    """Waves of an atom in the plane in focus that moves by so much (rms^2 per axis)."""
    voltage, _, detector, _ = at
    coarse, fine = ring(voltage, detector, COARSE_A), ring(voltage, detector)
    some = _scattered(element, square_A2, coarse, at)
    main = _main(some @ some.conj().T)
    step = max(1, CHUNK // len(main))
    parts = [Ring(fine.k[k : k + step], fine.area[k : k + step]) for k in range(0, len(fine.k), step)]
    onto = np.hstack([main.conj().T @ _scattered(element, square_A2, part, at) for part in parts])
    return Waves(main.astype(np.complex64), onto.astype(np.complex64))


def _scattered(element: str, square_A2: float, onto: Ring, at: Optics) -> NDArray[np.complex128]:
    """F(k, q) times the root of the area, (B, K)."""
    voltage, convergence, detector, period = at
    lattice, outer = beams(voltage, convergence, period), 1e-3 * detector[1] / wavelength_A(voltage)
    q = lattice.steps * lattice.pitch_per_A
    most = float(np.ceil(10 * (outer + np.hypot(*q.T).max())) / 10)
    g, f = amplitude_A(element, voltage, most)
    through = np.hypot(onto.k[:, 0] - q[:, :1], onto.k[:, 1] - q[:, 1:])
    return np.asarray(np.interp(through, g, f * np.exp(-2 * np.pi**2 * square_A2 * g**2)) * np.sqrt(onto.area))
