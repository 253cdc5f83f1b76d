"""Units of an image, taken off before it is analysed and put on again afterwards: counts, amperes, 16-bit exports."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.columns import Columns, Noise
from stemfit.imaging import Amplitude, Imaging

FloatArray = NDArray[np.float64]

USUAL_SD = 64.0
"""Standard deviation to which images are brought, within a factor of root two: the power of two makes that exact."""


class Units(NamedTuple):
    """image = zero + unit * analysed image."""

    zero: float
    unit: float

    def off(self, image: FloatArray) -> FloatArray:
        """The image (H, W) without units: not negative, of an everyday size."""
        return np.asarray((image - self.zero) / self.unit)

    def on(self, image: FloatArray) -> FloatArray:
        """Inverse of `off`."""
        return np.asarray(self.zero + self.unit * image)

    def columns(self, of: Columns) -> Columns:
        """Columns of the analysed image, in the image's units."""
        scale = np.array([1.0, 1.0, self.unit])
        return replace(
            of, intensity=self.unit * of.intensity, cov=of.cov * np.outer(scale, scale),
            background=self.on(of.background), model=self.on(of.model), noise=self._noise(of.noise),
        )

    def imaging(self, of: Imaging) -> Imaging:
        """Imaging of the analysed image, in the image's units."""
        amplitudes = {
            column: Amplitude(self.unit * a.value, self.unit * a.sigma, a.source) for column, a in of.amplitudes.items()
        }
        level = None if of.background_sigma is None else self.unit * of.background_sigma
        return replace(
            of, noise=self._noise(of.noise), background=self.on(of.background), amplitudes=amplitudes,
            background_sigma=level,
        )

    def _noise(self, of: Noise) -> Noise:
        return replace(
            of, gain=self.unit * of.gain, gain_error=self.unit * of.gain_error,
            offset=self.zero + self.unit * of.offset, read_sigma=self.unit * of.read_sigma,
            read_sigma_error=self.unit * of.read_sigma_error,
        )


def units_of(image: FloatArray) -> Units:
    """Units in which the image begins at zero and varies by about `USUAL_SD`."""
    sd = float(np.std(image))
    return Units(float(image.min()), float(2.0 ** np.round(np.log2(sd / USUAL_SD))) if sd > 0 else 1.0)
