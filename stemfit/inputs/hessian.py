"""A potential's Hessian of a candidate, for an optimiser that has to save steps; and a script that gives it to ASE."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import ModelError
from stemfit.inputs.gpaw import template
from stemfit.inputs.plan import Patch, moments

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

FloatArray = NDArray[np.float64]


SAME_A = 1e-3
"""Structures whose atoms differ by less have one Hessian."""


class Known(NamedTuple):
    """Atoms, and the positive definite Hessian (3 A, 3 A) there."""

    atoms: Atoms
    hessian_eV_A2: FloatArray


def files(patch: Patch, potential: Calculator, tag: str, known: list[Known] | None = None) -> dict[str, bytes]:
    """Name and content of both files; six force calls of the potential per atom.

    Parameters
    ----------
    patch : Patch
    potential : ASE calculator
    tag : str
        Potential and version, as "chgnet-0.4.2".
    known : list of Known, optional
        Hessians of structures that were asked before; this one is added. Many defects of an image are alike.

    Raises
    ------
    ModelError
        If the potential gives forces that are not finite.
    """
    known = [] if known is None else known
    found = next((one for one in known if _same(one.atoms, patch.atoms)), None)
    if found is None:
        found = Known(patch.atoms, _taken(patch, potential, tag))
        known.append(found)
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        allow_pickle=False,
        hessian_eV_A2=found.hessian_eV_A2.astype(np.float32),
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


def _same(one: Atoms, other: Atoms) -> bool:
    if not np.array_equal(one.numbers, other.numbers):
        return False
    cells = np.abs(np.asarray(one.cell) - np.asarray(other.cell)).max()
    return bool(max(cells, np.abs(one.positions - other.positions).max()) < SAME_A)


def _taken(patch: Patch, potential: Calculator, tag: str) -> FloatArray:
    from definet.hessian import preconditioner, stiffness

    atoms = patch.atoms.copy()
    atoms.calc = potential
    raw = stiffness(atoms)
    if not np.isfinite(raw).all():
        raise ModelError(f"{tag} gives forces that are not finite at {patch.name}", remedy="choose another --potential")
    return preconditioner(raw)
