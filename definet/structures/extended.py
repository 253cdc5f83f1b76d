"""Defects of many sites: vacancy lines, trefoils, rotated bonds, divacancies of flat layers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from definet.crystals import Crystal
from definet.exceptions import StructureError
from definet.structures.placement import Addition, Cell, DefectStructure, Edit, Layer, Site, facts_of, place
from definet.structures.points import BOUND_X, column_atoms

# Lattice vectors at 0, 60, ... 300 degrees in units of (a, b): the zigzag directions.
ZIGZAG: tuple[Cell, ...] = ((1, 0), (0, 1), (-1, 1), (-1, 0), (0, -1), (1, -1))


def line(
    crystal: DefectStructure,
    label: str,
    at: Cell | None = None,
    layer: Layer = "top",
    direction: int = 0,
    opposite: bool = False,
    shift: int = 0,
    closing_A: float = 0.0,
    columns: tuple[int, int] | None = None,
) -> DefectStructure:
    """Line of chalcogen vacancies along zigzag (Komsa et al., Phys. Rev. B 88, 035301 (2013)).

    Parameters
    ----------
    crystal : DefectStructure
    label : str
        ``SVL-n`` one row, one X per column; ``DVL-n`` two adjacent rows, one X per column; ``CVL-n`` one row, both X
        of each column. n is the number of missing chalcogen atoms; a ``DVL`` of odd n has one more in its first row.
    at : (i, j), optional
        Cell of the first site.
    layer : "top" or "bottom"
        Layer of the first row.
    direction : int
        The line runs at 60 degrees times this; the second row of a ``DVL`` lies 60 degrees further.
    opposite : bool
        Second row in the other layer.
    shift : int
        Steps by which the second row is shifted along the line.
    closing_A : float
        Distance by which each side is moved toward the line beforehand; it decays over 5 A.
    columns : (int, int), optional
        Lengths of the two rows of a ``DVL`` where they differ by more than one.

    Raises
    ------
    StructureError
        If the label is no line, its rows have other lengths, or its ends are not two columns away from each other's
        periodic image.
    """
    facts, (rows, total) = facts_of(crystal), _line_rows(label, shift, columns)
    step, across = ZIGZAG[direction % 6], ZIGZAG[(direction + 1) % 6]
    _check_line_fits(crystal, label, max(rows), step)
    layers: list[Layer] = [layer, _other(layer) if opposite else layer]
    remove = tuple(
        Site(t * step[0] + row * across[0], t * step[1] + row * across[1], k)
        for row, length in enumerate(rows)
        for t in range(row * shift, row * shift + length)
        for k in column_atoms(facts, "X", 2 if label.startswith("C") else 1, layers[row])
    )
    assert len(remove) == total
    return _close(place(crystal, Edit(label, remove), at), step, len(remove), closing_A)


def _other(layer: Layer) -> Layer:
    return "bottom" if layer == "top" else "top"


def _line_rows(label: str, shift: int, columns: tuple[int, int] | None) -> tuple[tuple[int, ...], int]:
    """Sites in each row, and vacancies in all."""
    match = re.fullmatch(r"(SVL|DVL|CVL)-(\d+)", label)
    total = int(match[2]) if match else 0
    if match is None or total < 2 or (match[1] == "CVL" and total % 2):
        raise StructureError(f"{label!r} is not a line", "Write SVL-n, DVL-n or CVL-n, n >= 2 and even for CVL.")
    double = (total - total // 2, total // 2) if columns is None else columns
    if columns is not None and (match[1] != "DVL" or sum(columns) != total or min(columns) < 1):
        raise StructureError(f"{label}: rows of {columns[0]} and {columns[1]} columns are another line")
    rows = {"SVL": (total,), "DVL": double, "CVL": (total // 2,)}[match[1]]
    if abs(shift) >= max(rows) and shift:
        raise StructureError(f"{label}: rows shifted by {shift} are not adjacent", "Choose a smaller shift.")
    return rows, total


def _check_line_fits(crystal: DefectStructure, label: str, length: int, step: Cell) -> None:
    n, m = crystal.shape
    repeat = math.lcm(n // math.gcd(n, step[0]), m // math.gcd(m, step[1]))
    if length + 2 > repeat:
        raise StructureError(
            f"{label} needs {length + 2} cells along its direction, the supercell has {repeat}",
            "Use a larger supercell or a shorter line.",
        )


def _close(crystal: DefectStructure, step: Cell, count: int, closing_A: float) -> DefectStructure:
    """Move both sides of the last `count` sites toward the line; full beside it, decaying over 5 A all round."""
    if closing_A == 0:
        return crystal
    structure = crystal.structure.copy()
    cell = structure.lattice.matrix[:2, :2]
    along = np.array(step) @ facts_of(crystal).plane_A()
    along /= np.linalg.norm(along)
    normal = np.array([-along[1], along[0]])
    gone = replace(crystal, sites=crystal.sites[-count:])
    offset = structure.frac_coords[:, :2] - gone.center_A @ np.linalg.inv(cell)
    offset = (offset - np.round(offset)) @ cell
    beyond = np.maximum(np.abs(offset @ along) - np.abs(offset[list(gone.sites)] @ along).max(), 0.0)
    across = offset @ normal
    size = np.minimum(closing_A * np.exp(-np.hypot(across, beyond) / 5.0), np.abs(across)) * crystal.occupied
    shift = np.zeros((len(structure), 3))
    shift[:, :2] = -(np.sign(across) * size)[:, None] * normal
    moved = type(structure)(
        structure.lattice, structure.species, structure.cart_coords + shift, coords_are_cartesian=True
    )
    return replace(crystal, structure=moved)


# In thirds of (a, b) from a metal: its X columns (30, 150, 270 degrees) and its hollows (90, 210, 330 degrees).
_X_THIRDS: tuple[Cell, ...] = ((1, 1), (-2, 1), (1, -2))
_HOLLOW_THIRDS: tuple[Cell, ...] = ((-1, 2), (-1, -1), (2, -1))


def trefoil(
    crystal: DefectStructure, label: str, at: Cell | None = None, direction: int = 0, metals: Sequence[Cell] = ()
) -> DefectStructure:
    """Rotate the M-X bonds of one metal, or of a chain of neighbours, by 60 degrees (Lin et al., Nat. Commun. 2015).

    The metals stay. Their X columns move to the hollows on the other side; X columns that would touch them there are
    removed, so that Tn lacks 2(n + 2) chalcogen atoms.

    Parameters
    ----------
    crystal : DefectStructure
    label : str
        ``Tn`` with n rotated metals in a row; ``Tn-484`` keeps the outer X columns (Elibol et al., Chem. Mater. 2018).
    at : (i, j), optional
        Cell of the first metal.
    direction : int
        The chain runs at 60 degrees times this.
    metals : sequence of (i, j), optional
        Cells of the n rotated metals, counted from `at`, where they are no straight chain.

    Raises
    ------
    StructureError
    """
    facts, match = facts_of(crystal), re.fullmatch(r"T([1-9]\d?)(-484)?", label)
    if match is None or facts.sublattices != ("M", "X"):
        raise StructureError(f"{label!r} is not a trefoil of {facts.name}", "Write T1, T2, ... or T1-484, in MX2.")
    step = ZIGZAG[direction % 6]
    chain = metals or [(t * step[0], t * step[1]) for t in range(int(match[1]))]
    if len(set(chain)) != int(match[1]):
        raise StructureError(f"{label} has {match[1]} rotated metals, not {len(set(chain))}", "Name one cell for each.")
    turned = [(3 * i, 3 * j) for i, j in chain]
    leaving = _around(turned, _X_THIRDS)
    arriving = _around(turned, _HOLLOW_THIRDS)
    touching = [] if match[2] else [x for x in _around(arriving, _HOLLOW_THIRDS) if x not in leaving]
    pair = facts.column("X")
    remove = tuple(Site((p - 1) // 3, (q - 1) // 3, k) for p, q in leaving + touching for k in pair)
    element = facts.elements["X"]
    add = tuple(Addition(element, p / 3, q / 3, facts.basis[k].z_A) for p, q in arriving for k in pair)
    return place(crystal, Edit(label, remove, (), add), at)


def _around(centres: list[Cell], offsets: tuple[Cell, ...]) -> list[Cell]:
    """Union of all offsets about all centres, in order and without repetition."""
    return list(dict.fromkeys((c[0] + o[0], c[1] + o[1]) for c in centres for o in offsets))


def stone_wales(
    crystal: DefectStructure, at: Cell | None = None, direction: int = 0, clockwise: bool = False
) -> DefectStructure:
    """Rotate one bond of a flat honeycomb by 90 degrees (label ``SW``); `direction` 0, 1, 2 picks one of three bonds.

    Where its ends are of two elements, a turn clockwise gives the mirror image of one counter-clockwise.

    Raises
    ------
    StructureError
        If the host is not graphene or hBN.
    """
    facts, (i, j) = _bound(crystal, direction)
    bond = np.array([i + 1 / 3, j + 1 / 3])
    plane = facts.plane_A()
    turned = (bond @ plane @ np.array([[0.0, 1.0], [-1.0, 0.0]])) @ np.linalg.inv(plane)
    if clockwise:
        turned = -turned
    first, second = bond / 2 - turned / 2, bond / 2 + turned / 2
    add = (
        Addition(facts.basis[0].element, float(first[0]), float(first[1]), 0.0),
        Addition(facts.basis[1].element, float(second[0]), float(second[1]), 0.0),
    )
    return place(crystal, Edit("SW", (Site(0, 0, 0), Site(i, j, 1)), (), add), at)


CLOSED = 1.15
"""Bond across an end of a closed divacancy, over a bond of the crystal: 1.64 A in graphene (CHGNet)."""


def divacancy(
    crystal: DefectStructure, at: Cell | None = None, direction: int = 0, closed: bool = False, filled: str = ""
) -> DefectStructure:
    """Take two neighbours out of a flat honeycomb; `direction` 0, 1, 2 picks one of three bonds.

    The hole is as cut (label ``V_C2``, ``V_BN``), or the two atoms at either of its ends are bound to each other, which
    makes two pentagons and an octagon of it (label ``5-8-5``; El-Barbary et al., Phys. Rev. B 68, 144107 (2003)), or
    one atom of the element `filled` sits in its middle, bound to four (label ``Si_C2``; Zhou et al., Phys. Rev. Lett.
    109, 206803 (2012)).

    Raises
    ------
    StructureError
        If the host is not graphene or hBN.
    """
    facts, (i, j) = _bound(crystal, direction)
    first, second = facts.elements["A"], facts.elements["B"]
    gone = f"{first}2" if first == second else f"{first}{second}"
    label = "5-8-5" if closed else f"{filled or 'V'}_{gone}"
    middle = (Addition(filled, (i + 1 / 3) / 2, (j + 1 / 3) / 2, 0.0),) if filled else ()
    cut = place(crystal, Edit(label, (Site(0, 0, 0), Site(i, j, 1)), (), middle), at)
    return _ends_bound(cut) if closed else cut


def _bound(crystal: DefectStructure, direction: int) -> tuple[Crystal, Cell]:
    """The crystal, and the cell of the neighbour of its atom A in a direction."""
    facts = facts_of(crystal)
    if facts.sublattices != ("A", "B") or not facts.hexagonal:
        raise StructureError(f"{facts.name} has no bond to rotate or to empty", "Take graphene or hBN.")
    return facts, BOUND_X[direction % 3]


def _ends_bound(cut: DefectStructure) -> DefectStructure:
    """Draw the two atoms beside each of the last two sites together."""
    structure, gone = cut.structure.copy(), cut.sites[-2:]
    where, bond = structure.cart_coords, structure.get_distance(*gone)
    shift = np.zeros_like(where)
    for k in gone:
        first, second = (n for n in structure.get_neighbors(structure[k], 1.1 * bond) if n.index not in gone)
        step = (1 - CLOSED / np.sqrt(3)) * (second.coords - first.coords) / 2
        shift[first.index], shift[second.index] = step, -step
    moved = type(structure)(structure.lattice, structure.species, where + shift, coords_are_cartesian=True)
    return replace(cut, structure=moved)
