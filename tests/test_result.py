"""The result folder says what the analysis says, in the contract's units and axes, and appears whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import handmade
import numpy as np
import pytest
import tifffile

from stemfit.errors import InputError, OutputError
from stemfit.result import Findings, check_place, read, write
from stemfit.result.document import to_json
from stemfit.result.field import field, frame
from stemfit.result.species import species

FILES = {
    "analysis.json", "columns.csv", "defects.csv", "structure.cif", "structure.extxyz", "simulated.tif", "residual.tif",
    "mask.tif", "candidates/1-1.cif", "candidates/2-1.cif",
}  # fmt: skip


@pytest.fixture(scope="module")
def analysis() -> Findings:
    return handmade.analysis()


@pytest.fixture(scope="module")
def folder(analysis: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(analysis, tmp_path_factory.mktemp("result") / "deep" / "image.stemfit")


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# -- files ---------------------------------------------------------------------------------------------------------


def test_all_files_and_no_other(folder: Path) -> None:
    assert everything_below(folder) == FILES
    assert os.listdir(folder.parent) == [folder.name]


def test_document_is_strict_json(folder: Path, analysis: Findings) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads((folder / "analysis.json").read_text(), parse_constant=refuse)
    assert content == read(folder)
    assert content["schema"] == "stemfit.analysis/1" and content["status"] == "ok"
    assert content["input"]["shape_px"] == [200, 240] and content["input"]["path"] == "image.tif"
    assert content["candidates"][0]["evidence_relaxed_minus_unrelaxed"] is None  # NaN in the analysis
    assert content["lattice"]["residual_rms_pm"] == pytest.approx(0.3 * handmade.PIXEL_A * 100)
    assert content["lattice"]["masked_fraction"] == pytest.approx(10 / 200)
    assert content["defects"][0]["sites"] == [[6, 3, "X"]]
    assert [c["file"] for c in content["candidates"]] == ["candidates/1-1.cif", "candidates/2-1.cif"]
    for claim in content["defects"] + content["suspects"]:
        assert claim["probability"] + sum(a["probability"] for a in claim["alternatives"]) == pytest.approx(1)
    assert content["match"]["reduced_chi2"] == pytest.approx(1, abs=0.03)  # the noise that `handmade` put in


def test_the_judged_area_is_that_of_the_judged_sites(folder: Path, analysis: Findings) -> None:
    """Of a rectangle: `handmade` judges what is 12 px from the edge, where the pixels that are not masked go on."""
    (height, width), judged = handmade.SHAPE, read(folder)["judged"]
    true_nm2 = (height - 25) * (width - 25) * (handmade.PIXEL_A / 10) ** 2
    assert judged["sites"] == int(analysis.sites.analysed.sum()) > 0
    assert judged["area_nm2"] == pytest.approx(true_nm2, rel=0.05)
    seen_nm2 = float(np.mean(analysis.region_map == 0)) * height * width * (handmade.PIXEL_A / 10) ** 2
    assert seen_nm2 > 1.15 * true_nm2  # what it must not be


def test_nan_never_reaches_the_file() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": float("nan")})


def test_images(folder: Path, analysis: Findings) -> None:
    simulated, residual, mask = (tifffile.imread(folder / f"{name}.tif") for name in ("simulated", "residual", "mask"))
    assert (simulated.dtype, residual.dtype, mask.dtype) == ("float32", "float32", "uint8")
    assert simulated.shape == residual.shape == mask.shape == handmade.SHAPE
    assert np.array_equal(np.isnan(simulated), mask > 0) and np.array_equal(np.isnan(residual), mask > 0)
    seen = mask == 0
    np.testing.assert_allclose((simulated + residual)[seen], analysis.micrograph.image[seen], rtol=1e-5, atol=1e-5)
    with tifffile.TiffFile(folder / "simulated.tif") as tiff:
        pixels, unit = tiff.pages.first.tags["XResolution"].value
        assert unit / pixels * 10 == pytest.approx(handmade.PIXEL_A, rel=1e-5)


# -- tables --------------------------------------------------------------------------------------------------------


def test_columns_table(folder: Path, analysis: Findings) -> None:
    with (folder / "columns.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(analysis.columns) and [row["id"] for row in rows[:3]] == ["1", "2", "3"]
    assert ",".join(rows[0]) == (
        "id,x_px,y_px,sigma_x_px,sigma_y_px,intensity,sigma_intensity,width_px,sublattice,species,p_species,i,j,defect_id"
    )
    assert (rows[0]["sigma_x_px"], rows[0]["sigma_y_px"], rows[0]["sigma_intensity"]) == ("0.1", "0.2", "5")
    by_site = {(int(r["i"]), int(r["j"]), r["sublattice"]): r for r in rows if r["i"]}
    vacancy = by_site[handmade.SV]
    assert (vacancy["species"], vacancy["p_species"], vacancy["defect_id"]) == ("Se", "0.95", "1")
    assert handmade.DV not in by_site, "a fully vacant site has no row"
    assert by_site[4, 5, "X"]["p_species"] == "0.8" and by_site[4, 5, "X"]["defect_id"] == ""
    assert Counter(r["species"] for r in rows) == {
        "Mo": sum(s == "M" for *_, s in by_site), "Se2": sum(s == "X" for *_, s in by_site) - 1, "Se": 1, "": 1,
    }  # fmt: skip
    assert (rows[-1]["sublattice"], rows[-1]["i"], rows[-1]["defect_id"]) == ("", "", "3"), "off the lattice"
    for site, row in by_site.items():
        at = analysis.sites.xy_px[handmade.index(analysis.sites, site)]
        assert np.allclose([float(row["x_px"]), float(row["y_px"])], at, atol=1e-4)


def test_defects_table(folder: Path) -> None:
    with (folder / "defects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    flat = read(folder)["defects"]
    assert [r["label"] for r in rows] == ["V_Se", "V_Se2", "UNKNOWN"]
    for row, claim in zip(rows, flat, strict=True):
        assert np.allclose([float(row["x_px"]), float(row["y_px"])], claim["center_px"], rtol=1e-6)
        assert np.allclose([float(row["x_A"]), float(row["y_A"])], claim["center_A"], rtol=1e-6)
    assert rows[0]["sites"] == "6:3:X" and rows[2]["best_candidate"] == ""


@pytest.mark.parametrize(
    ("label", "here", "columns", "expected"),
    [
        ("V_S", "S2", {"S2": 1}, "S"), ("V_S2", "S2", {"S2": 1}, ""), ("V_Mo", "Mo", {"Mo": 1}, ""),
        ("Se_S", "S2", {"S2": 1}, "SSe"), ("Se2_S2", "S2", {"S2": 1}, "Se2"), ("W_Mo", "Mo", {"Mo": 1}, "W"),
        ("Mo_S", "S2", {"S2": 1}, "MoS"), ("Mo_S2", "S2", {"S2": 1}, "Mo"), ("Mo2_S2", "S2", {"S2": 1}, "Mo2"),
        ("S2_Mo", "Mo", {"Mo": 1}, "S2"), ("V_MoS3", "S2", {"Mo": 1, "S2": 3}, "S"),
        ("V_MoS6", "S2", {"Mo": 1, "S2": 3}, ""), ("V_MoS3", "Mo", {"Mo": 1, "S2": 3}, ""),
        ("SVL-5", "S2", {"S2": 5}, "S"), ("DVL-6", "S2", {"S2": 6}, "S"), ("CVL-6", "S2", {"S2": 3}, ""),
        ("T1", "S2", {"S2": 6}, ""), ("UNKNOWN", "Mo", {"Mo": 1}, ""), ("SW", "C", {"C": 2}, ""),
        ("N_C", "C", {"C": 1}, "N"), ("V_C2", "C", {"C": 2}, ""), ("V_BN", "B", {"B": 1, "N": 1}, ""),
        ("V_Ga", "Ga2", {"Ga2": 1}, "Ga"),
    ],
)  # fmt: skip
def test_species_of_a_label(label: str, here: str, columns: dict[str, int], expected: str) -> None:
    assert species(label, here, columns) == expected


# -- structures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("polarity", [1, -1])
def test_structure_lies_on_the_image(tmp_path: Path, polarity: int) -> None:
    """Every pristine atom, sent through `image_from_structure` and the distortion, lands on its site."""
    analysis = handmade.analysis(polarity=polarity)
    folder = write(analysis, tmp_path / "r")
    atoms: Any = ase.io.read(folder / "structure.extxyz")
    map_ = read(folder)["lattice"]["image_from_structure"]
    px = atoms.positions[:, :2] @ np.array(map_["matrix"]).T + map_["offset_px"]
    reported = np.column_stack([atoms.arrays["x_px"], atoms.arrays["y_px"]])
    sigma = atoms.arrays["sigma_A"]
    far = sigma == sigma.min()  # not relaxed: the scatter alone
    assert sigma[~far] == pytest.approx(np.hypot(sigma.min(), 0.02))
    assert 50 < far.sum() < len(far)
    np.testing.assert_allclose(handmade.distorted(px)[far], reported[far], atol=1e-3)
    assert np.linalg.det(map_["matrix"]) < 0, "y is up in the structure and down in the image"
    for element, sublattice in (("Mo", "M"), ("Se", "X")):
        at = analysis.sites.xy_px[analysis.sites.sublattice == sublattice]
        mine = reported[(np.array(atoms.get_chemical_symbols()) == element) & far]
        assert np.linalg.norm(mine[:, None] - at[None], axis=2).min(axis=1).max() < 1e-3


def test_structure_is_a_crystal(analysis: Findings, folder: Path) -> None:
    """Bonds are those of MoSe2 but at the edge: no distortion of the scan has entered, no atom is doubled."""
    atoms: Any = ase.io.read(folder / "structure.extxyz")
    nearest = np.sort(atoms.get_all_distances() + np.eye(len(atoms)) * 99, axis=1)[:, 0]
    bond = np.hypot(handmade.HOST.a_A / np.sqrt(3), 3.350 / 2)
    inner = np.all((atoms.positions[:, :2] > 8) & (atoms.positions[:, :2] < atoms.cell.lengths()[:2] - 8), axis=1)
    assert nearest.min() > 0.99 * bond and nearest[inner].max() < 1.001 * bond  # the candidates shrink by 1 %
    margin = np.r_[atoms.positions.min(axis=0), atoms.cell.lengths() - atoms.positions.max(axis=0)]
    assert np.all(margin > 4.9) and np.isclose(margin[[0, 1, 3, 4]].min(), 5.0, atol=0.05)


def test_vacancies_are_missing_and_relaxed(analysis: Findings) -> None:
    atoms = field(analysis)
    site_map = analysis.sites
    pristine_count = np.where(site_map.sublattice == "M", 1, 2)[site_map.analysed].sum()
    assert len(atoms.element) == pristine_count - 1 - 2
    sv, dv = (np.asarray(d.center_px) for d in analysis.defects[:2])
    assert (np.linalg.norm(atoms.xy_px - sv, axis=1) < 2).sum() == 1  # one Se left
    assert (np.linalg.norm(atoms.xy_px - dv, axis=1) < 2).sum() == 0
    scatter = 0.3 * handmade.PIXEL_A
    assert np.isclose(atoms.sigma_A, np.hypot(scatter, 0.02)).sum() > 100, "relaxed atoms carry the relaxer's error"
    assert set(atoms.sigma_A.round(6)) == {round(scatter, 6), round(float(np.hypot(scatter, 0.02)), 6)}


def test_the_neighbours_of_a_vacancy_moved_toward_it(analysis: Findings) -> None:
    """The hand-made candidates shrink by 1 %, one of them in a patch turned by 120 degrees."""
    atoms, centers = field(analysis), frame(analysis).to_A(np.array([d.center_px for d in analysis.defects[:2]]))
    still = field(replace(analysis, relaxed=tuple(
        replace(r, positions_A=np.asarray(c.structure.structure.cart_coords))
        for c, r in zip(analysis.candidates, analysis.relaxed, strict=True)
    )))  # fmt: skip
    bond = handmade.HOST.a_A / np.sqrt(3)
    assert np.array_equal(atoms.element, still.element)
    for center in centers:
        near = atoms.element == "Mo"
        before, after = (np.sort(np.linalg.norm(f.r_A[near, :2] - _site_near(still, center), axis=1))[:3]
                         for f in (still, atoms))  # fmt: skip
        np.testing.assert_allclose(before, bond, atol=1e-3)
        np.testing.assert_allclose(after, 0.99 * bond, atol=1e-3)


def _site_near(atoms: Any, center: np.ndarray) -> np.ndarray:
    """Middle of the three metals around a chalcogen site: the site itself, whatever the distortion said."""
    metals = atoms.r_A[atoms.element == "Mo", :2]
    return metals[np.argsort(np.linalg.norm(metals - center, axis=1))[:3]].mean(axis=0)


def test_without_defects_the_field_is_the_crystal(analysis: Findings) -> None:
    atoms = field(replace(analysis, defects=(), candidates=(), relaxed=(), scores=()))
    assert np.all(atoms.defect == 0) and np.all(atoms.marker == 0)
    assert Counter(atoms.element.tolist())["Mo"] == np.sum(analysis.sites.analysed & (analysis.sites.sublattice == "M"))


def test_both_structure_files_agree(folder: Path) -> None:
    first, second = (ase.io.read(folder / f"structure.{suffix}") for suffix in ("extxyz", "cif"))
    assert first.get_chemical_symbols() == second.get_chemical_symbols()
    np.testing.assert_allclose(first.positions, second.positions, atol=1e-5)
    assert set(first.arrays["defect_id"]) == {0, 1} and set(first.arrays["marker"]) == {0}


def test_candidate_file_holds_the_relaxed_atoms(folder: Path, analysis: Findings) -> None:
    atoms: Any = ase.io.read(folder / "candidates/2-1.cif")
    candidate, relaxed = analysis.candidates[1], analysis.relaxed[1]
    there = candidate.structure.occupied
    assert len(atoms) == there.sum() == 5 * 5 * 3 - 2
    difference = atoms.get_scaled_positions() - np.linalg.solve(
        candidate.structure.structure.lattice.matrix.T, relaxed.positions_A[there].T
    ).T
    assert np.abs(difference - np.round(difference)).max() < 1e-6


# -- the place -----------------------------------------------------------------------------------------------------


def test_same_image_is_replaced(tmp_path: Path, analysis: Findings) -> None:
    out = write(analysis, tmp_path / "r")
    (out / "old.txt").write_text("old")
    write(replace(analysis, warnings=()), out)
    assert everything_below(out) == FILES and read(out)["warnings"] == []
    assert os.listdir(tmp_path) == ["r"]


def put_file(out: Path) -> None:
    out.write_text("mine")


def put_folder(out: Path) -> None:
    out.mkdir()


def put_other_result(out: Path) -> None:
    write(handmade.analysis(sha256="cd" * 32), out)


def put_dead_link(out: Path) -> None:
    out.symlink_to(out.parent / "nowhere")


@pytest.mark.parametrize("put", [put_file, put_folder, put_other_result, put_dead_link])
def test_anything_else_stays(tmp_path: Path, analysis: Findings, put: Callable[[Path], None]) -> None:
    out = tmp_path / "r"
    put(out)
    before = everything_below(tmp_path)
    with pytest.raises(OutputError, match="no result of this image stands there already; move it away") as caught:
        write(analysis, out)
    assert caught.value.exit_code == 5 and everything_below(tmp_path) == before


def test_parent_that_is_a_file(tmp_path: Path, analysis: Findings) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "r"
    for attempt in (lambda: check_place(out, "x"), lambda: write(analysis, out)):
        with pytest.raises(OutputError, match="choose another --out"):
            attempt()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path: Path, analysis: Findings) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="not a writable folder"):
        check_place(tmp_path / "r", "x")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("x"), KeyboardInterrupt()])
def test_failure_leaves_the_old_result(tmp_path: Path, analysis: Findings, failure: BaseException) -> None:
    out = write(analysis, tmp_path / "r")
    before = (out / "analysis.json").read_bytes()

    def fail(_: Findings, folder: Path) -> None:
        assert (folder / "analysis.json").exists() and folder.name.startswith(".tmp-")
        raise failure

    expected = OutputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        write(analysis, out, extras=fail)
    assert os.listdir(tmp_path) == ["r"] and (out / "analysis.json").read_bytes() == before


def test_failed_rename_brings_the_old_result_back(
    tmp_path: Path, analysis: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write(analysis, tmp_path / "r")
    rename = Path.rename

    def once(self: Path, target: Path) -> Path:
        if target == out and self.name != out.name:
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(OutputError, match="Permission denied"):
        write(analysis, out)
    assert os.listdir(tmp_path) == ["r"] and everything_below(out) == FILES


# -- reading back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: content.pop("lattice"), "without lattice"),
        (lambda content: content["host"].pop("name"), "without host.name"),
        (lambda content: content.update(schema="stemfit.analysis/2"), "no stemfit.analysis/1 document"),
    ],
)
def test_reading_checks_the_schema(
    tmp_path: Path, analysis: Findings, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    out = write(analysis, tmp_path / "r")
    content = read(out)
    change(content)
    (out / "analysis.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=problem):
        read(out)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_reading_what_is_no_document(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path)
    (tmp_path / "analysis.json").write_text(text)
    with pytest.raises(InputError, match="give a folder that"):
        read(tmp_path)


def test_a_bright_column_that_was_not_judged_is_no_pristine_one(analysis: Findings) -> None:
    """In a region, or at the edge: what stands on its site is not known; its neighbour there is as the crystal is."""
    from stemfit.result.tables import columns_csv

    sites = analysis.sites
    first, second = np.flatnonzero(sites.column >= 0)[-2:]
    analysed = sites.analysed.copy()
    analysed[[first, second]] = False
    intensity = analysis.columns.intensity.copy()
    intensity[sites.column[first]] *= 6.0
    strange = replace(
        analysis, sites=replace(sites, analysed=analysed), columns=replace(analysis.columns, intensity=intensity),
        defects=(), suspects=(),
    )
    rows = list(csv.DictReader(columns_csv(strange).splitlines()))
    bright, usual = (rows[int(sites.column[k])] for k in (first, second))
    assert (bright["species"], bright["sublattice"]) == ("", str(sites.sublattice[first]))
    assert usual["species"] != ""
