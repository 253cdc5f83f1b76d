"""A structure from a file, taken apart: what its defects change in the host, and how far each atom is from its site.

Both are kept in the crystal frame of the builders (60 degrees, the second sublattice at (a + b)/3) and in whole cells
of the host, whatever supercell the file has: so they can be turned into every equivalent orientation, put into a patch
of any size, and carried over to the lattice of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from definet.crystals import HOSTS, Crystal, host
from definet.exceptions import StructureError
from definet.markers import Nodes, nodes_of
from definet.structure_file import StructureFile, read_structure
from definet.structures import Addition, Edit, Exchange, Site, elements_of

if TYPE_CHECKING:
    from definet.host_fit import HostFit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

IN_HOLLOW = 0.4
"""An added atom this close to a hollow, in bonds, stands in it as it was built: the reach of a site in `host_fit`."""

CUT_CELLS = 2.0
"""Cells of the perfect host between a defect and its periodic image below which the defect has no end in the file."""


@dataclass(frozen=True, eq=False)
class Given:
    """A structure that may be in the image.

    Attributes
    ----------
    path : Path
    sha256 : str
        Of the file.
    label : str
        Names of its defects, joined by "+"; the file's stem if nobody has a name for one.
    crystal : Crystal
        Its host, with the measured lattice constant.
    edit : Edit
        What the defects change, in cells of the crystal frame.
    moved : mapping of (i, j, k) to (3,) array
        How far the atom on basis site k of cell (i, j) is from it, Angstrom, strain of the cell left out.
    moved_added : (A, 3) array
        The same of the added atoms, in the order of `edit.add`.
    frame : (2, 2), (2,) arrays
        Cell coordinates of the crystal are ``r_A @ matrix + offset`` for in-plane positions of the file.
    warnings : tuple of str
    """

    path: Path
    sha256: str
    label: str
    crystal: Crystal
    edit: Edit
    moved: Mapping[Site, FloatArray]
    moved_added: FloatArray
    frame: tuple[FloatArray, FloatArray]
    warnings: tuple[str, ...] = ()

    @property
    def largest_A(self) -> float:
        """Farthest that an atom is from its site."""
        every = [*self.moved.values(), *self.moved_added]
        return max((float(np.linalg.norm(step)) for step in every), default=0.0)


def read_given(path: Path, host_name: str | None = None) -> Given:
    """Read a structure and take it apart.

    Parameters
    ----------
    path : Path
        CIF, POSCAR or extended XYZ.
    host_name : str, optional
        The host of the image, where it is known; else that of the structure is found by its elements.

    Raises
    ------
    InputFileError
        If it is missing or cannot be read.
    StructureError
        If it is no layer, does not fit the host, or has no defect.
    """
    read = read_structure(path)
    try:
        nodes = _nodes(read, host_name)
        return _taken_apart(path, nodes)
    except StructureError as error:
        error.subject = error.subject or path
        raise


def _nodes(read: StructureFile, host_name: str | None) -> Nodes:
    """The structure with its host under it."""
    if host_name is not None:
        return nodes_of(read, host_name, from_host=True)
    here, found, problem = set(elements_of(read.structure)), [], None
    for name in HOSTS:
        if set(HOSTS[name].elements.values()) <= here:
            try:
                found.append(nodes_of(read, name, from_host=True))
            except StructureError as error:
                problem = error
    if not found:
        raise problem or StructureError(
            f"its elements ({', '.join(sorted(here))}) are those of no host", "Name the host of the image with --host."
        )
    return min(found, key=lambda nodes: len(nodes.crystal.sites))


def _taken_apart(path: Path, nodes: Nodes) -> Given:
    fit = nodes.fit
    assert fit is not None  # markers were derived from it
    if not fit.host.hexagonal:
        what = f"{fit.host.name} is no hexagonal host"
        raise StructureError(what, "Only structures of hexagonal hosts can be matched so far.")
    if not nodes.crystal.sites:
        raise StructureError(
            f"it has no defect: every site of {fit.host.name} holds its own atom", "Give a structure with a defect."
        )
    at = _Cells(fit)
    elements = elements_of(nodes.crystal.structure)[: len(fit.site)]
    loose = np.flatnonzero(fit.site < 0)
    empty, held = (np.flatnonzero(here).tolist() for here in (fit.occupant < 0, fit.occupant >= 0))
    changed = empty + [s for s in held if fit.element[s] != elements[fit.occupant[s]]]
    at.centre_on(np.vstack([at.of_sites()[changed], at.of_atoms()[loose]]))
    remove = tuple(at.site(s) for s in changed if fit.occupant[s] < 0)
    exchange = tuple(
        Exchange(at.site(s), elements[fit.occupant[s]], at.height_A(int(fit.occupant[s])))
        for s in changed if fit.occupant[s] >= 0
    )  # fmt: skip
    places = [_as_built(fit.host, at.atom(int(n))) for n in loose]
    add = tuple(Addition(elements[n], *place) for n, place in zip(loose, places, strict=True))
    moved = {
        at.site(s): at.step_A(s, int(n)) * ([1.0, 1.0, 0.0] if s in changed else [1.0, 1.0, 1.0])
        for s, n in enumerate(fit.occupant) if n >= 0
    }  # fmt: skip
    steps = [
        np.append((at.atom(int(n))[:2] - place[:2]) @ fit.host.plane_A(), at.atom(int(n))[2] - place[2])
        for n, place in zip(loose, places, strict=True)
    ]
    label = nodes.crystal.label
    label = label if label != "pristine" else path.stem
    digest = sha256(path.read_bytes()).hexdigest()
    warnings = (*nodes.warnings, *at.warnings)
    edit, added = Edit(label, remove, exchange, add), np.array(steps).reshape(-1, 3)
    return Given(path, digest, label, host(fit.host.name), edit, moved, added, at.frame(nodes.turn), warnings)


class _Cells:
    """Sites and atoms of a fit in cells of its host, each in the period nearest to the defects."""

    def __init__(self, fit: HostFit) -> None:
        self.fit, self.basis = fit, fit.host.basis
        self.to_cells = np.linalg.inv(fit.plane_A)
        uv = np.array([self.basis[0].u, self.basis[0].v])
        self.shift = fit.site_A[0, :2] @ self.to_cells - fit.cell_ij[0] - uv
        self.middle_A = float(fit.site_A[0, 2]) - self.basis[0].z_A
        self.centre = np.zeros(2)
        self.warnings: tuple[str, ...] = ()

    def of_sites(self) -> FloatArray:
        """(S, 2) cell coordinates."""
        uv = np.array([[atom.u, atom.v] for atom in self.basis])
        return np.asarray((self.fit.cell_ij[:, None] + uv).reshape(-1, 2))

    def of_atoms(self) -> FloatArray:
        """(N, 2) cell coordinates."""
        return np.asarray(self.fit.atom_A[:, :2] @ self.to_cells - self.shift)

    def centre_on(self, uv: FloatArray) -> None:
        """Put the middle of the period on changed places (C, 2): each axis of the supercell is cut at its widest gap.

        A defect that the cell's border cuts is whole again.
        """
        share = (uv + self.shift) @ np.linalg.inv(self.fit.repeat) % 1.0  # of the file's own cell
        sides = np.linalg.norm(self.fit.repeat @ self.fit.host.plane_A(), axis=1) / self.fit.host.a_exp_A
        middle = np.zeros(2)
        for axis in range(2):
            ordered = np.sort(share[:, axis])
            gaps = np.diff(np.append(ordered, ordered[0] + 1.0))
            k = int(np.argmax(gaps))
            start = ordered[(k + 1) % len(ordered)]
            middle[axis] = start + (1.0 - gaps[k]) / 2
            if gaps[k] * sides[axis] < CUT_CELLS:
                self.warnings = ("the defect runs through its periodic cell: one period of it is matched",)
        self.centre = middle % 1.0 @ self.fit.repeat - self.shift

    def near(self, uv: FloatArray) -> FloatArray:
        """The same place in the period about the centre."""
        share = (uv - self.centre) @ np.linalg.inv(self.fit.repeat)
        return np.asarray(uv - np.round(share) @ self.fit.repeat)

    def site(self, s: int) -> Site:
        k = s % len(self.basis)
        i, j = np.rint(self.near(self.of_sites()[s]) - [self.basis[k].u, self.basis[k].v]).astype(int)
        return Site(int(i), int(j), k)

    def atom(self, n: int) -> FloatArray:
        """(3,) cell coordinates and height above the middle plane, Angstrom."""
        return np.append(self.near(self.of_atoms()[n]), self.height_A(n))

    def height_A(self, n: int) -> float:
        return float(self.fit.atom_A[n, 2]) - self.middle_A

    def step_A(self, s: int, n: int) -> FloatArray:
        """(3,) from a site to the atom on it, strain of the cell left out."""
        off = self.of_atoms()[n] - self.of_sites()[s]
        share = off @ np.linalg.inv(self.fit.repeat)
        off = off - np.round(share) @ self.fit.repeat
        return np.append(off @ self.fit.host.plane_A(), self.height_A(n) - self.basis[s % len(self.basis)].z_A)

    def frame(self, turn: FloatArray) -> tuple[FloatArray, FloatArray]:
        """From in-plane positions of the file, whose rows `turn` sets upright, to cell coordinates."""
        return np.asarray(turn[:2, :2] @ self.to_cells), -self.shift


def _as_built(crystal: Crystal, place: FloatArray) -> tuple[float, float, float]:
    """Where an added atom stood before it relaxed: in the hollow next to it, as high as its sublattice; else there."""
    u, v, z = (float(x) for x in place)
    if crystal.sublattices != ("M", "X"):
        return u, v, z
    hollow = np.array([2 / 3, 2 / 3])
    cell = np.round(place[:2] - hollow)
    around = cell + hollow + np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    off = np.linalg.norm((around - place[:2]) @ crystal.plane_A(), axis=1)
    nearest = int(np.argmin(off))
    if off[nearest] > IN_HOLLOW * crystal.a_exp_A / np.sqrt(3):
        return u, v, z
    heights = [crystal.basis[k].z_A for k in crystal.column("X")]
    height = min(heights, key=lambda h: abs(h - z))
    u, v = (float(x) for x in around[nearest])
    return u, v, height if abs(height - z) < IN_HOLLOW * crystal.a_exp_A else z
