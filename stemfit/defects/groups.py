"""Findings that lie side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from stemfit.defects.types import Defect

NEIGHBOURS = 1.15
"""Findings closer than this, in lattice constants, belong together: equal sites are 1.00 apart, the next shell 1.73."""


def neighbours(found: Sequence[Defect], reach_px: float) -> list[list[Defect]]:
    """Findings in connected groups: a site of each is closer than `reach_px` to one of another of its group."""
    if not found:
        return []
    owner = np.repeat(np.arange(len(found)), [len(d.extent_px) for d in found])
    near = cKDTree(np.vstack([d.extent_px for d in found])).query_pairs(reach_px, output_type="ndarray")
    pairs = owner[near]
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(found), len(found)))
    count, group = connected_components(links, directed=False)
    return [[found[int(i)] for i in np.flatnonzero(group == k)] for k in range(count)]


def pristine(members: Sequence[Defect]) -> float:
    """Probability that all of several findings are none."""
    return float(np.prod([dict(d.alternatives).get("pristine", 0.0) for d in members]))


def unnamed(members: Sequence[Defect]) -> Defect:
    """Several findings as one that nobody can name."""
    doubt = pristine(members)
    extent = np.vstack([d.extent_px for d in members])
    evidence = float(sum(d.log_bayes_factor for d in members))
    sites = tuple(s for d in members for s in d.sites)
    return Defect(0, "UNKNOWN", "UNKNOWN", 1 - doubt, extent.mean(0), sites, extent, (("pristine", doubt),), evidence)
