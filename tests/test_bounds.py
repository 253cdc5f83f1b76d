"""The Cramer-Rao bound of the benchmarks: derivatives as drawn, closed forms of an isolated Gaussian."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

SIGMA = 3.75
SIZE = (70, 82)
AT = np.array([[40.3, 33.8]])


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        yield


def shape(profile="Gaussian", stretch=None):
    from honeycombs import PROFILES, Shape

    return Shape(PROFILES[profile], SIGMA, np.eye(2) if stretch is None else stretch)


def drawn(model, background):
    from honeycombs import draw

    canvas = np.full(SIZE, background)
    draw(canvas, model.xy, model.intensity, model.shape, np.zeros(SIZE[0]))
    return canvas


def alone(intensity, background):
    """Standard errors of x and I of one Gaussian whose width and background are known."""
    from cramer_rao import Model, fisher, inverse

    model = Model(AT, np.array([intensity]), shape())
    information = fisher(model, drawn(model, background))[:3, :3]
    return np.sqrt(np.diag(inverse(information)))[[0, 2]]


def test_a_gaussian_without_background_is_known_as_well_as_its_counts_allow():
    # F_xx = sum mu (x / sigma^2)^2 = I / sigma^2 and F_II = 1 / I
    assert_allclose(alone(500.0, 1e-6), [SIGMA / np.sqrt(500), np.sqrt(500)], rtol=2e-3)


def test_a_gaussian_on_a_strong_background_is_known_as_well_as_its_square_allows():
    # F_xx = I^2 / (8 pi sigma^4 b) and F_II = 1 / (4 pi sigma^2 b)
    intensity, background = 1.0, 1e3
    x = np.sqrt(8 * np.pi * background) * SIGMA**2 / intensity
    assert_allclose(alone(intensity, background), [x, np.sqrt(4 * np.pi * background) * SIGMA], rtol=2e-4)


@pytest.mark.parametrize("profile", ["Gaussian", "core + wide tail", "core + Lorentzian"])
def test_derivatives_are_those_of_what_is_drawn(profile, monkeypatch):
    import cramer_rao
    import honeycombs

    monkeypatch.setattr(cramer_rao, "REACH_SIGMA", 100.0)
    monkeypatch.setattr(honeycombs.Shape, "reach_px", 200)  # what the cut at the reach does is not differentiable
    stretched = shape(profile, np.array([[1.1, 0.07], [-0.03, 0.9]]))
    model = cramer_rao.Model(np.array([[40.3, 33.8], [50.9, 41.2]]), np.array([900.0, 400.0]), stretched)
    jacobian = cramer_rao.jacobian(model, SIZE).toarray()

    def along(k, step):
        xy, intensity = model.xy.copy(), model.intensity.copy()
        if k % 3 < 2:
            xy[k // 3, k % 3] += step
        else:
            intensity[k // 3] += step
        return drawn(model._replace(xy=xy, intensity=intensity), 2.0)

    for k in range(6):
        assert_allclose(jacobian[:, k], ((along(k, 1e-4) - along(k, -1e-4)) / 2e-4).ravel(), atol=2e-7)
    wider, narrower = (
        drawn(model._replace(shape=replace(stretched, sigma_px=SIGMA * factor)), 2.0) for factor in (1.0001, 0.9999)
    )
    assert_allclose(jacobian[:, 6], ((wider - narrower) / 2e-4).ravel(), atol=2e-6)
    assert_allclose(jacobian[:, 7], 1.0)


@pytest.mark.parametrize("profile", ["Gaussian", "core + wide tail", "core + Lorentzian"])
def test_profiles_hold_one(profile):
    column = shape(profile)
    r = np.linspace(0, column.reach_px, 20001)
    value, _ = column.radial(r)
    held = np.sum(2 * np.pi * r * value) * (r[1] - r[0])
    assert 0.995 < held < 1 + 1e-6


def test_what_all_columns_share_is_no_error_of_relative_intensities():
    from cramer_rao import Bound

    intensity = np.array([5.0, 3.0, 4.0])
    own, common = np.diag([0.01, 0.01, 0.01]), 100.0 * np.outer(intensity, intensity)
    error = Bound(np.zeros((3, 2)), own + common).relative_intensity(intensity)
    assert (error <= 0.1 + 1e-9).all()
    assert_allclose(Bound(np.zeros((3, 2)), own).common_factor(3 * intensity, intensity, np.ones(3, bool)), 3.0)
