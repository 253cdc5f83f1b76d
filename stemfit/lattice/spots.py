"""The reciprocal cell from the image's own Fourier transform: no scale, no host, any shear."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, maximum_filter

from stemfit.errors import NotAnalysable

FloatArray = NDArray[np.float64]

MIN_SNR = 12.0
"""Power of a lattice spot over the local mean of the noise. Noise power is exponential: 12 is passed once in 2e5."""

TOGETHER = (6.0, 12.0, 18.0)
"""The same of the three spots of one hexagon, weakest first, where not all of them stand out alone: no less in sum. Of
three exponential variables the sum passes 36 once in 6e12, and a megapixel holds some 1e9 hexagons of about a shape."""

FAINT_SPOTS = 60
"""How many maxima are combined then."""

BLOB_PX, GLARE = 2.0, 5.0
"""Width over which blobs are looked for, about that of the columns, and their height over the rms of the image without
them."""

MAX_ANISOTROPY = 1.35
"""Ratio of principal stretches up to which a scan is believed to show a hexagonal crystal (real scans reach 1.19)."""


def reciprocal_cell(image: FloatArray) -> FloatArray:
    """First-order spots of the hexagonal lattice.

    Parameters
    ----------
    image : (H, W) array

    Returns
    -------
    (2, 2) array
        Rows g1, g2 in cycles per px (x, y), 60 degrees apart in an undistorted crystal; g2 - g1 is the third spot.

    Raises
    ------
    NotAnalysable
        If no three spots close a hexagon.
    """
    snr = signal_to_noise(image)
    cell = _hexagon(snr, image.shape, strongest(snr, image.shape), 3 * [MIN_SNR])
    if cell is None:
        cell = _hexagon(snr, image.shape, strongest(snr, image.shape, FAINT_SPOTS, TOGETHER[0]), TOGETHER)
    if cell is None:
        raise NotAnalysable(
            f"no lattice: {len(strongest(snr, image.shape))} spots stand out in the Fourier transform and no three "
            "close a hexagon", remedy="use an atomic-resolution image of a hexagonal 2D crystal seen from above",
        )
    return polished(image, cell)


def _hexagon(
    snr: FloatArray, shape: tuple[int, int], spots: FloatArray, least: Sequence[float]
) -> FloatArray | None:
    """Cell (2, 2) of the best three spots that close a hexagon, from the least signal-to-noise of the weakest up."""
    pairs = [np.array(p) for k1, k2 in combinations(spots, 2) for p in ((k1, k2), (k1, -k2))]
    scores = [_score(snr, shape, pair[0], pair[1], least) for pair in pairs]
    for k in np.argsort(scores)[::-1][:20]:
        cell = _primitive(snr, shape, pairs[k]) if scores[k] > 0 else None
        if cell is not None and _explains(cell, spots[0], shape):
            return cell
    return None


def levelled(image: FloatArray) -> FloatArray:
    """Without blobs far brighter than the rest: a few heavy atoms have more contrast than all of a light crystal."""
    smooth = gaussian_filter(image, BLOB_PX)
    slow = gaussian_filter(image, min(image.shape) / 10)
    relief = smooth - slow
    middle = float(np.median(relief))
    far = relief - middle > GLARE * 1.48 * float(np.median(np.abs(relief - middle)))
    if not far.any():
        return image
    blob = binary_dilation(far, iterations=round(2 * BLOB_PX))
    share = gaussian_filter((~blob).astype(float), min(image.shape) / 10)
    around = gaussian_filter(np.where(blob, 0.0, image), min(image.shape) / 10) / np.maximum(share, 1e-6)
    return np.asarray(np.where(blob, around, image))


def windowed(image: FloatArray) -> FloatArray:
    """Without its slow part and what is far too bright, faded out towards the edges."""
    h, w = image.shape
    flat = image - gaussian_filter(image, min(h, w) / 10)
    clipped = np.clip(flat, *np.percentile(flat, [0.1, 99.5]))  # one bright adatom must not ring through all of it
    return np.asarray(clipped * np.outer(np.hanning(h), np.hanning(w)))


def signal_to_noise(image: FloatArray) -> FloatArray:
    """Power spectrum over the mean power at the same radius, robustly; zero frequency at the centre."""
    power = np.fft.fftshift(np.abs(np.fft.fft2(windowed(image))) ** 2)
    h, w = image.shape
    q = np.hypot(np.fft.fftshift(np.fft.fftfreq(h))[:, None], np.fft.fftshift(np.fft.fftfreq(w))[None, :])
    ring = np.minimum((q * min(h, w) / 3).astype(int), min(h, w) // 6)
    order = np.argsort(ring, axis=None)
    edges = np.searchsorted(ring.ravel()[order], np.arange(ring.max() + 2))
    level = np.ones(ring.max() + 1)
    for k in range(ring.max() + 1):
        values = power.ravel()[order[edges[k] : edges[k + 1]]]
        level[k] = np.median(values) / np.log(2) if len(values) else np.inf
    snr = power / np.maximum(level[ring], 1e-300)
    snr[q < 4.0 / min(h, w)] = 0.0
    return np.asarray(snr)


def strongest(snr: FloatArray, shape: tuple[int, int], most: int = 30, least: float = MIN_SNR) -> FloatArray:
    """Strongest separate maxima (K, 2) in one half plane, cycles per px (x, y)."""
    peak = (snr == maximum_filter(snr, 5)) & (snr > least)
    row, col = np.nonzero(peak)
    order = np.argsort(snr[row, col])[::-1][: 2 * most]
    k = np.column_stack([(col - shape[1] // 2) / shape[1], (row - shape[0] // 2) / shape[0]])[order]
    return np.asarray(k[(k[:, 1] > 0) | ((k[:, 1] == 0) & (k[:, 0] > 0))][:most])


def _at(snr: FloatArray, shape: tuple[int, int], k: FloatArray) -> float:
    """Largest signal-to-noise within 1.5 bins of a frequency (0 outside the band)."""
    col, row = k * shape[::-1] + np.array(shape[::-1]) // 2
    r, c = round(float(row)), round(float(col))
    if not (1 <= r < shape[0] - 1 and 1 <= c < shape[1] - 1):
        return 0.0
    return float(snr[r - 1 : r + 2, c - 1 : c + 2].max())


def anisotropy(g1: FloatArray, g2: FloatArray) -> float:
    """Ratio of principal stretches that turn a regular 60 degree pair into (g1, g2)."""
    regular = np.array([[1.0, 0.5], [0.0, np.sqrt(0.75)]])
    stretch = np.linalg.svd(np.column_stack([g1, g2]) @ np.linalg.inv(regular), compute_uv=False)
    return float(stretch[0] / max(stretch[1], 1e-12))


def _score(
    snr: FloatArray, shape: tuple[int, int], k1: FloatArray, k2: FloatArray, least: Sequence[float]
) -> float:
    """Evidence that k1, k2 and k2 - k1 are one hexagon of spots: sum of log signal-to-noise, 0 if they are not."""
    if anisotropy(k1, k2) > MAX_ANISOTROPY:
        return 0.0
    values = [_at(snr, shape, k) for k in (k1, k2, k2 - k1)]
    if any(total < enough for total, enough in zip(np.cumsum(sorted(values)), np.cumsum(least), strict=True)):
        return 0.0
    return float(np.sum(np.log(values)) - np.log(anisotropy(k1, k2)) * 10)


def _explains(cell: FloatArray, spot: FloatArray, shape: tuple[int, int]) -> bool:
    """Whether a spot is a whole-number combination of the cell, within two bins.

    The strongest spot of a crystal must be: a square lattice, too, has three spots that nearly close a hexagon.
    """
    order = np.rint(np.linalg.solve(cell.T, spot))
    return bool((np.abs(order @ cell - spot) * np.array(shape[::-1]) < 2.0 + np.abs(order).max()).all())


def _primitive(snr: FloatArray, shape: tuple[int, int], g: FloatArray) -> FloatArray:
    """Replace a hexagon of second-order spots by the first-order one, where that exists.

    In a honeycomb of nearly equal columns (MoSe2, graphene) the (11) spots outshine the (10) spots.
    """
    g1, g2 = g
    for finer in (np.array([(2 * g1 - g2) / 3, (g1 + g2) / 3]), g / 2):
        values = sorted(_at(snr, shape, k) for k in (finer[0], finer[1], finer[1] - finer[0]))
        if values[1] > MIN_SNR and values[0] > MIN_SNR / 3:
            return _primitive(snr, shape, finer)
    return g


HARMONICS = np.array([[1, 0], [0, 1], [-1, 1], [1, 1], [-1, 2], [-2, 1]])
"""The six strongest of a honeycomb."""


def polished(image: FloatArray, g: FloatArray, harmonics: NDArray[np.int64] = HARMONICS) -> FloatArray:
    """Maximise the power of some harmonics (K, 2) over the cell, by coordinate search below one bin."""
    data = windowed(image)
    h, w = image.shape
    x, y = np.arange(w) - w / 2, np.arange(h) - h / 2

    def power(cell: FloatArray) -> float:
        k = harmonics @ cell
        k = k[np.abs(k).max(1) < 0.45]
        rows = np.exp(-2j * np.pi * np.outer(k[:, 1], y))
        cols = np.exp(-2j * np.pi * np.outer(k[:, 0], x))
        return float(np.sum(np.abs(np.einsum("ky,yx,kx->k", rows, data, cols, optimize=True))))

    step, best = 0.5 / np.array([w, h]), power(g)
    for _ in range(7):
        for n in range(2):
            for axis in range(2):
                for sign in (1, -1):
                    trial = g.copy()
                    trial[n, axis] += sign * step[axis]
                    if (value := power(trial)) > best:
                        g, best = trial, value
        step = step / 2
    return g
