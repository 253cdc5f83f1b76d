"""Which host this is and which sublattice is the metal: never "brightest is metal" (Se2 outshines Mo)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.hosts import INFERABLE, ProjectedHost, amplitude_ratio, projected
from stemfit.lattice.alloy import Alloy
from stemfit.lattice.cell import THIRDS, Grid
from stemfit.lattice.sites import Brightness, Honeycomb
from stemfit.lattice.types import Lattice, SiteMap

FloatArray = NDArray[np.float64]

MODEL_ERROR = 0.06
"""Relative error of a measured brightness ratio from probe tails and background, beyond its statistics."""

ODD, ODD_LAYERS = 0.05, 0.5
"""Share of images whose brightness ratio is that of no clean, level, listed monolayer (dirt, an alloy, a second layer,
a tilt), and the same where part of the image is seen to be another layer. It says nothing of the host then; which of
its sublattices would be the brighter one is still believed."""

ODD_RANGE = 3.0
"""Range of the natural logarithm of such a ratio."""

UNLISTED, LATTICE_RANGE = 0.02, float(np.log(4.0))
"""Weight of some other crystal against any of the list; range of the logarithm of its lattice constant."""

MISFIT, MISFIT_RANGE = 0.3, float(np.log(100.0))
"""Logarithm of the reduced chi2 that models of listed crystals leave of micrographs: its root mean square (0.25 in nine
real ones, between 1.0 and 2.2), rounded up; range of the same in images of anything else."""

VACANCY_ODDS = 5.0
"""A dim site is this many times likelier on the chalcogen than on the metal (Hong et al., Nat. Commun. 2015: sulphur
vacancies outnumber all metal defects in exfoliated and CVD material; antisites dominate only in PVD)."""

NEIGHBOURS = 20
"""Sites of the same sublattice, two cells around, that a site is compared with."""

MAX_VACANCY_EVIDENCE = 5.0
"""Natural-log cap: dim sites are not independent of each other (damage comes in patches)."""


USER_SCALE = 0.02
"""Relative error of a pixel size that the user states."""


class Naming(NamedTuple):
    """One way to name the two sublattices of a honeycomb.

    Attributes
    ----------
    host : ProjectedHost
    metal_third : int
        As in `Identity`.
    probability : float
    """

    host: ProjectedHost
    metal_third: int
    probability: float


class Identity(NamedTuple):
    """Which crystal this is.

    Attributes
    ----------
    host : ProjectedHost
    source : str
        "user" or "inferred".
    probability : float
    alternatives : tuple of (name, probability)
        The other hosts.
    metal_third : int
        Sublattice of a honeycomb's grid that is the metal (A): 0 for P, 1 for Q.
    metal_probability : float
        Over all hosts that are possible.
    doubts : tuple of str
        What cannot be told about the way in which the crystal lies.
    alloy : Alloy or None
        Where its columns are mixtures of elements; `host` is the majority's then.
    namings : tuple of Naming
        Of a honeycomb that is no alloy: all that were weighed. What they lack to one is that of crystals of another
        kind, or of no list.
    """

    host: ProjectedHost
    source: str
    probability: float
    alternatives: tuple[tuple[str, float], ...]
    metal_third: int
    metal_probability: float
    doubts: tuple[str, ...] = ()
    alloy: Alloy | None = None
    namings: tuple[Naming, ...] = ()

    def of_alloy(self, alloy: Alloy, odd: float) -> Identity:
        """The same where the columns turned out to be mixtures; `odd` as in `identify`."""
        said = {self.host.name: self.probability, **dict(self.alternatives)}
        mixed = {alloy.host.name: alloy.probability, **dict(alloy.alternatives)}
        names = dict.fromkeys([*mixed, *said])
        p = {name: (1 - odd) * mixed.get(name, 0.0) + odd * said.get(name, 0.0) for name in names}
        own = p.pop(alloy.host.name)
        others = tuple(sorted(p.items(), key=lambda item: -item[1]))
        host = alloy.host if alloy.host.crystal else replace(alloy.host, a_A=alloy.a_A)
        if self.source == "user":
            own, others = self.probability, self.alternatives
        return self._replace(
            host=host, probability=own, alternatives=others, metal_third=alloy.metal_third,
            metal_probability=alloy.metal_probability, alloy=alloy, namings=(),
        )

    def shared(self, share: float, others: tuple[tuple[str, float], ...]) -> Identity:
        """The same where crystals of another kind (`others`) have the rest of the probability."""
        hosts = ((name, share * p) for name, p in self.alternatives)
        return self._replace(
            probability=share * self.probability,
            alternatives=tuple(sorted((*hosts, *others), key=lambda item: -item[1])),
            namings=tuple(n._replace(probability=share * n.probability) for n in self.namings),
        )


    def left_with(self, chi2: float) -> Identity:
        """The same after the best model of the image leaves this reduced chi2, where that speaks for another crystal.

        A lattice of the right shape and brightness is not yet the crystal: what columns of one kind have in common is
        only seen when all of them are drawn. What the user states is not doubted.
        """
        far = np.log(max(chi2, 1.0)) / MISFIT
        odds = float(np.sqrt(np.pi / 2) * MISFIT * np.exp(0.5 * min(far, 30.0) ** 2) / MISFIT_RANGE)
        if self.source == "user" or not odds > 1.0:
            return self
        before = max(dict(self.alternatives).get("unlisted", 0.0), UNLISTED)
        unlisted = before * odds / (before * odds + 1 - before)
        rest = self._replace(alternatives=tuple(a for a in self.alternatives if a[0] != "unlisted"))
        total = rest.probability + sum(p for _, p in rest.alternatives)
        return rest.shared((1 - unlisted) / total, (("unlisted", unlisted),))


def identify(
    sites: Honeycomb, brightness: Brightness, a_px: float, *, asked: str | ProjectedHost = "auto",
    voltage_kV: float | None = None, detector_mrad: tuple[float, float] | None = None,
    stated_pixel_A: float | None = None, stated_by_user: bool = False, odd: float = ODD,
) -> Identity:
    """Weigh hosts and metal assignments by brightness ratio, stated scale and where the dim sites are.

    Parameters
    ----------
    sites, brightness
        The unnamed honeycomb and what it measures.
    a_px : float
        Isotropic lattice constant, px.
    asked : str or ProjectedHost
        "auto", or a honeycomb or the name of one.
    voltage_kV, detector_mrad
        None where unknown; the ratio's expected range is then wider.
    stated_pixel_A : float or None
        Files are wrong by 3 % as a rule and by up to 15 % now and then; the user's word counts as 2 %.
    odd : float
        Probability that the ratio says nothing of the host.
    """
    if isinstance(asked, ProjectedHost):
        hosts = [asked]
    else:
        hosts = [projected(name) for name in (INFERABLE if asked == "auto" else (asked,))]
    log_ratio, error = _measured_ratio(sites, brightness)
    evidence = {}
    for host in hosts:
        value, sigma = amplitude_ratio(host, voltage_kV, detector_mrad)
        spread = np.hypot(np.hypot(sigma / value, MODEL_ERROR), error)
        scale = scale_evidence(host.a_A / a_px, stated_pixel_A, stated_by_user)
        off = (log_ratio - np.array([1.0, -1.0]) * np.log(value)) / spread
        likely = (1 - odd) * np.exp(-0.5 * off**2) / (np.sqrt(2 * np.pi) * spread)
        share = np.exp(-0.5 * (off**2 - off.min() ** 2))
        fits = np.log(likely + odd / ODD_RANGE * share / share.sum() + 1e-300)
        for third, fit in enumerate(fits):
            dim = _vacancy_evidence(sites, brightness, third) if host.dichalcogenide else 0.0
            evidence[host.name, third] = float(fit + scale + dim + host.log_prior)
    if asked == "auto" and stated_pixel_A is not None:
        # In the units of `scale_evidence`, whose densities lack the root of two pi, the user's also its width.
        density = np.sqrt(2 * np.pi) / LATTICE_RANGE * (USER_SCALE if stated_by_user else 1.0)
        evidence["unlisted", 0] = float(np.log(UNLISTED * density / ODD_RANGE))
    return _decide(evidence, {host.name: host for host in hosts}, "inferred" if asked == "auto" else "user")


def _decide(
    evidence: Mapping[tuple[str, int], float], hosts: Mapping[str, ProjectedHost], source: str
) -> Identity:
    top = max(evidence.values())
    weight = {key: float(np.exp(value - top)) for key, value in evidence.items()}
    total = sum(weight.values())
    per_host: dict[str, float] = {}
    for (name, _), w in weight.items():
        per_host[name] = per_host.get(name, 0.0) + w / total
    best = max(hosts, key=lambda name: per_host[name])
    listed = {key: w for key, w in weight.items() if key[0] in hosts}
    first = sum(w for (_, where), w in listed.items() if where == 0) / max(sum(listed.values()), 1e-300)
    # The most probable pair with this host: the sublattice that is most probable over all hosts may go with another.
    own = listed.get((best, 0), 0.0) - listed.get((best, 1), 0.0)
    lead = own if abs(own) > 1e-9 * max(sum(listed.values()), 1e-300) else first - 0.5
    third = 0 if lead >= 0 else 1
    sure = first if third == 0 else 1 - first
    others = sorted(((n, p) for n, p in per_host.items() if n != best), key=lambda item: -item[1])
    namings = tuple(Naming(hosts[n], where, w / total) for (n, where), w in weight.items() if n in hosts)
    return Identity(hosts[best], source, per_host[best], tuple(others), third, float(sure), namings=namings)


def _measured_ratio(sites: Honeycomb, brightness: Brightness) -> tuple[float, float]:
    """Logarithm of the median brightness of Q over P, and its statistical error."""
    medians, errors = [], []
    for third in (0, 1):
        use = sites.inside & (sites.third == third)
        values = brightness.value[use]
        median = max(float(np.median(values)), 0.05 * float(np.median(brightness.sigma[use])))
        spread = 1.48 * float(np.median(np.abs(values - median)))
        medians.append(median)
        errors.append(1.25 * spread / np.sqrt(max(use.sum(), 1)) / median)
    return float(np.log(medians[1] / medians[0])), float(np.hypot(*errors))


def scale_evidence(pixel_A: float, stated_A: float | None, by_user: bool) -> float:
    """Natural logarithm of how well a pixel size agrees with the stated one."""
    if stated_A is None:
        return 0.0
    off = np.log(pixel_A / stated_A)
    if by_user:
        return float(-0.5 * (off / USER_SCALE) ** 2)
    return float(np.log(0.7 * np.exp(-0.5 * (off / 0.03) ** 2) / 0.03 + 0.3 * np.exp(-0.5 * (off / 0.12) ** 2) / 0.12))


def _vacancy_evidence(sites: Honeycomb, brightness: Brightness, metal_third: int) -> float:
    """Evidence from clearly dim sites for the metal being `metal_third`: they belong on the other sublattice.

    Against a host that is as likely to lose an atom on either (graphene): every dim site is on one of the two, so that
    what speaks for one reading speaks against the other, and neither gains from dim sites that are on both.
    Dim is less than the sites around, whatever the gain there, and by as many of the fainter sublattice's errors.
    """
    use = [np.flatnonzero(sites.inside & (sites.third == third)) for third in (0, 1)]
    if min(map(len, use)) < NEIGHBOURS:
        return 0.0
    relative = [brightness.sigma[k] / max(float(np.median(brightness.value[k])), 1e-300) for k in use]
    error = max(float(np.median(r)) for r in relative)
    dim = [int(np.sum(_beside_neighbours(sites.xy_px[k], brightness.value[k]) + 4 * error < 0.75)) for k in use]
    on_metal, on_other = dim[metal_third], dim[1 - metal_third]
    share = VACANCY_ODDS / (1 + VACANCY_ODDS)
    evidence = on_other * np.log(2 * share) + on_metal * np.log(2 * (1 - share))
    return float(np.clip(evidence, -MAX_VACANCY_EVIDENCE, MAX_VACANCY_EVIDENCE))


def _beside_neighbours(xy_px: FloatArray, value: FloatArray) -> FloatArray:
    """Values relative to the median of those around."""
    near = np.asarray(cKDTree(xy_px).query(xy_px, k=NEIGHBOURS)[1])
    around = np.median(value[near], axis=1)
    return np.asarray(value / np.maximum(around, 1e-3 * max(float(np.median(value)), 1e-300)))


def name_lattice(grid: Grid, metal_third: int) -> Lattice:
    """Put the origin on a metal site and state the polarity."""
    origin = grid.origin_px + THIRDS[metal_third] @ np.stack([grid.a_px, grid.b_px])
    return Lattice(
        grid.a_px, grid.b_px, origin, 1 if metal_third == 0 else -1, grid.covariance, grid.distortion_px,
        grid.shape_px, grid.residual_rms_px,
    )


def name_sites(sites: Honeycomb, host: ProjectedHost, metal_third: int) -> SiteMap:
    """Give sublattices their names and cell indices in the frame of `name_lattice`."""
    first = sites.third == metal_third
    shift = np.where(~first & (metal_third == 1), -1, 0)  # X at 2(a+b)/3 from the metal of the cell before
    names = np.where(first, host.sublattices[0], host.sublattices[1])
    return SiteMap(sites.ij + shift[:, None], names, sites.xy_px, sites.column, sites.inside)
