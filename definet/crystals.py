"""The two-dimensional hosts: experimental lattice constants, sublattices and heights of the atoms.

Cartesian Angstrom, right-handed, x right, y up, z toward the viewer. Hexagonal hosts have their in-plane vectors 60
degrees apart, `a` along +x and `b` counter-clockwise from it; the first sublattice sits at (0, 0), the second at
(a + b)/3. The middle plane of the layer lies at half the height of the cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from definet.exceptions import OptionError, StructureError, UnknownHostError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class BasisAtom:
    """One atom of the unit cell: sublattice, element, in-plane cell coordinates, height above the middle plane (A)."""

    sublattice: str
    element: str
    u: float
    v: float
    z_A: float


@dataclass(frozen=True)
class Crystal:
    """One two-dimensional host.

    Attributes
    ----------
    name : str
    a_exp_A : float
        Measured in-plane lattice constant, Angstrom (at room temperature).
    b_exp_A : float or None
        Second in-plane constant of another cell; None for hexagonal hosts.
    basis : tuple of BasisAtom
        Atoms of the unit cell. Atoms of one column follow each other, the lower one first. Heights are those of the
        isolated layer in PBE, the level at which layer thicknesses are known for all hosts.
    source : str
        Where the lattice constant was measured.
    angle_deg : float
        From a to b, counter-clockwise; hexagonal hosts have 60 whatever it says.
    """

    name: str
    a_exp_A: float
    b_exp_A: float | None
    basis: tuple[BasisAtom, ...]
    source: str
    angle_deg: float = 90.0

    @property
    def hexagonal(self) -> bool:
        """Whether the in-plane vectors are equally long and 60 degrees apart."""
        return self.b_exp_A is None

    @property
    def sublattices(self) -> tuple[str, ...]:
        """Names in the order of the basis: ("M", "X"), or ("A", "B")."""
        return tuple(dict.fromkeys(atom.sublattice for atom in self.basis))

    @property
    def elements(self) -> dict[str, str]:
        """Element of each sublattice."""
        return {atom.sublattice: atom.element for atom in self.basis}

    def column(self, sublattice: str) -> tuple[int, ...]:
        """Basis indices of one atomic column of a sublattice, bottom to top (of its first column, if several)."""
        members = [k for k, atom in enumerate(self.basis) if atom.sublattice == sublattice]
        if not members:
            raise StructureError(f"{self.name} has no sublattice {sublattice!r}")
        first = self.basis[members[0]]
        return tuple(k for k in members if (self.basis[k].u, self.basis[k].v) == (first.u, first.v))

    def plane_A(self, a_A: float | None = None) -> FloatArray:
        """In-plane cell vectors as rows, (2, 2) Angstrom; `a_A` scales both, default the measured constant."""
        scale = 1.0 if a_A is None else a_A / self.a_exp_A
        if self.b_exp_A is not None:
            turn = np.radians(self.angle_deg)
            across = (0.0, 1.0) if self.angle_deg == 90 else (float(np.cos(turn)), float(np.sin(turn)))
            return np.array([[self.a_exp_A, 0.0], [self.b_exp_A * across[0], self.b_exp_A * across[1]]]) * scale
        return self.a_exp_A * scale * np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])

    def turned_over(self) -> Crystal:
        """The same layer seen from below: half a turn about a, with -b for b."""
        basis = tuple(replace(atom, v=-atom.v % 1.0, z_A=-atom.z_A) for atom in self.basis)
        return replace(self, basis=basis, angle_deg=180.0 - self.angle_deg)


def _column(sublattice: str, element: str, at: float, split_A: float) -> tuple[BasisAtom, ...]:
    heights = (0.0,) if split_A == 0 else (-split_A / 2, split_A / 2)
    return tuple(BasisAtom(sublattice, element, at, at, z) for z in heights)


def _layered(name: str, a_A: float, metal: str, chalcogen: str, split_A: float, source: str, pair_A: float = 0.0) -> (
    Crystal
):
    """H-phase dichalcogenide, or monochalcogenide with a metal pair `pair_A` apart."""
    return Crystal(
        name, a_A, None, _column("M", metal, 0.0, pair_A) + _column("X", chalcogen, 1 / 3, split_A), source
    )


def _flat(name: str, a_A: float, first: str, second: str, source: str) -> Crystal:
    return Crystal(name, a_A, None, _column("A", first, 0.0, 0.0) + _column("B", second, 1 / 3, 0.0), source)


_PUCKER_A = 2.106
_BLACK_P = Crystal(
    "blackP",
    3.3136,
    4.3763,
    (
        BasisAtom("A", "P", 0.0, 0.58856, -_PUCKER_A / 2),
        BasisAtom("A", "P", 0.5, 0.91144, -_PUCKER_A / 2),
        BasisAtom("B", "P", 0.0, 0.41144, _PUCKER_A / 2),
        BasisAtom("B", "P", 0.5, 0.08856, _PUCKER_A / 2),
    ),
    "Brown & Rundqvist, Acta Cryst. 19, 684 (1965)",
)

_SCHUTTE = "Schutte, de Boer & Jellinek, J. Solid State Chem. 70, 207 (1987)"
HOSTS: dict[str, Crystal] = {
    crystal.name: crystal
    for crystal in (
        _layered("MoS2", 3.160, "Mo", "S", 3.130, "Bronsema, de Boer & Jellinek, Z. Anorg. Allg. Chem. 540, 15 (1986)"),
        _layered("MoSe2", 3.288, "Mo", "Se", 3.350, "James & Lavik, Acta Cryst. 16, 1183 (1963)"),
        _layered("MoTe2", 3.52, "Mo", "Te", 3.625, "Puotinen & Newnham, Acta Cryst. 14, 691 (1961)"),
        _layered("WS2", 3.153, "W", "S", 3.147, _SCHUTTE),
        _layered("WSe2", 3.282, "W", "Se", 3.363, _SCHUTTE),
        # No bulk crystal of the H phase exists: this one is calculated, as in the paper's table.
        _layered("WTe2", 3.55, "W", "Te", 3.62, "calculated: Ding et al., Physica B 406, 2254 (2011)"),
        _flat("hBN", 2.504, "B", "N", "Lynch & Drickamer, J. Chem. Phys. 44, 181 (1966)"),
        _flat("graphene", 2.461, "C", "C", "graphite: Baskin & Meyer, Phys. Rev. 100, 544 (1955)"),
        _layered("GaSe", 3.75, "Ga", "Se", 4.817, "Kuhn et al., phys. stat. sol. (a) 31, 469 (1975)", 2.471),
        _layered("InSe", 4.00, "In", "Se", 5.369, "Likforman et al., Acta Cryst. B31, 1252 (1975)", 2.834),
        _BLACK_P,
    )
}


def host(name: str) -> Crystal:
    """Look up a host.

    Raises
    ------
    UnknownHostError
        If there is no such host; the message lists the names.
    """
    if name not in HOSTS:
        raise UnknownHostError(f"unknown host {name!r}", f"Choose one of: {', '.join(HOSTS)}.")
    return HOSTS[name]


def unit_cell(name: str, a_A: float | None = None, vacuum_A: float = 20.0) -> Structure:
    """One unit cell of a host, see `supercell`."""
    return supercell(name, 1, 1, a_A, vacuum_A)


def supercell(
    name: str | Crystal, n: int, m: int | None = None, a_A: float | None = None, vacuum_A: float = 20.0
) -> Structure:
    """Pristine layer of n x m unit cells.

    Parameters
    ----------
    name : str or Crystal
        Host, by name or one's own.
    n, m : int
        Repeats along a and b; m defaults to n.
    a_A : float, optional
        Lattice constant, default the measured one; a rectangular cell is scaled as a whole.
    vacuum_A : float
        Empty height between the layer and its periodic image.

    Returns
    -------
    pymatgen Structure
        Basis atom k of cell (i, j) has the index ``(i * m + j) * len(basis) + k``.

    Raises
    ------
    UnknownHostError, OptionError
    """
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    crystal, m = host(name) if isinstance(name, str) else name, n if m is None else m
    if n < 1 or m < 1 or vacuum_A < 0 or (a_A is not None and a_A <= 0):
        raise OptionError(f"a supercell of {n} x {m} cells, a = {a_A} A, vacuum {vacuum_A} A is not possible")
    heights = np.array([atom.z_A for atom in crystal.basis])
    c_A = float(np.ptp(heights)) + vacuum_A
    cell = np.zeros((3, 3))
    cell[:2, :2] = crystal.plane_A(a_A) * np.array([[n], [m]])
    cell[2, 2] = c_A
    i, j, k = np.indices((n, m, len(crystal.basis))).reshape(3, -1)
    uv = np.array([[atom.u, atom.v] for atom in crystal.basis])
    fractional = np.column_stack([(i + uv[k, 0]) / n, (j + uv[k, 1]) / m, 0.5 + heights[k] / c_A])
    return Structure(Lattice(cell), [crystal.basis[index].element for index in k], fractional)
