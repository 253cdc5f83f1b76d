"""A potential's Hessian of a candidate, for an optimiser that has to save steps; and a script that gives it to ASE."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from stemfit.errors import ModelError
from stemfit.inputs.gpaw import template
from stemfit.inputs.plan import Patch, moments

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


def files(patch: Patch, potential: Calculator, tag: str) -> dict[str, bytes]:
    """Name and content of both files; six force calls of the potential per atom.

    Parameters
    ----------
    patch : Patch
    potential : ASE calculator
    tag : str
        Potential and version, as "chgnet-0.4.2".

    Raises
    ------
    ModelError
        If the potential gives forces that are not finite.
    """
    from definet.hessian import preconditioner, stiffness

    atoms = patch.atoms.copy()
    atoms.calc = potential
    raw = stiffness(atoms)
    if not np.isfinite(raw).all():
        raise ModelError(f"{tag} gives forces that are not finite at {patch.name}", remedy="choose another --potential")
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        allow_pickle=False,
        hessian_eV_A2=preconditioner(raw).astype(np.float32),
        numbers=patch.atoms.numbers,
        positions_A=patch.atoms.positions,
        cell_A=np.asarray(patch.atoms.cell),
        moments_muB=moments(patch),
        potential=np.array(tag),
        title=np.array(patch.title),
        order=np.array("rows and columns: x, y, z of the first atom of `numbers`, then of the second"),
    )
    script = template("relax.txt").encode()
    return {f"{patch.name}.hessian.npz": stream.getvalue(), f"relax_{patch.name}.py": script}
