"""Time and memory of the whole chain, stage by stage, on one synthetic image with known defects.

Run: ``python benchmarks/speed.py [--side 1024] [--relaxer keep]``
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from machine import alone, headline, table

SINGLE, DOUBLE, METAL = 18, 8, 4
"""Vacancies: 30 defects."""


class Outcome(NamedTuple):
    """Seconds of each stage and what came out."""

    seconds: dict[str, float]
    columns: int
    true: int
    claimed: int


def chain(side: int, relaxer: str) -> Outcome:
    """Analyse and write a synthetic MoS2 image of `side` pixels of 0.11 A."""
    from stemfit import pipeline, relax, result, synthetic

    start = time.perf_counter()
    crystal = synthetic.crystal(
        (side, side), pixel_size_A=0.11, halved=SINGLE, removed=DOUBLE, removed_metals=METAL, position_rms_A=0.03
    )
    recording, moved = synthetic.record(
        crystal,
        synthetic.Acquisition(counts=100, jitter_px=0.3, drift_px=(5.0, -3.0), background=0.05, margin_px=14),
        1,
    )
    image = synthetic.as_micrograph(recording.image, crystal.pixel_size_A)
    seconds = {"(making the image)": time.perf_counter() - start}
    analysis = pipeline.analyze(image, pipeline.Settings(host="MoS2"), relax.relaxer(relaxer))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result.write(analysis, Path(folder) / "speed.stemfit", extras=pages)
    seconds |= {**analysis.timings_s, "writing": time.perf_counter() - start}
    return Outcome(seconds, len(analysis.columns), len(moved.defects), len(analysis.defects))


def pages(analysis: Any, folder: Path) -> None:
    """Overlay and report, as the command line writes them."""
    from stemfit import figures, report

    overlay = figures.overlay(analysis)
    for name in ("overlay.png", "overlay.pdf"):
        figures.save(overlay, folder / name)
    (folder / "report.html").write_text(report.html(analysis, (folder / "overlay.png").read_bytes()), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="px")
    parser.add_argument("--relaxer", default="definet", choices=["definet", "keep"])
    asked = parser.parse_args()
    run = alone(chain, asked.side, asked.relaxer)
    seconds, columns, true, claimed = run.outcome
    print(headline(), f"relaxer {asked.relaxer}", sep="; ")
    print(f"{asked.side} x {asked.side} px, {columns} columns, {true} defects made, {claimed} claimed\n")
    print(table(("stage", "wall s"), [(stage, f"{value:.2f}") for stage, value in seconds.items()]))
    print(f"\nall of it: {run.wall_s:.1f} s wall, {run.cpu_s:.1f} s CPU, peak memory {run.peak_MB:.0f} MB")


if __name__ == "__main__":
    main()
