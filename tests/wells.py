"""A potential with two minima: atoms tied to where they were, one of them to either of two places above each other."""

from __future__ import annotations

from ase.calculators.calculator import Calculator, all_changes

WELL_A = 0.7
"""From the edge between the wells to each minimum."""
STIFFNESS_eV_A2 = 2.0


class Wells(Calculator):
    """Springs to `rest`; atom `which` is tied to the nearer of two places WELL_A above and below its own."""

    implemented_properties = ("energy", "forces")

    def __init__(self, rest, which):
        super().__init__()
        self.rest, self.which = rest, which

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        away = atoms.get_positions() - self.rest
        away[self.which, 2] -= WELL_A if away[self.which, 2] > 0 else -WELL_A
        energy = STIFFNESS_eV_A2 / 2 * (away**2).sum()
        self.results = {"energy": energy, "free_energy": energy, "forces": -STIFFNESS_eV_A2 * away}
