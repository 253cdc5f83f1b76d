"""Which sites a trefoil changes, in the lattice indices of an image (Lin et al., Nat. Commun. 6, 6736 (2015)).

The bonds of some metals turn by 60 degrees. The metals stay, their X columns go to the hollows on the other side, and
the X columns that would touch them there are gone. Positions are counted in thirds of the cell vectors: metals at
(0, 0), X columns at (1, 1) and hollows at (2, 2) in an image of positive polarity, the other way round in one of
negative polarity.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from stemfit.defects.types import Site

Cell = tuple[int, int]

METALS_BESIDE: tuple[Cell, ...] = ((1, 0), (0, 1), (-1, 1), (-1, 0), (0, -1), (1, -1))

_TO_X: tuple[Cell, ...] = ((1, 1), (-2, 1), (1, -2))
_TO_HOLLOW: tuple[Cell, ...] = ((-1, -1), (2, -1), (-1, 2))


class Trefoil(NamedTuple):
    """Sites of one trefoil.

    Attributes
    ----------
    metals : tuple of (i, j)
        Whose bonds are turned; sorted.
    moved, touching : tuple of Site
        X sites whose columns went to the hollows, and those whose columns would touch them there.
    hollows : tuple of Site
        Newly occupied.
    outer_kept : bool
        The touching columns stay all the same (4-8-4, Elibol et al., Chem. Mater. 30, 1230 (2018)).
    """

    metals: tuple[Cell, ...]
    moved: tuple[Site, ...]
    touching: tuple[Site, ...]
    hollows: tuple[Site, ...]
    outer_kept: bool

    @property
    def label(self) -> str:
        """T and the number of turned metals; -484 where the outer columns stay."""
        return f"T{len(self.metals)}" + ("-484" if self.outer_kept else "")

    @property
    def emptied(self) -> tuple[Site, ...]:
        """X sites without a column."""
        return self.moved if self.outer_kept else self.moved + self.touching

    @property
    def sites(self) -> tuple[Site, ...]:
        """All that it comprises: moved, emptied and newly occupied."""
        return self.emptied + self.hollows


def trefoil(metals: frozenset[Cell], polarity: int, outer_kept: bool = False) -> Trefoil:
    """Trefoil of the given metals in an image of this polarity."""
    sign = 1 if polarity > 0 else -1
    ordered = tuple(sorted(metals))
    moved = _around([(3 * i, 3 * j) for i, j in ordered], _TO_X, sign)
    hollows = _around([(3 * i, 3 * j) for i, j in ordered], _TO_HOLLOW, sign)
    touching = [x for x in _around(hollows, _TO_HOLLOW, sign) if x not in moved]
    x = 1 if sign > 0 else 2
    return Trefoil(
        ordered, _sites(moved, x, "X"), _sites(touching, x, "X"), _sites(hollows, 3 - x, "H"), outer_kept
    )


def read_off(sites: Iterable[Site], polarity: int) -> Trefoil | None:
    """Trefoil that comprises exactly these sites; None if there is none."""
    given = frozenset(sites)
    hollows = [site[:2] for site in given if site[2] == "H"]
    metals = frozenset(
        metal
        for hollow in hollows
        for metal in metals_round(hollow, polarity)
        if given.issuperset((one := trefoil(frozenset((metal,)), polarity)).moved + one.hollows)
    )
    if not metals:
        return None
    shapes = (trefoil(metals, polarity, kept) for kept in (False, True))
    return next((shape for shape in shapes if frozenset(shape.sites) == given), None)


def grown(metals: frozenset[Cell]) -> list[frozenset[Cell]]:
    """Connected sets with one metal more."""
    return [metals | {more} for more in sorted(beside(metals) - metals)]


def shrunk(metals: frozenset[Cell]) -> list[frozenset[Cell]]:
    """Connected sets with one metal less."""
    smaller = (metals - {one} for one in sorted(metals))
    return [fewer for fewer in smaller if fewer and connected(fewer)]


def connected(metals: frozenset[Cell]) -> bool:
    """Whether each metal is reached from each by neighbours."""
    joined = reached = frozenset(sorted(metals)[:1])
    while reached:
        reached = frozenset(beside(reached) & metals) - joined
        joined |= reached
    return joined == metals


def beside(metals: Iterable[Cell]) -> set[Cell]:
    """All neighbours of some metals."""
    return {(i + p, j + q) for i, j in metals for p, q in METALS_BESIDE}


def metals_round(hollow: Cell, polarity: int) -> tuple[Cell, ...]:
    """The three metals whose X columns may go to the hollow of a cell."""
    return _centres(hollow, 2 if polarity > 0 else 1, _TO_HOLLOW, polarity)


def metals_bound(cell: Cell, polarity: int) -> tuple[Cell, ...]:
    """The three metals bound to the X column of a cell."""
    return _centres(cell, 1 if polarity > 0 else 2, _TO_X, polarity)


def _centres(cell: Cell, third: int, offsets: tuple[Cell, ...], polarity: int) -> tuple[Cell, ...]:
    """Metals that see a place at one of the offsets."""
    sign = 1 if polarity > 0 else -1
    return tuple(((3 * cell[0] + third - sign * p) // 3, (3 * cell[1] + third - sign * q) // 3) for p, q in offsets)


def _around(centres: list[Cell], offsets: tuple[Cell, ...], sign: int) -> list[Cell]:
    """Union of all offsets about all centres, in order and without repetition."""
    return list(dict.fromkeys((c[0] + sign * o[0], c[1] + sign * o[1]) for c in centres for o in offsets))


def _sites(thirds: list[Cell], third: int, sublattice: str) -> tuple[Site, ...]:
    return tuple(((p - third) // 3, (q - third) // 3, sublattice) for p, q in thirds)
