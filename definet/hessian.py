"""The Hessian of a potential at one structure: what a relaxation with forces that cost minutes can start from.

An optimiser that knows nothing of the bonds takes one stiffness for all of them (ASE's BFGS: 70 eV/A^2) and learns the
rest step by step. A potential is wrong about where the atoms go, and nearly right about how stiff each motion is: its
second derivatives, taken once, save most of these steps. This module needs numpy and ASE alone.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

STEP_A = 0.02
"""Displacement of the central differences: anharmonic terms cancel to second order, single precision of a potential
(1e-5 eV/A in a force) leaves 1e-3 eV/A^2."""

FLOOR_eV_A2 = 0.25
"""Least stiffness that an optimiser is told of: a force of 0.05 eV/A, at which relaxations end, then asks for a step of
0.2 A, the longest of ASE's BFGS. With less, a motion that the potential finds too soft would shorten all the others."""


def stiffness(atoms: Atoms) -> FloatArray:
    """Second derivatives (3 A, 3 A) of the energy of atoms that carry their calculator, eV/A^2; two force calls each.

    Rows and columns: x, y, z of the first atom, then of the second. Symmetric; may have negative eigenvalues where the
    potential is not at its minimum. The atoms are left where they were.
    """
    rest, rows = atoms.get_positions(), []
    for k, axis in product(range(len(atoms)), range(3)):
        pair = []
        for sign in (1, -1):
            moved = rest.copy()
            moved[k, axis] += sign * STEP_A
            atoms.set_positions(moved)
            pair.append(atoms.get_forces().ravel())
        rows.append((pair[1] - pair[0]) / (2 * STEP_A))
    atoms.set_positions(rest)
    matrix = np.array(rows)
    return np.asarray((matrix + matrix.T) / 2)


def preconditioner(matrix: FloatArray) -> FloatArray:
    """A positive definite Hessian with the same motions: each stiffness by its size, at least `FLOOR_eV_A2`.

    Where the energy curves downward a step of the same length goes along the force instead of against it; shifts of the
    whole layer, which cost nothing, get the least stiffness (Nocedal & Wright, *Numerical Optimization*, section 3.4).
    """
    stiff, motions = np.linalg.eigh(matrix)
    return np.asarray((motions * np.maximum(np.abs(stiff), FLOOR_eV_A2)) @ motions.T)
