"""Hot pixels and cosmic rays, which no column can make."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, median_filter

FloatArray = NDArray[np.float64]

BEYOND = 3.0
"""A spike exceeds its brightest neighbour by this many times what separates the brightest columns from the median."""


def despiked(image: FloatArray) -> tuple[FloatArray, int]:
    """The image with single pixels that tower above all their neighbours replaced by the median around; how many.

    A column is at least a pixel wide: the brightest of its neighbours has over half its height.
    """
    middle, high = np.percentile(image, [50.0, 99.5])
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    spike = image - maximum_filter(image, footprint=ring) > BEYOND * max(float(high - middle), 1e-300)
    count = int(spike.sum())
    if count == 0:
        return image, 0
    return np.where(spike, median_filter(image, footprint=ring), image), count
