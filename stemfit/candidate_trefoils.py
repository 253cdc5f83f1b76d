"""The atomic structures that a trefoil may be: itself, and those that differ by the outer columns or by one metal."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.defects import Defect
from stemfit.defects.trefoil_shapes import Cell, Trefoil, grown, read_off, shrunk, trefoil
from stemfit.defects.trefoils import log_prior
from stemfit.hosts import ProjectedHost

if TYPE_CHECKING:
    from definet.crystals import Crystal
    from definet.structures import DefectStructure

FloatArray = NDArray[np.float64]

MARGIN_CELLS = 8
"""Cells of the supercell beyond the chain of metals: as far to its periodic images as from a point defect to its."""


class TrefoilPatch(NamedTuple):
    """Structures in one supercell.

    Attributes
    ----------
    structures : tuple of DefectStructure
        The perfect crystal first, then the trefoil that was found.
    log_prior : tuple of float
        Natural logarithms; that of the perfect crystal is zero.
    center_A : (2,) array
        Of the trefoil that was found.
    """

    structures: tuple[DefectStructure, ...]
    log_prior: tuple[float, ...]
    center_A: FloatArray


def trefoil_patch(defect: Defect, host: ProjectedHost, polarity: int, least: float) -> TrefoilPatch:
    """Trefoil of a defect's sites and its rivals, all in the crystal frame and in one place.

    Parameters
    ----------
    defect : Defect
    host : ProjectedHost
    polarity : int
        Of the image.
    least : float
        Probability of a name from which larger trefoils are rivals; there are six and more of one size.

    Raises
    ------
    ValueError
        If the sites are those of no trefoil.
    """
    shape = read_off(defect.sites, polarity)
    if shape is None:
        raise ValueError(f"the sites of {defect.label} are those of no trefoil")
    known = dict(defect.alternatives)
    shapes = [shape]
    for rival in rivals(shape, polarity):
        if len(rival.metals) <= len(shape.metals) or known.get(rival.label, 0.0) > least:
            shapes.append(rival)
    corner = np.min([crystal_cell(metal, polarity) for metal in shape.metals], axis=0)
    there = tuple((s.label, _from(corner, s, polarity)) for s in shapes)
    structures = _built(host.crystal or host.name, there)
    return TrefoilPatch(structures, (0.0, *(log_prior(s) for s in shapes)), structures[1].center_A)


def rivals(shape: Trefoil, polarity: int) -> list[Trefoil]:
    """With the outer columns or without; with one metal less and one metal more, wherever it may be."""
    metals = frozenset(shape.metals)
    other = trefoil(metals, polarity, not shape.outer_kept)
    return [other, *(trefoil(m, polarity, shape.outer_kept) for m in (*shrunk(metals), *grown(metals)))]


def crystal_cell(cell: Cell, polarity: int) -> Cell:
    """Cell of a metal in the frame of `stemfit.candidates.crystal_axes`, in which X lies at (a + b)/3."""
    i, j = cell
    return (i, j) if polarity > 0 else (i + j, -i)


def _from(corner: NDArray[np.int64], shape: Trefoil, polarity: int) -> tuple[Cell, ...]:
    """Metals counted from a cell."""
    cells = np.array([crystal_cell(metal, polarity) for metal in shape.metals]) - corner
    return tuple((int(i), int(j)) for i, j in cells)


@lru_cache(maxsize=64)
def _built(
    crystal: str | Crystal, shapes: tuple[tuple[str, tuple[Cell, ...]], ...]
) -> tuple[DefectStructure, ...]:
    """Same objects for every defect of the same shape, so that each is relaxed once."""
    from definet import structures

    span = 1 + int(np.max(shapes[0][1]))
    perfect = structures.pristine(crystal, span + MARGIN_CELLS)
    at = (MARGIN_CELLS // 2, MARGIN_CELLS // 2)
    return (perfect, *(structures.trefoil(perfect, label, at, metals=metals) for label, metals in shapes))
