"""Fast image of a monolayer: every column adds its own brightness times one shared profile.

For one layer this incoherent sum follows multislice simulations to less than a percent per column, provided that each
*column type* (element stack) has its own amplitude. Positions are pixels (x, y): x right along axis 1, y down along
axis 0, (0, 0) the centre of the top-left pixel. The device and the precision are those of the tensors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from stemfit.hosts import column_type

FloatArray = NDArray[np.float64]

CUTOFF_SIGMAS = 5.0
"""Half extent of a column's window. Less than 4e-6 of a Gaussian's integral lies outside (exp(-25/2))."""

CHUNK = 1 << 22
"""Window pixels evaluated at once: bounds the memory of a whole image at about 200 MB in double precision."""

STRIP = 64
"""Rows of the image that are summed at once: as many as a typical tail reaches, so that few columns are in vain."""

STACK_A = 0.3
"""Atoms closer than this in projection are one column. Atoms above each other drift apart by at most 0.2 A next to
defects, while distinct columns are at least a projected bond (1.4 A, graphene) apart; two atoms less than 0.3 A apart
are also below what any probe resolves (0.5 A), so that one profile describes both."""

CENTRE_EXPONENT = 1.75
"""A mixed stack is seen where its brightness is: its atoms are weighed by Z^1.75, the exponent of high-angle scattering
(1.7 to 1.9 depending on the detector). Nothing but the centre of a tilted mixed stack depends on it."""


def render(
    xy_px: Tensor,
    amplitude: Tensor,
    core_cov: Tensor,
    tail_sigma: Tensor,
    tail_fraction: Tensor,
    shape: tuple[int, int],
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """Sum of columns, each an elliptical Gaussian core plus a round Gaussian tail of unit integral (see `Profile`).

    A scan samples the image at the probe positions, so the profile is taken at pixel centres, not averaged over pixels.
    The sum of the samples of one column then differs from its amplitude by at most ``4 exp(-2 pi^2 s^2)`` with s the
    smallest standard deviation in px: 3 % at s = 0.5, 3e-4 at 0.7, 1e-8 at 1. Cut off at `CUTOFF_SIGMAS`.
    Differentiable in all tensors. A column costs the pixels in its reach, not those of the image.

    Parameters
    ----------
    xy_px : (..., N, 2) tensor
        Centres, px.
    amplitude : (..., N) tensor
        Integral of each column, image units x px^2. Zero pads a batch of unequal candidates.
    core_cov : (2, 2) or (..., 2, 2) tensor
        Covariance of the core in (x, y), px^2.
    tail_sigma, tail_fraction : () or (...) tensor
        Standard deviation of the tail, px, and its share of the integral.
    shape : (H, W)
    origin : (x, y)
        Pixel of the whole image that is the top-left pixel of the result.

    Returns
    -------
    (..., H, W) tensor
        Without background.
    """
    batch, count = xy_px.shape[:-2], xy_px.shape[-2]
    centre = (xy_px - xy_px.new_tensor(origin)).reshape(math.prod(batch), count, 2)
    weight = amplitude.expand(*batch, count).reshape(centre.shape[:-1])
    fraction = tail_fraction.expand(batch).reshape(-1, 1)
    core = _cores(centre, weight * (1 - fraction), core_cov.expand(*batch, 2, 2).reshape(-1, 2, 2), shape)
    tails = _tails(centre, weight * fraction, tail_sigma.expand(batch).reshape(-1, 1, 1), shape)
    return (core + tails).reshape(*batch, *shape)


def _cores(xy: Tensor, weight: Tensor, cov: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sum of Gaussians of integral `weight` (B, N) at `xy` (B, N, 2), covariance (B, 2, 2): (B, H, W).

    Each on its own window, added up on a canvas that is wider than the image by more than a window on every side.
    """
    half_x, half_y = (CUTOFF_SIGMAS * cov.detach()[:, [0, 1], [0, 1]].amax(0).sqrt()).ceil().int().tolist()
    pad_x, pad_y = 2 * half_x + 2, 2 * half_y + 2
    height, width = shape[0] + 2 * pad_y, shape[1] + 2 * pad_x
    at = xy.detach().round().long() + torch.tensor([pad_x, pad_y], device=xy.device)  # nearest pixel of the canvas
    margin = torch.tensor([half_x, half_y], device=xy.device)
    size = torch.tensor([width, height], device=xy.device)
    member, column = ((at >= margin) & (at < size - margin)).all(-1).nonzero(as_tuple=True)  # (M,)
    offset_x = torch.arange(-half_x, half_x + 1, device=xy.device)
    offset_y = torch.arange(-half_y, half_y + 1, device=xy.device)
    canvas = xy.new_zeros(len(xy) * height * width)
    rows = max(1, CHUNK // (len(offset_x) * len(offset_y)))
    for b, n in zip(member.split(rows), column.split(rows), strict=True):
        x, y = (at[b, n, axis, None] + offset for axis, offset in enumerate((offset_x, offset_y)))  # (m, KX), (m, KY)
        value = _gaussian(x - pad_x - xy[b, n, 0, None], y - pad_y - xy[b, n, 1, None], weight[b, n], cov[b])
        index = (b[:, None] * height + y)[:, :, None] * width + x[:, None, :]  # (m, KY, KX)
        canvas.index_add_(0, index.flatten(), value.flatten())
    return canvas.reshape(len(xy), height, width)[:, pad_y : pad_y + shape[0], pad_x : pad_x + shape[1]]


def _tails(xy: Tensor, weight: Tensor, sigma: Tensor, shape: tuple[int, int]) -> Tensor:
    """The same for round Gaussians, standard deviation (B, 1, 1): separable, hence products of matrices, by strips."""
    height, width = shape
    reach = CUTOFF_SIGMAS * float(sigma.detach().amax()) if len(sigma) else 0.0
    x = torch.arange(width, dtype=xy.dtype, device=xy.device)
    strips = []
    for top in range(0, height, STRIP):
        y = torch.arange(top, min(top + STRIP, height), dtype=xy.dtype, device=xy.device)
        distance = (xy.detach()[..., 1] - (top + STRIP / 2)).abs()
        near = (distance < STRIP / 2 + reach).any(0)
        along_x = torch.exp(-0.5 * ((x - xy[:, near, 0, None]) / sigma) ** 2)  # (B, n, W)
        along_y = torch.exp(-0.5 * ((y - xy[:, near, 1, None]) / sigma) ** 2)  # (B, n, strip)
        height_of = weight[:, near, None] / (2 * torch.pi * sigma**2)
        strips.append((along_y * height_of).mT @ along_x)
    return torch.cat(strips, dim=1)


def _gaussian(dx: Tensor, dy: Tensor, weight: Tensor, cov: Tensor) -> Tensor:
    """Gaussians of integral `weight` (M,) and covariance (M, 2, 2) at offsets dx (M, KX), dy (M, KY): (M, KY, KX)."""
    xx, xy, yy = cov[:, 0, 0, None], cov[:, 0, 1, None], cov[:, 1, 1, None]
    det = xx * yy - xy**2  # (M, 1)
    along_x, along_y = dx**2 * (yy / det), dy**2 * (xx / det)
    cross = dy[:, :, None] * (dx * (xy / det))[:, None, :]
    height = weight / (2 * torch.pi * det[:, 0].sqrt())
    return height[:, None, None] * torch.exp(cross - 0.5 * (along_y[:, :, None] + along_x[:, None, :]))


class ProjectedColumns(NamedTuple):
    """A structure seen from above.

    Attributes
    ----------
    xy_px : (C, 2) array
        Centre of each column, px.
    types : tuple of str
        Column type of each: "Mo", "S2", "SSe" ...
    column_of_atom : (N,) int array
        Index of the column that each atom belongs to.
    """

    xy_px: FloatArray
    types: tuple[str, ...]
    column_of_atom: NDArray[np.int64]


def project(numbers: ArrayLike, positions_A: ArrayLike, matrix: ArrayLike, offset_px: ArrayLike) -> ProjectedColumns:
    """Group atoms into columns along z and map them into the image: ``p_px = matrix @ r_A + offset_px``.

    Structures are right-handed with y up, images have y down: that flip lives in `matrix` (negative determinant) and
    nowhere else. Atoms closer than `STACK_A` in projection, directly or through others, form one column. Periodic
    images are not added: the patch must be larger than the window that it is drawn in.

    Parameters
    ----------
    numbers : (N,) int
        Atomic numbers. Vacancy nodes are no atoms: leave them out.
    positions_A : (N, 3)
        Cartesian, Angstrom.
    matrix : (2, 2)
        px per Angstrom.
    offset_px : (2,)
    """
    from ase.data import chemical_symbols

    z = np.asarray(numbers, dtype=np.int64)
    plane = np.asarray(positions_A, dtype=np.float64).reshape(-1, 3)[:, :2]
    pairs = cKDTree(plane).query_pairs(STACK_A, output_type="ndarray")
    touching = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(z), len(z)))
    count, label = connected_components(touching, directed=False)
    weight = z.astype(np.float64) ** CENTRE_EXPONENT
    total = np.bincount(label, weight, count)
    centre = np.column_stack([np.bincount(label, weight * axis, count) / total for axis in plane.T])  # (C, 2)
    elements: list[list[str]] = [[] for _ in range(count)]
    for column, number in zip(label.tolist(), z.tolist(), strict=True):
        elements[column].append(chemical_symbols[number])
    names = {stack: column_type(stack) for stack in set(map(tuple, elements))}
    xy_px = centre @ np.asarray(matrix, dtype=np.float64).T + np.asarray(offset_px, dtype=np.float64)
    return ProjectedColumns(xy_px, tuple(names[tuple(stack)] for stack in elements), label.astype(np.int64))
