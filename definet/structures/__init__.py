"""Put defects into a pristine layer, carrying a marker on every node from where the defect is made.

Every builder takes a crystal (from `pristine`, or one that already holds defects) and gives a new one; without `at`
the defect lands as near as possible to the middle of the supercell. What a defect does to the crystal is one `Edit`:
sites emptied, atoms exchanged, atoms added; `place` carries it out.

Nodes: pristine sites keep their index; an emptied site stays as a vacancy node (marker 2) at its ideal position with
the missing element; exchanged and added atoms carry marker 1, added ones come last. An atom that moves to another site
(trefoil, rotated bond) therefore leaves a vacancy node and appears as an added atom at its destination.
"""

from __future__ import annotations

import re

from definet.structures.extended import ZIGZAG, divacancy, line, stone_wales, trefoil
from definet.structures.placement import (
    CHANGED,
    PRISTINE,
    VACANCY,
    Addition,
    Cell,
    DefectStructure,
    Edit,
    Exchange,
    Layer,
    Site,
    elements_of,
    facts_of,
    place,
    pristine,
)
from definet.structures.points import antisite, exchanged, substitution, vacancy

__all__ = [
    "CHANGED",
    "PRISTINE",
    "VACANCY",
    "ZIGZAG",
    "Addition",
    "Cell",
    "DefectStructure",
    "Edit",
    "Exchange",
    "Layer",
    "Site",
    "antisite",
    "build",
    "divacancy",
    "elements_of",
    "facts_of",
    "line",
    "place",
    "pristine",
    "stone_wales",
    "substitution",
    "trefoil",
    "vacancy",
]


def build(crystal: DefectStructure, label: str, at: Cell | None = None, layer: Layer = "top") -> DefectStructure:
    """Build the defect that a label names, in its simplest orientation.

    Raises
    ------
    StructureError
        If no builder knows the label.
    """
    facts = facts_of(crystal)
    if label == "pristine":
        return crystal
    if label == "SW":
        return stone_wales(crystal, at)
    if label == "5-8-5":
        return divacancy(crystal, at, closed=True)
    if re.match(r"T\d", label):
        return trefoil(crystal, label, at)
    if "VL-" in label:
        return line(crystal, label, at, layer)
    if label.startswith("V_"):
        return vacancy(crystal, label, at, layer)
    there, belongs = exchanged(label)
    if facts.sublattices == ("M", "X") and {there[0], belongs[0]} == set(facts.elements.values()):
        return antisite(crystal, label, at, layer)
    return substitution(crystal, label, at, layer)
