"""Build the defects of `plan.py` and relax them with a potential: what the DFT relaxations start from.

For the project's environment, not the system's python3. One file per defect in `starts/`: ideal sites at the lattice
constant of the DFT settings (`lattice.json`), the potential's minimum carried over to them, and its stiffness there,
which `make_frames.py` descends with. Those that exist are kept.

    python benchmarks/dft/starts.py [--potential chgnet] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from plan import DEFECTS, LARGE, PRISTINE, Defect

from definet.crystals import Crystal, host
from definet.hessian import stiffness
from definet.structures import VACANCY, DefectStructure, build, elements_of, pristine
from definet.teacher import at_rest, calculator, equilibrium_lattice, fidelity, relax

HERE = Path(__file__).parent


def with_thickness(name: str, half_A: float) -> Crystal:
    """The host with its chalcogens at other heights; flat ones stay."""
    crystal = host(name)
    return replace(crystal, basis=tuple(replace(atom, z_A=float(np.sign(atom.z_A)) * half_A) for atom in crystal.basis))


def built(defect: Defect, crystal: Crystal, a_A: float, height_A: float) -> DefectStructure:
    """The defect in a layer of this crystal, in a cell of a given height."""
    thickness = float(np.ptp([atom.z_A for atom in crystal.basis]))
    layer = pristine(crystal, *defect.shape, a_A=a_A, vacuum_A=height_A - thickness)
    for label, at, side in defect.parts:
        layer = build(layer, label, at, side)  # type: ignore[arg-type]
    return layer


def start(defect: Defect, lattice: dict[str, float], rest: Crystal, rest_a_A: float, potential: Calculator) -> dict:
    """Arrays of one file."""
    ideal = built(defect, with_thickness(defect.host, lattice["half_A"]), lattice["a_A"], lattice["height_A"])
    own = built(defect, rest, rest_a_A, 25.0)
    minimum = relax(own, potential)
    here = ideal.occupied
    moved = (minimum.positions_A - own.structure.cart_coords)[here]
    atoms = Atoms(ideal.numbers[here], minimum.positions_A[here], cell=own.structure.lattice.matrix, pbc=True)
    atoms.calc = potential
    elements = elements_of(ideal.structure)
    gone = np.flatnonzero(ideal.marker == VACANCY)
    return {
        "numbers": ideal.numbers[here],
        "marker": ideal.marker[here],
        "cell": ideal.structure.lattice.matrix,
        "ideal": ideal.nodes_A[here],
        "potential": ideal.nodes_A[here] + moved,
        "stiffness": stiffness(atoms).round(2).astype(np.float32),
        "vacant": np.array([elements[k] for k in gone], dtype="U2"),
        "vacant_A": ideal.nodes_A[gone].reshape(-1, 3),
        "host": defect.host,
        "label": ideal.label,
        "shape": np.array(defect.shape),
        "fmax": minimum.fmax_eV_A,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--potential", default="chgnet")
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args()
    lattices = json.loads((HERE / "lattice.json").read_text())
    potential, folder = calculator(given.potential), HERE / "starts"
    folder.mkdir(exist_ok=True)
    rest: dict[str, tuple[Crystal, float]] = {}
    for defect in (*DEFECTS, *LARGE, *PRISTINE):
        path = folder / f"{defect.name}.npz"
        wanted = not given.names or defect.name in given.names
        if path.exists() or not wanted or defect.host not in lattices:
            continue
        if defect.host not in rest:
            a_A = equilibrium_lattice(defect.host, potential)
            rest[defect.host] = at_rest(defect.host, a_A, potential), a_A
        arrays = start(defect, lattices[defect.host], *rest[defect.host], potential)
        arrays["source"] = fidelity(given.potential)
        temporary = path.with_name(f".tmp-{path.name}")
        np.savez_compressed(temporary, **arrays)
        temporary.replace(path)
        moved = np.linalg.norm(arrays["potential"] - arrays["ideal"], axis=1).max()
        print(f"{defect.name}: {len(arrays['numbers'])} atoms, {arrays['label']}, moved by up to {moved:.3f} A, "
              f"fmax {arrays['fmax']:.3f} eV/A", flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
