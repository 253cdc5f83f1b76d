"""Neighbouring findings that are one defect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stemfit.defects.adatoms import adatoms
from stemfit.defects.closed_rows import closed_rows, outside
from stemfit.defects.complexes import complexes
from stemfit.defects.evidence import Evidence
from stemfit.defects.groups import NEIGHBOURS, neighbours, unnamed
from stemfit.defects.rings import sheet
from stemfit.defects.rows import rows
from stemfit.defects.trefoils import trefoils
from stemfit.defects.twins import twins
from stemfit.defects.types import Defect

BOUND = 0.75
"""Columns closer than this, in lattice constants, are bound: 0.58 in the perfect crystal."""

Reading = tuple[list[Defect], list[Defect]]
"""Defects that were recognised, and the findings that they leave over."""

Recogniser = Callable[[Sequence[Defect], Evidence], Reading]

RECOGNISERS: tuple[Recogniser, ...] = (twins, trefoils, complexes, rows, sheet, adatoms)
"""In this order: what explains most findings at once comes first, and takes them from the next."""


def join(found: Sequence[Defect], evidence: Evidence) -> list[Defect]:
    """Say together what belongs together.

    Each recogniser names what it knows among the findings. Of what is left, a stray column and what is wrong with the
    sites round it are one UNKNOWN: something moved or was added there, and no single-site hypothesis can name it. Other
    neighbours stay what they are one by one. What lies in the corridor of a line through an alloy is part of that line,
    also if it looks like another motif by itself.
    """
    named: list[Defect] = []
    lines, left = closed_rows(found, evidence)
    for recognise in RECOGNISERS:
        more, left = recognise(left, evidence)
        named += more
    a_px = evidence.lattice.a_px_iso
    whole = [d for d in named if d.type != "VM"]
    return lines + outside(lines, whole + _torn_open([d for d in named if d.type == "VM"], left, a_px), evidence)


def _torn_open(complexes: Sequence[Defect], left: Sequence[Defect], a_px: float) -> list[Defect]:
    """Complexes and what is left; one with a stray column beside its empty sites is no hole in an intact layer."""
    joined: list[Defect] = []
    for members in neighbours([*complexes, *_unnamed_together(left, a_px)], BOUND * a_px):
        strange = any("-" in {site[2] for site in d.sites} for d in members)
        joined.extend([unnamed(members)] if len(members) > 1 and strange else members)
    return joined


def _unnamed_together(found: Sequence[Defect], a_px: float) -> list[Defect]:
    joined: list[Defect] = []
    for members in neighbours(found, NEIGHBOURS * a_px):
        if len(members) > 1 and any("-" in {site[2] for site in d.sites} for d in members):
            joined.append(unnamed(members))
        else:
            joined.extend(members)
    return joined
