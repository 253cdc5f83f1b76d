"""`analysis.json`: every field of the contract, plain numbers and strings, null where there is no number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import stemfit
from stemfit.defects import Defect
from stemfit.result.field import Frame
from stemfit.result.findings import Findings

if TYPE_CHECKING:
    from stemfit.matching.judge import Match

SCHEMA = "stemfit.analysis/1"

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "input": ("path", "sha256", "shape_px", "dtype", "signal", "frame"),
    "calibration": ("pixel_size_A", "pixel_size_sigma_A", "source", "metadata_pixel_size_A"),
    "host": ("name", "source", "probability", "alternatives", "composition"),
    "lattice": (
        "a_px", "b_px", "origin_px", "polarity", "anisotropy", "rotation_deg", "residual_rms_pm",
        "image_from_structure", "masked_fraction",
    ),
    "regions": (), "imaging": (), "defects": (), "suspects": (), "candidates": (), "warnings": (), "settings": (),
    "environment": (), "timings_s": (), "status": (), "version": (), "match": ("ncc", "reduced_chi2"),
}  # fmt: skip
"""Keys that every document of this schema has, and the keys below them."""


def document(analysis: Findings, frame: Frame) -> dict[str, Any]:
    """The document of an analysis, ready for `to_json`.

    Parameters
    ----------
    analysis : Findings
    frame : Frame
        Structure frame that the structure files use.
    """
    content = {
        "schema": SCHEMA,
        "version": stemfit.__version__,
        "status": "ok",
        "warnings": analysis.warnings,
        "doubts": analysis.doubts,
        "input": _input(analysis),
        "settings": analysis.settings,
        "environment": analysis.environment,
        "calibration": {k: v for k, v in asdict(analysis.calibration).items() if k != "lattice_pixel_size_A"},
        "host": _host(analysis),
        "lattice": _lattice(analysis, frame),
        "judged": _judged(analysis),
        "regions": [asdict(region) for region in analysis.regions],
        "imaging": _imaging(analysis),
        "defects": [_defect(defect, frame) for defect in analysis.defects],
        "suspects": [_defect(defect, frame) for defect in analysis.suspects],
        "candidates": _candidates(analysis),
        "match": agreement(analysis),
        "timings_s": analysis.timings_s,
        **({"matches": [_matched(match) for match in analysis.matches]} if analysis.matches else {}),
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def to_json(content: Mapping[str, Any]) -> str:
    """Strict JSON: a NaN that slipped through is an error here, not in the reader."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def problem(content: object) -> str | None:
    """What keeps `content` from being a document of this schema, None if nothing does."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return f"no {SCHEMA} document"
    absent = [key for key in REQUIRED if key not in content]
    absent += [f"{key}.{name}" for key, names in REQUIRED.items() if key in content for name in names
               if name not in content[key]]  # fmt: skip
    return f"without {', '.join(absent)}" if absent else None


def _input(analysis: Findings) -> dict[str, Any]:
    micrograph = analysis.micrograph
    return {
        "path": micrograph.path,
        "sha256": micrograph.sha256,
        "shape_px": micrograph.image.shape,
        "dtype": micrograph.dtype,
        "signal": micrograph.signal,
        "frame": micrograph.frame,
    }


def _host(analysis: Findings) -> dict[str, Any]:
    call = analysis.host
    return {
        "name": call.host.name,
        "source": call.source,
        "probability": call.probability,
        "alternatives": [{"name": name, "probability": p} for name, p in call.alternatives],
        "composition": call.composition,
    }


def _lattice(analysis: Findings, frame: Frame) -> dict[str, Any]:
    lattice, host = analysis.lattice, analysis.host.host
    return {
        "a_px": lattice.a_px,
        "b_px": lattice.b_px,
        "origin_px": lattice.origin_px,
        "polarity": lattice.polarity,
        "basis": [
            {"sublattice": name, "column": column, "u": u, "v": v}
            for name, column, (u, v) in zip(host.sublattices, host.columns, lattice.basis.tolist(), strict=True)
        ],
        "anisotropy": lattice.anisotropy,
        "rotation_deg": lattice.rotation_deg,
        "residual_rms_pm": lattice.residual_rms_px * analysis.calibration.pixel_size_A * 100,
        "image_from_structure": frame._asdict(),
        "masked_fraction": np.mean(analysis.region_map > 0),
    }


def _judged(analysis: Findings) -> dict[str, Any]:
    """What densities are taken over: the area of the sites of which a defect could be claimed.

    As many cells as hold so many sites, and not the pixels that are not masked: sites near the edge of the image and of
    its regions are not judged, and what is claimed is claimed of sites. In units of the crystal's cell it does not
    depend on the shear of the scan.
    """
    sites, lattice = int(np.count_nonzero(analysis.sites.analysed)), analysis.lattice
    (ax, ay), (bx, by) = lattice.a_px, lattice.b_px
    each_nm2 = abs(ax * by - ay * bx) / len(lattice.basis) * (analysis.calibration.pixel_size_A / 10) ** 2
    return {
        "sites": sites,
        "area_nm2": sites * each_nm2,
        "apart_sigma": analysis.apart_sigma,
        "blind_to": analysis.blind_to,
    }


def _imaging(analysis: Findings) -> dict[str, Any]:
    imaging, pixel_A = analysis.imaging, analysis.calibration.pixel_size_A
    return {
        "core_cov_px2": imaging.profile.core_cov_px2,
        "width_px": imaging.profile.width_px,
        "width_sigma_px": imaging.width_sigma_px,
        "width_A": imaging.profile.width_px * pixel_A,
        "tail_sigma_px": imaging.profile.tail_sigma_px,
        "tail_fraction": imaging.profile.tail_fraction,
        "tail_fraction_sigma": imaging.tail_fraction_sigma,
        "noise": asdict(imaging.noise),
        "background": {
            "mean": np.mean(imaging.background), "sd": np.std(imaging.background), "sigma": imaging.background_sigma,
        },
        "gain_sd": np.std(imaging.gain),
        "amplitudes": {column: asdict(amplitude) for column, amplitude in imaging.amplitudes.items()},
        "scatter": imaging.scatter,
    }


def _defect(defect: Defect, frame: Frame) -> dict[str, Any]:
    return {
        "id": defect.id,
        "type": defect.type,
        "label": defect.label,
        "probability": min(defect.probability, 1.0),
        "center_px": defect.center_px,
        "center_A": frame.to_A(np.asarray(defect.center_px)[None])[0],
        "sites": defect.sites,
        "extent_px": defect.extent_px,
        "alternatives": [
            {"label": label, "probability": p, "type": defect.kind_of(label)} for label, p in defect.alternatives
        ],
        "type_probability": min(defect.type_probability, 1.0),
        "best_candidate": defect.best_candidate,
        "log_bayes_factor": defect.log_bayes_factor,
    }


def _candidates(analysis: Findings) -> list[dict[str, Any]]:
    together = zip(analysis.candidates, analysis.relaxed, analysis.scores, strict=True)
    return [
        {
            "id": candidate.id,
            "defect": candidate.defect,
            "label": candidate.label,
            **{key: value for key, value in asdict(score).items() if key != "candidate"},
            "relaxer": {"name": relaxed.relaxer, "checkpoint_sha256": relaxed.checkpoint_sha256},
            "file": candidate_file(candidate.id),
            "image_from_structure": {"matrix": candidate.matrix, "offset_px": candidate.offset_px},
        }
        for candidate, relaxed, score in together
    ]


def _matched(match: Match) -> dict[str, Any]:
    matrix, offset_px = match.image_from_structure
    fields = {key: value for key, value in asdict(match).items() if key != "image_from_structure"}
    return {**fields, "found": match.found, "image_from_structure": {"matrix": matrix, "offset_px": offset_px}}


def candidate_file(name: str) -> str:
    """Path of a candidate's structure inside the result folder."""
    return f"candidates/{name}.cif"


def agreement(analysis: Findings) -> dict[str, float]:
    """Normalised cross-correlation and mean squared residual in units of the noise, over the analysed area."""
    seen = np.isfinite(analysis.simulated)
    image, model = analysis.micrograph.image[seen], analysis.simulated[seen]
    a, b = image - image.mean(), model - model.mean()
    variance = analysis.imaging.noise.variance(model)
    return {
        "ncc": float(a @ b / math.sqrt((a @ a) * (b @ b))) if seen.any() and np.ptp(model) > 0 else math.nan,
        "reduced_chi2": float(np.mean((image - model) ** 2 / variance)) if seen.any() else math.nan,
    }


def _plain(value: Any) -> Any:
    """Arrays to lists, NumPy scalars to numbers, paths to strings, what is not finite to None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
