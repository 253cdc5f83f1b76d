"""Where and on what the benchmarks ran, and how long and how much memory one call took."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

Outcome = TypeVar("Outcome")


class Run(NamedTuple, Generic[Outcome]):
    """What a call gave and took; memory is the peak of its process, libraries included."""

    outcome: Outcome
    wall_s: float
    cpu_s: float
    peak_MB: float


def alone(call: Callable[..., Outcome], *arguments: object) -> Run[Outcome]:
    """Run a call in a process of its own, for a peak memory of its own; imports are not timed."""
    with process() as run:
        return run(call, *arguments)


ANALYSIS = ("definet.predict", "stemfit.figures", "stemfit.pipeline")
"""What every analysis imports."""


@contextmanager
def process(modules: Sequence[str] = ANALYSIS) -> Iterator[Callable[..., Run[Any]]]:
    """Give a function that runs calls in one process, which has imported `modules`; its peak memory can only grow."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_load, modules).result()
        yield lambda call, *arguments: pool.submit(_measure, call, arguments).result()


def _load(modules: Sequence[str]) -> None:
    for name in modules:
        import_module(name)


def _measure(call: Callable[..., Outcome], arguments: Sequence[object]) -> Run[Outcome]:
    wall, cpu = time.perf_counter(), cpu_s()
    outcome = call(*arguments)
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    return Run(outcome, wall, cpu, peak_MB())


def peak_MB() -> float:
    """Peak memory of this process: not ru_maxrss where there is better, which a child inherits from its parent."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def cpu_s() -> float:
    """CPU time of this process and of the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def headline() -> str:
    """Processor, load, threads, date and commit in one line."""
    root = Path(__file__).parents[1]
    git = ["git", "-C", str(root)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return (
        f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}, Python {platform.python_version()}, "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit.stdout.strip() or 'unknown'}"
        f"{' with changes' if changed.stdout.strip() else ''}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table with aligned columns."""
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)
