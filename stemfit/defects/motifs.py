"""Neighbouring findings that are one defect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from stemfit.defects.types import Defect

FloatArray = NDArray[np.float64]

NEIGHBOURS = 1.15
"""Findings closer than this, in lattice constants, belong together: equal sites are 1.00 apart, the next shell 1.73."""

MIN_MEMBERS = 3
"""Two vacancies side by side are two vacancies."""


def join(found: Sequence[Defect], a_px: float) -> list[Defect]:
    """Say together what belongs together.

    A straight row of equal chalcogen vacancies is a LINE. A stray column and what is wrong with the sites round it are
    one UNKNOWN: something moved or was added there, and no single-site hypothesis can name it. Other neighbours stay
    what they are one by one.
    """
    if not found:
        return []
    xy = np.array([d.center_px for d in found])
    pairs = cKDTree(xy).query_pairs(NEIGHBOURS * a_px, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(found), len(found)))
    count, group = connected_components(links, directed=False)
    joined: list[Defect] = []
    for k in range(count):
        members = [found[int(i)] for i in np.flatnonzero(group == k)]
        label = _row_label(members) if len(members) >= MIN_MEMBERS else None
        if label:
            joined.append(_row(members, label))
        elif len(members) > 1 and any(d.sites[0][2] == "-" for d in members):
            joined.append(_unnamed(members))
        else:
            joined.extend(members)
    return joined


def _pristine(members: Sequence[Defect]) -> float:
    return float(np.prod([dict(d.alternatives).get("pristine", 0.0) for d in members]))


def _row(members: Sequence[Defect], label: str) -> Defect:
    probability, pristine = float(np.prod([d.probability for d in members])), _pristine(members)
    extent = np.vstack([d.extent_px for d in members])
    return replace(
        members[0], type="LINE", label=label, probability=probability, center_px=extent.mean(0),
        sites=tuple(s for d in members for s in d.sites), extent_px=extent,
        alternatives=(("UNKNOWN", max(0.0, 1 - probability - pristine)), ("pristine", pristine)),
        log_bayes_factor=float(sum(d.log_bayes_factor for d in members)),
    )


def _unnamed(members: Sequence[Defect]) -> Defect:
    pristine = _pristine(members)
    extent = np.vstack([d.extent_px for d in members])
    evidence = float(sum(d.log_bayes_factor for d in members))
    sites = tuple(s for d in members for s in d.sites)
    return Defect(
        0, "UNKNOWN", "UNKNOWN", 1 - pristine, extent.mean(0), sites, extent, (("pristine", pristine),), evidence
    )


def _row_label(members: Sequence[Defect]) -> str | None:
    """SVL-n or CVL-n where all members are the same vacancy on consecutive sites of one lattice direction."""
    types = {d.type for d in members}
    if types not in ({"SV"}, {"DV"}) or any(len(d.sites) != 1 for d in members):
        return None
    if {d.sites[0][2] for d in members} != {"X"}:
        return None
    ij = np.array([d.sites[0][:2] for d in members])
    for direction in ((1, 0), (0, 1), (1, -1)):
        across = ij[:, 0] * direction[1] - ij[:, 1] * direction[0]
        along = ij @ np.array(direction)
        step = 1 if 0 in direction else 2
        consecutive = np.ptp(along) == step * (len(ij) - 1)
        if np.ptp(across) == 0 and consecutive:
            return f"SVL-{len(ij)}" if types == {"SV"} else f"CVL-{2 * len(ij)}"
    return None
