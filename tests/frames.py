"""The same layer written down in another way: turned, shifted, strained, in another cell, in another order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pymatgen.core import Lattice, Structure

CELLS = {
    "as built": np.eye(3),
    "120 degrees": np.array([[1, 0, 0], [-1, 1, 0], [0, 0, 1]]),
    "skewed": np.array([[1, 2, 0], [0, 1, 0], [0, 0, 1]]),
    "left-handed": np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "c down": np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]]),
}


@dataclass(frozen=True)
class Frame:
    """How a structure is written down; the cell's name is one of `CELLS`."""

    angle: float = 0.0
    shift_A: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    cell: str = "as built"
    seed: int | None = None
    wrapped: bool = True

    @property
    def turn(self) -> np.ndarray:
        """Rotation about z for rows of vectors."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])

    def order(self, count: int) -> np.ndarray:
        """Where the atom at each place of the new order came from."""
        return np.arange(count) if self.seed is None else np.random.default_rng(self.seed).permutation(count)

    def __call__(self, structure: Structure, noise_A: float = 0.0) -> Structure:
        order = self.order(len(structure))
        change = np.diag([self.scale, self.scale, 1.0]) @ self.turn
        cell = CELLS[self.cell] @ structure.lattice.matrix @ change
        noise = np.random.default_rng(1).uniform(-noise_A, noise_A, (len(structure), 3))
        positions = (structure.cart_coords + noise + self.shift_A) @ change
        species = [structure[int(k)].specie for k in order]
        return Structure(
            Lattice(cell), species, positions[order], coords_are_cartesian=True, to_unit_cell=self.wrapped
        )
