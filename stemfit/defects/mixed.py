"""What every site of an alloy's mixed sublattice holds: which elements, and whether an atom is missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.defects.occupancy import (
    PRIOR_SITES,
    RELAXED_ERROR,
    Hypothesis,
    SitePosterior,
    hypotheses,
    occupancy,
)
from stemfit.defects.offsets import Offsets
from stemfit.defects.priors import PRIOR_RATES
from stemfit.hosts import ProjectedHost
from stemfit.imaging import MODEL_FLOOR, USUAL_TAIL, Imaging
from stemfit.lattice import Brightness, Populations, SiteMap, log_densities
from stemfit.lattice.populations import RESOLVED
from stemfit.optics.scattering import column_elements

FloatArray = NDArray[np.float64]

ROUNDS = 12


def occupancies(
    sites: SiteMap, brightness: Brightness, imaging: Imaging, host: ProjectedHost, positions: Offsets | None = None
) -> tuple[SitePosterior, ...]:
    """Posterior of every analysed site, sublattice by sublattice in the order of the host."""
    return tuple(
        mixed_occupancy(sites, brightness, imaging, host, s)
        if s in imaging.mixtures
        else occupancy(sites, brightness, imaging, host, s, positions)
        for s in host.sublattices
    )


def mixed_occupancy(
    sites: SiteMap, brightness: Brightness, imaging: Imaging, host: ProjectedHost, sublattice: str
) -> SitePosterior:
    """Posterior of every analysed site of a mixed sublattice.

    Pristine is a column of any type of the mixture, in the shares that were measured. A vacancy is named after the
    atom that is missing, whichever column type it left: two hypotheses where the columns hold two elements, since what
    remains (S) may have been S2 or SSe. Exchanges within the mixture are no defects; dopants of the metal are.
    """
    rows = np.flatnonzero(sites.analysed & (sites.sublattice == sublattice))
    known = imaging.mixtures[sublattice]
    at = np.rint(sites.xy_px[rows]).astype(int)
    gain = imaging.gain[at[:, 1], at[:, 0]]
    value, sigma = brightness.value[rows] / gain, brightness.sigma[rows] / gain
    lost = what_remains(known)
    empty = Hypothesis(f"V_{_own(host, sublattice)}", "DV" if lost else "VM", "")
    dopants = [h for h in hypotheses(host, sublattice) if h.type == "SUB" and h.column not in known.columns]
    dopants = [] if lost else dopants
    options = (
        Hypothesis("pristine", "", _own(host, sublattice)), *(Hypothesis(f"V_{e}", "SV", "?") for e in lost), empty,
        *dopants, Hypothesis("UNKNOWN", "UNKNOWN", "?"),
    )
    by_type = _densities(value, sigma, known)
    bright = [imaging.amplitudes[h.column].value for h in dopants]
    likelihood = _log_likelihood(value, sigma, known, by_type, lost, bright)
    prior = np.array([PRIOR_RATES.get(h.type, 0.0) / (max(len(lost), 1) if h.type == "SV" else 1) for h in options])
    prior[0] = 1 - prior.sum()
    rate = prior.copy()
    told = _told(known, sigma)
    for _ in range(ROUNDS):
        joint = likelihood + np.log(rate)
        probability = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        learned = (probability.sum(0) + PRIOR_SITES * prior) / (len(probability) + PRIOR_SITES)
        rate = np.where([h.type in told for h in options], learned, prior)
        rate[0] = 1 - rate[1:].sum()
    species, p_species = _species(known, by_type, probability, lost)
    return SitePosterior(rows, options, probability, likelihood, rate, None, species, p_species)


def _own(host: ProjectedHost, sublattice: str) -> str:
    return host.columns[host.sublattices.index(sublattice)]


def what_remains(known: Populations) -> dict[str, dict[str, float]]:
    """For each element that a pair may lose: what is left, and how often; nothing for columns of one atom."""
    lost: dict[str, dict[str, float]] = {}
    for column, share in zip(known.columns, known.share, strict=False):
        atoms = column_elements(column)
        for gone, left in (atoms, atoms[::-1]) if len(atoms) == 2 else ():
            of = lost.setdefault(gone, {})
            of[left] = of.get(left, 0.0) + 0.5 * float(share)
    return {e: {c: w / sum(left.values()) for c, w in left.items()} for e, left in lost.items() if sum(left.values())}


def _densities(value: FloatArray, sigma: FloatArray, known: Populations) -> FloatArray:
    """Logarithm of the density (N, K) under each type; full ones with the usual tail of their scatter."""
    floor = MODEL_FLOOR * float(known.levels.value.max())
    spread = float(np.hypot(known.spread, floor))
    narrow = log_densities(value, sigma, known.levels, spread)
    wide = log_densities(value, USUAL_TAIL.width * sigma, known.levels, USUAL_TAIL.width * spread)
    full = np.logaddexp(narrow + np.log(1 - USUAL_TAIL.share), wide + np.log(USUAL_TAIL.share))
    less = log_densities(value, sigma, known.levels, float(np.hypot(spread, RELAXED_ERROR * known.levels.value.max())))
    return np.asarray(np.where(np.arange(len(known.share)) < known.levels.full, full, less))


def _log_likelihood(
    value: FloatArray, sigma: FloatArray, known: Populations, by_type: FloatArray, lost: dict[str, dict[str, float]],
    dopants: Sequence[float],
) -> FloatArray:
    """Logarithm of the likelihood (N, H) of pristine, of each missing atom, of nothing, of dopants, of UNKNOWN."""
    n, columns = known.levels.full, known.levels.columns
    share = known.share[:n] / known.share[:n].sum()
    each = [logsumexp(by_type[:, :n] + np.log(share), axis=1)]
    for left in lost.values():
        weight = np.array([left.get(c, 0.0) for c in columns[n:]])
        each.append(logsumexp(by_type[:, n:] + np.log(np.maximum(weight, 1e-12)), axis=1))
    each.append(by_type[:, columns.index("")])
    spread = float(np.hypot(known.spread, MODEL_FLOOR * known.levels.value.max()))
    for level in dopants:
        variance = sigma**2 + spread**2
        each.append(-0.5 * (value - level) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance))
    bright = 4 * float(known.levels.value[:n].max())
    each.append(np.where(value < 0, -np.inf, -np.log(bright)))
    return np.stack(each, axis=1)


def _told(known: Populations, sigma: FloatArray) -> tuple[str, ...]:
    """Types of vacancies whose density the image can tell: what is left lies apart from every full column."""
    n, level = known.levels.full, known.levels.value
    spread = float(np.hypot(np.median(sigma), np.hypot(known.spread, MODEL_FLOOR * level.max()))) if len(sigma) else 1.0
    apart = [np.abs(level[:n] - x).min() > RESOLVED * spread for x in level[n:]]
    halves = len(apart) > 1 and all(apart[:-1])
    return tuple(kind for kind, yes in (("SV", halves), ("DV", apart[-1]), ("VM", apart[-1])) if yes)


def _species(
    known: Populations, by_type: FloatArray, probability: FloatArray, lost: dict[str, dict[str, float]]
) -> tuple[tuple[str, ...], FloatArray]:
    """Types that an observed column may have, and their probabilities (N, T)."""
    n, columns = known.levels.full, known.levels.columns
    joint = by_type[:, :n] + np.log(known.share[:n])
    shares = [probability[:, [0]] * np.exp(joint - logsumexp(joint, axis=1, keepdims=True))]
    if lost:
        less = np.zeros((len(probability), len(columns) - n - 1))
        for k, left in enumerate(lost.values()):
            weight = np.log(np.maximum([left.get(c, 0.0) for c in columns[n:-1]], 1e-12))
            of = by_type[:, n:-1] + weight
            less += probability[:, [1 + k]] * np.exp(of - logsumexp(of, axis=1, keepdims=True))
        shares.append(less)
    return (*columns[:n], *(columns[n:-1] if lost else ())), np.hstack(shares)
