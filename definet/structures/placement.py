"""A layer with defects in it, and the one function that changes sites."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from definet.crystals import Crystal, host, supercell
from definet.exceptions import StructureError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

FloatArray = NDArray[np.float64]
Cell = tuple[int, int]
Layer = Literal["top", "bottom"]

PRISTINE, CHANGED, VACANCY = 0, 1, 2

class Site(NamedTuple):
    """Basis atom k of the cell (i, j); in an `Edit` cells are counted from the anchor."""

    i: int
    j: int
    k: int


class Exchange(NamedTuple):
    """Another element on a site, at another height above the middle plane if `z_A` is given."""

    site: Site
    element: str
    z_A: float | None = None


class Addition(NamedTuple):
    """One more atom, at cell coordinates (u, v) and height z above the middle plane, Angstrom."""

    element: str
    u: float
    v: float
    z_A: float


@dataclass(frozen=True)
class Edit:
    """What a defect does to a pristine crystal, in cells counted from an anchor."""

    label: str
    remove: tuple[Site, ...] = ()
    exchange: tuple[Exchange, ...] = ()
    add: tuple[Addition, ...] = ()


@dataclass(frozen=True)
class DefectStructure:
    """A layer with defects in it.

    Attributes
    ----------
    structure : pymatgen Structure
        All N nodes: atoms and, where an atom is missing, a node at the ideal position with the missing element.
    marker : (N,) int64 array
        0 pristine, 1 exchanged or added, 2 vacancy node.
    label : str
        "what is there, underscore, what belongs there", "SVL-4", "T1"; several joined by "+".
    sites : tuple of int
        Nodes that the defect comprises.
    host : str
        Name of the crystal, "" if unknown (nothing can be built into it then).
    shape : (n, m)
        Repeats along a and b.
    crystal : Crystal or None
        What was built in, where it is none of the table.
    a_A : float or None
        Lattice constant of the host in this cell, Angstrom, where it does not follow from the cell and `shape`.
    """

    structure: Structure
    marker: NDArray[np.int64]
    label: str
    sites: tuple[int, ...]
    host: str = ""
    shape: tuple[int, int] = (0, 0)
    crystal: Crystal | None = None
    a_A: float | None = None

    @property
    def occupied(self) -> NDArray[np.bool_]:
        """(N,) True where a node is an atom."""
        return np.asarray(self.marker != VACANCY)

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """(N,) atomic numbers of the nodes; of the missing element where an atom is missing."""
        return np.array([site.specie.Z for site in self.structure], dtype=np.int64)

    @cached_property
    def nodes_A(self) -> FloatArray:
        """(N, 3) Cartesian positions of the nodes, Angstrom."""
        return np.asarray(self.structure.cart_coords)

    @property
    def atoms(self) -> Structure:
        """The atoms alone, in the order of the nodes."""
        atoms = self.structure.copy()
        atoms.remove_sites(np.flatnonzero(~self.occupied).tolist())
        return atoms

    @property
    def center_A(self) -> FloatArray:
        """(2,) mean in-plane position of the defect's nodes across the periodic boundary; of the cell if pristine."""
        cell = self.structure.lattice.matrix[:2, :2]
        if not self.sites:
            return np.asarray([0.5, 0.5] @ cell)
        fractional = self.structure.frac_coords[list(self.sites), :2]
        middle = np.angle(np.exp(2j * np.pi * fractional).mean(axis=0)) / (2 * np.pi)
        offset = fractional - middle
        return np.asarray(((middle + (offset - np.round(offset)).mean(axis=0)) % 1.0) @ cell)


def pristine(
    name: str | Crystal, n: int, m: int | None = None, a_A: float | None = None, vacuum_A: float = 20.0
) -> DefectStructure:
    """Perfect n x m supercell of a host, see `definet.crystals.supercell`."""
    structure = supercell(name, n, m, a_A, vacuum_A)
    marker = np.zeros(len(structure), np.int64)
    shape = (n, n if m is None else m)
    if isinstance(name, str):
        return DefectStructure(structure, marker, "pristine", (), name, shape)
    return DefectStructure(structure, marker, "pristine", (), name.name, shape, name)


def place(crystal: DefectStructure, edit: Edit, at: Cell | None = None) -> DefectStructure:
    """Carry out an edit.

    Parameters
    ----------
    crystal : DefectStructure
    edit : Edit
    at : (i, j), optional
        Anchor cell; default the one that brings the edit's centre nearest to the middle of the supercell.

    Raises
    ------
    StructureError
        If the edit meets its own periodic image, or a site that is already part of a defect.
    """
    from pymatgen.core.structure import Structure

    origin = _central_anchor(crystal, edit) if at is None else at
    removed = [_index(crystal, site, origin) for site in edit.remove]
    changed = [_index(crystal, exchange.site, origin) for exchange in edit.exchange]
    _check_free(crystal, edit.label, removed + changed)
    lattice, species = crystal.structure.lattice, elements_of(crystal.structure)
    fractional, marker = crystal.structure.frac_coords.copy(), crystal.marker.copy()
    marker[removed], marker[changed] = VACANCY, CHANGED
    for index, exchange in zip(changed, edit.exchange, strict=True):
        species[index] = exchange.element
        if exchange.z_A is not None:
            fractional[index, 2] = 0.5 + exchange.z_A / lattice.c
    added = np.array([_fraction(crystal, atom, origin) for atom in edit.add]).reshape(-1, 3)
    _check_room(crystal, edit.label, fractional[marker != VACANCY], added)
    structure = Structure(
        lattice, species + [atom.element for atom in edit.add], np.vstack([fractional, added])
    )
    marker = np.concatenate([marker, np.full(len(added), CHANGED)])
    sites = crystal.sites + tuple(removed + changed) + tuple(range(len(fractional), len(marker)))
    label = f"{crystal.label}+{edit.label}" if crystal.sites else edit.label
    return replace(crystal, structure=structure, marker=marker, label=label, sites=sites)


def facts_of(crystal: DefectStructure) -> Crystal:
    """The crystal that was built in.

    Raises
    ------
    StructureError
        If the structure names none.
    """
    if crystal.crystal is not None:
        return crystal.crystal
    if not crystal.host:
        raise StructureError("this structure names no host to build in", "Start from definet.structures.pristine.")
    return host(crystal.host)


def elements_of(structure: Structure) -> list[str]:
    """Element symbols in the order of the sites."""
    return [site.specie.symbol for site in structure]


def _index(crystal: DefectStructure, site: Site, origin: Cell) -> int:
    n, m = crystal.shape
    cell = ((site.i + origin[0]) % n) * m + (site.j + origin[1]) % m
    return cell * len(facts_of(crystal).basis) + site.k


def _fraction(crystal: DefectStructure, atom: Addition, origin: Cell) -> tuple[float, float, float]:
    n, m = crystal.shape
    return (
        (atom.u + origin[0]) / n % 1.0,
        (atom.v + origin[1]) / m % 1.0,
        0.5 + atom.z_A / crystal.structure.lattice.c,
    )


def _central_anchor(crystal: DefectStructure, edit: Edit) -> Cell:
    basis = facts_of(crystal).basis
    sites = [*edit.remove, *(exchange.site for exchange in edit.exchange)]
    uv = [(s.i + basis[s.k].u, s.j + basis[s.k].v) for s in sites] + [(atom.u, atom.v) for atom in edit.add]
    wanted = np.array(crystal.shape) / 2 - np.mean(uv, axis=0)
    corners = np.floor(wanted).astype(int) + np.array(list(product((0, 1), repeat=2)))
    offset = (corners - wanted) @ facts_of(crystal).plane_A()
    i, j = corners[int(np.argmin(np.linalg.norm(offset, axis=1)))]
    return int(i), int(j)


def _check_free(crystal: DefectStructure, label: str, nodes: list[int]) -> None:
    if len(set(nodes)) < len(nodes):
        n, m = crystal.shape
        raise StructureError(f"{label} meets its own periodic image in {n} x {m} cells", "Use a larger supercell.")
    if np.any(crystal.marker[nodes] != PRISTINE):
        raise StructureError(f"{label} meets a site that is already part of {crystal.label}", "Choose another place.")


def _check_room(crystal: DefectStructure, label: str, atoms: FloatArray, added: FloatArray) -> None:
    """No two atoms of these elements come closer than 1 A, so a shorter distance is two defects in one place."""
    if len(added) == 0:
        return
    distance = crystal.structure.lattice.get_all_distances(added, np.vstack([atoms, added]))
    np.fill_diagonal(distance[:, len(atoms) :], np.inf)
    if distance.min() < 1.0:
        raise StructureError(f"{label} puts an atom {distance.min():.2f} A from another", "Choose another place.")
