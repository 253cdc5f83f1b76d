"""The same columns on coarser or finer pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from stemfit.columns.noise import measure
from stemfit.columns.stamps import render
from stemfit.columns.types import Columns, Profile

FloatArray = NDArray[np.float64]


def averaged(image: FloatArray, bins: int) -> FloatArray:
    """Mean of `bins` x `bins` pixels; what is left over at the right and the bottom is dropped."""
    h, w = (n // bins for n in image.shape)
    return np.asarray(image[: h * bins, : w * bins].reshape(h, bins, w, bins).mean((1, 3)))


def resampled(
    columns: Columns, image: FloatArray, factor: float, trusted: NDArray[np.bool_] | None = None
) -> Columns:
    """The columns on the pixels of `image`, which are `factor` times smaller, with model and noise there."""
    xy = (columns.xy_px + 0.5) * factor - 0.5
    scale = np.array([factor, factor, factor**2])
    old = columns.profile
    profile = averaged_profile(old, 1 / factor) if factor < 1 else _sharpened(old, factor)
    intensity = columns.intensity * factor**2
    rows, cols = ((np.arange(n) + 0.5) / factor - 0.5 for n in image.shape)
    background = map_coordinates(
        columns.background, np.meshgrid(rows, cols, indexing="ij"), order=3 if factor > 1 else 1, mode="nearest"
    )
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


def _sharpened(profile: Profile, n: float) -> Profile:
    """Inverse of `averaged_profile`."""
    cov = profile.core_cov_px2 * n**2 - (n**2 - 1) / 12 * np.eye(2)
    return Profile(cov, profile.tail_sigma_px * n, profile.tail_fraction)
