"""Alloys from image to defects: composition, vacancies, and lines, which the gap that has closed along them shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from alloy_fields import MO, Answer, Cell, Sample, W, answer, near, read_without_hint, sample

from stemfit.defects.closed_rows import closed_rows
from stemfit.defects.gaps import CLOSED_A, gaps
from stemfit.micrograph import read

PAIRS = {"S2": 0.3, "SSe": 0.5, "Se2": 0.2}
ROW: list[Cell] = [(i, 0) for i in range(-4, 4)]


@pytest.fixture(scope="module")
def with_line() -> tuple[Sample, Answer]:
    drawn = sample(W, {"W": 1.0}, PAIRS, line=ROW, closed_A=0.35, gone=4)
    return drawn, answer(drawn)


def _site_px(drawn: Sample, cell: Cell) -> np.ndarray:
    columns = drawn.truth.columns
    return columns.xy_px[np.flatnonzero((columns.ij == cell).all(1) & (columns.sublattice == "X"))[0]]


def _vacancies_found(drawn: Sample, seen: Answer) -> int:
    """Emptied columns that are a claim of their own, with the right type."""
    return sum([d.type for d in near(seen.claims, _site_px(drawn, cell))] == ["DV"] for cell in drawn.gone)


def test_a_line_through_an_alloy_is_one_line(with_line: tuple[Sample, Answer]) -> None:
    drawn, seen = with_line
    (line,) = (d for d in seen.claims if d.type == "LINE")
    ends = np.array([_site_px(drawn, ROW[0]), _site_px(drawn, ROW[-1])])
    said = np.array([line.extent_px[0], line.extent_px[-1]])
    assert min(np.abs(said - ends).max(), np.abs(said[::-1] - ends).max()) < 24  # one site, of 21 px, at most
    labels = dict([(line.label, line.probability), *line.alternatives])
    assert sum(labels.values()) == pytest.approx(1.0)
    assert line.type_probability == pytest.approx(sum(p for label, p in labels.items() if "VL-" in label))
    assert line.type_probability > 0.9
    assert seen.claims[0] is line  # the largest of the sure ones, though its length is shared out
    assert labels["SVL-8"] > 0.1
    assert not [d for d in seen.claims if d is not line and near([d], line.center_px, 60.0) and d.type != "DV"]
    assert _vacancies_found(drawn, seen) == 4


def test_a_row_of_the_lighter_element_is_no_line() -> None:
    drawn = sample(W, {"W": 1.0}, PAIRS, line=ROW, closed_A=0.0, gone=4)
    seen = answer(drawn)
    assert not [d for d in seen.claims if d.type == "LINE"]
    assert _vacancies_found(drawn, seen) == 4


def test_gaps_are_measured_in_angstrom(with_line: tuple[Sample, Answer]) -> None:
    drawn, seen = with_line
    measured = gaps(seen.evidence)
    assert measured is not None
    found = {cell: seen.evidence.xy_px((*cell, "X")) for cell in measured.row}
    true = [_site_px(drawn, cell) for cell in ROW]
    rows = [min(found, key=lambda cell: float(np.hypot(*(found[cell] - xy)))) for xy in true]
    best = measured.closed_A[[measured.row[c] for c in rows]].mean(0)
    along = int(np.argmax(best))
    assert best[along] == pytest.approx(0.35, abs=0.08)
    assert np.delete(best, along).max() < CLOSED_A[0] + 0.1
    others = np.delete(measured.closed_A[:, along], [measured.row[c] for c in rows])
    assert abs(np.median(others)) < 0.02


def test_gaps_that_open_make_no_line() -> None:
    drawn = sample(W, {"W": 1.0}, PAIRS, line=ROW, closed_A=-0.35)
    assert closed_rows([], answer(drawn).evidence) == ([], [])


@pytest.mark.parametrize("pairs", [{"S2": 1.0}, {"S2": 0.45, "SSe": 0.4, "Se2": 0.15}])
def test_metal_and_quaternary_alloys_with_vacancies(pairs: Mapping[str, float]) -> None:
    drawn = sample(MO, {"Mo": 0.7, "W": 0.3}, pairs, gone=6, line=ROW if len(pairs) > 1 else (), closed_A=0.35, seed=9)
    seen = answer(drawn)
    on_m = drawn.truth.columns.sublattice == "M"
    assert seen.host == "MoS2"
    assert set(seen.populations) == ({"M", "X"} if len(pairs) > 1 else {"M"})
    said, sigma = seen.populations["M"].composition()["W"]
    assert abs(said - np.mean(drawn.types[on_m] == "W")) < 3 * sigma < 0.1
    if "X" in seen.populations:
        selenium = np.mean([t.count("Se") + t.count("Se2") for t in drawn.types[~on_m & (drawn.types != "")]]) / 2
        said, sigma = seen.populations["X"].composition()["Se"]
        assert abs(said - selenium) < 3 * sigma + 0.01
        assert sum(d.type == "LINE" for d in seen.claims) == 1
    assert _vacancies_found(drawn, seen) >= 5
    assert len(seen.claims) <= len(drawn.gone) + 2


def test_lines_that_are_seen_by_eye_in_a_micrograph(real_images: Path) -> None:
    """Ends (row, column) of four of the lines of a (Mo,W)(S,Se)2 alloy, as they were put by hand."""
    by_eye = [((763, 377), (807, 421)), ((664, 542), (752, 592)), ((885, 553), (940, 526)), ((883, 461), (954, 410))]
    seen = read_without_hint(read(real_images / "mowsse_line_defects.png").image)
    lines = [d for d in seen.claims if d.type == "LINE"]
    held = []
    for ends in by_eye:
        middle = np.mean(ends, axis=0)[::-1]
        near_it = [d for d in lines if np.hypot(*(d.extent_px - middle).T).min() < 20]
        assert near_it
        held.append(near_it[0].id)
    assert len(set(held)) == len(held)
    assert len(lines) < 10
