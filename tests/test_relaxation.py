"""Structures from files relax as the builders' do, in whatever frame; the teacher goes on where the network ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from frames import Frame
from hypothesis import given, settings
from hypothesis import strategies as st
from springs import A_A, Springs

from definet.checkpoint import Checkpoint, HostRange, Provenance
from definet.exceptions import ModelError
from definet.markers import Nodes, nodes_of
from definet.model import DefiNet, ModelConfig
from definet.predict import relax
from definet.relaxation import Method, Outcome, at_teacher, relax_nodes
from definet.structure_file import StructureFile
from definet.structures import DefectStructure, build, pristine
from definet.teacher import relax as teach


def weights(a_A: float = 3.25, **changes: object) -> Checkpoint:
    torch.manual_seed(4)
    config = ModelConfig(channels=8, layers=2, gaussians=8)
    kinds = ("V_S", "V_S2", "Se_S", "SVL", "T")
    hosts = {"MoS2": replace(HostRange(a_A, ("Mo", "S", "Se"), kinds), **changes)}  # type: ignore[arg-type]
    return Checkpoint(config, DefiNet(config).state_dict(), Provenance(hosts, "nobody"))


NET = weights()


def derived(built: DefectStructure, frame: Frame) -> Nodes:
    return nodes_of(StructureFile(frame(built.atoms), None), built.host)


def one(nodes: Nodes, method: Method = Method(), **known: object) -> Outcome:  # noqa: B008 (frozen)
    [outcome] = relax_nodes([nodes], method, NET, **known)  # type: ignore[arg-type]
    return outcome


def expected(built: DefectStructure, frame: Frame) -> np.ndarray:
    """Displacements of the atoms from the builder's own nodes, brought into the frame."""
    [relaxed] = relax([built], NET)
    moved = (relaxed.positions_A - built.structure.cart_coords)[built.occupied] @ frame.turn
    return np.asarray(moved[frame.order(len(moved))])


@settings(max_examples=12, deadline=None)
@given(
    label=st.sampled_from(["V_S", "V_S2", "Se_S", "SVL-3", "T1", "Mo_S"]),
    frame=st.builds(
        Frame,
        angle=st.floats(-4, 4),
        shift_A=st.tuples(*[st.floats(-30, 30)] * 3),
        scale=st.floats(0.98, 1.02),
        cell=st.sampled_from(["as built", "120 degrees", "skewed", "left-handed"]),
        seed=st.integers(0, 99),
    ),
)
def test_the_frame_of_the_file_does_not_matter(label: str, frame: Frame) -> None:
    """Rotated, shifted, wrapped, strained, shuffled, in another cell: the same displacements, rotated."""
    built = build(pristine("MoS2", 7), label)
    outcome = one(derived(built, frame))
    wanted = expected(built, frame)
    np.testing.assert_allclose(outcome.displacement_A[outcome.crystal.occupied], wanted, atol=2e-5)
    assert np.abs(wanted).max() > 0.01
    at_start = frame(built.atoms).cart_coords
    np.testing.assert_allclose(outcome.crystal.atoms.cart_coords, at_start + wanted, atol=2e-5)


def test_markers_of_the_file_are_what_the_network_sees() -> None:
    built = build(pristine("MoS2", 6), "V_S2")
    as_built = nodes_of(StructureFile(built.structure, built.marker), known=NET.hosts)
    np.testing.assert_allclose(
        one(as_built).displacement_A[built.occupied], expected(built, Frame()), atol=1e-5
    )
    other = built.marker.copy()
    other[0] = 1
    changed = one(nodes_of(StructureFile(built.structure, other), "MoS2"))
    assert np.abs(changed.displacement_A - one(as_built).displacement_A).max() > 1e-4


def test_an_unknown_host_is_not_strained() -> None:
    built = replace(build(pristine("MoS2", 6), "V_S"), host="")
    [relaxed] = relax([built], NET)
    outcome = one(nodes_of(StructureFile(built.structure, built.marker)))
    np.testing.assert_allclose(outcome.crystal.structure.cart_coords, relaxed.positions_A, atol=1e-5)
    assert "host is not known" in outcome.warnings[0] and "outside the training range: host" in outcome.warnings[1]
    assert outcome.sigma_A is None and outcome.energy_drop_eV is None
    assert relaxed.sigma_A is not None


def test_batches_of_mixed_sizes_keep_their_order() -> None:
    frames = [Frame(0.2 * k, (k, 0.0, 0.0)) for k in range(3)]
    several = [derived(build(pristine("MoS2", n), label), frame) for n, label, frame in
               zip((7, 5, 6), ("T1", "V_S", "Se_S"), frames, strict=True)]  # fmt: skip
    for alone, together in zip(several, relax_nodes(several, Method(), NET), strict=True):
        np.testing.assert_allclose(one(alone).displacement_A, together.displacement_A, atol=1e-5)


@pytest.mark.parametrize(
    ("label", "net", "frame", "word"),
    [
        ("V_S", NET, Frame(), ""),
        ("V_Mo", NET, Frame(), "V_Mo in MoS2 was not in the training set"),
        ("W_Mo", NET, Frame(), "W in MoS2 was not"),
        ("V_MoS3", weights(density=0.02, kinds=("V_MoS3",)), Frame(), "3.7% of the nodes are changed, at most 2.0%"),
        ("SVL-4", weights(density=0.02, sizes={"SVL": 4}), Frame(), ""),
        ("SVL-4", weights(sizes={"SVL": 3}), Frame(), "SVL of 4 is larger than the 3 of the training set"),
        ("V_S", weights(narrowest=5.5), Frame(), "5.2 lattice constants wide, at least 5.5 in the training set"),
        ("V_S", weights(narrowest=5.2), Frame(), ""),
        ("V_S", weights(structures=3), Frame(), "only 3 structures"),
        ("V_S", NET, Frame(scale=0.99), "-3.7% from the 3.250 A"),
    ],
    ids=["known", "motif", "element", "density", "line", "long", "narrow", "wide", "few", "strained"],
)
def test_what_was_never_learnt_is_said(label: str, net: Checkpoint, frame: Frame, word: str) -> None:
    net = replace(net, provenance=replace(net.provenance, hosts={"MoS2": replace(net.hosts["MoS2"], a_A=3.17)})) \
        if not word else net  # fmt: skip
    [outcome] = relax_nodes([derived(build(pristine("MoS2", 6), label), frame)], Method(), net)
    said = " ".join(outcome.warnings)
    assert (word in said) if word else not said


def test_a_structure_that_was_relaxed_before_is_noticed() -> None:
    """Not a layer that is merely thicker, as in another functional."""
    ideal = build(pristine("MoS2", 6), "V_S2").atoms
    thick = ideal.copy()
    thick.translate_sites([k for k in range(len(thick)) if thick.frac_coords[k, 2] > 0.51], [0, 0, 0.005])
    shaken = Frame()(ideal, noise_A=0.08)
    given = [nodes_of(StructureFile(structure, None), "MoS2") for structure in (ideal, shaken, thick)]
    said = [any("takes unrelaxed structures" in w for w in one(nodes).warnings) for nodes in given]
    assert said == [False, True, False]
    assert not one(given[1], Method("keep")).warnings


def test_atoms_that_fly_together_are_said() -> None:
    nodes = derived(build(pristine("MoS2", 5), "V_S"), Frame())
    wild = {name: 3 * value for name, value in NET.weights.items()}
    [outcome] = relax_nodes([nodes], Method(), replace(NET, weights=wild))
    assert "would move by" in outcome.failure and "apart in the result: do not use it" in outcome.warnings[-1]
    broken = {name: 1e30 * value for name, value in NET.weights.items()}
    with pytest.raises(ModelError, match="not finite"):
        relax_nodes([nodes], Method(), replace(NET, weights=broken))


# -- the teacher ---------------------------------------------------------------------------------------------------


def by_springs(host: str) -> float | None:
    return A_A if host == "MoS2" else None


@pytest.mark.parametrize("cell", ["as built", "120 degrees", "skewed"])
def test_the_teacher_relaxes_in_any_frame_as_from_the_builder(cell: str) -> None:
    """Given at the measured lattice constant, relaxed at the potential's own, and carried back."""
    built, frame = build(pristine("MoS2", 5), "Se2_S2"), Frame(1.1, (4.0, 2.0, 1.0), 1.005, cell, 3)
    at_home = build(pristine("MoS2", 5, a_A=A_A), "Se2_S2")
    wanted = teach(at_home, Springs(), fmax=1e-3).positions_A - at_home.structure.cart_coords
    outcome = one(derived(built, frame), Method("teacher"), teacher=Springs(), teacher_a_A=by_springs)
    np.testing.assert_allclose(outcome.displacement_A, (wanted @ frame.turn)[frame.order(len(wanted))], atol=2e-3)
    assert np.abs(wanted).max() > 0.015
    assert outcome.descent is not None and outcome.descent.converged and outcome.energy_drop_eV > 0  # type: ignore[operator]


def test_polishing_continues_from_the_network() -> None:
    built = build(pristine("MoS2", 6), "V_S")
    nodes = derived(built, Frame(0.5, seed=1))
    unpolished = one(nodes)
    two, many = (
        one(nodes, Method("definet", steps), teacher=Springs(), teacher_a_A=by_springs) for steps in (2, 60)
    )
    minimum = at_teacher(built, Springs(), A_A).positions_A - built.structure.cart_coords
    wanted = (minimum[built.occupied] @ Frame(0.5).turn)[Frame(seed=1).order(int(built.occupied.sum()))]
    here = nodes.crystal.occupied
    errors = [np.abs(o.displacement_A[here] - wanted).max() for o in (unpolished, two, many)]
    assert errors[2] < 0.01 < errors[0] and errors[2] < errors[1] < errors[0]
    assert two.descent is not None and two.descent.steps == 2 and not two.descent.converged
    assert two.descent.fmax_eV_A < two.descent.initial_fmax_eV_A
    assert two.energy_drop_eV is None and two.descent.energy_drop_eV > 0, "the network's is that of another structure"
    assert not two.displacement_A[~here].any()


def test_keep_moves_nothing_and_still_says_where_vacancies_are() -> None:
    nodes = derived(build(pristine("MoS2", 5), "V_S"), Frame())
    outcome = one(nodes, Method("keep"))
    assert not outcome.displacement_A.any() and (~outcome.crystal.occupied).sum() == 1


def test_a_teacher_that_does_not_come_to_rest_is_said() -> None:
    calls = []

    class Endless(Springs):
        def calculate(self, *arguments: object, **options: object) -> None:
            super().calculate(*arguments, **options)  # type: ignore[arg-type]
            calls.append(1)
            self.results["forces"] = self.results["forces"] + np.array([0.5, 0, 0])

    outcome = one(derived(build(pristine("MoS2", 3), "Se_S"), Frame()), Method("teacher"), teacher=Endless())
    assert len(calls) > 10 and "not converged" in outcome.warnings[-1]


def test_a_potential_of_unknown_lattice_constant_is_told_of() -> None:
    nodes = derived(build(pristine("MoS2", 5, a_A=3.2), "Se_S"), Frame())
    method = Method(refine_steps=1)
    known = one(nodes, method, teacher=Springs(), teacher_a_A={"MoS2": 3.2}.get)
    unknown = one(nodes, method, teacher=Springs())
    assert not any("in the potential" in warning for warning in known.warnings)
    assert any("lattice constant of MoS2 in the potential is not known" in warning for warning in unknown.warnings)
    # What the network gained is not what the potential went on to.
    assert known.energy_drop_eV is None and one(nodes).energy_drop_eV is not None
