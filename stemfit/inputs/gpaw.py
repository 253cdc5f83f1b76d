"""A Python script that relaxes a candidate with GPAW."""

from __future__ import annotations

from importlib.resources import files
from string import Template

import numpy as np

from stemfit.inputs.plan import FMAX_eV_A, Patch, WAVES_eV, WIDTH_eV, commented, faces_differ, mesh, moments, reasons

PER_LINE = 25
"""Atomic numbers on a line."""


def text(patch: Patch) -> str:
    """Text of the script."""
    atoms, values, apart = patch.atoms, moments(patch), faces_differ(patch)
    numbers = [str(number) for number in atoms.numbers]
    lines = ["    " + ", ".join(numbers[k : k + PER_LINE]) + "," for k in range(0, len(numbers), PER_LINE)]
    return Template(template("gpaw.txt")).substitute(
        title=patch.title,
        name=patch.name,
        file=f"{patch.name}.gpaw.py",
        comments=commented(reasons(patch), "#"),
        numbers="\n".join(lines),
        positions=_rows(atoms.positions),
        cell=_rows(np.asarray(atoms.cell)),
        moments=", ".join(f"{k}: {values[k]:g}" for k in np.flatnonzero(values)),
        mesh=mesh(patch),
        waves=f"{WAVES_eV:g}",
        width=f"{WIDTH_eV:g}",
        fmax=f"{FMAX_eV_A:g}",
        spin=bool(values.any()),
        # A correction of the dipole wants the layer to end along z.
        periodic=not apart,
        dipole='        poissonsolver={"dipolelayer": "xy"},  # the two faces differ\n' if apart else "",
    )


def template(name: str) -> str:
    """A file of this package's templates."""
    return files("stemfit.inputs").joinpath("templates", name).read_text(encoding="utf-8")


def _rows(values: np.ndarray) -> str:
    return "\n".join("    [" + ", ".join(f"{x:.8f}" for x in row) + "]," for row in values)
