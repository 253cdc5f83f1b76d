"""Where the crystal ends, or the scan was lost, nothing is a vacancy."""

from __future__ import annotations

import numpy as np
import pytest
from chain import taken
from numpy.typing import NDArray

from stemfit.calibrate import calibrate
from stemfit.columns import find
from stemfit.hosts import projected
from stemfit.lattice import Lattice, survey
from stemfit.pipeline import Settings, analyze
from stemfit.relax import relaxer
from stemfit.synthetic import Crystal, as_micrograph, crystal, render

FloatArray = NDArray[np.float64]


def ended(sample: Crystal, gone: NDArray[np.bool_], counts: float = 60.0) -> FloatArray:
    """Poisson image of the crystal without some of its columns and without background."""
    light = np.where(gone, 0.0, sample.columns.intensity)
    image = render(sample.columns.xy_px, light, sample.profile, (sample.image.shape[0], sample.image.shape[1]))
    return np.random.default_rng(3).poisson(counts * (image / image.max() + 0.02)).astype(float)


@pytest.mark.parametrize("kind", ["half plane", "round hole"])
def test_the_last_row_of_a_crystal_is_no_row_of_vacancies(kind: str) -> None:
    sample = crystal((260, 290), pixel_size_A=0.16, rotation_deg=13.0, seed=1)
    x, y = sample.columns.xy_px.T
    gone = x < 110 if kind == "half plane" else np.hypot(x - 140, y - 120) < 50
    said = analyze(as_micrograph(ended(sample, gone), None), Settings(host="MoS2"), relaxer("keep"))
    assert {region.kind for region in said.regions} & {"vacuum", "hole"}
    assert [defect.label for defect in said.defects if defect.label != "UNKNOWN"] == []
    assert said.sites.analysed.sum() > 100


def test_lost_rows_are_a_region() -> None:
    image, _ = taken(crystal((200, 220), pixel_size_A=0.16, seed=4), 60.0, 4)
    image[90:98] = 0.0
    said = survey(image, find(image, calibrate=False))
    assert any("blank" in region.reason for region in said.regions)
    assert (said.region_map[92] > 0).all()
    at = np.rint(said.sites.xy_px).astype(int)
    assert not said.sites.inside[(at[:, 1] >= 90) & (at[:, 1] < 98)].any()


def test_doubt_about_the_host_is_doubt_about_the_pixel() -> None:
    lattice = Lattice(
        np.array([20.0, 0.0]), np.array([10.0, -17.32]), np.zeros(2), 1, np.zeros((6, 6)), np.zeros((2, 2, 2)),
        (100, 100), 0.1,
    )  # fmt: skip
    micrograph = as_micrograph(np.random.default_rng(0).normal(size=(100, 100)), None)
    host = projected("MoS2")
    sure = calibrate(lattice, host, micrograph, None)
    torn = calibrate(lattice, host, micrograph, None, (("WSe2", 0.4), ("WS2", 0.2)))
    assert sure.pixel_size_sigma_A == pytest.approx(0.003 * sure.pixel_size_A)
    off = np.log(projected("WSe2").a_A / host.a_A)
    assert torn.pixel_size_sigma_A > 0.6 * off * torn.pixel_size_A
