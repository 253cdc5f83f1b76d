"""The atomic structures that a row of vacancies may be: a projection tells no layers, nor how far the gap closed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.defects import Defect
from stemfit.defects.row_odds import log_prior
from stemfit.defects.row_shapes import DIRECTIONS, Cell, Shape, shape_of
from stemfit.hosts import ProjectedHost
from stemfit.lattice import Lattice

if TYPE_CHECKING:
    from definet.structures import DefectStructure

FloatArray = NDArray[np.float64]
Layer = Literal["top", "bottom"]

MARGIN_CELLS = 7
"""Cells of the supercell beyond the length of the line: its periodic images are as far away as those of a point
defect in 8 x 8."""

SURROUNDINGS = 2.5
"""Lattice constants round the outermost site that the patch covers in all directions: what is compared with the image,
and half a cell for a line that is one longer."""

CLOSING_A = 0.1
"""By how much each side of the gap is moved in before the second start: relaxed lines contract by two to four times
that (0.23 to 0.46 A for the potential, more in DFT)."""


class Variant(NamedTuple):
    """One structure of a line.

    Attributes
    ----------
    structure : DefectStructure
        In a patch whose a axis runs along the line.
    log_prior : float
        Natural logarithm; all variants of a line together have the density of the vacancies that it consists of.
    """

    structure: DefectStructure
    log_prior: float


class LinePatch(NamedTuple):
    """All structures of a line in patches of one frame.

    Attributes
    ----------
    variants : tuple of Variant
        The perfect crystal first, then the most probable.
    possible : int
        How many there would be.
    center_A : (2,) array
        What lies in the middle of the line that was found; the same in all patches.
    turn : (2, 2) array
        From the patch to the crystal frame: by a multiple of 120 degrees, which is the same crystal.
    """

    variants: tuple[Variant, ...]
    possible: int
    center_A: FloatArray
    turn: FloatArray


class _Sketch(NamedTuple):
    """What `_structure` needs, the prior as in `Variant`, and the probability before the pixels are asked."""

    label: str
    columns: tuple[int, ...]
    shift: int
    at: Cell
    form: _Form
    log_prior: float
    rank: float


class _Form(NamedTuple):
    """What looks the same from above before it relaxes."""

    closing: float
    opposite: bool
    layer: Layer


class _Rows(NamedTuple):
    """Rows in the patch, the lower one first: number of columns, and first cell (i, j), of each."""

    columns: tuple[int, ...]
    first: tuple[Cell, ...]


def line_patch(
    defect: Defect, host: ProjectedHost, lattice: Lattice, rates: Mapping[str, float], least: float, most: int
) -> LinePatch:
    """Structures of a line and of those among its alternatives that are likelier than `least`, `most` in all.

    Single rows lie in the top or the bottom layer, the two rows of a double one in the same layer or in opposite ones,
    each from the ideal sites and from a gap that is partly closed; a line one column longer or shorter is so at either
    end.
    """
    found = shape_of(defect.label, (s[:2] for s in defect.sites))
    likely = {defect.label: defect.probability} | {name: p for name, p in defect.alternatives if p > least}
    kinds = ("SVL", "CVL") if len(found.rows) == 1 else ("DVL",)
    shapes = [s for kind in kinds for n in _grown(found) if (s := Shape(kind, n.rows)).label in likely]
    turns = _turns(found, lattice.polarity)
    base = _rows(found, lattice.polarity, turns)
    size = _patch_size(base)
    crystal = _perfect(host, size)
    anchor, center = _middle(host, size, found.label, base)
    sketches = []
    for shape in shapes:
        rows = _rows(shape, lattice.polarity, turns)
        at = (anchor[0] + rows.first[0][0] - base.first[0][0], anchor[1] + rows.first[0][1] - base.first[0][1])
        forms = _forms(shape)
        own = log_prior(shape.kind, len(shape.cells())) - math.log(len(forms))
        rank = likely[shape.label] / (len(forms) * sum(s.label == shape.label for s in shapes))
        sketches += [_Sketch(shape.label, rows.columns, _shift(rows), at, form, own, rank) for form in forms]
    every = float(logsumexp([s.log_prior for s in sketches]))
    x = host.columns[1]
    rate = math.log(rates.get(f"V_{x}" if found.kind == "CVL" else f"V_{x.rstrip('2')}", 1e-6)) - every
    chosen = sorted(sketches, key=lambda s: -s.rank)[: most - 1]
    variants = [Variant(_structure(host, size, *s[:5]), s.log_prior + rate) for s in chosen]
    perfect = Variant(crystal, math.log(rates.get("pristine", 1.0)))
    t = math.radians(120 * turns)
    turn = np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]])
    return LinePatch((perfect, *variants), 1 + len(sketches), center, turn)


def _grown(found: Shape) -> Iterator[Shape]:
    """The line itself, and those that only lack sites of it or only have more."""
    own = set(found.cells())
    return (s for s in found.neighbours() if own <= set(s.cells()) or own >= set(s.cells()))


def _turns(shape: Shape, polarity: int) -> int:
    """By how many times 120 degrees a line along the a axis of the crystal frame is turned."""
    from definet.structures import ZIGZAG

    sixth = ZIGZAG.index(_in_crystal(DIRECTIONS[shape.rows[0].direction], polarity))
    return (sixth if sixth % 2 == 0 else sixth + 3) % 6 // 2  # seen from its other end the line runs the other way


def _in_crystal(cell: Cell, polarity: int) -> Cell:
    """Cell in the crystal frame: where X sits at 2 (a + b)/3 its axes are b and b - a."""
    i, j = cell
    return (i, j) if polarity > 0 else (i + j, -i)


def _rows(shape: Shape, polarity: int, turns: int) -> _Rows:
    """Rows of a shape in the patch, in cells counted from a common origin."""
    rows = []
    for row in shape.rows:
        cells = [_in_crystal(cell, polarity) for cell in row.cells()]
        for _ in range((6 - 2 * turns) % 6):
            cells = [(-j, i + j) for i, j in cells]  # by 60 degrees
        rows.append(min(cells))
    order = sorted(range(len(rows)), key=lambda k: rows[k][1])
    return _Rows(tuple(len(shape.rows[k]) for k in order), tuple(rows[k] for k in order))


def _patch_size(rows: _Rows) -> tuple[int, int]:
    """Cells along both axes of a rhombus that holds the line and a disc round it."""
    ends = [(i + n - 1, i + j / 2, i + n - 1 + j / 2) for n, (i, j) in zip(rows.columns, rows.first, strict=True)]
    length = max(e[0] for e in ends) - min(i for i, _ in rows.first) + 1
    radius = (max(e[2] for e in ends) - min(e[1] for e in ends)) / 2 + SURROUNDINGS
    across = math.ceil(2 * radius / math.sqrt(0.75))  # its height is sqrt(3)/2 of its side
    return max(length + MARGIN_CELLS, across), max(len(rows.columns) + MARGIN_CELLS, across)


def _shift(rows: _Rows) -> int:
    return rows.first[-1][0] - rows.first[0][0]


@lru_cache(maxsize=64)
def _perfect(host: ProjectedHost, size: tuple[int, int]) -> DefectStructure:
    from definet.structures import pristine

    return pristine(host.crystal or host.name, *size)


@lru_cache(maxsize=64)
def _middle(host: ProjectedHost, size: tuple[int, int], label: str, rows: _Rows) -> tuple[Cell, FloatArray]:
    """Cell of the first site of a line in the middle of the patch, and the centre of its sites."""
    from definet.structures import line

    crystal = _perfect(host, size)
    columns = (rows.columns[0], rows.columns[1]) if len(rows.columns) == 2 else None
    made = line(crystal, label, shift=_shift(rows), columns=columns)
    atoms_per_cell = len(crystal.marker) // (size[0] * size[1])
    return divmod(made.sites[0] // atoms_per_cell, size[1]), made.center_A


def _forms(shape: Shape) -> list[_Form]:
    layers: tuple[Layer, ...] = ("top",) if shape.kind == "CVL" else ("top", "bottom")
    return [
        _Form(closing, opposite, layer)
        for closing in (0.0, CLOSING_A)
        for opposite in ((False, True) if len(shape.rows) == 2 else (False,))
        for layer in layers
    ]


@lru_cache(maxsize=512)
def _structure(
    host: ProjectedHost, size: tuple[int, int], label: str, columns: tuple[int, ...], shift: int, at: Cell, form: _Form
) -> DefectStructure:
    """The same object for the same shape anywhere."""
    from definet.structures import line

    pair = (columns[0], columns[1]) if len(columns) == 2 else None
    crystal = _perfect(host, size)
    return line(crystal, label, at, form.layer, 0, form.opposite, shift, form.closing, pair)
