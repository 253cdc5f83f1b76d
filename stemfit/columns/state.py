"""Where the fit stands, and how a step changes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemfit.columns.normal import Spline
from stemfit.columns.stamps import Brush, tail_transfer
from stemfit.columns.types import Noise, Profile

FloatArray = NDArray[np.float64]

TAIL_RATIO = 2.5
"""Width of the tail over that of the core; the share of the tail is fitted."""

MOST_TAIL = 0.6
"""Largest share of the tail."""

@dataclass(frozen=True)
class State:
    """All that is fitted, and the noise that it is fitted with."""

    xy: FloatArray  # (N, 2)
    intensity: FloatArray  # (N,)
    profile: Profile
    coef: FloatArray  # (MY, MX) background coefficients
    noise: Noise
    held: NDArray[np.bool_]  # (N,) position fixed
    beyond: NDArray[np.bool_]  # (N,) outside the image: neither position nor own brightness is fitted
    rest: float = np.inf  # decrease of chi-square per unknown that the last step brought, if it was one of all unknowns


class Stage(NamedTuple):
    """Gauss-Newton steps of one kind."""

    steps: int
    move: bool
    profile: int  # shared parameters that are free: 0 none, 3 core, 4 core and tail
    iterations: int  # conjugate gradients per step


def project(image: FloatArray, basis: Spline) -> FloatArray:
    """Coefficients (MY, MX) of the background that is nearest to an image."""
    return np.asarray(np.linalg.pinv(basis.rows) @ image @ np.linalg.pinv(basis.cols).T)


def chosen(state: State, keep: NDArray[np.bool_]) -> State:
    """The columns to keep."""
    if keep.all():
        return state
    return replace(
        state, xy=state.xy[keep], intensity=state.intensity[keep], held=state.held[keep],
        beyond=state.beyond[keep], rest=np.inf,
    )


def moved(state: State, solution: FloatArray, stage: Stage) -> State:
    """Apply a step, shortened so that the core changes by at most 30 %, the tail by 0.15 and stays within its bounds.

    The step is shortened as a whole, because brightness, background and profile go together. No column moves farther
    than half its width. What lies beyond the image becomes brighter as a whole.
    """
    n = len(state.xy)
    last = solution[3 * n + state.coef.size :]
    shared, brighter = np.zeros(4), float(last[stage.profile]) if len(last) > stage.profile else 0.0
    shared[: stage.profile] = last[: stage.profile]
    old = state.profile.tail_fraction
    size = float(np.abs(shared[:3]).max()) / (0.3 * float(np.linalg.eigvalsh(state.profile.core_cov_px2)[0]))
    room = min(0.15, MOST_TAIL - old if shared[3] > 0 else old)
    short = 1 / max(1.0, size, abs(shared[3]) / max(room, 1e-9), 3 * abs(brighter))
    solution, shared, brighter = short * solution, short * shared, short * brighter
    change = solution[: 3 * n].reshape(n, 3)
    limit = 0.5 * state.profile.width_px
    cov = state.profile.core_cov_px2 + np.array([[shared[0], shared[1]], [shared[1], shared[2]]])
    tail = float(np.clip(old + shared[3], 0.0, MOST_TAIL))
    return replace(
        state,
        xy=state.xy + np.clip(change[:, :2], -limit, limit) * ~(state.held | state.beyond)[:, None],
        intensity=np.where(state.beyond, (1 + brighter) * state.intensity, state.intensity + change[:, 2]),
        coef=state.coef + solution[3 * n : 3 * n + state.coef.size].reshape(state.coef.shape),
        profile=Profile(cov, TAIL_RATIO * float(np.linalg.det(cov) ** 0.25), tail),
    )


def damped(intensity: FloatArray) -> FloatArray:
    """Intensities for the matrix alone: a vanishing column must not make its position block singular."""
    if len(intensity) == 0:
        return intensity
    scale = float(np.percentile(np.abs(intensity), 75))
    return np.sign(intensity + 1e-300) * np.maximum(np.abs(intensity), 0.1 * scale)


def local_weight(paint: Brush, weight: Tensor) -> tuple[FloatArray, FloatArray]:
    """Mean inverse variance (N, 3) as x, y and intensity of each column see it; its share (N,) inside the image."""
    stamps = paint.stamps
    filled = torch.nn.functional.pad(weight, (stamps.pad,) * 4).reshape(-1)
    filled = filled.index_select(0, stamps.at.reshape(-1)).reshape(stamps.at.shape)
    inside = (filled > 0).to(filled)
    found = []
    for shape in (stamps.grad_x, stamps.grad_y, stamps.core):
        square = shape**2
        total = square.sum(1)
        found.append((filled * square).sum(1) / torch.maximum((square * inside).sum(1), 1e-3 * total))
    share = (square * inside).sum(1) / total
    local = torch.stack(found, 1).clamp(min=1e-3 * float(weight.min()))
    return np.asarray(local.double().cpu().numpy()), np.asarray(share.double().cpu().numpy())


def shared_derivatives(state: State, paint: Brush, profile: int) -> Tensor:
    """Derivative images (P, H, W) of the model for what all columns share.

    The first `profile` of core variance xx, xy, yy (heat equation) and the tail's share; last, where there are any, the
    relative brightness of what lies beyond the image.
    """
    s = paint.stamps
    if profile == 0:
        return s.core.new_zeros(0, *s.shape)
    p = np.linalg.inv(state.profile.core_cov_px2)
    weighted = torch.from_numpy(state.intensity).to(s.core)[:, None] * s.core
    safe = s.core.clamp(min=1e-30)
    gx, gy = s.grad_x / safe, s.grad_y / safe
    factors = (0.5 * (gx**2 - float(p[0, 0])), gx * gy - float(p[0, 1]), 0.5 * (gy**2 - float(p[1, 1])))
    drawn = [paint.draw(torch.stack([weighted * f for f in factors]))]
    if profile == 4:
        drawn.append(paint.draw(weighted, tail_transfer(state.profile, paint.canvas, s.core) - 1)[None])
    if state.beyond.any():
        drawn.append(paint.draw(weighted * torch.from_numpy(state.beyond).to(s.core)[:, None])[None])
    return torch.cat(drawn)
