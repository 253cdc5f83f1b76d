"""From site posteriors and stray columns to defects: claims, suspects, and what neighbours say together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stemfit.columns import Columns
from stemfit.defects.evidence import Evidence
from stemfit.defects.motifs import join
from stemfit.defects.occupancy import SitePosterior
from stemfit.defects.torn import with_torn_pairs
from stemfit.defects.types import Defect
from stemfit.imaging import MODEL_FLOOR
from stemfit.lattice import SiteMap

CLAIM, SUSPECT = 0.5, 0.1
"""P(not pristine) from which a site is claimed, and from which it is shown as a suspect."""

OFF_LATTICE_SIGMAS = 6.0
"""Significance from which a column off every site is reported."""


def find_defects(evidence: Evidence) -> tuple[tuple[Defect, ...], tuple[Defect, ...]]:
    """Claims and suspects: what is surely no pristine crystal first, and of that the larger first.

    The probability of a label does not order them: that of a long line is shared among its neighbours in length.
    """
    evidence = with_torn_pairs(evidence)
    single = [d for p in evidence.posteriors for d in _site_defects(evidence.sites, p)]
    claims = [d for d in single if _defective(d) > CLAIM]
    suspects = [d for d in single if _defective(d) <= CLAIM]
    strays = _off_lattice(evidence.columns, evidence.sites, evidence.region_map, evidence.strays())
    merged = join(claims + strays, evidence)
    taken = {site for d in merged for site in d.sites}
    suspects = [d for d in suspects if not taken.intersection(d.sites)]  # a motif makes doubtful sites its own
    ordered = sorted(merged, key=lambda d: (-round(_defective(d), 2), -len(d.sites), -d.probability))
    numbered = tuple(replace(d, id=k) for k, d in enumerate(ordered, 1))
    weaker = sorted(suspects, key=lambda d: -_defective(d))
    return numbered, tuple(replace(d, id=k) for k, d in enumerate(weaker, len(numbered) + 1))


def _defective(defect: Defect) -> float:
    return 1.0 - dict(defect.alternatives).get("pristine", 0.0)


def _site_defects(sites: SiteMap, posterior: SitePosterior) -> list[Defect]:
    found = []
    for k in np.flatnonzero(1 - posterior.probability[:, 0] > SUSPECT):
        p = posterior.probability[k]
        best = 1 + int(np.argmax(p[1:]))
        h = posterior.hypotheses[best]
        row = posterior.site[k]
        site = (int(sites.ij[row, 0]), int(sites.ij[row, 1]), str(sites.sublattice[row]))
        others = sorted(
            ((o.label, float(q)) for o, q in zip(posterior.hypotheses, p, strict=True) if o is not h),
            key=lambda item: -item[1],
        )
        evidence = float(posterior.log_likelihood[k, best] - posterior.log_likelihood[k, 0])
        xy = sites.xy_px[row]
        found.append(Defect(0, h.type, h.label, float(p[best]), xy, (site,), xy[None], tuple(others), evidence))
    return found


def _off_lattice(
    columns: Columns, sites: SiteMap, region_map: NDArray[np.uint8], strays: NDArray[np.int64]
) -> list[Defect]:
    """Significant columns that sit on no site: something is there that the crystal does not explain.

    Where the nearest site is not judged (beside a region, at the image's edge) they are not either.
    """
    sigma = np.sqrt(columns.cov[:, 2, 2])
    bright = float(np.percentile(columns.intensity, 75)) if len(columns) else 0.0
    error = np.hypot(sigma, MODEL_FLOOR * bright)
    strong = columns.intensity > OFF_LATTICE_SIGMAS * error
    h, w = region_map.shape
    margin = 2.0 * columns.profile.width_px
    found = []
    for k in strays[strong[strays]]:
        x, y = columns.xy_px[k]
        if not (margin < x < w - 1 - margin and margin < y < h - 1 - margin) or region_map[round(y), round(x)]:
            continue
        nearest = int(np.argmin(np.sum((sites.xy_px - columns.xy_px[k]) ** 2, axis=1)))
        if not sites.analysed[nearest]:
            continue
        i, j = sites.ij[nearest]
        z = float(columns.intensity[k] / sigma[k])
        xy = columns.xy_px[k]
        site = (int(i), int(j), "-")
        found.append(Defect(0, "UNKNOWN", "UNKNOWN", 1.0, xy, (site,), xy[None], (("pristine", 0.0),), 0.5 * z**2))
    return found
