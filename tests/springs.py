"""A potential whose minima are known: springs between the neighbours of an H-phase layer, to import by name."""

from __future__ import annotations

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list

A_A, HEIGHT_A = 3.20, 3.10
"""Lattice constant and X-X distance at which no spring is strained."""
METALS = (42, 74, 41, 23, 75)
SIZE_A = {74: 0.02, 34: 0.03}
"""What W and Se add to the rest length of each spring that ends at them."""
STIFFNESS_eV_A2 = 5.0


def rest_length(first, second, height_A):
    """Rest lengths of pairs of atomic numbers whose ends differ in height by `height_A`."""
    same = np.isin(first, METALS) == np.isin(second, METALS)
    across = np.abs(height_A) > 1.0
    length = np.where(same, np.where(across, HEIGHT_A, A_A), np.hypot(A_A / np.sqrt(3), HEIGHT_A / 2))
    sizes = np.zeros(120)
    sizes[list(SIZE_A)] = list(SIZE_A.values())
    return length + sizes[first] + sizes[second]


class Springs(Calculator):
    """Harmonic bonds within 3.6 A: M-X, M-M and X-X in a layer, X-X of a column."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        i, j, d, vector = neighbor_list("ijdD", atoms, 3.6)
        stretch = d - rest_length(atoms.numbers[i], atoms.numbers[j], vector[:, 2])
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, (STIFFNESS_eV_A2 * stretch / d)[:, None] * vector)
        energy = STIFFNESS_eV_A2 * (stretch**2).sum() / 4
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


def broken():
    """Forces that are not finite."""
    calculator = Springs()
    calculate = calculator.calculate

    def spoil(*args, **kwargs):
        calculate(*args, **kwargs)
        calculator.results["forces"] = calculator.results["forces"] * np.nan

    calculator.calculate = spoil
    return calculator


class Buckled(Springs):
    """The same, but that metals would rather stand higher or lower than the metals around them."""

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        metal = np.isin(atoms.numbers, METALS)
        i, j, vector = neighbor_list("ijD", atoms, 3.6)
        both = metal[i] & metal[j]
        higher = np.zeros(len(atoms))  # than the mean of the six around
        np.add.at(higher, i[both], -vector[both, 2] / 6)
        force = higher.copy()
        np.add.at(force, j[both], -higher[i[both]] / 6)
        self.results["energy"] -= 10.0 * (higher**2).sum() / 2
        self.results["free_energy"] = self.results["energy"]
        self.results["forces"][:, 2] += 10.0 * force
