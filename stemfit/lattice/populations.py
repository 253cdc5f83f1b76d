"""Populations of column types in the brightness of one sublattice: expectation-maximisation with prior levels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from stemfit.optics.scattering import column_elements

FloatArray = NDArray[np.float64]

ROUNDS, SETTLED = 60, 1e-4
"""Most rounds of expectation-maximisation, and the change of a share at which it ends."""

VACANT = np.geomspace(1e-4, 0.2, 60)
"""Share of columns that lost one of two atoms, and of those that lost all, where the image can tell: from hardly any to
more than a layer stands, all orders of magnitude alike. It is integrated over."""

USUAL_VACANT = (1e-2, 3e-3)
"""The same where the image cannot tell because what is left is nearly as bright as a full column: orders of magnitude
from Hong et al., Nat. Commun. 6, 6293 (2015). Learned there, the density would follow the shape of the scatter."""

ODD_COLUMNS, ODD_REACH = 0.01, 4.0
"""Share of columns that are nothing of all this, and how bright they may be, in units of the brightest level."""

COMMON_SIGMA = 0.12
"""Relative uncertainty of the brightness of a sublattice against the other: tails of the probe, background, voltage."""

USUAL_SPREAD, SPREAD_FACTOR, LEAST_SPREAD = 0.04, 2.0, 0.01
"""Scatter of columns of one type beyond their error, of a metal column, by what factor (one sigma) it is larger, and
what is always left."""

POPULATED = 0.05
"""Share from which a population must be resolved from the next."""

RESOLVED = 2.5
"""Least distance of two populations over the spread of both: closer ones cannot be unmixed."""

CHANCE, VALLEY = 0.01, 0.4
"""Probability of a dip between two populations by accident from which they count as one of whatever shape, and width
of the ranges that are compared, in distances of the two."""


class Levels(NamedTuple):
    """What columns of each type are expected to be.

    Attributes
    ----------
    columns : tuple of str
        Full columns, then columns that lost an atom; "" if nothing is left.
    value, sigma : (K,) array
        Brightness and its standard error, any unit.
    full : int
        How many of them are full.
    metal : float
        Brightness of a metal column in that unit.
    """

    columns: tuple[str, ...]
    value: FloatArray
    sigma: FloatArray
    full: int
    metal: float


@dataclass(frozen=True)
class Populations:
    """Densities and brightness of the column types of one sublattice.

    Attributes
    ----------
    levels : Levels
        As fitted; `sigma` is what is left of their error.
    share : (K,) array
        Of the columns.
    spread : float
        Scatter of the columns of one type beyond their error.
    counted : float
        How many columns were shared out.
    evidence : float
        Natural logarithm of the probability of the columns, up to a constant of the image.
    doubt : dict of element to float
        Standard error of its fraction from what is not known of the levels.
    """

    levels: Levels
    share: FloatArray
    spread: float
    counted: float
    evidence: float
    doubt: dict[str, float] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Types of full columns."""
        return self.levels.columns[: self.levels.full]

    @property
    def fractions(self) -> dict[str, float]:
        """Share of the atoms of full columns, by element."""
        count: dict[str, float] = {}
        for column, share in zip(self.columns, self.share, strict=False):
            for element in column_elements(column):
                count[element] = count.get(element, 0.0) + float(share)
        total = sum(count.values())
        return {element: n / total for element, n in count.items()}

    @property
    def guests(self) -> float:
        """Share of the atoms that are not the majority's."""
        return 1.0 - max(self.fractions.values())

    def composition(self) -> dict[str, tuple[float, float]]:
        """Fraction of each element and its standard error: the draw of these columns from the material, and levels."""
        said = {}
        for element, f in self.fractions.items():
            atoms = np.array([column_elements(c).count(element) / len(column_elements(c)) for c in self.columns])
            share = self.share[: self.levels.full] / self.share[: self.levels.full].sum()
            drawn = float(share @ (atoms - f) ** 2) / max(self.counted, 1.0)
            said[element] = f, float(np.hypot(np.sqrt(drawn), self.doubt.get(element, 0.0)))
        return said


def log_densities(value: FloatArray, sigma: FloatArray, levels: Levels, spread: float) -> FloatArray:
    """Logarithm of the density (N, K) of every column under every type."""
    variance = sigma[:, None] ** 2 + spread**2 + levels.sigma**2
    # Nothing is emptier than empty: what lies below is an error of tails and background.
    off = np.where(levels.value > 0, value[:, None], np.maximum(value[:, None], 0.0)) - levels.value
    return np.asarray(-0.5 * off**2 / variance - 0.5 * np.log(2 * np.pi * variance))


def unmixed(
    value: FloatArray, sigma: FloatArray, prior: Levels, *, free: bool = False, start: Populations | None = None
) -> Populations | None:
    """Share out columns among types.

    Parameters
    ----------
    value, sigma : (N,) array
        Brightness without gain, and its error.
    prior : Levels
    free : bool
        Whether the common factor of the levels is free (the brightness of a single metal tells nothing).
    start : Populations, optional
        Levels are held where these have them.

    Returns
    -------
    Populations or None
        None where populations of full columns come out too close to each other to be told apart.
    """
    levels, spread, factor, left = prior, USUAL_SPREAD * prior.metal, 1.0, prior.sigma
    share = np.where(np.arange(len(prior.value)) < prior.full, 1.0, USUAL_VACANT[0])
    if start is not None:
        spread, share = start.spread, start.share
    odd = float(np.log(ODD_COLUMNS / (ODD_REACH * prior.value.max())))
    share = share / share.sum()
    for _ in range(ROUNDS):
        exact = levels._replace(sigma=np.zeros_like(prior.sigma))
        joint = log_densities(value, sigma, exact, spread) + np.log(share * (1 - ODD_COLUMNS) + 1e-300)
        top = np.maximum(joint.max(1), odd)
        weight = np.exp(joint - top[:, None])
        total = weight.sum(1) + np.exp(odd - top)
        belongs = weight / total[:, None]
        told = _told(levels, spread, sigma, share)
        before, share = share, _shares(belongs.sum(0), told, prior.full)
        if start is None:
            mean, left, factor = _moved(value, sigma, belongs, prior, spread, factor, free)
            levels = levels._replace(value=mean)
        spread = _spread(value, sigma, belongs, levels, spread)
        if np.abs(share - before).max() < SETTLED:
            break
    found = Populations(levels._replace(sigma=left), share, spread, float(belongs.sum()), 0.0)
    if start is None and not _resolved(found, sigma):
        return None
    fit = float(np.sum(top + np.log(total)))
    counts = belongs.sum(0)
    drawn = _log_chance(counts, told, prior.full) - float(counts @ np.log(before))
    return replace(found, evidence=fit + drawn + _believed(levels, left, prior, spread, factor, free))


def _resolved(found: Populations, sigma: FloatArray) -> bool:
    """Whether populations of full columns lie farther apart than each of them spreads."""
    full = slice(0, found.levels.full)
    populated = np.sort(found.levels.value[full][found.share[full] > POPULATED])
    return len(populated) < 2 or np.diff(populated).min() > RESOLVED * np.hypot(np.median(sigma), found.spread)


def several(value: FloatArray, found: Populations) -> bool:
    """Whether full columns are several populations and not one of whatever shape.

    Between two of them are fewer columns than about either. A wide or skewed scatter (film, thickness, holes), which a
    mixture may well describe, has no such valley.
    """
    full = slice(0, found.levels.full)
    level = np.sort(found.levels.value[full][found.share[full] > POPULATED])
    for low, high in pairwise(level):
        reach = VALLEY / 2 * (high - low)
        left, valley, right = (int(np.sum(np.abs(value - x) < reach)) for x in (low, (low + high) / 2, high))
        if float(bdtr(valley, valley + min(left, right), 0.5)) < CHANCE:
            return True
    return False


def _told(levels: Levels, spread: float, sigma: FloatArray, share: FloatArray) -> NDArray[np.bool_]:
    """Which types that lost an atom lie farther from every populated full column than these spread."""
    full = levels.value[: levels.full][share[: levels.full] > POPULATED]
    apart = np.abs(levels.value[levels.full :, None] - full).min(1, initial=np.inf)
    return np.asarray(apart > RESOLVED * np.hypot(np.median(sigma), spread))


def _shares(counts: FloatArray, told: NDArray[np.bool_], full: int) -> FloatArray:
    """Shares: vacancies at their mean; pairs are drawn from two layers, each with its own fractions.

    For two elements in layers with fractions f and g of the second the shares of the three pairs fulfil
    p1^2 >= 4 p0 p2, with equality for f = g.
    """
    n, usual = float(counts.sum()), USUAL_VACANT[0] / max(len(told) - 1, 1)
    empty = _vacant(float(counts[-1]), n)[0] if told[-1] else USUAL_VACANT[1]
    lost = [_vacant(float(k), n)[0] if known else usual for k, known in zip(counts[full:-1], told[:-1], strict=True)]
    whole = counts[:full] / max(float(counts[:full].sum()), 1e-9)
    if full == 3 and whole[1] ** 2 < 4 * whole[0] * whole[2]:
        f = whole[1] / 2 + whole[2]
        whole = np.array([(1 - f) ** 2, 2 * f * (1 - f), f**2])
    share = np.concatenate([whole * max(1 - empty - sum(lost), 0.0), lost, [empty]])
    return np.asarray(np.maximum(share, 1e-9) / np.maximum(share, 1e-9).sum())


def _vacant(gone: float, n: float) -> tuple[float, float]:
    """Mean share of vacancies where this many of n columns have one, and the logarithm of that count's probability."""
    log = gone * np.log(VACANT) + (n - gone) * np.log1p(-VACANT)
    weight = np.exp(log - log.max())
    return float(weight @ VACANT / weight.sum()), float(np.log(weight.mean()) + log.max())


def _log_chance(counts: FloatArray, told: NDArray[np.bool_], full: int) -> float:
    """Natural logarithm of the probability of these counts, all shares allowed.

    By the priors of vacancies; for each free fraction it costs half the logarithm of the number of columns (Schwarz,
    Ann. Stat. 6, 461, 1978).
    """
    whole, lost, empty = counts[:full], counts[full:-1], float(counts[-1])
    n = float(counts.sum())
    share = _shares(np.concatenate([whole, 0 * lost, [0.0]]), np.zeros_like(told), full)[:full]
    share /= share.sum()
    fractions = {1: 0, 2: 1, 3: 2}[full]
    chance = float(whole @ np.log(share)) - 0.5 * fractions * np.log(max(n, 1.0))
    usual = [USUAL_VACANT[0] / max(len(lost), 1)] * len(lost) + [USUAL_VACANT[1]]
    for gone, known, share_of in zip([*lost, empty], told, usual, strict=True):
        usually = float(gone * np.log(share_of) + (n - gone) * np.log1p(-share_of))
        chance += _vacant(float(gone), n)[1] if known else usually
    return float(chance)


def _moved(
    value: FloatArray, sigma: FloatArray, belongs: FloatArray, prior: Levels, spread: float, factor: float, free: bool
) -> tuple[FloatArray, FloatArray, float]:
    """Levels between their columns and the prior, what is left of their error, and the common factor."""
    known = prior.sigma > 0
    expected, error = factor * prior.value[known], factor * prior.sigma[known]
    precision = belongs[:, known] / (sigma[:, None] ** 2 + spread**2)
    total = precision.sum(0) + 1 / error**2
    mean, left = factor * prior.value, np.zeros_like(prior.sigma)
    mean[known] = (precision.T @ value + expected / error**2) / total
    left[known] = 1 / np.sqrt(total)
    # The factor follows the levels that columns have moved, each with its own relative error.
    relative = prior.sigma[known] / prior.value[known]
    trust = (1 - (left[known] / error) ** 2) / relative**2
    ratio = np.log(np.maximum(mean[known], 1e-3 * prior.metal) / prior.value[known])
    common = float(trust @ ratio / (trust.sum() + (0.0 if free else 1 / COMMON_SIGMA**2) + 1e-12))
    return mean, left, float(np.exp(common))


def _spread(value: FloatArray, sigma: FloatArray, belongs: FloatArray, levels: Levels, spread: float) -> float:
    """Scatter that adds to known errors, by one step of Fisher's scoring."""
    own = sigma[:, None] ** 2
    off = np.where(levels.value > 0, value[:, None], np.maximum(value[:, None], 0)) - levels.value
    weight = belongs / (own + spread**2) ** 2
    variance = float((weight * (off**2 - own)).sum() / max(weight.sum(), 1e-300))
    return float(np.sqrt(max(variance, (LEAST_SPREAD * levels.metal) ** 2)))


def _believed(
    levels: Levels, left: FloatArray, prior: Levels, spread: float, factor: float, free: bool
) -> float:
    """Logarithm of the prior of levels and scatter at the fit, with the volume of the levels that fit as well."""
    known = prior.sigma > 0
    off = (levels.value[known] - factor * prior.value[known]) / (factor * prior.sigma[known])
    at = -0.5 * float(off @ off) + float(np.log(left[known] / (factor * prior.sigma[known])).sum())
    common = 0.0 if free else -0.5 * float(np.log(factor) / COMMON_SIGMA) ** 2
    wider = max(0.0, float(np.log(spread / (USUAL_SPREAD * prior.metal)) / np.log(SPREAD_FACTOR)))
    return at + common - 0.5 * wider**2
