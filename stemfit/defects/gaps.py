"""How far the metals on both sides of a row of chalcogens have come together.

Where chalcogens of a row are missing the gap closes: the metals on both sides move towards each other by two to five
tenths of an Angstrom, all along the row (Komsa et al., Phys. Rev. B 88, 035301 (2013); Wang et al., ACS Nano 10, 5419
(2016)). In an alloy, where a dim chalcogen column may as well hold the lighter element, this is what shows a line.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.defects.evidence import Evidence
from stemfit.defects.row_shapes import DIRECTIONS, Cell
from stemfit.imaging import USUAL_TAIL

FloatArray = NDArray[np.float64]

CLOSED_A = (0.12, 0.92)
"""By how much a gap is closed along a line: from half of the least (0.23 A) to twice the most (0.46 A) that relaxed
lines of three to nine vacancies show; DFT gives more than the potentials that these were relaxed with."""

STEPS, UNEVEN_A = 9, 0.1
"""Closings, evenly over that range, one of which a line has, and by how much (one sigma) it varies along it: less at
the ends, and with the elements on the sites."""

ALONG_LINE = 0.95
"""Probability that the gap is closed at a site of a line: an end, or an atom that came back, may hold it open."""

METALS = {1: ((0, 0), (1, 0), (0, 1)), -1: ((1, 1), (1, 0), (0, 1))}
"""Cells, counted from a chalcogen's, of the three metals bound to it, by polarity."""

SCAN_STRIP = 0.25
"""Half the height, in lattice constants, of the strip of scan lines whose median is taken off: a jump of the slow scan
closes or opens a gap over the whole width of the image, a line does not."""

TAIL_SITES, ROUNDS = 100.0, 50
"""Weight of the usual tail of a scatter, in sites, and rounds of its fit."""


class Gaps(NamedTuple):
    """Chalcogen sites between three observed metals.

    Attributes
    ----------
    row : dict of cell to int
        Of the arrays.
    closed_A : (K, 3) array
        By how much the metals across a row in each of `DIRECTIONS` are closer than the lattice has them.
    log_odds : (K, 3, 2, STEPS) array
        Natural logarithm of its likelihood if the site is part of a line in that direction which is closed by one of
        `STEPS` distances, over that of other sites; and if it is the first one beyond the line's end, where the gap is
        closed by half of that. Those of a row may be added.
    """

    row: dict[Cell, int]
    closed_A: FloatArray
    log_odds: FloatArray


def gaps(evidence: Evidence) -> Gaps | None:
    """Measure every judged chalcogen site of a dichalcogenide; None if there are too few of them."""
    sites, named = evidence.sites, {}
    for (i, j), sublattice, column in zip(sites.ij, sites.sublattice, sites.column, strict=True):
        if sublattice == "M" and column >= 0:
            named[int(i), int(j)] = int(column)
    cells, closed = [], []
    for k in np.flatnonzero(sites.analysed & (sites.sublattice == "X")):
        i, j = (int(v) for v in sites.ij[k])
        metals = [(i + di, j + dj) for di, dj in METALS[evidence.lattice.polarity]]
        if all(m in named for m in metals):
            ideal = np.array([evidence.xy_px((*m, "M")) for m in metals])
            moved = evidence.columns.xy_px[[named[m] for m in metals]] - ideal
            cells.append((i, j))
            closed.append([_closed_px(metals, ideal, moved, d) for d in DIRECTIONS])
    if len(cells) < TAIL_SITES:
        return None
    row = {cell: k for k, cell in enumerate(cells)}
    y = np.array([evidence.xy_px((*cell, "X"))[1] for cell in cells])
    value = np.array(closed) / evidence.lattice.a_px_iso * evidence.host.a_A
    value = np.column_stack([v - _along_scan(v, y, SCAN_STRIP * evidence.lattice.a_px_iso) for v in value.T])
    return Gaps(row, value, _log_odds(value) / _told_twice(value, row))


def _closed_px(metals: list[Cell], ideal: FloatArray, moved: FloatArray, direction: Cell) -> float:
    """Approach of the metal on one side of a row to the two on its other side."""
    (p, q), = (
        (p, q) for p in range(3) for q in range(3)
        if (metals[q][0] - metals[p][0], metals[q][1] - metals[p][1]) == direction
    )
    far = 3 - p - q
    along = ideal[q] - ideal[p]
    normal = np.array([-along[1], along[0]]) / np.hypot(*along)
    normal *= np.sign(normal @ (ideal[far] - (ideal[p] + ideal[q]) / 2))
    return float(normal @ ((moved[p] + moved[q]) / 2 - moved[far]))


def _along_scan(value: FloatArray, y: FloatArray, reach: float) -> FloatArray:
    """Median over all sites in the same scan lines."""
    order = np.argsort(y)
    first = np.searchsorted(y[order], y - reach)
    last = np.searchsorted(y[order], y + reach, side="right")
    sorted_by_line = value[order]
    return np.array([np.median(sorted_by_line[a:b]) for a, b in zip(first, last, strict=True)])


def _told_twice(closed: FloatArray, row: dict[Cell, int]) -> float:
    """How many sites of a row say what one says: neighbours share a metal, and the strain of an alloy is smooth.

    The variance of a sum over that of independent terms, by which a product of likelihoods is tempered (Pauli, Racugno
    and Ventura, Stat. Sinica 21, 149 (2011)). Outliers, lines among them, do not count.
    """
    spread = 1.4826 * float(np.median(np.abs(closed)))
    value = np.clip(closed, -2 * spread, 2 * spread)
    told = 1.0
    for lag in (1, 2):
        pairs = [
            (k, row[other], d) for d, (di, dj) in enumerate(DIRECTIONS) for (i, j), k in row.items()
            if (other := (i + lag * di, j + lag * dj)) in row
        ]
        one, other, d = np.array(pairs).T
        told += 2 * max(0.0, float(np.corrcoef(value[one, d], value[other, d])[0, 1]))
    return told


def _log_odds(closed: FloatArray) -> FloatArray:
    """Closed gaps against the scatter of the others, which is that of the gaps that opened: lines open none."""
    opened = -closed[closed < 0]
    spread = 1.4826 * float(np.median(opened))
    share, width = USUAL_TAIL
    z = opened / spread
    for _ in range(ROUNDS):
        core, wide = (1 - share) * np.exp(-0.5 * z**2), share / width * np.exp(-0.5 * (z / width) ** 2)
        of_tail, few = wide / (core + wide), TAIL_SITES * USUAL_TAIL.share
        share = float(of_tail.sum() + few) / (len(z) + TAIL_SITES)
        variance = float(of_tail @ z**2 + few * USUAL_TAIL.width**2) / float(of_tail.sum() + few)
        width = max(math.sqrt(variance), USUAL_TAIL.width)
    narrow = np.log((1 - share) / spread) - 0.5 * (closed / spread) ** 2
    wide = np.log(share / (width * spread)) - 0.5 * (closed / (width * spread)) ** 2
    usual = np.logaddexp(narrow, wide) - 0.5 * math.log(2 * math.pi)
    error, by = math.hypot(spread, UNEVEN_A), np.linspace(*CLOSED_A, STEPS)
    by = np.stack([by, by / 2])
    line = -0.5 * ((closed[..., None, None] - by) / error) ** 2 - 0.5 * math.log(2 * math.pi * error**2)
    return np.asarray(np.logaddexp(math.log(ALONG_LINE) + line - usual[..., None, None], math.log(1 - ALONG_LINE)))
