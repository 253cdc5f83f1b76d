"""What must hold of a structure from a file before it can be relaxed as a layer: upright, vacuum above, no clash."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from definet.exceptions import StructureError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

FloatArray = NDArray[np.float64]

UPRIGHT = 0.01
"""Largest cosine between c and the layer's plane: 0.6 degrees."""

VACUUM_A = 5.0
"""Least empty height above a layer: van der Waals gaps of layered crystals are 3 to 4 A."""

CLASH_A = 0.5
"""No two atoms come closer: the shortest bond there is, that of hydrogen, has 0.74 A."""


def check_layer(structure: Structure, vacuum_A: float = VACUUM_A) -> None:
    """See that all nodes form one layer with vacuum along c, and none lies upon another.

    Parameters
    ----------
    structure : pymatgen Structure
        All nodes, vacancy nodes included.
    vacuum_A : float
        Least empty height, Angstrom.

    Raises
    ------
    StructureError
    """
    a, b, c = structure.lattice.matrix
    tilt = max(abs(float(v @ c)) / float(np.linalg.norm(v) * np.linalg.norm(c)) for v in (a, b))
    if tilt > UPRIGHT:
        angle = float(np.degrees(np.arccos(min(tilt, 1.0))))
        raise StructureError(
            f"c is {angle:.1f} degrees from a or b, 90 are needed", "Write the cell with c along the layer's normal."
        )
    _, gap_A = bottom(structure)
    if gap_A < vacuum_A:
        raise StructureError(
            f"no vacuum: the largest gap along c is {gap_A:.2f} A, {vacuum_A:g} A are needed",
            "Give a single layer in a higher cell, c along its normal.",
        )
    clash = closest(structure, CLASH_A)
    if clash is not None:
        i, j, distance_A = clash
        raise StructureError(
            f"nodes {i + 1} and {j + 1} are {distance_A:.2f} A apart, closer than {CLASH_A} A", "Remove one of them."
        )


def bottom(structure: Structure) -> tuple[float, float]:
    """Cell coordinate along c at which the layer begins, and the empty height between it and its image, Angstrom."""
    height = float(np.linalg.norm(structure.lattice.matrix[2]))
    w = np.sort(structure.frac_coords[:, 2] % 1.0)
    gaps = np.diff(np.append(w, w[0] + 1.0)) * height
    k = int(np.argmax(gaps))
    return float(w[(k + 1) % len(w)]), float(gaps[k])


def closest(structure: Structure, within_A: float) -> tuple[int, int, float] | None:
    """The two nodes that are nearest to each other, images included, and their distance; None beyond `within_A`."""
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    cell, inside = structure.lattice.matrix, structure.frac_coords % 1.0
    atoms = Atoms(numbers=np.ones(len(structure), int), scaled_positions=inside, cell=cell, pbc=True)
    first, second, distance = neighbor_list("ijd", atoms, within_A)
    if len(distance) == 0:
        return None
    k = int(np.argmin(distance))
    i, j = sorted((int(first[k]), int(second[k])))
    return i, j, float(distance[k])


def upright(structure: Structure) -> tuple[Structure, FloatArray]:
    """Turn a structure so that c points along +z.

    Returns
    -------
    structure : pymatgen Structure
    turn : (3, 3) array
        Rotation: rows of Cartesian vectors times `turn` are those of the turned structure.
    """
    from pymatgen.core.lattice import Lattice

    turn = _onto_z(structure.lattice.matrix[2])
    lattice = Lattice(structure.lattice.matrix @ turn)
    return type(structure)(lattice, structure.species, structure.frac_coords), turn


def _onto_z(axis: FloatArray) -> FloatArray:
    """Smallest rotation that takes `axis` to +z, for row vectors."""
    unit = axis / np.linalg.norm(axis)
    if unit[2] < -1 + 1e-12:
        return np.diag([1.0, -1.0, -1.0])
    x, y, z = unit
    across = np.array([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]])  # v -> v turned about unit x z (Rodrigues)
    rotation = np.eye(3) + across + across @ across / (1 + z)
    return np.asarray(rotation.T, np.float64)
