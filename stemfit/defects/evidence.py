"""All that was measured on one image, as those ask who look at several sites together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.columns import Columns
from stemfit.defects.occupancy import SitePosterior
from stemfit.defects.types import Site
from stemfit.hosts import ProjectedHost
from stemfit.imaging import Imaging
from stemfit.lattice import Lattice, Region, SiteMap

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What is known of an image before neighbouring sites are read together.

    Attributes
    ----------
    columns : Columns
        Observed, as referred to by `sites`.
    sites : SiteMap
    posteriors : tuple of SitePosterior
        One per sublattice.
    lattice : Lattice
    host : ProjectedHost
    region_map : (H, W) array
        Non-zero where nothing is said.
    imaging : Imaging
        Brightness of every kind of column.
    image : (H, W) array
        Without the jitter of rows, as the columns were fitted to it.
    regions : tuple of Region
        What is there: number k of the map is the k-th.
    explained : frozenset of int
        Observed columns that belong to a site although another one stands on it.
    """

    columns: Columns
    sites: SiteMap
    posteriors: tuple[SitePosterior, ...]
    lattice: Lattice
    host: ProjectedHost
    region_map: NDArray[np.uint8]
    imaging: Imaging
    image: FloatArray
    regions: tuple[Region, ...] = ()
    explained: frozenset[int] = frozenset()
    _rows: dict[Site, tuple[int, int]] = field(init=False, repr=False, compare=False)
    _named: dict[Site, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = {
            (int(i), int(j), str(s)): row
            for row, ((i, j), s) in enumerate(zip(self.sites.ij, self.sites.sublattice, strict=True))
        }
        names = list(named)
        judged = {
            names[int(row)]: (k, n) for k, one in enumerate(self.posteriors) for n, row in enumerate(one.site)
        }
        object.__setattr__(self, "_named", named)
        object.__setattr__(self, "_rows", judged)

    def xy_px(self, site: Site) -> FloatArray:
        """Expected position (2,) of a site, also outside the image; "H" is the hollow of its cell."""
        i, j, sublattice = site
        if site in self._named:
            return np.asarray(self.sites.xy_px[self._named[site]])
        basis = self.lattice.basis
        # A hollow is the third position of the honeycomb's cell.
        within = 1.0 - basis[1] if sublattice == "H" else basis[self.host.sublattices.index(sublattice)]
        return np.asarray(self.lattice.positions(np.array([[i, j]]) + within)[0])

    def row(self, site: Site) -> int:
        """Row of a site of the image in `sites`."""
        return self._named[site]

    def judged(self, site: Site) -> bool:
        """Whether a posterior was formed for this site."""
        return site in self._rows

    def log_likelihood(self, site: Site) -> dict[str, float]:
        """Natural logarithm of each hypothesis' likelihood by label, pristine included; empty if unjudged."""
        if site not in self._rows:
            return {}
        k, n = self._rows[site]
        one = self.posteriors[k]
        return {h.label: float(v) for h, v in zip(one.hypotheses, one.log_likelihood[n], strict=True)}

    def log_evidence(self, site: Site) -> float:
        """Natural logarithm of a site's likelihood if it is independent of its neighbours; zero if unjudged.

        All hypotheses together, weighed by their densities in this image.
        """
        if site not in self._rows:
            return 0.0
        k, n = self._rows[site]
        one = self.posteriors[k]
        with np.errstate(divide="ignore"):
            return float(logsumexp(one.log_likelihood[n] + np.log(one.rate)))

    def probability(self, site: Site) -> dict[str, float]:
        """Posterior of each hypothesis by label, pristine included; empty if unjudged."""
        if site not in self._rows:
            return {}
        k, n = self._rows[site]
        one = self.posteriors[k]
        return {h.label: float(v) for h, v in zip(one.hypotheses, one.probability[n], strict=True)}

    def doubted(self, sublattice: str) -> list[Site]:
        """Judged sites of a sublattice that are probably not pristine."""
        one = self.posteriors[self.host.sublattices.index(sublattice)]
        rows = one.site[one.probability[:, 0] < 0.5]
        return [(int(i), int(j), sublattice) for i, j in self.sites.ij[rows]]

    def rate(self, site: Site) -> dict[str, float]:
        """Share of the sites of its sublattice that each hypothesis takes, by label; empty if unjudged."""
        if site not in self._rows:
            return {}
        one = self.posteriors[self._rows[site][0]]
        return {h.label: float(v) for h, v in zip(one.hypotheses, one.rate, strict=True)}

    def strays(self) -> NDArray[np.int64]:
        """Indices of observed columns that sit on no site and belong to none."""
        taken = np.zeros(len(self.columns), dtype=bool)
        taken[self.sites.column[self.sites.column >= 0]] = True
        taken[list(self.explained)] = True
        return np.flatnonzero(~taken)
