"""Defects: what is missing, what is added, where, and that nothing else changed."""

from collections import Counter

import numpy as np
import pytest
from atoms import change
from hypothesis import given, settings
from hypothesis import strategies as st

from definet.crystals import HOSTS
from definet.exceptions import StructureError
from definet.structures import (
    CHANGED,
    PRISTINE,
    VACANCY,
    ZIGZAG,
    Addition,
    DefectStructure,
    Edit,
    Exchange,
    Site,
    antisite,
    build,
    elements_of,
    line,
    place,
    pristine,
    substitution,
    trefoil,
    vacancy,
)

DICHALCOGENIDES = ("MoS2", "MoSe2", "MoTe2", "WS2", "WSe2", "WTe2")


def gone_xy(crystal):
    """In-plane positions of the vacancy nodes, unwrapped about the defect's centre, relative to it."""
    cell = crystal.structure.lattice.matrix[:2, :2]
    xy = crystal.structure.cart_coords[crystal.marker == VACANCY, :2] - crystal.center_A
    fractional = xy @ np.linalg.inv(cell)
    return (fractional - np.round(fractional)) @ cell


@pytest.mark.parametrize(
    ("host", "label", "expected"),
    [
        ("MoS2", "V_S", {"S": -1}),
        ("MoS2", "V_S2", {"S": -2}),
        ("WSe2", "V_W", {"W": -1}),
        ("WSe2", "V_WSe3", {"W": -1, "Se": -3}),
        ("MoTe2", "V_MoTe6", {"Mo": -1, "Te": -6}),
        ("GaSe", "V_Ga", {"Ga": -1}),
        ("InSe", "V_In2", {"In": -2}),
        ("blackP", "V_P", {"P": -1}),
        ("graphene", "V_C", {"C": -1}),
        ("graphene", "V_C2", {"C": -2}),
        ("hBN", "V_B", {"B": -1}),
        ("hBN", "V_N", {"N": -1}),
        ("hBN", "V_BN", {"B": -1, "N": -1}),
        ("hBN", "V_B3N", {"B": -3, "N": -1}),
        ("hBN", "V_N6B3", {"N": -6, "B": -3}),
        ("MoS2", "W_Mo", {"W": 1, "Mo": -1}),
        ("MoS2", "Se_S", {"Se": 1, "S": -1}),
        ("MoS2", "Se2_S2", {"Se": 2, "S": -2}),
        ("hBN", "C_N", {"C": 1, "N": -1}),
        ("graphene", "Si_C", {"Si": 1, "C": -1}),
        ("MoS2", "Mo_S", {"Mo": 1, "S": -1}),
        ("MoS2", "Mo_S2", {"Mo": 1, "S": -2}),
        ("MoS2", "Mo2_S2", {"Mo": 2, "S": -2}),
        ("MoS2", "S_Mo", {"S": 1, "Mo": -1}),
        ("MoS2", "S2_Mo", {"S": 2, "Mo": -1}),
        ("MoS2", "SVL-3", {"S": -3}),
        ("MoS2", "DVL-5", {"S": -5}),
        ("WSe2", "CVL-6", {"Se": -6}),
        ("WSe2", "T1", {"Se": -6}),
        ("WSe2", "T2", {"Se": -8}),
        ("WSe2", "T3", {"Se": -10}),
        ("MoTe2", "T1-484", {}),
        ("graphene", "SW", {}),
        ("MoS2", "pristine", {}),
    ],
)
def test_labels_say_what_is_there_and_what_is_not(host, label, expected):
    crystal = build(pristine(host, 8), label)
    assert crystal.label == label
    assert change(crystal) == expected
    touched = np.zeros(len(crystal.marker), bool)
    touched[list(crystal.sites)] = True
    assert (touched == (crystal.marker != PRISTINE)).all()
    assert len(crystal.structure) - len(crystal.atoms) == np.count_nonzero(crystal.marker == VACANCY)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(DICHALCOGENIDES),
    st.sampled_from(["V_X", "V_X2", "V_M", "M_X2", "SVL-3", "DVL-4", "T1", "T2"]),
    st.integers(6, 9),
    st.integers(6, 9),
    st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
)
def test_only_the_defect_differs_from_the_pristine_layer(host, label, n, m, at):
    elements = HOSTS[host].elements
    label = label if label[0] in "SDT" else label.replace("M", elements["M"]).replace("X", elements["X"])
    before, after = pristine(host, n, m), build(pristine(host, n, m), label, at)
    kept = after.marker[: len(before.marker)] == PRISTINE
    assert after.structure.cart_coords[: len(kept)][kept] == pytest.approx(before.structure.cart_coords[kept])
    vacant = np.flatnonzero(after.marker == VACANCY)
    assert after.structure.cart_coords[vacant] == pytest.approx(before.structure.cart_coords[vacant])
    assert [elements_of(after.structure)[k] for k in vacant] == [elements_of(before.structure)[k] for k in vacant]
    assert before.label == "pristine" and not before.marker.any()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["V_S", "SVL-5", "DVL-6", "CVL-6", "T1", "T2", "V_MoS6"]),
    st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
def test_a_defect_is_the_same_wherever_it_lies(label, at):
    """All distances between its nodes, over the periodic boundary too."""
    here, there = build(pristine("MoS2", 9), label), build(pristine("MoS2", 9), label, at)

    def distances(crystal):
        nodes = crystal.structure.frac_coords[list(crystal.sites)]
        return np.sort(crystal.structure.lattice.get_all_distances(nodes, nodes).ravel())

    assert distances(there) == pytest.approx(distances(here), abs=1e-6)


@pytest.mark.parametrize("shape", [(7, 7), (8, 8), (9, 6), (10, 12)])
@pytest.mark.parametrize("label", ["V_S", "V_S2", "V_Mo", "SVL-3", "DVL-4", "T1"])
def test_it_lands_in_the_middle(label, shape):
    crystal = build(pristine("MoS2", *shape), label)
    middle = crystal.structure.lattice.matrix[:2, :2].sum(axis=0) / 2
    # A lattice of constant a has a point within a/sqrt(3) of every place.
    assert np.linalg.norm(crystal.center_A - middle) <= 3.160 / np.sqrt(3) + 1e-6


def test_the_centre_is_the_mean_across_the_periodic_boundary():
    crystal = build(pristine("MoS2", 8), "SVL-5", (6, 7))
    a, b = pristine("MoS2", 1).structure.lattice.matrix[:2, :2]
    expected = (6 + 2 + 1 / 3) * a + (7 + 1 / 3) * b - 8 * a
    assert crystal.center_A == pytest.approx(expected)


def test_layers_are_those_asked_for():
    crystal = pristine("MoS2", 5)
    top, bottom = (vacancy(crystal, "V_S", (2, 2), layer) for layer in ("top", "bottom"))
    heights = [c.structure.cart_coords[c.marker == VACANCY, 2][0] for c in (bottom, top)]
    assert heights[1] - heights[0] == pytest.approx(3.130)
    assert top.center_A == pytest.approx(bottom.center_A)


@pytest.mark.parametrize("layer", ["top", "bottom"])
def test_a_metal_with_three_chalcogens_loses_those_of_one_layer(layer):
    crystal = vacancy(pristine("MoS2", 6), "V_MoS3", layer=layer)
    heights = crystal.structure.cart_coords[crystal.marker == VACANCY, 2]
    middle = crystal.structure.lattice.c / 2
    assert np.sign(np.round(heights - middle, 6)).sum() == (3 if layer == "top" else -3)
    metal, *ring = crystal.structure.cart_coords[crystal.marker == VACANCY][np.argsort(np.abs(heights - middle))]
    assert np.linalg.norm(np.array(ring) - metal, axis=1) == pytest.approx(2.40, abs=0.02)


def test_the_other_sublattice_of_graphene_can_be_named():
    crystal = pristine("graphene", 6)
    first, second = (vacancy(crystal, "V_C", (3, 3), sublattice=name) for name in "AB")
    assert np.linalg.norm(first.center_A - second.center_A) == pytest.approx(2.461 / np.sqrt(3))


def test_antisites_sit_where_the_bonds_are():
    crystal = pristine("MoS2", 5)
    middle = crystal.structure.lattice.c / 2

    def heights(label):
        made = antisite(crystal, label, (2, 2))
        return np.sort(made.structure.cart_coords[made.marker == CHANGED, 2] - middle)

    assert heights("Mo_S") == pytest.approx([3.130 / 4])
    assert heights("Mo_S2") == pytest.approx([0.0], abs=1e-9)
    assert heights("Mo2_S2") == pytest.approx([-1.565, 1.565])
    assert heights("S_Mo") == pytest.approx([0.0], abs=1e-9)
    assert heights("S2_Mo") == pytest.approx([-1.565, 1.565])


@pytest.mark.parametrize("direction", range(6))
@pytest.mark.parametrize(("label", "extent"), [("SVL-4", 3), ("CVL-6", 2), ("DVL-6", 2)])
def test_lines_run_along_zigzag(label, extent, direction):
    crystal = line(pristine("MoS2", 9), label, direction=direction)
    xy = gone_xy(crystal)
    angle = np.radians(60 * direction)
    along = xy @ [np.cos(angle), np.sin(angle)]
    across = xy @ [-np.sin(angle), np.cos(angle)]
    rows = np.unique(np.round(across, 6))
    assert len(rows) == (2 if label.startswith("D") else 1)
    assert np.ptp(along[across < rows[0] + 0.1]) == pytest.approx(extent * 3.160)
    if len(rows) == 2:
        first, second = (along[np.abs(across - row) < 0.1].min() for row in rows)
        assert second - first == pytest.approx(3.160 / 2)
        assert rows[1] - rows[0] == pytest.approx(3.160 * np.sqrt(3) / 2)


def test_rows_of_a_double_line_can_be_shifted_and_lie_in_opposite_layers():
    crystal = pristine("MoS2", 9)
    plain, shifted = (line(crystal, "DVL-6", (3, 3), shift=shift) for shift in (0, -1))
    assert len(set(plain.sites) & set(shifted.sites)) == 5
    same, opposite = (line(crystal, "DVL-6", (3, 3), opposite=o) for o in (False, True))
    heights = [np.sort(np.round(c.structure.cart_coords[list(c.sites), 2], 3)) for c in (same, opposite)]
    assert np.ptp(heights[0]) == 0
    assert (heights[1] == np.repeat(np.unique(heights[1]), 3)).all()
    assert np.ptp(heights[1]) == pytest.approx(3.130, abs=1e-3)
    # From above both look alike: the projected positions agree.
    assert same.structure.cart_coords[list(same.sites), :2] == pytest.approx(
        opposite.structure.cart_coords[list(opposite.sites), :2]
    )


def test_odd_double_lines_have_the_longer_row_first():
    crystal = line(pristine("MoS2", 9), "DVL-5", (2, 2), direction=0)
    counts = Counter(np.round(gone_xy(crystal)[:, 1], 3))
    assert counts[min(counts)] == 3
    assert counts[max(counts)] == 2


@pytest.mark.parametrize("direction", range(3))
def test_closing_moves_both_sides_toward_the_line(direction):
    crystal = pristine("MoS2", 9)
    open_, closed = (line(crystal, "SVL-4", direction=direction, closing_A=c) for c in (0.0, 0.1))
    shift = closed.structure.cart_coords - open_.structure.cart_coords
    angle = np.radians(60 * direction)
    normal = np.array([-np.sin(angle), np.cos(angle)])
    cell = open_.structure.lattice.matrix[:2, :2]
    fractional = (open_.structure.cart_coords[:, :2] - open_.center_A) @ np.linalg.inv(cell)
    across = ((fractional - np.round(fractional)) @ cell) @ normal
    moved = shift[:, :2] @ normal
    assert (moved * across <= 1e-9).all()
    assert np.abs(moved).max() == pytest.approx(0.1 * np.exp(-3.160 / np.sqrt(12) / 5), rel=0.05)
    assert shift[:, 2] == pytest.approx(0) and shift[:, :2] @ [np.cos(angle), np.sin(angle)] == pytest.approx(0)
    assert shift[open_.marker == VACANCY] == pytest.approx(0)


def test_defects_add_up():
    crystal = vacancy(pristine("MoS2", 8), "V_S", (1, 1))
    both = trefoil(substitution(crystal, "W_Mo", (6, 6)), "T1", (4, 3))
    assert both.label == "V_S+W_Mo+T1"
    assert change(both) == {"S": -7, "W": 1, "Mo": -1}
    assert set(crystal.sites) < set(both.sites)
    assert crystal.label == "V_S" and np.count_nonzero(crystal.marker) == 1, "the input stays as it was"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=4, unique=True))
def test_the_order_of_defects_does_not_matter(cells):
    there, back = (pristine("WS2", 6) for _ in range(2))
    for cell in cells:
        there = vacancy(there, "V_S", cell)
    for cell in reversed(cells):
        back = vacancy(back, "V_S", cell)
    assert (there.marker == back.marker).all()
    assert set(there.sites) == set(back.sites)


@pytest.mark.parametrize(
    ("host", "label", "says"),
    [
        ("MoS2", "V_Se", "no Se site"),
        ("MoS2", "V_S3", "holds 2 S, not 3"),
        ("MoS2", "V_", "not a formula"),
        ("MoS2", "V_MoS2", "not a vacancy complex"),
        ("MoS2", "V_Mo2", "holds 1 Mo, not 2"),
        ("hBN", "V_B2", "not two neighbours"),
        ("MoS2", "Xx_S", "no element 'Xx'"),
        ("MoS2", "W_Te", "no Te site"),
        ("MoS2", "W_S2", "one for one"),
        ("MoS2", "S3_Mo", "do not fit"),
        ("MoS2", "WMo", "not a substitution"),
        ("MoS2", "SVL-1", "not a line"),
        ("MoS2", "CVL-5", "not a line"),
        ("MoS2", "SVL-x", "not a line"),
        ("graphene", "SVL-3", "no sublattice 'X'"),
        ("MoS2", "SVL-7", "needs 9 cells along its direction, the supercell has 8"),
        ("MoS2", "T9", "periodic image"),
        ("MoS2", "T0", "not a trefoil"),
        ("graphene", "T1", "not a trefoil"),
        ("MoS2", "SW", "no bond to rotate"),
    ],
)
def test_impossible_defects_are_refused(host, label, says):
    with pytest.raises(StructureError, match=says) as caught:
        build(pristine(host, 8), label)
    assert caught.value.exit_code == 4
    assert caught.value.remedy


def test_defects_do_not_overlap():
    crystal = vacancy(pristine("MoS2", 8), "V_S", (4, 4))
    with pytest.raises(StructureError, match="already part of V_S"):
        vacancy(crystal, "V_S2", (4, 4))
    assert vacancy(crystal, "V_S", (4, 4), layer="bottom").label == "V_S+V_S"
    turned = trefoil(pristine("MoS2", 9), "T1", (4, 4))
    with pytest.raises(StructureError, match=r"already part of T1|from another"):
        trefoil(turned, "T1", (5, 4))
    with pytest.raises(StructureError, match=r"0\.00 A from another"):
        place(place(crystal, adatom(0, 0)), adatom(0, 0))


def adatom(i, j):
    """An S atom above the metal of a cell."""
    return Edit("ad", add=(Addition("S", i, j, 3.0),))


def test_a_structure_without_a_host_cannot_be_built_in():
    known = pristine("MoS2", 3)
    with pytest.raises(StructureError, match="names no host"):
        vacancy(DefectStructure(known.structure, known.marker, "", ()), "V_S")


def test_an_edit_may_lie_in_any_cell():
    crystal = place(pristine("MoS2", 4), Edit("x", (Site(-1, 7, 0),), (Exchange(Site(9, 9, 1), "Se"),)), (0, 0))
    assert crystal.sites == ((3 * 4 + 3) * 3, (1 * 4 + 1) * 3 + 1)


def test_zigzag_directions_turn_by_sixty_degrees():
    plane = HOSTS["MoS2"].plane_A()
    angles = [np.degrees(np.arctan2(*(np.array(step) @ plane)[::-1])) % 360 for step in ZIGZAG]
    assert angles == pytest.approx([0, 60, 120, 180, 240, 300], abs=1e-9)


@pytest.mark.parametrize(("label", "left", "bonds"), [("V_B3N", "N", 6), ("V_B6N3", "N", 9), ("V_N3B", "B", 6)])
def test_the_edge_of_a_triangle_is_of_one_element(label, left, bonds):
    """All atoms that lost a neighbour are of the element that is missing less; two at each corner, in all 3 k."""
    crystal = vacancy(pristine("hBN", 8), label)
    structure = crystal.structure
    distance = structure.distance_matrix[np.ix_(crystal.occupied, crystal.marker == VACANCY)]
    elements = np.array(elements_of(structure))[crystal.occupied]
    dangling = (distance < 1.6).any(axis=1)
    assert set(elements[dangling]) == {left} and dangling.sum() == bonds


@pytest.mark.parametrize("label", ["V_B4N", "V_B3N2", "V_B3C"])
def test_what_is_no_triangle_is_refused(label):
    with pytest.raises(StructureError):
        vacancy(pristine("hBN", 8), label)
