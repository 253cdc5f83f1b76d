"""Sums of column-shaped stamps over an image, and their adjoint, in torch.

The image of one column is ``K * G``: G a Gaussian core of unit integral, sampled on pixel centres in a small
window, and ``K = (1 - f) delta + f T`` with T a round Gaussian that widens the core into the tail. K acts on the whole
image at once (one Fourier filter), so tails of any range cost no larger windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

from stemfit.columns.types import Profile

FloatArray = NDArray[np.float64]

WINDOW_SIGMAS = 4.0
"""Half width of the window in units of the larger core sigma: the truncated share of the integral is below 1e-3."""

TAIL_SIGMAS = 4.0
"""The same for the tail: how far from the image a column can still be seen in it."""


class Stamps(NamedTuple):
    """Windows of N columns: flat pixel index in the padded image, core value, gradient with respect to the position."""

    at: Tensor  # (N, K*K) int64
    core: Tensor  # (N, K*K)
    grad_x: Tensor  # (N, K*K)
    grad_y: Tensor  # (N, K*K)
    pad: int
    shape: tuple[int, int]


def half_window(profile: Profile) -> int:
    """Half width of a column's window, px."""
    return int(np.ceil(WINDOW_SIGMAS * np.sqrt(np.linalg.eigvalsh(profile.core_cov_px2)[-1]))) + 1


def canvas_pad(profile: Profile) -> int:
    """Margin around the image on which columns are drawn: one whose tail reaches the image has its core on it, px."""
    reach = TAIL_SIGMAS * profile.tail_sigma_px if profile.tail_fraction > 0 else 0.0
    return 2 * half_window(profile) + 1 + int(np.ceil(reach))


def stamp(xy_px: Tensor, profile: Profile, shape: tuple[int, int]) -> Stamps:
    """Evaluate the core of every column on its own window.

    Columns may lie outside the image by as much as their tail reaches; farther ones are drawn at that distance.
    """
    half, pad = half_window(profile), canvas_pad(profile)
    out = pad - half - 1
    top = torch.tensor([shape[1] - 1 + out, shape[0] - 1 + out], device=xy_px.device)
    centre = torch.minimum(torch.round(xy_px).long().clamp(min=-out), top)  # (N, 2)
    offset = torch.arange(-half, half + 1, device=xy_px.device)
    near = centre - xy_px  # (N, 2)
    dx = (near[:, 0, None] + offset)[:, None, :]  # (N, 1, K)
    dy = (near[:, 1, None] + offset)[:, :, None]  # (N, K, 1)
    p = np.linalg.inv(profile.core_cov_px2)
    gx, gy = float(p[0, 0]) * dx + float(p[0, 1]) * dy, float(p[0, 1]) * dx + float(p[1, 1]) * dy  # (N, K, K)
    core = torch.exp(-0.5 * (gx * dx + gy * dy)) / float(2 * np.pi * np.sqrt(np.linalg.det(profile.core_cov_px2)))
    row, col = centre[:, 1, None] + offset + pad, centre[:, 0, None] + offset + pad
    index = row[:, :, None] * (shape[1] + 2 * pad) + col[:, None, :]
    flat = [values.flatten(1) for values in (index, core, core * gx, core * gy)]
    return Stamps(flat[0], flat[1], flat[2], flat[3], pad, shape)


@dataclass(frozen=True)
class Brush:
    """Draws weighted windows through K onto images, and reads images through K in windows (the adjoint).

    Attributes
    ----------
    stamps : Stamps
    transfer : Tensor or None
        Fourier transform of K on the canvas; None without a tail.
    canvas : (int, int)
    """

    stamps: Stamps
    transfer: Tensor | None
    canvas: tuple[int, int]

    def draw(self, weights: Tensor, transfer: Tensor | None = None) -> Tensor:
        """Sum windows `weights` (..., N, K*K) into images (..., H, W)."""
        many = weights.reshape(int(np.prod(weights.shape[:-2])), weights.shape[-2] * weights.shape[-1])
        (h, w), at = self.canvas, self.stamps.at.reshape(-1)
        flat = torch.zeros(len(many), h * w, dtype=weights.dtype, device=weights.device)
        for image, values in zip(flat, many, strict=True):
            image.index_add_(0, at, values)
        drawn = self._filtered(flat.reshape(-1, h, w), self.transfer if transfer is None else transfer)
        pad, (height, width) = self.stamps.pad, self.stamps.shape
        return drawn[:, pad : pad + height, pad : pad + width].reshape(*weights.shape[:-2], height, width)

    def read(self, image: Tensor) -> Tensor:
        """Windows (N, K*K) of an image (H, W) seen through K: transpose of `draw`."""
        padded = torch.nn.functional.pad(image, (self.stamps.pad,) * 4)
        return self._filtered(padded[None], self.transfer)[0].reshape(-1)[self.stamps.at]

    def _filtered(self, images: Tensor, transfer: Tensor | None) -> Tensor:
        if transfer is None:
            return images
        size = (next_fast_len(self.canvas[0], real=True), next_fast_len(self.canvas[1], real=True))
        filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(images, s=size) * transfer, s=size)
        return filtered[:, : self.canvas[0], : self.canvas[1]].contiguous()


def brush(stamps: Stamps, profile: Profile) -> Brush:
    """Everything needed to draw with a profile."""
    canvas = (stamps.shape[0] + 2 * stamps.pad, stamps.shape[1] + 2 * stamps.pad)
    if profile.tail_fraction == 0.0:
        return Brush(stamps, None, canvas)
    tail = tail_transfer(profile, canvas, stamps.core)
    return Brush(stamps, 1 + profile.tail_fraction * (tail - 1), canvas)


def tail_transfer(profile: Profile, canvas: tuple[int, int], like: Tensor) -> Tensor:
    """Fourier transform (h, w // 2 + 1) of T on the canvas, of the type of `like`."""
    extra = max(profile.tail_sigma_px**2 - profile.width_px**2, 0.0)
    h, w = (next_fast_len(n, real=True) for n in canvas)
    fy = torch.fft.fftfreq(h, dtype=like.dtype, device=like.device)[:, None]
    fx = torch.fft.rfftfreq(w, dtype=like.dtype, device=like.device)[None, :]
    return torch.exp(-2 * np.pi**2 * extra * (fy**2 + fx**2))


def render(xy_px: FloatArray, intensity: FloatArray, profile: Profile, shape: tuple[int, int]) -> FloatArray:
    """Image (H, W) of columns without background."""
    stamps = stamp(torch.from_numpy(np.asarray(xy_px, dtype=np.float64).reshape(-1, 2)), profile, shape)
    weights = torch.from_numpy(np.asarray(intensity, dtype=np.float64))[:, None] * stamps.core
    return np.asarray(brush(stamps, profile).draw(weights).numpy())


def drawn(xy_px: FloatArray, profile: Profile, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Full profile of every column on a whole small patch, with its gradient: three arrays (N, h, w).

    For patches of some ten columns this is cheaper than windows and one filter per derivative.
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
