"""Vacancies, substitutions and antisites, and the labels that name them."""

from __future__ import annotations

import re

from definet.crystals import Crystal
from definet.exceptions import StructureError
from definet.structures.placement import Addition, Cell, DefectStructure, Edit, Exchange, Layer, Site, facts_of, place

# Cells whose X column is bound to the metal of cell (0, 0): at 30, 150 and 270 degrees from it.
BOUND_X: tuple[Cell, ...] = ((0, 0), (-1, 0), (0, -1))


def _formula(text: str) -> dict[str, int]:
    """Count elements: "MoS3" -> {"Mo": 1, "S": 3}."""
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", text)
    if "".join(symbol + count for symbol, count in parts) != text or not text:
        raise StructureError(f"{text!r} is not a formula", "Write for example V_S2, V_MoS3, W_Mo or Se_S.")
    return {symbol: int(count or 1) for symbol, count in parts}


def _sublattice_of(facts: Crystal, element: str, sublattice: str | None = None) -> str:
    names = [name for name, here in facts.elements.items() if here == element and sublattice in (None, name)]
    if not names:
        raise StructureError(f"{facts.name} has no {element} site" + (f" on {sublattice}" if sublattice else ""))
    return names[0]


def column_atoms(facts: Crystal, sublattice: str, count: int, layer: Layer) -> tuple[int, ...]:
    """Basis indices of `count` atoms of a column, the one of `layer` first."""
    column = facts.column(sublattice)
    if count > len(column):
        raise StructureError(f"a column of {facts.name} holds {len(column)} {facts.elements[sublattice]}, not {count}")
    return (column[::-1] if layer == "top" else column)[:count]


def vacancy(
    crystal: DefectStructure, label: str, at: Cell | None = None, layer: Layer = "top", sublattice: str | None = None
) -> DefectStructure:
    """Remove one atom, one column, or a small complex.

    Parameters
    ----------
    crystal : DefectStructure
    label : str
        ``V_`` and what is missing: ``V_S``, ``V_S2``, ``V_Mo``, ``V_MoS3`` (the metal and the three X of one layer),
        ``V_MoS6``, ``V_C``, ``V_C2`` and ``V_BN`` (two adjacent atoms), ``V_B3N``, ``V_N6B3`` (triangles).
    at : (i, j), optional
        Cell.
    layer : "top" or "bottom"
        Which of two atoms of a column, or which X of a ``V_MX3``.
    sublattice : str, optional
        "A" or "B" where both hold the same element.

    Raises
    ------
    StructureError
    """
    facts, missing = facts_of(crystal), _formula(label.removeprefix("V_"))
    first, *others = missing
    if facts.sublattices == ("A", "B") and sum(missing.values()) == 2 and facts.hexagonal:
        if sorted(facts.elements.values()) != sorted(e for e, count in missing.items() for _ in range(count)):
            raise StructureError(f"{label} are not two neighbours in {facts.name}")
        return place(crystal, Edit(label, tuple(Site(0, 0, k) for k in range(2))), at)
    if facts.sublattices == ("A", "B") and len(missing) == 2 and facts.hexagonal:
        return place(crystal, Edit(label, _triangle(facts, label, missing)), at)
    if others:
        return place(crystal, _metal_complex(facts, label, missing, layer), at)
    column = column_atoms(facts, _sublattice_of(facts, first, sublattice), missing[first], layer)
    return place(crystal, Edit(label, tuple(Site(0, 0, k) for k in column)), at)


def _triangle(facts: Crystal, label: str, missing: dict[str, int]) -> tuple[Site, ...]:
    """Sites of a triangular hole with k (k + 1)/2 atoms of one element and k (k - 1)/2 of the other."""
    more, fewer = sorted(missing, key=lambda element: -missing[element])
    side = next((k for k in range(2, 20) if missing[more] == k * (k + 1) // 2), 0)
    if set(missing) != set(facts.elements.values()) or missing[fewer] != side * (side - 1) // 2:
        raise StructureError(f"{label} is no triangle of {facts.name}", "Write for example V_B3N or V_N6B3.")
    first = more == facts.elements["A"]
    sign, kinds = (1, (0, 1)) if first else (-1, (1, 0))
    return tuple(
        Site(sign * i, sign * j, k)
        for k, length in zip(kinds, (side, side - 1), strict=True)
        for i in range(length)
        for j in range(length - i)
    )


def _metal_complex(facts: Crystal, label: str, missing: dict[str, int], layer: Layer) -> Edit:
    metal, chalcogen = facts.elements.get("M"), facts.elements.get("X")
    if missing not in ({metal: 1, chalcogen: 3}, {metal: 1, chalcogen: 6}):
        raise StructureError(f"{label} is not a vacancy complex of {facts.name}", "Write for example V_MoS3 or V_MoS6.")
    atoms = column_atoms(facts, "X", missing[str(chalcogen)] // 3, layer)
    ring = tuple(Site(i, j, k) for i, j in BOUND_X for k in atoms)
    return Edit(label, (Site(0, 0, facts.column("M")[0]), *ring))


def substitution(
    crystal: DefectStructure, label: str, at: Cell | None = None, layer: Layer = "top", sublattice: str | None = None
) -> DefectStructure:
    """Exchange atoms one for one: ``W_Mo``, ``Se_S`` (one of the two), ``Se2_S2``, ``N_C``; arguments as in `vacancy`.

    Raises
    ------
    StructureError
    """
    there, belongs = exchanged(label)
    if there[1] != belongs[1]:
        raise StructureError(f"{label} does not exchange atoms one for one", "Use antisite for M_X2 and X2_M.")
    facts = facts_of(crystal)
    column = column_atoms(facts, _sublattice_of(facts, belongs[0], sublattice), belongs[1], layer)
    return place(crystal, Edit(label, exchange=tuple(Exchange(Site(0, 0, k), there[0]) for k in column)), at)


def exchanged(label: str) -> tuple[tuple[str, int], tuple[str, int]]:
    """Split "Se2_S2" into (("Se", 2), ("S", 2))."""
    from pymatgen.core.periodic_table import Element

    sides = [tuple(_formula(side).items()) for side in label.split("_")]
    if len(sides) != 2 or any(len(side) != 1 for side in sides):
        raise StructureError(f"{label!r} is not a substitution", "Write for example W_Mo, Se_S or Mo_S2.")
    if not Element.is_valid_symbol(sides[0][0][0]):
        raise StructureError(f"there is no element {sides[0][0][0]!r}")
    return sides[0][0], sides[1][0]


def antisite(crystal: DefectStructure, label: str, at: Cell | None = None, layer: Layer = "top") -> DefectStructure:
    """Put a metal on chalcogen sites or the reverse.

    ``M_X``: one X becomes M, half as high, because the metal binds to the other X too. ``M_X2``: one M in the middle
    plane for the pair, in the node of the X of `layer`. ``M2_X2``: both. ``X_M``: X at the metal. ``X2_M``: an X pair
    at the metal.

    Raises
    ------
    StructureError
    """
    (element, count), (belongs, sites) = exchanged(label)
    facts = facts_of(crystal)
    if {element, belongs} != {facts.elements.get("M"), facts.elements.get("X")}:
        raise StructureError(f"{label} is not an antisite of {facts.name}")
    column = column_atoms(facts, _sublattice_of(facts, belongs), sites, layer)
    nodes = [Site(0, 0, k) for k in column]
    height_A = facts.basis[facts.column("X")[-1]].z_A
    match (element == facts.elements["M"], count, sites):
        case (True, 1, 1):
            edit = Edit(label, exchange=(Exchange(nodes[0], element, facts.basis[column[0]].z_A / 2),))
        case (True, 1, 2):
            edit = Edit(label, (nodes[1],), (Exchange(nodes[0], element, 0.0),))
        case (False, 2, 1):
            edit = Edit(label, (), (Exchange(nodes[0], element, height_A),), (Addition(element, 0, 0, -height_A),))
        case _ if count == sites:
            edit = Edit(label, exchange=tuple(Exchange(node, element) for node in nodes))
        case _:
            raise StructureError(f"{label}: {count} atoms do not fit on {sites} sites")
    return place(crystal, edit, at)
