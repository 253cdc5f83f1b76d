"""Graphene and boron nitride: neighbours that are missing together, turned bonds, and rings of the wrong size.

Columns beside such a defect do not sit on lattice sites. Which of them are bound to each other is read from their
distances, and the rings that they close tell the reconstructed from the cut (Banhart, Kotakoski & Krasheninnikov, ACS
Nano 5, 26 (2011)). For all but the dislocation the image then has the last word, against rival structures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stemfit.defects.bonds import SECOND, Net, Ring, bound, certainty, net, rings
from stemfit.defects.boundaries import boundaries
from stemfit.defects.evidence import Evidence
from stemfit.defects.groups import neighbours, pristine
from stemfit.defects.types import Defect, Site, type_of
from stemfit.lattice.types import deformation

FloatArray = NDArray[np.float64]

REACH = 6.0
"""Bonds round a finding within which rings are drawn: twice as far as the atoms of the largest ring that has a name."""

UNDECIDED = 0.5
"""Probability of a turned bond where columns do not say whether it is one: its structure and the image will."""

LEAST_HOLE = 3
"""Atoms that a hole lacks. In boron nitride holes are triangles with edges of one element (Jin et al., Phys. Rev. Lett.
102, 195505 (2009)), but any that is seen is counted."""


def sheet(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise what neighbouring empty sites and stray columns of a flat honeycomb are; and what is left over."""
    host = evidence.host
    if not host.honeycomb or host.sublattices != ("A", "B") or not set(host.columns) <= {"B", "C", "N"}:
        return [], list(found)
    named, found = boundaries(found, evidence)
    own = [d for d in found if _stray(d) or _empty(d)]
    left = [d for d in found if not (_stray(d) or _empty(d))]
    for members in neighbours(own, 0.5 * (1 + SECOND) * evidence.lattice.nearest_px):
        together = _together(members, evidence)
        if together is None:
            left.extend(members)
        else:
            named.append(together)
    return named, left


def _stray(defect: Defect) -> bool:
    return len(defect.sites) == 1 and defect.sites[0][2] == "-"


def _empty(defect: Defect) -> bool:
    return len(defect.sites) == 1 and defect.type == "SV"


def _together(members: Sequence[Defect], evidence: Evidence) -> Defect | None:
    strays = [d for d in members if _stray(d)]
    empty = _emptied(members, strays, evidence)
    pair = _pair(empty, evidence) if len(empty) == 2 else None
    if pair and not strays:
        return _divacancy(members, pair, evidence)
    if pair and len(strays) <= 2:
        return _turned(members, pair, strays, evidence)
    hole = None if strays else _hole(members, empty, evidence)
    return hole or _dislocation(members, evidence)


def _emptied(members: Sequence[Defect], strays: Sequence[Defect], evidence: Evidence) -> list[Site]:
    """Sites without a column: those found so, and those that a stray column may have left."""
    found = [d.sites[0] for d in members if not _stray(d)]
    sites = evidence.sites
    for stray in strays:
        near = np.hypot(*(sites.xy_px - stray.center_px).T) < 0.5 * SECOND * evidence.lattice.nearest_px
        for k in np.flatnonzero(near & (sites.column < 0)):
            found.append((int(sites.ij[k, 0]), int(sites.ij[k, 1]), str(sites.sublattice[k])))
    return sorted(dict.fromkeys(found), key=lambda site: (site[2], site[0], site[1]))


def _pair(sites: Sequence[Site], evidence: Evidence) -> tuple[Site, Site] | None:
    """The site of A and that of B, if they are neighbours."""
    first, second = sites
    return (first, second) if second in around(first, evidence.lattice.polarity) else None


def around(site: Site, polarity: int) -> tuple[Site, ...]:
    """The three neighbours of a site of a flat honeycomb."""
    i, j, sublattice = site
    # B stands at (a + b)/3 of its cell, or at 2 (a + b)/3.
    steps = ((0, 0), (-1, 0), (0, -1)) if polarity > 0 else ((-1, -1), (-1, 0), (0, -1))
    if sublattice == "A":
        return tuple((i + di, j + dj, "B") for di, dj in steps)
    return tuple((i - di, j - dj, "A") for di, dj in steps)


def _divacancy(members: Sequence[Defect], pair: tuple[Site, Site], evidence: Evidence) -> Defect | None:
    """Two neighbours are gone; whether the atoms at both ends of the hole are seen to be bound to each other."""
    both = float(np.prod([d.probability for d in members]))
    if both < 0.5:
        return None
    shut = float(np.prod([_end_bound(site, other, evidence) for site, other in (pair, pair[::-1])]))
    first, second = evidence.host.columns
    cut = f"V_{first}2" if first == second else f"V_{first}{second}"
    weight = {"5-8-5": both * shut, cut: both * (1 - shut)}
    return _defect(weight, members, pair, _places(pair, evidence))


def _end_bound(site: Site, other: Site, evidence: Evidence) -> float:
    """Probability that the two atoms beside an empty site are bound to each other."""
    of = _columns(evidence, evidence.xy_px(site))
    ends = [evidence.xy_px(s) for s in around(site, evidence.lattice.polarity) if s != other]
    frame = _frame(evidence)
    at = [np.hypot(*(of.xy - xy @ frame.T).T) for xy in ends]
    if len(of.xy) < 2 or max(float(d.min()) for d in at) > 0.5:  # an end is empty, too
        return 0.0
    p, q = (int(np.argmin(d)) for d in at)
    return float(bound(np.hypot(*(of.xy[p] - of.xy[q])), np.hypot(of.sigma[p], of.sigma[q])))


def _turned(
    members: Sequence[Defect], pair: tuple[Site, Site], strays: Sequence[Defect], evidence: Evidence
) -> Defect:
    """Two atoms have left their sites, and stand where they close two pentagons and two heptagons.

    Of a faint element one may not have been found beside its neighbours: then the image alone can tell.
    """
    of, wrong = _wrong_rings(strays, evidence)
    closed = Counter(map(len, wrong)) == {5: 2, 7: 2}
    sure = certainty(of, np.array(sorted({k for ring in wrong for k in ring}))) if closed else 0.0
    extent = np.array([*(evidence.xy_px(site) for site in pair), *(d.center_px for d in strays)])
    return _defect({"SW": max(sure, UNDECIDED)}, members, (*pair, *(d.sites[0] for d in strays)), extent)


def _dislocation(members: Sequence[Defect], evidence: Evidence) -> Defect | None:
    """Pentagons and heptagons side by side, as many of either, where the lattice does not go on all round."""
    if _goes_round(np.mean([d.center_px for d in members], axis=0), evidence):
        return None
    of, wrong = _wrong_rings(members, evidence)
    sizes = Counter(map(len, wrong))
    if set(sizes) != {5, 7} or sizes[5] != sizes[7]:
        return None
    sure = certainty(of, np.array(sorted({k for ring in wrong for k in ring})))
    if sure < 0.5:
        return None
    sites = tuple(site for d in members for site in d.sites)
    return _defect({"5-7": sure}, members, sites, np.vstack([d.extent_px for d in members]))


def _goes_round(centre_px: FloatArray, evidence: Evidence) -> bool:
    """Whether the lattice goes on all round a place, so that no Burgers vector is left: a dislocation breaks it.

    In each of six sectors up to `REACH` most sites hold their columns, as far as there are any.
    """
    frame, sites = _frame(evidence), evidence.sites
    step = (sites.xy_px - centre_px) @ frame.T
    far = np.hypot(*step.T)
    near = (far > SECOND) & (far < REACH)
    sector = np.floor((np.arctan2(step[near, 1], step[near, 0]) / np.pi + 1) * 3).astype(int) % 6
    held = sites.column[near] >= 0
    return all(held[sector == k].mean() > 0.5 for k in range(6) if (sector == k).any())


def _hole(members: Sequence[Defect], empty: Sequence[Site], evidence: Evidence) -> Defect | None:
    """Three and more sites side by side without their atoms, and nothing beside them: the formula says how many."""
    if len(empty) < LEAST_HOLE:
        return None
    first, second = evidence.host.columns
    sure = float(np.prod([d.probability for d in members]))
    return _defect({f"V_{_formula(first, second, empty)}": sure}, members, tuple(empty), _places(empty, evidence))


def _formula(first: str, second: str, empty: Sequence[Site]) -> str:
    """What is missing, the element that more atoms are missing of before the other."""
    if first == second:
        return f"{first}{len(empty)}"
    lost = [(sum(site[2] == sublattice for site in empty), name) for sublattice, name in (("A", first), ("B", second))]
    return "".join(name + (str(n) if n > 1 else "") for n, name in sorted(lost, key=lambda one: -one[0]) if n)


def _places(sites: Sequence[Site], evidence: Evidence) -> FloatArray:
    return np.array([evidence.xy_px(site) for site in sites])


def _defect(
    weight: dict[str, float], members: Sequence[Defect], sites: tuple[Site, ...], extent: FloatArray
) -> Defect:
    """One defect of several findings; UNKNOWN has what the names leave over."""
    doubt = pristine(members)
    share = {label: p * (1 - doubt) for label, p in weight.items()}
    share["UNKNOWN"] = max(0.0, 1 - doubt - sum(share.values()))
    share["pristine"] = doubt
    label = max((name for name in share if name != "pristine"), key=lambda name: share[name])
    p = share.pop(label)
    others = sorted(share.items(), key=lambda item: -item[1])
    evidence = float(sum(d.log_bayes_factor for d in members))
    return Defect(0, type_of(label, "SV"), label, p, extent.mean(0), sites, extent, tuple(others), evidence)


def _frame(evidence: Evidence) -> FloatArray:
    """Matrix (2, 2) from pixels to bonds of the undistorted crystal."""
    lattice = evidence.lattice
    return np.asarray(SECOND * np.linalg.inv(deformation(lattice.a_px, lattice.b_px)))


def _columns(evidence: Evidence, centre_px: FloatArray) -> Net:
    """Columns within `REACH` of a place, in bonds, and what binds them."""
    frame = _frame(evidence)
    seen = evidence.columns
    xy = seen.xy_px @ frame.T
    near = np.hypot(*(xy - centre_px @ frame.T).T) < REACH
    error = frame @ seen.cov[near][:, :2, :2] @ frame.T
    return net(xy[near], np.sqrt(np.trace(error, axis1=1, axis2=2) / 2))


def _wrong_rings(members: Sequence[Defect], evidence: Evidence) -> tuple[Net, list[Ring]]:
    """Rings of another size than six at findings, and those that share an atom with them.

    None at all if one of their columns stands where none can be believed in.
    """
    centre = np.mean([d.center_px for d in members], axis=0)
    of, frame = _columns(evidence, centre), _frame(evidence)
    wrong = [ring for ring in rings(of) if len(ring) != 6]
    xy = np.array([d.center_px for d in members]) @ frame.T
    chosen = [r for r in wrong if np.hypot(*(of.xy[list(r)].mean(0) - xy).T).min() < SECOND]
    if not chosen:
        return of, []
    while True:
        held = {k for ring in chosen for k in ring}
        more = [ring for ring in wrong if ring not in chosen and held & set(ring)]
        if not more:
            break
        chosen += more
    px = of.xy[sorted(held)] @ np.linalg.inv(frame).T
    return (of, chosen) if _seen(px, evidence) else (of, [])


CRYSTAL = ("other-grain", "twin", "step")
"""Regions in which single columns are seen, though not on the sites of this crystal."""


def _seen(xy_px: FloatArray, evidence: Evidence) -> bool:
    """Whether columns can be believed in at all these places."""
    h, w = evidence.region_map.shape
    at = np.rint(xy_px).astype(int)
    if not ((at >= 0) & (at < [w, h])).all():
        return False
    there = np.unique(evidence.region_map[at[:, 1], at[:, 0]])
    return all(k == 0 or (k <= len(evidence.regions) and evidence.regions[k - 1].kind in CRYSTAL) for k in there)
