"""Columns that left their sites: what stands in the hollows, and metals that went far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.columns.stamps import drawn
from stemfit.defects.evidence import Evidence
from stemfit.defects.occupancy import RELAXED_ERROR
from stemfit.defects.priors import PRIOR_RATES
from stemfit.defects.trefoil_shapes import Cell
from stemfit.defects.types import Site
from stemfit.imaging import MODEL_FLOOR

FloatArray = NDArray[np.float64]

IN_HOLLOW = 0.5 / np.sqrt(3)
"""A column belongs to a hollow closer than this, in lattice constants: half of the way to the next site."""

GONE = 0.45
"""How far a metal beside a reconstruction may go, in lattice constants: by potentials, up to 0.35."""

TOUCHING = 0.65
"""Distance from a place, in lattice constants, within which a stray column touches it: neighbours are 0.58 apart."""

PLACE = 0.08
"""Scatter per axis of relaxed columns about their hollows, in lattice constants: 0.05 in 36 trefoils relaxed with
potentials, which miss up to half of the displacements that DFT finds at vacancies."""

HOLLOW_AREA = np.sqrt(3) / 6
"""Share of a hollow of the plane, in squared lattice constants."""

STRAY = PRIOR_RATES["ADATOM"]
"""Probability that a column stands in a hollow for another reason, an adatom."""

DISC, BESIDE = 0.62, 0.8
"""Radius of what is looked at about a hollow, and distance of the columns that shed light on it, lattice constants."""


@dataclass(frozen=True)
class Hollow:
    """What is known of one hollow: natural logarithms of likelihoods.

    Attributes
    ----------
    stray : int
        Index of the column in it, -1 if there is none.
    pair : float
        If an X2 column stands there.
    other : float
        If no X2 column stands there: none at all, or one of any brightness.
    nothing : float
        If all that may be there is an adatom.
    """

    stray: int
    pair: float
    other: float
    nothing: float


UNSEEN = Hollow(-1, 0.0, 0.0, 0.0)
"""Outside the analysed area."""


class Loose:
    """Stray columns of an image.

    Attributes
    ----------
    strays_of : dict of cell to int
        Index of the column that stands in the hollow of a cell.
    displaced : dict of Site to int
        Index of the column beside an empty metal site that probably left it.
    """

    def __init__(self, evidence: Evidence) -> None:
        lattice, sites = evidence.lattice, evidence.sites
        self._evidence = evidence
        self._a_px = lattice.a_px_iso
        self._hollows: dict[Cell, Hollow] = {}
        self._near: dict[Site, frozenset[int]] = {}
        self._strays = evidence.strays()
        self._xy = evidence.columns.xy_px[self._strays]
        self._error = np.sqrt(evidence.columns.cov[:, 2, 2])
        cells = np.unique(sites.ij, axis=0)
        centres = lattice.positions(cells + (1.0 - lattice.basis[1])) if len(cells) else np.zeros((0, 2))
        self.strays_of = self._in_hollows(cells, centres) if len(cells) and len(self._strays) else {}
        self.displaced = self._displaced()

    def _in_hollows(self, cells: NDArray[np.int64], centres_px: FloatArray) -> dict[Cell, int]:
        found = {}
        distance, nearest = (np.asarray(a) for a in cKDTree(centres_px).query(self._xy))
        for k in np.argsort(-distance):  # nearer ones write last and win
            if distance[k] < IN_HOLLOW * self._a_px and self._seen(self._xy[k]):
                i, j = cells[nearest[k]]
                found[int(i), int(j)] = int(self._strays[k])
        return found

    def hollow(self, cell: Cell) -> Hollow:
        """Likelihoods of what is in the hollow of a cell."""
        if cell not in self._hollows:
            self._hollows[cell] = self._read(cell)
        return self._hollows[cell]

    def _read(self, cell: Cell) -> Hollow:
        evidence = self._evidence
        xy = evidence.xy_px((*cell, "H"))
        if not self._seen(xy):
            return UNSEEN
        pair, spread = self._pair(xy)
        stray = self.strays_of.get(cell)
        any_light = -np.log(4 * pair)  # as for the UNKNOWN of a site: from nothing to four times the full column
        if stray is None:
            value, error = self._light(xy)
            dark = _log_normal(value, error)
            right, odd = _log_normal(value - pair, np.hypot(error, spread)), any_light if value > 0 else -np.inf
            return Hollow(
                -1, right, float(np.logaddexp(dark, odd) - np.log(2)),
                float(np.logaddexp(dark + np.log1p(-STRAY), odd + np.log(STRAY))),
            )
        value, own = evidence.columns.intensity[stray], np.sqrt(evidence.columns.cov[stray, 2, 2])
        unknown = PRIOR_RATES["UNKNOWN"]
        normal = _log_normal(value - pair, np.hypot(own, spread))
        light = np.logaddexp(normal + np.log1p(-unknown), any_light + np.log(unknown))
        off = np.hypot(*(evidence.columns.xy_px[stray] - xy)) / self._a_px
        place = -0.5 * (off / PLACE) ** 2 - np.log(2 * np.pi * PLACE**2)
        somewhere = any_light - np.log(HOLLOW_AREA)
        return Hollow(stray, float(light + place), float(somewhere + np.log(0.5)), float(somewhere + np.log(STRAY)))

    def _displaced(self) -> dict[Site, int]:
        """Empty metal sites with a column beside them that is as bright as a metal, and which stray column that is."""
        evidence, found = self._evidence, {}
        first, second = (evidence.imaging.amplitudes[name].value for name in evidence.host.columns)
        free = np.setdiff1d(self._strays, list(self.strays_of.values()))
        for row in np.flatnonzero((evidence.sites.sublattice == "M") & (evidence.sites.column < 0)):
            off = np.hypot(*(evidence.columns.xy_px[free] - evidence.sites.xy_px[row]).T)
            gain = self._gain(evidence.sites.xy_px[row])
            light, error = (a / gain for a in (evidence.columns.intensity[free], self._error[free]))
            # Nearer to a metal than to X2, or hardly told from it: in WSe2 both are as bright.
            error = np.hypot(error, RELAXED_ERROR * first)
            like = np.abs(light - first) < np.maximum(np.abs(light - second), 2 * error)
            off = np.where(like, off, np.inf)
            if len(off) and off.min() < GONE * self._a_px:
                i, j = evidence.sites.ij[row]
                found[int(i), int(j), "M"] = int(free[int(np.argmin(off))])
        return found

    def near(self, site: Site) -> frozenset[int]:
        """Stray columns that touch a place."""
        if site not in self._near:
            off = np.hypot(*(self._xy - self._evidence.xy_px(site)).T)
            self._near[site] = frozenset(self._strays[off < TOUCHING * self._a_px].tolist())
        return self._near[site]

    def _pair(self, xy_px: FloatArray) -> tuple[float, float]:
        """Brightness of an X2 column here and its scatter, with what relaxation does to it."""
        imaging, name = self._evidence.imaging, self._evidence.host.columns[1]
        value = imaging.amplitudes[name].value * self._gain(xy_px)
        return value, value * float(np.linalg.norm([imaging.scatter_of(name), MODEL_FLOOR, RELAXED_ERROR]))

    def _gain(self, xy_px: FloatArray) -> float:
        gain = self._evidence.imaging.gain
        x, y = np.clip(np.rint(xy_px).astype(int), 0, np.array(gain.shape[::-1]) - 1)
        return float(gain[y, x])

    def _light(self, xy_px: FloatArray) -> tuple[float, float]:
        """Brightness and its error of a column held at a place where the search found none.

        Fitted to what the model leaves over round there, together with the brightness and position of the columns
        beside it and with the background, which take up its light where the model lacks it.
        """
        evidence, a = self._evidence, self._a_px
        columns, (h, w) = evidence.columns, evidence.image.shape
        x0, y0 = np.maximum(np.floor(xy_px - DISC * a).astype(int), 0)
        x1, y1 = np.minimum(np.ceil(xy_px + DISC * a).astype(int) + 1, [w, h])
        near = np.flatnonzero(np.hypot(*(columns.xy_px - xy_px).T) < BESIDE * a)
        corner = np.array([x0, y0])
        shape, along_x, along_y = drawn(
            np.vstack([xy_px, columns.xy_px[near]]) - corner, columns.profile, (y1 - y0, x1 - x0)
        )
        y, x = np.mgrid[y0:y1, x0:x1]
        disc = np.hypot(x - xy_px[0], y - xy_px[1]) < DISC * a
        light = columns.intensity[near, None]
        design = np.vstack(
            [shape[:, disc], light * along_x[1:, disc], light * along_y[1:, disc], np.ones((1, disc.sum()))]
        )
        box = slice(y0, y1), slice(x0, x1)
        left = (evidence.image[box] - columns.model[box])[disc]
        variance = columns.noise.variance(columns.model[box][disc]) * columns.noise.pixels_per_sample
        weighted = design / np.maximum(variance, 1e-12 * float(np.max(np.abs(evidence.image))) ** 2)
        cov = np.linalg.pinv(weighted @ design.T, hermitian=True)
        shed = MODEL_FLOOR * max(evidence.imaging.amplitudes[name].value for name in evidence.host.columns)
        return float(cov[0] @ (weighted @ left)), float(np.hypot(np.sqrt(cov[0, 0]), shed * self._gain(xy_px)))

    def _seen(self, xy_px: FloatArray) -> bool:
        """Whether a place lies in the analysed area, as far from the edge of the image as sites that are judged."""
        evidence = self._evidence
        h, w = evidence.region_map.shape
        margin = 2.0 * evidence.columns.profile.width_px
        inside = bool((xy_px > margin).all() and (xy_px < np.array([w - 1, h - 1]) - margin).all())
        return inside and evidence.region_map[round(float(xy_px[1])), round(float(xy_px[0]))] == 0


def _log_normal(off: float, sigma: float) -> float:
    return float(-0.5 * (off / sigma) ** 2 - 0.5 * np.log(2 * np.pi) - np.log(sigma))
