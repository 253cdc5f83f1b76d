"""A given crystal of any cell, fitted to the image: orientation, scan, columns on its sites."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.columns import Columns, refine
from stemfit.columns.fitter import SIGNIFICANCE
from stemfit.columns.resample import averaged, averaged_profile
from stemfit.errors import NotAnalysable
from stemfit.hosts import ProjectedHost
from stemfit.lattice.cell import (
    COARSE_SIGMA_PX,
    Grid,
    believable,
    cell_coordinates,
    enlarged,
    from_planes,
    regress,
)
from stemfit.lattice.factors import Expected, orders_of, overlay
from stemfit.lattice.motif import Match, alike, central, field_amplitudes, matches
from stemfit.lattice.phase import PlaneField, plane_field
from stemfit.lattice.sites import GHOST, match, reach_px, sites_near
from stemfit.lattice.spots import polished
from stemfit.lattice.types import EDGE, iso
from stemfit.optics.scattering import amplitude

FloatArray = NDArray[np.float64]

LEAST_EXPLAINED = 0.75
"""Share of the lattice's contrast below which it is another crystal's: with all columns of one type twice or half as
bright as tabulated the right one still explains 0.85, while wrong ones reached 0.56."""

UNDECIDED = 3.0
"""Natural logarithm of the odds below which two ways to lie are not told apart: 20 to 1."""

LEAST_CELLS = 4
"""Cells a side, along the longer vector, with fewer of which orders of neighbouring reflections run together."""

LEAST_COLUMNS = 0.3
"""Share of the sites on which a column must be found for the columns, not the planes, to say where the lattice is."""


@dataclass(frozen=True)
class PatternFit:
    """A crystal in an image.

    Attributes
    ----------
    host : ProjectedHost
        Turned over where the image shows it from below.
    grid : Grid
    columns : Columns
        Refined from the sites, so that columns that touch are not taken for one.
    polarity : int
        -1 if turned over.
    explained : float
        Share of the lattice's contrast, at most 1.
    stretch : float
        Anisotropy of the scan.
    power : float
        Contrast of all that repeats, image units squared.
    undecided : int
        Other ways to lie that the image does not rule out.
    """

    host: ProjectedHost
    grid: Grid
    columns: Columns
    polarity: int
    explained: float
    stretch: float
    power: float
    undecided: int


def fit_pattern(
    image: FloatArray, columns: Columns, host: ProjectedHost, voltage_kV: float | None = None,
    detector_mrad: tuple[float, float] | None = None, device: str = "cpu",
) -> PatternFit:
    """Find a crystal in an image and put columns on its sites.

    Parameters
    ----------
    image : (H, W) array
    columns : Columns
        As found without a lattice.
    host : ProjectedHost
    voltage_kV, detector_mrad
        None where unknown.
    device : str
        Of torch.

    Raises
    ------
    NotAnalysable
        If the crystal's pattern is not in the image.
    """
    table = np.array([amplitude(c, voltage_kV, detector_mrad) for c in host.columns])
    brightness = Expected(table[:, 0], table[:, 1])
    bins = coarse_bins(columns)
    small = averaged(image, bins) if bins > 1 else image
    width = averaged_profile(columns.profile, bins).width_px
    ways, power = matches(small, host, brightness, width)
    if not ways or ways[0].misfit(power) > 1 - LEAST_EXPLAINED:
        best = f"the best fit explains {100 * (1 - ways[0].misfit(power)):.0f} %" if ways else "no spots fit its cell"
        raise NotAnalysable(
            f"no lattice of {host.name}: {best} of what repeats in the image ({100 * LEAST_EXPLAINED:.0f} % needed)",
            remedy="state another --host, or use a larger or sharper image of it",
        )
    way, undecided = _chosen(ways, power)
    grid = _by_planes(small, way, brightness, width)
    if bins > 1:
        grid = enlarged(grid, bins, (image.shape[0], image.shape[1]))
    _check_size(grid)
    fitted = _on_sites(image, columns, grid, way.blur * columns.profile.width_px, device)
    grid = believable(by_columns(fitted, grid))
    explained = 1 - way.misfit(power)
    return PatternFit(way.host, grid, fitted, -1 if way.turned_over else 1, explained, way.stretch, power, undecided)


def coarse_bins(columns: Columns) -> int:
    """Pixels a side that are averaged before the lattice is read."""
    return max(1, int(columns.profile.width_px / COARSE_SIGMA_PX))


def _chosen(ways: list[Match], power: float) -> tuple[Match, int]:
    """The best, of equivalent ones that with the least rotation; and how many others are not ruled out."""
    best = ways[0]
    open_ = [w for w in ways if best.evidence(power) - w.evidence(power) < UNDECIDED]
    same = [w for w in open_ if w is best or alike(best, w)]
    level = [w for w in same if best.evidence(power) - w.evidence(power) < 0.5 or w is best]
    return min(level, key=lambda w: (w.turned_over, _rotation(w))), len(open_) - len(same)


def _rotation(way: Match) -> float:
    """Direction of a, degrees above +x as displayed, [0, 360)."""
    a = np.linalg.inv(way.g).T[0]
    return float(np.degrees(np.arctan2(-a[1], a[0])) % 360)


def _check_size(grid: Grid) -> None:
    longest = max(float(np.linalg.norm(v)) for v in (grid.a_px, grid.b_px))
    cells = min(grid.shape_px) / longest
    if cells < LEAST_CELLS:
        raise NotAnalysable(
            f"no lattice: {cells:.1f} cells a side, {LEAST_CELLS} are needed", remedy="use an image of a larger area"
        )


# -- planes --------------------------------------------------------------------------------------------------------


def _by_planes(image: FloatArray, way: Match, brightness: Expected, width_px: float) -> Grid:
    """Lattice from the phase of the planes alone."""
    orders = orders_of(way.g, width_px)
    strong = _strong_pair(image, way, orders)
    k = polished(image, strong @ way.g, np.array([[1, 0], [0, 1], [1, 1]]))
    g = np.linalg.solve(strong.astype(float), k)
    a, b = np.linalg.inv(g).T
    field = _cell_field(plane_field(image, k, 1.5 * iso(a, b)), strong, g)
    weight = np.where(field.strength > 0.5, 1.0, 0.0)
    seen = field_amplitudes(image, cell_coordinates(field), weight, orders, 2 * iso(a, b))
    shift = overlay(seen, orders, way.host, brightness, g, way.blur * width_px).shift
    xy, frac, w = from_planes(field, shift, a, b, (image.shape[0], image.shape[1]))
    grid = regress(xy, frac, w, a, b, (image.shape[0], image.shape[1]), field.strength, np.zeros(3), way.host.cell)
    independent = max(4.0, image.size / (4 * np.pi * (1.5 * iso(a, b)) ** 2))  # neighbouring planes are one measurement
    return replace(grid, covariance=grid.covariance * max(1.0, len(xy) / independent))


def _strong_pair(image: FloatArray, way: Match, orders: NDArray[np.int64]) -> NDArray[np.int64]:
    """Two orders (2, 2) that are strong in the image, as is their sum."""
    middle = central(image)
    data = np.abs(
        field_amplitudes(
            middle, np.einsum("kx,xhw->khw", way.g, np.mgrid[: middle.shape[0], : middle.shape[1]][::-1].astype(float)),
            np.outer(np.hanning(middle.shape[0]), np.hanning(middle.shape[1])), orders, min(middle.shape) / 10,
        )
    )
    size = {(int(s * h), int(s * k)): float(v) for (h, k), v in zip(orders, data, strict=True) for s in (1, -1)}
    strongest = [(int(h), int(k)) for h, k in orders[np.argsort(-data)[:8]]]
    best, top = None, 0.0
    for p, q in combinations(strongest, 2):
        for sign in (1, -1):
            r = (sign * q[0], sign * q[1])
            if p[0] * r[1] == p[1] * r[0]:
                continue
            value = size[p] * size[r] * size.get((p[0] + r[0], p[1] + r[1]), 0.0)
            if value > top:
                best, top = np.array([p, r]), value
    if best is None:
        raise NotAnalysable(
            "no lattice: no three strong reflections belong together", remedy="use a larger or sharper image"
        )
    return best


def _cell_field(planes: PlaneField, strong: NDArray[np.int64], g: FloatArray) -> PlaneField:
    """Indices along a and b from those along two strong reflections."""
    back = np.linalg.inv(strong.astype(float))
    return PlaneField(g, np.einsum("ij,jhw->ihw", back, planes.shift), planes.strength)


# -- columns -------------------------------------------------------------------------------------------------------


def _on_sites(image: FloatArray, columns: Columns, grid: Grid, width_px: float, device: str) -> Columns:
    """Columns fitted from all sites, and from what was found beside them.

    The first fit holds them in place: columns that touch would share their light as they like.
    """
    _, which, xy = sites_near(grid, 0.0)
    away = np.asarray(cKDTree(xy).query(columns.xy_px)[0])
    beside = away > max(reach_px(grid), 1.5 * width_px, 0.3 * grid.a_px_iso)  # half a bond
    seeds = np.vstack([xy, columns.xy_px[beside]])
    held = refine(
        image, seeds, width_px, fixed=np.ones(len(seeds), dtype=bool), prune=False, calibrate=False, device=device
    )
    there = held.intensity > SIGNIFICANCE * np.sqrt(held.cov[:, 2, 2])
    for k in range(len(grid.basis)):
        own = np.flatnonzero(which == k)
        there[own] &= held.intensity[own] > GHOST * np.median(held.intensity[own])
    kept = replace(held, xy_px=held.xy_px[there], intensity=held.intensity[there], cov=held.cov[there])
    return refine(image, kept.xy_px, width_px, prune=False, start=kept, calibrate=False, device=device)


def by_columns(columns: Columns, grid: Grid) -> Grid:
    """Lattice from the columns on its sites, where there are enough of them."""
    ij, which, xy = sites_near(grid, 0.0)
    column = match(xy, columns.xy_px, reach_px(grid))
    h, w = grid.shape_px
    at = np.clip(np.rint(xy).astype(int), 0, [w - 1, h - 1])
    margin = EDGE * grid.a_px_iso  # what lies beyond the edge pulls at columns that touch
    clear = ((xy >= margin) & (xy <= [w - 1 - margin, h - 1 - margin])).all(1)
    good = clear & (column >= 0) & (grid.strength[at[:, 1], at[:, 0]] > 0.5)
    if good.sum() < max(12, LEAST_COLUMNS * len(xy)):
        return grid
    own = column[good]
    sigma2 = np.maximum(columns.cov[own, 0, 0] + columns.cov[own, 1, 1], 1e-6)
    weight = 1.0 / (sigma2 + float(np.median(sigma2)))
    frac = ij[good] + grid.basis[which[good]]
    return regress(
        columns.xy_px[own], frac, weight, grid.a_px, grid.b_px, grid.shape_px, grid.strength, grid.contrast, grid.cell
    )
