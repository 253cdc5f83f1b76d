"""What a host crystal looks like from above."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from definet.crystals import HOSTS, Crystal, host
from stemfit.errors import UnknownHost
from stemfit.optics.scattering import ratio

INFERABLE: tuple[str, ...] = ("MoS2", "WS2", "MoSe2", "WSe2", "MoTe2", "graphene", "hBN", "GaSe", "InSe")
"""Honeycombs that can be told from an image. WTe2 in the H phase must be named: it is not found in nature."""

RARE = 0.3
"""Weight of GaSe, InSe and black phosphorus against any other host before the image is asked: their monolayers do not
last in air, and few have been imaged. An order of magnitude is not claimed: the image decides where it can."""

LETTERS = "ABCDEFGIJKLNOPQRSTUVWYZ"
"""Names of sublattices other than M and X; H is a hollow."""


@dataclass(frozen=True)
class Cell:
    """Shape of an undistorted cell and where its columns are; x right, y up.

    Attributes
    ----------
    plane : ((float, float), (float, float))
        Vectors a, b: Angstrom, or any unit where only the shape matters. b is counter-clockwise from a.
    basis : tuple of (float, float)
        Cell coordinates of the column of each sublattice.
    """

    plane: tuple[tuple[float, float], tuple[float, float]]
    basis: tuple[tuple[float, float], ...]

    @property
    def area(self) -> float:
        """Of one cell."""
        (ax, ay), (bx, by) = self.plane
        return abs(ax * by - ay * bx)

    @property
    def pitch(self) -> float:
        """Lattice constant of the honeycomb with as many columns per area: the lattice constant, for honeycombs."""
        return math.sqrt(2 * self.area * (2 / len(self.basis)) / math.sqrt(3))

    @property
    def tightness(self) -> float:
        """Nearest distance between two columns over that of the honeycomb of the same pitch, at most 1."""
        return round(min(1.0, math.sqrt(3) * self.nearest / self.pitch), 9)

    @property
    def nearest(self) -> float:
        """Shortest distance between two columns."""
        (ax, ay), (bx, by) = self.plane
        steps = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
        distances = [
            math.hypot((u - s + i) * ax + (v - t + j) * bx, (u - s + i) * ay + (v - t + j) * by)
            for u, v in self.basis for s, t in self.basis for i, j in steps
        ]
        return min(d for d in distances if d > 1e-9 * self.pitch)


HONEYCOMB = Cell(((1.0, 0.0), (0.5, math.sqrt(0.75))), ((0.0, 0.0), (1 / 3, 1 / 3)))


@dataclass(frozen=True)
class ProjectedHost:
    """Column types of a two-dimensional crystal seen along its normal.

    Attributes
    ----------
    name : str
    a_A : float
        Lattice constant, Angstrom; of the honeycomb with as many columns per area where the crystal is none.
    sublattices : tuple of str
        Names: ("M", "X"), ("A", "B") for graphene and hBN, one letter for each column of a cell otherwise.
    columns : tuple of str
        Column type on each: ("Mo", "S2"), ("B", "N"), ("C", "C").
    cell : Cell
    crystal : Crystal or None
        Where it is not the one of this name.
    atoms : tuple of tuple of int
        Basis indices of the crystal's atoms in the column of each sublattice; empty if these are the crystal's own.
    """

    name: str
    a_A: float
    sublattices: tuple[str, ...]
    columns: tuple[str, ...]
    cell: Cell = HONEYCOMB
    crystal: Crystal | None = None
    atoms: tuple[tuple[int, ...], ...] = ()

    @property
    def honeycomb(self) -> bool:
        """Whether it is analysed as a honeycomb of two sublattices; else as a pattern of any kind."""
        return self.cell == HONEYCOMB

    @property
    def structure(self) -> Crystal:
        """Its atoms."""
        return self.crystal or host(self.name)

    def column_atoms(self, sublattice: str) -> tuple[int, ...]:
        """Basis indices of the atoms in the column of a sublattice, bottom to top."""
        if self.atoms:
            return self.atoms[self.sublattices.index(sublattice)]
        return self.structure.column(sublattice)

    def thickness_A(self, column: str) -> float:
        """Distance along the beam from the lowest to the highest atom of one of its columns."""
        atoms = self.column_atoms(self.sublattices[self.columns.index(column)])
        z_A = [self.structure.basis[k].z_A for k in atoms]
        return max(z_A) - min(z_A)

    @property
    def dichalcogenide(self) -> bool:
        """Whether single metals alternate with pairs of chalcogens."""
        return self.sublattices == ("M", "X") and not self.columns[0].endswith("2")

    @property
    def log_prior(self) -> float:
        """Natural logarithm of how likely this host is before the image is asked, up to a constant."""
        return 0.0 if self.dichalcogenide or self.name in ("graphene", "hBN") else math.log(RARE)

    def turned_over(self) -> ProjectedHost:
        """The same layer seen from below, on a cell whose b is counter-clockwise again."""
        crystal, columns = self.structure.turned_over(), tuple(self.column_atoms(s) for s in self.sublattices)
        return replace(pattern(crystal, tuple(c[::-1] for c in columns)), name=self.name)


def column_type(elements: Iterable[str]) -> str:
    """Name of a stack of atoms, whatever their order: ["S", "Mo"] -> "MoS", ["S", "S"] -> "S2".

    Alphabetical, because top and bottom look the same from above.
    """
    return "".join(element + (str(n) if n > 1 else "") for element, n in sorted(Counter(elements).items()))


def projected(name: str) -> ProjectedHost:
    """Look up a host.

    Raises
    ------
    UnknownHost
        If there is none of that name; the message lists the names.
    """
    if name not in HOSTS:
        raise UnknownHost(name, HOSTS)
    crystal = HOSTS[name]
    if not crystal.hexagonal:
        return pattern(crystal, tuple((k,) for k in range(len(crystal.basis))))
    first, second = crystal.sublattices
    return ProjectedHost(name, crystal.a_exp_A, (first, second), (_stack(crystal, first), _stack(crystal, second)))


def pattern(crystal: Crystal, columns: tuple[tuple[int, ...], ...]) -> ProjectedHost:
    """Any crystal from above.

    Parameters
    ----------
    crystal : Crystal
    columns : tuple of tuple of int
        Basis indices of the atoms of each column of the cell, bottom to top. The first one is the origin.
    """
    centres = [_centre(crystal, column) for column in columns]
    basis = tuple(tuple(round((p - q) % 1.0, 9) % 1.0 for p, q in zip(c, centres[0], strict=True)) for c in centres)
    (ax, ay), (bx, by) = crystal.plane_A().tolist()
    cell = Cell(((ax, ay), (bx, by)), tuple((u, v) for u, v in basis))
    types = tuple(column_type(crystal.basis[k].element for k in column) for column in columns)
    return ProjectedHost(crystal.name, cell.pitch, letters(len(columns)), types, cell, crystal, columns)


def letters(count: int) -> tuple[str, ...]:
    """Names of the columns of a cell: A, B, C, ... without H, M and X, which mean something else; then A2, B2, ..."""
    turns = [divmod(k, len(LETTERS)) for k in range(count)]
    return tuple(LETTERS[k] + (str(turn + 1) if turn else "") for turn, k in turns)


def amplitude_ratio(
    host: ProjectedHost, voltage_kV: float | None, detector_mrad: tuple[float, float] | None
) -> tuple[float, float]:
    """Brightness of the second sublattice over the first (X over M, B over A), and its standard error.

    Parameters as in `stemfit.optics.scattering.amplitude`.
    """
    value, relative_sigma = ratio(host.columns[1], host.columns[0], voltage_kV, detector_mrad)
    return value, value * relative_sigma


def _centre(crystal: Crystal, column: tuple[int, ...]) -> tuple[float, float]:
    """Mean cell coordinates of atoms that stand above each other, across the cell's edge."""
    atoms = [crystal.basis[k] for k in column]
    first, n = atoms[0], len(atoms)
    du, dv = (sum((getattr(a, x) - getattr(first, x) + 0.5) % 1.0 - 0.5 for a in atoms) / n for x in ("u", "v"))
    return first.u + du, first.v + dv


def _stack(crystal: Crystal, sublattice: str) -> str:
    return column_type(crystal.basis[k].element for k in crystal.column(sublattice))
