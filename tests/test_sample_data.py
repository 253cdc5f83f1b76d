"""The samples that come along are what they say: minima of the potential that is named, at its lattice constant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from definet.dataset import lattice_constants, load, split
from definet.teacher import FMAX_eV_A, calculator

FOLDER = Path(__file__).parents[1] / "sample_data" / "mos2_chgnet"


def test_the_readme_counts_right() -> None:
    samples = load(FOLDER)
    parts = split(samples)
    assert (len(samples), len(parts["train"]), len(parts["valid"])) == (61, 44, 9)
    assert json.loads((FOLDER / "set.json").read_text())["seed"] == 1
    assert all(sample.converged and sample.source == "chgnet-0.4.2" for sample in samples)
    assert all(sample.origin.endswith("of seed 1, stemfit 0.1.0") for sample in samples)


@pytest.mark.parametrize("which", [40])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_they_are_minima_of_the_potential(which: int) -> None:
    pytest.importorskip("chgnet")
    sample = load(FOLDER)[which]
    here = sample.marker != 2
    assert sample.cell[0, 0] / sample.shape[0] == pytest.approx(lattice_constants(FOLDER)["MoS2"])
    atoms = Atoms(sample.numbers[here], sample.relaxed[here], cell=sample.cell, pbc=True)
    atoms.calc = calculator("chgnet")
    force = np.linalg.norm(atoms.get_forces(), axis=1).max()
    assert force < FMAX_eV_A * 1.05 and force == pytest.approx(sample.fmax_eV_A, abs=1e-3)
    assert atoms.get_potential_energy() == pytest.approx(sample.energy_eV, abs=5e-3)
    atoms.set_positions(sample.positions[here])
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() > 10 * FMAX_eV_A
    assert atoms.get_potential_energy() == pytest.approx(sample.initial_energy_eV, abs=5e-3)
