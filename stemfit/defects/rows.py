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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.defects.evidence import Evidence
from stemfit.defects.occupancy import PRIOR_RATES, PRIOR_SITES
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
    ways_beside,
)
from stemfit.defects.types import Defect

FloatArray = NDArray[np.float64]

LINE_RATE = {"SVL": 1e-4, "DVL": 3e-5, "CVL": 3e-5}
"""Share of chalcogen sites at which a line begins, all directions together, before the image is asked: orders of
magnitude, one line for a hundred single vacancies, and single rows before double ones (Komsa et al. 2013: longer rows
turn double under the beam)."""

PRIOR_LINES = 1.0
"""Weight of `LINE_RATE` against the image, in lines: a single row of which nobody knows whether chance made it must not
raise the density of lines by which it is judged by more than a factor of two."""

MENTIONED = 0.01
"""Probability of a line from which single vacancies have it among their alternatives."""

ROUNDS, SETTLED = 12, 0.01
"""How often at most the densities of lines, and of the vacancies that belong to none, are learned from the lines found,
and by how much their probabilities may still change at the end."""

GROWS = 0.8
"""Probability that a line of three or more columns has one more: lines of seven on average."""

INSIDE = 0.95
"""Probability that a site within a line is vacant: an atom may have come back, or oxygen have filled it."""

TYPES = {"SVL": "SV", "DVL": "SV", "CVL": "DV"}
"""What is missing on each of the sites of a line."""

CLAIMED = 0.5
"""Probability from which a row is one line and not single vacancies."""

HOPELESS = 5.0
"""Natural logarithm below which a line is not weighed any more: its variants add less than that."""


class Densities(NamedTuple):
    """Share of chalcogen sites at which a line of each kind begins; of single vacancies by type, outside of lines."""

    line: dict[str, float]
    single: dict[str, float]


class Odds(NamedTuple):
    """What each chalcogen site says, relative to independent defects: natural logarithms.

    Attributes
    ----------
    row : dict of cell to int
        Of the arrays.
    vacant : dict of "SV", "DV" to (K,) array
        Likelihood of the vacancy over that of a site with independent defects.
    other : dict of "SV", "DV" to (K,) array
        Probability that it is anything else, independent defects given.
    pristine : (K,) array
        Probability that it is pristine, independent defects given.
    rate : dict of "SV", "DV" to float
        Share of sites.
    line : dict of "SVL", "DVL", "CVL" to float
        Share of sites at which a line begins.
    against_pristine : dict of "SV", "DV" to (K,) array
        Likelihood of the vacancy over that of the pristine column.
    inside : dict of "SV", "DV" to (K,) bool array
        Whether the site is probably vacant if it lies within a line.
    label : dict of "SV", "DV" to str
        Of the vacancy by itself.
    """

    row: dict[Cell, int]
    vacant: dict[str, FloatArray]
    other: dict[str, FloatArray]
    pristine: FloatArray
    rate: dict[str, float]
    line: dict[str, float]
    against_pristine: dict[str, FloatArray]
    inside: dict[str, NDArray[np.bool_]]
    label: dict[str, str]


class Weighed(NamedTuple):
    """What the sites of a line and those at its ends say together.

    Attributes
    ----------
    shape : Shape
        Most probable line.
    probability : dict of str to float
        By label; sums to one. That of a vacancy: defects here are independent of each other, UNKNOWN: a broken line.
    """

    shape: Shape
    probability: dict[str, float]

    @property
    def named(self) -> float:
        """Probability that there is a line, of whatever length."""
        return sum(p for label, p in self.probability.items() if label[:3] in LINE_RATE)

    @property
    def grown(self) -> float:
        """The same of a line, broken or not."""
        return self.named + self.probability["UNKNOWN"]


def rows(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise rows of equal chalcogen vacancies; what is recognised, and what is left of the findings.

    The search begins at claimed sites and takes doubtful ones in where their row makes them probable. Lines are taken
    one by one, that with most evidence first, each with the sites that no other has taken.
    """
    odds = site_odds(evidence)
    if odds is None or "X" in evidence.imaging.mixtures:  # `closed_rows` has looked at those
        return [], list(found)
    claimed = {d.sites[0][:2] for d in found if len(d.sites) == 1 and d.sites[0][2] == "X"} & set(odds.row)
    readings: list[Weighed] = []
    for _ in range(ROUNDS):
        before, readings = readings, _all_lines(odds, claimed)
        if not readings or _settled(before, readings):
            break
        odds = site_odds(evidence, learned(readings, odds)) or odds
    lines = [r for r in readings if r.named > CLAIMED]
    taken = {(i, j, "X") for reading in lines for i, j in reading.shape.cells()}
    left = [d for d in found if not taken.intersection(d.sites)]
    return [_defect(r, odds, evidence) for r in lines], _mentioned(left, [r for r in readings if r.named <= CLAIMED])


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


def learned(readings: Sequence[Weighed], odds: Odds) -> Densities:
    """Densities of lines of each kind, and of the vacancies that belong to none, in this image (one round).

    A row that chance explains as well counts with the share that lines have in it.
    """
    count = len(odds.pristine)
    alone = np.ones(count)
    for reading in readings:
        alone[[odds.row[cell] for cell in reading.shape.cells()]] = 1.0 - reading.grown
    shares = [(label[:3], p) for reading in readings for label, p in reading.probability.items()]
    line = {
        kind: (sum(p for name, p in shares if name == kind) + PRIOR_LINES) / (count + PRIOR_LINES / rate)
        for kind, rate in LINE_RATE.items()
    }
    single = {
        kind: float(alone @ (1.0 - np.exp(odds.other[kind])) + PRIOR_SITES * PRIOR_RATES[kind]) / (count + PRIOR_SITES)
        for kind in ("SV", "DV")
    }
    return Densities(line, single)


def _all_lines(odds: Odds, claimed: set[Cell]) -> list[Weighed]:
    free, lines = set(odds.row), []
    while more := _lines(odds, claimed, free):
        lines += more
        free -= {cell for reading in more for cell in reading.shape.cells()}
    return lines


def site_odds(evidence: Evidence, densities: Densities | None = None) -> Odds | None:
    """Vacancies against all else on every judged chalcogen site; None where columns do not hold two equal atoms.

    Without `densities`, vacancies are as frequent as beforehand, lines as `LINE_RATE`: the densities that the occupancy
    found are those of the lines, too.
    """
    if not evidence.host.honeycomb or "X" not in evidence.host.sublattices or not evidence.posteriors:
        return None
    one = evidence.posteriors[evidence.host.sublattices.index("X")]
    kinds = np.array([h.type for h in one.hypotheses])
    if not all(np.any(kinds == kind) for kind in ("SV", "DV")):
        return None
    cells = [(int(i), int(j)) for i, j in evidence.sites.ij[one.site]]
    own = one.rate.copy()
    for kind, share in (densities.single if densities else {k: PRIOR_RATES[k] for k in TYPES.values()}).items():
        own[kinds == kind] *= share / own[kinds == kind].sum()
    own[0] = 1.0 - own[1:].sum()
    joint = one.log_likelihood + np.log(own)
    total = logsumexp(joint, axis=1)
    vacant, other, against, inside, rate = {}, {}, {}, {}, {}
    for kind in ("SV", "DV"):
        rate[kind] = float(own[kinds == kind].sum())
        likelihood = logsumexp(joint[:, kinds == kind], axis=1) - math.log(rate[kind])
        vacant[kind] = likelihood - total
        other[kind] = logsumexp(joint[:, kinds != kind], axis=1) - total
        against[kind] = likelihood - one.log_likelihood[:, 0]
        filled = other[kind] - math.log1p(-rate[kind])
        inside[kind] = vacant[kind] + math.log(INSIDE) > filled + math.log1p(-INSIDE)
    index = {cell: k for k, cell in enumerate(cells)}
    line = densities.line if densities else LINE_RATE
    label = {h.type: h.label for h in one.hypotheses if h.type in rate}
    return Odds(index, vacant, other, joint[:, 0] - total, rate, line, against, inside, label)


def vacancy_odds(evidence: Evidence) -> tuple[dict[Cell, int], dict[str, FloatArray]] | None:
    """Rows of the arrays by cell, and `Odds.vacant`, by what is missing."""
    odds = site_odds(evidence)
    return None if odds is None else (odds.row, odds.vacant)


def log_prior(kind: str, columns: int, rate: float | None = None) -> float:
    """Natural logarithm of the share of sites at which a line of so many columns begins in one direction.

    `rate` is that of the kind in all directions, with any number of columns; default `LINE_RATE`. Double lines of so
    many columns differ by how these are shared and by how far one row is shifted: each is as likely.
    """
    shortest = 2 * SHORTEST_BESIDE if kind == "DVL" else SHORTEST
    grown = math.log(1 - GROWS) + (columns - shortest) * math.log(GROWS)
    ways = ways_beside(columns) if kind == "DVL" else 1
    return math.log((rate or LINE_RATE[kind]) / len(DIRECTIONS) / ways) + grown


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
    line = log_prior(shape.kind, len(cells), odds.line[shape.kind]) + len(cells) * math.log(INSIDE)
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

    Rivals are defects that are independent of each other, whatever stands on the sites concerned, and a broken row or
    one with something else in it, which has no name.
    """
    kinds = ("SVL", "CVL") if len(shape.rows) == 1 else ("DVL",)
    near = [s for s in shape.neighbours() if all(usable(cell) for cell in s.cells())]
    options = [Shape(kind, s.rows) for kind in kinds for s in near]
    concerned = sorted({cell for s in near for cell in s.cells()})
    place = {cell: n for n, cell in enumerate(concerned)}
    at = [odds.row[cell] for cell in concerned]
    line = np.empty(len(options))
    for n, option in enumerate(options):
        kind, own = TYPES[option.kind], np.zeros(len(concerned), dtype=bool)
        own[[place[cell] for cell in option.cells()]] = True
        here = odds.vacant[kind][at][own].sum() + odds.other[kind][at][~own].sum()
        line[n] = here + log_prior(option.kind, own.sum(), odds.line[option.kind]) + own.sum() * math.log(INSIDE)
    best = options[int(np.argmax(line))]
    weight = dict.fromkeys((s.label for s in options), -math.inf)
    for option, value in zip(options, line, strict=True):
        weight[option.label] = float(np.logaddexp(weight[option.label], value))
    weight["UNKNOWN"] = _broken(best, odds, concerned)
    weight["pristine"] = float(odds.pristine[at].sum())
    weight[odds.label[TYPES[best.kind]]] = math.log(max(-math.expm1(weight["pristine"]), 1e-300))
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
    return log_prior(shape.kind, len(own), odds.line[shape.kind]) + some + float(odds.other[kind][outer].sum())


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
