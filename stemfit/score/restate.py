"""Defects as the comparison of structures with the image has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stemfit.candidates import MIN_ALTERNATIVE, Candidate, sites_of
from stemfit.defects import Defect, type_of
from stemfit.lattice import Lattice, SiteMap

if TYPE_CHECKING:
    from stemfit.score.rank import Score


def restated(
    defect: Defect, candidates: Sequence[Candidate], scores: Sequence[Score], unknown: float,
    free: float, where: tuple[SiteMap, Lattice],
) -> Defect:
    """A defect with the probabilities of its candidates, and the name, type and sites of the most probable one.

    `unknown` and `free` are the probability and the log evidence that none of them is right.
    """
    weight = _alike_from_above(defect, candidates)
    told = 1 - sum(weight.values())
    for c, s in zip(candidates, scores, strict=True):
        weight[c.label] = weight.get(c.label, 0.0) + s.posterior * (1 - unknown) * told
    weight["UNKNOWN"] = weight.get("UNKNOWN", 0.0) + unknown * told
    named = {label: p for label, p in weight.items() if label != "pristine"}
    label = max(named, key=lambda name: named[name])
    others = sorted(((n, p) for n, p in weight.items() if n != label), key=lambda item: -item[1])
    evidence = {c.label: -np.inf for c in candidates}
    for c, s in zip(candidates, scores, strict=True):
        evidence[c.label] = max(evidence[c.label], s.log_likelihood)
    best = max(
        ((round(s.posterior, 6), s.ncc, c.id) for c, s in zip(candidates, scores, strict=True) if c.label == label),
        default=(0.0, 0.0, None),
    )[2]
    several = len(defect.sites) > 1 and defect.type in ("LINE", "VM", "TREFOIL")
    if label != defect.label and best is not None and several:
        own, extent = sites_of(next(c for c in candidates if c.id == best), *where)
        defect = replace(defect, sites=own, extent_px=extent, center_px=extent.mean(0))
    evidence["UNKNOWN"] = free
    factor = evidence.get(label, max(evidence.values())) - evidence["pristine"]
    kinds = {c.label: c.type for c in candidates}
    return replace(
        defect, type=kinds.get(label) or type_of(label, defect.type), label=label, probability=weight[label],
        alternatives=tuple(others), log_bayes_factor=float(factor), best_candidate=best,
    )


def with_best_structure(defect: Defect, candidates: Sequence[Candidate], scores: Sequence[Score]) -> Defect:
    """A defect on a mixed sublattice keeps its odds, and gets the best structure of its label.

    Structures are relaxed as the majority host there. Compared with the image they state probabilities near one for
    names that are right no more often than those by brightness alone, whose probabilities are lower. One that, as
    it was relaxed, explains the image no better than the intact crystal is no picture of the defect, nor is one that
    leaves more of it where it stands: then it has none.
    """
    both = list(zip(candidates, scores, strict=True))
    own = [(round(s.posterior, 6), s.ncc, c.id, s) for c, s in both if c.label == defect.label]
    intact = [s for c, s in both if c.label == "pristine"]
    if not own:
        return defect
    *_, best, score = max(own, key=lambda one: one[:3])
    relaxed = score.log_likelihood + min(score.evidence_relaxed_minus_unrelaxed, 0.0)
    better = all(relaxed > s.log_likelihood and score.reduced_chi2 < s.reduced_chi2 for s in intact)
    return replace(defect, best_candidate=best) if better else defect


def with_structure_of_label(
    defect: Defect, before: Defect, candidates: Sequence[Candidate], scores: Sequence[Score], free: Mapping[int, float]
) -> Defect:
    """A defect that got another of its names (`stemfit.defects.with_naming_doubt`) with the structure of that name.

    `free` is that of the ranking, by id: what speaks for no name.
    """
    if defect.label == before.label:
        return defect
    own = [(c, s) for c, s in zip(candidates, scores, strict=True) if c.defect == defect.id]
    named = [(round(s.posterior, 6), s.ncc, c.id, s.log_likelihood) for c, s in own if c.label == defect.label]
    intact = [s.log_likelihood for c, s in own if c.label == "pristine"]
    if defect.label == "UNKNOWN" and intact:
        return replace(defect, log_bayes_factor=float(free[defect.id] - max(intact)))
    if not named or not intact:
        return defect
    *_, best, evidence = max(named)
    return replace(defect, best_candidate=best, log_bayes_factor=float(evidence - max(intact)))


def with_odds_kept(
    before: Defect, after: Defect, candidates: Sequence[Candidate], scores: Sequence[Score],
    unknown_structure: Collection[str],
) -> Defect:
    """Let names keep the odds that they had before structures were compared, where nobody knows their structure.

    An added atom has none, because its element is not known; what the relaxer was not made for has one that says
    nothing of its neighbours. Its brightness, and where its column stands, were weighed before.

    Parameters
    ----------
    before, after : Defect
        As found, and as the comparison has it.
    candidates, scores : sequence of Candidate, of Score
        Of this defect. A name that comes first now has the Bayes factor of its own structure; without one, as of an
        added atom, that which brightness had for it.
    unknown_structure : collection of str
        Labels.
    """
    known = {before.label: before.probability, **dict(before.alternatives)}
    weight = {after.label: after.probability, **dict(after.alternatives)}
    apart = {n for n in (*unknown_structure, "ADATOM") if known.get(n, 0.0) >= MIN_ALTERNATIVE}
    compared = [n for n in known if n in weight and n not in apart and n not in ("pristine", "UNKNOWN")]
    if not apart:
        return after
    groups = [compared, [n for n in apart if n in weight]]
    odds, mass = ([sum(of.get(n, 0.0) for n in group) for group in groups] for of in (known, weight))
    # Where nothing likely was compared, all names share what they have; else whichever fits better speaks for both.
    enough = odds[0] >= MIN_ALTERNATIVE
    each = max(m / p for m, p in zip(mass, odds, strict=True) if p > 0) if enough else sum(mass) / max(sum(odds), 1e-9)
    inside = mass[0] if enough and mass[0] > 0 else 0.0
    weight |= {n: each * odds[0] * weight[n] / inside if inside else each * known[n] for n in compared}
    weight |= {n: each * known[n] for n in groups[1]}
    exchanged = [n for n in (*compared, *groups[1]) if type_of(n, "SUB") in ("SUB", "ANTI") and n != "ADATOM"]
    if "ADATOM" in apart and exchanged:  # a vacancy is no likeness of more light
        weight["ADATOM"] = sum(weight[n] for n in exchanged) * known["ADATOM"] / sum(known[n] for n in exchanged)
    total = sum(weight.values())
    named = {label: p for label, p in weight.items() if label != "pristine"}
    label = max(named, key=lambda name: named[name])
    others = sorted(((n, p / total) for n, p in weight.items() if n != label), key=lambda item: -item[1])
    if label != after.label:
        own = [(s.log_likelihood, c) for c, s in zip(candidates, scores, strict=True) if c.label == label]
        kind = own[0][1].type if own else type_of(label, before.type)
        best, factor = None, before.log_bayes_factor
        if own:
            intact = [s.log_likelihood for c, s in zip(candidates, scores, strict=True) if c.label == "pristine"]
            evidence, first = max(own, key=lambda one: one[0])
            best, factor = first.id, evidence - max(intact)
        after = replace(after, type=kind, label=label, best_candidate=best, log_bayes_factor=float(factor))
    return replace(after, probability=weight[label] / total, alternatives=tuple(others))


def _alike_from_above(defect: Defect, candidates: Sequence[Candidate]) -> dict[str, float]:
    """Names on which the pixels have no say: a line, and the same vacancies met by chance, are the same structure."""
    line = defect.type == "LINE"
    known = {c.label for c in candidates}
    return {n: p for n, p in defect.alternatives if n not in known and (n.startswith("V_") if line else n[1:3] == "VL")}
