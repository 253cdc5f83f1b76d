"""What the sites of an image hold: for and against a structure that changes them, before a pixel is simulated.

A cross-correlation asks whether light is missing and appears as a structure has it; where atoms moved by more than the
structure knows, as beside lines, it hardly answers, and anything that lacks more light answers louder. The light of
every site was measured wherever its column stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.defects import CLAIM, Site, SitePosterior
from stemfit.hosts import column_type
from stemfit.lattice import SiteMap
from stemfit.matching.given import Given
from stemfit.optics.scattering import column_elements

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

ELSE = 1e-2
"""Share of the sites of a structure that is there which do not look as they should: beside another defect, under dirt,
or with a neighbour's light."""


class Held:
    """For every site and every column type, how much likelier it holds that than what such sites hold anyway.

    Parameters
    ----------
    posteriors : sequence of SitePosterior
        One for each sublattice.
    sublattices : sequence of str
    sites : SiteMap
    """

    def __init__(self, posteriors: Sequence[SitePosterior], sublattices: Sequence[str], sites: SiteMap) -> None:
        self.low = sites.ij.min(0)
        self.shape = tuple((sites.ij.max(0) - self.low + 1).tolist())
        self.cells = {n: sites.ij[p.site] - self.low for n, p in zip(sublattices, posteriors, strict=True)}
        self.posterior = dict(zip(sublattices, posteriors, strict=True))
        self._known: dict[tuple[str, str, float], FloatArray] = {}

    def log_odds(self, changed: Mapping[Site, str], cells: IntArray, odd: float = ELSE) -> FloatArray:
        """Of a structure whose `changed` sites hold these column types, moved by cells (T, 2): (T,).

        What stands beside sites, and sites that are not judged, say nothing here. A share `odd` of sites may look
        otherwise.
        """
        total = np.zeros(len(cells))
        for (i, j, name), column in changed.items():
            if name in self.posterior:
                at = cells + np.array([i, j]) - self.low
                known = ((at >= 0) & (at < self.shape)).all(1)
                total[known] += self._of(name, column, odd)[at[known, 0], at[known, 1]]
        return total

    def between(self, some: Sequence[Mapping[Site, str]]) -> FloatArray:
        """Log odds of several structures (C,) against each other: on all sites that any of them changes.

        Of the perfect crystal all sites must look as they should: what looks otherwise is not the crystal.
        """
        every = {site for one in some for site in one if site[2] in self.posterior}
        here = np.zeros((1, 2), dtype=np.int64)
        whole = {site: self.posterior[site[2]].hypotheses[0].column for site in every}
        return np.array([float(self.log_odds({**whole, **one}, here, ELSE if one else 0.0)[0]) for one in some])

    def anything(self, some: Collection[Site]) -> float:
        """Log odds, as those of `log_odds`, of columns on some sites that are none of all that has a name."""
        total = 0.0
        for site in some:
            for one, row in self._row(site):
                total += float(one.log_likelihood[row, -1] - _every(one)[row])
        return total

    def changed(self, some: Collection[Site]) -> set[Site]:
        """Those sites among some that more probably are not as in the perfect crystal."""
        return {site for site in some for one, row in self._row(site) if one.probability[row, 0] < CLAIM}

    def _row(self, site: Site) -> list[tuple[SitePosterior, int]]:
        """The posterior of a site's sublattice and its row there; nothing if it is not judged."""
        i, j, name = site
        if name not in self.posterior:
            return []
        rows = np.flatnonzero((self.cells[name] == np.array([i, j]) - self.low).all(1))
        return [(self.posterior[name], int(row)) for row in rows]

    def _of(self, name: str, column: str, odd: float) -> FloatArray:
        """Over all cells."""
        if (name, column, odd) not in self._known:
            one = self.posterior[name]
            field = np.zeros(self.shape)
            field[self.cells[name][:, 0], self.cells[name][:, 1]] = _log_odds(one, column, odd)
            self._known[name, column, odd] = field
        return self._known[name, column, odd]


def _log_odds(one: SitePosterior, column: str, odd: float) -> FloatArray:
    """Of a column type against all that sites of a sublattice hold: (K,)."""
    here = _hypotheses(one, column)
    if not here:  # nobody knows how bright that is
        return np.zeros(len(one.site))
    own = logsumexp(one.log_likelihood[:, here], axis=1) - np.log(len(here))
    if odd > 0:
        own = np.logaddexp(np.log1p(-odd) + own, np.log(odd) + one.log_likelihood[:, -1])
    return np.asarray(own - _every(one))


def _every(one: SitePosterior) -> FloatArray:
    """Log likelihood (K,) of what such sites hold anyway."""
    return np.asarray(logsumexp(one.log_likelihood + np.log(np.maximum(one.rate, 1e-300)), axis=1))


def _hypotheses(one: SitePosterior, column: str) -> list[int]:
    """Those with this column; in a mixture, where one atom is missing, all that lack one."""
    same = [k for k, h in enumerate(one.hypotheses) if h.column == column]
    if same or column not in one.species:
        return same
    whole = len(column_elements(column)) == len(column_elements(one.species[0]))
    return [0] if whole else [k for k, h in enumerate(one.hypotheses) if h.type == "SV"]


def columns_at(given: Given, places: FloatArray) -> list[str]:
    """What a structure has at places (C, 2) that it changes, in cell coordinates: column types, "" for nothing."""
    basis = given.crystal.basis
    held: list[Counter[str]] = []
    for u, v in places:
        atoms = Counter(a.element for a in basis if _whole(u - a.u, v - a.v))
        for site in given.edit.remove:
            atoms[basis[site.k].element] -= _same(site.i + basis[site.k].u - u, site.j + basis[site.k].v - v)
        for exchange in given.edit.exchange:
            s = exchange.site
            there = _same(s.i + basis[s.k].u - u, s.j + basis[s.k].v - v)
            atoms[basis[s.k].element] -= there
            atoms[exchange.element] += there
        for a in given.edit.add:
            atoms[a.element] += _same(a.u - u, a.v - v)
        held.append(+atoms)
    return [column_type(atoms.elements()) for atoms in held]


def _whole(du: float, dv: float) -> bool:
    return _same(du - round(du), dv - round(dv))


def _same(du: float, dv: float) -> bool:
    return max(abs(du), abs(dv)) < 1e-3
