"""Evidence of one structure: the likelihood of the patch with all that the structure does not fix integrated out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.spatial import cKDTree

from stemfit.lattice import Lattice
from stemfit.score.misfit import Misfit, misfit_of
from stemfit.score.normal import Drawing, equations
from stemfit.score.scene import Predicted, Scene

FloatArray = NDArray[np.float64]

TESTED = 0.75
"""Columns are held against a structure within this many lattice constants of a site that it changes: the site and the
columns bound to it. The next equal sites, 1.0 away, may have defects of their own."""


class Fit(NamedTuple):
    """One candidate on one scene."""

    log_evidence: float
    model: FloatArray
    residual_chi2: float
    misfit: Misfit


def fit(
    seen: Predicted, scene: Scene, sigma_px: float, lattice: Lattice, *, loose_at: FloatArray | None = None
) -> Fit:
    """Evidence and best model of a structure's columns on a scene.

    With a place `loose_at` (2,), on the scene's pixels, the hypothesis is only that something is different there: it
    has a column of any brightness, and neighbours displaced by up to a tenth of the lattice constant.
    """
    xy, amplitude, brightness, place = seen
    place = np.hypot(place, sigma_px / scene.pixel)
    if loose_at is not None:
        a = lattice.a_px_iso / scene.pixel
        place = np.where(np.hypot(*(xy - loose_at).T) < 0.7 * a, np.hypot(place, 0.1 * a), place)
        xy, amplitude = np.vstack([xy, loose_at]), np.append(amplitude, 0.0)
        brightness, place = np.append(brightness, amplitude.max()), np.append(place, 0.0)
    drawing = Drawing(xy, amplitude, brightness, place, lattice.a_px_iso / scene.pixel)
    model, _, information, right = system = equations(drawing, scene)
    factor = np.linalg.cholesky(np.eye(len(right)) + information)
    half = solve_triangular(factor, right, lower=True)
    before = float(np.sum(scene.weight * (scene.image - model) ** 2))
    log_evidence = 0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum()) - 0.5 * before
    best = system.moved(solve_triangular(factor.T, half, lower=False))
    rest = float(np.sum(scene.weight * (scene.image - best) ** 2))
    near = cKDTree(scene.extent).query(xy)[0] < TESTED * lattice.a_px_iso / scene.pixel
    misfit = misfit_of(information, right, np.flatnonzero(np.tile(near, 3)))
    return Fit(log_evidence, best, rest / max(1, int((scene.weight > 0).sum())), misfit)
