"""Pixels that a detector or an export has cut off: their true value lies beyond."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NEXT_LEVELS, TIMES, FEWEST = 5, 3.0, 10
"""An extreme value is a cut where it holds this many times more pixels than each of so many levels next to it does on
average, and this many besides: towards its extremes the histogram of an image falls."""


class Cut(NamedTuple):
    """Shares of the pixels that are cut off at the darkest and at the brightest value, 0 where none are."""

    dark: float
    bright: float


def cut_of(image: FloatArray) -> Cut:
    """How much of an image (H, W) is cut off.

    Of zeros it is not said: electrons that are counted make many of them, too.
    """
    values, counts = np.unique(image, return_counts=True)
    if len(values) <= NEXT_LEVELS:
        return Cut(0.0, 0.0)
    dark = 0.0 if values[0] == 0 else _share(counts, image.size)
    return Cut(dark, _share(counts[::-1], image.size))


def _share(counts: NDArray[np.intp], pixels: int) -> float:
    """Of the first level, if it is a cut."""
    usual = float(np.mean(counts[1 : 1 + NEXT_LEVELS]))
    return float(counts[0]) / pixels if counts[0] > TIMES * usual + FEWEST else 0.0
