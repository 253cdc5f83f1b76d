"""What one structure costs the network, by its size, and what it costs the teacher. Sections of `network.py`.

Each number of threads gets a process of its own. A time is the median of several calls, of the wall clock and of the
processor; on a busy machine the second is fairer. The network is loaded before; the graph is built in each call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from machine import process, table

from definet.checkpoint import Checkpoint, load_checkpoint
from definet.graph import DefectGraph
from definet.model import DefiNet
from definet.predict import network_graph, predictions
from definet.structures import DefectStructure, build, pristine

Say = Callable[[str], None]
PACKED_NODES = 4096
TAUGHT_ATOMS = 200
"""The teacher relaxes structures up to this size."""
LIMIT_MS, LIMIT_ATOMS, FASTER = 60.0, 192, 100.0
SLOPES = (0.9, 1.1)
MODULES = ("definet.predict", "definet.teacher", "network_time")


class Clock(NamedTuple):
    """Seconds of one call: of the wall clock, of all threads."""

    wall: float
    cpu: float


class Timed(NamedTuple):
    """Time of one structure of so many atoms, alone or among `packed`: building the graph, the network."""

    atoms: int
    packed: int
    graph: Clock
    network: Clock
    device: str

    @property
    def wall(self) -> float:
        """Both, seconds per structure."""
        return (self.graph.wall + self.network.wall) / self.packed

    @property
    def cpu(self) -> float:
        """Both, seconds per structure."""
        return (self.graph.cpu + self.network.cpu) / self.packed


class Taught(NamedTuple):
    """Time of the teacher's relaxation of one structure, force calls, whether it came to rest."""

    atoms: int
    clock: Clock
    calls: int
    converged: bool


def layer(atoms: int, a_A: float) -> DefectStructure:
    """MoS2 with one V_S2, of about so many sites."""
    return build(pristine("MoS2", max(3, round((atoms / 3) ** 0.5)), a_A=a_A), "V_S2")


def clocked(call: Callable[[], object], patience_s: float, most: int = 15) -> Clock:
    """Median of several calls after one that is not counted, at least three or as many as `patience_s` allows."""
    call()
    taken: list[Clock] = []
    began = time.perf_counter()
    while len(taken) < most and (len(taken) < 3 or time.perf_counter() - began < patience_s):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        taken.append(Clock(time.perf_counter() - wall, time.process_time() - cpu))
    return Clock(*(float(np.median(values)) for values in zip(*taken, strict=True)))


def timed(checkpoint: Checkpoint, net: DefiNet, atoms: int, packed: bool, device: str, patience_s: float) -> Timed:
    """Time of structures of one size."""
    structure = layer(atoms, checkpoint.hosts["MoS2"].a_A)
    count = max(1, PACKED_NODES // len(structure.marker)) if packed else 1
    many = [structure] * count

    def graphs() -> list[DefectGraph]:
        return [network_graph(one, checkpoint) for one in many]

    built = graphs()
    graph = clocked(graphs, patience_s)
    network = clocked(lambda: predictions(net, built, PACKED_NODES), patience_s)
    return Timed(len(structure.marker), count, graph, network, device)


def measure(weights: Path, sizes: Sequence[int], packed: bool, device: str, patience_s: float) -> list[Timed]:
    """Times of structures of several sizes, one by one and, if asked, packed."""
    checkpoint = load_checkpoint(weights)
    net = checkpoint.network(torch.device(device))
    ways = (False, True) if packed else (False,)
    return [timed(checkpoint, net, size, way, device, patience_s) for size in sizes for way in ways]


def teach(weights: Path, sizes: Sequence[int], potential: str) -> list[Taught]:
    """Times of the teacher's relaxations; the stiffness of the host, which it needs once per host, is known before."""
    from definet import teacher
    from definet.descent import force_constants

    a_A = load_checkpoint(weights).hosts["MoS2"].a_A
    calculator = teacher.calculator(potential)
    crystal = teacher.at_rest("MoS2", a_A, calculator)
    force_constants(crystal, a_A, calculator)
    found = []
    for size in sizes:
        structure = build(pristine(crystal, layer(size, a_A).shape[0], a_A=a_A), "V_S2")
        wall, cpu = time.perf_counter(), time.process_time()
        minimum = teacher.relax(structure, calculator)
        clock = Clock(time.perf_counter() - wall, time.process_time() - cpu)
        found.append(Taught(len(structure.marker), clock, minimum.steps, minimum.converged))
    return found


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Processes that are started now use so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# -- tables --------------------------------------------------------------------------------------------------------

HEAD = (
    "where", "atoms", "structures at once", "ms per structure, wall", "CPU", "of it graph, %", "teacher, s wall", "CPU",
    "force calls", "teacher / network, wall", "CPU",
)  # fmt: skip


def rows(where: str, times: Sequence[Timed], taught: Sequence[Taught]) -> list[tuple[str, ...]]:
    """One line per size and way."""
    by_size = {one.atoms: one for one in taught}
    lines = []
    for one in times:
        base = (
            where, str(one.atoms), str(one.packed), f"{1e3 * one.wall:.1f}", f"{1e3 * one.cpu:.1f}",
            f"{100 * one.graph.wall / one.packed / one.wall:.0f}",
        )  # fmt: skip
        slow = by_size.get(one.atoms)
        if slow is None:
            lines.append((*base, "-", "-", "-", "-", "-"))
            continue
        calls = f"{slow.calls}" if slow.converged else f"{slow.calls}, not at rest"
        faster = (f"{slow.clock.wall / one.wall:.0f}", f"{slow.clock.cpu / one.cpu:.0f}")
        lines.append((*base, f"{slow.clock.wall:.2f}", f"{slow.clock.cpu:.2f}", calls, *faster))
    return lines


def section(
    weights: Path, sizes: Sequence[int], counts: Sequence[int], potential: str | None, patience_s: float, say: Say
) -> Iterator[str]:
    """Markdown of times by size, on one and more threads and on a GPU where there is one."""
    lines: list[tuple[str, ...]] = []
    verdicts: list[str] = []
    small = [size for size in sizes if size <= TAUGHT_ATOMS]
    for count in counts:
        with threads(count), process(MODULES) as run:
            say(f"time: {count} threads")
            times = run(measure, weights, sizes, True, "cpu", patience_s).outcome
            taught = run(teach, weights, small, potential).outcome if potential and small else []
        lines += rows(f"CPU, threads: {count}", times, taught)
        verdicts += list(verdict(count, times, taught))
    if torch.cuda.is_available():
        say("time: GPU")
        lines += rows(torch.cuda.get_device_name(), measure(weights, sizes, True, "cuda", patience_s), taught)
    what = f"against a relaxation by {potential} on the same threads" if potential else "without a teacher"
    yield f"**Time per structure** (MoS2 with one V_S2), {what}\n\n" + table(HEAD, lines)
    yield "\n".join(f"- {line}" for line in verdicts)


def verdict(count: int, times: Sequence[Timed], taught: Sequence[Taught]) -> Iterator[str]:
    """What was asked of the size that is judged."""
    alone = {one.atoms: one for one in times if one.packed == 1}
    if LIMIT_ATOMS in alone:
        ms = 1e3 * alone[LIMIT_ATOMS].wall
        met = "met" if ms <= LIMIT_MS else "not met"
        yield f"{LIMIT_ATOMS} atoms, {count} threads: {ms:.0f} ms, target <= {LIMIT_MS:g}: {met}"
    for slow in taught:
        ratio = slow.clock.wall / alone[slow.atoms].wall
        met = "met" if ratio >= FASTER else "not met"
        yield f"{slow.atoms} atoms, {count} threads: {ratio:.0f} times the teacher's speed, target {FASTER:g}: {met}"


def slope(times: Sequence[Timed], cost: Callable[[Timed], float]) -> float:
    """Exponent of the growth with the number of atoms, fitted to the logarithms."""
    atoms, costs = np.log([one.atoms for one in times]), np.log([cost(one) for one in times])
    return float(np.polyfit(atoms, costs, 1)[0])


def scaling(weights: Path, sizes: Sequence[int], count: int, patience_s: float, say: Say) -> Iterator[str]:
    """Markdown of the growth of time and memory with the number of atoms."""
    times: list[Timed] = []
    lines = []
    with threads(count), process(MODULES) as run:
        for size in sorted(sizes):
            say(f"scaling: {size} atoms")
            done = run(measure, weights, [size], False, "cpu", patience_s)
            one = done.outcome[0]
            times.append(one)
            lines.append(
                (str(one.atoms), f"{one.wall:.2f}", f"{one.cpu:.2f}", f"{one.graph.cpu:.2f}", f"{one.network.cpu:.2f}",
                 f"{1e3 * one.cpu / one.atoms:.3f}", f"{done.peak_MB:.0f}")
            )  # fmt: skip
    head = ("atoms", "s wall", "CPU", "graph, CPU", "network, CPU", "ms CPU per atom", "peak memory, MB")
    yield f"**Growth with size**, threads: {count}\n\n" + table(head, lines)
    if len(times) > 1:
        parts = (("all", lambda one: one.cpu), ("graph", lambda one: one.graph.cpu),
                 ("network", lambda one: one.network.cpu), ("all, wall clock", lambda one: one.wall))  # fmt: skip
        fitted = [(name, slope(times, cost)) for name, cost in parts]
        low, high = SLOPES
        met = "met" if low <= fitted[0][1] <= high else "not met"
        said = ", ".join(f"{name} {value:.2f}" for name, value in fitted)
        yield f"- exponents: {said}; target {low:g} to {high:g}: {met}"
