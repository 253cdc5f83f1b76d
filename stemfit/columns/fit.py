"""Joint fit of all columns of an image: positions, intensities, shared profile and background together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemfit.columns.fitter import KNOTS_COARSE, Fitter, Seeder
from stemfit.columns.normal import spline
from stemfit.columns.part import typical_part
from stemfit.columns.resample import averaged, averaged_profile, coarse, resampled, sharpened
from stemfit.columns.types import Columns, Profile

FloatArray = NDArray[np.float64]

WORKING = torch.float32
"""Precision of images and steps; what they add up to (positions, intensities) is kept in double precision."""

FINE_SIGMA_PX = 1.25
"""Images are averaged down to about this core width before fitting: finer sampling costs time and gains a
percent (1 / 24 sigma^2)."""

SAMPLE = 600
"""Seeds in the part of a large image that is fitted first, so that the rest starts with a profile and its noise."""


def refine(
    image: FloatArray, seeds_px: FloatArray, sigma_px: float, *, fixed: NDArray[np.bool_] | None = None,
    prune: bool = True, start: Columns | None = None, more: Seeder | None = None,
    trusted: NDArray[np.bool_] | None = None, rim: tuple[FloatArray, FloatArray] | None = None,
    calibrate: bool = True, device: str = "cpu",
) -> Columns:
    """Fit columns to an image by weighted Gauss-Newton on all unknowns at once.

    Parameters
    ----------
    image : (H, W) array
    seeds_px : (N, 2) array
        Starting positions (x, y).
    sigma_px : float
        Starting width of the core.
    fixed : (N,) bool array, optional
        Columns whose position is held (their intensity is free).
    prune : bool
        Drop columns that are not significant or collapse onto a brighter one. Without it the order of the seeds is
        kept.
    start : Columns, optional
        Earlier fit whose profile, noise and background to start from; the seeds begin with its columns.
    more : callable, optional
        Finds further seeds (x, y) in a residual image, given the width of the core; asked once, before the last stage.
    trusted : (H, W) bool array, optional
        Pixels that show the crystal: the others hardly count, and say nothing about noise, profile and background.
    rim : ((R, 2) array, (R,) array), optional
        Positions and intensities of columns outside the image whose light reaches into it, for a fit with `start`:
        only their common brightness is fitted. They come last in what is returned.
    calibrate : bool
        Go on to the minimum, and scale the error bars by the response to simulated noise. Without, at half the cost,
        positions are short of it by less than their errors, those hold for a known profile (about a fifth too small),
        and a few columns stay that the image does not need.
    device : str
        Of torch.
    """
    known = start.profile if start is not None else _sampled(image, seeds_px, sigma_px, device)
    width = sigma_px if known is None else known.width_px
    bins = coarsening(width)
    small = averaged(image, bins) if bins > 1 else image
    seeds = (seeds_px + 0.5) / bins - 0.5
    held = np.zeros(len(seeds), dtype=bool) if fixed is None else fixed
    every = np.ones(small.shape, dtype=bool)
    if trusted is not None:
        every = averaged(trusted.astype(float), bins) > 0.5
    fitter = Fitter(_tensor(small, device), every, prune, more, calibrate)
    with one_thread():
        if start is not None:
            outside = (np.empty((0, 2)), np.empty(0)) if rim is None else rim
            outside = ((outside[0] + 0.5) / bins - 0.5, outside[1] / bins**2)
            fitted = fitter.again(seeds, coarse(start, bins), held, outside)
        else:
            fitted = fitter.fresh(seeds, width / bins, held, None if known is None else averaged_profile(known, bins))
    return fitted if bins == 1 else resampled(fitted, image, float(bins), trusted)


def _sampled(image: FloatArray, seeds_px: FloatArray, sigma_px: float, device: str) -> Profile | None:
    """Profile of the columns in a part of a large image; None where the image is small, or no part is like the rest."""
    if len(seeds_px) < 2 * SAMPLE:
        return None
    window = typical_part(image, seeds_px, sigma_px, SAMPLE)
    if window is None:
        return None
    bins = coarsening(sigma_px)
    part = averaged(image[window], bins)
    seeds = (seeds_px - [window[1].start, window[0].start] + 0.5) / bins - 0.5
    inside = ((seeds > -0.5) & (seeds < np.array(part.shape[::-1]) - 0.5)).all(1)
    fitter = Fitter(_tensor(part, device), np.ones(part.shape, dtype=bool), True, None, False)
    basis = spline((part.shape[0], part.shape[1]), KNOTS_COARSE * sigma_px / bins, sigma_px / bins)
    with one_thread():
        found = fitter.begun(seeds[inside], sigma_px / bins, np.zeros(int(inside.sum()), dtype=bool), basis, None)
    return sharpened(found.profile, bins) if len(found.xy) > SAMPLE / 4 else None


def _tensor(image: FloatArray, device: str) -> Tensor:
    return torch.from_numpy(np.array(image, dtype=np.float64)).to(device, WORKING)


def coarsening(width_px: float) -> int:
    """How many pixels a side are averaged before columns of this core width are fitted."""
    return max(1, int(width_px / FINE_SIGMA_PX))


@contextmanager
def one_thread() -> Iterator[None]:
    """Many small steps: on a busy machine torch's threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
