"""Local strain: exact for straight fields, with the right signs, and as uncertain as it says."""

from dataclasses import replace

import numpy as np
import pytest
from fake_result import fake_result
from numpy.testing import assert_allclose

from stemfit.strain import displacements, local_gradients, strain


def columns(seed=0):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(0, 300, 17.0), np.arange(0, 260, 19.0)), -1).reshape(-1, 2)
    return grid + rng.uniform(-4, 4, grid.shape)


def test_a_straight_field_is_found_exactly():
    at, true = columns(), np.array([[0.011, -0.004], [0.007, 0.002]])
    moved = at @ true.T + [3.0, -2.0]
    found, _ = local_gradients(at, moved, np.ones_like(at), np.array([[150.0, 130.0], [20.0, 240.0]]), 40.0)
    assert_allclose(found, np.tile(true, (2, 1, 1)), atol=1e-12)


def test_errors_are_those_that_are_stated():
    at, place, rng = columns(), np.array([[140.0, 120.0]]), np.random.default_rng(3)
    sigma = rng.uniform(0.2, 1.0, at.shape)
    draws = [local_gradients(at, rng.normal(scale=sigma), sigma, place, 35.0)[0][0] for _ in range(600)]
    _, variance = local_gradients(at, np.zeros_like(at), sigma, place, 35.0)
    assert_allclose(np.std(draws, axis=0), np.sqrt(variance[0]), rtol=0.1)  # 600 draws: 3 % each


def test_too_few_columns_say_nothing():
    at = columns()[:7]
    assert np.isnan(local_gradients(at, at, at, np.array([[0.0, 0.0]]), 40.0)[0]).all()
    line = np.column_stack([np.arange(20.0), np.arange(20.0)])
    assert np.isnan(local_gradients(line, line, line + 1, np.array([[9.0, 9.0]]), 9.0)[0]).all()


@pytest.fixture(scope="module")
def analysis():
    return fake_result(shape=(200, 240), a_px=20, region=True)


def test_signs_are_those_of_a_page_with_y_up(analysis):
    """Stretched along x by 2 %, sheared, and turned counter-clockwise as displayed by 3 mrad."""
    at, _, _ = displacements(analysis)
    angle, centre = 3e-3, at.mean(axis=0)
    right, up = at[:, 0] - centre[0], -(at[:, 1] - centre[1])
    along, over = 0.02 * right - angle * up + 0.005 * up, angle * right + 0.005 * right - 0.01 * up
    on_site = np.isfinite(analysis.columns["i"])
    moved = {name: values.copy() for name, values in analysis.columns.items()}
    moved["x_px"][on_site], moved["y_px"][on_site] = at[:, 0] + along, at[:, 1] - over
    maps = strain(replace(analysis, columns=moved), (0, 0, 239, 199))
    for name, value in (("exx", 0.02), ("eyy", -0.01), ("exy", 0.005), ("rotation", angle)):
        known = getattr(maps, name)[np.isfinite(getattr(maps, name))]
        assert known.size > 20
        assert_allclose(known, value, atol=1e-9)


def test_noise_is_no_strain_beyond_the_errors(analysis):
    rng, moved = np.random.default_rng(5), dict(analysis.columns)
    on_site = np.isfinite(moved["i"])
    for k, name in enumerate(("x_px", "y_px")):
        moved[name] = moved[name].copy()
        moved[name][on_site] += rng.normal(scale=displacements(analysis)[2][:, k])
    maps = strain(replace(analysis, columns=moved), (0, 0, 239, 199))
    for name in ("exx", "eyy", "exy", "rotation"):
        assert 0.5 < np.nanstd(getattr(maps, name) / getattr(maps, f"sigma_{name}")) < 1.6
    assert np.isnan(maps.exx).any()  # in the hole
    y, x = np.nonzero(np.isfinite(maps.exx))
    assert (analysis.mask[np.rint(maps.y_px[y]).astype(int), np.rint(maps.x_px[x]).astype(int)] == 0).all()


def test_nothing_is_told_where_columns_were_left_out(analysis):
    """Inside a defect that is not understood, whatever the window reaches."""
    middle, table = np.array([60.0, 120.0]), dict(analysis.columns)
    away = np.hypot(table["x_px"] - middle[0], table["y_px"] - middle[1])
    table["defect_id"] = np.where(away < 2 * analysis.step_px, 99.0, table["defect_id"])
    strange = replace(analysis.defects[0], id=99, type="UNKNOWN")
    maps = strain(replace(analysis, columns=table, defects=(*analysis.defects, strange)), (0, 0, 239, 199))
    whole = strain(analysis, (0, 0, 239, 199))
    away = np.hypot(*np.meshgrid(maps.x_px - middle[0], maps.y_px - middle[1])) / analysis.step_px
    assert (away < 0.9).sum() > 4
    for name in ("exx", "rotation", "sigma_exx", "sigma_rotation"):
        assert np.isnan(getattr(maps, name)[away < 0.9]).all()
        assert np.isfinite(getattr(whole, name)[away < 0.9]).all()
    assert np.isfinite(maps.exx[(away > 2) & (away < 2.5)]).mean() > 0.8
