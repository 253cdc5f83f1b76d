"""How much of a DFT relaxation is saved by where it starts, and how much by the Hessian that it starts with.

Of every defect that is set aside and whose DFT minimum is known (`frames/`): GPAW with the settings of the frames and
ASE's BFGS, from ideal sites, from the potential's minimum and from DefiNet's prediction, each with ASE's own first
Hessian and with the potential's at that very structure. Every calculation is stored at once; killed, a run loses the
one it was at, and goes on there when it is started again.

    python benchmarks/dft/check.py starts [NAME ...]                       # in the project's environment
    PYTHONPATH=$PWD /usr/bin/python3 benchmarks/dft/check.py run NAME ...  # with GPAW: 1 to 2 CPU hours per defect
    python benchmarks/dft/check.py table                                   # anywhere, from check.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from trajectory import Book, Enough, Replay, Source

from definet.dft import SET_ASIDE, Frame, RELAXED_eV_A, read_folder
from definet.hessian import preconditioner, stiffness

HERE = Path(__file__).parent
FOLDER, RESULTS = HERE / "check", HERE / "check.json"
STARTS = ("unrelaxed", "potential", "definet")
HESSIANS = ("potential's", "ASE's")
"""In the order in which they are run: the shorter first."""
MOST = 40
"""Calculations after which a relaxation is given up."""
SAME_A = 1e-6
"""Positions are stored to 1e-8."""


class Trial(NamedTuple):
    """A defect and where its relaxations start.

    Attributes
    ----------
    truth : Frame
        The DFT minimum.
    positions_A : dict of (A, 3) arrays
        By name of `STARTS`.
    hessian_eV_A2 : dict of (3 A, 3 A) arrays
        Of the potential at each of them, not yet positive definite.
    notes : dict of str
        What is to be known of these starts: the potential, the weights, why the network doubts.
    """

    truth: Frame
    positions_A: dict[str, np.ndarray]
    hessian_eV_A2: dict[str, np.ndarray]
    notes: dict[str, str]


def truths(frames: Iterable[Frame]) -> dict[str, Frame]:
    """The lowest frame at rest of every defect that is set aside and has one."""
    found: dict[str, Frame] = {}
    for frame in frames:
        if frame.defect not in SET_ASIDE or frame.fmax_eV_A > RELAXED_eV_A:
            continue
        if frame.defect not in found or frame.free_energy_eV < found[frame.defect].free_energy_eV:
            found[frame.defect] = frame
    return found


# -- where relaxations start -----------------------------------------------------------------------------------------


def make_starts(names: Sequence[str], potential: Any, name: str) -> None:
    """Predict with the weights that come along, and take the potential's Hessians; files that exist are kept.

    What they are worth is known without a calculation: the results tell how far they are from the minimum.

    The potential's minimum is that of `starts/`: found at its own lattice constant, its displacements carried over.
    """
    from plan import DEFECTS
    from starts import built, with_thickness

    from definet.checkpoint import load_checkpoint, shipped
    from definet.predict import relax

    lattices, weights = json.loads((HERE / "lattice.json").read_text()), load_checkpoint(shipped())
    FOLDER.mkdir(exist_ok=True)
    for defect in DEFECTS:
        path = FOLDER / f"{defect.name}.npz"
        if defect.name not in names or path.exists():
            continue
        with np.load(HERE / "starts" / f"{defect.name}.npz") as stored:
            ideal, cell, numbers, at_rest = (stored[key] for key in ("ideal", "cell", "numbers", "potential"))
        sizes = lattices[defect.host]
        crystal = built(defect, with_thickness(defect.host, sizes["half_A"]), sizes["a_A"], sizes["height_A"])
        assert np.allclose(crystal.nodes_A[crystal.occupied], ideal, atol=1e-4), f"{path} is of other sites"
        [predicted] = relax([crystal], weights, "cpu")
        moved = (predicted.positions_A - crystal.structure.cart_coords)[crystal.occupied]
        positions = {"unrelaxed": ideal, "potential": at_rest, "definet": ideal + moved}
        arrays = {f"positions {start}": positions[start] for start in STARTS}
        for start in STARTS:
            atoms = Atoms(numbers, positions[start], cell=cell, pbc=True, calculator=potential)
            arrays[f"hessian {start}"] = stiffness(atoms).round(3).astype(np.float32)
        notes = {"potential": name, "weights": str(weights.sha256), "outside": predicted.reason}
        temporary = path.with_name(f".tmp-{path.name}")
        np.savez_compressed(temporary, notes=json.dumps(notes), **arrays)
        temporary.replace(path)
        print(f"{defect.name}: moved by up to {np.linalg.norm(moved, axis=1).max():.3f} A by DefiNet"
              + (f" ({predicted.reason})" if predicted.reason else ""), flush=True)  # fmt: skip


def load_trial(path: Path, truth: Frame) -> Trial:
    """Read what `make_starts` wrote."""
    with np.load(path) as stored:
        positions = {start: stored[f"positions {start}"] for start in STARTS}
        hessians = {start: stored[f"hessian {start}"].astype(float) for start in STARTS}
        return Trial(truth, positions, hessians, json.loads(str(stored["notes"])))


# -- relaxations -------------------------------------------------------------------------------------------------------


class Ledger(Book):
    """Frames of all relaxations of one defect; what was calculated at the same positions is not calculated again.

    Parameters
    ----------
    first : Frame
        The defect at its ideal sites, with the settings of its minimum.
    folder : Path
    source : callable
    known : sequence of Frame
        Calculated elsewhere with the same settings.
    after : callable
        Called when a frame has been stored.
    """

    def __init__(
        self, first: Frame, folder: Path, source: Callable[[Frame], Source], known: Sequence[Frame] = (),
        after: Callable[[Ledger], None] = lambda ledger: None,
    ) -> None:  # fmt: skip
        super().__init__(first, folder, source)
        self._known, self._after = [f for f in known if f.defect == first.defect], after

    def make(self, positions_A: np.ndarray, trajectory: str, cell_A: np.ndarray | None = None) -> Frame:
        """Take over or calculate the next frame of a trajectory, and store it."""
        known = self.at(positions_A)
        if known is None:
            found = super().make(positions_A, trajectory, cell_A)
        else:
            found = replace(known, trajectory=trajectory, step=len(self.of(trajectory)))
            self.add(found)
        self._after(self)
        return found

    def at(self, positions_A: np.ndarray) -> Frame | None:
        """What was calculated at these positions, if anything."""
        alike = (f for f in (*self.frames, *self._known) if f.settings == self.first.settings)
        return next((f for f in alike if np.abs(f.positions_A - positions_A).max() < SAME_A), None)

    def at_rest(self, trajectory: str) -> bool:
        """Whether a relaxation has ended."""
        frames = self.of(trajectory)
        return bool(frames) and frames[-1].fmax_eV_A <= RELAXED_eV_A


def ledger(
    trial: Trial, folder: Path, source: Callable[[Frame], Source], known: Sequence[Frame] = (),
    after: Callable[[Ledger], None] = lambda book: None,
) -> Ledger:  # fmt: skip
    """The book of a defect's relaxations, as far as they came."""
    first = replace(trial.truth, positions_A=trial.truth.ideal_A, trajectory="", step=0)
    return Ledger(first, folder, source, known, after)


def descend(book: Ledger, trial: Trial, start: str, hessian: str, most: int = MOST) -> None:
    """Go on with one relaxation until it is at rest or has cost `most` calculations."""
    trajectory = named(start, hessian)
    if book.gave_up(trajectory):
        return
    frame = trial.truth
    atoms = Atoms(frame.numbers, trial.positions_A[start], cell=frame.cell_A, pbc=True)
    atoms.calc = Replay(book, trajectory, most)
    optimiser = BFGS(atoms, logfile=None)
    if hessian == HESSIANS[0]:
        optimiser.H0 = preconditioner(trial.hessian_eV_A2[start])
    try:
        optimiser.run(fmax=RELAXED_eV_A, steps=most)
    except Enough:
        return


def named(start: str, hessian: str) -> str:
    """Name of a trajectory, "definet-default": one word, as frames and lists of failures want it."""
    return f"{start}-{'preconditioned' if hessian == HESSIANS[0] else 'default'}"


def run(names: Sequence[str], frames: Sequence[Frame], source: Callable[[Frame], Source]) -> None:
    """All relaxations, the short ones of each defect first; `source` calculates (`ground_state.Electrons`)."""
    known = truths(frames)
    for name in names:
        if name not in known:
            print(f"{name}: is not set aside, or its DFT minimum is not known")
            continue
        trial = load_trial(FOLDER / f"{name}.npz", known[name])
        book = ledger(trial, FOLDER, source, frames, lambda book, trial=trial: store(trial, book))  # type: ignore[misc]
        for hessian in HESSIANS:
            for start in STARTS:
                descend(book, trial, start, hessian)


# -- what came of them -------------------------------------------------------------------------------------------------


def verdict(trial: Trial, book: Ledger) -> dict[str, Any]:
    """What is known of one defect: where each start lies, and what every relaxation from it took."""
    truth, starts = trial.truth, {}
    for start in STARTS:
        first = book.at(trial.positions_A[start])
        plane, out = errors(truth, trial.positions_A[start])
        starts[start] = {
            "plane": round(plane, 4),
            "out": round(out, 4),
            "fmax_eV_A": None if first is None else round(first.fmax_eV_A, 4),
            "above_meV": None if first is None else above_meV(truth, first),
            "descents": {h: descent(truth, book, named(start, h)) for h in HESSIANS if book.of(named(start, h))},
        }
    return {
        "atoms": len(truth.numbers), "code": truth.settings.code, "kpts": truth.settings.kpts, **trial.notes,
        "starts": starts,
    }  # fmt: skip


def descent(truth: Frame, book: Ledger, trajectory: str) -> dict[str, Any]:
    """What one relaxation took so far: moves of the atoms, where it ended, CPU time."""
    frames = book.of(trajectory)
    plane, out = errors(truth, frames[-1].positions_A)
    return {
        "steps": len(frames) - 1, "at_rest": book.at_rest(trajectory), "above_meV": above_meV(truth, frames[-1]),
        "plane": round(plane, 4), "out": round(out, 4), "cpu_s": round(sum(frame.cpu_s for frame in frames)),
        "fmax_eV_A": [round(frame.fmax_eV_A, 4) for frame in frames],
    }  # fmt: skip


def above_meV(truth: Frame, frame: Frame) -> float:
    return round(1000 * (frame.free_energy_eV - truth.free_energy_eV), 1)


def errors(truth: Frame, positions_A: np.ndarray) -> tuple[float, float]:
    """Error of the displacements over that of doing nothing, in plane and out of it; root of the summed squares."""
    moved = positions_A - truth.ideal_A
    moved = moved - moved.mean(axis=0)
    wanted = truth.displacement_A
    shares = [np.linalg.norm((moved - wanted)[:, part]) / np.linalg.norm(wanted[:, part])
              for part in (slice(2), slice(2, 3))]  # fmt: skip
    return float(shares[0]), float(shares[1])


def store(trial: Trial, book: Ledger) -> None:
    """Put what is known of a defect into the results, under a temporary name first."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[trial.truth.defect] = verdict(trial, book)
    temporary = RESULTS.with_name(f".tmp-{RESULTS.name}")
    temporary.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    temporary.replace(RESULTS)


HEAD = (
    "defect", "start", "fmax, eV/A", "above, meV", "off, in plane (out)",
    *(f"{h} Hessian: {what}" for h in HESSIANS for what in ("steps", "off", "CPU s")),
)  # fmt: skip


def rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Lines of the table: one per defect and start."""
    found = []
    for defect, known in results.items():
        for start, one in known["starts"].items():
            least = [one[key] for key in ("fmax_eV_A", "above_meV")]
            first = ("-", "-") if None in least else (f"{least[0]:.2f}", f"{least[1]:.0f}")
            taken = [cell for hessian in HESSIANS for cell in _taken(one["descents"].get(hessian))]
            found.append((defect, start, *first, _off(one), *taken))
    return found


def _off(known: dict[str, Any]) -> str:
    return f"{known['plane']:.2f} ({known['out']:.2f})"


def _taken(descent: dict[str, Any] | None) -> tuple[str, str, str]:
    """Steps of a relaxation, how far from the minimum it ended, its CPU time."""
    return ("-", "-", "-") if descent is None else (_steps(descent), _off(descent), str(descent["cpu_s"]))


def _steps(taken: dict[str, Any]) -> str:
    """Steps of a relaxation; those of one that is not at rest with what is left."""
    return str(taken["steps"]) if taken["at_rest"] else f"> {taken['steps']} (at {taken['fmax_eV_A'][-1]:.2f} eV/A)"


def nothing(frame: Frame) -> Source:
    """Calculates nothing."""
    raise Enough(frame.defect)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("starts", "run", "table"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="all whose minimum is known, by default")
    given = parser.parse_args()
    if given.what == "table":
        sys.path.insert(0, str(HERE.parent))
        from machine import table

        print(table(HEAD, rows(json.loads(RESULTS.read_text()))))
        return
    frames = read_folder(HERE / "frames")
    names = given.names or sorted(truths(frames))
    if given.what == "run":
        from ground_state import Electrons

        run(names, frames, Electrons)
        return
    from definet.teacher import calculator, fidelity

    make_starts(names, calculator("chgnet"), fidelity("chgnet"))
    for name, truth in truths(frames).items():
        if name in names:
            trial = load_trial(FOLDER / f"{name}.npz", truth)
            store(trial, ledger(trial, FOLDER, nothing, frames))


if __name__ == "__main__":
    main()
