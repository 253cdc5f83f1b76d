"""What the settings of the electrons do to the forces next to a vacancy and a divacancy, and what they cost.

For the system's python3, like `make_frames.py`; goes on where it was stopped. Ideal sites; one setting
is changed at a time.

    OMP_NUM_THREADS=1 PYTHONPATH=$PWD /usr/bin/python3 benchmarks/dft/converge.py [--known]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from ground_state import Electrons, load_start, settings, unit_cell
from trajectory import say

from definet.dft import Frame, Settings, read_frames, write_frames

HERE = Path(__file__).parent
FOLDER = HERE / "convergence"

BASE = replace(settings("MoS2"), kpts="K")
K_POINTS = tuple(replace(BASE, kpts=kpts) for kpts in ("1x1", "K", "2x2", "G+K"))
OTHERS = (
    replace(BASE, waves="PW 450"),
    BASE,
    replace(BASE, waves="LCAO dzp"),
    replace(BASE, density=5e-6),
    replace(BASE, waves="PW 300"),
    replace(BASE, spin=True),
)
"""With one k point, because that is cheap: what these change depends little on it."""

SHIFTS = ((0.0, 0.0), (0.0, 0.05), (0.0, 0.1), (0.05, 0.0), (0.05, 0.05))
"""Angstrom along a and z: a crystal that is moved as a whole must not notice."""


def stored(path: Path) -> list[Frame]:
    """Frames of a file; none where there is none."""
    return read_frames(path) if path.exists() else []


def calculate(path: Path, frame: Frame, chosen: Settings) -> None:
    """Add a frame with these settings to the file, if it has none."""
    known = stored(path)
    if any(old.settings == chosen for old in known):
        return
    made = Electrons(replace(frame, settings=chosen)).at(frame.ideal_A, "ideal", 0)
    write_frames(path, [*known, made])
    say(f"{frame.defect} {chosen.waves} {chosen.kpts} {chosen.density} {chosen.spin}: {made.cpu_s} CPU s")


def shift(path: Path, chosen: Settings) -> None:
    """Add a unit cell moved as a whole by `SHIFTS`, if the file has none with these settings."""
    known = stored(path)
    if any(old.settings == chosen for old in known):
        return
    cell = unit_cell("MoS2", 3.18, 1.565)
    electrons = Electrons(replace(cell, settings=chosen))
    moved = [cell.ideal_A + np.array([x, 0.0, z]) for x, z in SHIFTS]
    made = [electrons.at(positions, "shifted", step) for step, positions in enumerate(moved)]
    write_frames(path, [*known, *made])


def toward(frame: Frame) -> float:
    """Mean force on the metals next to the first vacant site, toward it in the plane."""
    site = np.array(frame.vacant[0][1])
    moved = frame.ideal_A - site
    moved -= np.round(moved @ np.linalg.inv(frame.cell_A)) @ frame.cell_A
    flat = np.linalg.norm(moved[:, :2], axis=1)
    heavy = np.flatnonzero(frame.numbers == frame.numbers.max())
    near = heavy[np.argsort(flat[heavy])[:3]]
    along = -np.einsum("ij,ij->i", frame.forces_eV_A[near, :2], moved[near, :2]) / flat[near]
    return float(along.mean())


def tell_shifted(frames: list[Frame]) -> None:
    for waves in dict.fromkeys(frame.settings.waves for frame in frames):
        here = [frame for frame in frames if frame.settings.waves == waves]
        forces = np.ptp([frame.forces_eV_A for frame in here], axis=0).max()
        energy = np.ptp([frame.free_energy_eV for frame in here])
        print(f"unit cell of MoS2 moved as a whole, {waves}: forces change by up to {forces:.4f} eV/A, "
              f"the energy by {1e3 * energy:.2f} meV")  # fmt: skip


def tell(frames: list[Frame], chosen: tuple[Settings, ...], reference: Settings) -> None:
    """One row per setting that is stored."""
    known = {frame.settings: frame for frame in frames}
    if reference not in known:
        return
    base = known[reference]
    size = np.sqrt((base.forces_eV_A**2).mean())
    print(f"\n{base.defect}, {base.shape[0]} x {base.shape[1]} cells, ideal sites; differences from {reference.waves}, "
          f"{reference.kpts}, where the root mean square force is {size:.3f} eV/A\n")  # fmt: skip
    head = "waves", "k points", "density", "spin", "toward it, eV/A", "net", "largest", "rms", "CPU s"
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for frame in (known[each] for each in chosen if each in known):
        off, net = frame.forces_eV_A - base.forces_eV_A, np.linalg.norm(frame.net_force_eV_A)
        each = frame.settings
        print(f"| {each.waves} | {each.kpts} | {each.density:g} | {each.spin} | {toward(frame):.3f} | {net:.3f} | "
              f"{np.abs(off).max():.3f} | {np.sqrt((off**2).mean()):.3f} | {frame.cpu_s:.0f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--known", action="store_true", help="calculate nothing, tell what is stored")
    parser.add_argument("--defects", nargs="*", default=["MoS2-V_S2", "MoS2-V_S"])
    given = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if not given.known:
        for waves in ("PW 350", "LCAO dzp"):
            shift(FOLDER / "shifted.extxyz", replace(BASE, waves=waves, kpts="4x4"))
        for defect in given.defects:
            for chosen in (*K_POINTS, *OTHERS):
                start = load_start(HERE / "starts" / f"{defect}.npz")
                calculate(FOLDER / f"{defect}.extxyz", start.frame, chosen)
    tell_shifted(stored(FOLDER / "shifted.extxyz"))
    for defect in given.defects:
        frames = stored(FOLDER / f"{defect}.extxyz")
        tell(frames, K_POINTS, replace(BASE, kpts="2x2"))
        tell(frames, OTHERS, replace(BASE, waves="PW 450"))


if __name__ == "__main__":
    main()
