"""Dirt that is too thin to hide the crystal: its grain adds to the light of columns, and looks like some of its own.

Hollows hold no column. How much more their light differs, at the width of a column, than it does in the clean crystal
says what the dirt adds to the error of the columns around them; in the clean crystal it is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from stemfit.columns import Columns
from stemfit.columns.stamps import render
from stemfit.lattice import Brightness, Lattice, Region, SiteMap

FloatArray = NDArray[np.float64]

AROUND = 31
"""Hollows that are asked about the place in their middle: within some three lattice constants."""

SHARE = 0.8
"""Of these hollows, those whose light is least tell their rms: up to a fifth may hold atoms of defects, not dirt."""

CHANCE = 2 * np.sqrt(SHARE * (1 - SHARE) / AROUND) / 0.449
"""By how much that rms exceeds the one of the clean crystal by chance in one of forty places: two standard errors of a
quantile (1.28 sigma is that of 80 %, where the density times 1.28 is 0.449)."""

EXPLAINED = 6.0
"""Errors of the grain up to which it explains a column off all sites, as for `OFF_LATTICE_SIGMAS` of `find`."""


def with_grain(
    columns: Columns, brightness: Brightness, sites: SiteMap, lattice: Lattice, image: FloatArray,
    where: tuple[Sequence[Region], NDArray[np.uint8]],
) -> tuple[Columns, Brightness, frozenset[int]]:
    """Columns and brightness of sites with what the grain of dirt around them adds to their errors.

    And which columns off all sites it explains.

    Parameters
    ----------
    columns, brightness, sites, lattice
        As measured; of a honeycomb.
    image : (H, W) array
        As the columns were fitted to it.
    where : regions and their map
        Hollows of the analysed crystal and of what is masked for dirt are asked.
    """
    hollows = _hollows(sites, lattice, *where)
    if len(hollows) < 2 * AROUND:
        return columns, brightness, frozenset()
    x, y = np.rint(hollows).astype(int).T
    light = _at_width(image, columns, sites)[y, x]
    tree = cKDTree(hollows)

    def rms(xy_px: FloatArray) -> FloatArray:
        near = np.asarray(tree.query(xy_px, k=AROUND)[1])
        return np.asarray(np.quantile(np.abs(light[near]), SHARE, axis=1) / 1.2816)

    usual = (1 + CHANCE) * float(np.median(rms(hollows)))

    def added(xy_px: FloatArray) -> FloatArray:
        return np.asarray(np.maximum(rms(xy_px) ** 2 - usual**2, 0.0)) if len(xy_px) else np.zeros(0)

    cov, more = columns.cov.copy(), added(columns.xy_px)
    cov[:, 2, 2] += more
    off = np.ones(len(columns), dtype=bool)
    off[sites.column[sites.column >= 0]] = False
    explained = frozenset(np.flatnonzero(off & (columns.intensity < EXPLAINED * np.sqrt(more))).tolist())
    sigma = np.sqrt(brightness.sigma**2 + added(sites.xy_px))
    return replace(columns, cov=cov), brightness._replace(sigma=sigma), explained


def _hollows(
    sites: SiteMap, lattice: Lattice, regions: Sequence[Region], region_map: NDArray[np.uint8]
) -> FloatArray:
    """Middles (N, 2) of hexagons in the image, not at its edge."""
    cells = np.unique(sites.ij, axis=0)
    at = lattice.positions(cells + (1.0 - lattice.basis[1])) if len(cells) else np.zeros((0, 2))
    h, w = region_map.shape
    at = at[((at > lattice.a_px_iso) & (at < np.array([w, h]) - 1 - lattice.a_px_iso)).all(1)]
    asked = [0, *(k for k, region in enumerate(regions, 1) if region.kind == "contamination")]
    x, y = np.rint(at).astype(int).T
    return np.asarray(at[np.isin(region_map[y, x], asked)])


def _at_width(image: FloatArray, columns: Columns, sites: SiteMap) -> FloatArray:
    """Integrated intensity (H, W) of what looks like a column, beyond those on sites, at every place.

    A difference of Gaussians: of a column of width s and unit intensity it leaves 1 / (4 pi s^2) - 1 / (10 pi s^2).
    """
    stray = np.ones(len(columns), dtype=bool)
    stray[sites.column[sites.column >= 0]] = False
    rest = image - columns.model
    if stray.any():
        rest = rest + render(columns.xy_px[stray], columns.intensity[stray], columns.profile, rest.shape)
    width = columns.profile.width_px
    fine, coarse = (gaussian_filter(rest, k * width, truncate=3.0) for k in (1, 2))
    return np.asarray((fine - coarse) * 20 * np.pi * width**2 / 3)
