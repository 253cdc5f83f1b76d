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
from stemfit.lattice import RowOffsets, Survey, find_regions, fit_grid, row_offsets, survey
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


@pytest.mark.parametrize("counts", [100.0, 15.0])
def test_a_straight_scan_is_left_alone(counts: float) -> None:
    said, whole = measured(0.0, counts)
    assert said.jitter_px == 0.0
    assert np.array_equal(whole.image, scan(0.0, counts).image)


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
