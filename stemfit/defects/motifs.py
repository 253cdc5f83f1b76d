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
    """Replace connected groups of three or more findings, and strays with what they stray from, by one defect each.

    A straight row of equal chalcogen vacancies is a LINE; every other group is UNKNOWN: several sites at once that no
    single-site hypothesis can name.
    """
    if not found:
        return []
    xy = np.array([d.center_px for d in found])
    pairs = cKDTree(xy).query_pairs(NEIGHBOURS * a_px, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(found), len(found)))
    count, group = connected_components(links, directed=False)
    joined: list[Defect] = []
    for k in range(count):
        members = [found[i] for i in np.flatnonzero(group == k)]
        stray = any(d.type == "UNKNOWN" for d in members)
        together = len(members) >= MIN_MEMBERS or (stray and len(members) > 1)
        joined.extend([_one(members)] if together else members)
    return joined


def _one(members: Sequence[Defect]) -> Defect:
    label = _row_label(members)
    extent = np.vstack([d.extent_px for d in members])
    probability = float(np.prod([d.probability for d in members])) if label else 1.0
    evidence = float(sum(d.log_bayes_factor for d in members))
    pristine = float(np.prod([dict(d.alternatives).get("pristine", 0.0) for d in members]))
    sites = tuple(s for d in members for s in d.sites)
    rest = max(0.0, 1 - probability - pristine)
    if label is None:
        alternatives: tuple[tuple[str, float], ...] = (("pristine", pristine),)
        return Defect(
            0, "UNKNOWN", "UNKNOWN", 1 - pristine, extent.mean(0), sites, extent, alternatives, evidence
        )
    alternatives = (("UNKNOWN", rest), ("pristine", pristine))
    return replace(
        members[0], type="LINE", label=label, probability=probability, center_px=extent.mean(0), sites=sites,
        extent_px=extent, alternatives=alternatives, log_bayes_factor=evidence,
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
