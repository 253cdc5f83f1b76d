"""Whether dim columns lost an atom or hold a lighter one."""

from __future__ import annotations

import pytest

from stemfit.defects.abundance import lighter_guests
from stemfit.imaging import Amplitude

SULPHUR = frozenset(("S", "Se"))
EMPTY, MIXED = Amplitude(0.43, 0.07, "table"), {SULPHUR: Amplitude(0.63, 0.06, "table")}


def share(level: float, sigma: float = 0.002) -> float:
    return lighter_guests(Amplitude(level, sigma, "image"), EMPTY, MIXED)[SULPHUR]


def test_the_common_brightness_of_dim_columns_says_what_they_are() -> None:
    assert share(0.43) < 0.01
    assert share(0.63) > 0.7
    assert share(0.45) < share(0.5) < share(0.55) < share(0.6)


def test_between_both_it_cannot_be_told() -> None:
    assert 0.05 < share(0.56) < 0.5


def test_what_was_not_learned_stays_as_rare_as_mixtures_are() -> None:
    alike = {SULPHUR: Amplitude(0.43, 0.07, "table")}
    assert lighter_guests(EMPTY, EMPTY, alike)[SULPHUR] == pytest.approx(0.1)
    assert lighter_guests(EMPTY, EMPTY, {frozenset(("O", "Se")): Amplitude(0.43, 0.07, "table")}) == {
        frozenset(("O", "Se")): 0.0
    }
