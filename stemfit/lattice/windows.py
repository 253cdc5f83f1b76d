"""Fourier amplitudes of an image in a Gaussian window about every place.

A window as wide as some cells passes a narrow band of frequencies only, so its amplitude is known everywhere from a few
points: for each frequency a small patch of one transform of the whole image is turned back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft2, ifft2, next_fast_len
from scipy.ndimage import map_coordinates
from scipy.special import ndtr

FloatArray = NDArray[np.float64]

BAND = 4.0
"""Half width of the band that is kept, in standard deviations of the window's transform: 3e-4 is left out."""

FINER = 2
"""Points per window beyond what the band needs, so that straight lines between them err by under a percent."""


class Spectrum(NamedTuple):
    """One transform of an image, padded so that its edges do not meet.

    Attributes
    ----------
    transform : (PH, PW) complex array
    shape : (H, W)
        Of the image.
    """

    transform: NDArray[np.complex64]
    shape: tuple[int, int]


def spectrum(image: FloatArray, reach_px: float) -> Spectrum:
    """Transform an image without its mean, for windows whose standard deviation is up to `reach_px`."""
    h, w = image.shape
    padded = tuple(next_fast_len(n + int(np.ceil(3 * reach_px))) for n in (h, w))
    return Spectrum(fft2((image - image.mean()).astype(np.complex64), padded), (h, w))


class Points(NamedTuple):
    """Where windows stand: `step` (y, x) px apart from pixel (0, 0) on, `number` (y, x) of them over the image."""

    step: tuple[float, float]
    number: tuple[int, int]
    bins: tuple[int, int]

    def spread(self, values: FloatArray, shape: tuple[int, int]) -> FloatArray:
        """Values at the points, for every pixel."""
        at = [np.arange(n) / s for n, s in zip(shape, self.step, strict=True)]
        return np.asarray(map_coordinates(values, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest"))


def points(of: Spectrum, sigma_px: float) -> Points:
    """Where windows of a width have to stand."""
    padded = of.transform.shape
    bins = tuple(min(n, 2 * int(np.ceil(FINER * BAND * n / (2 * np.pi * sigma_px)))) for n in padded)
    step = tuple(n / m for n, m in zip(padded, bins, strict=True))
    count = tuple(int(np.ceil((n - 1) / s)) + 1 for n, s in zip(of.shape, step, strict=True))
    return Points((step[0], step[1]), (count[0], count[1]), (bins[0], bins[1]))


def amplitude(of: Spectrum, k: FloatArray, sigma_px: float) -> NDArray[np.complex64]:
    """Mean of image x exp(-2 pi i k.r) over the window about each of `points`, edges allowed for.

    Parameters
    ----------
    of : Spectrum
    k : (2,) array
        Frequency (x, y), cycles per px.
    sigma_px : float
        Standard deviation of the window.
    """
    at = points(of, sigma_px)
    parts = [_axis(n, m, s, c, size, float(f), sigma_px) for n, m, s, c, size, f in zip(
        of.transform.shape, at.bins, at.step, at.number, of.shape, k[::-1], strict=True)]
    (rows, down, turn_y, mass_y), (cols, across, turn_x, mass_x) = parts
    patch = of.transform[np.ix_(rows, cols)] * np.outer(down, across)
    whole = ifft2(patch)[: at.number[0], : at.number[1]]
    scale = at.bins[0] * at.bins[1] / of.transform.size
    return np.asarray(whole * np.outer(turn_y / mass_y, turn_x / mass_x) * scale, dtype=np.complex64)


def _axis(
    padded: int, bins: int, step: float, count: int, size: int, k: float, sigma: float
) -> tuple[NDArray[np.int64], FloatArray, NDArray[np.complex128], FloatArray]:
    """Along one axis: bins of the patch, their weight, what is left of the carrier, share of the window inside."""
    offset = np.fft.fftfreq(bins, 1 / bins).round().astype(np.int64)
    centre = round(k * padded)
    weight = np.exp(-2 * (np.pi * sigma * ((centre + offset) / padded - k)) ** 2)
    x = np.arange(count) * step
    rest = np.exp(-2j * np.pi * (k - centre / padded) * x)
    inside = ndtr((size - 0.5 - x) / sigma) - ndtr((-0.5 - x) / sigma)
    return (centre + offset) % padded, weight, rest, np.maximum(inside, 1e-3)
