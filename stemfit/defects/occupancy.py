"""What every site holds: full, half, empty or something else, by likelihood ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.hosts import ProjectedHost, column_type
from stemfit.imaging import CHALCOGENS, METALS, Amplitude, Imaging
from stemfit.lattice import Brightness, SiteMap

FloatArray = NDArray[np.float64]

PRIOR_RATES = {"SV": 1e-2, "DV": 3e-3, "VM": 1e-3, "SUB": 5e-4, "ANTI": 2e-4, "UNKNOWN": 1e-3}
"""Share of sites that a type takes before the image is asked (per label for SUB and ANTI): orders of magnitude from
Hong et al., Nat. Commun. 2015. The image's own densities replace them as far as it holds evidence."""

PRIOR_SITES = 100.0
"""Weight of `PRIOR_RATES` against the image, in sites."""

RESOLVED = 2.5
"""Separation of half and full columns from which their densities are learned: closer populations cannot be unmixed, and
the density would follow the shape of the scatter."""

MODEL_FLOOR = 0.03
"""Relative error of a column's brightness from the shape of the probe model, added to its statistics."""


NAMES = {"V": "vanadium"}
"""In a label V means vacancy: V_Mo is a missing molybdenum, vanadium_Mo an exchanged one."""


class Hypothesis(NamedTuple):
    """What may be on a site: `column` is its column type, "" if nothing."""

    label: str
    type: str
    column: str


class SitePosterior(NamedTuple):
    """Occupancy of every site of one sublattice.

    Attributes
    ----------
    site : (K,) int array
        Row of the SiteMap.
    hypotheses : tuple of Hypothesis
        The first is pristine, the last UNKNOWN.
    probability, log_likelihood : (K, H) array
    half_ratio : float
        Brightness of the half-empty column over the full one, after the image was asked (nan where there is none).
    """

    site: NDArray[np.int64]
    hypotheses: tuple[Hypothesis, ...]
    probability: FloatArray
    log_likelihood: FloatArray
    half_ratio: float


def hypotheses(host: ProjectedHost, sublattice: str) -> tuple[Hypothesis, ...]:
    """What each site of a sublattice may hold; the first is pristine, the last UNKNOWN."""
    metal, other = host.columns
    unknown = Hypothesis("UNKNOWN", "UNKNOWN", "?")
    if host.sublattices == ("A", "B"):
        own, far = (metal, other) if sublattice == "A" else (other, metal)
        foreign = [e for e in ("C", "B", "N", "Si") if e != own]
        swaps = [Hypothesis(f"{e}_{own}", "ANTI" if e == far else "SUB", e) for e in foreign]
        return (Hypothesis("pristine", "", own), Hypothesis(f"V_{own}", "SV", ""), *swaps, unknown)
    x = other.rstrip("2")
    if sublattice == "M":
        swaps = [Hypothesis(f"{NAMES.get(m, m)}_{metal}", "SUB", m) for m in METALS if m != metal]
        anti = [Hypothesis(f"{x}_{metal}", "ANTI", x), Hypothesis(f"{x}2_{metal}", "ANTI", x + "2")]
        return (Hypothesis("pristine", "", metal), Hypothesis(f"V_{metal}", "VM", ""), *swaps, *anti, unknown)
    foreign = [e for e in CHALCOGENS if e != x]
    one = [Hypothesis(f"{e}_{x}", "SUB", column_type([e, x])) for e in foreign]
    both = [Hypothesis(f"{e}2_{x}2", "SUB", e + "2") for e in foreign]
    anti = [Hypothesis(f"{metal}_{x}", "ANTI", column_type([metal, x])), Hypothesis(f"{metal}_{x}2", "ANTI", metal)]
    vacancies = (Hypothesis(f"V_{x}", "SV", x), Hypothesis(f"V_{x}2", "DV", ""))
    return (Hypothesis("pristine", "", other), *vacancies, *one, *both, *anti, unknown)


def occupancy(
    sites: SiteMap, brightness: Brightness, imaging: Imaging, host: ProjectedHost, sublattice: str
) -> SitePosterior:
    """Posterior of every analysed site of a sublattice, with densities and the half-column ratio learned on the image.

    Expectation-maximisation: densities are the mean posterior plus a weak prior; the brightness of a column that lost
    one of its two atoms starts from the scattering table and follows the columns that it explains.
    """
    rows = np.flatnonzero(sites.analysed & (sites.sublattice == sublattice))
    options = hypotheses(host, sublattice)
    at = np.rint(sites.xy_px[rows]).astype(int)
    gain = imaging.gain[at[:, 1], at[:, 0]]
    full = imaging.amplitudes[options[0].column]
    value, sigma = brightness.value[rows] / gain, brightness.sigma[rows] / gain
    half = imaging.amplitudes.get(options[1].column) if options[1].type == "SV" else None
    prior = np.array([PRIOR_RATES.get(h.type, 0.0) for h in options])
    prior[0] = 1 - prior.sum()
    rate, level = prior.copy(), half
    for _ in range(12 if _separation(half, full, sigma, imaging.scatter[sublattice]) > RESOLVED else 1):
        each = [_log_likelihood(value, sigma, h, imaging, level, full, imaging.scatter[sublattice]) for h in options]
        likelihood = np.stack(each, axis=1)
        joint = likelihood + np.log(rate)
        probability = np.exp(joint - joint.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        rate = (probability.sum(0) + PRIOR_SITES * prior) / (len(rows) + PRIOR_SITES)
        if half is not None:
            level = _learned(half, value, sigma, probability[:, 1])
    ratio = level.value / full.value if level is not None else float("nan")
    return SitePosterior(rows, options, probability, likelihood, ratio)


def _separation(half: Amplitude | None, full: Amplitude, sigma: FloatArray, scatter: float) -> float:
    """Distance between half and full columns over their spread; between empty and full ones where nothing is half."""
    if len(sigma) == 0:
        return 0.0
    gap = full.value - (half.value if half is not None else 0.0)
    return gap / float(np.hypot(np.median(sigma), scatter * full.value))


def _log_likelihood(
    value: FloatArray, sigma: FloatArray, h: Hypothesis, imaging: Imaging, half: Amplitude | None, full: Amplitude,
    scatter: float,
) -> FloatArray:
    if h.type == "UNKNOWN":
        return np.where(value < 0, -np.inf, -np.log(4 * full.value))  # anything from nothing to 4 full columns
    level = Amplitude(0.0, 0.0, "image") if h.column == "" else imaging.amplitudes[h.column]
    if h.type == "SV" and half is not None:
        level = half
    # Nothing is emptier than empty: a dip below is an error of tails and background, the same for all hypotheses.
    value = np.maximum(value, 0.0)
    spread = np.hypot(scatter, MODEL_FLOOR) * level.value
    variance = sigma**2 + spread**2 + level.sigma**2 + (MODEL_FLOOR * full.value) ** 2
    return np.asarray(-0.5 * (value - level.value) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance))


def _learned(table: Amplitude, value: FloatArray, sigma: FloatArray, weight: FloatArray) -> Amplitude:
    """Table value and the columns that it explains, each by its error."""
    precision = weight / np.maximum(sigma**2, 1e-300)
    total = precision.sum() + 1 / table.sigma**2
    mean = (float((precision * value).sum()) + table.value / table.sigma**2) / total
    return Amplitude(mean, float(1 / np.sqrt(total)), table.source)


def can_tell_half(posterior: SitePosterior, brightness: Brightness, imaging: Imaging, sublattice: str) -> float:
    """Distance between full and half columns over their combined spread, median over sites."""
    full = imaging.amplitudes[posterior.hypotheses[0].column]
    half = Amplitude(full.value * posterior.half_ratio, 0.0, full.source)
    return _separation(half, full, brightness.sigma[posterior.site], imaging.scatter[sublattice])


def label_rates(posteriors: Sequence[SitePosterior]) -> dict[str, float]:
    """Share of sites that carry each label in this image, with the prior's share where the image is silent."""
    rates: dict[str, float] = {}
    for p in posteriors:
        n = len(p.site)
        for k, h in enumerate(p.hypotheses):
            prior = PRIOR_RATES.get(h.type, 0.9)
            rates[h.label] = (float(p.probability[:, k].sum()) + PRIOR_SITES * prior) / (n + PRIOR_SITES)
    return rates
