"""Trefoils and rotated bonds: the rings that they make are the published ones."""

from collections import Counter

import numpy as np
import pytest
from atoms import change

from definet.structures import CHANGED, PRISTINE, VACANCY, elements_of, pristine, stone_wales, trefoil


@pytest.mark.parametrize(("count", "columns"), [(1, 3), (2, 5), (3, 7), (4, 9)])
@pytest.mark.parametrize("direction", [0, 1, 2])
def test_trefoils_have_the_published_counts(count, columns, direction):
    crystal = trefoil(pristine("WSe2", 10), f"T{count}", direction=direction)
    assert np.count_nonzero(crystal.marker == CHANGED) == 2 * columns
    assert change(crystal) == {"Se": -2 * (count + 2)}


def test_a_trefoil_turns_the_bonds_of_its_metal_by_sixty_degrees():
    crystal = trefoil(pristine("WSe2", 9), "T1", (4, 4))
    metal = (4 * 9 + 4) * 3
    bond = crystal.structure.cart_coords[metal]
    added = crystal.structure.cart_coords[crystal.marker == CHANGED] - bond
    left = crystal.structure.cart_coords[crystal.marker == VACANCY] - bond
    near = np.hypot(left[:, 0], left[:, 1]) < 2.5
    angles = [np.sort(np.round(np.degrees(np.arctan2(v[:, 1], v[:, 0])) % 360)) for v in (added, left[near])]
    assert angles[0].tolist() == [90, 90, 210, 210, 330, 330]
    assert angles[1].tolist() == [30, 30, 150, 150, 270, 270]
    assert np.hypot(added[:, 0], added[:, 1]) == pytest.approx(3.282 / np.sqrt(3))
    assert np.hypot(*left[~near][:, :2].T) == pytest.approx(2 * 3.282 / np.sqrt(3))
    assert crystal.center_A == pytest.approx(bond[:2])
    assert crystal.marker[metal] == PRISTINE


def rings(crystal, bond_A):
    """Sizes of the rings that a two-dimensional projection of bonds makes (independent of the construction)."""
    atoms = crystal.structure.frac_coords[crystal.occupied]
    elements = np.array(elements_of(crystal.atoms))
    top = np.ones(len(atoms), bool) if crystal.host == "graphene" else atoms[:, 2] > 0.5 - 1e-6
    atoms, elements = atoms[top], elements[top]
    cell = crystal.structure.lattice.matrix[:2, :2]
    offset = atoms[None, :, :2] - atoms[:, None, :2]
    vector = (offset - np.round(offset)) @ cell
    length = np.linalg.norm(vector, axis=2)
    bonded = (length > 0.1) & (length < bond_A)
    if crystal.host != "graphene":
        bonded &= elements[:, None] != elements[None]
    order = {}
    for p in range(len(atoms)):
        partners = np.flatnonzero(bonded[p])
        order[p] = list(partners[np.argsort(np.arctan2(vector[p, partners, 1], vector[p, partners, 0]))])
    sizes, unused = Counter(), {(p, q) for p in order for q in order[p]}
    while unused:
        start = edge = unused.pop()
        size = 1
        while True:
            p, q = edge
            around = order[q]
            edge = (q, around[(around.index(p) - 1) % len(around)])
            if edge == start:
                break
            unused.discard(edge)
            size += 1
        sizes[size] += 1
    return sizes


def test_the_trefoil_has_the_published_rings():
    """Lin et al. 2015: three 8-rings, and three pairs of 5-rings that share a metal-metal edge, 10-rings by M-X bonds.

    With the outer columns kept, three 4-rings instead (Elibol et al. 2018). A chain has one 8-ring more per metal.
    """
    assert rings(pristine("WSe2", 9), 2.0) == {6: 81}
    assert rings(trefoil(pristine("WSe2", 9), "T1"), 2.0) == {6: 69, 8: 3, 10: 3}
    assert rings(trefoil(pristine("WSe2", 9), "T1-484"), 2.0) == {4: 3, 6: 75, 8: 3}
    assert rings(trefoil(pristine("WSe2", 9), "T2"), 2.0)[8] == 4


def test_a_rotated_bond_makes_two_pentagons_and_two_heptagons():
    """Stone & Wales, Chem. Phys. Lett. 128, 501 (1986)."""
    assert rings(pristine("graphene", 8), 1.7) == {6: 64}
    for direction in range(3):
        crystal = stone_wales(pristine("graphene", 8), direction=direction)
        assert rings(crystal, 1.75) == {5: 2, 6: 60, 7: 2}
