"""Workers that are processes: what they make, how they die, and files that appear meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from batch_stub import GIB, STUB, image
from test_batch import counts, request
from test_batch_kill import ENVIRONMENT, PROGRAM

from stemfit.batch import local, run
from stemfit.batch.local import processes
from stemfit.errors import SomeFailed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, two of them equal."""
    for name, number in {"a.tif": 12, "sub/a.tif": 3, "sub/b.tif": 12}.items():
        image(tmp_path / "in" / name, number)
    return tmp_path / "in"


def test_processes_make_what_one_process_makes(folder: Path) -> None:
    for k, kind in enumerate(["dies", "damaged", "dies", "good"]):
        image(folder / f"{k}.tif", 60 + k, kind)
    ended = run(request(folder), lambda: processes(2, STUB, GIB))
    assert counts(ended) == (0, 3, 1, 3)
    reasons = {one.input: one.reason for one in ended.failures}
    for name in ("0.tif", "2.tif"):
        assert reasons[name] == "the worker died twice with it: it was killed, perhaps because memory ran out"
    assert ended.peak_MB > 10


def test_a_worker_that_needs_too_much_is_ended(folder: Path) -> None:
    image(folder / "large.tif", 1, "hungry")
    ended = run(request(folder), lambda: processes(1, STUB, GIB // 2))
    assert counts(ended) == (0, 2, 1, 1)
    assert "0.5 is the limit" in ended.failures[0].reason and "--memory" in ended.failures[0].reason


def test_when_every_worker_dies_it_is_not_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "IN_A_ROW", 4)
    for k in range(6):
        image(tmp_path / f"in/{k}.tif", k, "dies")
    with pytest.raises(SomeFailed, match="workers have died one after the other"):
        run(request(tmp_path / "in"), lambda: processes(2, STUB, GIB))


def test_watching(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    image(folder / "0.tif", 1)
    watching = subprocess.Popen([sys.executable, str(PROGRAM), str(folder), str(out), "--workers", "1", "--watch"],
                                env=ENVIRONMENT)  # fmt: skip
    try:
        until(lambda: (out / "0.tif.stemfit/analysis.json").exists())
        with (folder / "1.tif").open("wb") as file:
            file.write(b"good 5\n")
            for _ in range(8):  # longer than it takes to settle, never so long without a change
                time.sleep(0.1)
                file.write(b".")
                file.flush()
                assert not (out / "1.tif.stemfit").exists()
        until(lambda: (out / "1.tif.stemfit/analysis.json").exists())
        until(lambda: "1.tif" in (out / "summary.csv").read_text())
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=20) == 0
    assert not list(out.glob(".tmp-*"))


def until(true: Any, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
