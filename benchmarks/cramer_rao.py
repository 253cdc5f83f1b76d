"""Smallest errors that any unbiased fit of an image with Poisson noise can have: the Cramer-Rao bound.

The expected counts are mu = b + sum_k I_k p_s(r - r_k). Free are the position r_k and the intensity I_k of every column
in the frame, one width s of all columns (core and tail together) and one background b. The Fisher matrix of independent
Poisson pixels is F = J^T diag(1 / mu) J with J = d mu / d parameters; its inverse is the bound on their covariance
(e.g. Kay, Fundamentals of Statistical Signal Processing, 1993, chapter 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from honeycombs import BoolArray, FloatArray, Scene, Shape, stamps
from scipy.sparse import csr_array, hstack

REACH_SIGMA = 8.0
"""Derivatives are cut here, in widths of the core: of a Lorentzian-like tail less than 1e-3 of the peak is left."""


@dataclass(frozen=True)
class Bound:
    """Bound on the errors of chosen columns.

    Attributes
    ----------
    position : (K, 2) array
        Standard error of x and y, px.
    intensity_cov : (K, K) array
        Covariance of the intensities.
    """

    position: FloatArray
    intensity_cov: FloatArray

    def relative_intensity(self, intensity: FloatArray) -> FloatArray:
        """Standard error (K,) of intensities that may all be multiplied by one factor, fitted as `common_factor` does.

        What is common to all columns (that of the width, for one) is then no error.
        """
        weight = intensity / np.diag(self.intensity_cov)
        keep = np.eye(len(intensity)) - np.outer(intensity, weight) / (weight @ intensity)
        return np.asarray(np.sqrt(np.einsum("ij,jk,ik->i", keep, self.intensity_cov, keep, optimize=True)))

    def common_factor(self, measured: FloatArray, intensity: FloatArray, rows: BoolArray) -> float:
        """Weighted mean of measured over true intensity of some of the columns."""
        weight = intensity[rows] / np.diag(self.intensity_cov)[rows]
        return float(weight @ measured / (weight @ intensity[rows]))


class Model(NamedTuple):
    """Parameters of an image: columns that are free, and how all of them look."""

    xy: FloatArray
    intensity: FloatArray
    shape: Shape


def bound(scene: Scene, chosen: BoolArray) -> Bound:
    """Bound for the chosen sites of a scene.

    Columns beyond the frame, whose light reaches into it, are taken as known.
    """
    free = scene.inside(0) & (scene.intensity > 0)
    model = Model(scene.xy[free], scene.intensity[free], scene.shape)
    covariance = inverse(fisher(model, scene.expected))
    rows = np.flatnonzero(chosen[free])
    x, y, i = (3 * rows + k for k in range(3))
    variance = np.diag(covariance)
    return Bound(np.sqrt(np.column_stack([variance[x], variance[y]])), covariance[np.ix_(i, i)])


def fisher(model: Model, expected: FloatArray) -> FloatArray:
    """Fisher matrix (P, P); parameters are x, y, I of each column in turn, then relative width and background."""
    j = jacobian(model, expected.shape)
    weighted = j.multiply(1 / expected.ravel()[:, None])
    return np.asarray((j.T @ weighted).toarray())


def jacobian(model: Model, size: tuple[int, ...]) -> csr_array:
    """Derivatives of mu with respect to the parameters, (pixels, P).

    With u = S^-1 (r - r_k), S the stretch, and p = f(|u|) / det S: dp/dr_k = g S^-T u / det S with g = -f'(u) / u, and
    for widths s times as large dp/ds = (g u^2 - 2 f) / det S at s = 1.
    """
    back, area = np.linalg.inv(model.shape.stretch), np.linalg.det(model.shape.stretch)
    reach = min(model.shape.reach_px, int(np.ceil(REACH_SIGMA * model.shape.sigma_px)))
    width = np.zeros(size)
    at, which, values = [], [], []
    for rows, cols, k in stamps(size, model.xy, reach):
        offset = np.stack(np.meshgrid(cols - model.xy[k, 0], rows - model.xy[k, 1]), -1)
        u = offset @ back.T
        f, g = model.shape.radial(np.hypot(*np.moveaxis(u, -1, 0)))
        shift = model.intensity[k] / area * g[..., None] * (u @ back)
        width[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] += (
            model.intensity[k] / area * (g * (u**2).sum(-1) - 2 * f)
        )
        at.append(np.tile((rows[:, None] * size[1] + cols).ravel(), 3))
        which.append(np.repeat([3 * k, 3 * k + 1, 3 * k + 2], f.size))
        values.append(np.concatenate([shift[..., 0].ravel(), shift[..., 1].ravel(), f.ravel() / area]))
    columns = csr_array(
        (np.concatenate(values), (np.concatenate(at), np.concatenate(which))),
        shape=(size[0] * size[1], 3 * len(model.xy)),
    )
    shared = csr_array(np.column_stack([width.ravel(), np.ones(width.size)]))
    return csr_array(hstack([columns, shared]))


def inverse(matrix: FloatArray) -> FloatArray:
    """Inverse of a symmetric matrix whose parameters have different units."""
    scale = np.sqrt(np.diag(matrix))
    return np.asarray(np.linalg.inv(matrix / np.outer(scale, scale)) / np.outer(scale, scale))
