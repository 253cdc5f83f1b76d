"""Where in an image a structure may be: all cells and all equivalent ways to lie in the crystal.

Two things are asked: a matched filter, the cross-correlation of what the perfect crystal leaves of the image with the
difference between structure and perfect crystal, drawn with the image's own columns; and what the sites hold that the
structure changes (`held`). This makes a short list: the comparison that decides has more freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.signal import oaconvolve
from scipy.spatial import cKDTree

from stemfit.candidates import crystal_axes
from stemfit.columns import Profile
from stemfit.columns.resample import averaged, averaged_profile
from stemfit.columns.stamps import render
from stemfit.defects import Site
from stemfit.hosts import ProjectedHost
from stemfit.imaging import Imaging
from stemfit.lattice import Lattice, SiteMap
from stemfit.matching.given import Given
from stemfit.matching.held import Held, columns_at
from stemfit.matching.ways import Embedded, centre_of, embedded, perfect, places_of, reach_cells, turned, ways_of
from stemfit.simulate.image import project

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

UNMOVED_A = 0.03
"""Columns that a structure moves by less are as in the perfect crystal: the scatter of columns in the best images."""

WIDTHS = 5.0
"""Margin of a drawn difference beyond its outermost column, widths of the profile."""

AROUND_CELLS = 3
"""Cells of a patch beyond the outermost changed place: what is displaced farther out hardly moves."""

SAME_LOOK = 1e-3
"""Share of a difference's power by which it may differ between ways that are the same from above."""


class Left(NamedTuple):
    """What the perfect crystal leaves of an image.

    Attributes
    ----------
    residual, weight, gain : (h, w) arrays
        Image less perfect crystal; inverse variance of an independent sample, 0 where nothing is analysed; brightness.
    bins : int
        Pixels of the image per pixel here, each way.
    profile : Profile
        On these pixels.
    """

    residual: FloatArray
    weight: FloatArray
    gain: FloatArray
    bins: int
    profile: Profile

    def at(self, xy_px: FloatArray) -> FloatArray:
        """Image positions (N, 2) on these pixels."""
        return np.asarray((xy_px - (self.bins - 1) / 2) / self.bins)


@dataclass(frozen=True, eq=False)
class Placement:
    """A structure in one way at one place.

    Attributes
    ----------
    given : int
        Which structure.
    lying : Given
        The structure turned so.
    over : bool
        Whether the layer was turned over.
    cell : (2,) int array
        Lattice translation, in cells of the image's lattice.
    centre_px : (2,) array
        Where the middle of its changed places comes to lie.
    sites : tuple of (i, j, sublattice)
        Sites of the image that it changes.
    gain : float
        Natural logarithm of the likelihood of the image against the perfect crystal, as the filter has it.
    odds : float
        The same of the light of the sites, against what sites hold anyway.
    """

    given: int
    lying: Given
    over: bool
    cell: IntArray
    centre_px: FloatArray
    sites: tuple[Site, ...]
    gain: float
    odds: float


def left_over(
    image: FloatArray, model: FloatArray, variance: FloatArray, imaging: Imaging, masked: NDArray[np.bool_]
) -> Left:
    """Residual of the perfect crystal, on pixels as coarse as the columns allow.

    Parameters
    ----------
    image, model : (H, W) arrays
    variance : (H, W) array
        Of the noise of one independent sample.
    imaging : Imaging
    masked : (H, W) bool array
    """
    n = max(1, int(imaging.profile.width_px / 1.5))
    free = np.where(masked, 0.0, 1.0)
    residual, noise, share, gain = (averaged(a, n) for a in (
        np.where(masked, 0.0, image - model), variance / n**2, free, imaging.gain))  # fmt: skip
    weight = np.where(share > 0.999, 1 / np.maximum(noise, 1e-300), 0.0)
    return Left(residual, weight, gain, n, averaged_profile(imaging.profile, n))


def placements(
    givens: Sequence[Given], left: Left, imaging: Imaging, lattice: Lattice, sites: SiteMap, host: ProjectedHost,
    held: Held,
) -> list[list[Placement]]:
    """All places of each structure inside the analysed area, in all different ways, the likeliest first."""
    index = _Index(sites, lattice, host)
    return [_of(k, given, left, imaging, lattice, index, held) for k, given in enumerate(givens)]


class _Index:
    """Which sites of the lattice are judged."""

    def __init__(self, sites: SiteMap, lattice: Lattice, host: ProjectedHost) -> None:
        self.names = host.sublattices
        self.cells = np.unique(sites.ij, axis=0)
        self.low = self.cells.min(0)
        shape = self.cells.max(0) - self.low + 1
        self.judged = np.zeros((len(self.names), *shape), dtype=bool)
        for n, name in enumerate(self.names):
            own = sites.ij[sites.analysed & (sites.sublattice == name)] - self.low
            self.judged[n, own[:, 0], own[:, 1]] = True

    def inside(self, places: Sequence[Site], cells: IntArray) -> NDArray[np.bool_]:
        """Whether all sites among places, moved by cells (T, 2), are judged: (T,)."""
        fine = np.ones(len(cells), dtype=bool)
        for i, j, name in places:
            # Beside the lattice the site at the corner of the same cell stands for the place.
            n = self.names.index(name) if name in self.names else 0
            at = cells + np.array([i, j]) - self.low
            there = ((at >= 0) & (at < self.judged.shape[1:])).all(1)
            fine &= there
            fine[there] &= self.judged[n, at[there, 0], at[there, 1]]
        return fine


def named(uv: FloatArray, lattice: Lattice, names: Sequence[str]) -> list[Site]:
    """Sites of the honeycomb at lattice coordinates (C, 2), and hollows; anything else is off the lattice."""
    thirds = [*lattice.basis, 1.0 - lattice.basis[1]]
    found = []
    for place in uv:
        off = [np.abs(place - third - np.rint(place - third)).max() for third in thirds]
        n = int(np.argmin(off))
        cell = np.rint(place - thirds[n]).astype(int)
        name = ("-" if off[n] > 1e-3 else "H") if n == 2 or off[n] > 1e-3 else names[n]
        found.append((int(cell[0]), int(cell[1]), name))
    return found


def in_lattice(uv: FloatArray, polarity: int) -> FloatArray:
    """Cell coordinates (..., 2) of the crystal frame in those of the image: as `stemfit.candidates.crystal_axes`."""
    return np.asarray(uv if polarity > 0 else np.stack([-uv[..., 1], uv[..., 0] + uv[..., 1]], axis=-1))


class _Lying(NamedTuple):
    """A structure in one way: its difference (h, w), and its middle in cells of the image's lattice."""

    given: Given
    over: bool
    difference: FloatArray
    middle: FloatArray


def _of(
    number: int, given: Given, left: Left, imaging: Imaging, lattice: Lattice, index: _Index, held: Held
) -> list[Placement]:
    made = []
    for lying in _different(given, left, imaging, lattice):
        uv = places_of(lying.given)
        places = named(in_lattice(uv, lattice.polarity), lattice, index.names)
        cells = index.cells - np.rint(lying.middle).astype(np.int64)
        cells = cells[index.inside(places, cells)]
        if len(cells) == 0:
            continue
        at_px = lattice.positions(lying.middle + cells)
        gain = _filtered(left, lying.difference, at_px)
        odds = held.log_odds(dict(zip(places, columns_at(lying.given, uv), strict=True)), cells)
        made += [
            Placement(
                number, lying.given, lying.over, cell, place,
                tuple((i + int(cell[0]), j + int(cell[1]), name) for i, j, name in places), *each,
            )
            for cell, place, each in zip(cells, at_px, np.column_stack([gain, odds]).tolist(), strict=True)
        ]  # fmt: skip
    return sorted(made, key=lambda one: (-one.odds, -one.gain))


def _different(given: Given, left: Left, imaging: Imaging, lattice: Lattice) -> list[_Lying]:
    """The ways that look different from above."""
    kept: list[_Lying] = []
    for way in ways_of(given.crystal):
        lying = turned(given, way)
        middle = in_lattice(centre_of(lying), lattice.polarity)
        one = _Lying(lying, way.over, _difference(lying, left, imaging, lattice), middle)
        power = float(np.sum(one.difference**2))
        if not any(_alike(one, other, power) for other in kept):
            kept.append(one)
    return kept


def _alike(one: _Lying, other: _Lying, power: float) -> bool:
    apart = one.middle - other.middle
    same_place = np.abs(apart - np.rint(apart)).max() < 1e-3
    return bool(same_place and np.sum((one.difference - other.difference) ** 2) < SAME_LOOK * power)


def _difference(given: Given, left: Left, imaging: Imaging, lattice: Lattice) -> FloatArray:
    """Structure less perfect crystal, drawn about the middle of what it changes: the same box for every way."""
    crystal = given.crystal
    cells = patch_cells(reach_cells(given) + AROUND_CELLS)
    patch = embedded(given, cells)
    frame = crystal_axes(lattice) @ np.linalg.inv(crystal.plane_A().T) / left.bins
    middle = (centre_of(given) + patch.anchor) @ crystal.plane_A()
    xy, value = _changed_columns(patch, given, imaging)
    near = np.hypot(*(xy - middle).T) < (reach_cells(given) + AROUND_CELLS) * crystal.a_exp_A
    at = (xy[near] - middle) @ frame.T
    reach = lattice.a_px_iso / left.bins * (reach_cells(given) + AROUND_CELLS) + WIDTHS * left.profile.width_px
    half = int(np.ceil(reach))
    return render(at + half, value[near] / left.bins**2, left.profile, (2 * half + 1, 2 * half + 1))


def patch_cells(reach: float) -> int:
    """Cells a side of a rhombus that holds a disc, whose radius is in lattice constants."""
    return max(8, int(np.ceil(2 * (reach + 1) / np.sqrt(0.75))))


def _changed_columns(patch: Embedded, given: Given, imaging: Imaging) -> tuple[FloatArray, FloatArray]:
    """Columns (N, 2) A that are there and not in the perfect crystal, and the reverse; brightness (N,), signed."""
    here, whole = patch.structure.occupied, perfect(given.crystal.name, patch.structure.shape[0])
    flat = np.eye(2), np.zeros(2)
    own = project(patch.structure.numbers[here], patch.positions_A[here], *flat)
    ideal = project(whole.numbers, whole.nodes_A, *flat)
    off, nearest = (np.asarray(a) for a in cKDTree(ideal.xy_px).query(own.xy_px))
    kept = np.array([
        step < UNMOVED_A and kind == ideal.types[k] for step, k, kind in zip(off, nearest, own.types, strict=True)
    ])  # fmt: skip
    gone = np.ones(len(ideal.types), dtype=bool)
    gone[nearest[kept]] = False
    light = {t: imaging.amplitude(t).value for t in {*own.types, *ideal.types}}
    there = np.array([light[t] for t in own.types])[~kept]
    missing = np.array([light[t] for t in ideal.types])[gone]
    return np.vstack([own.xy_px[~kept], ideal.xy_px[gone]]), np.concatenate([there, -missing])


def _filtered(left: Left, difference: FloatArray, at_px: FloatArray) -> FloatArray:
    """Log likelihood (T,) of a difference at places (T, 2) px, against none: all that counts alone know."""
    at = left.at(at_px)[:, ::-1].T
    answer, power, gain = (
        np.asarray(map_coordinates(field, at, mode="nearest"))
        for field in (
            oaconvolve(left.weight * left.residual, difference[::-1, ::-1], mode="same"),
            oaconvolve(left.weight, (difference**2)[::-1, ::-1], mode="same"), left.gain,
        )
    )
    return np.asarray(answer * gain - power * gain**2 / 2)
