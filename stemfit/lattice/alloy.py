"""Whether the columns of a dichalcogenide are mixtures of elements, by the brightness of all columns of a sublattice.

A mixture shows as populations farther apart than the columns of one of them scatter, at the brightness ratios of its
column types. A wide scatter of one population (contamination, thickness, noise) does not, and vacancies make
populations too: half-empty and empty columns. The explanations are weighed by their posterior probability, each at its
best densities and levels (Bayesian information criterion for the densities, priors of the scattering table for levels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.hosts import INFERABLE, ProjectedHost, column_type, projected
from stemfit.lattice.populations import Levels, Populations, several, unmixed
from stemfit.lattice.sites import Brightness, Honeycomb
from stemfit.optics.scattering import PLAUSIBLE_DETECTORS_MRAD, TYPICAL_VOLTAGE_KV, Detector, ratio

FloatArray = NDArray[np.float64]

METALS, CHALCOGENS = ("Mo", "W"), ("S", "Se", "Te")

ALLOYED = 0.1
"""Share of the atoms of a sublattice that are guests, from which it is an alloy; fewer are single substitutions."""

PRIORS: Mapping[tuple[str, ...], float] = {("Mo", "W"): 0.1, ("S", "Se"): 0.1, ("Se", "Te"): 0.03, ("S", "Te"): 0.01}
"""Share of the samples in which these are mixed, before the image is asked: orders of magnitude."""

WIDENED = 1.25
"""Least ratio of the spread of all columns to the median error where resolved populations are mixed: a tenth of the
columns 2.5 errors away from the rest adds 0.75 errors to the spread."""

METAL_RATIO_SIGMA = 0.15
"""Relative uncertainty of the brightness of W over Mo."""

POPULATED, UNBELIEVABLE = 0.03, 3.0
"""Share of columns from which a level counts, and the standard errors by which the ratio of two may miss the table."""

GAIN_NEIGHBOURS = 60
"""Sites of the more uniform sublattice whose median is the local gain."""

MOST = 600
"""Columns of a sublattice on which explanations are compared; the rest would say the same."""


@dataclass(frozen=True)
class Alloy:
    """What the columns of an alloy are.

    Attributes
    ----------
    host : ProjectedHost
        Majority host.
    probability : float
        That it is named right.
    alternatives : tuple of (name, probability)
        Other majority hosts, alloys or not.
    metal_third : int
        As in `Identity`.
    metal_probability : float
    mixed : float
        Probability that the sublattices are mixed as stated, whatever the name of the host.
    populations : mapping of sublattice to Populations
        Of mixed sublattices only.
    a_A : float
        Lattice constant by Vegard's law (Z. Phys. 5, 17, 1921) on the fractions.
    """

    host: ProjectedHost
    probability: float
    alternatives: tuple[tuple[str, float], ...]
    metal_third: int
    metal_probability: float
    mixed: float
    populations: Mapping[str, Populations]
    a_A: float


class _Explanation(NamedTuple):
    """Elements on the sublattices with their densities, and the evidence for them."""

    third: int
    metals: Populations
    chalcogens: Populations
    evidence: float

    @property
    def fractions(self) -> tuple[dict[str, float], dict[str, float]]:
        return self.metals.fractions, self.chalcogens.fractions

    @property
    def mixed(self) -> tuple[bool, bool]:
        """Whether each sublattice is an alloy."""
        of = (self.metals, self.chalcogens)
        return of[0].guests >= ALLOYED, of[1].guests >= ALLOYED

    @property
    def host(self) -> str:
        metal, chalcogen = (max(f, key=lambda e: f[e]) for f in self.fractions)
        return f"{metal}{chalcogen}2"

    @property
    def a_A(self) -> float:
        metals, chalcogens = self.fractions
        return sum(f * g * projected(f"{m}{x}2").a_A for m, f in metals.items() for x, g in chalcogens.items())


def find_alloy(
    sites: Honeycomb, brightness: Brightness, metal_sure: tuple[float, float], asked: ProjectedHost | None,
    voltage_kV: float | None, detector_mrad: Detector | None, scale: Callable[[float], float],
) -> Alloy | None:
    """Weigh mixtures against single crystals; None where a single crystal, or nothing, explains the columns better.

    Parameters
    ----------
    sites, brightness
        Of an unnamed honeycomb.
    metal_sure : (float, float)
        Probability that the first or the second third is the metal.
    asked : ProjectedHost or None
        What the user says it is; its elements are then among those of the mixture.
    voltage_kV, detector_mrad
        None where unknown.
    scale : callable
        Natural logarithm of how well a lattice constant (Angstrom) agrees with a stated pixel size.
    """
    use = [np.flatnonzero(sites.inside & (sites.third == third)) for third in (0, 1)]
    if min(map(len, use)) < 2 * GAIN_NEIGHBOURS or (asked is not None and not asked.dichalcogenide):
        return None
    flat = _without_gain(sites, brightness, use)
    if max(_widening(flat, k) for k in use) < WIDENED:
        return None
    tried = [
        e for third, sure in enumerate(metal_sure) if sure > 0.01
        for e in _explanations(flat, use[third], use[1 - third], third, asked, voltage_kV, detector_mrad)
    ]
    possible = INFERABLE if asked is None else (*INFERABLE, asked.name)
    weighed = [
        e._replace(evidence=float(e.evidence + np.log(metal_sure[e.third]) + scale(e.a_A)))
        for e in tried if e.host in possible
    ]
    return _decided(weighed, flat, use, asked) if weighed else None


def _decided(
    tried: list[_Explanation], flat: Brightness, use: list[NDArray[np.int64]], asked: ProjectedHost | None
) -> Alloy | None:
    believed = [e for e in tried if _plausible(e)]
    likeliest = max(believed, key=lambda e: e.evidence, default=None)
    if asked is None or likeliest is None or asked.name == likeliest.host or not any(likeliest.mixed):
        tried = believed  # else this is an alloy, but mostly of another crystal than the user states
    top = max((e.evidence for e in tried), default=0.0)
    weight = np.exp([e.evidence - top for e in tried])
    weight /= weight.sum()
    by_kind: dict[tuple[bool, bool], float] = {}
    for e, w in zip(tried, weight, strict=True):
        by_kind[e.mixed] = by_kind.get(e.mixed, 0.0) + float(w)
    kind = max(by_kind, key=lambda k: by_kind[k], default=(False, False))
    if not any(kind):
        return None
    names: dict[str, float] = {}
    for e, w in zip(tried, weight, strict=True):
        names[e.host] = names.get(e.host, 0.0) + float(w)
    name = asked.name if asked is not None else max(names, key=lambda n: names[n])
    named = [(w, e) for e, w in zip(tried, weight, strict=True) if e.mixed == kind and e.host == name]
    if not named:
        return None
    best = max(named, key=lambda pair: pair[0])[1]
    populations = {
        s: _whole(p, flat, use[third], [e for _, e in named], s)
        for s, p, third, mixed in (
            ("M", best.metals, best.third, kind[0]), ("X", best.chalcogens, 1 - best.third, kind[1]),
        ) if mixed
    }
    rows = {"M": use[best.third], "X": use[1 - best.third]}
    if not all(several(flat.value[rows[s]], p) for s, p in populations.items()):
        return None
    others = tuple(sorted(((n, p) for n, p in names.items() if n != name), key=lambda item: -item[1]))
    sure = float(sum(w for e, w in zip(tried, weight, strict=True) if e.third == best.third))
    host = asked if asked is not None else projected(name)
    return Alloy(
        host, names[name] if asked is None else 1.0, others if asked is None else (), best.third, sure,
        by_kind[kind], populations, best.a_A,
    )


def _plausible(tried: _Explanation) -> bool:
    """Whether the populations of a mixture are as bright beside each other as scattering has them.

    Where the gain changes within an image every column type has two, which no levels explain better than wrong ones.
    """
    for p, mixed in zip((tried.metals, tried.chalcogens), tried.mixed, strict=True):
        some = [k for k in range(p.levels.full) if mixed and p.share[k] > POPULATED]
        for k, n in combinations(some, 2):
            expected, error = ratio(p.levels.columns[k], p.levels.columns[n], None, None)
            if abs(float(np.log(p.levels.value[k] / p.levels.value[n] / expected))) > UNBELIEVABLE * error:
                return False
    return True


def _whole(
    one: Populations, flat: Brightness, rows: NDArray[np.int64], rivals: list[_Explanation], sublattice: str
) -> Populations:
    """The same populations on all columns, with the doubt about levels that rival explanations leave."""
    again = unmixed(flat.value[rows], flat.sigma[rows], one.levels, start=one) or one
    top = max(e.evidence for e in rivals)
    weight = np.exp([e.evidence - top for e in rivals])
    fractions = [(e.metals if sublattice == "M" else e.chalcogens).fractions for e in rivals]
    doubt = {}
    for element in again.fractions:
        share = np.array([f.get(element, 0.0) for f in fractions])
        mean = float(weight @ share / weight.sum())
        doubt[element] = float(np.sqrt(weight @ (share - mean) ** 2 / weight.sum()))
    return replace(again, doubt=doubt)


def _without_gain(sites: Honeycomb, brightness: Brightness, use: list[NDArray[np.int64]]) -> Brightness:
    """Brightness over the local median of one sublattice: of the one whose local medians differ less.

    Where half of the columns of a mixture are brighter than the rest its median jumps from one population to the other.
    """
    gains = [_local(sites, brightness, k) for k in use]
    gain = np.clip(min(gains, key=lambda g: float(np.std(np.log(np.clip(g, 1e-3, None))))), 0.3, 3.0)
    return Brightness(brightness.value / gain, brightness.sigma / gain)


def _local(sites: Honeycomb, brightness: Brightness, rows: NDArray[np.int64]) -> FloatArray:
    """Median over the nearest of these columns, of that over all of them (S,)."""
    near = np.asarray(cKDTree(sites.xy_px[rows]).query(sites.xy_px, k=GAIN_NEIGHBOURS)[1])
    return np.median(brightness.value[rows][near], axis=1) / np.median(brightness.value[rows])


def _widening(flat: Brightness, rows: NDArray[np.int64]) -> float:
    """Spread of the columns over their median error, a few percent on either side left out."""
    low, high = np.percentile(flat.value[rows], [2, 98])
    return float(np.std(np.clip(flat.value[rows], low, high)) / np.median(flat.sigma[rows]))


# -- explanations --------------------------------------------------------------------------------------------------


def _explanations(
    flat: Brightness, metals: NDArray[np.int64], chalcogens: NDArray[np.int64], third: int,
    asked: ProjectedHost | None, voltage_kV: float | None, detector_mrad: Detector | None,
) -> Iterator[_Explanation]:
    """All sets of elements that are resolved, under every detector that may have been used."""
    detectors = PLAUSIBLE_DETECTORS_MRAD if detector_mrad is None else (detector_mrad,)
    few = [k[:: max(1, len(k) // MOST)] for k in (metals, chalcogens)]
    value, sigma = flat.value[few[1]], flat.sigma[few[1]]
    for on_m in _metal_sets(flat, few[0], asked):
        reference = max(on_m.fractions, key=lambda e: on_m.fractions[e])
        level = on_m.levels.value[on_m.levels.columns.index(reference)]
        for elements in _sets(CHALCOGENS, None if asked is None else asked.columns[1].rstrip("2")):
            for detector in detectors:
                table = _levels(elements, reference, level, voltage_kV, detector)
                on_x = unmixed(value, sigma, table)
                if on_x is not None:
                    prior = np.log(PRIORS.get(elements, 1.0)) - np.log(len(detectors))
                    yield _Explanation(third, on_m, on_x, float(on_m.evidence + on_x.evidence + prior))


def _sets(elements: tuple[str, ...], needed: str | None) -> list[tuple[str, ...]]:
    pairs = [(a, b) for k, a in enumerate(elements) for b in elements[k + 1 :]]
    return [s for s in [*((e,) for e in elements), *pairs] if needed is None or needed in s]


def _metal_sets(flat: Brightness, rows: NDArray[np.int64], asked: ProjectedHost | None) -> Iterator[Populations]:
    """Molybdenum, tungsten, or both; the brightness of a single metal has no prior."""
    value, sigma = flat.value[rows], flat.sigma[rows]
    middle = float(np.median(value))
    for elements in _sets(METALS, None if asked is None else asked.columns[0]):
        ratios = [ratio(e, elements[0], None, None)[0] for e in elements]
        found = []
        for scale in dict.fromkeys((1.0, 1 / ratios[-1])):
            level = np.array([*(middle * scale * r for r in ratios), 0.0])
            error = np.array([0.02 * level[0], *(METAL_RATIO_SIGMA * v for v in level[1:-1]), 0.0])
            # The first level is free: let it find its place before the ratio of the second one is judged.
            table = Levels((*elements, ""), level, error, len(elements), middle)
            found.append(unmixed(value, sigma, table, free=True))
        good = [p for p in found if p is not None]
        if good:
            best = max(good, key=lambda p: p.evidence)
            prior = float(np.log(PRIORS.get(elements, 1.0)))
            yield replace(best, evidence=best.evidence + prior)


def _levels(
    elements: tuple[str, ...], metal: str, level: float, voltage_kV: float | None, detector: Detector
) -> Levels:
    """Expected brightness of full columns of these elements, then of half-empty ones, then of empty ones."""
    full = [column_type(pair) for pair in combinations_with_replacement(elements, 2)]
    columns = (*full, *elements, "")
    table = [ratio(c, metal, voltage_kV or TYPICAL_VOLTAGE_KV, detector) if c else (0.0, 0.0) for c in columns]
    value = np.array([level * v for v, _ in table])
    return Levels(columns, value, value * np.array([s for _, s in table]), len(full), level)
