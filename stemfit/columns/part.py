"""A part of a large image that is like the rest of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from stemfit.columns.resample import averaged

FloatArray = NDArray[np.float64]

USUAL = (0.4, 2.5)
"""Height of a seed over the typical one: those outside are noise, holes, adatoms, debris."""


def typical_part(
    image: FloatArray, seeds_px: FloatArray, sigma_px: float, count: int
) -> tuple[slice, slice] | None:
    """Rows and columns of the window, about `count` seeds large, with the most seeds of usual height.

    Parameters
    ----------
    image : (H, W) array
    seeds_px : (N, 2) array
    sigma_px : float
        Width of a column.
    count : int

    Returns
    -------
    (slice, slice) or None
        None where no window has half as many usual seeds as it should.
    """
    bins = max(1, int(0.7 * sigma_px))
    small = averaged(image, bins)
    relief = gaussian_filter(small, 0.7 * sigma_px / bins) - gaussian_filter(small, 3.0 * sigma_px / bins)
    h, w = image.shape
    side = int(np.sqrt(h * w * count / len(seeds_px)))
    rows, cols = min(side, h), min(side, w)
    at = np.clip(np.rint(seeds_px).astype(int), 0, [w - 1, h - 1])
    where = np.minimum(at // bins, np.array(small.shape[::-1]) - 1)
    height = relief[where[:, 1], where[:, 0]]
    typical = float(np.median(height[height >= np.median(height)]))
    usual = (height > USUAL[0] * typical) & (height < USUAL[1] * typical)
    best, window = 0, None
    for top in np.unique(np.linspace(0, h - rows, max(2, 2 * h // rows)).astype(int)):
        for left in np.unique(np.linspace(0, w - cols, max(2, 2 * w // cols)).astype(int)):
            inside = usual & ((at >= [left, top]) & (at < [left + cols, top + rows])).all(1)
            if inside.sum() > best:
                best, window = int(inside.sum()), (slice(top, top + rows), slice(left, left + cols))
    return window if best > count / 4 else None
