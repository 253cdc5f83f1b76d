"""Hot pixels are no atoms, and atoms are no hot pixels."""

from __future__ import annotations

import numpy as np
from chain import taken

from stemfit.pipeline import Settings, analyze
from stemfit.relax import relaxer
from stemfit.spikes import despiked
from stemfit.synthetic import as_micrograph, crystal


def test_hot_pixels_change_nothing_but_a_warning() -> None:
    image, _ = taken(crystal((170, 190), pixel_size_A=0.16, seed=2, removed=1), 60.0, 2)
    rng = np.random.default_rng(5)
    hot = image.copy()
    hot[rng.integers(5, 165, 20), rng.integers(5, 185, 20)] = 1e5
    plain, other = (analyze(as_micrograph(i, None), Settings(host="MoS2"), relaxer("keep")) for i in (image, hot))
    assert [d.label for d in plain.defects] == [d.label for d in other.defects]
    assert any("20 pixels far brighter" in text for text in other.warnings)
    assert not any("far brighter than all" in text for text in plain.warnings)


def test_sharp_columns_and_single_counts_stay() -> None:
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:120, :130]
    sharp = np.zeros((120, 130))
    for cy in range(6, 120, 9):
        for cx in range(6, 130, 9):
            sharp += 200 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 1.0**2))
    for image in (rng.poisson(sharp).astype(float), rng.poisson(sharp / 400).astype(float)):
        assert despiked(image)[1] == 0
