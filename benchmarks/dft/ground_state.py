"""One self-consistent calculation with GPAW: from positions to a frame. For the system's python3, see `install.sh`."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpaw
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from gpaw import GPAW, PW, FermiDirac, KohnShamConvergenceError, Mixer
from trajectory import Start, Unconverged

from definet.crystals import host
from definet.dft import Frame, Settings

GAP_A = 10.0
"""Empty height between a layer and its periodic image, at least; the height of the cell is a whole number."""

CORNER = (1 / 3, -1 / 3)
"""K, the corner of the Brillouin zone, in reciprocal vectors of in-plane vectors 60 degrees apart."""

MOST_ITERATIONS = 100


def settings(name: str, *, unit_cell: bool = False) -> Settings:
    """What is calculated with, as `converge.py` decided.

    Unit cells take more plane waves, so that their number, which changes with the cell, does not bend the energy.
    """
    flat = half_thickness_A(name) == 0
    # Of the 4 x 4 cells of graphene K is where its bands cross.
    waves, kpts = ("PW 450", "2x2") if flat else ("PW 350", "G+K")
    if unit_cell:
        waves, kpts = "PW 500", "8x8" if flat else "6x6"
    return Settings(f"GPAW {gpaw.__version__}", waves, "PBE", kpts, width_eV=0.05, density=1e-4 if unit_cell else 5e-5)


def kpoints(text: str) -> np.ndarray:
    """(K, 3) points of `Settings.kpts`."""
    corners = [(*CORNER, 0.0), (-CORNER[0], -CORNER[1], 0.0)]
    if text in ("K", "G+K"):
        return np.array([(0.0, 0.0, 0.0), *corners] if text == "G+K" else corners)
    n, m = (int(number) for number in text.split("x"))
    return np.array([(i / n, j / m, 0.0) for i in range(n) for j in range(m)])


def calculator(chosen: Settings, *, symmetric: bool = False) -> Any:
    """Make a GPAW calculator.

    Parameters
    ----------
    chosen : Settings
    symmetric : bool
        Whether to use the symmetry of the crystal. That of time is used always.
    """
    kind, detail = chosen.waves.split()
    waves = {"mode": PW(float(detail))} if kind == "PW" else {"mode": "lcao", "basis": detail, "h": 0.2}
    return GPAW(
        **waves,
        xc=chosen.functional,
        occupations=FermiDirac(chosen.width_eV),
        kpts=kpoints(chosen.kpts),
        symmetry={"point_group": symmetric},
        spinpol=chosen.spin,
        # Less cautious than GPAW is by itself: these cells hold a gap or are small.
        mixer=Mixer(0.25, 8, 50.0),
        nbands="105%",
        maxiter=MOST_ITERATIONS,
        # The density ends the cycle. By itself GPAW asks for 4e-8 eV^2 of the states, which takes half as many
        # iterations again after forces have come to rest.
        convergence={"density": chosen.density, "eigenstates": 1e-5},
        txt=None,
    )


class Electrons:
    """Frames of one defect; each calculation goes on from the density of the one before.

    Parameters
    ----------
    frame : Frame
        The defect at its ideal sites; energies and forces are not read.
    symmetric : bool
        Whether the crystal's symmetry may be used: of unit cells that are only strained.
    """

    def __init__(self, frame: Frame, *, symmetric: bool = False) -> None:
        self.frame = frame
        self._calculator = calculator(frame.settings, symmetric=symmetric)

    def at(self, positions_A: np.ndarray, trajectory: str, step: int, cell_A: np.ndarray | None = None) -> Frame:
        """Calculate one frame.

        Parameters
        ----------
        positions_A : (A, 3) array
        trajectory : str
        step : int
        cell_A : (3, 3) array, optional
            Where it differs from the defect's.

        Raises
        ------
        Unconverged
        """
        cell = self.frame.cell_A if cell_A is None else cell_A
        # As stored: a run that goes on from the file then takes the same steps.
        atoms = Atoms(self.frame.numbers, np.round(positions_A, 8), cell=cell, pbc=True)
        atoms.calc, start = self._calculator, time.process_time()
        try:
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        except KohnShamConvergenceError as error:
            raise Unconverged(f"{self.frame.defect} {trajectory} {step}") from error
        return replace(
            self.frame,
            positions_A=atoms.get_positions(),
            cell_A=np.asarray(cell),
            forces_eV_A=np.round(forces, 8),
            energy_eV=float(energy),
            free_energy_eV=float(self._calculator.get_property("free_energy", atoms)),
            trajectory=trajectory,
            step=step,
            converged=bool(self._calculator.scf.converged),
            iterations=int(self._calculator.get_number_of_iterations()),
            cpu_s=round(time.process_time() - start, 1),
        )


def load_start(path: Path) -> Start:
    """Read what `starts.py` wrote."""
    with np.load(path) as stored:
        arrays = dict(stored)
    gone = zip(arrays["vacant"].tolist(), arrays["vacant_A"].tolist(), strict=True)
    frame = unknown(
        path.stem, str(arrays["host"]), str(arrays["label"]), tuple(arrays["shape"].tolist()), arrays["numbers"],
        arrays["ideal"], arrays["cell"], arrays["marker"], tuple((element, tuple(at)) for element, at in gone),
    )  # fmt: skip
    return Start(frame, arrays["potential"], arrays["stiffness"].astype(float))


def unknown(
    defect: str, host_name: str, label: str, shape: tuple[int, int], numbers: np.ndarray, ideal_A: np.ndarray,
    cell_A: np.ndarray, marker: np.ndarray, vacant: tuple = (),
) -> Frame:  # fmt: skip
    """A frame at its ideal sites before anything is calculated."""
    return Frame(
        numbers=numbers, positions_A=ideal_A, ideal_A=ideal_A, marker=marker, cell_A=cell_A,
        forces_eV_A=np.full(ideal_A.shape, np.nan), energy_eV=math.nan, free_energy_eV=math.nan, host=host_name,
        defect=defect, label=label, shape=shape, vacant=vacant, trajectory="", step=0,
        settings=settings(host_name, unit_cell=shape == (1, 1)), converged=False, iterations=0, cpu_s=0.0,
    )  # fmt: skip


def half_thickness_A(name: str) -> float:
    """Measured height of the chalcogens above the metals; 0 for flat hosts."""
    return max(atom.z_A for atom in host(name).basis)


def height_A(name: str) -> float:
    """Height of all cells of a host."""
    return float(math.ceil(2 * half_thickness_A(name) + GAP_A))


def unit_cell(name: str, a_A: float, half_A: float) -> Frame:
    """One unit cell of the pristine layer, with chalcogens at +-`half_A`."""
    basis, cell = host(name).basis, np.zeros((3, 3))
    cell[:2, :2], cell[2, 2] = host(name).plane_A(a_A), height_A(name)
    uvw = [(atom.u, atom.v, 0.5 + np.sign(atom.z_A) * half_A / cell[2, 2]) for atom in basis]
    numbers, marker = np.array([atomic_numbers[atom.element] for atom in basis]), np.zeros(len(basis), np.int64)
    return unknown(f"{name}-pristine", name, "pristine", (1, 1), numbers, np.array(uvw) @ cell, cell, marker)
