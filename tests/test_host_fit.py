"""Markers and names derived from an ideal host are those that the builders carry, however the layer is written down."""

from __future__ import annotations

import numpy as np
import pytest
from frames import CELLS, Frame
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from definet.crystals import host, unit_cell
from definet.exceptions import DefinetError, StructureError
from definet.host_fit import fit_host
from definet.layer import upright
from definet.markers import nodes_of
from definet.structure_file import StructureFile
from definet.structures import VACANCY, DefectStructure, build, elements_of, pristine, vacancy

LABELS = {
    "MoS2": (
        "pristine V_S V_S2 V_Mo V_MoS3 V_MoS6 W_Mo Se_S Se2_S2 O_S Mo_S Mo_S2 Mo2_S2 S_Mo S2_Mo SVL-3 SVL-4 DVL-5 "
        "DVL-6 CVL-4 CVL-6 T1 T2 T1-484"
    ),
    "WSe2": "V_Se V_Se2 V_W Mo_W S_Se SVL-4 T1 W_Se2",
    "graphene": "pristine V_C V_C2 N_C SW",
    "hBN": "pristine V_B V_N V_BN C_B C_N SW",
    "GaSe": "V_Ga V_Ga2 V_Se S_Se",
    "blackP": "pristine V_P N_P",
}
CASES = [(name, label) for name, labels in LABELS.items() for label in labels.split()]


def same_nodes(found: DefectStructure, built: DefectStructure, frame: Frame) -> None:
    """Atoms keep their order and markers; vacancy nodes are where, and what, they were built."""
    atoms = built.occupied
    order = frame.order(int(atoms.sum()))
    np.testing.assert_array_equal(found.marker[: len(order)], built.marker[atoms][order])
    empty = np.flatnonzero(found.marker == VACANCY)
    assert len(empty) == len(found.marker) - len(order) == (~atoms).sum()
    if len(empty) == 0:
        return
    change = np.diag([frame.scale, frame.scale, 1.0]) @ frame.turn
    wanted = (built.structure.cart_coords[~atoms] + frame.shift_A) @ change
    lattice = found.structure.lattice
    apart = lattice.get_all_distances(lattice.get_fractional_coords(wanted), found.structure.frac_coords[empty])
    nearest = apart.argmin(axis=1)
    # One metal for a pair stands in the middle plane: which of the two sites it took is a convention.
    assert sorted(nearest) == list(range(len(empty))) and apart.min(axis=1).max() < 1e-3
    missing = np.array(elements_of(built.structure))[~atoms]
    assert [elements_of(found.structure)[empty[k]] for k in nearest] == list(missing)


@pytest.mark.parametrize(("name", "label"), CASES)
def test_markers_and_name_are_the_builders(name: str, label: str) -> None:
    built, frame = build(pristine(name, 8), label), Frame(0.83, (3.3, -7.1, 2.2), 1.01, "120 degrees", 4)
    nodes = nodes_of(StructureFile(frame(built.atoms), None), name)
    same_nodes(nodes.crystal, built, frame)
    assert nodes.crystal.label == label
    assert (nodes.crystal.host, nodes.host_source, nodes.marker_source, nodes.warnings) == (name, "given", "host", ())
    assert nodes.crystal.a_A == pytest.approx(1.01 * host(name).a_exp_A, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    case=st.sampled_from(CASES),
    shape=st.tuples(st.integers(7, 9), st.integers(7, 9)),
    frame=st.builds(
        Frame,
        angle=st.floats(-4, 4),
        shift_A=st.tuples(*[st.floats(-30, 30)] * 3),
        scale=st.floats(0.96, 1.04),
        cell=st.sampled_from([name for name in CELLS if name != "c down"]),
        seed=st.integers(0, 1000),
        wrapped=st.booleans(),
    ),
)
def test_any_way_of_writing_it_down(case: tuple[str, str], shape: tuple[int, int], frame: Frame) -> None:
    name, label = case
    built = build(pristine(name, *shape), label)
    found = nodes_of(StructureFile(frame(built.atoms), None), name).crystal
    same_nodes(found, built, frame)
    assert found.label == label


def test_sites_on_the_border_of_the_cell_are_found() -> None:
    """Rounding puts coordinates at 0 and at 1 alike: that is where keys of rounded coordinates break."""
    built = vacancy(pristine("MoS2", 6), "V_Mo", (0, 0))
    lattice, fractional = built.atoms.lattice, built.atoms.frac_coords.copy()
    border = np.abs(fractional) < 1e-9
    assert border.any()
    fractional[border] = np.where(np.arange(border.sum()) % 2, 1 - 1e-10, -1e-10)
    atoms = Structure(lattice, built.atoms.species, fractional)
    found = nodes_of(StructureFile(atoms, None), "MoS2").crystal
    assert (found.marker == VACANCY).sum() == 1 and found.label == "V_Mo"
    corner = found.structure.frac_coords[-1, :2]
    assert corner - np.round(corner) == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("label", ["V_S2", "SVL-4", "Se_S", "V_Mo", "T1"])
def test_relaxed_structures_are_recognised(label: str) -> None:
    """Atoms up to 0.17 A from their sites, as after a relaxation."""
    built, frame = build(pristine("MoS2", 8), label), Frame(1.9, (1, 2, 3), 0.99, "skewed", 3)
    found = nodes_of(StructureFile(frame(built.atoms, noise_A=0.1), None), "MoS2").crystal
    order = frame.order(len(built.atoms))
    np.testing.assert_array_equal(found.marker[: len(order)], built.marker[built.occupied][order])
    assert found.label == label


def rectangular(name: str, n: int, m: int) -> Structure:
    """Pristine n x m cells of a by a sqrt 3."""
    return unit_cell(name) * [[n, 0, 0], [-m, 2 * m, 0], [0, 0, 1]]


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_rectangular_supercells(angle: float) -> None:
    atoms = rectangular("MoS2", 7, 4)
    gone = [k for k, element in enumerate(elements_of(atoms)) if element == "S"][5]
    hole = atoms.cart_coords[gone].copy()
    atoms.remove_sites([gone])
    frame = Frame(angle, (0.7, 9.1, -4.0), seed=2)
    found = nodes_of(StructureFile(frame(atoms), None), "MoS2").crystal
    assert found.label == "V_S" and found.marker.sum() == 2
    lattice = found.structure.lattice
    there = lattice.get_fractional_coords((hole + frame.shift_A) @ frame.turn)
    assert lattice.get_all_distances(there, found.structure.frac_coords[-1])[0, 0] < 1e-3


def test_uneven_strain_is_measured_and_said() -> None:
    atoms = pristine("MoS2", 6).structure
    stretched = Structure(
        Lattice(atoms.lattice.matrix * [1.03, 0.99, 1.0]), atoms.species, atoms.frac_coords
    )
    fit = fit_host(stretched, host("MoS2"))
    assert fit.strain == pytest.approx(0.02, abs=1e-6)
    assert fit.a_A == pytest.approx(3.160 * np.sqrt(1.03 * 0.99), rel=1e-6)
    [said] = nodes_of(StructureFile(stretched, None), "MoS2").warnings
    assert "unevenly" in said and "2.0%" in said


def test_edges_are_not_taken_for_many_vacancies() -> None:
    atoms = pristine("MoS2", 12).structure
    atoms.remove_sites([k for k in range(len(atoms)) if atoms.frac_coords[k, 0] > 0.7])
    [said] = nodes_of(StructureFile(Frame(0.2, seed=1)(atoms), None), "MoS2").warnings
    assert "does not fill the cell" in said
    largest = build(pristine("hBN", 12), "V_B6N3").atoms
    assert nodes_of(StructureFile(largest, None), "hBN").warnings == ()


def test_cells_of_large_layers_are_found() -> None:
    built = build(pristine("MoS2", 24, 22), "SVL-4")
    found = nodes_of(StructureFile(Frame(0.3, (1, 1, 1), 1.02, "skewed")(built.atoms), None), "MoS2").crystal
    assert found.label == "SVL-4" and found.a_A == pytest.approx(3.160 * 1.02, rel=1e-6)


def flipped(structure: Structure) -> Structure:
    """Upside down: c points along -z."""
    cell = structure.lattice.matrix * [1, 1, -1]
    return Structure(Lattice(cell), structure.species, structure.frac_coords)


def lying(structure: Structure) -> Structure:
    """The layer's normal along x."""
    return Structure(Lattice(structure.lattice.matrix[:, [2, 0, 1]]), structure.species, structure.frac_coords)


@pytest.mark.parametrize("change", [flipped, lying])
def test_c_may_point_anywhere(change) -> None:  # type: ignore[no-untyped-def]
    atoms = change(build(pristine("MoS2", 6), "V_S2").atoms)
    turned, turn = upright(atoms)
    np.testing.assert_allclose(atoms.lattice.matrix @ turn, turned.lattice.matrix, atol=1e-12)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1) and turned.lattice.matrix[2, 2] > 0
    assert nodes_of(StructureFile(atoms, None), "MoS2").crystal.label == "V_S2"


# -- what does not fit -----------------------------------------------------------------------------------------------


def octahedral() -> Structure:
    """1T: the lower chalcogens on the hollows."""
    atoms = pristine("MoS2", 5).structure
    low = [k for k in range(len(atoms)) if k % 3 == 1]
    atoms.translate_sites(low, [1 / 15, 1 / 15, 0])
    return atoms


def bilayer() -> Structure:
    layer = pristine("MoS2", 5, vacuum_A=25).structure
    for site in list(layer):
        layer.append(site.specie, site.frac_coords + np.array([1 / 15, 1 / 15, 6.2 / layer.lattice.c]))
    return layer


def torn() -> Structure:
    """A cell that is no multiple."""
    atoms = pristine("MoS2", 5).structure
    return Structure(Lattice(atoms.lattice.matrix * [1.1, 1, 1]), atoms.species, atoms.frac_coords)


@pytest.mark.parametrize(
    ("atoms", "name", "word"),
    [
        (pristine("WS2", 5).structure, "MoS2", "0% of the Mo sites"),
        (pristine("MoSe2", 5).structure, "WSe2", "W sites"),
        (pristine("hBN", 6).structure, "graphene", "C sites"),
        (pristine("hBN", 6).structure, "MoS2", "no supercell of MoS2"),
        (octahedral(), "MoS2", "S sites"),
        (bilayer(), "MoS2", "stand on none"),
        (torn(), "MoS2", "no supercell"),
    ],
    ids=["metal", "both", "flat", "cell", "1T", "bilayer", "torn"],
)
def test_another_crystal_is_refused(atoms: Structure, name: str, word: str) -> None:
    with pytest.raises(StructureError, match=word) as caught:
        nodes_of(StructureFile(atoms, None), name)
    assert caught.value.exit_code == 4 and "--host" in caught.value.remedy


def test_the_host_of_marked_nodes_is_guessed_and_its_contradictions_are_said() -> None:
    built = build(pristine("WSe2", 6), "V_Se")
    marked = StructureFile(built.structure, built.marker)
    nodes = nodes_of(marked, known=["MoS2", "MoSe2", "WSe2", "WS2"])
    assert (nodes.crystal.host, nodes.host_source, nodes.marker_source) == ("WSe2", "guessed", "file")
    assert nodes.warnings == () and nodes.crystal.label == "V_Se"
    np.testing.assert_array_equal(nodes.crystal.marker, built.marker)
    forgotten = StructureFile(built.atoms, built.marker[built.occupied])
    [said] = nodes_of(forgotten, known=["WSe2"]).warnings
    assert "0 vacancy nodes are listed" in said and "1 empty" in said
    wrong = built.marker.copy()
    wrong[:2] = 1
    [said] = nodes_of(StructureFile(built.structure, wrong), "WSe2").warnings
    assert "2 atoms (first: node 1)" in said
    again = nodes_of(StructureFile(built.structure, wrong), "WSe2", from_host=True)
    assert again.warnings == () and again.crystal.marker.tolist() == [0] * len(built.atoms) + [2]


def test_without_any_host_it_is_taken_as_it_is() -> None:
    built = build(pristine("GaSe", 5), "V_Se")
    nodes = nodes_of(StructureFile(built.structure, built.marker), known=["MoS2"])
    assert nodes.crystal.host == "" and nodes.host_source == "unknown" and "host is not known" in nodes.warnings[0]
    with pytest.raises(DefinetError, match="no marker column") as caught:
        nodes_of(StructureFile(built.atoms, None), known=["MoS2", "GaSe"])
    assert caught.value.exit_code == 2 and "GaSe" in caught.value.remedy
