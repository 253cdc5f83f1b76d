"""Geometric phase analysis: where the crystal's planes run at every pixel (Hytch et al., Ultramicroscopy 1998, eq. 6).

The image is demodulated at the first-order spots. The phase says how far the planes are displaced from a perfect
lattice there, the amplitude how much crystal there is; neither needs a single column to be resolved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.restoration import unwrap_phase

from stemfit.columns.resample import averaged, linear

FloatArray = NDArray[np.float64]

RESOLVED = 3.0
"""Pixels to a standard deviation of the smoothing: what is so smooth needs no more of them."""


class PlaneField(NamedTuple):
    """Continuous cell indices over the image: n_k(r) = (g_k . r) + shift_k(r), integer on every lattice point.

    Attributes
    ----------
    g : (2, 2) array
        Rows dual to the cell vectors a, b; cycles per px.
    shift : (2, H, W) array
        Slow phase of the planes, cycles.
    strength : (H, W) array
        Amplitude of the lattice over its median: about 1 in the crystal, 0 where there is none.
    """

    g: FloatArray
    shift: FloatArray
    strength: FloatArray

    def cell_index(self, xy_px: FloatArray) -> FloatArray:
        """Continuous indices (N, 2) at positions (N, 2) px, relative to the arbitrary phase origin."""
        h, w = self.strength.shape
        row = np.clip(np.rint(xy_px[:, 1]).astype(int), 0, h - 1)
        col = np.clip(np.rint(xy_px[:, 0]).astype(int), 0, w - 1)
        return np.asarray(xy_px @ self.g.T + self.shift[:, row, col].T)


def plane_field(
    image: FloatArray, g: FloatArray, smoothing_px: float, own: NDArray[np.bool_] | None = None
) -> PlaneField:
    """Demodulate an image at g[0], g[1] and g[0] + g[1].

    Parameters
    ----------
    image : (H, W) array
    g : (2, 2) array
        Reciprocal vectors dual to a and b (120 degrees apart), cycles per px.
    smoothing_px : float
        Standard deviation of the Gaussian over which planes are averaged, px.
    own : (H, W) bool array, optional
        Where the amplitude is that of this crystal; everywhere when not given.
    """
    spots = np.vstack([g, g.sum(0)])
    bins = max(1, int(smoothing_px / RESOLVED))
    flat = image - gaussian_filter(image, 2 * smoothing_px, truncate=3.0)
    fields = [_demodulate(flat, k, smoothing_px, bins) for k in spots]
    where = np.ones(image.shape, dtype=bool) if own is None else own
    inner = averaged(where.astype(np.float64), bins) > 0.5
    strengths = [np.abs(f) / max(float(np.median(np.abs(f)[inner])), 1e-300) for f in fields]
    strength = np.cbrt(strengths[0] * strengths[1] * strengths[2])
    crystal = strength > 0.4
    phases = [_unwrapped(f, crystal) for f in fields]
    first, second = _combine(phases, [float(np.median(np.abs(f))) for f in fields], crystal)
    weight = np.where(crystal, strength**2, 1e-6)
    shift = [_filled(p, weight, smoothing_px / bins) for p in (first, second)]
    rows, cols = (linear(m, n, bins) for m, n in zip(strength.shape, image.shape, strict=True))
    full = [np.asarray(rows @ (cols @ f.T).T) for f in (*shift, strength)]
    return PlaneField(g, np.stack(full[:2]), full[2])


def _demodulate(flat: FloatArray, k: FloatArray, smoothing_px: float, bins: int) -> NDArray[np.complex128]:
    """Slow amplitude of one lattice frequency on pixels `bins` times larger."""
    h, w = flat.shape
    column, row = (np.exp(-2j * np.pi * q * np.arange(n)) for q, n in ((k[1], h), (k[0], w)))
    smooth = smoothing_px / bins
    parts = (averaged(flat * wave, bins) for wave in _real_and_imaginary(column, row))
    real, imaginary = (gaussian_filter(part, smooth, mode="constant") for part in parts)
    return np.asarray(real + 1j * imaginary)


def _real_and_imaginary(
    column: NDArray[np.complex128], row: NDArray[np.complex128]
) -> tuple[FloatArray, FloatArray]:
    """Of the outer product of two waves."""
    return (
        np.outer(column.real, row.real) - np.outer(column.imag, row.imag),
        np.outer(column.real, row.imag) + np.outer(column.imag, row.real),
    )


def _unwrapped(field: NDArray[np.complex128], crystal: NDArray[np.bool_]) -> FloatArray:
    masked = np.ma.masked_array(np.angle(field), mask=~crystal)
    unwrapped = unwrap_phase(masked) if not crystal.all() else unwrap_phase(np.angle(field))
    return np.asarray(np.ma.filled(unwrapped, 0.0)) / (2 * np.pi)


def _combine(
    phases: list[FloatArray], amplitude: list[float], crystal: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray]:
    """Two shifts from three phases: least squares with p3 = p1 + p2 + const, weights from the spots' amplitudes."""
    third = phases[2] - np.median((phases[2] - phases[0] - phases[1])[crystal])
    error = third - phases[0] - phases[1]
    error = error - np.rint(error)
    v1, v2, v3 = (1.0 / max(a, 1e-300) ** 2 for a in amplitude)
    total = v1 + v2 + v3
    return phases[0] + error * v1 / total, phases[1] + error * v2 / total


def _filled(values: FloatArray, weight: FloatArray, smoothing_px: float) -> FloatArray:
    """Carry the surrounding phase smoothly into places without crystal."""
    top = gaussian_filter(values * weight, smoothing_px)
    bottom = gaussian_filter(weight, smoothing_px)
    smooth = top / np.maximum(bottom, 1e-12)
    return np.asarray(np.where(weight > 1e-3, values, smooth))
