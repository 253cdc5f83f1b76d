"""Lines of vacancies in an alloy: rows of chalcogens along which the gap has closed.

The brightness of single columns tells little there: what is left of a column of the heavier element is as bright as a
full one of the lighter. So rows are found by the metals on both sides, which have come together, and brightness decides
how many atoms are missing, as far as it can.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import logsumexp

from stemfit.defects.evidence import Evidence
from stemfit.defects.gaps import gaps
from stemfit.defects.occupancy import PRIOR_SITES
from stemfit.defects.row_odds import GROWS, INSIDE, LINE_RATE, TYPES, log_prior, vacancy_odds
from stemfit.defects.row_shapes import DIRECTIONS, SHORTEST, SHORTEST_BESIDE, Cell, Row, Shape, beside, cell_of, row_of
from stemfit.defects.types import Defect

FloatArray = NDArray[np.float64]

ROUNDS = 3
"""How often the density of lines is learned from the lines found."""

SOMETHING_ELSE = 0.1
"""Probability that a closed gap is no row of vacancies, before its light is looked at: steps, boundaries, folds."""

OWN_LIGHT = 0.5
"""Within this distance, in lattice constants, of a chalcogen site a column off the lattice may be the site's, moved:
the brightness measured on the site then says nothing."""

PROMISING, LEAST_PART = 4.0, 0.5
"""Natural logarithm of the likelihood ratio from which a row, or a pair of rows, is weighed (less outweighs no prior),
and of each of a pair."""

CORRIDOR = 0.75
"""Findings within this distance of a site of a line, in lattice constants, belong to it: up to the metals at its sides
(0.58), not to the next chalcogens (1.00)."""


class _Seen(NamedTuple):
    """What each chalcogen site says: natural logarithms against a site that belongs to no line."""

    row: dict[Cell, int]
    gap: FloatArray  # (K, 3, 2, C) by direction, inside or beyond an end, and by how much the gap is closed
    light: dict[str, FloatArray]  # (K,) by what is missing, "SV" or "DV"
    rate: dict[str, float]  # share of sites at which a line of each kind begins

    def along(self, row: Row) -> FloatArray:
        """Evidence (C,) of the gap along one row and at the next site beyond either end."""
        inside = self.gap[[self.row[cell] for cell in row.cells()], row.direction, 0].sum(0)
        ends = (cell_of(row.direction, row.across, along) for along in (row.first - 1, row.last + 1))
        beyond = [self.row[cell] for cell in ends if cell in self.row]
        return np.asarray(inside + self.gap[beyond, row.direction, 1].sum(0))

    def gain(self, shape: Shape) -> float:
        """Logarithm of how much more probable a line is than none by its gap, whatever its light."""
        by = np.sum([self.along(row) for row in shape.rows], axis=0)
        prior = log_prior(shape.kind, len(shape.cells()), self.rate[shape.kind])
        return float(logsumexp(by)) - math.log(len(by)) + prior

    def light_of(self, shape: Shape) -> float:
        """The same of what its light says about the number of missing atoms, against any other sites."""
        return float(self.light[TYPES[shape.kind]][[self.row[cell] for cell in shape.cells()]].sum())


def closed_rows(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise lines in an alloy of chalcogens; what is recognised, and what is left of the findings.

    What lies in the corridor of a line is part of it: emptied sites, columns that left theirs, and metals whose
    brightness they spoil. A metal that stands clear of such columns keeps its own finding.
    """
    seen = _look(evidence) if "X" in evidence.imaging.mixtures else None
    if seen is None:
        return [], list(found)
    possible = list(_shapes(seen, set(seen.row)))
    lines = _lines(seen, possible)
    for _ in range(ROUNDS):
        if not lines:
            return [], list(found)
        seen, before = seen._replace(rate=_learned([weigh(s, seen)[1] for s in lines], len(seen.row))), lines
        lines = _lines(seen, possible)
        if lines == before:
            break
    named = [_defect(shape, seen, evidence) for shape in lines]
    return named, outside(named, found, evidence)


def outside(lines: Sequence[Defect], found: Sequence[Defect], evidence: Evidence) -> list[Defect]:
    """Findings of which at least half lies outside of the corridors of lines, and metals that stand clear."""
    if not lines:
        return list(found)
    a_px = evidence.lattice.a_px_iso
    corridor = cKDTree(np.vstack([d.extent_px for d in lines]))
    strays = evidence.columns.xy_px[evidence.strays()]
    return [
        d for d in found
        if np.mean(corridor.query(d.extent_px)[0] > CORRIDOR * a_px) > 0.5 or _clear_metal(d, strays, OWN_LIGHT * a_px)
    ]


def _clear_metal(finding: Defect, strays_px: FloatArray, reach_px: float) -> bool:
    """Whether it is a metal site with no column off the lattice beside it."""
    if any(sublattice != "M" for _, _, sublattice in finding.sites):
        return False
    return len(strays_px) == 0 or float(np.hypot(*(strays_px - finding.center_px).T).min()) > reach_px


def _look(evidence: Evidence) -> _Seen | None:
    closed, vacant = gaps(evidence), vacancy_odds(evidence)
    if closed is None or vacant is None:
        return None
    row, odds = vacant
    cells = [cell for cell in closed.row if cell in row]
    sites = np.array([evidence.xy_px((*cell, "X")) for cell in cells]).reshape(-1, 2)
    strays = evidence.columns.xy_px[evidence.strays()]
    reach = OWN_LIGHT * evidence.lattice.a_px_iso
    silent = np.asarray(cKDTree(strays).query(sites)[0] < reach) if len(strays) else np.zeros(len(cells), dtype=bool)
    light = {}
    for kind, value in odds.items():
        own = value[[row[cell] for cell in cells]]
        own = np.logaddexp(math.log(INSIDE) + own, math.log1p(-INSIDE))
        light[kind] = np.where(silent, 0.0, own)
    gap = closed.log_odds[[closed.row[cell] for cell in cells]]
    return _Seen({cell: k for k, cell in enumerate(cells)}, gap, light, LINE_RATE)


def _learned(said: Sequence[dict[str, float]], sites: int) -> dict[str, float]:
    """Densities of lines in this image."""
    count = {
        kind: sum(p for one in said for label, p in one.items() if label.startswith(kind)) for kind in LINE_RATE
    }
    return {k: (count[k] + PRIOR_SITES * rate) / (sites + PRIOR_SITES) for k, rate in LINE_RATE.items()}


# -- search --------------------------------------------------------------------------------------------------------


def _lines(seen: _Seen, possible: Sequence[Shape]) -> list[Shape]:
    """Lines without a site in common, that with most evidence first; what a better one cut comes back shorter."""
    free, lines = set(seen.row), []
    while True:
        held: set[Cell] = set()
        promising = sorted(((seen.gain(s), s) for s in possible), key=lambda item: -item[0])
        for gain, shape in promising:
            if gain > 0 and not held.intersection(shape.cells()):
                lines.append(shape)
                held.update(shape.cells())
        if not held:
            return lines
        free -= held
        possible = list(_shapes(seen, free))


def _shapes(seen: _Seen, free: Set[Cell]) -> Iterator[Shape]:
    """Single and double lines that the best parts of lattice rows make."""
    parts: dict[tuple[int, int], list[tuple[Row, float]]] = {}
    for d in range(len(DIRECTIONS)):
        for across, run in _runs(free, d):
            value = seen.gap[[seen.row[cell] for cell in run.cells()], d, 0] + math.log(GROWS)
            of_all = dict.fromkeys(row for by in value.T for row in _best_parts(run, by))
            parts.setdefault((d, across), []).extend((row, float(seen.along(row).max())) for row in of_all)
    for (d, across), rows in parts.items():
        yield from (Shape("SVL", (row,)) for row, most in rows if len(row) >= SHORTEST and most > PROMISING)
        for (one, first), (other, second) in product(rows, parts.get((d, across + 1), ())):
            if first + second > PROMISING and beside(one, other):
                yield Shape("DVL", (one, other))


def _runs(free: Set[Cell], direction: int) -> Iterator[tuple[int, Row]]:
    """Unbroken lattice rows of sites along a direction."""
    places: dict[int, list[int]] = {}
    for across, along in (row_of(direction, cell) for cell in free):
        places.setdefault(across, []).append(along)
    for across, found in places.items():
        found.sort()
        breaks = [k for k in range(1, len(found)) if found[k] != found[k - 1] + 1]
        for first, last in zip([0, *breaks], [*breaks, len(found)], strict=True):
            yield across, Row(direction, across, found[first], found[last - 1])


def _best_parts(run: Row, value: FloatArray) -> list[Row]:
    """Parts of a row with more evidence for a line than against: the best one, then the best of what is left."""
    total = np.concatenate([[0.0], np.cumsum(value)])
    if len(value) < SHORTEST_BESIDE:
        return []
    lowest = np.minimum.accumulate(total[: len(total) - SHORTEST_BESIDE])
    end = SHORTEST_BESIDE + int(np.argmax(total[SHORTEST_BESIDE:] - lowest))
    start = int(np.argmin(total[: end - SHORTEST_BESIDE + 1]))
    if total[end] - total[start] < LEAST_PART:
        return []
    best = Row(run.direction, run.across, run.first + start, run.first + end - 1)
    before = Row(run.direction, run.across, run.first, best.first - 1)
    after = Row(run.direction, run.across, best.last + 1, run.last)
    return [best, *_best_parts(before, value[:start]), *_best_parts(after, value[end:])]


# -- what it is called ---------------------------------------------------------------------------------------------


def weigh(shape: Shape, seen: _Seen) -> tuple[Shape, dict[str, float]]:
    """The likeliest line, and the probability of every label: lengths one more and one less at each end, both kinds.

    UNKNOWN is a gap that something else has closed: the light along it is then that of any other sites. Light shares
    out what the gap says: by itself it makes no line, since elements gather in areas too.
    """
    kinds = ("SVL", "CVL") if len(shape.rows) == 1 else ("DVL",)
    near = [s for s in shape.neighbours() if all(cell in seen.row for cell in s.cells())]
    options = [Shape(kind, s.rows) for kind in kinds for s in near]
    gain = np.array([seen.gain(s) for s in options])
    there = float(1 / (1 + np.exp(-logsumexp(gain))))
    named = gain + [seen.light_of(s) for s in options] + math.log(1 - SOMETHING_ELSE)
    total = float(logsumexp([*named, logsumexp(gain) + math.log(SOMETHING_ELSE)]))
    probability = dict.fromkeys((s.label for s in options), 0.0)
    for option, value in zip(options, named, strict=True):
        probability[option.label] += there * math.exp(value - total)
    probability["UNKNOWN"] = there - sum(probability.values())
    probability["pristine"] = 1 - there
    label = max((s.label for s in options), key=lambda name: probability[name])
    return max((s for s in options if s.label == label), key=seen.gain), probability


def _defect(shape: Shape, seen: _Seen, evidence: Evidence) -> Defect:
    best, probability = weigh(shape, seen)
    doubt = probability["UNKNOWN"]
    unknown = doubt > 1 - doubt - probability["pristine"]
    label = "UNKNOWN" if unknown else best.label
    sites = tuple((i, j, "X") for i, j in best.cells())
    extent = np.array([evidence.xy_px(site) for site in sites])
    others = sorted(((n, p) for n, p in probability.items() if n != label), key=lambda item: -item[1])
    return Defect(
        0, "UNKNOWN" if unknown else "LINE", label, probability[label], extent.mean(0), sites, extent, tuple(others),
        seen.gain(best),
    )
