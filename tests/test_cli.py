"""The command line: what it prints, what it leaves behind, and one line with an exit code for everything wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
import tifffile
import typer.testing

import cli
import stemfit
from stemfit import pages
from stemfit.commands import saying
from stemfit.errors import NotAnalysable

RUNNER = typer.testing.CliRunner()
VALUES = np.random.default_rng(1).integers(0, 200, (200, 240)).astype(np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with one good image in it."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("image.tif", VALUES)
    return tmp_path


def run(*arguments: str) -> Any:
    return RUNNER.invoke(cli.app, [*arguments], catch_exceptions=False)


def assert_one_line(done: Any, exit_code: int, *words: str) -> None:
    """The contract of a failure; nothing may be left behind."""
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not [name for name in os.listdir() if name.endswith(".stemfit") or name.startswith(".tmp-")]


# -- what is wrong -------------------------------------------------------------------------------------------------


def text_file() -> None:
    Path("bad.tif").write_text("Notes of Tuesday: the tip is bad.\n")


def truncated() -> None:
    Path("bad.tif").write_bytes(Path("image.tif").read_bytes()[:30_000])


def stack() -> None:
    tifffile.imwrite("bad.tif", np.stack([VALUES] * 5), photometric="minisblack")


def photo() -> None:
    tifffile.imwrite("bad.tif", np.stack([VALUES, VALUES // 2, VALUES], axis=-1), photometric="rgb")


def constant() -> None:
    tifffile.imwrite("bad.tif", VALUES * 0 + 3)


def not_numbers() -> None:
    tifffile.imwrite("bad.tif", np.full((200, 240), np.nan, np.float32))


def tiny() -> None:
    tifffile.imwrite("bad.tif", VALUES[:16, :16])


def huge() -> None:
    tifffile.imwrite("bad.tif", VALUES)
    with tifffile.TiffFile("bad.tif", mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength"):
            tiff.pages.first.tags[name].overwrite(20_000)


def missing() -> None:
    pass


def folder() -> None:
    Path("bad.tif").mkdir()


@pytest.mark.parametrize(
    ("make", "exit_code", "words"),
    [
        (text_file, 3, ["neither a TIFF nor a PNG", "export"]),
        (truncated, 3, ["truncated", "again"]),
        (missing, 3, ["no such file", "check the path"]),
        (folder, 3, ["is a folder"]),
        (stack, 4, ["stack of 5 images", "--frame 0 to 4"]),
        (photo, 4, ["colour image", "greyscale"]),
        (constant, 4, ["constant image", "every pixel is 3"]),
        (not_numbers, 4, ["100 % of the pixels are NaN"]),
        (tiny, 4, ["16 x 16 px is too small", "64 px"]),
        (huge, 4, ["20000 x 20000 px would need", "the limit is 8 GiB", "crop or bin"]),
    ],
)
def test_bad_input(make: Callable[[], None], exit_code: int, words: list[str]) -> None:
    make()
    assert_one_line(run("analyze", "bad.tif"), exit_code, "bad.tif: ", *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "MoS3"], ["unknown host 'MoS3'", "did you mean MoS2?"]),
        (["--host", "quartz"], ["unknown host 'quartz'", "WSe2"]),
        (["--pixel-size", "-0.1"], ["--pixel-size -0.1"]),
        (["--pixel-size", "1e-10"], ["--pixel-size 1e-10 is no pixel", "1 nm = 10 A"]),
        (["--convergence", "0.03"], ["convergence 0.03 mrad", "did you mean 30 mrad?"]),
        (["--convergence", "30", "--voltage", "60000"], ["voltage 60000 kV", "did you mean 60 kV?"]),
        (["--detector", "0.06,0.18"], ["0.06 to 0.18 mrad", "did you mean 60,180?"]),
        (["--convergence", "30", "--detector", "0.06,0.18"], ["did you mean 60,180?", "give mrad, not rad"]),
        (["--convergence", "30", "--detector", "20,200"], ["begins at 20 mrad, inside the bright field of 30 mrad"]),
        (["--simulator", "multislice", "--voltage", "60"], ["multislice needs the microscope"]),
        (["--temperature", "-5"], ["--temperature -5"]),
        (["--voltage", "0"], ["--voltage 0"]),
        (["--convergence", "nan"], ["--convergence nan"]),
        (["--detector", "60"], ["--detector '60' is not IN,OUT"]),
        (["--detector", "200,60"], ["--detector 200,60 is no range"]),
        (["--roi", "10,10,5,50"], ["--roi 10,10,5,50 is no rectangle"]),
        (["--roi", "a,b,c,d"], ["--roi 'a,b,c,d' is not X0,Y0,X1,Y1"]),
        (["--frame", "3"], ["no frame 3", "leave --frame out"]),
        (["--frame", "-1"], ["--frame -1 is no frame", "its number from 0, or mean, or aligned"]),
        (["--frame", "median"], ["--frame median is no frame"]),
        (["--signal", "HAADF"], ["no signal HAADF", "leave --signal out"]),
    ],
)
def test_bad_options(options: list[str], words: list[str]) -> None:
    assert_one_line(run("analyze", "image.tif", *options), 2, "image.tif: ", *words)


@pytest.mark.parametrize("arguments", [["analyze"], ["analyse", "x"], ["analyze", "x", "--device", "tpu"]])
def test_wrong_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert_one_line(done, 2)


def test_unwritable_output() -> None:
    done = run("analyze", "image.tif", "--out", "image.tif/result")
    assert_one_line(done, 5, "image.tif/result: ", "choose another --out")


def test_output_that_is_something_else() -> None:
    Path("mine").mkdir()
    assert_one_line(run("analyze", "image.tif", "--out", "mine"), 5, "mine: ", "move it away")
    assert Path("mine").is_dir()


def test_traceback_with_debug_only() -> None:
    done = run("analyze", "missing.tif", "--debug")
    assert done.exit_code == 3
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("check the path\n")


# -- the chain's place is taken by a hand-made analysis ------------------------------------------------------------


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let `analyze` answer at once, and say what it was asked."""
    from stemfit import pipeline, relax

    asked: list[Any] = []

    def analyze(micrograph: Any, settings: Any, relaxer: Any, *, progress: Callable[[str], None]) -> Any:
        progress("columns")
        asked.append((micrograph, settings, relaxer))
        return handmade.analysis(micrograph.path, micrograph.sha256)

    def draw(analysis: Any, folder: Path) -> None:
        (folder / "overlay.png").write_bytes(b"png")

    monkeypatch.setattr(pipeline, "analyze", analyze)
    monkeypatch.setattr(relax, "relaxer", lambda name, device, checkpoint: (name, device, checkpoint))
    monkeypatch.setattr(pages, "draw", draw)
    return asked


def test_summary(chain: list[Any]) -> None:
    done = run("analyze", "image.tif")
    assert (done.exit_code, done.stderr) == (0, "")
    expected = [
        "image.tif, 240 x 200 px", "MoSe2 (inferred, P 0.900, WSe2 0.100)", "0.18000 +- 0.0002 A from the lattice",
        "file says 0.20000", "3 claimed, 1 suspected", "V_Se2", "0.950", "warning: the file's pixel size",
        "image.stemfit/overlay.png",
    ]  # fmt: skip
    assert [words for words in expected if words not in done.stdout] == []
    assert Path("image.stemfit/analysis.json").is_file()


def test_json_is_the_file(chain: list[Any]) -> None:
    done = run("analyze", "image.tif", "--json", "--out", "deep/r")
    printed = json.loads(done.stdout)
    assert printed.pop("output") == "deep/r"
    assert printed == json.loads(Path("deep/r/analysis.json").read_text())


def test_options_arrive(chain: list[Any]) -> None:
    microscope = ["--pixel-size", "0.1", "--voltage", "60", "--convergence", "32", "--detector", "60,200"]
    np.save("mask.npy", np.eye(*tifffile.imread("image.tif").shape))
    rest = ["--host", "WSe2", "--roi", "1,2,90,100", "--mask", "mask.npy", "--device", "cpu", "--relaxer", "keep"]
    assert run("analyze", "image.tif", *microscope, *rest).exit_code == 0
    micrograph, settings, relaxer = chain[0]
    assert (micrograph.pixel_size_A, micrograph.pixel_size_source) == (0.1, "user")
    assert (settings.host, settings.pixel_size_A, settings.device) == ("WSe2", 0.1, "cpu")
    assert (settings.voltage_kV, settings.convergence_mrad, settings.detector_mrad) == (60.0, 32.0, (60.0, 200.0))
    assert settings.mask == "mask.npy"
    assert settings.roi == (1, 2, 90, 100) and relaxer == ("keep", "cpu", None)


@pytest.mark.parametrize(("frame", "taken"), [("2", 2), ("mean", "mean"), ("aligned", "aligned")])
def test_frame_and_signal_arrive(chain: list[Any], frame: str, taken: int | str) -> None:
    tifffile.imwrite("stack.tif", np.stack([VALUES] * 3), photometric="minisblack")
    assert run("analyze", "stack.tif", "--frame", frame, "--signal", "0").exit_code == 0
    assert chain[0][0].frame == taken and np.allclose(chain[0][0].image, VALUES)


def test_verbose_names_the_stages(chain: list[Any]) -> None:
    done = run("analyze", "image.tif", "-v")
    assert "columns\n" in done.stderr and "columns\n" not in done.stdout


def test_long_tables_are_cut(chain: list[Any]) -> None:
    claim = {"id": 1, "type": "SV", "label": "V_S", "probability": 0.9, "type_probability": 0.9, "center_px": [1, 2],
             "log_bayes_factor": None, "alternatives": []}  # fmt: skip
    lines = cli._table([claim] * 50)
    assert len(lines) == saying.MAX_ROWS + 2 and lines[-1] == "... and 20 more in defects.csv"
    assert cli._table([]) == ["no defect claimed"]


@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        (NotAnalysable("3 columns found, 30 are needed", remedy="record a larger field"), 4, "30 are needed; record"),
        (MemoryError(), 4, "not enough memory"),
        (ZeroDivisionError("division\nby zero"), 1, "unexpected ZeroDivisionError (division by zero); run again"),
    ],
)
def test_failing_chain(
    chain: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception, exit_code: int, words: str
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr("stemfit.pipeline.analyze", fail)
    assert_one_line(run("analyze", "image.tif"), exit_code, "image.tif: ", words)


def test_what_was_noted_while_reading_is_told_where_nothing_is_found(
    chain: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise NotAnalysable("no lattice", remedy="record a larger field")

    monkeypatch.setattr("stemfit.pipeline.analyze", fail)
    assert_one_line(run("analyze", "image.tif"), 4, "image.tif: no lattice; record")
    tifffile.imwrite("coarse.tif", VALUES, imagej=True, resolution=(0.2, 0.2), metadata={"unit": "nm"})
    words = "no lattice (the file states 50 A a pixel (ImageJ), with which atoms are not resolved: not used); record"
    assert_one_line(run("analyze", "coarse.tif"), 4, words)


# -- help and version ----------------------------------------------------------------------------------------------


def test_version() -> None:
    assert run("--version").stdout == f"stemfit {stemfit.__version__}\n"


def test_help_has_examples() -> None:
    assert "analyze" in run("--help").stdout
    text = run("analyze", "--help").stdout
    assert "stemfit analyze image.tif --host WSe2" in text and "Exit codes" in text


def test_hosts_in_the_help_are_the_hosts() -> None:
    from stemfit.hosts import projected

    names = [word.strip(".") for word in " ".join(run("analyze", "--help").stdout.split()).split("one of ")[1].split()]
    names = [name.strip(",") for name in names[: names.index("or")]]
    assert len(names) > 10 and [projected(name).name for name in names] == names


def test_as_a_process() -> None:
    """The exit code and the line as a shell sees them."""
    done = subprocess.run([sys.executable, cli.__file__, "analyze", "no.tif"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "no.tif: no such file; check the path\n")
