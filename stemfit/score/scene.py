"""The part of the image that speaks about one defect, and what a structure predicts there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.candidates import Candidate
from stemfit.columns import Columns, Profile
from stemfit.columns.resample import averaged_profile
from stemfit.columns.stamps import render
from stemfit.defects import MODEL_FLOOR, RELAXED_ERROR, Defect
from stemfit.imaging import Imaging
from stemfit.lattice import Lattice
from stemfit.lattice.types import deformation
from stemfit.relax import Relaxed
from stemfit.score.lights import Light
from stemfit.score.others import Field, Others, superposed
from stemfit.simulate.field import in_image
from stemfit.simulate.image import STACK_A, project

FloatArray = NDArray[np.float64]

REACH, RIM = 2.0, 0.19
"""Lattice constants of the undistorted crystal around the sites of a defect within which candidates are compared with
the image, and how much further their columns are drawn. No site of a honeycomb lies between 2.08 and 2.31 lattice
constants from another: what is drawn by one is not drawn by the other, nor left out, where it moved a little."""

MIN_POSITION_SCATTER = 0.01
"""Least scatter of a column about its predicted place, in lattice constants: 3 pm, what the best relaxers reach."""

RESIDUAL_A, UNRELAXED_A, FADE_A = 0.08, 0.15, 2.0
"""Error of a predicted position next to a defect, per axis: half of what atoms move there (0.05 to 0.30 A in DFT),
which potentials and a network taught by them leave; all of it where nothing was relaxed. It fades over `FADE_A` beyond
the first neighbours (2 A). It is the same for all candidates of a defect: widths that differ would decide by volume."""

EXTENDED_A = 0.2
"""The same beside lines and trefoils, where the network's error against the potential that taught it is already 0.23 A
in the plane, and potentials differ by more."""

UNLIKELY = 1e-2
"""Share of the prior of a defect's likeliest candidate below which one does not widen what is allowed to all."""

MOST_A = 0.9
"""Greatest error of a position: half a bond from there stands the next column, which is seen."""

BOUND_A = 2.2
"""Columns this close to a site, in projection, are bound to it."""

LEFT = 0.5
"""Error over displacement, both in the plane: the same half, where atoms move by more (lines, trefoils)."""

NEIGHBOUR_ERROR = 0.05
"""Extra uncertainty of a neighbouring defect's column, of the brightest column: it may have relaxed."""

NEIGHBOUR_REACH = 0.35
"""A predicted column this close to a site of another defect, in lattice constants, is that site's column."""


BEYOND_A = 3.0
"""How far beyond the columns that count atoms are gathered into columns, Angstrom."""


class Scene(NamedTuple):
    """The part of an image that candidates of one defect are compared on."""

    image: FloatArray  # (h, w)
    surroundings: FloatArray  # (h, w) background and all columns beyond the reach
    weight: FloatArray  # (h, w) inverse variance per independent sample, 0 out of reach
    corner: FloatArray  # (2,) image position of the first pixel, px
    pixel: float  # image px per pixel here
    profile: Profile  # on these pixels
    gain: float
    extent: FloatArray  # (K, 2) sites of the defect, relative to the corner, on these pixels
    others: Others  # relative to the corner, on these pixels
    moves: Field  # of all of them together
    a_px: float  # lattice constant
    relaxation_A: float = RESIDUAL_A  # error of relaxed positions beside the defect, per axis
    upright: FloatArray = np.eye(2)  # undoes what shears and stretches the crystal
    shape_px: tuple[int, ...] = ()  # of the image
    columns: FloatArray = np.empty((0, 2))  # (M, 2) by the joint fit of all, relative to the corner, on these pixels


def position_scatter(columns: Columns, lattice: Lattice) -> float:
    """Scatter of columns about the lattice beyond their measurement error, px per axis (jitter, true shifts)."""
    own = float(np.median(columns.cov[:, 0, 0] + columns.cov[:, 1, 1])) / 2 if len(columns) else 0.0
    excess = np.sqrt(max(lattice.residual_rms_px**2 - own, 0.0))
    return float(max(excess, MIN_POSITION_SCATTER * lattice.a_px_iso))


def make_scene(
    defect: Defect, image: FloatArray, columns: Columns, imaging: Imaging, lattice: Lattice, others: Others
) -> Scene:
    """Cut out what surrounds a defect's sites, with the model of all that lies further out.

    Oversampled images are averaged down to a core of about 1.5 px: nothing is lost, and the work falls with the square.
    """
    size, rim = REACH * lattice.a_px_iso, RIM * lattice.a_px_iso
    upright = _upright(lattice)
    n = max(1, int(imaging.profile.width_px / 1.5))
    (x0, y0), (w, h) = _box(defect, size, upright, image.shape, n)
    away = _away(columns.xy_px, defect.extent_px, upright)
    use = ((away > size + rim) | ~in_image(columns.xy_px, image.shape)) & (away < size + 10 * columns.profile.width_px)
    around = render(columns.xy_px[use] - [x0, y0], columns.intensity[use], columns.profile, (h, w))
    box = slice(y0, y0 + h), slice(x0, x0 + w)
    variance = imaging.noise.variance(columns.model[box]) * imaging.noise.pixels_per_sample
    middle = np.clip(np.round(defect.center_px).astype(int), 0, np.array(image.shape)[::-1] - 1)
    small = [_averaged(a, n) for a in (image[box], columns.background[box] + around, variance / n**2)]
    y, x = np.mgrid[: small[0].shape[0], : small[0].shape[1]]
    corner = np.array([x0, y0]) + (n - 1) / 2
    counts = _away(n * np.stack([x, y], axis=-1) + corner, defect.extent_px, upright) < size
    near = others.at(_away(others.xy_px, defect.extent_px, upright) < size + rim, corner, n)
    extent, a_px = (defect.extent_px - corner) / n, lattice.a_px_iso / n
    return Scene(
        image=small[0], surroundings=small[1], weight=counts / small[2], corner=corner, pixel=float(n),
        profile=averaged_profile(imaging.profile, n), gain=float(imaging.gain[middle[1], middle[0]]), extent=extent,
        others=near, moves=superposed(near.fields, extent, size / n + a_px, NEIGHBOUR_REACH * a_px), a_px=a_px,
        columns=(columns.xy_px[away < size + lattice.a_px_iso] - corner) / n, upright=upright,
        shape_px=image.shape,
    )


def _upright(lattice: Lattice) -> FloatArray:
    """Matrix (2, 2) that undoes what shears and stretches the crystal, without a change of area."""
    undone = np.linalg.inv(deformation(lattice.a_px, lattice.b_px, lattice.cell))
    return np.asarray(undone / np.sqrt(abs(np.linalg.det(undone))))


def _away(xy: FloatArray, sites: FloatArray, upright: FloatArray) -> FloatArray:
    """Distance (...) of places (..., 2) from the nearest site in the undistorted crystal."""
    return np.asarray(cKDTree(sites @ upright.T).query(xy @ upright.T)[0])


def _box(
    defect: Defect, size: float, upright: FloatArray, shape: tuple[int, ...], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel (x, y) and size (w, h) of what lies within `size` of a defect's sites, in blocks of n px."""
    reach = size * np.linalg.norm(np.linalg.inv(upright), axis=1)  # the box round the image of a disc
    first = np.maximum(np.floor(defect.extent_px.min(0) - reach).astype(int), 0)
    span = np.ptp(defect.extent_px, axis=0) + 2 * reach
    return first, np.minimum(np.array(shape)[::-1] - first, span.astype(int) + 2) // n * n


def _averaged(image: FloatArray, n: int) -> FloatArray:
    return np.asarray(image.reshape(image.shape[0] // n, n, image.shape[1] // n, n).mean((1, 3)))


class Predicted(NamedTuple):
    """Columns of a structure inside a scene, on its pixels."""

    xy: FloatArray  # (N, 2)
    amplitude: FloatArray  # (N,) integrated intensity
    brightness: FloatArray  # (N,) its standard error
    place: FloatArray  # (N,) standard error of the position per axis, from the relaxation
    moved: FloatArray  # (N, 2) how far the structure moves them from the sites of the perfect crystal

    def looks(self) -> bytes:
        """The same for structures that look the same from above, in whatever order their columns come."""
        light = np.column_stack([self.amplitude, self.brightness]) / max(float(np.abs(self.amplitude).max()), 1e-300)
        rows = np.round(np.column_stack([self.xy, self.place, light, self.moved]), 3) + 0.0
        return rows[np.lexsort(rows.T)].tobytes()

    def at_rest(self) -> Predicted:
        """The same columns with the same allowances on the sites of the perfect crystal: only the geometry differs."""
        return self._replace(xy=self.xy - self.moved)


def columns_of(
    candidate: Candidate, relaxed: Relaxed, scene: Scene, imaging: Imaging, light: Light | None = None
) -> Predicted:
    """Columns of a structure inside the scene, with the brightness of their types or, where it is given, their own."""
    sites, reach = scene.extent * scene.pixel + scene.corner, (REACH + RIM) * scene.a_px * scene.pixel
    pixels_per_A = float(np.sqrt(abs(np.linalg.det(candidate.matrix))))
    at_px = relaxed.positions_A[:, :2] @ candidate.matrix.T + candidate.offset_px
    near = _away(at_px, sites, scene.upright) <= reach + BEYOND_A * pixels_per_A  # columns there are complete
    atoms = candidate.structure.occupied & near
    seen = project(
        candidate.structure.numbers[atoms], relaxed.positions_A[atoms], candidate.matrix, candidate.offset_px
    )
    shift_px = (relaxed.positions_A - candidate.structure.nodes_A)[atoms, :2] @ candidate.matrix.T
    count = np.bincount(seen.column_of_atom)
    moved_px = np.column_stack([np.bincount(seen.column_of_atom, axis) / count for axis in shift_px.T])
    inside = (_away(seen.xy_px - moved_px, sites, scene.upright) <= reach) & in_image(seen.xy_px, scene.shape_px)
    types = [t for t, k in zip(seen.types, inside, strict=True) if k]
    each = {t: (imaging.amplitude(t), imaging.scatter_of(t)) for t in set(types)}
    known = [each[t][0] for t in types]
    brighter = scene.gain / scene.pixel**2
    value = brighter * np.array([a.value for a in known])
    own = np.array([a.sigma if a.source == "table" else 0.0 for a in known])
    if light is not None:
        value, own = _with_light(seen.xy_px[inside], value, own, light, candidate, imaging, brighter)
    scatter = np.array([each[t][1] for t in types])
    error = np.hypot(brighter * own, np.hypot(scatter, MODEL_FLOOR) * value)
    xy = (seen.xy_px[inside] - scene.corner) / scene.pixel
    changed, doubt_there = _light_at_changes(candidate, imaging)
    xy = np.vstack([xy, (changed - scene.corner) / scene.pixel])
    value = np.append(value, np.zeros(len(doubt_there)))
    error = np.append(error, brighter * doubt_there)
    moved = np.vstack([moved_px[inside] / scene.pixel, np.zeros((len(doubt_there), 2))])
    scale, reach = pixels_per_A / scene.pixel, NEIGHBOUR_REACH * scene.a_px
    away = np.asarray(cKDTree(scene.extent).query(xy)[0]) / scale
    doubt = position_error_A(relaxed, away, scene.relaxation_A)
    doubt = np.sqrt(doubt**2 + _neighbour_variance(scene.others.fields, xy, scale))
    if relaxed.sigma_A is not None:  # against its teacher; what that one errs by is the larger part
        own_variance = np.bincount(seen.column_of_atom, relaxed.sigma_A[atoms] ** 2) / count
        doubt[: inside.sum()] = np.sqrt(doubt[: inside.sum()] ** 2 + own_variance[inside])
    own_columns = Predicted(xy + scene.moves.at(xy, reach), value, error, scale * doubt, moved)
    return _with_others(_beside_others(own_columns, scene, away * scale), scene.others, reach)


def _with_light(
    xy_px: FloatArray, value: FloatArray, own: FloatArray, light: Light, candidate: Candidate, imaging: Imaging,
    brighter: float,
) -> tuple[FloatArray, FloatArray]:
    """Brightness of columns (N,) and its error, where they were simulated in place of the table's."""
    value, own = value.copy(), own.copy()
    at_px = light.xy_A @ candidate.matrix.T + candidate.offset_px
    distance, nearest = (np.asarray(a) for a in cKDTree(at_px).query(xy_px))
    same = distance < STACK_A * float(np.sqrt(abs(np.linalg.det(candidate.matrix))))
    scale = np.array([imaging.amplitude(column).value for column in light.reference])
    value[same] = brighter * (light.relative * scale)[nearest[same]]
    own[same] = 0.0
    return value, own


def _light_at_changes(candidate: Candidate, imaging: Imaging) -> tuple[FloatArray, FloatArray]:
    """Places (K, 2) px of missing and exchanged atoms, and how far from its model the brightness may appear there (K,).

    A vacancy that is modelled as exactly nothing loses to any faint atom: tails and relaxing neighbours leave light.
    Round an exchanged atom the neighbours move as well. One that had less freedom would win by volume. Columns that
    lost or exchanged one of two atoms differ by as little as those of this image do.
    """
    from definet.structures import facts_of

    basis, (n, m) = facts_of(candidate.structure).basis, candidate.structure.shape
    nodes = np.flatnonzero(candidate.structure.marker[: len(basis) * n * m])  # atoms that were added come last
    places = candidate.structure.nodes_A[nodes, :2] @ candidate.matrix.T + candidate.offset_px
    symbols = [basis[int(k) % len(basis)].element for k in nodes]
    full = np.array([imaging.amplitude(s + "2" if s + "2" in imaging.amplitudes else s).value for s in symbols])
    changed = np.array([int((np.hypot(*(places - place).T) < 1e-3).sum()) for place in places])
    known = [imaging.half_errors.get(s, RELAXED_ERROR) if n == 1 else RELAXED_ERROR
             for s, n in zip(symbols, changed, strict=True)]  # fmt: skip
    return places.reshape(-1, 2), np.hypot(MODEL_FLOOR, known) * full


def _neighbour_variance(fields: Sequence[Field], xy: FloatArray, px_per_A: float) -> FloatArray:
    """Square of the error (N,) of positions per axis, Angstrom, that the fields of neighbouring defects have."""
    if not fields:
        return np.zeros(len(xy))
    sites = np.vstack([field.sites_px for field in fields])
    first = np.cumsum([0, *(len(field.sites_px) for field in fields[:-1])])
    apart = np.hypot(*np.moveaxis(sites[:, None] - xy, -1, 0))  # (sites, N)
    away_A = np.minimum.reduceat(apart, first, axis=0) / px_per_A  # (fields, N)
    error_A = [max(RESIDUAL_A, LEFT * f.largest_px / px_per_A) if len(f.nodes_px) else UNRELAXED_A for f in fields]
    return np.asarray((_faded(np.array(error_A)[:, None], away_A) ** 2).sum(0))


def _beside_others(columns: Predicted, scene: Scene, own_px: FloatArray) -> Predicted:
    """Put columns that are nearer to another defect than `own_px` (N,) to this one where they were measured.

    How they stand is for that defect's structures to explain, and a relaxer that is wrong about a line would decide
    about the vacancy beside it. All candidates have them in the same place.
    """
    if not scene.others.fields or len(scene.columns) == 0:
        return columns
    sites = np.vstack([field.sites_px for field in scene.others.fields])
    theirs = np.asarray(cKDTree(sites).query(columns.xy)[0])
    off, nearest = (np.asarray(a) for a in cKDTree(scene.columns).query(columns.xy))
    use = (theirs < own_px) & (off < NEIGHBOUR_REACH * scene.a_px) & (columns.amplitude > 0)
    xy, place, moved = columns.xy.copy(), columns.place.copy(), columns.moved.copy()
    xy[use], place[use], moved[use] = scene.columns[nearest[use]], 0.0, 0.0
    return columns._replace(xy=xy, place=place, moved=moved)


def _with_others(
    columns: Predicted, others: Others, reach_px: float
) -> Predicted:
    """Give columns on the sites of other defects their measured brightness, and add those that no site predicts."""
    if len(others.value) == 0:
        return columns
    xy, value, error, place, moved = columns
    distance, nearest = (np.asarray(a) for a in cKDTree(xy).query(others.xy_px))
    known = distance < reach_px
    value, error = value.copy(), error.copy()
    value[nearest[known]] = np.maximum(others.value[known], 0.0)
    error[nearest[known]] = np.hypot(others.sigma[known], NEIGHBOUR_ERROR * value.max())
    more = ~known & (others.value > 0)
    return Predicted(
        np.vstack([xy, others.xy_px[more]]), np.append(value, others.value[more]),
        np.append(error, np.hypot(others.sigma[more], NEIGHBOUR_ERROR * value.max())),
        np.append(place, np.zeros(more.sum())), np.vstack([moved, np.zeros((int(more.sum()), 2))]),
    )


def relaxation_error_A(pairs: Sequence[tuple[Candidate, Relaxed]]) -> float:
    """Error of relaxed positions beside a defect, per axis, Angstrom: that of the candidate which moves the most.

    Structures that the relaxer was not made for are not asked, if there are others; nor are those with less than
    `UNLIKELY` of the prior of the likeliest: one that falls apart must not excuse all others.
    """
    least = EXTENDED_A if any(c.type in ("LINE", "TREFOIL") for c, _ in pairs) else RESIDUAL_A
    taught = [(c, relaxed) for c, relaxed in pairs if not relaxed.caution]
    pairs = taught if any(c.structure.sites for c, _ in taught) else pairs
    asked = [(c, r, near) for c, r in pairs if (near := _beside(c)).any()]
    most = max((c.log_prior for c, _, _ in asked), default=0.0)
    each = [
        float(np.sqrt(np.mean((r.positions_A - c.structure.nodes_A)[near, :2] ** 2)))
        for c, r, near in asked if c.log_prior > most + np.log(UNLIKELY)
    ]
    return min(max([least, *(LEFT * move for move in each)]), MOST_A)


def _beside(candidate: Candidate) -> NDArray[np.bool_]:
    """Atoms (N,) bound to a site that a candidate changes."""
    places = candidate.structure.nodes_A
    if not candidate.structure.sites:
        return np.zeros(len(places), dtype=bool)
    away = cKDTree(places[list(candidate.structure.sites), :2]).query(places[:, :2])[0]
    return np.asarray(candidate.structure.occupied & (away < BOUND_A))


def position_error_A(relaxed: Relaxed, away_A: FloatArray, relaxation_A: float = RESIDUAL_A) -> FloatArray:
    """Standard error (N,) of what taught the relaxer, per axis, Angstrom, `away_A` (N,) from the nearest site."""
    unrelaxed_A = min(max(UNRELAXED_A, relaxation_A / LEFT), MOST_A)
    return _faded(unrelaxed_A if relaxed.relaxer == "keep" else relaxation_A, away_A)


def _faded(error_A: float | FloatArray, away_A: FloatArray) -> FloatArray:
    """Error of a position (N,) so far from a defect's nearest site."""
    return np.asarray(error_A * np.exp(-np.maximum(away_A - 2.0, 0.0) / FADE_A))
