"""What the comparison with the image said of every place of a recorded field, and of what was really there.

Candidates that look the same from above are one *reading*: same label, same sites, and the same layers but for top and
bottom exchanged. (The two starts of a line's relaxation are one reading too: they only differ by where the relaxer
ended.) The truth is the reading with the label and the sites of what was drawn; of a double line, with both rows in
the layer(s) that were drawn: all of them were drawn in one layer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from defect_fields import Shot
from defect_library import library, type_of
from defect_scoring import EDGE_A
from numpy.typing import NDArray
from ranking_relaxed import Relaxation, relaxation_of

from stemfit import observed, pipeline, relax
from stemfit.columns.stamps import render
from stemfit.errors import StemfitError
from stemfit.lattice.rows import RowOffsets
from stemfit.score import columns_of, make_scene
from stemfit.spikes import despiked
from stemfit.synthetic import as_micrograph
from stemfit.units import units_of

FloatArray = NDArray[np.float64]

ranking = import_module("stemfit.score.rank")  # the name of the module is also that of a function

NEAR_A = 0.9
"""Half of the distance of neighbouring columns: sites that are nearer to each other are the same."""

OURS, KEPT = "evidence of relaxed and unrelaxed (ours)", "the same, nothing relaxed"

NEAR_TIE = 5.0
"""Expected difference of log evidences below which two readings are nearly the same image at this dose."""


class Place(NamedTuple):
    """One true defect.

    Attributes
    ----------
    type, label : str
    found : str
        What its sites were taken for by brightness, "" if nothing was seen there.
    brightness_right : bool
        Whether that name is the true one, on the true sites.
    readings : tuple of str
        Labels of the readings, most probable first.
    posterior : tuple of float
        Theirs, over the candidates.
    true : int or None
        Which of them is the truth.
    in_95 : bool
        Whether the truth is in the 95 % set.
    size_95 : int
        How many readings are.
    told : tuple of float
        Posteriors of the readings as the analysis tells them: names that the relaxer never learnt have the odds of
        brightness back.
    told_in_95 : bool
        Whether the truth is in the 95 % set of these.
    expected : tuple of float
        Log evidence of each reading on the noise-free image, less that of the truth; empty if that is first.
    evidence : tuple of float
        The same on the recorded image.
    rivals : dict of str to bool
        Whether the truth is first by other measures.
    unknown : float
        Probability that none of the candidates is right.
    kept_first : str
        Reading that is first where nothing is relaxed.
    relaxation : Relaxation or None
        Of the truth.
    candidates : int
    apart_A : float
        Distance of the nearest site of another defect.
    """

    type: str
    label: str
    found: str = ""
    brightness_right: bool = False
    readings: tuple[str, ...] = ()
    posterior: tuple[float, ...] = ()
    true: int | None = None
    in_95: bool = False
    size_95: int = 0
    told: tuple[float, ...] = ()
    told_in_95: bool = False
    expected: tuple[float, ...] = ()
    evidence: tuple[float, ...] = ()
    rivals: dict[str, bool] = {}  # noqa: RUF012
    unknown: float = 0.0
    kept_first: str = ""
    relaxation: Relaxation | None = None
    candidates: int = 0
    apart_A: float = np.inf

    @property
    def outcome(self) -> str:
        """Where the comparison had its say, and what it said."""
        if not self.found:
            return "not seen"
        if not self.readings:
            return "no candidates"
        if self.true is None:
            return "not among them"
        if self.true == 0:
            return "first"
        if not self.expected:
            return "not first"
        return "near tie" if abs(self.expected[0]) < NEAR_TIE else "misranked"


class Kept(NamedTuple):
    """One recorded field."""

    view: str
    seed: int
    counts: float
    what: str
    places: list[Place]
    failure: str
    cpu_s: float


class Asked(NamedTuple):
    """What one comparison was given, and said."""

    defect: Any
    candidates: Sequence[Any]
    relaxed: Sequence[Any]
    rest: tuple[Any, ...]
    scores: tuple[Any, ...]
    unknown: float


class Witness:
    """Stands in for `score_defect` and remembers everything it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.found: list[Any] = []
        self.rows: RowOffsets | None = None
        self.told: dict[str, Any] = {}
        self._score, self._read, self._find = ranking.score_defect, observed.read_crystal, observed.find_defects

    def score(self, defect: Any, candidates: Any, relaxed: Any, *rest: Any) -> Any:
        """In place of `score_defect`."""
        scored = self._score(defect, candidates, relaxed, *rest)
        self.asked.append(Asked(defect, candidates, relaxed, rest, scored.scores, scored.unknown))
        return scored

    def again(self, one: Asked, relaxed: Any, image: FloatArray) -> tuple[tuple[Any, ...], float]:
        """The same comparison with other positions or another image."""
        return self._score(one.defect, one.candidates, relaxed, image, *one.rest[1:])[:2]

    def read(self, *arguments: Any) -> Any:
        """In place of `read_crystal`."""
        reading = self._read(*arguments)
        self.rows = reading[0].rows
        return reading

    def find(self, evidence: Any) -> Any:
        """In place of `find_defects`."""
        found, suspects = self._find(evidence)
        self.found = [*found, *suspects]
        return found, suspects

    @property
    def patches(self) -> list[Any]:
        """Of the functions that it stands in for."""
        return [
            mock.patch.object(ranking, "score_defect", self.score),
            mock.patch.object(observed, "read_crystal", self.read),
            mock.patch.object(observed, "find_defects", self.find),
        ]


def judged(shot: Shot, what: str, seed: int, host: str | None = None, deep: bool = True) -> Kept:
    """Analyse a recorded field, optics stated, and compare what was ranked with what is there.

    Parameters
    ----------
    what : str
        Name of this kind of field in the tables.
    host : str, optional
        As stated to the analysis; default the true one.
    deep : bool
        Also rank the noise-free image, and with nothing relaxed; fields whose atoms stand elsewhere are not.
    """
    start, witness = time.process_time(), Witness()
    failure = watched_analysis(shot, witness, host or shot.field.host)
    places = [] if failure else [_place(shot, k, witness, deep) for k in _inside(shot)]
    return Kept(shot.field.view, seed, shot.counts, what, places, failure, time.process_time() - start)


def watched_analysis(shot: Shot, witness: Witness, host: str) -> str:
    """Analyse a recorded field under the eyes of a witness; why that failed, or ""."""
    optics = library(shot.field.view).optics
    settings = pipeline.Settings(
        host=host, voltage_kV=optics["energy_eV"] / 1e3, convergence_mrad=optics["semiangle_mrad"],
        detector_mrad=(optics["inner_mrad"], optics["outer_mrad"]),
    )
    micrograph = as_micrograph(shot.recording.image, shot.field.pixel_A)
    with ExitStack() as stack:
        for patch in witness.patches:
            stack.enter_context(patch)
        try:
            told = pipeline.analyze(micrograph, settings, relax.relaxer("definet")).scores
            witness.told = {score.candidate: score for score in told}
        except StemfitError as error:
            return str(error)
    return ""


def _inside(shot: Shot) -> list[int]:
    """Defects that are seen whole."""
    border, shape = EDGE_A / shot.field.pixel_A, np.array(shot.recording.image.shape[::-1])
    inside = [np.all((d.sites_px > border) & (d.sites_px < shape - 1 - border)) for d in shot.defects]
    return [k for k, whole in enumerate(inside) if whole]


def _clean(shot: Shot, witness: Witness) -> FloatArray:
    """The noise-free image, as the analysis has the recorded one."""
    recording = shot.recording
    units = units_of(despiked(np.asarray(recording.image, dtype=float))[0])
    assert witness.rows is not None
    return witness.rows.straightened(units.off(recording.gain * recording.expected + recording.offset))


def _place(shot: Shot, number: int, witness: Witness, deep: bool) -> Place:
    truth = shot.defects[number]
    near = NEAR_A / shot.field.pixel_A
    others = [site for k, d in enumerate(shot.defects) if k != number for site in d.sites_px]
    gaps = np.hypot(*np.moveaxis(truth.sites_px[:, None] - np.array(others).reshape(-1, 2), -1, 0))
    apart_A = float(gaps.min(initial=np.inf)) * shot.field.pixel_A
    place = Place(type_of(truth.label), truth.label, apart_A=apart_A)
    shared = [(_shared(d.extent_px, truth.sites_px, near), -len(d.sites), d) for d in witness.found]
    seen = [one for one in shared if one[0] > 0]
    if not seen:
        return place
    defect = max(seen, key=lambda one: one[:2])[2]
    right = defect.label == truth.label and _same(defect.extent_px, truth.sites_px, near)
    place = place._replace(found=defect.label, brightness_right=right)
    one = next((asked for asked in witness.asked if asked.defect is defect), None)
    if one is None:
        return place
    names = [_reading(c, shot.field.pixel_A) for c in one.candidates]
    readings = list(dict.fromkeys(names))
    members = [np.array([name == r for name in names]) for r in readings]
    posterior = np.array([sum(s.posterior for s, m in zip(one.scores, mine, strict=True) if m) for mine in members])
    order = [int(k) for k in np.argsort(-posterior, kind="stable")]
    true_c = np.array([_is_true(c, truth, near) for c in one.candidates])
    true = next((n for n, k in enumerate(order) if (true_c & members[k]).any()), None)
    in_set = [any(s.in_95_set for s, m in zip(one.scores, members[k], strict=True) if m) for k in order]
    told = [[witness.told[c.id] for c, m in zip(one.candidates, members[k], strict=True) if m] for k in order]
    place = place._replace(
        told=tuple(float(sum(s.posterior for s in some)) for some in told),
        told_in_95=true is not None and any(s.in_95_set for s in told[true]),
        readings=tuple(readings[k][0] for k in order), posterior=tuple(float(posterior[k]) for k in order), true=true,
        size_95=sum(in_set), in_95=true is not None and in_set[true], unknown=one.unknown,
        candidates=len(one.candidates),
    )
    which = [k for k, t in enumerate(true_c) if t]
    if which and (deep or "otherwise" in shot.field.view):
        place = place._replace(relaxation=relaxation_of(shot, number, one, which))
    if true is None or not deep:
        return place

    def by(values: Any) -> tuple[float, ...]:
        values = np.asarray(values)
        each = [float(values[members[k]].max()) for k in order]
        return tuple(v - each[true] for v in each)

    image = one.rest[0]
    clean = one.scores if true == 0 else witness.again(one, one.relaxed, _clean(shot, witness))[0]
    keep = relax.keep(one.candidates)
    kept, _ = witness.again(one, keep, image)
    of_kept = [sum(s.posterior for s, m in zip(kept, members[k], strict=True) if m) for k in order]
    plain = [_plain(one, r) for r in range(len(one.candidates))]
    rivals = {
        OURS: true == 0,
        KEPT: int(np.argmax(of_kept)) == true,
        "evidence without priors": max(by([s.log_likelihood for s in one.scores])) <= 0,
        "chi2 of the fit": max(by([-s.reduced_chi2 for s in one.scores])) <= 0,
        "chi2 as predicted": max(by([-p[1] for p in plain])) <= 0,
        "NCC as predicted": max(by([p[0] for p in plain])) <= 0,
    }
    kept_first = readings[order[int(np.argmax(of_kept))]][0]
    expected = by([s.log_likelihood for s in clean]) if true else ()
    evidence = by([s.log_likelihood for s in one.scores])
    return place._replace(expected=expected, evidence=evidence, rivals=rivals, kept_first=kept_first)


def _shared(one: FloatArray, other: FloatArray, near: float) -> int:
    return int((np.hypot(*np.moveaxis(one[:, None] - other, -1, 0)).min(0) < near).sum())


def _same(one: FloatArray, other: FloatArray, near: float) -> bool:
    """Whether two sets of sites are the same."""
    gaps = np.hypot(*np.moveaxis(one[:, None] - other, -1, 0))
    return bool(gaps.min(0).max() < near and gaps.min(1).max() < near)


def _changed(candidate: Any) -> tuple[FloatArray, NDArray[np.int64]]:
    """Where a candidate changes the crystal (K, 2), px, and in which layer: 1 above the metals, -1 below."""
    nodes = candidate.structure.nodes_A
    z = nodes[:, 2] - np.median(nodes[:, 2])
    which = list(candidate.structure.sites)
    at = nodes[which, :2] @ candidate.matrix.T + candidate.offset_px
    return at.reshape(-1, 2), np.sign(np.round(z[which], 1)).astype(np.int64)


def _reading(candidate: Any, pixel_A: float) -> tuple[str, Any]:
    at, layer = _changed(candidate)
    if len(at) == 0:
        return candidate.label, ()
    places = np.round(at * pixel_A + 0.0137).astype(int).tolist()
    both = [sorted((*place, int(s)) for place, s in zip(places, sign * layer, strict=True)) for sign in (1, -1)]
    return candidate.label, tuple(min(both))


def _is_true(candidate: Any, truth: Any, near: float) -> bool:
    if candidate.label != truth.label:
        return False
    at, layer = _changed(candidate)
    one_layer = len(set(layer.tolist())) == 1
    return _same(at, truth.sites_px, near) and (one_layer or not truth.label.startswith("DVL"))


def _plain(one: Asked, k: int) -> tuple[float, float]:
    """NCC and chi2 of a candidate as it is predicted, but for brightness and level of the whole patch."""
    image, columns, imaging, lattice, _, others = one.rest
    scene = make_scene(one.defect, image, columns, imaging, lattice, others)
    seen = columns_of(one.candidates[k], one.relaxed[k], scene, imaging)
    drawn = render(seen.xy, seen.amplitude, scene.profile, scene.image.shape)
    use = scene.weight > 0
    root = np.sqrt(scene.weight[use])
    light = (scene.image - scene.surroundings)[use]
    design = np.column_stack([drawn[use], np.ones(use.sum())])
    answer = np.linalg.lstsq(design * root[:, None], light * root, rcond=None)[0]
    chi2 = float(np.sum((root * (light - design @ answer)) ** 2) / use.sum())
    whole = (scene.surroundings + drawn)[use]
    return float(np.corrcoef(scene.image[use], whole)[0, 1]), chi2
