"""The whole image as its best explanation predicts it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stemfit.candidates import Candidate
from stemfit.columns import Columns
from stemfit.columns.stamps import render
from stemfit.defects import Defect
from stemfit.hosts import ProjectedHost
from stemfit.imaging import Imaging
from stemfit.lattice import Brightness, Lattice, SiteMap
from stemfit.relax import Relaxed
from stemfit.simulate.image import project

FloatArray = NDArray[np.float64]


def whole_field(
    columns: Columns,
    sites: SiteMap,
    imaging: Imaging,
    host: ProjectedHost,
    lattice: Lattice,
    defects: Sequence[Defect],
    candidates: Sequence[Candidate],
    relaxed: Sequence[Relaxed],
    brightness: Brightness,
) -> FloatArray:
    """Image (H, W): background, pristine columns on their sites, best candidates where there are defects.

    Pristine sites carry the brightness of their type times the local gain, not their own measured one: the residual
    then shows what the explanation misses. Sites of a defect without a structure (UNKNOWN) are drawn as measured.
    """
    value = np.array([imaging.amplitudes[host.columns[host.sublattices.index(str(s))]].value for s in sites.sublattice])
    amplitude = value * _gain(imaging, sites.xy_px)
    xy, keep = sites.xy_px.copy(), np.ones(len(value), dtype=bool)
    extra_xy, extra = [], []
    by_id = {c.id: (c, r) for c, r in zip(candidates, relaxed, strict=True)}
    rows = {(int(i), int(j), str(s)): k for k, ((i, j), s) in enumerate(zip(sites.ij, sites.sublattice, strict=True))}
    for defect in defects:
        if defect.best_candidate is None:
            own = [rows[s] for s in defect.sites if s in rows]
            amplitude[own] = np.maximum(brightness.value[own], 0.0)
            continue
        place, bright, reach = _patch(*by_id[defect.best_candidate], defect, imaging, lattice)
        keep &= np.hypot(*(sites.xy_px - defect.center_px).T) > reach
        extra_xy.append(place)
        extra.append(bright)
    xy, amplitude = np.vstack([xy[keep], *extra_xy]), np.concatenate([amplitude[keep], *extra])
    return imaging.background + render(xy, amplitude, imaging.profile, imaging.background.shape)


def _patch(
    candidate: Candidate, relaxed: Relaxed, defect: Defect, imaging: Imaging, lattice: Lattice
) -> tuple[FloatArray, FloatArray, float]:
    """Columns of a candidate within 1.3 lattice constants of its defect."""
    atoms = candidate.structure.occupied
    numbers = np.array([s.specie.Z for s in candidate.structure.structure])[atoms]
    seen = project(numbers, relaxed.positions_A[atoms], candidate.matrix, candidate.offset_px)
    reach = float(np.hypot(*(defect.extent_px - defect.center_px).T).max()) + 1.3 * lattice.a_px_iso
    inside = np.hypot(*(seen.xy_px - defect.center_px).T) <= reach
    value = np.array([imaging.amplitude(t).value for t, k in zip(seen.types, inside, strict=True) if k])
    return seen.xy_px[inside], value * _gain(imaging, seen.xy_px[inside]), reach


def _gain(imaging: Imaging, xy_px: FloatArray) -> FloatArray:
    h, w = imaging.gain.shape
    at = np.clip(np.rint(xy_px).astype(int), 0, [w - 1, h - 1])
    return np.asarray(imaging.gain[at[:, 1], at[:, 0]])
