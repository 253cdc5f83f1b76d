"""Normal equations by tiles are those of the whole patch at once."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stemfit.columns import Profile
from stemfit.columns.stamps import drawn
from stemfit.score import Others, Scene, normal
from stemfit.score.others import superposed

FloatArray = NDArray[np.float64]

SIZE = (71, 97)
PROFILE = Profile(np.array([[4.1, 0.5], [0.5, 3.2]]), 5.3, 0.3)


def patch() -> tuple[normal.Drawing, Scene]:
    """Columns on a wide patch, some of them empty, some beyond its edge, and a disc of pixels with noise."""
    rng = np.random.default_rng(5)
    h, w = SIZE
    xy = rng.uniform(-6, [w + 6, h + 6], (90, 2))
    amplitude = np.where(np.arange(90) % 9 == 4, 0.0, rng.uniform(100, 400, 90))
    y, x = np.mgrid[:h, :w]
    weight = (np.hypot(x - 50, y - 34) < 31) / rng.uniform(1.0, 3.0, SIZE)
    none, nowhere = Others(np.zeros((0, 2)), np.zeros(0), np.zeros(0)), superposed((), np.zeros((1, 2)), 50.0, 3.0)
    image, around = rng.normal(60, 10, SIZE), rng.normal(10, 1, SIZE)
    scene = Scene(image, around, weight, np.zeros(2), 1.0, PROFILE, 1.0, np.zeros((1, 2)), none, nowhere, 9.0)
    light, place, moves = rng.uniform(5, 20, 90), rng.uniform(0.1, 0.5, 90), rng.normal(0, 0.2, (90, 2))
    return normal.Drawing(xy, amplitude, light, place, 9.0, moves), scene


def at_once(drawing: normal.Drawing, scene: Scene) -> tuple[FloatArray, FloatArray]:
    """Model, and derivative images by numerical differences and from the definition of the shared ones."""
    h, w = SIZE
    shapes = drawn(drawing.xy, scene.profile, SIZE)
    reach = np.where(drawing.amplitude == 0, drawing.brightness * scene.profile.width_px, 1.0)
    light = np.where(drawing.amplitude == 0, 1.0, drawing.amplitude * drawing.place)
    own = [drawing.brightness[:, None, None] * shapes[0], *((reach * light)[:, None, None] * g for g in shapes[1:])]

    def model(xy: FloatArray) -> FloatArray:
        return np.tensordot(drawing.amplitude, drawn(xy, scene.profile, SIZE)[0], 1)

    def slope(step: FloatArray) -> FloatArray:
        return (model(drawing.xy + 1e-4 * step) - model(drawing.xy - 1e-4 * step)) / 2e-4

    one, lever = np.ones(len(drawing.xy)), (drawing.xy - np.array([w, h]) / 2).T
    shift = [slope(normal.SHIFT * drawing.a_px * np.outer(one, axis)) for axis in np.eye(2)]
    strain = [slope(normal.STRAIN * np.outer(arm, axis)) for arm in lever for axis in np.eye(2)]
    strain.append(slope(drawing.moves))
    peak = normal.LEVEL * drawing.amplitude.max() / (2 * np.pi * scene.profile.width_px**2)
    y, x = np.mgrid[-0.5 : 0.5 : h * 1j, -0.5 : 0.5 : w * 1j]
    rest = [normal.GAIN * model(drawing.xy), np.full(SIZE, peak), peak * x, peak * y]
    return scene.surroundings + model(drawing.xy), np.concatenate([*own, np.stack([*shift, *strain, *rest])])


def test_tiles_add_up_to_the_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, scene = patch()
    model, design = at_once(drawing, scene)
    flat, weight = design.reshape(len(design), -1), scene.weight.ravel()
    matrix, right = (flat * weight) @ flat.T, flat @ (weight * (scene.image - model).ravel())
    answer = np.random.default_rng(1).normal(size=len(right))

    def off() -> float:
        made = normal.equations(drawing, scene)
        pairs = (
            (made.model, model), (made.matrix, matrix), (made.right, right),
            (made.moved(answer), model + np.tensordot(answer, design, 1)),
        )  # fmt: skip
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)

    assert np.abs(normal.equations(drawing, scene).model - model).max() < 1e-6 * model.max()
    assert 1e-6 < off() < 3e-5  # changes are not drawn as far as columns are
    monkeypatch.setattr(normal, "WEAK", normal.FAINT)
    assert off() < 1e-6
    monkeypatch.setattr(normal, "TILE", 7)
    assert off() < 1e-6
    monkeypatch.setattr(normal, "FAINT", 1e-3)  # columns that end too early show
    assert off() > 1e-5


def test_a_tile_without_columns_has_only_what_all_columns_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corners of a patch round a long line lie far outside of the disc."""
    drawing, scene = patch()
    monkeypatch.setattr(normal, "TILE", 7)
    few = drawing._replace(xy=np.tile([[80.0, 60.0]], (len(drawing.xy), 1)))
    narrow = Profile(np.eye(2), 1.0, 0.0)
    made = normal.equations(few, scene._replace(profile=narrow))
    corner = made.tiles[0]
    assert corner.parameters.tolist() == [270 + k for k in range(normal.COMMON)]
    assert np.array_equal(made.model[corner.box], scene.surroundings[corner.box])
    assert np.any(corner.design[-3:] != 0)
    assert not corner.design[:-3].any()


def test_the_equations_move_with_the_columns() -> None:
    """Model at parameters by drawing anew, against the linear one: the difference is of second order."""
    drawing, scene = patch()
    system = normal.equations(drawing, scene)
    rng = np.random.default_rng(5)
    answer = rng.normal(size=len(system.right))
    error = []
    for step in (0.02, 0.01):
        there, moved = normal.moved_to(drawing, step * answer, scene, system)
        error.append(np.abs(normal.equations(moved, there).model - system.moved(step * answer)).max())
    assert 0 < error[1] < 0.3 * error[0]
