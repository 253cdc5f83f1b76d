"""The synthetic images: what they claim as truth must be what is in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from stemfit import synthetic
from stemfit.synthetic import Acquisition, ColumnShape, acquire, cell_vectors, crystal, record, render

BLOB = ColumnShape(core_sigma_px=3.7, tail_sigma_px=9.0, tail_fraction=0.0)


def fitted_center(image: np.ndarray, start: np.ndarray, half: int = 12) -> np.ndarray:
    """Least-squares elliptical Gaussian with a constant: shares nothing with the code under test."""
    x0, y0 = np.round(start).astype(int)
    yy, xx = np.mgrid[y0 - half : y0 + half + 1, x0 - half : x0 + half + 1]
    patch = image[yy, xx]

    def residual(p: np.ndarray) -> np.ndarray:
        dx, dy = xx - p[0], yy - p[1]
        return (p[2] * np.exp(-(p[4] * dx**2 + p[5] * dy**2 + 2 * p[6] * dx * dy) / 2) + p[3] - patch).ravel()

    scale = 1 / 3.7**2
    found = least_squares(residual, [*start, np.ptp(patch), patch.min(), scale, scale, 0.0])
    return np.asarray(found.x[:2])


def blobs(xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    weight = np.full(len(xy), 1 / BLOB.peak())
    return render(xy, weight, BLOB, shape)


def test_render_integral_and_peak() -> None:
    profile = ColumnShape(3.1, 8.0, 0.2)
    image = render(np.array([[70.0, 61.0]]), np.array([5.0]), profile, (120, 140))
    assert image.sum() == pytest.approx(5.0, rel=1e-5)
    assert image[61, 70] == pytest.approx(5.0 * profile.peak(), rel=1e-12)
    assert np.unravel_index(image.argmax(), image.shape) == (61, 70)


def test_metal_peaks_at_one_when_alone() -> None:
    lone = crystal((301, 333), a_A=14.0, rotation_deg=9.0, brightness=(1.0, 0.0), origin_px=(160.0, 150.0))
    assert lone.image[150, 160] == pytest.approx(1.0, abs=1e-6)


@given(rotation=st.floats(0, 60, exclude_max=True), spacing=st.floats(8, 40))
@settings(deadline=None, max_examples=30)
def test_b_is_counterclockwise_from_a_as_displayed(rotation: float, spacing: float) -> None:
    a, b = cell_vectors(spacing, rotation)
    up_a, up_b = np.array([a[0], -a[1]]), np.array([b[0], -b[1]])  # y drawn upwards
    turn = np.rad2deg(np.arctan2(up_a[0] * up_b[1] - up_a[1] * up_b[0], up_a @ up_b))
    assert turn == pytest.approx(60.0, abs=1e-9)
    assert np.rad2deg(np.arctan2(up_a[1], up_a[0])) % 360 == pytest.approx(rotation % 360, abs=1e-9)


@pytest.mark.parametrize("polarity", [1, -1])
def test_polarity_says_where_the_chalcogen_is(polarity: int) -> None:
    sample = crystal((300, 340), polarity=polarity, rotation_deg=12.0, tail_fraction=0.0, seed=3)
    share = (1 if polarity > 0 else 2) / 3
    at = sample.origin_px + share * (sample.a_px + sample.b_px)
    hollow = sample.origin_px + (1 - share) * (sample.a_px + sample.b_px)
    value = {name: sample.image[tuple(np.round(p[::-1]).astype(int))] for name, p in (("X", at), ("H", hollow))}
    assert value["X"] > 0.35 and value["H"] < 0.15


def test_polarities_are_mirror_images() -> None:
    """The mirrored picture of +1 is a crystal of -1, and not one of +1."""
    middle = (200.0, 160.0)
    plus = crystal((321, 401), polarity=1, rotation_deg=0.0, origin_px=middle)
    minus = crystal((321, 401), polarity=-1, rotation_deg=0.0, origin_px=middle)
    np.testing.assert_allclose(plus.image[::-1], minus.image, atol=1e-6)
    assert np.abs(plus.image[::-1] - plus.image).max() > 0.3


def test_sheared_cell_is_where_the_columns_are() -> None:
    strain = np.array([[1.0, 0.12], [0.03, 0.94]])
    sample = crystal((310, 420), strain=strain, rotation_deg=33.0, polarity=-1, tail_fraction=0.0, seed=5)
    second = sample.columns.sublattice == "X"
    np.testing.assert_allclose(sample.site_px(sample.columns.ij, second), sample.columns.xy_px, atol=1e-9)
    central = np.all(np.abs(sample.columns.xy_px - [210, 155]) < [180, 125], axis=1)
    for x, y in np.round(sample.columns.xy_px[central][::25]).astype(int):
        peak = np.unravel_index(sample.image[y - 4 : y + 5, x - 4 : x + 5].argmax(), (9, 9))
        assert np.hypot(peak[0] - 4, peak[1] - 4) < 1.5


def test_defects_are_in_the_image() -> None:
    sample = crystal((400, 460), halved=4, removed=3, removed_metals=2, half_share=0.4, seed=8)
    assert sorted(d.label for d in sample.defects) == ["V_Mo"] * 2 + ["V_S"] * 4 + ["V_S2"] * 3
    perfect = crystal((400, 460), seed=8)
    missing = (perfect.image - sample.image).sum()
    full = perfect.columns.intensity
    expected = 4 * 0.6 * full.min() + 3 * full.min() + 2 * full.max()
    assert missing == pytest.approx(expected, rel=1e-4)
    for defect in sample.defects:
        i, j, letter = defect.sites[0]
        site = sample.site_px(np.array([[i, j]]), np.array([letter == "X"]))[0]
        np.testing.assert_allclose(site, defect.center_px, atol=1e-9)
    centers = np.array([defect.center_px for defect in sample.defects])
    gaps = np.hypot(*np.moveaxis(centers[:, None] - centers, -1, 0))
    assert gaps[gaps > 0].min() > 2.5 * 3.16 / 0.12


def test_flat_hosts_lose_single_atoms() -> None:
    sheet = crystal((300, 300), a_A=2.46, species=("C", "C"), brightness=(1.0, 1.0), removed=1, removed_metals=1)
    assert [(d.type, d.label) for d in sheet.defects] == [("SV", "V_C")] * 2


def test_too_many_defects_are_refused() -> None:
    with pytest.raises(ValueError, match="no room for 90 separated"):
        crystal((200, 200), halved=90)


def test_counts_are_poisson() -> None:
    flat = np.full((400, 500), 0.7)
    recording = acquire(flat, Acquisition(counts=40), seed=1)
    electrons = np.asarray(recording.image, float)
    assert recording.expected == pytest.approx(28.0)
    # mean, variance, third cumulant of a Poisson law are all lambda; each band is four standard errors
    n = electrons.size
    assert electrons.mean() == pytest.approx(28.0, abs=4 * np.sqrt(28 / n))
    assert electrons.var() == pytest.approx(28.0, abs=4 * 28 * np.sqrt((2 + 1 / 28) / n))
    third = np.mean((electrons - electrons.mean()) ** 3)
    assert third == pytest.approx(28.0, abs=4 * np.sqrt(6 * 28**3 / n))
    neighbour = np.mean((electrons[:, 1:] - 28) * (electrons[:, :-1] - 28)) / 28
    assert abs(neighbour) < 4 / np.sqrt(n)


def test_gain_offset_and_read_noise() -> None:
    how = Acquisition(counts=25, gain=120.0, offset=900.0, read_sigma=80.0, dtype="uint16")
    recording = acquire(np.ones((300, 300)), how, seed=2)
    assert recording.image.dtype == np.uint16
    values = recording.image.astype(float)
    assert values.mean() == pytest.approx(900 + 120 * 25, abs=4 * np.sqrt((120**2 * 25 + 80**2) / values.size))
    assert values.var() == pytest.approx(120**2 * 25 + 80**2, rel=0.03)


def test_eight_bit_export_states_its_stretch() -> None:
    sample = crystal((200, 240))
    recording = acquire(sample.image, Acquisition(dtype="uint8", gain=7.0, offset=3.0))
    assert recording.image.dtype == np.uint8 and (recording.image.min(), recording.image.max()) == (0, 255)
    restored = recording.gain * recording.expected + recording.offset
    assert np.abs(restored - recording.image).max() <= 0.5 + 1e-9


def test_no_trouble_changes_nothing() -> None:
    sample = crystal((150, 170))
    recording = acquire(sample.image, Acquisition(margin_px=10))
    np.testing.assert_allclose(recording.image, sample.image[10:-10, 10:-10], atol=1e-6)


def test_margin_is_the_only_border_used() -> None:
    xy = np.array([[40.0, 30.0], [90.0, 80.0]])
    recording = acquire(blobs(xy, (130, 140)), Acquisition(margin_px=15))
    np.testing.assert_allclose(recording.scan.to_image(xy), xy - 15, atol=1e-12)


def test_tails_keep_the_signal() -> None:
    lone = blobs(np.array([[150.0, 140.0]]), (290, 300))
    tailed = acquire(lone, Acquisition(tail_fraction=0.3, tail_sigma_px=14.0)).expected
    assert tailed.sum() == pytest.approx(lone.sum(), rel=1e-3)
    assert tailed.max() < 0.8 * lone.max()
    assert tailed[140, 180] > 10 * lone[140, 180]


def test_background_is_smooth_and_of_the_stated_size() -> None:
    recording = acquire(np.zeros((300, 360)), Acquisition(background=0.2, background_variation=0.25), seed=4)
    assert recording.expected.min() >= 0
    assert recording.expected.mean() == pytest.approx(0.2, rel=0.5)
    steps = np.abs(np.diff(recording.expected, axis=1)).max() + np.abs(np.diff(recording.expected, axis=0)).max()
    assert 0 < steps < 0.01


WARPED = Acquisition(drift_px=(9.0, -7.0), distortion_px=1.5, margin_px=24)


def test_truth_rides_the_distortion() -> None:
    """An isolated column is found where the truth says, and 2 px off where it would be without the map."""
    grid = np.stack(np.meshgrid(np.arange(50.3, 330, 45), np.arange(48.7, 290, 45)), -1).reshape(-1, 2)
    recording = acquire(blobs(grid, (340, 380)), WARPED, seed=6)
    truth = recording.scan.to_image(grid)
    found = np.array([fitted_center(recording.image.astype(float), p) for p in truth])
    assert np.abs(found - truth).max() < 0.01  # curvature of the map across a column, and the spline
    assert np.hypot(*(found - (grid - 24)).T).max() > 2.0


@given(seed=st.integers(0, 50), x=st.floats(20, 350), y=st.floats(20, 300))
@settings(deadline=None, max_examples=25)
def test_map_there_and_back(seed: int, x: float, y: float) -> None:
    scan = acquire(np.zeros((320, 370)), WARPED, seed).scan
    point = np.array([x, y])
    np.testing.assert_allclose(scan.to_ideal(scan.to_image(point)), point, atol=1e-9)


def test_drift_alone_is_affine_and_shears_the_right_way() -> None:
    """A sample that drifts to the right puts the last rows further right."""
    xy = np.array([[100.0, 40.0], [100.0, 250.0]])
    recording = acquire(blobs(xy, (300, 220)), Acquisition(drift_px=(12.0, 0.0)))
    top, bottom = (fitted_center(recording.image.astype(float), p) for p in recording.scan.to_image(xy))
    assert bottom[0] - top[0] == pytest.approx(12.0 * 210 / 299, abs=0.01)


def test_rows_jitter_by_the_stated_amount() -> None:
    stripe = np.exp(-((np.arange(160) - 80.0) ** 2) / (2 * 4.0**2)) * np.ones((400, 1))
    recording = acquire(stripe, Acquisition(jitter_px=0.5), seed=9)
    image = recording.image.astype(float)
    shift = (image * np.arange(160)).sum(1) / image.sum(1) - 80
    np.testing.assert_allclose(shift, recording.scan.row_offset_px, atol=1e-3)
    assert shift.std() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(2 * 400))
    assert abs(np.corrcoef(shift[1:], shift[:-1])[0, 1]) < 4 / np.sqrt(400)


def test_recorded_crystal_carries_everything() -> None:
    sample = crystal((400, 440), halved=3, removed=2, polarity=-1, seed=13)
    recording, moved = record(sample, replace(WARPED, counts=80), seed=3)
    assert moved.image.shape == recording.image.shape == (352, 392)
    inside_all = (moved.columns.xy_px > -0.5).all() and (moved.columns.xy_px < [391.5, 351.5]).all()
    assert inside_all and len(moved.columns) < len(sample.columns)
    sites = moved.site_px(moved.columns.ij, moved.columns.sublattice == "X")
    off = sites - moved.columns.xy_px
    assert 0.1 < np.sqrt(np.mean(off**2)) < 1.5  # only the smooth distortion is left
    for defect in moved.defects:
        k = int(np.hypot(*(moved.columns.xy_px - defect.center_px).T).argmin())
        assert moved.columns.state[k] != "full"
        np.testing.assert_allclose(moved.columns.xy_px[k], defect.center_px, atol=1e-9)


def test_cell_follows_drift_exactly_without_distortion() -> None:
    sample = crystal((360, 400), rotation_deg=20.0)
    _, moved = record(sample, Acquisition(drift_px=(8.0, 5.0), margin_px=12))
    sites = moved.site_px(moved.columns.ij, moved.columns.sublattice == "X")
    np.testing.assert_allclose(sites, moved.columns.xy_px, atol=1e-8)
    assert np.hypot(*(moved.a_px - sample.a_px)) > 0.1


def test_seed_is_all_that_decides() -> None:
    how = Acquisition(counts=30, jitter_px=0.4, distortion_px=1.0, background=0.1, read_sigma=0.2)
    first, again, other = (record(crystal(halved=3, seed=s), how, seed=s) for s in (5, 5, 6))
    np.testing.assert_array_equal(first[0].image, again[0].image)
    np.testing.assert_array_equal(first[1].columns.xy_px, again[1].columns.xy_px)
    assert np.abs(first[0].image - other[0].image).max() > 1


def test_micrograph_wraps_the_pixels() -> None:
    sample = crystal((100, 130))
    wrapped = synthetic.as_micrograph(sample.image.astype(np.float32), 0.12)
    assert wrapped.image.shape == (100, 130) and wrapped.image.dtype == np.float64 and wrapped.dtype == "float32"
    assert wrapped.pixel_size_A == 0.12 and len(wrapped.sha256) == 64
    assert synthetic.as_micrograph(sample.image, None).pixel_size_source is None


def test_public_names() -> None:
    assert set(synthetic.__all__) == {
        "Acquisition", "ColumnShape", "Crystal", "Recording", "ScanMap", "SmoothField", "TrueColumns", "TrueDefect",
        "acquire", "as_micrograph", "cell_vectors", "crystal", "fit_cell", "lattice_sites", "record", "render",
        "smooth_field",
    }
    assert all(hasattr(synthetic, name) for name in synthetic.__all__)
