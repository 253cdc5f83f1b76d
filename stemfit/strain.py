"""Strain and rotation of what the scan shows, relative to the affine cell that was fitted to all of it.

About each place the displacements u of the columns from the affine cell are fitted by a straight field,
``u(r) = u0 + G (r - r0)``, by weighted least squares in a Gaussian window; then ``exx = Gxx``, ``eyy = Gyy``,
``exy = (Gxy + Gyx) / 2`` and ``rotation = (Gyx - Gxy) / 2`` for small strains (Landau & Lifshitz VII, section 1),
with x right and y up, rotations counter-clockwise. The mean strain is in the affine cell and not in these maps. A scan
that is distorted and a crystal that is strained give the same picture: one image does not tell them apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.analysis import Analysis
from stemfit.lattice import RowOffsets

FloatArray = NDArray[np.float64]

WINDOW = 1.5
"""Standard deviation of the window, in lattice constants: it holds some fourteen cells, so that the error of single
columns averages out, and blurs what is finer."""

REACH = 2.5
"""Columns farther than this many standard deviations of the window weigh less than a twentieth, and are left out."""

FEWEST = 8
"""Columns: fewer hardly overdetermine the six numbers of a straight field."""

MOST_PLACES = 160
"""Along a side of the map: more are not seen."""

UNPLACED = ("UNKNOWN", "ADATOM")
"""Defects whose columns say nothing of the crystal's sites."""

MOST_SIGMA = 2.0
"""Places with an error of so many times the median's (at edges, where the window is cut) are left out."""


FARTHEST = 1.0
"""In lattice constants from the nearest column that was used: beyond nothing is told.

No place of a crystal is so far from every column. Inside a defect that is not understood, whose columns are left out,
places are, and a fit to what lies around would put numbers there.
"""


class Strain(NamedTuple):
    """Maps (GY, GX) on a regular grid, NaN where not measured; their standard errors likewise.

    `x_px` (GX,) and `y_px` (GY,) are the places. Rotation in radian.
    """

    x_px: FloatArray
    y_px: FloatArray
    exx: FloatArray
    eyy: FloatArray
    exy: FloatArray
    rotation: FloatArray
    sigma_exx: FloatArray
    sigma_eyy: FloatArray
    sigma_exy: FloatArray
    sigma_rotation: FloatArray


def strain(analysis: Analysis, view: tuple[float, float, float, float], per_window: float = 3.0) -> Strain:
    """Strain within a view (x0, y0, x1, y1) in px, up to `per_window` places to the window's standard deviation."""
    at, moved, sigma = displacements(analysis)
    window = WINDOW * analysis.step_px
    x0, y0, x1, y1 = view
    step = max(window / per_window, max(x1 - x0, y1 - y0) / MOST_PLACES)
    x, y = (_middles(low, high, step) for low, high in ((x0, x1), (y0, y1)))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    gradient, variance = local_gradients(at, moved, sigma, grid, window)
    h, w = analysis.mask.shape
    column, row = (np.clip(np.rint(grid[:, k]).astype(int), 0, top - 1) for k, top in ((0, w), (1, h)))
    gradient[(analysis.mask[row, column] > 0) | _far(grid, at, FARTHEST * analysis.step_px)] = np.nan
    up = np.array([1.0, -1.0])  # y up: components and derivatives along y change their sign
    gradient = gradient * np.outer(up, up)
    (gxx, gxy), (gyx, gyy) = gradient.transpose(1, 2, 0)
    (vxx, vxy), (vyx, vyy) = variance.transpose(1, 2, 0)
    mixed = np.sqrt(vxy + vyx) / 2
    maps = [gxx, gyy, (gxy + gyx) / 2, (gyx - gxy) / 2]
    errors = [np.sqrt(vxx), np.sqrt(vyy), mixed, mixed.copy()]
    for values, error in zip(maps, errors, strict=True):
        known = np.isfinite(values)
        values[error > MOST_SIGMA * np.median(error[known]) if known.any() else ~known] = np.nan
        error[~np.isfinite(values)] = np.nan
    shape = (len(y), len(x))
    return Strain(x, y, *(field.reshape(shape) for field in maps), *(error.reshape(shape) for error in errors))


def _far(places: FloatArray, at_px: FloatArray, reach_px: float) -> NDArray[np.bool_]:
    """Whether places (G, 2) are farther than that from every column."""
    from scipy.spatial import cKDTree

    if not len(at_px):
        return np.ones(len(places), dtype=np.bool_)
    return np.asarray(cKDTree(at_px).query(places)[0] > reach_px)


def displacements(analysis: Analysis) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Columns on sites: places on the affine cell, displacements from there, standard errors; (N, 2) px each.

    Those of defects that are not understood are left out.
    Jitter of rows is taken out where the result knows it. No column is surer of its place than columns lie about their
    sites in the whole image, per axis.
    """
    columns, lattice = analysis.columns, analysis.document["lattice"]
    on_site = np.isfinite(columns["i"]) & np.isfinite(columns["j"]) & (columns["sublattice"] != "")
    strange = [defect.id for defect in analysis.defects if defect.type in UNPLACED]
    on_site &= ~np.isin(columns["defect_id"], strange)
    seen = np.column_stack([columns["x_px"], columns["y_px"]])[on_site]
    if analysis.fields is not None:
        offset = analysis.fields.row_offset_px
        width = float(analysis.fields.row_width_px)
        seen = RowOffsets(offset, np.zeros_like(offset), float(np.std(offset)), width).straight(seen)
    basis = {site["sublattice"]: (site["u"], site["v"]) for site in lattice["basis"]}
    uv = np.array([basis[name] for name in columns["sublattice"][on_site].tolist()]).reshape(-1, 2)
    cell = np.column_stack([columns["i"], columns["j"]])[on_site] + uv
    at = np.array(lattice["origin_px"]) + cell @ analysis.cell_px
    own = np.column_stack([columns["sigma_x_px"], columns["sigma_y_px"]])[on_site]
    scatter = lattice["residual_rms_pm"] / 100 / analysis.pixel_size_A
    return at, seen - at, np.maximum(np.nan_to_num(own), scatter)


def local_gradients(
    at_px: FloatArray, moved_px: FloatArray, sigma_px: FloatArray, grid_px: FloatArray, window_px: float
) -> tuple[FloatArray, FloatArray]:
    """Gradients of a displacement field about places.

    Parameters
    ----------
    at_px, moved_px, sigma_px : (N, 2) arrays
        Places, displacements and their standard errors.
    grid_px : (G, 2) array
    window_px : float
        Standard deviation of the weights.

    Returns
    -------
    gradient : (G, 2, 2) array
        ``gradient[g, m, n] = d u_m / d r_n``, NaN where too few columns are near.
    variance : (G, 2, 2) array
        Of each of them, for independent errors.
    """
    from scipy.spatial import cKDTree

    gradient = np.full((len(grid_px), 2, 2), np.nan)
    variance = np.full_like(gradient, np.nan)
    if len(at_px) < FEWEST:
        return gradient, variance
    tree = cKDTree(at_px)
    for g, place in enumerate(grid_px):
        members = np.asarray(tree.query_ball_point(place, REACH * window_px), dtype=np.int64)
        if len(members) < FEWEST:
            continue
        off = (at_px[members] - place) / window_px
        weight = np.exp(-0.5 * (off**2).sum(axis=1))
        design = np.column_stack([np.ones(len(off)), off])
        normal = design.T @ (weight[:, None] * design)
        if np.linalg.cond(normal) > 1e3:  # all on one line, or far to one side
            continue
        solve = np.linalg.solve(normal, (weight[:, None] * design).T)[1:] / window_px  # (2, n): slopes along x, y
        gradient[g] = (solve @ moved_px[members]).T
        variance[g] = (solve**2 @ sigma_px[members] ** 2).T
    return gradient, variance


def _middles(low: float, high: float, step: float) -> FloatArray:
    """Middles of equal parts of a length, about `step` each."""
    count = max(int(np.ceil((high - low) / step)), 1)
    return low + (np.arange(count) + 0.5) * (high - low) / count
