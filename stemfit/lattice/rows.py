"""Scan-line jitter: the offset of every row along the fast scan direction, and the image without it.

A column is crossed by some ten rows. What they tell apart within it cannot be a displacement of the column, and what
they have in common with all other columns on the same rows cannot be one of the lattice: each row is compared as a
whole with a drawing of the columns on their lattice sites (for the problem, and other ways, see Braidy et al.,
Ultramicroscopy 118, 67 (2012), and Jones & Nellist, Microsc. Microanal. 19, 1050 (2013)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median_filter
from scipy.spatial import cKDTree

from stemfit.columns import Columns
from stemfit.columns.stamps import render
from stemfit.lattice.cell import Grid
from stemfit.lattice.sites import Honeycomb, honeycomb
from stemfit.lattice.types import EDGE

FloatArray = NDArray[np.float64]

EVIDENCE = 6.0
"""Jitter is believed when the rows scatter by this many standard errors more than noise explains."""

CHI2_MEDIAN = 0.4549
"""Median of the square of a standard normal variable."""

PASSES = 3
"""Linearisations: the first leaves the square of the offset over the column width, the third nothing."""

MOST = 0.2
"""Largest offset in lattice constants: beyond it a row may have moved to the next columns."""

OUTLYING, ON_SAME_ROWS = 4.0, 15
"""Spreads off its site from which a column is displaced, not measured there, once in 3,000 columns; columns along y
that share their rows: their median is what those do."""

LEAST = 0.2
"""Share of a row that must be left beside defects: with less, its error would be more than twice as large."""

PAD_PX = 16
"""Mirrored pixels beside a row before it is shifted in Fourier space, which thinks it periodic."""


@dataclass(frozen=True)
class RowOffsets:
    """What every row must be moved by.

    Attributes
    ----------
    offset_px : (H,) array
        Image row r shows at x + offset_px[r] what an unjittered scan shows at x.
    sigma_px : (H,) array
        Standard error.
    jitter_px : float
        rms of the true offsets, as far as rows differ from their neighbours; 0 if none is seen.
    width_px : float
        Core width of the columns.
    """

    offset_px: FloatArray
    sigma_px: FloatArray
    jitter_px: float
    width_px: float

    def straightened(self, image: FloatArray) -> FloatArray:
        """The image (H, W) as an unjittered scan would show it."""
        return shifted(image, -self.offset_px) if self.jitter_px > 0 else image

    def jittered(self, image: FloatArray) -> FloatArray:
        """Inverse of `straightened`."""
        return shifted(image, self.offset_px) if self.jitter_px > 0 else image

    def in_image(self, xy_px: FloatArray) -> FloatArray:
        """Where columns (N, 2) of the straightened image lie in the image: moved by the mean of their rows."""
        return np.column_stack([xy_px[:, 0] + self._mean_at(xy_px[:, 1]), xy_px[:, 1]])

    def straight(self, xy_px: FloatArray) -> FloatArray:
        """Inverse of `in_image`."""
        return np.column_stack([xy_px[:, 0] - self._mean_at(xy_px[:, 1]), xy_px[:, 1]])

    def _mean_at(self, y_px: FloatArray) -> FloatArray:
        """Mean offset of the rows that a column at y is seen in."""
        seen = gaussian_filter1d(self.offset_px, self.width_px, mode="nearest")
        return np.asarray(np.interp(y_px, np.arange(len(seen)), seen))


def shifted(image: FloatArray, by_px: FloatArray) -> FloatArray:
    """Rows moved to the right by fractions of a pixel, exactly for band-limited rows; white noise stays white."""
    padded = np.pad(image, ((0, 0), (PAD_PX, PAD_PX)), mode="reflect")
    frequency = np.fft.rfftfreq(padded.shape[1])
    waves = np.exp(-2j * np.pi * by_px[:, None] * frequency)
    moved = np.fft.irfft(np.fft.rfft(padded, axis=1) * waves, padded.shape[1], axis=1)
    return np.asarray(moved[:, PAD_PX:-PAD_PX])


def row_offsets(image: FloatArray, columns: Columns, grid: Grid, region_map: NDArray[np.uint8]) -> RowOffsets:
    """Measure the jitter of the fast scan (along x).

    Parameters
    ----------
    image : (H, W) array
    columns : Columns
        A first fit.
    grid : Grid
        Its lattice.
    region_map : (H, W) array
        0 where the crystal is.

    Returns
    -------
    RowOffsets
        Shrunk by what is noise in them; all zero where there is no evidence for jitter.
    """
    h = len(image)
    weight = np.where(region_map == 0, 1 / columns.noise.variance(columns.model), 0.0)
    weight[:, : PAD_PX // 2] = weight[:, -(PAD_PX // 2) :] = 0.0
    none = RowOffsets(np.zeros(h), np.full(h, np.inf), 0.0, columns.profile.width_px)
    # Columns follow what neighbouring rows have in common; where rows differ, the residual shows it.
    apart, error = _against(image, columns.model, weight)
    if not _evident(apart, error):
        return none
    sites = honeycomb(grid, columns, region_map)
    clear = np.where(_beside_defects(columns, sites, grid), 0.0, weight)
    enough = clear.sum(1) > LEAST * weight.sum(1)
    weight = np.where(enough[:, None], clear, weight)
    straight = _on_lattice(columns, sites, grid.shape_px)
    offset = np.zeros(h)
    for _ in range(PASSES):
        step, error = _against(image, shifted(straight, offset), weight)
        offset = np.clip(offset + step, -MOST * grid.a_px_iso, MOST * grid.a_px_iso)
    # The first fit took jitter for noise; now the noise is what is left.
    left = weight * (image - shifted(straight, offset)) ** 2
    error = error * np.sqrt(min(float(np.median(left[weight > 0])) / CHI2_MEDIAN, 1.0))
    known = np.isfinite(error)
    jitter = _true_variance(offset[known], error[known])
    if jitter == 0.0:
        return none
    shrunk = np.where(known, offset * jitter / (jitter + np.where(known, error, 1.0) ** 2), 0.0)
    return RowOffsets(shrunk, error, float(np.sqrt(jitter)), columns.profile.width_px)


ASTRAY, STRAYING = 0.2, 0.25
"""Distance from the nearest site, in lattice constants, at which a column is beside the lattice; share of a strip's
columns from which the strip is not read."""


def unsettled_px(columns: Columns, grid: Grid) -> tuple[int, float]:
    """Width of the band at the start of the lines where columns are beside the lattice, and their share there.

    After it has flown back the beam is late, by more than a smooth distortion follows. The band is made of strips one
    lattice constant wide, from the left edge on, each with more such columns than the image has elsewhere.
    """
    a = grid.a_px_iso
    sites = honeycomb(grid, columns, np.zeros(grid.shape_px, dtype=np.uint8))
    bright = columns.intensity > 0.3 * np.median(columns.intensity)
    xy = columns.xy_px[bright]
    astray = np.asarray(cKDTree(sites.xy_px).query(xy)[0]) > ASTRAY * a
    usual, strip = float(astray.mean()), np.maximum(xy[:, 0] // a, 0).astype(int)
    width = 0
    while 2 * width * a < grid.shape_px[1]:
        here = astray[strip == width]
        if here.sum() < 4 or here.mean() < max(STRAYING, 3 * usual):
            break
        width += 1
    return round(width * a), float(astray[strip < width].mean()) if width else 0.0


def _against(image: FloatArray, model: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """By how much each row (H,) is to the right of the model, and its standard error (infinite without columns)."""
    slope = np.gradient(model, axis=1)
    information = (weight * slope**2).sum(1)
    shown = information > 0.1 * np.median(information)
    safe = np.where(shown, information, 1.0)
    offset = np.where(shown, -(weight * slope * (image - model)).sum(1) / safe, 0.0)
    return offset, np.where(shown, 1 / np.sqrt(safe), np.inf)


def _evident(offset: FloatArray, error: FloatArray) -> bool:
    """Whether rows scatter beyond their errors, single ones not counted."""
    z = np.clip(offset / error, -3, 3)[np.isfinite(error)]
    if len(z) < 8:
        return False
    return float(np.mean(z**2)) > 1 + EVIDENCE * float(np.sqrt(2 / len(z)))


def _true_variance(offset: FloatArray, error: FloatArray) -> float:
    """Variance of the offsets beyond their errors; single torn rows do not count."""
    if len(offset) < 8:
        return 0.0
    centred = offset - np.median(offset)
    spread = 1.48 * float(np.median(np.abs(centred)))
    return max(float(np.mean(np.clip(centred, -4 * spread, 4 * spread) ** 2 - error**2)), 0.0)


def _beside_defects(columns: Columns, sites: Honeycomb, grid: Grid) -> NDArray[np.bool_]:
    """Pixels (H, W) that show columns off the lattice: a row that crosses a defect must not be moved to undo it.

    These are columns of no site and sites without a column with all that is bound to them, and columns off their site
    by `OUTLYING` times what is usual for columns on the same rows.
    """
    on, alone = sites.column >= 0, np.ones(len(columns), dtype=bool)
    alone[sites.column[on]] = False
    inner = [np.minimum(xy, [grid.shape_px[1] - 1, grid.shape_px[0] - 1] - xy).min(1) > EDGE * grid.a_px_iso
             for xy in (columns.xy_px, sites.xy_px)]  # fmt: skip
    off = columns.xy_px[sites.column[on]] - sites.xy_px[on]
    order = np.argsort(sites.xy_px[on, 1])
    off[order] -= np.column_stack([median_filter(axis, ON_SAME_ROWS, mode="nearest") for axis in off[order].T])
    usual = 1.48 * float(np.median(np.abs(off))) if len(off) else 0.0
    moved = np.hypot(*off.T) > OUTLYING * usual
    bond = grid.cell.tightness * grid.a_px_iso / float(np.sqrt(3))
    beside = np.zeros(grid.shape_px, dtype=bool)
    _mark(beside, np.vstack([columns.xy_px[alone & inner[0]], sites.xy_px[~on & inner[1]]]), 1.5 * bond)
    _mark(beside, sites.xy_px[on][moved], 0.5 * bond)
    return beside


def _mark(pixels: NDArray[np.bool_], places: FloatArray, reach: float) -> None:
    """Set all within reach of places (K, 2)."""
    half = int(np.ceil(reach))
    for x, y in places:
        rows, cols = (np.arange(max(round(c) - half, 0), min(round(c) + half + 1, n))
                      for c, n in zip((y, x), pixels.shape, strict=True))  # fmt: skip
        if len(rows) and len(cols):
            part = pixels[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
            part |= (rows[:, None] - y) ** 2 + (cols - x) ** 2 <= reach**2


def _on_lattice(columns: Columns, sites: Honeycomb, shape: tuple[int, int]) -> FloatArray:
    """Model (H, W) with every column that is on a site in the middle of it."""
    on = sites.column >= 0
    xy = columns.xy_px.copy()
    xy[sites.column[on]] = sites.xy_px[on]
    return columns.background + render(xy, columns.intensity, columns.profile, shape)
