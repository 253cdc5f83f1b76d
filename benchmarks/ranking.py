"""Whether the ranking of candidate structures means what it says: how often the first is right, and its odds.

Fields of defects whose atoms stand where SevenNet-0 puts them (`defect_kinds.py`), rendered by abTEM multislice
(`defect_stamps.py`) and recorded at 100, 20 and 5 counts (`defect_fields.py`), are analysed with host and optics
stated. Every true defect is joined with what covers it, and with its candidates (`ranking_cases.py`): is the truth
among them, is it first, is it in the 95 % set? Baselines rank the same candidates in the same run. Where the truth is
not first, the same comparison on the noise-free image says whether the winner is nearly the same image at this dose.
"As told" is what the analysis ends with: names that the network never learnt have the odds of brightness back.

For the truth, the relaxed structure is held against the unrelaxed one (`ranking_relaxed.py`): as the network relaxes
it, and as it was drawn. Images of unrelaxed structures and of displacements with the wrong sign (`ranking_stamps.py`)
are the counter-check: there relaxed structures must lose.

One command (`--quick`: a microscope of each host; `--keep FILE` goes on where it ended, and prints again):
``OMP_NUM_THREADS=1 python benchmarks/ranking.py [--quick] [--rounds N] [--seed N] [--keep FILE] [--cases FILE]``
"""

from __future__ import annotations

import argparse
import pickle
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ranking_tables as tables
from defect_fields import COUNTS, Field, build, drawn_labels, record
from defect_library import STORE, library, views
from machine import headline, table
from ranking_cases import Kept, judged

SHARES = {"SV": 6, "DV": 4, "LINE": 5, "TREFOIL": 5, "SUB": 4, "VM": 2, "ANTI": 2}
"""How often each type is drawn; lines and trefoils more often than in the benchmark of defects."""

AUTO = 20.0
"""Counts that are looked at first, and also without stating the host."""

OTHERWISE = ("V_{x}2", "SVL-4", "T1", "DVL-6", "V_{x}")
EACH = 3
"""Of each of these in a field whose atoms stand elsewhere."""


class Task(NamedTuple):
    """One image to make and to judge."""

    what: str
    view: str
    seed: int
    counts: float


def tasks(seed: int, rounds: int, quick: bool) -> list[Task]:
    """All images, such that every part of the list has some of everything."""
    some = views()[::2] if quick else views()
    doses = (AUTO, COUNTS[0]) if quick else (AUTO, COUNTS[0], COUNTS[-1])
    result = []
    for turn in range(rounds):
        for counts in doses:
            result += [Task("defects", view, seed + 1000 * turn, counts) for view in some]
        result += [Task(path.stem.rpartition("-")[2], f"otherwise/{path.stem}", seed + 1000 * turn, COUNTS[0])
                   for path in sorted((STORE / "otherwise").glob("*.npz"))]  # fmt: skip
        if not quick:
            result += [Task("host auto", view, seed + 1000 * turn, AUTO) for view in some]
    return result


def field_of(task: Task) -> Field:
    """Put the field of a task together; it is the same at every dose."""
    lib, rng = library(task.view), np.random.default_rng([task.seed, *task.view.encode()])
    if task.what in ("defects", "host auto"):
        wanted = drawn_labels(lib, rng, shares=SHARES)
    else:
        wanted = EACH * [label for label in sorted(lib.stamps, key=lambda one: -len(lib.stamps[one].sites))]
    return build(f"{task.view}-{task.seed}", task.what, task.view, wanted, int(rng.integers(2**31)))


def done(task: Task) -> Kept:
    """Make, record and judge."""
    shot = record(field_of(task), task.counts, task.seed)
    return judged(shot, task.what, task.seed, "auto" if task.what == "host auto" else None, task.what == "defects")


def gathered(wanted: list[Task], keep: Path | None, processes: int) -> Iterator[Kept]:
    """Results, what was kept first; each new one is kept at once."""
    known: dict[tuple[str | int | float, ...], Kept] = pickle.loads(keep.read_bytes()) if keep and keep.exists() else {}
    yield from (known[task] for task in wanted if task in known)
    missing = [task for task in wanted if task not in known]
    with ProcessPoolExecutor(processes) as pool:
        for task, result in zip(missing, pool.map(done, missing), strict=True):
            known[tuple(task)] = result
            print(*task, result.failure, f"{result.cpu_s:.0f} s", file=sys.stderr, flush=True)
            if keep:
                aside = keep.with_suffix(".part")
                aside.write_bytes(pickle.dumps(known))
                aside.replace(keep)
            yield result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="fields of defects per microscope")
    parser.add_argument("--seed", type=int, default=7301)
    parser.add_argument("--quick", action="store_true", help="three microscopes, two doses")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="goes on where this file ends")
    parser.add_argument("--print", action="store_true", help="tables of what is kept alone")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--cases", type=Path, metavar="FILE", help="list what was not first in this file")
    asked = parser.parse_args()
    start = time.perf_counter()
    if asked.print:
        found = list(pickle.loads(asked.keep.read_bytes()).values())
    else:
        found = list(gathered(tasks(asked.seed, asked.rounds, asked.quick), asked.keep, asked.processes))
    number = sum(len(one.places) for one in found)
    print(f"{headline()}; seed {asked.seed}, {len(found)} images, {number} true defects in them")
    for title, head, rows in tables.all_of(found):
        print(f"\n**{title}**\n", table(head, rows), sep="\n")
    print(f"\n{sum(one.cpu_s for one in found):.0f} s CPU, {time.perf_counter() - start:.0f} s here")
    if asked.cases:
        asked.cases.write_text("\n".join(tables.cases(found)) + "\n")


if __name__ == "__main__":
    main()
