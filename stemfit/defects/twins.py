"""The line along which a crystal meets its twin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.spatial import cKDTree

from stemfit.defects.evidence import Evidence
from stemfit.defects.groups import pristine
from stemfit.defects.types import Defect

FloatArray = NDArray[np.float64]

STRIP = 2.0
"""Lattice constants from a twin within which what is wrong is its boundary: half of the window in which the motif of a
crystal is read, and a bond on either side."""

NAMED_RIGHT = 7 / 8
"""Probability that what passes for a twin is one: in the benchmark of regions all six were named, and nothing else was
called so; by the rule of succession that is 7 of 8."""

EVIDENCE = 12.5
"""Natural logarithm of what a motif that is 5 standard deviations from that of the crystal says against chance."""


def twins(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise the boundaries between the crystal and its twins; each takes all findings along it."""
    named: list[Defect] = []
    left = list(found)
    for k, region in enumerate(evidence.regions, 1):
        line = _line(k, evidence) if region.kind == "twin" else np.zeros((0, 2))
        if len(line) == 0:
            continue
        reach = STRIP * evidence.lattice.a_px_iso
        beside = [bool(cKDTree(line).query(d.center_px)[0] < reach) for d in left]
        named.append(_boundary(line, [d for d, here in zip(left, beside, strict=True) if here], evidence))
        left = [d for d, here in zip(left, beside, strict=True) if not here]
    return named, left


def _line(k: int, evidence: Evidence) -> FloatArray:
    """Points (N, 2) px, half a lattice constant apart or less, where region k ends and the analysed crystal begins.

    Within half a lattice constant: a strip without order between both belongs to neither.
    """
    own, spacing = evidence.region_map == k, 0.5 * evidence.lattice.a_px_iso
    near = distance_transform_edt(evidence.region_map > 0) < 1.5
    rim = near & (evidence.region_map > 0) & binary_dilation(evidence.region_map == 0)
    close = np.asarray(distance_transform_edt(~own)) < 2 * spacing
    y, x = np.nonzero(rim & close)
    if len(x) == 0:
        return np.zeros((0, 2))
    cell = np.unique(np.column_stack([x, y]) // max(1, int(spacing)), axis=0, return_index=True)[1]
    return np.column_stack([x, y])[np.sort(cell)].astype(np.float64)


def _boundary(line: FloatArray, swallowed: Sequence[Defect], evidence: Evidence) -> Defect:
    """One defect along the sites next to the line and those that were found wrong."""
    sites = evidence.sites
    nearest = np.unique(np.asarray(cKDTree(sites.xy_px).query(line)[1]))
    of_line = [(int(sites.ij[s, 0]), int(sites.ij[s, 1]), str(sites.sublattice[s])) for s in nearest]
    place = dict(zip(of_line, sites.xy_px[nearest], strict=True))
    strays = []
    for defect in swallowed:
        for site, xy in zip(defect.sites, defect.extent_px, strict=True):
            if site[2] == "-":
                strays.append((site, xy))
            else:
                place[site] = xy
    where = [*place.items(), *strays]
    extent = np.array([xy for _, xy in where])
    doubt = (1 - NAMED_RIGHT) * (pristine(swallowed) if swallowed else 0.5)
    rest = (("UNKNOWN", 1 - NAMED_RIGHT - doubt), ("pristine", doubt))
    factor = EVIDENCE + float(sum(d.log_bayes_factor for d in swallowed))
    return Defect(
        0, "TWIN", "TWIN", NAMED_RIGHT, extent.mean(0), tuple(site for site, _ in where), extent, rest, factor
    )
