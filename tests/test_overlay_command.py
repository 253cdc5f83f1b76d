"""`stemfit overlay`: the files that it writes, the same bytes every time, and one line for what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer.testing
from fake_analysis import fake_analysis

import cli
from stemfit import result

RUNNER = typer.testing.CliRunner()
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A result whose defects have no candidates: those of made-up images have no structures."""
    place = tmp_path_factory.mktemp("overlay") / "made up.stemfit"
    findings = fake_analysis(shape=(186, 230), a_px=20)
    bare = tuple(replace(defect, best_candidate=None) for defect in findings.defects)
    return result.write(replace(findings, defects=bare, candidates=(), relaxed=(), scores=()), place)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return RUNNER.invoke(cli.app, ["overlay", *map(str, arguments)], catch_exceptions=False)


def test_all_formats_and_a_caption(folder):
    done = run(folder, "--panel", "image,structure,strain,residual", "--format", "png,pdf,svg", "--dpi", "100")
    assert done.exit_code == 0, done.stderr
    assert sorted(os.listdir()) == [f"made up.overlay.{kind}" for kind in ("pdf", "png", "svg", "txt")]
    text = Path("made up.overlay.txt").read_text()
    for words in ("WSe2", "P = 0.970", "0.0003 A", "the file says 0.11000 A", "V_Se2", "NCC", "cannot be told apart"):
        assert words in text
    letters = Path("made up.overlay.svg").read_text()
    assert "<text" in letters and "simulated" not in letters  # letters are text, and no panel that was not asked for
    assert b"/FontFile2" in Path("made up.overlay.pdf").read_bytes()  # TrueType, embedded


def test_the_same_bytes_in_another_process_on_another_day(folder):
    options = ["--defect", "1", "--format", "png,pdf,svg", "--dpi", "72"]
    assert run(folder, *options, "--out", "first").exit_code == 0
    command = [sys.executable, "-m", "cli", "overlay", str(folder), *options, "--out", "second"]
    other = {**os.environ, "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1000000000", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=other, check=True, capture_output=True)
    for kind in ("png", "pdf", "svg", "txt"):
        assert Path(f"first.{kind}").read_bytes() == Path(f"second.{kind}").read_bytes()


def test_the_page_is_the_default_and_the_ending_of_out_the_format(folder):
    assert run(folder, "--out", "page.pdf", "--style", "aps", "--dpi", "60").exit_code == 0
    assert sorted(os.listdir()) == ["page.pdf", "page.txt"]
    Path("figures").mkdir()
    assert run(folder, "--out", "figures", "--panel", "image", "--no-labels", "--dpi", "60").exit_code == 0
    assert sorted(os.listdir("figures")) == ["made up.overlay.png", "made up.overlay.txt"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--style", "natur"], 2, "did you mean nature?"), (["--panel", "image,strian"], 2, "did you mean strain?"),
        (["--panel", "exx,strain"], 2, "twice"), (["--defect", "99"], 2, "99"), (["--width", "89"], 2, "no length"),
        (["--width", "9000mm"], 2, "20 to 1000 mm"), (["--crop", "0,0,500,100"], 2, "230 x 186"),
        (["--crop", "0,0,9,9"], 2, "16 px"), (["--crop", "1,2,3"], 2, "X0,Y0,X1,Y1"),
        (["--crop", "0,0,90,90", "--defect", "1"], 2, "leave one"), (["--dpi", "9"], 2, "50 to 2400"),
        (["--format", "tiff"], 2, "png, pdf, svg"),
        (["--width", "1m"], 2, "no length"), (["--dpi", "2400", "--width", "1000mm", "--panel", "image"], 2, "pixels"),
        (["--out", "nowhere/x.png"], 5, "writable folder"), (["--out", "fig.jpg"], 2, "end it in .png"),
        (["--out", "fig.EPS"], 2, "end it in .pdf"), (["--out", "fig.pgn"], 2, "end it in .png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_what_is_wrong_is_one_line(arguments, code, words, folder):
    done = run(folder, *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1 and words in done.stderr
    assert os.listdir() == []


def test_no_result_is_an_input_error():
    Path("empty").mkdir()
    for path in ("empty", "not there"):
        done = run(path)
        assert done.exit_code == 3 and "analysis.json" in done.stderr


def refused(done, name):
    assert done.exit_code == 5 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{name}: ") and "choose another --out" in done.stderr


@pytest.mark.parametrize("stranger", ["notes.png", "notes.txt"])
def test_files_of_others_are_never_replaced(stranger, folder):
    Path(stranger).write_text("an afternoon of thought")
    refused(run(folder, "--panel", "image", "--out", "notes.png", "--dpi", "60"), stranger)
    assert os.listdir() == [stranger] and Path(stranger).read_text() == "an afternoon of thought"


def test_own_files_are_written_anew_and_only_those(folder):
    draw = ["--panel", "image", "--out", "x", "--dpi", "60"]
    assert run(folder, *draw).exit_code == 0
    Path("x.svg").write_text("drawn by hand")
    refused(run(folder, *draw, "--format", "svg"), "x.svg")
    assert run(folder, *draw, "--format", "pdf").exit_code == 0
    first = Path("x.png").read_bytes()
    assert run(folder, "--panel", "columns", *draw[2:]).exit_code == 0  # a png of two runs ago is still known
    assert Path("x.png").read_bytes() != first and Path("x.svg").read_text() == "drawn by hand"
    assert Path("x.txt").read_text().splitlines()[-1].endswith(" overlay: pdf, png")


def test_the_image_is_never_replaced(folder, tmp_path):
    """Not even where a caption claims its name."""
    assert run(folder, "--panel", "image", "--out", "image", "--dpi", "60").exit_code == 0
    moved = tmp_path / "y.stemfit"
    shutil.copytree(folder, moved)
    stated = json.loads((moved / "analysis.json").read_text())
    stated["input"]["path"] = "/elsewhere/image.png"
    (moved / "analysis.json").write_text(json.dumps(stated))
    Path("image.png").write_bytes(b"the only copy")
    done = run(moved, "--panel", "image", "--out", "image", "--dpi", "60")
    refused(done, "image.png")
    assert "analysed image" in done.stderr and Path("image.png").read_bytes() == b"the only copy"


def test_a_place_that_is_taken_is_no_traceback(folder):
    Path("x.png").mkdir()
    done = run(folder, "--panel", "image", "--out", "x", "--dpi", "60")
    assert done.exit_code == 5 and done.stderr.count("\n") == 1
    assert os.listdir() == ["x.png"]
