"""A folder in, one outcome for each image: what is done again and what is not, and what failing images leave alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import batch_stub
import numpy as np
import pytest
from batch_stub import SETTINGS, STUB, image
from PIL import Image
from test_batch_kill import ENVIRONMENT, tree

from stemfit.batch import Ended, Request, keys, look, run, store, work
from stemfit.batch.local import Engine
from stemfit.batch.work import Job, Method, Report, carry_out
from stemfit.errors import InputError, UsageError


@contextlib.contextmanager
def here(method: Method = STUB) -> Iterator[Engine]:
    """An engine without processes."""

    def engine(jobs: Iterable[Job]) -> Iterator[Report]:
        yield from (carry_out(job, method) for job in jobs)

    yield engine


@pytest.fixture(autouse=True)
def prepared() -> Iterator[None]:
    """Workers are new in each test."""
    yield
    work._prepared.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, two of them equal."""
    for name, number in {"a.tif": 12, "sub/a.tif": 3, "sub/b.tif": 12, "c.png": 40}.items():
        image(tmp_path / "in" / name, number)
    return tmp_path / "in"


def request(folder: Path, **more: Any) -> Request:
    settings = {**SETTINGS, **more.pop("settings", {})}
    return Request(folder, folder.parent / "out", settings, **more)


def counts(ended: Ended) -> tuple[int, int, int, int]:
    return ended.finished, ended.done, ended.copied, len(ended.failures)


# -- what is done --------------------------------------------------------------------------------------------------


def test_one_result_for_each_and_each_content_once(folder: Path) -> None:
    ended = run(request(folder), here)
    assert counts(ended) == (0, 3, 1, 0) and ended.inputs == 4
    for name in ("a.tif", "sub/a.tif", "sub/b.tif", "c.png"):
        place = folder.parent / "out" / f"{name}.stemfit"
        document = json.loads((place / "analysis.json").read_text())
        assert document["input"]["path"] == str(folder / name)  # also of those that were computed under another name
        assert (place / "candidates/1-1.cif").exists()
    left = {path.name for path in (folder.parent / "out").iterdir()}
    assert left == {"a.tif.stemfit", "c.png.stemfit", "sub", "summary.csv", "summary.parquet", "index.sqlite",
                    "index.html", "statistics.csv", "statistics.svg", "statistics.pdf", "statistics.png", "log.jsonl",
                    ".stemfit-batch"}  # fmt: skip


def test_nothing_is_computed_again(folder: Path) -> None:
    run(request(folder), here)
    before = tree(folder.parent / "out")
    assert counts(run(request(folder), here)) == (4, 0, 0, 0)
    assert tree(folder.parent / "out") == before


@pytest.mark.parametrize("change", ["file", "setting", "code"])
def test_what_changed_is_computed_again(folder: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(request(folder), here)
    settings: dict[str, Any] = {}
    if change == "file":
        stat = (folder / "a.tif").stat()
        image(folder / "a.tif", 77)
        os.utime(folder / "a.tif", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a copy that keeps the time
    elif change == "setting":
        settings = {"host": "WSe2"}
    else:
        for module in (keys, work):
            monkeypatch.setattr(module, "code_version", lambda: "0.1.0+other")
        monkeypatch.setattr("stemfit.batch.plan.code_version", lambda: "0.1.0+other")
    expected = {"file": (3, 1, 0, 0), "setting": (0, 3, 1, 0), "code": (0, 3, 1, 0)}[change]
    assert counts(run(request(folder, settings=settings), here)) == expected
    sidecar = store.finished(folder.parent / "out", "a.tif")
    assert sidecar is not None and sidecar.key == request(folder, settings=settings).key(sidecar.sha256)


def test_an_equal_image_that_comes_later_is_not_computed(folder: Path) -> None:
    run(request(folder), here)
    image(folder / "new/d.tif", 3)
    assert counts(run(request(folder), here)) == (4, 0, 1, 0)
    both = [json.loads((folder.parent / "out" / f"{name}.stemfit/analysis.json").read_text())
            for name in ("sub/a.tif", "new/d.tif")]  # fmt: skip
    assert both[1].pop("input")["path"] == str(folder / "new/d.tif") and both[0].pop("input") and both[0] == both[1]


def test_equal_bytes_of_another_kind_are_another_image(folder: Path) -> None:
    image(folder / "a.dm3", 12)
    assert counts(run(request(folder), here))[1:3] == (4, 1)


def test_files_in_the_settings_count_by_what_they_hold(tmp_path: Path) -> None:
    for name, text in {"1.cif": "data_a", "2.cif": "data_a", "3.cif": "data_b"}.items():
        (tmp_path / name).write_text(text)
    one, same, other = (keys.settings_hash({"host": str(tmp_path / f"{k}.cif")}) for k in (1, 2, 3))
    assert one == same != other
    assert keys.settings_hash({"host": "MoS2"}) != keys.settings_hash({"host": "WS2"})


def test_where_it_is_computed_does_not_count() -> None:
    hashes = {keys.settings_hash({"host": "MoS2", "device": device}) for device in ("auto", "cpu", "cuda")}
    assert len(hashes) == 1


def test_a_name_that_is_too_long_is_found_before_the_analysis(folder: Path) -> None:
    image(folder / f"{'x' * 245}.tif", 5)
    calls: list[str] = []

    def noted(path: Path, settings: Any, out: Path) -> None:
        calls.append(path.name)
        batch_stub.analyse(path, settings, out)

    ended = run(request(folder), lambda: here(Method(batch_stub.nothing, noted)))
    assert counts(ended) == (0, 3, 1, 1) and len(calls) == 3
    assert "longer than the 255 bytes" in ended.failures[0].reason and "rename the image" in ended.failures[0].reason


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    plan = look(request(folder))
    assert (plan.inputs, len(plan.jobs), plan.equal, plan.finished) == (4, 3, 1, 0)
    assert not (folder.parent / "out").exists()


def test_results_beside_the_images(folder: Path) -> None:
    asked = Request(folder, folder, SETTINGS)
    assert counts(run(asked, here)) == (0, 3, 1, 0)
    assert counts(run(asked, here)) == (4, 0, 0, 0)
    inside = Request(folder, folder / "results", SETTINGS)
    assert counts(run(inside, here)) == (0, 3, 1, 0)
    assert counts(run(inside, here)) == (4, 0, 0, 0)


# -- what fails ----------------------------------------------------------------------------------------------------


def test_failures_are_outcomes(folder: Path) -> None:
    for k, kind in enumerate(["damaged", "flat", "bug", "changes"]):
        image(folder / f"{kind}.tif", k, kind)
    image(folder / "damaged again.tif", 0, "damaged")
    (folder / "gone.tif").symlink_to(folder / "nowhere")
    ended = run(request(folder), here)
    assert counts(ended) == (0, 3, 1, 6) and ended.inputs == 10
    told = {one.input: (one.exit_code, one.reason) for one in ended.failures}
    assert told["damaged.tif"] == told["damaged again.tif"] == (3, "damaged; copy it again")
    assert told["flat.tif"] == (4, "no columns in 1; look at it")
    assert told["bug.tif"] == (1, "unexpected RuntimeError (bug 2)")
    assert told["changes.tif"][0] == 3 and "changed while it was read" in told["changes.tif"][1]
    assert told["gone.tif"] == (3, "no such file; it has gone, or is a link that leads nowhere")
    events = [json.loads(line) for line in (folder.parent / "out/log.jsonl").read_text().splitlines()]
    trace = next(event["trace"] for event in events if event.get("file") == "bug.tif")
    assert "batch_stub.py" in trace and "RuntimeError: bug 2" in trace


def test_a_failure_is_not_tried_again_unless_asked_or_changed(folder: Path) -> None:
    image(folder / "x.tif", 1, "damaged")
    image(folder / "changes.tif", 1, "changes")
    assert counts(run(request(folder), here)) == (0, 3, 1, 2)
    calls: list[str] = []

    def noted(path: Path, settings: Any, out: Path) -> None:
        calls.append(path.name)
        batch_stub.analyse(path, settings, out)

    def counting() -> Any:
        return here(Method(batch_stub.nothing, noted))

    run(request(folder), counting)
    assert calls == ["changes.tif"]  # it is another file now
    run(request(folder, retry_failed=True), counting)
    assert sorted(calls[1:]) == ["changes.tif", "x.tif"]
    image(folder / "x.tif", 1)
    assert [one.input for one in run(request(folder), counting).failures] == ["changes.tif"]
    assert store.failure(folder.parent / "out", "x.tif") is None


def test_what_stands_in_the_place_of_a_result_stays(folder: Path) -> None:
    out = folder.parent / "out"
    (out / "a.tif.stemfit").mkdir(parents=True)
    (out / "a.tif.stemfit/mine.txt").write_text("precious")
    ended = run(request(folder), here)
    assert counts(ended) == (0, 3, 0, 1)  # its equal was computed all the same
    assert ended.failures[0].exit_code == 5 and "no result of this image" in ended.failures[0].reason
    assert (out / "a.tif.stemfit/mine.txt").read_text() == "precious"


def test_names_that_a_file_system_takes_for_one(folder: Path) -> None:
    out = folder.parent / "out"
    run(request(folder), here)
    # As where A.tif and a.tif are the same place: it holds the result of the other.
    sidecar = store.finished(out, "a.tif")
    assert sidecar is not None
    store.write_sidecar(out / "a.tif.stemfit", store.Sidecar("A.tif", *list(vars(sidecar).values())[1:]))
    ended = run(request(folder), here)
    assert [one.input for one in ended.failures] == ["a.tif"]
    assert "takes the two names for one" in ended.failures[0].reason


@pytest.mark.parametrize("name", ["summary.csv", "log.jsonl", "log-1-of-2.jsonl"])
def test_a_folder_called_like_a_table(name: str, folder: Path) -> None:
    image(folder / f"{name}/x.tif", 5)
    ended = run(request(folder), here)
    assert [one.input for one in ended.failures] == [f"{name}/x.tif"]
    assert "rename the folder" in ended.failures[0].reason


def test_what_keeps_all_from_being_analysed_ends_the_run(folder: Path) -> None:
    def broken(settings: Any) -> None:
        raise UsageError("no such weights", remedy="give others")

    with pytest.raises(UsageError, match="no such weights"):
        run(request(folder), lambda: here(Method(broken, batch_stub.analyse)))
    assert store.failure(folder.parent / "out", "a.tif") is None
    assert counts(run(request(folder), here)) == (0, 3, 1, 0)


def test_a_worker_with_other_code_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "code_version", lambda: "9.9")
    with pytest.raises(UsageError, match=r"another version of stemfit \(9.9"):
        run(request(folder), here)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="there are no images in it"):
        run(request(tmp_path / "in"), here)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="limits of processes")
def test_a_full_disk_ends_the_run_and_nothing_is_blamed(folder: Path) -> None:
    """A limit on the size of files is what a full disk is to a process, in the middle of a file."""
    program = f"""
import resource, sys
sys.argv = ["batch_stub.py", {str(folder)!r}, {str(folder.parent / "out")!r}, "--workers", "1"]
resource.setrlimit(resource.RLIMIT_FSIZE, (350, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
import batch_stub
import numpy as np
sys.exit(batch_stub.main())
"""
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 5 and "cannot be written (File too large); make room" in done.stderr
    assert not list((folder.parent / "out").rglob("*.stemfit")) and not list((folder.parent / "out").glob(".tmp-*"))
    assert counts(run(request(folder), here)) == (0, 3, 1, 0)


def _reads(path: Path, settings: Any, out: Path) -> None:
    """An analysis that reads the image in earnest."""
    from stemfit import micrograph

    recorded = micrograph.read(path)
    out.mkdir()
    (out / "columns.csv").write_text("id\n")
    (out / "analysis.json").write_text(json.dumps(batch_stub.document(path, recorded.sha256, 12)))


def test_five_of_a_hundred_are_corrupt_and_exactly_those_are_told(tmp_path: Path) -> None:
    """500 files, 25 of them cut short, emptied, overwritten or something else altogether."""
    rng = np.random.default_rng(11)
    for k in range(500):
        path = tmp_path / "in" / f"{k % 7}" / f"{k:03d}.{'png' if k % 3 == 0 else 'tif'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (64, 64)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    paths = sorted((tmp_path / "in").rglob("*.*"))
    corrupt = [paths[k] for k in rng.choice(500, 25, replace=False)]
    for k, path in enumerate(corrupt):
        held = path.read_bytes()
        path.write_bytes([held[: len(held) // 3], b"", b"\0" * len(held), b"Notes of Tuesday", held[:100]][k % 5])
    ended = run(request(tmp_path / "in"), lambda: here(Method(batch_stub.nothing, _reads)))
    assert [one.input for one in ended.failures] == sorted(p.relative_to(tmp_path / "in").as_posix() for p in corrupt)
    assert {one.exit_code for one in ended.failures} == {3} and ended.done + ended.copied == 475
    rows = (tmp_path / "out/summary.csv").read_text().splitlines()
    assert len(rows) == 501 and sum(",failed," in row for row in rows) == 25
