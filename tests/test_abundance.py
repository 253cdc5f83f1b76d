"""Guests that mix with the host are abundant or rare; single ones stay as improbable as they were."""

from __future__ import annotations

import numpy as np
import pytest

from stemfit.defects.abundance import abundance

RARE, MIX = 5e-4, frozenset(("S", "Se"))


def share(guests: int, columns: int = 2000, contrast: float = 12.0, elements: frozenset[str] = MIX) -> float:
    """What is learned where so many columns look like a guest by this log-likelihood ratio, all others as little."""
    ratio = np.full(columns, -contrast)
    ratio[:guests] = contrast
    return abundance(elements, RARE, ratio, np.zeros(columns))


def test_an_alloy_is_told_from_single_exchanges() -> None:
    assert share(0) == pytest.approx(RARE, rel=0.02)
    assert share(1) == pytest.approx(RARE, rel=0.02)
    assert share(3) < 3 * RARE
    assert share(60) == pytest.approx(0.03, rel=0.15)
    assert share(200) == pytest.approx(0.1, rel=0.1)


def test_elements_that_do_not_mix_stay_rare() -> None:
    assert share(200, elements=frozenset(("Mo", "S"))) == RARE


def test_columns_that_say_nothing_teach_nothing() -> None:
    assert share(200, contrast=0.0) == pytest.approx(share(0, contrast=0.0))
    assert abundance(MIX, RARE, np.zeros(50), np.zeros(50)) < 0.01
