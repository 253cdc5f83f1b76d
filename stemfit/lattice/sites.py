"""Every crystal site of the image, which observed column sits on it, and what its brightness is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.columns import Columns, refine
from stemfit.lattice.cell import THIRDS, Grid

FloatArray = NDArray[np.float64]

REACH = 0.25
"""A column belongs to a site closer than this, in lattice constants; half a bond is 0.29."""


EDGE = 0.6
"""Sites closer to the image edge, in lattice constants, are not judged: a neighbour beyond the edge (0.58 away) sheds
light on them that no fit can see."""


class Honeycomb(NamedTuple):
    """Sites before their sublattices have names.

    Attributes
    ----------
    ij : (S, 2) int array
        Cell indices from the grid's origin.
    third : (S,) int array
        0 for P, 1 for Q.
    xy_px : (S, 2) array
    column : (S,) int array
        Index of the observed column there, -1 if there is none.
    inside : (S,) bool array
        Far enough from the image edge and outside every region.
    """

    ij: NDArray[np.int64]
    third: NDArray[np.int64]
    xy_px: FloatArray
    column: NDArray[np.int64]
    inside: NDArray[np.bool_]


class Brightness(NamedTuple):
    """Integrated intensity (S,) of every site with its standard error, columns that are not there included."""

    value: FloatArray
    sigma: FloatArray


def honeycomb(grid: Grid, columns: Columns, region_map: NDArray[np.uint8]) -> Honeycomb:
    """List all sites inside the image and match them with the observed columns."""
    h, w = grid.shape_px
    reach = int(1.5 * max(h, w) / grid.a_px_iso) + 3
    centre = np.linalg.solve(np.column_stack([grid.a_px, grid.b_px]), np.array([w / 2, h / 2]) - grid.origin_px)
    i, j = np.meshgrid(*(np.arange(-reach, reach + 1) + round(float(c)) for c in centre), indexing="ij")
    ij = np.column_stack([i.ravel(), j.ravel()])
    near = np.abs(grid.origin_px + ij @ np.stack([grid.a_px, grid.b_px]) - [w / 2, h / 2]) < [0.7 * w, 0.7 * h]
    ij = ij[near.all(1)]
    third = np.repeat([0, 1], len(ij))
    ij = np.vstack([ij, ij])
    xy = grid.positions(ij + THIRDS[third])
    seen = ((xy >= 0) & (xy <= [w - 1, h - 1])).all(1)
    ij, third, xy = ij[seen], third[seen], xy[seen]
    margin = EDGE * grid.a_px_iso
    clear = ((xy >= margin) & (xy <= [w - 1 - margin, h - 1 - margin])).all(1)
    at = np.rint(xy).astype(int)
    inside = clear & (region_map[at[:, 1], at[:, 0]] == 0)
    return Honeycomb(ij, third, xy, _match(xy, columns.xy_px, REACH * grid.a_px_iso), inside)


def _match(sites: FloatArray, columns: FloatArray, reach: float) -> NDArray[np.int64]:
    """Nearest column of every site within reach; a column serves the nearest site only."""
    found = np.full(len(sites), -1, dtype=np.int64)
    if len(columns) == 0:
        return found
    distance, site = (np.asarray(a) for a in cKDTree(sites).query(columns))
    order = np.argsort(-distance)  # nearer columns write last and win
    good = order[distance[order] < reach]
    found[site[good]] = good
    return found


def measure(image: FloatArray, columns: Columns, sites: Honeycomb) -> tuple[Brightness, Columns]:
    """Fit all columns again with one held in place at every site that shows none.

    Returns
    -------
    Brightness
        Of every site, unbiased: an empty site scatters about zero.
    Columns
        The observed columns of the same fit (positions free, same order), with the model of the whole image.
    """
    empty = np.flatnonzero(sites.column < 0)
    n = len(columns)
    seeds = np.vstack([columns.xy_px, sites.xy_px[empty]])
    fixed = np.arange(len(seeds)) >= n
    fitted = refine(image, seeds, columns.profile.width_px, fixed=fixed, prune=False, start=columns)
    which = sites.column.copy()
    which[empty] = n + np.arange(len(empty))
    observed = Columns(
        fitted.xy_px[:n], fitted.intensity[:n], fitted.cov[:n], fitted.profile, fitted.background, fitted.model,
        fitted.noise,
    )
    return Brightness(fitted.intensity[which], np.sqrt(fitted.cov[which, 2, 2])), observed
