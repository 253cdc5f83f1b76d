"""More light on many chalcogen columns side by side is no crowd of exchanged atoms."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from chain import PIXEL_A, Chain, redrawn, run, taken

from stemfit import warn
from stemfit.synthetic import crystal

BRIGHTER = 4.5
"""Of two sulphur atoms: what a metal below adds, nearly as bright as tellurium in place of one."""


@cache
def lit(together: bool) -> Chain:
    """Sixteen brighter columns, side by side or scattered."""
    sample = crystal((300, 320), pixel_size_A=PIXEL_A, rotation_deg=23.0, seed=6)
    columns = sample.columns
    middle = np.array([160.0, 150.0])
    inside = (columns.sublattice == "X") & (np.abs(columns.xy_px - middle) < [125, 115]).all(1)
    rows = np.flatnonzero(inside)
    order = rows[np.argsort(np.linalg.norm(columns.xy_px[rows] - middle, axis=1))]
    chosen = order[:16] if together else np.random.default_rng(5).choice(order, 16, replace=False)
    share = {(int(i), int(j), "X"): BRIGHTER for i, j in columns.ij[chosen]}
    image, truth = taken(redrawn(sample, share), counts=60.0)
    return run(truth, image, "MoS2")


def test_brighter_columns_side_by_side_are_one_area_without_a_name() -> None:
    (area,) = lit(True).found
    assert (area.type, area.label) == ("UNKNOWN", "UNKNOWN")
    assert len(area.sites) == 16


def test_brighter_columns_apart_are_exchanged_atoms() -> None:
    found = lit(False).found
    assert len(found) >= 12
    assert {d.type for d in found} <= {"SUB", "ANTI", "ADATOM"}


def test_a_large_area_that_is_not_the_crystal_is_told() -> None:
    chain = lit(True)
    assert warn._strange(chain.found, chain.posteriors) == []  # 16 of some 500 sites
    few = [p._replace(site=p.site[:40]) for p in chain.posteriors]
    (text,) = warn._strange(chain.found, few)
    assert text.startswith("16 columns of one area")
    assert "80 sites" in text


@pytest.mark.parametrize("inverted", [True, False])
def test_what_is_told_of_an_area_and_of_dark_atoms_is_a_doubt(inverted: bool) -> None:
    chain = lit(True)
    few = [p._replace(site=p.site[:40]) for p in chain.posteriors]
    dark = ("inverted",) * inverted
    assert warn.doubts(chain.identity, chain.posteriors, (), chain.found, 1.0, inverted) == dark
    assert warn.doubts(chain.identity, few, (), chain.found, 1.0, inverted) == (*dark, "unlike")


@pytest.mark.parametrize("together", [True, False])
def test_what_is_said_sums_to_one(together: bool) -> None:
    for defect in lit(together).found:
        assert defect.probability + sum(p for _, p in defect.alternatives) == pytest.approx(1.0)
