"""Make, store, load and split relaxed defect structures.

A set is a folder of compressed shards and a `set.json` that says how it was made. A shard is written under a temporary
name and renamed, so one that exists is whole; making goes on where it stopped and gives the same set.

    python -m definet.dataset make --out DIR --host MoS2 WSe2 --count 500 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from definet import published
from definet.crystals import Crystal, host
from definet.exceptions import DefinetError, InputFileError, OptionError, OutputError
from definet.outliers import outlier
from definet.samples import Sample, sample
from definet.scenes import Scene, scenes
from definet.teacher import at_rest, calculator, equilibrium_lattice, fidelity, relax

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

SCHEMA = "definet.dataset/1"
SHARD = 8


def make(
    out: Path,
    hosts: Mapping[str, float],
    count: int,
    seed: int,
    potential: str = "chgnet",
    report: Callable[[str], None] = lambda line: None,
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
        Told one line per relaxation.

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
    for name in hosts:
        host(name)
    potential_ = calculator(potential)
    lattice_A, crystals = _claim(out, hosts, seed, potential, potential_)
    stream = scenes(seed, lattice_A, hosts, crystals)
    stored = 0
    for shard in range(-(-count // SHARD)):
        drawn = list(islice(stream, min(SHARD, count - shard * SHARD)))
        path = out / f"shard-{shard:05d}.npz"
        if not path.exists() or _drawn(path) < len(drawn):
            _write(path, _relaxed(drawn, potential_, fidelity(potential), report), len(drawn))
        stored += len(_read(path))
    return stored


def _relaxed(
    drawn: Sequence[Scene], potential: Calculator, source: str, report: Callable[[str], None]
) -> Iterator[Sample]:
    for scene in drawn:
        found = sample(scene, relax(scene.crystal, potential), source)
        reason = outlier(found)
        move = np.linalg.norm(found.displacement, axis=1).max()
        report(
            f"{scene.number} {found.group} {found.shape} converged={found.converged} fmax={found.fmax_eV_A:.3f} "
            f"moved={move:.2f} A, {found.energy_eV - found.initial_energy_eV:.2f} eV {reason or ''}"
        )
        if reason is None:
            yield found


def _claim(
    out: Path, hosts: Mapping[str, float], seed: int, potential: str, made: Calculator
) -> tuple[dict[str, float], dict[str, Crystal]]:
    """Every host as it is in this potential, from `set.json`, which is written if the folder is new."""
    path = out / "set.json"
    asked = {"schema": SCHEMA, "seed": seed, "hosts": dict(sorted(hosts.items())), "source": fidelity(potential)}
    if path.exists():
        known = json.loads(path.read_text())
        if {key: known.get(key) for key in asked} != asked:
            raise OutputError(f"{out} holds a set with other settings", "Choose another folder.")
        return dict(known["lattice_A"]), {name: _crystal(name, basis) for name, basis in known["basis"].items()}
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out} exists and is no set of samples")
    lattice_A = {name: equilibrium_lattice(name, made) for name in sorted(hosts)}
    crystals = {name: at_rest(name, a_A, made) for name, a_A in lattice_A.items()}
    basis = {name: [[atom.u, atom.v, atom.z_A] for atom in crystal.basis] for name, crystal in crystals.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary = out / f".tmp-{os.getpid()}.json"
        temporary.write_text(json.dumps({**asked, "lattice_A": lattice_A, "basis": basis}, indent=1))
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from error
    return lattice_A, crystals


def _crystal(name: str, basis: Sequence[tuple[float, float, float]]) -> Crystal:
    """A host with its atoms at cell coordinates u, v and heights in Angstrom."""
    facts = host(name)
    atoms = zip(facts.basis, basis, strict=True)
    return replace(facts, basis=tuple(replace(atom, u=u, v=v, z_A=z_A) for atom, (u, v, z_A) in atoms))


def lattice_constants(folder: Path) -> dict[str, float]:
    """Lattice constant a of every host of a set, Angstrom: the teacher's own."""
    path = folder / "set.json"
    if not path.exists():
        raise InputFileError(f"{folder} holds no set of samples")
    return dict(json.loads(path.read_text())["lattice_A"])


_PER_NODE = ("numbers", "positions", "relaxed", "marker")
_PER_SAMPLE = tuple(field.name for field in fields(Sample) if field.name not in _PER_NODE)


def _write(path: Path, samples: Iterator[Sample], drawn: int) -> None:
    """Store nodes of all samples one after the other, with their counts."""
    kept = list(samples)
    arrays: dict[str, Any] = {"drawn": np.array(drawn), "count": np.array([len(s.numbers) for s in kept], np.int64)}
    for name in _PER_NODE if kept else ():
        arrays[name] = np.concatenate([getattr(s, name) for s in kept])
    for name in _PER_SAMPLE if kept else ():
        arrays[name] = np.array([getattr(s, name) for s in kept])
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        np.savez_compressed(temporary, **arrays)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _drawn(path: Path) -> int:
    with np.load(path) as shard:
        return int(shard["drawn"])


def _read(path: Path) -> list[Sample]:
    try:
        with path.open("rb") as stream, np.load(stream) as shard:
            arrays = dict(shard)
        ends = np.cumsum(arrays["count"])
        nodes = {name: np.split(arrays[name], ends[:-1]) for name in _PER_NODE if len(ends)}
        rows: list[dict[str, Any]] = [
            {name: nodes[name][k] for name in _PER_NODE}
            | {name: _plain(arrays[name][k]) for name in _PER_SAMPLE if name in arrays}
            for k in range(len(ends))
        ]
        return [Sample(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise InputFileError(f"{path} is no readable shard: {error}") from error


def _plain(value: Any) -> Any:
    """A Python scalar, a tuple of two, or the array itself."""
    if np.ndim(value) == 0:
        return value.item()
    return tuple(int(part) for part in value) if np.shape(value) == (2,) else value


def load(folder: Path) -> list[Sample]:
    """Read all samples of a folder: one that `make` made, in the order of drawing, or one in the published layout.

    Raises
    ------
    InputFileError
        If there are none, or a file is damaged.
    """
    if published.folders(Path(folder)):
        return published.load(Path(folder))
    paths = sorted(Path(folder).glob("shard-*.npz"))
    if not paths:
        raise InputFileError(f"{folder} holds no samples", "Make some: python -m definet.dataset make --out DIR ...")
    return [found for path in paths for found in _read(path)]


def data_sha256(folder: Path) -> str:
    """Hash of all shards, or of all published files, of a folder, in their order."""
    if published.folders(Path(folder)):
        return published.data_sha256(Path(folder))
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("shard-*.npz")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def split(
    samples: Sequence[Sample], valid: float = 0.1, test: float = 0.1, seed: int = 0
) -> dict[str, list[Sample]]:
    """Part samples by configuration, never by row.

    A published split is kept. What goes beyond the training range (`beyond`) is set aside whole. Of the rest a
    configuration's part follows from a hash of its key alone: it stays where it is when the set grows.

    Parameters
    ----------
    samples : sequence of Sample
    valid, test : float
        Expected shares of configurations.
    seed : int

    Returns
    -------
    dict
        "train", "valid", "test" and "extrapolation".

    Raises
    ------
    OptionError
        If the shares leave nothing to train on.
    """
    if valid < 0 or test < 0 or valid + test >= 1:
        raise OptionError(f"shares of {valid} and {test} leave nothing to train on")
    parts: dict[str, list[Sample]] = {"train": [], "valid": [], "test": [], "extrapolation": []}
    for found in samples:
        place = int(hashlib.sha256(f"{seed}/{found.group}".encode()).hexdigest()[:12], 16) / 16**12
        inside = "test" if place < test else "valid" if place < test + valid else "train"
        parts[found.part or ("extrapolation" if beyond(found.label) else inside)].append(found)
    return parts


LONGEST_LINE = {"SVL": 8, "DVL": 14, "CVL": 14}
"""Missing atoms of the longest lines that are learnt from; longer ones only judge."""
LARGEST_TREFOIL = 3
APART = ((r"T\d", r"V_[A-Z][a-z]?2"), (r"[SDC]VL-\d", r"Te_"), (r"V_(Mo|W)", r"O_"))
"""Kinds that are learnt apart, each with others, and never together."""


def beyond(label: str) -> bool:
    """Whether a defect is larger than those that are learnt from, or pairs kinds that are learnt apart."""
    parts = label.split("+")
    lines = [(part[:3], int(part[4:])) for part in parts if re.fullmatch(r"[SDC]VL-\d+", part)]
    trefoils = [int(match[1]) for part in parts if (match := re.match(r"T(\d+)(-|$)", part))]
    paired = any(all(any(re.match(kind, part) for part in parts) for kind in pair) for pair in APART)
    return (
        any(missing > LONGEST_LINE[kind] for kind, missing in lines)
        or any(size > LARGEST_TREFOIL for size in trefoils)
        or paired
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _hosts(words: Sequence[str]) -> dict[str, float]:
    """Read "MoS2" or "MoS2=2"."""
    pairs = [word.partition("=") for word in words]
    try:
        return {name: float(weight or 1) for name, _, weight in pairs}
    except ValueError as error:
        raise OptionError(f"a weight is not a number: {error}", "Write for example MoS2=2.") from error


def main(words: Sequence[str] | None = None) -> int:
    """Make a set from the command line."""
    parser = argparse.ArgumentParser(prog="python -m definet.dataset", description="Make training samples.")
    command = parser.add_subparsers(dest="command", required=True).add_parser("make", help="relax random defects")
    command.add_argument("--out", type=Path, required=True, help="folder; one begun before is gone on with")
    command.add_argument("--host", nargs="+", required=True, help="MoS2, or MoS2=2 to draw it twice as often")
    command.add_argument("--count", type=int, required=True, help="scenes to draw in all")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--potential", default="chgnet", help="chgnet, or module:factory of an ASE calculator")
    asked = parser.parse_args(words)
    try:
        hosts = _hosts(asked.host)
        stored = make(asked.out, hosts, asked.count, asked.seed, asked.potential, _say)
    except DefinetError as error:
        sys.stderr.write(f"{error}. {error.remedy}\n")
        return error.exit_code
    _say(f"{stored} samples in {asked.out}, {asked.count - stored} left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
