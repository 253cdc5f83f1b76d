"""Lines whose atoms are far from their sites: found where they are, and with no other number of vacancies."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from alloy_fields import MO, PIXEL_A, Cell, Sample, sample
from chain import taken
from numpy.typing import NDArray

from definet.structure_file import write_structure
from definet.structures import build, line, pristine
from stemfit import pipeline
from stemfit.matching import judge
from stemfit.matching.given import Given, read_given
from stemfit.matching.held import Held
from stemfit.observed import Clock, Observed, Settings, observe
from stemfit.relax import keep
from stemfit.result import Findings
from stemfit.synthetic import as_micrograph

FloatArray = NDArray[np.float64]

ROW: list[Cell] = [(i, 0) for i in range(-2, 3)]
CLOSED_A = 0.9
"""By how much the metal rows on both sides of the line have come together."""


@cache
def drawn() -> Sample:
    return sample(MO, {"Mo": 1.0}, {"S2": 1.0}, line=ROW, closed_A=CLOSED_A)


@cache
def seen() -> Observed:
    image, _ = taken(drawn().truth, 60.0, 2)
    return observe(as_micrograph(image, PIXEL_A), Settings(host="MoS2"), Clock(lambda stage: None))


@pytest.fixture(autouse=True)
def seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The crystal in the image is read once for all tests."""
    monkeypatch.setattr(pipeline, "observe", lambda *asked: seen())


def given(number: int, folder: Path) -> Given:
    """A line that has closed as far as that in the image."""
    path = folder / f"SVL-{number}.cif"
    cell = pristine("MoS2", 8, number + 5)
    write_structure(path, line(cell, f"SVL-{number}", (4, 2), direction=1, closing_A=CLOSED_A / 2).atoms)
    return read_given(path, "MoS2")


def matched(number: int, folder: Path) -> Findings:
    return pipeline.match(seen().micrograph, Settings(host="MoS2"), [given(number, folder)], None, keep)


def test_a_line_is_found_where_it_is(tmp_path: Path) -> None:
    (found,) = [m for m in matched(5, tmp_path).matches if m.found]
    columns = drawn().truth.columns
    here = [(int(i), int(j)) in set(ROW) for i, j in columns.ij]
    true = columns.xy_px[np.array(here) & (columns.sublattice == "X")]
    assert np.hypot(*(found.center_px - true.mean(0))) < 0.3 * seen().lattice.a_px_iso
    assert found.probability > 0.9


@pytest.mark.parametrize("number", [4, 6])
def test_a_line_with_another_number_of_vacancies_is_not(number: int, tmp_path: Path) -> None:
    assert not any(m.found for m in matched(number, tmp_path).matches)


def test_pixels_alone_would_claim_the_wrong_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's line has closed as far as that in the image, the right one among its rivals is as built."""
    monkeypatch.setattr(judge, "as_bright", lambda compared, relaxed, scores, *more: scores)
    monkeypatch.setattr(import_module("stemfit.score.fit"), "STEPS", 0)  # columns that are followed tell them apart
    assert any(m.found for m in matched(4, tmp_path).matches)


def test_light_tells_a_vacancy_from_a_column() -> None:
    """Log odds against each other are differences; a line one site off pays for two sites."""
    v = seen()
    held = Held(v.posteriors, v.identity.host.sublattices, v.sites)
    (true,) = [d for d in v.found if d.type == "LINE"]
    row = {site: "S" for site in true.sites}
    step = np.diff([site[:2] for site in true.sites[:2]], axis=0)[0]
    at = held.log_odds(row, np.array([[0, 0], step, 100 * step]))
    assert at[0] > len(row) * np.log(10) and at[1] < at[0] - 5  # vacancies are rarer than one in ten
    assert at[2] == 0  # beyond the image nobody knows
    shifted = {(i + int(step[0]), j + int(step[1]), name): "S" for i, j, name in row}
    both = held.between([row, shifted])
    assert both[0] - both[1] > 10
    one, empty = held.between([{true.sites[0]: "S"}, {true.sites[0]: ""}])
    assert one > empty


def test_a_part_of_what_has_no_name_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five columns that were found as one thing without a name: all of them explain it, one of them does not."""
    v = seen()
    rest = [d for d in v.found if d.type != "LINE"]
    (whole,) = [replace(d, type="UNKNOWN", label="UNKNOWN", alternatives=()) for d in v.found if d.type == "LINE"]
    monkeypatch.setattr(pipeline, "observe", lambda *asked: v._replace(found=(whole, *rest)))
    assert [m.found for m in matched(5, tmp_path).matches] == [True]
    write_structure(tmp_path / "one.cif", build(pristine("MoS2", 7), "V_S").atoms)
    some = [read_given(tmp_path / "one.cif", "MoS2")]
    analysis = pipeline.match(v.micrograph, Settings(host="MoS2"), some, None, keep)
    assert not any(m.found for m in analysis.matches)
    assert all(m.unknown >= whole.probability for m in analysis.matches)
