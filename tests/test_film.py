"""Deposits are as large as the hollows that show them; all light is drawn here, no column is fitted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stemfit.lattice.film import HOLLOW, Hollows, film

A_PX, SIDE = 8.0, 200


def hollows(lit: float, hidden: float) -> Hollows:
    """Hollows of a clean crystal, brighter within `lit` lattice constants of the middle and unseen within `hidden`."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    i, j = (k.ravel() for k in np.meshgrid(np.arange(-30, 60), np.arange(-30, 60), indexing="ij"))
    xy = np.column_stack([(i + 0.5 * j) * A_PX, np.sqrt(0.75) * j * A_PX])
    near = np.asarray(cKDTree(xy).query(np.column_stack([x.ravel(), y.ravel()]))[0]).reshape(SIDE, SIDE)
    away = np.hypot(x - SIDE / 2, y - SIDE / 2) / A_PX
    noise = np.random.default_rng(3).normal(0, 0.05, (SIDE, SIDE))
    light = noise + 0.6 * np.exp(-2 * np.maximum(away - lit, 0) ** 2)
    return Hollows(light, ((near < HOLLOW * A_PX) & (away > hidden)).astype(float), A_PX, 1.0)


@pytest.mark.parametrize(("lit", "hidden", "dirt"), [(2.0, 0.0, True), (2.5, 1.0, True), (1.1, 1.3, False)])
def test_light_in_a_few_hollows_round_hidden_ones_is_no_deposit(lit: float, hidden: float, dirt: bool) -> None:
    """As many heavy atoms leave beside the hollows that they hide; a deposit that hides some is seen in the others."""
    seen = hollows(lit, hidden)
    assert film(seen, np.ones((SIDE, SIDE), dtype=bool)).bright.any() == dirt
