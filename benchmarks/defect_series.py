"""The perfect crystal as a Fourier series, and where its sites are: shared by those who render and those who assemble.

The crystal's frame: a metal at the origin, the first cell vector along +x as displayed, the second 60 degrees
counter-clockwise (y counts downwards), X at a third of their sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from definet.crystals import host
from stemfit.synthetic import cell_vectors

FloatArray = NDArray[np.float64]


def cell(name: str) -> FloatArray:
    """Columns a, b, Angstrom."""
    return np.column_stack(cell_vectors(host(name).a_exp_A, 0.0))


def lattice_xy(name: str, uv: FloatArray) -> FloatArray:
    """Crystal coordinates (N, 2) to Angstrom."""
    return np.asarray(uv @ cell(name).T)


def frequencies(name: str, limit: float) -> FloatArray:
    """One of each pair of opposite reciprocal lattice vectors below `limit` (per Angstrom), without zero."""
    index = np.stack(np.meshgrid(np.arange(-6, 7), np.arange(-6, 7)), -1).reshape(-1, 2)
    half = index[(index[:, 0] > 0) | ((index[:, 0] == 0) & (index[:, 1] > 0))]
    k = half @ np.linalg.inv(cell(name))
    return np.asarray(k[np.hypot(*k.T) < limit])


@dataclass(frozen=True)
class Series:
    """Scattered fraction of a perfect layer.

    Attributes
    ----------
    k : (K, 2) array
        Per Angstrom.
    terms : (2 K + 1,) array
        Mean, cosines, sines.
    """

    k: FloatArray
    terms: FloatArray

    @classmethod
    def fit(cls, k: FloatArray, xy_A: FloatArray, value: FloatArray) -> Series:
        """Least squares on values (N,) at (N, 2) positions."""
        empty = cls(k, np.zeros(2 * len(k) + 1))
        return cls(k, np.linalg.lstsq(empty._basis(xy_A), value, rcond=None)[0])

    def _basis(self, xy_A: FloatArray) -> FloatArray:
        phase = 2 * np.pi * xy_A @ self.k.T
        return np.concatenate([np.ones((*phase.shape[:-1], 1)), np.cos(phase), np.sin(phase)], -1)

    def __call__(self, xy_A: FloatArray, source_sigma_A: float = 0.0) -> FloatArray:
        """Value at (..., 2) positions, blurred by the source."""
        blur = np.exp(-2 * (np.pi * source_sigma_A) ** 2 * np.sum(self.k**2, axis=1))
        return np.asarray(self._basis(xy_A) @ (self.terms * np.concatenate([[1.0], blur, blur])))
