"""Training pairs, batches of them, and the order in which they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from definet.graph import DefectGraph, build_graph, collate
from definet.losses import Target
from definet.model import ModelConfig
from definet.samples import Sample
from definet.train.config import TrainConfig
from definet.train.processes import Processes


@dataclass(frozen=True, eq=False)
class Example:
    """One training pair, or a batch: a graph and what relaxing it does."""

    graph: DefectGraph
    target: Target

    def to(self, device: torch.device) -> Example:
        """The same on `device`."""
        return Example(self.graph.to(device), Target(*(value.to(device) for value in self.target)))


def example(sample: Sample, config: ModelConfig) -> Example:
    """Connect the nodes of a sample, in float32."""
    positions, relaxed, cell = (torch.tensor(value) for value in (sample.positions, sample.relaxed, sample.cell))
    numbers, marker = torch.tensor(sample.numbers), torch.tensor(sample.marker)
    graph = build_graph(numbers, positions, cell, marker, config.cutoff, config.self_edges)
    gained = torch.tensor([sample.initial_energy_eV - sample.energy_eV])
    return Example(graph.to("cpu", torch.float32), Target((relaxed - positions).float(), gained.float()))


def batched(examples: Sequence[Example]) -> Example:
    """Several side by side."""
    targets = zip(*(e.target for e in examples), strict=True)
    return Example(collate([e.graph for e in examples]), Target(*(torch.cat(parts) for parts in targets)))


def batches(examples: Sequence[Example], size: int) -> list[Example]:
    """All of them, in order, `size` at a time."""
    return [batched(examples[k : k + size]) for k in range(0, len(examples), size)]


def stream(
    examples: Sequence[Example], config: TrainConfig, first: int, processes: Processes
) -> Iterator[tuple[int, Example]]:
    """Batches from step `first` on, of each this process's share.

    The order depends on seed and step alone: a run that was cut off repeats nothing, and the batches of several
    processes together are those of one.
    """
    per_epoch = max(1, len(examples) // config.batch)
    epoch, order = -1, torch.empty(0)
    for step in range(first, config.steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
            order = torch.randperm(len(examples), generator=generator)
        start = step % per_epoch * config.batch
        picked = processes.share(order[start : start + config.batch].tolist())
        yield step, batched([examples[k] for k in picked])
