"""Trajectories that can be stopped at any frame: stored ones are gone through again, then new ones are calculated.

The descent that makes a relaxation (`definet.descent`) is deterministic. Going on with one means to descend again from
the start, with the stored forces where there are any.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from definet.descent import descend
from definet.dft import Frame, RELAXED_eV_A, faults, read_frames, write_frames


class Start(NamedTuple):
    """A defect as `starts.py` built it.

    Attributes
    ----------
    frame : Frame
        At its ideal sites, without energy or forces.
    potential_A : (A, 3) array
        Minimum of the potential.
    stiffness : (3 A, 3 A) array
        Of the potential, there, eV/A^2.
    """

    frame: Frame
    potential_A: np.ndarray
    stiffness: np.ndarray


class Unconverged(Exception):
    """The density did not come to rest."""


class Source(Protocol):
    """What calculates frames of one defect: `ground_state.Electrons`."""

    def at(self, positions_A: np.ndarray, trajectory: str, step: int, cell_A: np.ndarray | None = None) -> Frame:
        """One frame; raises Unconverged."""
        ...


class Enough(Exception):
    """A trajectory has as many frames as were wanted."""


class Book:
    """The frames of one defect in their file, and what makes more of them.

    Parameters
    ----------
    first : Frame
        The defect at its ideal sites.
    folder : Path
    source : callable
        Makes what calculates, when the first frame is wanted.
    """

    def __init__(self, first: Frame, folder: Path, source: Callable[[Frame], Source]) -> None:
        self.path = folder / f"{first.defect}.extxyz"
        self.first = first
        self.frames = read_frames(self.path) if self.path.exists() else []
        self.failed = folder / "failed.txt"
        self._start, self._source = source, None

    def of(self, trajectory: str) -> list[Frame]:
        """Frames of one trajectory, in order."""
        return [frame for frame in self.frames if frame.trajectory == trajectory]

    def gave_up(self, trajectory: str) -> bool:
        """Whether a frame of this trajectory did not converge before."""
        lines = self.failed.read_text().splitlines() if self.failed.exists() else []
        return any(line.startswith(f"{self.first.defect} {trajectory} ") for line in lines)

    def make(self, positions_A: np.ndarray, trajectory: str, cell_A: np.ndarray | None = None) -> Frame:
        """Calculate the next frame of a trajectory and store it."""
        if self._source is None:
            self._source = self._start(self.first)
        step = len(self.of(trajectory))
        try:
            frame = self._source.at(positions_A, trajectory, step, cell_A)
        except Unconverged as error:
            with self.failed.open("a") as stream:
                print(error, "did not converge", file=stream)
            say(f"{error}: did not converge")
            raise Enough from error
        self.add(frame)
        return frame

    def add(self, frame: Frame) -> None:
        """Store a frame."""
        self.frames.append(frame)
        write_frames(self.path, self.frames)
        report(frame, self.of(frame.trajectory))


def say(line: str) -> None:
    print(f"{datetime.now(UTC):%m-%d %H:%M:%S} {line}", flush=True)


def report(frame: Frame, trajectory: list[Frame]) -> None:
    wrong = faults(trajectory[-2:])
    net = np.linalg.norm(frame.net_force_eV_A)
    say(
        f"{frame.defect} {frame.part} {frame.trajectory} {frame.step}: F {frame.free_energy_eV:.4f} eV, "
        f"fmax {frame.fmax_eV_A:.3f}, net {net:.3f} eV/A, {frame.iterations} iterations, {frame.cpu_s:.0f} CPU s"
        + (f" FAULT {'; '.join(wrong)}" if wrong else "")
    )


class Replay(Calculator):
    """Forces of a trajectory: as stored, then calculated, until it holds as many frames as are wanted."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE declares it per instance)

    def __init__(self, book: Book, trajectory: str, most: int) -> None:
        super().__init__()
        self.book, self.trajectory, self.most, self.asked = book, trajectory, most, 0

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Of ASE."""
        super().calculate(atoms, properties, system_changes)
        known = self.book.of(self.trajectory)
        if self.asked < len(known):
            frame = known[self.asked]
            assert np.allclose(frame.positions_A, atoms.positions, atol=1e-5), f"{self.book.path} is another path"
        elif self.asked < self.most:
            frame = self.book.make(atoms.positions, self.trajectory)
        else:
            raise Enough
        self.asked += 1
        # A layer that floats is at rest: the mean force is the grid's.
        forces = frame.forces_eV_A - frame.forces_eV_A.mean(axis=0)
        self.results = {"energy": frame.free_energy_eV, "forces": forces}


def relax(book: Book, start: Start, trajectory: str, most: int) -> None:
    """Descend with the potential's stiffness."""
    frame = start.frame
    positions = start.potential_A if trajectory == "potential" else frame.ideal_A
    atoms = Atoms(frame.numbers, positions, cell=frame.cell_A, pbc=True)
    atoms.calc = Replay(book, trajectory, most)
    descend(atoms, start.stiffness, RELAXED_eV_A, most)


def rattle(book: Book, start: Start, trajectory: str, most: int) -> None:
    """Draw positions about the last ones of the relaxation."""
    known = book.of("potential")
    centre = known[-1].positions_A if known else start.potential_A
    if len(book.of(trajectory)) < most:
        sigma_A = float(trajectory.split("-")[1])
        book.make(centre + draw(f"{book.first.defect} {trajectory}", sigma_A, centre.shape), trajectory)


def draw(words: str, sigma_A: float, shape: tuple[int, ...]) -> np.ndarray:
    """Normal deviates that depend on the words alone."""
    return np.random.default_rng(crc32(words.encode())).normal(0.0, sigma_A, shape)
