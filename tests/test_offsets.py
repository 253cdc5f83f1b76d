"""Columns beside their sites: displacements that neighbours share are none, and the others name what pulls a column."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from test_imaging import COLUMNS, HOST, METAL, SITES, fitted, planted

from stemfit.columns import Columns
from stemfit.defects import occupancy
from stemfit.defects.offsets import Offsets, log_ratio, offsets

FloatArray = NDArray[np.float64]

ERROR_PX = 0.1
BOND_PX = 15.0 / np.sqrt(3)


def standing(moved: dict[int, tuple[float, float]], strain: float = 0.0, seed: int = 2) -> Columns:
    """A column on every site, with an error of 0.1 px, some moved (px), all of them strained about the origin."""
    xy = SITES.xy_px * (1 + strain) + np.random.default_rng(seed).normal(0, ERROR_PX, SITES.xy_px.shape)
    for row, step in moved.items():
        xy[row] += step
    cov = np.tile(np.diag([ERROR_PX**2, ERROR_PX**2, 1.0]), (len(xy), 1, 1))
    return Columns(xy, np.ones(len(xy)), cov, COLUMNS.profile, COLUMNS.background, COLUMNS.model, COLUMNS.noise)


def middle(metal: bool) -> int:
    own = np.flatnonzero((metal == METAL) & SITES.analysed)
    return int(own[np.argmin(np.hypot(*(SITES.xy_px[own] - [180, 160]).T))])


def test_what_neighbours_share_is_no_displacement() -> None:
    row = middle(metal=False)
    found = offsets(standing({row: (2.0, 0.0)}, strain=0.02), SITES)
    raw = np.hypot(*(standing({}, strain=0.02).xy_px - SITES.xy_px)[row]) / BOND_PX
    assert raw > 0.4  # the broken twin: 2 % of the way to the origin
    assert found.away[row] == pytest.approx(2.0 / BOND_PX, abs=0.05)
    others = np.delete(np.flatnonzero(SITES.analysed), np.flatnonzero(np.flatnonzero(SITES.analysed) == row))
    assert np.median(found.away[others]) < 0.03
    # Beside the error, the median of neighbours and the strain within three cells add a little.
    assert ERROR_PX / BOND_PX < np.median(found.sigma) < 2 * ERROR_PX / BOND_PX


def test_sites_without_a_column_say_nothing() -> None:
    column = SITES.column.copy()
    column[middle(metal=True)] = -1
    found = offsets(standing({}), replace(SITES, column=column))
    assert np.isnan(found.away[middle(metal=True)])
    assert log_ratio(found, 0.4)[middle(metal=True)] == 0.0


def test_an_offset_speaks_for_what_may_stand_there_and_its_absence_hardly_against() -> None:
    seen = Offsets(np.array([0.0, 0.02, 0.2, 0.39, 0.8]), np.full(5, 0.02), np.zeros(5, dtype=bool))
    inside = log_ratio(seen, 0.4)
    assert np.all((inside[:2] > np.log(0.4)) & (inside[:2] < 0.0))
    assert np.all(inside[2:4] > np.log(3.0))
    assert inside[3] > inside[2]  # the farther, the less a crystal does it
    assert inside[4] < 0.0  # out of reach
    nowhere = log_ratio(seen, 0.0)
    assert nowhere[2] < 0.0


def posterior(value: float, step_bonds: float) -> dict[str, float]:
    """What a chalcogen site with this brightness (metal 1000) and this offset holds."""
    seen, row = planted(scatter=0.02), middle(metal=False)
    seen.value[row] = value
    placed = offsets(standing({row: (step_bonds * BOND_PX, 0.0)}), SITES)
    found = occupancy(SITES, seen, fitted(seen), HOST, "X", placed)
    p = found.probability[found.site == row][0]
    return {h.label: float(q) for h, q in zip(found.hypotheses, p, strict=True)}


def test_an_exchanged_atom_stays_on_its_site_and_an_added_one_beside_it_does_not() -> None:
    level = fitted(planted()).amplitudes["SSe"].value
    on_site, beside = posterior(level, 0.0), posterior(level, 0.22)
    assert on_site["Se_S"] > 4 * on_site["ADATOM"]
    assert beside["ADATOM"] > 2 * beside["Se_S"]
    assert beside["pristine"] < 0.01


def test_a_metal_on_the_site_of_chalcogens_may_stand_off_centre() -> None:
    centred, off = posterior(1000.0, 0.0), posterior(1000.0, 0.28)
    assert off["Mo_S2"] > 1.4 * centred["Mo_S2"]
    assert off["Mo_S2"] + off["ADATOM"] > 0.9
    assert off["Se_S"] + off["Te_S"] < 0.05 < centred["Se_S"] + centred["Te_S"]
