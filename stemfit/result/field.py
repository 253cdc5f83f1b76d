"""The whole field as one structure: the pristine crystal on every analysed site, the best candidate at every defect.

Structure frame: Angstrom, right-handed, x right, y up, z toward the viewer; the bounding box of the analysed sites has
5 A of margin all round. The image follows from it by ``p_px = matrix @ r_A + offset_px`` (`Frame`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.hosts import column_type
from stemfit.optics.scattering import column_elements
from stemfit.result.findings import Findings

if TYPE_CHECKING:
    from ase import Atoms

    from definet.crystals import Crystal
    from stemfit.candidates import Candidate
    from stemfit.defects import Defect
    from stemfit.relax import Relaxed
    from stemfit.simulate.field import Territory

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MARGIN_A = 5.0
"""Half of the 10 A by which the cell exceeds the bounding box."""


class Frame(NamedTuple):
    """Map of the structure into the image, distortion left out: ``p_px = matrix @ r_A + offset_px``."""

    matrix: FloatArray
    offset_px: FloatArray

    def to_px(self, r_A: FloatArray) -> FloatArray:
        """Image position of (N, 2) in-plane positions."""
        return np.asarray(r_A @ self.matrix.T + self.offset_px)

    def to_A(self, p_px: FloatArray) -> FloatArray:
        """In-plane position of (N, 2) image positions."""
        return np.asarray((p_px - self.offset_px) @ np.linalg.inv(self.matrix).T)


@dataclass(frozen=True)
class Field:
    """Atoms of the whole field.

    Attributes
    ----------
    element : (N,) array of str
    r_A : (N, 3) array
        Structure frame.
    xy_px : (N, 2) array
        Where the whole-field image draws them, distortion and jitter of rows included.
    sigma_A : (N,) array
        Standard error per axis: the scatter of columns about their sites, with the relaxer's own where it states one.
    marker : (N,) int array
        0 pristine, 1 exchanged or added.
    defect : (N,) int array
        Id of the defect, 0 for none.
    cell_A : (3,) array
        Box, from (0, 0, 0).
    """

    element: NDArray[np.str_]
    r_A: FloatArray
    xy_px: FloatArray
    sigma_A: FloatArray
    marker: IntArray
    defect: IntArray
    cell_A: FloatArray


def frame(analysis: Findings) -> Frame:
    """Structure frame of a field: the lattice's own, moved so that no analysed site lies nearer than 5 A to an edge."""
    lattice_frame = Frame(*analysis.lattice.image_from_structure(analysis.host.host.a_A))
    corner = lattice_frame.to_A(_ideal_px(analysis))[analysis.sites.analysed].min(axis=0) - MARGIN_A
    return Frame(lattice_frame.matrix, lattice_frame.to_px(corner))


def field(analysis: Findings) -> Field:
    """Atoms of all analysed sites, relaxed by the best candidate of each defect where there is one."""
    layout = _layout(analysis)
    patches = [_patch(analysis, layout, k, *explained) for k, explained in enumerate(_explained(analysis))]
    pristine = analysis.sites.analysed.copy()
    for _, sites in patches:
        pristine[sites] = False
    parts = [_pristine(analysis, layout, np.flatnonzero(pristine)), *(part for part, _ in patches)]
    element, r_A, xy_px, sigma_A, marker, ids = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Field(element, r_A, xy_px, sigma_A, marker, ids, layout.box_A)


def atoms(field: Field) -> Atoms:
    """The same as ASE atoms, with the further columns as arrays."""
    from ase import Atoms

    result = Atoms(list(field.element), positions=field.r_A, cell=field.cell_A, pbc=True)
    result.new_array("x_px", field.xy_px[:, 0])
    result.new_array("y_px", field.xy_px[:, 1])
    result.new_array("sigma_A", field.sigma_A)
    result.new_array("marker", field.marker)
    result.new_array("defect_id", field.defect)
    return result


class _Part(NamedTuple):
    """Some of the atoms, fields as in `Field`."""

    element: NDArray[np.str_]
    r_A: FloatArray
    xy_px: FloatArray
    sigma_A: FloatArray
    marker: IntArray
    defect: IntArray


class _Layout(NamedTuple):
    """What all parts share: (S, 2) ideal site positions in the structure frame, and to which defect a site belongs.

    `straight_px` (S, 2) is where sites are without the jitter of rows, `mixed` has the column types of an alloy. The
    image and the structure ask one `territory` whose a column is, the k-th explained defect's or nobody's (None: there
    is none). Where it has an owner, a candidate's column is drawn where the candidate has it, elsewhere on the site:
    displacements of several lattice constants away are in the distortion of the lattice already, as far as they are
    there.
    """

    plane_A: FloatArray
    box_A: FloatArray
    scatter_A: float
    defect: IntArray
    straight_px: FloatArray
    territory: Territory | None
    mixed: dict[int, str]


class _Nodes(NamedTuple):
    """Nodes of a patch: their site (-1 for none), relaxed position in the structure frame and in the image.

    `ideal_px` is where they belong in the image without the jitter of rows.
    """

    site: IntArray
    ideal_px: FloatArray
    r_A: FloatArray
    xy_px: FloatArray


def _layout(analysis: Findings) -> _Layout:
    plane = frame(analysis).to_A(_ideal_px(analysis))
    z_A = [atom.z_A for atom in _crystal(analysis).basis]
    box = np.array([*np.ptp(plane[analysis.sites.analysed], axis=0), np.ptp(z_A)]) + 2 * MARGIN_A
    scatter = analysis.lattice.residual_rms_px * analysis.calibration.pixel_size_A
    straight = _straight(analysis, analysis.sites.xy_px)
    territory = _territory(analysis, straight)
    return _Layout(plane, box, scatter, _site_defect(analysis), straight, territory, _mixed(analysis))


def _territory(analysis: Findings, straight_px: FloatArray) -> Territory | None:
    """As the whole-field image has it: where patches overlap, the nearer defect decides, jitter of rows left out."""
    from stemfit.simulate.field import Territory

    extents = [_straight(analysis, defect.extent_px) for defect, _, _ in _explained(analysis)]
    return Territory(extents, straight_px, analysis.lattice.a_px_iso) if extents else None


def _straight(analysis: Findings, xy_px: FloatArray) -> FloatArray:
    """Places (N, 2) in the image without the jitter of its rows."""
    return xy_px if analysis.rows is None else analysis.rows.straight(xy_px)


def _crystal(analysis: Findings) -> Crystal:
    return analysis.host.host.structure


def _ideal_px(analysis: Findings) -> FloatArray:
    """(S, 2) position of every site on the affine cell, distortion left out."""
    lattice, sites = analysis.lattice, analysis.sites
    names = list(analysis.host.host.sublattices)
    which = np.array([names.index(str(s)) for s in sites.sublattice], dtype=np.int64)
    cell = sites.ij + lattice.basis[which]
    return np.asarray(lattice.origin_px + cell @ np.stack([lattice.a_px, lattice.b_px]))


def _site_defect(analysis: Findings) -> IntArray:
    """(S,) id of the defect that a site belongs to, 0 for none."""
    ids = {site: defect.id for defect in analysis.defects for site in defect.sites}
    sites = zip(analysis.sites.ij.tolist(), analysis.sites.sublattice.tolist(), strict=True)
    return np.array([ids.get((i, j, sublattice), 0) for (i, j), sublattice in sites], dtype=np.int64)


def _explained(analysis: Findings) -> Iterator[tuple[Defect, Candidate, Relaxed]]:
    known = {c.id: (c, r) for c, r in zip(analysis.candidates, analysis.relaxed, strict=True)}
    for defect in analysis.defects:
        if defect.best_candidate in known:
            yield defect, *known[defect.best_candidate]


def _pristine(analysis: Findings, layout: _Layout, chosen: IntArray) -> _Part:
    """Atoms of the perfect crystal on the chosen sites; in alloys those that the image shows, in any order along z."""
    crystal, sites, host = _crystal(analysis), analysis.sites, analysis.host.host
    mixed, symbols = layout.mixed, [basis.element for basis in crystal.basis]
    rows = [
        (index, k, element)
        for sublattice in host.sublattices
        for index in chosen[sites.sublattice[chosen] == sublattice].tolist()
        for k, element in zip(
            host.column_atoms(sublattice),
            column_elements(mixed[index]) if index in mixed else [symbols[k] for k in host.column_atoms(sublattice)],
            strict=True,
        )
    ]
    site, atom = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2).T
    element = np.array([row[2] for row in rows], dtype=np.str_)
    z = layout.box_A[2] / 2 + np.array([basis.z_A for basis in crystal.basis])[atom]
    r = np.column_stack([layout.plane_A[site], z])
    scatter = np.full(len(site), layout.scatter_A)
    return _Part(element, r, sites.xy_px[site], scatter, np.zeros_like(site), layout.defect[site])


def _mixed(analysis: Findings) -> dict[int, str]:
    """Column types of an alloy by site, where no structure of a defect says another."""
    from stemfit.simulate.field import likeliest_types

    sites = analysis.sites
    found = likeliest_types(analysis.mixed, sites, analysis.host.host)
    for site in (s for defect, _, _ in _explained(analysis) for s in defect.sites):
        found.pop(sites.row_of.get(site, -1), None)
    return found


def _patch(
    analysis: Findings, layout: _Layout, k: int, defect: Defect, candidate: Candidate, relaxed: Relaxed
) -> tuple[_Part, IntArray]:
    """Atoms of the k-th defect's candidate that stand nearer to it than to any other, and the sites they replace."""
    from definet.structures import CHANGED, elements_of

    nodes, structure = _nodes(analysis, layout, candidate, relaxed), candidate.structure
    assert layout.territory is not None  # there is this one
    on_site = nodes.site >= 0
    mine = on_site & (layout.territory.nearest[nodes.site] == k) & analysis.sites.analysed[nodes.site]
    added = ~on_site & (structure.marker == CHANGED) & layout.territory.of(k, nodes.ideal_px)[0]
    kept = np.flatnonzero((mine | added) & structure.occupied)
    sigma = np.full(len(nodes.site), layout.scatter_A)
    if relaxed.sigma_A is not None:
        sigma = np.hypot(sigma, relaxed.sigma_A)
    ids = np.where(on_site, layout.defect[nodes.site], defect.id)
    element = np.array(elements_of(structure.structure), dtype="<U2")
    for site in set(nodes.site[mine & structure.occupied].tolist()) & layout.mixed.keys():
        column = np.flatnonzero((nodes.site == site) & structure.occupied)
        shown = column_elements(layout.mixed[site])
        if len(shown) == len(column) and column_type(element[column].tolist()) != layout.mixed[site]:
            element[column] = shown
    part = _Part(element[kept], nodes.r_A[kept], nodes.xy_px[kept], sigma[kept], structure.marker[kept], ids[kept])
    return part, nodes.site[mine]


def _nodes(analysis: Findings, layout: _Layout, candidate: Candidate, relaxed: Relaxed) -> _Nodes:
    """Bring a patch into the structure frame by the sites that its nodes stand for, so that no distortion enters."""
    to_px = Frame(candidate.matrix, candidate.offset_px)
    ideal, moved = _unwrapped(candidate, relaxed)
    ideal_px = to_px.to_px(ideal[:, :2])
    site = _match(analysis, layout, ideal_px)
    known = site >= 0
    rotate, shift = _rigid(ideal[known, :2], layout.plane_A[site[known]])
    lift = (layout.box_A[2] - candidate.structure.structure.lattice.c) / 2
    r = np.column_stack([moved[:, :2] @ rotate.T + shift, moved[:, 2] + lift])
    seen = to_px.to_px(moved[:, :2])
    if analysis.rows is not None:
        seen = analysis.rows.in_image(seen)
    there = known if layout.territory is None else known & (layout.territory.owner[site] < 0)
    seen[there] = analysis.sites.xy_px[site[there]]
    return _Nodes(site, ideal_px, r, seen)


def _unwrapped(candidate: Candidate, relaxed: Relaxed) -> tuple[FloatArray, FloatArray]:
    """Ideal and relaxed positions of all nodes, (N, 3), each in the periodic image nearest to the defect."""
    structure = candidate.structure.structure
    cell = np.asarray(structure.lattice.matrix)
    ideal = np.asarray(structure.cart_coords)
    turns = np.round((ideal[:, :2] - candidate.center_A) @ np.linalg.inv(cell[:2, :2])) @ cell[:2, :2]
    move = (relaxed.positions_A - ideal) @ np.linalg.inv(cell)
    ideal = np.column_stack([ideal[:, :2] - turns, ideal[:, 2]])
    return ideal, ideal + (move - np.round(move)) @ cell


def _match(analysis: Findings, layout: _Layout, xy_px: FloatArray) -> IntArray:
    """Site of every node, -1 where none lies within a third of the distance between neighbouring columns."""
    from scipy.spatial import cKDTree

    distance, site = cKDTree(layout.straight_px).query(xy_px)
    return np.where(distance < analysis.lattice.nearest_px / 3, site, -1)


def _rigid(source: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rotation or reflection and shift that bring (N, 2) `source` onto `target` (Kabsch, Acta Cryst. A32, 922)."""
    u, _, vt = np.linalg.svd((source - source.mean(axis=0)).T @ (target - target.mean(axis=0)))
    rotate = (u @ vt).T
    return rotate, target.mean(axis=0) - rotate @ source.mean(axis=0)
