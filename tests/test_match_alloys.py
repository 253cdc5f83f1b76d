"""Structures of one's own in an alloy: with the atoms that the image shows around them, no surer than brightness."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from alloy_fields import PIXEL_A, Cell, Sample, W, sample
from chain import taken

from definet.structure_file import write_structure
from definet.structures import build, line, pristine
from stemfit import pipeline
from stemfit.candidates import Candidate
from stemfit.hosts import column_type
from stemfit.matching import compare
from stemfit.matching.given import read_given
from stemfit.matching.spots import look_for
from stemfit.observed import Clock, Observed, Settings, observe
from stemfit.relax import keep
from stemfit.result import Findings
from stemfit.synthetic import as_micrograph


@cache
def drawn() -> Sample:
    return sample(W, {"W": 1.0}, {"S2": 0.3, "SSe": 0.5, "Se2": 0.2}, gone=3)


@cache
def seen() -> Observed:
    image, _ = taken(drawn().truth, 100.0, 2)
    told = Settings(voltage_kV=60.0, detector_mrad=(60.0, 200.0))
    return observe(as_micrograph(image, PIXEL_A), told, Clock(lambda stage: None))


def matched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Findings:
    monkeypatch.setattr(pipeline, "observe", lambda *asked: seen())
    host = seen().identity.host.name
    x = host[1:].rstrip("2")
    write_structure(folder / "pair.cif", build(pristine(host, 7), f"V_{x}2").atoms)
    return pipeline.match(seen().micrograph, Settings(), [read_given(folder / "pair.cif", host)], None, keep)


def right(candidate: Candidate) -> float:
    """Share of the complete chalcogen columns of a structure, 3 to 9 Angstrom out, that have the atoms drawn there."""
    columns, types = drawn().truth.columns, drawn().types
    made = candidate.structure
    symbols = np.array([s.specie.symbol for s in made.structure])
    at_px = made.nodes_A[:, :2] @ candidate.matrix.T + candidate.offset_px
    away = np.hypot(*(made.nodes_A[:, :2] - candidate.center_A).T)
    agree = []
    for k in np.flatnonzero(columns.sublattice == "X"):
        here = (np.hypot(*(at_px - columns.xy_px[k]).T) < 4.0) & (away > 3.0) & (away < 9.0) & made.occupied
        if here.sum() == 2:
            agree.append(column_type(symbols[here]) == types[k])
    assert len(agree) > 12
    return float(np.mean(agree))


def test_found_where_the_columns_are_gone_among_the_atoms_of_the_alloy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = matched(tmp_path, monkeypatch)
    found = [m for m in analysis.matches if m.found]
    columns = drawn().truth.columns
    gone = [columns.xy_px[(columns.ij == c).all(1) & (columns.sublattice == "X")][0] for c in drawn().gone]
    off = np.array([min(np.hypot(*(m.center_px - xy)) for xy in gone) for m in found])
    assert len(found) == len(gone) and (off < 4.0).all()
    by_id = {c.id: c for c in analysis.candidates}
    assert all(right(by_id[m.candidate]) > 0.85 for m in found)
    assert all(by_id[m.candidate].relaxed_as is not None for m in found)


def test_undressed_structures_have_the_majority_s_atoms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin of what is counted above."""
    monkeypatch.setattr(compare, "dressed", lambda plain, *more: plain)
    analysis = matched(tmp_path, monkeypatch)
    by_id = {c.id: c for c in analysis.candidates}
    assert all(right(by_id[m.candidate]) < 0.7 for m in analysis.matches)


def test_no_surer_than_what_brightness_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odds against the perfect crystal are those of the site's brightness and the rate of such sites in the image."""
    analysis, v = matched(tmp_path, monkeypatch), seen()
    (one,) = [p for p, name in zip(v.posteriors, v.identity.host.sublattices, strict=True) if name == "X"]
    empty = [h.column for h in one.hypotheses].index("")
    for match in (m for m in analysis.matches if m.found):
        k = int(np.argmin(np.hypot(*(v.sites.xy_px[one.site] - match.center_px).T)))
        said = np.log(match.probability / max(match.pristine, 1e-300))
        assert said < one.log_likelihood[k, empty] - one.log_likelihood[k, 0] + 1.0


def test_a_line_is_looked_for_where_its_name_was_found_and_no_surer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of its columns looks like complete ones of other atoms: it shows by the gap that has closed."""
    row: list[Cell] = [(i, 0) for i in range(-4, 4)]
    told = sample(W, {"W": 1.0}, {"S2": 0.3, "SSe": 0.5, "Se2": 0.2}, line=row, closed_A=0.35)
    settings = Settings(voltage_kV=60.0, detector_mrad=(60.0, 200.0))
    micrograph = as_micrograph(taken(told.truth, 60.0, 2)[0], PIXEL_A)
    v = observe(micrograph, settings, Clock(lambda stage: None))
    (found,) = [d for d in v.found if d.type == "LINE"]
    monkeypatch.setattr(pipeline, "observe", lambda *asked: v)
    host, number = v.identity.host.name, int(found.label.rpartition("-")[2])
    write_structure(tmp_path / "line.cif", line(pristine(host, number + 5, 8), found.label, (2, 4)).atoms)
    some = [read_given(tmp_path / "line.cif", host)]
    places = [spot.placements[0].centre_px for spot in look_for(v, some, None)]
    assert min(np.hypot(*(place - found.center_px)) for place in places) < 0.3 * v.lattice.a_px_iso
    x, y = found.center_px.tolist()
    analysis = pipeline.match(micrograph, settings, some, None, keep, at_px=(x, y))
    assert 0.3 < max(m.probability for m in analysis.matches) <= found.probability + 1e-9
