"""Everything that is said of one image, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stemfit.calibrate import Calibration
    from stemfit.candidates import Candidate
    from stemfit.columns import Columns
    from stemfit.defects import Defect, SitePosterior
    from stemfit.hosts import ProjectedHost
    from stemfit.imaging import Imaging
    from stemfit.lattice import Lattice, Region, RowOffsets, SiteMap
    from stemfit.matching.judge import Match
    from stemfit.micrograph import Micrograph
    from stemfit.relax import Relaxed
    from stemfit.score import Score

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class HostCall:
    """Which crystal this is. `alternatives` lists (name, probability) of the others; `source` "user" or "inferred".

    `composition` has the fraction of every element and its standard error for each mixed sublattice of an alloy, whose
    host is that of the majority.
    """

    host: ProjectedHost
    source: str
    probability: float
    alternatives: tuple[tuple[str, float], ...]
    composition: Mapping[str, Mapping[str, tuple[float, float]]] | None = None


@dataclass(frozen=True)
class Findings:
    """Everything that was found in one image.

    Attributes
    ----------
    region_map : (H, W) uint8 array
        0 analysed, k = k-th region.
    candidates, relaxed, scores : tuples of equal length
    simulated : (H, W) array
        Best model of the image, its units; NaN where masked.
    settings : mapping
        Everything that was asked or defaulted.
    timings_s : mapping of stage to seconds
    mixed : tuple of SitePosterior
        Of the mixed sublattices of an alloy.
    matches : tuple of Match
        Structures of the user's own that were looked for, at every place, the most probable first.
    rows : RowOffsets or None
        Jitter of the scan lines, which positions contain.
    measured : (K, 4) array or None
        x, y (px, without that jitter), integral and whether it is on a site (0, 1), of the columns in `simulated` that
        no structure tells.
    apart_sigma : mapping of label to float
        How far columns that lost one of two atoms are from full ones, in sigmas of a column.
    blind_to : tuple of str
        Those of these labels that cannot be told one by one: their absence means nothing.
    doubts : tuple of str
        Kinds of warnings that put the whole in doubt, as in `stemfit.warn.doubts`.
    """

    micrograph: Micrograph
    columns: Columns
    host: HostCall
    calibration: Calibration
    lattice: Lattice
    sites: SiteMap
    regions: tuple[Region, ...]
    region_map: NDArray[np.uint8]
    imaging: Imaging
    defects: tuple[Defect, ...]
    suspects: tuple[Defect, ...]
    candidates: tuple[Candidate, ...]
    relaxed: tuple[Relaxed, ...]
    scores: tuple[Score, ...]
    simulated: FloatArray
    warnings: tuple[str, ...]
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    timings_s: Mapping[str, float]
    mixed: tuple[SitePosterior, ...] = ()
    matches: tuple[Match, ...] = ()
    rows: RowOffsets | None = None
    measured: FloatArray | None = None
    apart_sigma: Mapping[str, float] = field(default_factory=dict)
    blind_to: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
