"""What the microscope did in this image: column shape, brightness of every column type, noise, background."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree
from scipy.special import bdtr, bdtrc, ndtr

from stemfit.columns import Columns, Noise, Profile
from stemfit.errors import UsageError
from stemfit.hosts import ProjectedHost, column_type
from stemfit.lattice import Brightness, Populations, SiteMap, log_densities
from stemfit.optics.pairs import standing_in
from stemfit.optics.scattering import Seen, column_elements, ratio, ratio_given

FloatArray = NDArray[np.float64]
Microscope = tuple[float | None, tuple[float, float] | None, float | None]  # voltage, detector, convergence

CHALCOGENS = ("O", "S", "Se", "Te")
METALS = ("V", "Cr", "Nb", "Mo", "W", "Re")
PAIRED_METALS = ("Ga", "In")
"""Metals of the monochalcogenides, whose columns are pairs."""


@dataclass(frozen=True)
class Amplitude:
    """Integrated intensity of one column type.

    Attributes
    ----------
    value, sigma : float
        Image units x px^2, at relative gain 1.
    source : str
        "image" (measured on pristine columns here) or "table" (scattering table, scaled to this image).
    """

    value: float
    sigma: float
    source: str


class Tail(NamedTuple):
    """Pristine columns whose brightness scatters more than the rest: this share of them, this many times wider.

    Beyond the error of measurement, that is: counts have no such tail.
    """

    share: float
    width: float


@dataclass(frozen=True)
class Imaging:
    """Everything that turns columns into pixels here.

    Attributes
    ----------
    profile : Profile
        Image of one column (probe, source size, thermal motion together).
    noise : Noise
    background : (H, W) array
        Smooth background, image units.
    gain : (H, W) array
        Slow multiplicative variation of column brightness, mean 1 over the analysed area.
    amplitudes : dict of str to Amplitude
        By column type: ``"Mo"``, ``"S2"``, ``"S"``, ``"SSe"``, ...
    scatter : dict of str to float
        Relative brightness scatter of most pristine columns beyond their measurement error, by sublattice.
    tails : dict of str to Tail
        Of that scatter, by sublattice.
    mixtures : mapping of sublattice to Populations
        Column types of the sublattices of an alloy that are mixed, brightness at relative gain 1.
    half_errors : mapping of str to float
        How far a column that lost one of its two atoms may be from its amplitude, relative to the full column, where
        the image was asked; by column type.
    width_sigma_px, tail_fraction_sigma, background_sigma : float or None
        Standard errors of the profile's width and tail, and of the level of the background, which goes with the tail.
    """

    profile: Profile
    noise: Noise
    background: FloatArray
    gain: FloatArray
    amplitudes: dict[str, Amplitude]
    scatter: dict[str, float]
    tails: dict[str, Tail]
    width_sigma_px: float | None = None
    tail_fraction_sigma: float | None = None
    background_sigma: float | None = None
    mixtures: Mapping[str, Populations] = field(default_factory=dict)
    half_errors: Mapping[str, float] = field(default_factory=dict)

    def scatter_of(self, column: str) -> float:
        """Relative brightness scatter (rms) to expect of a column type, from the sublattice that it would stand on.

        Columns of a mixture scatter by the same absolute amount, whatever their type.
        """
        for known in self.mixtures.values():
            if column in known.levels.columns:
                return known.spread / float(known.levels.value[known.levels.columns.index(column)])
        if "M" not in self.scatter:
            return max(self.rms_scatter(s) for s in self.scatter)
        return self.rms_scatter("M" if any(e in (*METALS, *PAIRED_METALS) for e in column_elements(column)) else "X")

    def rms_scatter(self, sublattice: str) -> float:
        """The same of a sublattice."""
        share, width = self.tails[sublattice]
        return float(self.scatter[sublattice] * np.sqrt(1 + share * (width**2 - 1)))

    def amplitude(self, column: str) -> Amplitude:
        """Brightness of a column type; an unlisted stack is the sum of its atoms, 25 % uncertain."""
        if column in self.amplitudes:
            return self.amplitudes[column]
        atoms = [self.amplitudes[e] for e in column_elements(column) if e in self.amplitudes]
        if not atoms:
            raise UsageError(f"no brightness known for a column {column!r}", remedy="report this as a bug")
        value = sum(a.value for a in atoms)
        return Amplitude(value, 0.25 * value, "table")


USUAL_TAIL, TAIL_PRIOR = Tail(0.02, 2.5), 100.0
"""What is expected of the scatter before the image is asked (jitter, stray light), with a weight in columns."""

MODEL_FLOOR = 0.03
"""Relative error of a column's brightness from the shape of the probe model, added to its statistics."""

FOREIGN, NOT_A_FEW, BY_CHANCE = 4.0, 0.05, 0.05
"""Spreads from the majority beyond which a column is not asked how columns scatter (by the core of the scatter alone
one in 15,000 lies there; other atoms do); the share from which bright ones are no exception, and the probability with
which that share gives as many: of thirty columns two may be foreign."""

SHOWN = 0.02
"""Share of a mixture's columns from which the brightness of a type counts as measured."""

MOST_GUESTS = 0.1
"""Share of a sublattice that may be single exchanged atoms; more is an alloy, or not uniform in another way."""

GAIN_NEIGHBOURS = 60
"""Sites whose median makes the local gain: about three cells around, so that no point defect can pull it."""


def fit_imaging(
    columns: Columns, sites: SiteMap, brightness: Brightness, host: ProjectedHost, voltage_kV: float | None,
    detector_mrad: tuple[float, float] | None, mixtures: Mapping[str, Populations] | None = None,
    convergence_mrad: float | None = None,
) -> Imaging:
    """Measure brightness per sublattice on the pristine majority; take what is not in the image from the table.

    Parameters
    ----------
    columns : Columns
        From the fit that measured `brightness`.
    sites : SiteMap
    brightness : Brightness
        Of every site.
    host : ProjectedHost
    voltage_kV, detector_mrad, convergence_mrad
        None where unknown.
    mixtures : mapping of sublattice to Populations, optional
        Sublattices whose columns are mixtures of elements: there the most likely type takes the place of the majority.
    """
    mixtures = mixtures or {}
    level = {s: _median(brightness.value[sites.analysed & (sites.sublattice == s)]) for s in host.sublattices}
    expected = np.array([level[str(s)] for s in sites.sublattice])
    at, shape = np.rint(sites.xy_px).astype(int), columns.background.shape
    alone = ~np.isin(sites.sublattice, list(mixtures))
    gain = _gain_field(sites, np.where(alone | ~alone.any(), brightness.value / expected, np.nan), shape)
    if mixtures:
        here = gain[at[:, 1], at[:, 0]]
        flat_first = Brightness(brightness.value / here, brightness.sigma / here)
        gain = _gain_field(sites, brightness.value / expected_mixed(sites, flat_first, mixtures, expected), shape)
    flat = brightness.value / gain[at[:, 1], at[:, 0]]
    amplitudes, scatter, tails = {}, {}, {}
    for sublattice, column in zip(host.sublattices, host.columns, strict=True):
        use = sites.analysed & (sites.sublattice == sublattice)
        if sublattice in mixtures:
            known = mixtures[sublattice]
            amplitudes.update(_amplitudes(known))
            scatter[sublattice] = known.spread / float(known.share @ known.levels.value)
            tails[sublattice] = USUAL_TAIL
            continue
        value, spread = _majority(flat[use])
        own = _median(brightness.sigma[use]) / value
        scatter[sublattice] = float(np.sqrt(max((spread / value) ** 2 - own**2, 0.0)))
        error = brightness.sigma[use] / gain[at[use, 1], at[use, 0]] / value
        tails[sublattice] = _tail(flat[use] / value - 1, error, float(np.hypot(scatter[sublattice], MODEL_FLOOR)))
        if column not in amplitudes:
            amplitudes[column] = Amplitude(value, 1.25 * spread / np.sqrt(max(use.sum(), 1)), "image")
    for column in foreign_columns(host):
        if column not in amplitudes:
            amplitudes[column] = _from_table(
                column, host, amplitudes, (voltage_kV, detector_mrad, convergence_mrad)
            )
    errors = _profile_errors(columns)
    return Imaging(
        columns.profile, columns.noise, columns.background, gain, amplitudes, scatter, tails, *errors, mixtures
    )


def expected_mixed(
    sites: SiteMap, brightness: Brightness, mixtures: Mapping[str, Populations], otherwise: FloatArray
) -> FloatArray:
    """Brightness (S,) of the most likely type of column on every site of a mixed sublattice, and `otherwise`."""
    expected = otherwise.copy()
    for sublattice, known in mixtures.items():
        rows = np.flatnonzero(sites.sublattice == sublattice)
        density = log_densities(brightness.value[rows], brightness.sigma[rows], known.levels, known.spread)
        full = density[:, : known.levels.full] + np.log(known.share[: known.levels.full])
        expected[rows] = known.levels.value[full.argmax(1)]
    return expected


def _amplitudes(known: Populations) -> dict[str, Amplitude]:
    """Brightness of the types of a mixture: measured where there are columns of them."""
    return {
        column: Amplitude(float(value), max(float(sigma), 1e-3 * float(value)), "image" if share > SHOWN else "table")
        for column, value, sigma, share in zip(
            known.levels.columns, known.levels.value, known.levels.sigma, known.share, strict=True
        ) if column
    }


def _profile_errors(columns: Columns) -> tuple[float | None, float | None, float | None]:
    """Standard errors of width, tail fraction and background level.

    The width is the fourth root of the determinant of the core. What the tails are believed to shed evenly over the
    image is taken from the background.
    """
    if columns.profile_cov is None:
        return None, None, None
    p = np.linalg.inv(columns.profile.core_cov_px2)
    slope = 0.25 * columns.profile.width_px * np.array([p[0, 0], 2 * p[0, 1], p[1, 1]])
    width = float(np.sqrt(slope @ columns.profile_cov[:3, :3] @ slope))
    tail = float(np.sqrt(columns.profile_cov[3, 3]))
    light = float(np.mean(columns.model - columns.background))
    return width, tail, tail * light / (1 - columns.profile.tail_fraction)


def foreign_columns(host: ProjectedHost) -> tuple[str, ...]:
    """Column types that defects of this host can make, beyond its own two."""
    if not host.honeycomb:
        stacks = (column_elements(column) for column in host.columns)
        parts = dict.fromkeys(element for stack in stacks if len(stack) > 1 for element in stack)
        return tuple(element for element in parts if element not in host.columns)
    metal, other = host.columns
    if host.sublattices == ("M", "X"):
        x = other.rstrip("2")
        pairs = [column_type([x, e]) for e in CHALCOGENS if e != x] + [e + "2" for e in CHALCOGENS if e != x]
        if metal.endswith("2"):
            m = metal.rstrip("2")
            return (x, *pairs, m, *(column_type([m, e]) for e in PAIRED_METALS if e != m))
        metals = [m for m in METALS if m != metal]
        return (x, *pairs, *metals, column_type([metal, x]), metal + "2")
    return tuple(e for e in ("C", "B", "N", "O", "Si") if e not in host.columns)


def reference_of(column: str, host: ProjectedHost) -> str:
    """Column of the host that shares most with another one."""
    if not host.honeycomb:
        return next(c for c in host.columns if set(column_elements(column)) <= set(column_elements(c)))
    if host.sublattices == ("M", "X") and not any(e in (*METALS, *PAIRED_METALS) for e in column_elements(column)):
        return host.columns[1]
    return host.columns[0]


def _from_table(
    column: str, host: ProjectedHost, known: dict[str, Amplitude], microscope: Microscope
) -> Amplitude:
    """Scale the table by the host column that shares most with this one; voltage, detector, convergence."""
    reference = reference_of(column, host)
    seen = _ratio_seen(host, known, microscope)
    voltage_kV, detector_mrad, convergence_mrad = microscope
    if seen is None:
        value, relative = ratio(column, reference, voltage_kV, detector_mrad, convergence_mrad)
    else:
        value, relative = ratio_given(column, reference, voltage_kV, detector_mrad, seen, convergence_mrad)
    scale = known[reference]
    value *= _own_gap(column, host, microscope) / _own_gap(reference, host, microscope)
    error = float(np.hypot(relative, scale.sigma / scale.value))
    return Amplitude(value * scale.value, value * scale.value * error, "table")


def _own_gap(column: str, host: ProjectedHost, microscope: Microscope) -> float:
    """What a pair in this crystal shows over one of the table, which has the heights of dichalcogenides."""
    place = reference_of(column, host)
    return standing_in(column, place, host.thickness_A(place), *microscope)


def _ratio_seen(host: ProjectedHost, known: Mapping[str, Amplitude], microscope: Microscope) -> Seen | None:
    """How bright the two columns of a crystal are relative to each other, had they the table's heights."""
    if len(host.columns) != 2 or host.columns[0] == host.columns[1]:
        return None
    own = [known[column] for column in host.columns]
    if any(a.source != "image" or a.value <= 0 for a in own):
        return None
    error = float(np.hypot(*(np.hypot(a.sigma / a.value, MODEL_FLOOR) for a in own)))
    first, second = (_own_gap(column, host, microscope) for column in host.columns)
    return Seen(host.columns[1], host.columns[0], own[1].value / own[0].value * first / second, error)


def _gain_field(sites: SiteMap, relative: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Slow brightness variation (H, W), mean 1: median over the nearest sites, smoothed over the same distance."""
    use = sites.analysed & np.isfinite(relative)
    tree = cKDTree(sites.xy_px[use])
    spacing = float(np.sqrt(shape[0] * shape[1] / max(len(sites.xy_px), 1)))
    k = min(GAIN_NEIGHBOURS, int(use.sum()))
    h, w = (max(4, round(n / (2 * spacing))) for n in shape)
    y, x = np.meshgrid(np.linspace(0, shape[0] - 1, h), np.linspace(0, shape[1] - 1, w), indexing="ij")
    near = tree.query(np.column_stack([x.ravel(), y.ravel()]), k=k)[1].reshape(h * w, k)
    nodes = gaussian_filter(np.median(relative[use][near], axis=1).reshape(h, w), 1.5, mode="nearest")
    nodes = np.clip(nodes, 0.3, 3.0)
    rows, cols = np.linspace(0, h - 1, shape[0]), np.linspace(0, w - 1, shape[1])
    gain = map_coordinates(nodes, np.meshgrid(rows, cols, indexing="ij"), order=1)
    return np.asarray(gain / gain.mean())


def _tail(off: FloatArray, error: FloatArray, scatter: float) -> Tail:
    """Tail of the scatter of pristine columns, from the side that shows less of it.

    What scatters does so both ways. Atoms that are missing make columns darker, atoms that were added brighter, and
    neither makes the others wider; those beyond `FOREIGN` spreads are not asked. Only where bright ones are no
    exception do they count: the sublattice is not uniform. The dark side says nothing where an empty site is so near
    the full column.

    Parameters
    ----------
    off : (K,) array
        Brightness over that of the full column, less one.
    error : (K,) array
        Of measurement, in that unit.
    scatter : float
        Of most columns beyond it.
    """
    z = off / np.hypot(error, scatter)
    bright, dark = z > 0, (z < 0) & (z > -FOREIGN)
    few = _exceptional(z)
    asked = bright & (z < FOREIGN) if few else bright
    sides = [_one_sided(off[asked], error[asked], scatter, widening=not few)]
    if few and dark.any() and 1 / np.hypot(np.median(error), scatter) > FOREIGN:
        sides.append(_one_sided(off[dark], error[dark], scatter, widening=False))
    return min(sides, key=lambda tail: tail.share * ndtr(-FOREIGN / tail.width))


def _exceptional(z: FloatArray) -> bool:
    """Whether columns far brighter than most are few, or up to `MOST_GUESTS` that are a population of their own."""
    bright = z[z > 0]
    far = bright > FOREIGN
    own = far.any() and far.sum() < MOST_GUESTS * len(z) and _apart(bright, float(np.median(bright[far])))
    return bool(own or bdtrc(far.sum() - 1, len(bright), NOT_A_FEW) > BY_CHANCE)


def _one_sided(off: FloatArray, error: FloatArray, scatter: float, widening: bool) -> Tail:
    """Two zero-mean normal distributions of half-width, from `USUAL_TAIL` with the weight of `TAIL_PRIOR` columns.

    The width is asked for (`widening`) where columns far out are among them; else they tell how many, not how far.
    """
    square, noise = off**2, error**2
    share, width = USUAL_TAIL
    few = TAIL_PRIOR * USUAL_TAIL.share
    for _ in range(50):
        core, wide = (_half_normal(square, noise + (times * scatter) ** 2) for times in (1.0, width))
        of_tail = share * wide / ((1 - share) * core + share * wide + 1e-300)
        share = float((of_tail.sum() + few) / (len(square) + TAIL_PRIOR))
        if widening:
            excess = of_tail @ (square - noise) / scatter**2 + few * USUAL_TAIL.width**2
            width = float(np.sqrt(max(excess / (of_tail.sum() + few), USUAL_TAIL.width**2)))
    return Tail(share, width)


def _half_normal(square: FloatArray, variance: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-0.5 * square / variance) / np.sqrt(variance))


def _apart(bright: FloatArray, level: float) -> bool:
    """Whether there are fewer columns half way (from 3 spreads) to a level than about it, and not by accident (1 %)."""
    reach = 0.2 * (level - 3)
    about, between = (int(np.sum(np.abs(bright - x) < reach)) for x in (level, (level + 3) / 2))
    return bool(bdtr(between, between + about, 0.5) < 0.01)


def _majority(values: FloatArray) -> tuple[float, float]:
    """Centre and robust spread of the main population: median and MAD, clipped at 3 of them twice."""
    for _ in range(3):
        centre = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - centre)))
        values = values[np.abs(values - centre) < 3 * max(spread, 1e-12)]
    return centre, max(spread, 1e-12)


def _median(values: FloatArray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
