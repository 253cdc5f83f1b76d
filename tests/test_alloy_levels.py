"""Populations that no scattering explains are no alloy."""

from __future__ import annotations

import numpy as np
import pytest

from stemfit.lattice import alloy
from stemfit.lattice.populations import Levels, Populations

METAL = 0.7
"""Brightness of a molybdenum column; Se2 is 1."""


def on_x(single: float, share: tuple[float, float, float]) -> Populations:
    """S2, SSe (as bright as `single`) and Se2 columns in these shares; half-empty and empty ones hardly any."""
    value = np.array([0.29, single, 1.0, 0.14, 0.45, 0.0])
    levels = Levels(("S2", "SSe", "Se2", "S", "Se", ""), value, np.full(6, 0.01), 3, METAL)
    return Populations(levels, np.array([*share, 0.001, 0.001, 0.001]), 0.02, 400.0, 0.0)


def on_m() -> Populations:
    levels = Levels(("Mo", ""), np.array([METAL, 0.0]), np.array([0.01, 0.0]), 1, METAL)
    return Populations(levels, np.array([1.0, 0.0]), 0.02, 400.0, 0.0)


@pytest.mark.parametrize(
    "single, share, plausible",
    [
        (0.65, (0.2, 0.5, 0.3), True),
        (0.92, (0.05, 0.65, 0.3), False),  # the main population of a sublattice whose gain changes, in two
        (0.40, (0.05, 0.65, 0.3), False),
        (0.92, (0.0, 0.02, 0.98), True),  # too few to count, and no alloy
    ],
)
def test_levels_have_to_be_those_of_scattering(
    single: float, share: tuple[float, float, float], plausible: bool
) -> None:
    tried = alloy._Explanation(0, on_m(), on_x(single, share), 0.0)
    assert alloy._plausible(tried) is plausible
