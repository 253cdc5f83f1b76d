"""Relaxations that must not be learnt from: torn structures, atoms that left, minima that chance has chosen."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from definet.samples import Sample

FloatArray = NDArray[np.float64]

LARGEST_MOVE_A = 1.5
"""An atom that moves further than to the next site did not relax about the defect that was built."""
ISOLATED_A = 3.5
"""Longer than any bond of these hosts (Te-Te, Mo-Mo at 3.5 A are second neighbours)."""
BROKEN_A = 0.2
"""Displacements of equivalent atoms agree to 0.02 A at the residual forces allowed; ten times that is another place."""
SAME_A = 0.01


def outlier(sample: Sample) -> str | None:
    """Why a sample must not be learnt from, or None.

    "moved": an atom moved too far for a relaxation; reconstructed bonds belong to lines, trefoils and rotated bonds, so
    that there only twice that counts. "torn": an atom lost its neighbours. "broken": atoms that symmetry makes
    equivalent moved differently. The start was a saddle point, rounding chose the side, and no function of the
    structure can know which.
    """
    atoms = sample.marker != 2
    distance = np.linalg.norm(sample.displacement[atoms], axis=1)
    extended = any(mark in sample.label for mark in ("VL-", "T1", "T2", "T3", "T4", "SW"))
    if distance.max() > LARGEST_MOVE_A * (2 if extended else 1):
        return "moved"
    if _farthest_neighbour(sample.relaxed[atoms], sample.cell) > ISOLATED_A:
        return "torn"
    return "broken" if broken_symmetry_A(sample) > BROKEN_A else None


def broken_symmetry_A(sample: Sample) -> float:
    """Largest difference between displacements of atoms that the unrelaxed structure's symmetry makes equivalent."""
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    atoms = sample.marker != 2
    lattice = Lattice(sample.cell)
    positions, moved = sample.positions[atoms], sample.displacement[atoms]
    structure = Structure(lattice, sample.numbers[atoms], positions, coords_are_cartesian=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="spglib")
        operations = SpacegroupAnalyzer(structure, symprec=SAME_A).get_symmetry_operations(cartesian=True)
    largest = 0.0
    for operation in operations:
        image = positions @ operation.rotation_matrix.T + operation.translation_vector
        partner = _nearest(image, positions, sample.cell)
        difference = moved @ operation.rotation_matrix.T - moved[partner]
        difference -= difference.mean(axis=0)
        largest = max(largest, float(np.linalg.norm(difference, axis=1).max()))
    return largest


def _nearest(points: FloatArray, positions: FloatArray, cell: FloatArray) -> NDArray[np.int64]:
    """Index of the position nearest to each point, periodic images included."""
    inverse = np.linalg.inv(cell)
    offset = (points @ inverse)[:, None] - (positions @ inverse)[None]
    distance = np.linalg.norm((offset - np.round(offset)) @ cell, axis=2)
    return np.asarray(distance.argmin(axis=1))


def _farthest_neighbour(positions: FloatArray, cell: FloatArray) -> float:
    """Distance from the loneliest atom to its nearest neighbour, Angstrom."""
    fractional = positions @ np.linalg.inv(cell)
    offset = fractional[:, None] - fractional[None]
    distance = np.linalg.norm((offset - np.round(offset)) @ cell, axis=2)
    np.fill_diagonal(distance, np.inf)
    return float(distance.min(axis=1).max())
