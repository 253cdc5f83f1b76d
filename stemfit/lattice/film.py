"""Dirt that lets the lattice shine through: light between the columns that is brighter and grainier than the crystal's.

Only the hollows are looked at. No column stands there, so vacancies, substitutions and jitter hardly reach them, and
what the columns on sites shed is taken away; a film fills them, and never evenly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_closing,
    binary_dilation,
    binary_fill_holes,
    distance_transform_edt,
    find_objects,
    gaussian_filter,
    label,
)
from scipy.spatial import cKDTree

from stemfit.columns import Columns
from stemfit.columns.resample import averaged, averaged_profile, linear
from stemfit.columns.stamps import render
from stemfit.lattice.cell import THIRDS, Grid
from stemfit.lattice.types import EDGE, interpolate

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

HOLLOW = 0.28
"""Radius about the middle of a hexagon, in lattice constants, that belongs to it: half the distance to the columns."""

ON_SITE = 0.25
"""Columns this near to a site belong to the crystal, in lattice constants."""

AROUND = (((1, 1), (0, 1), (1, 0)), ((0, 0), (1, 0), (0, 1)))
"""Cells of the three sites of each third about the hollow of cell (0, 0)."""

ALIKE = 0.6
"""Share of a column's usual brightness above which a moved column is still known: beside empty sites it scatters by a
tenth, and one of its two atoms alone would be at half."""

ROUGH = 0.15
"""Unevenness of the light, over the contrast of a column to the hollow (mean of both sublattices), from which a film is
in the way: half of what the loss of one chalcogen takes away (half of a column of 0.4 beside a metal of 1)."""

HEAVY, FEW, BESIDE_HEAVY = 2.5, 2, 0.8
"""Brightness of a heavy atom over that of the crystal's columns, more than any exchange on a site of a dichalcogenide
(2.8 at most, of molybdenum by tungsten, which is no light crystal's); how many others may be within `WINDOW`, as a film
would have many; distance up to which nothing is said of the hollows, in lattice constants: those about its site."""

NOISE = 4.0
"""Unevenness over the rms of it in the cleanest crystal, which is noise: passed by one place in 16,000."""

CLEANEST = 0.1
"""Share of the crystal that is believed to be clean."""

SHARE = 0.4
"""Share of the hollows' pixels that are uneven. One adatom spoils a thirtieth of a window; of a film whose rms
unevenness is only twice `ROUGH`, 60 % is."""

EXCESS = 0.3
"""Light between the columns, above that of the clean crystal and over the contrast of a column, from which something
lies there: all that the loss of one chalcogen takes away."""

RIM = 5.0
"""Cells within which a deposit ends. Illumination and detector drift over more."""

LEAST_CELLS = 6.0
"""A smaller deposit is an adatom or a few, which the search for defects names."""

THICK = 3.0
"""Light above the hollows' usual one, over the contrast of a column, beyond which more does not count: what is much
thicker than a film would be felt cells away."""

FINE, COARSE, WINDOW, SMOOTH = 0.12, 1.0, 1.5, 0.5
"""Standard deviations, in lattice constants: of the smoothing that is a column's own, of the slow light from which
unevenness is counted, of the window for the share, of the light that is compared with the crystal's."""

OUTLINE = 0.3
"""Standard deviation, in lattice constants, of the smoothing before the film's rim is drawn."""

RIM_LIGHT = 1 / 3
"""Share of the film's light at which its rim is drawn: rather too far out, by an eighth of a lattice constant."""


class Hollows(NamedTuple):
    """Light between the columns on averaged pixels.

    Attributes
    ----------
    light : (h, w) array
        Image without the light of the columns on sites.
    there : (h, w) array
        1 in the hollows, 0 elsewhere.
    a_px : float
        Lattice constant in these pixels.
    contrast : float
        Mean brightness of the columns' centres above the hollows.
    """

    light: FloatArray
    there: FloatArray
    a_px: float
    contrast: float

    def outside(self, areas: BoolArray) -> Hollows:
        """Without the hollows in these areas."""
        return self._replace(there=np.where(areas, 0.0, self.there))

    def mean(self, values: FloatArray, sigma: float) -> FloatArray:
        """Gaussian mean over the hollows only, `sigma` in lattice constants."""
        weight, top = (_blurred(v, sigma * self.a_px) for v in (self.there, values * self.there))
        return np.asarray(top / np.maximum(weight, 1e-6))


def _blurred(values: FloatArray, sigma_px: float) -> FloatArray:
    """Gaussian smoothing, on pixels of a quarter of sigma where those are coarser."""
    bins = max(1, int(sigma_px / 4))
    if bins == 1:
        return np.asarray(gaussian_filter(values, sigma_px, mode="nearest", truncate=3.0))
    h, w = (n + -n % bins for n in values.shape)
    whole = np.pad(values, ((0, h - values.shape[0]), (0, w - values.shape[1])), mode="edge")
    coarse = gaussian_filter(averaged(whole, bins), sigma_px / bins, mode="nearest", truncate=3.0)
    rows, cols = (linear(m, n, bins) for m, n in zip(coarse.shape, values.shape, strict=True))
    return np.asarray(rows @ (cols @ coarse.T).T)


def hollows(image: FloatArray, columns: Columns, grid: Grid, bins: int) -> Hollows:
    """Light between the columns.

    Parameters
    ----------
    image : (H, W) array
    columns : Columns
        Of the first fit.
    grid : Grid
    bins : int
        Pixels to average along each side first.
    """
    rest = averaged(image - columns.model + columns.background, bins)
    cell = cell_coordinates(grid, columns.xy_px)
    on_site = np.min([_distance(cell - t) for t in THIRDS[:2]], axis=0) < ON_SITE
    beside = ~on_site & ~_moved(cell, columns.intensity, on_site)
    if beside.any():
        profile = averaged_profile(columns.profile, bins)
        xy = (columns.xy_px[beside] + 0.5) / bins - 0.5
        rest += render(xy, columns.intensity[beside] / bins**2, profile, (rest.shape[0], rest.shape[1]))
    h, w = rest.shape
    y, x = np.mgrid[:h, :w]
    at = (np.column_stack([x.ravel(), y.ravel()]) + 0.5) * bins - 0.5
    there = (_distance(cell_coordinates(grid, at) - THIRDS[2]) < HOLLOW).reshape(h, w)
    # Light of columns beyond the edge is in no model.
    rim = EDGE * grid.a_px_iso
    there &= ((at >= rim) & (at <= np.array([image.shape[1], image.shape[0]]) - 1 - rim)).all(1).reshape(h, w)
    for x0, y0 in (columns.xy_px[_lone(columns, on_site, grid.a_px_iso)] + 0.5) / bins - 0.5:
        there &= np.hypot(x - x0, y - y0) > BESIDE_HEAVY * grid.a_px_iso / bins
    contrast = float(grid.contrast[:2].mean() - grid.contrast[2])
    return Hollows(rest, there.astype(np.float64), grid.a_px_iso / bins, contrast)


def _lone(columns: Columns, on_site: BoolArray, a_px: float) -> BoolArray:
    """Columns (N,) of single heavy atoms: what is left of their light, taken away with a common profile, is no film."""
    if not on_site.any():
        return on_site
    heavy = columns.intensity > HEAVY * float(np.percentile(columns.intensity[on_site], 75))
    if not heavy.any():
        return heavy
    near = cKDTree(columns.xy_px[heavy]).query_ball_point(columns.xy_px, WINDOW * a_px, return_length=True)
    return np.asarray(heavy & (near <= 1 + FEW))


def _moved(cell: FloatArray, intensity: FloatArray, on_site: BoolArray) -> BoolArray:
    """Columns (N,) that went from their sites to a hollow: no film, which fills hollows and empties no site.

    They are about as bright as the columns of one third, and of its three sites about the hollow two are empty or all.
    """
    cells, moved = np.rint(cell - THIRDS[2]).astype(int), np.zeros(len(cell), dtype=bool)
    within = ~on_site & (_distance(cell - THIRDS[2]) < HOLLOW)
    for third, around in zip(THIRDS[:2], AROUND, strict=True):
        own = on_site & (_distance(cell - third) < ON_SITE)
        if not own.any():
            continue
        there = {(int(i), int(j)) for i, j in np.rint(cell[own] - third)}
        share = intensity / np.median(intensity[own])
        alike = np.flatnonzero(within & (share > ALIKE) & (share < 1 / ALIKE))
        for k, (i, j) in zip(alike, cells[alike].tolist(), strict=True):
            moved[k] |= sum((i + p, j + q) not in there for p, q in around) >= 2
    return moved


def cell_coordinates(grid: Grid, xy_px: FloatArray) -> FloatArray:
    """Cell coordinates (N, 2) of positions; the distortion is read where it arrives, not where it starts."""
    base = xy_px - interpolate(grid.distortion_px, xy_px, grid.shape_px) - grid.origin_px
    return np.asarray(base @ np.linalg.inv(np.stack([grid.a_px, grid.b_px])))


def _distance(cell: FloatArray) -> FloatArray:
    """Distance to the nearest lattice point in lattice constants, right up to 0.5."""
    d = cell - np.rint(cell)
    return np.asarray(np.sqrt(d[:, 0] ** 2 + d[:, 1] ** 2 + d[:, 0] * d[:, 1]))


class Film(NamedTuple):
    """Dirt on averaged pixels, arrays (h, w).

    Attributes
    ----------
    grainy : bool array
        The light between the columns is uneven.
    bright : bool array
        There is more of it than the slow background has; even, or in too few cells to say.
    unevenness, excess : array
        Around every place, over the contrast of a column.
    """

    grainy: BoolArray
    bright: BoolArray
    unevenness: FloatArray
    excess: FloatArray


def film(seen: Hollows, crystal: BoolArray) -> Film:
    """Find dirt.

    Parameters
    ----------
    seen : Hollows
    crystal : (h, w) bool array
        Where the lattice is that of the analysed crystal, so that the hollows are where they are thought to be.
    """
    if not crystal.any() or seen.contrast <= 0:
        nothing, dark = np.zeros_like(crystal), np.zeros(crystal.shape)
        return Film(nothing, nothing, dark, dark)
    usual = float(np.median(seen.light[crystal & (seen.there > 0)])) if (crystal & (seen.there > 0)).any() else 0.0
    seen = seen._replace(light=np.minimum(seen.light, usual + THICK * seen.contrast))
    fine = seen.mean(seen.light, FINE)
    uneven = fine - seen.mean(fine, COARSE)
    rms = np.sqrt(seen.mean(uneven**2, WINDOW))
    clean = float(np.quantile(rms[crystal], CLEANEST))
    bad = np.abs(uneven) > max(ROUGH * seen.contrast, NOISE * clean)
    core = (seen.mean(bad.astype(np.float64), WINDOW) > SHARE) & crystal
    grainy = _outlined(seen, core, crystal)
    clear = crystal.copy()
    if grainy.any():  # its light is smoothed into the crystal beside it
        clear &= np.asarray(distance_transform_edt(~grainy)) > 2 * SMOOTH * seen.a_px
    excess = (seen.mean(seen.light, SMOOTH) - _slow(seen, clear)) / seen.contrast
    noise = NOISE * clean / seen.contrast * FINE / SMOOTH
    bright = _deposits(excess, clear, max(EXCESS, noise), seen)
    return Film(grainy, bright, rms / seen.contrast, excess)


def _slow(seen: Hollows, crystal: BoolArray) -> FloatArray:
    """Light between the columns of the clean crystal: a quadratic surface, below which nothing is left out."""
    h, w = seen.light.shape
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    use = np.flatnonzero(crystal & (seen.there > 0))
    use = use[:: max(1, len(use) // 20_000)]
    rows, values = design.reshape(-1, 6)[use], seen.light.ravel()[use]
    keep = np.ones(len(use), dtype=bool)
    surface = np.zeros(6)
    for _ in range(8):
        if keep.sum() < 60:
            break
        surface = np.asarray(np.linalg.lstsq(rows[keep], values[keep], rcond=None)[0])
        rest = values - rows @ surface
        keep = rest < 2 * 1.48 * float(np.median(np.abs(rest[keep])))
    return np.asarray(design @ surface)


def _deposits(excess: FloatArray, crystal: BoolArray, least: float, seen: Hollows) -> BoolArray:
    """Areas with more light between the columns than the slow background and the crystal beside, whose rim is not slow.

    What borders on a hole or a boundary only cannot be compared with anything. Where hollows are not looked at, the
    excess is that of those around: an area counts if more than half of its hollows show it.
    """
    a_px = seen.a_px
    labels = label((excess > least) & crystal)[0]
    clear = crystal & (labels == 0)
    slope = np.hypot(*np.gradient(excess)) * a_px
    found = np.zeros_like(crystal)
    reach = round(4 * a_px)
    for k, (rows, cols) in enumerate(find_objects(labels), start=1):
        box = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in (rows, cols))
        area = labels[box] == k
        cells = area.sum() / (0.5 * np.sqrt(3) * a_px**2)
        if cells < LEAST_CELLS or seen.there[box][area].sum() < 0.5 * cells * np.pi * HOLLOW**2 * a_px**2:
            continue
        ring = binary_dilation(area, iterations=reach) & ~binary_dilation(area, iterations=reach // 2) & clear[box]
        rim = area & binary_dilation(clear[box])
        if not rim.any() or not ring.any():
            continue
        high, low = float(np.median(excess[box][area])), float(np.median(excess[box][ring]))
        if high - low > least and float(np.median(slope[box][rim])) * RIM > high - low:
            found[box] |= area
    return found


def _outlined(seen: Hollows, core: BoolArray, crystal: BoolArray) -> BoolArray:
    """Each film out to where its light has fallen to a third above that of the crystal around it."""
    light = seen.mean(seen.light, OUTLINE)
    found = np.zeros_like(core)
    if not core.any():
        return found
    far = np.asarray(distance_transform_edt(~core)) / seen.a_px
    labels, count = label(core)
    near = np.asarray(distance_transform_edt(~core, return_indices=True)[1])
    owner = labels[tuple(near)]
    for k in range(1, count + 1):
        inside = labels == k
        around = (far > 2 * WINDOW) & (far < 4 * WINDOW) & crystal & (owner == k)
        if not around.any():
            around = (far > 2 * WINDOW) & crystal
        low = float(np.median(light[around])) if around.any() else 0.0
        top = float(np.quantile(light[inside], 0.9))
        high = float(np.median(light[inside & (light >= 0.5 * (low + top))]))  # of the film, not of what it outshines
        if high <= low:
            found |= inside
            continue
        lit = label((far < 2 * WINDOW) & (owner == k) & (light > low + RIM_LIGHT * (high - low)))[0]
        found |= np.isin(lit, np.unique(lit[inside & (lit > 0)]))
    radius = max(1, round(0.5 * seen.a_px))
    disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    margin = slice(2 * radius, -2 * radius)
    padded = np.pad(found, 2 * radius, mode="edge")
    return np.asarray(binary_fill_holes(binary_closing(padded, disc))[margin, margin])
