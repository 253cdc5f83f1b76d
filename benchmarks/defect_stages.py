"""The analysis of one recorded field: what is claimed and suspected, by the brightness threshold too, and CPU times.

By default the analysis is stopped once the defects are known: candidates are neither made nor relaxed nor scored.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import scoring
from defect_fields import Shot
from defect_scoring import Stated

from stemfit import observed, pipeline, relax
from stemfit.errors import StemfitError
from stemfit.synthetic import as_micrograph


class Answer(NamedTuple):
    """What an analysis says of a field.

    Attributes
    ----------
    claims, suspects, by_threshold : list of Stated
    failure : str
        Why nothing could be said, or "".
    columns_s, lattice_s, defects_s : float
        CPU time up to the columns, up to the defects, and of the defects alone.
    """

    claims: list[Stated]
    suspects: list[Stated]
    by_threshold: list[Stated]
    failure: str
    columns_s: float
    lattice_s: float
    defects_s: float


class _Enough(Exception):
    """The defects are known."""


def analyse(shot: Shot, full: bool = False) -> Answer:
    """Analyse a recorded field with its host and pixel size stated."""
    image = np.asarray(shot.recording.image, dtype=float)
    micrograph = as_micrograph(shot.recording.image, shot.field.pixel_A)
    clock: dict[str, float] = {}
    kept: dict[str, Any] = {}
    find = observed.find_defects

    def watched(evidence: Any) -> Any:
        kept["found"], kept["evidence"] = find(evidence), evidence
        clock["end"] = time.process_time()
        if not full:
            raise _Enough
        return kept["found"]

    def begins(stage: str) -> None:
        clock[stage] = time.process_time()

    failure, result = "", None
    with mock.patch.object(observed, "find_defects", watched):
        try:
            settings = pipeline.Settings(host=shot.field.host)
            result = pipeline.analyze(micrograph, settings, relax.relaxer("definet"), progress=begins)
        except _Enough:
            pass
        except StemfitError as error:
            failure = str(error)
        except Exception as error:  # a fault of ours: nothing was found here, and the other fields have their turn
            failure = f"FAULT {type(error).__name__}: {error}"
    if failure or "evidence" not in kept:
        return Answer([], [], [], failure or "nothing said", 0.0, 0.0, 0.0)
    claims, suspects = (result.defects, result.suspects) if result is not None else kept["found"]
    threshold = [_stated_by_threshold(claim) for claim in scoring.threshold(_as_analysis(kept["evidence"], image))]
    return Answer(
        [_stated(one) for one in claims], [_stated(one) for one in suspects], threshold, "",
        clock["lattice"] - clock["columns"], clock["defects"] - clock["lattice"], clock["end"] - clock["defects"],
    )


def _stated(defect: Any) -> Stated:
    return Stated(
        defect.type, defect.label, defect.probability, np.atleast_2d(defect.extent_px), dict(defect.alternatives)
    )


def _stated_by_threshold(claim: scoring.Claim) -> Stated:
    return Stated(claim.type, claim.label, 1.0, claim.sites_px, {})


def _as_analysis(evidence: Any, image: Any) -> Any:
    """What the threshold asks of an analysis."""
    return SimpleNamespace(
        host=SimpleNamespace(host=evidence.host), sites=evidence.sites, lattice=evidence.lattice,
        micrograph=SimpleNamespace(image=image),
    )
