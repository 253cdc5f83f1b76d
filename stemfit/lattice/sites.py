"""Every crystal site of the image, which observed column sits on it, and what its brightness is."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.columns import Columns, refine
from stemfit.columns.fit import coarsening
from stemfit.columns.fitter import SIGNIFICANCE
from stemfit.columns.resample import averaged, coarse, resampled, sharpened
from stemfit.columns.stamps import render
from stemfit.lattice.cell import Grid
from stemfit.lattice.types import EDGE, cells_near

FloatArray = NDArray[np.float64]

REACH = 0.25
"""A column belongs to a site closer than this, in lattice constants; half a bond is 0.29."""

ON_SITE = 3.75
"""Significance from which a column on a site counts as observed, in local standard errors, which are about a fifth too
small: one false one in some 700 empty sites."""

SEEN = 3.25
"""The same in the last fit, whose errors are the real ones: one false one in some 1,700 empty sites."""

GHOST = 0.15
"""Share of the typical brightness of a sublattice that tails of an uneven probe and displaced neighbours leave on an
empty site, and more; the least that is left of a column with one atom is a quarter."""

RIM = 1.2
"""Distance outside the image, in lattice constants, from which columns still shed light into it."""


HALF = 0.49
"""A site belongs to the image when it lies on one of its pixels, this far from the centre of the outermost ones at
most, px: so does a column that is found there."""


class Honeycomb(NamedTuple):
    """Sites before their sublattices have names.

    Attributes
    ----------
    ij : (S, 2) int array
        Cell indices from the grid's origin.
    third : (S,) int array
        0 for P, 1 for Q of a honeycomb; else the column of the cell.
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
    ij, third, xy = sites_near(grid, HALF)
    margin = EDGE * grid.a_px_iso
    clear = ((xy >= margin) & (xy <= [w - 1 - margin, h - 1 - margin])).all(1)
    at = np.rint(xy).astype(int)
    inside = clear & (region_map[at[:, 1], at[:, 0]] == 0)
    return Honeycomb(ij, third, xy, match(xy, columns.xy_px, reach_px(grid)), inside)


def reach_px(grid: Grid) -> float:
    """How far from a site its column may lie, px."""
    return REACH * grid.cell.tightness * grid.a_px_iso


def sites_near(grid: Grid, margin_px: float) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Cell indices, thirds and positions of all sites in the image and up to `margin_px` outside it."""
    ij = cells_near(grid.origin_px, grid.a_px, grid.b_px, grid.shape_px, margin_px)
    third = np.repeat(np.arange(len(grid.basis)), len(ij))
    ij = np.tile(ij, (len(grid.basis), 1))
    xy = grid.positions(ij + grid.basis[third])
    h, w = grid.shape_px
    seen = ((xy >= -margin_px) & (xy <= np.array([w - 1, h - 1]) + margin_px)).all(1)
    return ij[seen], third[seen], xy[seen]


def match(sites: FloatArray, columns: FloatArray, reach: float) -> NDArray[np.int64]:
    """Nearest column of every site within reach; a column serves the nearest site only."""
    found = np.full(len(sites), -1, dtype=np.int64)
    if len(columns) == 0:
        return found
    distance, site = (np.asarray(a) for a in cKDTree(sites).query(columns))
    order = np.argsort(-distance)  # nearer columns write last and win
    good = order[distance[order] < reach]
    found[site[good]] = good
    return found


def measure(
    image: FloatArray, columns: Columns, sites: Honeycomb, grid: Grid, region_map: NDArray[np.uint8],
    device: str = "cpu",
) -> tuple[Brightness, Columns, Honeycomb]:
    """Fit all columns again with one held in place at every site that shows none.

    Where that one turns out to be significant, it is freed and counts as observed: on a site less light is needed to
    believe in a column than anywhere in the image. One that only the last fit shows to be significant is observed at
    its site, with the error that it would have had if free. Columns just outside the image are drawn at their sites,
    so that their tails are not mistaken for something inside.

    Returns
    -------
    Brightness
        Of every site, unbiased: an empty site scatters about zero.
    Columns
        The observed columns of the same fit (positions free), with the model of the whole image; the light from beyond
        the edge belongs to the background.
    Honeycomb
        Sites with the columns that were found late.
    """
    columns, sites = _without_ghosts(columns, sites)
    bins, clear = coarsening(columns.profile.width_px), region_map == 0
    rim = _rim(grid, columns, sites, region_map)
    small = averaged(image, bins), averaged(clear.astype(float), bins) > 0.5
    near = sites._replace(xy_px=(sites.xy_px + 0.5) / bins - 0.5)
    fitted, which, late = _sites_fitted(*small, coarse(columns, bins), rim.coarse(bins), near, device)
    outside = np.arange(len(fitted)) >= len(fitted) - len(rim.third)
    light = fitted.intensity[outside] * bins**2
    beyond = render(rim.xy_px, light, sharpened(fitted.profile, bins), grid.shape_px)
    fitted, observed = _subset(fitted, np.flatnonzero(~outside)), len(columns) + late
    fitted = resampled(fitted, image - beyond, float(bins), clear) if bins > 1 else fitted
    brightness = Brightness(fitted.intensity[which], np.sqrt(fitted.cov[which, 2, 2]))
    least = np.maximum(SEEN * brightness.sigma, GHOST * _typical(columns, sites)[sites.third])
    there = (which < observed) | (brightness.value > least)
    kept = np.append(np.arange(observed), which[there & (which >= observed)])
    number = np.full(len(fitted), -1)
    number[kept] = np.arange(len(kept))
    model = fitted.model + beyond if bins > 1 else fitted.model  # which has drawn it already
    shown, sites = _subset(fitted, kept), sites._replace(column=np.where(there, number[which], -1))
    beyond += _left(shown, sites)
    seen, sites = _credible(shown, sites)
    return brightness, replace(seen, background=seen.background + beyond, model=model), sites


def _sites_fitted(
    image: FloatArray, clear: NDArray[np.bool_], columns: Columns, rim: _Rim, sites: Honeycomb, device: str
) -> tuple[Columns, NDArray[np.int64], int]:
    """Columns of a fit with one on every site, those of the rim last; which is on which site; how many are new."""
    empty, n = np.flatnonzero(sites.column < 0), len(columns)
    first = _forced(image, columns, sites.xy_px[empty], rim.bright(_typical(columns, sites)), clear, device, False)
    found = slice(n, n + len(empty))
    least = GHOST * _typical(columns, sites)[sites.third[empty]]
    late = first.intensity[found] > np.maximum(ON_SITE * np.sqrt(first.cov[found, 2, 2]), least)
    which = sites.column.copy()
    which[empty[late]] = n + np.arange(late.sum())
    start = _subset(first, np.append(np.arange(n), n + np.flatnonzero(late)))
    empty = empty[~late]
    which[empty] = len(start) + np.arange(len(empty))
    light = rim.xy_px, first.intensity[len(first) - len(rim.third) :]
    return _forced(image, start, sites.xy_px[empty], light, clear, device, True), which, int(late.sum())


def _forced(
    image: FloatArray, columns: Columns, empty_px: FloatArray, rim: tuple[FloatArray, FloatArray],
    trusted: NDArray[np.bool_], device: str, calibrate: bool,
) -> Columns:
    """Fit with columns held at `empty_px`, after the free ones."""
    seeds = np.vstack([columns.xy_px, empty_px])
    fixed = np.arange(len(seeds)) >= len(columns)
    return refine(
        image, seeds, columns.profile.width_px, fixed=fixed, prune=False, start=columns, trusted=trusted, rim=rim,
        calibrate=calibrate, device=device,
    )


def _subset(columns: Columns, order: NDArray[np.int64]) -> Columns:
    return replace(
        columns, xy_px=columns.xy_px[order], intensity=columns.intensity[order], cov=columns.cov[order]
    )


class _Rim(NamedTuple):
    """Columns outside the image: position (R, 2) px and third (R,)."""

    xy_px: FloatArray
    third: NDArray[np.int64]

    def coarse(self, bins: int) -> _Rim:
        """On pixels `bins` times as large."""
        return self._replace(xy_px=(self.xy_px + 0.5) / bins - 0.5)

    def bright(self, typical: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Positions and intensities, each as bright as is typical of its third."""
        return self.xy_px, typical[self.third]


def _rim(grid: Grid, columns: Columns, sites: Honeycomb, region_map: NDArray[np.uint8]) -> _Rim:
    """Columns from which light may reach the image.

    Beside an area without crystal none are assumed, nor where a column was found that is the image of one.
    """
    h, w = grid.shape_px
    _, third, xy = sites_near(grid, RIM * grid.a_px_iso)
    out = ~((xy >= -HALF) & (xy <= [w - 1 + HALF, h - 1 + HALF])).all(1)
    at = np.clip(np.rint(xy).astype(int), 0, [w - 1, h - 1])
    out &= region_map[at[:, 1], at[:, 0]] == 0
    if len(columns):
        out &= np.asarray(cKDTree(columns.xy_px).query(xy)[0]) > reach_px(grid)
    return _Rim(xy[out], third[out])


def _typical(columns: Columns, sites: Honeycomb) -> FloatArray:
    """Median intensity (K,) of the columns of each third, or column of the cell."""
    own = [sites.column[(sites.third == k) & (sites.column >= 0)] for k in range(int(sites.third.max(initial=1)) + 1)]
    return np.array([float(np.median(columns.intensity[o])) if len(o) else 0.0 for o in own])


def _without_ghosts(columns: Columns, sites: Honeycomb) -> tuple[Columns, Honeycomb]:
    """Take away columns on sites that are too faint for an atom: what neighbours shed, significant at a high dose."""
    occupied = np.flatnonzero(sites.column >= 0)
    on_site = sites.column[occupied]
    faint = columns.intensity[on_site] < GHOST * _typical(columns, sites)[sites.third[occupied]]
    keep = np.ones(len(columns), dtype=bool)
    keep[on_site[faint]] = False
    return _kept(columns, sites, keep)


def _left(columns: Columns, sites: Honeycomb) -> FloatArray:
    """Light (H, W) of columns of no site that left the image: it is seen, and comes from beyond the edge."""
    gone = ~_within(columns)
    gone[sites.column[sites.column >= 0]] = False
    return render(columns.xy_px[gone], columns.intensity[gone], columns.profile, columns.background.shape)


def _within(columns: Columns) -> NDArray[np.bool_]:
    h, w = columns.background.shape
    return np.asarray(((columns.xy_px > -0.5) & (columns.xy_px < [w - 0.5, h - 0.5])).all(1))


def _credible(columns: Columns, sites: Honeycomb) -> tuple[Columns, Honeycomb]:
    """Take away columns beside the lattice that left the image or lost their light to the others."""
    bright = columns.intensity > SIGNIFICANCE * np.sqrt(columns.cov[:, 2, 2])
    keep = _within(columns) & bright
    keep[sites.column[sites.column >= 0]] = True
    return _kept(columns, sites, keep)


def _kept(columns: Columns, sites: Honeycomb, keep: NDArray[np.bool_]) -> tuple[Columns, Honeycomb]:
    number = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)
    return _subset(columns, np.flatnonzero(keep)), sites._replace(column=number[sites.column])
