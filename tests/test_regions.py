"""Regions on images whose areas differ (`benchmarks/patchwork`), at several doses; what only looks uneven stays."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from stemfit.columns import find
from stemfit.lattice import Grid, Region, find_regions, fit_grid, stacking
from stemfit.lattice import grains as grain_module
from stemfit.lattice.grains import turned
from stemfit.lattice.types import rotation_deg
from stemfit.lattice.windows import amplitude, points, spectrum
from stemfit.synthetic import cell_vectors

FloatArray = NDArray[np.float64]

BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")
ROTATION_DEG = 13.7


@pytest.fixture(autouse=True, scope="module")
def benchmarks() -> Iterator[None]:
    """Make the scenes importable, and forget the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield
    for name in ("patchwork", "honeycombs"):
        sys.modules.pop(name, None)


@cache
def scene(name: str) -> Any:
    from patchwork import CLEAN, SPOILED

    return {**SPOILED, **CLEAN}[name]()


@cache
def said(name: str, counts: float) -> tuple[tuple[Region, ...], NDArray[np.uint8], Grid]:
    image = scene(name).taken(counts)
    seen = find(image, calibrate=False)
    grid = fit_grid(image, seen)
    return (*find_regions(image, seen, grid), grid)


def shares(name: str, counts: float) -> tuple[float, float]:
    """Share of the true area under its true kind, and of the rest under any, half a cell off the rim."""
    from regions import deep

    regions, number, _ = said(name, counts)
    kinds = np.array(["", *(r.kind for r in regions)])[number]
    true = scene(name).kind
    inside, outside = deep(true != ""), deep(true == "")
    return float(np.mean(kinds[inside] == true[inside])), float(np.mean(kinds[outside] != ""))


SPOILED = [
    ("grain turned by 5, share 0.2", 100.0), ("grain turned by 5, share 0.42", 10.0),
    ("grain turned by 17, share 0.42", 5.0), ("grain turned by 30, share 0.2", 100.0),
    ("twin, first sublattice in place", 10.0), ("twin, shifted", 100.0),
    ("twin, ratio 0.2", 5.0), ("second layer AA'", 1000.0), ("second layer 3R", 10.0),
    ("second layer AA' over more", 10.0),
    ("second layer turned by 21", 100.0), ("film of 0.8 +- 0.35", 10.0), ("film of 0.4 +- 0.2", 100.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "counts"), SPOILED)
def test_an_area_is_masked_to_half_a_cell_and_named(name: str, counts: float) -> None:
    right, false = shares(name, counts)
    assert right > 0.95
    assert false < 0.02


CLEAN = [
    "pristine", "10 % of the columns missing", "metal alloy 50 %", "chalcogen alloy 50 %", "line defect",
    "gain gradient of 2", "slow background", "row jitter", "equal sublattices", "nearly equal, 10 % missing",
    "B beside N",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "counts"), [*((name, 5.0) for name in CLEAN), *((name, 1000.0) for name in CLEAN[:2]), (CLEAN[6], 100.0)]
)
def test_a_crystal_that_only_looks_uneven_loses_nothing(name: str, counts: float) -> None:
    regions, number, _ = said(name, counts)
    assert (number > 0).mean() < 0.005, regions


@pytest.mark.parametrize(("turn", "share", "counts"), [(5, 0.2, 100.0), (5, 0.42, 10.0), (17, 0.42, 5.0)])
def test_the_larger_grain_is_analysed_and_the_other_measured(turn: int, share: float, counts: float) -> None:
    regions, _, grid = said(f"grain turned by {turn}, share {share}", counts)
    assert rotation_deg(grid.a_px, grid.b_px) == pytest.approx(ROTATION_DEG, abs=0.15)
    other = [r.orientation_deg for r in regions if r.kind == "other-grain"]
    assert other == [pytest.approx(ROTATION_DEG + turn, abs=0.3)]  # a tenth of what tells two grains apart


def test_a_turned_layer_tells_its_angle() -> None:
    regions, _, grid = said("second layer turned by 21", 100.0)
    assert rotation_deg(grid.a_px, grid.b_px) == pytest.approx(ROTATION_DEG, abs=0.1)
    assert [r.orientation_deg for r in regions] == [pytest.approx((ROTATION_DEG + 21) % 60, abs=0.3)]


def test_without_the_choice_of_a_grain_the_cell_follows_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: planes read over both grains are 5 degrees of distortion."""
    image = scene("grain turned by 5, share 0.42").taken(10.0)
    seen = find(image, calibrate=False)
    right = said("grain turned by 5, share 0.42", 10.0)[2]
    monkeypatch.setattr(
        "stemfit.lattice.cell.largest_grain",
        lambda image, g: grain_module.MainGrain(g, image, np.ones(image.shape, dtype=bool)),
    )
    wrong = fit_grid(image, seen)
    true = 22.3 * np.sqrt(1.04 * 0.97 - 0.03**2)
    assert right.a_px_iso == pytest.approx(true, rel=2e-3)
    assert abs(wrong.a_px_iso / true - 1) > 0.01
    other = scene("grain turned by 5, share 0.42").kind == "other-grain"
    assert wrong.strength[other].mean() > 0.5 > right.strength[other].mean()


@pytest.mark.parametrize(("name", "counts"), [SPOILED[k] for k in (0, 4, 7, 11)])
def test_mask_polygons_and_list_agree(name: str, counts: float) -> None:
    regions, number, grid = said(name, counts)
    assert set(np.unique(number)) <= set(range(len(regions) + 1))
    for k, region in enumerate(regions, start=1):
        area = number == k
        enclosed = polygon2mask(number.shape, region.polygon_px[:, ::-1])
        assert area.any()
        # Polygons are simplified by a sixth of a cell at most, and hit pixel centres by chance.
        wrong = (area & ~enclosed).sum() + (enclosed & ~area).sum()
        assert wrong < 0.25 * grid.a_px_iso * _perimeter(region.polygon_px)
        assert any(figure.isdigit() for figure in region.reason)
        assert region.orientation_deg is None or 0 <= region.orientation_deg < 60


def _perimeter(polygon: FloatArray) -> float:
    return float(np.hypot(*np.diff(polygon, axis=0).T).sum())


def test_hole_in_another_grain_belongs_to_one_region_only() -> None:
    """Where two areas meet, the earlier one keeps the pixels: each pixel has one number, each number one polygon."""
    from stemfit.lattice.regions import Area, _numbered

    first, second = np.zeros((2, 40, 50), dtype=bool)
    first[5:30, 5:30] = True
    second[20:38, 20:45] = True
    regions, number = _numbered([Area("twin", first, "1"), Area("hole", second, "2")], 2, 4.0, (81, 100))
    assert [r.kind for r in regions] == ["twin", "hole"]
    assert number.shape == (81, 100)
    assert number[50, 50] == 1 and number[70, 70] == 2
    assert (number == 1).sum() == 4 * first.sum()


def test_motif_phase_of_a_swapped_domain_is_the_opposite_one() -> None:
    """The phase that the docstring promises, 3 arg(1 + r w), and its sign."""
    image = scene("twin, shifted").taken(1000.0)
    grid = said("twin, shifted", 100.0)[2]
    dual = np.linalg.inv(np.column_stack([grid.a_px, grid.b_px]))
    seen = stacking.motif(spectrum(image, 1.5 * grid.a_px_iso), dual, grid.a_px_iso)
    expected = abs(np.degrees(3 * np.angle(1 + 0.4 * np.exp(2j * np.pi / 3))))
    main, other = seen.phase[3, 3], seen.phase[-4, -4]
    assert abs(main) == pytest.approx(expected, abs=4.0)  # tails blur both sublattices alike
    assert other == pytest.approx(-main, abs=4.0)


def test_light_above_the_hollows_is_what_was_put_there() -> None:
    w = np.exp(-2j * np.pi / 3)
    for p, q, h in ((1.0, 0.4, 0.0), (0.3, 1.4, 0.5), (1.0, 1.0, 0.2)):
        f = p + q * w + h * w**2
        light = stacking.Light(float(np.degrees(3 * np.angle(f))), abs(f), 1.0)
        assert light.above_hollow == pytest.approx(p + q + h - 3 * min(p, q, h))


@pytest.mark.parametrize("degrees", [-27.0, -5.0, 11.3, 30.0])
def test_turned_spots_are_those_of_a_turned_crystal_under_the_same_scan(degrees: float) -> None:
    scan = np.array([[1.12, 0.05], [0.05, 0.93]])
    pairs = []
    for angle in (ROTATION_DEG, ROTATION_DEG + degrees):
        dual = np.linalg.inv(np.column_stack(cell_vectors(20.0, angle, scan)))
        pairs.append(np.stack([dual[0], dual[0] + dual[1]]))
    assert np.allclose(turned(pairs[0], degrees), pairs[1], atol=1e-9)
    assert not np.allclose(turned(pairs[0], -degrees), pairs[1], atol=1e-3)  # the other way round is another crystal


def test_windows_give_the_gaussian_mean_that_they_promise() -> None:
    """Against the sum itself, near the edge and inside, for a size that is no power of two."""
    rng = np.random.default_rng(3)
    image, k, sigma = rng.normal(size=(97, 131)), np.array([0.071, -0.034]), 11.0
    of = spectrum(image, sigma)
    seen, at = amplitude(of, k, sigma), points(of, sigma)
    y, x = np.mgrid[:97, :131]
    for i, j in ((0, 0), (3, 5), (4, 9)):
        window = np.exp(-0.5 * ((y - i * at.step[0]) ** 2 + (x - j * at.step[1]) ** 2) / sigma**2)
        wave = np.exp(-2j * np.pi * (k[0] * x + k[1] * y))
        direct = np.sum((image - image.mean()) * window * wave) / window.sum()
        assert abs(seen[i, j] - direct) < 0.03 * np.abs(seen).mean()
