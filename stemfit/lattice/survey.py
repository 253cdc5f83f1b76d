"""All that an image says about its crystal before the crystal has a name."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    brightness, columns, sites = measure(image, columns, sites, grid, region_map, device)
    grid, sites, brightness = _refined(grid, columns, sites, brightness, region_map, rows.jitter_px)
    return Survey(image, rows, columns, grid, sites, brightness, regions, region_map)


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
