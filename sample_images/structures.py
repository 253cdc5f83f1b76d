"""Atoms of a sample field: a perfect layer, the defects in it, and how far each atom moved when the defect relaxed.

Defects are built by `definet.structures` and relaxed with CHGNet at the lattice constant of that potential. The
displacements are carried over to the field at the measured lattice constant, in units of the cell vectors.

A field of polarity -1 is the field of polarity +1 turned by 180 degrees about its metal at the origin.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from fields import Placed
from numpy.typing import NDArray
from pymatgen.core.periodic_table import Element

from definet.crystals import host
from definet.structures import build, line, pristine
from definet.teacher import calculator, equilibrium_lattice, relax

PATCH = 12  # cells; beyond five cells the displacements are below a picometre and are tapered to zero
CLOSING_A = 0.1
Relaxation = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], dict[str, object]]


@dataclass(frozen=True)
class Layout:
    """Atoms of a field in crystal coordinates.

    Attributes
    ----------
    number, layer : (N,) int arrays
        Atomic number; 0, 1, 2 from the top.
    uv : (N, 2) array
        Relaxed position in units of the cell vectors, polarity +1.
    ideal : (N, 2) array
        The site it belongs to (of an added atom: the position at which it was put).
    emptied : dict of label index to list of (u, v, sublattice, missing atoms)
        What each placed defect took away, by column.
    arrived : dict of label index to list of (u, v)
        Where each placed defect put columns.
    minima : list of dict
        Relaxation of each kind of defect.
    """

    number: NDArray[np.int64]
    layer: NDArray[np.int64]
    uv: NDArray[np.float64]
    ideal: NDArray[np.float64]
    emptied: list[list[tuple[float, float, str, int]]]
    arrived: list[list[tuple[float, float]]]
    minima: list[dict[str, object]]


@dataclass(frozen=True)
class Patch:
    """A relaxed defect: per node its offset from the anchor cell, basis atom, fate and displacement (cell units)."""

    uv: NDArray[np.float64]
    basis: NDArray[np.int64]
    gone: NDArray[np.bool_]
    added: NDArray[np.bool_]
    moved: NDArray[np.float64]
    summary: dict[str, object]


@cache
def _potential(name: str) -> tuple[object, float]:
    chgnet = calculator("chgnet")
    return chgnet, equilibrium_lattice(name, chgnet)


def relaxed_patch(name: str, placed: Placed, store: Path) -> Patch:
    """Relaxed defect; one in the bottom layer is the mirror image, in height, of one in the top layer."""
    top = _relaxed_on_top(name, placed.label, placed.direction, store)
    if placed.layer == "top":
        return top
    heights = [(atom.sublattice, atom.z_A) for atom in host(name).basis]
    mirrored = np.array([heights.index((letter, -z)) for letter, z in heights])
    return replace(top, basis=mirrored[top.basis])


def _relaxed_on_top(name: str, label: str, direction: int, store: Path) -> Patch:
    facts, anchor = host(name), (PATCH // 2, PATCH // 2)
    shift, gone, ideal, summary = _relaxation(name, label, direction, store)
    uv = ideal * PATCH - np.array(anchor)
    uv -= np.round(uv / PATCH) * PATCH
    added = np.arange(len(uv)) >= len(facts.basis) * PATCH**2
    basis = np.arange(len(uv)) % len(facts.basis)
    basis[added] = np.resize(facts.column("X"), added.sum()) if added.any() else 0  # in pairs, the lower one first
    plane = facts.plane_A()
    radius = np.hypot(*((uv - uv[gone].mean(0)) @ plane).T) / facts.a_exp_A
    taper = np.cos(np.pi / 2 * np.clip((radius - PATCH / 2 + 2) / 2, 0, 1)) ** 2
    summary["largest_in_plane_displacement_A"] = round(float(np.hypot(*(shift[~gone] @ plane).T).max()), 3)
    return Patch(uv, basis, gone, added, shift * taper[:, None], summary)


def _relaxation(name: str, label: str, direction: int, store: Path) -> Relaxation:
    """In-plane displacements (cell units), vacancy nodes, ideal positions (supercell units), how it ended."""
    kept = store / f"{name}_{label}_{direction}.npz"
    if not kept.exists():
        chgnet, a_A = _potential(name)
        cell, anchor = pristine(name, PATCH, a_A=a_A), (PATCH // 2, PATCH // 2)
        if "VL-" in label:
            defect = line(cell, label, anchor, "top", direction, closing_A=CLOSING_A)
        else:
            defect = build(cell, label, anchor)
        count = len(cell.marker)  # added atoms come after it; the others are counted from their perfect sites
        ideal = np.vstack([cell.structure.frac_coords, defect.structure.frac_coords[count:]])[:, :2]
        minimum = relax(defect, chgnet)
        shift = (minimum.positions_A @ np.linalg.inv(cell.structure.lattice.matrix))[:, :2] - ideal
        shift = (shift - np.round(shift)) * PATCH
        ended = {"label": label, "converged": minimum.converged, "fmax_eV_A": round(minimum.fmax_eV_A, 4)}
        ended["a_potential_A"] = round(a_A, 4)
        np.savez(kept, shift=shift, gone=~defect.occupied, ideal=ideal, ended=json.dumps(ended))
    found = np.load(kept)
    return found["shift"], found["gone"], found["ideal"], json.loads(str(found["ended"]))


def layout(name: str, placed: tuple[Placed, ...], reach: int, store: Path, displaced: float = 1.0) -> Layout:
    """All atoms of the cells -reach .. reach with the defects in them; relaxations are kept in the folder `store`.

    Displacements are those of the potential times `displaced`.
    """
    facts = host(name)
    cells = np.arange(-reach, reach + 1)
    i, j, k = (axis.ravel() for axis in np.meshgrid(cells, cells, np.arange(len(facts.basis)), indexing="ij"))
    basis_uv = np.array([[atom.u, atom.v] for atom in facts.basis])
    ideal = np.column_stack([i, j]) + basis_uv[k]
    thirds = np.column_stack([np.round(3 * ideal).astype(int), k])
    index = {key: row for row, key in enumerate(map(tuple, thirds.tolist()))}
    shift, keep = np.zeros_like(ideal), np.ones(len(ideal), bool)
    emptied, arrived, minima, extra = [], [], [], []
    for defect in placed:
        patch = relaxed_patch(name, defect, store)
        at = patch.uv + np.array([defect.i, defect.j])
        rows = np.array([index.get((*np.round(3 * p).astype(int).tolist(), int(b)), -1)
                         for p, b in zip(at, patch.basis, strict=True)])
        stays = ~patch.added & ~patch.gone & (rows >= 0)
        moved = displaced * patch.moved
        shift[rows[stays]] += moved[stays]
        keep[rows[patch.gone]] = False
        emptied.append(_columns(at[patch.gone], patch.basis[patch.gone], facts))
        arrived.append(sorted({(float(u), float(v)) for u, v in np.round(at[patch.added], 6)}))
        extra.append((at[patch.added], at[patch.added] + moved[patch.added], patch.basis[patch.added]))
        minima.append(patch.summary)
    left = (ideal[keep], (ideal + shift)[keep], k[keep])
    ideal, uv, k = (np.concatenate(parts) for parts in zip(left, *extra, strict=True))
    numbers = np.array([Element(atom.element).Z for atom in facts.basis])[k]
    return Layout(numbers, _layers(facts)[k], uv, ideal, emptied, arrived, minima)


def _layers(facts: object) -> NDArray[np.int64]:
    """Layer of each basis atom, 0 at the top."""
    heights = np.array([atom.z_A for atom in facts.basis])
    return np.searchsorted(-np.unique(heights)[::-1], -heights)


def _columns(at: NDArray[np.float64], basis: NDArray[np.int64], facts: object) -> list[tuple[float, float, str, int]]:
    """Emptied columns with the number of atoms missing from each."""
    letters = np.array([atom.sublattice for atom in facts.basis])[basis]
    sites, first, number = np.unique(np.round(at, 6), axis=0, return_index=True, return_counts=True)
    return [(float(u), float(v), str(letters[f]), int(n)) for (u, v), f, n in zip(sites, first, number, strict=True)]
