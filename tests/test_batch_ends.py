"""How a run ends before all is done, what is tried again by the next, and what the log tells of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import batch_stub
import pytest
import typer.testing
from batch_stub import GIB, STUB, image
from test_batch import counts, here, request
from test_batch_kill import ENVIRONMENT, PROGRAM
from test_batch_processes import until

import cli
from stemfit.batch import Watch, blame, local, run, store
from stemfit.batch.inputs import shard
from stemfit.batch.local import Engine, processes
from stemfit.batch.work import Job, Method, Report, carry_out
from stemfit.errors import InputError, NotAnalysable, OutputError, SomeFailed

RUN = importlib.import_module("stemfit.batch.run")
"""The module: the package has a function of this name."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(6):
        image(tmp_path / "in" / f"{k}.tif", 11 + k)
    return tmp_path / "in"


def events(out: Path, name: str = "log.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def kinds(out: Path, name: str = "log.jsonl") -> list[str]:
    return [event["event"] for event in events(out, name)]


def ending(error: BaseException, after: int) -> Any:
    """An engine that is ended after so many images."""

    @contextlib.contextmanager
    def engine() -> Iterator[Engine]:
        def reports(jobs: Iterable[Job]) -> Iterator[Report]:
            for k, job in enumerate(jobs):
                if k == after:
                    raise error
                yield carry_out(job, STUB)

        yield reports

    return engine


# -- what is tried again -------------------------------------------------------------------------------------------


def failing(error: Exception) -> Any:
    def analyse(path: Path, settings: Any, out: Path) -> None:
        if path.name == "3.tif":
            raise error
        batch_stub.analyse(path, settings, out)

    return lambda: here(Method(batch_stub.nothing, analyse))


def _wrapped(cause: Exception) -> Exception:
    error = InputError("cannot be read", remedy="look")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (MemoryError(), True), (OSError(errno.EIO, "Input/output error"), True),
        (_wrapped(OSError(errno.ESTALE, "Stale file handle")), True),
        (OutputError("stands there", remedy="x"), True), (RuntimeError("CUDA error: device-side assert"), True),
        (_wrapped(OSError("image file is truncated")), False), (OSError(errno.EINVAL, "Invalid argument"), False),
        (NotAnalysable("no columns", remedy="x"), False), (RuntimeError("a bug"), False),
    ],
)  # fmt: skip
def test_what_may_have_passed_is_tried_again(folder: Path, error: Exception, passes: bool) -> None:
    assert counts(run(request(folder), failing(error))) == (0, 5, 0, 1)
    assert counts(run(request(folder), here)) == ((5, 1, 0, 0) if passes else (5, 0, 0, 1))
    assert blame.passing(error) == passes


def test_with_more_memory_it_is_tried_again(folder: Path) -> None:
    image(folder / "large.tif", 1, "hungry")
    assert counts(run(request(folder), lambda: processes(1, STUB, GIB // 2))) == (0, 6, 0, 1)

    def enough(path: Path, settings: Any, out: Path) -> None:
        out.mkdir()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (out / "analysis.json").write_text(json.dumps(batch_stub.document(path, digest, 5)))

    assert counts(run(request(folder), lambda: here(Method(batch_stub.nothing, enough)))) == (6, 1, 0, 0)


def _rounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watching takes six rounds; images appear in two of them."""
    rounds = iter(range(6))

    def sleep(seconds: float) -> None:
        k = next(rounds, None)
        if k is None:
            raise KeyboardInterrupt
        if k in (2, 4):
            image(folder / f"new{k}.tif", 50 + k)

    monkeypatch.setattr(RUN, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))  # no other thread's


@pytest.mark.parametrize(("patience", "times"), [(0.0, 4), (1e9, 3)])
def test_tables_that_take_long_are_not_made_every_round(
    folder: Path, patience: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RUN, "PATIENCE", patience)
    _rounds(folder, monkeypatch)
    run(request(folder), here, watch=Watch(0.0))
    assert kinds(folder.parent / "out").count("tables") == times
    assert "new4.tif" in (folder.parent / "out/summary.csv").read_text()


@pytest.mark.parametrize("stopped", [False, True])
def test_files_are_read_once(folder: Path, stopped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def sha256(path: Path) -> str:
        read.append(path.name)
        if stopped and read.count("4.tif") == 1 and path.name == "4.tif":
            raise KeyboardInterrupt
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr("stemfit.batch.hashes.SETTLED_S", -1.0)
    monkeypatch.setattr("stemfit.batch.inputs.READERS", 1)
    monkeypatch.setattr("stemfit.batch.hashes.sha256", sha256)
    with contextlib.suppress(KeyboardInterrupt):
        run(request(folder), here)
    before = len(read)
    run(request(folder), here)
    assert set(read[before:]) <= {"4.tif", "5.tif"} and ("4.tif" in read[before:]) == stopped
    assert counts(run(request(folder), here)) == (6, 0, 0, 0)


def test_what_was_read_is_kept_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[int] = []
    monkeypatch.setattr(RUN, "SAVE_S", -1.0)
    monkeypatch.setattr("stemfit.batch.hashes.SETTLED_S", -1.0)
    monkeypatch.setattr("stemfit.batch.hashes.Hashes.save", lambda self: known.append(len(self.known)))
    run(request(folder), here)
    assert len(known) == 8 and known[-1] == 6  # before the first, after each, at the end


def test_watching_tries_again_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def analyse(path: Path, settings: Any, out: Path) -> None:
        tried.append(path.name)
        batch_stub.analyse(path, settings, out)

    image(folder / "x.tif", 1, "damaged")
    run(request(folder), here)
    _rounds(folder, monkeypatch)
    ended = run(request(folder, retry_failed=True), lambda: here(Method(batch_stub.nothing, analyse)), watch=Watch(0.0))
    assert tried == ["x.tif", "new2.tif", "new4.tif"]
    assert counts(ended) == (6, 2, 0, 1) and ended.left == 0


# -- workers that die ----------------------------------------------------------------------------------------------


def test_deadly_images_do_not_end_a_batch_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "IN_A_ROW", 2)
    image(tmp_path / "in/0.tif", 1)
    for k in range(1, 6):
        image(tmp_path / f"in/{k}.tif", k, "dies")
    ended = run(request(tmp_path / "in"), lambda: processes(1, STUB, GIB))
    assert counts(ended) == (0, 1, 0, 5)
    died = [event for event in events(tmp_path / "out") if event["event"] == "died"]
    assert [event["file"] for event in died] == [f"{k}.tif" for k in range(1, 6)]
    assert all("it was killed" in event["reason"] for event in died)


def test_memory_and_second_deaths_do_not_end_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "IN_A_ROW", 2)
    image(tmp_path / "in/0.tif", 1, "dies")  # two deaths, of one image
    for k in (1, 2):
        image(tmp_path / f"in/{k}.tif", k, "hungry")
    ended = run(request(tmp_path / "in"), lambda: processes(1, STUB, GIB // 2))
    assert counts(ended) == (0, 0, 0, 3)


# -- tables on the way out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SomeFailed("all is lost", remedy="x"), ValueError("a bug")])
def test_tables_are_made_on_the_way_out(folder: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run(request(folder), ending(error, 4))
    rows = (folder.parent / "out/summary.csv").read_text().splitlines()[1:]
    assert [",ok," in row for row in rows] == [True] * 4 + [False] * 2 and ",pending," in rows[-1]
    last = events(folder.parent / "out")[-2:]
    assert [event["event"] for event in last] == ["tables", "end"]
    assert (last[1]["done"], last[1]["left"]) == (4, 2)
    assert last[1]["why"] == ("interrupted" if isinstance(error, KeyboardInterrupt) else str(error))


@pytest.mark.parametrize("error", [OutputError("disk full", remedy="make room")])
def test_not_on_a_full_disk(folder: Path, error: BaseException) -> None:
    with pytest.raises(OutputError):
        run(request(folder), ending(error, 4))
    assert not (folder.parent / "out/summary.csv").exists()


def test_who_interrupts_twice_does_not_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RUN, "derive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(request(folder), ending(KeyboardInterrupt(), 4))
    assert kinds(folder.parent / "out")[-1] == "end" and not (folder.parent / "out/summary.csv").exists()


def test_interrupted_by_the_terminal(folder: Path) -> None:
    out = folder.parent / "out"
    slowly = {**ENVIRONMENT, "STUB_S": "0.5"}
    running = subprocess.Popen([sys.executable, str(PROGRAM), str(folder), str(out), "--workers", "1"], env=slowly,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    until(lambda: (out / "1.tif.stemfit").exists())
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=20) != 0
    assert len((out / "summary.csv").read_text().splitlines()) == 7 and not list(out.glob(".tmp-*"))


def test_watching_says_what_is_not_done(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(request(folder), here)
    before = (folder.parent / "out/summary.csv").read_text()
    image(folder / "new.tif", 70)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RUN, "hashed", interrupted)
    ended = run(request(folder), here, watch=Watch(0.0))
    assert ended.left == 7 and (ended.inputs, ended.told) == (0, False)
    assert (folder.parent / "out/summary.csv").read_text() == before  # nothing is known that could be told
    monkeypatch.undo()
    ended = run(request(folder, settings={"host": "WSe2"}), ending(KeyboardInterrupt(), 2), watch=Watch(0.0))
    assert counts(ended) == (0, 2, 0, 0) and ended.left == 5 and ended.told


def test_a_watch_that_is_interrupted_ends_as_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RUN, "hashed", interrupted)
    options = ["batch", str(folder), "--out", str(folder.parent / "out"), "--watch", "--settle", "0.001"]
    done = typer.testing.CliRunner().invoke(cli.app, [*options, "--workers", "1", "--relaxer", "keep"])
    assert done.exit_code == 130 and "not done    6" in done.stdout and "stopped; the same command" in done.stderr


# -- the log -------------------------------------------------------------------------------------------------------


def test_the_log_tells_all(folder: Path) -> None:
    (folder / "gone.tif").symlink_to(folder / "nowhere")
    image(folder / "x.tif", 1, "damaged")
    run(request(folder), here)
    out = folder.parent / "out"
    assert kinds(out) == ["begin", "reading", "plan", "unreadable", *["done"] * 6, "failed", "tables", "end"]
    assert events(out)[3]["file"] == "gone.tif" and "leads nowhere" in events(out)[3]["reason"]
    last = events(out)[-1]
    assert {name: last[name] for name in ("why", "inputs", "done", "failed", "left")} == {
        "why": "done", "inputs": 8, "done": 6, "failed": 2, "left": 0
    }


def test_the_log_of_the_last_share_tells_of_its_tables(folder: Path) -> None:
    for k in (1, 2):
        run(request(folder, share=shard(f"{k}/2")), here)
    out = folder.parent / "out"
    assert [kinds(out, f"log-{k}-of-2.jsonl")[-2:] for k in (1, 2)] == [["done", "end"], ["tables", "end"]]


def test_a_dry_run_says_what_is_tried_again(folder: Path) -> None:
    (folder / "gone.tif").symlink_to(folder / "nowhere")
    options = ["batch", str(folder), "--out", str(folder.parent / "out"), "--dry-run"]
    said = typer.testing.CliRunner().invoke(cli.app, options).stdout
    assert "failed      0, not tried again" in said and "unreadable  1, tried again by every run" in said
    assert store.failure(folder.parent / "out", "gone.tif") is None
