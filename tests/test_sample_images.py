"""The sample images against the truth beside them, with nothing of the analysis chain."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter, map_coordinates

FOLDER = Path(__file__).parent.parent / "sample_images"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
WANTED = {"mos2_sv", "wse2_sv_dv", "mos2_line", "wse2_trefoil", "mose2_sv", "ws2_pristine"}


@dataclass(frozen=True)
class Sample:
    """Image in electrons, truth as read, and the columns as arrays."""

    truth: dict[str, Any]
    image: np.ndarray
    stored: np.ndarray
    xy: np.ndarray
    species: np.ndarray
    ij: np.ndarray
    sublattice: np.ndarray

    def cell(self) -> np.ndarray:
        return np.column_stack([self.truth["a_px"], self.truth["b_px"]])

    def site(self, ij: np.ndarray, letter: str, polarity: int | None = None) -> np.ndarray:
        third = {"M": 0, "A": 0, "X": 1, "B": 1, "H": 2}[letter]
        if (polarity or self.truth["polarity"]) < 0:
            third = (3 - third) % 3
        return self.truth["origin_px"] + (np.asarray(ij) + third / 3) @ self.cell().T

    def px(self, angstrom: float) -> float:
        return angstrom / self.truth["pixel_size_A"]

    def within(self, xy: np.ndarray, margin_A: float = 3.0) -> np.ndarray:
        height, width = self.image.shape
        m = self.px(margin_A)
        return np.all((xy > m) & (xy < [width - m, height - m]), axis=1)

    def far(self, xy: np.ndarray, distance_A: float) -> np.ndarray:
        """Farther than this from every site of every defect."""
        extent = np.array([p for d in self.truth["defects"] for p in d["extent_px"]]).reshape(-1, 2)
        gap = np.hypot(*np.moveaxis(xy[:, None] - extent, -1, 0))
        return np.all(gap > self.px(distance_A), axis=1)


@pytest.fixture(scope="module", params=NAMES)
def sample(request: pytest.FixtureRequest) -> Sample:
    truth = json.loads((FOLDER / f"{request.param}.json").read_text())
    stored = tifffile.imread(FOLDER / truth["image"])
    image = (stored.astype(float) - truth["dose"]["offset"]) / truth["dose"]["gain"]
    rows = truth["columns"]
    x, y, species, i, j, letter = zip(*rows, strict=True)
    return Sample(
        truth, image, stored, np.column_stack([x, y]), np.array(species), np.column_stack([i, j]), np.array(letter)
    )


def disc_means(sample: Sample, xy: np.ndarray, radius_A: float = 0.55) -> np.ndarray:
    """Mean signal in a soft disc about each position."""
    smooth = gaussian_filter(sample.image, sample.px(radius_A) / np.sqrt(2))
    return np.asarray(map_coordinates(smooth, xy.T[::-1], order=1))


def test_all_are_there_and_small() -> None:
    assert set(NAMES) >= WANTED
    assert {path.stem for path in FOLDER.glob("*.tif")} == set(NAMES)
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 8e6


def test_set_spans_the_conventions() -> None:
    truths = [json.loads((FOLDER / f"{name}.json").read_text()) for name in NAMES]
    assert {truth["polarity"] for truth in truths} == {1, -1}
    kinds = {defect["type"] for truth in truths for defect in truth["defects"]}
    assert kinds >= {"SV", "DV", "LINE", "TREFOIL"}
    ratios = [t["stated_pixel_size_A"] and t["stated_pixel_size_A"] / t["pixel_size_A"] for t in truths]
    assert sum(r is None for r in ratios) == 1
    assert sorted({round(r, 3) for r in ratios if r}) == [1.0, 1.08]


def test_scale_in_the_file_is_the_stated_one(sample: Sample) -> None:
    stated = sample.truth["stated_pixel_size_A"]
    with tifffile.TiffFile(FOLDER / sample.truth["image"]) as tif:
        page = tif.pages[0]
        if stated is None:
            assert tif.imagej_metadata is None
            return
        assert tif.imagej_metadata is not None and tif.imagej_metadata["unit"] == "nm"
        for tag in ("XResolution", "YResolution"):
            pixels, nanometres = page.tags[tag].value
            assert 10 * nanometres / pixels == pytest.approx(stated, rel=1e-4)


def test_cell_has_the_agreed_sense(sample: Sample) -> None:
    a, b = (np.array(sample.truth[key]) * [1, -1] for key in ("a_px", "b_px"))  # y upwards
    turn = np.rad2deg(np.arctan2(a[0] * b[1] - a[1] * b[0], a @ b))
    assert turn == pytest.approx(60, abs=2.5)  # drift shears by one or two per cent
    assert -3 < np.rad2deg(np.arctan2(a[1], a[0])) < 63
    iso = np.sqrt(2 * abs(np.linalg.det(sample.cell())) / np.sqrt(3))
    assert iso * sample.truth["lattice_pixel_size_A"] == pytest.approx(sample.truth["a_A"], rel=1e-4)
    assert sample.truth["lattice_pixel_size_A"] == pytest.approx(sample.truth["pixel_size_A"], rel=0.015)


def test_columns_lie_on_their_sites(sample: Sample) -> None:
    site = np.array([sample.site(ij, letter) for ij, letter in zip(sample.ij, sample.sublattice, strict=True)])
    off = np.hypot(*(site - sample.xy).T) * sample.truth["pixel_size_A"]
    calm = sample.far(sample.xy, 8.0)
    assert np.median(off[calm]) < 0.12 and off[calm].max() < 0.35  # the smooth distortion is not in the cell
    assert off.max() < 0.9  # relaxation included


def test_no_two_columns_coincide(sample: Sample) -> None:
    gap = np.hypot(*np.moveaxis(sample.xy[:, None] - sample.xy, -1, 0)) + 1e9 * np.eye(len(sample.xy))
    assert gap.min() * sample.truth["pixel_size_A"] > 1.1


def test_bright_sites_and_hollows(sample: Sample) -> None:
    """Sites of both sublattices are brighter than hollows: wrong polarity would swap X and hollow."""
    calm = sample.within(sample.xy) & sample.far(sample.xy, 6.0)
    second = np.isin(sample.sublattice, ["X", "B"])
    ij = np.unique(sample.ij[calm], axis=0)
    hollow = sample.site(ij, "H")
    hollow = hollow[sample.within(hollow) & sample.far(hollow, 6.0)]
    means = [disc_means(sample, xy).mean() for xy in (sample.xy[calm & ~second], sample.xy[calm & second], hollow)]
    contrast = means[0] - means[2]
    assert contrast > 0.25 * sample.truth["dose"]["electrons_at_metal_peak"]
    assert means[1] - means[2] > 0.08 * contrast


def peak_offsets(sample: Sample, xy: np.ndarray) -> np.ndarray:
    """From the stated position to the maximum of the smoothed image, by a parabola through 3 x 3 pixels; Angstrom."""
    smooth = gaussian_filter(sample.image, sample.px(0.35))
    offsets = []
    for x, y in xy:
        x0, y0 = round(x), round(y)
        reach = int(sample.px(0.7))
        around = smooth[y0 - reach : y0 + reach + 1, x0 - reach : x0 + reach + 1]
        dy, dx = np.array(np.unravel_index(around.argmax(), around.shape)) - reach
        x0, y0 = x0 + int(dx), y0 + int(dy)
        left, mid, right = smooth[y0, x0 - 1 : x0 + 2]
        up, _, down = smooth[y0 - 1 : y0 + 2, x0]
        fine = [(left - right) / 2 / (left + right - 2 * mid), (up - down) / 2 / (up + down - 2 * mid)]
        offsets.append([x0 + fine[0] - x, y0 + fine[1] - y])
    return np.array(offsets) * sample.truth["pixel_size_A"]


def test_metals_are_local_maxima(sample: Sample) -> None:
    brighter = np.isin(sample.sublattice, ["M"] if "M" in sample.sublattice else ["B"])
    here = brighter & sample.within(sample.xy) & sample.far(sample.xy, 5.0)
    off = peak_offsets(sample, sample.xy[here])
    assert np.abs(off).max() < 0.45
    assert np.sqrt(np.mean(off**2)) < 0.12
    assert np.hypot(*off.mean(0)) < 0.02
    # twin: the same list half a pixel away is rejected by the last line
    shifted = off - 0.5 * sample.truth["pixel_size_A"]
    assert np.hypot(*shifted.mean(0)) > 0.02


def test_vacancies_are_dark(sample: Sample) -> None:
    """Each emptied column is darker than the pristine ones of its kind; two missing atoms more than one."""
    second = np.isin(sample.sublattice, ["X", "B"])
    calm = second & sample.within(sample.xy) & sample.far(sample.xy, 6.0)
    pristine = disc_means(sample, sample.xy[calm])
    drops: dict[int, list[float]] = {1: [], 2: []}
    for defect in sample.truth["defects"]:
        if defect["type"] not in ("SV", "DV"):
            continue
        value = disc_means(sample, np.array(defect["extent_px"]))[0]
        drops[defect["atoms_missing"][0]].append((pristine.mean() - value) / pristine.std())
    for found in drops.values():
        assert all(drop > 3.0 for drop in found), found
    if drops[1] and drops[2]:
        assert min(drops[2]) > max(drops[1])


def test_extended_defects_are_where_they_are_said_to_be(sample: Sample) -> None:
    """Arrived columns are bright, columns left empty are dark, against pristine columns and hollows."""
    second = sample.sublattice == "X"
    calm = second & sample.within(sample.xy) & sample.far(sample.xy, 6.0)
    for defect in sample.truth["defects"]:
        if defect["type"] not in ("LINE", "TREFOIL"):
            continue
        values = disc_means(sample, np.array(defect["extent_px"]))
        missing = np.array(defect["atoms_missing"])
        pristine = disc_means(sample, sample.xy[calm])
        assert values[missing > 0].mean() < pristine.mean() - 1.5 * pristine.std()
        if (missing < 0).any():
            assert values[missing < 0].min() > values[missing > 0].max()


def test_defect_list_and_column_list_agree(sample: Sample) -> None:
    species = {(int(i), int(j), str(s)): str(name) for (i, j), s, name in
               zip(sample.ij, sample.sublattice, sample.species, strict=True)}
    pair = sorted({name for name in sample.species if name.endswith("2")})
    for defect in sample.truth["defects"]:
        np.testing.assert_allclose(np.mean(defect["extent_px"], axis=0), defect["center_px"], atol=1e-3)
        for (i, j, letter), missing, at in zip(
            defect["sites"], defect["atoms_missing"], defect["extent_px"], strict=True
        ):
            assert np.hypot(*(sample.site([i, j], letter) - at)) < sample.px(0.35)
            there = species.get((i, j, letter), "")
            assert there == {2: "", 1: pair[0].rstrip("2"), -2: pair[0]}[missing]
    damaged = sum(abs(m) for d in sample.truth["defects"] for m in d["atoms_missing"] if m == 1)
    assert damaged == np.isin(sample.species, [p.rstrip("2") for p in pair]).sum()


def test_dose_is_the_stated_one(sample: Sample) -> None:
    """Fourth differences along the rows leave shot noise alone: the columns are too smooth to pass."""
    kernel = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / np.sqrt(70)
    difference = np.apply_along_axis(np.convolve, 1, sample.image, kernel, mode="valid")
    rounding = (1 / 12 if sample.stored.dtype.kind == "u" else 0.0) / sample.truth["dose"]["gain"] ** 2
    read = sample.truth["dose"]["read_sigma_electrons"] ** 2
    assert difference.var() == pytest.approx(sample.image.mean() + read + rounding, rel=0.03)
    first = np.isin(sample.sublattice, ["M", "A"]) & sample.within(sample.xy) & sample.far(sample.xy, 5.0)
    peaks = map_coordinates(gaussian_filter(sample.image, 1.0), sample.xy[first].T[::-1], order=1)
    assert np.median(peaks) == pytest.approx(sample.truth["dose"]["electrons_at_metal_peak"], rel=0.2)
    assert 20 <= sample.truth["dose"]["electrons_at_metal_peak"] <= 200
    assert 1e5 < sample.truth["dose"]["electrons_per_A2"] < 3e6
