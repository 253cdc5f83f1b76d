"""Atoms that lie on an otherwise intact layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from stemfit.defects.abundance import MIXED
from stemfit.defects.evidence import Evidence
from stemfit.defects.groups import NEIGHBOURS, neighbours, pristine, unnamed
from stemfit.defects.offsets import Offsets, offsets
from stemfit.defects.types import Defect

FloatArray = NDArray[np.float64]

TORN = 100.0
"""Where the layer is not intact, columns are displaced by up to ten times the usual: so many times in square."""

LEAST = 4
"""Sites that every place inside a crystal has nearby."""

SOMETHING_ELSE = 0.1
"""Share of stray columns on a layer that looks intact which are no adatoms but something that nobody thought of."""

BESIDE = 0.7
"""Findings closer than this, in lattice constants, may be one atom between two columns: neighbours are 0.58 apart."""

ISLAND = 12
"""So many exchanged atoms side by side are no accident but something that lies on the layer or under it."""

MIXING = 0.03
"""Share of samples in which two elements mix from which their atoms may well gather."""

LIKENESS = 0.01
"""Probability of an added atom from which a finding is one of more light: no vacancy has as much."""

PULLED = 0.8
"""Least cosine of a column's displacement with the way to an added atom whose light pulls it."""


def adatoms(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise single columns where the crystal has none, or more light on a site than any exchange explains.

    The layer around must be intact: every site within a lattice constant judged, without a finding, and, round a stray
    column, its own column in place: the more the columns there are displaced, all together, the likelier it is no
    adatom. A column beside an empty site may be the one that left it; what lies beside a finding stays unnamed. Light
    added to two columns side by side, or beside a stray one, is one atom if that is more
    likely than several events.

    Returns
    -------
    named : list of Defect
        Adatoms.
    left : list of Defect
        Everything else; what looked like an adatom on a site beside something else is UNKNOWN.
    """
    named: list[Defect] = []
    left: list[Defect] = []
    groups = [_as_one(members, evidence) for members in neighbours(found, BESIDE * evidence.lattice.a_px_iso)]
    each = [defect for group in groups for defect in group]
    places = np.array([d.center_px for d in each]).reshape(-1, 2)
    placed = offsets(evidence.columns, evidence.sites) if any(map(_is_stray, each)) else None
    for k, defect in enumerate(each):
        stray = _is_stray(defect)
        if not stray and defect.type != "ADATOM":
            left.append(defect)
            continue
        others = np.delete(places, k, axis=0)
        if stray and placed is not None and _intact(defect, others, evidence):
            adatom = _beside_sites(defect, _displaced(defect, placed, evidence))
            (named if adatom.label == "ADATOM" else left).append(adatom)
        elif not stray and _intact(defect, others, evidence):
            named.append(defect)
        else:
            left.append(defect if stray else _unnamed(defect))
    return named, _islands(_clumps(left, evidence), evidence)


def _islands(left: Sequence[Defect], evidence: Evidence) -> list[Defect]:
    """Exchanged atoms of elements that do not mix with the host's, a dozen side by side, are one area without a name.

    An island of a second layer that the regions missed adds the same light to every chalcogen column of its area.
    """
    strange = [d for d in left if len(d.sites) == 1 and d.type in ("SUB", "ANTI") and not _mixes(d.label)]
    rest = [d for d in left if not any(d is s for s in strange)]
    for members in neighbours(strange, NEIGHBOURS * evidence.lattice.a_px_iso):
        rest += [unnamed(members)] if len(members) >= ISLAND else members
    return rest


def _mixes(label: str) -> bool:
    guest, _, own = label.partition("_")
    return MIXED.get(frozenset((guest.rstrip("2"), own.rstrip("2"))), 0.0) >= MIXING


def _clumps(left: Sequence[Defect], evidence: Evidence) -> list[Defect]:
    """More light on sites side by side, one of which alone would be an added atom, is a heap of them without a name."""
    brighter = [d for d in left if _is_stray(d) or _added(d) > LIKENESS or d.type == "UNKNOWN"]
    rest = [d for d in left if not any(d is b for b in brighter)]
    for members in neighbours(brighter, NEIGHBOURS * evidence.lattice.a_px_iso):
        heap = len(members) > 1 and any(d.type == "UNKNOWN" and "-" not in {s[2] for s in d.sites} for d in members)
        rest += [unnamed(members)] if heap else members
    return rest


def _is_stray(defect: Defect) -> bool:
    return len(defect.sites) == 1 and defect.sites[0][2] == "-" and defect.type == "UNKNOWN"


def _as_one(members: Sequence[Defect], evidence: Evidence) -> list[Defect]:
    """One adatom in place of findings side by side that all have more light; else what they were.

    Apart from each other they are several events, of which each may be an adatom; one event that gave all of them light
    is as much more likely as a second one is rare.
    """
    strays = sum(_is_stray(d) for d in members)
    chance = [1 - SOMETHING_ELSE if _is_stray(d) else _added(d) for d in members]
    if len(members) < 2 or strays > 1 or min(chance) <= 0.0:
        return list(members)
    rates = [evidence.rate(site).get("ADATOM", 0.0) for d in members for site in d.sites if site[2] != "-"]
    against = float(np.sum(np.log1p(-np.minimum(chance, 1 - 1e-12)) - np.log(chance)))
    p = float(1 / (1 + np.exp(np.clip(against + (len(members) - 1) * np.log(max(rates)), -700, 700))))
    if p < 0.5:
        return list(members)
    doubt, extent = pristine(members), np.vstack([d.extent_px for d in members])
    alternatives = (("UNKNOWN", (1 - p) * (1 - doubt)), ("pristine", doubt))
    return [
        Defect(
            0, "ADATOM", "ADATOM", p * (1 - doubt), extent.mean(0), tuple(s for d in members for s in d.sites), extent,
            alternatives, float(sum(d.log_bayes_factor for d in members)),
        )
    ]


def _added(defect: Defect) -> float:
    """Probability that a finding on one site is an atom added to it; zero for one that is not about a single site."""
    if len(defect.sites) != 1:
        return 0.0
    return defect.probability if defect.label == "ADATOM" else dict(defect.alternatives).get("ADATOM", 0.0)


def _intact(defect: Defect, others_px: FloatArray, evidence: Evidence) -> bool:
    """Whether the layer around a defect is as it should be, but for columns that its light pulls towards it."""
    here_px = defect.center_px
    sites, reach = evidence.sites, NEIGHBOURS * evidence.lattice.a_px_iso
    if len(others_px) and np.hypot(*(others_px - here_px).T).min() < reach:
        return False
    away = np.hypot(*(sites.xy_px - here_px).T)
    own = np.hypot(*(sites.xy_px[:, None] - defect.extent_px[None]).transpose(2, 0, 1)).min(1) < 0.1 * reach
    near = np.flatnonzero((away < reach) & ~own)
    if len(near) < LEAST or not sites.analysed[near].all():
        return False
    # Whoever came to a site from another one would have left that one empty.
    return all(site[2] != "-" for site in defect.sites) or bool((sites.column[near] >= 0).all())


def _displaced(stray: Defect, placed: Offsets, evidence: Evidence) -> float:
    """Log odds of the displacements around if the layer is torn, over those if it is intact.

    Torn, they are larger by a factor of which nothing is known, up to `TORN` in square. What the light of the stray
    column pulls towards it is not counted.
    """
    sites, columns, here_px = evidence.sites, evidence.columns, stray.center_px
    away = np.hypot(*(sites.xy_px - here_px).T)
    near = np.flatnonzero((away < NEIGHBOURS * evidence.lattice.a_px_iso) & (sites.column >= 0))
    moved = columns.xy_px[sites.column[near]] - sites.xy_px[near]
    pulled = np.sum(moved * (here_px - sites.xy_px[near]), axis=1) > PULLED * np.hypot(*moved.T) * away[near]
    each = (placed.away[near] / placed.sigma[near])[~pulled & np.isfinite(placed.away[near])]
    square = np.sum(each**2)
    scale = np.linspace(0.0, np.log(TORN), 200)  # two degrees of freedom each
    torn = -len(each) * scale - 0.5 * square * np.exp(-scale)
    return float(logsumexp(torn) - np.log(len(scale)) + 0.5 * square)


def _beside_sites(stray: Defect, log_odds: float) -> Defect:
    """A stray column on a layer that looks intact; `log_odds` that it is torn.

    That nothing is displaced does not rule out what nobody thought of.
    """
    pristine = dict(stray.alternatives).get("pristine", 0.0)
    other = float(expit(max(log_odds, 0.0) + np.log(SOMETHING_ELSE / (1 - SOMETHING_ELSE))))
    if other > 0.5:
        return stray
    return replace(
        stray, type="ADATOM", label="ADATOM", probability=(1 - pristine) * (1 - other),
        alternatives=(("UNKNOWN", (1 - pristine) * other), ("pristine", pristine)),
    )


def _unnamed(defect: Defect) -> Defect:
    """The same without a name: what is beside it may have to do with it."""
    others = dict(defect.alternatives)
    p = defect.probability + others.pop("UNKNOWN", 0.0)
    return replace(
        defect, type="UNKNOWN", label="UNKNOWN", probability=p,
        alternatives=tuple(sorted(others.items(), key=lambda item: -item[1])),
    )
