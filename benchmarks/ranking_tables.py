"""Tables of `ranking.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from ranking_cases import KEPT, OURS, Kept, Place
from ranking_relaxed import Compared

POINTS = ("SV", "DV", "VM", "SUB", "ANTI")
GROUPS: dict[str, tuple[str, ...]] = {"points": POINTS, **{t: (t,) for t in (*POINTS, "LINE", "TREFOIL")}}
OUTCOMES = ("not seen", "no candidates", "not among them", "first", "near tie", "misranked")
ALONE_A = 10.0
"""From where nothing that is bound to another defect lies in the part of the image that is compared."""

BINS = (0.0, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 1.0 + 1e-9)

Table = tuple[str, list[str], list[list[str]]]


class Case(NamedTuple):
    """A true defect and its image."""

    image: Kept
    place: Place


def all_of(found: list[Kept]) -> Iterator[Table]:
    """Title, head and rows of every table."""
    every = [Case(one, place) for one in found for place in one.places]
    drawn = [case for case in every if case.image.what == "defects"]
    doses = sorted({case.image.counts for case in drawn}, reverse=True)
    yield _detected(drawn, doses, [case for case in every if case.image.what == "host auto"])
    yield _ranked(drawn, doses)
    yield _rivals(drawn, doses)
    yield _reliability(drawn)
    yield _relaxed(every, doses)
    yield _residuals(drawn, doses)
    yield _pairs(drawn)


def _of(cases: Iterable[Case], types: tuple[str, ...], counts: float | None = None) -> list[Case]:
    return [c for c in cases if c.place.type in types and counts in (None, c.image.counts)]


def _share(part: int | float, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def _detected(cases: list[Case], doses: list[float], auto: list[Case]) -> Table:
    rows = []
    by_dose = [(f"{d:g}", [c for c in cases if c.image.counts == d]) for d in doses]
    for name, some in [*by_dose, ("20, host auto", auto)]:
        for group, types in GROUPS.items():
            mine = Counter(c.place.outcome for c in _of(some, types))
            if total := sum(mine.values()):
                ranked = mine["first"] + mine["near tie"] + mine["misranked"]
                rows.append([name, group, str(total), *(str(mine[k]) for k in OUTCOMES[:3]), str(ranked)])
    return (
        "True defects, and whether the truth is among the candidates of what covers them",
        ["counts", "type", "true", *OUTCOMES[:3], "among them"], rows,
    )


def _known(cases: Iterable[Case]) -> list[Case]:
    """Those whose truth is among the candidates."""
    return [c for c in cases if c.place.true is not None]


def _ranked(cases: list[Case], doses: list[float]) -> Table:
    rows = []
    for dose in doses:
        for group, types in GROUPS.items():
            mine = _known(_of(cases, types, dose))
            if not mine:
                continue
            count, n = Counter(c.place.outcome for c in mine), len(mine)
            biased = sum(c.place.outcome == "misranked" and c.place.expected[0] > 0 for c in mine)
            first = [c for c in mine if c.place.outcome != "near tie"]
            rows.append([
                f"{dose:g}", group, str(n), _share(count["first"], n), _share(count["first"] + count["near tie"], n),
                _share(count["first"], len(first)), str(count["near tie"]), str(count["misranked"]), str(biased),
                _share(sum(c.place.in_95 for c in mine), n), f"{np.mean([c.place.size_95 for c in mine]):.2f}",
                f"{np.mean([c.place.candidates for c in mine]):.1f}",
                _share(sum(c.place.told[c.place.true or 0] >= max(c.place.told) for c in mine), n),
                _share(sum(c.place.told_in_95 for c in mine), n),
            ])  # fmt: skip
    head = [
        "counts", "type", "ranked", "first", "first or near tie", "first, ties left out", "near ties", "misranked",
        "of them on the noise-free image too", "in the 95 % set", "its size",
        "candidates", "first as told", "in the 95 % set as told",
    ]  # fmt: skip
    return "The truth among its candidates (one reading: all that look the same from above)", head, rows


def _rivals(cases: list[Case], doses: list[float]) -> Table:
    mine = _known(cases)
    measures = list(mine[0].place.rivals) if mine else []
    columns = [(g, t, d) for d in doses for g, t in GROUPS.items() if g in ("points", "LINE", "TREFOIL")]
    rows = []
    for measure in [*measures, "brightness alone (name and sites)"]:
        row = [measure]
        for _, types, dose in columns:
            some = _known(_of(mine, types, dose))
            by = [c.place.rivals.get(measure, c.place.brightness_right) for c in some]
            row.append(_share(sum(by), len(some)))
        rows.append(row)
    return (
        "Share of true structures that are first, by the measure that ranks (same candidates, same images)",
        ["ranked by", *(f"{g}, {d:g}" for g, _, d in columns)], rows,
    )


def _reliability(cases: list[Case]) -> Table:
    some = [c for c in cases if c.place.readings]
    true = np.array([n == c.place.true for c in some for n in range(len(c.place.posterior))])
    both = [np.array([p for c in some for p in kind(c.place)]) for kind in (lambda p: p.posterior, lambda p: p.told)]
    rows = []
    for low, high in pairwise(BINS):
        inside = [(said >= low) & (said < high) for said in both]
        row = [f"{low:g} to {min(high, 1):g}"]
        for said, here in zip(both, inside, strict=True):
            shares = [f"{said[here].mean():.3f}", f"{true[here].mean():.3f}"] if here.any() else ["-", "-"]
            row += [str(here.sum()), *shares]
        rows.append(row)
    row = ["first of each"]
    for kind in (lambda p: p.posterior, lambda p: p.told):
        top = [int(np.argmax(kind(c.place))) for c in some]
        row += [str(len(some)), f"{np.mean([kind(c.place)[k] for c, k in zip(some, top, strict=True)]):.3f}",
                f"{np.mean([c.place.true == k for c, k in zip(some, top, strict=True)]):.3f}"]  # fmt: skip
    rows.append(row)
    head = ["said", "readings", "mean", "true", "as told: readings", "mean", "true"]
    return "Posterior of readings, all doses, and how often they are true: of the comparison, and as told", head, rows


def _relaxed(cases: list[Case], doses: list[float]) -> Table:
    rows = []
    order = ("defects", "chgnet", "unrelaxed", "inverted")
    for what in order:
        for dose in doses:
            for group, apart_A in [("SV", 0), ("DV", 0), ("DV", ALONE_A), ("VM", 0), ("LINE", 0), ("TREFOIL", 0)]:
                some = [c.place.relaxation for c in _of(cases, (group,), dose)
                        if c.image.what == what and c.place.relaxation is not None and c.place.apart_A >= apart_A]
                if not some:
                    continue
                network = [one.network for one in some]
                perfect = [one.perfect for one in some if one.perfect is not None]
                ended = [one.error_A / one.moved_A for one in some if np.isfinite(one.error_A)]
                rows.append([
                    {"defects": "SevenNet-0"}.get(what, what), f"{dose:g}", group + (", alone" if apart_A else ""),
                    str(len(some)), *_two(network, lambda c: c.stated), *_two(network, lambda c: c.any),
                    *_two(perfect, lambda c: c.stated), *_two(perfect, lambda c: c.any),
                    f"{np.median(ended):.2f}" if ended else "-",
                ])  # fmt: skip
    head = ["image", "counts", "type", "n", "network > 0", "median", "any > 0", "median", "perfect > 0", "median",
            "any > 0", "median", "network's error / doing nothing"]  # fmt: skip
    return (
        "Evidence of the true defect's relaxed structure over the unrelaxed one: as stated, with the allowance "
        "integrated out (any), and both for the positions that were drawn (perfect)", head, rows,
    )


def _two(some: list[Compared], value: Callable[[Compared], float]) -> list[str]:
    if not some:
        return ["-", "-"]
    each = np.array([value(one) for one in some if np.isfinite(value(one))])
    if len(each) == 0:
        return ["-", "-"]
    return [f"{np.mean(each > 0):.2f}", f"{np.median(each):+.1f}"]


def _residuals(cases: list[Case], doses: list[float]) -> Table:
    rows = []
    for dose in doses:
        for group in ("DV", "LINE", "TREFOIL"):
            mine = [c for c in _of(cases, (group,), dose) if c.place.relaxation is not None]
            if not mine:
                continue
            each = [c.place.relaxation for c in mine if c.place.relaxation is not None]
            perfect = [one.perfect.near_chi2 for one in each if one.perfect is not None]
            changed = [c.place.kept_first != c.place.readings[0] for c in mine]
            better = [sum(c.place.rivals[which] for c in mine) for which in (KEPT, OURS)]
            rows.append([
                f"{dose:g}", group, str(len(mine)), f"{np.median([one.network.near_chi2_rest for one in each]):.2f}",
                f"{np.median([one.network.near_chi2 for one in each]):.2f}", f"{np.median(perfect):.2f}",
                _share(sum(one.network.near_chi2 < one.network.near_chi2_rest for one in each), len(each)),
                _share(sum(changed), len(mine)), f"{better[0]} -> {better[1]}",
            ])  # fmt: skip
    head = ["counts", "type", "n", "chi2 unrelaxed", "relaxed", "as drawn", "falls", "another label first",
            "truth first: unrelaxed -> relaxed"]  # fmt: skip
    return (
        "Residual per pixel within a lattice constant of the true defect, as predicted (median), and what relaxing "
        "does to the ranking", head, rows,
    )


def _pairs(cases: list[Case]) -> Table:
    wrong = [c for c in _known(cases) if c.place.outcome in ("near tie", "misranked")]
    count = Counter((c.place.label, c.place.readings[0], f"{c.image.counts:g}", c.place.outcome) for c in wrong)
    rows = []
    for (label, first, dose, outcome), n in count.most_common(30):
        same = [c for c in wrong if (c.place.label, c.place.readings[0], f"{c.image.counts:g}", c.place.outcome)
                == (label, first, dose, outcome)]  # fmt: skip
        rows.append([
            label, first, dose, outcome, str(n), f"{np.median([c.place.expected[0] for c in same]):+.1f}",
            f"{np.median([c.place.evidence[0] for c in same]):+.1f}",
            f"{np.median([c.place.posterior[c.place.true or 0] for c in same]):.3f}",
        ])  # fmt: skip
    head = ["true", "first", "counts", "outcome", "n", "log evidence over the truth, noise-free", "as recorded",
            "posterior of the truth"]  # fmt: skip
    return "What was first where the truth was not (medians)", head, rows


def cases(found: list[Kept]) -> Iterator[str]:
    """Everything that was not first, one line each."""
    for one in found:
        if one.failure:
            yield f"{one.what} {one.view} {one.seed} {one.counts:g}: not analysed: {one.failure}"
        for p in one.places:
            if p.outcome != "first":
                nothing = [np.nan] * len(p.readings)
                each = zip(p.readings, p.posterior, p.evidence or nothing, p.expected or nothing, strict=True)
                odds = ", ".join(f"{r} {q:.3f} ({e:+.1f}; noise-free {x:+.1f})" for r, q, e, x in each)
                where = f"{one.what} {one.view} {one.seed} {one.counts:g}"
                yield f"{where}: {p.label} found as {p.found or '-'}: {p.outcome}: {odds}"
