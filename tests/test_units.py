"""What an analysis says does not depend on the units that the image was saved in."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from chain import taken

from stemfit.pipeline import Settings, analyze
from stemfit.relax import relaxer
from stemfit.result import Findings
from stemfit.synthetic import as_micrograph, crystal
from stemfit.units import units_of


@cache
def analysed(zero: float, unit: float) -> Findings:
    image, _ = taken(crystal((170, 190), pixel_size_A=0.16, seed=2, removed=2, halved=2), 100.0, 2)
    return analyze(as_micrograph(zero + unit * image, None), Settings(host="MoS2"), relaxer("keep"))


@pytest.mark.parametrize(("zero", "unit"), [(-5000.0, 1.0), (0.0, 1e-12), (3.0, 1e7), (-32768.0, 30.0)])
def test_units_and_black_level_do_not_matter(zero: float, unit: float) -> None:
    plain, other = analysed(0.0, 1.0), analysed(zero, unit)
    assert [d.label for d in plain.defects] == [d.label for d in other.defects]
    assert len(plain.defects) >= 2
    assert np.allclose(plain.columns.xy_px, other.columns.xy_px, atol=2e-3)
    assert np.allclose(unit * plain.columns.intensity, other.columns.intensity, rtol=5e-3, atol=0.1 * unit)
    assert np.allclose(plain.columns.cov[:, 0, 0], other.columns.cov[:, 0, 0], rtol=2e-2)
    assert other.imaging.noise.gain == pytest.approx(unit * plain.imaging.noise.gain, rel=1e-2)
    seen = np.isfinite(plain.simulated)
    assert np.allclose((zero + unit * plain.simulated)[seen], other.simulated[seen], atol=1.0 * unit)


def test_units_go_off_and_on_exactly() -> None:
    image = np.random.default_rng(0).normal(3e-9, 1e-9, (40, 50))
    units = units_of(image)
    assert np.allclose(units.on(units.off(image)), image, rtol=1e-12, atol=0)
    assert units.off(image).min() == 0.0
    assert 40 < units.off(image).std() < 95
