"""Structures that no relaxer was made for: their exchanged atoms stand where the image has their columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stemfit.candidates import Candidate
from stemfit.columns import Columns
from stemfit.defects.offsets import OFF_CENTRE
from stemfit.relax import Relaxed, keep
from stemfit.score.scene import UNRELAXED_A

BOND_A = 1.85
"""Distance of neighbouring columns, of which `OFF_CENTRE` is a share: 1.82 to 1.92 in the sulphides and selenides."""

ON_SITE_A = 0.1
"""Nearer than this a column is on its site: what columns beside defects move."""


def standing(candidate: Candidate, columns: Columns) -> tuple[Relaxed, float]:
    """A structure as it was built, but for an exchanged atom, which may stand beside its site.

    A metal in place of two chalcogens rests off-centre, in one of several directions, and neither a network nor a
    potential says in which. The column nearest to its site does.

    Returns
    -------
    relaxed : Relaxed
    log_prior : float
        Natural logarithm of the share of all places where it may be that is taken by those like this one: half of them
        are on the site, the other half anywhere within `OFF_CENTRE`.
    """
    (built,) = keep([candidate])
    structure = candidate.structure
    own = [k for k in structure.sites if structure.occupied[k]]
    if not own or len(columns) == 0:
        return built, 0.0
    plane = structure.nodes_A[own, :2]
    if np.ptp(plane, axis=0).max() > ON_SITE_A:  # of several columns it is not known which stands where
        return built, 0.0
    site_px = candidate.matrix @ plane.mean(0) + candidate.offset_px
    nearest = columns.xy_px[int(np.argmin(np.sum((columns.xy_px - site_px) ** 2, axis=1)))]
    step_A = np.linalg.solve(candidate.matrix, nearest - site_px)
    reach_A = OFF_CENTRE * BOND_A
    if not ON_SITE_A < np.hypot(*step_A) < reach_A + UNRELAXED_A:
        return built, float(np.log(0.5))
    moved = built.positions_A.copy()
    moved[own, :2] += step_A
    return replace(built, positions_A=moved), float(np.log(0.5 * 2 * UNRELAXED_A**2 / reach_A**2))
