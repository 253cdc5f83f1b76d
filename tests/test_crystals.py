"""Hosts: cells, bonds and symmetry against published figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from definet.crystals import HOSTS, BasisAtom, Crystal, host, supercell, unit_cell
from definet.exceptions import DefinetError, OptionError, StructureError, UnknownHostError

DICHALCOGENIDES = ("MoS2", "MoSe2", "MoTe2", "WS2", "WSe2", "WTe2")
CONTRACT = (*DICHALCOGENIDES, "hBN", "graphene", "GaSe", "InSe", "blackP")


def shortest(structure, first, second):
    """Shortest distance between two elements in an infinite layer."""
    block = structure.make_supercell([4, 4, 1], in_place=False)
    here = [k for k, site in enumerate(block) if site.specie.symbol == first]
    there = [k for k, site in enumerate(block) if site.specie.symbol == second]
    distance = block.distance_matrix[np.ix_(here, there)]
    return distance[distance > 1e-6].min()


def test_names_are_those_of_the_contract():
    assert tuple(HOSTS) == CONTRACT
    assert all(name == crystal.name and crystal.source for name, crystal in HOSTS.items())


@pytest.mark.parametrize(
    ("name", "first", "second", "bond_A"),
    [
        # Bronsema et al. 1986 and Schutte et al. 1987 for the bulk crystals; bonds of the others from their papers.
        ("MoS2", "Mo", "S", 2.41),
        ("WSe2", "W", "Se", 2.53),
        ("WS2", "W", "S", 2.41),
        ("MoSe2", "Mo", "Se", 2.53),
        ("MoTe2", "Mo", "Te", 2.72),
        ("WTe2", "W", "Te", 2.73),
        ("hBN", "B", "N", 1.446),
        ("graphene", "C", "C", 1.421),
        ("GaSe", "Ga", "Se", 2.46),
        ("GaSe", "Ga", "Ga", 2.46),
        ("InSe", "In", "Se", 2.63),
        ("InSe", "In", "In", 2.79),
        ("blackP", "P", "P", 2.22),
    ],
)
def test_bond_lengths_are_those_measured(name, first, second, bond_A):
    assert shortest(unit_cell(name), first, second) == pytest.approx(bond_A, rel=0.025)


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # of pymatgen's calls into spglib
@pytest.mark.parametrize("name", CONTRACT)
def test_space_group_of_the_layer(name):
    expected = {"graphene": 191, "blackP": 53}.get(name, 187)
    assert SpacegroupAnalyzer(unit_cell(name), symprec=0.01).get_space_group_number() == expected


@pytest.mark.parametrize("name", [name for name in CONTRACT if name != "blackP"])
def test_vectors_are_60_degrees_apart_and_the_second_sublattice_sits_at_a_third(name):
    crystal, cell = HOSTS[name], unit_cell(name)
    a, b = cell.lattice.matrix[:2]
    assert a == pytest.approx([crystal.a_exp_A, 0, 0])
    assert np.degrees(np.arctan2(b[1], b[0])) == pytest.approx(60)
    assert np.linalg.norm(b) == pytest.approx(crystal.a_exp_A)
    first, second = (crystal.elements[sublattice] for sublattice in crystal.sublattices)
    for site in cell:
        if first != second:
            place = {first: [0, 0], second: ((a + b) / 3)[:2]}[site.specie.symbol]
            assert site.coords[:2] == pytest.approx(place)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_layer_lies_in_the_middle_of_the_vacuum(name):
    cell = unit_cell(name, vacuum_A=17.0)
    z = cell.cart_coords[:, 2]
    assert z.mean() == pytest.approx(cell.lattice.c / 2)
    assert cell.lattice.c - np.ptp(z) == pytest.approx(17.0)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(CONTRACT), st.integers(1, 5), st.integers(1, 5), st.floats(2.0, 4.5))
def test_supercell_repeats_the_unit_cell_in_the_order_it_promises(name, n, m, a_A):
    cell, block = unit_cell(name, a_A), supercell(name, n, m, a_A)
    count = len(cell)
    assert len(block) == n * m * count
    for i, j, k in ((0, 0, 0), (n - 1, m - 1, count - 1), (n // 2, m // 3, count // 2)):
        expected = cell[k].coords + i * cell.lattice.matrix[0] + j * cell.lattice.matrix[1]
        site = block[(i * m + j) * count + k]
        assert site.coords == pytest.approx(expected)
        assert site.specie == cell[k].specie


def test_black_phosphorus_scales_as_a_whole():
    assert unit_cell("blackP", a_A=3.4).lattice.b == pytest.approx(4.3763 * 3.4 / 3.3136)


def test_columns_hold_what_is_seen_from_above():
    assert [len(host("MoS2").column(s)) for s in ("M", "X")] == [1, 2]
    assert [len(host("GaSe").column(s)) for s in ("M", "X")] == [2, 2]
    assert [len(host("blackP").column(s)) for s in ("A", "B")] == [1, 1]
    bottom, top = host("WSe2").column("X")
    assert host("WSe2").basis[bottom].z_A < 0 < host("WSe2").basis[top].z_A
    with pytest.raises(StructureError, match="no sublattice 'Q'"):
        host("MoS2").column("Q")


def test_an_unknown_host_lists_the_known_ones():
    with pytest.raises(UnknownHostError, match="'mos2'") as caught:
        host("mos2")
    assert caught.value.exit_code == 2
    assert all(name in caught.value.remedy for name in CONTRACT)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 2, "m": -1}, {"n": 2, "a_A": 0.0}, {"n": 2, "vacuum_A": -1.0}])
def test_impossible_supercells_are_refused(wrong):
    with pytest.raises(OptionError, match="not possible"):
        supercell("MoS2", **wrong)


def test_every_error_has_an_exit_code_and_a_remedy():
    def tree(kind):
        own = [child for child in kind.__subclasses__() if child.__module__.startswith("definet")]
        return [kind, *(leaf for child in own for leaf in tree(child))]

    for kind in tree(DefinetError):
        error = kind("what, which value")
        assert error.remedy
        assert "\n" not in str(error)
    codes = {kind.__name__: kind.exit_code for kind in tree(DefinetError)}
    assert codes["UnknownHostError"] == 2
    assert codes["InputFileError"] == 3
    assert codes["StructureError"] == 4
    assert codes["ModelError"] == codes["TeacherError"] == 6


def test_a_crystal_of_ones_own_is_built_like_a_listed_one():
    atoms = (BasisAtom("", "Re", 0.0, 0.0, 0.0), BasisAtom("", "S", 0.3, 0.1, 1.2))
    mine = Crystal("mine", 6.4, 6.5, atoms, "made up", 106.0)
    built = supercell(mine, 2, 3)
    assert len(built) == 12
    assert built.lattice.a == pytest.approx(2 * 6.4)
    assert built.lattice.b == pytest.approx(3 * 6.5)
    assert built.lattice.gamma == pytest.approx(106.0)


def test_a_layer_turned_over_has_the_distances_of_the_layer():
    atoms = (BasisAtom("", "Re", 0.0, 0.0, 0.0), BasisAtom("", "S", 0.3, 0.1, 1.2), BasisAtom("", "O", 0.6, 0.7, -1.0))
    mine = Crystal("mine", 6.4, 6.5, atoms, "made up", 106.0)
    one, other = (supercell(crystal, 1).distance_matrix for crystal in (mine, mine.turned_over()))
    assert np.allclose(one, other)
    mirrored = tuple(BasisAtom("", a.element, a.u, -a.v, a.z_A) for a in atoms)  # the broken twin: angle left as it is
    assert not np.allclose(one, supercell(Crystal("twin", 6.4, 6.5, mirrored, "", 106.0), 1).distance_matrix)
