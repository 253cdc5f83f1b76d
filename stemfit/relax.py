"""The seam between image and theory: candidates in, relaxed structures out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import UsageError

if TYPE_CHECKING:
    from definet.checkpoint import Checkpoint
    from definet.predict import Relaxed as Prediction
    from definet.structures import DefectStructure
    from stemfit.candidates import Candidate

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Relaxed:
    """Relaxed nodes of one candidate.

    Attributes
    ----------
    positions_A : (N, 3) array
        Cartesian, same order and frame as the candidate's structure (vacancy nodes included, unmoved).
    sigma_A : (N,) array or None
        Standard error of each position per axis, where the relaxer states one.
    relaxer : str
        "keep", "definet" or "teacher:<name>".
    checkpoint_sha256 : str or None
    caution : str
        Why the relaxer should not be trusted with this structure; empty if nothing is known against it.
    """

    positions_A: FloatArray
    sigma_A: FloatArray | None
    relaxer: str
    checkpoint_sha256: str | None
    caution: str = ""


Relaxer = Callable[[Sequence["Candidate"]], Sequence[Relaxed]]


def relaxer(name: str, device: str = "auto") -> Relaxer:
    """Relaxer by name: "definet" (the shipped weights) or "keep" (structures as built)."""
    if name == "keep":
        return keep
    if name == "definet":
        return _definet(device)
    raise UsageError(f"no relaxer {name!r}", remedy="choose definet or keep")


def keep(candidates: Sequence[Candidate]) -> list[Relaxed]:
    """Leave every structure as it was built."""
    return [Relaxed(c.structure.structure.cart_coords, None, "keep", None) for c in candidates]


def _definet(device: str) -> Relaxer:
    from definet.checkpoint import load_checkpoint, shipped
    from definet.predict import relax

    path = shipped()
    checkpoint = load_checkpoint(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    def run(candidates: Sequence[Candidate]) -> list[Relaxed]:
        # Many defects have the same candidates: each structure is relaxed once.
        different = {
            id(c.structure): c.structure for c in candidates if c.structure.sites and _taught(c.structure, checkpoint)
        }
        moved = relax(list(different.values()), checkpoint, device) if different else []
        by_structure = dict(zip(different, moved, strict=True))
        return [
            _as_relaxed(c, by_structure.get(id(c.structure)), digest) if _taught(c.structure, checkpoint) else _kept(c)
            for c in candidates
        ]

    return run


def _taught(structure: DefectStructure, checkpoint: Checkpoint) -> bool:
    """Whether the network may be asked: of a user's own crystal it knows nothing."""
    return structure.crystal is None or structure.host in checkpoint.hosts


def _kept(candidate: Candidate) -> Relaxed:
    reason = f"the network does not know {candidate.structure.host}: its candidates stay as built"
    caution = reason if candidate.structure.sites else ""
    return Relaxed(candidate.structure.structure.cart_coords, None, "keep", None, caution)


def _as_relaxed(candidate: Candidate, predicted: Prediction | None, digest: str) -> Relaxed:
    if predicted is None:
        return Relaxed(candidate.structure.structure.cart_coords, None, "definet", digest)
    return Relaxed(predicted.positions_A, None, "definet", digest, predicted.reason)
