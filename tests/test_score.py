"""Candidates against the image: the right one wins, what looks the same ties, what fits nothing is unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from chain import PIXEL_A, Chain, FloatArray, pristine, redrawn, row_of, run, taken, vacancies

from stemfit.candidates import Candidate, propose
from stemfit.defects import Defect, with_learned_halves
from stemfit.relax import Relaxed, keep
from stemfit.score import Ranking, Score, rank, shared_out
from stemfit.score.restate import restated, with_odds_kept
from stemfit.synthetic import Crystal, crystal

Relaxer = Callable[[Sequence[Candidate]], Sequence[Relaxed]]

RIVALS = {"X": ("V_S", "V_S2", "O_S", "Se_S", "Mo_S2"), "M": ("V_Mo", "W_Mo", "S2_Mo")}


def claim(chain: Chain, row: int, label: str, kind: str = "SV", rivals: Sequence[str] | None = None) -> Defect:
    """A claim about a site, with all rivals of its sublattice thinkable."""
    sublattice = str(chain.sites.sublattice[row])
    names = [n for n in (rivals or RIVALS[sublattice]) if n != label]
    others = tuple((n, 0.1 / (len(names) + 1)) for n in [*names, "pristine"])
    site = (int(chain.sites.ij[row, 0]), int(chain.sites.ij[row, 1]), sublattice)
    xy = chain.sites.xy_px[row]
    return Defect(1, kind, label, 0.9, xy, (site,), xy[None], others, 10.0)


def judged(chain: Chain, defects: Sequence[Defect], relaxer: Relaxer = keep) -> tuple[list[Candidate], Ranking]:
    rates = {**chain.rates, "pristine": 0.97}
    made = [c for d in defects for c in propose(d, chain.host, chain.lattice, chain.sites, rates)]
    imaging = with_learned_halves(chain.imaging, chain.posteriors)
    ranking = rank(
        defects, made, relaxer(made), chain.image, chain.columns, imaging, chain.lattice, chain.sites,
        chain.brightness, rates["UNKNOWN"],
    )
    return made, ranking


def site_near(chain: Chain, xy: FloatArray) -> int:
    return int(np.argmin(np.linalg.norm(chain.sites.xy_px - xy, axis=1)))


def by_label(made: Sequence[Candidate], scores: Sequence[Score]) -> dict[str, float]:
    total: dict[str, float] = {}
    for c, s in zip(made, scores, strict=True):
        total[c.label] = total.get(c.label, 0.0) + s.posterior
    return total


@cache
def all_true() -> list[tuple[str, list[Candidate], Ranking]]:
    """Every defect of the vacancy image, claimed under a wrong name."""
    chain, answers = vacancies(), []
    for true in chain.truth.defects:
        row = site_near(chain, true.center_px)
        wrong = {"V_S": "V_S2", "V_S2": "V_S", "V_Mo": "S2_Mo"}[true.label]
        answers.append((true.label, *judged(chain, [claim(chain, row, wrong)])))
    return answers


def test_the_true_label_wins_over_the_one_that_was_claimed() -> None:
    for label, made, ranking in all_true():
        shares = by_label(made, ranking.scores)
        assert max(shares, key=lambda n: shares[n]) == label
        assert shares[label] > 0.8
        (restated,) = ranking.claimed
        assert restated.label == label
        assert restated.probability > 0.5
        assert restated.log_bayes_factor > 5
        assert restated.type == {"V_S": "SV", "V_S2": "DV", "V_Mo": "VM"}[label]


def test_the_type_follows_the_name_that_wins() -> None:
    chain = vacancies()
    half = next(d for d in chain.truth.defects if d.label == "V_S")
    antisite = replace(claim(chain, site_near(chain, half.center_px), "Mo_S2", "ANTI"), alternatives=(("O_S", 0.1),))
    _, ranking = judged(chain, [antisite])
    assert [(d.label, d.type) for d in ranking.claimed] == [("O_S", "SUB")]


def test_an_added_atom_keeps_its_odds_though_it_has_no_structure() -> None:
    chain = pristine()
    row = site_near(chain, np.array(chain.image.shape[::-1]) / 2)
    metal = int(np.flatnonzero(chain.sites.sublattice == "M")[0]) if chain.sites.sublattice[row] != "M" else row
    near = np.hypot(*(chain.sites.xy_px - chain.sites.xy_px[row]).T)
    metal = int(np.argmin(np.where(chain.sites.sublattice == "M", near, np.inf)))
    plain = claim(chain, metal, "W_Mo", "SUB", rivals=("W_Mo", "V_Mo"))
    doubtful = replace(plain, probability=0.5, alternatives=(*plain.alternatives, ("ADATOM", 0.4)))
    (before,), (after,) = ((*r.claimed, *r.doubted) for r in (judged(chain, [d])[1] for d in (plain, doubtful)))
    weight = {after.label: after.probability, **dict(after.alternatives)}
    assert sum(weight.values()) == pytest.approx(1.0)
    assert weight["ADATOM"] == pytest.approx(0.8 * weight["W_Mo"])  # a vacancy is no likeness
    assert "ADATOM" not in dict(before.alternatives)


def test_the_best_candidate_is_the_highest_of_its_label() -> None:
    for label, made, ranking in all_true():
        own = {s.candidate: s.posterior for c, s in zip(made, ranking.scores, strict=True) if c.label == label}
        assert own[str(ranking.claimed[0].best_candidate)] == pytest.approx(max(own.values()), rel=1e-6)


def test_posteriors_and_probabilities_sum_to_one() -> None:
    for _, _, ranking in all_true():
        assert sum(s.posterior for s in ranking.scores) == pytest.approx(1.0)
        for defect in ranking.claimed + ranking.doubted:
            assert defect.probability + sum(p for _, p in defect.alternatives) == pytest.approx(1.0)


def test_top_and_bottom_tie_and_nothing_else_does() -> None:
    for label, made, ranking in all_true():
        for c, s in zip(made, ranking.scores, strict=True):
            twins = {o.id for o in made if o.label == c.label and o is not c}
            assert twins <= set(s.tie_with)
            if c.label == label:
                assert set(s.tie_with) == twins
        pairs = [[s for c, s in zip(made, ranking.scores, strict=True) if c.label == n] for n in ("V_S", "O_S")]
        for pair in (p for p in pairs if p):
            assert len(pair) == 2
            assert pair[0].log_likelihood == pytest.approx(pair[1].log_likelihood, abs=1e-6)


def test_the_credible_set_is_the_smallest_with_95_percent() -> None:
    for _, _, ranking in all_true():
        inside = [s.posterior for s in ranking.scores if s.in_95_set]
        outside = [s.posterior for s in ranking.scores if not s.in_95_set]
        assert sum(inside) >= 0.95
        assert sum(inside) - min(inside) < 0.95
        assert min(inside) >= max(outside, default=0.0) - 1e-12


def test_the_right_model_looks_like_the_image_and_the_perfect_crystal_does_not() -> None:
    for label, made, ranking in all_true():
        right = next(s for c, s in zip(made, ranking.scores, strict=True) if c.label == label)
        perfect = next(s for c, s in zip(made, ranking.scores, strict=True) if c.label == "pristine")
        assert right.ncc > 0.95  # 100 counts in a metal peak: noise is some 5 % of the variance
        assert right.reduced_chi2 == pytest.approx(1.0, abs=0.2)
        assert right.log_likelihood > perfect.log_likelihood + 5
        assert -1 <= right.ssim <= 1


def test_a_claim_that_the_pixels_do_not_support_becomes_a_suspect() -> None:
    chain = pristine()
    at = np.array(chain.image.shape[::-1]) / 2
    row = int(np.argmin(np.linalg.norm(chain.sites.xy_px - at, axis=1) + 1e3 * (chain.sites.sublattice != "X")))
    _, ranking = judged(chain, [claim(chain, row, "V_S")])
    assert ranking.claimed == ()
    (doubted,) = ranking.doubted
    assert dict(doubted.alternatives)["pristine"] > 0.95


def test_kept_structures_neither_move_nor_gain() -> None:
    for _, _, ranking in all_true():
        assert all(s.evidence_relaxed_minus_unrelaxed == 0.0 for s in ranking.scores)
        assert all(s.max_displacement_A == 0.0 for s in ranking.scores)


# Displacements

MOVE_A = 0.25
"""Of the three metals round a double vacancy, toward it: what density-functional theory gives is 0.2 to 0.3 A."""

EMPTY = (-1, 1, "X")


def neighbours(sample: Crystal) -> list[tuple[int, int, str]]:
    centre = sample.columns.xy_px[row_of(sample.columns, EMPTY)]
    metals = np.flatnonzero(sample.columns.sublattice == "M")
    near = metals[np.argsort(np.linalg.norm(sample.columns.xy_px[metals] - centre, axis=1))[:3]]
    return [(int(i), int(j), "M") for i, j in sample.columns.ij[near]]


@cache
def contracted(move_A: float, half_empty: tuple[int, int, str] | None = None) -> Chain:
    """A double vacancy whose three metals have moved toward it, and a single one on another site if asked."""
    sample = crystal((200, 220), pixel_size_A=PIXEL_A, rotation_deg=23.0, seed=6)
    centre = sample.columns.xy_px[row_of(sample.columns, EMPTY)]
    moves = {}
    for site in neighbours(sample):
        inward = centre - sample.columns.xy_px[row_of(sample.columns, site)]
        moves[site] = inward / np.linalg.norm(inward) * move_A / PIXEL_A
    image, truth = taken(redrawn(sample, {EMPTY: 0.0} | ({half_empty: 0.42} if half_empty else {}), moves))
    return run(truth, image, "MoS2")


def pulled(move_A: float) -> Relaxer:
    """Move the three metals next to a V_S2 toward it; everything else is kept."""

    def relax(candidates: Sequence[Candidate]) -> list[Relaxed]:
        return [_pulled(c, move_A) if c.label == "V_S2" else keep([c])[0] for c in candidates]

    return relax


def _pulled(candidate: Candidate, move_A: float) -> Relaxed:
    positions = np.array(candidate.structure.structure.cart_coords)
    numbers = np.array([s.specie.Z for s in candidate.structure.structure])
    away = positions[:, :2] - candidate.center_A
    metals = np.flatnonzero(numbers == 42)
    near = metals[np.argsort(np.linalg.norm(away[metals], axis=1))[:3]]
    positions[near, :2] -= move_A * away[near] / np.linalg.norm(away[near], axis=1, keepdims=True)
    return Relaxed(positions, None, "definet", "0" * 64)


def gain(image_move_A: float, relaxer_move_A: float) -> Score:
    chain = contracted(image_move_A)
    at = chain.truth.columns.xy_px[row_of(chain.truth.columns, EMPTY)]
    made, ranking = judged(chain, [claim(chain, site_near(chain, at), "V_S2", "DV")], pulled(relaxer_move_A))
    return next(s for c, s in zip(made, ranking.scores, strict=True) if c.label == "V_S2")


def test_a_displacement_that_is_there_is_evidence_for_it() -> None:
    right = gain(MOVE_A, MOVE_A)
    assert right.max_displacement_A == pytest.approx(MOVE_A)
    assert right.evidence_relaxed_minus_unrelaxed > 2.0
    assert gain(MOVE_A, -MOVE_A).evidence_relaxed_minus_unrelaxed < -2.0  # the broken twin: outward


def test_a_displacement_that_is_not_there_is_evidence_against_it() -> None:
    assert gain(0.0, MOVE_A).evidence_relaxed_minus_unrelaxed < -2.0


def test_moved_neighbours_do_not_hide_the_vacancy() -> None:
    chain = contracted(MOVE_A)
    at = chain.truth.columns.xy_px[row_of(chain.truth.columns, EMPTY)]
    for relaxer in (keep, pulled(MOVE_A)):
        _, ranking = judged(chain, [claim(chain, site_near(chain, at), "V_S", "SV")], relaxer)
        assert [d.label for d in ranking.claimed] == ["V_S2"]


# Garbage


@cache
def wrecked() -> tuple[Chain, int]:
    """A site at 0.75 of its brightness whose neighbours are pushed about and joined by a stray column."""
    sample = crystal((200, 220), pixel_size_A=PIXEL_A, rotation_deg=23.0, seed=6)
    around, turn = neighbours(sample), np.array([[0.0, -1.0], [1.0, 0.0]])
    centre = sample.columns.xy_px[row_of(sample.columns, EMPTY)]
    moves = {}
    for site, sign in zip(around, (1, 1, -1), strict=True):
        radius = sample.columns.xy_px[row_of(sample.columns, site)] - centre
        moves[site] = sign * 3.0 * (turn @ radius) / np.linalg.norm(radius)  # 0.48 A sideways
    image, truth = taken(redrawn(sample, {EMPTY: 1.6}, moves))
    chain = run(truth, image, "MoS2")
    return chain, site_near(chain, centre)


def drawn_in(share: float) -> Relaxer:
    """Everything moves toward the defect, in proportion to its distance."""

    def relax(candidates: Sequence[Candidate]) -> list[Relaxed]:
        relaxed = []
        for candidate in candidates:
            moved = np.array(candidate.structure.structure.cart_coords)
            moved[:, :2] -= share * (moved[:, :2] - candidate.center_A)
            relaxed.append(Relaxed(moved, None, "definet", "0" * 64))
        return relaxed

    return relax


def test_a_strain_of_the_whole_patch_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = vacancies()
    true = next(d for d in chain.truth.defects if d.label == "V_S")
    found = claim(chain, site_near(chain, true.center_px), "V_S")

    def lost() -> float:
        at_rest, strained = (judged(chain, [found], drawn_in(share))[1].scores for share in (0.0, 0.01))
        return float(np.mean([a.log_likelihood - b.log_likelihood for a, b in zip(at_rest, strained, strict=True)]))

    # The unrelaxed structure, weighed beside it, would bound the loss with and without.
    ranking, fitting = (import_module(f"stemfit.score.{name}") for name in ("rank", "normal"))  # functions, too
    monkeypatch.setattr(ranking, "MISLED", 1e-30)
    monkeypatch.setattr(import_module("stemfit.score.fit"), "LEFT", 1e-6)  # the strain goes with the field here
    assert lost() < 6.0
    monkeypatch.setattr(fitting, "STRAIN", 1e-6)
    assert lost() > 20.0


def test_a_patch_that_nothing_explains_is_unknown() -> None:
    chain, row = wrecked()
    _, ranking = judged(chain, [claim(chain, row, "V_S", rivals=("V_S", "V_S2"))])
    (said,) = ranking.claimed
    assert (said.type, said.label) == ("UNKNOWN", "UNKNOWN")
    assert said.probability > 0.9
    assert said.best_candidate is None
    assert said.log_bayes_factor > 30.0


def test_the_bayes_factor_of_what_nothing_explains_is_its_own() -> None:
    """Posterior odds are prior odds times the factor, also where the probability is one."""
    _, made, ranking = all_true()[0]
    chain, (claimed,) = vacancies(), ranking.claimed
    intact = next(s.log_likelihood for c, s in zip(made, ranking.scores, strict=True) if c.label == "pristine")
    doubted = replace(claimed, type="SV", label="V_S", alternatives=())
    said = restated(doubted, made, ranking.scores, 1.0, intact + 1500.0, (chain.sites, chain.lattice))
    assert said.label == "UNKNOWN" and said.log_bayes_factor == pytest.approx(1500.0)


def test_a_name_that_comes_first_again_has_its_own_bayes_factor() -> None:
    """Brightness may prefer another name than pixels do: the factor is that of the best structure of that name."""
    label, made, ranking = next(one for one in all_true() if one[0] == "V_S")
    (claimed,) = ranking.claimed
    assert claimed.label == label
    before = replace(claimed, label="V_S2", probability=0.9, alternatives=(("V_S", 0.05), ("pristine", 0.05)))
    said = with_odds_kept(before, claimed, made, ranking.scores, {"V_S2"})
    assert said.label == "V_S2"
    each = {name: max(s.log_likelihood for c, s in zip(made, ranking.scores, strict=True) if c.label == name)
            for name in ("V_S2", "pristine")}  # fmt: skip
    assert said.log_bayes_factor == pytest.approx(each["V_S2"] - each["pristine"])
    best = next(s for c, s in zip(made, ranking.scores, strict=True) if c.id == said.best_candidate)
    assert best.log_likelihood == each["V_S2"]


def test_a_patch_that_is_explained_is_not_unknown() -> None:
    for _, _, ranking in all_true():
        assert dict(ranking.claimed[0].alternatives)["UNKNOWN"] < 0.2


# Neighbours


def test_a_vacancy_next_door_does_not_change_the_verdict() -> None:
    sample = crystal((200, 220), pixel_size_A=PIXEL_A, rotation_deg=23.0, seed=6)
    pair = [(-1, 1, "X"), (0, 1, "X")]
    image, truth = taken(redrawn(sample, {pair[0]: 0.42, pair[1]: 0.0}))
    chain = run(truth, image, "MoS2")
    rows = [site_near(chain, truth.columns.xy_px[row_of(truth.columns, s)]) for s in pair]
    claims = [claim(chain, rows[0], "V_S2", "DV"), replace(claim(chain, rows[1], "V_S", "SV"), id=2)]
    _, ranking = judged(chain, claims)
    assert {d.id: d.label for d in ranking.claimed} == {1: "V_S", 2: "V_S2"}


def test_a_relaxer_that_is_wrong_about_a_neighbour_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    single = (0, 1, "X")  # beside the empty column
    chain = contracted(MOVE_A, single)
    rows = [site_near(chain, chain.truth.columns.xy_px[row_of(chain.truth.columns, s)]) for s in (single, EMPTY)]
    claims = [claim(chain, rows[0], "V_S"), replace(claim(chain, rows[1], "V_S2", "DV"), id=2)]

    def evidence() -> float:
        made, ranking = judged(chain, claims, pulled(-2 * MOVE_A))  # outward, twice as far as they moved inward
        both = zip(made, ranking.scores, strict=True)
        return next(s.log_likelihood for c, s in both if (c.defect, c.label) == (1, "V_S"))

    scene = import_module("stemfit.score.scene")
    mended = evidence()
    monkeypatch.setattr(scene, "_beside_others", lambda columns, scene, own_px: columns)
    assert mended > evidence() + 3.0


def test_candidates_share_what_is_said_of_their_name() -> None:
    _, made, ranking = all_true()[0]
    defect, own = ranking.claimed[0], ranking.scores
    first, second = sorted({c.label for c in made} - {"pristine"})[:2]
    rest = tuple((n, 0.0) for n in {c.label for c in made} - {first, second})
    said = replace(defect, label=first, probability=0.6, alternatives=((second, 0.2), ("UNKNOWN", 0.2), *rest))
    shares = by_label(made, shared_out(said, made, own))
    assert shares[first] == pytest.approx(0.75) and shares[second] == pytest.approx(0.25)  # UNKNOWN has no candidate
    before = [s.posterior for c, s in zip(made, own, strict=True) if c.label == first]
    after = [s.posterior for c, s in zip(made, shared_out(said, made, own), strict=True) if c.label == first]
    assert np.array(after) * sum(before) == pytest.approx(np.array(before) * sum(after))
    assert {s.candidate for s in shared_out(said, made, own) if s.in_95_set} == {
        c.id for c in made if c.label in (first, second)
    }
    impossible = [s for s in shared_out(said, made, own) if s.posterior == 0]
    assert len(impossible) > 1 and not any(s.tie_with for s in impossible)
