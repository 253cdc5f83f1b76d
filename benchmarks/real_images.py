"""Micrographs that may not be redistributed: what the analysis says of each, without being told anything.

Run: ``python benchmarks/real_images.py [FOLDER] [--reference CSV] [--relaxer keep]``; without FOLDER the environment
variable STEMFIT_REAL_IMAGES names it. The CSV has the columns ``file``, ``host`` and ``a_px``, which may be empty: the
host is then stated in a second run, and the lattice constant compared.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import Run, alone, headline, table

from stemfit.errors import StemfitError

HEAD = (
    "image", "host", "a px", "reference px", "anisotropy", "columns", "claims", "suspects", "masked %",
    "CPU s", "wall s", "MB",
)  # fmt: skip


class Said(NamedTuple):
    """What an analysis says of an image."""

    host: str
    probability: float
    a_px: float
    anisotropy: float
    columns: int
    claims: Counter[str]
    suspects: int
    masked: float


def analyse(path: str, host: str, relaxer: str) -> Said | str:
    """What is said, or why nothing can be."""
    from stemfit import micrograph, pipeline, relax

    try:
        analysis = pipeline.analyze(micrograph.read(path), pipeline.Settings(host=host), relax.relaxer(relaxer))
    except StemfitError as error:
        return str(error)
    except Exception as error:  # a fault of ours: said in the table, and the other images still have their turn
        return f"FAULT {type(error).__name__}: {error}"
    return Said(
        analysis.host.host.name, analysis.host.probability, analysis.lattice.a_px_iso, analysis.lattice.anisotropy,
        len(analysis.columns), Counter(d.type for d in analysis.defects), len(analysis.suspects),
        float(np.mean(analysis.region_map > 0)),
    )  # fmt: skip


def row(name: str, asked: str, reference_px: str, run: Run[Said | str]) -> tuple[str, ...]:
    said = run.outcome
    cost = f"{run.cpu_s:.1f}", f"{run.wall_s:.1f}", f"{run.peak_MB:.0f}"
    if isinstance(said, str):
        return (name, asked, "-", reference_px, "-", "-", said, "-", "-", *cost)
    return (
        name, asked if asked != "auto" else f"auto: {said.host} {said.probability:.2f}",
        f"{said.a_px:.3f}", reference_px, f"{said.anisotropy:.3f}", str(said.columns),
        ", ".join(f"{kind} {n}" for kind, n in sorted(said.claims.items())) or "none", str(said.suspects),
        f"{100 * said.masked:.1f}", *cost,
    )  # fmt: skip


def references(path: Path | None) -> dict[str, dict[str, str]]:
    if path is None:
        return {}
    with path.open(newline="") as lines:
        return {line["file"]: line for line in csv.DictReader(lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=os.environ.get("STEMFIT_REAL_IMAGES"))
    parser.add_argument("--reference", type=Path, help="CSV with file, host, a_px")
    parser.add_argument("--relaxer", default="definet", choices=["definet", "keep"])
    asked = parser.parse_args()
    if asked.folder is None:
        parser.error("name a folder or set STEMFIT_REAL_IMAGES")
    known = references(asked.reference)
    rows = []
    for path in sorted(p for p in Path(asked.folder).iterdir() if p.suffix.lower() in (".tif", ".tiff", ".png")):
        reference = known.get(path.name, {})
        for host in filter(None, ("auto", reference.get("host"))):
            print(path.name, host, file=sys.stderr)
            run = alone(analyse, path, host, asked.relaxer)
            rows.append(row(path.name, host, reference.get("a_px") or "-", run))
    print(headline(), f"relaxer {asked.relaxer}", sep="; ")
    print("", table(HEAD, rows), sep="\n")


if __name__ == "__main__":
    main()
