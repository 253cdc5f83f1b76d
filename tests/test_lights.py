"""Brightness of single columns in place of the table's: it reaches the comparison, and multislice gives it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from chain import vacancies
from test_score import claim, site_near

from definet.structures import build, pristine
from stemfit.candidates import Candidate, propose
from stemfit.defects import with_learned_halves
from stemfit.errors import UsageError
from stemfit.hosts import projected
from stemfit.relax import Relaxed, keep
from stemfit.score import Engine, Light, Ranking, engine_of, rank

NEEDED = importlib.util.find_spec("abtem") is None


def with_half_at(share: float | None) -> tuple[float, float]:
    """Log likelihoods of the true V_S and of the perfect crystal, a single S being this bright; None: by the table."""
    chain = vacancies()
    true = next(d for d in chain.truth.defects if d.label == "V_S")
    defect = claim(chain, site_near(chain, true.center_px), "V_S")
    rates = {**chain.rates, "pristine": 0.97}
    made = propose(defect, chain.host, chain.lattice, chain.sites, rates)
    engine: Engine | None = None
    if share is not None:
        engine = lambda c, r: half(c, r, share)  # noqa: E731
    ranking: Ranking = rank(
        [defect], made, keep(made), chain.image, chain.columns, with_learned_halves(chain.imaging, chain.posteriors),
        chain.lattice, chain.sites, chain.brightness, rates["UNKNOWN"], engine,
    )
    by_label = {c.label: s.log_likelihood for c, s in zip(made, ranking.scores, strict=True)}
    return by_label["V_S"], by_label["pristine"]


def half(candidate: Candidate, relaxed: Relaxed, share: float) -> Light:
    """One column, that of the defect."""
    where = relaxed.positions_A[list(candidate.structure.sites)][:1, :2]
    return Light(where, np.array([share]), ("S2",))


def test_what_an_engine_says_of_a_column_decides() -> None:
    by_table, perfect = with_half_at(None)
    right, unchanged = with_half_at(0.42)  # as the image was drawn
    wrong, _ = with_half_at(0.8)
    assert right > by_table - 1.0 and right > wrong + 10.0
    assert unchanged == pytest.approx(perfect)  # the perfect crystal is not simulated


def test_multislice_asks_for_the_microscope() -> None:
    host = projected("MoS2")
    assert engine_of("fast", host, None, None, None) is None
    for optics in ((None, 30.0, (60.0, 200.0)), (60.0, None, (60.0, 200.0)), (60.0, 30.0, None)):
        with pytest.raises(UsageError, match="multislice needs the microscope"):
            engine_of("multislice", host, *optics)


@pytest.mark.skipif(NEEDED, reason="abTEM is not installed")
def test_multislice_knows_neighbours_and_atoms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphene, one slice: an atom of nitrogen is as bright as the table says, and its neighbours as others."""
    from stemfit.simulate import multislice

    monkeypatch.setattr(multislice, "CONFIGURATIONS", 3)  # enough for motion where no atom is above another
    host = projected("graphene")
    engine = engine_of("multislice", host, 63.0, 31.0, (72.0, 180.0))
    assert engine is not None
    structure = build(pristine("graphene", 8, 8), "N_C")
    candidate = Candidate(
        "1-1", 1, "SUB", "N_C", structure, structure.center_A, np.diag([10.0, -10.0]), np.zeros(2), -3.0, 1
    )
    light = engine(candidate, keep([candidate])[0])
    at_site = np.hypot(*(light.xy_A - structure.nodes_A[structure.sites[0], :2]).T)
    order = np.argsort(at_site)
    assert set(light.reference) == {"C"} and at_site[order[0]] < 1e-6
    assert 1.25 < light.relative[order[0]] < 1.5  # (7/6)^2 = 1.36 in the Rutherford limit, less for screening
    assert light.relative[order[1:4]] == pytest.approx(1.0, abs=0.03)
    assert engine(replace(candidate, id="2-1"), keep([candidate])[0]) is light  # simulated once
