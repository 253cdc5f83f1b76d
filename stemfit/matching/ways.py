"""The equivalent ways in which a structure can lie in its host, and the structure in a patch that is large enough.

A layer can be turned, and turned over, in as many ways as its crystal has proper rotations: six for an H-phase
dichalcogenide (point group of the projection C3v), twelve for graphene. Turned over, it looks from above like its
mirror image; improper operations look the same and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from definet.crystals import Crystal
from definet.structures import Addition, Edit, Exchange, Site
from stemfit.matching.given import Given

if TYPE_CHECKING:
    from definet.structures import DefectStructure

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Way:
    """A proper rotation that takes a crystal onto itself.

    Attributes
    ----------
    turn : (2, 2) int array
        Cell coordinates (rows) become ``uv @ turn + shift``.
    shift : (2,) array
    over : bool
        Whether the layer is turned over: heights change sign.
    """

    turn: IntArray
    shift: FloatArray
    over: bool

    def place(self, uv: FloatArray) -> FloatArray:
        """New cell coordinates of (..., 2)."""
        return np.asarray(uv @ self.turn + self.shift)

    def step_A(self, step: FloatArray, crystal: Crystal) -> FloatArray:
        """New direction of steps (..., 3), Angstrom."""
        plane = crystal.plane_A()
        flat = step[..., :2] @ np.linalg.inv(plane) @ self.turn @ plane
        return np.concatenate([flat, step[..., 2:] * (-1 if self.over else 1)], axis=-1)

    def site(self, site: Site, crystal: Crystal) -> Site:
        """Where a site goes."""
        atom = crystal.basis[site.k]
        uv, z = self.place(np.array([site.i + atom.u, site.j + atom.v])), -atom.z_A if self.over else atom.z_A
        for k, other in enumerate(crystal.basis):
            cell = np.rint(uv - [other.u, other.v])
            if other.element == atom.element and _same(uv - cell, z, other.u, other.v, other.z_A):
                return Site(int(cell[0]), int(cell[1]), k)
        raise ValueError(f"{site} goes to no site of {crystal.name}")


def _same(uv: FloatArray, z: float, u: float, v: float, height: float) -> bool:
    return bool(np.abs(uv - [u, v]).max() < 1e-6 and abs(z - height) < 1e-6)


@lru_cache(maxsize=32)
def ways_of(crystal: Crystal) -> tuple[Way, ...]:
    """All of them, the identity first."""
    plane = crystal.plane_A()
    gram = plane @ plane.T
    turns = [np.array(entries).reshape(2, 2) for entries in product((1, 0, -1), repeat=4)]
    turns = [t for t in turns if abs(np.linalg.det(t)) > 0.5 and np.allclose(t @ gram @ t.T, gram, atol=1e-6)]
    found: dict[tuple[float, ...], Way] = {}
    first = crystal.basis[0]
    for turn, other in product(turns, crystal.basis):
        shift = np.array([other.u, other.v]) - np.array([first.u, first.v]) @ turn
        way = Way(turn, np.round(shift % 1.0, 9) % 1.0, bool(np.linalg.det(turn) < 0))
        try:
            for k in range(len(crystal.basis)):
                way.site(Site(0, 0, k), crystal)
        except ValueError:
            continue
        found[(*turn.ravel().tolist(), *way.shift.tolist())] = way
    return tuple(sorted(found.values(), key=lambda w: (w.over, -int(np.trace(w.turn)), *w.turn.ravel().tolist())))


def turned(given: Given, way: Way) -> Given:
    """The same structure lying in another way."""
    crystal, edit = given.crystal, given.edit
    heights = -1.0 if way.over else 1.0
    there = way.place(np.array([[a.u, a.v] for a in edit.add]).reshape(-1, 2)).tolist()
    add = tuple(Addition(a.element, u, v, heights * a.z_A) for a, (u, v) in zip(edit.add, there, strict=True))
    exchange = tuple(
        Exchange(way.site(e.site, crystal), e.element, None if e.z_A is None else heights * e.z_A)
        for e in edit.exchange
    )
    return replace(
        given,
        edit=Edit(edit.label, tuple(way.site(s, crystal) for s in edit.remove), exchange, add),
        moved={way.site(s, crystal): way.step_A(step, crystal) for s, step in given.moved.items()},
        moved_added=way.step_A(given.moved_added, crystal),
        frame=(given.frame[0] @ way.turn, given.frame[1] @ way.turn + way.shift),
    )


class Embedded(NamedTuple):
    """A structure in a patch.

    Attributes
    ----------
    structure : DefectStructure
        Built on ideal sites.
    step_A : (N, 3) array
        How far each node is from there in the file.
    anchor : (2,) int array
        Cell of the patch that is cell (0, 0) of the structure.
    """

    structure: DefectStructure
    step_A: FloatArray
    anchor: IntArray

    @property
    def positions_A(self) -> FloatArray:
        """(N, 3) as in the file."""
        return np.asarray(self.structure.nodes_A + self.step_A)


def places_of(given: Given) -> FloatArray:
    """Cell coordinates (C, 2) of all that a structure changes, one of each column."""
    basis = given.crystal.basis
    sites = [*given.edit.remove, *(e.site for e in given.edit.exchange)]
    every = [(s.i + basis[s.k].u, s.j + basis[s.k].v) for s in sites] + [(a.u, a.v) for a in given.edit.add]
    return np.unique(np.round(np.array(every), 6), axis=0)


def centre_of(given: Given) -> FloatArray:
    """Mean (2,) of the places that a structure changes, cell coordinates."""
    return np.asarray(places_of(given).mean(0))


def reach_cells(given: Given) -> float:
    """Distance of the outermost changed place from the middle, lattice constants."""
    crystal = given.crystal
    off = (places_of(given) - centre_of(given)) @ crystal.plane_A() / crystal.a_exp_A
    return float(np.hypot(*off.T).max())


@lru_cache(maxsize=16)
def perfect(host: str, cells: int) -> DefectStructure:
    """Patch of a host without a defect; the same object for all who ask."""
    from definet.structures import pristine

    return pristine(host, cells)


def embedded(given: Given, cells: int) -> Embedded:
    """Put a structure into the middle of a patch of so many cells a side.

    Beyond the period of the file nothing is displaced: it would be by the periodic images of the defect.
    """
    from definet.structures import place

    anchor = np.rint(cells / 2 - centre_of(given)).astype(np.int64)
    made = place(perfect(given.crystal.name, cells), given.edit, (int(anchor[0]), int(anchor[1])))
    step, count = np.zeros((len(made.marker), 3)), len(given.crystal.basis)
    for (i, j, k), move in given.moved.items():
        p, q = i + int(anchor[0]), j + int(anchor[1])
        if 0 <= p < cells and 0 <= q < cells:
            step[(p * cells + q) * count + k] = move
    first = len(made.marker) - len(given.moved_added)
    step[first:] = given.moved_added
    step[~made.occupied] = 0.0
    return Embedded(made, step, anchor)
