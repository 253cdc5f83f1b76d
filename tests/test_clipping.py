"""Saturated and cut-off pixels are told from the ends of an honest histogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemfit import synthetic
from stemfit.clipping import cut_of
from stemfit.micrograph import Micrograph
from stemfit.pipeline import Settings, analyze
from stemfit.relax import keep


def image(counts: float = 50.0) -> np.ndarray:
    sample = synthetic.crystal((160, 170), pixel_size_A=0.12, rotation_deg=11.0, seed=3)
    return np.random.default_rng(0).poisson(counts * sample.image / sample.image.max()).astype(float)


@pytest.mark.parametrize("dtype", ["counts", "continuous"])
def test_an_honest_image_is_not_cut(dtype: str) -> None:
    honest = image()
    if dtype == "continuous":
        honest = honest + np.random.default_rng(1).normal(size=honest.shape)
    assert cut_of(honest) == (0.0, 0.0)


@pytest.mark.parametrize("counts", [1.0, 2.0, 5.0])
def test_few_electrons_are_no_cut(counts: float) -> None:
    honest = image(counts)
    honest[40:80, 60:110] = 0  # a hole
    assert cut_of(honest) == (0.0, 0.0)


@given(st.floats(0.2, 5.0))
@settings(max_examples=20, deadline=None)
def test_the_share_of_what_was_cut_is_told(percent: float) -> None:
    honest = image() + np.random.default_rng(2).normal(size=(160, 170))
    low, high = np.percentile(honest, [percent, 100 - percent])
    cut = cut_of(np.clip(honest, None, high))
    assert cut.dark == 0.0 and cut.bright == pytest.approx(percent / 100, rel=0.05)
    cut = cut_of(np.clip(honest, low, None))
    assert cut.bright == 0.0 and cut.dark == pytest.approx(percent / 100, rel=0.05)


def test_a_mask_of_two_values_is_no_image_that_was_cut() -> None:
    assert cut_of((image() > 20).astype(float)) == (0.0, 0.0)


def test_saturation_is_said() -> None:
    honest = image(200.0)
    for picture, said in ((honest, False), (np.minimum(honest, np.percentile(honest, 98)), True)):
        recorded = Micrograph(picture, Path("image.tif"), "0" * 64, "float64", 0.12, "user", None, None, 0.12)
        warnings = analyze(recorded, Settings(host="MoS2"), keep).warnings
        assert any("saturated" in warning for warning in warnings) == said
