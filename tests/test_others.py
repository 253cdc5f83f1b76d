"""What neighbours do to a defect's surroundings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chain import Chain, row_of
from test_score import EMPTY, MOVE_A, Relaxer, claim, contracted, judged, pulled, site_near

from stemfit.candidates import propose
from stemfit.relax import keep
from stemfit.score.others import Field, superposed
from stemfit.score.scene import EXTENDED_A, LEFT, MOST_A, RESIDUAL_A, Predicted, relaxation_error_A

BESIDE = (0, 1, "X")
"""It shares a metal with the empty column."""


def test_a_field_moves_what_is_near_its_nodes_and_nothing_else() -> None:
    field = Field(np.zeros((1, 2)), np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([[1.0, 0.0], [0.0, -2.0]]))
    moved = field.at(np.array([[0.5, 0.5], [9.0, 0.0], [5.0, 0.0]]), 2.0)
    assert moved.tolist() == [[1.0, 0.0], [0.0, -2.0], [0.0, 0.0]]
    assert field.largest_px == 2.0
    nothing = Field(np.zeros((1, 2)), np.empty((0, 2)), np.empty((0, 2)))
    assert nothing.at(np.array([[0.5, 0.5]]), 2.0).tolist() == [[0.0, 0.0]]


def test_fields_add_up_where_they_meet() -> None:
    one = Field(np.zeros((1, 2)), np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([[1.0, 0.0], [0.0, -2.0]]))
    other = Field(np.ones((1, 2)), np.array([[10.1, 0.0], [20.0, 0.0], [90.0, 0.0]]), np.full((3, 2), 0.5))
    both = superposed((one, other), np.array([[10.0, 0.0]]), 30.0, 2.0)
    assert both.at(np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]]), 2.0).tolist() == [[1, 0], [0.5, -1.5], [0.5, 0.5]]
    assert not both.at(np.array([[90.0, 0.0]]), 2.0).any(), "beyond what was asked for"


def test_columns_in_another_order_look_the_same_and_swapped_coordinates_do_not() -> None:
    xy, light = np.array([[1.0, 8.0], [4.0, 2.0]]), np.array([0.3, 0.6])
    seen = Predicted(xy, light, light / 10, np.zeros(2), np.zeros((2, 2)))
    assert seen.looks() == Predicted(xy[::-1], light[::-1], light[::-1] / 10, np.zeros(2), np.zeros((2, 2))).looks()
    swapped = np.array([[1.0, 2.0], [4.0, 8.0]])  # the same x and the same y, of other columns
    assert seen.looks() != Predicted(swapped, light, light / 10, np.zeros(2), np.zeros((2, 2))).looks()
    assert seen.looks() != Predicted(xy, light[::-1], light / 10, np.zeros(2), np.zeros((2, 2))).looks()


def pair() -> Chain:
    """A double vacancy whose three metals have moved toward it, and a single one beside it."""
    return contracted(MOVE_A, BESIDE)


def beside(relaxer: Relaxer) -> float:
    """Evidence of the single vacancy."""
    chain = pair()
    rows = [site_near(chain, chain.truth.columns.xy_px[row_of(chain.truth.columns, s)]) for s in (EMPTY, BESIDE)]
    claims = [claim(chain, rows[0], "V_S2", "DV"), replace(claim(chain, rows[1], "V_S", rivals=("O_S",)), id=2)]
    made, ranking = judged(chain, claims, relaxer)
    return max(s.log_likelihood for c, s in zip(made, ranking.scores, strict=True) if (c.defect, c.label) == (2, "V_S"))


def test_what_is_said_of_a_neighbour_decides_little() -> None:
    """Columns nearer to it stand where they were measured, and a field that fits worse than none moves nothing."""
    right, wrong, nothing = beside(pulled(MOVE_A)), beside(pulled(-MOVE_A)), beside(keep)
    assert right > max(wrong, nothing) + 0.2
    assert right < min(wrong, nothing) + 2.0


@pytest.mark.parametrize("move_A, expected", [(0.05, RESIDUAL_A), (0.6, LEFT * 0.6 / np.sqrt(2))])
def test_what_moves_far_is_known_less_well(move_A: float, expected: float) -> None:
    chain = pair()
    row = int(np.flatnonzero(chain.sites.sublattice == "X")[0])
    made = propose(claim(chain, row, "V_S2", "DV"), chain.host, chain.lattice, chain.sites, {})
    error = relaxation_error_A(list(zip(made, pulled(move_A)(made), strict=True)))
    assert error == pytest.approx(expected, rel=0.02)


def test_an_unlikely_candidate_that_falls_apart_does_not_excuse_the_others() -> None:
    chain = pair()
    row = int(np.flatnonzero(chain.sites.sublattice == "X")[0])
    made = propose(claim(chain, row, "V_S2", "DV"), chain.host, chain.lattice, chain.sites, {})
    likely = next(c for c in made if c.label == "V_S2")
    last = replace(likely, log_prior=likely.log_prior - 10.0)
    pairs = [(likely, keep([likely])[0]), (last, pulled(2.0)([last])[0])]
    assert relaxation_error_A(pairs) == RESIDUAL_A
    assert relaxation_error_A([pairs[1]]) > 0.5
    assert relaxation_error_A([(last, pulled(9.0)([last])[0])]) == MOST_A


def test_what_nobody_was_taught_is_no_better_known_than_what_was() -> None:
    """The perfect crystal beside a line that the network warns of: the line's error is that of lines."""
    chain = pair()
    row = int(np.flatnonzero(chain.sites.sublattice == "X")[0])
    made = propose(claim(chain, row, "V_S2", "DV"), chain.host, chain.lattice, chain.sites, {})
    pristine, other = (next(c for c in made if c.label == label) for label in ("pristine", "V_S2"))
    line = replace(other, type="LINE", label="SVL-4")
    warned = replace(pulled(1.0)([line])[0], caution="not in the training set")
    assert relaxation_error_A([(pristine, keep([pristine])[0]), (line, warned)]) >= EXTENDED_A
