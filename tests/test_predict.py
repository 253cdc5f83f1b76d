from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from definet.checkpoint import Checkpoint, HostRange, Provenance
from definet.exceptions import ModelError, OptionError
from definet.model import DefiNet, ModelConfig
from definet.predict import network_graph, out_of_range, relax, resolve_device
from definet.structures import DefectStructure, build, pristine


def checkpoint(elements: int = 118) -> Checkpoint:
    torch.manual_seed(4)
    config = ModelConfig(channels=8, layers=2, gaussians=8, elements=elements)
    hosts = {
        "MoS2": HostRange(3.25, ("Mo", "S", "Se"), ("V_S", "V_S2", "Se_S", "SVL")),
        "WSe2": HostRange(3.40, ("W", "Se")),
        "MoSe2": HostRange(3.32, ("Mo", "Se"), ("V_Se",), structures=9),
    }
    return Checkpoint(config, DefiNet(config).state_dict(), Provenance(hosts, "nobody"))


def defect(label: str = "V_S2", host: str = "MoS2", n: int = 5, a_A: float | None = None) -> DefectStructure:
    return build(pristine(host, n, a_A=a_A), label)


def test_vacancy_nodes_stay_and_atoms_do_not_drift() -> None:
    structure = defect()
    [relaxed] = relax([structure], checkpoint())
    moved = relaxed.positions_A - structure.structure.cart_coords
    assert not moved[~structure.occupied].any()
    np.testing.assert_allclose(moved[structure.occupied].mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(moved, axis=1).max() > 0.01


def test_displacements_carry_over_between_lattice_constants() -> None:
    """The same defect at two lattice constants gets the same displacements; unknown to the network, it would not."""
    structures = [defect(a_A=a_A) for a_A in (3.16, 3.22)]
    near, far = (
        [r.positions_A - s.structure.cart_coords for r, s in zip(relax(structures, net), structures, strict=True)]
        for net in (checkpoint(), replace(checkpoint(), provenance=Provenance({}, "nobody")))
    )
    np.testing.assert_allclose(near[0], near[1], atol=2e-5)
    assert np.abs(far[0] - far[1]).max() > 1e-3


def test_the_network_sees_its_own_lattice_constant() -> None:
    graph = network_graph(defect(n=6), checkpoint())
    np.testing.assert_allclose(graph.cell[0, 0].norm(), 6 * 3.25, atol=1e-6)
    np.testing.assert_allclose(graph.cell[0, 2], defect(n=6).structure.lattice.matrix[2], atol=1e-6)
    source, target = graph.edge_index
    bond = graph.positions[source] + graph.edge_offset @ graph.cell[0] - graph.positions[target]
    shortest = float(bond[:, :2].norm(dim=1)[bond[:, 2].abs() > 1].unique()[1])
    assert shortest == pytest.approx(3.25 / 3**0.5, abs=1e-6)


def test_batches_do_not_change_the_answer() -> None:
    structures = [defect("V_S"), defect("V_Se", "WSe2", 4), defect("SVL-3", n=6), defect("pristine")]
    together = relax(structures, checkpoint())
    apart = relax(structures, checkpoint(), max_nodes=1)
    for left, right in zip(together, apart, strict=True):
        np.testing.assert_allclose(left.positions_A, right.positions_A, atol=1e-5)
    assert relax([], checkpoint()) == []


def rotated(structure: DefectStructure) -> DefectStructure:
    turn = np.array([[np.cos(0.7), np.sin(0.7), 0], [-np.sin(0.7), np.cos(0.7), 0], [0, 0, 1]])
    crystal = structure.structure
    lattice = type(crystal.lattice)(crystal.lattice.matrix @ turn)
    return replace(structure, structure=type(crystal)(lattice, crystal.species, crystal.frac_coords))


def shifted(structure: DefectStructure) -> DefectStructure:
    crystal = structure.structure
    moved = crystal.frac_coords + np.array([0.37, 1.81, 0.0])
    return replace(structure, structure=type(crystal)(crystal.lattice, crystal.species, moved))


@pytest.mark.parametrize("change", [rotated, shifted])
def test_the_answer_is_in_the_frame_of_the_structure(change: Callable[[DefectStructure], DefectStructure]) -> None:
    structure = defect()
    other = change(structure)
    lattices = [s.structure.lattice.matrix for s in (structure, other)]
    moves = [r.positions_A - s.structure.cart_coords for s in (structure, other) for r in relax([s], checkpoint())]
    fractional = [move @ np.linalg.inv(cell) for move, cell in zip(moves, lattices, strict=True)]
    np.testing.assert_allclose(fractional[0], fractional[1], atol=3e-6)


@pytest.mark.parametrize(
    ("structure", "missing"),
    [
        (defect("V_S"), ""),
        (defect("pristine"), ""),
        (defect("SVL-3"), ""),
        (defect("V_Se2", "WSe2"), "which kinds of defects in WSe2"),
        (defect("V_Mo"), "V_Mo"),
        (defect("W_Mo"), "W in MoS2"),
        (defect("V_Te", "MoTe2"), "host MoTe2"),
        (defect("V_Se", "MoSe2"), "only 9 structures"),
        (replace(defect("V_S"), host=""), "unknown"),
    ],
    ids=["V_S", "pristine", "line", "kinds unknown", "kind", "element", "host", "few", "no host"],
)
def test_what_was_never_seen_is_said(structure: DefectStructure, missing: str) -> None:
    reason = out_of_range(structure, checkpoint())
    [relaxed] = relax([structure], checkpoint())
    assert relaxed.in_range == (not missing)
    assert relaxed.reason == reason
    assert (missing in reason) if missing else not reason
    assert np.isfinite(relaxed.positions_A).all()


def test_an_element_without_a_row_is_refused() -> None:
    with pytest.raises(ModelError, match="42"):
        relax([defect()], checkpoint(elements=30))


def test_devices_are_checked() -> None:
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:x", "cuda:99"):
        with pytest.raises(OptionError):
            resolve_device(name)
