"""Where rows of chalcogen sites run, and what two of them beside each other are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

Cell = tuple[int, int]

DIRECTIONS: tuple[Cell, ...] = ((1, 0), (0, 1), (1, -1))
"""Zigzag directions in units of (a, b), which are 60 degrees apart."""

SHORTEST, SHORTEST_BESIDE = 3, 2
"""Columns of a row by itself (two vacancies side by side are two vacancies), and of each row of a pair."""

SHARE_BESIDE = 0.5
"""Two rows are one double line where at least half of the shorter one runs beside the longer one, and the shorter one
is at least half as long: otherwise they are two lines, or a line with vacancies at its side."""


@dataclass(frozen=True)
class Row:
    """Consecutive sites of one lattice row: `first` to `last`, both included, along `direction`."""

    direction: int
    across: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def cells(self) -> tuple[Cell, ...]:
        """Cells in the order along the row."""
        return tuple(cell_of(self.direction, self.across, t) for t in range(self.first, self.last + 1))

    def resized(self, before: int, after: int) -> Row:
        """Longer by `before` sites in front of the first and by `after` behind the last; shorter if negative."""
        return replace(self, first=self.first - before, last=self.last + after)


class Shape(NamedTuple):
    """One row, or two beside each other; `kind` is SVL, DVL or CVL."""

    kind: str
    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """Contract name: n is the number of missing chalcogen atoms."""
        return f"{self.kind}-{len(self.cells()) * (2 if self.kind == 'CVL' else 1)}"

    def cells(self) -> tuple[Cell, ...]:
        """Cells of all chalcogen columns that lack atoms."""
        return tuple(cell for row in self.rows for cell in row.cells())

    def adjacent(self) -> int:
        """Pairs of neighbouring sites."""
        cells = set(self.cells())
        return sum((i + di, j + dj) in cells for i, j in cells for di, dj in DIRECTIONS)

    def stands(self) -> bool:
        """Whether the rows are long enough, and near enough to each other, for the name."""
        if len(self.rows) == 1:
            return len(self.rows[0]) >= SHORTEST
        return beside(*self.rows)

    def neighbours(self) -> Iterator[Shape]:
        """Itself, and the shapes whose rows are one site longer or shorter at their ends, where these keep the name."""
        changes = [(before, after) for before in (0, -1, 1) for after in (0, -1, 1)]
        for first in changes:
            for second in changes if len(self.rows) == 2 else changes[:1]:
                sizes = (first, second)[: len(self.rows)]
                if all(len(row) + sum(size) > 0 for row, size in zip(self.rows, sizes, strict=True)):
                    resized = tuple(row.resized(*size) for row, size in zip(self.rows, sizes, strict=True))
                    shape = Shape(self.kind, resized)
                    if shape.stands():
                        yield shape


def row_of(direction: int, cell: Cell) -> tuple[int, int]:
    """Which lattice row along a direction a cell belongs to, and its place in it."""
    i, j = cell
    return ((j, i), (i, j), (i + j, i))[direction]


def cell_of(direction: int, across: int, along: int) -> Cell:
    """Cell at a place of a lattice row; the inverse of `row_of`."""
    return ((along, across), (across, along), (along, across - along))[direction]


def beside(one: Row, other: Row) -> bool:
    """Whether two rows of adjacent lattice rows make a double line."""
    if one.direction != other.direction or abs(one.across - other.across) != 1:
        return False
    shorter, longer = sorted((len(one), len(other)))
    if shorter < SHORTEST_BESIDE or shorter < SHARE_BESIDE * longer:
        return False
    # Sites of the next lattice row lie half a step further (for a - b: half a step back).
    half = -0.5 if one.direction == 2 else 0.5
    starts = [row.first + half * row.across for row in (one, other)]
    ends = [start + len(row) for start, row in zip(starts, (one, other), strict=True)]
    return min(ends) - max(starts) >= SHARE_BESIDE * shorter


@cache
def ways_beside(columns: int) -> int:
    """In how many ways two rows of so many columns together are one double line, along one direction from one site."""
    ways = 0
    for n in range(SHORTEST_BESIDE, columns - SHORTEST_BESIDE + 1):
        shifts = range(n - columns, n + 1)
        ways += sum(beside(Row(0, 0, 0, n - 1), Row(0, 1, t, t + columns - n - 1)) for t in shifts)
    return ways


def shape_of(label: str, cells: Iterable[Cell]) -> Shape:
    """The line that a label and its cells describe.

    Raises
    ------
    ValueError
        If these cells are no such line.
    """
    every = tuple(cells)
    for direction in range(len(DIRECTIONS)):
        rows: dict[int, list[int]] = {}
        for across, along in (row_of(direction, cell) for cell in every):
            rows.setdefault(across, []).append(along)
        made = tuple(Row(direction, across, min(along), max(along)) for across, along in sorted(rows.items()))
        shape = Shape(label.partition("-")[0], made)
        if len(made) <= 2 and len(shape.cells()) == len(every) and shape.stands() and shape.label == label:
            return shape
    raise ValueError(f"{label} has no sites {every}")
