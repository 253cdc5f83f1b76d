"""Values that describe columns.

Positions are pixels (x, y): x right along axis 1, y down along axis 0, (0, 0) the centre of the top-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """Image of one column, of unit integral: an elliptical Gaussian core, and a tail that is this core widened.

    The tail's covariance is that of the core plus a round Gaussian's, such that its geometric mean width for a round
    core is `tail_sigma_px`: tails come from source size and aberrations that blur the core equally in all directions.

    Attributes
    ----------
    core_cov_px2 : (2, 2) array
        Covariance of the core in (x, y), px^2.
    tail_sigma_px : float
        Standard deviation of the tail, px.
    tail_fraction : float
        Share of the integral that lies in the tail, 0 to 1.
    """

    core_cov_px2: FloatArray
    tail_sigma_px: float
    tail_fraction: float

    @property
    def width_px(self) -> float:
        """Geometric mean standard deviation of the core, px."""
        return float(np.linalg.det(self.core_cov_px2) ** 0.25)


@dataclass(frozen=True)
class Noise:
    """Variance of a pixel: ``read_sigma**2 + gain * max(model - offset, 0)``, in squared image units.

    Attributes
    ----------
    gain : float
        Image units per detected electron.
    offset : float
        Image value at zero electrons.
    read_sigma : float
        Signal-independent noise, image units.
    pixels_per_sample : float
        Noise correlation area, px: 1 for white noise, more where neighbouring pixels share their noise.
    gain_error, read_sigma_error : float
        Standard errors of the two, from the straight line; the second at the level `offset`.
    """

    gain: float
    offset: float
    read_sigma: float
    pixels_per_sample: float
    gain_error: float = 0.0
    read_sigma_error: float = 0.0

    def variance(self, model: FloatArray) -> FloatArray:
        """Variance expected where the noise-free image is `model`, same shape."""
        return self.read_sigma**2 + self.gain * np.maximum(model - self.offset, 0.0)


@dataclass(frozen=True)
class Columns:
    """All observed atomic columns of one image.

    Attributes
    ----------
    xy_px : (N, 2) array
        Position, px.
    intensity : (N,) array
        Integral of the column above the background, image units x px^2.
    cov : (N, 3, 3) array
        Covariance of (x, y, intensity). Intensities are meant relative to each other: the common factor, which tail and
        background leave open, is not in it.
    profile : Profile
        Shared column shape.
    background : (H, W) array
        Smooth background, image units; after `lattice.measure` with the light of columns beyond the edge.
    model : (H, W) array
        Background plus all columns, image units.
    noise : Noise
        Measured on the residual.
    profile_cov : (4, 4) array or None
        Covariance of the profile's core variance xx, xy, yy (px^2) and tail fraction; None where error bars are local.
    """

    xy_px: FloatArray
    intensity: FloatArray
    cov: FloatArray
    profile: Profile
    background: FloatArray
    model: FloatArray
    noise: Noise
    profile_cov: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.xy_px)
