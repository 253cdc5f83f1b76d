"""Areas where the monolayer's lattice cannot be read, each with its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_dilation, binary_opening, gaussian_filter, label
from scipy.special import ndtr
from skimage.measure import approximate_polygon, find_contours

from stemfit.columns import Columns
from stemfit.columns.resample import averaged
from stemfit.errors import UsageError
from stemfit.lattice.cell import WINDOW, Grid, repeated
from stemfit.lattice.film import Film, Hollows, film, hollows
from stemfit.lattice.grains import other_grains
from stemfit.lattice.stacking import domains
from stemfit.lattice.types import Region, SiteMap, rotation_deg

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

WEAK = 0.5
"""Lattice amplitude, relative to good crystal, below which there is no lattice (a lone vacancy leaves 0.8)."""

EMPTY = 0.4
"""Brightness between the background's (0) and the crystal's (1), averaged over half a cell, below which nothing may be
there. Removing one chalcogen column leaves more than 0.6 in the host that shows it best."""

HALF = 0.5
"""Brightness above that of the hollows around, relative to the crystal's, that a rim of the crystal has. Below, there
are no columns; a background that drifts and a gain that varies do not matter, but displaced planes do."""

THICK = 1.5
"""Smooth background on the same scale from which so much lies on the crystal that columns cannot be judged."""

CELL_PX = 6
"""Lattice constant, px, down to which the image is averaged first: a third of the distance of columns is still seen."""

MIN_CELLS = 6.0
"""Smaller areas are left to the defect search."""

READABLE = 0.75
"""Lattice amplitude, relative to good crystal, below which bright areas are not taken for dirt: where planes are
displaced, columns stand where hollows are expected."""

MOST = 254
"""Regions that a mask of bytes can number."""


class Scene(NamedTuple):
    """What the areas are named by, on averaged pixels, arrays (h, w).

    Attributes
    ----------
    brightness : array
        Image over half a cell, 1 in the crystal.
    columns : array
        The same above the hollows around, 1 in the crystal whatever its gain there.
    background : array
        Smooth background, 0 where it is the crystal's and 1 at the crystal's brightness.
    strength : array
        Lattice amplitude over that of good crystal.
    dark : float
        Brightness of the crystal's background.
    cell : float
        Pixels of a cell.
    """

    brightness: FloatArray
    columns: FloatArray
    background: FloatArray
    strength: FloatArray
    dark: float
    cell: float

    @property
    def empty(self) -> BoolArray:
        """Where there is neither light nor a column."""
        return (self.columns < HALF) & (self.brightness < self.dark + EMPTY * (1 - self.dark))


class Area(NamedTuple):
    """Kind, pixels (h, w), reason and orientation of a region to be."""

    kind: str
    pixels: BoolArray
    reason: str
    orientation_deg: float | None = None


def find_regions(image: FloatArray, columns: Columns, grid: Grid) -> tuple[tuple[Region, ...], NDArray[np.uint8]]:
    """Find what is not analysed.

    Returns
    -------
    tuple of Region
        They do not overlap.
    (H, W) uint8 array
        0 analysed, k = k-th region (from 1).
    """
    bins = max(1, int(grid.a_px_iso / CELL_PX))
    small, background, strength = (averaged(f, bins) for f in (image, columns.background, grid.strength))
    strength = strength / _window_inside(strength.shape, WINDOW * grid.a_px_iso / bins)
    a, dual = grid.a_px_iso / bins, bins * np.linalg.inv(np.column_stack([grid.a_px, grid.b_px]))
    areas = _turned(small, dual, a, rotation_deg(grid.a_px, grid.b_px))
    aside = _union([area.pixels for area in areas], small.shape)
    areas += [
        Area(d.kind, d.area & ~aside, d.reason) for d in domains(small, dual, a, (strength > WEAK) & ~aside)
    ]
    aside = _union([area.pixels for area in areas], small.shape)
    beside = binary_dilation(aside, iterations=max(1, round(0.5 * a))) if aside.any() else aside
    between = hollows(image, columns, grid, bins)
    scene = _scene(small, background, strength, between, float(grid.contrast[2]))
    usable = ((strength > WEAK) | (scene.background > THICK)) & ~beside & ~scene.empty
    dirt = film(between.outside(beside), usable)
    areas += _unreadable(scene, dirt, aside, a)
    return _numbered(areas, bins, scene.cell, (image.shape[0], image.shape[1]))


def _window_inside(shape: tuple[int, ...], sigma: float) -> FloatArray:
    """Share of a Gaussian window about every pixel that lies inside the image."""
    rows, cols = (ndtr((n - 0.5 - np.arange(n)) / sigma) - ndtr((-0.5 - np.arange(n)) / sigma) for n in shape)
    return np.outer(rows, cols)


def _turned(image: FloatArray, dual: FloatArray, a: float, rotation: float) -> list[Area]:
    """Other grains and turned layers."""
    areas = []
    for grain in other_grains(image, np.stack([dual[0], dual[0] + dual[1]]), a):
        said = (
            f"lattice turned by {grain.turn_deg:+.1f} degrees with amplitude {grain.amplitude:.2f} of that of the "
            f"analysed crystal, of which {grain.main:.2f} is left"
        )
        kind = "second-layer" if grain.on_top else "other-grain"
        areas.append(Area(kind, grain.area, said, (rotation + grain.turn_deg) % 60.0))
    return areas


def _scene(
    small: FloatArray, background: FloatArray, strength: FloatArray, between: Hollows, hollow: float
) -> Scene:
    a = between.a_px
    smooth = gaussian_filter(small, 0.5 * a)
    crystal = strength > 0.7
    if not crystal.any():
        crystal = strength > 0.0
    level = float(np.median(smooth[crystal]))
    # Where no column was resolved the background is all there is: no crystal is brighter than its hollows.
    dark = min(float(np.median(background[crystal])), level + hollow)
    light = smooth - between.mean(small, 0.5)
    above = (gaussian_filter(background, 0.25 * a) - dark) / max(level - dark, 1e-12)
    return Scene(
        smooth / level, light / _usual(light, crystal), above, strength, dark / level, 0.5 * np.sqrt(3) * a**2
    )


def _usual(light: FloatArray, crystal: BoolArray) -> FloatArray:
    """Light of the crystal everywhere: a quadratic surface, as gain varies, within a factor of two of its median."""
    h, w = light.shape
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    at = np.flatnonzero(crystal)
    at = at[:: max(1, len(at) // 20_000)]
    surface = design @ np.linalg.lstsq(design[at], light.ravel()[at], rcond=None)[0]
    middle = max(float(np.median(light[crystal])), 1e-12)
    return np.asarray(np.clip(surface, 0.5 * middle, 2 * middle).reshape(h, w))


def _unreadable(scene: Scene, dirt: Film, aside: BoolArray, a: float) -> list[Area]:
    """Dirt, holes, vacuum and what has no lattice, outside the areas that are named already."""
    masks = {kind: np.zeros(aside.shape, dtype=bool) for kind in ("contamination", "vacuum", "hole", "unindexed")}
    least = MIN_CELLS * scene.cell
    masks["contamination"] |= dirt.grainy & ~aside
    for area in _components(dirt.bright & ~aside, least):
        readable = float(np.median(scene.strength[area])) > READABLE
        masks["contamination" if readable else "unindexed"] |= area
    lost = _tidied(((scene.strength < WEAK) | scene.empty) & ~aside, a)
    for area in _components(lost & ~masks["contamination"], least):
        masks[_kind(area, scene)] |= area
    areas: list[Area] = []
    for kind, mask in masks.items():
        free = mask & ~_union([other.pixels for other in areas], mask.shape)
        areas += [Area(kind, part, _said(part, scene, dirt)) for part in _components(free, least)]
    return areas


def _tidied(lost: BoolArray, a: float) -> BoolArray:
    """Without specks; small gaps closed."""
    radius = max(1, round(0.3 * a))
    disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    closed = binary_closing(np.pad(binary_opening(lost, disc), radius), disc)[radius:-radius, radius:-radius]
    return np.asarray(closed & lost)


def _union(masks: list[BoolArray], shape: tuple[int, ...]) -> BoolArray:
    return np.any(masks, axis=0) if masks else np.zeros(shape, dtype=bool)


def _components(mask: BoolArray, least: float) -> list[BoolArray]:
    """Connected parts of at least so many pixels."""
    labels, _ = label(mask)
    return [labels == k for k in np.flatnonzero(np.bincount(labels.ravel()) >= least) if k > 0]


def _numbered(
    areas: list[Area], bins: int, cell: float, shape: tuple[int, int]
) -> tuple[tuple[Region, ...], NDArray[np.uint8]]:
    """Regions of the connected parts, the earlier area first where two meet, and the mask."""
    regions: list[Region] = []
    small = areas[0].pixels.shape if areas else (1, 1)
    number: NDArray[np.uint8] = np.zeros(small, dtype=np.uint8)
    for area in areas:
        for part in _components(area.pixels & (number == 0), MIN_CELLS * cell)[: MOST - len(regions)]:
            polygon = (_outline(part) + 0.5) * bins - 0.5
            regions.append(Region(area.kind, area.reason, polygon, area.orientation_deg))
            number[part] = len(regions)
    return tuple(regions), repeated(number, bins, shape)


def set_aside(
    masked: BoolArray, reason: str, regions: tuple[Region, ...], number: NDArray[np.uint8]
) -> tuple[tuple[Region, ...], NDArray[np.uint8]]:
    """Add what is not to be analysed, each connected part as a region; what is one already stays what it is."""
    number, added = number.copy(), list(regions)
    for part in _components(masked & (number == 0), 1)[: MOST - len(added)]:
        added.append(Region("unindexed", reason, _outline(part)))
        number[part] = len(added)
    return tuple(added), number


def outside(
    roi: tuple[int, int, int, int], regions: tuple[Region, ...], number: NDArray[np.uint8], sites: SiteMap
) -> tuple[tuple[Region, ...], NDArray[np.uint8], SiteMap]:
    """Add what lies outside the rectangle (x0, y0, x1, y1) that the user asked for, as a region.

    Lattice, host and imaging are those of the whole image; only the search for defects is confined.

    Raises
    ------
    UsageError
        If no site that can be analysed lies in the rectangle.
    """
    h, w = number.shape
    x0, y0, x1, y1 = (min(max(v, 0), most) for v, most in zip(roi, (w, h, w, h), strict=True))
    beyond = np.ones(number.shape, dtype=bool)
    beyond[y0:y1, x0:x1] = False
    at = np.rint(sites.xy_px).astype(int)
    analysed = sites.analysed & ~beyond[at[:, 1], at[:, 0]]
    if not analysed.any():
        said = ",".join(map(str, roi))
        raise UsageError(
            f"the rectangle {said} holds no site that can be analysed; the image is {w} x {h} px",
            remedy="choose a larger one that lies on the crystal",
        )
    frame = [[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1], [0, 0]]
    hole = [[x0, y0], [x0, y1 - 1], [x1 - 1, y1 - 1], [x1 - 1, y0], [x0, y0]]
    region = Region("unindexed", "outside the rectangle that was asked for", np.array(frame + hole, dtype=np.float64))
    mask = np.where(beyond, len(regions) + 1, number).astype(np.uint8)
    return (*regions, region), mask, replace(sites, analysed=analysed)


def _kind(area: BoolArray, scene: Scene) -> str:
    """Kind of an area without lattice, from its brightness."""
    if float(np.median(scene.background[area])) > THICK or float(np.median(scene.brightness[area])) > 1.3:
        return "contamination"
    if float(np.median(scene.brightness[area])) < scene.dark + EMPTY * (1 - scene.dark):
        edge = bool(area[0].any() or area[-1].any() or area[:, 0].any() or area[:, -1].any())
        return "vacuum" if edge else "hole"
    return "unindexed"


def _said(area: BoolArray, scene: Scene, dirt: Film) -> str:
    """What was measured there, in words."""
    brightness, amplitude, excess, uneven = (
        float(np.median(values[area]))
        for values in (scene.brightness, scene.strength, dirt.excess, dirt.unevenness)
    )
    said = f"{area.sum() / scene.cell:.0f} cells, lattice amplitude {amplitude:.2f} of good crystal, brightness "
    said += f"{brightness:.2f}"
    if dirt.unevenness.any():
        said += f"; light between the columns {excess:+.2f}, uneven by {uneven:.2f} of a column's contrast"
    return said


def _outline(area: BoolArray) -> FloatArray:
    contour = max(find_contours(np.pad(area, 1).astype(float), 0.5), key=len) - 1.0
    return np.asarray(approximate_polygon(contour, 1.0)[:, ::-1])
