"""Gauss-Newton descent of all columns of one image: what is done in which order, and which columns survive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter, uniform_filter
from scipy.spatial import cKDTree
from torch import Tensor

from stemfit.columns.linear import Linear, Solve, conjugate_gradients, two_level
from stemfit.columns.noise import measure
from stemfit.columns.normal import Spline, assemble, factor, pairs, spline
from stemfit.columns.sigma import calibrated, local_covariance, quick_covariance, quick_sigma
from stemfit.columns.stamps import Brush, brush, stamp
from stemfit.columns.state import (
    TAIL_RATIO,
    Stage,
    State,
    chosen,
    damped,
    local_weight,
    moved,
    project,
    shared_derivatives,
)
from stemfit.columns.types import Columns, Noise, Profile

FloatArray = NDArray[np.float64]
Seeder = Callable[[FloatArray, float], FloatArray]

SIGNIFICANCE = 4.5
"""A column is kept when its intensity exceeds this many of its standard errors: about one false column in 1e5 sites."""

DOUBTFUL = 1.0
"""The same while position and width are not yet fitted: what is a column would lose light to the wrong shape."""

CLEAR = 4.0
"""A column alone on a known background is more certain than one among others, but not by this factor."""

DIM = CLEAR * SIGNIFICANCE
"""Significance below which a column's neighbours are looked at even in a rough fit."""

TWIN_REACH = 4.0
"""Distance in core widths at which columns still share light."""

TAIL_PRIOR = 0.2
"""Prior width of the tail's share, about none: in a perfect crystal tails and background are the same, and what the
image does not show is background."""

RIM_PRIOR = 0.3
"""The same of what lies beyond the image, whose brightness is only guessed, relative to the guess."""

KNOTS_COARSE, KNOTS_FINE = 36.0, 12.0
"""Knot distance of the background in core widths: about five and one and a half lattice constants."""

UNEVEN = 1.5
"""Variance of residual means over `KNOTS_FINE`, relative to what noise explains, from which the background is fine."""

DISTRUST = 1e-2
"""Weight of a pixel that does not show the crystal: what lies there is still drawn, but bends nothing else."""

NEGLIGIBLE = 0.01
"""Decrease of chi-square per unknown by which a step of all unknowns is the last: it moved them by 0.1 sigma, the next
one, of a quadratic method, would do so by far less."""

MISSED = 1.0
"""Decrease of chi-square that is worth another step along the shared parameters."""

FEW = 50_000
"""Pixels that tell the noise while the fit goes on."""

STAGES = (Stage(2, False, 0, 3), Stage(2, True, 0, 3), Stage(2, True, 3, 4), Stage(3, True, 4, 6))
"""Brightness first, then positions, then the core, then the tail: each needs the one before to be nearly right."""

KNOWN = (Stage(1, False, 0, 3), Stage(2, True, 4, 4))
"""The same where the profile is nearly known."""

LAST = Stage(2, True, 4, 10)
"""After columns came or went, or from another fit."""

ROUGH = Stage(1, True, 4, 6)
"""The same where another fit follows."""


class _Drawn(NamedTuple):
    """Model of a state."""

    state: State
    basis: Spline
    model: Tensor
    paint: Brush

    def shows(self, state: State, basis: Spline) -> bool:
        """Whether the same arrays would be drawn."""
        own = self.state
        same = own.xy is state.xy and own.intensity is state.intensity and own.profile is state.profile
        return same and own.coef is state.coef and self.basis is basis


class _Factored(NamedTuple):
    """Preconditioner, and for which columns it was made."""

    held: NDArray[np.bool_]  # the array goes with the columns
    basis: Spline
    move: bool
    solve: Solve


@dataclass
class Fitter:
    """One image, and how its columns are treated; remembers what it drew and factorised last."""

    image: Tensor
    trusted: NDArray[np.bool_]
    prune: bool
    more: Seeder | None
    calibrate: bool
    drawn: _Drawn | None = None
    factored: _Factored | None = None

    @property
    def pixels(self) -> FloatArray:
        """The image as an array."""
        return np.asarray(self.image.double().cpu().numpy())

    def fresh(self, xy: FloatArray, sigma: float, held: NDArray[np.bool_], known: Profile | None) -> Columns:
        """Fit from seeds alone, or with a profile that is nearly right."""
        basis = spline(self.pixels.shape, KNOTS_COARSE * sigma, sigma)
        state = self.begun(xy, sigma, held, basis, known)
        basis, state = self._suited(state, basis)
        return self._finished(self._seeded(state, basis), basis)

    def begun(
        self, xy: FloatArray, sigma: float, held: NDArray[np.bool_], basis: Spline, known: Profile | None
    ) -> State:
        """Columns, profile and noise that are nearly right."""
        size = 2 * round(2.5 * sigma) + 1
        coef = project(uniform_filter(minimum_filter(uniform_filter(self.pixels, 3), size), size), basis)
        read = float(np.std(self.pixels)) or 1.0
        profile = known or Profile(np.eye(2) * sigma**2, TAIL_RATIO * sigma, 0.0)
        state = State(
            xy, np.full(len(xy), read * 2 * np.pi * sigma**2), profile, coef, Noise(0.0, 0.0, read, 1.0), held,
            np.zeros(len(xy), dtype=bool),
        )
        for stage in STAGES if known is None else KNOWN:
            if len(state.xy) == 0:
                break
            state = self._measured(self._descend(state, basis, stage), basis)
            if self.prune:
                state = self._pruned(state, basis, DOUBTFUL)
        return state

    def again(
        self, xy: FloatArray, start: Columns, held: NDArray[np.bool_], rim: tuple[FloatArray, FloatArray]
    ) -> Columns:
        """Fit from an earlier fit; `rim` are positions and intensities of columns beyond the image, which come last."""
        known = min(len(start), len(xy))
        intensity = np.concatenate([start.intensity[:known], np.zeros(len(xy) - known), rim[1]])
        beyond = np.arange(len(intensity)) >= len(xy)
        xy, held = np.vstack([xy, rim[0]]), np.concatenate([held, np.ones(len(rim[1]), dtype=bool)])
        basis = spline(self.pixels.shape, KNOTS_COARSE * start.profile.width_px, start.profile.width_px)
        state = State(xy, intensity, start.profile, project(start.background, basis), start.noise, held, beyond)
        stage = LAST if self.calibrate else ROUGH
        state = self._measured(self._descend(state, basis, stage), basis)
        suited, state = self._suited(state, basis)
        if suited is not basis:
            state = self._measured(self._descend(state, suited, stage), suited)
        return self._finished(state, suited)

    def _inside(self, xy: FloatArray) -> NDArray[np.bool_]:
        h, w = self.image.shape
        return np.asarray(((xy > -0.5) & (xy < [w - 0.5, h - 0.5])).all(1))

    def _finished(self, state: State, basis: Spline) -> Columns:
        """Decide which columns are there, and give error bars.

        The noise is measured before the decision: what is dropped must not count as noise.
        """
        if self.prune:
            state = self._measured(self._descend(state, basis, LAST if self.calibrate else ROUGH), basis)
            state = self._pruned(state, basis, SIGNIFICANCE, weakest=True)
            if self.calibrate:
                state = self._pruned(self._descend(state, basis, LAST), basis, SIGNIFICANCE)
                state = self._descend(state, basis, LAST)
        cov, shared, state = self._judged(state, basis)
        if self.prune:
            keep = state.intensity > SIGNIFICANCE * np.sqrt(cov[:, 2, 2])
            state, cov = chosen(state, keep), cov[keep]
        model, _ = self._model(state, basis)
        background = np.asarray(basis.rows @ state.coef @ basis.cols.T)
        drawn = np.asarray(model.double().cpu().numpy())
        return Columns(state.xy, state.intensity, cov, state.profile, background, drawn, state.noise, shared)

    def _judged(self, state: State, basis: Spline) -> tuple[FloatArray, FloatArray | None, State]:
        """Covariances of columns and profile; the state, nearer to the minimum."""
        stage = Stage(0, True, 4, 0)
        model, paint = self._model(state, basis)
        problem = self._problem(state, basis, paint, model, stage)
        weight = local_weight(paint, problem.weight)
        if not self.calibrate or len(state.xy) == 0:
            return quick_covariance(state.xy, damped(state.intensity), *weight, state.profile, DIM), None, state
        cov = local_covariance(state.xy, damped(state.intensity), *weight, state.profile)
        values = np.zeros(len(problem.shared))
        values[3] = state.profile.tail_fraction
        solve = self._factor(state, basis, weight)
        judged = calibrated(cov, weight[1], problem, solve, self.image - model, values)
        if judged.gain > MISSED and (values[3] > 0 or float(judged.step[problem.own + 3]) > 0):
            state = replace(moved(state, judged.step.cpu().numpy(), stage), rest=np.inf)
        state = self._descend(state, basis, LAST)
        return judged.cov, judged.shared_cov[:4, :4], state

    def _descend(self, state: State, basis: Spline, stage: Stage) -> State:
        """Gauss-Newton steps with one preconditioner; a step that makes the fit worse is shortened, or not taken."""
        if len(state.xy) == 0 or state.rest < NEGLIGIBLE:
            return state
        model, paint = self._model(state, basis)
        solve: Solve | None = None
        precondition: Solve | None = None
        for _ in range(stage.steps):
            problem = self._problem(state, basis, paint, model, stage)
            if solve is None:
                solve = self._factor(state, basis, local_weight(paint, problem.weight), stage.move)
            precondition = precondition or two_level(problem, solve)
            step, gain = self._direction(state, problem, model, precondition, stage)
            if stage.profile == 4 and state.profile.tail_fraction <= 0 > step[problem.own + 3]:  # never negative
                stage = stage._replace(profile=3)
                problem = problem.without(3)
                precondition = two_level(problem, solve)
                step, gain = self._direction(state, problem, model, precondition, stage)
            before = float((problem.weight * (self.image - model) ** 2).sum(dtype=torch.float64))
            for share in (1.0, 0.3, 0.1):
                new = moved(state, share * step.double().cpu().numpy(), stage)
                model, paint = self._model(new, basis)
                if float((problem.weight * (self.image - model) ** 2).sum(dtype=torch.float64)) < before * (1 + 1e-6):
                    break
            else:
                return state
            rest = gain / (3 * len(new.xy)) if share == 1.0 and stage.move and stage.profile >= 3 else np.inf
            state = replace(new, rest=rest)
            if rest < NEGLIGIBLE:
                break
        return state

    def _direction(
        self, state: State, problem: Linear, model: Tensor, precondition: Solve, stage: Stage
    ) -> tuple[Tensor, float]:
        """Gauss-Newton step, prior included; by how much it should lower chi-square."""
        right = problem.adjoint(problem.weight * (self.image - model))
        if stage.profile == 4:
            right[problem.own + 3] -= problem.ridge[problem.own + 3] * state.profile.tail_fraction
        step = conjugate_gradients(problem, right, precondition, stage.iterations)
        return step, float(right @ step)

    def _model(self, state: State, basis: Spline) -> tuple[Tensor, Brush]:
        if self.drawn is None or not self.drawn.shows(state, basis):
            self.drawn = _Drawn(state, basis, *self._draw(state, basis))
        return self.drawn.model, self.drawn.paint

    def _draw(self, state: State, basis: Spline) -> tuple[Tensor, Brush]:
        xy = torch.from_numpy(state.xy).to(self.image)
        paint = brush(stamp(xy, state.profile, (self.image.shape[0], self.image.shape[1])), state.profile)
        columns = paint.draw(torch.from_numpy(state.intensity).to(self.image)[:, None] * paint.stamps.core)
        background = torch.from_numpy(basis.rows @ state.coef @ basis.cols.T).to(self.image)
        return columns + background, paint

    def _problem(self, state: State, basis: Spline, paint: Brush, model: Tensor, stage: Stage) -> Linear:
        noise = state.noise
        variance = noise.read_sigma**2 + noise.gain * (model - noise.offset).clamp(min=0.0)
        shared = shared_derivatives(state, paint, stage.profile)
        own = 3 * len(state.xy) + state.coef.size
        ridge = model.new_zeros(own + len(shared))
        if stage.profile == 4:
            ridge[own + 3] = TAIL_PRIOR**-2
        if len(shared) > stage.profile:
            ridge[-1] = RIM_PRIOR**-2
        rows, cols = (torch.from_numpy(b).to(model) for b in basis)
        moving, lit = (torch.from_numpy(free).to(model) for free in (~state.held & stage.move, ~state.beyond))
        intensity = torch.from_numpy(state.intensity).to(model)
        trust = torch.from_numpy(np.where(self.trusted, 1.0, DISTRUST)).to(model)
        weight = trust / (variance * noise.pixels_per_sample)
        return Linear(paint, intensity, moving, lit, rows, cols, shared, weight, ridge)

    def _factor(
        self, state: State, basis: Spline, weight: tuple[FloatArray, FloatArray], move: bool = True
    ) -> Solve:
        """Preconditioner: the closed-form approximation of the normal matrix, factorised once for the same columns."""
        kept = self.factored
        if kept is not None and kept.held is state.held and kept.basis is basis and kept.move == move:
            return kept.solve
        local, _ = weight
        matrix = assemble(
            state.xy, damped(state.intensity), local, state.profile, basis,
            float(local[:, 2].mean()), ~state.held & move, ~state.beyond,
        )
        diagonal = matrix.diagonal()
        knots = diagonal[3 * len(state.xy) :]
        knots += 1e-6 * knots.max()  # one that hardly any pixel sees would make the matrix singular
        matrix.setdiag(diagonal)
        inverse = factor(matrix, state.xy, basis)

        def solve(right: Tensor) -> Tensor:
            return torch.from_numpy(inverse(right.double().cpu().numpy())).to(right)

        self.factored = _Factored(state.held, basis, move, solve)
        return solve

    def _measured(self, state: State, basis: Spline) -> State:
        model = np.asarray(self._model(state, basis)[0].double().cpu().numpy())
        free = 3 * len(state.xy) + state.coef.size
        margin = round(3 * state.profile.width_px)
        return replace(state, noise=measure(self.pixels, model, free, margin, self.trusted, FEW))

    def _pruned(self, state: State, basis: Spline, least: float, *, weakest: bool = False) -> State:
        """Without columns that the image does not need: insignificant, outside, or a weaker twin of a neighbour.

        With `weakest` an insignificant one stays while a still less significant one is near: two that share the light
        of one column must not both go.
        """
        if len(state.xy) == 0:
            return state
        model, paint = self._model(state, basis)
        problem = self._problem(state, basis, paint, model, Stage(0, True, 0, 0))
        weight = local_weight(paint, problem.weight)
        z = state.intensity / np.maximum(quick_sigma(*weight, state.profile), 1e-300)
        open_case = np.flatnonzero(z < CLEAR * least)
        if least >= SIGNIFICANCE and len(open_case):
            local = local_covariance(state.xy, damped(state.intensity), *weight, state.profile, only=open_case)
            z[open_case] = state.intensity[open_case] / np.sqrt(np.maximum(local[:, 2, 2], 1e-300))
        keep = z > least
        if weakest:
            i, j = pairs(state.xy, TWIN_REACH * state.profile.width_px)
            keep[i[z[j] < z[i]]] = True
        keep &= self._inside(state.xy)
        i, j = pairs(state.xy, 1.5 * state.profile.width_px)
        own, other = state.intensity[i], state.intensity[j]
        weaker = (i != j) & ((own < other) | ((own == other) & (i > j)))
        keep[i[weaker & keep[j]]] = False
        return chosen(state, keep)

    def _suited(self, state: State, basis: Spline) -> tuple[Spline, State]:
        """A finer background where the residual asks for one."""
        model = np.asarray(self._model(state, basis)[0].double().cpu().numpy())
        size = max(2, round(KNOTS_FINE * state.profile.width_px))
        h, w = (n // size - 2 for n in model.shape)  # without a rim: light from beyond the edge is no background
        if min(h, w) < 2:
            return basis, state
        z = (self.pixels - model) / np.sqrt(state.noise.variance(model) * state.noise.pixels_per_sample)
        inner = z[size : (h + 1) * size, size : (w + 1) * size]
        means = inner.reshape(h, size, w, size).mean((1, 3)) * size
        if np.median(means**2) / 0.4549 < UNEVEN:  # of a normal distribution; edges and defects do not count
            return basis, state
        fine = spline(model.shape, KNOTS_FINE * state.profile.width_px, state.profile.width_px)
        return fine, replace(state, coef=project(basis.rows @ state.coef @ basis.cols.T, fine), rest=np.inf)

    def _seeded(self, state: State, basis: Spline) -> State:
        """With the columns that the residual still shows."""
        if self.more is None or len(state.xy) == 0:
            return state
        model = np.asarray(self._model(state, basis)[0].double().cpu().numpy())
        missed = self.more(self.pixels - model, state.profile.width_px)
        near = np.asarray(cKDTree(state.xy).query(missed)[0])
        missed = missed[near > 2 * state.profile.width_px]
        if len(missed) == 0:
            return state
        none = np.zeros(len(missed))
        return replace(
            state, xy=np.vstack([state.xy, missed]), intensity=np.concatenate([state.intensity, none]),
            held=np.concatenate([state.held, none.astype(bool)]),
            beyond=np.concatenate([state.beyond, none.astype(bool)]), rest=np.inf,
        )
