"""Scan-line jitter against rows whose offsets are known."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stemfit.columns import find
from stemfit.columns.stamps import render
from stemfit.lattice import RowOffsets, Survey, find_regions, fit_grid, row_offsets, survey
from stemfit.lattice.cell import flyback, regress
from stemfit.lattice.rows import shifted

FloatArray = NDArray[np.float64]

SHAPE, LATTICE_PX, WIDTH_PX = (230, 260), 21.0, 2.7


class Scan(NamedTuple):
    """A drawn image and what was drawn."""

    image: FloatArray
    offset_px: FloatArray
    xy_px: FloatArray


@cache
def scan(jitter_px: float, counts: float = 100.0, seed: int = 0) -> Scan:
    """Honeycomb of Gaussian columns, turned by an odd angle, each row evaluated where the scan was."""
    rng = np.random.default_rng(seed)
    h, w = SHAPE
    offset = rng.normal(0, jitter_px, h)
    turn = np.radians(13.0 + 7 * seed)
    a = LATTICE_PX * np.array([np.cos(turn), -np.sin(turn)])
    b = LATTICE_PX * np.array([np.cos(turn + np.pi / 3), -np.sin(turn + np.pi / 3)])
    n = np.stack(np.meshgrid(np.arange(-20, 21), np.arange(-20, 21)), -1).reshape(-1, 2)
    centre = np.array([w / 2 + 0.3, h / 2 - 0.4])
    xy = np.vstack([centre + n @ np.stack([a, b]), centre + (n + 1 / 3) @ np.stack([a, b])])
    light = np.repeat([1.0, 0.42], len(n))
    near = ((xy > -12) & (xy < np.array([w, h]) + 12)).all(1)
    x, y = np.arange(w)[None, :] - offset[:, None], np.arange(h)[:, None]
    expected = np.full(SHAPE, 0.1 * counts)
    for (cx, cy), peak in zip(xy[near], counts * light[near], strict=True):
        expected += peak * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * WIDTH_PX**2))
    return Scan(rng.poisson(expected).astype(float), offset, xy[near])


@cache
def measured(jitter_px: float, counts: float = 100.0, seed: int = 0) -> tuple[RowOffsets, Survey]:
    image = scan(jitter_px, counts, seed).image
    seen = find(image, calibrate=False)
    grid = fit_grid(image, seen)
    _, region_map = find_regions(image, seen, grid)
    return row_offsets(image, seen, grid, region_map), survey(image, seen)


def fast(values: FloatArray) -> FloatArray:
    """What is left of row offsets when what a lattice could follow is taken out."""
    slow = np.convolve(np.pad(values, 20, mode="reflect"), np.full(41, 1 / 41), mode="valid")
    return np.asarray(values - slow)


@pytest.mark.parametrize("counts", [100.0, 15.0])
def test_rows_are_found_where_they_were(counts: float) -> None:
    true, (said, _) = scan(0.8, counts).offset_px, measured(0.8, counts)
    error = fast(said.offset_px) - fast(true)
    assert said.jitter_px == pytest.approx(0.8, rel=0.12)
    assert error.std() < 0.45 * true.std()
    # what is stated of a row is its error, before and after it is shrunk to what rows do at all
    shrunk = said.sigma_px**-2.0 + said.jitter_px**-2.0
    assert 0.8 < (error * np.sqrt(shrunk)).std() < 1.2
    assert np.corrcoef(fast(said.offset_px), -fast(true))[0, 1] < -0.8  # the broken twin: the wrong sign


@cache
def torn(displaced_px: float) -> tuple[FloatArray, FloatArray]:
    """The scan with columns round a place drawn to the right of their sites, and its offsets."""
    clean, x, y = scan(0.8), np.arange(SHAPE[1])[None, :], np.arange(SHAPE[0])[:, None]
    near = np.hypot(*(clean.xy_px - [130.0, 110.0]).T) < 42
    light = np.where(np.arange(len(clean.xy_px)) < len(clean.xy_px) / 2, 1.0, 0.42)  # metals come first
    image = clean.image.copy()
    for (cx, cy), peak in zip(clean.xy_px[near], 100 * light[near], strict=True):
        for move, sign in ((0.0, -1), (displaced_px, 1)):
            along = np.exp(-((x - clean.offset_px[:, None] - cx - move) ** 2) / (2 * WIDTH_PX**2))
            image += sign * peak * along * np.exp(-((y - cy) ** 2) / (2 * WIDTH_PX**2))
    return image, clean.offset_px


def test_rows_are_not_moved_to_undo_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    image, true = torn(5.0)
    seen = find(image, calibrate=False)
    grid = fit_grid(image, seen)
    region_map = np.zeros(SHAPE, dtype=np.uint8)
    across = slice(80, 140)  # the rows that cross it
    error = fast(row_offsets(image, seen, grid, region_map).offset_px - true)[across].std()
    assert error < 0.25
    monkeypatch.setattr("stemfit.lattice.rows._beside_defects", lambda *arguments: np.zeros(SHAPE, dtype=bool))
    assert fast(row_offsets(image, seen, grid, region_map).offset_px - true)[across].std() > 1.5 * error


@pytest.mark.parametrize("counts", [100.0, 15.0])
def test_a_straight_scan_is_left_alone(counts: float) -> None:
    said, whole = measured(0.0, counts)
    assert said.jitter_px == 0.0
    assert np.array_equal(whole.image, scan(0.0, counts).image)


@pytest.mark.parametrize("seed", range(3))
def test_all_light_is_of_columns_or_of_the_background(seed: int) -> None:
    """Also that of columns at the edge, which the fit may move out of the image."""
    _, whole = measured(0.0, seed=seed)
    columns = whole.columns
    told = columns.background + render(columns.xy_px, columns.intensity, columns.profile, SHAPE)
    assert np.abs(columns.model - told).max() < 10.0  # of 100 at a metal


def test_columns_are_as_near_their_sites_as_without_jitter() -> None:
    _, straight = measured(0.0)
    _, jittered = measured(0.8)
    assert jittered.grid.residual_rms_px < 1.25 * straight.grid.residual_rms_px
    image = scan(0.8).image
    seen = find(image, calibrate=False)  # the twin that does not know of rows
    assert fit_grid(image, seen).residual_rms_px > 1.6 * straight.grid.residual_rms_px


def test_the_cell_states_what_slow_jitter_does_to_it() -> None:
    off = []
    for seed in range(4):
        true = scan(0.8, 100.0, seed)
        _, said = measured(0.8, 100.0, seed)
        sigma = np.sqrt(np.diag(said.grid.covariance))
        turn = np.radians(13.0 + 7 * seed) % (np.pi / 3)
        a = LATTICE_PX * np.array([np.cos(turn), -np.sin(turn)])
        off.append((said.grid.a_px - a)[0] / sigma[2])
        assert np.hypot(*(said.grid.a_px - a)) < 3e-3 * LATTICE_PX
        assert len(true.xy_px) > 200
    assert np.abs(off).max() < 3.0


def lagging(lag: FloatArray, noise_px: float = 0.08) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Columns of a scan whose beam lags behind, their cell coordinates, and the true cell."""
    rng = np.random.default_rng(6)
    turn = np.radians(11.0)
    cell = LATTICE_PX * np.array([
        [np.cos(turn), -np.sin(turn)], [np.cos(turn + np.pi / 3), -np.sin(turn + np.pi / 3)]
    ])
    n = np.stack(np.meshgrid(np.arange(-40, 41), np.arange(-40, 41)), -1).reshape(-1, 2)
    frac = np.vstack([n, n + 1 / 3])
    xy = np.array([250.0, 210.0]) + frac @ cell
    inside = ((xy > 2) & (xy < [498, 418])).all(1)
    xy, frac = xy[inside], frac[inside]
    shift = np.interp(xy[:, 0], np.arange(len(lag)), lag)
    return xy + np.column_stack([shift, 0 * shift]) + rng.normal(0, noise_px, xy.shape), frac, cell


def cell_of(xy: FloatArray, frac: FloatArray) -> FloatArray:
    flat = np.ones((420, 500))
    grid = regress(xy, frac, np.ones(len(xy)), np.zeros(2), np.zeros(2), (420, 500), flat, np.zeros(3))
    return np.stack([grid.a_px, grid.b_px])


@pytest.mark.parametrize(("size_px", "length_px"), [(8.0, 40.0), (16.0, 20.0), (16.0, 40.0)])
def test_a_stretched_start_of_the_lines_does_not_stretch_the_cell(
    size_px: float, length_px: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    xy, frac, true = lagging(-size_px * np.exp(-np.arange(500) / length_px))
    assert np.allclose(cell_of(xy, frac), true, atol=1e-3 * LATTICE_PX)
    monkeypatch.setattr("stemfit.lattice.cell.flyback", lambda design, *rest: np.zeros(len(design)))
    assert not np.allclose(cell_of(xy, frac), true, atol=1e-3 * LATTICE_PX)  # the broken twin


def test_a_smooth_distortion_is_no_flyback() -> None:
    x = np.linspace(-1, 1, 500)
    for lag in (3 * x**2, 4 * x**3, 2 * np.sin(2.2 * x), 0 * x):
        xy, frac, _ = lagging(lag)
        design = np.column_stack([np.ones(len(frac)), frac])
        assert not flyback(design, xy, np.ones(len(xy)), 500).any()


def test_columns_return_to_where_the_scan_showed_them() -> None:
    rows = RowOffsets(np.random.default_rng(3).normal(0, 0.7, 100), np.full(100, 0.1), 0.7, 2.5)
    xy = np.random.default_rng(4).uniform(0, 99, (50, 2))
    assert np.allclose(rows.straight(rows.in_image(xy)), xy)
    moved = rows.in_image(xy) - xy
    assert np.allclose(moved[:, 1], 0.0)
    weight = np.exp(-0.5 * ((np.arange(100) - 50.0) / 2.5) ** 2)
    there = rows.in_image(np.array([[10.0, 50.0]]))[0, 0] - 10.0
    assert there == pytest.approx(float(weight @ rows.offset_px / weight.sum()), abs=1e-3)


@given(st.integers(0, 10_000))
def test_shifting_there_and_back_is_nothing_and_keeps_the_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.arange(80)
    by = rng.uniform(-1.5, 1.5, 12)
    smooth = np.sin(2 * np.pi * (x[None, :] + rng.uniform(0, 9, (12, 1))) / rng.uniform(7, 30))
    moved = shifted(smooth, by)
    assert np.allclose(shifted(moved, -by)[:, 20:-20], smooth[:, 20:-20], atol=0.05)
    noise = rng.normal(size=(12, 80))
    assert shifted(noise, by).std() == pytest.approx(noise.std(), rel=0.08)


def test_a_row_is_moved_to_the_right_by_a_positive_offset() -> None:
    x = np.arange(90.0)
    row = np.exp(-0.5 * ((x - 40) / 3.0) ** 2)[None, :]
    moved = shifted(row, np.array([2.5]))
    assert float((moved[0] * x).sum() / moved[0].sum()) == pytest.approx(42.5, abs=1e-3)
