"""Time and memory of `stemfit analyze` as a whole, by part, on one synthetic image with known defects.

The command runs in a process of its own, start and imports included: what it would be on the command line. CPU time is
what counts on a busy machine. Every part that another one needs first (an import, the first Fourier transform) is
charged to the part that comes first.

Run: ``OMP_NUM_THREADS=1 python benchmarks/speed.py [--side 1024] [--relaxer keep]``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from machine import cpu_s, headline, peak_MB, table

SINGLE, DOUBLE, METAL = 18, 8, 4
"""Vacancies: 30 defects."""


class Outcome(NamedTuple):
    """CPU and wall seconds of each part, memory, and what came out."""

    cpu_s: dict[str, float]
    wall_s: dict[str, float]
    peak_MB: dict[str, float]
    columns: int
    claimed: int


class Clock:
    """Charges time to parts."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}
        self.peak: dict[str, float] = {}
        self.last = time.perf_counter(), 0.0  # of CPU: all since the process began

    def charge(self, part: str) -> None:
        """All since the last call goes to `part`."""
        now = time.perf_counter(), cpu_s()
        wall, cpu = (new - old for new, old in zip(now, self.last, strict=True))
        self.cpu[part], self.wall[part] = self.cpu.get(part, 0.0) + cpu, self.wall.get(part, 0.0) + wall
        self.peak[part] = peak_MB()
        self.last = now

    @contextmanager
    def __call__(self, part: str, rest: str) -> Iterator[None]:
        """What is inside goes to `part`, what was before to `rest`."""
        self.charge(rest)
        yield
        self.charge(part)


def make(side: int, path: Path) -> int:
    """Write a synthetic MoS2 image of `side` pixels of 0.11 A; how many defects there are."""
    import tifffile

    from stemfit import synthetic

    crystal = synthetic.crystal(
        (side, side), pixel_size_A=0.11, halved=SINGLE, removed=DOUBLE, removed_metals=METAL, position_rms_A=0.03
    )
    recording, moved = synthetic.record(
        crystal,
        synthetic.Acquisition(counts=100, jitter_px=0.3, drift_px=(5.0, -3.0), background=0.05, margin_px=14),
        1,
    )
    tifffile.imwrite(path, recording.image)
    return len(moved.defects)


def command(path: Path, folder: Path, chosen: str) -> Outcome:
    """The same as `stemfit analyze`, in this process, with a clock."""
    clock = Clock()
    from stemfit import micrograph

    clock.charge("start and light imports")
    recorded = micrograph.read(path)
    clock.charge("reading")
    from stemfit import figures, pipeline, relax, report, result
    from stemfit.analysis import Analysis

    clock.charge("imports")
    relaxer = relax.relaxer(chosen)
    clock.charge("weights")
    stage = ["before"]

    def begins(name: str) -> None:
        clock.charge(stage[0])
        stage[0] = name

    analysis = pipeline.analyze(recorded, pipeline.Settings(host="MoS2"), relaxer, progress=begins)
    clock.charge(stage[0])

    def pages(done: Any, at: Path) -> None:
        read = timed("result read", lambda: Analysis.load(at, image=done.micrograph.image))
        drawn = timed("figure: drawn", lambda: figures.overlay(read))
        timed("figure: png", lambda: figures.save(drawn, at / "overlay.png"))
        timed("figure: pdf", lambda: figures.save(drawn, at / "overlay.pdf"))
        page = timed("report", lambda: report.html(read))
        (at / "report.html").write_text(page, encoding="utf-8")

    def timed(part: str, call: Callable[[], Any]) -> Any:
        with clock(part, "files"):
            return call()

    result.write(analysis, folder, extras=pages)
    clock.charge("files")
    return Outcome(clock.cpu, clock.wall, clock.peak, len(analysis.columns), len(analysis.defects))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="px")
    parser.add_argument("--relaxer", default="definet", choices=["definet", "keep"])
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(command(*asked.child, asked.relaxer)))
        return
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "speed.tif"
        true = make(asked.side, image)
        own = [sys.executable, __file__, "--relaxer", asked.relaxer, "--child", str(image), f"{folder}/speed.stemfit"]
        start = time.perf_counter()
        said = subprocess.run(own, capture_output=True, text=True, check=True).stdout
        wall = time.perf_counter() - start
    out = Outcome(*json.loads(said))
    print(headline(), f"relaxer {asked.relaxer}", sep="; ")
    print(f"{asked.side} x {asked.side} px, {out.columns} columns, {true} defects made, {out.claimed} claimed\n")
    rows = [(part, f"{s:.2f}", f"{out.wall_s[part]:.2f}", f"{out.peak_MB[part]:.0f}") for part, s in out.cpu_s.items()]
    print(table(("part", "CPU s", "wall s", "peak MB"), rows))
    print(f"\nall of it: {wall:.1f} s wall, {sum(out.cpu_s.values()):.1f} s CPU, {max(out.peak_MB.values()):.0f} MB")


if __name__ == "__main__":
    main()
