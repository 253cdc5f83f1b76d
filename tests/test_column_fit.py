"""The machinery of the joint fit: operators, preconditioner, steps, error bars, what is trusted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chain import PIXEL_A, run, taken
from scipy.ndimage import gaussian_filter
from scipy.sparse import csc_array

from stemfit.columns import Columns, Profile, find, refine
from stemfit.columns.linear import Linear, conjugate_gradients, two_level
from stemfit.columns.normal import BLOCK, DAMPING, assemble, factor, spline
from stemfit.columns.resample import averaged
from stemfit.columns.sigma import calibrated
from stemfit.columns.stamps import brush, render, stamp
from stemfit.synthetic import Crystal, crystal

SHAPE = (90, 104)
PROFILE = Profile(np.array([[2.4, 0.3], [0.3, 2.0]]), 4.0, 0.2)


def lattice_xy(spacing: float = 9.0) -> np.ndarray:
    y, x = np.mgrid[4 : SHAPE[0] : spacing, 5 : SHAPE[1] : spacing]
    return np.column_stack([x.ravel(), y.ravel()]) + np.random.default_rng(1).normal(0, 0.5, (x.size, 2))


def problem(shared: int = 1) -> tuple[Linear, np.ndarray]:
    xy = lattice_xy()
    rng = np.random.default_rng(3)
    intensity = rng.uniform(500, 1500, len(xy))
    paint = brush(stamp(torch.from_numpy(xy), PROFILE, SHAPE), PROFILE)
    basis = spline(SHAPE, 40.0, 2.0)
    derivative = paint.draw(torch.from_numpy(intensity)[:, None] * paint.stamps.core**2)[None][:shared]
    size = 3 * len(xy) + basis.rows.shape[1] * basis.cols.shape[1] + shared
    every = torch.ones(len(xy), dtype=torch.float64)
    return Linear(
        paint, torch.from_numpy(intensity), every, every, torch.from_numpy(basis.rows),
        torch.from_numpy(basis.cols), derivative, torch.from_numpy(rng.uniform(0.02, 0.03, SHAPE)),
        torch.full((size,), 1e-9, dtype=torch.float64),
    ), xy


def closed_form(of: Linear, xy: np.ndarray) -> csc_array:
    weight = np.full((len(xy), 3), 0.025)
    return assemble(
        xy, of.intensity.numpy(), weight, PROFILE, spline(SHAPE, 40.0, 2.0), 0.025,
        *[np.ones(len(xy), dtype=bool)] * 2,
    )


def test_the_operator_is_the_derivative_of_the_image() -> None:
    linear, xy = problem(shared=0)
    step = torch.from_numpy(np.random.default_rng(4).normal(size=len(linear.ridge)) * 1e-4)
    step[3 * len(xy) :] = 0  # the background is linear anyhow
    columns = step[: 3 * len(xy)].reshape(-1, 3).numpy()
    light = linear.intensity.numpy()
    moved = render(xy + columns[:, :2], light + columns[:, 2], PROFILE, SHAPE) - render(xy, light, PROFILE, SHAPE)
    predicted = linear.forward(step).numpy()
    assert np.abs(moved - predicted).max() < 1e-3 * np.abs(predicted).max()
    backwards = linear.forward(-step).numpy()
    assert np.abs(moved - backwards).max() > np.abs(predicted).max()  # the broken twin: the wrong sign


def test_the_adjoint_is_the_transpose() -> None:
    linear, _ = problem()
    rng = np.random.default_rng(5)
    step, image = torch.from_numpy(rng.normal(size=len(linear.ridge))), torch.from_numpy(rng.normal(size=SHAPE))
    assert float((linear.forward(step) * image).sum()) == pytest.approx(float(step @ linear.adjoint(image)))


@pytest.mark.parametrize("shared", [0, 1])
def test_conjugate_gradients_solve_the_normal_equations(shared: int) -> None:
    linear, xy = problem(shared)
    solver = factor(closed_form(linear, xy), xy, spline(SHAPE, 40.0, 2.0))
    solve = two_level(linear, lambda r: torch.from_numpy(solver(r.numpy())))
    right = linear.adjoint(torch.from_numpy(np.random.default_rng(6).normal(size=SHAPE)))
    few = conjugate_gradients(linear, right, solve, 60, 1e-16)
    unit = torch.eye(len(right), dtype=torch.float64)
    dense = torch.stack([linear.normal(u) for u in unit])
    exact = torch.linalg.solve(dense, right)
    energy = torch.sqrt((few - exact) @ dense @ (few - exact) / (exact @ dense @ exact))
    assert float(energy) < 1e-5
    plain = conjugate_gradients(linear, right, lambda r: r, 60, 1e-16)  # the broken twin: no preconditioner
    assert float(torch.sqrt((plain - exact) @ dense @ (plain - exact) / (exact @ dense @ exact))) > 1e-2


def test_tiles_solve_their_own_part(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, xy = problem(0)
    basis, matrix = spline(SHAPE, 40.0, 2.0), closed_form(linear, xy)
    assert matrix.shape[0] < BLOCK
    right = np.random.default_rng(7).normal(size=matrix.shape[0])
    whole = factor(matrix, xy, basis)(right)
    damped = matrix + DAMPING[0] * np.diag(matrix.diagonal())
    assert np.allclose(damped @ whole, right, atol=1e-3 * np.abs(right).max())  # single precision
    monkeypatch.setattr("stemfit.columns.normal.BLOCK", 100)
    tiled = factor(matrix, xy, basis)
    answer = tiled(right)
    # block Jacobi is symmetric and positive definite, which conjugate gradients need, but not exact
    other = np.random.default_rng(8).normal(size=len(right))
    assert other @ answer == pytest.approx(right @ tiled(other), rel=1e-4)
    assert right @ answer > 0
    assert not np.allclose(damped @ answer, right, atol=1e-1 * np.abs(right).max())


def test_calibrated_errors_are_those_of_the_exact_inverse() -> None:
    linear, xy = problem(1)
    solver = factor(closed_form(linear, xy), xy, spline(SHAPE, 40.0, 2.0))
    dense = torch.stack([linear.normal(u) for u in torch.eye(len(linear.ridge), dtype=torch.float64)])
    exact = torch.linalg.inv(dense).diagonal()[: 3 * len(xy)].reshape(-1, 3).numpy()
    inner = ((xy > 12) & (xy < np.array([SHAPE[1], SHAPE[0]]) - 12)).all(1)
    wrong = np.repeat(np.eye(3)[None], len(xy), 0) * np.median(exact[inner], 0)[:, None] * 0.3
    residual = torch.from_numpy(np.random.default_rng(9).normal(size=SHAPE)) / linear.weight.sqrt()
    judged = calibrated(
        wrong, np.ones(len(xy)), linear, lambda r: torch.from_numpy(solver(r.numpy())), residual, np.array([0.3])
    )
    ratio = np.sqrt(np.diagonal(judged.cov, axis1=1, axis2=2)[inner] / exact[inner]).mean(0)
    assert np.allclose(ratio, 1, atol=0.15)
    assert judged.shared_cov[0, 0] == pytest.approx(float(torch.linalg.inv(dense)[-1, -1]), rel=0.01)
    # From the minimum over columns and background the step goes to that over everything.
    right = linear.adjoint(linear.weight * residual)
    right[-1] -= linear.ridge[-1] * 0.3
    assert float(judged.step[-1]) == pytest.approx(float(torch.linalg.solve(dense, right)[-1]), rel=0.02)


def test_width_and_noise_are_stated_with_their_errors() -> None:
    pulls = []
    for seed in range(6):
        image, truth = taken(crystal((200, 220), pixel_size_A=PIXEL_A, tail_fraction=0.0, seed=seed), 60.0, seed)
        seen = run(truth, image, "MoS2")
        imaging, width = seen.imaging, truth.profile.core_sigma_px
        assert imaging.width_sigma_px is not None
        assert imaging.profile.width_px == pytest.approx(width, rel=0.01)
        gain = (imaging.noise.gain - 1) / imaging.noise.gain_error
        pulls.append([(imaging.profile.width_px - width) / imaging.width_sigma_px, gain])
    # The width's is stated for a tail that may be of either sign; here there is none, and none is fitted.
    rms = np.sqrt(np.mean(np.square(pulls), axis=0))
    assert ((rms > 0.35) & (rms < 1.7)).all()


def test_a_tail_never_becomes_negative_and_the_brightness_does_not_pay_for_it() -> None:
    """A core-only crystal at low dose: half of the fits want less than no tail."""
    for seed in range(4):
        image, truth = taken(crystal((150, 170), pixel_size_A=PIXEL_A, tail_fraction=0.0, seed=seed), 8.0, seed)
        columns = find(image, calibrate=False)
        assert 0 <= columns.profile.tail_fraction < 0.35
        assert columns.profile.width_px == pytest.approx(truth.profile.core_sigma_px, rel=0.06)


@pytest.mark.parametrize("counts", [60.0, 6.0])
def test_reported_sigma_is_the_real_rms(counts: float) -> None:
    """Positions and brightness of full columns in the fit that knows the lattice, in units of their error bars."""
    moved, light = [], []
    for seed in range(3):
        sample = crystal((260, 290), pixel_size_A=0.14, rotation_deg=8.6 + 9 * seed, seed=seed, halved=3, removed=2)
        image, truth = taken(sample, counts, seed)
        seen = run(truth, image, "MoS2")
        near = np.linalg.norm(seen.sites.xy_px[:, None] - truth.columns.xy_px[None], axis=2).argmin(1)
        full = seen.sites.analysed & (truth.columns.state[near] == "full")
        value, true = seen.brightness.value[full], truth.columns.intensity[near][full]
        light.append((value - true * value.sum() / true.sum()) / seen.brightness.sigma[full])
        column = seen.sites.column[full]
        assert (column >= 0).all()
        sigma = np.sqrt(np.diagonal(seen.columns.cov[column], axis1=1, axis2=2))[:, :2]
        moved.append((seen.columns.xy_px[column] - truth.columns.xy_px[near[full]]) / sigma)
    assert 0.87 < np.concatenate(light).std() < 1.15
    assert 0.87 < np.concatenate(moved).std() < 1.15


def test_a_tail_is_within_its_error_of_the_truth_and_so_is_the_width() -> None:
    pulls = []
    for seed in range(4):
        image, truth = taken(crystal((230, 250), pixel_size_A=PIXEL_A, tail_fraction=0.2, seed=seed), 100.0, seed)
        imaging = run(truth, image, "MoS2").imaging
        assert imaging.width_sigma_px and imaging.tail_fraction_sigma and imaging.background_sigma
        assert imaging.tail_fraction_sigma < 0.15  # it says something
        assert imaging.background_sigma < 0.2 * image.mean()
        tail = (imaging.profile.tail_fraction - 0.2) / imaging.tail_fraction_sigma
        pulls.append([tail, (imaging.profile.width_px - truth.profile.core_sigma_px) / imaging.width_sigma_px])
    assert (np.sqrt(np.mean(np.square(pulls), axis=0)) < 2.5).all()


def test_light_from_beyond_the_edge_is_drawn() -> None:
    image, truth = taken(crystal((170, 190), pixel_size_A=PIXEL_A, rotation_deg=17.0, seed=2), 100.0, 2)
    whole = run(truth, image, "MoS2")
    rim = np.ones(image.shape, dtype=bool)
    rim[6:-6, 6:-6] = False
    z = (image - whole.columns.model) / np.sqrt(whole.columns.noise.variance(whole.columns.model))
    assert abs(z[rim].mean()) < 0.25
    assert z[rim].std() < 1.3
    without = refine(
        image, whole.columns.xy_px, whole.columns.profile.width_px, prune=False, start=whole.columns, calibrate=False
    )
    bare = (image - without.model) / np.sqrt(whole.columns.noise.variance(whole.columns.model))
    assert bare[rim].std() > 1.15 * z[rim].std()  # the broken twin


def test_what_is_not_trusted_bends_nothing() -> None:
    sample: Crystal = crystal((180, 200), pixel_size_A=PIXEL_A, tail_fraction=0.0, seed=5)
    image, _ = taken(sample, 100.0, 5)
    y, x = np.mgrid[:180, :200]
    hole = np.hypot(x - 60, y - 80) < 45
    burnt = np.where(hole, image + 4 * image.mean(), image)
    clean = find(image)
    seeds, width = clean.xy_px, clean.profile.width_px
    trusted = refine(burnt, seeds, width, prune=False, start=clean, trusted=~hole)
    blind = refine(burnt, seeds, width, prune=False, start=clean)
    far = np.hypot(*(seeds - [60, 80]).T) > 60
    far &= (np.abs(seeds - [100, 90]) < [80, 70]).all(1)  # the edge lacks the light from beyond it

    def off(columns: Columns) -> float:
        ratio = columns.intensity[far] / clean.intensity[far]
        return float(np.std(ratio / np.median(ratio)) + abs(columns.profile.width_px / width - 1))

    assert off(trusted) < 0.03
    assert off(blind) > 3 * off(trusted)
    assert trusted.noise.gain == pytest.approx(1.0, rel=0.1)
    assert blind.noise.gain != pytest.approx(1.0, rel=0.2)


def test_averaging_keeps_the_mean() -> None:
    image = np.random.default_rng(0).normal(size=(31, 45))
    small = averaged(image, 4)
    assert small.shape == (7, 11)
    assert small.mean() == pytest.approx(image[:28, :44].mean())


@pytest.mark.parametrize("blur_px", [0.8, 1.3])
def test_errors_are_true_where_noise_was_smoothed(blur_px: float) -> None:
    moved, light = [], []
    for seed in range(2):
        sample = crystal((260, 290), pixel_size_A=0.14, rotation_deg=8.6 + 9 * seed, seed=seed)
        image, truth = taken(sample, 60.0, seed)
        said = run(truth, gaussian_filter(image, blur_px), "MoS2")
        near = np.linalg.norm(said.sites.xy_px[:, None] - truth.columns.xy_px[None], axis=2).argmin(1)
        use = said.sites.analysed & (said.sites.column >= 0) & (truth.columns.state[near] == "full")
        column, value = said.sites.column[use], said.brightness.value[use]
        sigma = np.sqrt(np.diagonal(said.columns.cov[column], axis1=1, axis2=2))[:, :2]
        moved.append((said.columns.xy_px[column] - truth.columns.xy_px[near[use]]) / sigma)
        true = truth.columns.intensity[near][use]
        light.append((value - true * value.sum() / true.sum()) / said.brightness.sigma[use])
    assert 0.8 < np.concatenate(moved).std() < 1.2
    assert 0.8 < np.concatenate(light).std() < 1.5
