"""All that an image says about its crystal before the crystal has a name."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from stemfit.columns import Columns
from stemfit.hosts import HONEYCOMB
from stemfit.lattice.cell import Grid, fit_grid, refit
from stemfit.lattice.pattern import by_columns
from stemfit.lattice.regions import find_regions, set_aside
from stemfit.lattice.rows import RowOffsets, row_offsets, unsettled_px
from stemfit.lattice.sites import Brightness, Honeycomb, honeycomb, measure
from stemfit.lattice.types import Region

FloatArray = NDArray[np.float64]


class Survey(NamedTuple):
    """Lattice, sites and columns of an image.

    Attributes
    ----------
    image : (H, W) array
        Without the jitter of rows: what all positions here refer to.
    rows : RowOffsets
        The jitter.
    columns : Columns
    grid : Grid
    sites : Honeycomb
    brightness : Brightness
        Of every site.
    regions : tuple of Region
    region_map : (H, W) uint8 array
        0 analysed, k = k-th region.
    """

    image: FloatArray
    rows: RowOffsets
    columns: Columns
    grid: Grid
    sites: Honeycomb
    brightness: Brightness
    regions: tuple[Region, ...]
    region_map: NDArray[np.uint8]


def survey(
    image: FloatArray, columns: Columns, device: str = "cpu", known: Grid | None = None,
    masked: NDArray[np.bool_] | None = None,
) -> Survey:
    """Fit the lattice, take out the jitter of rows, and measure every site.

    Parameters
    ----------
    image : (H, W) array
    columns : Columns
        A first fit (`stemfit.columns.find`).
    device : str
        Of torch.
    known : Grid, optional
        A first lattice through these columns; without it a honeycomb is fitted.
    masked : (H, W) bool array, optional
        What the user does not want to be analysed.

    Raises
    ------
    NotAnalysable
        If there is no lattice.
    """
    grid = fit_grid(image, columns) if known is None else known
    regions, region_map = find_regions(image, columns, grid)
    blank = _blank(image)
    if blank.any():
        regions, region_map = set_aside(blank, "blank rows or columns of pixels", regions, region_map)
    if masked is not None:
        regions, region_map = set_aside(masked, "masked by the user", regions, region_map)
    band, share = unsettled_px(columns, grid)
    if band > 0:
        reason = f"start of the scan lines: {100 * share:.0f} % of the columns lie beside the lattice"
        regions, region_map = set_aside(_left(band, image.shape), reason, regions, region_map)
    rows = row_offsets(image, columns, grid, region_map)
    if rows.jitter_px > 0:
        image = rows.straightened(image)
        columns = replace(columns, xy_px=rows.straight(columns.xy_px))
        grid = fit_grid(image, columns) if grid.cell == HONEYCOMB else by_columns(columns, grid)
    sites = honeycomb(grid, columns, region_map)
    sites = sites._replace(inside=sites.inside & ~_at_a_rim(sites.xy_px, regions, region_map, grid.a_px_iso))
    brightness, columns, sites = measure(image, columns, sites, grid, region_map, device)
    grid, sites, brightness = _refined(grid, columns, sites, brightness, region_map, rows.jitter_px)
    return Survey(image, rows, columns, grid, sites, brightness, regions, region_map)


BESIDE = 0.6
"""Sites this near to where the crystal ends, in lattice constants, are not judged: the last row of atoms and the first
empty one cannot be told from vacancies."""

COVERED, BESIDE_COVER = ("second-layer", "contamination", "step"), 1.0
"""The same beside what lies on the crystal: its outline, read in windows, is known to a lattice constant."""


def _at_a_rim(
    xy_px: FloatArray, regions: tuple[Region, ...], region_map: NDArray[np.uint8], a_px: float
) -> NDArray[np.bool_]:
    """Sites (S,) beside a hole or vacuum, or beside what lies on the crystal."""
    beside, at = np.zeros(len(xy_px), dtype=bool), np.rint(xy_px).astype(int)
    for kinds, reach in ((("hole", "vacuum"), BESIDE), (COVERED, BESIDE_COVER)):
        which = [k for k, region in enumerate(regions, 1) if region.kind in kinds]
        if which:
            distance = distance_transform_edt(~np.isin(region_map, which))
            beside |= distance[at[:, 1], at[:, 0]] < reach * a_px
    return beside


def _blank(image: FloatArray) -> NDArray[np.bool_]:
    """Rows and columns (H, W) of pixels that all have the same value: lost lines, padding."""
    rows, cols = np.ptp(image, axis=1) == 0, np.ptp(image, axis=0) == 0
    return np.asarray(rows[:, None] | cols[None, :])


def _left(band_px: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(np.broadcast_to(np.arange(shape[1]) < band_px, shape))


def _refined(
    grid: Grid, columns: Columns, sites: Honeycomb, brightness: Brightness, region_map: NDArray[np.uint8],
    jitter_px: float,
) -> tuple[Grid, Honeycomb, Brightness]:
    """Lattice and sites through the columns of the final fit, outside the regions."""
    fractional = sites.ij + grid.basis[sites.third]
    at = np.rint(sites.xy_px).astype(int)
    use = (sites.column >= 0) & (region_map[at[:, 1], at[:, 0]] == 0)
    there = sites.column[use]
    on = replace(columns, xy_px=columns.xy_px[there], intensity=columns.intensity[there], cov=columns.cov[there])
    better = refit(grid, on, fractional[use], jitter_px)
    xy = better.positions(fractional)
    seen = (np.abs(xy - (np.array(grid.shape_px[::-1]) - 1) / 2) < np.array(grid.shape_px[::-1]) / 2 - 0.01).all(1)
    kept = Honeycomb(sites.ij[seen], sites.third[seen], xy[seen], sites.column[seen], sites.inside[seen])
    return better, kept, Brightness(brightness.value[seen], brightness.sigma[seen])
