"""Defects whose atoms stand elsewhere, by abTEM multislice: what a relaxed structure must win or lose against.

As `defect_stamps.py`, kept in `data/stamps/otherwise/MICROSCOPE-WHAT.npz`, for divacancies, lines and trefoils with

- `unrelaxed`: all atoms on their ideal sites. Here a relaxed structure must lose.
- `inverted`: the displacements of SevenNet-0 with the wrong sign. Here it must lose as well.
- `chgnet`: as CHGNet has them, the potential that taught the network.

Remake what is missing (needs abTEM and, for `chgnet`, CHGNet; half a minute of a core per stamp):
``OMP_NUM_THREADS=1 python benchmarks/ranking_stamps.py [--what unrelaxed,inverted,chgnet]``
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any
from unittest import mock

import defect_atoms
import defect_stamps  # before numpy: it settles the number of threads
import numpy as np
from defect_kinds import MAX_STEPS, FMAX_eV_A, Moved, built, moved
from defect_series import Series

from definet.crystals import host
from definet.structures import pristine

STORE = defect_stamps.STORE / "otherwise"
MICROSCOPES = ("MoS2-60kV-haadf", "WSe2-60kV-maadf")
LABELS = ("V_{x}2", "SVL-4", "T1", "DVL-6", "V_{x}")


def unrelaxed(name: str, label: str) -> Moved:
    """Every atom on its site."""
    known = moved(name, label)
    return known._replace(shift=0 * known.shift, ended={"potential": "none"})


def inverted(name: str, label: str) -> Moved:
    """Every atom as far from its site, on the other side of it."""
    known = moved(name, label)
    return known._replace(shift=-known.shift, ended={**known.ended, "inverted": True})


def by_chgnet(name: str, label: str) -> Moved:
    """Relaxed by the potential that taught the network."""
    from definet.teacher import relax

    calculator, a_A, crystal = _chgnet(name)
    defect = built(name, label, a_A, crystal)
    minimum = relax(defect, calculator, fmax=FMAX_eV_A, max_steps=4 * MAX_STEPS)
    count = int(np.prod(defect.shape)) * len(host(name).basis)
    sites = built(name, label).structure.frac_coords[:, :2].copy()
    sites[:count] = pristine(name, *defect.shape).structure.frac_coords[:count, :2]
    shift = (minimum.positions_A @ np.linalg.inv(defect.structure.lattice.matrix))[:, :2] - sites
    shift = (shift - np.round(shift)) * np.array(defect.shape)
    shift[~defect.occupied] = 0
    ended = {"potential": "chgnet", "converged": minimum.converged, "fmax_eV_A": round(minimum.fmax_eV_A, 4)}
    return Moved(built(name, label), shift, ended)


@cache
def _chgnet(name: str) -> tuple[Any, float, Any]:
    from definet.teacher import at_rest, calculator, equilibrium_lattice

    potential = calculator("chgnet")
    a_A = equilibrium_lattice(name, potential)
    return potential, a_A, at_rest(name, a_A, potential)


WHAT: dict[str, Callable[[str, str], Moved]] = {"unrelaxed": unrelaxed, "inverted": inverted, "chgnet": by_chgnet}


def render(microscope: str, what: str) -> None:
    """Render what is missing of one microscope."""
    view, path = defect_stamps.VIEWS[microscope], STORE / f"{microscope}-{what}.npz"
    with np.load(defect_stamps.STORE / f"{microscope}.npz") as found:
        kept: dict[str, Any] = {key: found[key] for key in ("about", "series/k", "series/terms")}
        there = {key.partition("/")[0] for key in found.files}
    kept |= dict(np.load(path)) if path.exists() else {}
    crystal = Series(kept["series/k"], kept["series/terms"])
    for label in (one.format(x=host(view.host).elements["X"]) for one in LABELS):
        if label not in there or f"{label}/change" in kept:
            continue
        start = time.process_time()
        with mock.patch.object(defect_atoms, "moved", WHAT[what]):
            new = defect_stamps.stamp(view, label, crystal)
        kept |= new
        aside = path.with_suffix(".part.npz")
        np.savez_compressed(aside, **kept)
        aside.replace(path)
        ended = json.loads(new[f"{label}/about"])["relaxed"]
        print(microscope, what, label, f"{time.process_time() - start:.0f} s", ended, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default=",".join(WHAT))
    asked = parser.parse_args()
    STORE.mkdir(parents=True, exist_ok=True)
    for what in asked.what.split(","):
        for microscope in MICROSCOPES:
            render(microscope, what)


if __name__ == "__main__":
    main()
