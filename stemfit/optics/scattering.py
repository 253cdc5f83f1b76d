"""How bright a column is on an annular detector, by column type, voltage, aperture and detector.

Every atom is a phase object (Moliere 1947; Kirkland, *Advanced Computing in Electron Microscopy*, 2010, section 5.1)
with the form factor of Lobato & Van Dyck, Acta Cryst. A 70, 636 (2014). Stacked pairs scatter coherently: tabulated
from two phase objects with free flight and thermal motion between them. Larger stacks, and pairs that are not
tabulated, count as atoms apart. What an image shows of a column is not its cross-section but how that is passed on at
every spatial frequency: `stemfit.optics.transfer`, ``benchmarks/scattering_table.py``.

What is left out, and covered by the stated uncertainty: tilt of the layer and thermal motion other than 0.07 A, which
change the coherence of pairs, and everything that depends on the neighbours of the column. Core losses and what the
detector does beyond its two angles are not.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from stemfit.errors import UsageError
from stemfit.optics.transfer import Detector as Detector
from stemfit.optics.transfer import Kernel, check, common, fitted, tabulated

TYPICAL_DETECTOR_MRAD: Detector = (60.0, 200.0)
PLAUSIBLE_DETECTORS_MRAD: tuple[Detector, ...] = ((40.0, 100.0), (50.0, 200.0), TYPICAL_DETECTOR_MRAD, (90.0, 200.0))
TYPICAL_VOLTAGE_KV = 80.0
TYPICAL_CONVERGENCE_MRAD = 30.0
PLAUSIBLE_VOLTAGES_KV = (60.0, TYPICAL_VOLTAGE_KV, 200.0)

COMMON_WIDTH_A = 0.1
"""Of the profile that all columns of an image are given, without probe and thermal motion: that of most columns."""

Conditions = tuple[float, Detector, float | None]

ATOM_SIGMA = 0.025
"""Of any column in a crystal: ratios in MoS2 and WSe2 differ from multislice by 2 % (HAADF) to 3.5 % (MAADF; rms).
Alone, single atoms agree with multislice by another parametrisation to 1 %, and phase objects with exact partial waves
to 1 % relative to each other, also for W at 60 kV. Most is what neighbours do, whose waves overlap with the column's:
the faint one of two neighbours gains, the more so the nearer the detector begins to the aperture. See
``benchmarks/column_brightness.py``."""

SHEET_SIGMA, OF_SHEETS = 0.04, frozenset("BCNO")
"""The same of the atoms of graphene and boron nitride, whose neighbours are 1.4 A away: 3 and 6 % (rms) of ratios."""

PAIR_SIGMA, COHERENCE_SHARE = 0.03, 0.1
"""Uncertainty of a pair, and uncertain share of its departure from two atoms apart. Alone, pairs agree with multislice
to 1.5 %. Thermal amplitudes from 0.05 to 0.09 A, or a tilt of 2 degrees, change S2 at 60 kV by 2 to 4 %: by a tenth of
the departure where that is large, by 3 % where it passes through zero."""

ORDER_SIGMA = 0.05
"""Which of two unlike atoms is on top changes how they interfere, because heavy atoms turn the phase of what they
scatter: by 2 % either way on wide detectors, by 9 % from 85 to 190 mrad. The table has the mean of both."""

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


def column_elements(column: str) -> tuple[str, ...]:
    """Atoms of a column type: "Ga2Se" -> ("Ga", "Ga", "Se").

    Raises
    ------
    UsageError
        If it is not made of symbols of elements that are in the table, with counts.
    """
    atoms = tuple(s for s, n in re.findall(r"([A-Z][a-z]?)(\d*)", column) for _ in range(int(n or 1)))
    well_formed = re.fullmatch(r"([A-Z][a-z]?([2-9]|[1-9]\d)?)+", column) is not None
    if not well_formed or not all(tabulated((symbol,)) for symbol in atoms):
        raise UsageError(
            f"{column!r} is no column of known elements", remedy="write symbols with counts, as in Mo, S2 or SSe"
        )
    return atoms


def kernel(
    column: str, voltage_kV: float | None, convergence_mrad: float | None, detector_mrad: Detector | None
) -> Kernel:
    """Image of one column under a probe without width, as a Gaussian.

    The image of a column is this, the image of the probe and the thermal motion of the specimen (``u`` rms per axis),
    one convolved with the other: what its atoms' motion does to its width is NOT contained, and is to be applied to
    every column alike, ``width_A**2 + u**2``. For single atoms that is exact. What motion does to the coherence of
    pairs is contained, for 0.07 A.

    Parameters
    ----------
    column : str
        Column type: "Mo", "S2", "SSe" ...
    voltage_kV : float or None
        40 to 300; None if unknown: then the typical one, as for the others.
    convergence_mrad : float or None
        20 to 40, half angle.
    detector_mrad : (inner, outer) or None
        20 to 220 mrad.

    Returns
    -------
    Kernel
        Integral over the positions of the probe of the share of the beam on the detector, A^2, and standard
        deviation, A. Both from the frequencies that the aperture passes, each weighted as it counts in the image.

    Raises
    ------
    UsageError
        For unknown elements and for conditions outside the table.
    """
    conditions = (
        voltage_kV or TYPICAL_VOLTAGE_KV, convergence_mrad or TYPICAL_CONVERGENCE_MRAD,
        detector_mrad or TYPICAL_DETECTOR_MRAD,
    )  # fmt: skip
    check(*conditions)
    return fitted(column_elements(column), *conditions)


def amplitude(
    column: str, voltage_kV: float | None, detector_mrad: Detector | None, convergence_mrad: float | None = None
) -> tuple[float, float]:
    """Brightness of a column as an image shows it in which all columns have one profile.

    Parameters
    ----------
    column, voltage_kV, detector_mrad, convergence_mrad
        As in `kernel`.

    Returns
    -------
    value : float
        A^2, see `kernel`.
    relative_sigma : float
        Standard error over value, apart from a factor common to all columns. Of an unknown voltage or detector only
        what changes the ratio to a molybdenum column is counted.

    Raises
    ------
    UsageError
        For unknown elements and for conditions outside the table.
    """
    value = _seen_as(column, *_conditions(voltage_kV, detector_mrad), convergence_mrad)
    unknown = _spread(column, "Mo", voltage_kV, detector_mrad, convergence_mrad)
    return value, math.hypot(_model_sigma(column, voltage_kV, detector_mrad, convergence_mrad), unknown)


def ratio(
    column: str, reference: str, voltage_kV: float | None, detector_mrad: Detector | None,
    convergence_mrad: float | None = None,
) -> tuple[float, float]:  # fmt: skip
    """How bright `column` is relative to `reference`, and its relative standard error; parameters as in `amplitude`."""
    conditions = (*_conditions(voltage_kV, detector_mrad), convergence_mrad)
    value = _seen_as(column, *conditions) / _seen_as(reference, *conditions)
    if column_elements(column) == column_elements(reference):
        return value, 0.0
    model = (_model_sigma(c, voltage_kV, detector_mrad, convergence_mrad) for c in (column, reference))
    return value, math.hypot(*model, _spread(column, reference, voltage_kV, detector_mrad, convergence_mrad))


class Seen(NamedTuple):
    """A ratio of two columns as an image shows it, and its relative standard error."""

    column: str
    reference: str
    value: float
    sigma: float


def ratio_given(
    column: str, reference: str, voltage_kV: float | None, detector_mrad: Detector | None, seen: Seen,
    convergence_mrad: float | None = None,
) -> tuple[float, float]:
    """As `ratio`, where the image shows how bright two other columns are relative to each other.

    That says what detector it may have been, as far as nobody stated it, and how the model errs: what makes pairs
    scatter less coherently than tabulated does so for all pairs. Everything else errs column by column. The ratio of
    heavy to light columns changes with the inner angle and coherence is lost with it: for an unknown detector the error
    of most ratios falls by half.
    """
    voltages = PLAUSIBLE_VOLTAGES_KV if voltage_kV is None else (voltage_kV,)
    detectors = POSSIBLE_DETECTORS_MRAD if detector_mrad is None else (detector_mrad,)
    cases = [
        case
        for conditions in product(voltages, detectors, (convergence_mrad,))
        for case in _cases(column, reference, conditions, seen)
    ]
    weight, mean, variance = np.array(cases).T
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    middle = float(weight @ mean)
    return math.exp(middle), math.sqrt(float(weight @ (variance + (mean - middle) ** 2)))


def _cases(
    column: str, reference: str, conditions: Conditions, seen: Seen
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Logarithm of the weight, mean and variance of the logarithm of a ratio under one set of conditions.

    With the ratio that was seen, and in case that it was misread.
    """
    logs = {c: math.log(_seen_as(c, *conditions)) for c in (column, reference, seen.column, seen.reference)}
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
    conditions: Conditions,
) -> None:
    """Add a column's errors of the model, each by its cause, to those of a ratio's logarithm."""
    own, coherence = _errors(column, *conditions)
    atoms = tuple(sorted(column_elements(column)))
    for cause, error in ((("own", *atoms), own), (("coherence",), coherence)):
        of = kinds.setdefault(cause, {})
        of[where] = of.get(where, 0.0) + sign * error


def _spread(
    column: str, reference: str, voltage_kV: float | None, detector_mrad: Detector | None,
    convergence_mrad: float | None,
) -> float:  # fmt: skip
    """Relative spread of a ratio over what may have been, where voltage or detector are unknown."""
    voltages = PLAUSIBLE_VOLTAGES_KV if voltage_kV is None else (voltage_kV,)
    detectors = PLAUSIBLE_DETECTORS_MRAD if detector_mrad is None else (detector_mrad,)
    cases = product(voltages, detectors, (convergence_mrad,))
    return float(np.std([math.log(_seen_as(column, *c) / _seen_as(reference, *c)) for c in cases]))


def _conditions(voltage_kV: float | None, detector_mrad: Detector | None) -> tuple[float, Detector]:
    return voltage_kV or TYPICAL_VOLTAGE_KV, detector_mrad or TYPICAL_DETECTOR_MRAD


def _model_sigma(
    column: str, voltage_kV: float | None, detector_mrad: Detector | None, convergence_mrad: float | None
) -> float:
    """Relative error of the model itself, see the constants."""
    return math.hypot(*_errors(column, *_conditions(voltage_kV, detector_mrad), convergence_mrad))


def _errors(
    column: str, voltage_kV: float, detector_mrad: Detector, convergence_mrad: float | None
) -> tuple[float, float]:
    """Relative error of the model: of the column's own, and of the coherence that all pairs share."""
    atoms = column_elements(column)
    if len(atoms) == 1:
        return SHEET_SIGMA if atoms[0] in OF_SHEETS else ATOM_SIGMA, 0.0
    if not tabulated(atoms):
        return math.hypot(ATOM_SIGMA, UNTABULATED_SIGMA), 0.0
    apart = sum(_seen_as(atom, voltage_kV, detector_mrad, convergence_mrad) for atom in atoms)
    coherence = math.log(_seen_as(column, voltage_kV, detector_mrad, convergence_mrad) / apart)
    order = ORDER_SIGMA if len(set(atoms)) > 1 else 0.0
    return math.hypot(ATOM_SIGMA, PAIR_SIGMA, order), COHERENCE_SHARE * coherence


@lru_cache(maxsize=8192)
def _seen_as(column: str, voltage_kV: float, detector_mrad: Detector, convergence_mrad: float | None) -> float:
    """Brightness with the common profile, A^2."""
    conditions = voltage_kV, convergence_mrad or TYPICAL_CONVERGENCE_MRAD, detector_mrad
    check(*conditions)
    return common(column_elements(column), *conditions, COMMON_WIDTH_A)
