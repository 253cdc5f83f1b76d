"""Candidates of defects in alloys hold the atoms that the image shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from alloy_fields import Answer, Cell, Sample, W, answer, near, sample

from stemfit.candidate_alloys import Mixture, mixtures_of, propose_in
from stemfit.candidates import Candidate, propose
from stemfit.defects import Defect, label_rates
from stemfit.hosts import column_type
from stemfit.relax import keep, relaxer
from stemfit.score import rank

PAIRS = {"S2": 0.3, "SSe": 0.5, "Se2": 0.2}
ROW: list[Cell] = [(i, 0) for i in range(-4, 4)]


@pytest.fixture(scope="module")
def seen() -> tuple[Sample, Answer, dict[str, Mixture]]:
    drawn = sample(W, {"W": 1.0}, PAIRS, line=ROW, closed_A=0.35, gone=4)
    said = answer(drawn)
    return drawn, said, mixtures_of(said.evidence.posteriors, said.evidence.host, said.populations)


def _made(seen: tuple[Sample, Answer, dict[str, Mixture]], defect: Defect) -> tuple[Candidate, ...]:
    _, said, mixed = seen
    e = said.evidence
    return propose_in(defect, e.host, e.lattice, e.sites, label_rates(e.posteriors), mixed)


def _elements(candidate: Candidate) -> np.ndarray:
    return np.array([s.specie.symbol for s in candidate.structure.structure])


def _emptied(seen: tuple[Sample, Answer, dict[str, Mixture]]) -> Defect:
    drawn, said, _ = seen
    columns = drawn.truth.columns
    at = columns.xy_px[(columns.ij == drawn.gone[0]).all(1) & (columns.sublattice == "X")][0]
    return near(said.claims, at)[0]


def test_every_atom_left_and_every_complete_column_is_a_candidate(
    seen: tuple[Sample, Answer, dict[str, Mixture]]
) -> None:
    made = _made(seen, _emptied(seen))
    left: dict[str, set[str]] = {}
    for c in made:
        if c.label in ("V_S", "V_Se"):
            (gone,) = np.flatnonzero(c.structure.marker == 2)
            assert _elements(c)[gone] == c.label[2:]
            place = c.structure.nodes_A[gone, :2]
            column = np.hypot(*(c.structure.nodes_A[:, :2] - place).T) < 0.1
            (atom,) = _elements(c)[column & c.structure.occupied]
            left.setdefault(c.label, set()).add(str(atom))
    assert left == {"V_S": {"S", "Se"}, "V_Se": {"S", "Se"}}
    pristine = [c for c in made if c.label == "pristine"]
    types = set()
    for c in pristine:
        column = np.hypot(*(c.structure.nodes_A[:, :2] - c.center_A).T) < 0.1
        types.add(column_type(_elements(c)[column]))
    assert types == {"S2", "SSe", "Se2"}
    assert sum(np.exp(c.log_prior) for c in pristine) == pytest.approx(seen[1].evidence.posteriors[1].rate[0], abs=0.01)
    assert [int((c.structure.marker != 0).sum()) for c in made if c.label == "V_S2"] == [2]
    assert len({c.id for c in made}) == len(made)


def test_the_surroundings_hold_what_the_image_shows(seen: tuple[Sample, Answer, dict[str, Mixture]]) -> None:
    drawn, _, _ = seen
    candidate = next(c for c in _made(seen, _emptied(seen)) if c.label == "V_S2")
    truth = drawn.truth.columns
    at_px = candidate.structure.nodes_A[:, :2] @ candidate.matrix.T + candidate.offset_px
    right = []
    for k in np.flatnonzero((truth.sublattice == "X") & (drawn.types != "")):
        nodes = np.hypot(*(at_px - truth.xy_px[k]).T) < 5
        if np.hypot(*(truth.xy_px[k] - at_px[candidate.structure.sites[0]])) < 60 and nodes.sum() == 2:
            right.append(column_type(_elements(candidate)[nodes]) == drawn.types[k])
    assert len(right) > 10
    assert np.mean(right) > 0.9


def test_what_is_mixed_is_relaxed_as_the_majority_host(seen: tuple[Sample, Answer, dict[str, Mixture]]) -> None:
    made = [c for c in _made(seen, _emptied(seen)) if c.label != "pristine"][:3]
    relaxed = relaxer("definet", "cpu")(made)
    for c, r in zip(made, relaxed, strict=True):
        assert r.caution == ""
        assert len(r.positions_A) == len(c.structure.nodes_A)
        assert set(_elements(c)) == {"W", "S", "Se"}
        assert c.relaxed_as is not None
        assert {s.specie.symbol for s in c.relaxed_as.structure} == {"W", "S"}
        assert 0.01 < np.abs(r.positions_A - c.structure.nodes_A).max() < 0.5


def test_defects_of_an_alloy_are_scored_and_written(
    seen: tuple[Sample, Answer, dict[str, Mixture]], tmp_path: Path
) -> None:
    _, said, _ = seen
    e = said.evidence
    candidates = [c for d in said.claims for c in _made(seen, d)]
    assert {c.type for c in candidates} >= {"LINE", "DV", "SV"}
    ranking = rank(
        said.claims, candidates, keep(candidates), e.image, e.columns, e.imaging, e.lattice, e.sites, said.brightness,
        label_rates(e.posteriors)["UNKNOWN"],
    )
    assert len([d for d in ranking.claimed if d.label == "V_S2" and d.probability > 0.5]) >= 3
    (line,) = (d for d in ranking.claimed if d.type == "LINE")
    assert line.best_candidate is not None
    for d in ranking.claimed:
        assert sum([d.probability, *(p for _, p in d.alternatives)]) == pytest.approx(1.0)
    before = {d.id: (d.label, d.probability, d.alternatives) for d in said.claims}
    kept = [d for d in ranking.claimed if d.sites[0][2] == "X"]
    assert kept
    assert all(before[d.id] == (d.label, d.probability, d.alternatives) for d in kept)
    best = next(c for c in candidates if c.id == line.best_candidate)
    for name in ("best.cif", "POSCAR"):
        best.structure.atoms.to(filename=str(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 1000


def test_a_pure_host_keeps_its_candidates(seen: tuple[Sample, Answer, dict[str, Mixture]]) -> None:
    _, said, _ = seen
    e = said.evidence
    defect = _emptied(seen)
    defect = replace(defect, alternatives=tuple((n, p) for n, p in defect.alternatives if n != "V_Se"))
    rates = label_rates(e.posteriors)
    ours = propose_in(defect, e.host, e.lattice, e.sites, rates, {})
    assert [c.id for c in ours] == [c.id for c in propose(defect, e.host, e.lattice, e.sites, rates)]
