"""Images of columns through their spectrum: exact in position, shape of the probe and pixel size, batched, in torch.

A dark-field image ends at the spatial frequency 2 alpha / lambda. On a box that is wider than the image by the reach of
the probe it is therefore a short Fourier series, and what a column adds to it is a product of one factor along x and
one along y, also where every column has a width of its own:

    I(k) = H(k) * sum_n A_n exp(-2 pi^2 w_n^2 kx^2 - 2 pi i kx x_n) exp(-2 pi^2 w_n^2 ky^2 - 2 pi i ky y_n)

which is one product of matrices (Ky, N) and (N, Kx). The series is then summed where the pixels are, again by products
of matrices: that takes any pixel size and any part of the image, and for images of up to some 500 px it costs less than
an inverse FFT of the padded box would.

Positions are Angstrom in the frame of the image's plane, x right, y up; rows of the image go down. Device and precision
are those of the tensors; everything is differentiable in positions, amplitudes, widths and the transfer.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from stemfit.simulate.specimen import View

CHUNK = 1 << 24
"""Factors of columns that are held at once: 0.3 GB in double precision."""


class Frequencies(NamedTuple):
    """Where the spectrum of an image lives: the half plane kx >= 0 of a box's Fourier series.

    Attributes
    ----------
    kx : (Kx,) tensor
        1/A, from 0 up.
    ky : (Ky,) tensor
        1/A, ascending through 0.
    box_A : (x, y)
        Periods.
    """

    kx: Tensor
    ky: Tensor
    box_A: tuple[float, float]

    @property
    def plane(self) -> tuple[Tensor, Tensor]:
        """`kx` and `ky` of every frequency, (Ky, Kx) each."""
        ky, kx = torch.meshgrid(self.ky, self.kx, indexing="ij")
        return kx, ky


def frequencies(view: View, cutoff_per_A: float, reach_A: float, *, like: Tensor | None = None) -> Frequencies:
    """Series of a box round the view: up to the cutoff, so wide that no column reaches round it into the image.

    Parameters
    ----------
    view : View
    cutoff_per_A, reach_A : float
        Of the probe, see `Probe`.
    like : tensor, optional
        Gives precision and device; else double precision on the CPU.
    """
    dtype, device = (torch.float64, None) if like is None else (like.dtype, like.device)
    box = view.size_A[0] + 2 * reach_A, view.size_A[1] + 2 * reach_A
    most = [math.floor(cutoff_per_A * side) for side in box]
    kx = torch.arange(0, most[0] + 1, dtype=dtype, device=device) / box[0]
    ky = torch.arange(-most[1], most[1] + 1, dtype=dtype, device=device) / box[1]
    return Frequencies(kx, ky, box)


def spectrum(xy_A: Tensor, amplitude: Tensor, width_A: Tensor, at: Frequencies) -> Tensor:
    """Fourier coefficients of Gaussian columns, times the area of the box.

    Parameters
    ----------
    xy_A : (..., N, 2) tensor
        Centres from the middle of the view, y up.
    amplitude : (..., N) tensor
        Integrals, A^2 of cross-section. Zero pads a batch of unequal candidates.
    width_A : (..., N) tensor
        Standard deviations of the columns themselves, without the probe.
    at : Frequencies

    Returns
    -------
    (..., Ky, Kx) complex tensor
    """
    rows = max(1, CHUNK // (math.prod(xy_A.shape[:-2]) * (len(at.kx) + len(at.ky))))
    parts = zip(xy_A.split(rows, -2), amplitude.split(rows, -1), width_A.split(rows, -1), strict=True)
    return functools.reduce(torch.add, (_sum(*part, at) for part in parts))


def _sum(xy_A: Tensor, amplitude: Tensor, width_A: Tensor, at: Frequencies) -> Tensor:
    """The same of a part of the columns."""
    damping = -2 * (math.pi * width_A[..., None]) ** 2
    along_x = torch.polar(torch.exp(damping * at.kx**2), -2 * math.pi * xy_A[..., 0, None] * at.kx)  # (..., N, Kx)
    along_y = torch.polar(
        amplitude[..., None] * torch.exp(damping * at.ky**2), -2 * math.pi * xy_A[..., 1, None] * at.ky
    )  # (..., N, Ky)
    return along_y.mT @ along_x


def draw(coefficients: Tensor, at: Frequencies, view: View) -> Tensor:
    """Image (..., H, W) whose series on the box has these coefficients (..., Ky, Kx), times the box's area.

    Sampled at the middle of the pixels, as a scan does; the half plane kx < 0 follows from the image being real.
    """
    h, w = view.shape
    x = (torch.arange(w, dtype=at.kx.dtype, device=at.kx.device) - (w - 1) / 2) * view.pixel_A
    y = ((h - 1) / 2 - torch.arange(h, dtype=at.kx.dtype, device=at.kx.device)) * view.pixel_A
    both = torch.where(at.kx > 0, 2.0, 1.0).to(at.kx.dtype) / (at.box_A[0] * at.box_A[1])
    down = torch.polar(torch.ones_like(y[:, None] * at.ky), 2 * math.pi * y[:, None] * at.ky)  # (H, Ky)
    across = 2 * math.pi * at.kx[:, None] * x  # (Kx, W)
    rows = down @ coefficients  # (..., H, Kx)
    return rows.real @ (both[:, None] * torch.cos(across)) - rows.imag @ (both[:, None] * torch.sin(across))
