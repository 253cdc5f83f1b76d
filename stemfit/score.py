"""How well each candidate explains the image, and how sure that makes us."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from skimage.metrics import structural_similarity

from stemfit.candidates import Candidate
from stemfit.columns import Columns, Profile
from stemfit.columns.fit import averaged_profile
from stemfit.columns.stamps import drawn, render
from stemfit.defects import CLAIM, MODEL_FLOOR, Defect, type_of
from stemfit.imaging import Imaging
from stemfit.lattice import Lattice
from stemfit.relax import Relaxed, keep
from stemfit.simulate.image import project

FloatArray = NDArray[np.float64]


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
        Secondary measures on the patch.
    evidence_relaxed_minus_unrelaxed : float
        Natural logarithm.
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


REACH = 2.0
"""Lattice constants around the outermost site of a defect within which candidates are compared with the image."""

MIN_POSITION_SCATTER = 0.01
"""Least scatter of a column about its predicted place, in lattice constants: 3 pm, what the best relaxers reach."""

SHIFT, GAIN, LEVEL = 0.03, 0.10, 0.3
"""Prior widths of what is common to a patch: shift in lattice constants, relative brightness, level and slope of the
background in units of the brightest column's peak. They are wider than what the image's own fit leaves open."""

TEACHER_ERROR = 0.5
"""Error of the network's displacements, as a share of them: that of its teacher against DFT (0.4 to 0.7 of the in-plane
displacement round chalcogen vacancies), which is larger than the network's own."""

UNRELAXED_A = 0.15
"""Typical displacement next to a chalcogen vacancy (DFT: metals move 0.05 to 0.30 A): what a kept structure misses."""

TIE = 1.0
"""Candidates whose log posteriors differ by less than this are not told apart (odds below 2.7)."""


class Ranking(NamedTuple):
    """Scores (one per candidate, in their order), and the defects restated: still claimed, or suspects now."""

    scores: tuple[Score, ...]
    claimed: tuple[Defect, ...]
    doubted: tuple[Defect, ...]


class Scene(NamedTuple):
    """The part of an image that candidates of one defect are compared on."""

    image: FloatArray  # (h, w)
    surroundings: FloatArray  # (h, w) background and all columns beyond the reach
    weight: FloatArray  # (h, w) inverse variance per independent sample, 0 outside the disc
    corner: FloatArray  # (2,) image position of the first pixel, px
    pixel: float  # image px per pixel here
    profile: Profile  # on these pixels
    gain: float


class Fit(NamedTuple):
    """One candidate on one scene."""

    log_evidence: float
    model: FloatArray
    residual_chi2: float


def score_defect(
    defect: Defect, candidates: Sequence[Candidate], relaxed: Sequence[Relaxed], micrograph_image: FloatArray,
    columns: Columns, imaging: Imaging, lattice: Lattice, unknown_prior: float,
) -> tuple[tuple[Score, ...], float]:
    """Score the candidates of one defect.

    The evidence of a candidate is the likelihood of the patch with everything integrated out that the candidate does
    not fix: a common shift, brightness and background plane, and for every column its own scatter in brightness and
    position as measured on the pristine crystal. All of that is linear, so the integral is exact (Gaussian).

    Returns
    -------
    scores : tuple of Score
    unknown : float
        Posterior probability that none of the candidates is right: the same geometry as the best, with the columns of
        the defect free.
    """
    scene = make_scene(defect, micrograph_image, columns, imaging, lattice)
    sigma_px = position_scatter(columns, lattice)
    fits = [fit(c, r, scene, imaging, sigma_px, lattice) for c, r in zip(candidates, relaxed, strict=True)]
    unrelaxed = [
        fit(c, keep([c])[0], scene, imaging, sigma_px, lattice)
        if _largest(c, r) > 1e-6
        else f
        for c, r, f in zip(candidates, relaxed, fits, strict=True)
    ]
    log_posterior = np.array([f.log_evidence + c.log_prior for f, c in zip(fits, candidates, strict=True)])
    top = int(np.argmax(log_posterior))
    free = fit(candidates[top], relaxed[top], scene, imaging, sigma_px, lattice, loose=True).log_evidence
    everything = np.append(log_posterior, free + np.log(unknown_prior))
    total = float(logsumexp(everything))
    posterior = np.exp(log_posterior - float(logsumexp(log_posterior)))
    chosen = _credible(posterior)
    scores = tuple(
        Score(
            c.id, f.log_evidence, float(p), bool(k), ncc(scene, f.model), _ssim(scene, f.model), f.residual_chi2,
            f.log_evidence - u.log_evidence, _largest(c, r),
            tuple(o.id for o, q in zip(candidates, log_posterior, strict=True) if o is not c and abs(q - own) < TIE),
        )
        for c, r, f, u, p, k, own in zip(
            candidates, relaxed, fits, unrelaxed, posterior, chosen, log_posterior, strict=True
        )
    )
    return scores, float(np.exp(everything[-1] - total))


def position_scatter(columns: Columns, lattice: Lattice) -> float:
    """Scatter of columns about the lattice beyond their measurement error, px per axis (jitter, true shifts)."""
    own = float(np.median(columns.cov[:, 0, 0] + columns.cov[:, 1, 1])) / 2 if len(columns) else 0.0
    excess = np.sqrt(max(lattice.residual_rms_px**2 - own, 0.0))
    return float(max(excess, MIN_POSITION_SCATTER * lattice.a_px_iso))


def make_scene(defect: Defect, image: FloatArray, columns: Columns, imaging: Imaging, lattice: Lattice) -> Scene:
    """Cut out the disc round a defect, with the model of all that lies further out.

    Oversampled images are averaged down to a core of about 1.5 px: nothing is lost, and the work falls with the square.
    """
    centre = defect.center_px
    size = float(np.hypot(*(defect.extent_px - centre).T).max()) + REACH * lattice.a_px_iso
    n = max(1, int(imaging.profile.width_px / 1.5))
    h, w = image.shape
    x0, y0 = np.maximum(np.floor(centre - size).astype(int), 0)
    x1, y1 = x0 + (min(w - x0, int(2 * size) + 2) // n) * n, y0 + (min(h - y0, int(2 * size) + 2) // n) * n
    away = np.hypot(*(columns.xy_px - centre).T)
    use = (away > size + 0.25 * lattice.a_px_iso) & (away < size + 10 * columns.profile.width_px)
    around = render(columns.xy_px[use] - [x0, y0], columns.intensity[use], columns.profile, (y1 - y0, x1 - x0))
    variance = imaging.noise.variance(columns.model[y0:y1, x0:x1]) * imaging.noise.pixels_per_sample
    gain = float(imaging.gain[min(max(round(centre[1]), 0), h - 1), min(max(round(centre[0]), 0), w - 1)])
    small = [_averaged(a, n) for a in (image[y0:y1, x0:x1], columns.background[y0:y1, x0:x1] + around, variance / n**2)]
    y, x = np.mgrid[: small[0].shape[0], : small[0].shape[1]]
    corner = np.array([x0, y0]) + (n - 1) / 2
    disc = np.hypot(n * x + corner[0] - centre[0], n * y + corner[1] - centre[1]) < size
    shape = averaged_profile(imaging.profile, n)
    return Scene(small[0], small[1], disc / small[2], corner, float(n), shape, gain)


def _averaged(image: FloatArray, n: int) -> FloatArray:
    return np.asarray(image.reshape(image.shape[0] // n, n, image.shape[1] // n, n).mean((1, 3)))


def fit(
    candidate: Candidate, relaxed: Relaxed, scene: Scene, imaging: Imaging, sigma_px: float, lattice: Lattice, *,
    loose: bool = False,
) -> Fit:
    """Evidence and best model of one structure on a scene.

    With `loose` the hypothesis is only that something is different here: a column of any brightness on the site of the
    defect, and neighbours displaced by up to a tenth of the lattice constant.
    """
    xy, amplitude, brightness, place = columns_of(candidate, relaxed, scene, imaging)
    place = np.hypot(place, sigma_px / scene.pixel)
    if loose:
        centre = (candidate.matrix @ candidate.center_A + candidate.offset_px - scene.corner) / scene.pixel
        a = lattice.a_px_iso / scene.pixel
        place = np.where(np.hypot(*(xy - centre).T) < 0.7 * a, np.hypot(place, 0.1 * a), place)
        xy, amplitude = np.vstack([xy, centre]), np.append(amplitude, 0.0)
        brightness, place = np.append(brightness, amplitude.max()), np.append(place, 0.0)
    shapes = drawn(xy, scene.profile, scene.image.shape)
    model = scene.surroundings + np.tensordot(amplitude, shapes[0], 1)
    design = _design(shapes, amplitude, brightness, place, scene.profile, lattice.a_px_iso / scene.pixel)
    w, residual = scene.weight.ravel(), (scene.image - model).ravel()
    jacobian = design.reshape(len(design), -1)
    matrix = np.eye(len(jacobian)) + (jacobian * w) @ jacobian.T
    right = jacobian @ (w * residual)
    factor = np.linalg.cholesky(matrix)
    half = solve_triangular(factor, right, lower=True)
    log_evidence = 0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum()) - 0.5 * float(w @ residual**2)
    answer = solve_triangular(factor.T, half, lower=False)
    best = model + np.tensordot(answer, design, 1)
    rest = (scene.image - best).ravel()
    return Fit(log_evidence, best, float(w @ rest**2) / max(1, int((w > 0).sum())))


def _design(
    shapes: tuple[FloatArray, FloatArray, FloatArray], amplitude: FloatArray, brightness: FloatArray,
    place: FloatArray, profile: Profile, a_px: float,
) -> FloatArray:
    """Derivative images (P, h, w), each times the prior width of its parameter."""
    value, *moves = shapes
    own = [brightness[:, None, None] * value, *((amplitude * place)[:, None, None] * g for g in moves)]
    shift = SHIFT * a_px
    common = [shift * np.tensordot(amplitude, g, 1) for g in moves]
    peak = LEVEL * float(amplitude.max()) / (2 * np.pi * profile.width_px**2)
    y, x = np.mgrid[-0.5 : 0.5 : value.shape[1] * 1j, -0.5 : 0.5 : value.shape[2] * 1j]
    common += [GAIN * np.tensordot(amplitude, value, 1), np.full(x.shape, peak), peak * x, peak * y]
    return np.concatenate([*own, np.stack(common)])


def columns_of(
    candidate: Candidate, relaxed: Relaxed, scene: Scene, imaging: Imaging
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Columns of a structure inside the scene.

    Returns
    -------
    xy (N, 2), amplitude (N,), its standard error (N,), and the standard error (N,) of the position from the relaxation,
    all on the scene's pixels.
    """
    structure = candidate.structure
    atoms = structure.occupied
    numbers = np.array([s.specie.Z for s in structure.structure])[atoms]
    seen = project(numbers, relaxed.positions_A[atoms], candidate.matrix, candidate.offset_px)
    centre = candidate.matrix @ candidate.center_A + candidate.offset_px
    y, x = np.nonzero(scene.weight > 0)
    here = (centre - scene.corner) / scene.pixel
    reach = scene.pixel * float(np.hypot(x - here[0], y - here[1]).max())
    pixels_per_A = float(np.sqrt(abs(np.linalg.det(candidate.matrix))))
    inside = np.hypot(*(seen.xy_px - centre).T) <= reach + 0.8 * pixels_per_A
    known = [imaging.amplitude(t) for t, k in zip(seen.types, inside, strict=True) if k]
    brighter = scene.gain / scene.pixel**2
    value = brighter * np.array([a.value for a in known])
    own = np.array([a.sigma if a.source == "table" else 0.0 for a in known])
    scatter = np.array([imaging.scatter_of(t) for t, k in zip(seen.types, inside, strict=True) if k])
    error = np.hypot(brighter * own, np.hypot(scatter, MODEL_FLOOR) * value)
    doubt = np.zeros(len(seen.types))
    np.maximum.at(doubt, seen.column_of_atom, relaxation_error_A(candidate, relaxed)[atoms])
    xy = (seen.xy_px[inside] - scene.corner) / scene.pixel
    return xy, value, error, pixels_per_A / scene.pixel * doubt[inside]


def relaxation_error_A(candidate: Candidate, relaxed: Relaxed) -> FloatArray:
    """Standard error (N,) of each node's relaxed position in the plane, per axis, Angstrom.

    What the relaxer states, else `TEACHER_ERROR` of the displacement where there is one; a structure that was kept as
    built is uncertain by what such defects do, see `UNRELAXED_A`.
    """
    if relaxed.sigma_A is not None:
        return relaxed.sigma_A
    start = candidate.structure.structure.cart_coords
    if relaxed.relaxer != "keep" or not candidate.structure.sites:
        return np.asarray(TEACHER_ERROR * np.linalg.norm((relaxed.positions_A - start)[:, :2], axis=1))
    defect = start[list(candidate.structure.sites), :2]
    away = np.linalg.norm(start[:, None, :2] - defect[None], axis=2).min(1)
    return np.asarray(UNRELAXED_A * np.exp(-np.maximum(away - 2.0, 0.0) / 2.0))


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
    moved = np.linalg.norm(relaxed.positions_A - candidate.structure.structure.cart_coords, axis=1)
    return float(moved[candidate.structure.occupied].max())


def rank(
    defects: Sequence[Defect], candidates: Sequence[Candidate], relaxed: Sequence[Relaxed], image: FloatArray,
    columns: Columns, imaging: Imaging, lattice: Lattice, unknown_prior: float,
) -> Ranking:
    """Score all candidates and restate every defect by what the pixels say.

    A claim that the pixels do not support (pristine above one half) becomes a suspect, together with its candidates.
    """
    scores: dict[str, Score] = {}
    restated = []
    for defect in defects:
        own = [(c, r) for c, r in zip(candidates, relaxed, strict=True) if c.defect == defect.id]
        if not own:
            restated.append(defect)
            continue
        cs, rs = [c for c, _ in own], [r for _, r in own]
        found, unknown = score_defect(defect, cs, rs, image, columns, imaging, lattice, unknown_prior)
        scores.update({s.candidate: s for s in found})
        restated.append(_restated(defect, cs, found, unknown))
    pristine = {d.id: dict(d.alternatives).get("pristine", 0.0) for d in restated}
    return Ranking(
        tuple(scores[c.id] for c in candidates),
        tuple(d for d in restated if pristine[d.id] < CLAIM),
        tuple(d for d in restated if pristine[d.id] >= CLAIM),
    )


def _restated(defect: Defect, candidates: Sequence[Candidate], scores: Sequence[Score], unknown: float) -> Defect:
    weight: dict[str, float] = {}
    for c, s in zip(candidates, scores, strict=True):
        weight[c.label] = weight.get(c.label, 0.0) + s.posterior * (1 - unknown)
    weight["UNKNOWN"] = weight.get("UNKNOWN", 0.0) + unknown
    named = {label: p for label, p in weight.items() if label != "pristine"}
    label = max(named, key=lambda name: named[name])
    others = sorted(((n, p) for n, p in weight.items() if n != label), key=lambda item: -item[1])
    evidence = {c.label: -np.inf for c in candidates}
    for c, s in zip(candidates, scores, strict=True):
        evidence[c.label] = max(evidence[c.label], s.log_likelihood)
    best = max(
        ((s.posterior, c.id) for c, s in zip(candidates, scores, strict=True) if c.label == label), default=(0.0, None)
    )[1]
    factor = evidence.get(label, max(evidence.values())) - evidence["pristine"]
    return replace(
        defect, type=type_of(label, defect.type), label=label, probability=weight[label], alternatives=tuple(others),
        log_bayes_factor=float(factor), best_candidate=best,
    )
