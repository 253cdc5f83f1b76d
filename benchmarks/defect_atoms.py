"""Atoms of a layer with one defect in it, relaxed, and of what only looks like one: adatoms, a hole, a second layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from defect_kinds import moved
from defect_series import lattice_xy
from numpy.typing import NDArray
from pymatgen.core.periodic_table import Element

from definet.crystals import host

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

REACH = 16
"""Cells on each side."""

TAPER = (1.8, 3.0)
"""Lattice constants from the nearest site of the defect: displacements are whole up to the first, none from the second
on."""

HOLE_A, ISLAND_A = 8.0, 9.0
"""Radii."""


@dataclass(frozen=True)
class Atoms:
    """Atoms of a layer.

    Attributes
    ----------
    number, layer : (N,) int arrays
        Atomic number; slice of the multislice from the top, 0, 1, 2 in a single layer.
    xy_A : (N, 2) array
    spacing_A : float
        Between slices.
    sites_uv : (K, 2) array
        Where the defect is, in crystal coordinates.
    truth : list of (sublattice, column)
        Of each site: M, X, H (hollow), and what stands there: "" for nothing, else such as S, SSe, W.
    spread_A : float
        How far the defect extends beyond its sites.
    relaxed : dict
        How the relaxation ended; empty where nothing was relaxed.
    stiff : bool
        Whether no neighbour moves by more than 0.02 A in the plane.
    """

    number: IntArray
    layer: IntArray
    xy_A: FloatArray
    spacing_A: float
    sites_uv: FloatArray
    truth: list[tuple[str, str]]
    spread_A: float
    relaxed: dict[str, object]
    stiff: bool = True

    def around(self, middle_A: FloatArray, side_A: float) -> Atoms:
        """Those in a square, counted from its middle."""
        xy = self.xy_A - middle_A
        inside = np.abs(xy).max(1) <= side_A / 2
        return replace(self, number=self.number[inside], layer=self.layer[inside], xy_A=xy[inside])


def extra_labels(name: str) -> list[str]:
    """What is no defect of the layer."""
    return ["island", "hole", f"{host(name).elements['M']}@H", f"{host(name).elements['M']}@M", "C@H"]


def atoms_of(name: str, label: str, turn: int) -> Atoms:
    """A layer with one defect about the origin, turned by 120 degrees times `turn`."""
    if label == "hole":
        return _hole(name)
    if label == "island":
        return _island(name)
    if "@" in label:
        return _adatom(name, label)
    return _defect(name, label, turn)


def perfect(name: str, side_A: float) -> Atoms:
    """A square of the perfect layer, metal in its middle."""
    uv, number, layer, spacing = _layer(name)
    return _atoms(name, uv, number, layer, spacing).around(np.zeros(2), side_A)


def _layer(name: str) -> tuple[FloatArray, IntArray, IntArray, float]:
    basis = host(name).basis
    spacing = float(np.ptp([atom.z_A for atom in basis]) / 2)
    cells = np.arange(-REACH, REACH + 1)
    i, j, k = (axis.ravel() for axis in np.meshgrid(cells, cells, np.arange(len(basis)), indexing="ij"))
    uv = np.column_stack([i, j]) + np.array([[atom.u, atom.v] for atom in basis])[k]
    number = np.array([Element(atom.element).Z for atom in basis])[k]
    return uv, number, _slice(np.array([atom.z_A for atom in basis])[k], spacing), spacing


def _slice(z_A: FloatArray, spacing: float) -> IntArray:
    """An atom halfway between two slices (a metal on one chalcogen site) belongs to the upper one."""
    return np.ceil(0.5 - z_A / spacing - 1e-3).astype(int)


def _atoms(name: str, uv: FloatArray, number: IntArray, layer: IntArray, spacing: float) -> Atoms:
    return Atoms(number, layer, lattice_xy(name, uv), spacing, np.zeros((1, 2)), [("M", "")], 0.0, {})


def _defect(name: str, label: str, turn: int) -> Atoms:
    patch = moved(name, label)
    defect, facts = patch.defect, host(name)
    shape, basis = np.array(defect.shape), len(facts.basis)
    uv, number, layer, spacing = _layer(name)
    nodes = defect.structure.frac_coords[:, :2] * shape
    perfect_uv = np.array([[atom.u, atom.v] for atom in facts.basis])
    count = int(shape.prod()) * basis
    k = np.arange(count) % basis
    i, j = np.divmod(np.arange(count) // basis, shape[1])
    nodes[:count] = np.column_stack([i, j]) + perfect_uv[k]
    anchor = np.floor(nodes[list(defect.sites)].mean(0))
    nodes = nodes - anchor
    nodes -= np.round(nodes / shape) * shape
    nodes, shift = (_turned(some, turn) for some in (nodes, patch.shift))
    at = nodes[list(defect.sites)]
    gaps = np.linalg.norm(lattice_xy(name, (nodes[:, None] - at).reshape(-1, 2)).reshape(len(nodes), -1, 2), axis=2)
    far = (gaps.min(1) / facts.a_exp_A - TAPER[0]) / (TAPER[1] - TAPER[0])
    shift = shift * (np.cos(np.pi / 2 * far.clip(0, 1)) ** 2)[:, None]
    new_number = np.array([Element(site.specie.symbol).Z for site in defect.structure])
    new_layer = _slice((defect.structure.frac_coords[:, 2] - 0.5) * defect.structure.lattice.c, spacing)
    row = {key: r for r, key in enumerate(zip(*np.round(3 * uv).astype(int).T.tolist(), layer.tolist(), strict=True))}
    base = np.array([row[(*t, int(z))] for t, z in zip(
        np.round(3 * nodes[:count]).astype(int).tolist(), _slice(np.array([a.z_A for a in facts.basis])[k], spacing),
        strict=True)])
    put = uv.copy()
    put[base] += shift[:count]
    number[base], layer[base] = new_number[:count], new_layer[:count]
    keep = np.ones(len(uv), bool)
    keep[base[~defect.occupied[:count]]] = False
    put = np.vstack([put[keep], nodes[count:] + shift[count:]])
    all_numbers = np.concatenate([number[keep], new_number[count:]])
    layers = np.concatenate([layer[keep], new_layer[count:]])
    ideal = np.vstack([uv[keep], nodes[count:]])
    sites = np.unique(np.round(at, 6), axis=0)
    truth = [_standing(ideal, all_numbers, site) for site in sites]
    made = _atoms(name, put, all_numbers, layers, spacing)
    stiff = np.hypot(*lattice_xy(name, shift).T).max() < 0.02
    return replace(made, sites_uv=sites, truth=truth, relaxed=patch.ended, stiff=bool(stiff))


def _turned(uv: FloatArray, turn: int) -> FloatArray:
    """By 120 degrees times `turn`, counter-clockwise."""
    for _ in range(turn % 3):
        uv = np.column_stack([-uv.sum(1), uv[:, 0]])
    return uv


def _standing(ideal: FloatArray, number: IntArray, site: FloatArray) -> tuple[str, str]:
    """Sublattice of a site and the column that stands there: S2, S, SSe, W, or nothing."""
    sublattice = "MXH"[int(np.round(3 * site[0])) % 3]
    here = sorted(number[np.abs(ideal - site).max(1) < 1e-3].tolist())
    names = [Element.from_Z(z).symbol for z in here]
    if len(names) == 2 and names[0] == names[1]:
        return sublattice, names[0] + "2"
    return sublattice, "".join(names)


def together(name: str, placed: list[tuple[str, int, int]], turn: int) -> Atoms:
    """Several defects at (i, j) in one layer; what each does to the atoms is added."""
    uv, number, layer, spacing = _layer(name)
    perfect_xy = lattice_xy(name, uv)
    xy, keep, number = perfect_xy.copy(), np.ones(len(uv), bool), number.copy()
    for label, i, j in placed:
        alone = atoms_of(name, label, turn)
        centre = lattice_xy(name, np.array([[i, j]], float))[0]
        near = np.flatnonzero(np.hypot(*(perfect_xy - centre).T) < 5 * host(name).a_exp_A)
        gaps = np.hypot(*np.moveaxis(perfect_xy[near, None] - alone.xy_A - centre, -1, 0))
        gaps[layer[near, None] != alone.layer] = np.inf
        own, gap = gaps.argmin(1), gaps.min(1)
        keep[near[gap > 1.0]] = False
        here, there = near[gap <= 1.0], own[gap <= 1.0]
        xy[here] += alone.xy_A[there] + centre - perfect_xy[here]
        swapped = alone.number[there] != _layer(name)[1][here]
        number[here[swapped]] = alone.number[there[swapped]]
    return Atoms(number[keep], layer[keep], xy[keep], spacing, np.zeros((1, 2)), [("M", "")], 0.0, {})


def _adatom(name: str, label: str) -> Atoms:
    """An atom in the upper chalcogen plane over a hollow, or a slice higher over a metal; nobody makes way."""
    element, _, where = label.partition("@")
    uv, number, layer, spacing = _layer(name)
    site = np.array([[2 / 3, 2 / 3]]) - 1 if where == "H" else np.zeros((1, 2))
    slice_ = 0 if where == "H" else -1
    made = _atoms(
        name, np.vstack([uv, site]), np.append(number, Element(element).Z), np.append(layer, slice_), spacing
    )
    column = element if where == "H" else element + host(name).elements["M"]
    return replace(made, sites_uv=site, truth=[(where, column)])


def _hole(name: str) -> Atoms:
    """Everything within a radius is gone, and every chalcogen that lost two of its three metals."""
    uv, number, layer, spacing = _layer(name)
    xy = lattice_xy(name, uv)
    keep = np.hypot(*xy.T) > HOLE_A
    metal = number == Element(host(name).elements["M"]).Z
    bonded = np.hypot(*np.moveaxis(xy[:, None] - xy[metal & keep], -1, 0)) < 0.7 * host(name).a_exp_A
    keep &= metal | (bonded.sum(1) >= 2) | (np.hypot(*xy.T) > HOLE_A + 6)
    made = _atoms(name, uv[keep], number[keep], layer[keep], spacing)
    return replace(made, truth=[("-", "hole")], spread_A=HOLE_A)


def _island(name: str) -> Atoms:
    """A second layer below, stacked as in the bulk (2H: metal below chalcogen), within a radius."""
    uv, number, layer, spacing = _layer(name)
    below = uv.copy()
    metal = number == Element(host(name).elements["M"]).Z
    below += np.where(metal, 1, -1)[:, None] / 3
    inside = np.hypot(*lattice_xy(name, below).T) < ISLAND_A
    # a layer is 6.15 to 6.5 A high, four slices of 1.56 to 1.68 A
    made = _atoms(
        name, np.vstack([uv, below[inside]]), np.append(number, number[inside]),
        np.append(layer, layer[inside] + 4), spacing,
    )
    return replace(made, truth=[("-", "second-layer")], spread_A=ISLAND_A)
