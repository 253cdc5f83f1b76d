"""What two atoms of a column lose of their coherence: not exactly above each other, or farther apart than tabulated."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations_with_replacement, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import j0

from stemfit.optics.electron import wavelength_A
from stemfit.optics.scattering import (
    TYPICAL_CONVERGENCE_MRAD,
    TYPICAL_DETECTOR_MRAD,
    TYPICAL_VOLTAGE_KV,
    column_elements,
    kernel,
)
from stemfit.optics.transfer import Detector, table, tabulated

FloatArray = NDArray[np.float64]

RING_MRAD = 6.0
"""Width of the rings into which a detector is cut: q changes by less than 1 rad/A across one."""

CHALCOGEN_HEIGHT_A = {"O": 1.10, "S": 1.565, "Se": 1.68, "Te": 1.81}
"""Half of X-X in the H phase."""

METALS = ("V", "Cr", "Nb", "Mo", "W", "Re")

GAP_STEP_A = 0.05
"""To which distances along the beam are rounded: 0.05 rad between 0 and 100 mrad at 60 kV."""

BEAMS = 8
"""Rings of equal area into which the aperture is cut."""


def pair_gaps_A() -> dict[tuple[str, str], float]:
    """Distance along the beam of the pairs that occur in columns."""
    height = CHALCOGEN_HEIGHT_A
    gaps = {(a, b): height[a] + height[b] for a, b in combinations_with_replacement(height, 2)}
    # An atom of the metal in place of one chalcogen relaxes about half way to the metal plane.
    gaps |= {(m, x): 1.5 * height[x] for m in METALS for x in ("S", "Se")}
    gaps |= {(m, "Te"): 1.5 * height["Te"] for m in ("Mo", "W")}
    gaps |= {(m, m): 2.4 for m in METALS} | {("Mo", "W"): 2.4}
    gaps |= {("Ga", "Ga"): 2.471, ("In", "In"): 2.834, ("Ga", "In"): 2.65}
    gaps |= {("C", "C"): 3.35, ("B", "N"): 3.33, ("B", "B"): 3.33, ("N", "N"): 3.33}  # layers on top of each other
    return gaps


@lru_cache(maxsize=1)
def _tabulated() -> dict[tuple[str, ...], float]:
    return {tuple(sorted(pair)): gap for pair, gap in pair_gaps_A().items()}


def gap_A(column: str) -> float | None:
    """Distance of the two atoms along the beam that the table has; None where it has no such pair."""
    return _tabulated().get(tuple(sorted(column_elements(column))))


def stretched(
    column: str, voltage_kV: float, convergence_mrad: float, detector_mrad: Detector, distance_A: float
) -> float:
    """Brightness of a pair whose atoms are this far apart along the beam, over that of `kernel`; 1 for other columns.

    From a beam at the angle a to one at the angle t the path over one atom differs from that over the other by
    d (t^2 - a^2) / 2 (free flight, as the table has it). What the pair shows in a ring by interference is
    2 sqrt(I1 I2) exp(-q^2 0.07^2) times the mean cosine of that phase over the aperture; the difference of two such
    means is added to the table. Se2 in GaSe and InSe is 12 and 15 % less bright than in WSe2 (60 kV, 60 to 200 mrad),
    as multislice has it to 1 %, at 80 kV to 4 %.
    """
    known = gap_A(column)
    if known is None:
        return 1.0
    step = round((distance_A - known) / GAP_STEP_A)
    return _stretched(column, voltage_kV, convergence_mrad, detector_mrad, known + step * GAP_STEP_A) if step else 1.0


def standing_in(
    column: str, place: str, thickness_A: float, voltage_kV: float | None, detector_mrad: Detector | None,
    convergence_mrad: float | None,
) -> float:
    """The same of a column that stands in the place of another, of this thickness in its crystal.

    Pairs differ there as in the table. Typical conditions count for those that are not known.
    """
    usual, own = gap_A(place), gap_A(column)
    if usual is None or own is None:
        return 1.0
    return stretched(
        column, voltage_kV or TYPICAL_VOLTAGE_KV, convergence_mrad or TYPICAL_CONVERGENCE_MRAD,
        detector_mrad or TYPICAL_DETECTOR_MRAD, own + thickness_A - usual,
    )


@lru_cache(maxsize=1024)
def _stretched(
    column: str, voltage_kV: float, convergence_mrad: float, detector_mrad: Detector, distance_A: float
) -> float:
    known, wavelength = gap_A(column), wavelength_A(voltage_kV)
    assert known is not None
    inner, outer = detector_mrad
    edges = np.linspace(inner, outer, math.ceil(2 * (outer - inner) / RING_MRAD) + 1)
    optics = voltage_kV, convergence_mrad
    one, other = (
        np.array([kernel(atom, *optics, ring).amplitude_A2 for ring in pairwise(edges.tolist())])
        for atom in column_elements(column)
    )
    angle = 1e-3 * (edges[1:] + edges[:-1]) / 2
    square = (np.arange(BEAMS) + 0.5) / BEAMS * (1e-3 * convergence_mrad) ** 2
    phase = np.pi / wavelength * (angle[:, None] ** 2 - square)
    change = (np.cos(distance_A * phase) - np.cos(known * phase)).mean(1)
    waves = 2 * np.sqrt(one * other) * _damped(2 * math.pi * angle / wavelength)
    return float(1 + change @ waves / kernel(column, *optics, detector_mrad).amplitude_A2)


def loosened(
    column: str, voltage_kV: float, convergence_mrad: float, detector_mrad: Detector, apart_A: ArrayLike,
    thermal_A: ArrayLike,
) -> FloatArray:
    """Brightness of a pair whose atoms are apart in projection, over that of `kernel`; 1 for all but tabulated pairs.

    Waves from two atoms that are apart by d interfere with the phase q.d at the scattering vector q. Averaged over its
    direction that is J0(q d), and independent motion of rms u per axis makes it exp(-q^2 u^2); the table holds u = 0.07
    A. So what a ring of the detector shows beyond two atoms by themselves is that of the table times
    J0(q d) exp(-q^2 (u^2 - 0.07^2)). The incident wave is taken to be along the axis: that other ones in the aperture
    have other q, and that atoms scatter most where q is small, partly make up for each other.

    For less motion than that the factor is large at high angles: 20 at 200 mrad and 60 kV for atoms at rest. What is
    found there is hardly interference any more, but the upper atom gathering the beam onto the lower. Hence no ring
    counts for more than two waves can show, 2 sqrt(I1 I2), and what motion has damped to a share D of itself is
    followed back by that share of the way. Pairs of S, Se and Mo at rest are then 4 % (rms) off multislice at 60 and
    80 kV, worst 11 %, instead of 36 and 94 %; at 0.09 A 2 %.

    Parameters
    ----------
    column : str
    voltage_kV, convergence_mrad, detector_mrad
        As of `kernel`.
    apart_A, thermal_A : (M,) arrays
        Distance of the two atoms in the plane, and their rms displacement per axis.

    Returns
    -------
    (M,) array
    """
    distance, spread = np.asarray(apart_A, dtype=np.float64), np.asarray(thermal_A) ** 2 - table().thermal_A**2
    if len(column_elements(column)) != 2 or not tabulated(column_elements(column)):
        return np.ones_like(distance)
    q, waves, other = _excess(column, voltage_kV, convergence_mrad, detector_mrad)
    moved, damped = np.exp(-(q**2) * spread[:, None]), _damped(q)
    moved = np.where(moved > 1, 1 + (moved - 1) * damped, moved)
    kept = j0(q * distance[:, None]) * (waves * moved + other)
    return np.asarray(1 + kept.sum(1) - (waves + other).sum())


def _damped(q: FloatArray) -> FloatArray:
    """What the motion in the table leaves of interference."""
    return np.exp(-((q * table().thermal_A) ** 2))


@lru_cache(maxsize=256)
def _excess(
    column: str, voltage_kV: float, convergence_mrad: float, detector_mrad: Detector
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Per ring (R,): scattering vector (rad/A), and over the whole of the pair what it has beyond its atoms.

    As far as that can be interference, and the rest.
    """
    inner, outer = detector_mrad
    edges = np.linspace(inner, outer, math.ceil((outer - inner) / RING_MRAD) + 1).tolist()
    rings = list(pairwise(edges))

    def each(name: str) -> FloatArray:
        return np.array([kernel(name, voltage_kV, convergence_mrad, ring).amplitude_A2 for ring in rings])

    one, other = (each(atom) for atom in column_elements(column))
    q = 2 * math.pi * np.array([(a + b) / 2 for a, b in rings]) * 1e-3 / wavelength_A(voltage_kV)
    beyond, most = each(column) - one - other, 2 * np.sqrt(one * other) * _damped(q)
    waves = np.clip(beyond, -most, most)
    whole = kernel(column, voltage_kV, convergence_mrad, detector_mrad).amplitude_A2
    return q, waves / whole, (beyond - waves) / whole
