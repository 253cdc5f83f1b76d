"""What happens to names whose structure nobody knows when structures are compared with the image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from stemfit.candidates import Candidate
from stemfit.defects import Defect
from stemfit.score import Score
from stemfit.score.restate import with_odds_kept, with_structure_of_label


def said(label: str, probability: float, **others: float) -> Defect:
    xy = np.zeros(2)
    alternatives = tuple(sorted(others.items(), key=lambda item: -item[1]))
    return Defect(1, "SUB", label, probability, xy, ((0, 0, "X"),), xy[None], alternatives, 3.0)


def shares(defect: Defect) -> dict[str, float]:
    return {defect.label: defect.probability, **dict(defect.alternatives)}


def test_odds_against_what_was_compared_are_kept() -> None:
    before = said("Mo_Se2", 0.5, V_Se=0.3, O_Se=0.1, pristine=0.1)
    after = said("V_Se", 0.9, O_Se=0.09, Mo_Se2=0.0, UNKNOWN=0.01, pristine=0.0)
    answer = shares(with_odds_kept(before, after, (), (), {"Mo_Se2"}))
    assert sum(answer.values()) == pytest.approx(1.0)
    assert answer["Mo_Se2"] / (answer["V_Se"] + answer["O_Se"]) == pytest.approx(0.5 / 0.4)
    assert answer["V_Se"] / answer["O_Se"] == pytest.approx(10.0)  # as the image has them
    assert answer["UNKNOWN"] / answer["V_Se"] == pytest.approx(0.01 / 0.9)


def test_an_adatom_is_never_compared() -> None:
    before = said("W_Mo", 0.6, Re_Mo=0.2, ADATOM=0.2)
    answer = shares(with_odds_kept(before, said("W_Mo", 0.9, Re_Mo=0.1), (), (), ()))
    assert answer["ADATOM"] / (answer["W_Mo"] + answer["Re_Mo"]) == pytest.approx(0.25)


def test_where_nothing_known_was_likely_all_odds_are_kept() -> None:
    before = said("Cr_Mo", 0.5, S2_Mo=0.3, vanadium_Mo=0.2)
    after = said("Cr_Mo", 0.999, S2_Mo=0.0, vanadium_Mo=0.0, UNKNOWN=0.001)
    answer = with_odds_kept(before, after, (), (), {"Cr_Mo", "S2_Mo", "vanadium_Mo"})
    assert shares(answer)["S2_Mo"] / answer.probability == pytest.approx(0.6)
    assert sum(shares(answer).values()) == pytest.approx(1.0)


def test_what_was_compared_stays_as_it_is() -> None:
    before, after = said("V_Se", 0.8, O_Se=0.2), said("O_Se", 0.7, V_Se=0.3)
    assert with_odds_kept(before, after, (), (), ()) is after


def test_the_bayes_factor_is_that_of_the_name() -> None:
    """Of the structure with the new name; of no structure at all where there is no name."""
    logs = {"W_S2": 10.0, "Mo_S2": 8.5, "pristine": -4.0}
    candidates = [cast(Candidate, SimpleNamespace(id=f"1-{k}", defect=1, label=name)) for k, name in enumerate(logs, 1)]
    scores = [Score(c.id, logs[c.label], 0.3, True, 0.9, 0.9, 1.0, 0.0, 0.1, ()) for c in candidates]
    before = said("W_S2", 0.5)
    answers = {
        label: with_structure_of_label(said(label, 0.5), before, candidates, scores, {1: 6.0}).log_bayes_factor
        for label in ("Mo_S2", "UNKNOWN", "Cr_Mo")
    }
    assert answers == {"Mo_S2": 12.5, "UNKNOWN": 10.0, "Cr_Mo": 3.0}
