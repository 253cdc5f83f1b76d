"""Columns beside an extended defect that look dim because their two atoms no longer stand above each other.

Beside a line, a cluster or a trefoil the upper and the lower chalcogen of a column move by different amounts. Two atoms
apart scatter less than two in a column, which scatter coherently (Kirkland, *Advanced Computing in Electron
Microscopy*, 2010, chapter 5): such a pair is as bright as two single atoms, and in annular dark field at medium angles
not far from half a column. Multislice of lines and complexes (SevenNet-0) has a third to all of the columns beside them
dim by 10 to 50 % there, and hardly any at high angles. The brightness of a single atom is known, so that of a pair
apart is too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from stemfit.defects.evidence import Evidence
from stemfit.defects.occupancy import RELAXED_ERROR, SitePosterior
from stemfit.defects.types import Defect
from stemfit.imaging import MODEL_FLOOR

APART = 1 / 3
"""Share of the columns next to an extended defect whose atoms stand apart: a third or more in multislice."""

NEXT = 1.15
"""Distance of next sites of a sublattice, in lattice constants, with what strain adds to it."""


ANTISITE = 0.1
"""Probability from which a finding may be an antisite."""


def with_tilted_pairs(defects: Sequence[Defect], extended: Sequence[Defect], evidence: Evidence) -> tuple[Defect, ...]:
    """Restate what single columns next to an extended defect hold: a whole pair apart looks as dim as other atoms.

    Parameters
    ----------
    defects : sequence of Defect
        Claims or suspects; those of one pair column are restated, all others come back as they are.
    extended : sequence of Defect
        Those of several sites are what a pair may stand apart beside, and antisites, which move their neighbours as far
        (SevenNet-0: 10 to 30 pm).
    evidence : Evidence
    """
    anti = {h.label for p in evidence.posteriors for h in p.hypotheses if h.type == "ANTI"}
    around = [one.extent_px for one in extended if len(one.sites) > 1 or _share(one, anti) > ANTISITE]
    if not around:
        return tuple(defects)
    tree, reach = cKDTree(np.vstack(around)), NEXT * evidence.lattice.a_px_iso
    posterior = {h.column: p for p in evidence.posteriors for h in p.hypotheses[:1] if p.half is not None}
    pair = posterior.get(evidence.host.columns[-1])
    if pair is None:
        return tuple(defects)
    return tuple(
        _restated(d, _log_gain(d, pair, evidence))
        if len(d.sites) == 1 and evidence.judged(d.sites[0]) and float(tree.query(d.center_px)[0]) < reach else d
        for d in defects
    )


def _share(defect: Defect, labels: set[str]) -> float:
    """Probability of any of these labels."""
    return sum(p for label, p in ((defect.label, defect.probability), *defect.alternatives) if label in labels)


def _log_gain(defect: Defect, pair: SitePosterior, evidence: Evidence) -> float:
    """By how much a pair apart raises the likelihood of a whole column, natural logarithm."""
    (site,) = defect.sites
    if site[2] != evidence.host.sublattices[-1] or pair.half is None:
        return 0.0
    row = evidence.row(site)
    column = int(evidence.sites.column[row])
    if column < 0:
        return 0.0
    at = np.rint(evidence.sites.xy_px[row]).astype(int)
    gain = float(evidence.imaging.gain[at[1], at[0]])
    value = float(evidence.columns.intensity[column]) / gain
    noise = float(np.sqrt(evidence.columns.cov[column, 2, 2])) / gain
    full = evidence.imaging.amplitudes[pair.hypotheses[0].column].value
    level = min(2 * pair.half.value, full)
    shape = np.hypot(evidence.imaging.scatter[site[2]], MODEL_FLOOR) * level
    variance = noise**2 + shape**2 + (2 * pair.half.sigma) ** 2 + (np.hypot(MODEL_FLOOR, RELAXED_ERROR) * full) ** 2
    apart = -0.5 * (value - level) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)
    whole = evidence.log_likelihood(site)["pristine"]
    return float(np.logaddexp(np.log(1 - APART) + whole, np.log(APART) + apart) - whole)


def _restated(defect: Defect, log_gain: float) -> Defect:
    """A finding whose pristine alternative is so much more likely."""
    others = dict(defect.alternatives)
    if log_gain == 0.0 or "pristine" not in others:
        return defect
    with np.errstate(divide="ignore"):
        more = np.logaddexp(np.log1p(-min(others["pristine"], 1.0)), np.log(others["pristine"]) + log_gain)
        pristine = float(np.exp(np.log(others["pristine"]) + log_gain - more))
    rest = {label: float(p / np.exp(more)) for label, p in others.items() if label != "pristine"}
    alternatives = sorted((*rest.items(), ("pristine", pristine)), key=lambda item: -item[1])
    return replace(
        defect, probability=float(defect.probability / np.exp(more)), alternatives=tuple(alternatives),
        log_bayes_factor=defect.log_bayes_factor - log_gain,
    )
