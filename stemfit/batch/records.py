"""What the tables say of one image, read from its result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stemfit.batch.inputs import told
from stemfit.batch.plan import Contents, Request, state_of, unread
from stemfit.batch.store import Failure, folder_of

TYPES = ("SV", "DV", "VM", "SUB", "ANTI", "LINE", "TREFOIL", "BOND", "TWIN", "ADATOM", "UNKNOWN")
"""Of defects, in the order of the contract."""

IMAGE: Mapping[str, type] = {
    "file": str, "status": str, "reason": str, "exit_code": int, "folder": str, "sha256": str, "equal_to": str,
    "host": str, "host_source": str, "host_probability": float, "host_uncertain": int,
    "width_px": int, "height_px": int,
    "pixel_size_A": float, "pixel_size_sigma_A": float, "pixel_size_source": str, "metadata_pixel_size_A": float,
    "anisotropy": float, "rotation_deg": float, "residual_rms_pm": float, "masked_fraction": float,
    "judged_nm2": float, "columns": int, "ncc": float, "reduced_chi2": float, "defects": int, "suspects": int,
    "defects_per_nm2": float, "defects_per_nm2_low": float, "defects_per_nm2_high": float,
    **dict.fromkeys(TYPES, int), "doubts": str, "looked_for": str, "blind_to": str, "warnings": int,
    "warning_texts": str,
}  # fmt: skip
"""Columns of the summary. `reason` and `exit_code` say why there is no result; `equal_to` names the first image of the
same content, which statistics count once; `judged_nm2` is the area of the sites that were judged; `doubts` are kinds of
warnings that put the whole in doubt (`stemfit.warn.doubts`); `looked_for` are single vacancies that the crystal can
have, `blind_to` those of them that the image could not show; NULL or empty is what is not known or is not."""

DEFECT: Mapping[str, type] = {
    "file": str, "id": int, "claimed": int, "type": str, "label": str, "probability": float, "log_bayes_factor": float,
    "x_px": float, "y_px": float, "x_A": float, "y_A": float, "sites": int, "best_candidate": str,
}  # fmt: skip
"""Columns of what was found: `claimed` is 0 for suspects."""

CANDIDATE: Mapping[str, type] = {
    "file": str, "id": str, "defect": int, "label": str, "log_likelihood": float, "posterior": float,
    "in_95_set": int, "ncc": float, "ssim": float, "reduced_chi2": float, "evidence_relaxed_minus_unrelaxed": float,
    "max_displacement_A": float, "tie_with": str, "relaxer": str, "structure": str,
}  # fmt: skip
"""Columns of the structures that were compared: `tie_with` lists those that look the same, among which the posterior is
split; `structure` is the path of the file below the results."""


class Record(NamedTuple):
    """Rows of the tables.

    Attributes
    ----------
    image : dict
        As `IMAGE`.
    defects, candidates : list of dict
        As `DEFECT` and `CANDIDATE`.
    """

    image: dict[str, Any]
    defects: list[dict[str, Any]]
    candidates: list[dict[str, Any]]


def records(asked: Request, held: Contents) -> Iterator[Record]:
    """What is known of every image of a folder, in the order of the names as people count."""
    first: dict[str, str] = {}
    names = {one.name: one for one in held.sha256}
    lost = {one.name: unread(one) for one in held.unreadable}
    for name in sorted({*names, *lost}, key=natural):
        if name in lost:
            yield _failed(lost[name], "")
            continue
        sha256 = held.sha256[names[name]]
        state = state_of(asked, name, asked.key(sha256))
        if state is None:
            yield Record(_row(name, "pending", sha256), [], [])
        elif isinstance(state, Failure):
            yield _failed(state, sha256)
        else:
            yield _done(asked.results, name, sha256, first)


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key of a name: im2 before im10."""
    parts = re.split(r"([0-9]+)", name)  # every second one is a number
    return [(int(part), "") if k % 2 else (0, part.casefold()) for k, part in enumerate(parts)], name


def _row(name: str, status: str, sha256: str, **more: Any) -> dict[str, Any]:
    return {**dict.fromkeys(IMAGE), "file": told(name), "status": status, "sha256": sha256 or None, **more}


def _failed(failure: Failure, sha256: str) -> Record:
    more = {"reason": told(failure.reason), "exit_code": failure.exit_code}
    return Record(_row(failure.input, "failed", sha256, **more), [], [])


def _done(root: Path, name: str, sha256: str, first: dict[str, str]) -> Record:
    from stemfit.batch.statistics import density

    folder = folder_of(root, name)
    try:
        document = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
        columns = (folder / "columns.csv").read_bytes().count(b"\n") - 1
    except (ValueError, OSError) as error:
        return _failed(Failure(name, None, 3, f"its result is damaged ({error}); remove the folder"), sha256)
    host, scale, lattice = document["host"], document["calibration"], document["lattice"]
    height, width = document["input"]["shape_px"]
    judged, doubts = document["judged"], document["doubts"]
    nm2 = judged["area_nm2"]
    claimed = document["defects"]
    per_nm2 = density(len(claimed), nm2)
    equal = first.setdefault(sha256, name)
    place = told(folder.relative_to(root).as_posix())
    image = _row(
        name, "ok", sha256, folder=place, equal_to=None if equal == name else told(equal), host=host["name"],
        host_source=host["source"], host_probability=host["probability"], host_uncertain=int("host" in doubts),
        width_px=width, height_px=height,
        pixel_size_A=scale["pixel_size_A"], pixel_size_sigma_A=scale["pixel_size_sigma_A"],
        pixel_size_source=scale["source"], metadata_pixel_size_A=scale["metadata_pixel_size_A"],
        anisotropy=lattice["anisotropy"], rotation_deg=lattice["rotation_deg"],
        residual_rms_pm=lattice["residual_rms_pm"], masked_fraction=lattice["masked_fraction"], judged_nm2=nm2,
        columns=columns, ncc=document["match"]["ncc"], reduced_chi2=document["match"]["reduced_chi2"],
        defects=len(claimed), suspects=len(document["suspects"]), defects_per_nm2=per_nm2.value,
        defects_per_nm2_low=per_nm2.low, defects_per_nm2_high=per_nm2.high,
        **{kind: sum(one["type"] == kind for one in claimed) for kind in TYPES},
        doubts=" ".join(doubts) or None, looked_for=" ".join(judged["apart_sigma"]) or None,
        blind_to=" ".join(judged["blind_to"]) or None, warnings=len(document["warnings"]),
        warning_texts=told(" | ".join(document["warnings"])) or None,
    )  # fmt: skip
    defects = [_defect(name, one, 1) for one in claimed] + [_defect(name, one, 0) for one in document["suspects"]]
    return Record(image, defects, [_candidate(name, place, one) for one in document["candidates"]])


def _defect(name: str, one: Mapping[str, Any], claimed: int) -> dict[str, Any]:
    (x_px, y_px), (x_A, y_A) = one["center_px"], one["center_A"][:2]
    own = {"file": told(name), "claimed": claimed, "x_px": x_px, "y_px": y_px, "x_A": x_A, "y_A": y_A,
           "sites": len(one["sites"])}  # fmt: skip
    return {column: own[column] if column in own else one[column] for column in DEFECT}


def _candidate(name: str, place: str, one: Mapping[str, Any]) -> dict[str, Any]:
    own = {"file": told(name), "relaxer": one["relaxer"]["name"], "structure": f"{place}/{one['file']}",
           "in_95_set": int(one["in_95_set"]), "tie_with": " ".join(one["tie_with"]) or None}  # fmt: skip
    return {column: own[column] if column in own else one[column] for column in CANDIDATE}
