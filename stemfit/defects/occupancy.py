"""What every site holds: full, half, empty or something else, by likelihood ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr

from stemfit.defects.abundance import abundance, lighter_guests
from stemfit.defects.offsets import MERGED, OFF_CENTRE, Offsets, log_ratio
from stemfit.defects.priors import prior_rate, shared_with_pairs
from stemfit.defects.types import type_of
from stemfit.hosts import ProjectedHost, column_type
from stemfit.imaging import CHALCOGENS, METALS, MODEL_FLOOR, PAIRED_METALS, USUAL_TAIL, Amplitude, Imaging
from stemfit.lattice import Brightness, SiteMap
from stemfit.lattice.populations import RESOLVED
from stemfit.optics.scattering import column_elements

FloatArray = NDArray[np.float64]

ADDED = 2.0
"""Brightest atom on top of a column, in units of the brightest pristine column; elements are not known."""

PRIOR_SITES = 100.0
"""Weight of `PRIOR_RATES` against the image, in sites."""

RELAXED_ERROR = 0.08
"""Error of the brightness measured at a vacancy, relative to the full column: its neighbours have moved towards it by
up to a tenth of an Angstrom, and what they shed there moves with them. Of columns that lost one of two atoms the image
itself says how much they differ."""

LONE_ERROR = 0.03
"""The same of single atoms missing where no line or trefoil is near. The neighbours' light goes with their fitted
positions: multislice images of vacancies whose metals move by 2 to 20 pm are off by 0.2 to 1.7 % of the full column;
by density-functional theory they move up to twice as far."""

RELAXED_PRIOR = 3.0
"""Weight of `LONE_ERROR` against those columns."""

HALF_RANGE = (0.28, 0.62)
"""What one of two stacked atoms can be worth, of the pair: from coherent (1/3.5, at 40 mrad) to incoherent scattering
(1/2), and beyond by a tenth. Outside it the half column would learn to be an empty or a full one."""

ROUNDS = 12
"""Of expectation-maximisation."""

LEARNED = ("SV", "DV", "VM")
"""Types of vacancies, whose densities are learned where half and full columns are `RESOLVED`: that of closer ones would
follow the shape of the scatter."""

NAMES = {"V": "vanadium"}
"""In a label V means vacancy: V_Mo is a missing molybdenum, vanadium_Mo an exchanged one."""


class Hypothesis(NamedTuple):
    """What may be on a site: `column` is its column type, "" if nothing."""

    label: str
    type: str
    column: str

    @property
    def half_empty(self) -> bool:
        """Whether one of two equal atoms is missing."""
        return self.label == f"V_{self.column}"


class SitePosterior(NamedTuple):
    """Occupancy of every site of one sublattice.

    Attributes
    ----------
    site : (K,) int array
        Row of the SiteMap.
    hypotheses : tuple of Hypothesis
        The first is pristine, the last UNKNOWN.
    probability, log_likelihood : (K, H) array
    rate : (H,) array
        Share of sites of each hypothesis.
    half : Amplitude or None
        Brightness of the half-empty column after the image was asked; None where columns hold one atom.
    species : tuple of str
        Types that a column of a mixture may have, those that lost an atom last; empty where nothing is mixed.
    p_species : (K, T) array or None
        Their probabilities.
    half_error : float
        How far half-empty columns may be from that, relative to full ones.
    place : (K, H) array or None
        What the position of the column adds to `log_likelihood`.
    as_dim : tuple of int
        Hypotheses of lighter guests, at least as likely as the half-empty column: who mixes as often is as dim.
    """

    site: NDArray[np.int64]
    hypotheses: tuple[Hypothesis, ...]
    probability: FloatArray
    log_likelihood: FloatArray
    rate: FloatArray
    half: Amplitude | None
    species: tuple[str, ...] = ()
    p_species: FloatArray | None = None
    half_error: float = RELAXED_ERROR
    place: FloatArray | None = None
    as_dim: tuple[int, ...] = ()


def hypotheses(host: ProjectedHost, sublattice: str) -> tuple[Hypothesis, ...]:
    """What each site of a sublattice may hold; the first is pristine, the last UNKNOWN."""
    unknown, added = Hypothesis("UNKNOWN", "UNKNOWN", "?"), Hypothesis("ADATOM", "ADATOM", "?")
    if not host.honeycomb:
        own = host.columns[host.sublattices.index(sublattice)]
        return (Hypothesis("pristine", "", own), *_vacancies(own), added, unknown)
    metal, other = host.columns
    if host.sublattices == ("A", "B"):
        own, far = (metal, other) if sublattice == "A" else (other, metal)
        foreign = [e for e in ("C", "B", "N", "Si") if e != own]
        swaps = [Hypothesis(f"{e}_{own}", "ANTI" if e == far else "SUB", e) for e in foreign]
        return (Hypothesis("pristine", "", own), Hypothesis(f"V_{own}", "SV", ""), *swaps, added, unknown)
    x = other.rstrip("2")
    if sublattice == "M" and metal.endswith("2"):
        m = metal.rstrip("2")
        swaps = [Hypothesis(f"{e}_{m}", "SUB", column_type([e, m])) for e in PAIRED_METALS if e != m]
        vacancies = (Hypothesis(f"V_{m}", "VM", m), Hypothesis(f"V_{metal}", "VM", ""))
        return (Hypothesis("pristine", "", metal), *vacancies, *swaps, added, unknown)
    if sublattice == "M":
        swaps = [Hypothesis(f"{NAMES.get(m, m)}_{metal}", "SUB", m) for m in METALS if m != metal]
        anti = [Hypothesis(f"{x}_{metal}", "ANTI", x), Hypothesis(f"{x}2_{metal}", "ANTI", x + "2")]
        return (Hypothesis("pristine", "", metal), Hypothesis(f"V_{metal}", "VM", ""), *swaps, *anti, added, unknown)
    foreign = [e for e in CHALCOGENS if e != x]
    one = [Hypothesis(f"{e}_{x}", "SUB", column_type([e, x])) for e in foreign]
    both = [Hypothesis(f"{e}2_{x}2", "SUB", e + "2") for e in foreign]
    anti = [Hypothesis(f"{metal}_{x}", "ANTI", column_type([metal, x])), Hypothesis(f"{metal}_{x}2", "ANTI", metal)]
    if metal.endswith("2"):  # antisites of neighbours in the periodic table are as bright as what they replace
        anti = []
    vacancies = (Hypothesis(f"V_{x}", "SV", x), Hypothesis(f"V_{x}2", "DV", ""))
    return (Hypothesis("pristine", "", other), *vacancies, *one, *both, *anti, added, unknown)


def _vacancies(column: str) -> list[Hypothesis]:
    """One of two equal atoms missing, and the whole column."""
    gone = Hypothesis(f"V_{column}", type_of(f"V_{column}", ""), "")
    atoms = column_elements(column)
    if len(atoms) != 2 or atoms[0] != atoms[1]:
        return [gone]
    return [Hypothesis(f"V_{atoms[0]}", type_of(f"V_{atoms[0]}", ""), atoms[0]), gone]


def occupancy(
    sites: SiteMap, brightness: Brightness, imaging: Imaging, host: ProjectedHost, sublattice: str,
    positions: Offsets | None = None,
) -> SitePosterior:
    """Posterior of every analysed site of a sublattice, with densities and the half-column ratio learned on the image.

    Brightness decides and, where `positions` are measured, where the column stands: an added atom beside it and a metal
    off-centre on the site of chalcogens pull it to their side, an exchanged atom does not.

    Expectation-maximisation: densities are the mean posterior plus a weak prior; the brightness of a column that lost
    one of its two atoms starts from the scattering table and follows the columns that it explains.
    """
    rows = np.flatnonzero(sites.analysed & (sites.sublattice == sublattice))
    options = hypotheses(host, sublattice)
    at = np.rint(sites.xy_px[rows]).astype(int)
    gain = imaging.gain[at[:, 1], at[:, 0]]
    full = imaging.amplitudes[options[0].column]
    value, sigma = brightness.value[rows] / gain, brightness.sigma[rows] / gain
    half = imaging.amplitudes.get(options[1].column) if options[1].half_empty else None
    prior = np.array([prior_rate(*h) for h in options])
    prior[0] = 1 - prior.sum()
    rate, level, relaxed = prior.copy(), half, LONE_ERROR
    scatter = imaging.rms_scatter(sublattice)
    told = separation(half, full, sigma, scatter) > RESOLVED
    more = _brighter(options, imaging, full.value + RESOLVED * np.hypot(_median(sigma), scatter * full.value))
    place = _placed(options, rows, value, full.value, positions)
    for _ in range(ROUNDS):
        each = [_log_likelihood(value, sigma, h, imaging, level, full, sublattice, relaxed) for h in options]
        likelihood = np.stack(each, axis=1) + place
        joint = likelihood + np.log(rate)
        probability = np.exp(joint - joint.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        rate = _densities(options, probability, prior, told, more)
        if half is not None and told:
            weight = probability[:, 1] * (probability[:, 1] > 0.5)
            level = _learned(half, full.value, value, sigma, weight)
            known = sigma**2 + (np.hypot(imaging.scatter[sublattice], MODEL_FLOOR) * level.value) ** 2
            relaxed = _learned_error(level, full.value, value, known + (MODEL_FLOOR * full.value) ** 2, weight)
    as_dim: tuple[int, ...] = ()
    rate = _with_guests(options, likelihood, rate, prior, more)
    if half is not None and level is not None and told:
        rate, as_dim = _with_lighter_guests(options, rate, imaging, (half, level, full))
    likelihood = _at_least_as_dim(likelihood, as_dim)
    joint = likelihood + np.log(rate)
    probability = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    return SitePosterior(
        rows, options, probability, likelihood, rate, level, half_error=relaxed, place=place, as_dim=as_dim
    )


def _placed(
    options: Sequence[Hypothesis], rows: NDArray[np.int64], value: FloatArray, full: float, positions: Offsets | None
) -> FloatArray:
    """Logarithm of the likelihood (N, H) of where columns stand, over that of a column that stays on its site."""
    place = np.zeros((len(rows), len(options)))
    if positions is None:
        return place
    found = positions.of(rows)
    for k, h in enumerate(options):
        if h.type == "ADATOM":  # of light that two shed together, the fit stands nearer to the brighter one
            place[:, k] = log_ratio(found, MERGED * np.clip(1 - full / np.maximum(value, 1e-9 * full), 0.0, 1.0))
        elif h.type == "UNKNOWN" or (h.type == "ANTI" and set(METALS) & set(column_elements(h.column))):
            place[:, k] = log_ratio(found, OFF_CENTRE)
    return place


def _brighter(options: Sequence[Hypothesis], imaging: Imaging, level: float) -> NDArray[np.bool_]:
    """Which hypotheses (H,) make a column brighter than a level; an added atom always does."""
    return np.array([
        h.type == "ADATOM" or (h.type in ("SUB", "ANTI") and imaging.amplitudes[h.column].value > level)
        for h in options
    ])  # fmt: skip


def _densities(
    options: Sequence[Hypothesis], probability: FloatArray, prior: FloatArray, told: bool, more: NDArray[np.bool_]
) -> FloatArray:
    """Share of sites of each hypothesis: vacancies and bright columns as the image has them, others as known before.

    Foreign atoms nearly as bright as a vacancy would otherwise take over its sites, each a little, round by round.
    Whether vacancies can be `told` from full columns decides whether their densities follow the image. Nothing else is
    as bright as what is brighter than full columns (`more`): the image says how many there are, by those that stand
    out; which atoms they are, it is asked of each one.
    """
    learned = (probability.sum(0) + PRIOR_SITES * prior) / (len(probability) + PRIOR_SITES)
    rate = np.where([told and h.type in LEARNED for h in options], learned, prior)
    together, before = probability[:, more].sum(1), prior[more].sum()
    share = (together.sum() + 1) / (len(probability) + 1 / before)  # the prior weighs one column
    rate[more] *= share / before
    rate[0] = max(1.0 - rate[1:].sum(), 0.05)
    return np.asarray(rate / rate.sum())


def _median(values: FloatArray) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _with_guests(
    options: Sequence[Hypothesis], likelihood: FloatArray, rate: FloatArray, prior: FloatArray, more: NDArray[np.bool_]
) -> FloatArray:
    """Densities with those of atoms that mix with the host's as abundant as the image has them.

    Only guests that stand out above full columns (`more`): dimmer ones are as bright as what a vacancy leaves. What
    they explain of the bright columns is no reason any more to expect others.
    """
    new, guest = rate.copy(), np.array([h.type == "SUB" for h in options]) & more
    rare = np.where(more, prior, rate)
    for k in map(int, np.flatnonzero(guest)):
        element, _, own = options[k].label.partition("_")
        others = np.delete(np.arange(len(options)), k)
        share = np.log(rare[others] / rare[others].sum())
        otherwise = logsumexp(likelihood[:, others] + share, axis=1)
        new[k] = max(rate[k], abundance(frozenset((element, own)), float(rare[k]), likelihood[:, k], otherwise))
    rest = more & ~(new > rate)
    left = max(rate[more].sum() - new[new > rate].sum(), prior[rest].sum())
    new[rest] *= min(left / max(rate[rest].sum(), 1e-300), 1.0)
    known = {h.label: float(r) for h, r in zip(options, new, strict=True)}
    for label, both in shared_with_pairs(tuple(known), known).items():
        new[list(known).index(label)] = both
    new[0] = max(1.0 - new[1:].sum(), 0.05)
    return np.asarray(new / new.sum())


def _with_lighter_guests(
    options: Sequence[Hypothesis], rate: FloatArray, imaging: Imaging, known: tuple[Amplitude, Amplitude, Amplitude]
) -> tuple[FloatArray, tuple[int, ...]]:
    """Share dim columns between vacancies and lighter atoms; `known`: half columns by table and image, full ones."""
    half, level, full = known
    which = {
        frozenset((h.label.partition("_")[0], options[1].column)): k for k, h in enumerate(options)
        if h.type == "SUB" and len(column_elements(h.column)) == 2 and not h.column.endswith("2")
        and imaging.amplitudes[h.column].value < full.value
    }
    share = lighter_guests(level, half, {pair: imaging.amplitudes[options[k].column] for pair, k in which.items()})
    rate, dim, as_dim = rate.copy(), float(rate[1]), []
    for pair, p in share.items():
        k = which[pair]
        if p * dim > rate[k]:
            as_dim.append(k)
            rate[k], rate[1] = p * dim, rate[1] - p * dim
    return rate, tuple(as_dim)


def _at_least_as_dim(likelihood: FloatArray, which: tuple[int, ...]) -> FloatArray:
    likelihood = likelihood.copy()
    for k in which:
        likelihood[:, k] = np.maximum(likelihood[:, k], likelihood[:, 1])
    return likelihood


def separation(half: Amplitude | None, full: Amplitude, sigma: FloatArray, scatter: float) -> float:
    """Distance between half and full columns over their spread; between empty and full ones where nothing is half."""
    if len(sigma) == 0:
        return 0.0
    gap = full.value - (half.value if half is not None else 0.0)
    return float(gap / np.hypot(np.median(sigma), scatter * full.value))


def _log_likelihood(
    value: FloatArray, sigma: FloatArray, h: Hypothesis, imaging: Imaging, half: Amplitude | None, full: Amplitude,
    sublattice: str, half_error: float = LONE_ERROR,
) -> FloatArray:
    if h.type == "UNKNOWN":
        return np.where(value < 0, -np.inf, -np.log(4 * full.value))  # anything from nothing to 4 full columns
    if h.type == "ADATOM":
        return _more_light(value, sigma, imaging.scatter[sublattice], full.value, brightest(imaging))
    level = Amplitude(0.0, 0.0, "image") if h.column == "" else imaging.amplitudes[h.column]
    if h.half_empty and half is not None:
        level = half
    # Nothing is emptier than empty: a dip below is an error of tails and background, the same for all hypotheses.
    value = np.maximum(value, 0.0)
    spread = np.hypot(imaging.scatter[sublattice], MODEL_FLOOR) * level.value
    relaxed = half_error if h.half_empty else RELAXED_ERROR if h.type in ("SV", "DV", "VM") else 0.0
    shed = np.hypot(MODEL_FLOOR, relaxed) * full.value if h.type else 0.0  # what pristine columns shed, their level has
    variance = sigma**2 + spread**2 + level.sigma**2 + shed**2
    normal = -0.5 * (value - level.value) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)
    if h.type:
        return np.asarray(normal)
    share, width = imaging.tails[sublattice]
    # Counts have no tail. Scatter widens as measured here; the level, which no single column shows, as usual.
    wider = sigma**2 + USUAL_TAIL.width**2 * (variance - sigma**2 - spread**2) + (width * spread) ** 2
    wide = -0.5 * (value - level.value) ** 2 / wider - 0.5 * np.log(2 * np.pi * wider)
    return np.asarray(np.logaddexp(normal + np.log(1 - share), wide + np.log(share)))


def likelihoods(
    value: FloatArray, sigma: FloatArray, one: SitePosterior, imaging: Imaging, sublattice: str, rows: NDArray[np.int64]
) -> FloatArray:
    """Natural logarithm (K, H) of the likelihood of every hypothesis on some `rows` whose light was measured anew."""
    full = imaging.amplitudes[one.hypotheses[0].column]
    known = imaging, one.half, full, sublattice, one.half_error
    light = np.stack([_log_likelihood(value, sigma, h, *known) for h in one.hypotheses], axis=1)
    return _at_least_as_dim(light if one.place is None else light + one.place[rows], one.as_dim)


def brightest(imaging: Imaging) -> float:
    """Brightness of the brightest pristine column; on carbon or boron nitride half of silicon's, a common adatom."""
    own = max(a.value for a in imaging.amplitudes.values() if a.source == "image")
    return max(own, imaging.amplitudes["Si"].value / ADDED) if "Si" in imaging.amplitudes else own


def _more_light(value: FloatArray, sigma: FloatArray, scatter: float, full: float, most: float) -> FloatArray:
    """Log-likelihood of a full column with any atom on it, from nothing to `ADDED` times the brightest column."""
    spread = np.sqrt(sigma**2 + (np.hypot(scatter, MODEL_FLOOR) * full) ** 2)
    inside = ndtr((value - full) / spread) - ndtr((value - full - ADDED * most) / spread)
    return np.asarray(np.log(np.maximum(inside, 1e-300) / (ADDED * most)))


def _learned(
    table: Amplitude, full: float, value: FloatArray, sigma: FloatArray, weight: FloatArray
) -> Amplitude:
    """Table value and the columns that it explains, each by its error."""
    precision = weight / np.maximum(sigma**2, 1e-300)
    total = precision.sum() + 1 / table.sigma**2
    mean = (float((precision * value).sum()) + table.value / table.sigma**2) / total
    mean = float(np.clip(mean, HALF_RANGE[0] * full, HALF_RANGE[1] * full))
    return Amplitude(mean, float(1 / np.sqrt(total)), table.source)


def _learned_error(
    half: Amplitude, full: float, value: FloatArray, variance: FloatArray, weight: FloatArray
) -> float:
    """How much half-empty columns differ beyond what is known of it (`variance`), relative to the full column.

    Vacancies of one kind relax alike, and that is in their mean brightness. Taken for wider than it is, their
    distribution holds atoms that are only nearly as dim (O on S, S on Se, Mo on Se2). It is never wider than beside
    lines: what differs by more is something else, such as a pair apart.
    """
    excess = float(weight @ ((value - half.value) ** 2 - variance)) / full**2
    square = max(RELAXED_PRIOR * LONE_ERROR**2 + excess, 0.0) / (RELAXED_PRIOR + float(weight.sum()))
    return min(float(np.sqrt(square)), RELAXED_ERROR)
