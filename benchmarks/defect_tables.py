"""Tables of `defects.py`: found by type and dose, hard negatives, calibration, times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from defect_fields import COUNTS, Shot
from defect_library import library, separation
from defect_scoring import Score, Statement, f1
from defect_stages import Answer

BINS = (0.0, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999, 1.0)
TYPES = ("SV", "DV", "LINE", "TREFOIL", "SUB", "VM", "ANTI", "ADATOM")
Row = tuple[str, ...]


class Done(NamedTuple):
    """A recorded field, what was said of it by the analysis, the threshold and the U-Net, and the scores."""

    shot: Shot
    answer: Answer
    ours: Score
    threshold: Score
    unet: Score | None

    @property
    def dose(self) -> str:
        """Counts as written in the tables."""
        return f"{self.shot.counts:g}"


class Scored(Protocol):
    """What knows its dose and what the analysis found."""

    @property
    def dose(self) -> str:
        """Counts as written in the tables."""

    @property
    def ours(self) -> Score:
        """Counts of one recorded field."""


Method = Callable[[Any], Score]


def all_of(done: Sequence[Done]) -> Iterator[tuple[str, Row, list[Row]]]:
    """Title, head and rows of every table."""
    fields = [one for one in done if one.shot.field.family in ("defects", "adatoms")]
    yield "Found by type", TYPE_HEAD, found_by_type(fields)
    yield "Single and double vacancies by host: F1 (found/true)", HOST_HEAD, _hosts(fields)
    yield "Every label", LABEL_HEAD, _labels(fields)
    title = f"Single sites: those whose expected log-evidence against the rendered rival most like them is {EVIDENT:g}"
    yield f"{title} or more, and the others", EVIDENT_HEAD, _evident(fields)
    yield "False claims per 1000 columns of monolayer", FALSE_HEAD, _false(done)
    yield "Claims inside what is no monolayer, per 1000 columns there", AREA_HEAD, _areas(done)
    for title, stated in (("the name, UNKNOWN left out", _named), ("any defect", _present)):
        yield f"Claims and suspects: probability of {title}", CALIBRATION_HEAD, _calibration(done, stated)
    methods: list[tuple[str, Method]] = [("stemfit", lambda one: one.ours), ("threshold", lambda one: one.threshold)]
    if any(one.unet for one in done):
        methods.append(("U-Net", lambda one: one.unet or Score()))
    yield "Baselines: F1 (found/true, claimed)", BASE_HEAD, baselines(fields, methods)
    yield "CPU time per field, s", TIME_HEAD, _times(done)


# -- found ---------------------------------------------------------------------------------------------------------

TYPE_HEAD = (
    "counts", "type", "true", "found", "near ties", "wrong name", "UNKNOWN", "missed", "claimed", "in larger ones",
    "recall", "precision", "F1", "F1 with ties",
)  # fmt: skip


def found_by_type(done: Sequence[Scored]) -> list[Row]:
    """What became of the defects of each type, and of the claims."""
    rows = []
    for dose in dict.fromkeys(one.dose for one in done):
        scores = [one.ours for one in done if one.dose == dose]
        for kind in TYPES:
            outcomes = Counter(v.outcome for s in scores for v in s.verdicts if v.truth.type == kind)
            claimed, members, right, tied = (
                sum(getattr(s, what)[kind] for s in scores) for what in ("claimed", "members", "right", "tied")
            )
            true = outcomes.total()
            if true + claimed:
                strict = f1(true, outcomes["right"], claimed, right)
                lenient = f1(true, outcomes["right"] + outcomes["tie"], claimed, right + tied)
                counts = (outcomes[k] for k in ("right", "tie", "wrong", "unknown", "missed"))
                rows.append((
                    dose, kind, str(true), *map(str, counts), str(claimed), str(members),
                    _share(outcomes["right"], true), _share(right, claimed), _number(strict), _number(lenient),
                ))  # fmt: skip
    return rows


HOST_HEAD = ("counts", "host", "SV", "DV", "LINE", "of them with the right label", "TREFOIL")


def _hosts(done: Sequence[Done]) -> list[Row]:
    rows = []
    for dose in _doses(done):
        for host in sorted({one.shot.field.host for one in done}):
            scores = [one.ours for one in done if (one.dose, one.shot.field.host) == (dose, host)]
            lines = [v for s in scores for v in s.verdicts if v.truth.type == "LINE" and v.outcome == "right"]
            cells = [_cell(scores, kind) for kind in ("SV", "DV", "LINE", "TREFOIL")]
            rows.append((dose, host, *cells[:3], f"{sum(v.exact for v in lines)}/{len(lines)}", cells[3]))
    return rows


def _cell(scores: Sequence[Score], kind: str) -> str:
    outcomes = Counter(v.outcome for s in scores for v in s.verdicts if v.truth.type == kind)
    claimed, right = (sum(getattr(s, what)[kind] for s in scores) for what in ("claimed", "right"))
    value = f1(outcomes.total(), outcomes["right"], claimed, right)
    return f"{_number(value)} ({outcomes['right']}/{outcomes.total()})"


LABEL_HEAD = (
    "host", "label", "rival, log-evidence per count", *(f"{c:g}: found + tied / true" for c in COUNTS), "else mostly",
)  # fmt: skip


def _labels(done: Sequence[Done]) -> list[Row]:
    keys = sorted({(one.shot.field.host, v.truth.type, v.truth.label) for one in done for v in one.ours.verdicts})
    rows = []
    for host, _, label in keys:
        cells, others = [], Counter[str]()
        for dose in (f"{c:g}" for c in COUNTS):
            outcomes = Counter(
                v.outcome for one in done if one.dose == dose and one.shot.field.host == host
                for v in one.ours.verdicts if v.truth.label == label
            )  # fmt: skip
            cells.append(f"{outcomes['right']} + {outcomes['tie']} / {outcomes.total()}")
            others += Counter({k: n for k, n in outcomes.items() if k in ("wrong", "unknown", "missed")})
        views = sorted({one.shot.field.view for one in done if one.shot.field.host == host})
        with_label = [v for v in views if label in library(v).stamps]
        nearest = [separation(view, label) for view in with_label]
        rivals = "; ".join(f"{rival} {value:.1f}" for value, rival in nearest if rival)
        mostly = ", ".join(f"{n} {k}" for k, n in others.most_common()) or "-"
        rows.append((host, label, rivals or "-", *cells, mostly))
    return rows


EVIDENT = 5.0
EVIDENT_HEAD = ("counts", "type", "separable", "found", "near ties", "hardly separable", "found", "near ties")


def _evident(done: Sequence[Done]) -> list[Row]:
    """Whether what can be told apart is."""
    rows = []
    for dose in _doses(done):
        for kind in ("SV", "DV", "SUB", "VM", "ANTI"):
            clear, unclear = Counter[str](), Counter[str]()
            for one in done:
                for v in one.ours.verdicts if one.dose == dose else ():
                    if v.truth.type == kind and len(v.truth.sites_px) == 1:
                        evidence = separation(one.shot.field.view, v.truth.label)[0] * one.shot.counts
                        (clear if evidence >= EVIDENT else unclear)[v.outcome] += 1
            cells = [str(n) for c in (clear, unclear) for n in (c.total(), c["right"], c["tie"])]
            if clear or unclear:
                rows.append((dose, kind, *cells))
    return rows


# -- false ---------------------------------------------------------------------------------------------------------

FALSE_HEAD = ("family", *(f"{c:g}" for c in COUNTS), "labels", *(f"threshold {c:g}" for c in COUNTS))
AREA_HEAD = ("area", *(f"{c:g}" for c in COUNTS), *(f"threshold {c:g}" for c in COUNTS))


def _false(done: Sequence[Done]) -> list[Row]:
    rows = []
    for family in dict.fromkeys(one.shot.field.family for one in done):
        some = [one for one in done if one.shot.field.family == family]
        labels = Counter(claim.label for one in some for claim in one.ours.false)
        cells = [
            [_rate(sum(len(of(one).false) for one in at), sum(one.ours.columns for one in at))
             for at in ([one for one in some if one.shot.counts == c] for c in COUNTS)]
            for of in (lambda one: one.ours, lambda one: one.threshold)
        ]  # fmt: skip
        rows.append((family, *cells[0], ", ".join(f"{n} {k}" for k, n in labels.most_common(4)) or "-", *cells[1]))
    return rows


def _areas(done: Sequence[Done]) -> list[Row]:
    rows = []
    for kind in sorted({k for one in done for k in one.ours.columns_in}):
        cells = [
            [_rate(sum(of(one).in_areas[kind] for one in at), sum(one.ours.columns_in[kind] for one in at))
             for at in ([one for one in done if one.shot.counts == c] for c in COUNTS)]
            for of in (lambda one: one.ours, lambda one: one.threshold)
        ]  # fmt: skip
        rows.append((kind, *cells[0], *cells[1]))
    return rows


def _rate(number: int, columns: int) -> str:
    return f"{1e3 * number / columns:.2f} ({number} of {columns})" if columns else "-"


# -- how sure ------------------------------------------------------------------------------------------------------

CALIBRATION_HEAD = ("stated", *(cell for c in COUNTS for cell in (f"{c:g}: stated", "so")))


def _named(statement: Statement) -> tuple[float | None, bool]:
    return statement.named, statement.right


def _present(statement: Statement) -> tuple[float | None, bool]:
    return statement.defective, statement.present


def _calibration(done: Sequence[Done], stated: Callable[[Statement], tuple[float | None, bool]]) -> list[Row]:
    """Stated probability against how often it was so, and the expected calibration error."""
    every = [[stated(s) for one in done if one.shot.counts == c for s in one.ours.statements] for c in COUNTS]
    by_dose = [[(p, so) for p, so in some if p is not None] for some in every]
    rows, errors = [], [0.0] * len(COUNTS)
    for low, high in pairwise(BINS):
        cells = [f"{low:g} to {high:g}"]
        for k, statements in enumerate(by_dose):
            here = [(p, so) for p, so in statements if low <= p < high or (high == 1 and p >= 1)]
            if not here:
                cells += ["-", "-"]
                continue
            mean, share = float(np.mean([p for p, _ in here])), float(np.mean([so for _, so in here]))
            errors[k] += abs(mean - share) * len(here) / len(statements)
            cells += [f"{mean:.3f}", f"{sum(so for _, so in here)}/{len(here)}"]
        rows.append(tuple(cells))
    numbers = [(f"{error:.3f}", f"of {len(some)}") for error, some in zip(errors, by_dose, strict=True)]
    return [*rows, ("expected calibration error", *(cell for pair in numbers for cell in pair))]


# -- baselines and time --------------------------------------------------------------------------------------------

BASE_HEAD = ("counts", "method", "SV", "DV", "false per 1000 columns")
TIME_HEAD = ("field", "fields", "columns", "lattice and imaging", "defects", "largest", "failed")


def baselines(done: Sequence[Scored], methods: Sequence[tuple[str, Method]]) -> list[Row]:
    """Vacancies found and claimed by each method, and what is claimed where nothing is."""
    rows = []
    for dose in dict.fromkeys(one.dose for one in done):
        for name, of in methods:
            some = [one for one in done if one.dose == dose]
            scores = [of(one) for one in some]
            cells = [
                f"{_cell(scores, kind)[:-1]}, {sum(s.claimed[kind] for s in scores)})" for kind in ("SV", "DV")
            ]
            false = _rate(sum(len(s.false) for s in scores), sum(one.ours.columns for one in some))
            rows.append((dose, name, *cells, false))
    return rows


def _times(done: Sequence[Done]) -> list[Row]:
    rows = []
    for size in sorted({one.shot.recording.image.shape[0] for one in done}):
        some = [one for one in done if one.shot.recording.image.shape[0] == size]
        ran = [one.answer for one in some if not one.answer.failure]
        parts = np.array([(a.columns_s, a.lattice_s, a.defects_s) for a in ran]).reshape(-1, 3)
        means = parts.mean(0) if ran else np.full(3, np.nan)
        largest = max((a.defects_s for a in ran), default=0.0)
        rows.append((
            f"{size} x {size}", str(len(some)), *(f"{value:.2f}" for value in means), f"{largest:.2f}",
            str(len(some) - len(ran)),
        ))  # fmt: skip
    return rows


def _doses(done: Sequence[Done]) -> list[str]:
    return [f"{c:g}" for c in COUNTS if any(one.shot.counts == c for one in done)]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
