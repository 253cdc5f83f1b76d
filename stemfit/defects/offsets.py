"""Where a column stands beside its site, and what that says about what it is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.columns import Columns
from stemfit.lattice import SiteMap

FloatArray = NDArray[np.float64]

AROUND = 13
"""Columns whose median displacement is taken off that of the one in their middle, itself included: what strain and scan
displace goes with its neighbours."""

DISPLACED, DISPLACED_SHARE = 0.05, 0.02
"""How far columns beside single vacancies and exchanged atoms move per axis, in distances of neighbours (5 to 10 pm of
some 180), and the share of columns that do."""

BESIDE, BESIDE_GAP, BESIDE_SHARE = 2.0, 0.1, 0.5
"""The same of columns within this distance of a site without a column, or of a column without a site (20 to 30 pm
beside double vacancies): half of them do."""

MERGED = 0.5
"""An added atom nearer to a column than this, in distances of neighbours, is fitted as one with it."""

OFF_CENTRE = 0.4
"""How far a metal may stand beside the site of the chalcogens that it took, in distances of neighbours: minima are
found in the middle and 50 pm beside it."""


class Offsets(NamedTuple):
    """Distance of the column of every site from it, in distances of neighbouring sites, NaN where there is none.

    Attributes
    ----------
    away : (S,) array
        From the site, less what the columns around are displaced.
    sigma : (S,) array
        Standard error per axis, with the usual scatter of the sublattice.
    beside : (S,) bool array
        Whether a column is missing, or one stands off the lattice, next to it.
    """

    away: FloatArray
    sigma: FloatArray
    beside: NDArray[np.bool_]

    def of(self, rows: NDArray[np.int64]) -> Offsets:
        """Those of some sites."""
        return Offsets(self.away[rows], self.sigma[rows], self.beside[rows])


def offsets(columns: Columns, sites: SiteMap) -> Offsets:
    """Measure the offsets of all columns that stand on sites."""
    away, sigma = np.full(len(sites.column), np.nan), np.full(len(sites.column), np.nan)
    there = np.flatnonzero(sites.column >= 0)
    if len(there) < AROUND:
        return Offsets(away, sigma, np.zeros(len(away), dtype=bool))
    tree, of = cKDTree(sites.xy_px[there]), sites.column[there]
    distance, near = tree.query(sites.xy_px[there], k=AROUND)
    unit = float(np.median(np.asarray(distance)[:, 1]))
    moved = (columns.xy_px[of] - sites.xy_px[there]) / unit
    moved = moved - np.median(moved[near], axis=1)
    error = np.sqrt((columns.cov[of, 0, 0] + columns.cov[of, 1, 1]) / 2) / unit
    away[there] = np.hypot(*moved.T)
    for sublattice in np.unique(sites.sublattice):
        own = sites.sublattice[there] == sublattice
        usual = 1.4826 * float(np.median(np.abs(moved[own])))
        beyond = max(usual**2 - float(np.median(error[own])) ** 2, 0.0)
        sigma[there[own]] = np.sqrt(error[own] ** 2 + beyond)
    strays = np.setdiff1d(np.arange(len(columns)), of)
    gaps = np.vstack([sites.xy_px[sites.column < 0], columns.xy_px[strays]])
    near_gap = np.asarray(cKDTree(gaps).query(sites.xy_px)[0]) if len(gaps) else np.full(len(away), np.inf)
    return Offsets(away, sigma, (near_gap > 0) & (near_gap < BESIDE * unit))


def log_ratio(found: Offsets, reach: FloatArray | float) -> FloatArray:
    """How much more likely (natural logarithm) an offset is for what may stand anywhere within `reach` of its site.

    Against a column that stays where it belongs but for the displacements beside defects. Half of what may stand beside
    its site stands on it all the same. Zero where there is no column.
    """
    away, sigma = np.nan_to_num(found.away), np.nan_to_num(found.sigma, nan=1.0)
    on_site = _log_normal(away, sigma)
    moved = np.where(found.beside, BESIDE_GAP, DISPLACED)
    share = np.where(found.beside, BESIDE_SHARE, DISPLACED_SHARE)
    usual = np.logaddexp(on_site + np.log1p(-share), _log_normal(away, np.hypot(sigma, moved)) + np.log(share))
    radius = np.sqrt(np.square(reach) + 4 * sigma**2)  # of a disc as wide as one that errors have blurred
    beyond = np.maximum(away - radius, 0.0) / sigma
    beside = -np.log(np.pi * radius**2) - 0.5 * beyond**2
    ratio = np.logaddexp(on_site, beside) + np.log(0.5) - usual
    return np.asarray(np.where(np.isfinite(found.away), ratio, 0.0))


def _log_normal(away: FloatArray, sigma: FloatArray) -> FloatArray:
    """Logarithm of the density in the plane at a distance from the centre."""
    return np.asarray(-0.5 * (away / sigma) ** 2 - np.log(2 * np.pi * sigma**2))
