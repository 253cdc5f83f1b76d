"""Relaxations that can be written down, to train on in seconds."""

from __future__ import annotations

import numpy as np

from definet.model import ModelConfig
from definet.samples import Sample
from definet.structures import DefectStructure, build, pristine
from definet.train import TrainConfig

SMALL = TrainConfig(
    ModelConfig(channels=16, layers=2, gaussians=12, cutoff=4.5, basis_cutoff=4.5),
    steps=40,
    batch=2,
    warmup=5,
    lr=1e-2,
    validate_every=10,
)


def pulled(structure: DefectStructure) -> np.ndarray:
    """Every atom within 3.5 A of a vacancy moves 0.1 A toward it."""
    crystal, moved = structure.structure, np.zeros((len(structure.structure), 3))
    for centre in np.flatnonzero(~structure.occupied):
        offset = crystal.frac_coords[centre] - crystal.frac_coords
        vector = (offset - np.round(offset)) @ crystal.lattice.matrix
        length = np.linalg.norm(vector, axis=1, keepdims=True)
        moved += np.where((length < 3.5) & (length > 0), 0.1 * vector / np.maximum(length, 1e-9), 0)
    return np.where(structure.occupied[:, None], moved, 0)


def sample(label: str, host: str = "MoS2", drift: float = 0.0, cells: int = 4) -> Sample:
    """A defect and its relaxation."""
    structure = build(pristine(host, cells, a_A=3.2 if host == "MoS2" else 3.3), label)
    positions = structure.structure.cart_coords
    return Sample(
        numbers=np.array(structure.structure.atomic_numbers),
        positions=positions,
        relaxed=positions + pulled(structure) + np.where(structure.occupied[:, None], drift, 0.0),
        cell=structure.structure.lattice.matrix,
        marker=structure.marker,
        host=host,
        label=label,
        source="a formula",
        group=label,
        converged=True,
        energy_eV=-1.0,
        initial_energy_eV=0.0,
        shape=(cells, cells),
    )


def some() -> list[Sample]:
    """Three kinds of vacancies in two hosts."""
    return [sample("V_S"), sample("V_S2"), sample("V_Mo"), sample("V_Se", "WSe2"), sample("V_Se2", "WSe2")]
