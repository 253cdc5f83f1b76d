"""`stemfit batch` as people type it, with the real analysis on small images."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer.testing
from PIL import Image
from test_batch_kill import tree, without_times

import cli
from stemfit import Analysis, synthetic
from stemfit.commands.batch import Pace, _now_and_then

RUNNER = typer.testing.CliRunner()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Any:
    return RUNNER.invoke(cli.app, ["batch", *arguments], catch_exceptions=False)


def crystal(path: Path, seed: int) -> None:
    """MoS2, small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = synthetic.crystal((130, 140), pixel_size_A=0.2, halved=2)
    recorded, _ = synthetic.record(made, synthetic.Acquisition(counts=300), seed)
    tifffile.imwrite(path, recorded.image.astype(np.float32))


def test_a_folder_from_beginning_to_end(tmp_path: Path) -> None:
    crystal(tmp_path / "in/a.tif", 1)
    crystal(tmp_path / "in/sub/b.tif", 2)
    shutil.copy(tmp_path / "in/a.tif", tmp_path / "in/sub/equal.tif")
    tifffile.imwrite(tmp_path / "in/flat.tif", np.ones((100, 100), np.uint8))
    options = ("in", "--out", "out", "--host", "MoS2", "--relaxer", "keep", "--device", "cpu", "--workers", "1")
    plan = run(*options, "--dry-run")
    assert plan.exit_code == 0 and "to do       4, 1 of them equal to others" in plan.stdout
    assert not (tmp_path / "out").exists()
    done = run(*options)
    assert done.exit_code == 10
    assert re.search(r"computed +2, 1 more are equal to others, 0 were there", done.stdout)
    assert "flat.tif: constant image" in done.stdout
    assert re.search(r"workers +1 process, 1 thread and at most [\d.]+ GiB each", done.stderr)
    assert done.stderr.splitlines()[-1].startswith("in: 1 of 4 images failed; see out/summary.csv")
    assert not list((tmp_path / "out/.stemfit-batch").rglob("*.jpg"))  # constant: nothing to see
    for name in ("a.tif", "sub/b.tif", "sub/equal.tif"):
        found = Analysis.load(tmp_path / "out" / f"{name}.stemfit")
        assert found.host == "MoS2" and found.document["input"]["path"] == str(tmp_path / "in" / name)
        assert (tmp_path / "out" / f"{name}.stemfit/thumbnail.jpg").stat().st_size > 1000
    before = tree(tmp_path / "out")
    assert "0 more are equal to others, 3 were there" in run(*options).stdout
    assert tree(tmp_path / "out") == before
    _as_if_computed_itself(tmp_path, options)


def _as_if_computed_itself(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The result that an image got from its equal is the one that it gets alone, timings aside."""
    copied = without_times(tree(tmp_path / "out/sub/equal.tif.stemfit"))
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "in/a.tif").unlink()
    assert run(*options).exit_code == 10
    alone = without_times(tree(tmp_path / "out/sub/equal.tif.stemfit"))
    assert [name for name in {**copied, **alone} if copied.get(name) != alone.get(name)] == []


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (("in", "--out", "out"), 3, "in: no such folder"),
        (("empty", "--out", "out"), 3, "empty: there are no images in it"),
        (("in.tif", "--out", "out"), 3, "in.tif: is no folder"),
        (("full", "*.dm4", "--out", "out"), 3, "there are no images in it called *.dm4"),
        (("full", "--out", "out", "--shard", "0/4"), 2, "--shard 0/4 is no share"),
        (("full", "--out", "out", "--host", "MoS3"), 2, "unknown host 'MoS3'"),
        (("full", "--out", "out", "--checkpoint", "x", "--relaxer", "keep"), 2, "--checkpoint does not go with"),
        (("full", "--out", "out", "--mask", "none.png"), 3, "none.png: no such file"),
        (("full", "--out", "out", "--memory", "-1"), 2, "--memory -1 is no positive number"),
        (("full", "--out", "out", "--memory", "0"), 2, "give one above 0"),
        (("full", "--out", "out", "--dask", "tcp://x:1", "--workers", "2"), 2, "--workers does not go with --dask"),
        (("full", "--out", "out", "--dask", "tcp://x:1", "--memory", "2"), 2, "--memory does not go with --dask tcp:"),
        (("full", "full/y.tif", "--out", "out"), 3, "called y.tif; give the folder of the images, or other patterns"),
        (("full", "--out", "out", "--dry-run", "--watch"), 2, "--dry-run does not go with --watch"),
        (("full", "--out", "in.tif/out"), 5, "in.tif/out: cannot be written"),
        (("full", "--out", "out", "--checkpoint", "none.safetensors", "--workers", "1"), 6, "none.safetensors"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    options: tuple[str, ...], exit_code: int, words: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x.tif").write_bytes(b"II*\0")
    (tmp_path / "in.tif").write_bytes(b"x")
    done = run(*options)
    assert done.exit_code == exit_code and done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("workers  ")]
    assert len(lines) == 1 and words in lines[0].replace(str(tmp_path) + "/", "")


def test_options_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    for k in range(3):
        (tmp_path / f"full/{k}.tif").write_bytes(b"%d" % k)
    (tmp_path / "s.toml").write_text('[batch]\nout = "there"\nhost = "MoS2"\ndry-run = true\nshard = "1/1"\n')
    done = run("full", "--out", "out", "--config", "s.toml")
    assert done.exit_code == 0 and "to do       3" in done.stdout
    (tmp_path / "s.toml").write_text('[batch]\nhots = "MoS2"\n')
    done = run("full", "--out", "out", "--config", "s.toml")
    assert done.exit_code == 2 and "did you mean 'host'?" in done.stderr


def test_the_pace_is_that_of_what_ended() -> None:
    now = 100.0
    pace = Pace(lambda: now)
    pace.take({"event": "reading", "inputs": 9})
    assert pace.text() == ""
    now = 200.0
    pace.take({"event": "plan", "todo": 6, "failed": 1})
    assert pace.text() == "1 failed"
    now = 260.0
    for kind in ("done", "copied", "failed"):
        pace.take({"event": kind})
    assert pace.text() == "2 failed  3.0/min  0:01:00 left" and (pace.ended, pace.total) == (3, 6)


def test_a_pattern_that_begins_with_the_folder_is_meant_below_it(tmp_path: Path) -> None:
    """As the shell writes it where quotes are missing."""
    for name in ("d/a.tif", "d/b.tif", "d/sub/c.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    assert "to do       2" in run("d", "d/a.tif", "d/b.tif", "--out", "out", "--dry-run").stdout
    assert "to do       1" in run("d/", str(tmp_path / "d/sub/*"), "--out", "out", "--dry-run").stdout
    (tmp_path / "d/d").mkdir()
    (tmp_path / "d/d/e.tif").write_bytes(b"e")
    said = run("d", "d/*", "--out", "out", "--dry-run").stdout
    assert "to do       1" in said and "d/e.tif" in said


def test_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    tell = _now_and_then(Pace(lambda: now))
    tell({"event": "reading", "inputs": 8})
    for after in (100.0, 301.0, 310.0):
        now = after
        tell({"event": "read"})
    tell({"event": "plan", "todo": 8, "failed": 0})
    for k in range(1, 5):
        now = 310.0 + 120 * k
        tell({"event": "done" if k % 2 else "failed"})
    assert capsys.readouterr().err.splitlines() == [
        "reading     2 of 8  0.4/min  0:15:03 left", "analysing   3 of 8  1 failed  0.5/min  0:10:00 left"
    ]


def test_what_is_read_and_not_analysed_has_a_picture_and_hosts_are_doubted(tmp_path: Path) -> None:
    crystal(tmp_path / "in/a.tif", 1)
    noise = np.random.default_rng(1).poisson(50.0, (120, 160)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in/noise.tif", noise)
    options = ("in", "--out", "out", "--relaxer", "keep", "--device", "cpu", "--workers", "1")
    done = run(*options)
    assert done.exit_code == 10
    assert "note        in 1 of 1 image the host is not certain, and names hang on it: give --host" in done.stdout
    (picture,) = (tmp_path / "out/.stemfit-batch/failures").glob("*.jpg")
    with Image.open(picture) as opened:
        assert opened.size == (160, 120)
    html = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    failed = html[html.index('class="card failed"') : html.index('class="card ok"')]
    assert "no lattice" in failed and 'class="unread" src="data:image/jpeg;base64,' in failed
    crystal(tmp_path / "in/noise.tif", 2)
    run(*options)
    assert not list((tmp_path / "out/.stemfit-batch/failures").iterdir())
