"""How far the best structure may be from the image before it is none."""

from __future__ import annotations

import numpy as np
import pytest
from chain import FloatArray, row_of
from hypothesis import given
from hypothesis import strategies as st
from test_score import EMPTY, claim, contracted, judged, pulled, site_near

from stemfit.score.misfit import Misfit, misfit_of

PIXELS, TESTED = 400, np.arange(4)


def drawn(width: float, seed: int = 3) -> tuple[FloatArray, FloatArray]:
    """A design (6, pixels), and residuals (2000, pixels) of parameters that are `width` times as wide as is thought."""
    rng = np.random.default_rng(seed)
    design = rng.normal(0, 0.3, (6, PIXELS))
    return design, rng.normal(size=(2000, PIXELS)) + width * rng.normal(size=(2000, 6)) @ design


def test_the_misfit_of_what_is_right_is_a_chi_square() -> None:
    design, residuals = drawn(1.0)
    chi2 = np.array([misfit_of(design @ design.T, design @ r, TESTED).chi2 for r in residuals])
    assert misfit_of(design @ design.T, design @ residuals[0], TESTED).freedom == 4
    assert chi2.mean() == pytest.approx(4.0, abs=0.2)  # 0.06 is the standard error
    assert chi2.var() == pytest.approx(8.0, rel=0.15)


def test_the_misfit_grows_with_what_is_not_allowed() -> None:
    design, residuals = drawn(3.0)
    assert np.mean([misfit_of(design @ design.T, design @ r, TESTED).chi2 for r in residuals]) > 30


def test_parameters_that_say_the_same_count_once() -> None:
    design, residuals = drawn(1.0)
    twice = np.vstack([design, design[:1]])
    assert misfit_of(twice @ twice.T, twice @ residuals[0], np.array([0, 1, 6])).freedom == 2
    nothing = np.vstack([design, np.zeros((1, PIXELS))])
    assert misfit_of(nothing @ nothing.T, nothing @ residuals[0], np.array([0, 6])).freedom == 1


@given(st.integers(1, 200), st.floats(0.0, 5.0))
def test_a_greater_misfit_is_more_evidence_for_something_else(freedom: int, share: float) -> None:
    less, more = (Misfit(s * freedom, freedom).log_bayes_factor for s in (share, share + 0.5))
    assert less < more


def test_a_misfit_as_allowed_is_evidence_for_the_structure() -> None:
    for freedom in (5, 20, 80):
        assert Misfit(float(freedom), freedom).log_bayes_factor < -0.5
        assert Misfit(freedom + 6.0 * np.sqrt(2 * freedom), freedom).log_bayes_factor > 1.0
        assert Misfit(0.3 * freedom, freedom).log_bayes_factor < Misfit(float(freedom), freedom).log_bayes_factor - 1
    assert Misfit(0.0, 0).log_bayes_factor == 0.0


def test_a_vacancy_whose_neighbours_moved_too_far_is_unknown() -> None:
    """Their light fills it: without the misfit the perfect crystal would be the best answer."""
    chain = contracted(0.7)
    at = chain.truth.columns.xy_px[row_of(chain.truth.columns, EMPTY)]
    asked = [claim(chain, site_near(chain, at), "V_S2", "DV")]
    (doubted,) = judged(chain, asked)[1].claimed
    (known,) = judged(chain, asked, pulled(0.7))[1].claimed
    assert (known.label, doubted.label) == ("V_S2", "UNKNOWN")
    assert min(known.probability, doubted.probability) > 0.9
