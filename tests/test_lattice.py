"""Cell, polarity, sites and regions against known truth."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from chain import PIXEL_A, SHAPE, named, planted, pristine, redrawn, taken, vacancies
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stemfit.columns import Columns, find
from stemfit.errors import NotAnalysable, UsageError
from stemfit.lattice import Grid, Lattice, find_regions, fit_grid, honeycomb, outside
from stemfit.lattice import cell as cell_module
from stemfit.lattice.spots import reciprocal_cell
from stemfit.lattice.types import iso, rotation_deg
from stemfit.synthetic import ColumnShape, Crystal, cell_vectors, crystal, render, smooth_field

FloatArray = NDArray[np.float64]

NOISE_PX = 0.06
"""Error of the planted column positions: what a fit reaches at about 100 counts."""


def stretch(ratio: float, direction_deg: float) -> FloatArray:
    """Symmetric, of determinant 1: a scan whose principal stretches have this ratio; it does not turn the crystal."""
    t = np.radians(direction_deg)
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    return np.asarray(turn @ np.diag([np.sqrt(ratio), 1 / np.sqrt(ratio)]) @ turn.T)


def sample(rotation: float, polarity: int, ratio: float = 1.0, direction: float = 25.0, **more: object) -> Crystal:
    return crystal(
        SHAPE, pixel_size_A=PIXEL_A, rotation_deg=rotation, polarity=polarity, strain=stretch(ratio, direction),
        **more,  # type: ignore[arg-type]
    )


def gridded(truth: Crystal, image: FloatArray, noise_px: float = NOISE_PX, seed: int = 0) -> tuple[Grid, Columns]:
    columns = planted(truth, noise_px, seed)
    return fit_grid(image, columns), columns


def mahalanobis(lattice: Lattice, truth: Crystal) -> float:
    """Squared distance of (origin, a, b) from the truth in units of the stated covariance (6 degrees of freedom)."""
    cell = np.column_stack([lattice.a_px, lattice.b_px])
    i, j = np.rint(np.linalg.solve(cell, truth.origin_px - lattice.origin_px)).astype(int)
    shift = np.hstack([np.eye(2), i * np.eye(2), j * np.eye(2)])  # origin of the truth's cell (0, 0)
    full = np.vstack([shift, np.eye(6)[2:]])
    off = np.concatenate([
        lattice.origin_px + i * lattice.a_px + j * lattice.b_px - truth.origin_px,
        lattice.a_px - truth.a_px, lattice.b_px - truth.b_px,
    ])  # fmt: skip
    return float(off @ np.linalg.solve(full @ lattice.cell_cov @ full.T, off))


CASES = [
    (3.4, 1, 1.0, 0.0), (17.3, -1, 1.0, 0.0), (29.1, 1, 1.08, 70.0), (44.7, -1, 1.2, 10.0), (56.2, 1, 1.2, 140.0),
]


@cache
def fitted(rotation: float, polarity: int, ratio: float, direction: float) -> tuple[Lattice, Crystal]:
    image, truth = taken(sample(rotation, polarity, ratio, direction))
    grid, _ = gridded(truth, image)
    return named(truth, grid)[0], truth


@pytest.mark.parametrize("case", CASES)
def test_cell_polarity_and_shape_are_those_of_the_crystal(case: tuple[float, int, float, float]) -> None:
    rotation, polarity, ratio, _ = case
    lattice, truth = fitted(*case)
    # Some 190 columns of 0.06 px over ten cells give 0.002 px; 0.01 is five of that and 0.05 % of a.
    assert np.allclose(lattice.a_px, truth.a_px, atol=0.01)
    assert np.allclose(lattice.b_px, truth.b_px, atol=0.01)
    assert lattice.polarity == polarity
    assert lattice.rotation_deg == pytest.approx(rotation, abs=0.05)
    assert lattice.anisotropy == pytest.approx(ratio, abs=0.001)
    assert lattice.a_px_iso == pytest.approx(3.16 / PIXEL_A, rel=5e-4)


def test_rms_of_columns_about_their_sites_is_their_error() -> None:
    for case in CASES:
        assert fitted(*case)[0].residual_rms_px == pytest.approx(NOISE_PX, rel=0.15)  # 190 columns: 5 %, 3 sigma


def test_stated_covariance_of_the_cell_is_the_real_one() -> None:
    distance = [mahalanobis(*fitted(*case)) for case in CASES]
    # Sum of 5 chi-squared of 6 degrees of freedom: 99.8 % lie between 11.6 and 59.7.
    assert 11.6 < sum(distance) < 59.7


@pytest.mark.parametrize("case", CASES[1:4])
def test_structure_frame_maps_onto_the_image_without_mirroring(case: tuple[float, int, float, float]) -> None:
    lattice, truth = fitted(*case)
    matrix, offset = lattice.image_from_structure(3.16)
    assert np.linalg.det(matrix) < 0  # y up there, y down here
    # The scan as it was made: Angstrom, flip, scale, stretch. No part of the lattice code is used.
    made = stretch(*case[2:]) @ np.diag([1.0, -1.0]) / PIXEL_A
    assert np.allclose(matrix, made, atol=2e-3 * np.abs(made).max())
    turn = np.radians(case[0] + np.array([0, 60]))
    axes = 3.16 * np.column_stack([np.cos(turn), np.sin(turn)])  # rows a, b in the structure, y up
    third = (1 if case[1] > 0 else 2) / 3
    pattern = np.array([[0, 0], [2, 0], [0, 1], [third, third], [3 + third, 1 + third]])  # an L: no mirror symmetry
    seen, mirrored = (((pattern @ axes) * flip) @ matrix.T + offset for flip in ([1, 1], [1, -1]))
    names = np.array(["M", "M", "M", "X", "X"])
    assert all(_nearest(truth, p, n) < 0.1 for p, n in zip(seen, names, strict=True))
    assert max(_nearest(truth, p, n) for p, n in zip(mirrored, names, strict=True)) > 2.0  # the broken twin


def _nearest(truth: Crystal, at: FloatArray, sublattice: str) -> float:
    """Distance to the nearest true site of a sublattice, the crystal going on for ever."""
    cell = np.column_stack([truth.a_px, truth.b_px])
    third = 0.0 if sublattice == "M" else (1 if truth.polarity > 0 else 2) / 3
    index = np.linalg.solve(cell, at - truth.origin_px) - third
    return float(np.linalg.norm(cell @ (index - np.rint(index))))


@given(st.floats(0, 359.9), st.floats(1, 1.3), st.floats(0, 180), st.floats(5, 60))
def test_stretching_a_cell_neither_turns_nor_scales_it(angle: float, ratio: float, along: float, size: float) -> None:
    a, b = cell_vectors(size, angle, stretch(ratio, along))
    assert iso(a, b) == pytest.approx(size, rel=1e-9)
    turned = (rotation_deg(a, b) - angle + 180) % 360 - 180
    assert turned == pytest.approx(0, abs=1e-6)


def test_scan_distortion_is_followed_to_every_site() -> None:
    image, truth = taken(sample(17.3, 1, 1.05, removed=2), distortion_px=0.8, drift_px=(6.0, -4.0))
    grid, columns = gridded(truth, image)
    _, third = named(truth, grid)
    honey = honeycomb(grid, columns, np.zeros(SHAPE, np.uint8))
    metals = honey.inside & (honey.third == third)
    index = honey.ij[metals] + third * np.array([[1 / 3, 1 / 3]])
    stiff = grid.origin_px + index @ np.stack([grid.a_px, grid.b_px])
    followed, straight = (_rms_off(truth, xy) for xy in (honey.xy_px[metals], stiff))
    # What a window of 1.5 cells cannot follow is the curvature, (1.5 a)^2 u'' / 2 = 0.1 px here, and noise.
    assert followed < 0.18
    assert straight > 0.4  # the cell without the distortion: the broken twin


def _rms_off(truth: Crystal, xy: FloatArray) -> float:
    apart = np.linalg.norm(xy[:, None] - truth.columns.xy_px[None], axis=2)
    return float(np.sqrt(np.mean(apart.min(1) ** 2)))


def test_row_jitter_does_not_pull_the_cell() -> None:
    image, truth = taken(sample(23.9, 1), jitter_px=0.6)
    columns = find(image)
    grid = fit_grid(image, columns)
    assert np.allclose(grid.a_px, truth.a_px, atol=0.04)  # 0.2 px of jitter is left in a column, else as above
    assert np.allclose(grid.b_px, truth.b_px, atol=0.04)


def test_planes_alone_give_the_cell_where_no_column_is_resolved() -> None:
    image, truth = taken(sample(37.7, -1, 1.1), counts=4.0)
    none = planted(truth, 0.0)
    keep = np.zeros(len(none), dtype=bool)
    none = Columns(
        none.xy_px[keep], none.intensity[keep], none.cov[keep], none.profile, none.background, none.model, none.noise
    )
    lattice, _ = named(truth, fit_grid(image, none))
    assert np.allclose(lattice.a_px, truth.a_px, rtol=0.003, atol=0.06)
    assert lattice.polarity == truth.polarity
    sites = lattice.positions(np.array([[0, 0], [2, 1], [-2, 1]]) + lattice.basis[0])
    assert all(_nearest(truth, p, "M") < 0.7 for p in sites)


def test_equal_columns_do_not_pass_for_a_cell_a_third_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    graphene = crystal(
        SHAPE, pixel_size_A=0.10, a_A=2.46, rotation_deg=12.2, species=("C", "C"), brightness=(1.0, 0.98),
        core_sigma_A=0.21, tail_fraction=0.0, seed=2,
    )
    image, truth = taken(graphene)
    g = np.linalg.inv(np.column_stack([truth.a_px, truth.b_px]))
    assert _power(image, g[0] - g[1]) > 1.3 * _power(image, g[0])  # the case that is meant
    cell = np.linalg.inv(reciprocal_cell(image))
    assert abs(np.linalg.det(cell)) == pytest.approx(abs(np.linalg.det(np.linalg.inv(g))), rel=0.01)
    monkeypatch.setattr("stemfit.lattice.spots._primitive", lambda snr, shape, cell: cell)
    broken = np.linalg.inv(reciprocal_cell(image))
    assert abs(np.linalg.det(broken)) < 0.5 * abs(np.linalg.det(np.linalg.inv(g)))


def _power(image: FloatArray, k: FloatArray) -> float:
    """Fourier power at a frequency, by the sum itself."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return float(np.abs(np.sum((image - image.mean()) * np.exp(-2j * np.pi * (k[0] * x + k[1] * y)))) ** 2)


def test_chalcogen_brighter_than_metal_changes_names_not_sites() -> None:
    image, truth = taken(sample(31.0, -1, 1.0, species=("Mo", "Se2"), brightness=(0.6, 1.0)))
    grid, _ = gridded(truth, image)
    lattice, third = named(truth, grid)
    assert lattice.polarity == -1
    brighter = int(np.argmax(grid.contrast[:2]))
    assert brighter != third  # the metal is the dimmer one here
    assert grid.contrast[2] == grid.contrast.min()  # the hollow is the darkest


def test_every_site_gets_its_own_column_and_a_vacancy_none() -> None:
    chain = vacancies()
    truth, sites = chain.truth, chain.sites
    apart = np.linalg.norm(sites.xy_px[:, None] - truth.columns.xy_px[None], axis=2)
    near, off = apart.argmin(1), apart.min(1)
    assert (off[sites.analysed] < 0.3).all()
    state = truth.columns.state[near]
    empty = sites.analysed & (state == "empty")
    assert empty.sum() == 2
    assert (sites.column[empty] == -1).all()
    assert (sites.column[sites.analysed & (state != "empty")] >= 0).all()
    used = sites.column[sites.column >= 0]
    assert len(np.unique(used)) == len(used)
    assert (sites.sublattice[sites.analysed] == truth.columns.sublattice[near[sites.analysed]]).all()


def test_cell_indices_and_positions_agree() -> None:
    chain = vacancies()
    second = (chain.sites.sublattice == "X").astype(int)
    where = chain.lattice.positions(chain.sites.ij + chain.lattice.basis[second])
    assert np.allclose(where, chain.sites.xy_px, atol=1e-6)


def test_sites_too_near_the_edge_are_not_judged() -> None:
    chain = pristine()
    x, y = chain.sites.xy_px.T
    distance = np.minimum.reduce([x, y, SHAPE[1] - 1 - x, SHAPE[0] - 1 - y])
    assert (distance[chain.sites.analysed] > 0.5 * chain.lattice.a_px_iso).all()
    assert (~chain.sites.analysed).any()
    deep = distance > chain.lattice.a_px_iso
    assert chain.sites.analysed[deep].all()


HOLE, DIRT, HOLE_RADIUS, DIRT_RADIUS, VACUUM_X = np.array([250.0, 100.0]), np.array([170.0, 230.0]), 60.0, 40.0, 50.0
WIDE = (300, 340)


def with_hole(whole: Crystal, radius: float, left: float = 0.0) -> Crystal:
    """Take out all columns round `HOLE`, and all with x < `left`."""
    gone = {}
    for (i, j), name, at in zip(whole.columns.ij, whole.columns.sublattice, whole.columns.xy_px, strict=True):
        if at[0] < left or np.linalg.norm(at - HOLE) < radius:
            gone[int(i), int(j), str(name)] = 0.0
    return redrawn(whole, gone)


@cache
def spoiled() -> tuple[FloatArray, Columns, Grid]:
    """A crystal that ends at the left, with a hole and a patch of dirt."""
    holed = with_hole(crystal(WIDE, pixel_size_A=PIXEL_A, rotation_deg=17.3, seed=7), HOLE_RADIUS, VACUUM_X)
    y, x = np.mgrid[: WIDE[0], : WIDE[1]]
    holed.image[x < VACUUM_X - 12] = 0.0  # columns beyond the left edge still shine in
    thick = np.clip((DIRT_RADIUS + 6 - np.hypot(x - DIRT[0], y - DIRT[1])) / 12, 0, 1)
    lumps = 1 + 0.3 * smooth_field(np.random.default_rng(3), (80, 80))(np.stack([x, y], -1).astype(float))
    holed.image[:] = holed.image * (1 - 0.9 * thick) + 1.8 * thick * lumps
    image, _ = taken(holed)
    columns = find(image)
    return image, columns, fit_grid(image, columns)


def test_hole_dirt_and_vacuum_are_masked_and_named() -> None:
    image, columns, grid = spoiled()
    regions, number = find_regions(image, columns, grid)
    expected = {(250, 100): "hole", (170, 230): "contamination", (8, 150): "vacuum", (130, 90): "", (290, 260): ""}
    said = {(x, y): regions[number[y, x] - 1].kind if number[y, x] else "" for x, y in expected}
    assert said == expected
    assert sorted(r.kind for r in regions) == ["contamination", "hole", "vacuum"]
    for k, region in enumerate(regions, 1):
        rows, cols = np.nonzero(number == k)
        assert np.allclose(region.polygon_px.min(0), [cols.min(), rows.min()], atol=2.0)
        assert np.allclose(region.polygon_px.max(0), [cols.max(), rows.max()], atol=2.0)


def test_masks_end_where_the_crystal_begins() -> None:
    image, columns, grid = spoiled()
    number = find_regions(image, columns, grid)[1]
    y, x = np.mgrid[: WIDE[0], : WIDE[1]]
    hole, dirt = (np.hypot(x - at[0], y - at[1]) for at in (HOLE, DIRT))
    one = 3.16 / PIXEL_A  # a border is known to one lattice constant, that of the columns' own spacing
    crystal_there = (hole > HOLE_RADIUS + one) & (dirt > DIRT_RADIUS + 6 + one) & (x > VACUUM_X + one)
    assert number[crystal_there].mean() < 0.01
    none_there = (hole < HOLE_RADIUS - one) | (dirt < DIRT_RADIUS - 6 - one) | (x < VACUUM_X - one)
    assert (number[none_there] > 0).mean() > 0.99


def test_a_hole_of_a_dozen_cells_is_a_hole() -> None:
    image, truth = taken(with_hole(crystal(WIDE, pixel_size_A=PIXEL_A, rotation_deg=17.3, seed=7), 38.0))
    grid, columns = gridded(truth, image)
    regions, number = find_regions(image, columns, grid)
    assert [r.kind for r in regions] == ["hole"]
    assert number[round(HOLE[1]), round(HOLE[0])] == 1


def test_cell_is_right_beside_spoiled_areas() -> None:
    _, _, grid = spoiled()
    truth = crystal(WIDE, pixel_size_A=PIXEL_A, rotation_deg=17.3, seed=7)
    assert np.allclose(grid.a_px, truth.a_px, atol=0.03)
    assert np.allclose(grid.b_px, truth.b_px, atol=0.03)


def test_no_site_is_judged_inside_a_region() -> None:
    image, columns, grid = spoiled()
    _, number = find_regions(image, columns, grid)
    honey = honeycomb(grid, columns, number)
    at = np.rint(honey.xy_px).astype(int)
    masked = number[at[:, 1], at[:, 0]] > 0
    assert masked.sum() > 50
    assert not honey.inside[masked].any()


def test_single_vacancies_make_no_region() -> None:
    assert vacancies().regions == ()
    assert pristine().regions == ()


def test_noise_has_no_lattice() -> None:
    with pytest.raises(NotAnalysable):
        reciprocal_cell(np.random.default_rng(5).poisson(30.0, SHAPE).astype(float))


def test_a_slope_has_no_lattice() -> None:
    y, x = np.mgrid[:200, :220]
    with pytest.raises(NotAnalysable):
        reciprocal_cell(np.random.default_rng(5).poisson(30.0 + 0.2 * x + 0.1 * y).astype(float))


@pytest.mark.parametrize("sides", [(17.0, 17.0), (22.0, 15.5)])
def test_a_square_crystal_is_not_called_hexagonal(sides: tuple[float, float]) -> None:
    steps = np.stack(np.meshgrid(*(np.arange(-14, 15) * side for side in sides)), -1).reshape(-1, 2)
    t = np.radians(11.3)
    xy = steps @ np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]) + [110, 100]
    shape = ColumnShape(3.0, 9.0, 0.1)
    image = render(xy, np.full(len(xy), 1 / shape.peak()), shape, SHAPE)
    noisy = np.random.default_rng(0).poisson(100 * image + 5).astype(float)
    with pytest.raises(NotAnalysable):
        reciprocal_cell(noisy)


def test_axes_are_counted_the_same_way_whatever_spots_came_first() -> None:
    a, b = cell_vectors(19.0, 14.0)
    g = np.linalg.inv(np.column_stack([a, b]))
    for rows in ([[1, 0], [1, 1]], [[0, 1], [1, 1]], [[-1, 0], [0, 1]], [[0, -1], [1, 0]]):
        first, second = cell_module._direct(np.array(rows) @ g)
        assert np.allclose(first, a, atol=1e-9)
        assert np.allclose(second, b, atol=1e-9)


def test_a_rectangle_confines_the_search_and_its_region_is_the_rest() -> None:
    seen = pristine()
    regions, number, sites = outside((40, 30, 140, 150), seen.regions, seen.region_map, seen.sites)
    kept = sites.xy_px[sites.analysed]
    assert len(kept) > 20
    assert ((kept > [39, 29]) & (kept < [141, 151])).all()
    assert (number[30:150, 40:140] == 0).all()
    assert (number == len(regions)).sum() == number.size - 120 * 100
    x, y = (regions[-1].polygon_px[:, k] for k in (0, 1))
    area = abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2
    assert area == pytest.approx(number.size - 120 * 100, rel=0.05)  # a frame, not the rectangle itself
    with pytest.raises(UsageError, match="no site"):
        outside((600, 600, 700, 700), seen.regions, seen.region_map, seen.sites)


def test_a_few_cells_are_no_lattice() -> None:
    image, _ = taken(crystal((88, 90), pixel_size_A=PIXEL_A, rotation_deg=5.0), 100.0)
    with pytest.raises(NotAnalysable, match="cells a side"):
        fit_grid(image, find(image))
