"""Columns beside a line whose two atoms stand apart, and equally dim ones that stand alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from chain import PIXEL_A, Chain, FloatArray, Site, redrawn, run, taken

from stemfit.defects import Defect, torn
from stemfit.defects.occupancy import likelihoods
from stemfit.synthetic import crystal

HALF = 0.34
"""Of a pair: coherent scattering, as in annular dark field at medium angles. Two atoms apart are worth 0.68."""

ROW = tuple((t, 2, "X") for t in range(4))
BESIDE, ALONE = (1, 3, "X"), (-4, -3, "X")
DIM = 0.62


APART_A = 0.45
"""Too little to be seen as two columns: the probe is twice as wide."""


@cache
def chain(beside: float = DIM, apart_A: float = APART_A) -> Chain:
    """A row of four single vacancies, a dim pair apart beside it, a column as dim far away, more vacancies."""
    lone: tuple[Site, ...] = ((4, -4, "X"), (-3, 4, "X"), (-1, -4, "X"))
    share = {site: HALF for site in (*ROW, *lone)} | {BESIDE: 0.0, ALONE: DIM}
    sample = crystal((260, 280), pixel_size_A=PIXEL_A, rotation_deg=11.3, half_share=HALF, seed=3)
    xy = sample.columns.xy_px[(sample.columns.ij == BESIDE[:2]).all(1) & (sample.columns.sublattice == "X")][0]
    across = np.array([-sample.a_px[1], sample.a_px[0]]) / np.linalg.norm(sample.a_px) * apart_A / 2 / PIXEL_A
    full = float(np.median(sample.columns.intensity[sample.columns.sublattice == "X"])) * sample.profile.peak()
    added = [(*(xy + sign * across), beside * full / 2) for sign in (-1, 1)]
    image, truth = taken(redrawn(sample, share, added=added), 60.0, seed=5)
    return run(truth, image, "MoS2")


def about(one: Chain, site: Site) -> list[Defect]:
    """Claims at a site of the truth."""
    return [d for d in one.found if np.hypot(*(d.extent_px - place(one, site)).T).min() < 4.0]


def place(one: Chain, site: Site) -> FloatArray:
    """Where a site of the truth is."""
    own = (one.truth.columns.ij == site[:2]).all(1) & (one.truth.columns.sublattice == site[2])
    return np.asarray(one.truth.columns.xy_px[own][0])


def test_the_line_is_a_line_and_a_dim_pair_beside_it_no_vacancy() -> None:
    (line,) = about(chain(), ROW[1])
    assert (line.type, line.label) == ("LINE", "SVL-4")
    assert about(chain(), BESIDE) == []


def test_a_column_as_dim_elsewhere_is_claimed() -> None:
    (one,) = about(chain(), ALONE)
    assert one.type in ("SV", "SUB")


def test_a_vacancy_beside_a_line_stays_one() -> None:
    said = about(chain(HALF, 0.0), BESIDE)
    assert said, "half of the light is missing, more than two atoms apart lose"
    assert all(d.type in ("SV", "LINE", "UNKNOWN") for d in said)


def test_beside_a_single_defect_a_pair_is_seldom_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    one = chain()
    (said,) = (n for n in range(len(one.sites.column)) if np.hypot(*(one.sites.xy_px[n] - place(one, BESIDE))) < 4.0)
    site = (int(one.sites.ij[said, 0]), int(one.sites.ij[said, 1]), "X")
    extended = torn.with_torn_pairs(one.evidence).probability(site)["pristine"]
    monkeypatch.setattr(torn, "TORN", torn.TORN_BY_ONE)
    single = torn.with_torn_pairs(one.evidence).probability(site)["pristine"]
    assert one.evidence.probability(site)["pristine"] < single < extended
    assert single / (1 - single) < 0.2 * extended / (1 - extended)


def test_probabilities_still_sum_to_one() -> None:
    one = chain()
    for said in (*one.found, *one.suspects):
        assert said.probability + sum(p for _, p in said.alternatives) == pytest.approx(1.0)


def test_names_keep_what_the_position_says_when_read_again() -> None:
    """The column is measured anew; where it stands was known before and is not forgotten."""
    one = chain()
    x = one.posteriors[1]
    site = np.flatnonzero(x.probability[:, 0] < 0.9)[0]
    light, place = np.array([0.5]), np.zeros_like(x.log_likelihood)
    place[site, 3] = -7.0
    said = [
        likelihoods(light, light / 20, x._replace(place=known), one.imaging, "X", np.array([site]))[0]
        for known in (place, None)
    ]
    assert np.flatnonzero(said[0] != said[1]).tolist() == [3]
    assert said[0][3] == pytest.approx(said[1][3] - 7.0)
