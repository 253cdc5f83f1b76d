"""Where labels stand: beside their defect, clear of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


GAPS = (0.25, 0.8)
"""Distances from the points, in heights of the text."""

FARTHER = 0.4
"""Of the text's area may be over what is taken before the farther place is the better one."""


class Label(NamedTuple):
    """Anchor (x, y) of a text, its alignment, and the box (x0, y0, x1, y1) that it fills."""

    at: tuple[float, float]
    ha: str
    va: str
    box: FloatArray


def place(own: FloatArray, size: FloatArray, taken: Sequence[FloatArray], shape: tuple[float, float]) -> Label:
    """Best place for a text of `size` (w, h) beside the points `own`, given the boxes that are `taken`.

    It covers as little of them as possible and stays inside the image; right of the points where that is free.
    """
    options = [one for gap in GAPS for one in _places(bounds(own), size, gap * float(size[1]))]
    far = FARTHER * float(np.prod(size)) * np.repeat(np.arange(len(GAPS)), len(options) // len(GAPS))
    costs = far + [sum(overlap(o.box, other) for other in taken) + 3 * _outside(o.box, *shape) for o in options]
    return options[int(np.argmin(costs))]


def bounds(points: FloatArray) -> FloatArray:
    """Bounding box (x0, y0, x1, y1)."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _places(own: FloatArray, size: FloatArray, gap: float) -> list[Label]:
    """Right of a box, left of it, above, below, and at its corners, by a gap away."""
    (x0, y0, x1, y1), (w, h) = own, size
    sides = {
        "left": (x1 + gap, x1 + gap),
        "right": (x0 - gap, x0 - gap - w),
        "center": ((x0 + x1) / 2, (x0 + x1 - w) / 2),
    }
    levels = {
        "center": ((y0 + y1) / 2, (y0 + y1 - h) / 2),
        "bottom": (y0 - gap, y0 - gap - h),
        "top": (y1 + gap, y1 + gap),
    }
    order = [(ha, "center") for ha in ("left", "right")] + [("center", va) for va in ("bottom", "top")]
    order += [(ha, va) for ha in ("left", "right") for va in ("bottom", "top")]
    return [
        Label((sides[ha][0], levels[va][0]), ha, va, np.array([x := sides[ha][1], y := levels[va][1], x + w, y + h]))
        for ha, va in order
    ]


def overlap(a: FloatArray, b: FloatArray) -> float:
    """Common area."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(np.prod(np.maximum(sides, 0)))


def _outside(box: FloatArray, height: float, width: float) -> float:
    """Area of a box beyond the image."""
    whole = np.array([0.0, 0.0, width, height])
    return float(np.prod(box[2:] - box[:2])) - overlap(box, whole)
