"""Energies and forces of small defect cells from density functional theory: what is stored, and what must hold of it.

A frame is one self-consistent calculation at one set of positions. The frames of one defect lie in one extxyz file.
`benchmarks/dft` makes them with GPAW under an interpreter that has no torch and no pymatgen: this module needs numpy
and ASE alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from numpy.typing import NDArray

from definet.exceptions import InputFileError, OutputError

FloatArray = NDArray[np.float64]

SET_ASIDE = frozenset(
    {
        "MoS2-V_S2",
        "MoS2-2V_S-opposite",
        "MoS2-Se_S",
        "WSe2-V_Se",
        "WSe2-2V_Se-same",
        "WSe2-SVL-3",
        "WS2-V_W",
        "MoSe2-V_Se2",
        "hBN-V_N",
        "graphene-SW",
    }
)
"""Defects that judge and are never learnt from, in none of their cells and from none of their starts."""

RELAXED_eV_A = 0.05
"""Largest force at which a relaxation ends."""

MEAN_FORCE_eV_A = 0.1 * RELAXED_eV_A
"""Largest mean force on the atoms of a frame. Forces on a crystal that floats freely sum to zero; what is left is the
error of the grid and of a cycle that ended early, which must not decide where a relaxation ends."""

SAME_A = 1e-3
"""Frames of a defect whose atoms are all closer than this say nothing apart: a tenth of a picometre changes forces by
0.01 eV/A, their own error."""

CLOSEST_A = 1.0
"""No two atoms of these hosts come closer."""

WORK_SHARE, WORK_eV = 0.15, 0.01
"""How far energies along a relaxation may differ from the work of the forces, as a share of the absolute work and in
eV. The trapezoidal rule leaves out a third-order term: 0.15 covers steps that halve the force twice over."""


@dataclass(frozen=True)
class Settings:
    """How the electrons were treated.

    Attributes
    ----------
    code : str
        Program and version: "GPAW 22.8.0".
    waves : str
        What wave functions are made of: "PW 350" for plane waves up to 350 eV, "LCAO dzp" for atomic orbitals.
    functional : str
    kpts : str
        Of the supercell. "2x2": so many points, Gamma included; "K": the corner of the Brillouin zone with its mirror
        image; "G+K": these and Gamma, each a third, which is the grid of the supercell sqrt3 x sqrt3 as large.
    width_eV : float
        Of the Fermi distribution.
    density : float
        Change of the density, in electrons per valence electron, at which the cycle ends.
    spin : bool
        Whether spin is polarised.
    """

    code: str
    waves: str
    functional: str
    kpts: str
    width_eV: float
    density: float
    spin: bool = False


@dataclass(frozen=True, eq=False)
class Frame:
    """One self-consistent calculation of A atoms in a periodic cell with an empty gap above the layer.

    Attributes
    ----------
    numbers : (A,) int array
    positions_A, ideal_A : (A, 3) arrays
        Where the atoms are, and the sites of the undisturbed host, Angstrom.
    marker : (A,) int array
        0 pristine, 1 exchanged or added; empty sites are no atoms here.
    cell_A : (3, 3) array
        Rows.
    forces_eV_A : (A, 3) array
        As they came: their sum is not taken off.
    energy_eV, free_energy_eV : float
        For an electron temperature of zero, and what the forces are the derivative of: fit the second.
    host, defect, label : str
        Crystal; name of the file, "MoS2-V_S2"; motif as everywhere in the project, "V_S2".
    shape : (n, m)
        Repeats of the unit cell.
    vacant : tuple of (str, (x, y, z))
        Elements that are missing and their sites.
    trajectory : str
        "potential" and "ideal": a relaxation from a potential's minimum or from ideal sites; "rattled-0.05-1": drawn
        about the lowest frame; "strained".
    step : int
        Of the trajectory, from 0.
    settings : Settings
    converged : bool
        Whether the density came to rest.
    iterations : int
        Of the self-consistent cycle.
    cpu_s : float
    """

    numbers: NDArray[np.int64]
    positions_A: FloatArray
    ideal_A: FloatArray
    marker: NDArray[np.int64]
    cell_A: FloatArray
    forces_eV_A: FloatArray
    energy_eV: float
    free_energy_eV: float
    host: str
    defect: str
    label: str
    shape: tuple[int, int]
    vacant: tuple[tuple[str, tuple[float, float, float]], ...]
    trajectory: str
    step: int
    settings: Settings
    converged: bool
    iterations: int
    cpu_s: float

    @property
    def part(self) -> str:
        """Whether it judges, "test", because the defect is set aside, or is learnt from, "train"."""
        return "test" if self.defect in SET_ASIDE else "train"

    @property
    def fmax_eV_A(self) -> float:
        """Largest force on an atom, the mean force taken off: a layer that floats is at rest."""
        inner = self.forces_eV_A - self.forces_eV_A.mean(axis=0)
        return float(np.linalg.norm(inner, axis=1).max())

    @property
    def net_force_eV_A(self) -> FloatArray:
        """(3,) sum of the forces."""
        return np.asarray(self.forces_eV_A.sum(axis=0))

    @property
    def displacement_A(self) -> FloatArray:
        """(A, 3) from the ideal sites, without the mean."""
        moved = self.positions_A - self.ideal_A
        return np.asarray(moved - moved.mean(axis=0))


def _vacant_text(frame: Frame) -> str:
    return " ".join(f"{element}:{x:.6f}:{y:.6f}:{z:.6f}" for element, (x, y, z) in frame.vacant) or "none"


def _vacant(text: str) -> Iterator[tuple[str, tuple[float, float, float]]]:
    for word in [] if text == "none" else text.split():
        element, x, y, z = word.split(":")
        yield element, (float(x), float(y), float(z))


_NAMES = ("host", "defect", "label", "trajectory", "step", "converged", "iterations", "cpu_s")


def to_atoms(frame: Frame) -> Atoms:
    """ASE atoms with energy and forces, everything else in `info` and `arrays`."""
    atoms = Atoms(frame.numbers, frame.positions_A, cell=frame.cell_A, pbc=True)
    atoms.arrays["ideal"], atoms.arrays["marker"] = frame.ideal_A, frame.marker
    atoms.info = {name: getattr(frame, name) for name in _NAMES}
    atoms.info |= {"shape": np.array(frame.shape), "vacant": _vacant_text(frame), "part": frame.part}
    atoms.info |= {"net_force": frame.net_force_eV_A.round(6)}
    atoms.info |= asdict(frame.settings)
    atoms.calc = SinglePointCalculator(
        atoms, energy=frame.energy_eV, free_energy=frame.free_energy_eV, forces=frame.forces_eV_A
    )
    return atoms


def _frame(atoms: Atoms) -> Frame:
    info, known = atoms.info, atoms.calc.results
    settings = {field.name: _plain(info[field.name]) for field in fields(Settings)}
    n, m = (int(repeats) for repeats in info["shape"])
    return Frame(
        numbers=np.asarray(atoms.numbers, np.int64),
        positions_A=atoms.get_positions(),
        ideal_A=atoms.arrays["ideal"],
        marker=np.asarray(atoms.arrays["marker"], np.int64),
        cell_A=np.asarray(atoms.cell),
        forces_eV_A=known["forces"],
        energy_eV=float(known["energy"]),
        free_energy_eV=float(known["free_energy"]),
        shape=(n, m),
        vacant=tuple(_vacant(info["vacant"])),
        settings=Settings(**settings),
        **{name: _plain(info[name]) for name in _NAMES},
    )


def _plain(value: Any) -> Any:
    """A Python scalar."""
    return value.item() if isinstance(value, np.generic) else value


def read_frames(path: Path) -> list[Frame]:
    """Read the frames of one file.

    Raises
    ------
    InputFileError
    """
    try:
        return [_frame(atoms) for atoms in read(path, ":", format="extxyz")]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, StopIteration) as error:
        raise InputFileError(f"no readable frames: {error!r}", subject=path) from error


def read_folder(folder: Path) -> list[Frame]:
    """Read all frames of a folder, file by file.

    Raises
    ------
    InputFileError
    """
    return [frame for path in sorted(Path(folder).glob("*.extxyz")) for frame in read_frames(path)]


def write_frames(path: Path, frames: Sequence[Frame]) -> None:
    """Write the frames of one file under a temporary name and rename it.

    Raises
    ------
    OutputError
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        write(temporary, [to_atoms(frame) for frame in frames], format="extxyz")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", subject=path) from error


def parts(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    """Frames to learn from, "train", and those that judge, "test"."""
    return {part: [frame for frame in frames if frame.part == part] for part in ("train", "test")}


def faults(frames: Sequence[Frame]) -> list[str]:
    """One line for everything that keeps frames from being used; none if they are sound."""
    found = [f"{title(frame)}: {fault}" for frame in frames for fault in _faults_of(frame)]
    for one, other in combinations(frames, 2):
        if _same(one, other):
            found.append(f"{title(other)}: the atoms are where they are in {title(one)}")
    for one, other in _steps(frames):
        work, absolute = _work(one, other)
        off = other.free_energy_eV - one.free_energy_eV + work
        if abs(off) > WORK_SHARE * absolute + WORK_eV:
            found.append(f"{title(other)}: energy and forces disagree by {off:.3f} eV over the step")
    return found


def title(frame: Frame) -> str:
    """Which frame it is, for people: "MoS2-V_S2 potential 3"."""
    return f"{frame.defect} {frame.trajectory} {frame.step}"


def _faults_of(frame: Frame) -> Iterator[str]:
    count = len(frame.numbers)
    arrays = (frame.positions_A, frame.forces_eV_A, frame.ideal_A)
    if any(array.shape != (count, 3) or not np.isfinite(array).all() for array in arrays):
        yield "positions or forces are not finite, or not one per atom"
        return
    if not frame.converged:
        yield "the density did not come to rest"
    mean = float(np.linalg.norm(frame.net_force_eV_A)) / count
    if mean > MEAN_FORCE_eV_A:
        yield f"the mean force is {mean:.4f} eV/A, more than {MEAN_FORCE_eV_A}"
    apart = np.asarray(to_atoms(frame).get_all_distances(mic=True)) + 2 * CLOSEST_A * np.eye(count)
    if apart.min() < CLOSEST_A:
        yield f"two atoms are {apart.min():.2f} A apart"


def _same(one: Frame, other: Frame) -> bool:
    if one.defect != other.defect or not np.array_equal(one.numbers, other.numbers):
        return False
    if not np.allclose(one.cell_A, other.cell_A, atol=SAME_A) or one.settings != other.settings:
        return False
    return bool(np.abs(one.positions_A - other.positions_A).max() < SAME_A)


def _steps(frames: Sequence[Frame]) -> Iterator[tuple[Frame, Frame]]:
    """Frames that follow each other in one relaxation."""
    for one, other in pairwise(frames):
        alike = (one.defect, one.trajectory, one.settings) == (other.defect, other.trajectory, other.settings)
        if alike and other.step == one.step + 1 and np.array_equal(one.cell_A, other.cell_A):
            yield one, other


def _work(one: Frame, other: Frame) -> tuple[float, float]:
    """Work of the forces from one frame to the next by the trapezoidal rule, and the sum of its absolute parts, eV."""
    each = (one.forces_eV_A + other.forces_eV_A) / 2 * (other.positions_A - one.positions_A)
    ends = np.abs(one.forces_eV_A * (other.positions_A - one.positions_A)).sum()
    return float(each.sum()), float(max(np.abs(each).sum(), ends))
