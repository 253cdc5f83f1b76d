"""What single chalcogen sites and a whole image say about rows of vacancies: likelihoods, densities, priors."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.defects.evidence import Evidence
from stemfit.defects.occupancy import PRIOR_SITES
from stemfit.defects.priors import PRIOR_RATES
from stemfit.defects.row_shapes import DIRECTIONS, SHORTEST, SHORTEST_BESIDE, Cell, Shape, ways_beside

FloatArray = NDArray[np.float64]

LINES_PER_VACANCY = {"SVL": 1e-2, "DVL": 3e-3, "CVL": 1e-2}
"""Lines for each vacancy of their kind that belongs to none, all directions together: orders of magnitude, one line for
a hundred vacancies, and single rows before double ones (Komsa et al. 2013: longer rows turn double under the beam)."""

PRIOR_LINES = 1.0
"""Weight of `LINES_PER_VACANCY` against the image, in lines: a single row of which nobody knows whether chance made it
must not raise the density of lines by which it is judged by more than a factor of two."""

GROWS = 0.8
"""Probability that a line of three or more columns has one more: lines of seven on average."""

INSIDE = 0.95
"""Probability that a site within a line is vacant: an atom may have come back, or oxygen have filled it."""

TYPES = {"SVL": "SV", "DVL": "SV", "CVL": "DV"}
"""What is missing on each of the sites of a line."""

LINE_RATE = {kind: share * PRIOR_RATES[TYPES[kind]] for kind, share in LINES_PER_VACANCY.items()}
"""Share of chalcogen sites at which a line begins before the image is asked."""

PRIOR_PAIRS = 1.0
"""Weight of independence against the image, in pairs of neighbouring vacancies."""


class Densities(NamedTuple):
    """Shares of chalcogen sites, and how vacancies that belong to no line keep together.

    Attributes
    ----------
    line : dict of "SVL", "DVL", "CVL" to float
        At which a line of each kind begins.
    single : dict of "SV", "DV" to float
        With a vacancy outside of lines.
    company : dict of "SV", "DV" to float
        Pairs of neighbours among these, over as many as chance makes: 1 if they are independent.
    """

    line: dict[str, float]
    single: dict[str, float]
    company: dict[str, float]


AS_KNOWN = Densities(LINE_RATE, {k: PRIOR_RATES[k] for k in ("SV", "DV")}, {"SV": 1.0, "DV": 1.0})
"""Before the image is asked."""


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
    densities : Densities
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
    densities: Densities
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
        By label; sums to one. That of a vacancy: the defects here belong to no line, UNKNOWN: a broken line.
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


def site_odds(evidence: Evidence, densities: Densities | None = AS_KNOWN) -> Odds | None:
    """Vacancies against all else on every judged chalcogen site; None where columns do not hold two equal atoms.

    Densities that the occupancy found (None) are those of the lines, too: the first are those beforehand.
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
    label = {h.type: h.label for h in one.hypotheses if h.type in rate}
    return Odds(index, vacant, other, joint[:, 0] - total, rate, densities or AS_KNOWN, against, inside, label)


def neighbour_pairs(odds: Odds) -> NDArray[np.int64]:
    """Rows (2, P) of all pairs of neighbouring chalcogen sites."""
    beside = ((k, odds.row.get((i + di, j + dj), -1)) for (i, j), k in odds.row.items() for di, dj in DIRECTIONS)
    return np.array([pair for pair in beside if pair[1] >= 0], dtype=np.int64).reshape(-1, 2).T


def learned(readings: Sequence[Weighed], odds: Odds, free: Set[Cell], pairs: NDArray[np.int64]) -> Densities:
    """Densities of lines of each kind, and of the vacancies that belong to none, in this image (one round).

    A row that chance explains as well counts with the share that lines have in it.
    """
    count = len(odds.pristine)
    alone = np.array([float(cell in free) for cell in odds.row])  # what belongs to larger defects is neither
    for reading in readings:
        alone[[odds.row[cell] for cell in reading.shape.cells()]] = 1.0 - reading.grown
    shares = [(label[:3], p) for reading in readings for label, p in reading.probability.items()]
    vacant = {kind: alone * (1.0 - np.exp(odds.other[kind])) for kind in ("SV", "DV")}
    single = {
        kind: float(v.sum() + PRIOR_SITES * PRIOR_RATES[kind]) / (count + PRIOR_SITES) for kind, v in vacant.items()
    }
    line = {
        kind: (sum(p for name, p in shares if name == kind) + PRIOR_LINES)
        / (count + PRIOR_LINES / (share * single[TYPES[kind]]))
        for kind, share in LINES_PER_VACANCY.items()
    }
    elsewhere = alone.copy()  # whether vacancies keep company is not asked of the rows that are judged by it
    elsewhere[[odds.row[cell] for reading in readings for cell in reading.shape.cells()]] = 0.0
    expected = float(elsewhere[pairs[0]] @ elsewhere[pairs[1]])
    company = {
        kind: (float((v * (elsewhere > 0))[pairs[0]] @ (v * (elsewhere > 0))[pairs[1]]) + PRIOR_PAIRS)
        / (expected * single[kind] ** 2 + PRIOR_PAIRS)
        for kind, v in vacant.items()
    }
    return Densities(line, single, company)


def vacancy_odds(evidence: Evidence) -> tuple[dict[Cell, int], dict[str, FloatArray]] | None:
    """Rows of the arrays by cell, and `Odds.vacant`, by what is missing."""
    odds = site_odds(evidence, None)
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
