"""Areas where the monolayer's lattice cannot be read, each with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_opening, gaussian_filter, label
from skimage.measure import approximate_polygon, find_contours

from stemfit.columns import Columns
from stemfit.columns.resample import averaged
from stemfit.errors import UsageError
from stemfit.lattice.cell import Grid, repeated
from stemfit.lattice.types import Region, SiteMap

FloatArray = NDArray[np.float64]

WEAK = 0.5
"""Lattice amplitude, relative to good crystal, below which there is no lattice (a lone vacancy leaves 0.8)."""

EMPTY = 0.4
"""Brightness between the hollows' level (0) and the crystal's mean (1), averaged over half a cell, below which nothing
is there. Removing one chalcogen column leaves more than 0.6 in the host that shows it best."""

CELL_PX = 10
"""Lattice constant, px, down to which the image is averaged first: regions are larger than a cell."""

MIN_CELLS = 6.0
"""Smaller areas are left to the defect search."""


def find_regions(image: FloatArray, columns: Columns, grid: Grid) -> tuple[tuple[Region, ...], NDArray[np.uint8]]:
    """Find what is not analysed.

    Returns
    -------
    tuple of Region
    (H, W) uint8 array
        0 analysed, k = k-th region (from 1).
    """
    bins = max(1, int(grid.a_px_iso / CELL_PX))
    a = grid.a_px_iso / bins
    cell = 0.5 * np.sqrt(3) * a**2
    small, background, strength = (averaged(f, bins) for f in (image, columns.background, grid.strength))
    smooth = gaussian_filter(small, 0.5 * a)
    crystal = strength > 0.7
    if not crystal.any():
        crystal = strength > 0.0
    level, dark = float(np.median(smooth[crystal])), float(np.median(background[crystal]))
    excess = (gaussian_filter(background, 0.25 * a) - dark) / max(level - dark, 1e-12)
    dirty = excess > 1.5
    empty = smooth < dark + EMPTY * (level - dark)
    lost = (strength < WEAK) | dirty | empty
    radius = max(1, round(0.3 * a))
    disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    lost = binary_closing(np.pad(binary_opening(lost, disc), radius), disc)[radius:-radius, radius:-radius] & lost
    labels, count = label(lost)
    regions: list[Region] = []
    number: NDArray[np.uint8] = np.zeros(small.shape, dtype=np.uint8)
    for k in range(1, count + 1):
        area = labels == k
        if area.sum() < MIN_CELLS * cell or len(regions) >= 254:
            continue
        found = _named(area, smooth, (level, dark), strength, excess, cell)
        regions.append(replace(found, polygon_px=(found.polygon_px + 0.5) * bins - 0.5))
        number[area] = len(regions)
    return tuple(regions), repeated(number, bins, (image.shape[0], image.shape[1]))


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


def _named(
    area: NDArray[np.bool_], smooth: FloatArray, levels: tuple[float, float], strength: FloatArray, excess: FloatArray,
    cell: float,
) -> Region:
    """Kind and reason from brightness and lattice amplitude inside the area."""
    level, dark = levels
    brightness = float(np.median(smooth[area]))
    crystal = float(np.median(strength[area]))
    cells = area.sum() / cell
    said = f"{cells:.0f} cells, lattice amplitude {crystal:.2f} of good crystal, brightness {brightness / level:.2f}"
    edge = bool(area[0].any() or area[-1].any() or area[:, 0].any() or area[:, -1].any())
    if float(np.median(excess[area])) > 1.5 or brightness > 1.3 * level:
        kind = "contamination"
    elif brightness < dark + EMPTY * (level - dark):
        kind = "vacuum" if edge else "hole"
    else:
        kind = "unindexed"
    return Region(kind, said, _outline(area))


def _outline(area: NDArray[np.bool_]) -> FloatArray:
    contour = max(find_contours(np.pad(area, 1).astype(float), 0.5), key=len) - 1.0
    return np.asarray(approximate_polygon(contour, 1.0)[:, ::-1])
