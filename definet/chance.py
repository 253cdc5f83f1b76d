"""Tell minima that chance has chosen: where a relaxation left the valley it began in, it is done a second time.

The second start is shaken a little. Where that ends elsewhere, nothing that sees the unrelaxed structure alone can know
which of the minima the first relaxation found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from definet.crystals import Crystal
from definet.outliers import ELSEWHERE_A, farthest_apart_A, outlier, shaken, suspicious
from definet.samples import Sample
from definet.structures import DefectStructure
from definet.teacher import relax

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


class Judgement(NamedTuple):
    """Why a sample must not be learnt from, or None; how far apart (A) its two relaxations end, if it has two."""

    reason: str | None
    apart_A: float | None = None

    def __str__(self) -> str:
        """What a line on the relaxation ends with."""
        again = "" if self.apart_A is None else f"again={self.apart_A:.2f} A "
        return again + (self.reason or "")


def judge(found: Sample, calculator: Calculator, crystal: Crystal | None = None) -> Judgement:
    """Judge a relaxation by all rules.

    Parameters
    ----------
    found : Sample
    calculator : ASE calculator
        What relaxed it.
    crystal : Crystal, optional
        The host as the structure was built on it; default that of the table.

    Raises
    ------
    TeacherError
    """
    reason = outlier(found)
    if reason is not None or not suspicious(found):
        return Judgement(reason)
    apart_A = farthest_apart_A(found, relax(_shaken(found, crystal), calculator).positions_A)
    return Judgement("chance" if apart_A > ELSEWHERE_A else None, apart_A)


def _shaken(found: Sample, crystal: Crystal | None) -> DefectStructure:
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    structure = Structure(Lattice(found.cell), found.numbers.tolist(), shaken(found), coords_are_cartesian=True)
    sites = tuple(int(node) for node in np.flatnonzero(found.marker))
    shape = (int(found.shape[0]), int(found.shape[1]))
    return DefectStructure(structure, found.marker, found.label, sites, found.host, shape, crystal)
