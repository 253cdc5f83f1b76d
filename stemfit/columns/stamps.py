"""Sums of column-shaped stamps over an image, and their adjoint.

The image of one column is ``K * G``: G a Gaussian core of unit integral, sampled on pixel centres in a small
window, and ``K = (1 - f) delta + f T`` with T a round Gaussian that widens the core into the tail. K acts on the whole
image at once, so tails of any range cost one filter per image instead of a larger window per column.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from stemfit.columns.types import Profile

FloatArray = NDArray[np.float64]

WINDOW_SIGMAS = 4.0
"""Half width of the window in units of the larger core sigma: the truncated share of the integral is below 1e-3."""


class Stamps(NamedTuple):
    """Windows of N columns: flat pixel index in the padded image, core value, gradient with respect to the position."""

    at: NDArray[np.int64]  # (N, K*K)
    core: FloatArray  # (N, K*K)
    grad_x: FloatArray  # (N, K*K)
    grad_y: FloatArray  # (N, K*K)
    pad: int
    shape: tuple[int, int]


def half_window(profile: Profile) -> int:
    """Half width of a column's window, px."""
    return int(np.ceil(WINDOW_SIGMAS * np.sqrt(np.linalg.eigvalsh(profile.core_cov_px2)[-1]))) + 1


def stamp(xy_px: FloatArray, profile: Profile, shape: tuple[int, int]) -> Stamps:
    """Evaluate the core of every column on its own window.

    Columns may lie outside the image by up to the half window.
    """
    half = half_window(profile)
    pad = 2 * half + 1
    centre = np.clip(np.rint(xy_px).astype(np.int64), [-half, -half], [shape[1] + half, shape[0] + half])
    offset = np.arange(-half, half + 1)
    dx = (centre[:, 0, None] + offset - xy_px[:, 0, None])[:, None, :]  # (N, 1, K)
    dy = (centre[:, 1, None] + offset - xy_px[:, 1, None])[:, :, None]  # (N, K, 1)
    p = np.linalg.inv(profile.core_cov_px2)
    gx, gy = p[0, 0] * dx + p[0, 1] * dy, p[0, 1] * dx + p[1, 1] * dy  # (N, K, K)
    core = np.exp(-0.5 * (gx * dx + gy * dy)) / (2 * np.pi * np.sqrt(np.linalg.det(profile.core_cov_px2)))
    row = centre[:, 1, None] + offset + pad
    col = centre[:, 0, None] + offset + pad
    index = row[:, :, None] * (shape[1] + 2 * pad) + col[:, None, :]
    n = len(xy_px)
    size = len(offset) ** 2
    flat = [values.reshape(n, size) for values in (core, core * gx, core * gy)]
    return Stamps(index.reshape(n, size), flat[0], flat[1], flat[2], pad, shape)


def scatter(stamps: Stamps, weights: FloatArray) -> FloatArray:
    """Sum windows `weights` (N, K*K) into an image (H, W)."""
    h, w = stamps.shape[0] + 2 * stamps.pad, stamps.shape[1] + 2 * stamps.pad
    flat = np.bincount(stamps.at.ravel(), weights=weights.ravel(), minlength=h * w).reshape(h, w)
    return np.asarray(flat[stamps.pad : h - stamps.pad, stamps.pad : w - stamps.pad], dtype=np.float64)


def gather(stamps: Stamps, image: FloatArray) -> FloatArray:
    """Cut every column's window out of an image (H, W): (N, K*K), zero outside."""
    return np.pad(image, stamps.pad).ravel()[stamps.at]


def blur(core_image: FloatArray, profile: Profile) -> FloatArray:
    """Apply K: turn a sum of cores into a sum of full profiles. K is symmetric, hence its own adjoint."""
    if profile.tail_fraction == 0.0:
        return core_image
    extra = np.sqrt(max(profile.tail_sigma_px**2 - profile.width_px**2, 1e-6))
    tail = gaussian_filter(core_image, extra, mode="constant", truncate=4.0)
    return (1.0 - profile.tail_fraction) * core_image + profile.tail_fraction * tail


def render(xy_px: FloatArray, intensity: FloatArray, profile: Profile, shape: tuple[int, int]) -> FloatArray:
    """Image (H, W) of columns without background."""
    stamps = stamp(xy_px, profile, shape)
    return blur(scatter(stamps, intensity[:, None] * stamps.core), profile)


def drawn(xy_px: FloatArray, profile: Profile, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Full profile of every column on a whole small patch, with its gradient: three arrays (N, h, w).

    For patches of some ten columns this is cheaper than windows and one blur per derivative.
    """
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    dx = x - xy_px[:, 0, None, None]
    dy = y - xy_px[:, 1, None, None]
    tail_cov = profile.core_cov_px2 + max(profile.tail_sigma_px**2 - profile.width_px**2, 0.0) * np.eye(2)
    total = [np.zeros(dx.shape) for _ in range(3)]
    for share, cov in ((1 - profile.tail_fraction, profile.core_cov_px2), (profile.tail_fraction, tail_cov)):
        if share == 0.0:
            continue
        p = np.linalg.inv(cov)
        gx, gy = p[0, 0] * dx + p[0, 1] * dy, p[0, 1] * dx + p[1, 1] * dy
        value = share * np.exp(-0.5 * (gx * dx + gy * dy)) / (2 * np.pi * np.sqrt(np.linalg.det(cov)))
        for array, term in zip(total, (value, value * gx, value * gy), strict=True):
            array += term
    return total[0], total[1], total[2]
