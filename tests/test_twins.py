"""The boundary of a mirror twin: X columns shared across the line, metals on either side of it (4|4P)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from stemfit.pipeline import Settings, analyze
from stemfit.relax import keep
from stemfit.result import Findings
from stemfit.synthetic import as_micrograph

SHAPE, PIXEL_A, A_A = (280, 300), 0.14, 3.16
TURN = np.radians(33.0)
ALONG, ACROSS = np.array([np.cos(TURN), -np.sin(TURN)]), np.array([-np.sin(TURN), -np.cos(TURN)])
ON_LINE = np.array([150.0, 150.0])


def twin(opened_A: float = 0.4, counts: float = 60.0) -> np.ndarray:
    """Rows of columns above the line and their mirror images, pushed apart by twice `opened_A`."""
    bond = A_A / np.sqrt(3)
    t = A_A * np.arange(-30, 31)
    rows = [(0.0, 0.0, 0.46)]
    for m in range(24):
        shift = A_A / 2 * ((m + 1) % 2)
        metal, chalcogen = bond * (0.5 + 1.5 * m) + opened_A, bond * (1.5 + 1.5 * m) + opened_A
        rows += [(side * y, shift, z) for y, z in ((metal, 1.0), (chalcogen, 0.46)) for side in (1, -1)]
    y, x = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None]
    image, sigma = np.full(SHAPE, 0.05), 0.45 / PIXEL_A
    for height, shift, z in rows:
        for px, py in ON_LINE + ((t + shift)[:, None] * ALONG + height * ACROSS) / PIXEL_A:
            if -20 < px < SHAPE[1] + 20 and -20 < py < SHAPE[0] + 20:
                image += z * np.exp(-0.5 * ((y - py) / sigma) ** 2) @ np.exp(-0.5 * ((x - px) / sigma) ** 2)
    return np.random.default_rng(5).poisson(image * counts).astype(float)


@cache
def analysed() -> Findings:
    return analyze(as_micrograph(twin(), None), Settings(host="MoS2"), keep)


def test_the_boundary_is_one_defect() -> None:
    analysis = analysed()
    assert [region.kind for region in analysis.regions].count("twin") == 1
    assert [(d.type, d.label) for d in analysis.defects] == [("TWIN", "TWIN")]
    boundary = analysis.defects[0]
    assert boundary.probability + sum(p for _, p in boundary.alternatives) == pytest.approx(1)
    assert len(boundary.sites) == len(boundary.extent_px) > 10
    assert boundary.best_candidate is None and not analysis.candidates


def test_it_runs_along_the_line() -> None:
    off = analysed().defects[0].extent_px - ON_LINE
    a_px = A_A / PIXEL_A
    assert np.abs(off @ ACROSS).max() < 2.5 * a_px
    reach = min(np.ptp([0, SHAPE[1]]) / abs(ALONG[0]), np.ptp([0, SHAPE[0]]) / abs(ALONG[1]))
    assert np.ptp(off @ ALONG) > 0.8 * reach
    assert np.ptp(off @ ALONG) > 4 * np.ptp(off @ ACROSS)
