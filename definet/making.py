"""Make samples: draw random defects, relax them with a potential, store them in shards.

Making goes on where it stopped, and gives the same set however many processes work on it: what is drawn follows from
the seed, and a shard from what is drawn.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from definet.chance import judge
from definet.crystals import Crystal, host
from definet.dataset import SCHEMA, drawn_in, read_shard, write_shard
from definet.descent import softest
from definet.exceptions import OptionError, OutputError, TeacherError
from definet.processes import dask_client, single_threaded
from definet.release import version
from definet.samples import Sample, sample
from definet.scenes import Scene, scenes
from definet.teacher import at_rest, calculator, equilibrium_lattice, fidelity, relax

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

SHARD = 8
STABLE_eV_A2 = 0.01
"""Least negative stiffness that counts: rounding leaves rigid shifts 0.001."""


class Task(NamedTuple):
    """A shard to be made: where it will lie, what was drawn for it, what relaxes that, and how its origin reads."""

    path: Path
    drawn: list[Scene]
    potential: str
    origin: str


class Made(NamedTuple):
    """What came of a task: samples to keep, a line on every relaxation, and "group reason" of what was left out."""

    samples: list[Sample]
    lines: list[str]
    left_out: list[str]

    def keep(self, found: Sample, reason: str | None) -> None:
        """Add a sample, or count it among those left out."""
        if reason is None:
            self.samples.append(found)
        else:
            self.left_out.append(f"{found.group} {reason}")


class Known(NamedTuple):
    """What `set.json` says, and the hosts as they are in the potential of the set."""

    facts: dict[str, Any]
    crystals: dict[str, Crystal]


T = TypeVar("T")


def make(
    out: Path,
    hosts: Mapping[str, float],
    count: int,
    seed: int,
    potential: str = "chgnet",
    report: Callable[[str], None] = lambda line: None,
    *,
    jobs: int = 1,
    dask: str | None = None,
) -> int:
    """Relax `count` random defects into a folder, or go on with it.

    Parameters
    ----------
    out : Path
        New folder, or one that was begun with the same seed and hosts.
    hosts : mapping of host to weight
    count : int
        Scenes drawn, in all; outliers among them are counted in the shards and left out.
    seed : int
    potential : str
        As in `definet.teacher.calculator`.
    report : callable
        Told one line per relaxation, in the order in which shards are done.
    jobs : int
        Processes that work side by side; with one, this process works itself.
    dask : str, optional
        Address of the scheduler of a Dask cluster that works instead; its workers need this package and the potential.

    Returns
    -------
    int
        Samples stored in all.

    Raises
    ------
    UnknownHostError, OptionError, OutputError, TeacherError
    """
    if count < 1:
        raise OptionError(f"cannot make {count} samples", "Ask for one or more.")
    if jobs < 1:
        raise OptionError(f"cannot work in {jobs} processes", "Ask for one or more.")
    for name in hosts:
        host(name)
    with workers(min(jobs, -(-count // SHARD)), dask) as (executor, slots):
        lattice_A, crystals = _claim(out, hosts, seed, potential)
        stream = scenes(seed, lattice_A, hosts, crystals)
        for task, made in carried_out(carry_out, _tasks(out, stream, count, seed, potential), executor, slots):
            write_shard(task.path, made.samples, len(task.drawn), made.left_out)
            for line in made.lines:
                report(line)
    return sum(len(read_shard(path)) for path in shards(out, count))


def weights(words: Sequence[str]) -> dict[str, float]:
    """Hosts with how often they are drawn, from words such as "MoS2" or "MoS2=2", or several of them with commas.

    Raises
    ------
    OptionError
    """
    found: dict[str, float] = {}
    for word in ",".join(words).split(","):
        name, _, text = word.strip().partition("=")
        try:
            found[name] = float(text or 1)
        except ValueError:
            found[name] = math.nan
        if not 0 < found[name] < math.inf:
            raise OptionError(f"the weight of {word!r} is no positive number", "Write for example MoS2=2.")
    return found


def shards(out: Path, count: int) -> list[Path]:
    """Files that hold the first `count` draws of a set."""
    return [out / f"shard-{shard:05d}.npz" for shard in range(-(-count // SHARD))]


def _tasks(out: Path, stream: Iterator[Scene], count: int, seed: int, potential: str) -> Iterator[Task]:
    """Shards that are missing or were cut short; scenes of the others are drawn, too, because none may come twice."""
    for number, path in enumerate(shards(out, count)):
        drawn = list(islice(stream, min(SHARD, count - number * SHARD)))
        if not path.exists() or drawn_in(path) < len(drawn):
            yield Task(path, drawn, potential, f"seed {seed}, stemfit {version()}")


def carried_out(
    work: Callable[[T], Made], tasks: Iterator[T], executor: Executor | None, slots: int
) -> Iterator[tuple[T, Made]]:
    """Tasks with what came of them as they end; a few wait for each worker, so that drawing keeps nobody waiting."""
    if executor is None:
        yield from ((task, work(task)) for task in tasks)
        return
    running: dict[Future[Made], T] = {}
    try:
        for task in tasks:
            running[executor.submit(work, task)] = task
            if len(running) >= 2 * slots:
                yield from _ended(running)
        while running:
            yield from _ended(running)
    except BrokenProcessPool as error:
        remedy = "It may have run out of memory: ask for fewer jobs. What is done is kept."
        raise TeacherError("a process that relaxes structures has died", remedy) from error


def _ended(running: dict[Future[Made], T]) -> Iterator[tuple[T, Made]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()


def carry_out(task: Task) -> Made:
    """Relax what was drawn for one shard: a function of the task alone."""
    made = Made([], [], [])
    for scene in task.drawn:
        minimum = relax(scene.crystal, own(task.potential))
        found = replace(
            sample(scene, minimum, fidelity(task.potential)), origin=f"scene {scene.number} of {task.origin}"
        )
        judgement = judge(found, own(task.potential), scene.crystal.crystal)
        move = np.linalg.norm(found.displacement, axis=1).max()
        made.lines.append(
            f"{scene.number} {found.group} {found.shape} converged={found.converged} fmax={found.fmax_eV_A:.3f} "
            f"moved={move:.2f} A, {found.energy_eV - found.initial_energy_eV:.2f} eV {judgement}"
        )
        made.keep(found, judgement.reason)
    return made


_LOADED = threading.local()


def own(potential: str) -> Calculator:
    """The potential, loaded once in each thread: a calculator holds the structure it is at."""
    known: dict[str, Calculator] = _LOADED.__dict__.setdefault("known", {})
    if potential not in known:
        known[potential] = calculator(potential)
    return known[potential]


@contextmanager
def workers(jobs: int, dask: str | None) -> Iterator[tuple[Executor | None, int]]:
    """Who carries out tasks, and how many at a time."""
    if dask is not None:
        with _cluster(dask) as found:
            yield found
    elif jobs == 1:
        yield None, 1
    else:
        with single_threaded():
            pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
            try:
                yield pool, jobs
            finally:
                pool.shutdown(cancel_futures=True)


@contextmanager
def _cluster(address: str) -> Iterator[tuple[Executor, int]]:
    with dask_client(address) as client:
        yield client.get_executor(pure=False), sum(client.ncores().values())


def _claim(
    out: Path, hosts: Mapping[str, float], seed: int, potential: str
) -> tuple[dict[str, float], dict[str, Crystal]]:
    """Every host as it is in this potential, from `set.json`, which is written if the folder is new."""
    asked = {"schema": SCHEMA, "seed": seed, "hosts": dict(sorted(hosts.items())), "source": fidelity(potential)}
    known = known_set(out)
    if known is not None:
        if {key: known.facts.get(key) for key in asked} != asked:
            raise OutputError(f"{out} holds a set with other settings", "Choose another folder.")
        if "basis" not in known.facts:
            raise OutputError(f"{out} holds a set of an earlier release, which drew other defects")
        return dict(known.facts["lattice_A"]), known.crystals
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is no set of samples")
    potential_ = own(potential)
    lattice_A = {name: equilibrium_lattice(name, potential_) for name in sorted(hosts)}
    crystals = {name: at_rest(name, a_A, potential_) for name, a_A in lattice_A.items()}
    for name, crystal in crystals.items():
        _check_stable(crystal, lattice_A[name], potential)
    basis = {name: [[atom.u, atom.v, atom.z_A] for atom in crystal.basis] for name, crystal in crystals.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary = out / f".tmp-{os.getpid()}.json"
        temporary.write_text(json.dumps({**asked, "lattice_A": lattice_A, "basis": basis}, indent=1))
        temporary.replace(out / "set.json")
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from error
    return lattice_A, crystals


def _check_stable(crystal: Crystal, a_A: float, potential: str) -> None:
    """What relaxes in a layer that does not hold is the layer, not the defect."""
    least = softest(crystal, a_A, own(potential))
    if least < -STABLE_eV_A2:
        raise TeacherError(
            f"pristine {crystal.name} is not stable in {potential}: its softest wave has {least:.2f} eV/A^2",
            "Leave it out, or choose another potential.",
        )


def known_set(folder: Path) -> Known | None:
    """What a folder holds, None if no set was begun there."""
    path = folder / "set.json"
    if not path.exists():
        return None
    facts = json.loads(path.read_text())
    return Known(facts, {name: _crystal(name, basis) for name, basis in facts.get("basis", {}).items()})


def _crystal(name: str, basis: Sequence[tuple[float, float, float]]) -> Crystal:
    """A host with its atoms at cell coordinates u, v and heights in Angstrom."""
    facts = host(name)
    atoms = zip(facts.basis, basis, strict=True)
    return replace(facts, basis=tuple(replace(atom, u=u, v=v, z_A=z_A) for atom, (u, v, z_A) in atoms))
