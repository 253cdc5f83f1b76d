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
"""Window pixels evaluated at once: bounds the memory of a whole image at about 100 MB in double precision."""

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
    Differentiable in all tensors; the cost goes with the number of columns in reach, not with the size of the image.

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
    batch = xy_px.shape[:-2]
    centre = (xy_px - xy_px.new_tensor(origin)).reshape(math.prod(batch), *xy_px.shape[-2:])
    weight = amplitude.expand(xy_px.shape[:-1]).reshape(centre.shape[:-1])
    fraction = tail_fraction.expand(batch).reshape(-1, 1)
    round_cov = tail_sigma[..., None, None] ** 2 * torch.eye(2, dtype=core_cov.dtype, device=core_cov.device)
    image = _gaussians(centre, weight * (1 - fraction), core_cov.expand(*batch, 2, 2).reshape(-1, 2, 2), shape)
    image = image + _gaussians(centre, weight * fraction, round_cov.expand(*batch, 2, 2).reshape(-1, 2, 2), shape)
    return image.reshape(*batch, *shape)


def _gaussians(xy: Tensor, weight: Tensor, cov: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sum of Gaussians of integral `weight` (B, N) at `xy` (B, N, 2), covariance (B, 2, 2): (B, H, W)."""
    height, width = shape
    half_x, half_y = (CUTOFF_SIGMAS * cov.detach()[:, [0, 1], [0, 1]].amax(0).sqrt()).ceil().int().tolist()
    near = xy.detach()
    reached = (near[..., 0] > -half_x - 1) & (near[..., 0] < width + half_x)
    reached &= (near[..., 1] > -half_y - 1) & (near[..., 1] < height + half_y)
    member, column = reached.nonzero(as_tuple=True)  # (M,)
    canvas = xy.new_zeros(len(xy) * height * width)
    rows = max(1, CHUNK // (min(2 * half_x + 1, width) * min(2 * half_y + 1, height)))
    for b, n in zip(member.split(rows), column.split(rows), strict=True):
        px = _pixels(xy[b, n, 0], half_x, width)  # (m, KX)
        py = _pixels(xy[b, n, 1], half_y, height)  # (m, KY)
        value = _gaussian(px - xy[b, n, 0, None], py - xy[b, n, 1, None], weight[b, n], cov[b])  # (m, KY, KX)
        inside = ((py >= 0) & (py < height))[:, :, None] & ((px >= 0) & (px < width))[:, None, :]
        index = (b[:, None, None] * height + py[:, :, None]) * width + px[:, None, :]
        canvas.index_add_(0, index[inside], value[inside])
    return canvas.reshape(len(xy), height, width)


def _pixels(position: Tensor, half: int, size: int) -> Tensor:
    """Pixel indices of each column's window along one axis, (M, K); all of them where the window exceeds the image."""
    if 2 * half + 1 >= size:
        return torch.arange(size, device=position.device).expand(len(position), size)
    return position.detach().round().long()[:, None] + torch.arange(-half, half + 1, device=position.device)


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
    for column, number in zip(label, z, strict=True):
        elements[column].append(chemical_symbols[number])
    xy_px = centre @ np.asarray(matrix, dtype=np.float64).T + np.asarray(offset_px, dtype=np.float64)
    return ProjectedColumns(xy_px, tuple(map(column_type, elements)), label.astype(np.int64))
