"""Trefoils: empty X sites and occupied hollows that are one defect.

A set of metals whose bonds are turned (`trefoil_shapes`) predicts which X sites are empty and which hollows hold a
column. What was measured there is compared with three other explanations: other sets of metals, with the outer columns
kept or not; the same places in disorder, each X site full, half or empty and each hollow occupied or not as it likes,
which has no name; and independent vacancies and adatoms with their densities in this image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.defects.evidence import Evidence
from stemfit.defects.loose import STRAY, Loose
from stemfit.defects.occupancy import PRIOR_RATES
from stemfit.defects.trefoil_shapes import METALS_BESIDE, Cell, Trefoil, metals_round, trefoil
from stemfit.defects.types import Defect, Site, type_of
from stemfit.hosts import ProjectedHost

FloatArray = NDArray[np.float64]

RATE = 1e-5
"""Share of metals at which a trefoil lies beforehand: an order of magnitude, one for a hundred metal vacancies, as six
vacancies must meet (Lin et al. 2015 see them after irradiation or growth at high temperature only)."""

GROWS = 0.1
"""Probability of one more metal: Lin et al. 2015 see more small trefoils than large ones."""

OUTER_KEPT = 0.1
"""Share of trefoils that keep the outer columns: they are known of MoTe2 (Elibol et al. 2018)."""

LEAST_HOLLOWS = 2
"""Occupied hollows about a metal from which its bonds may be turned; one is an adatom."""

BEAM = 24
"""Sets of metals of one size that are grown further."""

HOPELESS = 20.0
"""Natural logarithm below the best set at which growth ends."""

Metals = frozenset[Cell]


class Measured:
    """What an image says about sites and hollows, each read once."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.loose = evidence, Loose(evidence)
        self._sites: dict[Site, tuple[float, float]] = {}

    def site(self, site: Site) -> tuple[float, float]:
        """Likelihood of an X site that is empty, and of one that is full, half or empty, each as likely.

        Natural logarithms, relative to a site that is independent of its neighbours; zero where nothing is judged.
        """
        if site not in self._sites:
            say, pair = self.evidence.log_likelihood(site), self.evidence.host.columns[1]
            self._sites[site] = (0.0, 0.0)
            if say:
                rare = PRIOR_RATES["UNKNOWN"]
                empty = np.logaddexp(say[f"V_{pair}"] + np.log1p(-rare), say["UNKNOWN"] + np.log(rare))
                disorder = logsumexp([say[label] for label in ("pristine", f"V_{pair[:-1]}", f"V_{pair}")]) - np.log(3)
                alone = self.evidence.log_evidence(site)
                self._sites[site] = (float(empty - alone), float(disorder - alone))
        return self._sites[site]

    def besides(self, shape: Trefoil) -> set[int]:
        """Stray columns at a trefoil that it does not explain."""
        near = set[int]().union(*(self.loose.near(site) for site in shape.sites))
        return near - self.inside(shape) - set(self.loose.displaced.values())

    def inside(self, shape: Trefoil) -> set[int]:
        """Stray columns in its hollows."""
        return {self.loose.strays_of[site[:2]] for site in shape.hollows if site[:2] in self.loose.strays_of}

    def places_px(self, shape: Trefoil) -> FloatArray:
        """Where its sites (K, 2) are expected."""
        return np.array([self.evidence.xy_px(site) for site in shape.sites])


class Odds(NamedTuple):
    """Natural logarithms for one set of metals, relative to independent defects on the same places, priors included."""

    shape: Trefoil
    named: float
    disorder: float


def has_trefoils(host: ProjectedHost) -> bool:
    """Whether a host is a layer of single metals between chalcogen pairs."""
    if not host.honeycomb or host.sublattices != ("M", "X"):
        return False
    return host.columns[1].endswith("2") and not host.columns[0].endswith("2")


def trefoils(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise trefoils; what is recognised, and what is left of the findings."""
    named: list[Defect] = []
    left = list(found)
    if not has_trefoils(evidence.host):
        return named, left
    seen = Measured(evidence)
    occupied = set(seen.loose.strays_of)
    clusters, used = _clusters(occupied, evidence.lattice.polarity), set[Site]()
    while clusters:
        odds = _weighed(clusters.pop(), used, seen)
        defect, shape = _said(odds, seen)
        if defect is None or shape is None:
            continue
        own = _own(shape, defect.label == "UNKNOWN", left, seen)
        left = [d for d in left if not any(d is o for o in own)]
        named.append(defect)
        used |= set(shape.sites)
        occupied -= {site[:2] for site in shape.hollows}
        clusters = _clusters(occupied, evidence.lattice.polarity)
    return named, left


def _clusters(occupied: set[Cell], polarity: int) -> list[Metals]:
    """Neighbouring metals that each have some occupied hollows about them."""
    count: dict[Cell, int] = {}
    for hollow in occupied:
        for metal in metals_round(hollow, polarity):
            count[metal] = count.get(metal, 0) + 1
    free = {metal for metal, n in count.items() if n >= LEAST_HOLLOWS}
    clusters = []
    while free:
        joined, edge = set[Cell](), {free.pop()}
        while edge:
            joined |= edge
            edge = _beside(edge) & free
            free -= edge
        clusters.append(frozenset(joined))
    return sorted(clusters, key=lambda metals: (len(metals), sorted(metals)))


def _beside(metals: Iterable[Cell]) -> set[Cell]:
    return {(i + p, j + q) for i, j in metals for p, q in METALS_BESIDE}


def _weighed(cluster: Metals, used: set[Site], seen: Measured) -> list[Odds]:
    """Connected sets of metals, grown one by one from those of a cluster, the best of each size further."""
    found: list[Odds] = []
    sets, best = {frozenset((metal,)) for metal in cluster}, -np.inf
    while sets:
        level: dict[Metals, float] = {}
        for metals in sorted(sets, key=sorted):
            shapes = [trefoil(metals, seen.evidence.lattice.polarity, kept) for kept in (False, True)]
            if used & set(shapes[0].sites):
                continue
            odds = [_odds(shape, seen) for shape in shapes]
            level[metals] = max(max(o.named, o.disorder) for o in odds)
            found += odds
        top = max(level.values(), default=-np.inf)
        if top < best - HOPELESS:
            break
        best = max(best, top)
        grown = sorted(level, key=lambda metals: -level[metals])[:BEAM]
        sets = {metals | {more} for metals in grown for more in _beside(metals) - metals}
    return found


def _odds(shape: Trefoil, seen: Measured) -> Odds:
    prior = np.log(RATE) + (len(shape.metals) - 1) * np.log(GROWS)
    hollows = [seen.loose.hollow(site[:2]) for site in shape.hollows]
    sites = [seen.site(site) for site in shape.emptied]
    named = prior + np.log(OUTER_KEPT if shape.outer_kept else 1 - OUTER_KEPT)
    named += sum(h.pair - h.nothing for h in hollows) + sum(empty for empty, _ in sites)
    if shape.outer_kept:  # in disorder the same as without
        return Odds(shape, float(named), -np.inf)
    disorder = prior + sum(h.anything - h.nothing for h in hollows) + sum(either for _, either in sites)
    disorder += len(seen.besides(shape)) * np.log(0.5 / STRAY)
    return Odds(shape, float(named), float(disorder))


def _said(odds: Sequence[Odds], seen: Measured) -> tuple[Defect | None, Trefoil | None]:
    """What the sets of metals are together, and the best of the most probable name; nothing if probably no defect."""
    if not odds:
        return None, None
    logs = np.array([0.0, *(o.named for o in odds), *(o.disorder for o in odds)])
    share = np.exp(logs - logsumexp(logs))
    if share[0] > 0.5:
        return None, None
    weight = {"UNKNOWN": float(share[0] + share[1 + len(odds) :].sum()), "pristine": 0.0}  # no column stands beside it
    for o, p in zip(odds, share[1 : 1 + len(odds)], strict=True):
        weight[o.shape.label] = weight.get(o.shape.label, 0.0) + float(p)
    label = max(weight, key=lambda name: weight[name])
    unnamed = label == "UNKNOWN"
    best = max(odds, key=lambda o: o.disorder if unnamed else o.named if o.shape.label == label else -np.inf).shape
    extent = seen.places_px(best)
    probability = weight.pop(label)
    others = tuple(sorted(weight.items(), key=lambda item: -item[1]))
    factor = _against_pristine(best, seen.evidence)
    kind = type_of(label, "UNKNOWN")
    return Defect(0, kind, label, probability, extent.mean(0), best.sites, extent, others, factor), best


def _against_pristine(shape: Trefoil, evidence: Evidence) -> float:
    """Evidence of the empty sites and of the columns in the hollows against the perfect crystal."""
    empty = 0.0
    for site in shape.emptied:
        say = evidence.log_likelihood(site)
        empty += say[f"V_{evidence.host.columns[1]}"] - say["pristine"] if say else 0.0
    return empty


def _own(
    shape: Trefoil, all_strays: bool, found: Sequence[Defect], seen: Measured
) -> list[Defect]:
    """Findings that a trefoil explains."""
    near = set[int]().union(*(seen.loose.near(site) for site in shape.sites))
    displaced = {site: k for site, k in seen.loose.displaced.items() if k in near}
    sites = {*shape.sites, *displaced}
    strays = seen.inside(shape) | (near if all_strays else set(displaced.values()))
    return [d for d in found if set(d.sites) <= sites or _stray(d, seen.evidence) in strays]


def _stray(defect: Defect, evidence: Evidence) -> int | None:
    """Index of the column that a finding beside the lattice is; None for others."""
    if defect.sites[0][2] != "-":
        return None
    return int(np.argmin(np.sum((evidence.columns.xy_px - defect.center_px) ** 2, axis=1)))
