"""A quick analysis in the place of the real one, for what a batch does with it; a program that runs a batch with it.

    python batch_stub.py FOLDER RESULTS [--workers N] [--dask ADDRESS] [--shard I/N] [--retry-failed] [--watch]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stemfit.batch import Request, Watch, run
from stemfit.batch.cluster import cluster
from stemfit.batch.inputs import shard
from stemfit.batch.local import processes
from stemfit.batch.work import Method
from stemfit.errors import InputError, NotAnalysable, StemfitError

SETTINGS = {"host": "auto", "relaxer": "keep", "device": "cpu", "checkpoint": None, "mask": None}
GIB = 2**30


def image(path: Path, number: int, kind: str = "good", size: int = 200) -> Path:
    """An "image": bytes whose beginning says what the analysis shall do with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{kind} {number}\n".encode().ljust(size, b"."))
    return path


def nothing(settings: Mapping[str, Any]) -> None:
    """Ready at once."""


def analyse(path: Path, settings: Mapping[str, Any], out: Path) -> None:
    """Write a small result that follows from the bytes, slowly enough to be interrupted in the middle of it."""
    content = path.read_bytes()
    kind, number = content.split(b"\n")[0].decode().split()
    if kind == "damaged":
        raise InputError("damaged", remedy="copy it again", subject=path)
    if kind == "flat":
        raise NotAnalysable(f"no columns in {number}", remedy="look at it", subject=path)
    if kind == "bug":
        raise RuntimeError(f"bug {number}")
    if kind == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hungry":
        held = bytearray(GIB)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(30)
    out.mkdir()
    (out / "columns.csv").write_text("id\n" + "".join(f"{k}\n" for k in range(100)))
    time.sleep(float(os.environ.get("STUB_S", "0")))
    (out / "candidates").mkdir()
    (out / "candidates" / "1-1.cif").write_text("data_x\n")
    if kind == "changes":
        path.write_bytes(content + b"more")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (out / "analysis.json").write_text(json.dumps(document(path, digest, int(number)), indent=1, ensure_ascii=False))


def defect(number: int, kind: str, label: str) -> dict[str, Any]:
    """One claim."""
    return {
        "id": number, "type": kind, "label": label, "probability": 0.75, "center_px": [10.0 * number, 5.0],
        "center_A": [1.0 * number, -0.5], "sites": [[number, 0, "X"]], "log_bayes_factor": 12.5,
        "best_candidate": f"{number}-1",
    }  # fmt: skip


def document(path: Path, sha256: str, number: int) -> dict[str, Any]:
    """What the tables read of an `analysis.json`: as many vacancies as the digits of a number say."""
    kinds = ["SV"] * (number % 10) + ["DV"] * (number // 10 % 10)
    found = [defect(k, kind, "V_S" if kind == "SV" else "V_S2") for k, kind in enumerate(kinds, start=1)]
    blind = number // 10 % 10 == 4
    scores = {"log_likelihood": -5.0, "posterior": 0.9, "in_95_set": True, "ncc": 0.9, "ssim": 0.8,
              "reduced_chi2": 1.0, "evidence_relaxed_minus_unrelaxed": None, "max_displacement_A": 0.1,
              "tie_with": []}  # fmt: skip
    candidates = [
        {"id": f"{one['id']}-1", "defect": one["id"], "label": one["label"], **scores, "relaxer": {"name": "keep"},
         "file": f"candidates/{one['id']}-1.cif"}
        for one in found
    ]  # fmt: skip
    return {
        "schema": "stemfit.analysis/1",
        "warnings": ["the scale, 0.1, is \"odd\"", "second"][: 2 * (number % 2)],
        "input": {"path": str(path), "sha256": sha256, "shape_px": [100, 200]},
        "calibration": {
            "pixel_size_A": 0.1, "pixel_size_sigma_A": 0.001, "source": "lattice", "metadata_pixel_size_A": None
        },
        "host": {"name": ("MoS2", "WSe2")[number % 2], "source": "inferred", "probability": 0.9},
        "judged": {"sites": 130, "area_nm2": 1.25, "apart_sigma": {"V_S": 2.0 if blind else 9.0},
                   "blind_to": ["V_S"] * blind},
        "doubts": ["host"] * (number % 2) + ["vacancies"] * blind,
        "lattice": {"anisotropy": 1.0, "rotation_deg": 3.0, "residual_rms_pm": 2.0, "masked_fraction": 0.25},
        "defects": found, "suspects": [], "candidates": candidates, "match": {"ncc": 0.96, "reduced_chi2": 1.1},
    }  # fmt: skip


STUB = Method(nothing, analyse)


def main() -> int:
    # What is started in the background of a script ignores Ctrl-C, and so does all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dask")
    parser.add_argument("--shard")
    parser.add_argument("--retry-failed", action="store_true")
    parser.add_argument("--watch", action="store_true")
    asked = parser.parse_args()
    request = Request(
        asked.folder.absolute(), asked.results.absolute(), SETTINGS, share=shard(asked.shard),
        retry_failed=asked.retry_failed,
    )  # fmt: skip

    def engine() -> Any:
        # Workers import this file by its own name, as they do in the tests.
        from batch_stub import STUB as method

        if asked.dask:
            return cluster(asked.dask, asked.workers, method, GIB)
        return processes(asked.workers, method, GIB)

    try:
        ended = run(request, engine, lambda event: None,
                    Watch(0.3) if asked.watch else None)  # fmt: skip
    except StemfitError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 10 if ended.failures else 0


if __name__ == "__main__":
    sys.exit(main())
