"""What was found on several sites of an image, one by one, as one structure: the rival of a structure that has parts.

A structure that is right in two of three defects gains as much over the perfect crystal as these two do. It loses
against what has exactly these two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from definet.structures import CHANGED, VACANCY, Addition, Edit, Exchange, elements_of
from definet.structures import Site as Node
from stemfit.candidates import Candidate
from stemfit.defects import Site
from stemfit.lattice import Lattice, SiteMap
from stemfit.matching.given import Given
from stemfit.matching.held import columns_at
from stemfit.matching.places import in_lattice, named
from stemfit.matching.ways import places_of

FloatArray = NDArray[np.float64]


def together(parts: Sequence[Candidate], like: Given, lattice: Lattice, sites: SiteMap) -> Given:
    """One structure of several candidates in cells of the crystal frame, unrelaxed.

    Parameters
    ----------
    parts : sequence of Candidate
        Of different defects.
    like : Given
        Any structure of the same host.
    lattice : Lattice
    sites : SiteMap
    """
    remove: list[Node] = []
    exchange: list[Exchange] = []
    add: list[Addition] = []
    for part in parts:
        made = part.structure
        elements, own = elements_of(made.structure), np.array(made.sites)
        middle_A = float(made.structure.lattice.c) / 2
        at_px = made.nodes_A[own, :2] @ part.matrix.T + part.offset_px
        count = len(like.crystal.basis) * made.shape[0] * made.shape[1]
        for node, uv in zip(own.tolist(), _in_crystal(at_px, lattice, sites), strict=True):
            z = float(made.nodes_A[node, 2]) - middle_A
            if node >= count:
                add.append(Addition(elements[node], float(uv[0]), float(uv[1]), z))
                continue
            k = node % len(like.crystal.basis)
            i, j = np.rint(uv - [like.crystal.basis[k].u, like.crystal.basis[k].v]).astype(int).tolist()
            if made.marker[node] == VACANCY:
                remove.append(Node(i, j, k))
            elif made.marker[node] == CHANGED:
                exchange.append(Exchange(Node(i, j, k), elements[node], z))
    label = "+".join(sorted(part.label for part in parts))
    edit = Edit(label, tuple(remove), tuple(exchange), tuple(add))
    return Given(Path(), "", label, like.crystal, edit, {}, np.zeros((len(add), 3)), like.frame)


Signature = frozenset[tuple[tuple[float, ...], str, int]]
"""What a structure takes away from each place of the image's lattice, and what it puts there."""


def signature(lying: Given, lattice: Lattice, cell: NDArray[np.int64] | None = None) -> Signature:
    """The same for structures that hold the same on the same columns, in whatever layer and under whatever name.

    Parameters
    ----------
    lying : Given
    lattice : Lattice
        Of the image.
    cell : (2,) int array, optional
        Translation, in cells of the image's lattice.
    """
    basis = lying.crystal.basis
    gone = [*lying.edit.remove, *(e.site for e in lying.edit.exchange)]
    new = [(e.site, e.element) for e in lying.edit.exchange]
    changes = [(s.i + basis[s.k].u, s.j + basis[s.k].v, f"-{basis[s.k].element}") for s in gone]
    changes += [(s.i + basis[s.k].u, s.j + basis[s.k].v, f"+{element}") for s, element in new]
    changes += [(a.u, a.v, f"+{a.element}") for a in lying.edit.add]
    uv = in_lattice(np.array([change[:2] for change in changes]), lattice.polarity)
    # Columns are thirds of a cell apart: a tenth tells them apart, and forgives what distortion adds to added ones.
    at = np.round(uv if cell is None else uv + cell, 1) + 0.0
    count = Counter((tuple(place.tolist()), change[2]) for place, change in zip(at, changes, strict=True))
    return frozenset((place, what, n) for (place, what), n in count.items())


def contents(
    lying: Given, lattice: Lattice, names: Sequence[str], cell: NDArray[np.int64] | None = None
) -> dict[Site, str]:
    """Column types on the sites of the image that a structure changes; `names` are those of the sublattices."""
    uv = places_of(lying)
    at = in_lattice(uv, lattice.polarity) + (0 if cell is None else cell)
    return dict(zip(named(at, lattice, names), columns_at(lying, uv), strict=True))


def _in_crystal(at_px: FloatArray, lattice: Lattice, sites: SiteMap) -> FloatArray:
    """Crystal coordinates (K, 2) of places next to sites, with the distortion that these have."""
    nearest = np.asarray(cKDTree(sites.xy_px).query(at_px)[1])
    which = np.isin(sites.sublattice[nearest], ("X", "B")).astype(int)
    own = sites.ij[nearest] + lattice.basis[which]
    cell = np.column_stack([lattice.a_px, lattice.b_px])
    uv = own + np.linalg.solve(cell, (at_px - sites.xy_px[nearest]).T).T
    return uv if lattice.polarity > 0 else np.column_stack([uv.sum(1), -uv[:, 0]])
