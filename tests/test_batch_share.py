"""Who works in a folder of results: one run, or the shards of one; what the dead leave is cleared away."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from batch_stub import image
from test_batch import counts, here, request
from test_batch_kill import tree

from stemfit.batch import lock, run, store
from stemfit.batch.inputs import shard
from stemfit.errors import OutputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, two of them equal."""
    for name, number in {"a.tif": 12, "sub/a.tif": 3, "sub/b.tif": 12, "c.png": 40}.items():
        image(tmp_path / "in" / name, number)
    return tmp_path / "in"


def test_two_runs_do_not_write_to_one_place(folder: Path) -> None:
    out = folder.parent / "out"
    store.claim(out)
    with lock.held(out, shard(None)), pytest.raises(OutputError, match=f"process {os.getpid()} on"):
        run(request(folder), here)
    assert counts(run(request(folder), here)) == (0, 3, 1, 0)


def test_of_two_runs_that_begin_together_one_goes_on(tmp_path: Path) -> None:
    """Each sees the other's lock only if that was there before: both may not give way."""
    store.claim(tmp_path)
    began, refused = threading.Barrier(6), []
    written = lock.write_file

    def begin() -> None:
        began.wait()
        try:
            with lock.held(tmp_path, shard(None)):
                ended.wait(20)
        except OutputError:
            refused.append(1)

    def slowly(path: Path, content: Any) -> None:
        written(path, content)
        time.sleep(0.2)  # long enough for all to write theirs

    ended = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "write_file", slowly)
        threads = [threading.Thread(target=begin) for _ in range(6)]
        for thread in threads:
            thread.start()
        while sum(thread.is_alive() for thread in threads) > 1:
            time.sleep(0.01)
        ended.set()
        for thread in threads:
            thread.join()
    assert len(refused) == 5


@pytest.mark.parametrize(
    ("mine", "other", "together"),
    [("1/2", "2/2", True), ("1/2", "1/2", False), ("1/2", "2/3", False), ("1/2", None, False), (None, "1/2", False)],
)
def test_shards_of_one_division_go_together(
    mine: str | None, other: str | None, together: bool, tmp_path: Path
) -> None:
    store.claim(tmp_path)
    with lock.held(tmp_path, shard(other)) as first:
        if together:
            with lock.held(tmp_path, shard(mine)) as second:
                assert first != second and first.is_dir() and second.is_dir()
        else:
            with pytest.raises(OutputError, match="another run"), lock.held(tmp_path, shard(mine)):
                pass
        assert first.is_dir()
    assert not list(tmp_path.glob(".tmp-*")) and not list((tmp_path / ".stemfit-batch/locks").iterdir())


@pytest.mark.parametrize(
    ("holder", "silent_s", "stale"),
    [
        ({"pid": 2**22 + 5}, 0, True),  # no such process
        ({"pid": os.getpid(), "began": "another boot 17"}, 0, True),  # its number was given again
        ({"host": "elsewhere"}, lock.SILENT_S + 5, True),
        ({"host": "elsewhere"}, lock.SILENT_S - 60, False),
    ],
)
def test_locks_of_the_dead_are_taken_over(tmp_path: Path, holder: dict[str, Any], silent_s: float, stale: bool) -> None:
    store.claim(tmp_path)
    path = tmp_path / ".stemfit-batch/locks/other-1-0123abcd.json"
    unfinished = tmp_path / ".tmp-batch-other-1-0123abcd"
    known = {"name": "other-1-0123abcd", "host": socket.gethostname(), "pid": 1, "began": "", "shard": "1/1", **holder}
    path.write_text(json.dumps(known))
    os.utime(path, (time.time() - silent_s,) * 2)
    unfinished.mkdir()
    if stale:
        with lock.held(tmp_path, shard(None)):
            assert not path.exists() and not unfinished.exists()
    else:
        with pytest.raises(OutputError, match="on elsewhere"), lock.held(tmp_path, shard(None)):
            pass
        assert path.exists() and unfinished.exists()


def test_stale_folders_are_removed_and_others_are_not(tmp_path: Path) -> None:
    store.claim(tmp_path)
    stale = (".tmp-batch-dead-1-0123abcd/y", "sub/.tmp-a.tif.stemfit-abc_1234")
    others = (".tmp-batch-mine", "sub/.tmp-notes", "sub/.tmp-a.tif.stemfit-mine", "a.tif.stemfit/.tmp-x")
    for name in (*stale, *others):
        (tmp_path / name).mkdir(parents=True)
    unnamed = (".tmp-index.sqlite-abc_1234", ".tmp-index.sqlite-abc_1234-journal", ".stemfit-batch/failures/.tmp-x")
    mine = (".tmp-mine.txt", ".tmp-summary.csv", "sub/.tmp-summary.csv-abc_1234")
    for name in (*unnamed, *mine):
        (tmp_path / name).write_text("x")
    with lock.held(tmp_path, shard(None)):
        pass
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob(".tmp-*"))
    assert left == sorted((*others, *mine))


def test_shards_make_what_one_run_makes(folder: Path) -> None:
    for k in range(12):
        image(folder / f"more/{k}.tif", k, "flat" if k == 5 else "good")
    shares = [run(request(folder, share=shard(f"{k}/3")), here) for k in (1, 2, 3)]
    assert [one.told for one in shares] == [False, False, True]  # the last one makes the tables
    assert sum(one.inputs for one in shares) == 16
    assert sum(one.done + one.copied for one in shares) == 15 and sum(len(one.failures) for one in shares) == 1
    together = tree(folder.parent / "out")
    (folder.parent / "out").rename(folder.parent / "shards")
    run(request(folder), here)
    alone = tree(folder.parent / "out")
    assert {k: v for k, v in together.items() if "log" not in k} == alone
