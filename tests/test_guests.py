"""What tells exchanged atoms from vacancies and from each other: brightness, how common they are, where they stand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_offsets import BOND_PX, SITES, middle, standing

from stemfit.defects import Defect
from stemfit.defects.offsets import log_ratio, offsets
from stemfit.defects.priors import prior_rate, shared_with_pairs
from stemfit.optics.scattering import Seen, ratio, ratio_given
from stemfit.score.restate import with_odds_kept

# abTEM multislice of MoS2 at 60 kV: detector, S2 over Mo, S over S2.
MULTISLICE = [((40, 100), 0.784, 0.335), ((60, 200), 0.460, 0.487), ((80, 200), 0.389, 0.568)]


@pytest.mark.parametrize(("detector", "pair", "half"), MULTISLICE)
def test_the_pair_says_what_half_of_it_is_worth_when_nobody_states_the_detector(
    detector: tuple[int, int], pair: float, half: float
) -> None:
    value, error = ratio_given("S", "S2", None, None, Seen("S2", "Mo", pair, 0.04))
    assert abs(value / half - 1) < 2 * error
    assert abs(value / half - 1) < 0.15
    before, wider = ratio("S", "S2", None, None)
    assert error < 0.75 * wider
    assert value == pytest.approx(ratio("S", "S2", 60.0, detector)[0], rel=0.15)
    assert (before > value) == (half < 0.4)


def test_a_ratio_that_no_detector_gives_was_misread() -> None:
    asked = ratio_given("S", "S2", None, None, Seen("S2", "Mo", 0.05, 0.04))
    assert asked[1] > 0.5 * ratio("S", "S2", None, None)[1]


def test_two_common_guests_are_as_likely_as_a_rare_one() -> None:
    both, rare = prior_rate("Se2_S2", "SUB", "Se2"), prior_rate("Te_S", "SUB", "TeS")
    assert 1 / 3 < both / rare < 3
    assert prior_rate("Se_S", "SUB", "SSe") > 10 * rare
    assert prior_rate("W_Mo", "SUB", "W") > prior_rate("Nb_Mo", "SUB", "Nb") > 0
    assert prior_rate("S2_Mo", "ANTI", "S2") == prior_rate("Mo_S2", "ANTI", "Mo")  # no guests


def test_pairs_of_guests_follow_single_ones_that_the_image_shows() -> None:
    rates = {"pristine": 0.9, "Se_S": 0.05, "Se2_S2": 1e-5, "V_S2": 3e-3, "Mo_S2": 2e-4}
    assert shared_with_pairs(tuple(rates), rates) == {"Se2_S2": pytest.approx(0.0015)}


def test_nothing_moves_a_column_of_an_intact_layer_by_half_an_angstrom() -> None:
    row = middle(metal=False)
    alone = offsets(standing({row: (0.28 * BOND_PX, 0.0)}), SITES)
    assert log_ratio(alone, 0.4)[row] > 10.0
    near = np.argsort(np.sum((SITES.xy_px - SITES.xy_px[row]) ** 2, axis=1))[1]
    column = SITES.column.copy()
    column[near] = -1
    beside = offsets(standing({row: (0.28 * BOND_PX, 0.0)}), replace(SITES, column=column))
    assert beside.beside[row]
    assert log_ratio(beside, 0.4)[row] < 5.0  # a column beside an empty site may


def test_a_structure_that_was_not_taught_speaks_for_its_group_where_nothing_else_fits() -> None:
    def said(label: str, probability: float, **others: float) -> Defect:
        xy = np.zeros(2)
        return Defect(1, "ANTI", label, probability, xy, ((0, 0, "X"),), xy[None], tuple(others.items()), 3.0)

    before = said("W_Se2", 0.96, Te_Se=0.01, pristine=0.03)
    after = said("W_Se2", 0.9, Te_Se=1e-12, UNKNOWN=0.1, pristine=0.0)
    answer = with_odds_kept(before, after, (), (), {"W_Se2"})
    assert answer.label == "W_Se2"
    assert answer.probability == pytest.approx(0.9, abs=0.02)
