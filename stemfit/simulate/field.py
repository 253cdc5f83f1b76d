"""The whole image as its best explanation predicts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.candidates import Candidate
from stemfit.columns import Columns
from stemfit.columns.stamps import render
from stemfit.defects import Defect, SitePosterior
from stemfit.hosts import ProjectedHost
from stemfit.imaging import FOREIGN, MODEL_FLOOR, Imaging, expected_mixed
from stemfit.lattice import Brightness, Lattice, SiteMap
from stemfit.lattice.types import EDGE
from stemfit.optics.scattering import column_elements
from stemfit.relax import Relaxed
from stemfit.simulate.image import project

FloatArray = NDArray[np.float64]

PATCH_REACH = 1.3
"""Lattice constants round a defect within which its candidate is drawn: its first two shells of neighbours."""

ON_SITE = 0.3
"""Lattice constants from a site within which a column of a candidate is that site's: half a bond of a honeycomb."""


TIE = 1e-3
"""Lattice constants by which one of two defects must be nearer to a place to have it; else the first in order has it.
Places that a crystal's symmetry puts in the middle are then decided by no rounding."""

SHELL = 12
"""Sites of defects that may be equally far: two shells of six round a place."""


class Drawn(NamedTuple):
    """Columns of the whole image, as scanned without jitter.

    Attributes
    ----------
    xy_px : (N, 2) array
    light : (N,) array
        Integral of each, image units x px^2; 0 where nothing is left.
    told : (N,) bool array
        What the structure of the whole field (`stemfit.result.field`) says: atoms of judged sites, and what candidates
        add. Others are drawn as they were measured.
    on_site : (N,) bool array
        Not beside the sites of the crystal.
    """

    xy_px: FloatArray
    light: FloatArray
    told: NDArray[np.bool_]
    on_site: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> Drawn:
        """Some of them."""
        return Drawn(self.xy_px[chosen], self.light[chosen], self.told[chosen], self.on_site[chosen])


def painted(drawing: Drawn, imaging: Imaging) -> FloatArray:
    """Image (H, W) of columns on the background."""
    return np.asarray(
        imaging.background + render(drawing.xy_px, drawing.light, imaging.profile, imaging.background.shape)
    )


def drawn(
    sites: SiteMap,
    imaging: Imaging,
    host: ProjectedHost,
    lattice: Lattice,
    defects: Sequence[Defect],
    candidates: Sequence[Candidate],
    relaxed: Sequence[Relaxed],
    brightness: Brightness,
    columns: Columns,
    mixed: Sequence[SitePosterior] = (),
) -> Drawn:
    """Columns of the whole image: pristine ones on their sites, best candidates where there are defects.

    `mixed` is what is known of the mixed sublattices of an alloy; without it their brightness alone is asked.

    Pristine sites carry the brightness of their type times the local gain, not their own measured one: the residual
    then shows what the explanation misses. What nothing is said of is drawn as measured: a defect without a structure
    (UNKNOWN), with what stands beside sites there; and so near to the edge that nothing is judged, sites with another
    brightness, and what stands beside sites.
    """
    unknown = [d for d in defects if d.best_candidate is None]
    named = [d for d in defects if d.best_candidate is not None]
    stray = _unexplained(columns, sites, lattice, unknown)
    types = likeliest_types(mixed, sites, host)
    full = _full_light(sites, imaging, host, brightness, types)
    on_sites = _on_sites(sites, full, unknown, brightness, columns, columns.xy_px[stray], lattice.nearest_px)
    nowhere = np.zeros(int(stray.sum()), dtype=bool)
    measured = Drawn(columns.xy_px[stray], columns.intensity[stray], nowhere, nowhere)
    if not named:
        return _together([on_sites, measured])
    by_id = {c.id: (c, r) for c, r in zip(candidates, relaxed, strict=True)}
    territory = Territory([d.extent_px for d in named], sites.xy_px, lattice.a_px_iso)
    free = territory.owner < 0
    parts = [on_sites.where(free), measured]
    rows = sites.row_of
    alloyed = np.isin(sites.sublattice, list(imaging.mixtures))
    alloyed[[rows[s] for d in named for s in d.sites if s in rows]] = False
    for k, defect in enumerate(named):
        candidate, moved = by_id[str(defect.best_candidate)]
        ideal, xy, value, added = _columns(candidate, moved, imaging)
        own, site, on = territory.of(k, ideal)
        shown = on & alloyed[site]
        together = np.bincount(site[shown], value[shown], len(alloyed))[site]  # of a pair that is torn in two
        light = np.where(shown, on_sites.light[site] * value / np.where(shown, together, 1.0), value)
        told = np.where(on, on_sites.told[site], added)
        parts.append(Drawn(xy, light, told, on).where(own & (on | in_image(xy, lattice.shape_px))))
    return _together(parts)


def _together(parts: Sequence[Drawn]) -> Drawn:
    return Drawn(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def likeliest_types(mixed: Sequence[SitePosterior], sites: SiteMap, host: ProjectedHost) -> dict[int, str]:
    """Most probable type of the full columns of an alloy's mixed sublattices, by row of the site map."""
    pristine, found = dict(zip(host.sublattices, host.columns, strict=True)), dict[int, str]()
    for posterior in mixed:
        if posterior.p_species is None or not len(posterior.site):
            continue
        atoms = len(column_elements(pristine[str(sites.sublattice[posterior.site[0]])]))
        full = [k for k, t in enumerate(posterior.species) if t and len(column_elements(t)) == atoms]
        best = np.asarray(posterior.p_species)[:, full].argmax(1)
        found.update({int(row): posterior.species[full[k]] for row, k in zip(posterior.site, best, strict=True)})
    return found


def _full_light(
    sites: SiteMap, imaging: Imaging, host: ProjectedHost, brightness: Brightness, types: Mapping[int, str]
) -> FloatArray:
    """Integral (S,) of the complete column of every site, of these types where they are known."""
    value = np.array([imaging.amplitudes[host.columns[host.sublattices.index(str(s))]].value for s in sites.sublattice])
    gain = gain_at(imaging.gain, sites.xy_px)
    flat = Brightness(brightness.value / gain, brightness.sigma / gain)
    light = expected_mixed(sites, flat, imaging.mixtures, value)
    for row, column in types.items():
        light[row] = imaging.amplitude(column).value
    return gain * light


def _on_sites(
    sites: SiteMap, full: FloatArray, unknown: Sequence[Defect], brightness: Brightness, columns: Columns,
    stray_px: FloatArray, nearest_px: float,
) -> Drawn:
    """One column on every site, in the order of the sites, as if there were no defects but unknown ones."""
    light, place = full.copy(), sites.xy_px.copy()
    told, rows = sites.analysed.copy(), sites.row_of
    for defect in unknown:
        its = np.array([rows[s] for s in defect.sites if s in rows], dtype=np.int64)
        light[its], told[its] = np.maximum(brightness.value[its], 0.0), False
        there = its[sites.column[its] >= 0]
        place[there] = columns.xy_px[sites.column[there]]
    differs = np.abs(brightness.value - light) > FOREIGN * np.hypot(brightness.sigma, MODEL_FLOOR * light)
    if len(stray_px):  # one that stands so near to a site has that site's light
        differs |= np.asarray(cKDTree(stray_px).query(sites.xy_px)[0]) < nearest_px
    other = ~sites.analysed & differs
    light[other] = np.maximum(brightness.value[other], 0.0)
    return Drawn(place, light, told, np.ones(len(told), dtype=bool))


class Territory:
    """Which sites, and which columns of a candidate, are drawn by which of the defects that have a structure.

    Parameters
    ----------
    extents_px : sequence of (K, 2) arrays
        Of each defect.
    sites_px : (S, 2) array
    a_px : float
        Lattice constant.

    Attributes
    ----------
    nearest : (S,) int array
        Index of the defect nearest to each site, see `TIE`.
    owner : (S,) int array
        The same, -1 beyond `PATCH_REACH`.
    """

    def __init__(self, extents_px: Sequence[FloatArray], sites_px: FloatArray, a_px: float) -> None:
        self._a_px, self._sites = a_px, cKDTree(sites_px)
        self._centres = cKDTree(np.vstack(list(extents_px)))
        self._whose = np.concatenate([np.full(len(extent), k) for k, extent in enumerate(extents_px)])
        self.nearest, near = self._nearest(sites_px)
        self.owner = np.where(near, self.nearest, -1)

    def _nearest(self, xy_px: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Defect (N,) nearest to each place, and whether it is within reach."""
        ranks = np.arange(1, min(SHELL, len(self._whose)) + 1)
        distance, which = (np.asarray(a) for a in self._centres.query(xy_px, k=ranks))
        as_near = distance <= distance[:, :1] + TIE * self._a_px
        nearest = np.where(as_near, self._whose[which], len(self._whose)).min(1)
        return nearest, distance[:, 0] <= PATCH_REACH * self._a_px

    def of(self, defect: int, ideal_px: FloatArray) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.bool_]]:
        """Of columns that belong at these places (N, 2): whether this defect draws them, their site, whether on it.

        Each site is drawn once, by the defect nearest to it, wherever relaxation has taken its column; what stands
        beside the sites is drawn where it belongs to this defect.
        """
        away, site = (np.asarray(a) for a in self._sites.query(ideal_px))
        on = away < ON_SITE * self._a_px
        beside, near = self._nearest(ideal_px)
        return np.where(on, self.owner[site], np.where(near, beside, -1)) == defect, site, on


def _unexplained(
    columns: Columns, sites: SiteMap, lattice: Lattice, unknown: Sequence[Defect]
) -> NDArray[np.bool_]:
    """Columns (N,) of no site where no site is judged, or that belong to a defect without a structure."""
    h, w = lattice.shape_px
    here = np.minimum(columns.xy_px, [w - 1, h - 1] - columns.xy_px).min(1) < EDGE * lattice.a_px_iso
    if unknown:
        extent = cKDTree(np.vstack([d.extent_px for d in unknown]))
        here |= np.asarray(extent.query(columns.xy_px)[0]) < lattice.nearest_px
    alone = np.ones(len(columns), dtype=bool)
    alone[sites.column[sites.column >= 0]] = False
    return np.asarray(alone & here)


def _columns(
    candidate: Candidate, relaxed: Relaxed, imaging: Imaging
) -> tuple[FloatArray, FloatArray, FloatArray, NDArray[np.bool_]]:
    """All columns of a candidate's patch: ideal and relaxed positions (N, 2) px, brightness, and which were added."""
    from definet.structures import CHANGED

    atoms = candidate.structure.occupied
    numbers = np.array([s.specie.Z for s in candidate.structure.structure])[atoms]
    seen = project(numbers, relaxed.positions_A[atoms], candidate.matrix, candidate.offset_px)
    start = candidate.structure.structure.cart_coords[atoms, :2] @ candidate.matrix.T + candidate.offset_px
    count = np.bincount(seen.column_of_atom)
    ideal = np.column_stack([np.bincount(seen.column_of_atom, axis) / count for axis in start.T])
    added = np.bincount(seen.column_of_atom, candidate.structure.marker[atoms] == CHANGED) > 0
    value = np.array([imaging.amplitude(t).value for t in seen.types])
    return ideal, seen.xy_px, value * gain_at(imaging.gain, seen.xy_px), added


def in_image(xy_px: FloatArray, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which columns (N,) lie in an image: the light of others is in its background, or was measured with it."""
    return np.asarray((xy_px > -0.5).all(1) & (xy_px < np.array(shape)[::-1] - 0.5).all(1))


def gain_at(gain: FloatArray, xy_px: FloatArray) -> FloatArray:
    """Gain (H, W) at the pixels nearest to places (N, 2)."""
    h, w = gain.shape
    at = np.clip(np.rint(xy_px).astype(int), 0, [w - 1, h - 1])
    return np.asarray(gain[at[:, 1], at[:, 0]])
