"""What the settings of the electrons do to the forces next to a vacancy and a divacancy, and what they cost.

For the system's python3, like `make_frames.py`; goes on where it was stopped. Ideal sites; one setting
is changed at a time, and "difference" is the largest one of a force component from the settings that are used.

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

BASE = settings("MoS2")
CHANGED: tuple[Settings, ...] = (
    BASE,
    replace(BASE, waves="PW 450"),
    replace(BASE, waves="LCAO dzp"),
    replace(BASE, kpts="1x1"),
    replace(BASE, kpts="2x2"),
    replace(BASE, density=5e-6),
    replace(BASE, waves="PW 300"),
    replace(BASE, spin=True),
)
"""In the order in which they are calculated."""

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


def neighbours(frame: Frame) -> tuple[float, float]:
    """Mean force on the metals next to the first vacant site: toward it in the plane, and along z toward the middle."""
    site = np.array(frame.vacant[0][1])
    moved = frame.ideal_A - site
    moved -= np.round(moved @ np.linalg.inv(frame.cell_A)) @ frame.cell_A
    flat = np.linalg.norm(moved[:, :2], axis=1)
    heavy = np.flatnonzero(frame.numbers == frame.numbers.max())
    near = heavy[np.argsort(flat[heavy])[:3]]
    toward = -np.einsum("ij,ij->i", frame.forces_eV_A[near, :2], moved[near, :2]) / flat[near]
    return float(toward.mean()), float((frame.forces_eV_A[near, 2] * np.sign(site[2] - frame.ideal_A[near, 2])).mean())


def tell_shifted(frames: list[Frame]) -> None:
    for waves in dict.fromkeys(frame.settings.waves for frame in frames):
        here = [frame for frame in frames if frame.settings.waves == waves]
        forces = np.ptp([frame.forces_eV_A for frame in here], axis=0).max()
        energy = np.ptp([frame.free_energy_eV for frame in here])
        print(f"unit cell of MoS2 moved as a whole, {waves}: forces change by up to {forces:.4f} eV/A, "
              f"the energy by {1e3 * energy:.2f} meV")  # fmt: skip


def tell(frames: list[Frame]) -> None:
    base = next(frame for frame in frames if frame.settings == BASE)
    print(f"\n{base.defect}, {base.shape[0]} x {base.shape[1]} cells, ideal sites\n")
    head = "waves", "k points", "density", "spin", "toward it, eV/A", "along z", "net", "difference", "CPU s"
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for frame in frames:
        toward, up = neighbours(frame)
        off, net = np.abs(frame.forces_eV_A - base.forces_eV_A).max(), np.linalg.norm(frame.net_force_eV_A)
        chosen = frame.settings
        print(f"| {chosen.waves} | {chosen.kpts} | {chosen.density:g} | {chosen.spin} | {toward:.3f} | {up:.3f} | "
              f"{net:.3f} | {off:.3f} | {frame.cpu_s:.0f} |")  # fmt: skip


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
            for chosen in CHANGED:
                start = load_start(HERE / "starts" / f"{defect}.npz")
                calculate(FOLDER / f"{defect}.extxyz", start.frame, chosen)
    tell_shifted(stored(FOLDER / "shifted.extxyz"))
    for defect in given.defects:
        if frames := stored(FOLDER / f"{defect}.extxyz"):
            tell(frames)


if __name__ == "__main__":
    main()
