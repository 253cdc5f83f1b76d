"""Normal equations of a patch against dense ones in double precision, drawn by other code."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stemfit.columns import Profile
from stemfit.columns.stamps import render
from stemfit.score import normal
from stemfit.score.fit import _solve
from stemfit.score.normal import COMMON, GAIN, LEVEL, SHIFT, STRAIN, Drawing, equations
from stemfit.score.others import Field, Others
from stemfit.score.scene import Scene

FloatArray = NDArray[np.float64]

PROFILE = Profile(np.array([[2.6, 0.3], [0.3, 2.2]]), 4.5, 0.2)
SHAPE = (41, 47)


def _patch() -> tuple[Drawing, Scene]:
    rng = np.random.default_rng(8)
    x, y = np.meshgrid(np.arange(4, 45, 7.0), np.arange(3, 40, 6.0))
    xy = np.column_stack([x.ravel(), y.ravel()]) + rng.normal(0, 0.3, (x.size, 2))
    amplitude = rng.uniform(2e3, 6e3, len(xy))
    brightness, place = 0.05 * amplitude, rng.uniform(0.1, 0.4, len(xy))
    drawing = Drawing(xy, amplitude, brightness, place, 12.0, rng.normal(0, 0.2, (len(xy), 2)))
    there = xy + rng.normal(0, 0.2, xy.shape)
    image = 30 + render(there, amplitude * rng.normal(1, 0.05, len(xy)), PROFILE, SHAPE)
    weight = 1 / np.maximum(image, 1.0)
    weight[:, :5] = 0.0
    none = np.empty((0, 2))
    still, others = Field(none, none, none), Others(none, np.empty(0), np.empty(0))
    return drawing, Scene(
        rng.normal(image, np.sqrt(image)), np.full(SHAPE, 28.0), weight, np.zeros(2), 1.0, PROFILE, 1.0, xy[:1], others,
        still, 12.0,
    )  # fmt: skip


def _dense(drawing: Drawing, scene: Scene) -> tuple[FloatArray, FloatArray]:
    """Matrix and right side from derivatives by differences."""
    xy, amplitude, n = drawing.xy, drawing.amplitude, len(drawing.xy)
    step, (h, w) = 1e-3, SHAPE

    def slope(move: FloatArray) -> FloatArray:
        ahead, behind = (render(xy + sign * step * move, amplitude, PROFILE, SHAPE) for sign in (1, -1))
        return np.asarray((ahead - behind) / (2 * step))

    one = np.eye(n)
    images = [render(xy, drawing.brightness[k] * one[k], PROFILE, SHAPE) for k in range(n)]
    images += [slope(drawing.place[k] * one[k][:, None] * axis) for axis in np.eye(2) for k in range(n)]
    off = xy - np.array([w, h]) / 2
    images += [slope(SHIFT * drawing.a_px * np.ones((n, 1)) * axis) for axis in np.eye(2)]
    images += [slope(STRAIN * off[:, k, None] * axis) for k in (0, 1) for axis in np.eye(2)]
    y, x = np.mgrid[:h, :w]
    level = LEVEL * amplitude.max() / (2 * np.pi * PROFILE.width_px**2)
    images += [slope(drawing.moves), GAIN * render(xy, amplitude, PROFILE, SHAPE), np.full(SHAPE, level)]
    images += [level * (x / (w - 1) - 0.5), level * (y / (h - 1) - 0.5)]
    design = np.array(images).reshape(3 * n + COMMON, -1)
    left = scene.image - scene.surroundings - render(xy, amplitude, PROFILE, SHAPE)
    weighted = design * scene.weight.ravel()
    return weighted @ design.T, weighted @ left.ravel()


@pytest.mark.parametrize("tile", [16, 64])
def test_equations_agree_with_dense_ones_in_double_precision(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normal, "TILE", tile)
    drawing, scene = _patch()
    found, (matrix, right) = equations(drawing, scene), _dense(drawing, scene)
    exact = found._replace(matrix=matrix, right=right)
    one, other = (_solve(system, np.zeros(len(right)), scene).log_evidence for system in (found, exact))
    assert abs(one - other) < 0.01  # a hundredth of what is a tie; differences and the drawing of tails make 1e-3
    worse = exact._replace(right=np.where(np.arange(len(right)) == 7, 0.0, right))
    assert abs(_solve(worse, np.zeros(len(right)), scene).log_evidence - one) > 0.01
