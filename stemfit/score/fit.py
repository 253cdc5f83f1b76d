"""Evidence of one structure: the likelihood of the patch with all that the structure does not fix integrated out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.spatial import cKDTree

from stemfit.candidates import Candidate
from stemfit.columns import Profile
from stemfit.columns.stamps import drawn
from stemfit.imaging import Imaging
from stemfit.lattice import Lattice
from stemfit.relax import Relaxed
from stemfit.score.misfit import Misfit, misfit_of
from stemfit.score.scene import Scene, columns_of

FloatArray = NDArray[np.float64]

SHIFT, GAIN, LEVEL = 0.03, 0.10, 0.3
"""Prior widths of what is common to a patch: shift in lattice constants, relative brightness, level and slope of the
background in units of the brightest column's peak. They are wider than what the image's own fit leaves open."""

STRAIN = 0.01
"""The same of each component of strain and rotation. The smooth distortion of the scan, fitted beforehand, has taken
up part of the field of a defect that draws its surroundings in: else the one with the shorter field would win."""


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
    candidate: Candidate, relaxed: Relaxed, scene: Scene, imaging: Imaging, sigma_px: float, lattice: Lattice, *,
    loose: bool = False,
) -> Fit:
    """Evidence and best model of one structure on a scene.

    With `loose` the hypothesis is only that something is different here: a column of any brightness on the site of the
    defect, and neighbours displaced by up to a tenth of the lattice constant.
    """
    xy, amplitude, brightness, place = columns_of(candidate, relaxed, scene, imaging)
    place = np.hypot(place, sigma_px / scene.pixel)
    if loose:
        centre = (candidate.matrix @ candidate.center_A + candidate.offset_px - scene.corner) / scene.pixel
        a = lattice.a_px_iso / scene.pixel
        place = np.where(np.hypot(*(xy - centre).T) < 0.7 * a, np.hypot(place, 0.1 * a), place)
        xy, amplitude = np.vstack([xy, centre]), np.append(amplitude, 0.0)
        brightness, place = np.append(brightness, amplitude.max()), np.append(place, 0.0)
    shapes = drawn(xy, scene.profile, scene.image.shape)
    model = scene.surroundings + np.tensordot(amplitude, shapes[0], 1)
    design = _design(xy, shapes, amplitude, brightness, place, scene.profile, lattice.a_px_iso / scene.pixel)
    w, residual = scene.weight.ravel(), (scene.image - model).ravel()
    jacobian = design.reshape(len(design), -1)
    matrix = np.eye(len(jacobian)) + (jacobian * w) @ jacobian.T
    right = jacobian @ (w * residual)
    factor = np.linalg.cholesky(matrix)
    half = solve_triangular(factor, right, lower=True)
    log_evidence = 0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum()) - 0.5 * float(w @ residual**2)
    answer = solve_triangular(factor.T, half, lower=False)
    best = model + np.tensordot(answer, design, 1)
    rest = (scene.image - best).ravel()
    near = cKDTree(scene.extent).query(xy)[0] < TESTED * lattice.a_px_iso / scene.pixel
    misfit = misfit_of(matrix - np.eye(len(matrix)), right, np.flatnonzero(np.tile(near, 3)))
    return Fit(log_evidence, best, float(w @ rest**2) / max(1, int((w > 0).sum())), misfit)


def _design(
    xy: FloatArray, shapes: tuple[FloatArray, FloatArray, FloatArray], amplitude: FloatArray, brightness: FloatArray,
    place: FloatArray, profile: Profile, a_px: float,
) -> FloatArray:
    """Derivative images (P, h, w), each times the prior width of its parameter."""
    value, *moves = shapes
    # Light where an atom is missing comes from its neighbours: it lies anywhere within the width of a column.
    reach = np.where(amplitude == 0, brightness * profile.width_px, amplitude * place)
    own = [brightness[:, None, None] * value, *(reach[:, None, None] * g for g in moves)]
    shift = SHIFT * a_px
    common = [shift * np.tensordot(amplitude, g, 1) for g in moves]
    middle = np.array(value.shape[:0:-1]) / 2
    common += [STRAIN * np.tensordot(amplitude * lever, g, 1) for lever in (xy - middle).T for g in moves]
    peak = LEVEL * float(amplitude.max()) / (2 * np.pi * profile.width_px**2)
    y, x = np.mgrid[-0.5 : 0.5 : value.shape[1] * 1j, -0.5 : 0.5 : value.shape[2] * 1j]
    common += [GAIN * np.tensordot(amplitude, value, 1), np.full(x.shape, peak), peak * x, peak * y]
    return np.concatenate([*own, np.stack(common)])
