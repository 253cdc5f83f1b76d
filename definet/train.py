"""Train the network on pairs of unrelaxed and relaxed structures: one loop, resumable.

Loss and optimiser follow Yang et al., arXiv:2503.15391: the mean length of the position error over the atoms (vacancy
nodes do not count), AdamW, an exponential moving average of the weights for validation and use. Here the learning
rate falls along a cosine, and the rigid shift of each structure is taken out of prediction and target.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from definet.checkpoint import Checkpoint, HostRange, Provenance, kinds_of, load_checkpoint, save_checkpoint
from definet.dataset import data_sha256, load, split
from definet.exceptions import ModelError, OptionError
from definet.graph import DefectGraph, build_graph, collate, without_drift
from definet.model import DefiNet, ModelConfig
from definet.samples import Sample


@dataclass(frozen=True)
class TrainConfig:
    """Everything that fixes a training run besides the data.

    Attributes
    ----------
    model : ModelConfig
    steps, batch : int
        Optimiser steps; structures per step (at equal work, two per step learn more than four).
    warmup : int
        Steps of linear growth of the learning rate before the cosine.
    lr, weight_decay : float
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay of the moving average of the weights per step.
    validate_every : int
        Steps between validations; the best average by validation error is kept.
    seed : int
        Of the initial weights and of the order of the samples.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    steps: int = 4000
    batch: int = 2
    warmup: int = 100
    lr: float = 3e-3
    weight_decay: float = 1e-4
    clip: float = 10.0
    ema: float = 0.999
    validate_every: int = 200
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Example:
    """One training pair: a graph and the displacements (N, 3) of its nodes to their relaxed places, Angstrom."""

    graph: DefectGraph
    target: Tensor


def example(sample: Sample, config: ModelConfig) -> Example:
    """Connect the nodes of a sample, in float32."""
    positions, relaxed, cell = (torch.tensor(value) for value in (sample.positions, sample.relaxed, sample.cell))
    numbers, marker = torch.tensor(sample.numbers), torch.tensor(sample.marker)
    graph = build_graph(numbers, positions, cell, marker, config.cutoff, config.self_edges)
    return Example(graph.to("cpu", torch.float32), (relaxed - positions).float())


def position_loss(net: DefiNet, graph: DefectGraph, target: Tensor) -> Tensor:
    """Mean length of the position error over the atoms of a batch, rigid shifts aside, Angstrom."""
    error = without_drift(graph, net(graph) - target)[graph.occupied]  # (A, 3)
    return (error.square().sum(1) + 1e-12).sqrt().mean()


def train(
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    config: TrainConfig,
    run: Path,
    source: Provenance,
    start: Checkpoint | None = None,
) -> Checkpoint:
    """Train until `config.steps` and keep the moving average that is best on the held-out samples.

    Parameters
    ----------
    samples, held_out : sequences of Sample
        They must share no defect configuration.
    run : Path
        Folder of the run: config.json, metrics.jsonl, state.pt, best.safetensors. A run that was cut off goes on where
        it last validated, and ends with the same weights as one that was not.
    source : Provenance
        What the checkpoint says of data and teacher.
    start : Checkpoint, optional
        Weights to begin with, of the same architecture; default random ones.

    Raises
    ------
    OptionError
        If there are no samples, or the folder holds a run with other settings or data.
    ModelError
        If the training diverges, or `start` is another architecture.
    """
    if not samples or not held_out:
        raise OptionError("training needs at least one sample to learn from and one to validate on")
    if start is not None and start.config != config.model:
        raise ModelError(f"cannot start {config.model} from weights of {start.config}")
    begun = start.sha256 if start else ""
    _claim(run, {"settings": asdict(config), "data_sha256": source.data_sha256, "start_sha256": begun})
    examples = [example(sample, config.model) for sample in samples]
    checks = _batches([example(sample, config.model) for sample in held_out], config.batch)
    state = _State.resume(config, run / "state.pt", start)
    for step, batch in _stream(examples, config, state.step):
        loss = _update(state, config, batch, step)
        if state.step % config.validate_every == 0 or state.step == config.steps:
            error = _validate(state, checks)
            if state.best_error == error:
                save_checkpoint(run / "best.safetensors", state.best(source))
            _log(run, step=state.step, loss_A=loss, validation_A=error, lr=learning_rate(config, step))
            state.save(run / "state.pt")
    return state.best(source)


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
            raise OptionError(f"{name} has lattice constants from {min(constants):.3f} to {max(constants):.3f} A")
        numbers = sorted({int(number) for sample in mine for number in sample.numbers})
        elements = tuple(chemical_symbols[number] for number in numbers)
        kinds = frozenset[str]().union(*(kinds_of(sample.label) for sample in mine))
        hosts[name] = HostRange(constants[0], elements, tuple(sorted(kinds)), len(mine))
    teachers = ", ".join(sorted({sample.source for sample in samples}))
    return Provenance(hosts, teachers, data_hash, _version())


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear growth, then a cosine down to one hundredth."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class _State:
    """All that changes while training, to and from disk."""

    def __init__(self, config: TrainConfig, start: Checkpoint | None) -> None:
        torch.manual_seed(config.seed)
        self.net = DefiNet(config.model)
        if start is None:
            _start_small(self.net)
        else:
            self.net.load_state_dict(dict(start.weights))
        self.average = DefiNet(config.model).requires_grad_(False)
        self.average.load_state_dict(self.net.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=config.lr, weight_decay=config.weight_decay, amsgrad=True
        )
        self.step = 0
        self.best_error = math.inf
        self.best_weights: dict[str, Tensor] = {}

    @classmethod
    def resume(cls, config: TrainConfig, path: Path, start: Checkpoint | None) -> _State:
        state = cls(config, start)
        if path.exists():
            stored = torch.load(path, weights_only=True)
            state.net.load_state_dict(stored["net"])
            state.average.load_state_dict(stored["average"])
            state.optimizer.load_state_dict(stored["optimizer"])
            state.step, state.best_error = stored["step"], stored["best_error"]
            state.best_weights = stored["best_weights"]
        return state

    def best(self, source: Provenance) -> Checkpoint:
        return Checkpoint(self.net.config, self.best_weights, source, {"validation_A": self.best_error})

    def save(self, path: Path) -> None:
        values = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best_error": self.best_error,
            "best_weights": self.best_weights,
        }
        staged = path.with_name(f".tmp-{path.name}")
        torch.save(values, staged)
        os.replace(staged, path)


def _start_small(net: DefiNet) -> None:
    """Begin near doing nothing: fresh heads move atoms by half an Angstrom, relaxations by a tenth of that."""
    with torch.no_grad():
        for name, value in net.coord_update_layers.named_parameters():
            if "lin_vec2coord" in name or "coord_mlp.2" in name:
                value.mul_(0.1)


def _update(state: _State, config: TrainConfig, batch: Example, step: int) -> float:
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    state.optimizer.zero_grad()
    loss = position_loss(state.net, batch.graph, batch.target)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.net.parameters(), config.clip)
    if not norm.isfinite():
        raise ModelError(f"training diverged at step {step}", "Choose a smaller learning rate.")
    state.optimizer.step()
    # Early on a long memory would only remember the random start.
    decay = min(config.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, now in zip(state.average.parameters(), state.net.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
    state.step = step + 1
    return loss.item()


def _validate(state: _State, checks: Sequence[Example]) -> float:
    """Error of the averaged weights over all held-out atoms, Angstrom; the best so far are kept."""
    with torch.no_grad():
        sums = [(position_loss(state.average, b.graph, b.target).item(), int(b.graph.occupied.sum())) for b in checks]
    error = sum(loss * atoms for loss, atoms in sums) / sum(atoms for _, atoms in sums)
    if error < state.best_error:
        state.best_error = error
        state.best_weights = {name: value.clone() for name, value in state.average.state_dict().items()}
    return error


def _batches(examples: Sequence[Example], size: int) -> list[Example]:
    groups = [examples[k : k + size] for k in range(0, len(examples), size)]
    return [Example(collate([e.graph for e in group]), torch.cat([e.target for e in group])) for group in groups]


def _stream(examples: Sequence[Example], config: TrainConfig, first: int) -> Iterator[tuple[int, Example]]:
    """Batches from step `first` on; the order depends on seed and step alone, so that a resumed run repeats nothing."""
    per_epoch = max(1, len(examples) // config.batch)
    epoch, order = -1, torch.empty(0)
    for step in range(first, config.steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
            order = torch.randperm(len(examples), generator=generator)
        start = step % per_epoch * config.batch
        picked = [examples[int(k)] for k in order[start : start + config.batch]]
        yield step, _batches(picked, config.batch)[0]


def _claim(run: Path, asked: Mapping[str, Any]) -> None:
    """Make the folder of a run, or make sure that it holds this one."""
    path = run / "config.json"
    run.mkdir(parents=True, exist_ok=True)
    if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(asked)):
        raise OptionError(f"{run} holds a run with other settings or data", "Choose another folder.")
    path.write_text(json.dumps(asked, indent=1) + "\n")


def _log(run: Path, **values: float) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(values | {"time": round(time.time(), 1)}) + "\n")


def _version() -> str:
    try:
        return metadata.version("stemfit")
    except metadata.PackageNotFoundError:
        return "unreleased"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on the training part of a data set, keep what is best on its validation part."""
    parser = argparse.ArgumentParser(prog="python -m definet.train", description=main.__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of samples, see definet.dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an unfinished run goes on")
    for name in ("channels", "layers"):
        parser.add_argument(f"--{name}", type=int, default=getattr(ModelConfig, name))
    for name in ("steps", "batch", "validate_every", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(TrainConfig, name))
    parser.add_argument("--lr", type=float, default=TrainConfig.lr)
    parser.add_argument("--start", type=Path, help="checkpoint to begin with")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given = vars(options)
    model = ModelConfig(channels=given.pop("channels"), layers=given.pop("layers"))
    data, run = given.pop("data"), given.pop("out")
    begin = given.pop("start")
    start = load_checkpoint(begin) if begin else None
    parts = split([sample for folder in data for sample in load(folder)])
    print({name: len(part) for name, part in parts.items()})  # noqa: T201
    source = provenance(parts["train"], " ".join(data_sha256(folder) for folder in data))
    best = train(parts["train"], parts["valid"], TrainConfig(model, **given), run, source, start)
    print(f"validation error {best.scores['validation_A']:.4f} A, weights in {run / 'best.safetensors'}")  # noqa: T201


if __name__ == "__main__":
    main()
