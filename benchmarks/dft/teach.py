"""Fine-tune CHGNet on the frames, and judge it on whole defects that it never saw.

Displacements are those of relaxations in the cell and from the sites of DFT, in plane, over all atoms: root of the
summed squares of the error over that of doing nothing. CHGNet as it comes stands beside. Lattice constants are those of
sheets at rest, over those of DFT.

Run: ``OMP_NUM_THREADS=1 python benchmarks/dft/teach.py [--epochs 60] [--curve] [--out teacher.pt]``
(some minutes of CPU time)
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.optimize import LBFGS

sys.path.insert(0, str(Path(__file__).parents[1]))

from machine import headline, table
from tuning import Recipe, examples, potential, replayed, tune

from definet.dft import Frame, RELAXED_eV_A, parts, read_folder, to_atoms
from definet.teacher import _Forces, equilibrium_lattice

FRAMES = Path(__file__).parent / "frames"
SHELL_A = 0.5
"""Metals within this much of the nearest to a vacancy are its neighbours."""


class Verdict(NamedTuple):
    """How a potential does on one defect.

    Attributes
    ----------
    defect, part : str
    plane, all : float
        Error of displacements over doing nothing, in plane and of all components.
    metals_A, dft_A : float
        Mean displacement of the metals next to the first empty site towards it, in plane.
    """

    defect: str
    part: str
    plane: float
    all: float
    metals_A: float
    dft_A: float


def truths(frames: Sequence[Frame]) -> list[Frame]:
    """The relaxed frame of every defect that has one."""
    found: dict[str, Frame] = {}
    for frame in frames:
        rested = frame.fmax_eV_A <= RELAXED_eV_A and frame.trajectory in ("potential", "ideal")
        if rested and (frame.defect not in found or frame.free_energy_eV < found[frame.defect].free_energy_eV):
            found[frame.defect] = frame
    return list(found.values())


def judged(truth: Frame, calculator: Any) -> Verdict:
    """Relax from the sites of the host, in the cell of the truth."""
    atoms = Atoms(truth.numbers, truth.ideal_A, cell=truth.cell_A, pbc=True, calculator=calculator)
    LBFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    moved = atoms.get_positions() - truth.ideal_A
    moved -= moved.mean(axis=0)
    wanted = truth.displacement_A
    plane, every = (
        float(np.sqrt(((moved - wanted)[:, :n] ** 2).sum() / (wanted[:, :n] ** 2).sum())) for n in (2, 3)
    )
    return Verdict(truth.defect, truth.part, plane, every, inward_A(truth, moved), inward_A(truth, wanted))


def inward_A(truth: Frame, moved: np.ndarray) -> float:
    """Mean displacement in plane of the metals next to the first empty site, towards it; nan where nothing is empty."""
    if not truth.vacant:
        return float("nan")
    metals = np.flatnonzero(np.isin(truth.numbers, (42, 74)))
    if len(metals) == 0:
        return float("nan")
    from ase.geometry import find_mic

    to_A = np.asarray(truth.vacant[0][1]) - truth.ideal_A[metals]
    to_A = find_mic(to_A, truth.cell_A)[0][:, :2]
    far = np.hypot(*to_A.T)
    near = far < far.min() + SHELL_A
    return float(np.mean(np.sum(moved[metals[near], :2] * to_A[near], axis=1) / far[near]))


def force_error(frames: Sequence[Frame], calculator: Any) -> float:
    """Root mean square error of force components, eV/A."""
    off = []
    for frame in frames:
        atoms = to_atoms(frame)
        atoms.calc = calculator
        off.append((atoms.get_forces() - frame.forces_eV_A + frame.forces_eV_A.mean(axis=0)).ravel())
    return float(np.sqrt(np.mean(np.concatenate(off) ** 2))) if off else float("nan")


def lattice(calculator: Any) -> dict[str, float]:
    """Lattice constant at rest over that of DFT."""
    known = json.loads((Path(__file__).parent / "lattice.json").read_text())
    return {host: equilibrium_lattice(host, calculator) / float(known[host]["a_A"]) for host in sorted(known)}


def report(frames: Sequence[Frame], calculators: dict[str, Any]) -> None:
    """Print everything beside everything."""
    verdicts = {name: [judged(t, c) for t in truths(frames)] for name, c in calculators.items()}
    names = list(calculators)
    head = ("defect", "part", *(f"{n}: in plane (all)" for n in names), "metals, DFT / A", *(f"{n} / A" for n in names))
    rows = []
    for each in zip(*verdicts.values(), strict=True):
        cells = [f"{v.plane:.2f} ({v.all:.2f})" for v in each]
        inward = [f"{v.metals_A:.3f}" for v in each]
        rows.append((each[0].defect, each[0].part, *cells, f"{each[0].dft_A:.3f}", *inward))
    print(table(head, sorted(rows, key=lambda row: (row[1], row[0]))))
    by_part = parts([f for f in frames if f.trajectory != "strained"])
    error = [(part, *(f"{force_error(some, c):.3f}" for c in calculators.values())) for part, some in by_part.items()]
    print("\n" + table(("forces of", *(f"{n}, eV/A" for n in names)), error))
    constants = {name: lattice(c) for name, c in calculators.items()}
    hosts = sorted(next(iter(constants.values())))
    print("\n" + table(("a over DFT", *names), [(h, *(f"{constants[n][h]:.4f}" for n in names)) for h in hosts]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the frames to learn from")
    parser.add_argument("--out", type=Path, help="where the weights go")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    frames = read_folder(FRAMES)
    known = frames + read_folder(FRAMES / "corner")
    learnt = [f for f in known if f.part == "train"]
    anchors = [f for f in learnt if f.trajectory == "strained"]
    others = [f for f in learnt if f.trajectory != "strained"]
    random.Random(asked.seed).shuffle(others)
    others = others[: round(asked.share * len(others))]
    model, began = potential(), time.process_time()
    own = replayed(("MoTe2", "WTe2"), ("",), 4, _Forces(model), asked.seed) if asked.epochs else []
    tune(
        model, examples(anchors + others, model) + own, Recipe(epochs=asked.epochs, seed=asked.seed),
        lambda epoch, loss: print(f"epoch {epoch + 1}: {loss:.5f}", file=sys.stderr) if epoch % 10 == 9 else None,
    )  # fmt: skip
    defects = len({f.defect for f in others})
    print(f"{headline()}\n{len(others)} frames of {defects} defects, {len(anchors)} strained sheets, "
          f"{len(own)} own labels; {asked.epochs} epochs, {time.process_time() - began:.0f} CPU s\n")  # fmt: skip
    report(frames, {"CHGNet": _Forces(potential()), "tuned": _Forces(model)})
    if asked.out is not None:
        torch.save(model.state_dict(), asked.out)


if __name__ == "__main__":
    main()
