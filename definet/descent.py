"""Descend to the minimum next to a defect structure, preconditioned with the stiffness of the pristine crystal.

A defect changes few bonds, so the force constants of its host are the Hessian almost everywhere: stiff stretching, soft
bending and the long elastic waves are taken out at once, and a limited-memory BFGS (Nocedal & Wright, *Numerical
Optimization*, algorithm 7.4) learns the rest in a few steps. There is no line search: the potentials compute in single
precision, whose rounding of the energy ends a line search long before the forces are small. One force call per step.
"""

from __future__ import annotations

from itertools import product
from weakref import WeakKeyDictionary

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from definet.crystals import Crystal
from definet.structures import DefectStructure, pristine
from definet.structures.placement import facts_of

FloatArray = NDArray[np.float64]

CELLS = 5
"""Supercell in which force constants are taken; odd, so that nearest images are nearly unique."""
STEP_A = 0.02
"""Displacement of the central differences."""
FLOOR_eV_A2 = 0.05
"""Added stiffness: keeps the softest bending waves, whose stiffness changes most at a defect, from running away."""
LARGEST_STEP_A = 0.15
MEMORY = 30

_KNOWN: WeakKeyDictionary[Calculator, dict[tuple[Crystal, float], FloatArray]] = WeakKeyDictionary()


def descend(atoms: Atoms, stiffness: FloatArray, fmax: float, max_steps: int) -> int:
    """Move atoms, which carry their calculator, until the largest force is below `fmax` (eV/A); force calls made.

    Parameters
    ----------
    atoms : ase.Atoms
        Changed in place.
    stiffness : (3 N, 3 N) array
        Positive definite or nearly, eV/A^2.
    fmax : float
    max_steps : int
    """
    factor = _factor(stiffness)
    steps: list[tuple[FloatArray, FloatArray]] = []
    gradient = -atoms.get_forces().ravel()
    for made in range(max_steps):
        if np.linalg.norm(gradient.reshape(-1, 3), axis=1).max() <= fmax:
            return made
        move = -_two_loops(gradient, steps, factor)
        longest = np.linalg.norm(move.reshape(-1, 3), axis=1).max()
        move *= min(1.0, LARGEST_STEP_A / longest)
        atoms.set_positions(atoms.get_positions() + move.reshape(-1, 3))
        after = -atoms.get_forces().ravel()
        change = after - gradient
        # Where the energy curves downward the pair would spoil the model: forget and follow the host's stiffness.
        steps = [*steps, (move, change)][-MEMORY:] if move @ change > 0 else []
        gradient = after
    return max_steps


def _two_loops(
    gradient: FloatArray, steps: list[tuple[FloatArray, FloatArray]], factor: tuple[FloatArray, bool]
) -> FloatArray:
    """Product of the inverse Hessian's estimate and the gradient."""
    shares: list[float] = []
    for move, change in reversed(steps):
        shares.append(float(move @ gradient / (move @ change)))
        gradient = gradient - shares[-1] * change
    product_ = np.asarray(cho_solve(factor, gradient), np.float64)
    for (move, change), share in zip(steps, reversed(shares), strict=True):
        product_ = product_ + move * (share - change @ product_ / (move @ change))
    return product_


def _factor(stiffness: FloatArray) -> tuple[FloatArray, bool]:
    """Cholesky factor, with as much added stiffness as makes it positive definite."""
    shift = FLOOR_eV_A2
    while True:
        try:
            factor, lower = cho_factor(stiffness + shift * np.eye(len(stiffness)))
            return factor, bool(lower)
        except LinAlgError:
            shift *= 4


def softest(crystal: Crystal, a_A: float, calculator: Calculator) -> float:
    """Least stiffness of a wave in the pristine layer, eV/A^2; below zero the potential would rather have another one.

    Of the waves that fit into 5 x 5 cells, rigid shifts aside.
    """
    waves = np.linalg.eigvalsh(host_stiffness(pristine(crystal, CELLS, a_A=a_A), calculator))
    return float(np.delete(waves, np.argsort(np.abs(waves))[:3]).min())


def host_stiffness(structure: DefectStructure, calculator: Calculator) -> FloatArray:
    """Stiffness (3 A, 3 A) of the atoms of a defect structure as if its host were undisturbed, eV/A^2.

    Empty sites count as held in place; atoms beyond the host's sites are tied to where they are.
    """
    crystal, (n, m) = facts_of(structure), structure.shape
    constants = force_constants(crystal, _lattice_A(structure), calculator)  # (K, R, R, K, 3, 3)
    k_count, reach = len(crystal.basis), constants.shape[1] // 2
    full = np.zeros((n, m, k_count, 3, n, m, k_count, 3))
    i, j = np.indices((n, m))
    for di, dj in product(range(-reach, reach + 1), repeat=2):
        block = constants[:, di + reach, dj + reach].transpose(0, 2, 1, 3)  # (K, 3, K, 3)
        full[i, j, :, :, (i + di) % n, (j + dj) % m] += block
    sites = n * m * k_count
    flat = full.reshape(3 * sites, 3 * sites)
    atoms = np.flatnonzero(structure.occupied)
    inside = atoms[atoms < sites]
    rows = (3 * inside[:, None] + np.arange(3)).ravel()
    result = np.eye(3 * len(atoms)) * float(np.diag(flat).mean())
    result[: len(rows), : len(rows)] = flat[np.ix_(rows, rows)]
    return (result + result.T) / 2


def _lattice_A(structure: DefectStructure) -> float:
    return float(np.linalg.norm(structure.structure.lattice.matrix[0])) / structure.shape[0]


def force_constants(crystal: Crystal, a_A: float, calculator: Calculator) -> FloatArray:
    """Force constants (K, R, R, K, 3, 3) of the pristine layer, eV/A^2: an atom, then one of a cell nearby.

    By central differences; kept for each potential and lattice constant.
    """
    known = _KNOWN.setdefault(calculator, {})
    key = (crystal, round(a_A, 6))
    if key not in known:
        known[key] = _differences(crystal, a_A, calculator)
    return known[key]


def _differences(crystal: Crystal, a_A: float, calculator: Calculator) -> FloatArray:
    layer = pristine(crystal, CELLS, a_A=a_A)
    atoms = Atoms(layer.structure.atomic_numbers, layer.structure.cart_coords, cell=layer.structure.lattice.matrix)
    atoms.pbc, atoms.calc = True, calculator
    rest, count = atoms.get_positions(), len(crystal.basis)
    response = np.zeros((count, 3, CELLS, CELLS, count, 3))
    for k, axis in product(range(count), range(3)):
        for sign in (1, -1):
            moved = rest.copy()
            moved[k, axis] += sign * STEP_A
            atoms.set_positions(moved)
            forces = atoms.get_forces().reshape(CELLS, CELLS, count, 3)
            response[k, axis] -= sign * forces / (2 * STEP_A)
    return _nearest_images(response.transpose(0, 2, 3, 4, 1, 5), crystal, a_A)


def _nearest_images(periodic: FloatArray, crystal: Crystal, a_A: float) -> FloatArray:
    """Give each pair's constant to its nearest images, in equal parts where several are as near."""
    plane = crystal.plane_A(a_A)
    at = np.array([[atom.u, atom.v] for atom in crystal.basis])
    reach = CELLS
    result = np.zeros((len(at), 2 * reach + 1, 2 * reach + 1, len(at), 3, 3))
    for k, q, i, j in product(range(len(at)), range(len(at)), range(CELLS), range(CELLS)):
        images = [(i + s * CELLS, j + t * CELLS) for s, t in product((-1, 0), repeat=2)]
        lengths = np.array([np.linalg.norm((np.array(cell) + at[q] - at[k]) @ plane) for cell in images])
        nearest = [cell for cell, length in zip(images, lengths, strict=True) if length < lengths.min() + 1e-3]
        for di, dj in nearest:
            result[k, di + reach, dj + reach, q] += periodic[k, i, j, q] / len(nearest)
    return result
