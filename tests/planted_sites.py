"""Sites whose likelihoods are planted: what readers of several sites make of them, with no image and no fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from handmade import HOST, SHAPE, unmeasured
from numpy.typing import NDArray

from stemfit.defects import Evidence, SitePosterior, hypotheses
from stemfit.lattice import Lattice, SiteMap

Site = tuple[int, int, str]
FloatArray = NDArray[np.float64]

RATES = {"V_Se": 0.01, "V_Se2": 0.003, "V_Mo": 1e-3, "UNKNOWN": 1e-4}
IMPOSSIBLE = -60.0
VACANT = {"V_Se": 25.0, "V_Se2": 0.0}
"""A clear vacancy: natural logarithms of likelihoods, against pristine."""
EMPTY = {"V_Se": 0.0, "V_Se2": 25.0}


def field(polarity: int = 1, reach: int = 14) -> tuple[Lattice, SiteMap]:
    """Lattice of (2 reach + 1) cells a side with a metal at the origin, all of it analysed."""
    angle = np.radians(11.7)
    a, b = (20.0 * np.array([np.cos(t), -np.sin(t)]) for t in (angle, angle + np.pi / 3))
    lattice = Lattice(a, b, np.zeros(2), polarity, np.eye(6) * 1e-4, np.zeros((2, 2, 2)), SHAPE, 0.3)
    i, j, k = (n.ravel() for n in np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, (0, 1), indexing="ij"))
    within = k * (1 / 3 if polarity > 0 else 2 / 3)
    xy = np.column_stack([i + within, j + within]) @ np.stack([a, b])
    return lattice, SiteMap(
        np.column_stack([i, j]), np.where(k, "X", "M"), xy, np.full(len(i), -1), np.ones(len(i), dtype=bool)
    )


def seen(
    log_likelihood: Mapping[Site, Mapping[str, float]], polarity: int = 1, rates: Mapping[str, float] = RATES,
    where: tuple[Lattice, SiteMap] | None = None,
) -> Evidence:
    """All sites pristine beyond doubt but those named, which have these likelihoods against pristine."""
    lattice, sites = where or field(polarity)
    sites = replace(sites, column=np.full(len(sites.ij), -1))  # no columns, and none beside the sites
    posteriors = []
    for sublattice in HOST.sublattices:
        options = hypotheses(HOST, sublattice)
        rows = np.flatnonzero(sites.sublattice == sublattice)
        value = np.full((len(rows), len(options)), IMPOSSIBLE)
        value[:, 0] = 0.0
        names = {(int(i), int(j), sublattice): n for n, (i, j) in enumerate(sites.ij[rows])}
        for site, own in log_likelihood.items():
            for k, option in enumerate(options):
                if site in names and option.label in own:
                    value[names[site], k] = own[option.label]
        posteriors.append(judged(rows, options, value, rates))
    return replace(unmeasured(lattice, sites), posteriors=tuple(posteriors))


def judged(rows: NDArray[np.int64], options: tuple, value: FloatArray, rates: Mapping[str, float]) -> SitePosterior:  # type: ignore[type-arg]
    """Posterior of every site by itself."""
    rate = np.array([rates.get(h.label, 5e-4) for h in options])
    rate[0] = 1 - rate[1:].sum()
    joint = value + np.log(rate)
    probability = np.exp(joint - joint.max(1, keepdims=True))
    return SitePosterior(rows, options, probability / probability.sum(1, keepdims=True), value, rate, None)
