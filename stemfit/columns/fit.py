"""Joint fit of all columns of an image: positions, intensities, shared profile and background together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter, uniform_filter
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu

from stemfit.columns import noise as noise_model
from stemfit.columns.normal import Spline, assemble, blocks, pairs, spline
from stemfit.columns.stamps import Stamps, blur, gather, scatter, stamp
from stemfit.columns.types import Columns, Noise, Profile

FloatArray = NDArray[np.float64]

SIGNIFICANCE = 4.5
"""A column is kept when its intensity exceeds this many of its standard errors: about one false column in 1e5 sites."""

TAIL_RATIO = 2.5
"""Width of the tail over that of the core; the share of the tail is fitted."""


@dataclass(frozen=True)
class _State:
    xy: FloatArray
    intensity: FloatArray
    profile: Profile
    coef: FloatArray  # (MY, MX) background coefficients
    noise: Noise


class _Stage(NamedTuple):
    steps: int
    move: bool
    profile: int  # shared parameters that are free: 0 none, 3 core, 4 core and tail


STAGES = (_Stage(2, False, 0), _Stage(3, True, 0), _Stage(5, True, 3), _Stage(5, True, 4))
"""Brightness first, then positions, then the core, then the tail: each needs the one before to be nearly right."""


def refine(
    image: FloatArray, seeds_px: FloatArray, sigma_px: float, *, fixed: NDArray[np.bool_] | None = None,
    prune: bool = True, start: Columns | None = None,
) -> Columns:
    """Fit columns to an image by weighted Gauss-Newton with analytic normal equations.

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
        Earlier fit whose profile, noise and background to start from.
    """
    basis = spline(image.shape, 12.0 * sigma_px if start is None else 12.0 * start.profile.width_px)
    held = np.zeros(len(seeds_px), dtype=bool) if fixed is None else fixed
    state = _begin(image, seeds_px, sigma_px, basis, start)
    for stage in STAGES if start is None else STAGES[-1:]:
        for _ in range(stage.steps):
            state = _step(image, state, basis, move=~held & stage.move, profile=stage.profile)
        state = _measured(image, state, basis)
        if prune:
            keep = _significant(image, state, basis)
            state, held = _select(state, keep), held[keep]
    for _ in range(4):
        state = _step(image, state, basis, move=~held, profile=STAGES[-1].profile)
    return _finish(image, _measured(image, state, basis), basis)


def _measured(image: FloatArray, state: _State, basis: Spline) -> _State:
    model, _ = _model(state, basis, image.shape)
    return replace(state, noise=noise_model.measure(image, model, 3 * len(state.xy) + state.coef.size))


def _begin(image: FloatArray, xy: FloatArray, sigma: float, basis: Spline, start: Columns | None) -> _State:
    if start is not None:
        coef = _project(start.background, basis)
        return _State(xy, np.full(len(xy), np.median(start.intensity)), start.profile, coef, start.noise)
    size = 2 * round(2.5 * sigma) + 1
    coef = _project(uniform_filter(minimum_filter(uniform_filter(image, 3), size), size), basis)
    read = float(np.std(image)) or 1.0
    profile = Profile(np.eye(2) * sigma**2, TAIL_RATIO * sigma, 0.0)
    return _State(xy, np.full(len(xy), read * 2 * np.pi * sigma**2), profile, coef, Noise(0.0, 0.0, read, 1.0))


def _project(image: FloatArray, basis: Spline) -> FloatArray:
    return np.asarray(np.linalg.pinv(basis.rows) @ image @ np.linalg.pinv(basis.cols).T)


def _model(state: _State, basis: Spline, shape: tuple[int, int]) -> tuple[FloatArray, Stamps]:
    stamps = stamp(state.xy, state.profile, shape)
    columns = blur(scatter(stamps, state.intensity[:, None] * stamps.core), state.profile)
    return columns + basis.rows @ state.coef @ basis.cols.T, stamps


def _step(image: FloatArray, state: _State, basis: Spline, *, move: NDArray[np.bool_], profile: int) -> _State:
    """One Gauss-Newton step on columns and background, then one on the shared profile."""
    model, stamps = _model(state, basis, image.shape)
    problem = _Linear(state, stamps, basis, 1.0 / state.noise.variance(model), move)
    solution = problem.solve(image - model)
    n = len(state.xy)
    change = solution[: 3 * n].reshape(n, 3)
    limit = 0.5 * state.profile.width_px
    moved = replace(
        state,
        xy=state.xy + np.clip(change[:, :2], -limit, limit),
        intensity=state.intensity + change[:, 2],
        coef=state.coef + solution[3 * n :].reshape(state.coef.shape),
    )
    return _fit_profile(image, moved, basis, profile) if profile else moved


@dataclass(frozen=True)
class _Linear:
    """The weighted linear least-squares problem of one Gauss-Newton step."""

    state: _State
    stamps: Stamps
    basis: Spline
    inverse_variance: FloatArray
    move: NDArray[np.bool_]

    def forward(self, parameters: FloatArray) -> FloatArray:
        """Change of the image (H, W) for a change of (x, y, intensity) of every column and the background."""
        n = len(self.state.xy)
        change = parameters[: 3 * n].reshape(n, 3) * np.column_stack([self.move, self.move, np.ones(n)])
        shift = self.state.intensity[:, None] * change[:, :2]
        window = shift[:, :1] * self.stamps.grad_x + shift[:, 1:] * self.stamps.grad_y
        window += change[:, 2:] * self.stamps.core
        columns = blur(scatter(self.stamps, window), self.state.profile)
        coef = parameters[3 * n :].reshape(self.state.coef.shape)
        return np.asarray(columns + self.basis.rows @ coef @ self.basis.cols.T)

    def adjoint(self, image: FloatArray) -> FloatArray:
        """Transpose of `forward`."""
        window = gather(self.stamps, blur(image, self.state.profile))
        x = np.einsum("nk,nk->n", window, self.stamps.grad_x)
        y = np.einsum("nk,nk->n", window, self.stamps.grad_y)
        moving = self.state.intensity * self.move
        columns = np.column_stack([moving * x, moving * y, np.einsum("nk,nk->n", window, self.stamps.core)])
        return np.concatenate([columns.ravel(), (self.basis.rows.T @ image @ self.basis.cols).ravel()])

    def solve(self, residual: FloatArray, iterations: int = 4) -> FloatArray:
        """Preconditioned conjugate gradients; a few iterations, because the outer loop linearises anew."""
        precondition = splu(self._matrix()).solve
        r = self.adjoint(self.inverse_variance * residual)
        z = precondition(r)
        x, d, rz = np.zeros_like(r), z, float(r @ z)
        first = rz
        for _ in range(iterations):
            hd = self.adjoint(self.inverse_variance * self.forward(d))
            step = rz / float(d @ hd)
            x, r = x + step * d, r - step * hd
            z = precondition(r)
            rz, before = float(r @ z), rz
            if rz < 1e-4 * first:
                break
            d = z + rz / before * d
        return np.asarray(x)

    def _matrix(self) -> csc_array:
        weight, seen = _local_weight(self.stamps, self.inverse_variance)
        s = self.state
        mean = float(self.inverse_variance.mean())
        matrix = assemble(s.xy, _damped(s.intensity), weight, seen, s.profile, self.basis, mean, self.move)
        matrix.setdiag(matrix.diagonal() * (1 + 1e-2))
        return matrix


def _damped(intensity: FloatArray) -> FloatArray:
    """Intensities for the matrix alone: a vanishing column must not make its position block singular."""
    scale = float(np.percentile(np.abs(intensity), 75))
    return np.sign(intensity + 1e-300) * np.maximum(np.abs(intensity), 0.1 * scale)


def _local_weight(stamps: Stamps, inverse_variance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean inverse variance (N,) over each column, and the share (N,) of the column that lies inside the image."""
    square = stamps.core**2
    filled = gather(stamps, inverse_variance)
    inside = (square * (filled > 0)).sum(1)
    total = np.maximum(square.sum(1), 1e-300)
    weight = (filled * square).sum(1) / np.maximum(inside, 1e-3 * total)
    return np.maximum(weight, 1e-3 * inverse_variance.min()), inside / total


def _fit_profile(image: FloatArray, state: _State, basis: Spline, free: int) -> _State:
    """Least squares on the core's covariance and the tail's share, with overall brightness and level set free."""
    model, stamps = _model(state, basis, image.shape)
    p = np.linalg.inv(state.profile.core_cov_px2)
    i, core = state.intensity[:, None], np.maximum(stamps.core, 1e-300)
    gx, gy = stamps.grad_x / core, stamps.grad_y / core
    derivatives = [
        blur(scatter(stamps, i * core * factor), state.profile)
        for factor in (0.5 * (gx**2 - p[0, 0]), gx * gy - p[0, 1], 0.5 * (gy**2 - p[1, 1]))
    ]
    pure = scatter(stamps, i * stamps.core)
    tail = blur(pure, replace(state.profile, tail_fraction=1.0))
    shape = [*derivatives, tail - pure][:free]
    design = np.stack([*shape, blur(pure, state.profile), np.ones_like(image)])
    w = 1.0 / state.noise.variance(model)
    normal = np.einsum("aij,ij,bij->ab", design, w, design, optimize=True)
    right = np.einsum("aij,ij->a", design, w * (image - model))
    normal[np.diag_indices(free + 2)] *= 1 + 1e-3
    step = np.linalg.solve(normal, right)
    profile = _changed(state.profile, step[:3], float(step[3]) if free == 4 else 0.0)
    return replace(state, profile=profile)


def _changed(profile: Profile, step: FloatArray, tail_step: float) -> Profile:
    cov = profile.core_cov_px2
    change = np.array([[step[0], step[1]], [step[1], step[2]]])
    size = np.abs(change).max() / np.linalg.eigvalsh(cov)[0]
    new = cov + change * min(1.0, 0.3 / max(size, 1e-12))
    width = np.linalg.det(new) ** 0.25
    fraction = float(np.clip(profile.tail_fraction + np.clip(tail_step, -0.1, 0.1), 0.0, 0.6))
    return Profile(new, TAIL_RATIO * width, fraction)


def _significant(image: FloatArray, state: _State, basis: Spline) -> NDArray[np.bool_]:
    """Columns that the image needs: significant, inside, and not a weaker twin of a neighbour."""
    model, stamps = _model(state, basis, image.shape)
    cov = _covariance(state, *_local_weight(stamps, 1.0 / state.noise.variance(model)))
    keep = state.intensity > SIGNIFICANCE * np.sqrt(np.maximum(cov[:, 2, 2], 0.0))
    h, w = image.shape
    x, y = state.xy.T
    keep &= (x > -0.5) & (y > -0.5) & (x < w - 0.5) & (y < h - 0.5)
    i, j = pairs(state.xy, 1.5 * state.profile.width_px)
    weaker = (i != j) & ((state.intensity[i] < state.intensity[j]) | ((state.intensity[i] == state.intensity[j]) & (i > j)))
    keep[i[weaker & keep[j]]] = False
    return np.asarray(keep)


def _select(state: _State, keep: NDArray[np.bool_]) -> _State:
    return replace(state, xy=state.xy[keep], intensity=state.intensity[keep])


def _covariance(state: _State, weight: FloatArray, seen: FloatArray, neighbours: int = 12) -> FloatArray:
    """Covariance (N, 3, 3) of each column with its neighbours left free: inverse of the local block, own part."""
    n = len(state.xy)
    if n == 0:
        return np.empty((0, 3, 3))
    i, j = pairs(state.xy, 4.5 * state.profile.width_px)
    block = blocks(state.xy, _damped(state.intensity), weight * np.maximum(seen, 1e-3), state.profile, i, j)
    lookup = {}
    for k, key in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
        lookup[key] = k
    near: list[list[int]] = [[] for _ in range(n)]
    for a, b in lookup:
        if a != b:
            near[a].append(b)
    out = np.empty((n, 3, 3))
    for a in range(n):
        members = [a, *near[a][:neighbours]]
        m = len(members)
        local = np.zeros((3 * m, 3 * m))
        for r, p in enumerate(members):
            for c, q in enumerate(members):
                k = lookup.get((p, q))
                if k is not None:
                    local[3 * r : 3 * r + 3, 3 * c : 3 * c + 3] = block[k]
        local[np.diag_indices(3 * m)] *= 1 + 1e-9
        out[a] = np.linalg.inv(local)[:3, :3]
    return out * state.noise.pixels_per_sample


def _finish(image: FloatArray, state: _State, basis: Spline) -> Columns:
    model, stamps = _model(state, basis, image.shape)
    cov = _covariance(state, *_local_weight(stamps, 1.0 / state.noise.variance(model)))
    background = np.asarray(basis.rows @ state.coef @ basis.cols.T)
    return Columns(state.xy, state.intensity, cov, state.profile, background, model, state.noise)
