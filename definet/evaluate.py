"""Errors of a network on relaxed structures, against the teacher and against doing nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from definet.checkpoint import Checkpoint
from definet.crystals import host
from definet.graph import VACANCY
from definet.predict import Move, predictions, resolve_device
from definet.samples import Sample
from definet.train import example

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """Mean error over the atoms of a group of structures; vacancy nodes do not count.

    The rigid shift of each structure is taken out. "Idle" is the error of leaving every atom where it was.

    Attributes
    ----------
    group : str
    structures, atoms : int
    in_plane_A, idle_in_plane_A : float
        Mean length of the error along x and y.
    out_of_plane_A, idle_out_of_plane_A : float
        Mean size of the error along z.
    near_A, idle_near_A : float
        As in plane, of the atoms within 6 A (in plane) of a changed node; per atom of the group.
    excess : float
        Root mean square of the errors in units of the stated standard error; 1 if that is true, nan if none is stated.
    energy_eV, idle_energy_eV : float
        Mean size of the error of the energy gained by relaxing, and of the energy; per structure.
    """

    group: str
    structures: int
    atoms: int
    in_plane_A: float
    idle_in_plane_A: float
    out_of_plane_A: float
    idle_out_of_plane_A: float
    near_A: float = float("nan")
    idle_near_A: float = float("nan")
    excess: float = float("nan")
    energy_eV: float = float("nan")
    idle_energy_eV: float = float("nan")

    @property
    def in_plane_ratio(self) -> float:
        """Error as a share of that of doing nothing; below 1 is better than nothing."""
        return self.in_plane_A / self.idle_in_plane_A if self.idle_in_plane_A else float("nan")

    @property
    def out_of_plane_ratio(self) -> float:
        """The same along z."""
        return self.out_of_plane_A / self.idle_out_of_plane_A if self.idle_out_of_plane_A else float("nan")

    @property
    def near_ratio(self) -> float:
        """As in plane, next to the defects."""
        return self.near_A / self.idle_near_A if self.idle_near_A else float("nan")


def evaluate(checkpoint: Checkpoint, samples: Sequence[Sample], device: str = "auto") -> list[Errors]:
    """Compare predictions with the relaxed positions: over all samples, per host, per family of defects.

    Ratios come from pooled sums: a structure that hardly relaxes has no say beyond its share of the displacements.
    """
    net = checkpoint.network(resolve_device(device))
    pairs = [example(sample, checkpoint.config) for sample in samples]
    predicted = predictions(net, [pair.graph for pair in pairs])
    sums = np.array([_sums(sample, move) for sample, move in zip(samples, predicted, strict=True)])
    groups: dict[str, list[int]] = {}
    named = [("all", sample.host, family(sample.host, sample.label)) for sample in samples]
    for level in range(3):
        for k, names in sorted(enumerate(named), key=lambda item: item[1][level]):
            groups.setdefault(names[level], []).append(k)
    return [_errors(name, sums[members]) for name, members in groups.items()]


def family(host_name: str, label: str) -> str:
    """Family of a defect label: SV, DV, VM, LINE, TREFOIL, BOND, SUB, ANTI, or "mixed" for several of these.

    A line or trefoil with point defects beside it counts as what it is: it moves most.
    """
    families = {_family(host_name, part) for part in label.split("+")}
    extended = sorted(families & {"LINE", "TREFOIL", "BOND"})
    if extended:
        return extended[0]
    return families.pop() if len(families) == 1 else "mixed"


def scores(table: Sequence[Errors]) -> Mapping[str, float]:
    """Pooled errors and ratios of each group, as a checkpoint carries them; a ratio to nothing is left out."""
    return {
        f"{row.group}/{name}": round(value, 5)
        for row in table
        for name, value in (
            ("structures", row.structures),
            ("in_plane_A", row.in_plane_A),
            ("in_plane_ratio", row.in_plane_ratio),
            ("out_of_plane_A", row.out_of_plane_A),
            ("out_of_plane_ratio", row.out_of_plane_ratio),
            ("near_ratio", row.near_ratio),
            ("excess", row.excess),
            ("energy_eV", row.energy_eV),
        )
        if np.isfinite(value)
    }


def as_text(table: Sequence[Errors]) -> str:
    """Markdown table, lengths in picometre."""
    lines = [
        "| group | structures | in plane, pm | unmoved | ratio | within 6 A | out of plane, pm | unmoved | ratio "
        "| rms error / sigma | energy gained, eV | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.group} | {row.structures} "
        f"| {100 * row.in_plane_A:.2f} | {100 * row.idle_in_plane_A:.2f} | {row.in_plane_ratio:.3f} "
        f"| {row.near_ratio:.3f} "
        f"| {100 * row.out_of_plane_A:.2f} | {100 * row.idle_out_of_plane_A:.2f} | {row.out_of_plane_ratio:.3f} "
        f"| {row.excess:.2f} | {row.idle_energy_eV:.2f} | {row.energy_eV:.2f} |"
        for row in table
    ]
    return "\n".join(lines)


def _family(host_name: str, part: str) -> str:
    if re.match(r"[SDC]VL-", part):
        return "LINE"
    if re.match(r"T\d", part):
        return "TREFOIL"
    if part == "SW":
        return "BOND"
    there, _, belongs = re.sub(r"^\d+(?=[A-Z])", "", part).partition("_")
    own = set(host(host_name).elements.values())
    if there == "V":
        return _vacancy_family(host_name, belongs)
    if not belongs:
        return part
    return "ANTI" if re.sub(r"\d", "", there) in own else "SUB"


def _vacancy_family(host_name: str, missing: str) -> str:
    elements = re.findall(r"[A-Z][a-z]?", missing)
    if host(host_name).elements.get("M") in elements:
        return "VM"
    return "SV" if missing in elements else "DV"


NEAR_A = 6.0


def near_a_defect(sample: Sample) -> NDArray[np.bool_]:
    """(N,) nodes within 6 A, in plane, of a node that is changed or empty."""
    inverse = np.linalg.inv(sample.cell)
    fractional = sample.positions @ inverse
    offset = fractional[:, None] - fractional[None, sample.marker > 0]
    distance = np.linalg.norm(((offset - np.round(offset)) @ sample.cell)[..., :2], axis=2)
    return np.asarray(distance.min(axis=1, initial=np.inf) < NEAR_A)


def _sums(sample: Sample, move: Move) -> list[float]:
    """Atoms, then sums over them, predicted and idle: in plane, out of plane, near; squared excess; energies."""
    atoms = sample.marker != VACANCY
    target = sample.displacement[atoms]
    wanted = target - target.mean(axis=0)
    error = move.displacement_A[atoms] - wanted
    near = near_a_defect(sample)[atoms]
    gained = sample.initial_energy_eV - sample.energy_eV
    lengths = [np.linalg.norm(values[:, :2], axis=1) for values in (error, wanted)]
    heights = [np.abs(values[:, 2]) for values in (error, wanted)]
    squares = np.nan if move.sigma_A is None else (error**2).mean(axis=1) / move.sigma_A[atoms] ** 2
    wrong = np.nan if move.energy_drop_eV is None else abs(move.energy_drop_eV - gained)
    return [
        float(atoms.sum()),
        *(float(values.sum()) for values in (*lengths, *heights, lengths[0][near], lengths[1][near])),
        float(np.sum(squares)),
        float(wrong),
        abs(gained),
    ]


def _errors(name: str, sums: FloatArray) -> Errors:
    atoms, *totals, squares, wrong, gained = sums.sum(axis=0)
    lengths = [float(total / atoms) for total in totals]
    means = [*lengths, float(np.sqrt(squares / atoms)), float(wrong / len(sums)), float(gained / len(sums))]
    return Errors(name, len(sums), int(atoms), *means)
