"""Springs come to rest where linear algebra says, however it is computed, and say what that gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from springs import Springs, STIFFNESS_eV_A2, rest_length
from test_model import crystal, network

import definet.balance as balance
from definet.balance import ANCHOR_eV_A2, Bonds, rest, stored
from definet.exceptions import ModelError
from definet.graph import build_graph, collate
from definet.structures import pristine, substitution, vacancy


def strained(crystal_):  # type: ignore[no-untyped-def]
    """Springs of the test potential about a defect, forces on the atoms, and how many atoms there are."""
    here = crystal_.occupied
    atoms = Atoms(
        np.array(crystal_.structure.atomic_numbers)[here],
        crystal_.structure.cart_coords[here],
        cell=crystal_.structure.lattice.matrix,
        pbc=True,
        calculator=Springs(),
    )
    i, j, d, vector = neighbor_list("ijdD", atoms, 3.6)
    stretch = d - rest_length(atoms.numbers[i], atoms.numbers[j], vector[:, 2])
    assert np.abs(stretch).max() < 0.1
    along = torch.full((len(i),), STIFFNESS_eV_A2, dtype=torch.float64)
    bonds = Bonds(torch.tensor(j), torch.tensor(i), -torch.tensor(vector / d[:, None]), along, torch.zeros_like(along))
    bonds = Bonds(*(value[torch.tensor(i < j)] for value in bonds))  # no atom is bound to its own image here
    return bonds, torch.tensor(atoms.get_forces()), torch.tensor([len(atoms)])


def test_a_misfit_moves_its_surroundings_as_linear_response_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the pseudo-inverse of the stiffness that is written down bond by bond."""
    monkeypatch.setattr(balance, "ANCHOR_eV_A2", 1e-6)
    bonds, force, counts = strained(substitution(pristine("MoS2", 5, a_A=3.2), "W_Mo"))
    n = int(counts)
    matrix = np.zeros((n, 3, n, 3))
    for source, target, e, k in zip(*(value.numpy() for value in bonds[:4]), strict=True):
        for one, other in ((target, source), (source, target)):
            matrix[one, :, one] += k * np.outer(e, e)
            matrix[one, :, other] -= k * np.outer(e, e)
    expected = np.linalg.pinv(matrix.reshape(3 * n, -1), rcond=1e-9) @ force.numpy().ravel()
    found = rest(bonds, force, counts).numpy()
    assert found - found.mean(axis=0) == pytest.approx(expected.reshape(-1, 3), abs=1e-5)
    assert np.abs(expected).max() > 0.003


def test_conjugate_gradients_agree_with_the_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [strained(substitution(pristine("MoS2", 4, a_A=3.2), label)) for label in ("W_Mo", "Se_S")]
    first = int(parts[0][2])
    bonds = Bonds(
        *(torch.cat([parts[0][0][k], parts[1][0][k] + (first if k < 2 else 0)]) for k in range(3)),
        *(torch.cat([parts[0][0][k], parts[1][0][k]]) for k in range(3, 5)),
    )
    bonds = bonds._replace(across=bonds.across + 0.5)
    force, counts = torch.cat([parts[0][1], parts[1][1]]), torch.cat([parts[0][2], parts[1][2]])
    factorised = rest(bonds, force, counts)
    monkeypatch.setattr(balance, "DENSE", 10)
    torch.testing.assert_close(rest(bonds, force, counts), factorised, rtol=0, atol=1e-6)
    assert factorised.norm(dim=1).max() > 0.0005
    alone = rest(bonds=parts[0][0]._replace(across=parts[0][0].across + 0.5), force=parts[0][1], counts=parts[0][2])
    torch.testing.assert_close(factorised[:first], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dense", [400, 3])
def test_gradients_of_the_balance(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "DENSE", dense)
    monkeypatch.setattr(balance, "TOLERANCE", 1e-13)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2], [1, 3], [2, 3], [3, 4], [2, 4], [0, 4]])
    half = torch.randn(8, 3, dtype=torch.float64, generator=generator)
    along, across = (torch.rand(8, dtype=torch.float64, generator=generator) + 0.5 for _ in range(2))
    force = torch.randn(5, 3, dtype=torch.float64, generator=generator)

    def moved(vector: torch.Tensor, k: torch.Tensor, t: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        unit = vector / vector.norm(dim=1, keepdim=True)
        bonds = Bonds(*pairs.T.contiguous(), unit, k, t)
        return rest(bonds, f, torch.tensor([5]))

    leaves = tuple(value.requires_grad_(True) for value in (half, along, across, force))
    assert torch.autograd.gradcheck(moved, leaves)


def test_a_net_force_moves_nothing() -> None:
    bonds, force, counts = strained(pristine("MoS2", 3, a_A=3.2))
    still = rest(bonds, torch.ones_like(force), counts)
    assert still.abs().max() < 1e-12 < ANCHOR_eV_A2


def test_the_springs_store_half_the_work_of_the_forces() -> None:
    """At the minimum of a quadratic energy, less what the anchors hold."""
    bonds, force, counts = strained(substitution(pristine("MoS2", 5, a_A=3.2), "W_Mo"))
    bonds = bonds._replace(across=bonds.across + 0.7)
    moved = rest(bonds, force, counts)
    held = stored(bonds, moved)
    work = float((moved * (force - force.mean(0))).sum())
    assert float(held.sum()) == pytest.approx(work / 2 - ANCHOR_eV_A2 / 2 * float(moved.square().sum()), rel=1e-6)
    assert held.min() >= 0 and held.max() > 1e-4


def test_energies_of_a_batch_are_those_of_its_structures() -> None:
    net = network(elastic=True)
    graphs = [build_graph(*(c := crystal(n, n))[:3], c[3], 5.45) for n in (14, 6, 9)]
    alone = torch.cat([drop for g in graphs if (drop := net.predict(g).energy_drop) is not None])
    together = net.predict(collate(graphs)).energy_drop
    assert together is not None and (alone > 0).all()
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


def test_elastic_displacements_die_out() -> None:
    """A neighbour's surroundings feel a vacancy; far atoms move less, also by an untrained network."""
    crystal_ = vacancy(pristine("MoS2", 12), "V_S", (6, 6))
    structure = crystal_.structure

    def moved(marker: np.ndarray) -> torch.Tensor:
        graph = build_graph(
            torch.tensor(np.array(structure.atomic_numbers)),
            torch.tensor(structure.cart_coords),
            torch.tensor(structure.lattice.matrix),
            torch.tensor(marker),
            5.45,
        )
        return network(elastic=True)(graph)

    change = (moved(crystal_.marker) - moved(np.zeros_like(crystal_.marker))).norm(dim=1).numpy()
    node = crystal_.sites[0]
    distance = structure.lattice.get_all_distances(structure.frac_coords[node], structure.frac_coords)[0]
    near, far = (change[(distance > low) & (distance < high)].mean() for low, high in ((0.5, 4), (16, 30)))
    assert far < 0.25 * near


def test_what_does_not_come_to_rest_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "DENSE", 10)
    bonds, force, counts = strained(substitution(pristine("MoS2", 4, a_A=3.2), "W_Mo"))
    for spoilt in (bonds._replace(along=bonds.along * float("nan")), bonds):
        with monkeypatch.context() as patch, pytest.raises(ModelError):
            patch.setattr(balance, "ITERATIONS", 1)
            rest(spoilt, force * (1 if spoilt is bonds else float("nan")), counts)
    assert rest(bonds, force, counts).isfinite().all()
