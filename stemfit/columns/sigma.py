"""Error bars of the joint fit."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from stemfit.columns.linear import Linear, Solve, conjugate_gradients, two_level
from stemfit.columns.normal import blocks
from stemfit.columns.types import Profile

FloatArray = NDArray[np.float64]

MEMBERS = 8
"""Columns of a local matrix: one, its six neighbours, and a spare."""

CHUNK = 2000
"""Columns whose local matrices are held at once."""

SAMPLES = 1500
"""Column errors drawn to calibrate the local error bars: their scale is then known to 3 %."""

DRAWS = (1, 8)
"""Fewest and most simulated noise images."""

OUTLIER = 5.0
"""A response beyond this many local standard errors counts as this many: a column that the local matrix misjudges."""

ITERATIONS, ACCURACY = 24, 3e-4
"""Conjugate gradients per noise image: these answers are not corrected by an outer loop."""


LAGS, COLOURED = 8.0, 0.1
"""Distance over which noise may be correlated, px; rms deviation of its spectrum from white that is worth the effort,
where it is three times what chance makes of two spectra."""

FIRST, REFINED = 4, (0, 1, 0)
"""Iterations for all shared parameters; then which of their combinations, counted from the least certain one, is solved
again for what is left of it: columns and background imitate a tail but for some 1e-5 of its square."""


def quick_sigma(weight: FloatArray, seen: FloatArray, profile: Profile) -> FloatArray:
    """Standard error (N,) of the intensity of a column alone on a known background."""
    energy = (1 - profile.tail_fraction) ** 2 / (4 * np.pi * np.sqrt(np.linalg.det(profile.core_cov_px2)))
    return np.asarray(1 / np.sqrt(energy * weight[:, 2] * np.maximum(seen, 1e-3)))


def quick_covariance(
    xy_px: FloatArray, intensity: FloatArray, weight: FloatArray, seen: FloatArray, profile: Profile, clear: float
) -> FloatArray:
    """Covariance (N, 3, 3) of columns alone on a known background; of those below `clear` sigmas the local one."""
    own = np.arange(len(xy_px))
    visible = weight * np.maximum(seen, 1e-3)[:, None]
    cov = np.linalg.inv(blocks(xy_px, intensity, visible, profile, own, own))
    dim = np.flatnonzero(intensity < clear * np.sqrt(cov[:, 2, 2]))
    cov[dim] = local_covariance(xy_px, intensity, weight, seen, profile, only=dim)
    return np.asarray(cov)


class Judged(NamedTuple):
    """What the whole problem says at the end.

    Attributes
    ----------
    cov : (N, 3, 3) array
        Covariance of x, y and intensity of every column.
    shared_cov : (P, P) array
        Of the shared parameters.
    step : (3 N + M + P,) tensor
        Where the minimum is along the shared parameters, which conjugate gradients alone reach last.
    gain : float
        By how much chi-square is lower there.
    """

    cov: FloatArray
    shared_cov: FloatArray
    step: Tensor
    gain: float


def calibrated(
    local: FloatArray, seen: FloatArray, problem: Linear, solve: Solve, residual: Tensor, shared: FloatArray
) -> Judged:
    """Judge columns and profile in the whole problem.

    The local covariance is scaled by what columns and background together do to simulated noise; the errors of the
    shared parameters are added exactly. Intensities are meant up to one common factor. `shared` are the values of the
    shared parameters less what is expected of them.
    """
    rng = np.random.default_rng(0)
    alone = replace(problem, shared=problem.shared[:0], ridge=problem.ridge[: problem.own])
    precondition = two_level(alone, solve)
    draws = int(np.clip(round(SAMPLES / len(local)), *DRAWS))
    judged = _from_shared(problem, alone, precondition, residual, shared)
    plain, left = _responses(alone, precondition, rng, draws, None)
    position, light = _scales(plain, local, seen, draws)
    colour, factor = _colour(residual * alone.weight.sqrt(), left, _readable(alone)), 1.0
    if colour is not None:
        answers, _ = _responses(alone, precondition, rng, draws, colour)
        white, (position, light) = position, _scales(answers, local, seen, draws)
        factor = (position / white) ** 2
    scale = np.array([position, position, light])
    return judged._replace(
        cov=np.asarray(local * np.outer(scale, scale) + factor * judged.cov), shared_cov=factor * judged.shared_cov
    )


def _scales(answers: FloatArray, local: FloatArray, seen: FloatArray, draws: int) -> tuple[float, float]:
    """Real over local standard errors of positions and of intensities."""
    ratio = answers**2 / np.tile(np.diagonal(local, axis1=1, axis2=2), (draws, 1))
    ratio = np.minimum(ratio, OUTLIER**2)[np.tile(seen > 0.9, draws)]
    free, light = ratio[:, :2][ratio[:, :2] > 0], ratio[:, 2][ratio[:, 2] > 0]
    return tuple(float(np.sqrt(r.mean())) if len(r) else 1.0 for r in (free, light))  # type: ignore[return-value]


def _responses(
    alone: Linear, precondition: Solve, rng: np.random.Generator, draws: int, colour: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Errors (draws N, 3) of the columns for noise images, white or coloured; what is left of the last one (H, W)."""
    errors = []
    for _ in range(draws):
        white = rng.standard_normal(tuple(alone.weight.shape))
        if colour is not None:
            white = np.fft.irfft2(np.fft.rfft2(white) * np.sqrt(colour), white.shape)
        noise = torch.from_numpy(white).to(alone.weight)
        right = alone.adjoint(alone.weight.sqrt() * noise)
        answer = conjugate_gradients(alone, right, precondition, ITERATIONS, ACCURACY)
        errors.append(np.asarray(answer[: 3 * len(alone.intensity)].double().cpu().numpy()).reshape(-1, 3))
    left = noise - alone.weight.sqrt() * alone.forward(answer)
    return np.concatenate(errors), np.asarray(left.double().cpu().numpy())


def _readable(alone: Linear) -> NDArray[np.bool_]:
    """Pixels (H, W) that are trusted, and farther from the edge than the light of columns beyond it."""
    weight = np.asarray(alone.weight.double().cpu().numpy())
    rim = int(np.sqrt(alone.brush.stamps.core.shape[1])) // 2
    inner = np.zeros(weight.shape, dtype=bool)
    inner[rim:-rim, rim:-rim] = True
    return np.asarray(inner & (weight > 0.05 * np.median(weight)))


def _colour(residual: Tensor, left: FloatArray, readable: NDArray[np.bool_]) -> FloatArray | None:
    """Power spectrum (H, W // 2 + 1) of the image's noise over the white one that the weights promise; None if white.

    The fit takes the low frequencies out of both; what it left of known noise says how much that was.
    """
    z = np.asarray(residual.double().cpu().numpy())
    if readable.mean() < 0.2:
        return None
    spread = max(1.4826 * float(np.median(np.abs(z[readable]))), 1e-300)
    seen, known = (_smooth_power(field * readable) for field in (np.clip(z, -4 * spread, 4 * spread), left))
    ratio = np.clip(seen / np.maximum(known, 0.05 * known.mean()), 0.0, None)
    chance = float(np.sqrt(np.pi * LAGS**2 / z.size))
    return ratio if float(np.sqrt(np.mean((ratio - 1) ** 2))) > max(COLOURED, 3 * chance) else None


def _smooth_power(field: FloatArray) -> FloatArray:
    """Power spectrum of a field with correlations beyond `LAGS` left out."""
    h, w = field.shape
    correlation = np.fft.irfft2(np.abs(np.fft.rfft2(field)) ** 2, field.shape) / field.size
    dy, dx = np.minimum(np.arange(h), h - np.arange(h)), np.minimum(np.arange(w), w - np.arange(w))
    taper = np.exp(-0.5 * (np.hypot(dy[:, None], dx[None, :]) / (LAGS / 2)) ** 2)
    return np.maximum(np.fft.rfft2(correlation * taper).real, 0.0)


def _from_shared(
    problem: Linear, alone: Linear, precondition: Solve, residual: Tensor, values: FloatArray
) -> Judged:
    """What the errors of the shared parameters add to columns, their own covariance, and their minimum.

    R S^-1 R^T and S^-1 of the inverse of a matrix in blocks, S the Schur complement: the square of what columns and
    background cannot imitate of the derivatives.

    A common factor of all intensities is taken out: tail and background leave the scale open, comparisons do not care.
    """
    n, p, own = len(problem.intensity), len(problem.shared), problem.own
    answers, left = _imitated(alone, problem.shared, precondition, FIRST)
    root = torch.einsum("phw,hw,phw->p", problem.shared, problem.weight, problem.shared).double().sqrt()
    root = root.clamp(min=1e-6 * float(root.max()))  # what lies beyond the image may not be seen at all
    _, vectors = torch.linalg.eigh(_gram(left, problem.weight) / root / root[:, None])
    mixed = (vectors / root[:, None]).T  # combinations (P, P) of the parameters, the least certain one first
    answers = (mixed @ answers.double()).to(answers)
    left = torch.einsum("qp,phw->qhw", mixed, left.double()).to(left)
    for k in REFINED[:p]:
        more, rest = _imitated(alone, left[k : k + 1], precondition, ITERATIONS)
        answers[k] += more[0]
        left[k] = rest[0]
    ridge = problem.ridge[own:].double()
    schur = _gram(left, problem.weight) + mixed @ torch.diag(ridge) @ mixed.T
    values_of, vectors = torch.linalg.eigh(schur)
    spread = vectors / values_of.clamp(min=1e-12 * float(values_of[-1])).sqrt()
    rows = (answers[:, : 3 * n].double().T @ spread).reshape(n, 3, -1)
    light = (problem.lit * problem.intensity).double()
    rows[:, 2] -= torch.outer(light, light @ rows[:, 2] / (light @ light))
    pull = torch.einsum("phw,hw->p", left.double(), (problem.weight * residual).double())
    pull = pull - mixed @ (ridge * torch.from_numpy(values).to(ridge))
    best = spread @ (spread.T @ pull)
    shared = mixed.T @ spread
    step = torch.cat([-(best @ answers[:, :own].double()), mixed.T @ best])
    added = torch.einsum("nap,nbp->nab", rows, rows)
    return Judged(
        np.asarray(added.cpu().numpy()), np.asarray((shared @ shared.T).cpu().numpy()), step, float(pull @ best)
    )


def _imitated(alone: Linear, images: Tensor, precondition: Solve, iterations: int) -> tuple[Tensor, Tensor]:
    """What columns and background must do to look most like each image (P, 3N+M), and what they cannot (P, H, W)."""
    answers = torch.stack([
        conjugate_gradients(alone, alone.adjoint(alone.weight * image), precondition, iterations, ACCURACY)
        for image in images
    ])
    return answers, images - torch.stack([alone.forward(answer) for answer in answers])


def _gram(images: Tensor, weight: Tensor) -> Tensor:
    """Weighted inner products (P, P)."""
    flat = (images * weight.sqrt()).double().reshape(len(images), -1)
    return flat @ flat.T


def local_covariance(
    xy_px: FloatArray, intensity: FloatArray, weight: FloatArray, seen: FloatArray, profile: Profile, *,
    only: NDArray[np.int64] | None = None,
) -> FloatArray:
    """Own part (N, 3, 3) of the inverse matrix of a column, its neighbours and a constant background; or of some."""
    n = len(xy_px)
    wanted = np.arange(n) if only is None else only
    if len(wanted) == 0:
        return np.empty((0, 3, 3))
    m = min(MEMBERS, n)
    distance, near = (np.asarray(a).reshape(-1, m) for a in cKDTree(xy_px).query(xy_px[wanted], k=m))
    visible = weight * np.maximum(seen, 1e-3)[:, None]
    parts = [slice(k, k + CHUNK) for k in range(0, len(wanted), CHUNK)]
    return np.concatenate([
        _inverse_part(xy_px, intensity, visible, profile, distance[part], near[part]) for part in parts
    ])


def _inverse_part(
    xy_px: FloatArray, intensity: FloatArray, visible: FloatArray, profile: Profile, distance: FloatArray,
    near: NDArray[np.int64],
) -> FloatArray:
    """The same for the columns near[:, 0], whose neighbours are `near` (n, m) with themselves."""
    n, m = near.shape
    p, q = np.triu_indices(m)
    half = blocks(xy_px, intensity, visible, profile, near[:, p].ravel(), near[:, q].ravel()).reshape(n, -1, 3, 3)
    block = np.empty((n, m, m, 3, 3))
    block[:, p, q], block[:, q, p] = half, half.transpose(0, 1, 3, 2)
    local = np.zeros((n, 3 * m + 1, 3 * m + 1))
    local[:, :-1, :-1] = block.transpose(0, 1, 3, 2, 4).reshape(n, 3 * m, 3 * m)
    # The last unknown is the background under these columns: known from their own neighbourhood alone.
    area = np.pi * (distance[:, -1] + 2 * profile.width_px) ** 2
    level, core = visible[near[:, 0], 2], 1 - profile.tail_fraction
    local[:, -1, -1] = level * area
    local[:, 2:-1:3, -1] = local[:, -1, 2:-1:3] = core * np.sqrt(visible[near, 2] * level[:, None])
    diagonal = np.arange(3 * m + 1)
    local[:, diagonal, diagonal] *= 1 + 1e-9
    return np.asarray(torch.linalg.inv(torch.from_numpy(local)).numpy()[:, :3, :3])
