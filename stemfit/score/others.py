"""What other defects do to the surroundings of one: a candidate must not be blamed for its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.candidates import Candidate
from stemfit.columns import Columns
from stemfit.defects import Defect
from stemfit.imaging import Imaging
from stemfit.lattice import Brightness, SiteMap
from stemfit.relax import Relaxed

FloatArray = NDArray[np.float64]

NEAR_A, FIELD_FADE_A = 2.0, 4.0
"""The field of a neighbouring defect fades over the second length beyond the first, Angstrom. What it moves far away is
common to all columns there, and the lattice was fitted to them with the smooth distortion of the scan: added once more,
it displaces whole patches by up to 20 pm beside lines and trefoils."""


@dataclass(frozen=True, eq=False)
class Field:
    """How a defect moves the columns round it; the fields of several add up.

    Attributes
    ----------
    sites_px : (K, 2) array
        The defect's sites.
    nodes_px, shift_px : (N, 2) array
        Columns of the perfect crystal, and how far its structure moves them; empty if it has none.
    """

    sites_px: FloatArray
    nodes_px: FloatArray
    shift_px: FloatArray

    @property
    def largest_px(self) -> float:
        """Largest component of a displacement."""
        return float(np.abs(self.shift_px).max(initial=0.0))

    def at(self, xy_px: FloatArray, reach_px: float) -> FloatArray:
        """Displacement (M, 2) of columns near `xy_px` (M, 2); none where no node is within reach."""
        if len(self.nodes_px) == 0:
            return np.zeros_like(xy_px)
        distance, nearest = (np.asarray(a) for a in self._tree.query(xy_px))
        return np.where(distance[:, None] < reach_px, self.shift_px[nearest], 0.0)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.nodes_px)  # every candidate of a neighbour asks


def superposed(fields: Sequence[Field], sites_px: FloatArray, reach_px: float, same_px: float) -> Field:
    """Sum of fields at their columns within reach of sites (K, 2); nodes closer than `same_px` are one column."""
    nodes, tree, sites = np.empty((0, 2)), None, cKDTree(sites_px)
    for field in fields:
        near = field.nodes_px[np.asarray(sites.query(field.nodes_px)[0]) < reach_px]
        if tree is not None and len(near):
            near = near[np.asarray(tree.query(near)[0]) >= same_px]
        nodes = np.vstack([nodes, near])
        tree = cKDTree(nodes) if len(nodes) else None
    shift = sum((field.at(nodes, same_px) for field in fields), np.zeros_like(nodes))
    return Field(np.vstack([np.empty((0, 2)), *(field.sites_px for field in fields)]), nodes, shift)


class Others(NamedTuple):
    """What is measured on the sites of all other defects, and how far they move what is around them.

    Attributes
    ----------
    xy_px : (K, 2) array
    value, sigma : (K,) array
        Integrated intensity and its standard error, image units x px^2.
    fields : tuple of Field
    """

    xy_px: FloatArray
    value: FloatArray
    sigma: FloatArray
    fields: tuple[Field, ...] = ()

    def at(self, seen: NDArray[np.bool_], corner: FloatArray, pixel: float) -> Others:
        """Those `seen`, relative to a corner, on pixels of another size."""
        fields = tuple(
            Field((f.sites_px - corner) / pixel, (f.nodes_px - corner) / pixel, f.shift_px / pixel) for f in self.fields
        )
        return Others(
            (self.xy_px[seen] - corner) / pixel, self.value[seen] / pixel**2, self.sigma[seen] / pixel**2, fields
        )


def without_structure(defect: Defect) -> Field:
    """Field of a defect of which nobody knows how it moves its surroundings."""
    return Field(defect.extent_px, np.empty((0, 2)), np.empty((0, 2)))


def field_of(defect: Defect, candidates: Sequence[Candidate], relaxed: Sequence[Relaxed]) -> Field:
    """Field of what a defect was taken for, before it was compared with the image, if that was relaxed."""
    own = [
        (c, r) for c, r in zip(candidates, relaxed, strict=True)
        if (c.defect, c.label) == (defect.id, defect.label) and r.relaxer != "keep"
    ]  # fmt: skip
    if not own:
        return without_structure(defect)
    candidate, result = max(own, key=lambda pair: pair[0].log_prior)
    there = candidate.structure.occupied
    before = candidate.structure.structure.cart_coords[there, :2]
    _, column = np.unique(np.round(before, 1), axis=0, return_inverse=True)
    count = np.bincount(column)

    def mean(values: FloatArray) -> FloatArray:
        return np.column_stack([np.bincount(column, values[:, k]) / count for k in (0, 1)])

    shift = mean(result.positions_A[there, :2] - before) @ candidate.matrix.T
    nodes_px = mean(before) @ candidate.matrix.T + candidate.offset_px
    px_per_A = float(np.sqrt(abs(np.linalg.det(candidate.matrix))))
    away_A = np.asarray(cKDTree(defect.extent_px).query(nodes_px)[0]) / px_per_A
    left = np.exp(-np.maximum(away_A - NEAR_A, 0.0) / FIELD_FADE_A)
    return Field(defect.extent_px, nodes_px, shift * left[:, None])


def others_of(
    defect: Defect, defects: Sequence[Defect], fields: Mapping[int, Field], columns: Columns, imaging: Imaging,
    sites: SiteMap, brightness: Brightness, reach_px: float,
) -> Others:
    """All but one defect, and all sites of which no structure knows what they hold: mixed ones, and those not judged.

    Brightness is that measured on the sites; stray columns count as they were found. Fields of defects further than
    `reach_px` are left out.
    """
    rest, rows = [d for d in defects if d.id != defect.id], sites.row_of
    told = np.isin(sites.sublattice, list(imaging.mixtures)) | ~sites.analysed
    told[[rows[site] for d in rest for site in d.sites if site in rows]] = True
    told[[rows[site] for site in defect.sites if site in rows]] = False
    stray_px = [xy for d in rest for site, xy in zip(d.sites, d.extent_px, strict=True) if site[2] == "-"]
    stray = [int(np.argmin(np.sum((columns.xy_px - xy) ** 2, axis=1))) for xy in stray_px]
    return Others(
        np.vstack([sites.xy_px[told], columns.xy_px[stray]]),
        np.concatenate([brightness.value[told], columns.intensity[stray]]),
        np.concatenate([brightness.sigma[told], np.sqrt(columns.cov[stray, 2, 2])]),
        tuple(fields[d.id] for d in rest if _apart_px(d, defect) < reach_px),
    )


def _apart_px(one: Defect, other: Defect) -> float:
    return float(np.min(cKDTree(one.extent_px).query(other.extent_px)[0]))
