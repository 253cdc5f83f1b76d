"""Columns beside a line whose two atoms stand apart, and equally dim ones that stand alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from chain import PIXEL_A, Chain, Site, redrawn, run, taken

from stemfit.defects import Defect
from stemfit.defects.tilted import with_tilted_pairs
from stemfit.synthetic import crystal

HALF = 0.34
"""Of a pair: coherent scattering, as in annular dark field at medium angles. Two atoms apart are worth 0.68."""

ROW = tuple((t, 2, "X") for t in range(4))
BESIDE, ALONE = (1, 3, "X"), (-4, -3, "X")
DIM = 0.60


@cache
def chain(beside: float = DIM) -> Chain:
    """A row of four single vacancies, a dim column beside it, one as dim far away, and three more single vacancies."""
    lone: tuple[Site, ...] = ((4, -4, "X"), (-3, 4, "X"), (-1, -4, "X"))
    share = {site: HALF for site in (*ROW, *lone)} | {BESIDE: beside, ALONE: DIM}
    sample = crystal((260, 280), pixel_size_A=PIXEL_A, rotation_deg=11.3, half_share=HALF, seed=3)
    image, truth = taken(redrawn(sample, share), 60.0, seed=5)
    return run(truth, image, "MoS2")


def about(one: Chain, site: Site) -> list[Defect]:
    """Claims at a site of the truth."""
    xy = one.truth.columns.xy_px[
        (one.truth.columns.ij == site[:2]).all(1) & (one.truth.columns.sublattice == site[2])
    ][0]
    return [d for d in one.found if np.hypot(*(d.extent_px - xy).T).min() < 4.0]


def test_the_line_is_a_line_and_a_dim_pair_beside_it_no_vacancy() -> None:
    (line,) = about(chain(), ROW[1])
    assert (line.type, line.label) == ("LINE", "SVL-4")
    assert about(chain(), BESIDE) == []


def test_a_column_as_dim_elsewhere_is_claimed() -> None:
    (one,) = about(chain(), ALONE)
    assert one.type in ("SV", "SUB")


def test_a_vacancy_beside_a_line_stays_one() -> None:
    said = about(chain(HALF), BESIDE)
    assert said, "half of the light is missing, more than two atoms apart lose"
    assert all(d.type in ("SV", "LINE", "UNKNOWN") for d in said)


def test_probabilities_still_sum_to_one() -> None:
    one = chain()
    every = (*one.found, *one.suspects)
    moved = with_tilted_pairs(every, one.found, one.evidence)
    for before, after in zip(every, moved, strict=True):
        assert after.probability + sum(p for _, p in after.alternatives) == pytest.approx(1.0)
        assert dict(after.alternatives).get("pristine", 0.0) >= dict(before.alternatives).get("pristine", 0.0)


def test_without_an_extended_defect_nothing_changes() -> None:
    one = chain()
    assert with_tilted_pairs(one.found, [d for d in one.found if len(d.sites) == 1], one.evidence) == one.found
