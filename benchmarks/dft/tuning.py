"""Fine-tune CHGNet on DFT frames, with labels of its own so that it does not forget."""

from __future__ import annotations

import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from pymatgen.io.ase import AseAtomsAdaptor

from definet.dft import Frame, to_atoms
from definet.structures import build, pristine

UNIT_CELL = 4
"""Cells of no more atoms are strained sheets: forces vanish by symmetry along most directions, energies tell."""


@dataclass(frozen=True)
class Recipe:
    """How it is learnt.

    Attributes
    ----------
    epochs : int
    rate : float
        Of Adam at the start; it falls to zero as a cosine.
    batch : int
        Frames of one group.
    energy : float
        Weight of squared differences of energies within a group, eV^2, to the mean square of force components,
        (eV/A)^2.
    anchor : float
        The same for strained sheets. Large: 1 meV in the energies of a unit cell is a 600th of the lattice constant,
        and shall weigh as much as 0.03 eV/A.
    replay : float
        Weight of frames with the potential's own labels.
    seed : int
    """

    epochs: int = 60
    rate: float = 3e-4
    batch: int = 6
    energy: float = 0.1
    anchor: float = 1000.0
    replay: float = 0.1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Example:
    """A labelled graph; energies are compared within a group only: references of two codes differ atom by atom."""

    graph: Any
    forces: torch.Tensor
    energy: float
    group: str
    own: bool = False


def potential() -> Any:
    """CHGNet as it comes, ready to be trained."""
    from definet.teacher import calculator

    return calculator("chgnet").model


def examples(frames: Iterable[Frame], model: Any) -> list[Example]:
    """Graphs and labels of frames; a mean force is an error of the grid and taken off."""
    made = []
    for frame in frames:
        group = f"{frame.defect} {len(frame.numbers)} {frame.settings.kpts}"
        forces = frame.forces_eV_A - frame.forces_eV_A.mean(axis=0)
        made.append(_example(to_atoms(frame), forces, frame.free_energy_eV, group, model))
    return made


def replayed(hosts: Sequence[str], labels: Sequence[str], count: int, calculator: Any, seed: int) -> list[Example]:
    """Structures that no frame covers, shaken by 0.05 A, as the potential itself labels them."""
    rng, made = np.random.default_rng(seed), []
    for host in hosts:
        for label in labels:
            sheet = pristine(host, 4)
            structure = build(sheet, label) if label else sheet
            here = structure.occupied
            for _ in range(count):
                atoms = Atoms(
                    np.array(structure.structure.atomic_numbers)[here],
                    structure.structure.cart_coords[here] + rng.normal(0, 0.05, (int(here.sum()), 3)),
                    cell=structure.structure.lattice.matrix, pbc=True, calculator=calculator,
                )  # fmt: skip
                forces, energy = atoms.get_forces(), float(atoms.get_potential_energy())
                one = _example(atoms, forces - forces.mean(axis=0), energy, f"{host} {label}", calculator.model)
                made.append(replace(one, own=True))
    return made


def _example(atoms: Atoms, forces: np.ndarray, energy: float, group: str, model: Any) -> Example:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = model.graph_converter(AseAtomsAdaptor.get_structure(atoms))
    return Example(graph, torch.tensor(forces, dtype=torch.float32), energy, group)


def tune(
    model: Any, some: Sequence[Example], recipe: Recipe, told: Callable[[int, float], None] = lambda epoch, loss: None
) -> None:
    """Train a model in place on forces, and on energy differences within each group."""
    torch.manual_seed(recipe.seed)
    order = random.Random(recipe.seed)
    groups: dict[str, list[Example]] = defaultdict(list)
    for one in some:
        groups[one.group].append(one)
    free = [p for name, p in model.named_parameters() if p.requires_grad and "composition" not in name]
    optimizer = torch.optim.Adam(free, lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    for epoch in range(recipe.epochs):
        losses = []
        for batch in _batches(groups, recipe.batch, order):
            loss = _loss(model, batch, recipe)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(free, 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
        schedule.step()
        told(epoch, float(np.mean(losses)))


def _batches(groups: dict[str, list[Example]], size: int, order: random.Random) -> list[list[Example]]:
    """Every frame once, those of a group together, in another order every time."""
    batches = []
    for members in groups.values():
        shuffled = order.sample(members, len(members))
        pieces = max(1, round(len(shuffled) / size))
        batches += [shuffled[k::pieces] for k in range(pieces)]
    order.shuffle(batches)
    return batches


def _loss(model: Any, batch: Sequence[Example], recipe: Recipe) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model([one.graph for one in batch], task="ef")
    atoms = len(batch[0].forces)
    energy = out["e"] * (atoms if model.is_intensive else 1)
    wanted = torch.tensor([one.energy for one in batch], dtype=torch.float64)
    off = (energy - energy.mean()) - (wanted - wanted.mean()).float()
    forces = torch.stack([((f - one.forces) ** 2).mean() for f, one in zip(out["f"], batch, strict=True)]).mean()
    sheet = atoms <= UNIT_CELL
    loss = (recipe.anchor if sheet else recipe.energy) * (off**2).mean() + forces
    return loss * (recipe.replay if batch[0].own else 1.0)
