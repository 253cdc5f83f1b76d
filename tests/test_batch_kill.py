"""Killed at any moment, a batch goes on with the same command and ends with the same files, byte by byte.

STEMFIT_KILL_TRIALS says how often; the full set is 200.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import batch_stub
import numpy as np
import pytest
import tifffile

from stemfit import synthetic

TRIALS = int(os.environ.get("STEMFIT_KILL_TRIALS", "10"))
HERE = Path(__file__).parent
PROGRAM = HERE / "batch_stub.py"
ENVIRONMENT = {
    **os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), "STUB_S": "0.03",
    "OMP_NUM_THREADS": "1",
}  # fmt: skip
NOT_COMPARED = {"log.jsonl", "hashes.json"}
"""The log holds the time of everything; of which files the hash is kept depends on how long ago they were written."""

DATE = re.compile(rb"made 20\d\d-\d\d-\d\d \d\d:\d\d UTC")
"""Of a page."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images in three folders: some equal, some that fail."""
    place = tmp_path_factory.mktemp("images")
    for k in range(24):
        kind = {7: "damaged", 13: "flat", 21: "bug"}.get(k, "good")
        batch_stub.image(place / ("", "a", "a/b")[k % 3] / f"{k:02d}.tif", k if k % 9 else 90, kind)
    return place


@pytest.fixture(scope="module")
def reference(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """What a run leaves that nobody disturbs, and how long it takes."""
    results, began = tmp_path_factory.mktemp("reference") / "results", time.monotonic()
    assert _started(folder, results).wait() == 10
    return tree(results), time.monotonic() - began


def _started(folder: Path, results: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROGRAM), str(folder), str(results), *more]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True)  # fmt: skip


def tree(results: Path) -> dict[str, bytes]:
    """Every file of a folder of results with its content; folders by their names."""
    files = sorted(path for path in results.rglob("*") if path.name not in NOT_COMPARED)
    return {
        path.relative_to(results).as_posix():
        DATE.sub(b"", path.read_bytes().replace(str(results).encode(), b"RESULTS")) if path.is_file() else b"folder"
        for path in files
    }  # fmt: skip


def children(pid: int) -> list[int]:
    """Workers of a run."""
    try:
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # pragma: no cover
        return []
    return [int(word) for word in listed.stdout.split()]


def _strike(run: subprocess.Popen[bytes], how: str, chance: random.Random) -> None:
    """Kill a worker, the one who hands out the work, all of them, or ask for the end as a person or a cluster does."""
    targets = {
        "worker": chance.sample(children(run.pid), 1) if how == "worker" and children(run.pid) else [],
        "parent": [run.pid], "interrupt": [run.pid], "terminate": [run.pid], "all": [run.pid, *children(run.pid)],
    }[how]  # fmt: skip
    number = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}.get(how, signal.SIGKILL)
    for pid in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def test_killed_again_and_again(folder: Path, reference: tuple[dict[str, bytes], float], tmp_path: Path) -> None:
    undisturbed, seconds = reference
    chance, struck, ended = random.Random(20), 0, 0
    while struck < TRIALS:
        results = tmp_path / f"results-{ended}"
        while struck < TRIALS:
            run = _started(folder, results)
            time.sleep(chance.uniform(0.1, 1.1) * seconds)
            if run.poll() is not None:
                break
            how = chance.choice(["worker", "parent", "all", "interrupt", "terminate"])
            _strike(run, how, chance)
            struck += 1
            run.wait(timeout=60)
            if how == "worker" and run.returncode == 10:
                break
        assert _started(folder, results).wait(timeout=60) == 10
        _same(tree(results), undisturbed)
        _each_once(results)
        ended += 1
    assert struck == TRIALS


def _same(found: dict[str, bytes], reference: dict[str, bytes]) -> None:
    assert sorted(found) == sorted(reference)
    assert [name for name in reference if found[name] != reference[name]] == []


def _each_once(results: Path) -> None:
    """No image was analysed a second time that had a result: the log of all runs together tells each once."""
    events = [json.loads(line) for line in (results / "log.jsonl").read_text().splitlines()]
    told = Counter(event["file"] for event in events if event["event"] in ("done", "copied"))
    assert max(told.values()) == 1


@pytest.mark.skipif(TRIALS < 100, reason="minutes: with STEMFIT_KILL_TRIALS=200")
def test_the_real_analysis_killed(tmp_path: Path) -> None:
    """As above, with three small images and all of `stemfit batch`; timings are not compared."""
    for k in range(3):
        crystal = synthetic.crystal((170, 160), pixel_size_A=0.14, halved=1)
        recorded, _ = synthetic.record(crystal, synthetic.Acquisition(counts=200), k)
        (tmp_path / "in").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "in" / f"{k}.tif", recorded.image.astype(np.float32))

    def started(results: Path) -> subprocess.Popen[bytes]:
        options = ["--host", "MoS2", "--device", "cpu", "--workers", "1", "--out", str(results)]
        command = [sys.executable, "-m", "cli", "batch", str(tmp_path / "in"), *options]
        return subprocess.Popen(command, env=ENVIRONMENT, cwd=HERE.parent, start_new_session=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    began = time.monotonic()
    assert started(tmp_path / "undisturbed").wait() == 0
    seconds, chance = time.monotonic() - began, random.Random(3)
    for _ in range(TRIALS // 40):
        run = started(tmp_path / "killed")
        time.sleep(chance.uniform(0.2, 0.9) * seconds)
        _strike(run, chance.choice(["worker", "parent", "all"]), chance)
        run.wait()
    assert started(tmp_path / "killed").wait() == 0
    one, other = (without_times(tree(tmp_path / name)) for name in ("undisturbed", "killed"))
    _same(other, one)


def without_times(files: dict[str, bytes]) -> dict[str, bytes]:
    """Results without how long each stage took."""
    found = {}
    for name, content in files.items():
        if name.endswith("analysis.json"):
            content = re.sub(rb'"timings_s": \{[^}]*\}', b"", content)
        elif name.endswith("report.html"):
            content = re.sub(rb"<h3>Time</h3>.*?</section>", b"", content, flags=re.DOTALL)
        found[name] = content
    return found
