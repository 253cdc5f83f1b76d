"""Rows of vacancies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stemfit.defects.evidence import Evidence
from stemfit.defects.groups import NEIGHBOURS, neighbours, pristine
from stemfit.defects.types import Defect, type_of

NEAR_TIE = 0.02
"""Probability from which a vacancy among the alternatives may complete a row: three in a row are no accident."""

MIN_MEMBERS = 3
"""Two vacancies side by side are two vacancies."""


def rows(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise straight rows of equal chalcogen vacancies; what is recognised, and what is left of the findings."""
    named: list[Defect] = []
    left: list[Defect] = []
    for members in neighbours(found, NEIGHBOURS * evidence.lattice.a_px_iso):
        label = _row_label(members) if len(members) >= MIN_MEMBERS else None
        if label:
            named.append(_row(members, label))
        else:
            left.extend(members)
    return named, left


def _row(members: Sequence[Defect], label: str) -> Defect:
    kind = "SV" if label.startswith("SVL") else "DV"
    probability, doubt = float(np.prod([_share(d, kind) for d in members])), pristine(members)
    extent = np.vstack([d.extent_px for d in members])
    return replace(
        members[0], type="LINE", label=label, probability=probability, center_px=extent.mean(0),
        sites=tuple(s for d in members for s in d.sites), extent_px=extent,
        alternatives=(("UNKNOWN", max(0.0, 1 - probability - doubt)), ("pristine", doubt)),
        log_bayes_factor=float(sum(d.log_bayes_factor for d in members)),
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
