"""Where structures may be in an image: places that share sites exclude each other, and are put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stemfit.defects import Defect, Site, type_of
from stemfit.errors import NotAnalysable
from stemfit.lattice import Lattice
from stemfit.matching.given import Given
from stemfit.matching.held import Held
from stemfit.matching.places import Placement, in_lattice, left_over, placements
from stemfit.matching.ways import places_of
from stemfit.observed import Observed
from stemfit.simulate.field import drawn, painted

FloatArray = NDArray[np.float64]

MOST_SPOTS = 16
"""Spots compared with the image per structure: beyond that `analyze` is the tool."""

WORTH = 0.5
"""Share of the log odds of a structure's best place from which others are compared: half of its sites fit there."""

NEAR, NEAR_SHARE, MOST_NEAR = 5.0, 0.1, 4
"""Places of one structure on the same sites that are compared as well: those whose log odds are within so much, and
such a share, of the best: brightness beside displaced neighbours is known to no better; so many at most."""

AT_CELLS = 0.6
"""A structure is at a point if its middle is this close to it, in lattice constants: half way to the next cell."""

RANK = ("TREFOIL", "LINE", "VM", "ANTI", "SUB", "DV", "SV")
"""Type of a structure with defects of several types: the first of these."""


@dataclass(frozen=True, eq=False)
class Spot:
    """Places that exclude each other.

    Attributes
    ----------
    defect : Defect
        All sites that any of the structures changes here.
    placements : tuple of Placement
        The likeliest of each structure first.
    looked : mapping of int to int
        Among how many places each structure was looked for.
    """

    defect: Defect
    placements: tuple[Placement, ...]
    looked: Mapping[int, int]


def look_for(v: Observed, givens: Sequence[Given], at_px: tuple[float, float] | None) -> tuple[Spot, ...]:
    """Search the analysed area for structures, or look at one point of the image only.

    Raises
    ------
    NotAnalysable
        If a structure has no room there.
    """
    host = v.identity.host
    perfect = painted(drawn(v.sites, v.imaging, host, v.lattice, (), (), (), v.brightness, v.columns), v.imaging)
    variance = v.imaging.noise.variance(v.columns.model) * v.imaging.noise.pixels_per_sample
    left = left_over(v.image, perfect, variance, v.imaging, v.region_map > 0)
    held = Held(v.posteriors, host.sublattices, v.sites)
    placed = placements(givens, left, v.imaging, v.lattice, v.sites, host, held)
    placed = [_where_named(some, given.label, v.found) for some, given in zip(placed, givens, strict=True)]
    at = None if at_px is None else v.rows.straight(np.array([at_px], dtype=np.float64))[0]
    return spots_of(placed, givens, v.lattice, at)


def _where_named(some: Sequence[Placement], label: str, found: Sequence[Defect]) -> list[Placement]:
    """Places of a structure; where its name was found they are as likely as the likeliest.

    Lines in alloys are found by the gap that closed along them, which the light of their sites does not know.
    """
    named = {s: n for n, d in enumerate(found) if label == d.label or label in dict(d.alternatives) for s in d.sites}
    best: dict[int, tuple[int, int]] = {}
    for k, one in enumerate(some):
        for n in {named[site] for site in one.sites if site in named}:
            shared = sum(named.get(site) == n for site in one.sites)
            best[n] = max(best.get(n, (0, 0)), (shared, -k))
    raised, most = {-k for _, k in best.values()}, max((p.odds for p in some), default=0.0)
    made = [replace(p, odds=max(most, 0.0)) if k in raised else p for k, p in enumerate(some)]
    return sorted(made, key=lambda p: (-p.odds, -p.gain))


def spots_of(
    placed: Sequence[Sequence[Placement]], givens: Sequence[Given], lattice: Lattice, at_px: FloatArray | None
) -> tuple[Spot, ...]:
    """The likeliest places of all structures, those on common sites together.

    Parameters
    ----------
    placed : sequence of sequences of Placement
        Of each structure, the likeliest first.
    givens : sequence of Given
    lattice : Lattice
    at_px : (2,) array or None
        Only there.

    Raises
    ------
    NotAnalysable
        If a structure has no room in the analysed area, or not there.
    """
    if at_px is not None:
        near = [_near(some, at_px, lattice, given) for some, given in zip(placed, givens, strict=True)]
        chosen = tuple(p for some in near for p in some[:MOST_NEAR])
        return (Spot(_defect(1, chosen, lattice), chosen, {k: len(some) for k, some in enumerate(near)}),)
    for some, given in zip(placed, givens, strict=True):
        if not some:
            what = f"{given.path.name} has no room in the analysed area"
            raise NotAnalysable(what, remedy="give a structure with fewer sites that change, or a larger image")
    looked = {k: len(some) for k, some in enumerate(placed)}
    groups = _groups([_worth(some) for some in placed])
    known = {p.given for group in groups for p in group}
    # A structure that is nowhere stands alone where it fits best: it must not widen the spots of one that is there.
    groups += [tuple(_Places(some).on(some[0], set())) for k, some in enumerate(placed) if k not in known]
    return tuple(Spot(_defect(n, group, lattice), group, looked) for n, group in enumerate(groups, 1))


def _groups(worth: Sequence[Sequence[Placement]]) -> list[tuple[Placement, ...]]:
    """Places that share sites with the likeliest of them; of each structure the likeliest first."""
    places = [_Places(some) for some in worth]
    count, groups = [0] * len(worth), list[tuple[Placement, ...]]()
    taken: set[Site] = set()
    for lead in sorted((p for some in worth for p in some), key=lambda p: (-p.odds, -p.gain)):
        if count[lead.given] >= MOST_SPOTS or not taken.isdisjoint(lead.sites):
            continue
        group = tuple(p for own in places for p in own.on(lead, taken))
        taken |= {site for p in group for site in p.sites}
        groups.append(group)
        for n in {p.given for p in group}:
            count[n] += 1
    return groups


def _worth(some: Sequence[Placement]) -> list[Placement]:
    """Places worth comparing, the likeliest first: none of a structure that is likelier to be nowhere."""
    return [p for p in some if p.odds >= max(WORTH * some[0].odds, 0.0)]


def _near(some: Sequence[Placement], at_px: FloatArray, lattice: Lattice, given: Given) -> list[Placement]:
    away = np.array([np.hypot(*(p.centre_px - at_px)) for p in some]) / lattice.a_px_iso
    if len(away) == 0 or away.min() > 2 * AT_CELLS:
        x, y = at_px.tolist()
        what = f"{given.path.name} has no room at ({x:.0f}, {y:.0f}) px: some of its sites are not in the analysed area"
        raise NotAnalysable(what, remedy="choose another --at, or leave it out")
    return [p for p, off in zip(some, away, strict=True) if off <= max(AT_CELLS, float(away.min()) + 1e-6)]


class _Places:
    """Places of one structure, by where they are."""

    def __init__(self, some: Sequence[Placement]) -> None:
        self.some = some
        self.by_site: dict[Site, list[int]] = {}
        for n, one in enumerate(some):
            for site in one.sites:
                self.by_site.setdefault(site, []).append(n)

    def on(self, lead: Placement, taken: set[Site]) -> list[Placement]:
        """Those that share a site with a place and are as likely as the best of them, as far as brightness knows."""
        rows = sorted({n for site in lead.sites for n in self.by_site.get(site, [])})
        rows = [n for n in rows if taken.isdisjoint(self.some[n].sites)]
        if not rows:
            return []
        best = self.some[rows[0]].odds
        least = best - NEAR - NEAR_SHARE * abs(best)
        return [self.some[n] for n in rows[:MOST_NEAR] if self.some[n].odds > least]


def _defect(number: int, some: Sequence[Placement], lattice: Lattice) -> Defect:
    """All sites that are changed."""
    every: dict[tuple[Site, tuple[float, ...]], FloatArray] = {}  # off the lattice one cell may hold several
    for one in some:
        uv = in_lattice(places_of(one.lying), lattice.polarity) + one.cell
        for site, place in zip(one.sites, lattice.positions(uv), strict=True):
            every[site, tuple(np.round(place, 2).tolist()) if site[2] == "-" else ()] = place
    at = np.array(list(every.values()))
    label = some[0].lying.label
    return Defect(number, kind_of(label), label, 1.0, at.mean(0), tuple(site for site, _ in every), at, (), 0.0)


def kind_of(label: str) -> str:
    """Contract type of a label, or of several joined by "+"."""
    kinds = {_kind(name) for name in label.split("+")}
    return next((kind for kind in RANK if kind in kinds), sorted(kinds)[0])


def _kind(name: str) -> str:
    there, _, belongs = name.partition("_")
    if belongs == "i":
        return "ADATOM"
    if there != "V" and belongs:
        metals = [any(part.startswith(m) for m in ("Mo", "W", "Ga", "In")) for part in (there, belongs)]
        return "SUB" if metals[0] == metals[1] else "ANTI"
    known = type_of(name, "UNKNOWN")
    return "UNKNOWN" if known == "SUB" else known
