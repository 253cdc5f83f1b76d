"""The crystal in the image: cell, sublattices, polarity, smooth scan distortion and what area can be used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


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
        +1: X sits at (a + b)/3; -1: at 2 (a + b)/3.
    cell_cov : (6, 6) array
        Covariance of (origin, a, b), px^2.
    distortion_px : (GY, GX, 2) array
        Displacement (x, y) of the scan from the affine cell on a regular grid spanning the image, corners included.
    shape_px : (H, W)
    residual_rms_px : float
        rms of column positions about the fitted sites, per axis.
    """

    a_px: FloatArray
    b_px: FloatArray
    origin_px: FloatArray
    polarity: int
    cell_cov: FloatArray
    distortion_px: FloatArray
    shape_px: tuple[int, int]
    residual_rms_px: float


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


