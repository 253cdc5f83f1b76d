"""Atoms that lie on an otherwise intact layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stemfit.defects.evidence import Evidence
from stemfit.defects.groups import NEIGHBOURS
from stemfit.defects.types import Defect

FloatArray = NDArray[np.float64]

MOVED = 4.0
"""Columns farther from their site than this, in rms distances of all columns, have been displaced."""

LEAST = 4
"""Sites that every place inside a crystal has nearby."""

SOMETHING_ELSE = 0.1
"""Share of stray columns on a layer that looks intact which are no adatoms but something that nobody thought of."""


def adatoms(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise single columns where the crystal has none, or more light on a site than any exchange explains.

    The layer around must be intact: every site within a lattice constant judged, without a finding, its column in
    place. A column beside an empty site may be the one that left it; what lies beside a finding stays unnamed.

    Returns
    -------
    named : list of Defect
        Adatoms.
    left : list of Defect
        Everything else; what looked like an adatom on a site beside something else is UNKNOWN.
    """
    named: list[Defect] = []
    left: list[Defect] = []
    places = np.array([d.center_px for d in found]).reshape(-1, 2)
    for k, defect in enumerate(found):
        stray = len(defect.sites) == 1 and defect.sites[0][2] == "-" and defect.type == "UNKNOWN"
        if not stray and defect.type != "ADATOM":
            left.append(defect)
            continue
        others = np.delete(places, k, axis=0)
        if _intact(defect.center_px, others, evidence):
            named.append(_beside_sites(defect) if stray else defect)
        else:
            left.append(defect if stray else _unnamed(defect))
    return named, left


def _intact(here_px: FloatArray, others_px: FloatArray, evidence: Evidence) -> bool:
    """Whether the layer around a place is as it should be."""
    sites, reach = evidence.sites, NEIGHBOURS * evidence.lattice.a_px_iso
    if len(others_px) and np.hypot(*(others_px - here_px).T).min() < reach:
        return False
    away = np.hypot(*(sites.xy_px - here_px).T)
    near = np.flatnonzero((away < reach) & (away > 0.1 * reach))
    if len(near) < LEAST or not sites.analysed[near].all() or (sites.column[near] < 0).any():
        return False
    off = np.hypot(*(evidence.columns.xy_px[sites.column[near]] - sites.xy_px[near]).T)
    error = np.sqrt(evidence.columns.cov[sites.column[near], 0, 0] + evidence.columns.cov[sites.column[near], 1, 1])
    usual = np.hypot(np.sqrt(2) * evidence.lattice.residual_rms_px, error)
    return bool((off < MOVED * usual).all())


def _beside_sites(stray: Defect) -> Defect:
    """A stray column on an intact layer."""
    pristine = dict(stray.alternatives).get("pristine", 0.0)
    return replace(
        stray, type="ADATOM", label="ADATOM", probability=(1 - pristine) * (1 - SOMETHING_ELSE),
        alternatives=(("UNKNOWN", (1 - pristine) * SOMETHING_ELSE), ("pristine", pristine)),
    )


def _unnamed(defect: Defect) -> Defect:
    """The same without a name: what is beside it may have to do with it."""
    others = dict(defect.alternatives)
    p = defect.probability + others.pop("UNKNOWN", 0.0)
    return replace(
        defect, type="UNKNOWN", label="UNKNOWN", probability=p,
        alternatives=tuple(sorted(others.items(), key=lambda item: -item[1])),
    )
