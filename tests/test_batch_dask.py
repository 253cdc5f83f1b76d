"""A Dask cluster makes the same files as processes, byte by byte, and never knows of more than a few images."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_stub import GIB, SETTINGS, STUB, image
from test_batch import counts
from test_batch_kill import ENVIRONMENT, HERE, PROGRAM, tree
from test_batch_processes import until

from definet.exceptions import OptionError
from stemfit.batch import Request, cluster, run
from stemfit.batch.cluster import AHEAD
from stemfit.batch.local import processes
from stemfit.errors import SomeFailed

distributed = pytest.importorskip("distributed")


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are new processes that know nothing of this one but the environment."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), str(HERE)]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(14):
        image(tmp_path / "in" / f"{k % 3}" / f"{k:02d}.tif", k % 11, {4: "damaged", 9: "bug"}.get(k, "good"))
    return tmp_path / "in"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_two_workers_make_what_two_processes_make(folder: Path, importable: None) -> None:
    out = folder.parent / "out"
    one = run(Request(folder, out, SETTINGS), lambda: processes(2, STUB, GIB))
    here = tree(out)
    out.rename(folder.parent / "processes")
    other = run(Request(folder, out, SETTINGS), lambda: cluster.cluster("local", 2, STUB, GIB))
    assert counts(one) == counts(other) == (0, 9, 3, 2)
    assert [name for name in {**here, **tree(out)} if here.get(name) != tree(out).get(name)] == []


def test_a_cluster_that_is_killed_with_its_scheduler(folder: Path) -> None:
    """Its scheduler lives in the process that hands out the work; workers that are left finish what they are at."""
    out, undisturbed = folder.parent / "out", folder.parent / "undisturbed"
    command = [sys.executable, str(PROGRAM), str(folder)]
    slowly = {**ENVIRONMENT, "STUB_S": "0.5"}
    running = subprocess.Popen([*command, str(out), "--dask", "local"], env=slowly, stderr=subprocess.DEVNULL)
    until(lambda: len(list(out.rglob("*.tif.stemfit"))) >= 3, 60)
    running.kill()
    running.wait()
    assert not (out / "summary.csv").exists()
    for results in (out, undisturbed):
        done = subprocess.run([*command, str(results)], env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 10, done.stderr
    left = {name: content for name, content in tree(out).items() if not name.startswith(".tmp-")}
    assert left == tree(undisturbed)


def test_nobody_answers(folder: Path) -> None:
    with pytest.raises(OptionError, match="no Dask scheduler answers"):
        run(Request(folder, folder.parent / "out", SETTINGS),
            lambda: cluster.cluster("nonsense://nowhere:1", 1, STUB, GIB))  # fmt: skip
    assert not (folder.parent / "out").exists()
    (folder.parent / "out").mkdir()  # the user's own
    with pytest.raises(OptionError, match="no Dask scheduler answers"):
        run(Request(folder, folder.parent / "out", SETTINGS),
            lambda: cluster.cluster("nonsense://nowhere:1", 1, STUB, GIB))  # fmt: skip
    assert (folder.parent / "out").exists()


def test_dask_is_as_quiet_as_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("distributed.scheduler")
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logging.getLogger("distributed"), "level", logging.INFO)
    monkeypatch.setattr(logging.getLogger(), "level", logging.CRITICAL)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    cluster._as_quiet()
    assert not logger.isEnabledFor(logging.ERROR)


class FakeFuture:
    """Ends at once."""

    def __init__(self, key: str, made: Any) -> None:
        self.key, self.made = key, made

    def result(self) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made

    def release(self) -> None:
        FakeClient.held -= 1

    cancel = release


class FakeClient:
    """A scheduler that counts what it knows of."""

    held = most = submitted = 0
    answer: Any = None

    def nthreads(self) -> dict[str, int]:
        return {"tcp://a": 1, "tcp://b": 4, "tcp://c": 1}

    def submit(self, call: Any, job: Any, method: Any, pure: bool) -> FakeFuture:
        FakeClient.submitted += 1
        FakeClient.held += 1
        FakeClient.most = max(FakeClient.most, FakeClient.held)
        return FakeFuture(str(FakeClient.submitted), FakeClient.answer)


class FakeCompleted(list[Any]):
    add = list.append

    def __next__(self) -> Any:
        return self.pop(0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    FakeClient.held = FakeClient.most = FakeClient.submitted = 0
    FakeClient.answer = cluster.Report(())
    monkeypatch.setattr(cluster, "dask_client", lambda address: contextlib.nullcontext(FakeClient()))
    monkeypatch.setattr(distributed, "as_completed", FakeCompleted)
    yield


def test_the_scheduler_never_holds_the_folder(fake: None) -> None:
    taken = 0

    def jobs() -> Iterator[Any]:
        nonlocal taken
        for _ in range(100_000):
            taken += 1
            assert taken - FakeClient.submitted == 1  # taken when there is room, not before
            yield object()

    with cluster.cluster("tcp://x", 1, STUB, GIB) as engine:
        assert sum(1 for _ in engine(jobs())) == 100_000
    assert FakeClient.most <= AHEAD * 3 + 1 and FakeClient.held == 0


def test_a_scheduler_that_is_gone_ends_the_run(fake: None, folder: Path) -> None:
    FakeClient.answer = OSError("Scheduler is gone")
    with pytest.raises(SomeFailed, match="the same command goes on"):
        run(Request(folder, folder.parent / "out", SETTINGS), lambda: cluster.cluster("tcp://x", 1, STUB, GIB))
    assert not list((folder.parent / "out").glob(".tmp-*"))


def test_an_image_that_kills_workers_is_an_outcome(fake: None, folder: Path) -> None:
    FakeClient.answer = distributed.KilledWorker("task", None, 3)
    ended = run(Request(folder, folder.parent / "out", SETTINGS), lambda: cluster.cluster("tcp://x", 1, STUB, GIB))
    assert len(ended.failures) == 14
    assert ended.failures[0].reason.startswith("the worker died 4 times with it: killed on the cluster")
