"""`stemfit match`: what it prints and writes, and the one line and exit code of everything that is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from chain import PIXEL_A, taken
from typer.testing import CliRunner

import cli
from definet.structure_file import write_structure
from definet.structures import build, line, pristine
from stemfit import pipeline, result
from stemfit.micrograph import read
from stemfit.observed import Clock, observe
from stemfit.relax import keep
from stemfit.result import Findings
from stemfit.synthetic import TrueDefect, crystal

SHAPE = (200, 220)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrueDefect]:
    """MoS2 with one V_S2."""
    folder = tmp_path_factory.mktemp("image")
    pixels, truth = taken(crystal(SHAPE, pixel_size_A=PIXEL_A, rotation_deg=8.6, removed=1, seed=4))
    tifffile.imwrite(folder / "image.tif", pixels.astype(np.float32))
    return folder / "image.tif", truth.defects[0]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_structure(Path("pair.cif"), build(pristine("MoS2", 6), "V_S2").atoms)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["match", *map(str, arguments)])


@pytest.fixture(scope="module")
def analysed(image: tuple[Path, TrueDefect], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `analyze` makes of it."""
    analysis: Findings = pipeline.analyze(read(image[0]), pipeline.Settings(host="MoS2"), keep)
    return result.write(analysis, tmp_path_factory.mktemp("analysed") / "image.stemfit")


def test_a_candidate_of_analyze_is_found_where_it_came_from(image: tuple[Path, TrueDefect], analysed: Path) -> None:
    """And what is printed and written on the way."""
    told = result.read(analysed)
    (defect,) = [d for d in told["defects"] if d["label"] == "V_S2"]
    Path("given.cif").write_bytes((analysed / "candidates" / f"{defect['best_candidate']}.cif").read_bytes())
    done = run(image[0], "given.cif", "--host", "MoS2")
    assert (done.exit_code, done.stderr) == (0, ""), done.stderr
    assert "1 found" in done.stdout and "given.cif" in done.stdout and "V_S2" in done.stdout
    document = json.loads(Path("image.match.stemfit/analysis.json").read_text())
    assert result.read(Path("image.match.stemfit")) == document
    (match,) = [m for m in document["matches"] if m["found"]]
    (own,) = document["defects"]
    np.testing.assert_allclose(match["center_px"], image[1].center_px, atol=1.0)
    np.testing.assert_allclose(own["center_px"], defect["center_px"], atol=0.3)
    assert own["sites"] == defect["sites"] and own["best_candidate"] == match["candidate"]
    assert document["settings"]["command"] == "match" and document["settings"]["structures"] == ["given.cif"]
    assert {c["id"] for c in document["candidates"]} >= {match["candidate"]}
    written = {"overlay.png", "overlay.pdf", "report.html", "structure.cif", "simulated.tif", "residual.tif"}
    assert written <= set(os.listdir("image.match.stemfit"))
    assert "Structures looked for" in Path("image.match.stemfit/report.html").read_text()
    # The map of the file's own atoms into the image leads to the vacancy.
    middle = np.array(match["image_from_structure"]["matrix"]) @ missing_A("given.cif")
    np.testing.assert_allclose(middle + match["image_from_structure"]["offset_px"], image[1].center_px, atol=1.0)


def missing_A(name: str) -> Any:
    """Place of the missing pair in a file of 8 x 8 cells: of all sulphur sites the one without an atom."""
    import ase.io

    atoms, whole = ase.io.read(name), pristine("MoS2", 8).structure
    sites = whole.frac_coords[:, :2]
    off = sites[:, None] - atoms.get_scaled_positions()[:, :2]
    near = np.linalg.norm((off - np.rint(off)) @ atoms.cell[:2, :2], axis=2).min(1)
    return sites[int(np.argmax(near))] @ atoms.cell[:2, :2]


# -- what is wrong -------------------------------------------------------------------------------------------------


def assert_one_line(done: Any, code: int, *words: str) -> None:
    assert (done.exit_code, done.stdout) == (code, ""), done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr and "unexpected" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not [name for name in os.listdir() if name.startswith(".tmp-") or name.endswith(".stemfit")]


def perfect() -> None:
    write_structure(Path("bad.cif"), pristine("MoS2", 5).structure)


def other_host() -> None:
    write_structure(Path("bad.cif"), build(pristine("WSe2", 5), "V_Se").atoms)


def damaged() -> None:
    Path("bad.cif").write_text("data_x\n_cell_length_a 3\n")


def no_layer() -> None:
    built = build(pristine("MoS2", 5, vacuum_A=1.0), "V_S").atoms
    write_structure(Path("bad.cif"), built)


def no_host() -> None:
    built = pristine("MoS2", 4).structure
    built.replace_species({"Mo": "Fe", "S": "O"})
    write_structure(Path("bad.cif"), built)


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (nothing, 3, ["bad.cif: no such file"]),
        (damaged, 3, ["bad.cif: not readable as cif"]),
        (perfect, 4, ["bad.cif: it has no defect", "structure with a defect"]),
        (no_layer, 4, ["bad.cif: no vacuum"]),
        (no_host, 4, ["bad.cif: its elements (Fe, O) are those of no host", "--host"]),
    ],
)
def test_bad_structures(make: Any, code: int, words: list[str], image: tuple[Path, TrueDefect]) -> None:
    make()
    assert_one_line(run(image[0], "pair.cif", "bad.cif"), code, *words)


def test_a_structure_of_another_host_than_the_stated_one(image: tuple[Path, TrueDefect]) -> None:
    other_host()
    assert_one_line(run(image[0], "bad.cif", "--host", "MoS2"), 4, "bad.cif: the structure does not fit MoS2")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.tif", "pair.cif"], 3, ["none.tif: no such file"]),
        (["IMAGE", "pair.cif", "--at", "900,20"], 2, ["--at 900,20 is outside the image of 220 x 200 px"]),
        (["IMAGE", "pair.cif", "--at", "900"], 2, ["--at '900' is not X,Y"]),
        (["IMAGE", "pair.cif", "--at", "nan,3"], 2, ["is outside the image"]),
        (["IMAGE", "pair.cif", "pair.cif"], 2, ["pair.cif is given twice"]),
        (["IMAGE", "pair.cif", "--host", "MoS3"], 2, ["unknown host 'MoS3'"]),
        (["IMAGE", "pair.cif", "--host", "blackP"], 2, ["hexagonal hosts only"]),
        (["IMAGE", "pair.cif", "--checkpoint", "no.safetensors"], 6, ["no.safetensors: no such checkpoint"]),
        (["IMAGE", "pair.cif", "--relaxer", "teacher", "--checkpoint", "x"], 2, ["--checkpoint does not go with"]),
        (["IMAGE", "pair.cif", "--out", "taken"], 5, ["something that is no result of this image"]),
    ],
)  # fmt: skip
def test_bad_options(arguments: list[str], code: int, words: list[str], image: tuple[Path, TrueDefect]) -> None:
    Path("taken").write_text("mine")
    assert_one_line(run(*(str(image[0]) if a == "IMAGE" else a for a in arguments)), code, *words)


def test_no_room(image: tuple[Path, TrueDefect], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observe(read(image[0]), pipeline.Settings(host="MoS2"), Clock(lambda stage: None))
    monkeypatch.setattr(pipeline, "observe", lambda *asked: seen)
    write_structure(Path("long.cif"), line(pristine("MoS2", 18, 4), "SVL-14").atoms)
    assert_one_line(run(image[0], "long.cif", "--host", "MoS2"), 4, "long.cif has no room in the analysed area")
    assert_one_line(run(image[0], "pair.cif", "--host", "MoS2", "--at", "2,2"), 4, "pair.cif has no room at (2, 2) px")
