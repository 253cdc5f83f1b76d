"""The folder of a run, what it says, and what weights say of the data that they were trained on."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols

from definet.checkpoint import HostRange, Provenance, kinds_of, sizes_of, width_A
from definet.exceptions import OptionError, OutputError
from definet.release import version
from definet.samples import Sample
from definet.train.config import TrainConfig


class Progress(NamedTuple):
    """How far a run is.

    Attributes
    ----------
    step, steps : int
    loss : float
        What was minimised, at the last step.
    validation_A : float or None
        Of the last validation; None before the first.
    unmoved_A : float
        What the validation error would be if nothing moved.
    steps_per_s, seconds_left : float
        Since the run began or went on.
    """

    step: int
    steps: int
    loss: float
    validation_A: float | None
    unmoved_A: float
    steps_per_s: float
    seconds_left: float


def claim(run: Path, config: TrainConfig, source: Provenance, start_sha256: str, about: Mapping[str, Any]) -> None:
    """Make the folder of a run with its config.json, or make sure that it holds this run.

    Raises
    ------
    OptionError
        If it holds a run with other settings or data.
    OutputError
    """
    asked = {"settings": asdict(config), "data_sha256": source.data_sha256, "start_sha256": start_sha256}
    path = run / "config.json"
    try:
        run.mkdir(parents=True, exist_ok=True)
        if path.exists():
            known = json.loads(path.read_text())
            if {key: known.get(key) for key in asked} != json.loads(json.dumps(asked)):
                raise OptionError(f"{run} holds a run with other settings or data", "Choose another folder.")
            return
        machine = {"torch": str(torch.__version__), "python": platform.python_version(), "version": version()}
        path.write_text(json.dumps({**asked, **about, "environment": machine}, indent=1) + "\n")
    except (OSError, ValueError) as error:
        raise OutputError(f"{run} cannot be used as the folder of a run: {error}") from error


def log(run: Path, **values: float) -> None:
    """Add a line to metrics.jsonl."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(values | {"time": round(time.time(), 1)}) + "\n")


def history(run: Path) -> list[dict[str, float]]:
    """What metrics.jsonl says, in order: step, loss, validation_A, lr, time; a line that was cut off is none."""
    path = run / "metrics.jsonl"
    entries: list[dict[str, float]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def forget_after(run: Path, step: int) -> None:
    """Take out lines of the log that a run, cut off and going on from `step`, will write again."""
    path = run / "metrics.jsonl"
    kept = "".join(json.dumps(entry) + "\n" for entry in history(run) if entry["step"] <= step)
    if path.exists() and path.read_text() != kept:
        staged = run / ".tmp-metrics.jsonl"
        staged.write_text(kept)
        os.replace(staged, path)


OFTEN_ENOUGH = 3
"""Structures of a host with a kind of defect from which on it counts as learnt: of antisites seen once or twice the
stated errors are far too small."""


def provenance(samples: Sequence[Sample], data_hash: str) -> Provenance:
    """Collect what weights trained on these samples have seen: hosts, lattice constants, elements, kinds of defects.

    Raises
    ------
    OptionError
        If one host comes in several lattice constants.
    """
    hosts = {}
    for name in sorted({sample.host for sample in samples}):
        mine = [sample for sample in samples if sample.host == name]
        constants = [float(np.linalg.norm(sample.cell[0])) / sample.shape[0] for sample in mine]
        if np.ptp(constants) > 1e-3:
            remedy = "Train on one teacher after the other: begin with the weights of the first (--start)."
            extremes = f"from {min(constants):.3f} to {max(constants):.3f} A"
            raise OptionError(f"{name} has lattice constants {extremes}", remedy)
        numbers = sorted({int(number) for sample in mine for number in sample.numbers})
        elements = tuple(chemical_symbols[number] for number in numbers)
        seen = Counter(kind for sample in mine for kind in kinds_of(sample.label))
        kinds = [kind for kind, count in seen.items() if count >= OFTEN_ENOUGH]
        sizes: dict[str, int] = {}
        for sample in mine:
            sizes |= {kind: max(n, sizes.get(kind, 0)) for kind, n in sizes_of(sample.label).items()}
        # A trefoil changes twice as many nodes as it moves atoms: that says nothing of how dense defects were.
        points = [sample for sample in mine if not sizes_of(sample.label)] or mine
        density = max(float((sample.marker != 0).mean()) for sample in points)
        hosts[name] = HostRange(
            constants[0], elements, tuple(sorted(kinds)), len(mine), round(density, 4),
            round(min(width_A(sample.cell) for sample in mine) / constants[0], 2), dict(sorted(sizes.items())),
        )  # fmt: skip
    teachers = ", ".join(sorted({sample.source for sample in samples}))
    return Provenance(hosts, teachers, data_hash, version())
