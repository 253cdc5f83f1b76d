"""Normal equations of the joint fit in closed form.

The overlap of two Gaussian cores is a Gaussian in their distance, so the Gauss-Newton matrix of all columns and the
background needs no Jacobian: with weights that vary slowly over a column it is a sparse matrix of analytic 3x3 blocks.
It preconditions the conjugate gradients of the exact problem (tails, edges, true weights).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import block_array, coo_array, csc_array, csr_array, diags_array, eye_array, kron
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from stemfit.columns.types import Profile

FloatArray = NDArray[np.float64]

Solver = Callable[[FloatArray], FloatArray]

BACKGROUND_DAMPING = 0.02
"""Covers what the closed form neglects at the image edge; costs an iteration, not accuracy (the gradient is exact)."""


class Spline(NamedTuple):
    """Separable cubic B-spline background: image = rows @ coefficients @ cols.T."""

    rows: FloatArray  # (H, MY)
    cols: FloatArray  # (W, MX)


EDGE_KNOTS = (3.0, 8.0)
"""Distance of further knots from the edges in core widths. Columns beyond an edge shed light into the image, most of it
through their tails: seen as background it tells nothing of the tail, but taken for its absence it would deny one."""


def spline(shape: tuple[int, int], spacing_px: float, width_px: float) -> Spline:
    """Basis with knots about `spacing_px` apart, and closer to the edges for columns of core width `width_px`."""
    return Spline(_basis(shape[0], spacing_px, width_px), _basis(shape[1], spacing_px, width_px))


def _basis(length: int, spacing_px: float, width_px: float) -> FloatArray:
    pieces = max(1, round(length / spacing_px))
    last = length - 1.0
    near = np.array([k * width_px for k in EDGE_KNOTS if k * width_px < min(0.25 * last, 0.5 * last / pieces)])
    inner = np.unique(np.concatenate([np.linspace(0, last, pieces + 1)[1:-1], near, last - near]))
    knots = np.concatenate([[0.0] * 4, inner, [last] * 4])
    return np.asarray(BSpline.design_matrix(np.arange(length, dtype=float), knots, 3).toarray())


def overlap(delta: FloatArray, cov: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Integral of two cores `delta` (P, 2) apart with its gradient (P, 2) and Hessian (P, 2, 2)."""
    p = np.linalg.inv(2 * cov)
    pd = delta @ p
    value = np.exp(-0.5 * np.sum(pd * delta, axis=1)) / (4 * np.pi * np.sqrt(np.linalg.det(cov)))
    hess = value[:, None, None] * (pd[:, :, None] * pd[:, None, :] - p)
    return value, -value[:, None] * pd, hess


def pairs(xy_px: FloatArray, reach_px: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All ordered pairs (i, j) of columns closer than `reach_px`, i = j included."""
    found = cKDTree(xy_px).query_pairs(reach_px, output_type="ndarray")
    own = np.arange(len(xy_px))
    return np.concatenate([own, found[:, 0], found[:, 1]]), np.concatenate([own, found[:, 1], found[:, 0]])


def blocks(
    xy_px: FloatArray, intensity: FloatArray, weight: FloatArray, profile: Profile, i: NDArray[np.int64],
    j: NDArray[np.int64],
) -> FloatArray:
    """Gauss-Newton blocks (P, 3, 3) of the pairs (i, j).

    Parameters are x, y, intensity; `weight` (N, 3) is the inverse variance that each of them sees.
    """
    value, grad, hess = overlap(xy_px[i] - xy_px[j], profile.core_cov_px2)
    block = np.empty((len(i), 3, 3))
    block[:, :2, :2] = -(intensity[i] * intensity[j])[:, None, None] * hess
    block[:, :2, 2] = intensity[i][:, None] * grad
    block[:, 2, :2] = -intensity[j][:, None] * grad
    block[:, 2, 2] = value
    root = (1 - profile.tail_fraction) * np.sqrt(weight)
    return block * root[i][:, :, None] * root[j][:, None, :]


def assemble(
    xy_px: FloatArray, intensity: FloatArray, weight: FloatArray, profile: Profile, basis: Spline,
    mean_weight: float, free_position: NDArray[np.bool_], lit: NDArray[np.bool_],
) -> csc_array:
    """Full sparse matrix over (3 N column parameters, background coefficients)."""
    n = len(xy_px)
    i, j = pairs(xy_px, 4.5 * profile.width_px)
    block = blocks(xy_px, intensity, weight, profile, i, j)
    fixed = np.column_stack([~free_position, ~free_position, ~lit])
    block = np.where(fixed[i][:, :, None] | fixed[j][:, None, :], 0.0, block)
    row = (3 * i[:, None, None] + np.arange(3)[None, :, None]).repeat(3, axis=2)
    col = (3 * j[:, None, None] + np.arange(3)[None, None, :]).repeat(3, axis=1)
    columns = coo_array((block.ravel(), (row.ravel(), col.ravel())), shape=(3 * n, 3 * n)).tocsr()
    columns = columns + coo_array((fixed.ravel().astype(float), (np.arange(3 * n),) * 2), shape=(3 * n, 3 * n)).tocsr()
    share = 1 - profile.tail_fraction
    reach = share * np.column_stack([intensity, intensity, np.ones(n)]) * ~fixed * np.sqrt(weight * mean_weight)
    return _border(columns, xy_px, reach, profile.width_px, basis, mean_weight)


def _border(
    columns: csr_array, xy_px: FloatArray, reach: FloatArray, width_px: float, basis: Spline, mean_weight: float
) -> csc_array:
    """Add the background's rows and columns; `reach` (N, 3) scales the derivatives of each column.

    All weights enter as sqrt(w_a w_b): a congruence of the unweighted matrix, which therefore stays positive definite
    although the brightness of columns and the background nearly exchange.
    """
    n = len(xy_px)
    down, across = (_under_cores(b, xy_px[:, k], width_px) for b, k in ((basis.rows, 1), (basis.cols, 0)))
    rows, cols = basis.rows.shape[1], basis.cols.shape[1]
    (top, down), (left, across) = (_narrow(values) for values in (down, across))
    knot = (top[:, :, None] * cols + left[:, None, :]).reshape(n, -1)  # (N, K)
    values = [
        (reach[:, k, None, None] * down[y][:, :, None] * across[x][:, None, :]).reshape(n, -1)
        for k, (y, x) in enumerate(((0, 1), (1, 0), (0, 0)))
    ]
    row = np.repeat(3 * np.arange(n), knot.shape[1])
    entries = np.concatenate([v.ravel() for v in values])
    where = (np.concatenate([row, row + 1, row + 2]), np.tile(knot.ravel(), 3))
    border = coo_array((entries, where), shape=(3 * n, rows * cols)).tocsr()
    border.eliminate_zeros()
    gram = mean_weight * kron(csr_array(basis.rows.T @ basis.rows), csr_array(basis.cols.T @ basis.cols))
    gram = gram + BACKGROUND_DAMPING * diags_array(gram.diagonal())
    parts: list[list[csr_array]] = [[columns, border], [csr_array(border.T), csr_array(gram)]]
    return csc_array(block_array(parts))


def _narrow(values: tuple[FloatArray, FloatArray]) -> tuple[NDArray[np.int64], tuple[FloatArray, FloatArray]]:
    """Which functions (N, K) are not zero under each core, and their values and slopes (N, K) there."""
    some = (values[0] != 0) | (values[1] != 0)
    width = max(1, int(some.sum(1).max(initial=1)))
    first = np.minimum(np.argmax(some, axis=1), some.shape[1] - width)
    index = first[:, None] + np.arange(width)
    return index, tuple(np.take_along_axis(v, index, axis=1) for v in values)  # type: ignore[return-value]


def _under_cores(basis: FloatArray, at_px: FloatArray, width_px: float) -> tuple[FloatArray, FloatArray]:
    """Mean (N, M) of the functions of one axis under a round core at each position, and its slope there."""
    pad = int(np.ceil(4 * width_px)) + 1
    wide = np.pad(basis, ((pad, pad), (0, 0)))  # nothing is seen beyond the image
    at = np.clip(at_px + pad, 0.0, len(wide) - 1.001)
    row, part = at.astype(int), (at % 1.0)[:, None]
    found = []
    for order in (0, 1):
        smooth = gaussian_filter1d(wide, width_px, axis=0, order=order, mode="constant")
        smooth[np.abs(smooth) < 1e-4] = 0.0
        found.append(np.asarray((1 - part) * smooth[row] + part * smooth[row + 1]))
    return found[0], found[1]


DAMPING = (0.01, 0.03, 0.1, 0.4, 2.0, 10.0)
"""Added to the diagonal, relative to it, until single precision can factorise: brightness and background nearly
exchange, and the closed form neglects that the image ends, so that columns there may seem to do so for nothing."""

BLOCK = 20_000
"""Unknowns that are factorised together: larger problems are cut into tiles, so that the cost grows with the area."""


def factor(matrix: csc_array, xy_px: FloatArray, basis: Spline) -> Solver:
    """Solver of `assemble`'s matrix; beyond `BLOCK` unknowns of its diagonal blocks, one per tile of the image."""
    if matrix.shape[0] <= BLOCK:
        return _cholesky(matrix)
    rows, cols = (np.argmax(b, axis=0).astype(float) for b in (basis.rows, basis.cols))
    knots = np.stack(np.meshgrid(cols, rows), -1).reshape(-1, 2)
    parts = _tiles(np.vstack([np.repeat(xy_px, 3, axis=0), knots]))
    compressed = csr_array(matrix)
    solvers = [(part, _cholesky(csc_array(compressed[part][:, part]))) for part in parts]

    def solve(right: FloatArray) -> FloatArray:
        answer = np.empty_like(right)
        for part, own in solvers:
            answer[part] = own(right[part])
        return answer

    return solve


def _cholesky(matrix: csc_array) -> Solver:
    """Factorise in single precision without pivoting, after damping the diagonal until that succeeds."""
    diagonal = matrix.diagonal()
    scale = 1 / np.sqrt(np.maximum(diagonal, 1e-12 * float(diagonal.max(initial=0.0)) + 1e-300))
    unit = diags_array(scale) @ matrix @ diags_array(scale)
    for damping in DAMPING:
        damped = csc_array(unit + damping * eye_array(len(scale)), dtype=np.float32)
        try:
            solver = splu(damped, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        except RuntimeError:  # exactly singular
            continue
        if (solver.U.diagonal() > 0).all():
            return _scaled(solver.solve, scale.astype(np.float32))
    return lambda right: np.asarray(scale**2 * right)


def _scaled(solve: Callable[[NDArray[np.float32]], FloatArray], scale: NDArray[np.float32]) -> Solver:
    return lambda right: np.asarray(scale * solve(scale * right.astype(np.float32)), dtype=np.float64)


def _tiles(xy_px: FloatArray) -> list[NDArray[np.int64]]:
    """Indices of points, halved across the longer side until a tile has at most `BLOCK` of them."""
    waiting, done = [np.arange(len(xy_px))], []
    while waiting:
        part = waiting.pop()
        if len(part) <= BLOCK:
            done.append(part)
            continue
        axis = int(np.argmax(np.ptp(xy_px[part], axis=0)))
        order = part[np.argsort(xy_px[part, axis], kind="stable")]
        waiting += [order[: len(order) // 2], order[len(order) // 2 :]]
    return done
