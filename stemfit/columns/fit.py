"""Joint fit of all columns of an image: positions, intensities, shared profile and background together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, minimum_filter, uniform_filter
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from stemfit.columns import noise as noise_model
from stemfit.columns.normal import Spline, assemble, blocks, pairs, spline
from stemfit.columns.stamps import Stamps, blur, gather, render, scatter, stamp
from stemfit.columns.types import Columns, Noise, Profile

FloatArray = NDArray[np.float64]

SIGNIFICANCE = 4.5
"""A column is kept when its intensity exceeds this many of its standard errors: about one false column in 1e5 sites."""

DOUBTFUL = 1.0
"""The same while position and width are not yet fitted: what is a column would lose light to the wrong shape."""

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


STAGES = (_Stage(2, False, 0), _Stage(3, True, 0), _Stage(2, True, 3), _Stage(3, True, 4))
"""Brightness first, then positions, then the core, then the tail: each needs the one before to be nearly right."""


FINE_SIGMA_PX = 1.5
"""Images are averaged down to about this core width before fitting: finer sampling costs time and gains a
percent (1 / 24 sigma^2)."""


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
    factor = int((sigma_px if start is None else start.profile.width_px) / FINE_SIGMA_PX)
    if factor > 1:
        return _refine_binned(image, seeds_px, sigma_px, factor, fixed, prune, start)
    basis = spline(image.shape, 12.0 * sigma_px if start is None else 12.0 * start.profile.width_px)
    held = np.zeros(len(seeds_px), dtype=bool) if fixed is None else fixed
    state = _begin(image, seeds_px, sigma_px, basis, start)
    stages = STAGES if start is None else STAGES[-1:]
    for number, stage in enumerate(stages, 1):
        if len(state.xy) == 0:
            break
        for _ in range(stage.steps):
            state = _step(image, state, basis, move=~held & stage.move, profile=stage.profile)
        state = _measured(image, state, basis)
        if prune:
            keep = _significant(image, state, basis, SIGNIFICANCE if number == len(stages) else DOUBTFUL)
            state, held = _select(state, keep), held[keep]
    for _ in range(0 if len(state.xy) == 0 else 2 if start is None else 1):
        state = _step(image, state, basis, move=~held, profile=STAGES[-1].profile)
    if prune and len(state.xy):  # a column that died in the last steps
        state = _select(state, _significant(image, _measured(image, state, basis), basis, SIGNIFICANCE))
    return _finish(image, _measured(image, state, basis), basis)


def _refine_binned(
    image: FloatArray, seeds_px: FloatArray, sigma_px: float, factor: int, fixed: NDArray[np.bool_] | None, prune: bool,
    start: Columns | None,
) -> Columns:
    """Fit an oversampled image after averaging `factor` x `factor` pixels, and say the result in its own pixels."""
    h, w = (n - n % factor for n in image.shape)
    small = image[:h, :w].reshape(h // factor, factor, w // factor, factor).mean((1, 3))
    begin = None if start is None else resampled(start, small, small.shape, 1 / factor)
    coarse = refine(
        small, (seeds_px + 0.5) / factor - 0.5, sigma_px / factor, fixed=fixed, prune=prune, start=begin
    )
    return resampled(coarse, image, image.shape, float(factor))


def resampled(columns: Columns, image: FloatArray, shape: tuple[int, int], factor: float) -> Columns:
    """The same columns on pixels `factor` times smaller, with the model drawn on `shape` and the noise of `image`."""
    xy = (columns.xy_px + 0.5) * factor - 0.5
    scale = np.array([factor, factor, factor**2])
    old = columns.profile
    profile = averaged_profile(old, 1 / factor) if factor < 1 else _sharpened(old, factor)
    intensity = columns.intensity * factor**2
    rows, cols = ((np.arange(n) + 0.5) / factor - 0.5 for n in shape)
    background = map_coordinates(
        columns.background, np.meshgrid(rows, cols, indexing="ij"), order=3 if factor > 1 else 1, mode="nearest"
    )
    model = background + render(xy, intensity, profile, shape)
    noise = _noise(image, model, 3 * len(xy), profile)
    return Columns(xy, intensity, columns.cov * np.outer(scale, scale), profile, background, model, noise)


def _noise(image: FloatArray, model: FloatArray, free_parameters: int, profile: Profile) -> Noise:
    return noise_model.measure(image, model, free_parameters, margin_px=round(3 * profile.width_px))


def averaged_profile(profile: Profile, n: float) -> Profile:
    """Profile on pixels that are means of n x n old ones: averaging adds the variance of n points, (n^2 - 1)/12."""
    cov = (profile.core_cov_px2 + (n**2 - 1) / 12 * np.eye(2)) / n**2
    return Profile(cov, profile.tail_sigma_px / n, profile.tail_fraction)


def _sharpened(profile: Profile, n: float) -> Profile:
    """Inverse of `averaged_profile`."""
    cov = profile.core_cov_px2 * n**2 - (n**2 - 1) / 12 * np.eye(2)
    return Profile(cov, profile.tail_sigma_px * n, profile.tail_fraction)


def _measured(image: FloatArray, state: _State, basis: Spline) -> _State:
    model, _ = _model(state, basis, image.shape)
    return replace(state, noise=_noise(image, model, 3 * len(state.xy) + state.coef.size, state.profile))


def _begin(image: FloatArray, xy: FloatArray, sigma: float, basis: Spline, start: Columns | None) -> _State:
    if start is not None:
        coef = _project(start.background, basis)
        known = min(len(start), len(xy))  # the seeds of a second fit begin with the columns of the first
        intensity = np.concatenate([start.intensity[:known], np.zeros(len(xy) - known)])
        return _State(xy, intensity, start.profile, coef, start.noise)
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
    """One Gauss-Newton step on columns and background and, jointly, on the first `profile` shared parameters.

    The shared parameters are eliminated last (variable projection): each derivative image is first reduced to the part
    that no change of columns or background can imitate. Brightness, background and tail nearly exchange, and
    alternating between them would creep.
    """
    model, stamps = _model(state, basis, image.shape)
    problem = _Linear(state, stamps, basis, 1.0 / state.noise.variance(model), move)
    precondition = splu(problem.matrix()).solve
    residual = image - model
    solution, shared = problem.solve(residual, precondition), np.zeros(4)
    if profile:
        design = _profile_derivatives(state, stamps)[:profile]
        answers = [problem.solve(d, precondition) for d in design]
        own = np.stack([d - problem.forward(a) for d, a in zip(design, answers, strict=True)])
        w = problem.inverse_variance
        normal = np.einsum("aij,ij,bij->ab", own, w, own, optimize=True)
        normal[np.diag_indices(profile)] *= 1 + 1e-3
        right = np.einsum("aij,ij->a", own, w * (residual - problem.forward(solution)))
        shared[:profile] = _limited(state.profile, np.linalg.solve(normal, right))
        solution = solution - np.tensordot(shared[:profile], np.stack(answers), 1)
    return _moved(state, solution, shared)


def _limited(profile: Profile, step: FloatArray) -> FloatArray:
    """Shorten a step on (core xx, xy, yy, tail share) to 30 % of the core and 0.15 of the tail, share in [0, 0.6]."""
    size = float(np.abs(step[:3]).max()) / float(np.linalg.eigvalsh(profile.core_cov_px2)[0])
    limited = step * min(1.0, 0.3 / max(size, 1e-12))
    if len(step) == 4:
        share = np.clip(profile.tail_fraction + np.clip(limited[3], -0.15, 0.15), 0.0, 0.6)
        limited[3] = share - profile.tail_fraction
    return limited


def _moved(state: _State, solution: FloatArray, shared: FloatArray) -> _State:
    n = len(state.xy)
    change = solution[: 3 * n].reshape(n, 3)
    limit = 0.5 * state.profile.width_px
    cov = state.profile.core_cov_px2 + np.array([[shared[0], shared[1]], [shared[1], shared[2]]])
    width = float(np.linalg.det(cov) ** 0.25)
    return replace(
        state,
        xy=state.xy + np.clip(change[:, :2], -limit, limit),
        intensity=state.intensity + change[:, 2],
        coef=state.coef + solution[3 * n :].reshape(state.coef.shape),
        profile=Profile(cov, TAIL_RATIO * width, state.profile.tail_fraction + float(shared[3])),
    )


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

    def solve(
        self, image: FloatArray, precondition: Callable[[FloatArray], FloatArray], iterations: int = 4
    ) -> FloatArray:
        """Least-squares parameters for `image`: a few conjugate gradients, because the outer loop linearises anew."""
        r = self.adjoint(self.inverse_variance * image)
        z = precondition(r)
        x, d, rz = np.zeros_like(r), z, float(r @ z)
        first = rz
        for _ in range(iterations):
            hd = self.adjoint(self.inverse_variance * self.forward(d))
            step = rz / max(float(d @ hd), 1e-300)
            x, r = x + step * d, r - step * hd
            z = precondition(r)
            rz, before = float(r @ z), rz
            if rz < 1e-3 * first:
                break
            d = z + rz / before * d
        return np.asarray(x)

    def matrix(self) -> csc_array:
        """Closed-form approximation of the normal matrix, as preconditioner."""
        weight, seen = _local_weight(self.stamps, self.inverse_variance)
        s = self.state
        mean = float(self.inverse_variance.mean())
        matrix = assemble(s.xy, _damped(s.intensity), weight, seen, s.profile, self.basis, mean, self.move)
        diagonal = matrix.diagonal()
        knots = diagonal[3 * len(s.xy) :]
        knots += 1e-6 * knots.max()  # one that hardly any pixel sees would make the matrix singular
        matrix.setdiag(diagonal * (1 + 1e-2))
        return matrix


def _damped(intensity: FloatArray) -> FloatArray:
    """Intensities for the matrix alone: a vanishing column must not make its position block singular."""
    scale = float(np.percentile(np.abs(intensity), 75))
    return np.sign(intensity + 1e-300) * np.maximum(np.abs(intensity), 0.1 * scale)


def _local_weight(stamps: Stamps, inverse_variance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean inverse variance (N, 3) as x, y and intensity of each column see it; its share (N,) inside the image."""
    filled = gather(stamps, inverse_variance)
    inside = filled > 0
    weight = []
    for shape in (stamps.grad_x, stamps.grad_y, stamps.core):
        square = shape**2
        weight.append((filled * square).sum(1) / np.maximum((square * inside).sum(1), 1e-3 * square.sum(1)))
    share = (square * inside).sum(1) / square.sum(1)
    return np.maximum(np.column_stack(weight), 1e-3 * inverse_variance.min()), share


def _profile_derivatives(state: _State, stamps: Stamps) -> FloatArray:
    """Derivative images (4, H, W) of the model for core variance xx, xy, yy (heat equation) and the tail's share."""
    p = np.linalg.inv(state.profile.core_cov_px2)
    i, core = state.intensity[:, None], np.maximum(stamps.core, 1e-300)
    gx, gy = stamps.grad_x / core, stamps.grad_y / core
    factors = (0.5 * (gx**2 - p[0, 0]), gx * gy - p[0, 1], 0.5 * (gy**2 - p[1, 1]))
    core_images = [blur(scatter(stamps, i * core * factor), state.profile) for factor in factors]
    pure = scatter(stamps, i * stamps.core)
    tail = blur(pure, replace(state.profile, tail_fraction=1.0))
    return np.stack([*core_images, tail - pure])


def _significant(image: FloatArray, state: _State, basis: Spline, least: float) -> NDArray[np.bool_]:
    """Columns that the image needs: significant, inside, and not a weaker twin of a neighbour."""
    model, stamps = _model(state, basis, image.shape)
    cov = _covariance(state, *_local_weight(stamps, 1.0 / state.noise.variance(model)))
    keep = state.intensity > least * np.sqrt(np.maximum(cov[:, 2, 2], 0.0))
    h, w = image.shape
    x, y = state.xy.T
    keep &= (x > -0.5) & (y > -0.5) & (x < w - 0.5) & (y < h - 0.5)
    i, j = pairs(state.xy, 1.5 * state.profile.width_px)
    own, other = state.intensity[i], state.intensity[j]
    weaker = (i != j) & ((own < other) | ((own == other) & (i > j)))
    keep[i[weaker & keep[j]]] = False
    return np.asarray(keep)


def _select(state: _State, keep: NDArray[np.bool_]) -> _State:
    return replace(state, xy=state.xy[keep], intensity=state.intensity[keep])


def _covariance(state: _State, weight: FloatArray, seen: FloatArray, members: int = 14) -> FloatArray:
    """Covariance (N, 3, 3) of each column, its nearest neighbours left free: own part of the inverse local matrix."""
    n = len(state.xy)
    if n == 0:
        return np.empty((0, 3, 3))
    m = min(members, n)
    distance, near = (np.asarray(a).reshape(n, m) for a in cKDTree(state.xy).query(state.xy, k=m))
    p, q = (np.broadcast_to(near[:, :, None], (n, m, m)), np.broadcast_to(near[:, None, :], (n, m, m)))
    visible = weight * np.maximum(seen, 1e-3)[:, None]
    block = blocks(state.xy, _damped(state.intensity), visible, state.profile, p.ravel(), q.ravel())
    local = np.zeros((n, 3 * m + 1, 3 * m + 1))
    local[:, :-1, :-1] = block.reshape(n, m, m, 3, 3).transpose(0, 1, 3, 2, 4).reshape(n, 3 * m, 3 * m)
    # The last unknown is the background under these columns: known from their own neighbourhood alone.
    area = np.pi * (distance[:, -1] + 2 * state.profile.width_px) ** 2
    level, core = visible[:, 2], 1 - state.profile.tail_fraction
    local[:, -1, -1] = level * area
    local[:, 2:-1:3, -1] = local[:, -1, 2:-1:3] = core * np.sqrt(visible[near, 2] * level[:, None])
    diagonal = np.arange(3 * m + 1)
    local[:, diagonal, diagonal] *= 1 + 1e-9
    return np.asarray(np.linalg.inv(local)[:, :3, :3]) * state.noise.pixels_per_sample


def _finish(image: FloatArray, state: _State, basis: Spline) -> Columns:
    model, stamps = _model(state, basis, image.shape)
    cov = _covariance(state, *_local_weight(stamps, 1.0 / state.noise.variance(model)))
    background = np.asarray(basis.rows @ state.coef @ basis.cols.T)
    return Columns(state.xy, state.intensity, cov, state.profile, background, model, state.noise)
