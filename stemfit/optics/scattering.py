"""How bright a column is on an annular detector: cross-sections by column type, voltage and detector.

Every atom is a phase object (Moliere 1947; Kirkland, *Advanced Computing in Electron Microscopy*, 2010, section 5.1)
with the form factor of Lobato & Van Dyck, Acta Cryst. A 70, 636 (2014). Stacked pairs scatter coherently: tabulated
from two phase objects with free flight and thermal motion between them. ``benchmarks/scattering_table.py`` makes the
table. Larger stacks, and pairs that are not tabulated, count as atoms apart.

What is left out, and covered by the stated uncertainty: core losses, thermal diffuse scattering within an atom,
detector inhomogeneity, tilt of the layer (which weakens the coherence of pairs), and everything that depends on the
neighbours of the column.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from importlib.resources import files
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import UsageError

FloatArray = NDArray[np.float64]
Detector = tuple[float, float]

TYPICAL_DETECTOR_MRAD: Detector = (60.0, 200.0)
PLAUSIBLE_DETECTORS_MRAD: tuple[Detector, ...] = ((40.0, 100.0), (50.0, 200.0), TYPICAL_DETECTOR_MRAD, (90.0, 200.0))
TYPICAL_VOLTAGE_KV = 80.0
PLAUSIBLE_VOLTAGES_KV = (60.0, TYPICAL_VOLTAGE_KV, 200.0)

ATOM_SIGMA = 0.02
"""Best case, a light atom: phase objects and multislice agree to 2 % (relative to each other)."""

STRONG_PHASE_SHARE = 1 / 3
"""Uncertain share of the departure from the first Born approximation: 15 to 20 % for W against Mo at 60 kV."""

PAIR_SIGMA, COHERENCE_SHARE = 0.05, 1 / 4
"""Uncertainty of a pair, and uncertain share of its departure from two atoms apart. Thermal amplitudes from 0.05 to
0.09 A, convergence from 20 to 35 mrad and a tilt of 2 degrees change S2 at 60 kV by 3 to 5 % each; ripples do more."""

UNTABULATED_SIGMA = 0.25
"""A stack that counts as atoms apart: the typical departure of the tabulated pairs."""

POSSIBLE_DETECTORS_MRAD: tuple[Detector, ...] = tuple(
    (float(inner), float(outer))
    for inner, outer in product(range(40, 101, 10), (100, 150, 200)) if outer >= inner + 50
)  # fmt: skip
"""Annuli among which a measured ratio chooses."""

MISREAD, RATIO_RANGE = 0.05, 3.0
"""Probability that a measured ratio is not of the two columns that it was taken for, and what its logarithm ranges over
then."""


class _Table(NamedTuple):
    voltages_kV: FloatArray  # (V,)
    angles_mrad: FloatArray  # (A,)
    atoms_A2: dict[str, FloatArray]  # (V, A), from the first angle up
    born: dict[str, FloatArray]  # (V,), phase object over first Born approximation at 60-200 mrad
    rings_mrad: FloatArray  # (R + 1,), edges
    coherence: dict[tuple[str, ...], FloatArray]  # (V, R), pair over its atoms apart


@lru_cache(maxsize=1)
def _table() -> _Table:
    with (files(__package__) / "scattering.npz").open("rb") as stream, np.load(stream) as raw:
        atoms = raw["atoms_A2"].astype(np.float64)
        angles = raw["angles_mrad"]
        annulus = [np.interp(TYPICAL_DETECTOR_MRAD[k], angles, np.arange(len(angles))) for k in (0, 1)]
        inner, outer = (round(float(index)) for index in annulus)
        born = (atoms[:, :, outer] - atoms[:, :, inner]) / raw["born_A2"]
        pairs = [tuple(sorted(str(pair).split("-"))) for pair in raw["pairs"]]
        return _Table(
            raw["voltages_kV"],
            angles,
            {str(s): atoms[:, e] for e, s in enumerate(raw["symbols"])},
            {str(s): born[:, e] for e, s in enumerate(raw["symbols"])},
            raw["rings_mrad"],
            {pair: raw["coherence"][:, p].astype(np.float64) for p, pair in enumerate(pairs)},
        )


def column_elements(column: str) -> tuple[str, ...]:
    """Atoms of a column type: "Ga2Se" -> ("Ga", "Ga", "Se").

    Raises
    ------
    UsageError
        If it is not made of symbols of elements that are in the table, with counts.
    """
    atoms = tuple(s for s, n in re.findall(r"([A-Z][a-z]?)(\d*)", column) for _ in range(int(n or 1)))
    well_formed = re.fullmatch(r"([A-Z][a-z]?([2-9]|[1-9]\d)?)+", column) is not None
    if not well_formed or any(symbol not in _table().atoms_A2 for symbol in atoms):
        raise UsageError(
            f"{column!r} is no column of known elements", remedy="write symbols with counts, as in Mo, S2 or SSe"
        )
    return atoms


def amplitude(column: str, voltage_kV: float | None, detector_mrad: Detector | None) -> tuple[float, float]:
    """Cross-section of a column for scattering into an annular detector.

    Parameters
    ----------
    column : str
        Column type: "Mo", "S2", "SSe" ...
    voltage_kV : float or None
        40 to 300; None if unknown.
    detector_mrad : (inner, outer) or None
        20 to 220 mrad; None if unknown.

    Returns
    -------
    value : float
        A^2, incident convergence 30 mrad.
    relative_sigma : float
        Standard error over value, apart from a factor common to all columns. Of an unknown voltage or detector only
        what changes the ratio to a molybdenum column is counted.

    Raises
    ------
    UsageError
        For unknown elements and for conditions outside the table.
    """
    value = _cross_section(column, voltage_kV or TYPICAL_VOLTAGE_KV, detector_mrad or TYPICAL_DETECTOR_MRAD)
    unknown = _spread(column, "Mo", voltage_kV, detector_mrad)
    return value, math.hypot(_model_sigma(column, voltage_kV, detector_mrad), unknown)


def ratio(column: str, reference: str, voltage_kV: float | None, detector_mrad: Detector | None) -> tuple[float, float]:
    """How bright `column` is relative to `reference`, and its relative standard error; parameters as in `amplitude`."""
    conditions = voltage_kV or TYPICAL_VOLTAGE_KV, detector_mrad or TYPICAL_DETECTOR_MRAD
    value = _cross_section(column, *conditions) / _cross_section(reference, *conditions)
    if column_elements(column) == column_elements(reference):
        return value, 0.0
    model = (_model_sigma(c, voltage_kV, detector_mrad) for c in (column, reference))
    return value, math.hypot(*model, _spread(column, reference, voltage_kV, detector_mrad))


class Seen(NamedTuple):
    """A ratio of two columns as an image shows it, and its relative standard error."""

    column: str
    reference: str
    value: float
    sigma: float


def ratio_given(
    column: str, reference: str, voltage_kV: float | None, detector_mrad: Detector | None, seen: Seen
) -> tuple[float, float]:
    """As `ratio`, where the image shows how bright two other columns are relative to each other.

    That says what detector it may have been, as far as nobody stated it, and how the model errs: what makes pairs
    scatter less coherently than tabulated does so for all pairs. Everything else errs column by column. The ratio of
    heavy to light columns falls with the inner angle, coherence is lost with it, and the departure from Born grows with
    the voltage's wavelength: for an unknown detector the error of most ratios falls by half.
    """
    voltages = PLAUSIBLE_VOLTAGES_KV if voltage_kV is None else (voltage_kV,)
    detectors = POSSIBLE_DETECTORS_MRAD if detector_mrad is None else (detector_mrad,)
    cases = [
        case for conditions in product(voltages, detectors) for case in _cases(column, reference, conditions, seen)
    ]
    weight, mean, variance = np.array(cases).T
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    middle = float(weight @ mean)
    return math.exp(middle), math.sqrt(float(weight @ (variance + (mean - middle) ** 2)))


def _cases(
    column: str, reference: str, conditions: tuple[float, Detector], seen: Seen
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Logarithm of the weight, mean and variance of the logarithm of a ratio under one set of conditions.

    With the ratio that was seen, and in case that it was misread.
    """
    logs = {c: math.log(_cross_section(c, *conditions)) for c in (column, reference, seen.column, seen.reference)}
    kinds: dict[tuple[str, ...], dict[str, float]] = {}
    for sign, name in ((1.0, column), (-1.0, reference)):
        _add(kinds, name, "asked", sign, conditions)
    for sign, name in ((1.0, seen.column), (-1.0, seen.reference)):
        _add(kinds, name, "seen", sign, conditions)
    each = [(of.get("asked", 0.0), of.get("seen", 0.0)) for of in kinds.values()]
    variance = sum(a * a for a, _ in each)
    both, other = sum(a * s for a, s in each), sum(s * s for _, s in each) + seen.sigma**2
    mean, off = logs[column] - logs[reference], math.log(seen.value) - logs[seen.column] + logs[seen.reference]
    likely = math.log(1 - MISREAD) - 0.5 * off**2 / other - 0.5 * math.log(2 * math.pi * other)
    return (
        (likely, mean + both / other * off, variance - both**2 / other),
        (math.log(MISREAD / RATIO_RANGE), mean, variance),
    )


def _add(
    kinds: dict[tuple[str, ...], dict[str, float]], column: str, where: str, sign: float,
    conditions: tuple[float, Detector],
) -> None:
    """Add a column's errors of the model, each by its cause, to those of a ratio's logarithm."""
    own, coherence = _errors(column, *conditions)
    atoms = tuple(sorted(column_elements(column)))
    for cause, error in ((("own", *atoms), own), (("coherence",), coherence)):
        of = kinds.setdefault(cause, {})
        of[where] = of.get(where, 0.0) + sign * error


def _spread(column: str, reference: str, voltage_kV: float | None, detector_mrad: Detector | None) -> float:
    """Relative spread of a ratio over what may have been, where voltage or detector are unknown."""
    voltages = PLAUSIBLE_VOLTAGES_KV if voltage_kV is None else (voltage_kV,)
    detectors = PLAUSIBLE_DETECTORS_MRAD if detector_mrad is None else (detector_mrad,)
    cases = list(product(voltages, detectors))
    return float(np.std([math.log(_cross_section(column, *c) / _cross_section(reference, *c)) for c in cases]))


def _model_sigma(column: str, voltage_kV: float | None, detector_mrad: Detector | None) -> float:
    """Relative error of the model itself: strong phase objects and coherence, see the constants."""
    return math.hypot(*_errors(column, voltage_kV or TYPICAL_VOLTAGE_KV, detector_mrad or TYPICAL_DETECTOR_MRAD))


def _errors(column: str, voltage_kV: float, detector_mrad: Detector) -> tuple[float, float]:
    """Relative error of the model: of the column's own, and of the coherence that all pairs share."""
    atoms = column_elements(column)
    apart = [_cross_section(atom, voltage_kV, detector_mrad) for atom in atoms]
    strong = [1 - _at_voltage(_table().born[atom], voltage_kV) for atom in atoms]
    phase = STRONG_PHASE_SHARE * float(np.average(strong, weights=apart))
    if len(atoms) > 1 and not _tabulated(atoms):
        return math.hypot(ATOM_SIGMA, phase, UNTABULATED_SIGMA), 0.0
    coherence = math.log(_cross_section(column, voltage_kV, detector_mrad) / sum(apart))
    return math.hypot(ATOM_SIGMA, phase, PAIR_SIGMA if len(atoms) > 1 else 0.0), COHERENCE_SHARE * coherence


def _tabulated(atoms: tuple[str, ...]) -> bool:
    return tuple(sorted(atoms)) in _table().coherence


@lru_cache(maxsize=4096)
def _cross_section(column: str, voltage_kV: float, detector_mrad: Detector) -> float:
    """Integral over the detector, A^2."""
    table, atoms = _table(), column_elements(column)
    _check(table, voltage_kV, detector_mrad)
    inside = (table.rings_mrad > detector_mrad[0]) & (table.rings_mrad < detector_mrad[1])
    edges = np.concatenate([[detector_mrad[0]], table.rings_mrad[inside], [detector_mrad[1]]])
    cumulative = np.sum([table.atoms_A2[atom] for atom in atoms], axis=0)  # (V, A)
    apart = np.diff(_interpolate(edges, table.angles_mrad, cumulative))  # (V, rings)
    if _tabulated(atoms):
        centres = (table.rings_mrad[1:] + table.rings_mrad[:-1]) / 2
        apart = apart * _interpolate((edges[1:] + edges[:-1]) / 2, centres, table.coherence[tuple(sorted(atoms))])
    return _at_voltage(apart.sum(axis=1), voltage_kV)


def _interpolate(at: FloatArray, x: FloatArray, values: FloatArray) -> FloatArray:
    """Linear along the last axis of (V, X)."""
    return np.array([np.interp(at, x, row) for row in values])


def _at_voltage(values: FloatArray, voltage_kV: float) -> float:
    """Interpolate (V,) as powers of the voltage: between the rows right to 1 % in ratios, 2 % in absolute terms."""
    return math.exp(np.interp(math.log(voltage_kV), np.log(_table().voltages_kV), np.log(values)))


def _check(table: _Table, voltage_kV: float, detector_mrad: Detector) -> None:
    low, high = table.voltages_kV[[0, -1]]
    if not low <= voltage_kV <= high:
        raise UsageError(f"voltage {voltage_kV:g} kV is outside {low:g} to {high:g} kV", remedy="leave --voltage out")
    first, last = table.angles_mrad[[0, -1]]
    inner, outer = detector_mrad
    if not first <= inner < outer <= last:
        raise UsageError(
            f"detector {inner:g} to {outer:g} mrad is not an annulus within {first:g} to {last:g} mrad",
            remedy="give inner,outer in mrad, or leave --detector out",
        )
