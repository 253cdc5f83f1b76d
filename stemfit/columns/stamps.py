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


RENDERED_TOGETHER = 256
"""Columns whose windows are held at once where no derivatives are needed."""


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
    return int(np.ceil(WINDOW_SIGMAS * np.sqrt(np.linalg.eigvalsh(profile.core_cov_px2)[-1]) + 0.5))


def canvas_pad(profile: Profile) -> int:
    """Margin around the image on which columns are drawn: one whose tail reaches the image has its core on it, px."""
    reach = TAIL_SIGMAS * profile.tail_sigma_px if profile.tail_fraction > 0 else 0.0
    return 2 * half_window(profile) + 1 + int(np.ceil(reach))


def stamp(xy_px: Tensor, profile: Profile, shape: tuple[int, int]) -> Stamps:
    """Evaluate the core of every column on its own window.

    Columns may lie outside the image by as much as their tail reaches; farther ones are drawn at that distance.
    """
    at, core, dx, dy = _windows(xy_px, profile, shape)
    (xx, xy), (_, yy) = np.linalg.inv(profile.core_cov_px2).tolist()
    grad_x, grad_y = ((a * dx)[:, None, :] + (b * dy)[:, :, None] for a, b in ((xx, xy), (xy, yy)))
    flat = [values.flatten(1) for values in (at, core, grad_x.mul_(core), grad_y.mul_(core))]
    return Stamps(flat[0], flat[1], flat[2], flat[3], canvas_pad(profile), shape)


def _windows(xy_px: Tensor, profile: Profile, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Flat index on the canvas and core (N, K, K), and what to add to x and y of the column to reach a pixel (N, K)."""
    half, pad = half_window(profile), canvas_pad(profile)
    out = pad - half - 1
    top = torch.tensor([shape[1] - 1 + out, shape[0] - 1 + out], device=xy_px.device)
    centre = torch.minimum(torch.round(xy_px).long().clamp(min=-out), top)  # (N, 2)
    offset = torch.arange(-half, half + 1, device=xy_px.device)
    near = centre - xy_px  # (N, 2)
    dx, dy = near[:, :1] + offset, near[:, 1:] + offset  # (N, K)
    p = np.linalg.inv(profile.core_cov_px2)
    (xx, xy), (_, yy) = p.tolist()
    height = float(np.sqrt(np.linalg.det(p)) / (2 * np.pi))
    core = (height * torch.exp(-0.5 * yy * dy**2))[:, :, None] * torch.exp(-0.5 * xx * dx**2)[:, None, :]
    if xy != 0.0:
        core *= (dy[:, :, None] * (-xy * dx)[:, None, :]).exp_()
    row, col = centre[:, 1:] + (offset + pad), centre[:, :1] + (offset + pad)
    return (row * (shape[1] + 2 * pad))[:, :, None] + col[:, None, :], core, dx, dy


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
            image.scatter_add_(0, at, values)
        drawn = filtered(flat.reshape(-1, h, w), self.transfer if transfer is None else transfer)
        pad, (height, width) = self.stamps.pad, self.stamps.shape
        return drawn[:, pad : pad + height, pad : pad + width].reshape(*weights.shape[:-2], height, width)

    def read(self, image: Tensor) -> Tensor:
        """Windows (N, K*K) of an image (H, W) seen through K: transpose of `draw`."""
        padded = torch.nn.functional.pad(image, (self.stamps.pad,) * 4)
        seen = filtered(padded[None], self.transfer).reshape(-1)
        return seen.index_select(0, self.stamps.at.reshape(-1)).reshape(self.stamps.at.shape)


def filtered(images: Tensor, transfer: Tensor | None) -> Tensor:
    """Images (B, H, W) on a canvas, convolved with K."""
    if transfer is None:
        return images
    h, w = images.shape[1:]
    size = (next_fast_len(h, real=True), next_fast_len(w, real=True))
    wide: Tensor = torch.fft.irfft2(torch.fft.rfft2(images, s=size) * transfer, s=size)
    return wide[:, :h, :w]


def brush(stamps: Stamps, profile: Profile) -> Brush:
    """Everything needed to draw with a profile."""
    canvas = (stamps.shape[0] + 2 * stamps.pad, stamps.shape[1] + 2 * stamps.pad)
    return Brush(stamps, transfer(profile, canvas, stamps.core), canvas)


def transfer(profile: Profile, canvas: tuple[int, int], like: Tensor) -> Tensor | None:
    """Fourier transform of K on the canvas; None without a tail."""
    if profile.tail_fraction == 0.0:
        return None
    return 1 + profile.tail_fraction * (tail_transfer(profile, canvas, like) - 1)


def tail_transfer(profile: Profile, canvas: tuple[int, int], like: Tensor) -> Tensor:
    """Fourier transform (h, w // 2 + 1) of T on the canvas, of the type of `like`."""
    extra = max(profile.tail_sigma_px**2 - profile.width_px**2, 0.0)
    h, w = (next_fast_len(n, real=True) for n in canvas)
    fy = torch.fft.fftfreq(h, dtype=like.dtype, device=like.device)[:, None]
    fx = torch.fft.rfftfreq(w, dtype=like.dtype, device=like.device)[None, :]
    return torch.exp(-2 * np.pi**2 * extra * (fy**2 + fx**2))


def render(xy_px: FloatArray, intensity: FloatArray, profile: Profile, shape: tuple[int, int]) -> FloatArray:
    """Image (H, W) of columns without background."""
    pad = canvas_pad(profile)
    canvas = (shape[0] + 2 * pad, shape[1] + 2 * pad)
    flat = torch.zeros(canvas[0] * canvas[1], dtype=torch.float64)
    where, light = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in (xy_px, intensity))
    for part in torch.arange(len(light)).split(RENDERED_TOGETHER):
        at, core, _, _ = _windows(where[part].reshape(-1, 2), profile, shape)
        flat.scatter_add_(0, at.flatten(), core.mul_(light[part][:, None, None]).flatten())
    painted = filtered(flat.reshape(1, *canvas), transfer(profile, canvas, flat))[0]
    return np.asarray(painted[pad : pad + shape[0], pad : pad + shape[1]].numpy())


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
