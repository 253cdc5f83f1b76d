"""Trefoils: empty X sites and occupied hollows that are one defect.

A set of metals whose bonds are turned (`trefoil_shapes`) predicts which X sites are empty and which hollows hold a
column. What was measured there is compared with other explanations: other sets of metals, with the outer columns kept
or not; a trefoil of which some places are not as they should be, and the same places in disorder, each X site full,
half or empty and each hollow occupied or not as it likes, which both have no name; and independent vacancies and
adatoms with their densities in this image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.defects.evidence import Evidence
from stemfit.defects.groups import NEIGHBOURS, neighbours
from stemfit.defects.loose import IN_HOLLOW, STRAY, Loose
from stemfit.defects.priors import PRIOR_RATES
from stemfit.defects.trefoil_shapes import Cell, Trefoil, beside, grown, metals_bound, metals_round, trefoil
from stemfit.defects.types import Defect, Site, type_of

FloatArray = NDArray[np.float64]

RATE = 1e-5
"""Share of metals at which a trefoil lies beforehand: an order of magnitude, one for a hundred metal vacancies, as six
vacancies must meet (Lin et al. 2015 see them after irradiation or growth at high temperature only)."""

GROWS = 0.1
"""Probability of one more metal: Lin et al. 2015 see more small trefoils than large ones."""

OUTER_KEPT = 0.1
"""Share of trefoils that keep the outer columns: they are known of MoTe2 (Elibol et al. 2018)."""

DEVIATES = 0.01
"""Probability of each place of a trefoil to be otherwise: about a tenth of all are incomplete or damaged."""

LEAST_HOLLOWS = 2
"""Occupied hollows about a metal from which its bonds may be turned; one is an adatom."""

BEAM = 8
"""Sets of metals of one size that are grown further."""

HOPELESS = 20.0
"""Natural logarithm below the best set at which growth ends."""

Metals = frozenset[Cell]

LARGEST = 24
"""Metals of a cluster that is read as trefoils; more of them together are another stacking or disorder, and take
minutes to read."""


class Place(NamedTuple):
    """Natural logarithms of likelihoods at one place of a trefoil, relative to one independent of its neighbours.

    `right` as the trefoil has it, `other` if it is otherwise.
    """

    right: float
    other: float


class Measured:
    """What an image says about sites and hollows, each read once."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.loose = evidence, Loose(evidence)
        self._places: dict[tuple[Site, bool], Place] = {}

    def places(self, shape: Trefoil) -> list[Place]:
        """All that a trefoil says something about."""
        kept = frozenset(shape.touching if shape.outer_kept else ())
        return [self._place(site, site in kept) for site in shape.moved + shape.touching + shape.hollows]

    def _place(self, site: Site, full: bool) -> Place:
        if (site, full) not in self._places:
            self._places[site, full] = self._hollow(site) if site[2] == "H" else self._chalcogen(site, full)
        return self._places[site, full]

    def _hollow(self, site: Site) -> Place:
        h = self.loose.hollow(site[:2])
        return Place(h.pair - h.nothing, h.other - h.nothing)

    def _chalcogen(self, site: Site, full: bool) -> Place:
        """X site that is left full or emptied; otherwise it is the opposite, half, or anything, each as likely."""
        say, pair = self.evidence.log_likelihood(site), self.evidence.host.columns[1]
        if f"V_{pair}" not in say:
            return Place(0.0, 0.0)
        right, wrong = ("pristine", f"V_{pair}") if full else (f"V_{pair}", "pristine")
        alone, rare = self.evidence.log_evidence(site), PRIOR_RATES["UNKNOWN"]
        as_told = np.logaddexp(say[right] + np.log1p(-rare), say["UNKNOWN"] + np.log(rare))
        other = logsumexp([say[label] for label in (wrong, f"V_{pair[:-1]}", "UNKNOWN")]) - np.log(3)
        return Place(float(as_told - alone), float(other - alone))

    def besides(self, shape: Trefoil) -> set[int]:
        """Stray columns at a trefoil that it does not explain."""
        near = set[int]().union(*(self.loose.near(site) for site in shape.sites))
        return near - self.inside(shape) - set(self.loose.displaced.values())

    def inside(self, shape: Trefoil) -> set[int]:
        """Stray columns in its hollows."""
        return {self.loose.strays_of[site[:2]] for site in shape.hollows if site[:2] in self.loose.strays_of}

    def changed(self, shape: Trefoil) -> tuple[Site, ...]:
        """Which of its places are probably not as in the perfect crystal."""
        vacant = [s for s in shape.moved + shape.touching if self.evidence.probability(s).get("pristine", 1.0) < 0.5]
        return (*vacant, *(site for site in shape.hollows if site[:2] in self.loose.strays_of))


class Odds(NamedTuple):
    """Natural logarithms for one set of metals, relative to independent defects on the same places, priors included.

    `unnamed` is for a trefoil that is not whole, and for disorder.
    """

    shape: Trefoil
    named: float
    unnamed: float


def trefoils(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise trefoils; what is recognised, and what is left of the findings."""
    named: list[Defect] = []
    left = list(found)
    if not evidence.host.dichalcogenide:
        return named, left
    seen = Measured(evidence)
    occupied = set(seen.loose.strays_of)
    vacant = {d.sites[0][:2] for d in found if len(d.sites) == 1 and d.sites[0][2] == "X" and d.type == "DV"}
    clusters, used = _clusters(occupied, vacant, evidence.lattice.polarity), set[Site]()
    while clusters:
        odds = _weighed(clusters.pop(), used, seen)
        defect, shape = _said(odds, seen)
        if defect is None or shape is None:
            continue
        own = _own(shape, defect.label == "UNKNOWN", left, seen)
        if defect.label == "UNKNOWN":
            own = [d for near in neighbours(left, NEIGHBOURS * evidence.lattice.a_px_iso)
                   if any(d is o for d in near for o in own) for d in near]  # fmt: skip
            defect = _together(defect, own, IN_HOLLOW * evidence.lattice.a_px_iso)
        left = [d for d in left if not any(d is o for o in own)]
        named.append(defect)
        used |= set(shape.sites)
        occupied -= {site[:2] for site in shape.hollows}
        vacant -= {site[:2] for site in shape.emptied}
        clusters = _clusters(occupied, vacant, evidence.lattice.polarity)
    return named, left


def _clusters(occupied: set[Cell], vacant: set[Cell], polarity: int) -> list[Metals]:
    """Neighbouring metals that each have some occupied hollows about them, or no X column at all."""
    count: dict[Cell, int] = {}
    for hollow in occupied:
        for metal in metals_round(hollow, polarity):
            count[metal] = count.get(metal, 0) + 1
    free = {metal for metal, n in count.items() if n >= LEAST_HOLLOWS}
    bare = {metal for cell in vacant for metal in metals_bound(cell, polarity)}
    free |= {metal for metal in bare if all(s[:2] in vacant for s in trefoil(frozenset((metal,)), polarity).moved)}
    clusters = []
    while free:
        joined, edge = set[Cell](), {free.pop()}
        while edge:
            joined |= edge
            edge = beside(edge) & free
            free -= edge
        clusters.append(frozenset(joined))
    small = [metals for metals in clusters if len(metals) <= LARGEST]
    return sorted(small, key=lambda metals: (len(metals), sorted(metals)))


def _weighed(cluster: Metals, used: set[Site], seen: Measured) -> list[Odds]:
    """Connected sets of metals, grown one by one from those of a cluster, the best of each size further."""
    found: list[Odds] = []
    sets, best = {frozenset((metal,)) for metal in cluster}, -np.inf
    while sets:
        level: dict[Metals, float] = {}
        for metals in sorted(sets, key=sorted):
            shape = trefoil(metals, seen.evidence.lattice.polarity)
            if used & set(shape.sites):
                continue
            odds = [_odds(shape, seen), _odds(shape._replace(outer_kept=True), seen)]
            level[metals] = max(max(o.named, o.unnamed) for o in odds)
            found += odds
        top = max(level.values(), default=-np.inf)
        if top < best - HOPELESS:
            break
        best = max(best, top)
        further = sorted(level, key=lambda metals: -level[metals])[:BEAM]
        sets = {more for metals in further for more in grown(metals)}
    return found


def log_prior(shape: Trefoil) -> float:
    """Natural logarithm of the share of metals at which such a trefoil lies beforehand."""
    kind = np.log(OUTER_KEPT if shape.outer_kept else 1 - OUTER_KEPT)
    return float(np.log(RATE) + (len(shape.metals) - 1) * np.log(GROWS) + kind)


def _odds(shape: Trefoil, seen: Measured) -> Odds:
    right, other = np.array(seen.places(shape)).T
    kind, prior = log_prior(shape), log_prior(shape._replace(outer_kept=False))
    whole = kind + right.sum() + len(right) * np.log1p(-DEVIATES)
    with np.errstate(divide="ignore"):
        parts = kind + right.sum() + _log_difference(
            float(np.logaddexp(np.log1p(-DEVIATES), np.log(DEVIATES) + other - right).sum()),
            len(right) * np.log1p(-DEVIATES),
        )
    # Disorder is the same with the outer columns and without, and where columns stand that no trefoil has.
    either = float((np.logaddexp(right, other + np.log(3)) - np.log(4)).sum())
    disorder = prior + either + len(seen.besides(shape)) * np.log(0.5 / STRAY)
    return Odds(shape, float(whole), float(parts if shape.outer_kept else np.logaddexp(parts, disorder)))


def _log_difference(more: float, less: float) -> float:
    """Logarithm of exp(more) - exp(less)."""
    return more + float(np.log(max(-np.expm1(less - more), 0.0)))


def _said(odds: Sequence[Odds], seen: Measured) -> tuple[Defect | None, Trefoil | None]:
    """What the sets of metals are together, and the best of the most probable name; nothing if probably no defect."""
    if not odds:
        return None, None
    logs = np.array([0.0, *(o.named for o in odds), *(o.unnamed for o in odds)])
    share = np.exp(logs - logsumexp(logs))
    if share[0] > 0.5:
        return None, None
    weight = {"UNKNOWN": float(share[0] + share[1 + len(odds) :].sum()), "pristine": 0.0}  # no column stands beside it
    for o, p in zip(odds, share[1 : 1 + len(odds)], strict=True):
        weight[o.shape.label] = weight.get(o.shape.label, 0.0) + float(p)
    label = max(weight, key=lambda name: weight[name])
    unnamed = label == "UNKNOWN"
    best = max(odds, key=lambda o: o.unnamed if unnamed else o.named if o.shape.label == label else -np.inf).shape
    sites = best.sites if not unnamed else seen.changed(best)
    if not sites:
        return None, None
    extent = np.array([seen.evidence.xy_px(site) for site in sites])
    probability = weight.pop(label)
    others = tuple(sorted(weight.items(), key=lambda item: -item[1]))
    factor = _against_pristine(sites, seen)
    kind = type_of(label, "UNKNOWN")
    return Defect(0, kind, label, probability, extent.mean(0), sites, extent, others, factor), best


def _against_pristine(sites: Sequence[Site], seen: Measured) -> float:
    """Evidence of what is not as in the perfect crystal, and of the columns in the hollows, against that crystal."""
    columns, total = seen.evidence.columns, 0.0
    for site in sites:
        say, stray = seen.evidence.log_likelihood(site), seen.loose.strays_of.get(site[:2], -1)
        if site[2] == "H" and stray >= 0:
            total += 0.5 * float(columns.intensity[stray] ** 2 / columns.cov[stray, 2, 2])
        elif say:
            total += max(say.values()) - say["pristine"]
    return total


def _own(
    shape: Trefoil, unnamed: bool, found: Sequence[Defect], seen: Measured
) -> list[Defect]:
    """Findings that a trefoil explains."""
    near = set[int]().union(*(seen.loose.near(site) for site in shape.sites))
    displaced = {site: k for site, k in seen.loose.displaced.items() if k in near}
    sites = {*shape.sites, *displaced, *(shape.touching if unnamed else ())}
    strays = seen.inside(shape) | (near if unnamed else set(displaced.values()))
    return [d for d in found if set(d.sites) <= sites or _stray(d, seen.evidence) in strays]


def _together(unnamed: Defect, members: Sequence[Defect], apart_px: float) -> Defect:
    """What has no name, with all that is wrong beside it; a column in one of its hollows is there already."""
    where = dict(zip(unnamed.sites, unnamed.extent_px, strict=True))
    for d in members:
        if np.hypot(*(unnamed.extent_px - d.center_px).T).min() > apart_px:
            where.update(zip(d.sites, d.extent_px, strict=True))
    extent = np.array(list(where.values()))
    return replace(unnamed, sites=tuple(where), extent_px=extent, center_px=extent.mean(0))


def _stray(defect: Defect, evidence: Evidence) -> int | None:
    """Index of the column that a finding beside the lattice is; None for others."""
    if defect.sites[0][2] != "-":
        return None
    return int(np.argmin(np.sum((evidence.columns.xy_px - defect.center_px) ** 2, axis=1)))
