"""A crystal that nobody listed is fitted with one of the list: what the model leaves tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import stemfit
from stemfit import warn


def test_a_model_that_leaves_far_more_than_noise_is_told() -> None:
    (said,) = warn.unexplained(12.1, "GaSe")
    assert "no monolayer of GaSe" in said and "3.5 times the noise" in said
    assert warn.unexplained(1.8, "MoS2") == () == warn.unexplained(float("nan"), "MoS2")


def test_what_cannot_be_told_from_full_columns() -> None:
    assert warn.blind_to({"V_S": 0.7, "V_Se": 2.99, "V_Te": 3.01}) == ("V_S", "V_Se")


@pytest.mark.skipif("STEMFIT_REAL_IMAGES" not in os.environ, reason="STEMFIT_REAL_IMAGES is not set")
def test_cadmium_telluride_is_no_monolayer() -> None:
    path = Path(os.environ["STEMFIT_REAL_IMAGES"]) / "formats" / "cdte_haadf_calibrated.dm3"
    found = stemfit.analyze(path, relaxer="keep")
    assert any("no monolayer of" in text for text in found.warnings)
