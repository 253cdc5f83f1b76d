"""A few heavy atoms on a light crystal outshine it; the crystal is found all the same, and they are no film."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from stemfit.columns import find
from stemfit.errors import NotAnalysable
from stemfit.lattice import fit_grid
from stemfit.lattice.spots import levelled, reciprocal_cell
from stemfit.pipeline import Settings, analyze
from stemfit.relax import relaxer
from stemfit.result import Findings
from stemfit.synthetic import as_micrograph

PLACES = ((0.22, 0.72), (0.28, 0.55), (0.5, 0.47), (0.67, 0.52))


pytestmark = pytest.mark.usefixtures("drawings")


@cache
def drawn(counts: float, light: float) -> Any:
    from sheets import sheet

    wanted = tuple((f"swap={light}", place) for place in PLACES)
    return sheet(
        "graphene", wanted, shape=(256, 256), pixel_A=0.079, turn_deg=9.9, counts=counts, sigma_A=0.45, seed=7
    )


@cache
def analysed() -> Findings:
    return analyze(as_micrograph(drawn(0.6, 6.0).image, None), Settings(host="graphene"), relaxer("keep"))


def test_the_crystal_is_found_under_four_heavy_atoms() -> None:
    image = drawn(0.3, 9.0).image
    with pytest.raises(NotAnalysable):
        reciprocal_cell(image)  # the case that is meant
    grid = fit_grid(image, find(image, calibrate=False))
    assert grid.a_px_iso == pytest.approx(1.42 * np.sqrt(3) / 0.079, rel=0.02)


def test_noise_with_bright_blobs_has_no_lattice() -> None:
    atoms, (y, x) = np.zeros((256, 256)), np.mgrid[:256, :256]
    for u, v in PLACES:
        atoms += 6 * np.exp(-0.5 * ((x - 256 * u) ** 2 + (y - 256 * v) ** 2) / 5.7**2)
    for seed in range(5):
        noisy = np.random.default_rng(seed).poisson(0.6 * (1.2 + atoms)).astype(float)
        with pytest.raises(NotAnalysable):
            reciprocal_cell(levelled(noisy))


def test_heavy_atoms_are_seen_and_hide_nothing() -> None:
    analysis, truth = analysed(), drawn(0.6, 6.0).truth
    assert [region.kind for region in analysis.regions] == []
    for one in truth:
        off = [float(np.hypot(*(d.extent_px - one.xy_px).T).min()) for d in analysis.defects]
        assert min(off) < 8.0
