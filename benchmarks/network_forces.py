"""The network's structures in the eyes of its teacher, and of density functional theory. Sections of `network.py`.

Forces and energies at the unrelaxed and at the predicted positions, and how many force calls the teacher saves when it
starts from the prediction: same potential, same optimiser, same stiffness of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from machine import table
from network_errors import number
from numpy.typing import NDArray

from definet import teacher
from definet.checkpoint import Checkpoint
from definet.crystals import Crystal
from definet.predict import relax
from definet.relaxation import at_teacher
from definet.samples import Sample
from definet.structures import VACANCY, DefectStructure

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

FloatArray = NDArray[np.float64]
Say = Callable[[str], None]
FORCE_TARGET = 0.25
SAME_MINIMUM_eV = 0.05
"""Relaxations that end farther apart in energy ended in different minima."""


class Pulled(NamedTuple):
    """One structure as the teacher sees it.

    fmax (eV/A) and energy above the minimum (eV) before and after the network's pass; force calls to the asked fmax
    from either, and by how much the minimum reached from the prediction is higher (eV); -1 and nan where not asked.
    """

    sample: Sample
    idle_fmax: float
    fmax: float
    idle_energy: float
    energy: float
    idle_calls: int = -1
    calls: int = -1
    higher: float = float("nan")
    at_rest: bool = True


def as_structure(sample: Sample, crystal: Crystal | None = None) -> DefectStructure:
    """The unrelaxed structure of a sample; its nodes are in the order of the builders."""
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    numbers = [int(number) for number in sample.numbers]
    structure = Structure(Lattice(sample.cell), numbers, sample.positions, coords_are_cartesian=True)
    sites = tuple(int(k) for k in np.flatnonzero(sample.marker))
    return DefectStructure(structure, sample.marker, sample.label, sites, sample.host, sample.shape, crystal)


def moved(crystal: DefectStructure, positions_A: FloatArray) -> DefectStructure:
    """The same nodes elsewhere."""
    structure = crystal.structure
    there = type(structure)(structure.lattice, structure.species, positions_A, coords_are_cartesian=True)
    return replace(crystal, structure=there)


def chosen(samples: Sequence[Sample], source: str, count: int) -> list[Sample]:
    """Structures that this teacher relaxed, one host after the other, in an order that follows from nothing else."""
    mine = [sample for sample in samples if sample.source == source and sample.converged]
    order = np.random.default_rng(0).permutation(len(mine))
    by_host: dict[str, list[Sample]] = {}
    for k in order:
        by_host.setdefault(mine[k].host, []).append(mine[k])
    deep = max((len(group) for group in by_host.values()), default=0)
    dealt = [by_host[name][k] for k in range(deep) for name in sorted(by_host) if k < len(by_host[name])]
    return dealt[:count]


def pulled(
    sample: Sample, checkpoint: Checkpoint, calculator: Calculator, crystal: Crystal, fmax: float | None, device: str
) -> Pulled:
    """Ask the teacher about one structure; with `fmax` let it relax from both starts."""
    start = as_structure(sample, crystal)
    [found] = relax([start], checkpoint, device)
    end = moved(start, found.positions_A)
    # Any force is small enough where nothing is to be relaxed.
    before, after = (teacher.relax(one, calculator, fmax=fmax or np.inf) for one in (start, end))
    lowest = min(sample.energy_eV, before.energy_eV, after.energy_eV) if fmax else sample.energy_eV
    known = Pulled(
        sample, before.initial_fmax_eV_A, after.initial_fmax_eV_A,
        before.initial_energy_eV - lowest, after.initial_energy_eV - lowest,
    )  # fmt: skip
    if not fmax:
        return known
    return known._replace(
        idle_calls=before.steps, calls=after.steps, higher=after.energy_eV - before.energy_eV,
        at_rest=before.converged and after.converged,
    )  # fmt: skip


def asked(
    checkpoint: Checkpoint, samples: Sequence[Sample], potential: str, fmax: float | None, device: str, say: Say
) -> list[Pulled]:
    """Ask the teacher about several structures."""
    calculator = teacher.calculator(potential)

    @cache
    def crystal(host: str, a_A: float) -> Crystal:
        return teacher.at_rest(host, a_A, calculator)

    found = []
    for k, sample in enumerate(samples):
        a_A = round(float(np.linalg.norm(sample.cell[0])) / sample.shape[0], 6)
        found.append(pulled(sample, checkpoint, calculator, crystal(sample.host, a_A), fmax, device))
        say(f"teacher: structure {k + 1} of {len(samples)}, {sample.host} {sample.label}")
    return found


HEAD = (
    "host", "defect", "atoms", "fmax unrelaxed, eV/A", "after one pass", "ratio", "energy above minimum, eV", "after",
    "force calls", "from the prediction",
)  # fmt: skip


def rows(found: Sequence[Pulled]) -> list[tuple[str, ...]]:
    """One line per structure, the medians last."""
    lines = [_row(one) for one in found]
    calls = [one for one in found if one.calls >= 0 and one.at_rest]
    medians = (
        *(f"{np.median([getattr(one, name) for one in found]):.3f}" for name in ("idle_fmax", "fmax")),
        f"{np.median([one.fmax / one.idle_fmax for one in found]):.3f}",
        *(f"{np.median([getattr(one, name) for one in found]):.3f}" for name in ("idle_energy", "energy")),
        *(f"{np.median([getattr(one, name) for one in calls]):.1f}" if calls else "-"
          for name in ("idle_calls", "calls")),
    )  # fmt: skip
    return [*lines, ("median", "", "", *medians)]


def _row(one: Pulled) -> tuple[str, ...]:
    sample = one.sample
    calls = ("-" if n < 0 else str(n) if one.at_rest else f"{n}, not at rest" for n in (one.idle_calls, one.calls))
    return (
        sample.host, sample.label if len(sample.label) < 30 else f"{sample.label[:27]}...",
        str(int((sample.marker != VACANCY).sum())), f"{one.idle_fmax:.3f}", f"{one.fmax:.3f}",
        f"{one.fmax / one.idle_fmax:.3f}", f"{one.idle_energy:.3f}", f"{one.energy:.3f}", *calls,
    )  # fmt: skip


def section(
    checkpoint: Checkpoint, samples: Sequence[Sample], potential: str, count: int, fmax: float | None, device: str,
    say: Say,
) -> Iterator[str]:  # fmt: skip
    """Markdown of forces, energies and force calls."""
    source = teacher.fidelity(potential)
    picked = chosen(samples, source, count)
    if not picked:
        yield f"No structure of the test split was relaxed by {source}."
        return
    found = asked(checkpoint, picked, potential, fmax, device, say)
    until = f", force calls to {fmax:g} eV/A" if fmax else ""
    yield f"**Forces and energies of {source}**{until}\n\n" + table(HEAD, rows(found))
    ratio = float(np.median([one.fmax / one.idle_fmax for one in found]))
    fallen = float(np.median([one.fmax for one in found]) / np.median([one.idle_fmax for one in found]))
    gained = 1 - sum(one.energy for one in found) / sum(one.idle_energy for one in found)
    verdict = "met" if fallen <= FORCE_TARGET else "not met"
    lines = [
        f"median fmax: {fallen:.3f} of the unrelaxed one (median of ratios {ratio:.3f}); "
        f"target <= {FORCE_TARGET:g}: {verdict}",
        f"energy: the pass gains {100 * gained:.1f} % of what the teacher gains",
    ]
    if fmax:
        lines += _savings([one for one in found if one.at_rest], len(found))
    yield "\n".join(f"- {line}" for line in lines)


def _savings(ended: Sequence[Pulled], of: int) -> list[str]:
    if not ended:
        return [f"none of {of} pairs of relaxations came to rest"]
    calls, idle = sum(one.calls for one in ended), sum(one.idle_calls for one in ended)
    elsewhere = [one for one in ended if abs(one.higher) > SAME_MINIMUM_eV]
    lower = sum(one.higher < 0 for one in elsewhere)
    return [
        f"force calls, {len(ended)} of {of} structures where both came to rest: {calls} from the predictions, {idle} "
        f"from the unrelaxed structures, {number(calls / idle if idle else np.nan, 2)} of them",
        f"{len(elsewhere)} ended in another minimum (more than {SAME_MINIMUM_eV:g} eV apart), {lower} of these lower",
    ]


# -- density functional theory -------------------------------------------------------------------------------------


def by_dft(path: Path) -> tuple[DefectStructure, FloatArray]:
    """MoS2 with one S missing, and the displacements of its atoms (mean taken out), from an extended xyz file.

    The file holds the pristine site of each atom (`ref_positions`) and of the missing one (`centre`). The vacancy node
    comes last.
    """
    from ase.io import read
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    atoms = read(path, index=-1)
    sites, cell = atoms.arrays["ref_positions"], atoms.cell.array
    off = np.linalg.solve(cell.T, (atoms.get_positions() - sites).T).T
    move = (off - np.round(off) * atoms.pbc) @ cell
    centre = np.array(atoms.info["centre"], float)
    numbers = [*(int(n) for n in atoms.numbers), 16]
    marker = np.array([0] * len(atoms) + [VACANCY])
    structure = Structure(Lattice(cell), numbers, np.vstack([sites, centre]), coords_are_cartesian=True)
    n = int(atoms.info["n"])
    crystal = DefectStructure(structure, marker, "V_S", (len(atoms),), "MoS2", (n, n), None, float(atoms.info["a"]))
    return crystal, move - move.mean(axis=0)


def at_thickness(crystal: DefectStructure, thickness_A: float) -> DefectStructure:
    """The same layer with its two chalcogen planes that far apart: at rest in another potential."""
    positions = crystal.structure.cart_coords.copy()
    heights = positions[:, 2]
    middle = heights[[int(z) == 42 for z in crystal.structure.atomic_numbers]].mean()
    positions[:, 2] = middle + (heights - middle) * thickness_A / np.ptp(heights)
    return moved(crystal, positions)


def dft(checkpoint: Checkpoint, folder: Path, potential: str, device: str, say: Say) -> Iterator[str]:
    """Markdown of displacements in DFT, of the teacher and of the network."""
    calculator = teacher.calculator(potential)
    a_A = checkpoint.hosts["MoS2"].a_A
    heights = [atom.z_A for atom in teacher.at_rest("MoS2", a_A, calculator).basis]
    lines = []
    for path in sorted(path for path in folder.glob("*.xyz") if "V_S" in path.name):
        say(f"dft: {path.name}")
        ideal, wanted = by_dft(path)
        start = at_thickness(ideal, max(heights) - min(heights))
        here, rest = start.occupied, start.structure.cart_coords
        taught = (at_teacher(start, calculator, a_A).positions_A - rest)[here]
        learnt = (relax([start], checkpoint, device)[0].positions_A - rest)[here]
        teacher_name = teacher.fidelity(potential)
        for name, value in (("doing nothing", 0 * wanted), (teacher_name, taught), ("network", learnt)):
            lines.append((path.stem, name, *_errors(value, wanted), *_errors(value, taught)))
    if not lines:
        yield f"{folder} holds no relaxed V_S in MoS2 (*.xyz)."
        return
    head = (
        "relaxed by DFT", "", "in plane, pm", "largest", "out of plane, pm", f"against {potential}: in plane, pm",
        "largest", "out of plane, pm",
    )  # fmt: skip
    yield "**Against density functional theory**: mean error of the displacements\n\n" + table(head, lines)


def _errors(value: FloatArray, wanted: FloatArray) -> tuple[str, str, str]:
    error = value - wanted
    error = error - error.mean(axis=0)
    plane = np.linalg.norm(error[:, :2], axis=1)
    return f"{100 * plane.mean():.2f}", f"{100 * plane.max():.2f}", f"{100 * np.abs(error[:, 2]).mean():.2f}"
