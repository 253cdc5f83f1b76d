"""Structures that no relaxer was made for stand where the image has their columns; fields of neighbours fade."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from test_offsets import SITES
from test_offsets import standing as columns_at

from definet.structures import build, pristine
from stemfit.candidates import Candidate
from stemfit.columns import Columns
from stemfit.defects import Defect
from stemfit.relax import Relaxed, keep
from stemfit.score.others import field_of
from stemfit.score.standing import standing

MATRIX = np.array([[8.0, 0.0], [0.0, -8.0]])


def candidate(label: str, at_px: NDArray[np.float64]) -> Candidate:
    structure = build(pristine("WSe2", 8, 8), label)
    center = structure.center_A
    return Candidate("1-1", 1, "ANTI", label, structure, center, MATRIX, at_px - MATRIX @ center, 0.0)


def seen(xy_px: NDArray[np.float64]) -> Columns:
    columns = columns_at({})
    return replace(columns, xy_px=np.where(np.arange(len(columns))[:, None] == 0, xy_px, columns.xy_px + 1e4))


@pytest.mark.parametrize(("step_A", "moves"), [((0.4, 0.3), True), ((0.02, 0.0), False), ((2.0, 0.0), False)])
def test_an_exchanged_atom_stands_where_its_column_is(step_A: tuple[float, float], moves: bool) -> None:
    site = SITES.xy_px[0]
    one = candidate("W_Se2", site)
    relaxed, log_prior = standing(one, seen(site + MATRIX @ np.array(step_A)))
    shift = relaxed.positions_A - one.structure.nodes_A
    own = [k for k in one.structure.sites if one.structure.occupied[k]]
    assert own
    assert np.allclose(shift[own, :2], step_A if moves else 0.0)
    assert np.allclose(np.delete(shift, own, axis=0), 0.0)
    if moves:  # a place chosen after the fact is one of several
        assert log_prior < np.log(0.5)
    else:
        assert log_prior == pytest.approx(np.log(0.5))


def test_what_a_neighbour_moves_far_away_is_in_the_lattice_already() -> None:
    at = np.array([200.0, 200.0])
    one = candidate("V_Se", at)
    (built,) = keep([one])
    drawn = Relaxed(built.positions_A + np.array([0.1, 0.0, 0.0]), None, "definet", None)
    defect = Defect(1, "SV", "V_Se", 0.9, at, ((0, 0, "X"),), at[None], (), 9.0)
    field = field_of(defect, [one], [drawn])
    away_A = np.hypot(*(field.nodes_px - at).T) / 8.0
    moved_A = np.hypot(*field.shift_px.T) / 8.0
    assert moved_A[away_A < 2.1] == pytest.approx(0.1, rel=0.05)
    assert moved_A[away_A > 11].max() < 0.02
