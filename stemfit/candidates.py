"""The atomic structures that could explain each defect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.candidate_lines import line_patch
from stemfit.candidate_sheets import (
    HOLE_SHARE,
    SHARES,
    hole_structures,
    is_hole,
    is_pair,
    middle_px,
    pair_structures,
    stays_as_built,
)
from stemfit.candidate_trefoils import trefoil_patch
from stemfit.defects import Defect, hypotheses, type_of
from stemfit.defects.complexes import complex_rate
from stemfit.defects.loose import IN_HOLLOW
from stemfit.defects.row_odds import LINE_RATE
from stemfit.defects.types import Site
from stemfit.hosts import HONEYCOMB, ProjectedHost
from stemfit.lattice import Lattice, SiteMap
from stemfit.optics.scattering import column_elements

if TYPE_CHECKING:
    from definet.structures import DefectStructure

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A periodic patch of the host with one hypothesis in it, and where it lies in the image.

    Attributes
    ----------
    id : str
        "<defect id>-<k>", k from 1.
    defect : int
        Id of the defect that it may explain.
    type, label : str
        As in Defect; label "pristine" for the perfect crystal.
    structure : DefectStructure
        Patch in the crystal frame (Angstrom, right-handed, y up), with defect markers.
    center_A : (2,) array
        Centre of the hypothesis in the patch.
    matrix, offset_px : (2, 2), (2,) array
        p_px = matrix @ r_A + offset_px at the defect, local distortion included.
    log_prior : float
        Natural logarithm; relative among the candidates of one defect.
    possible : int
        Structures that could explain the defect; more than were asked for are left out, the least probable first.
    as_built : bool
        The unrelaxed structure itself is the hypothesis.
    relaxed_as : DefectStructure or None
        Same nodes with the elements of the majority host, whose displacements are taken; None where it is itself.
    """

    id: str
    defect: int
    type: str
    label: str
    structure: DefectStructure
    center_A: FloatArray
    matrix: FloatArray
    offset_px: FloatArray
    log_prior: float
    possible: int = 0
    as_built: bool = False
    relaxed_as: DefectStructure | None = None


PATCH_CELLS, PATCH_A = 8, 25.0
"""Supercell of a point defect: displacements are converged to a few percent there (5 x 5 would be off by 40 %)."""

WITHOUT_STRUCTURE = ("5-7", "TWIN")
"""Dislocations and boundaries of grains: no periodic patch holds a single one."""

MIN_ALTERNATIVE = 1e-3
"""Probability from which an alternative of the occupancy is worth a structure."""


def propose(
    defect: Defect, host: ProjectedHost, lattice: Lattice, sites: SiteMap, rates: Mapping[str, float], most: int = 24
) -> tuple[Candidate, ...]:
    """Structures that could explain a defect, the perfect crystal first.

    What a projection cannot tell (which of two stacked atoms is missing or replaced) is listed as separate candidates.
    A defect without a name gets none, nor does an adatom, whose element is not known.

    Parameters
    ----------
    defect : Defect
    host : ProjectedHost
    lattice : Lattice
    sites : SiteMap
    rates : mapping of label to float
        Share of sites with each label in this image: the prior.
    most : int
        At most this many.
    """
    if defect.type in ("UNKNOWN", "ADATOM") or defect.label in WITHOUT_STRUCTURE:
        return ()
    if defect.type == "LINE":
        return _lines(defect, host, lattice, sites, rates, most)
    if defect.type == "TREFOIL":
        return _trefoils(defect, host, lattice, sites, rates, most)
    structures = _structures(defect, host, lattice)
    rates = {**SHARES, **rates} if is_pair(defect, host) else rates
    rates = {**rates, defect.label: HOLE_SHARE} if is_hole(defect, host) else rates
    matrix, center_px = _frame(defect, host, lattice, sites)
    center_px = middle_px(defect) if is_pair(defect, host) else center_px
    count = {s.label: sum(t.label == s.label for t in structures) for s in structures}
    # A label alone does not say whether the defect, first taken for an antisite, is a foreign atom.
    kinds = {h.label: h.type for name in host.sublattices for h in hypotheses(host, name)}
    made = []
    for k, structure in enumerate(structures[:most], 1):
        center = _center(structure, structures)
        rate = rates.get(structure.label) or complex_rate(structure.label) or 1e-6
        prior = float(np.log(rate / count[structure.label]))
        kind = kinds[structure.label] if structure.label in kinds else type_of(structure.label, defect.type)
        made.append(
            Candidate(
                f"{defect.id}-{k}", defect.id, kind, structure.label, structure, center, matrix,
                center_px - matrix @ center, prior, len(structures), stays_as_built(structure.label),
            )
        )
    return tuple(made)


def sites_of(candidate: Candidate, sites: SiteMap, lattice: Lattice) -> tuple[tuple[Site, ...], FloatArray]:
    """Sites of the image that a candidate changes, newly occupied hollows included, and where they are (K, 2), px."""
    nodes = candidate.structure.nodes_A[list(candidate.structure.sites), :2]
    at_px = nodes @ candidate.matrix.T + candidate.offset_px
    off, near = (np.asarray(a) for a in cKDTree(sites.xy_px).query(at_px))
    known = off < IN_HOLLOW * lattice.a_px_iso
    rows = list(dict.fromkeys(near[known].tolist()))
    names = tuple((int(sites.ij[k, 0]), int(sites.ij[k, 1]), str(sites.sublattice[k])) for k in rows)
    if known.all():
        return names, sites.xy_px[rows]
    cells = np.unique(sites.ij, axis=0)
    hollows_px = lattice.positions(cells + (1.0 - lattice.basis[1]))
    own = list(dict.fromkeys(np.atleast_1d(cKDTree(hollows_px).query(at_px[~known])[1]).tolist()))
    return (
        (*names, *((int(cells[k, 0]), int(cells[k, 1]), "H") for k in own)),
        np.vstack([sites.xy_px[rows], hollows_px[own]]),
    )


def _structures(defect: Defect, host: ProjectedHost, lattice: Lattice) -> list[DefectStructure]:
    """All that could be there, the perfect crystal first."""
    if is_hole(defect, host):
        return list(hole_structures(defect, host, lattice, patch_cells(host)))
    if is_pair(defect, host):
        return list(pair_structures(defect, host, lattice, patch_cells(host)))
    others = (n for n, p in defect.alternatives if p > MIN_ALTERNATIVE and buildable(n))
    labels = [defect.label, *others]
    structures = [s for name in dict.fromkeys([*labels, "pristine"]) for s in _variants(name, defect, host)]
    return sorted(structures, key=lambda s: s.label != "pristine")


def buildable(label: str) -> bool:
    """Whether a label says by itself what stands on one site, or is the perfect crystal."""
    return label not in ("UNKNOWN", "ADATOM") and label[:3] not in LINE_RATE


def _trefoils(
    defect: Defect, host: ProjectedHost, lattice: Lattice, sites: SiteMap, rates: Mapping[str, float], most: int
) -> tuple[Candidate, ...]:
    """A trefoil and its rivals about the same metals."""
    patch = trefoil_patch(defect, host, lattice.polarity, MIN_ALTERNATIVE)
    matrix, center_px = _frame(defect, host, lattice, sites)
    offset = center_px - matrix @ patch.center_A
    made = zip(patch.structures[:most], patch.log_prior[:most], strict=True)
    return tuple(
        Candidate(
            f"{defect.id}-{k}", defect.id, "TREFOIL" if s.sites else "", s.label, s, patch.center_A, matrix, offset,
            prior if s.sites else float(np.log(rates.get("pristine", 1.0))), len(patch.structures),
        )
        for k, (s, prior) in enumerate(made, 1)
    )


def _center(structure: DefectStructure, family: Sequence[DefectStructure]) -> FloatArray:
    """Centre of a hypothesis; the perfect crystal is compared on the same spot as its rivals."""
    if structure.sites or all(not s.sites for s in family):
        return structure.center_A
    return next(s.center_A for s in family if s.sites)


def _variants(label: str, defect: Defect, host: ProjectedHost) -> tuple[DefectStructure, ...]:
    """All structures of one label at one place."""
    return _point(label, host, defect.sites[0][2])


def _lines(
    defect: Defect, host: ProjectedHost, lattice: Lattice, sites: SiteMap, rates: Mapping[str, float], most: int
) -> tuple[Candidate, ...]:
    """Structures of a line, in one patch along it."""
    patch = line_patch(defect, host, lattice, rates, MIN_ALTERNATIVE, most)
    matrix, center_px = _frame(defect, host, lattice, sites)
    matrix = matrix @ patch.turn
    offset = center_px - matrix @ patch.center_A
    return tuple(
        Candidate(
            f"{defect.id}-{k}", defect.id, "" if v.structure.label == "pristine" else "LINE", v.structure.label,
            v.structure, patch.center_A, matrix, offset, v.log_prior, patch.possible,
        )
        for k, v in enumerate(patch.variants, 1)
    )


@lru_cache(maxsize=256)
def _point(label: str, host: ProjectedHost, sublattice: str) -> tuple[DefectStructure, ...]:
    """Structures of a point defect; the same objects for every defect that may be one, so that each is relaxed once."""
    from definet.structures import build, pristine, substitution

    crystal = pristine(host.crystal or host.name, *patch_cells(host))
    if label == "pristine":
        return (crystal,)
    if not host.honeycomb:
        return _any_vacancy(crystal, label, host, sublattice)
    if host.sublattices == ("A", "B"):
        return (_flat_defect(crystal, label, sublattice),)
    if label.startswith("vanadium_"):
        return (replace(substitution(crystal, label.replace("vanadium", "V")), label=label),)
    made = build(crystal, label)
    return (made, build(crystal, label, layer="bottom")) if _has_two_layers(label, host) else (made,)


def patch_cells(host: ProjectedHost) -> tuple[int, int]:
    """Repeats along a and b of the patch of a point defect."""
    if host.honeycomb:
        return PATCH_CELLS, PATCH_CELLS
    n, m = (math.ceil(PATCH_A / math.hypot(*vector)) for vector in host.cell.plane)
    return n, m


def _any_vacancy(
    crystal: DefectStructure, label: str, host: ProjectedHost, sublattice: str
) -> tuple[DefectStructure, ...]:
    """The whole column missing, or the upper or the lower one of two equal atoms."""
    from definet.structures import Edit, Site, place

    column, missing = host.column_atoms(sublattice), column_elements(label.removeprefix("V_"))
    gone = [column] if len(missing) == len(column) else [(k,) for k in column[::-1]]
    return tuple(place(crystal, Edit(label, tuple(Site(0, 0, k) for k in atoms))) for atoms in gone)


def _flat_defect(crystal: DefectStructure, label: str, sublattice: str) -> DefectStructure:
    from definet.structures import substitution, vacancy

    maker = vacancy if label.startswith("V_") else substitution
    return maker(crystal, label, sublattice=sublattice)


def _has_two_layers(label: str, host: ProjectedHost) -> bool:
    """Whether a label changes one of two stacked atoms, so that top and bottom differ but look the same from above."""
    if label == f"V_{host.columns[0]}{host.columns[1].rstrip('2')}3":  # a metal with the chalcogens of one layer
        return True
    return any(column.endswith("2") and label.endswith(f"_{column.rstrip('2')}") for column in host.columns)


def crystal_axes(lattice: Lattice) -> FloatArray:
    """Image vectors, columns (2, 2) px, of the crystal frame: a 60 degree cell with X at (a + b)/3.

    Where the image's own axes have X at 2 (a + b)/3 they are turned by 60 degrees, which is the same crystal.
    """
    a, b = lattice.a_px, lattice.b_px
    if lattice.cell != HONEYCOMB:
        return np.column_stack([a, b])
    return np.column_stack([a, b] if lattice.polarity > 0 else [b, b - a])


def _frame(defect: Defect, host: ProjectedHost, lattice: Lattice, sites: SiteMap) -> tuple[FloatArray, FloatArray]:
    """As `local_frame`; structures have the lattice constant of the crystal, not that of an alloy of it."""
    a_A = host.structure.a_exp_A if host.honeycomb else host.a_A
    return local_frame(defect, lattice, sites, a_A, host.sublattices)


def local_frame(
    defect: Defect, lattice: Lattice, sites: SiteMap, a_A: float, sublattices: tuple[str, ...] = ()
) -> tuple[FloatArray, FloatArray]:
    """Matrix (2, 2), px per Angstrom of the crystal frame, and the centre (2,) px, both at the defect.

    Fitted on the expected positions of the sites within three cells, so that smooth scan distortion is included.
    """
    near = np.hypot(*(sites.xy_px - defect.center_px).T) < 3.0 * lattice.a_px_iso
    which = np.isin(sites.sublattice[near], ("X", "B")).astype(int)
    if lattice.cell != HONEYCOMB:
        which = np.array([sublattices.index(str(s)) for s in sites.sublattice[near]])
    fractional = sites.ij[near] + lattice.basis[which]
    affine = np.array([[1.0, 0.0], [0.0, 1.0]])
    if near.sum() >= 12:
        design = np.column_stack([np.ones(near.sum()), fractional])
        cell = np.linalg.lstsq(design, sites.xy_px[near], rcond=None)[0]
        affine = cell[1:].T @ np.linalg.inv(np.column_stack([lattice.a_px, lattice.b_px]))
    frame = a_A / lattice.cell.pitch * np.array(lattice.cell.plane).T
    return affine @ crystal_axes(lattice) @ np.linalg.inv(frame), defect.center_px
