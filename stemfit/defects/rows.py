"""Rows of chalcogen vacancies.

A site in a row of vacancies is not independent of the row: vacancies of MX2 gather in lines along zigzag (Komsa et al.,
Phys. Rev. B 88, 035301 (2013)) which grow up to tens of columns (Wang et al., ACS Nano 10, 5419 (2016)). So sites are
read under two processes: independent defects with the densities of this image, and lines. Where every twentieth site is
vacant three in a row meet by chance: such a row is a line with the share that the second process has in it, and single
vacancies otherwise. Within a line a doubtful site between or beside clear vacancies is probably one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.defects.evidence import Evidence
from stemfit.defects.row_odds import (
    GROWS,
    INSIDE,
    TYPES,
    Odds,
    Weighed,
    learned,
    log_prior,
    neighbour_pairs,
    site_odds,
)
from stemfit.defects.row_shapes import (
    DIRECTIONS,
    SHORTEST,
    SHORTEST_BESIDE,
    Cell,
    Row,
    Shape,
    beside,
    cell_of,
    row_of,
)
from stemfit.defects.types import Defect

FloatArray = NDArray[np.float64]

MENTIONED = 0.01
"""Probability of a line from which single vacancies have it among their alternatives."""

ROUNDS, SETTLED = 12, 0.01
"""How often at most the densities of lines, and of the vacancies that belong to none, are learned from the lines found,
and by how much their probabilities may still change at the end."""

CLAIMED = 0.5
"""Probability from which a row is one line and not single vacancies."""

HOPELESS = 5.0
"""Natural logarithm below which a line is not weighed any more: its variants add less than that."""


def rows(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise rows of equal chalcogen vacancies; what is recognised, and what is left of the findings.

    The search begins at claimed sites and takes doubtful ones in where their row makes them probable. Lines are taken
    one by one, that with most evidence first, each with the sites that no other has taken.
    """
    odds = site_odds(evidence)
    if odds is None or "X" in evidence.imaging.mixtures:  # `closed_rows` has looked at those
        return [], list(found)
    claimed = {d.sites[0][:2] for d in found if len(d.sites) == 1 and d.sites[0][2] == "X"} & set(odds.row)
    free = set(odds.row) - _of_others(claimed, evidence)
    readings, pairs = list[Weighed](), neighbour_pairs(odds)
    for _ in range(ROUNDS):
        before, readings = readings, _all_lines(odds, claimed, free)
        if not readings or _settled(before, readings):
            break
        odds = site_odds(evidence, learned(readings, odds, free, pairs)) or odds
    lines = [r for r in readings if r.named > CLAIMED]
    taken = {(i, j, "X") for reading in lines for i, j in reading.shape.cells()}
    left = [d for d in found if not taken.intersection(d.sites)]
    return [_defect(r, odds, evidence) for r in lines], _mentioned(left, [r for r in readings if r.named <= CLAIMED])


def _of_others(claimed: set[Cell], evidence: Evidence) -> set[Cell]:
    """Chalcogen sites that are not pristine but no finding any more: a larger defect took them."""
    judged = {site[:2] for site in evidence.doubted("X")}
    return judged - claimed


def _settled(before: Sequence[Weighed], now: Sequence[Weighed]) -> bool:
    same = [r.shape for r in before] == [r.shape for r in now]
    return same and all(abs(a.named - b.named) < SETTLED for a, b in zip(before, now, strict=True))


def _mentioned(found: Sequence[Defect], doubtful: Sequence[Weighed]) -> list[Defect]:
    """Single vacancies with the line that they may be part of among their alternatives."""
    part = {(i, j, "X"): reading for reading in doubtful for i, j in reading.shape.cells()}
    said = []
    for d in found:
        if len(d.sites) == 1 and d.sites[0] in part:
            p, label = part[d.sites[0]].named, part[d.sites[0]].shape.label
            others = [(label, p), *((name, q * (1 - p)) for name, q in d.alternatives)]
            others.sort(key=lambda item: -item[1])
            d = replace(d, probability=d.probability * (1 - p), alternatives=tuple(others))
        said.append(d)
    return said


def _all_lines(odds: Odds, claimed: set[Cell], among: set[Cell]) -> list[Weighed]:
    free, lines = set(among), []
    while more := _lines(odds, claimed, free):
        lines += more
        free -= {cell for reading in more for cell in reading.shape.cells()}
    return lines


def _lines(odds: Odds, claimed: set[Cell], free: set[Cell]) -> list[Weighed]:
    """Lines without a site in common, that with most evidence first.

    A line that has to wait because a better one took some of its sites keeps others from the rest: it comes back, cut,
    in the next round.
    """
    begun: dict[tuple[str, int, int], list[int]] = {}
    for cell, kind, d in product(sorted(claimed & free), ("SV", "DV"), range(len(DIRECTIONS))):
        if odds.inside[kind][odds.row[cell]]:
            across, along = row_of(d, cell)
            begun.setdefault((kind, d, across), []).append(along)
    runs = {key: _runs(odds, free, *key, sorted(places)) for key, places in begun.items()}
    promising = sorted(((_gain(odds, shape), shape) for shape in _shapes(runs)), key=lambda item: -item[0])
    held: set[Cell] = set()
    lines = []
    for gain, shape in promising:
        cells = set(shape.cells())
        if cells & held:
            held.update(cells if gain > 0 else ())
        elif gain > -HOPELESS:
            reading = weigh(shape, odds, lambda c: c in free and c not in held)
            if reading.named > MENTIONED:
                lines.append(reading)
                held.update(cells, reading.shape.cells())
    return lines


def _gain(odds: Odds, shape: Shape) -> float:
    """Logarithm of how much more probable a line is than independent defects, whatever lies at its ends."""
    kind, cells = TYPES[shape.kind], shape.cells()
    line = log_prior(shape.kind, len(cells), odds.densities.line[shape.kind]) + len(cells) * math.log(INSIDE)
    return float(odds.vacant[kind][[odds.row[c] for c in cells]].sum() + line)


def _runs(odds: Odds, free: Set[Cell], kind: str, direction: int, across: int, begun: Sequence[int]) -> list[Row]:
    """Rows of sites that are probably vacant if they belong to a line, each with one of the places `begun` in it."""

    def joins(along: int) -> bool:
        cell = cell_of(direction, across, along)
        return cell in free and bool(odds.inside[kind][odds.row[cell]])

    runs: list[Row] = []
    for place in begun:
        if runs and place <= runs[-1].last:
            continue
        first = last = place
        while joins(first - 1):
            first -= 1
        while joins(last + 1):
            last += 1
        runs.append(Row(direction, across, first, last))
    return [row for run in runs for row in _best_parts(odds, kind, run)]


def _best_parts(odds: Odds, kind: str, run: Row) -> list[Row]:
    """Part of a run with most evidence for a line, as one row and as one of two beside each other."""
    site = odds.vacant[kind][[odds.row[c] for c in run.cells()]] + math.log(GROWS * INSIDE)
    total = np.concatenate([[0.0], np.cumsum(site)])
    parts = []
    for least in sorted({SHORTEST, SHORTEST_BESIDE}):
        best = max(
            ((total[e] - total[s], s, e) for s in range(len(run)) for e in range(s + least, len(run) + 1)),
            default=None,
        )
        if best is not None:
            parts.append(replace(run, first=run.first + best[1], last=run.first + best[2] - 1))
    return list(dict.fromkeys(parts))


def _shapes(runs: Mapping[tuple[str, int, int], Sequence[Row]]) -> Iterator[Shape]:
    """All single and double lines that parts of runs can make."""
    for (kind, direction, across), parts in runs.items():
        single = "SVL" if kind == "SV" else "CVL"
        yield from (shape for row in parts if (shape := Shape(single, (row,))).stands())
        if kind == "SV":
            for other in runs.get((kind, direction, across + 1), ()):
                yield from (Shape("DVL", (row, other)) for row in parts if beside(row, other))


def weigh(shape: Shape, odds: Odds, usable: Callable[[Cell], bool]) -> Weighed:
    """Posterior of a line, of its lengths one more and one less at each end, and of both kinds of vacancy.

    Rivals are defects that belong to no line, whatever stands on the sites concerned, and a broken row or one with
    something else in it, which has no name.
    """
    kinds = ("SVL", "CVL") if len(shape.rows) == 1 else ("DVL",)
    near = [s for s in shape.neighbours() if all(usable(cell) for cell in s.cells())]
    options = [Shape(kind, s.rows) for kind in kinds for s in near]
    concerned = sorted({cell for s in near for cell in s.cells()})
    place = {cell: n for n, cell in enumerate(concerned)}
    at = [odds.row[cell] for cell in concerned]
    line, chance = np.empty(len(options)), np.empty(len(options))
    for n, option in enumerate(options):
        kind, own = TYPES[option.kind], np.zeros(len(concerned), dtype=bool)
        own[[place[cell] for cell in option.cells()]] = True
        here = odds.vacant[kind][at][own].sum() + odds.other[kind][at][~own].sum()
        prior = log_prior(option.kind, own.sum(), odds.densities.line[option.kind])
        line[n] = here + prior + own.sum() * math.log(INSIDE)
        chance[n] = here + own.sum() * math.log(odds.rate[kind])
    best = options[int(np.argmax(line))]
    weight = dict.fromkeys((s.label for s in options), -math.inf)
    for option, value in zip(options, line, strict=True):
        weight[option.label] = float(np.logaddexp(weight[option.label], value))
    weight["UNKNOWN"] = _broken(best, odds, concerned)
    weight["pristine"] = float(odds.pristine[at].sum())
    # Independent sites weigh 1 together; where vacancies seek or avoid each other their rows weigh more or less.
    company = np.array([s.adjacent() * math.log(odds.densities.company[TYPES[s.kind]]) for s in options])
    elsewhere = 1.0 - math.exp(weight["pristine"]) - float(np.exp(chance).sum())
    together = float(logsumexp(np.append(chance + company, math.log(max(elsewhere, 1e-300)))))
    weight[odds.label[TYPES[best.kind]]] = together
    total = float(logsumexp(list(weight.values())))
    return Weighed(best, {label: math.exp(value - total) for label, value in weight.items()})


def _broken(shape: Shape, odds: Odds, concerned: Sequence[Cell]) -> float:
    """Logarithm of the weight of a line of this shape with something else on at least one of its sites."""
    kind, own = TYPES[shape.kind], set(shape.cells())
    inner = [odds.row[cell] for cell in concerned if cell in own]
    outer = [odds.row[cell] for cell in concerned if cell not in own]
    vacant = odds.vacant[kind][inner] + math.log(INSIDE)
    filled = odds.other[kind][inner] - math.log1p(-odds.rate[kind]) + math.log1p(-INSIDE)
    either, all_vacant = float(np.logaddexp(vacant, filled).sum()), float(vacant.sum())
    if either <= all_vacant:
        return -math.inf
    some = either + math.log(-math.expm1(all_vacant - either))
    prior = log_prior(shape.kind, len(own), odds.densities.line[shape.kind])
    return prior + some + float(odds.other[kind][outer].sum())


def _defect(reading: Weighed, odds: Odds, evidence: Evidence) -> Defect:
    shape, kind = reading.shape, TYPES[reading.shape.kind]
    cells = shape.cells()
    sites = tuple((i, j, "X") for i, j in cells)
    extent = np.array([evidence.xy_px(site) for site in sites])
    others = sorted(
        ((label, p) for label, p in reading.probability.items() if label != shape.label), key=lambda item: -item[1]
    )
    return Defect(
        0, "LINE", shape.label, reading.probability[shape.label], extent.mean(0), sites, extent, tuple(others),
        float(odds.against_pristine[kind][[odds.row[c] for c in cells]].sum()),
    )
