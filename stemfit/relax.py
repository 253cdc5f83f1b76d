"""The seam between image and theory: candidates in, relaxed structures out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from definet.checkpoint import Checkpoint
    from definet.predict import Relaxed as Prediction
    from definet.structures import DefectStructure
    from definet.teacher import Minimum
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
        Standard error of each position per axis against the potential that taught the relaxer, where it states one.
    relaxer : str
        "keep", "definet" or "teacher:<name>".
    checkpoint_sha256 : str or None
    caution : str
        Why the relaxer should not be trusted with this structure; empty if nothing is known against it.
    energy_drop_eV : float or None
        Unrelaxed less relaxed energy, where the relaxer states it.
    """

    positions_A: FloatArray
    sigma_A: FloatArray | None
    relaxer: str
    checkpoint_sha256: str | None
    caution: str = ""
    energy_drop_eV: float | None = None


Relaxer = Callable[[Sequence["Candidate"]], Sequence[Relaxed]]


def relaxer(name: str, device: str = "auto", checkpoint: Path | None = None) -> Relaxer:
    """Relaxer by name.

    Parameters
    ----------
    name : str
        "definet" (the network), "teacher" (CHGNet, seconds to a minute per candidate) or "keep" (structures as built).
    device : str
        For the network.
    checkpoint : Path, optional
        Its weights; default those that come along.

    Raises
    ------
    UsageError
        If there is no such relaxer, or weights are given to one that has none.
    ModelError
        If the weights cannot be used, or the potential is not installed.
    """
    if checkpoint is not None and name != "definet":
        raise UsageError(f"--checkpoint does not go with --relaxer {name}", remedy="leave one of them out")
    if name not in ("keep", "teacher", "definet"):
        raise UsageError(f"no relaxer {name!r}", remedy="choose definet, teacher or keep")
    return _loaded(name, device, checkpoint, _changed_ns(checkpoint))


@lru_cache(maxsize=2)
def _loaded(name: str, device: str, checkpoint: Path | None, changed_ns: int) -> Relaxer:
    """Models of many images in one process are loaded once, and again when their file has changed."""
    if name == "keep":
        return keep
    return _teacher() if name == "teacher" else _definet(device, checkpoint)


def _changed_ns(path: Path | None) -> int:
    """When a file was changed; 0 where there is none, which whoever loads it will say."""
    try:
        return 0 if path is None else path.stat().st_mtime_ns
    except OSError:
        return 0


def keep(candidates: Sequence[Candidate]) -> list[Relaxed]:
    """Leave every structure as it was built."""
    return [Relaxed(c.structure.nodes_A, None, "keep", None) for c in candidates]


def taught_by(checkpoint: Checkpoint) -> str:
    """Name of the potential that taught weights.

    Raises
    ------
    ModelError
        If it is none that is installed in the same version.
    """
    from definet.exceptions import TeacherError
    from definet.teacher import named

    try:
        return named(checkpoint.provenance.teacher)
    except TeacherError as error:
        raise ModelError(str(error), remedy="name another with --potential") from error


def teacher(name: str) -> Calculator:
    """A potential; what it prints when it is loaded is dropped.

    Raises
    ------
    ModelError
        If it is not installed.
    """
    from contextlib import redirect_stdout
    from io import StringIO

    from definet.exceptions import TeacherError
    from definet.teacher import calculator

    try:
        with redirect_stdout(StringIO()):
            return calculator(name)
    except TeacherError as error:
        raise ModelError(str(error), remedy="pip install 'stemfit[teacher]', or ask for no teacher") from error


def teacher_lattice(name: str, taught: Checkpoint) -> Callable[[str], float | None]:
    """Lattice constant of each host in a potential, if it taught these weights; None where it is not known."""
    from definet.teacher import fidelity

    known = taught.hosts if taught.provenance.teacher == fidelity(name) else {}
    return lambda host: known[host].a_A if host in known else None


def _teacher() -> Relaxer:
    from definet.checkpoint import load_checkpoint, shipped
    from definet.relaxation import at_teacher
    from definet.teacher import fidelity

    taught = load_checkpoint(shipped())
    which = taught_by(taught)
    potential, lattice, name = teacher(which), teacher_lattice(which, taught), f"teacher:{fidelity(which)}"

    def run(candidates: Sequence[Candidate]) -> list[Relaxed]:
        different = {id(s): s for c in candidates if _moves(c) for s in [_asked(c)]}
        found = {key: at_teacher(structure, potential, lattice(structure.host)) for key, structure in different.items()}
        return [_as_taught(c, found.get(id(_asked(c))), name) for c in candidates]

    return run


def _as_taught(candidate: Candidate, minimum: Minimum | None, name: str) -> Relaxed:
    at_start = candidate.structure.structure.cart_coords
    if minimum is None:
        return Relaxed(at_start, None, name, None)
    caution = "" if minimum.converged else f"the teacher did not come to rest ({minimum.fmax_eV_A:.2f} eV/A are left)"
    drop = minimum.initial_energy_eV - minimum.energy_eV
    return Relaxed(minimum.positions_A, None, name, None, caution, drop)


def _definet(device: str, weights: Path | None) -> Relaxer:
    from definet.checkpoint import load_checkpoint, shipped
    from definet.predict import relax, relax_by
    from definet.service import shared

    checkpoint = load_checkpoint(weights or shipped())
    digest = checkpoint.sha256
    ask = shared()
    if ask is not None and ask.greeting.sha256 != digest:
        raise ModelError("the weights have changed since the batch began", remedy="start it again")

    def run(candidates: Sequence[Candidate]) -> list[Relaxed]:
        # Many defects have the same candidates: each structure is relaxed once.
        different = {
            id(s): s for c in candidates if _moves(c) for s in [_asked(c)] if _taught(s, checkpoint)
        }
        asked = list(different.values())
        moved = [] if not asked else relax_by(ask, asked, checkpoint) if ask else relax(asked, checkpoint, device)
        by_structure = dict(zip(different, moved, strict=True))
        return [
            _as_relaxed(c, by_structure.get(id(_asked(c))), digest) if _taught(c.structure, checkpoint) else _kept(c)
            for c in candidates
        ]

    return run


def _asked(candidate: Candidate) -> DefectStructure:
    """What is relaxed in its place: the same nodes."""
    return candidate.relaxed_as or candidate.structure


def _moves(candidate: Candidate) -> bool:
    """Whether there is anything to relax."""
    return bool(candidate.structure.sites) and not candidate.as_built


def _taught(structure: DefectStructure, checkpoint: Checkpoint) -> bool:
    """Whether the network may be asked: of a user's own crystal it knows nothing."""
    return structure.crystal is None or structure.host in checkpoint.hosts


def _kept(candidate: Candidate) -> Relaxed:
    reason = f"the network does not know {candidate.structure.host}: its candidates stay as built"
    caution = reason if candidate.structure.sites else ""
    return Relaxed(candidate.structure.structure.cart_coords, None, "keep", None, caution)


def _as_relaxed(candidate: Candidate, predicted: Prediction | None, digest: str) -> Relaxed:
    from definet.outliers import farthest_move_A

    at_start = candidate.structure.structure.cart_coords
    if predicted is None:
        return Relaxed(at_start, None, "definet", digest)
    reached_A = float(np.linalg.norm(predicted.positions_A - at_start, axis=1).max())
    if reached_A > farthest_move_A(candidate.label):
        why = f"the network moved an atom of {candidate.label} further than any that it learnt from"
        return Relaxed(at_start, None, "keep", None, f"{why}: it stays as built")
    return Relaxed(
        predicted.positions_A, predicted.sigma_A, "definet", digest, predicted.reason, predicted.energy_drop_eV
    )
