"""Rows of chalcogen vacancies.

A site in a row of vacancies is not independent of the row: vacancies of MX2 gather in lines along zigzag (Komsa et al.,
Phys. Rev. B 88, 035301 (2013)) which grow up to tens of columns (Wang et al., ACS Nano 10, 5419 (2016)). So sites are
read under two processes: independent defects with the densities of this image, and lines. What is called a line is the
row itself, whichever of the two made it; what the second process adds is that a doubtful site between or beside clear
vacancies of a row is probably one of them.
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
from stemfit.defects.row_shapes import DIRECTIONS, SHORTEST, SHORTEST_BESIDE, Cell, Row, Shape, beside, cell_of, row_of
from stemfit.defects.types import Defect

FloatArray = NDArray[np.float64]

LINE_RATE = {"SVL": 1e-4, "DVL": 3e-5, "CVL": 3e-5}
"""Share of chalcogen sites at which a line begins, all directions together, before the image is asked: orders of
magnitude, one line for a hundred single vacancies, and single rows before double ones (Komsa et al. 2013: longer rows
turn double under the beam)."""

ROUNDS = 3
"""How often the densities of lines, and of the vacancies that belong to none, are learned from the lines found."""

GROWS = 0.8
"""Probability that a line of three or more columns has one more: lines of seven on average."""

INSIDE = 0.95
"""Probability that a site within a line is vacant: an atom may have come back, or oxygen have filled it."""

TYPES = {"SVL": "SV", "DVL": "SV", "CVL": "DV"}
"""What is missing on each of the sites of a line."""

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
    """

    row: dict[Cell, int]
    vacant: dict[str, FloatArray]
    other: dict[str, FloatArray]
    pristine: FloatArray
    rate: dict[str, float]
    line: dict[str, float]
    against_pristine: dict[str, FloatArray]
    inside: dict[str, NDArray[np.bool_]]


class Weighed(NamedTuple):
    """What the sites of a line and those at its ends say together.

    Attributes
    ----------
    shape : Shape
        Most probable line.
    probability : dict of str to float
        By label, pristine and UNKNOWN included; sums to one.
    grown : float
        Share of it that lines explain, and not chance.
    """

    shape: Shape
    probability: dict[str, float]
    grown: float

    @property
    def named(self) -> float:
        """Probability that there is a line, of whatever length."""
        return 1.0 - self.probability["pristine"] - self.probability["UNKNOWN"]


def rows(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise rows of equal chalcogen vacancies; what is recognised, and what is left of the findings.

    The search begins at claimed sites and takes doubtful ones in where their row makes them probable. Lines are taken
    one by one, that with most evidence first, each with the sites that no other has taken.
    """
    odds = site_odds(evidence)
    if odds is None or "X" in evidence.imaging.mixtures:  # `closed_rows` has looked at those
        return [], list(found)
    claimed = {d.sites[0][:2] for d in found if len(d.sites) == 1 and d.sites[0][2] == "X"} & set(odds.row)
    readings = _all_lines(odds, claimed)
    for _ in range(ROUNDS):
        if not readings:
            break
        before, odds = readings, site_odds(evidence, learned(readings, odds)) or odds
        readings = _all_lines(odds, claimed)
        if [r.shape for r in readings] == [r.shape for r in before]:
            break
    taken = {(i, j, "X") for reading in readings for i, j in reading.shape.cells()}
    return [_defect(r, odds, evidence) for r in readings], [d for d in found if not taken.intersection(d.sites)]


def learned(readings: Sequence[Weighed], odds: Odds) -> Densities:
    """Densities of lines of each kind, and of the vacancies that belong to none, in this image.

    A row that chance explains as well is no evidence for lines: it counts with the share that they have in it.
    """
    count = len(odds.pristine) + PRIOR_SITES
    alone = np.ones(len(odds.pristine))
    for reading in readings:
        alone[[odds.row[cell] for cell in reading.shape.cells()]] = 1.0 - reading.grown
    shares = [(label[:3], p * reading.grown) for reading in readings for label, p in reading.probability.items()]
    line = {
        kind: (sum(p for name, p in shares if name == kind) + PRIOR_SITES * rate) / count
        for kind, rate in LINE_RATE.items()
    }
    single = {
        kind: float(alone @ (1.0 - np.exp(odds.other[kind])) + PRIOR_SITES * PRIOR_RATES[kind]) / count
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

    Without `densities`, single vacancies are as frequent as the occupancy found them, lines as `LINE_RATE`.
    """
    if not evidence.host.honeycomb or "X" not in evidence.host.sublattices or not evidence.posteriors:
        return None
    one = evidence.posteriors[evidence.host.sublattices.index("X")]
    kinds = np.array([h.type for h in one.hypotheses])
    if not all(np.any(kinds == kind) for kind in ("SV", "DV")):
        return None
    cells = [(int(i), int(j)) for i, j in evidence.sites.ij[one.site]]
    own = one.rate.copy()
    for kind, share in (densities.single if densities else {}).items():
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
    return Odds(index, vacant, other, joint[:, 0] - total, rate, line, against, inside)


def vacancy_odds(evidence: Evidence) -> tuple[dict[Cell, int], dict[str, FloatArray]] | None:
    """Rows of the arrays by cell, and `Odds.vacant`, by what is missing."""
    odds = site_odds(evidence)
    return None if odds is None else (odds.row, odds.vacant)


def log_prior(kind: str, columns: int, rate: float | None = None) -> float:
    """Natural logarithm of the share of sites at which a line of so many columns begins in one direction.

    `rate` is that of the kind in all directions, with any number of columns; default `LINE_RATE`.
    """
    shortest = 2 * SHORTEST_BESIDE if kind == "DVL" else SHORTEST
    grown = math.log(1 - GROWS) + (columns - shortest) * math.log(GROWS)
    return math.log((rate or LINE_RATE[kind]) / len(DIRECTIONS)) + grown


def _lines(odds: Odds, claimed: set[Cell], free: set[Cell]) -> list[Weighed]:
    """Lines without a site in common that are more probable than not, that with most evidence first.

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
        elif gain > -HOPELESS and (reading := weigh(shape, odds, lambda c: c in free and c not in held)).named > 0.5:
            lines.append(reading)
            held.update(cells, reading.shape.cells())
    return lines


def _gain(odds: Odds, shape: Shape) -> float:
    """Logarithm of how much more probable a line is than independent defects, whatever lies at its ends."""
    kind, cells = TYPES[shape.kind], shape.cells()
    by_chance = len(cells) * math.log(odds.rate[kind])
    line = log_prior(shape.kind, len(cells), odds.line[shape.kind]) + len(cells) * math.log(INSIDE)
    return float(odds.vacant[kind][[odds.row[c] for c in cells]].sum() + np.logaddexp(line, by_chance))


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

    Every configuration of the sites concerned counts as often as lines or chance make it; what is neither one of these
    lines nor pristine is UNKNOWN: a broken row, or a row with something else in it.
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
        line[n] = here + log_prior(option.kind, own.sum(), odds.line[option.kind]) + own.sum() * math.log(INSIDE)
        chance[n] = here + own.sum() * math.log(odds.rate[kind])
    pristine = float(odds.pristine[at].sum())
    weight = dict.fromkeys((s.label for s in options), -math.inf)
    both = np.logaddexp(line, chance)
    for option, value in zip(options, both, strict=True):
        weight[option.label] = float(np.logaddexp(weight[option.label], value))
    best = options[int(np.argmax(both))]
    others = max(1.0 - float(np.exp(np.append(chance, pristine)).sum()), 1e-300)
    weight["UNKNOWN"] = float(np.logaddexp(math.log(others), _broken(best, odds, concerned)))
    weight["pristine"] = pristine
    total = float(logsumexp(list(weight.values())))
    grown = math.exp(float(logsumexp(line)) - float(logsumexp(both)))
    return Weighed(best, {label: math.exp(value - total) for label, value in weight.items()}, grown)


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
