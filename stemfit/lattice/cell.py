"""Cell, distortion and the three special positions of the hexagonal cell, from the image and its columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.spatial import cKDTree

from stemfit.columns import Columns
from stemfit.columns.resample import averaged, coarse
from stemfit.errors import NotAnalysable
from stemfit.hosts import HONEYCOMB, Cell
from stemfit.lattice.grains import largest_grain
from stemfit.lattice.phase import PlaneField, plane_field
from stemfit.lattice.spots import MAX_ANISOTROPY, levelled, reciprocal_cell
from stemfit.lattice.types import deformation, interpolate, iso, rotation_deg

FloatArray = NDArray[np.float64]
Number = TypeVar("Number", bound=np.generic)

THIRDS = np.array([[0.0, 0.0], [1 / 3, 1 / 3], [2 / 3, 2 / 3]])
"""The three-fold axes of a 60 degree cell."""


MIN_CELLS = 6
"""Cells a side with fewer of which shear, distortion and a defect cannot be told apart."""

MAX_RESIDUAL = 0.12
"""rms of columns about the lattice, in lattice constants: a fifth of a bond, where sites begin to be mixed up."""

WINDOW = 1.5
"""Standard deviation of the window in which planes are read, in lattice constants."""

COARSE_SIGMA_PX = 1.2
"""Width of the columns down to which an image is averaged before its lattice is read: planes are smooth over a cell."""


@dataclass(frozen=True)
class Grid:
    """A crystal in the image. Sublattices of a honeycomb have no names yet: P at (0, 0), Q at (1/3, 1/3).

    Attributes
    ----------
    origin_px, a_px, b_px : (2,) array
        Cell; 60 degrees between a and b of a honeycomb, b counter-clockwise as displayed.
    covariance : (6, 6) array
        Of (origin, a, b), px^2.
    distortion_px : (GY, GX, 2) array
        On a regular grid spanning the image, corners included; argument is the undistorted position.
    shape_px : (H, W)
    residual_rms_px : float
        rms per axis of columns about their sites.
    strength : (H, W) array
        Local amplitude of the lattice, about 1 in good crystal.
    contrast : (3,) array
        Mean brightness above the cell's mean at P, Q and hollow, image units; of honeycombs only.
    cell : Cell
        Shape of the undistorted cell, and its columns.
    """

    origin_px: FloatArray
    a_px: FloatArray
    b_px: FloatArray
    covariance: FloatArray
    distortion_px: FloatArray
    shape_px: tuple[int, int]
    residual_rms_px: float
    strength: FloatArray
    contrast: FloatArray
    cell: Cell = HONEYCOMB

    @property
    def a_px_iso(self) -> float:
        """Lattice constant of the undistorted honeycomb with as many columns per area, px."""
        return iso(self.a_px, self.b_px, len(self.cell.basis))

    @property
    def basis(self) -> FloatArray:
        """Cell coordinates (K, 2) of the columns."""
        return np.array(self.cell.basis)

    def positions(self, fractional: FloatArray) -> FloatArray:
        """Image positions (N, 2) of cell coordinates (N, 2)."""
        base = self.origin_px + fractional @ np.stack([self.a_px, self.b_px])
        return base + interpolate(self.distortion_px, base, self.shape_px)


def fit_grid(image: FloatArray, columns: Columns) -> Grid:
    """Fit the grid of a honeycomb.

    Parameters
    ----------
    image : (H, W) array
    columns : Columns
        Observed columns; where there are too few to say, the phase of the planes alone is used.

    Raises
    ------
    NotAnalysable
        If there is no hexagonal lattice.
    """
    bins = max(1, int(columns.profile.width_px / COARSE_SIGMA_PX))
    if bins > 1:
        return enlarged(fit_grid(averaged(image, bins), coarse(columns, bins)), bins, image.shape)
    try:
        first = reciprocal_cell(image)
    except NotAnalysable:
        image = levelled(image)
        first = reciprocal_cell(image)
    return of_spots(*largest_grain(image, first), columns)


def of_spots(g: FloatArray, image: FloatArray, own: NDArray[np.bool_], columns: Columns) -> Grid:
    """The grid whose spots are g, in the part of an image that is its own."""
    a, b = _direct(g)
    dual = np.linalg.inv(np.column_stack([a, b]))
    field = plane_field(image, dual, WINDOW * iso(a, b), own)
    origin = _special_position(image, field)
    contrast, shift = _contrast(image, field, origin)
    data = _anchors(columns, field, origin + shift, a, b, image.shape)
    return believable(regress(*data, a, b, image.shape, field.strength, contrast))


def refit(grid: Grid, columns: Columns, fractional: FloatArray, jitter_px: float = 0.0) -> Grid:
    """The same lattice through columns whose cell coordinates (N, 2) are known in its frame.

    What rows jitter by (rms) cannot be told from a shear that changes slowly: it adds to the covariance of the cell.
    """
    if len(columns) < 8:
        return grid
    sigma2 = columns.cov[:, 0, 0] + columns.cov[:, 1, 1]
    weight = 1.0 / (sigma2 + float(np.median(sigma2)))
    better = regress(
        columns.xy_px, fractional, weight, grid.a_px, grid.b_px, grid.shape_px, grid.strength, grid.contrast, grid.cell
    )
    if jitter_px == 0.0:
        return better
    per_row = np.zeros((grid.shape_px[0], 3))
    design = np.column_stack([np.ones(len(fractional)), fractional])
    np.add.at(per_row, np.clip(np.rint(columns.xy_px[:, 1]).astype(int), 0, len(per_row) - 1), design)
    per_row = jitter_px * gaussian_filter1d(per_row, columns.profile.width_px, axis=0)
    inverse = np.linalg.inv(design.T @ design)
    covariance = better.covariance.copy()
    covariance[::2, ::2] += inverse @ per_row.T @ per_row @ inverse  # x of origin, a and b
    return replace(better, covariance=covariance)


def believable(grid: Grid) -> Grid:
    """Refuse a cell that no scan of the crystal shows."""
    cells, off = min(grid.shape_px) / grid.a_px_iso, grid.residual_rms_px / grid.a_px_iso
    stretch = np.linalg.svd(deformation(grid.a_px, grid.b_px, grid.cell), compute_uv=False)
    ratio = float(stretch[0] / stretch[1])
    for wrong, problem in (
        (cells < MIN_CELLS, f"no lattice: {cells:.1f} cells a side, {MIN_CELLS} are needed"),
        (ratio > MAX_ANISOTROPY, f"no lattice: the cell would be stretched by {ratio:.2f}"),
        (off > MAX_RESIDUAL, f"no lattice: columns lie {off:.2f} lattice constants off it"),
    ):
        if wrong:
            remedy = "use a larger or sharper image of a 2D crystal seen from above, or name another one with --host"
            raise NotAnalysable(problem, remedy=remedy)
    return grid


def repeated(
    image: NDArray[Number], bins: int, shape: tuple[int, int]
) -> NDArray[Number]:
    """Inverse of `averaged`: every pixel `bins` x `bins` times, the last ones up to the full shape."""
    index = [np.minimum(np.arange(n) // bins, m - 1) for n, m in zip(shape, image.shape, strict=True)]
    return image[np.ix_(*index)]


def enlarged(grid: Grid, bins: int, shape: tuple[int, int]) -> Grid:
    """Inverse of `coarse` for a grid: on the pixels of the whole image."""
    return replace(
        grid, origin_px=(grid.origin_px + 0.5) * bins - 0.5, a_px=bins * grid.a_px, b_px=bins * grid.b_px,
        covariance=bins**2 * grid.covariance, distortion_px=bins * grid.distortion_px, shape_px=shape,
        residual_rms_px=bins * grid.residual_rms_px, strength=repeated(grid.strength, bins, shape),
    )


def _direct(g: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Cell vectors a, b: 60 degrees apart, b counter-clockwise as displayed, crystal rotation in [0, 60)."""
    lattice = np.linalg.inv(g).T  # rows: vectors with g_i . r_j = delta_ij
    ring = np.array([i * lattice[0] + j * lattice[1] for i, j in [(1, 0), (1, 1), (0, 1), (-1, 0), (-1, -1), (0, -1)]])
    displayed = np.degrees(np.arctan2(-ring[:, 1], ring[:, 0])) % 360
    ring = ring[np.argsort(displayed)]
    for k in range(6):
        a, b = ring[k], ring[(k + 1) % 6]
        if 0 <= rotation_deg(a, b) < 60:
            return a, b
    raise NotAnalysable("no lattice: the cell is degenerate", remedy="crop to the crystalline area with --roi")


def cell_coordinates(field: PlaneField) -> FloatArray:
    """Cell indices (2, H, W) at every pixel, from an arbitrary origin."""
    h, w = field.strength.shape
    y, x = np.mgrid[:h, :w].astype(float)
    return np.stack([field.g[k, 0] * x + field.g[k, 1] * y + field.shift[k] for k in range(2)])


def _special_position(image: FloatArray, field: PlaneField) -> FloatArray:
    """A three-fold axis (2,) in the field's cell coordinates, from the phases of the folded image."""
    n = cell_coordinates(field)
    weight = np.where(field.strength > 0.5, 1.0, 0.0)
    flat = (image - gaussian_filter(image, 3.0 / np.linalg.norm(field.g[0]))) * weight
    k = np.array([[1, 0], [0, 1], [-1, -1]])
    alpha = [float(np.angle(np.sum(flat * np.exp(-2j * np.pi * (i * n[0] + j * n[1]))))) for i, j in k]
    psi = sum(alpha) / 3
    return np.array([(psi - alpha[0]) / (2 * np.pi), (psi - alpha[1]) / (2 * np.pi)])


def _contrast(image: FloatArray, field: PlaneField, axis: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Brightness at the three axes, and the shift that makes the third one the hollow: P, Q, hollow."""
    n = cell_coordinates(field)
    flat = image - gaussian_filter(image, 2.0 / np.linalg.norm(field.g[0]))
    use = field.strength > 0.5
    values = np.array([_mean_near(flat, n, axis + t, use) for t in THIRDS])
    hollow = int(np.argmin(values))
    order = [(hollow + 1) % 3, (hollow + 2) % 3, hollow]
    return values[order], THIRDS[order[0]]


def _mean_near(flat: FloatArray, n: FloatArray, at: FloatArray, use: NDArray[np.bool_]) -> float:
    d0, d1 = ((n[k] - at[k] + 0.5) % 1 - 0.5 for k in range(2))
    weight = np.exp(-0.5 * (d0**2 + d1**2 + d0 * d1) / 0.09**2) * use
    return float((flat * weight).sum() / weight.sum())


def _anchors(
    columns: Columns, field: PlaneField, origin: FloatArray, a: FloatArray, b: FloatArray, shape: tuple[int, int]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points with known cell coordinates: (xy, fractional, weight)."""
    xy, frac, weight = _from_columns(columns, field, origin)
    if len(xy) >= 0.3 * 2 * shape[0] * shape[1] / abs(a[0] * b[1] - a[1] * b[0]):
        return xy, frac, weight
    return from_planes(field, origin, a, b, shape)


def _from_columns(
    columns: Columns, field: PlaneField, origin: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Columns that sit within a quarter of a bond of P or Q in good crystal."""
    if len(columns) == 0:
        return np.empty((0, 2)), np.empty((0, 2)), np.empty(0)
    n = field.cell_index(columns.xy_px) - origin
    distance, frac = np.full(len(n), np.inf), np.zeros_like(n)
    for t in THIRDS[:2]:
        nearest = np.rint(n - t) + t
        d = n - nearest
        length = np.sqrt(d[:, 0] ** 2 + d[:, 1] ** 2 + d[:, 0] * d[:, 1])  # in units of a
        closer = length < distance
        distance, frac = np.where(closer, length, distance), np.where(closer[:, None], nearest, frac)
    h, w = field.strength.shape
    col = np.clip(np.rint(columns.xy_px), 0, [w - 1, h - 1]).astype(int)
    good = (distance < 0.25) & (field.strength[col[:, 1], col[:, 0]] > 0.5)
    sigma2 = np.maximum(columns.cov[good, 0, 0] + columns.cov[good, 1, 1], 1e-6)
    typical = float(np.median(sigma2)) if good.any() else 1.0
    return columns.xy_px[good], frac[good], 1.0 / (sigma2 + typical)


def from_planes(
    field: PlaneField, origin: FloatArray, a: FloatArray, b: FloatArray, shape: tuple[int, int]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Lattice points read off the phase alone, for images whose single columns drown in noise."""
    h, w = shape
    y, x = np.mgrid[: h : max(1, h // 64), : w : max(1, w // 64)]
    xy = np.column_stack([x.ravel(), y.ravel()]).astype(float)
    return xy, field.cell_index(xy) - origin, np.where(field.strength[y, x].ravel() > 0.5, 1.0, 1e-3)


def regress(
    xy: FloatArray, frac: FloatArray, weight: FloatArray, a: FloatArray, b: FloatArray, shape: tuple[int, int],
    strength: FloatArray, contrast: FloatArray, shape_of: Cell = HONEYCOMB,
) -> Grid:
    """Affine cell plus smooth rest.

    The cell is first fitted robustly, to find what the smooth field must explain; then once more by plain least squares
    on all columns that follow the field, so that a strongly distorted part of the scan counts as much as any other. But
    what the scan does at the start of its lines, where the beam has just flown back, belongs to the smooth rest alone.
    """
    design = np.column_stack([np.ones(len(frac)), frac])
    robust, follows, lag = weight, np.ones(len(frac), dtype=bool), np.zeros_like(xy)
    for final in (False, True):
        if final:
            lag[:, 0] = flyback(design, xy, weight * follows, shape[1])
        cell, _ = _affine(design, xy - lag, weight * follows if final else robust, passes=1 if final else 6)
        rest = xy - design @ cell
        nodes, rms, follows = _smooth(design @ cell, rest, weight, iso(cell[1], cell[2], len(shape_of.basis)), shape)
    variance = np.asarray(rms**2 * np.linalg.inv(design.T @ design), dtype=np.float64)
    order = [0, 3, 1, 4, 2, 5]  # (origin, a, b) by coordinate -> (origin x, origin y, a x, ...)
    covariance = np.kron(np.eye(2), variance)[np.ix_(order, order)].astype(np.float64)
    return Grid(cell[0], cell[1], cell[2], covariance, nodes, shape, rms, strength, contrast, shape_of)


FLYBACK = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14)
"""Lengths over which the start of a line may be stretched, in image widths."""

PLAIN = 2.0
"""A stretched start must lower the variance about the cell this much, and half as much below a quadratic distortion."""


def flyback(design: FloatArray, xy: FloatArray, weight: FloatArray, width_px: int) -> FloatArray:
    """By how much (N,) the beam lags behind in x at the start of its lines: an exponential, or nothing."""
    x, root = xy[:, 0], np.sqrt(weight)

    def left(more: list[FloatArray]) -> tuple[float, FloatArray]:
        full = np.column_stack([design, *more])
        solution = np.linalg.lstsq(full * root[:, None], x * root, rcond=None)[0]
        return float(np.sum(weight * (x - full @ solution) ** 2)), np.asarray(full[:, 3:] @ solution[3:])

    u, v = design[:, 1], design[:, 2]
    plain, quadratic = left([])[0], left([u**2, u * v, v**2])[0]
    best, lag = min((left([np.exp(-np.maximum(x, 0.0) / (t * width_px))]) for t in FLYBACK), key=lambda f: f[0])
    if plain < PLAIN * best or quadratic < 0.5 * (1 + PLAIN) * best:
        return np.zeros(len(x))
    return lag


def _affine(design: FloatArray, xy: FloatArray, weight: FloatArray, passes: int) -> tuple[FloatArray, FloatArray]:
    """(origin, a, b) rows (3, 2) and the residual (N, 2); reweighted with Cauchy weights if more than one pass."""
    robust = weight
    for _ in range(passes):
        normal = design.T @ (design * robust[:, None])
        cell = np.asarray(np.linalg.solve(normal, design.T @ (xy * robust[:, None])), dtype=np.float64)
        rest = xy - design @ cell
        length = np.hypot(*rest.T)
        robust = weight / (1 + (length / (2 * max(1.48 * float(np.median(length)), 1e-3))) ** 2)
    return cell, rest


def _smooth(
    base: FloatArray, rest: FloatArray, weight: FloatArray, a: float, shape: tuple[int, int]
) -> tuple[FloatArray, float, NDArray[np.bool_]]:
    """Local robust mean of the displacements on nodes one cell apart; rms per axis of columns about it; who follows.

    The window (1.5 cells) holds about 25 columns: enough to follow scan distortion, too many to follow one defect.
    """
    h, w = shape
    gy, gx = max(2, round(h / a) + 1), max(2, round(w / a) + 1)
    y, x = np.meshgrid(np.linspace(0, h - 1, gy), np.linspace(0, w - 1, gx), indexing="ij")
    at, width = np.column_stack([x.ravel(), y.ravel()]), 1.5 * a
    distance, index = (np.asarray(v) for v in cKDTree(base).query(at, k=min(80, len(base))))
    kernel, offset = np.exp(-0.5 * (distance / width) ** 2) + 1e-12, (base[index] - at[:, None]) / width
    field = np.zeros_like(rest)
    robust = weight
    for _ in range(3):
        nodes = _kernel_mean(rest[index], robust[index] * kernel, offset).reshape(gy, gx, 2)
        field = interpolate(nodes, base, shape)
        length = np.hypot(*(rest - field).T)
        scale = max(1.48 * float(np.median(length)), 1e-3)
        robust = weight / (1 + (length / (2 * scale)) ** 2)
    follows = length < 4 * scale
    return nodes, float(np.sqrt(np.mean((rest - field)[follows] ** 2))), follows


def _kernel_mean(values: FloatArray, weight: FloatArray, offset: FloatArray) -> FloatArray:
    """Local linear regression of neighbours (M, K, 2) at `offset` (M, K, 2) with weights (M, K), at M points.

    Linear, not constant: at the image edge the neighbours lie on one side, and a mean of them would lag behind the
    distortion. The slope is held by a weak prior where a point has few neighbours.
    """
    share = (weight / weight.sum(1, keepdims=True))[:, :, None]
    design = np.concatenate([np.ones((*offset.shape[:2], 1)), offset], axis=2)
    weighted = (design * share).transpose(0, 2, 1)
    normal = weighted @ design
    normal[:, [1, 2], [1, 2]] += 0.05
    return np.asarray(np.linalg.solve(normal, weighted @ values)[:, 0])
