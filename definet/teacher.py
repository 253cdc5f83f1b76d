"""Relax a structure with an interatomic potential, and say whether it converged.

The cell stays fixed. Set OMP_NUM_THREADS=1 before numpy and torch load: one thread per process is fastest for layers of
a few hundred atoms.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes
from ase.optimize import LBFGS
from ase.optimize.precon import Exp, PreconLBFGS
from numpy.typing import NDArray
from pymatgen.io.ase import AseAtomsAdaptor

from definet.crystals import Crystal, host
from definet.descent import CELLS, descend, host_stiffness
from definet.exceptions import TeacherError
from definet.structures import DefectStructure, pristine

FloatArray = NDArray[np.float64]

FMAX_eV_A = 0.01
"""Out-of-plane bending is soft: stopping at 0.05 leaves half of the displacements undone, 0.01 leaves 2 to 3 %."""


@dataclass(frozen=True)
class Minimum:
    """Where a relaxation ended.

    Attributes
    ----------
    positions_A : (N, 3) array
        All nodes in the order of the structure; vacancy nodes unmoved, atoms not wrapped back into the cell. The mean
        displacement of the atoms is zero: a periodic layer may float, and does not here.
    fmax_eV_A : float
        Largest force on an atom at the end.
    steps : int
        Force calls of the optimiser.
    converged : bool
        Whether `fmax_eV_A` is below what was asked.
    energy_eV, initial_energy_eV : float
        At the end and at the start.
    initial_fmax_eV_A : float
        Largest force at the start.
    """

    positions_A: FloatArray
    fmax_eV_A: float
    steps: int
    converged: bool
    energy_eV: float
    initial_energy_eV: float
    initial_fmax_eV_A: float


def calculator(name: str) -> Calculator:
    """Make an ASE calculator.

    Parameters
    ----------
    name : str
        ``chgnet`` (Deng et al., Nat. Mach. Intell. 5, 1031 (2023); forces without stress and magnetic moments, the
        cheapest way to ask it), ``sevennet-0`` (Park et al., J. Chem. Theory Comput. 20, 4857 (2024); about three times
        as slow) or ``module:factory``, where the factory takes nothing and gives an ASE calculator.

    Raises
    ------
    TeacherError
        If the potential is not installed, the name is neither, or what it names gives no calculator.
    """
    if name in _NAMED:
        return _NAMED[name][1]()
    module, _, factory = name.partition(":")
    if not factory:
        remedy = f"Write {', '.join(_NAMED)}, or module:factory of an ASE calculator."
        raise TeacherError(f"unknown potential {name!r}", remedy)
    try:
        make = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise TeacherError(f"cannot load the potential {name!r}: {error}") from error
    remedy = "Name a class or function that takes nothing and gives an ASE calculator."
    try:
        made = make()
    except TypeError as error:
        raise TeacherError(f"{name!r} cannot be called without arguments: {error}", remedy) from error
    if not isinstance(made, BaseCalculator):
        raise TeacherError(f"{name!r} gives no ASE calculator, but a {type(made).__name__}", remedy)
    return cast("Calculator", made)


def fidelity(name: str) -> str:
    """Tag of a potential and its version for labels made with it: "chgnet-0.4.2", "sevennet-0-0.13.0"."""
    if name not in _NAMED:
        return name
    from importlib.metadata import PackageNotFoundError, version

    package = _NAMED[name][0]
    try:
        return f"{name}-{version(package)}"
    except PackageNotFoundError as error:
        raise TeacherError(f"the potential {name} needs the package {package}", _INSTALL.format(package)) from error


def named(tag: str) -> str:
    """Name of the potential that a tag of `fidelity` stands for.

    Raises
    ------
    TeacherError
        If it stands for none, or another version of it is installed.
    """
    name = next((name for name in _NAMED if tag.startswith(f"{name}-")), tag)
    if name not in _NAMED and ":" not in name:
        raise TeacherError(f"{tag or 'what is not known'} taught, which is no potential that can be asked")
    if fidelity(name) != tag:
        raise TeacherError(f"{tag} relaxed these structures, installed is {fidelity(name)}", "Install that version.")
    return name


_INSTALL = "pip install {0}, or choose another potential."


def _sevennet() -> Calculator:
    """SevenNet-0 of 11 July 2024, on the CPU; its package holds the weights."""
    with warnings.catch_warnings():
        # torch.jit.script is deprecated, and no faster kernel for its tensor products is installed: both are theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="No tensor product accelerator", category=UserWarning)
        try:
            from sevenn.calculator import SevenNetCalculator
        except ImportError as error:
            raise TeacherError(f"SevenNet cannot be loaded: {error}", _INSTALL.format("sevenn")) from error
        return cast("Calculator", SevenNetCalculator("7net-0_11July2024", device="cpu"))


def _chgnet() -> Calculator:
    try:
        from chgnet.model.model import CHGNet
    except ImportError as error:
        raise TeacherError(f"CHGNet cannot be loaded: {error}", _INSTALL.format("chgnet")) from error
    with _quiet_chgnet(), redirect_stdout(StringIO()):  # its constructor prints
        model = CHGNet.load(use_device="cpu", verbose=False)
    model.graph_converter.set_isolated_atom_response("ignore")
    return _Forces(model)


_NAMED: dict[str, tuple[str, Callable[[], Calculator]]] = {
    "chgnet": ("chgnet", _chgnet),
    "sevennet-0": ("sevenn", _sevennet),
}
"""Potentials by name: the package that holds each with its weights, and how to make it."""


class _Forces(Calculator):
    """Energy and forces of CHGNet."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE declares it per instance)

    def __init__(self, model: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        with _quiet_chgnet():
            graph = self.model.graph_converter(AseAtomsAdaptor.get_structure(atoms))
            out = self.model.predict_graph(graph, task="ef")
        energy = float(out["e"]) * (len(atoms) if self.model.is_intensive else 1)
        self.results = {"energy": energy, "free_energy": energy, "forces": np.asarray(out["f"], np.float64)}


@contextmanager
def _quiet_chgnet() -> Iterator[None]:
    """Torch warns of a conversion inside CHGNet that is right."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="chgnet")
        warnings.filterwarnings("ignore", category=FutureWarning, module="chgnet")
        yield


def relax(
    structure: DefectStructure, calculator: Calculator, *, fmax: float = FMAX_eV_A, max_steps: int = 200
) -> Minimum:
    """Relax all atoms in the fixed cell.

    In a known host with the stiffness of the host, see `definet.descent`. In any other crystal, and where that does not
    come to rest, a general preconditioner (Packwood et al., J. Chem. Phys. 144, 164109 (2016)) treats stiff bonds and
    soft bending alike; if its line search gives up, on a potential whose single precision hides the descent, plain
    L-BFGS finishes.

    Parameters
    ----------
    structure : DefectStructure
    calculator : ASE calculator
    fmax : float
        Largest force at which it stops, eV/A.
    max_steps : int

    Raises
    ------
    TeacherError
        If the potential gives forces that are not finite.
    """
    atoms = _atoms(structure, calculator)
    start = atoms.get_positions()
    initial_energy, initial_fmax = float(atoms.get_potential_energy()), _largest_force(atoms)
    steps = _come_to_rest(structure, atoms, fmax, max_steps) if initial_fmax > fmax else 0
    moved = atoms.get_positions() - start
    positions = structure.structure.cart_coords.copy()
    positions[structure.occupied] += moved - moved.mean(axis=0)
    final = _largest_force(atoms)
    return Minimum(
        positions, final, steps, final <= fmax, float(atoms.get_potential_energy()), initial_energy, initial_fmax
    )


def _come_to_rest(structure: DefectStructure, atoms: Atoms, fmax: float, max_steps: int) -> int:
    """Force calls made."""
    if not structure.host or min(structure.shape) < CELLS:
        return _descend(atoms, fmax, max_steps)  # the stiffness would cost more than it saves
    start = atoms.get_positions()
    stiffness = host_stiffness(structure, cast("Calculator", atoms.calc))
    steps = descend(atoms, stiffness, fmax, max_steps)
    if _largest_force(atoms) <= fmax or steps >= max_steps:
        return steps
    atoms.set_positions(start)
    return steps + _descend(atoms, fmax, max_steps - steps)


def _atoms(structure: DefectStructure, calculator: Calculator) -> Atoms:
    here = structure.occupied
    return Atoms(
        numbers=np.array(structure.structure.atomic_numbers)[here],
        positions=structure.structure.cart_coords[here],
        cell=structure.structure.lattice.matrix,
        pbc=True,
        calculator=calculator,
    )


def _largest_force(atoms: Atoms) -> float:
    largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    if not np.isfinite(largest):
        raise TeacherError("the potential gives forces that are not finite", "Check that no two atoms coincide.")
    return largest


class _Impatient(PreconLBFGS):
    """Gives up a line search that single precision keeps from ending."""

    TRIALS = 8
    """Points along one line; a search that works needs one to three."""

    def step(self, *arguments: Any) -> None:
        self.trials = 0
        super().step(*arguments)  # type: ignore[no-untyped-call]

    def func(self, x: FloatArray) -> float:
        self.trials += 1
        if self.trials > self.TRIALS:
            raise RuntimeError("the line search does not end")
        return float(super().func(x))  # type: ignore[no-untyped-call]


def _descend(atoms: Atoms, fmax: float, max_steps: int) -> int:
    """Move the atoms downhill; steps taken."""
    first = _Impatient(atoms, precon=Exp(A=3), use_armijo=False, logfile=None)  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise"):
            warnings.simplefilter("ignore", UserWarning)
            first.run(fmax=fmax, steps=max_steps)  # type: ignore[no-untyped-call]
    except (RuntimeError, FloatingPointError):
        second = LBFGS(atoms, logfile=os.devnull)
        second.run(fmax=fmax, steps=max(max_steps - first.nsteps, 0))
        return int(first.nsteps + second.nsteps)
    return int(first.nsteps)


def equilibrium_lattice(name: str, calculator: Calculator) -> float:
    """Lattice constant at which the potential's energy of the pristine layer is least, heights relaxed.

    Rectangular hosts keep their ratio of axes. A coarse scan of +-4 % about the measured constant finds the valley, the
    minimum of a cubic through +-1 % about its lowest point averages out the potential's rounding.

    Parameters
    ----------
    name : str
        Host.
    calculator : ASE calculator

    Returns
    -------
    float
        a, Angstrom.

    Raises
    ------
    TeacherError
        If the scan finds no valley.
    """
    measured = host(name).a_exp_A

    def energy(a_A: float) -> float:
        return relax(pristine(name, 1, a_A=a_A), calculator, fmax=0.002).energy_eV

    coarse = measured * np.linspace(0.96, 1.04, 9)
    lowest = int(np.argmin([energy(a) for a in coarse]))
    if lowest in (0, len(coarse) - 1):
        raise TeacherError(f"no equilibrium of {name} within 4 % of {measured} A", "Choose another potential.")
    fine = coarse[lowest] * np.linspace(0.99, 1.01, 7)
    strain = fine / coarse[lowest] - 1
    cubic = np.polynomial.Polynomial.fit(strain, [energy(a) for a in fine], 3)
    turning = cubic.deriv().roots()
    real = turning[np.isreal(turning)].real
    minima = real[cubic.deriv(2)(real) > 0]
    if len(minima) == 0 or abs(minima[0]) > 0.015:
        raise TeacherError(f"the energy of {name} has no smooth minimum near {coarse[lowest]:.3f} A")
    return float(coarse[lowest] * (1 + minima[0]))


def at_rest(name: str, a_A: float, calculator: Calculator) -> Crystal:
    """The host with its basis where the potential wants it: heights, and whatever symmetry leaves free.

    Built on it, a pristine layer does not move, and every displacement is the defect's.
    """
    layer = pristine(name, 1, a_A=a_A)
    moved = relax(layer, calculator, fmax=0.002).positions_A - layer.structure.cart_coords
    along = layer.structure.lattice.get_fractional_coords(moved)
    # Rounded, because what symmetry fixes moves by the rounding of the potential.
    basis = tuple(
        replace(
            atom,
            u=atom.u + round(float(part[0]), 4),
            v=atom.v + round(float(part[1]), 4),
            z_A=atom.z_A + round(float(move[2]), 4),
        )
        for atom, part, move in zip(host(name).basis, along, moved, strict=True)
    )
    return replace(host(name), basis=basis)
