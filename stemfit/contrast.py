"""Whether columns are bright, as in the annular dark field, or dark: seen in the image, whatever its file says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

FloatArray = NDArray[np.float64]

FINEST, COARSEST = 0.05, 0.5
"""Widths, in lattice constants, of the Gaussians between which patterns count: noise is finer, background coarser."""

DARK = -0.3
"""Skewness from which spots are dark. Columns that stand apart make it positive; a honeycomb whose columns run into
each other makes it negative, too (its three first waves alone: -0.82), but then that of the model is so as well."""

ALIKE = 2.0
"""Factor within which the third moments of an image and its model are the same, which noise does not change."""


def looks_inverted(image: FloatArray, model: FloatArray, a_px: float) -> bool:
    """Whether an image has dark spots on a bright ground where its model has not.

    Parameters
    ----------
    image, model : (H, W) arrays
        The model is NaN where nothing was analysed.
    a_px : float
        Lattice constant.
    """
    known = np.isfinite(model)
    if not known.any():
        return False
    seen, expected = (_spots(values, a_px)[known] for values in (image, np.where(known, model, image)))
    moment, of_model = (float(np.mean((values - values.mean()) ** 3)) for values in (seen, expected))
    if moment >= DARK * float(seen.std()) ** 3:
        return False
    return not 1 / ALIKE < of_model / moment < ALIKE


def _spots(values: FloatArray, a_px: float) -> FloatArray:
    return np.asarray(gaussian_filter(values, FINEST * a_px) - gaussian_filter(values, COARSEST * a_px))
