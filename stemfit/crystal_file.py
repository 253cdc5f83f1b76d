"""A host that the user brings: any layer in a CIF, seen along c."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from definet.crystals import HOSTS, BasisAtom, Crystal
from stemfit.errors import InputError, UsageError
from stemfit.hosts import ProjectedHost, pattern, projected
from stemfit.optics.scattering import column_elements

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

FloatArray = NDArray[np.float64]

STACK_A = 0.3
"""Atoms closer than this in projection are one column: no probe tells them apart."""

VACUUM_A = 5.0
"""Least empty height of a layer: van der Waals gaps of layered crystals are 3 to 4 A."""

UPRIGHT = 0.01
"""Largest cosine between c and the layer's plane: 0.6 degrees."""

MOST_COLUMNS = 60
"""Columns of a cell up to which an image can say which is which."""

SAME_LENGTH, SAME_PLACE_A = 0.03, 0.15
"""Relative difference of cells, and distance of columns, up to which a crystal is the one of the table: lattice
constants of different functionals differ by 2 %."""


def asked_host(asked: str) -> ProjectedHost | None:
    """The host that a user means: "auto" (None), a name, or a CIF.

    Raises
    ------
    UnknownHost
        If there is none of that name.
    InputError, UsageError
        As of `read_host`.
    """
    if asked == "auto":
        return None
    return read_host(Path(asked)) if asked.lower().endswith(".cif") else projected(asked)


def read_host(path: Path) -> ProjectedHost:
    """Project the unit cell of a CIF along c.

    A crystal that looks like one of the table from above is that one, with the lattice constant of the file.

    Raises
    ------
    InputError
        There is no such file, or it is no CIF.
    UsageError
        It is no layer with vacuum above, lying flat on a and b.
    """
    structure = _structure(path)
    crystal = _layer(structure, path)
    host = pattern(crystal, _columns(crystal))
    if len(host.columns) > MOST_COLUMNS:
        many = f"{len(host.columns)} columns in a cell, more than {MOST_COLUMNS}"
        raise UsageError(many, remedy="give the primitive cell", subject=path)
    for column in host.columns:
        column_elements(column)
    return _known(host) or host


def _structure(path: Path) -> Structure:
    if not path.is_file():
        raise InputError("no such file", remedy="check the path of the host's CIF", subject=path)
    try:
        from pymatgen.core.structure import Structure

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser warns of rounded coordinates
            structure = Structure.from_str(path.read_text(encoding="utf-8", errors="replace"), fmt="cif")
    except Exception as error:  # the parser raises whatever it meets first
        what = f"no structure can be read ({error})"
        raise InputError(what, remedy="give a CIF with a cell and atom sites", subject=path) from error
    if not structure.is_ordered:
        raise UsageError("sites are partially occupied", remedy="give an ordered structure", subject=path)
    return structure


def _layer(structure: Structure, path: Path) -> Crystal:
    """The layer with a along +x, and heights from its middle."""
    a, b, c = np.asarray(structure.lattice.matrix)
    tilt = max(abs(float(v @ c)) / float(np.linalg.norm(v) * np.linalg.norm(c)) for v in (a, b))
    if tilt > UPRIGHT:
        raise UsageError(
            f"c is not normal to a and b (cosine {tilt:.3f})", remedy="write the cell with c along the layer's normal",
            subject=path,
        )
    height = float(np.linalg.norm(c))
    w = np.sort(structure.frac_coords[:, 2] % 1.0)
    gaps = np.diff(np.append(w, w[0] + 1.0)) * height
    if gaps.max() < VACUUM_A:
        raise UsageError(
            f"no vacuum along c: the largest gap is {gaps.max():.1f} A, {VACUUM_A:g} A is the least of a single layer",
            remedy="give one layer with vacuum above it", subject=path,
        )
    k = int(np.argmax(gaps))
    bottom = w[(k + 1) % len(w)]
    z = ((structure.frac_coords[:, 2] - bottom + 1e-9) % 1.0) * height
    z = z - (z.max() + z.min()) / 2
    angle = float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))
    atoms = tuple(
        BasisAtom("", site.specie.symbol, float(u % 1.0), float(v % 1.0), float(h))
        for site, (u, v, _), h in zip(structure, structure.frac_coords, z, strict=True)
    )
    return Crystal(path.name, float(np.linalg.norm(a)), float(np.linalg.norm(b)), atoms, str(path.name), angle)


def _columns(crystal: Crystal) -> tuple[tuple[int, ...], ...]:
    """Basis indices of the atoms that stand above each other, bottom to top."""
    uv = np.array([[atom.u, atom.v] for atom in crystal.basis])
    distance = _distance(uv[:, None] - uv[None], crystal.plane_A())
    group = list(range(len(uv)))
    for i, j in zip(*np.nonzero(distance < STACK_A), strict=True):
        low, high = sorted((group[i], group[j]))
        group = [low if g == high else g for g in group]
    height = [atom.z_A for atom in crystal.basis]
    stacks = (tuple(k for k, g in enumerate(group) if g == first) for first in dict.fromkeys(group))
    return tuple(tuple(sorted(stack, key=lambda k: height[k])) for stack in stacks)


def _distance(step: FloatArray, plane: FloatArray) -> FloatArray:
    """Length of the shortest of the equivalent steps (..., 2) in cell coordinates, Angstrom."""
    near = step - np.round(step)
    around = near[..., None, :] + np.array(list(product((-1, 0, 1), repeat=2)))
    return np.asarray(np.linalg.norm(around @ plane, axis=-1).min(axis=-1))


def _known(host: ProjectedHost) -> ProjectedHost | None:
    """The host of the table that looks the same from above, with the scale of the file; None if there is none."""
    for name in HOSTS:
        listed = projected(name)
        crystal = HOSTS[name]
        scale = _same(host, pattern(crystal, tuple(crystal_columns(listed))))
        if scale is not None:
            return _scaled(listed, scale)
    return None


def crystal_columns(host: ProjectedHost) -> list[tuple[int, ...]]:
    """Basis indices of the column of each sublattice."""
    return [host.column_atoms(s) for s in host.sublattices]


def _same(host: ProjectedHost, listed: ProjectedHost) -> float | None:
    """Scale of `host` relative to `listed` where both have the same pattern, None where they do not."""
    if sorted(host.columns) != sorted(listed.columns):
        return None
    scale = host.cell.pitch / listed.cell.pitch
    if abs(np.log(scale)) > SAME_LENGTH:
        return None
    plane, wanted = np.array(host.cell.plane), scale * np.array(listed.cell.plane)
    gram = wanted @ wanted.T
    for entries in product((-1, 0, 1), repeat=4):
        turn = np.array(entries).reshape(2, 2)
        cell = turn @ plane
        if round(float(np.linalg.det(turn))) != 1 or np.abs(cell @ cell.T - gram).max() > SAME_LENGTH * gram.max():
            continue
        if _overlap(np.array(host.cell.basis) @ np.linalg.inv(turn), host.columns, listed, wanted):
            return scale
    return None


def _overlap(basis: FloatArray, columns: tuple[str, ...], listed: ProjectedHost, plane: FloatArray) -> bool:
    """Whether columns (K, 2) lie on those of `listed` after some shift."""
    there = np.array(listed.cell.basis)
    types = np.array(columns)[:, None] == np.array(listed.columns)[None]
    for target in range(len(there)):
        off = _distance((basis - basis[0] + there[target])[:, None] - there[None], plane)
        if ((off < SAME_PLACE_A) & types).any(axis=1).all():
            return True
    return False


def _scaled(host: ProjectedHost, scale: float) -> ProjectedHost:
    """The same crystal with another lattice constant, in the plane."""
    crystal = host.structure
    b_A = None if crystal.b_exp_A is None else crystal.b_exp_A * scale
    crystal = replace(crystal, a_exp_A=crystal.a_exp_A * scale, b_exp_A=b_A)
    if host.honeycomb:
        return replace(host, a_A=crystal.a_exp_A, crystal=crystal)
    return pattern(crystal, tuple(crystal_columns(host)))
