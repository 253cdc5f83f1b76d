"""Which defects the benchmark of defects shows, and how far their neighbours move, by a potential that taught nobody.

The network that the analysis relaxes with learnt from CHGNet. The atoms here are where SevenNet-0 (Park et al., J.
Chem. Theory Comput. 20, 4857 (2024)) puts them: every kind is relaxed once in a patch of 8 x 8 cells (lines: 9 x 7 or
longer), and the displacements in the plane, in units of the cell vectors, are kept in `data/displacements.npz`.
Adatoms, holes and second layers are not relaxed.

Remake what is missing (needs SevenNet; half a minute of a core per kind):
``OMP_NUM_THREADS=1 python benchmarks/defect_kinds.py [--hosts MoS2,WSe2] [--labels V_S,T1]``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from definet.crystals import host
from definet.structures import DefectStructure, build, line, pristine

FloatArray = NDArray[np.float64]

HOSTS = ("MoS2", "WSe2", "MoSe2", "WS2")
STORE = Path(__file__).parent / "data" / "displacements.npz"
PATCH, LINE_PATCH = (8, 8), (9, 7)
BEYOND = 5
"""Cells between a line and its periodic image."""

FMAX_eV_A = 0.02
MAX_STEPS = 40
CLOSING_A = 0.1
POTENTIAL = "sevennet-0"


class Moved(NamedTuple):
    """A relaxed patch.

    Attributes
    ----------
    defect : DefectStructure
        Unrelaxed.
    shift : (N, 2) array
        Displacement of every node in the plane, in units of the cell vectors.
    ended : dict
        How the relaxation ended.
    """

    defect: DefectStructure
    shift: FloatArray
    ended: dict[str, object]


AS_FAR = {"Re_Mo": "W_Mo", "Nb_W": "Mo_W"}
"""Elements next to the isovalent metal in the periodic table, which nobody relaxed; around that one nothing moves by
more than 0.02 A."""


def labels(name: str) -> list[str]:
    """Kinds of defects of a host; more of them in MoS2 and WSe2."""
    metal, x = host(name).elements["M"], host(name).elements["X"]
    other_x, other_metal = ("Se" if x == "S" else "S"), ("W" if metal == "Mo" else "Mo")
    usual = [f"V_{x}", f"V_{x}2", "SVL-4", "T1", f"{other_x}_{x}", f"{other_metal}_{metal}", f"V_{metal}"]
    usual += [f"O_{x}", f"V_{metal}{x}3", "DVL-6", f"{metal}_{x}2", f"{other_x}2_{x}2", "T2", f"{x}2_{metal}"]
    rare = ["CVL-6", f"{metal}_{x}", "SVL-6", f"V_{metal}{x}6", f"{x}_{metal}", "SVL-9"]
    return [*usual, *(rare if name in HOSTS[:2] else [])]


def patch_of(label: str) -> tuple[int, int]:
    """Cells of a patch; lines of more than four columns in a row take longer ones."""
    if "VL-" not in label:
        return PATCH
    columns = int(label.rpartition("-")[2]) // (1 if label.startswith("S") else 2)
    return max(LINE_PATCH[0], columns + BEYOND), LINE_PATCH[1]


def built(name: str, label: str, a_A: float | None = None, crystal: object = None) -> DefectStructure:
    """Unrelaxed defect in its patch, its first site in the middle; all lines along the first cell vector."""
    shape = patch_of(label)
    cell = pristine(crystal or name, *shape, a_A=a_A)  # type: ignore[arg-type]
    at = (2, shape[1] // 2) if "VL-" in label else (shape[0] // 2, shape[1] // 2)
    if "VL-" in label:
        return line(cell, label, at, "top", 0, closing_A=CLOSING_A)
    return build(cell, label, at)


def moved(name: str, label: str) -> Moved:
    """Kept displacements of a kind of defect; a missing one is an error, never an unrelaxed structure."""
    like = AS_FAR.get(label, label)
    with np.load(STORE) as found:
        shift = found[f"{name}/{like}"].astype(float)
        return Moved(built(name, label), shift, json.loads(str(found[f"{name}/{like}/ended"])))


def known() -> list[tuple[str, str]]:
    """Hosts and labels whose displacements are kept."""
    if not STORE.exists():
        return []
    with np.load(STORE) as found:
        kept = [(key.split("/")[0], key.split("/")[1]) for key in found.files if not key.endswith("/ended")]
    return kept + [(name, label) for label, like in AS_FAR.items() for name, had in kept if had == like]


def _relaxed(name: str, label: str, calculator: object, crystal: object, a_A: float) -> dict[str, object]:
    from definet.teacher import relax

    defect = built(name, label, a_A, crystal)
    minimum = relax(defect, calculator, fmax=FMAX_eV_A, max_steps=MAX_STEPS)  # type: ignore[arg-type]
    count = int(np.prod(defect.shape)) * len(host(name).basis)
    sites = built(name, label).structure.frac_coords[:, :2].copy()
    perfect = pristine(name, *defect.shape).structure.frac_coords[:, :2]
    sites[:count] = perfect  # added atoms come after them; a line's sides are counted from their perfect sites
    shift = (minimum.positions_A @ np.linalg.inv(defect.structure.lattice.matrix))[:, :2] - sites
    shift = (shift - np.round(shift)) * np.array(defect.shape)
    shift[~defect.occupied] = 0
    ended = {
        "potential": POTENTIAL, "a_A": round(a_A, 4), "converged": minimum.converged, "calls": minimum.steps,
        "fmax_eV_A": round(minimum.fmax_eV_A, 4),
        "energy_gained_eV": round(minimum.initial_energy_eV - minimum.energy_eV, 3),
    }  # fmt: skip
    return {f"{name}/{label}": shift.astype(np.float32), f"{name}/{label}/ended": json.dumps(ended)}


def main() -> None:
    from definet.teacher import at_rest, calculator, equilibrium_lattice

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default=",".join(HOSTS))
    parser.add_argument("--labels", help="default all that are missing")
    asked = parser.parse_args()
    potential = calculator(POTENTIAL)
    STORE.parent.mkdir(exist_ok=True)
    for name in asked.hosts.split(","):
        wanted = asked.labels.split(",") if asked.labels else labels(name)
        wanted = [label for label in wanted if label in labels(name) and (name, label) not in known()]
        if not wanted:
            continue
        a_A = equilibrium_lattice(name, potential)
        crystal = at_rest(name, a_A, potential)
        for label in wanted:
            new = _relaxed(name, label, potential, crystal, a_A)
            if not json.loads(str(new[f"{name}/{label}/ended"]))["converged"]:
                print(name, label, "did not come to rest", flush=True)
                continue
            kept = dict(np.load(STORE)) if STORE.exists() else {}
            aside = STORE.with_suffix(".part.npz")
            np.savez_compressed(aside, **kept, **new)
            aside.replace(STORE)
            print(name, label, new[f"{name}/{label}/ended"], flush=True)


if __name__ == "__main__":
    main()
