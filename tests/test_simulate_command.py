"""`stemfit simulate`: what it writes and notes, and one line with an exit code for everything wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer.testing
from ase import Atoms
from ase.io import write

import cli
from stemfit import micrograph
from stemfit.columns.stamps import render
from stemfit.columns.types import Profile
from stemfit.simulate.recording import how_made

RUNNER = typer.testing.CliRunner()
SMALL = ("--shape", "40,52", "--pixel-size", "0.2")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a cell of MoS2 in it, a metal in its middle."""
    monkeypatch.chdir(tmp_path)
    a, x, y = 3.16, 3.16 / 2, 3.16 / 12**0.5
    vectors = np.array([[a, 0, 0], [a / 2, a * 3**0.5 / 2, 0], [0, 0, 15.0]])
    from_metal = np.array([[0, 0, 0], [x, y, 1.56], [x, y, -1.56]])
    atoms = Atoms("MoS2", vectors[:2].sum(0) / 2 + np.array([0, 0, 7.0]) + from_metal, cell=vectors, pbc=True)
    write("mos2.cif", atoms)
    return tmp_path


def run(*arguments: str) -> Any:
    return RUNNER.invoke(cli.app, ["simulate", *arguments], catch_exceptions=False)


def assert_one_line(done: Any, exit_code: int, *words: str) -> None:
    assert (done.exit_code, done.stdout) == (exit_code, ""), done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not [name for name in os.listdir() if name.startswith(".tmp-")]


def test_an_image_with_scale_and_a_note() -> None:
    done = run("mos2.cif", "--out", "x.tif", *SMALL, "--coma", "300,40", "--voltage", "80")
    assert done.exit_code == 0, done.stderr
    assert "52 x 40 px of 0.2 A" in done.stdout and "share of the beam" in done.stdout
    image = tifffile.imread("x.tif")
    assert image.dtype == np.float32 and image.shape == (40, 52)
    big = run("mos2.cif", "--out", "big.tif", "--shape", "80,90")
    assert big.exit_code == 0
    assert micrograph.read(Path("big.tif")).metadata_pixel_size_A == pytest.approx(0.1, rel=1e-5)
    noted = how_made(Path("x.tif"))
    assert noted is not None
    expected = {"coma": [300.0, 40.0], "voltage_kV": 80.0, "shape_px": [40, 52], "simulator": "fast", "seed": 0,
                "structure": "mos2.cif", "detector_mrad": [60.0, 180.0]}  # fmt: skip
    assert {key: noted[key] for key in expected} == expected
    with tifffile.TiffFile("x.tif") as tiff:
        assert json.loads(tiff.imagej_metadata["stemfit"])["schema"] == "stemfit.simulate/1"
        assert '"coma": [300.0, 40.0]' in tiff.pages.first.description


def test_the_metal_is_in_the_middle_or_where_asked() -> None:
    for name, options in (("a.tif", ()), ("b.tif", ("--centre", "2.37,2.368"))):
        assert run("mos2.cif", "--out", name, "--shape", "41,51", "--pixel-size", "0.1", *options).exit_code == 0
    middle, moved = (tifffile.imread(name) for name in ("a.tif", "b.tif"))
    assert np.unravel_index(middle.argmax(), middle.shape) == (20, 25)
    # the cell's middle is (2.37, 1.368): 1 A further up in the structure the metal stands 10 px further down
    assert moved[30, 25] == pytest.approx(middle[20, 25], rel=1e-3)


def test_dose_gives_counts_that_the_seed_decides() -> None:
    for name, seed, dose in (("a", "1", "1e5"), ("b", "1", "1e5"), ("c", "2", "1e5"), ("d", "1", "4e5")):
        assert run("mos2.cif", "--out", f"{name}.tif", *SMALL, "--dose", dose, "--seed", seed).exit_code == 0
    run("mos2.cif", "--out", "mean.tif", *SMALL)
    a, b, c, d, mean = (tifffile.imread(f"{name}.tif").astype(float) for name in ("a", "b", "c", "d", "mean"))
    assert (a == b).all() and (a != c).any() and (a == np.round(a)).all()
    expected = mean * 1e5 * 0.2**2
    assert np.mean((a - expected) ** 2 / expected) == pytest.approx(1, abs=6 * (2 / a.size) ** 0.5)
    assert d.sum() / a.sum() == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("name", ["x.png", "x", ".tif", "x.tif.gz", "x.cif"])
def test_what_is_no_tiff_by_its_name_is_refused(name: str) -> None:
    assert_one_line(run("mos2.cif", "--out", name, *SMALL), 2, f"--out {name} is no TIFF", ".tif or .tiff")
    assert not Path(name).exists()


@pytest.mark.parametrize("name", ["x.TIF", "x.tiff"])
def test_either_end_of_a_name_is_a_tiff(name: str) -> None:
    assert run("mos2.cif", "--out", name, *SMALL).exit_code == 0
    assert tifffile.imread(name).shape == (40, 52)


def test_what_is_replaced() -> None:
    assert run("mos2.cif", "--out", "x.tif", *SMALL).exit_code == 0
    before = Path("x.tif").read_bytes()
    assert run("mos2.cif", "--out", "x.tif", *SMALL, "--defocus", "40").exit_code == 0
    assert Path("x.tif").read_bytes() != before
    tifffile.imwrite("mine.tif", np.zeros((9, 9), np.float32), imagej=True)
    Path("notes.tif").write_text("Tuesday")
    for name in ("mine.tif", "notes.tif"):
        kept = Path(name).read_bytes()
        assert_one_line(run("mos2.cif", "--out", name, *SMALL), 5, name, "no simulated image")
        assert Path(name).read_bytes() == kept
    assert_one_line(run("mos2.cif", "--out", "no/x.tif", *SMALL), 5, "not a writable folder")


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (("--voltage", "60000"), 2, ["60000 kV", "did you mean 60 kV?"]),
        (("--convergence", "0.03"), 2, ["0.03 mrad", "did you mean 30 mrad?"]),
        (("--convergence", "10"), 2, ["convergence 10 mrad is outside", "--simulator multislice"]),
        (("--voltage", "20"), 2, ["voltage 20 kV is outside", "--simulator multislice"]),
        (("--detector", "200,60"), 2, ["200 to 60 mrad is no annulus"]),
        (("--detector", "20,180"), 2, ["inside the bright field of 32 mrad"]),
        (("--detector", "0.06,0.18"), 2, ["did you mean 60,180?", "give mrad, not rad"]),
        (("--detector", "0.06,0.18", "--simulator", "multislice"), 2, ["did you mean 60,180?"]),
        (("--detector", "0,0"), 2, ["0 to 0 mrad is no annulus"]),
        (("--detector", "-60,180"), 2, ["-60 to 180 mrad is no annulus"]),
        (("--detector", "0,180"), 2, ["begins at 0 mrad, inside the bright field"]),
        (("--convergence", "0"), 2, ["convergence 0 mrad is outside 1 to 100 mrad", "give mrad"]),
        (("--convergence", "-30"), 2, ["convergence -30 mrad is outside"]),
        (("--voltage", "0"), 2, ["voltage 0 kV is outside 10 to 1000 kV", "give kV"]),
        (("--voltage", "-60"), 2, ["voltage -60 kV is outside"]),
        (("--detector", "60"), 2, ["--detector '60' is not two numbers"]),
        (("--detector", "60,nan"), 2, ["finite"]),
        (("--dose", "0"), 2, ["dose 0 e/A^2"]),
        (("--dose", "-5"), 2, ["dose -5 e/A^2"]),
        (("--dose", "nan"), 2, ["dose nan"]),
        (("--shape", "0,50"), 2, ["--shape 0,50"]),
        (("--shape", "50.5,50"), 2, ["--shape 50.5,50"]),
        (("--shape", "90000,90000"), 2, ["1 to 8192"]),
        (("--pixel-size", "-1"), 2, ["--pixel-size -1 is no pixel"]),
        (("--pixel-size", "1e-10"), 2, ["--pixel-size 1e-10 is no pixel", "1 nm = 10 A"]),
        (("--thermal", "7"), 2, ["thermal motion of 7 A"]),
        (("--source-fwhm", "-1"), 2, ["source fwhm -1 A is negative"]),
        (("--defocus", "1e6"), 2, ["Angstrom"]),
        (("--like", "no.stemfit"), 3, ["no.stemfit", "no such file"]),
        (("--like", "no.stemfit", "--voltage", "60"), 2, ["--voltage does not go with --like"]),
    ],
)
def test_options_that_are_wrong(options: tuple[str, ...], exit_code: int, words: list[str]) -> None:
    assert_one_line(run("mos2.cif", "--out", "x.tif", *options), exit_code, *words)
    assert not Path("x.tif").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"voltage_kV": 80.0, "convergence_mrad": None, "detector_mrad": [60.0, 200.0]},
         "leave --like out and give --voltage 80 --detector 60,200, as r.stemfit has it"),
        ({"voltage_kV": None, "convergence_mrad": None, "detector_mrad": None}, "leave one of them out"),
        (None, "leave one of them out"),
    ],
)  # fmt: skip
def test_a_simulator_that_needs_the_microscope_is_told_that_of_the_result(settings: Any, words: str) -> None:
    Path("r.stemfit").mkdir()
    Path("r.stemfit/analysis.json").write_text(json.dumps({"settings": settings}))
    done = run("mos2.cif", "--out", "x.tif", "--like", "r.stemfit", "--simulator", "multislice")
    assert_one_line(done, 2, "--simulator does not go with --like; ", words)


def test_structures_that_are_wrong() -> None:
    assert_one_line(run("no.cif", "--out", "x.tif"), 3, "no.cif: no such file")
    Path("bad.cif").write_text("Notes of Tuesday")
    assert_one_line(run("bad.cif", "--out", "x.tif"), 3, "bad.cif", "not readable")
    write("flake.xyz", Atoms("Mo", [[0, 0, 0]]), format="extxyz")
    assert_one_line(run("flake.xyz", "--out", "x.tif", "--centre", "80,0"), 4, "flake.xyz: no atom lies in the view")
    write("odd.xyz", Atoms("Rf", [[0, 0, 0]]), format="extxyz")
    assert_one_line(run("odd.xyz", "--out", "x.tif"), 2, "Rf")


# -- as an analysed image shows it ---------------------------------------------------------------------------------


MATRIX, OFFSET = [[7.9, 0.4], [0.5, -8.1]], [11.0, 60.0]
PROFILE = Profile(np.array([[9.0, 1.0], [1.0, 7.0]]), 9.0, 0.2)
AMPLITUDES = {"Mo": 5e4, "S2": 2e4}


@pytest.fixture
def result(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As much of a result as is read."""
    monkeypatch.setattr("stemfit.result.folder.problem", lambda content: None)
    folder = here / "image.stemfit"
    folder.mkdir()
    found = {
        "schema": "stemfit.analysis/1", "input": {"shape_px": [70, 90]}, "calibration": {"pixel_size_A": 0.125},
        "lattice": {"image_from_structure": {"matrix": MATRIX, "offset_px": OFFSET}},
        "imaging": {
            "core_cov_px2": PROFILE.core_cov_px2.tolist(), "tail_sigma_px": 9.0, "tail_fraction": 0.2,
            "background": {"mean": 300.0}, "amplitudes": {k: {"value": v} for k, v in AMPLITUDES.items()},
        },
    }  # fmt: skip
    (folder / "analysis.json").write_text(json.dumps(found))
    return folder


def test_like_a_result(result: Path) -> None:
    """Two columns: in its own field where the map puts them, as bright and as wide as there; else in the middle."""
    atoms = Atoms("MoS2", [[3.0, 2.0, 0], [8.0, 5.5, 1.5], [8.0, 5.5, -1.5]], cell=[20, 20, 20], pbc=True)
    own, other = result / "structure.extxyz", Path("other.extxyz")
    write(own, atoms)
    atoms.pbc = False
    write(other, atoms)
    assert run(str(own), "--like", str(result), "--out", "x.tif").exit_code == 0
    image = tifffile.imread("x.tif")
    at = np.array([[3.0, 2.0], [8.0, 5.5]]) @ np.array(MATRIX).T + OFFSET
    expected = 300 + render(at, np.array([5e4, 2e4]), PROFILE, (70, 90))
    assert image.shape == (70, 90)
    np.testing.assert_allclose(image, expected, rtol=1e-4)
    assert run(str(other), "--like", str(result), "--out", "y.tif").exit_code == 0
    middle = np.array([[44.5 - 2.5 / 0.125, 34.5 + 1.75 / 0.125], [44.5 + 2.5 / 0.125, 34.5 - 1.75 / 0.125]])
    expected = 300 + render(middle, np.array([5e4, 2e4]), PROFILE, (70, 90))
    np.testing.assert_allclose(tifffile.imread("y.tif"), expected, rtol=1e-4)
    assert micrograph.read(Path("x.tif")).metadata_pixel_size_A == pytest.approx(0.125, rel=1e-5)
    write(other, Atoms("W", [[3.0, 2.0, 0]]))
    assert_one_line(run(str(other), "--like", str(result), "--out", "z.tif"), 2, "knows no column W (Mo, S2)")


@pytest.mark.parametrize("simulator", ["multislice", "prism"])
def test_without_abtem(simulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "abtem", None)
    for module in ("multislice", "prism"):
        monkeypatch.delitem(sys.modules, f"stemfit.simulate.{module}", raising=False)
        monkeypatch.delattr(f"stemfit.simulate.{module}", raising=False)
    done = run("mos2.cif", "--out", "x.tif", "--simulator", simulator, *SMALL)
    assert_one_line(done, 6, "abTEM", "not installed", "pip install 'stemfit[multislice]'")


def test_pairs_that_lie_apart_are_said_to_be_worse() -> None:
    """A pair of chalcogens that a line tears apart is known less well; abTEM is no approximation of itself."""
    whole = run("mos2.cif", "--out", "whole.tif", *SMALL)
    assert "accuracy    columns to 6 % of multislice, beside up to 5 % in all of them\n" in whole.stdout
    a = 12.0
    places = [[6, 6, 7.0], [4.1, 6, 8.56], [4.5, 6, 5.44], [9.0, 6, 8.56], [9.0, 6, 5.44]]
    write("torn.cif", Atoms("MoS4", places, cell=[a, a, 15.0], pbc=True))
    torn = run("torn.cif", "--out", "torn.tif", "--shape", "60,60", "--pixel-size", "0.2")
    assert "pairs of atoms side by side (1) to 15 %" in torn.stdout
    write("unlike.cif", Atoms("MoSSe", places[:1] + places[3:], cell=[a, a, 15.0], pbc=True))
    assert "unlike pairs to 9 %" in run("unlike.cif", "--out", "u.tif", *SMALL).stdout


def test_options_that_would_do_nothing_are_refused() -> None:
    assert_one_line(run("mos2.cif", "--out", "x.tif", *SMALL, "--dose", "100", "--seed", "-1"), 2, "seed", "-1")
    assert_one_line(run("mos2.cif", "--out", "x.tif", "--like", "r", "--thermal", "0.2"), 2, "--thermal", "--like")
