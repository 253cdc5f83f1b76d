"""The crystal in the image: cell, sublattices, polarity, smooth scan distortion and what area can be used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from stemfit.hosts import HONEYCOMB, Cell

FloatArray = NDArray[np.float64]

EDGE = 0.6
"""Nearer to the image's edge, in lattice constants, no site is judged and no hollow looked at: a neighbour beyond the
edge (0.58 away) sheds light there that no fit can see."""


@dataclass(frozen=True)
class Region:
    """An area that is not analysed.

    Attributes
    ----------
    kind : str
        vacuum, hole, contamination, second-layer, other-grain, twin, step or unindexed.
    reason : str
        What was measured, in words with the figure.
    polygon_px : (K, 2) array
        Outline, px (x, y).
    orientation_deg : float or None
        Lattice direction of another grain, degrees above +x as displayed.
    """

    kind: str
    reason: str
    polygon_px: FloatArray
    orientation_deg: float | None = None


@dataclass(frozen=True)
class Lattice:
    """Affine cell plus smooth distortion. Site (i, j) of a sublattice lies at origin + (i + u) a + (j + v) b.

    Attributes
    ----------
    a_px, b_px : (2,) array
        Cell vectors in pixels (x, y). 60 degrees apart in the undistorted crystal, b counter-clockwise from a as
        displayed (y drawn downwards).
    origin_px : (2,) array
        A metal site (graphene, hBN: a site of sublattice A).
    polarity : int
        +1: X sits at (a + b)/3; -1: at 2 (a + b)/3. Other crystals: +1 as their cell says, -1 seen from below.
    cell_cov : (6, 6) array
        Covariance of (origin, a, b), px^2.
    distortion_px : (GY, GX, 2) array
        Displacement (x, y) of the scan from the affine cell on a regular grid spanning the image, corners included.
    shape_px : (H, W)
    residual_rms_px : float
        rms of column positions about the fitted sites, per axis.
    cell : Cell
        Shape of the undistorted cell, and its columns where it is no honeycomb.
    """

    a_px: FloatArray
    b_px: FloatArray
    origin_px: FloatArray
    polarity: int
    cell_cov: FloatArray
    distortion_px: FloatArray
    shape_px: tuple[int, int]
    residual_rms_px: float
    cell: Cell = HONEYCOMB

    @property
    def basis(self) -> FloatArray:
        """Cell coordinates (K, 2) of the sublattices."""
        if self.cell != HONEYCOMB:
            return np.array(self.cell.basis)
        x = 1 / 3 if self.polarity > 0 else 2 / 3
        return np.array([[0.0, 0.0], [x, x]])

    @property
    def a_px_iso(self) -> float:
        """Lattice constant of the undistorted honeycomb with as many columns per area, px."""
        return iso(self.a_px, self.b_px, len(self.cell.basis))

    @property
    def nearest_px(self) -> float:
        """Distance between neighbouring columns in the undistorted crystal, px."""
        return self.cell.tightness * self.a_px_iso / float(np.sqrt(3))

    @property
    def rotation_deg(self) -> float:
        """Rotation of the crystal, degrees counter-clockwise as displayed; in [0, 60) for honeycombs."""
        return rotation_deg(self.a_px, self.b_px, self.cell)

    @property
    def anisotropy(self) -> float:
        """Ratio of the principal stretches of the scan."""
        stretch = np.linalg.svd(deformation(self.a_px, self.b_px, self.cell), compute_uv=False)
        return float(stretch[0] / stretch[1])

    def image_from_structure(self, a_A: float) -> tuple[FloatArray, FloatArray]:
        """Matrix (2, 2) and offset (2,) with p_px = matrix @ r_A + offset.

        The structure frame has x right and y up as displayed; its crystal is undistorted and turned by `rotation_deg`.
        """
        turn = np.radians(self.rotation_deg + np.array([0.0, 60.0]))
        structure = a_A * np.stack([np.cos(turn), np.sin(turn)])  # columns a, b; Angstrom
        if self.cell != HONEYCOMB:
            c, s = np.cos(turn[0]), np.sin(turn[0])
            structure = a_A / self.cell.pitch * np.array([[c, -s], [s, c]]) @ np.array(self.cell.plane).T
        return np.column_stack([self.a_px, self.b_px]) @ np.linalg.inv(structure), self.origin_px.copy()

    def positions(self, fractional: FloatArray) -> FloatArray:
        """Image positions (N, 2) of cell coordinates (N, 2), distortion included."""
        base = self.origin_px + fractional @ np.stack([self.a_px, self.b_px])
        return base + interpolate(self.distortion_px, base, self.shape_px)


def cells_near(
    origin_px: FloatArray, a_px: FloatArray, b_px: FloatArray, shape: tuple[int, int], margin_px: float
) -> NDArray[np.int64]:
    """Indices (K, 2) of all cells of an affine lattice in an image and `margin_px` around it, and some more."""
    h, w = shape
    side = float(np.linalg.svd(np.stack([a_px, b_px]), compute_uv=False)[-1])
    reach = int(1.5 * (max(h, w) + 2 * margin_px) / min(side, iso(a_px, b_px))) + 3
    centre = np.linalg.solve(np.column_stack([a_px, b_px]), np.array([w / 2, h / 2]) - origin_px)
    i, j = np.meshgrid(*(np.arange(-reach, reach + 1) + round(float(c)) for c in centre), indexing="ij")
    ij = np.column_stack([i.ravel(), j.ravel()])
    off = np.abs(origin_px + ij @ np.stack([a_px, b_px]) - [w / 2, h / 2])
    return np.asarray(ij[(off < np.array([0.7 * w, 0.7 * h]) + margin_px).all(1)])


def iso(a_px: FloatArray, b_px: FloatArray, columns: int = 2) -> float:
    """Lattice constant of the undistorted honeycomb with the same area for as many columns, px."""
    return float(np.sqrt(2 * abs(a_px[0] * b_px[1] - a_px[1] * b_px[0]) * (2 / columns) / np.sqrt(3)))


def deformation(a_px: FloatArray, b_px: FloatArray, cell: Cell = HONEYCOMB) -> FloatArray:
    """Matrix (2, 2) that turns the undistorted cell (a along +x, b counter-clockwise, y drawn down) into (a, b)."""
    regular = np.array([[1.0, 0.5], [0.0, -np.sqrt(0.75)]])
    if cell != HONEYCOMB:
        regular = np.array([[1.0], [-1.0]]) * np.array(cell.plane).T
    return np.asarray(np.column_stack([a_px, b_px]) @ np.linalg.inv(regular))


def rotation_deg(a_px: FloatArray, b_px: FloatArray, cell: Cell = HONEYCOMB) -> float:
    """Rotation of the crystal, degrees counter-clockwise as displayed, [0, 360): the rotation of the polar split."""
    u, _, vt = np.linalg.svd(deformation(a_px, b_px, cell))
    r = u @ vt
    angle = float(np.degrees(np.arctan2(-r[1, 0], r[0, 0])) % 360)
    return 0.0 if angle > 360 - 1e-9 else angle


def interpolate(nodes: FloatArray, xy_px: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Values (N, 2) of a node field (GY, GX, 2) at pixel positions; constant beyond the image."""
    gy, gx = nodes.shape[:2]
    at = [xy_px[:, 1] * (gy - 1) / (shape[0] - 1), xy_px[:, 0] * (gx - 1) / (shape[1] - 1)]
    return np.column_stack([map_coordinates(nodes[..., k], at, order=1, mode="nearest") for k in range(2)])


@dataclass(frozen=True)
class SiteMap:
    """Every crystal site inside the image.

    Attributes
    ----------
    ij : (S, 2) int array
        Cell indices.
    sublattice : (S,) array of str
        "M" or "X" ("A", "B" for graphene and hBN).
    xy_px : (S, 2) array
        Expected position, distortion included.
    column : (S,) int array
        Index of the observed column on this site, -1 if there is none.
    analysed : (S,) bool array
        False inside a region or too close to the image edge.
    """

    ij: NDArray[np.int64]
    sublattice: NDArray[np.str_]
    xy_px: FloatArray
    column: NDArray[np.int64]
    analysed: NDArray[np.bool_]

    @cached_property
    def row_of(self) -> dict[tuple[int, int, str], int]:
        """Row of each site (i, j, sublattice)."""
        cells = zip(self.ij.tolist(), self.sublattice.tolist(), strict=True)
        return {(i, j, s): row for row, ((i, j), s) in enumerate(cells)}


