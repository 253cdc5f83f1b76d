"""Evidence of one structure: the likelihood of the patch with all that the structure does not fix integrated out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.spatial import cKDTree
from scipy.special import logsumexp

from stemfit.lattice import Lattice
from stemfit.score.misfit import Misfit, misfit_of
from stemfit.score.normal import COMMON, FIELD, Drawing, Equations, equations, moved_to, shifts_px
from stemfit.score.scene import LEFT, Predicted, Scene

FloatArray = NDArray[np.float64]

TESTED = 0.75
"""Columns are held against a structure within this many lattice constants of a site that it changes: the site and the
columns bound to it. The next equal sites, 1.0 away, may have defects of their own."""


SMALL, LARGEST, LEAST, STEPS = 0.05, 1.0, 2, 8
"""Displacement of a column in widths of the profile after which no step follows, the largest of one step, and how many
steps there are at least and at most. The image of a column is linear to 1 % of its peak in 0.3 widths, but log
evidences, one linearised once and one twice, are apart by 2, beside lines by 20: after two steps they stand to 0.2."""

HALVED = 4
"""How often a step that lowers the density is tried, half as long each time."""

SETTLED = 0.2
"""Change of the log evidence in a whole step after which no other follows."""


ALLOWANCES_A = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Errors of positions beside a defect, per axis, that are equally probable where two geometries are compared: from what
the best potentials reach to what nobody would call a prediction."""


BEHIND, SLOWING = 30.0, 4.0
"""A structure is followed no further when its evidence stays below that of a better one by this logarithm, although it
may still change by so many times what its last step changed; after one that was cut short, by as much in every step
that is left."""


class Fit(NamedTuple):
    """One candidate on one scene.

    Attributes
    ----------
    log_evidence : float
    model : (h, w) array
        The structure as it is: only pose, brightness and background are fitted, columns keep their places.
    residual_chi2 : float
        Of the model, per pixel.
    misfit : Misfit
        Of the prediction.
    way : tuple of float
        Log evidence after each step towards the most probable positions.
    """

    log_evidence: float
    model: FloatArray
    residual_chi2: float
    misfit: Misfit
    way: tuple[float, ...]


def fit(
    seen: Predicted, scene: Scene, sigma_px: float, lattice: Lattice, *, loose_at: FloatArray | None = None,
    leader: tuple[float, ...] = (),
) -> Fit:
    """Evidence and best model of a structure's columns on a scene.

    With the way of a `leader`, a structure that falls behind it is left where it is, short of its evidence.

    With a place `loose_at` (2,), on the scene's pixels, the hypothesis is only that something is different there: it
    has a column of any brightness, and neighbours displaced by up to a tenth of the lattice constant.
    """
    xy, amplitude, brightness, place, moved = seen
    place = np.hypot(place, sigma_px / scene.pixel)
    if loose_at is not None:
        a = lattice.a_px_iso / scene.pixel
        place = np.where(np.hypot(*(xy - loose_at).T) < 0.7 * a, np.hypot(place, 0.1 * a), place)
        xy, amplitude = np.vstack([xy, loose_at]), np.append(amplitude, 0.0)
        brightness, place = np.append(brightness, amplitude.max()), np.append(place, 0.0)
        moved = np.vstack([moved, np.zeros(2)])
    drawing = Drawing(xy, amplitude, brightness, place, lattice.a_px_iso / scene.pixel, LEFT * moved)
    path = _most_probable(drawing, scene, leader)
    first, model = path.first, _posed(path.first)
    rest = float(np.sum(scene.weight * (scene.image - model) ** 2))
    near = cKDTree(scene.extent).query(xy)[0] < TESTED * lattice.a_px_iso / scene.pixel
    misfit = misfit_of(first.matrix, first.right, np.flatnonzero(np.tile(near, 3)))
    return Fit(path.way[-1], model, rest / max(1, int((scene.weight > 0).sum())), misfit, path.way)


def evidence_as_predicted(seen: Predicted, scene: Scene, sigma_px: float, lattice: Lattice) -> float:
    """Evidence of columns where a structure has them, the field as large as it is given.

    How well a relaxer knows positions beside this defect is not known beforehand: the evidence is the mean over
    `ALLOWANCES_A`, by Laplace's method about where the columns are most probably.
    """
    place = np.hypot(seen.place, sigma_px / scene.pixel)
    a_px, still = lattice.a_px_iso / scene.pixel, np.zeros_like(seen.moved)
    drawing = Drawing(seen.xy, seen.amplitude, seen.brightness, place, a_px, still)
    return _over_allowances(_most_probable(drawing, scene), seen, scene, sigma_px)


def _over_allowances(path: _Path, seen: Predicted, scene: Scene, sigma_px: float) -> float:
    """Mean evidence over the allowances; a field that moves nothing leaves its size without effect.

    Other allowances are other units of the same parameters. Everything but the positions that they concern is
    integrated out once (Schur complement).
    """
    n, last, at = len(seen.amplitude), path.last, path.at
    own = sigma_px / scene.pixel
    widest = seen.place * max(ALLOWANCES_A) / scene.relaxation_A
    loose = np.flatnonzero((seen.amplitude != 0) & (widest > 0.5 * own))
    free = np.concatenate([n + loose, 2 * n + loose])
    rest = np.setdiff1d(np.arange(len(at)), free)
    factor = np.linalg.cholesky(np.eye(len(rest)) + last.matrix[np.ix_(rest, rest)])
    known = np.column_stack([last.matrix[np.ix_(rest, free)], last.right[rest] - at[rest]])
    half = solve_triangular(factor, known, lower=True)
    matrix = last.matrix[np.ix_(free, free)] - half[:, :-1].T @ half[:, :-1]
    right = last.right[free] - half[:, :-1].T @ half[:, -1]
    chi2 = float(np.sum(scene.weight * (scene.image - last.model) ** 2)) + float(at[rest] @ at[rest])
    base = -0.5 * chi2 + 0.5 * float(half[:, -1] @ half[:, -1]) - float(np.log(np.diag(factor)).sum())
    each = []
    for allowance_A in ALLOWANCES_A:
        unit = np.hypot(seen.place * allowance_A / scene.relaxation_A, own) / np.hypot(seen.place, own)
        unit = np.tile(unit[loose], 2)
        lower = np.linalg.cholesky(np.eye(len(free)) + matrix * np.outer(unit, unit))
        here = at[free] / unit
        most = solve_triangular(lower, right * unit - here, lower=True)
        each.append(base - 0.5 * float(here @ here) + 0.5 * float(most @ most) - float(np.log(np.diag(lower)).sum()))
    return float(logsumexp(each) - np.log(len(each)))


class _Solved(NamedTuple):
    """Where the linear equations at one point lead to."""

    step: FloatArray
    log_evidence: float


def _solve(system: Equations, at: FloatArray, scene: Scene) -> _Solved:
    """Laplace's evidence and the step to its maximum, with the equations at `at` (P,), in units of the prior widths."""
    right = system.right - at
    factor = np.linalg.cholesky(np.eye(len(right)) + system.matrix)
    half = solve_triangular(factor, right, lower=True)
    here = -0.5 * float(np.sum(scene.weight * (scene.image - system.model) ** 2)) - 0.5 * float(at @ at)
    log_evidence = here + 0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum())
    return _Solved(solve_triangular(factor.T, half, lower=False), log_evidence)


class _Path(NamedTuple):
    """Equations at the prior means, and at the last place (P,) of the way to the maximum, and the evidence on it."""

    first: Equations
    last: Equations
    at: FloatArray
    way: tuple[float, ...]


def _posed(first: Equations) -> FloatArray:
    """Model (h, w) with what all columns share fitted, but for the size of the field."""
    common = np.delete(np.arange(len(first.right) - COMMON, len(first.right)), FIELD)
    answer = np.zeros(len(first.right))
    matrix = np.eye(len(common)) + first.matrix[np.ix_(common, common)]
    answer[common] = np.linalg.solve(matrix, first.right[common])
    return first.moved(answer)


def _behind(way: list[float], leader: tuple[float, ...], whole: bool) -> bool:
    """Whether a structure stays behind: so far, and with what it may still gain."""
    steps = SLOWING if whole else max(SLOWING, STEPS + 1 - len(way))
    hope = way[-1] + steps * abs(way[-1] - way[-2])
    return len(way) > 2 and max(way) < leader[min(len(way), len(leader)) - 1] - BEHIND and hope < leader[-1] - BEHIND


def _most_probable(drawing: Drawing, scene: Scene, leader: tuple[float, ...] = ()) -> _Path:
    """The way to the most probable parameters.

    An image is linear in small displacements only: the equations are set up anew (Gauss-Newton) `LEAST` times, and as
    long as a step (halved where it leads too far) moves a column by more than `SMALL` of its width, changes the
    evidence, and raises the density.
    """
    first = system = equations(drawing, scene)
    at = np.zeros(len(system.right))
    solved = _solve(system, at, scene)
    density = -0.5 * float(np.sum(scene.weight * (scene.image - first.model) ** 2))
    way = [solved.log_evidence]
    for _ in range(STEPS):
        far = shifts_px(drawing, at + solved.step, scene) - shifts_px(drawing, at, scene)
        largest = float(np.hypot(*far.T).max(initial=0.0)) / scene.profile.width_px
        if largest < SMALL and len(way) > LEAST:
            break
        share, value = min(1.0, LARGEST / largest), -np.inf
        for _ in range(HALVED):
            there = at + share * solved.step
            trial_scene, trial = moved_to(drawing, there, scene, system)
            found = equations(trial, trial_scene)
            value = -0.5 * float(np.sum(scene.weight * (scene.image - found.model) ** 2)) - 0.5 * float(there @ there)
            if value > density:
                break
            share /= 2
        if value <= density:
            break
        density, at, system = value, there, found
        solved = _solve(system, at, scene)
        way.append(solved.log_evidence)
        if share == 1.0 and len(way) > LEAST and abs(way[-1] - way[-2]) < SETTLED:
            break
        if leader and _behind(way, leader, share == 1.0):
            break
    return _Path(first, system, at, tuple(way))
