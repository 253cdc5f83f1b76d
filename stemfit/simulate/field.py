"""The whole image as its best explanation predicts it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.candidates import Candidate
from stemfit.columns import Columns
from stemfit.columns.stamps import render
from stemfit.defects import Defect
from stemfit.hosts import ProjectedHost
from stemfit.imaging import FOREIGN, MODEL_FLOOR, Imaging, expected_mixed
from stemfit.lattice import Brightness, Lattice, SiteMap
from stemfit.lattice.types import EDGE
from stemfit.relax import Relaxed
from stemfit.simulate.image import project

FloatArray = NDArray[np.float64]

PATCH_REACH = 1.3
"""Lattice constants round a defect within which its candidate is drawn: its first two shells of neighbours."""

ON_SITE = 0.3
"""Lattice constants from a site within which a column of a candidate is that site's: half a bond of a honeycomb."""


def whole_field(
    sites: SiteMap,
    imaging: Imaging,
    host: ProjectedHost,
    lattice: Lattice,
    defects: Sequence[Defect],
    candidates: Sequence[Candidate],
    relaxed: Sequence[Relaxed],
    brightness: Brightness,
    columns: Columns,
) -> FloatArray:
    """Image (H, W): background, pristine columns on their sites, best candidates where there are defects.

    Pristine sites carry the brightness of their type times the local gain, not their own measured one: the residual
    then shows what the explanation misses. What nothing is said of is drawn as measured: a defect without a structure
    (UNKNOWN), with what stands beside sites there; and so near to the edge that nothing is judged, sites with another
    brightness, and what stands beside sites.
    """
    value = np.array([imaging.amplitudes[host.columns[host.sublattices.index(str(s))]].value for s in sites.sublattice])
    gain = _gain(imaging, sites.xy_px)
    flat = Brightness(brightness.value / gain, brightness.sigma / gain)
    amplitude = gain * expected_mixed(sites, flat, imaging.mixtures, value)
    rows, place = sites.row_of, sites.xy_px.copy()
    for defect in defects:
        if defect.best_candidate is None:
            its = np.array([rows[s] for s in defect.sites if s in rows], dtype=np.int64)
            amplitude[its] = np.maximum(brightness.value[its], 0.0)
            there = its[sites.column[its] >= 0]
            place[there] = columns.xy_px[sites.column[there]]
    differs = np.abs(brightness.value - amplitude) > FOREIGN * np.hypot(brightness.sigma, MODEL_FLOOR * amplitude)
    stray = _unexplained(columns, sites, lattice, [d for d in defects if d.best_candidate is None])
    if stray.any():  # one that stands so near to a site has that site's light
        differs |= np.asarray(cKDTree(columns.xy_px[stray]).query(sites.xy_px)[0]) < lattice.nearest_px
    other = ~sites.analysed & differs
    amplitude[other] = np.maximum(brightness.value[other], 0.0)
    around = imaging.background + render(
        columns.xy_px[stray], columns.intensity[stray], imaging.profile, imaging.background.shape
    )
    mixed = np.isin(sites.sublattice, list(imaging.mixtures))
    mixed[[rows[s] for d in defects for s in d.sites if d.best_candidate is not None and s in rows]] = False
    named = [d for d in defects if d.best_candidate is not None]
    if not named:
        return around + render(place, amplitude, imaging.profile, imaging.background.shape)
    by_id = {c.id: (c, r) for c, r in zip(candidates, relaxed, strict=True)}
    centres = cKDTree(np.vstack([d.extent_px for d in named]))
    distance, nearest = (np.asarray(a) for a in centres.query(sites.xy_px))
    whose = np.concatenate([np.full(len(d.extent_px), k) for k, d in enumerate(named)])
    owner = whose[nearest]
    owner[distance > PATCH_REACH * lattice.a_px_iso] = -1
    xy, bright = [place[owner < 0]], [amplitude[owner < 0]]
    every_site = cKDTree(sites.xy_px)
    for k, defect in enumerate(named):
        ideal, moved, value = _columns(*by_id[str(defect.best_candidate)], imaging)
        away, site = (np.asarray(a) for a in every_site.query(ideal))
        # Each site is drawn once, by the defect nearest to it, wherever relaxation has taken its column.
        own = (away < ON_SITE * lattice.a_px_iso) & (owner[site] == k)
        # What stands beside the sites is drawn where it belongs to this defect.
        off, nearest = (np.asarray(a) for a in centres.query(ideal))
        own |= (away >= ON_SITE * lattice.a_px_iso) & (whose[nearest] == k) & (off < PATCH_REACH * lattice.a_px_iso)
        xy.append(moved[own])
        bright.append(np.where(mixed[site], amplitude[site], value)[own])
    drawn = render(np.vstack(xy), np.concatenate(bright), imaging.profile, imaging.background.shape)
    return np.asarray(around + drawn)


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


def _columns(candidate: Candidate, relaxed: Relaxed, imaging: Imaging) -> tuple[FloatArray, FloatArray, FloatArray]:
    """All columns of a candidate's patch: ideal and relaxed positions (N, 2) px, and brightness (N,)."""
    atoms = candidate.structure.occupied
    numbers = np.array([s.specie.Z for s in candidate.structure.structure])[atoms]
    seen = project(numbers, relaxed.positions_A[atoms], candidate.matrix, candidate.offset_px)
    start = candidate.structure.structure.cart_coords[atoms, :2] @ candidate.matrix.T + candidate.offset_px
    count = np.bincount(seen.column_of_atom)
    ideal = np.column_stack([np.bincount(seen.column_of_atom, axis) / count for axis in start.T])
    value = np.array([imaging.amplitude(t).value for t in seen.types])
    return ideal, seen.xy_px, value * _gain(imaging, seen.xy_px)


def _gain(imaging: Imaging, xy_px: FloatArray) -> FloatArray:
    h, w = imaging.gain.shape
    at = np.clip(np.rint(xy_px).astype(int), 0, [w - 1, h - 1])
    return np.asarray(imaging.gain[at[:, 1], at[:, 0]])
