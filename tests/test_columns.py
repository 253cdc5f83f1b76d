"""Columns against known truth: found, not invented, as precise as promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from stemfit.columns import Columns, Profile, find, refine
from stemfit.columns.noise import measure
from stemfit.columns.normal import overlap
from stemfit.columns.stamps import brush, drawn, render, stamp
from stemfit.errors import NotAnalysable
from stemfit.synthetic import Acquisition, Crystal, crystal, record

SHAPE = (250, 280)


def recorded(counts: float, seed: int = 3, **how: float) -> tuple[np.ndarray, Crystal]:
    sample = crystal(SHAPE, rotation_deg=11.7, halved=3, removed=2, seed=seed, tail_fraction=0.0)
    taken, truth = record(sample, Acquisition(counts=counts, background=0.1, background_variation=0.0, **how), seed)
    return np.asarray(taken.image, dtype=float), truth


def matched(columns: Columns, truth: Crystal, margin: float = 28.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance from each true column well inside to the nearest found one, that one's row, and which true ones."""
    h, w = SHAPE
    x, y = truth.columns.xy_px.T
    rows = np.flatnonzero((x > margin) & (y > margin) & (x < w - margin) & (y < h - margin))
    apart = np.linalg.norm(truth.columns.xy_px[rows, None] - columns.xy_px[None], axis=2)
    return apart.min(1), apart.argmin(1), rows


@pytest.fixture(scope="module")
def fitted() -> tuple[Columns, Crystal]:
    image, truth = recorded(counts=60.0)
    return find(image), truth


def test_every_column_is_found_and_no_vacancy_is_filled(fitted: tuple[Columns, Crystal]) -> None:
    columns, truth = fitted
    apart, _, rows = matched(columns, truth)
    occupied = truth.columns.state[rows] != "empty"
    assert (apart[occupied] < 1.0).all()
    assert (apart[~occupied] > 4.0).all()


def test_halved_columns_measure_half(fitted: tuple[Columns, Crystal]) -> None:
    columns, truth = fitted
    _, nearest, rows = matched(columns, truth)
    whole = (truth.columns.state[rows] == "full") & (truth.columns.sublattice[rows] == "X")
    full = np.median(columns.intensity[nearest[whole]])
    half = columns.intensity[nearest[truth.columns.state[rows] == "half"]]
    assert np.allclose(half / full, 0.5, atol=0.12)


def test_stated_errors_are_the_real_ones() -> None:
    pulls_x, pulls_i = [], []
    for seed in range(5):
        image, truth = recorded(counts=60.0, seed=seed)
        columns = find(image)
        _, nearest, rows = matched(columns, truth, margin=50.0)  # atoms beyond the edge are not known yet
        full = truth.columns.state[rows] == "full"
        offset = columns.xy_px[nearest[full]] - truth.columns.xy_px[rows[full]]
        pulls_x.append(offset[:, 0] / np.sqrt(columns.cov[nearest[full], 0, 0]))
        scale = np.sum(columns.intensity[nearest[full]]) / np.sum(truth.columns.intensity[rows[full]])
        error = columns.intensity[nearest[full]] - scale * truth.columns.intensity[rows[full]]
        pulls_i.append(error / np.sqrt(columns.cov[nearest[full], 2, 2]))
    x, i = np.concatenate(pulls_x), np.concatenate(pulls_i)
    assert len(x) > 300
    assert 0.87 < x.std() < 1.15
    # Light from beyond the edge bends the background: see the test of the second fit, which knows the lattice.
    assert 0.8 < i.std() < 1.4


@pytest.mark.parametrize("kind", ["poisson", "normal", "uniform"])
@pytest.mark.parametrize("shape", [(250, 280), (64, 64), (70, 200)])
def test_an_image_without_atoms_has_next_to_no_columns(kind: str, shape: tuple[int, int]) -> None:
    for seed in range(2):
        rng = np.random.default_rng(seed)
        draws = (rng.poisson(20.0, shape), rng.normal(0, 1, shape), rng.random(shape))
        noise = draws[["poisson", "normal", "uniform"].index(kind)].astype(float)
        for calibrate in (True, False):
            assert len(find(noise, calibrate=calibrate)) <= (3 if calibrate else 8)


def test_images_that_are_no_crystal_do_not_break_the_fit() -> None:
    y, x = np.mgrid[:120, :140].astype(float)
    hot = np.zeros((120, 140))
    hot[50, 60] = 1000.0
    for image in (y + 2 * x, hot, np.sin(x / 3) + 2):
        assert len(find(image)) < 200


def test_brightness_and_offset_of_the_image_do_not_matter() -> None:
    image, _ = recorded(counts=60.0)
    plain, scaled = find(image), find(7.5 * image + 300.0)
    inner = (np.abs(plain.xy_px - [140, 125]) < [112, 97]).all(1)  # atoms cut by the edge may be kept or not
    apart = np.linalg.norm(plain.xy_px[inner, None] - scaled.xy_px[None], axis=2)
    # The iteration stops before the last digit; what is left must be small against the stated errors.
    sigma = np.sqrt(plain.cov[inner, 0, 0] + plain.cov[inner, 1, 1])
    assert np.median(apart.min(1) / sigma) < 0.2
    assert np.percentile(apart.min(1) / sigma, 95) < 0.6
    ratio = scaled.intensity[apart.argmin(1)] / (7.5 * plain.intensity[inner])
    assert abs(np.median(ratio) - 1) < 0.15  # the share of the tail trades with the background
    relative = np.sqrt(plain.cov[inner, 2, 2]) / plain.intensity[inner]
    assert np.median(np.abs(ratio / np.median(ratio) - 1) / relative) < 0.5


def test_noise_is_measured() -> None:
    rng = np.random.default_rng(1)
    model = gaussian_filter(rng.uniform(0, 1, (200, 260)), 3.0)
    model = 20 + 300 * (model - model.min())
    image = 3.0 * rng.poisson(model / 3.0) + rng.normal(0, 4.0, model.shape)
    noise = measure(image, model, 0)
    assert noise.gain == pytest.approx(3.0, rel=0.1)
    assert noise.variance(model).mean() == pytest.approx((3.0 * model + 16).mean(), rel=0.06)
    assert noise.pixels_per_sample < 1.15
    blurred = model + gaussian_filter(image - model, 1.0)
    assert measure(blurred, model, 0).pixels_per_sample > 5


def test_drawing_is_the_transpose_of_reading() -> None:
    rng = np.random.default_rng(2)
    paint = brush(stamp(torch.from_numpy(rng.uniform(-3, 43, (9, 2))), PROFILE, (40, 41)), PROFILE)
    image, weights = torch.from_numpy(rng.normal(size=(40, 41))), torch.from_numpy(rng.normal(size=(9, 1)))
    windows = weights * paint.stamps.core
    assert float((paint.draw(windows) * image).sum()) == pytest.approx(float((windows * paint.read(image)).sum()))


PROFILE = Profile(np.array([[5.0, 0.8], [0.8, 3.5]]), 5.5, 0.25)


def test_windows_with_one_blur_equal_the_full_drawing() -> None:
    xy = np.array([[20.3, 25.8], [31.6, 22.1]])
    value, grad_x, grad_y = drawn(xy, PROFILE, (60, 64))
    together = render(xy, np.array([2.0, 3.0]), PROFILE, (60, 64))
    assert np.allclose(np.tensordot([2.0, 3.0], value, 1), together, atol=2e-4 * together.max())
    step = 1e-5
    along = np.array([step, 0.0])
    numeric = (drawn(xy + along, PROFILE, (60, 64))[0] - drawn(xy - along, PROFILE, (60, 64))[0]) / (2 * step)
    assert np.allclose(numeric, grad_x, atol=1e-8)
    assert not np.allclose(numeric, grad_y, atol=1e-4)


def test_closed_form_overlap_is_the_integral_of_two_cores() -> None:
    core = Profile(PROFILE.core_cov_px2, 10.0, 0.0)
    a, b = (drawn(np.array([p]), core, (80, 80))[0][0] for p in ([40.2, 39.7], [43.1, 41.0]))
    value, _, _ = overlap(np.array([[40.2 - 43.1, 39.7 - 41.0]]), core.core_cov_px2)
    assert value[0] == pytest.approx(float(np.sum(a * b)), rel=1e-6)


def test_held_columns_stay_and_measure_nothing_where_nothing_is(fitted: tuple[Columns, Crystal]) -> None:
    image, truth = recorded(counts=60.0)
    columns, _ = fitted
    h, w = SHAPE
    x, y = truth.columns.xy_px.T
    empty = (truth.columns.state == "empty") & (x > 14) & (y > 14) & (x < w - 14) & (y < h - 14)
    at = truth.columns.xy_px[empty]
    seeds = np.vstack([columns.xy_px, at])
    fixed = np.arange(len(seeds)) >= len(columns)
    again = refine(image, seeds, columns.profile.width_px, fixed=fixed, prune=False, start=columns)
    assert np.allclose(again.xy_px[fixed], at)
    assert (np.abs(again.intensity[fixed]) < 5 * np.sqrt(again.cov[fixed, 2, 2])).all()


def test_an_image_in_which_nothing_repeats_is_refused_with_a_word() -> None:
    image = np.full((100, 100), 5.0)
    with pytest.raises(NotAnalysable, match="nothing repeats"):
        find(image)
