"""Where two grains of graphene or boron nitride meet: the rings that the atoms of both close along the line.

The analysed crystal ends there. Columns are fitted once more, now from the sites of both grains, free to move, and what
they do not explain gets columns of its own; rings of the wrong size are read off their bonds (Huang et al., Nature 469,
389 (2011): chains of pentagons and heptagons).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from stemfit.columns import Columns, refine
from stemfit.columns.detect import peaks
from stemfit.defects.bonds import SECOND, Net, Ring, certainty_of_bonds, net, rings, saturated
from stemfit.defects.evidence import Evidence
from stemfit.defects.types import Defect, Site, type_of
from stemfit.errors import NotAnalysable
from stemfit.lattice import fit_turned, sites_near
from stemfit.lattice.types import deformation

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

OVERLAP = 1.0
"""Bonds by which either grain is continued beyond the line, which windows of some cells have drawn."""

STRIP = OVERLAP + 2.0
"""Bonds from either grain within which the middle of a ring makes it one of the boundary: a hexagon is 2 across."""

ONE_SEED, ONE_ATOM = 0.6, 0.75
"""Bonds within which two seeds are one, and two fitted columns: the shortest bond of carbon, a triple one, is 0.85."""

ALONE = 1.5
"""Bonds within which no more than one column is given up at a time."""

FAINT = 0.5
"""Share of the light of the fainter column of the crystal below which there is no atom."""

SIGNIFICANT = 4.0
"""Standard errors from which a column is believed in: passed by chance by one place in 30,000."""

ROUNDS = 8
"""Most fits, each with what the one before has left over, and without what it did not need."""

INSIDE = 0.6 * SECOND
"""Distance from the edge of the image, in bonds, of the atoms of a ring that is believed in, as of sites."""


def boundaries(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise the rings along boundaries to other grains, which take all findings beside them; and what is left."""
    named: list[Defect] = []
    left = list(found)
    for k, region in enumerate(evidence.regions, 1):
        if region.kind != "other-grain" or region.orientation_deg is None:
            continue
        turn = (region.orientation_deg - evidence.lattice.rotation_deg + 30.0) % 60.0 - 30.0
        chains = list(_chains(k, turn, evidence))
        for chain in chains:
            inside = [_touches(d, chain.extent_px, evidence) for d in left]
            named.append(chain)
            left = [d for d, here in zip(left, inside, strict=True) if not here]
    return named, left


def _touches(defect: Defect, extent_px: FloatArray, evidence: Evidence) -> bool:
    reach = SECOND * evidence.lattice.nearest_px
    return bool(np.hypot(*(extent_px - defect.center_px).T).min() < reach)


def _chains(k: int, turn_deg: float, evidence: Evidence) -> Iterator[Defect]:
    """One defect for all rings of wrong size that share atoms; UNKNOWN unless pentagons and heptagons are paired."""
    lattice = evidence.lattice
    here, there = _areas(k, evidence)
    columns = _both_sides(here, there, turn_deg, evidence) if here.any() else None
    if columns is None:
        return
    far = np.maximum(distance_transform_edt(~here), distance_transform_edt(~there)) / lattice.nearest_px
    frame = np.asarray(SECOND * np.linalg.inv(deformation(lattice.a_px, lattice.b_px)))
    error = frame @ columns.cov[:, :2, :2] @ frame.T
    of = saturated(net(columns.xy_px @ frame.T, np.sqrt(np.trace(error, axis1=1, axis2=2) / 2)))
    for group in _groups(_wrong(of, columns.xy_px, far < STRIP, lattice.nearest_px)):
        sizes = Counter(map(len, group))
        atoms = np.array(sorted({n for ring in group for n in ring}))
        sure = certainty_of_bonds(of, atoms)
        cut = int(_leaves(columns.xy_px[atoms], evidence))
        pairs = set(sizes) == {5, 7} and abs(sizes[5] - sizes[7]) <= cut
        share = {"5-7": sure, "UNKNOWN": 1 - sure} if pairs else {"UNKNOWN": 1.0}
        label = max(share, key=lambda name: share[name])
        p = share.pop(label)
        xy = columns.xy_px[atoms]
        rest = (*share.items(), ("pristine", 0.0))
        factor = _off_sites(columns, atoms, evidence)
        yield Defect(0, type_of(label, ""), label, p, xy.mean(0), _sites(xy, evidence), xy, rest, factor)


def _areas(k: int, evidence: Evidence) -> tuple[BoolArray, BoolArray]:
    """Where the analysed crystal is, without strips narrower than a hexagon, and where the other grain is with them."""
    free, half = evidence.region_map == 0, evidence.lattice.nearest_px
    core = np.asarray(distance_transform_edt(np.pad(free, 1, mode="edge")))[1:-1, 1:-1] > half
    here = free & (np.asarray(distance_transform_edt(~core)) <= half)
    return here, (evidence.region_map == k) | (free & ~here)


def _both_sides(here: BoolArray, there: BoolArray, turn_deg: float, evidence: Evidence) -> Columns | None:
    """Columns of both grains; None where the other one cannot be fitted."""
    bond = evidence.lattice.nearest_px
    try:
        grid = fit_turned(evidence.image, evidence.columns, evidence.lattice, turn_deg, there)
    except NotAnalysable:
        return None
    own, other = evidence.sites.xy_px, sites_near(grid, 0.0)[2]
    # Where both grains are continued, each has its say within its own area first.
    beyond, before = (np.asarray(distance_transform_edt(~area)) / bond for area in (there, here))
    neither = ~here & ~there
    own = own[(_at(before, own) <= OVERLAP) & ~_at(neither, own).astype(bool)]
    other = other[(_at(beyond, other) <= OVERLAP) & ~_at(neither, other).astype(bool)]
    rank = np.concatenate([_at(before, own), _at(beyond, other)])
    return _fitted(_apart(np.vstack([own, other]), rank, ONE_SEED * bond), evidence)


def _fitted(seeds: FloatArray, evidence: Evidence) -> Columns:
    """Columns from these seeds on, without those that are not needed and with those that are missing."""
    bond, start = evidence.lattice.nearest_px, evidence.columns
    width, least = start.profile.width_px, min(evidence.imaging.amplitude(c).value for c in evidence.host.columns)
    for _ in range(ROUNDS):
        nearest, which = (np.asarray(v) for v in cKDTree(start.xy_px).query(seeds))
        light = np.where(nearest < ONE_ATOM * bond, start.intensity[which], np.median(start.intensity))
        begun = replace(start, xy_px=seeds, intensity=light, cov=np.tile(np.eye(3), (len(seeds), 1, 1)))
        fitted = refine(evidence.image, seeds, width, prune=False, start=begun)
        needed = ~_needless(fitted, FAINT * least, bond)
        missed = peaks(evidence.image - fitted.model, width, SIGNIFICANT)
        if len(missed):
            missed = missed[np.asarray(cKDTree(fitted.xy_px[needed]).query(missed)[0]) > ONE_ATOM * bond]
        if not len(missed) and needed.all():
            break
        seeds, start = np.vstack([fitted.xy_px[needed], missed]), fitted
    return fitted


def _needless(fitted: Columns, least: float, bond_px: float) -> BoolArray:
    """Columns (N,) that are no atoms: faint, insignificant, or a weaker twin; the faintest of those side by side.

    Two that share the light of one atom must not both go.
    """
    h, w = fitted.background.shape
    doubtful = (fitted.intensity < least) | (fitted.intensity < SIGNIFICANT * np.sqrt(fitted.cov[:, 2, 2]))
    tree = cKDTree(fitted.xy_px)
    for p, q in tree.query_pairs(ONE_ATOM * bond_px):
        doubtful[p if fitted.intensity[p] < fitted.intensity[q] else q] = True
    gone = np.zeros(len(doubtful), dtype=bool)
    for n in np.flatnonzero(doubtful)[np.argsort(fitted.intensity[doubtful], kind="stable")]:
        gone[n] = not gone[tree.query_ball_point(fitted.xy_px[n], ALONE * bond_px)].any()
    outside = ~((fitted.xy_px > 0) & (fitted.xy_px < [w - 1, h - 1])).all(1)
    return np.asarray(gone | outside)


def _apart(xy_px: FloatArray, rank: FloatArray, reach_px: float) -> FloatArray:
    """Positions without those that have one of lower rank within reach."""
    keep = np.ones(len(xy_px), dtype=bool)
    near = cKDTree(xy_px).query_ball_point(xy_px, reach_px)
    for n in np.argsort(rank, kind="stable"):
        if keep[n]:
            keep[[m for m in near[n] if m != n]] = False
    return xy_px[keep]


def _wrong(of: Net, xy_px: FloatArray, strip: BoolArray, bond_px: float) -> list[Ring]:
    """Rings of another size than six whose middle lies in the strip, whole in the image."""
    h, w = strip.shape
    found = []
    for ring in rings(of):
        xy = xy_px[list(ring)]
        whole = ((xy > INSIDE * bond_px) & (xy < np.array([w, h]) - 1 - INSIDE * bond_px)).all()
        if len(ring) != 6 and whole and _at(strip, xy.mean(0)[None])[0]:
            found.append(ring)
    return found


def _groups(wrong: Sequence[Ring]) -> list[list[Ring]]:
    """Rings in groups that share atoms."""
    groups: list[list[Ring]] = []
    for ring in wrong:
        joined = [group for group in groups if any(set(ring) & set(other) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([ring, *(other for group in joined for other in group)])
    return groups


def _leaves(xy_px: FloatArray, evidence: Evidence) -> bool:
    """Whether a chain goes on beyond the edge of the image."""
    h, w = evidence.region_map.shape
    reach = (SECOND + INSIDE) * evidence.lattice.nearest_px
    return bool(((xy_px < reach) | (xy_px > np.array([w, h]) - 1 - reach)).any())


def _sites(xy_px: FloatArray, evidence: Evidence) -> tuple[Site, ...]:
    """Each atom is off the lattice, near some cell of it."""
    nearest = np.asarray(cKDTree(evidence.sites.xy_px).query(xy_px)[1])
    return tuple((int(i), int(j), "-") for i, j in evidence.sites.ij[nearest])


def _off_sites(columns: Columns, atoms: NDArray[np.int64], evidence: Evidence) -> float:
    """Natural logarithm by which these columns are likelier anywhere within half a bond than on the crystal's sites."""
    reach = 0.5 * evidence.lattice.nearest_px
    off = np.minimum(np.asarray(cKDTree(evidence.sites.xy_px).query(columns.xy_px[atoms])[0]), reach)
    variance = (columns.cov[atoms, 0, 0] + columns.cov[atoms, 1, 1]) / 2 + evidence.lattice.residual_rms_px**2
    return float(np.sum(0.5 * off**2 / variance - np.log(reach**2 / (2 * variance))))


def _at(field: NDArray[np.generic], xy_px: FloatArray) -> FloatArray:
    """Values of a field (H, W) at positions (N, 2), those outside at its edge."""
    h, w = field.shape
    at = np.clip(np.rint(xy_px).astype(int), 0, [w - 1, h - 1])
    return np.asarray(field[at[:, 1], at[:, 0]], dtype=np.float64)
