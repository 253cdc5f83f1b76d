"""How well each candidate explains the image, and how sure that makes us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from skimage.metrics import structural_similarity

from stemfit.candidates import Candidate
from stemfit.columns import Columns
from stemfit.defects import CLAIM, Defect
from stemfit.imaging import Imaging
from stemfit.lattice import Brightness, Lattice, SiteMap
from stemfit.relax import Relaxed, keep
from stemfit.score.fit import Fit, evidence_as_predicted, fit
from stemfit.score.lights import Engine, Light, simulated
from stemfit.score.others import Others, field_of, others_of, without_structure
from stemfit.score.restate import restated, with_best_structure, with_odds_kept
from stemfit.score.scene import Predicted, Scene, columns_of, make_scene, position_scatter, relaxation_error_A
from stemfit.score.standing import standing

FloatArray = NDArray[np.float64]

TIE = 1.0
"""Candidates whose log posteriors differ by less than this are not told apart (odds below 2.7)."""


FAR = 6.0
"""Distance of another defect, in lattice constants, beyond which it moves nothing here by more than some picometres."""

MISLED = 0.1
"""Probability that a relaxed structure is no better known than the unrelaxed one: networks and potentials fail on some
kinds of defects, lines above all, and a vacancy is one also where its neighbours moved otherwise than predicted. Then
nothing tells apart what looks the same before it relaxes."""

NOT_TAUGHT = 0.5
"""The same of structures that the relaxer was not made for."""

WEIGHED, FIRST = 1e-3, 4
"""Posterior from which a candidate's relaxed positions are held against unrelaxed ones, and of how many: it costs as
much as two fits."""


@dataclass(frozen=True)
class Score:
    """One candidate against the image.

    Attributes
    ----------
    candidate : str
        Id of the candidate.
    log_likelihood : float
        Natural logarithm of the evidence of the patch, nuisances marginalised; comparable within one defect.
    posterior : float
        Over the candidates of the defect.
    in_95_set : bool
        Member of the smallest set with 95 % of the posterior.
    ncc, ssim, reduced_chi2 : float
        Of the patch and the structure as it is, with nothing but pose, brightness and background fitted.
    evidence_relaxed_minus_unrelaxed : float
        Natural logarithm of the evidence of the relaxed positions over that of the sites of the perfect crystal, with
        the same columns and what is allowed to them: the narrower of two allowances would win by volume, even about
        wrong positions. NaN where it was not asked: beyond the `FIRST` and below `WEIGHED`, unless it is the best of
        the claimed name.
    max_displacement_A : float
        Largest displacement of an atom by the relaxer.
    tie_with : tuple of str
        Candidates that this image cannot tell from this one.
    """

    candidate: str
    log_likelihood: float
    posterior: float
    in_95_set: bool
    ncc: float
    ssim: float
    reduced_chi2: float
    evidence_relaxed_minus_unrelaxed: float
    max_displacement_A: float
    tie_with: tuple[str, ...]


class Scored(NamedTuple):
    """Candidates of one defect against the image.

    Attributes
    ----------
    scores : tuple of Score
    unknown : float
        Posterior probability that none of the candidates is right: that they leave more than is allowed to them or, at
        a single site and with half of the prior, that it holds a column of any brightness and its neighbours moved
        further.
    free : float
        Natural logarithm of the evidence of that, comparable with the candidates'.
    """

    scores: tuple[Score, ...]
    unknown: float
    free: float


class Ranking(NamedTuple):
    """Scores (one per candidate, in their order), and the defects restated: still claimed, or suspects now.

    `free`, by id of a defect, is the log evidence that none of its candidates is right (`Scored.free`).
    """

    scores: tuple[Score, ...]
    claimed: tuple[Defect, ...]
    doubted: tuple[Defect, ...]
    free: Mapping[int, float]


def score_defect(
    defect: Defect, candidates: Sequence[Candidate], relaxed: Sequence[Relaxed], micrograph_image: FloatArray,
    columns: Columns, imaging: Imaging, lattice: Lattice, unknown_prior: float, others: Others,
    lights: Mapping[str, Light] | None = None,
) -> Scored:
    """Score the candidates of one defect.

    The evidence of a candidate is the likelihood of the patch with everything integrated out that the candidate does
    not fix: a common shift, brightness and background plane, and for every column its own scatter in brightness and
    position as measured on the pristine crystal. All of that is linear, so the integral is exact (Gaussian). Positions
    are those of the relaxer or, with probability `MISLED`, the ideal ones within what atoms move. Columns have the
    brightness of their types or, by candidate, that of `lights`.
    """
    scene = make_scene(defect, micrograph_image, columns, imaging, lattice, others)
    pairs = list(zip(candidates, relaxed, strict=True))
    scene = scene._replace(relaxation_A=relaxation_error_A(pairs))
    fitted = _Fitter(scene, imaging, position_scatter(columns, lattice), lattice, lights or {})
    placed = [standing(c, columns) if r.caution else (keep([c])[0], 0.0) for c, r in pairs]
    as_built = [(c, built) for c, (built, _) in zip(candidates, placed, strict=True)]
    fits, unrelaxed = [fitted(c, r) for c, r in pairs], [fitted(c, r) for c, r in as_built]
    as_is = _alike(candidates, unrelaxed) + np.array([log_prior for _, log_prior in placed])
    evidence = _weighed(pairs, fits, as_is)
    log_posterior = evidence + [c.log_prior for c in candidates]
    geometries = [*pairs, *as_built]
    each = zip([*fits, *unrelaxed], geometries, strict=True)
    top = int(np.argmax([f.log_evidence + c.log_prior for f, (c, _) in each]))
    best = [*fits, *unrelaxed][top]
    free = best.log_evidence + best.misfit.log_bayes_factor
    if len(defect.sites) == 1:
        light = fitted.loose(*geometries[top]).log_evidence
        free = np.logaddexp(free, light) - np.log(2)
    everything = np.append(log_posterior, free + np.log(unknown_prior))
    total = float(logsumexp(everything))
    posterior = np.exp(log_posterior - log_posterior.max())
    posterior /= posterior.sum()
    chosen = _credible(posterior)
    named = np.array([c.label == defect.label for c in candidates])
    least = max(WEIGHED, float(np.sort(posterior)[-min(FIRST, len(posterior))]))
    asked = (posterior >= least) | (named & (posterior == posterior[named].max(initial=0.0)))
    still = np.array([_largest(c, r) < 1e-6 for c, r in pairs])
    gains = [fitted.gain(c, r) if k else float("nan") for (c, r), k in zip(pairs, asked | still, strict=True)]
    scores = tuple(
        Score(
            c.id, float(e), float(p), bool(k), ncc(scene, f.model), _ssim(scene, f.model), f.residual_chi2,
            gain, _largest(c, r),
            tuple(o.id for o, q in zip(candidates, log_posterior, strict=True) if o is not c and abs(q - own) < TIE),
        )
        for c, r, f, gain, e, p, k, own in zip(
            candidates, relaxed, fits, gains, evidence, posterior, chosen, log_posterior, strict=True
        )
    )
    return Scored(scores, float(np.exp(everything[-1] - total)), float(free))


def rank(
    defects: Sequence[Defect], candidates: Sequence[Candidate], relaxed: Sequence[Relaxed], image: FloatArray,
    columns: Columns, imaging: Imaging, lattice: Lattice, sites: SiteMap, brightness: Brightness, unknown_prior: float,
    engine: Engine | None = None,
) -> Ranking:
    """Score all candidates and restate every defect by what the pixels say.

    With an engine the most probable ones of each defect are simulated by it and scored again.

    A claim that the pixels do not support (pristine above one half) becomes a suspect, together with its candidates.
    """
    scores: dict[str, Score] = {}
    said: dict[int, Defect] = {}
    free: dict[int, float] = {}
    fields = {d.id: field_of(d, candidates, relaxed) for d in defects}
    for defect in sorted(defects, key=lambda d: -len(d.sites)):  # those that move the most first
        own = [(c, r) for c, r in zip(candidates, relaxed, strict=True) if c.defect == defect.id]
        if not own:
            said[defect.id] = defect
            continue
        cs, rs = [c for c, _ in own], [r for _, r in own]
        others = others_of(defect, defects, fields, columns, imaging, sites, brightness, FAR * lattice.a_px_iso)
        scored = score_defect(defect, cs, rs, image, columns, imaging, lattice, unknown_prior, others)
        if engine is not None:
            lights = simulated(cs, rs, scored.scores, engine)
            if lights:
                scored = score_defect(
                    defect, cs, rs, image, columns, imaging, lattice, unknown_prior, others, lights
                )
        found, free[defect.id] = scored.scores, scored.free
        scores.update({s.candidate: s for s in found})
        if any(s[2] in imaging.mixtures for s in defect.sites):
            said[defect.id] = with_best_structure(defect, cs, found)
            if said[defect.id].best_candidate is None:
                fields[defect.id] = without_structure(defect)
            continue
        after = restated(defect, cs, found, scored.unknown, scored.free, (sites, lattice))
        untaught = {c.label for c, r in own if r.caution}
        said[defect.id] = with_odds_kept(defect, after, cs, found, untaught)
        if untaught:
            scores.update({s.candidate: s for s in shared_out(said[defect.id], cs, found)})
        if max(found, key=lambda s: s.posterior).evidence_relaxed_minus_unrelaxed < 0:
            fields[defect.id] = without_structure(defect)
    pristine = {d.id: dict(d.alternatives).get("pristine", 0.0) for d in said.values()}
    return Ranking(
        tuple(scores[c.id] for c in candidates),
        tuple(said[d.id] for d in defects if pristine[d.id] < CLAIM),
        tuple(said[d.id] for d in defects if pristine[d.id] >= CLAIM),
        free,
    )


def _weighed(pairs: Sequence[tuple[Candidate, Relaxed]], fits: Sequence[Fit], as_is: FloatArray) -> FloatArray:
    """Logarithm of the evidence (C,), relaxed or as it was built (C,), as far as the relaxer may be believed.

    What it tells of a point defect that it never learnt is not asked. Such a structure is compared as it was built,
    with wide errors, and would lose to rivals with narrow ones by volume alone: hence it gains as much by relaxing as
    the best of those that the relaxer knows.
    """
    misled = np.array([NOT_TAUGHT if r.caution else MISLED for _, r in pairs])
    evidence = np.logaddexp(np.log(1 - misled) + [f.log_evidence for f in fits], np.log(misled) + as_is)
    known = np.array([not r.caution or c.type in ("LINE", "TREFOIL") for c, r in pairs])
    if known.all() or not known.any():
        return np.asarray(evidence if known.all() else as_is)
    best = int(np.argmax(np.where(known, evidence + [c.log_prior for c, _ in pairs], -np.inf)))
    return np.asarray(np.where(known, evidence, as_is + evidence[best] - as_is[best]))


def shared_out(defect: Defect, candidates: Sequence[Candidate], scores: Sequence[Score]) -> tuple[Score, ...]:
    """Scores whose posteriors add up, for each name, to what the defect says of it; within a name their odds stay."""
    weight = {defect.label: defect.probability, **dict(defect.alternatives)}
    labels = [c.label for c in candidates]
    own = {n: sum(s.posterior for s, m in zip(scores, labels, strict=True) if m == n) for n in labels}
    told = sum(weight.get(n, 0.0) for n in own)
    if told <= 0:
        return tuple(scores)
    posterior = np.array([
        weight.get(n, 0.0) / told * (s.posterior / own[n] if own[n] > 0 else 1 / labels.count(n))
        for s, n in zip(scores, labels, strict=True)
    ])  # fmt: skip
    logs = np.log(posterior, out=np.full(len(posterior), -np.inf), where=posterior > 0)
    return tuple(
        replace(
            s, posterior=float(p), in_95_set=bool(k),
            # Of two that are impossible nothing is said.
            tie_with=tuple(
                o.candidate for o, q in zip(scores, logs, strict=True)
                if o is not s and min(q, log) > -np.inf and abs(q - log) < TIE
            ),
        )
        for s, p, k, log in zip(scores, posterior, _credible(posterior), logs, strict=True)
    )


def _alike(candidates: Sequence[Candidate], unrelaxed: Sequence[Fit]) -> FloatArray:
    """Logarithm of the mean evidence (C,) of all unrelaxed structures with the same name on the same sites.

    They differ by layers, which are not seen, and by the start of the relaxation, which is none of the crystal's.
    """
    keys = []
    for c in candidates:
        places = c.structure.nodes_A[list(c.structure.sites), :2] @ c.matrix.T + c.offset_px
        atoms = tuple(np.sort(c.structure.numbers[c.structure.occupied]).tolist())  # in alloys a name leaves it open
        keys.append((c.label, frozenset(map(tuple, np.round(places, 1))), atoms))
    value = np.array([u.log_evidence for u in unrelaxed])
    same = [[n for n, other in enumerate(keys) if other == key] for key in keys]
    return np.array([logsumexp(value[rows]) - np.log(len(rows)) for rows in same])


class _Fitter:
    """Fits structures to one scene; what looks the same from above (top and bottom, not moved) is fitted once.

    Those that fall behind the best so far are not followed to their end, but for the perfect crystal, which others are
    held against.
    """

    def __init__(
        self, scene: Scene, imaging: Imaging, sigma_px: float, lattice: Lattice, lights: Mapping[str, Light]
    ) -> None:
        self._scene, self._imaging, self._sigma_px, self._lattice = scene, imaging, sigma_px, lattice
        self._lights = lights
        self._known: dict[bytes, Fit] = {}
        self._gains: dict[bytes, float] = {}
        self._leader: tuple[float, ...] = ()

    def __call__(self, candidate: Candidate, relaxed: Relaxed) -> Fit:
        seen = self._seen(candidate, relaxed)
        looks = seen.looks()
        if looks not in self._known:
            leader = self._leader if candidate.structure.sites else ()
            found = fit(seen, self._scene, self._sigma_px, self._lattice, leader=leader)
            self._known[looks] = found
            self._leader = max(self._leader, found.way, key=lambda way: way[-1] if way else -np.inf)
        return self._known[looks]

    def _seen(self, candidate: Candidate, relaxed: Relaxed) -> Predicted:
        return columns_of(candidate, relaxed, self._scene, self._imaging, self._lights.get(candidate.id))

    def gain(self, candidate: Candidate, relaxed: Relaxed) -> float:
        """Evidence of relaxed positions over that of the sites of the perfect crystal, with the same columns."""
        if _largest(candidate, relaxed) < 1e-6:
            return 0.0
        seen = self._seen(candidate, relaxed)
        looks = seen.looks()
        if looks not in self._gains:
            moved, rest = (
                evidence_as_predicted(some, self._scene, self._sigma_px, self._lattice)
                for some in (seen, seen.at_rest())
            )
            self._gains[looks] = moved - rest
        return self._gains[looks]

    def loose(self, candidate: Candidate, relaxed: Relaxed) -> Fit:
        """With a column of any brightness on the site, and neighbours that moved further."""
        seen = self._seen(candidate, relaxed)
        at = candidate.matrix @ candidate.center_A + candidate.offset_px - self._scene.corner
        return fit(seen, self._scene, self._sigma_px, self._lattice, loose_at=at / self._scene.pixel)


def _credible(posterior: FloatArray) -> NDArray[np.bool_]:
    """Smallest set that holds 95 %."""
    order = np.argsort(-posterior)
    before = np.concatenate([[0.0], np.cumsum(posterior[order])[:-1]])
    chosen = np.zeros(len(posterior), dtype=bool)
    chosen[order[before < 0.95]] = True
    return chosen


def ncc(scene: Scene, model: FloatArray) -> float:
    """Normalised cross-correlation of image and model on the disc."""
    use = scene.weight > 0
    return float(np.corrcoef(scene.image[use], model[use])[0, 1])


def _ssim(scene: Scene, model: FloatArray) -> float:
    use = scene.weight > 0
    span = float(np.ptp(model[use])) or 1.0
    size = min(7, *(n - 1 + n % 2 for n in scene.image.shape))
    _, field = structural_similarity(scene.image, model, data_range=span, win_size=size, full=True)
    return float(field[use].mean())


def _largest(candidate: Candidate, relaxed: Relaxed) -> float:
    moved = np.linalg.norm(relaxed.positions_A - candidate.structure.nodes_A, axis=1)
    return float(moved[candidate.structure.occupied].max())
