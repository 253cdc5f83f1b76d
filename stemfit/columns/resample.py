"""The same columns on coarser or finer pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from stemfit.columns.noise import measure
from stemfit.columns.stamps import render
from stemfit.columns.types import Columns, Profile

FloatArray = NDArray[np.float64]


def averaged(image: FloatArray, bins: int) -> FloatArray:
    """Mean of `bins` x `bins` pixels; what is left over at the right and the bottom is dropped."""
    h, w = (n // bins for n in image.shape)
    return np.asarray(image[: h * bins, : w * bins].reshape(h, bins, w, bins).mean((1, 3)))


def coarse(columns: Columns, bins: int) -> Columns:
    """The columns on pixels that are means of `bins` x `bins`."""
    scale = np.array([1 / bins, 1 / bins, 1 / bins**2])
    noise = columns.noise
    share = min(1.0, noise.pixels_per_sample / bins**2)  # of the variance that is left in a mean
    return replace(
        columns, xy_px=(columns.xy_px + 0.5) / bins - 0.5, intensity=columns.intensity / bins**2,
        cov=columns.cov * np.outer(scale, scale), profile=averaged_profile(columns.profile, bins),
        background=averaged(columns.background, bins), model=averaged(columns.model, bins), profile_cov=None,
        noise=replace(
            noise, gain=noise.gain * share, read_sigma=noise.read_sigma * float(np.sqrt(share)),
            pixels_per_sample=noise.pixels_per_sample / (bins**2 * share),
        ),
    )


def resampled(
    columns: Columns, image: FloatArray, factor: float, trusted: NDArray[np.bool_] | None = None
) -> Columns:
    """The columns on the pixels of `image`, `factor` (1 or more) times smaller, with model and noise there."""
    xy = (columns.xy_px + 0.5) * factor - 0.5
    scale = np.array([factor, factor, factor**2])
    old = columns.profile
    profile = sharpened(old, factor)
    intensity = columns.intensity * factor**2
    rows, cols = (linear(m, n, factor) for m, n in zip(columns.background.shape, image.shape, strict=True))
    background = np.asarray(rows @ (cols @ columns.background.T).T)
    model = background + render(xy, intensity, profile, image.shape)
    noise = measure(image, model, 3 * len(xy), margin_px=round(3 * profile.width_px), trusted=trusted)
    shared = np.array([factor**2, factor**2, factor**2, 1.0])
    profile_cov = None if columns.profile_cov is None else columns.profile_cov * np.outer(shared, shared)
    cov = columns.cov * np.outer(scale, scale)
    return Columns(xy, intensity, cov, profile, background, model, noise, profile_cov)


def averaged_profile(profile: Profile, n: float) -> Profile:
    """Profile on pixels that are means of n x n old ones: averaging adds the variance of n points, (n^2 - 1)/12."""
    cov = (profile.core_cov_px2 + (n**2 - 1) / 12 * np.eye(2)) / n**2
    return Profile(cov, profile.tail_sigma_px / n, profile.tail_fraction)


def sharpened(profile: Profile, n: float) -> Profile:
    """Inverse of `averaged_profile`."""
    cov = profile.core_cov_px2 * n**2 - (n**2 - 1) / 12 * np.eye(2)
    return Profile(cov, profile.tail_sigma_px * n, profile.tail_fraction)


def linear(old: int, new: int, factor: float) -> csr_array:
    """Matrix (new, old) that interpolates between pixel centres; constant beyond the first and the last one."""
    at = np.clip((np.arange(new) + 0.5) / factor - 0.5, 0.0, old - 1.0)
    low = np.minimum(at.astype(int), max(old - 2, 0))
    share = at - low
    high = np.minimum(low + 1, old - 1)
    entries = (np.concatenate([1 - share, share]), (np.tile(np.arange(new), 2), np.concatenate([low, high])))
    return csr_array(coo_array(entries, shape=(new, old)))
