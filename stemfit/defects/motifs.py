"""Neighbouring findings that are one defect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from stemfit.defects.types import Defect, type_of

FloatArray = NDArray[np.float64]

NEIGHBOURS = 1.15
"""Findings closer than this, in lattice constants, belong together: equal sites are 1.00 apart, the next shell 1.73."""

NEAR_TIE = 0.02
"""Probability from which a vacancy among the alternatives may complete a row: three in a row are no accident."""

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
    kind = "SV" if label.startswith("SVL") else "DV"
    probability, pristine = float(np.prod([_share(d, kind) for d in members])), _pristine(members)
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


def _may_be(defect: Defect, kind: str) -> bool:
    """Whether a finding is a vacancy of this kind, or something that brightness hardly tells from it."""
    return _share(defect, kind) > NEAR_TIE


def _share(defect: Defect, kind: str) -> float:
    """Probability of a vacancy of this kind."""
    named = defect.probability if defect.type == kind else 0.0
    return named + sum(p for label, p in defect.alternatives if type_of(label, "") == kind)


def _row_label(members: Sequence[Defect]) -> str | None:
    """SVL-n or CVL-n where all members are the same vacancy on consecutive sites of one lattice direction."""
    if any(len(d.sites) != 1 or d.sites[0][2] != "X" for d in members):
        return None
    kinds = [kind for kind in ("SV", "DV") if all(_may_be(d, kind) for d in members)]
    if not kinds:
        return None
    kind = max(kinds, key=lambda k: sum(_share(d, k) for d in members))
    if not any(d.type == kind for d in members):
        return None
    ij = np.array([d.sites[0][:2] for d in members])
    for direction in ((1, 0), (0, 1), (1, -1)):
        across = ij[:, 0] * direction[1] - ij[:, 1] * direction[0]
        along = ij @ np.array(direction)
        step = 1 if 0 in direction else 2
        consecutive = np.ptp(along) == step * (len(ij) - 1)
        if np.ptp(across) == 0 and consecutive:
            return f"SVL-{len(ij)}" if kind == "SV" else f"CVL-{2 * len(ij)}"
    return None
