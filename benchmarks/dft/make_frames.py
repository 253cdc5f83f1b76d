"""Make the frames of `plan.py`, one after the other, for as long as it is let: stopped at any moment it goes on later.

For the system's python3 with GPAW (`install.sh`), from the root of the project, with one thread:

    OMP_NUM_THREADS=1 PYTHONPATH=$PWD nice -n 19 /usr/bin/python3 benchmarks/dft/make_frames.py

First the pristine layers under strain, from which `lattice.json` follows; then, once `starts.py` has built the defects,
these in rounds: what a round wants of each defect is made before the next round begins. Every frame is stored as soon
as it is calculated. One line per frame says what it was. On several cores: one process with ``--share 1/2``, one with
``--share 2/2``; each has defects of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ground_state import Electrons, half_thickness_A, height_A, load_start, unit_cell
from plan import DEFECTS, HOSTS, LARGE, PRISTINE, ROUNDS, STRAINS, Defect
from trajectory import Book, Enough, Start, draw, rattle, relax, say

from definet.crystals import host
from definet.dft import SET_ASIDE, read_frames

HERE = Path(__file__).parent
RATTLED_A = 0.05
"""Standard deviation of the coordinates in strained layers."""
THINNER = (0.01, -0.01, 0.0, -0.01, 0.01)
"""Relative changes of the thickness that go with `STRAINS`."""


def strain_cell(name: str, folder: Path) -> None:
    """Unit cells of a host about the measured lattice constant and thickness."""
    a_A, half_A = host(name).a_exp_A, half_thickness_A(name)
    book = Book(unit_cell(name, a_A, half_A), folder, lambda first: Electrons(first, symmetric=True))
    for strain, thinner in list(zip(STRAINS, THINNER, strict=True))[len(book.frames) :]:
        moved = unit_cell(name, a_A * (1 + strain), half_A * (1 + thinner))
        book.make(moved.ideal_A, "strained", moved.cell_A)


def lattice(name: str, folder: Path) -> dict[str, float]:
    """Lattice constant and height of the chalcogens at which the energy is least.

    A polynomial in the strain s and the change t of the thickness, up to s^3, s t and t^2, through energies and forces.
    """
    frames = read_frames(folder / f"{name}-pristine.extxyz")
    a_A, half_A = host(name).a_exp_A, half_thickness_A(name)
    rows, right = [], []
    for frame, s, t in zip(frames, STRAINS, THINNER, strict=True):
        flat = half_A == 0
        rows.append([1, s, s**2, s**3, *([] if flat else [t, t**2, s * t])])
        right.append(frame.free_energy_eV)
        if not flat:
            rows.append([0, 0, 0, 0, 1, 2 * t, s])
            right.append(-half_A * float(frame.forces_eV_A[:, 2] @ np.sign([atom.z_A for atom in host(name).basis])))
    found = np.linalg.lstsq(np.array(rows, float), np.array(right), rcond=None)[0]
    s = t = 0.0
    for _ in range(50):
        t = -(found[4] + found[6] * s) / (2 * found[5]) if half_A else 0.0
        s = -(found[1] + 3 * found[3] * s**2 + (found[6] * t if half_A else 0.0)) / (2 * found[2])
    return {"a_A": round(a_A * (1 + s), 4), "half_A": round(half_A * (1 + t), 4), "height_A": height_A(name)}


def strain_layer(defect: Defect, starts: Path, frames: Path) -> None:
    """Strained and rattled."""
    path = starts / f"{defect.name}.npz"
    if not path.exists():
        return
    start = load_start(path)
    book = Book(start.frame, frames, Electrons)
    strains = [strain for strain in STRAINS if strain]
    for strain in strains[len(book.of("strained")) :]:
        wider = np.array([1 + strain, 1 + strain, 1.0])
        noise = draw(f"{book.first.defect} {strain}", RATTLED_A, start.frame.ideal_A.shape)
        book.make(start.frame.ideal_A * wider + noise, "strained", start.frame.cell_A * wider)


def one(defect: Defect, trajectory: str, train: int, test: int, folders: tuple[Path, Path]) -> None:
    """Bring one trajectory of one defect to as many frames as are wanted."""
    path = folders[0] / f"{defect.name}.npz"
    most = test if defect.name in SET_ASIDE else train
    if not most or not path.exists():
        return
    start = load_start(path)
    book = Book(start.frame, folders[1], Electrons)
    if book.gave_up(trajectory):
        return
    kind: Callable[[Book, Start, str, int], None] = rattle if trajectory.startswith("rattled") else relax
    try:
        kind(book, start, trajectory, most)
    except Enough:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=Path, default=HERE / "frames")
    parser.add_argument("--starts", type=Path, default=HERE / "starts")
    parser.add_argument("--lattices", action="store_true", help="stop after the pristine layers")
    parser.add_argument("--share", default="1/1", help="I/N: every N-th defect, from the I-th on")
    given = parser.parse_args()
    mine, of = (int(part) for part in given.share.split("/"))
    given.frames.mkdir(exist_ok=True)
    lattices = {}
    for name in HOSTS:
        strain_cell(name, given.frames)
        lattices[name] = lattice(name, given.frames)
    (HERE / "lattice.json").write_text(json.dumps(lattices, indent=1) + "\n")
    if given.lattices:
        return
    for defects in (DEFECTS, LARGE):
        for k, wanted in enumerate(ROUNDS):
            say(f"round {k + 1} of {len(ROUNDS)}")
            for defect in defects[mine - 1 :: of]:
                for work in wanted:
                    one(defect, *work, (given.starts, given.frames))
            if k == 1 and defects is DEFECTS:
                for defect in PRISTINE[mine - 1 :: of]:
                    strain_layer(defect, given.starts, given.frames)


if __name__ == "__main__":
    main()
