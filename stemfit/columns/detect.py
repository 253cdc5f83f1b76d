"""Seeds for the column fit: more of them than there are columns, none of them trusted yet."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve, gaussian_filter, gaussian_laplace, maximum_filter, uniform_filter

from stemfit.columns.fit import FINE_SIGMA_PX, refine
from stemfit.columns.fitter import SIGNIFICANCE
from stemfit.columns.resample import averaged
from stemfit.columns.types import Columns
from stemfit.errors import NotAnalysable

FloatArray = NDArray[np.float64]

SCALES = (0.10, 0.14, 0.20, 0.28, 0.38)
"""Blob sizes tried, in units of the dominant period (0.87 a or a/2 of a hexagonal crystal, probes of 0.1 to 0.2 a)."""

FAINT = 2.5
"""Height of a first seed over the noise of the filtered image: many are false, the fit decides."""

CLEAR, SOMETHING = 6.0, 4.0
"""Height of the strongest peaks over the noise of the filtered image from which their scale is that of columns, and
from which there is something at that scale: as many peaks of noise alone reach 1.8 to 2.8 on average."""


def find(image: FloatArray, *, calibrate: bool = True, device: str = "cpu") -> Columns:
    """Find and fit all atomic columns of an image.

    Peaks of a Laplacian of Gaussian at the scale of the columns are fitted jointly; what the fit does not need is
    dropped. Peaks of what it leaves over get one more chance before the last stage.

    Parameters
    ----------
    image : (H, W) array
        Image units; atoms bright.
    calibrate, device
        As of `refine`.

    Returns
    -------
    Columns
        Possibly none.
    """
    sigma = column_scale(image)
    return refine(
        image, peaks(image, sigma), sigma, more=partial(peaks, least=SIGNIFICANCE),
        calibrate=calibrate, device=device,
    )


def dominant_period(image: FloatArray) -> float:
    """Period of the strongest lattice frequency, px."""
    h, w = image.shape
    box = max(3, min(h, w) // 5)  # two boxes are near enough to a Gaussian, and cost the same at any width
    flat = image - uniform_filter(uniform_filter(image, box), box)
    window = np.outer(np.hanning(h), np.hanning(w))
    power = np.abs(np.fft.rfft2(flat * window)) ** 2
    q = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None, :])
    power[(q < 4.0 / min(h, w)) | (q > 0.35)] = 0.0
    smooth = gaussian_filter(power, 0.7, mode="wrap")
    strongest = int(np.argmax(smooth))
    if smooth.flat[strongest] <= 0:
        raise NotAnalysable("nothing repeats in it", remedy="use an image of a crystal, away from blank areas")
    return float(1.0 / q.flat[strongest])


def column_scale(image: FloatArray) -> float:
    """Standard deviation of the columns, px: the scale at which the strongest peaks answer most.

    A scale at which the peaks that noise alone makes (3 standard deviations) reach half their height is not used; if
    that is every scale, it is the one at which they stand out most over the noise, or the largest if nothing does.
    """
    period = dominant_period(image)
    bins = max(1, int(SCALES[0] * period))
    if bins > 1:
        return bins * column_scale(averaged(image, bins))
    sizes = [max(1.0, s * period) for s in SCALES]
    noise = pixel_noise(image)
    answers, clear = [], []
    for size in sizes:
        response = -gaussian_laplace(image, size) * size**2
        height = np.sort(response[_maxima(response, size)])[::-1]
        expected = max(4, int(image.size / (1.5 * period**2)))
        answers.append(float(height[:expected].mean()) if len(height) else 0.0)
        clear.append(answers[-1] / max(noise * size**2 * laplacian_norm(size), 1e-300))
    usable = [answer if over > CLEAR else 0.0 for answer, over in zip(answers, clear, strict=True)]
    if not any(usable):
        return sizes[int(np.argmax(clear))] if max(clear) > SOMETHING else sizes[-1]
    return sizes[int(np.argmax(usable))]


def peaks(image: FloatArray, sigma_px: float, least: float = FAINT) -> FloatArray:
    """Seeds (N, 2) px: local maxima of the Laplacian of Gaussian above `least` times its noise."""
    bins = int(sigma_px / FINE_SIGMA_PX)
    if bins > 1:
        return (peaks(averaged(image, bins), sigma_px / bins, least) + 0.5) * bins - 0.5
    response = -gaussian_laplace(image, sigma_px)
    where = _maxima(response, sigma_px)
    noise = pixel_noise(image) * laplacian_norm(sigma_px)
    floor = max(least * noise, 0.05 * float(np.percentile(response[where], 95)) if where.any() else 0.0)
    row, col = np.nonzero(where & (response > floor))
    return np.column_stack([col, row]).astype(np.float64)


def laplacian_norm(sigma_px: float) -> float:
    """L2 norm of a Laplacian-of-Gaussian kernel: the noise of its response to white noise of unit variance."""
    return float(np.sqrt(2 / np.pi) / (2 * sigma_px**3))


def pixel_noise(image: FloatArray) -> float:
    """White noise of a pixel from second differences, which smooth structure does not reach (Immerkaer 1996)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    return float(np.median(np.abs(convolve(image, kernel))) / (0.6745 * 6.0))


def _maxima(response: FloatArray, sigma_px: float) -> NDArray[np.bool_]:
    size = 2 * max(1, round(1.5 * sigma_px)) + 1
    return np.asarray((response == maximum_filter(response, size)) & (response > 0), dtype=np.bool_)
