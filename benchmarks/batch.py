"""What a batch costs beside the analyses that it is made of: time, memory, and load on a scheduler.

    python benchmarks/batch.py                                  # some minutes: small numbers of everything
    python benchmarks/batch.py --part memory --images 500       # one part in full
    python benchmarks/batch.py --part scheduler --tasks 100000

overhead     one image, by `stemfit.analyze` and as a job of a worker, in turns in one process; CPU seconds of the
             process that hands out jobs, from a batch of stub analyses; what a run costs that has nothing to do
throughput   stubs that wait a second, which no other process of the machine delays, and images, with one worker and
             with two
memory       of one worker, image after image
scheduler    empty jobs on a Dask cluster of two workers: handed out as the batch does it, and all at once
network      structures that many ask at the same time of the process that holds the network for them
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from machine import cpu_s, headline, table

from stemfit.batch import Request, run, thumbnail
from stemfit.batch.inputs import Input
from stemfit.batch.local import processes
from stemfit.batch.memory import memory_of, share_of_memory
from stemfit.batch.store import claim
from stemfit.batch.work import ANALYSIS, Job, Method, carry_out

SETTINGS: dict[str, Any] = {
    "host": "MoS2", "pixel_size": None, "voltage": None, "convergence": None, "detector": None, "roi": None,
    "mask": None, "signal": None, "frame": None, "relaxer": "definet", "checkpoint": None, "simulator": "fast",
    "temperature": None, "device": "cpu",
}  # fmt: skip
PAIRS = 5
PARTS = ["overhead", "throughput", "memory", "scheduler", "network"]


def images(folder: Path, count: int, side: int, vacancies: int) -> list[Path]:
    """Different images of one kind."""
    import tifffile

    from stemfit import synthetic

    folder.mkdir(parents=True)
    crystal = synthetic.crystal((side, side), pixel_size_A=0.14, halved=vacancies)
    paths = [folder / f"{k:04d}.tif" for k in range(count)]
    for k, path in enumerate(paths):
        recorded, _ = synthetic.record(crystal, synthetic.Acquisition(counts=150), k)
        tifffile.imwrite(path, recorded.image.astype("float32"))
    return paths


def job(asked: Request, path: Path, work: Path) -> Job:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    one = Input(path.name, path)
    return Job((one,), sha256, asked.settings, asked.settings_sha256, asked.code, asked.key(sha256), None,
               asked.results, work)  # fmt: skip


def nothing(settings: Mapping[str, Any]) -> None:
    """Ready at once."""


def stub(path: Path, settings: Mapping[str, Any], out: Path) -> None:
    """A result that the tables can read, at no cost."""
    out.mkdir()
    (out / "columns.csv").write_text("id\n")
    held = {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "shape_px": [100, 100]}
    document = {
        "warnings": [], "input": held, "host": {"name": "MoS2", "source": "user", "probability": 1.0},
        "calibration": {"pixel_size_A": 0.1, "pixel_size_sigma_A": 0.1, "source": "lattice",
                        "metadata_pixel_size_A": None},
        "lattice": {"anisotropy": 1.0, "rotation_deg": 0.0, "residual_rms_pm": 1.0, "masked_fraction": 0.0},
        "judged": {"sites": 1000, "area_nm2": 0.9, "apart_sigma": {}, "blind_to": []}, "doubts": [],
        "defects": [], "suspects": [], "candidates": [], "match": {"ncc": 1.0, "reduced_chi2": 1.0},
    }  # fmt: skip
    (out / "analysis.json").write_text(json.dumps(document))


def waiting(path: Path, settings: Mapping[str, Any], out: Path) -> None:
    """As long as an image, on a machine of which nobody else takes anything."""
    stub(path, settings, out)
    time.sleep(1.0)


STUB, WAITING = Method(nothing, stub), Method(nothing, waiting)


def ready(place: Path, folder: Path) -> tuple[Request, Path]:
    """Results to be written by hand: no run, no lock."""
    asked = Request(folder, place / "results", SETTINGS)
    claim(asked.results)
    work = place / "work"
    work.mkdir()
    return asked, work


def overhead(place: Path, side: int) -> str:
    from stemfit import api

    paths = images(place / "in", PAIRS + 1, side, 4)
    asked, work = ready(place, place / "in")
    alone, as_job, spent = [], [], []

    def timed(path: Path, settings: Mapping[str, Any], out: Path) -> None:
        """The analysis of a job, with a clock about what is `stemfit.analyze` in it."""
        begin = cpu_s()
        found = api.analyze(path, **settings, out=out)
        spent.append(cpu_s() - begin)
        thumbnail.save(found.image, out)

    method = Method(ANALYSIS.prepare, timed)
    for k, path in enumerate(paths):
        for measured in (alone, as_job) if k % 2 else (as_job, alone):
            begin = cpu_s()
            if measured is alone:
                api.analyze(path, **SETTINGS, out=place / "alone" / path.name)
            else:
                report = carry_out(job(asked, path, work), method)
                assert not report.stopped and not report.outcomes[0].failure, report
            measured.append(cpu_s() - begin)
    alone, as_job, spent = alone[1:], as_job[1:], spent[1:]  # the first one loads everything
    pairs = [b / a - 1 for a, b in zip(alone, as_job, strict=True)]
    extra = statistics.median(b - a for a, b in zip(spent, as_job, strict=True))
    hand_out, fixed = _parent(place / "stub")
    bare = statistics.median(alone)
    rows = [
        ("stemfit.analyze", f"{bare:.2f}", ""),
        ("the rest of a job", f"{extra:.3f}", f"{100 * extra / bare:+.1f} %"),
        ("handing out, telling, tables: per image", f"{hand_out:.3f}", f"{100 * hand_out / bare:+.1f} %"),
        ("together", f"{bare + extra + hand_out:.2f}", f"{100 * (extra + hand_out) / bare:+.1f} %"),
        ("once per run: start and end", f"{fixed:.2f}", ""),
    ]
    spread = f"medians of {PAIRS} pairs in turns; analyze {min(alone):.2f} to {max(alone):.2f} s"
    ratio = f"a job against analyze of the same image: {statistics.median(pairs):+.1%} ({_all(pairs)})"
    return f"{side} x {side} px, {spread}; {ratio}\n\n" + table(("CPU seconds per image", "s", "share"), rows)


def _all(shares: list[float]) -> str:
    return ", ".join(f"{share:+.1%}" for share in shares)


def _parent(place: Path) -> tuple[float, float]:
    """CPU seconds of the process that hands out jobs, for each image and for a run; workers are not in it."""
    few, many = (_run_of_stubs(place / str(count), count) for count in (10, 410))
    return (many - few) / 400, few - (many - few) / 40


def _run_of_stubs(place: Path, count: int) -> float:
    (place / "in").mkdir(parents=True)
    for k in range(count):
        (place / "in" / f"{k}.tif").write_bytes(str(k).encode())
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    import batch\n"
        f"    here = Path({str(place)!r})\n"
        "    asked = batch.Request(here / 'in', here / 'out', batch.SETTINGS)\n"
        "    batch.run(asked, lambda: batch.processes(1, batch.STUB, 2**31))\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    sys.stdout.write(str(used.ru_utime + used.ru_stime))\n"
    )
    (place / "program.py").write_text(program)
    return float(_python([str(place / "program.py")]))


def _python(arguments: list[str]) -> str:
    import subprocess

    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parent), str(here)])
    return subprocess.run([sys.executable, *arguments], env={**os.environ, "PYTHONPATH": paths}, check=True,
                          capture_output=True, text=True).stdout  # fmt: skip


def throughput(place: Path, side: int, count: int) -> str:
    images(place / "images", count, side, 4)
    (place / "stubs").mkdir()
    for k in range(20):
        (place / "stubs" / f"{k}.tif").write_bytes(str(k).encode())
    head = ("workers", "wall s", "CPU s per image", "images per minute", "times one worker")
    stubs = table(head, _one_and_two(place, "stubs", WAITING, 20))
    analysed = table(head, _one_and_two(place, "images", ANALYSIS, count))
    return (
        f"20 stubs that wait a second\n\n{stubs}\n\n{count} images of {side} x {side} px; load "
        f"{os.getloadavg()[0]:.1f} at the end\n\n{analysed}"
    )


def _one_and_two(place: Path, name: str, method: Method, count: int) -> list[tuple[str, ...]]:
    rows, first = [], 0.0
    for workers in (1, 2):
        asked = Request(place / name, place / f"{name}-{workers}", SETTINGS)
        seen: list[float] = []
        begin, cpu = time.perf_counter(), cpu_s()
        ended = run(asked, lambda n=workers: processes(n, method, share_of_memory(n)),  # type: ignore[misc]
                    lambda event, to=seen: to.append(time.perf_counter()) if event["event"] == "done" else None)
        assert ended.done == count, ended
        wall, used = time.perf_counter() - begin, cpu_s() - cpu
        # From the first result of each worker on: a run of hundreds starts its workers once, too.
        pace = (len(seen) - workers) / (seen[-1] - seen[workers - 1]) if len(seen) > workers else float("nan")
        first = first or pace
        rows.append((str(workers), f"{wall:.1f}", f"{used / count:.2f}", f"{60 * pace:.1f}", f"{pace / first:.2f}"))
    return rows


def memory(place: Path, side: int, count: int) -> str:
    paths = images(place / "in", count, side, 1)
    asked, work = ready(place, place / "in")
    held = []
    for path in paths:
        report = carry_out(job(asked, path, work), ANALYSIS)
        assert not report.stopped and not report.outcomes[0].failure, report
        held.append(memory_of(os.getpid()) / 2**20)
    at = sorted({k for k in (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, count) if k <= count})
    warm = held[min(9, count - 1)]
    last = statistics.median(held[-5:])
    said = f"{count} images of {side} x {side} px in one worker; from the tenth to the last five {last / warm - 1:+.1%}"
    return f"{said}\n\n" + table(("after image", "MB held"), [(str(k), f"{held[k - 1]:.0f}") for k in at])


def scheduler(place: Path, tasks: int) -> str:
    from distributed import Client, LocalCluster

    from stemfit.batch.cluster import cluster

    asked, work = ready(place, place)

    def jobs() -> Iterator[Job]:
        for k in range(tasks):
            yield Job((), "0" * 64, SETTINGS, asked.settings_sha256, asked.code, str(k), None, asked.results, work)

    rows = []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as here:

        def known() -> int:
            return len(here.scheduler.tasks)

        def measured(name: str, reports: Iterator[Any], count: int) -> None:
            memory_0, begin, cpu, most = memory_of(os.getpid()), time.perf_counter(), time.process_time(), 0
            ended = 0
            for ended, _ in enumerate(reports, start=1):
                if ended % 100 == 1:
                    most = max(most, known())
            assert ended == count
            wall, used = time.perf_counter() - begin, time.process_time() - cpu
            more = (memory_of(os.getpid()) - memory_0) / 2**20
            rows.append((name, str(count), str(most), f"{1e3 * used / count:.2f}", f"{wall:.0f}", f"{more:+.0f}"))

        with cluster(here.scheduler_address, 2, STUB, 2**31) as engine:
            measured("as the batch does", engine(jobs()), tasks)
        few = min(tasks, 5000)
        with Client(here) as client:

            def at_once() -> Iterator[Any]:
                futures = [client.submit(carry_out, one, STUB, pure=False) for one in islice(jobs(), few)]
                yield from (future.result() for future in futures)

            measured("all at once", at_once(), few)
    head = ("handed out", "tasks", "known to the scheduler", "CPU ms per task", "wall s", "MB more")
    note = "scheduler and client in one process, whose CPU time and memory are told; workers are not in it"
    return f"{note}\n\n" + table(head, rows)


def network(asking: int) -> str:
    """Structures that several ask of one network, as a batch's workers ask a GPU's, beside passes one by one."""
    import threading

    from definet.checkpoint import load_checkpoint, shipped
    from definet.predict import network_graph, predictions, resolve_device
    from definet.service import Asking, serving
    from definet.structures import build, pristine

    checkpoint, device = load_checkpoint(shipped()), resolve_device("auto")
    crystal, rounds = pristine("MoS2", 8), 40 if device.type == "cuda" else 4
    graphs = [network_graph(build(crystal, label), checkpoint) for label in ("V_S", "V_S2", "V_Mo", "Se_S")]
    net = checkpoint.network(device)
    predictions(net, graphs)
    begin = time.perf_counter()
    for _ in range(asking * rounds):
        predictions(net, graphs)
    alone = asking * rounds * len(graphs) / (time.perf_counter() - begin)
    rows = [("one after the other, in one process", f"{alone:.1f}", "1.00")]

    def ask(guest: Asking, times: int) -> None:
        for _ in range(times):
            guest(graphs)

    with serving(shipped(), str(device)) as address:
        for number in (1, asking):
            guests = [threading.Thread(target=ask, args=(Asking(address), rounds)) for _ in range(number)]
            Asking(address)(graphs)
            begin = time.perf_counter()
            for guest in guests:
                guest.start()
            for guest in guests:
                guest.join()
            pace = number * rounds * len(graphs) / (time.perf_counter() - begin)
            rows.append((f"{number} asking the process that holds it", f"{pace:.1f}", f"{pace / alone:.2f}"))
    said = f"4 structures of {len(graphs[0].numbers)} nodes in a question, network on {device.type}"
    return f"{said}\n\n" + table(("who", "structures per s", "times"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--side", type=int, default=256, help="px of the images of overhead and throughput")
    parser.add_argument("--images", type=int, default=12, help="of throughput and memory")
    parser.add_argument("--asking", type=int, default=16, help="at the same time, of the network")
    parser.add_argument("--tasks", type=int, default=2000, help="of the scheduler")
    asked = parser.parse_args()
    print(headline())
    for part in asked.part or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            made = {
                "overhead": lambda at: overhead(at, asked.side),
                "throughput": lambda at: throughput(at, asked.side, asked.images),
                "memory": lambda at: memory(at, 160, asked.images),
                "scheduler": lambda at: scheduler(at, asked.tasks),
                "network": lambda at: network(asked.asking),
            }[part](Path(folder))
        print(f"\n{part}: {made}", flush=True)


if __name__ == "__main__":
    main()
