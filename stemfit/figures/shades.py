"""Colour maps: grey for images, and maps of equal steps that colour-blind readers can tell apart for the rest.

Those are Crameri's (Nat. Commun. 11, 5444 (2020)), read from the files of cmcrameri: its module imports pyplot, which
decides for the whole process how windows are opened.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SIGNED = "vik"
"""Blue below zero, white at it, red above."""

UNSIGNED = "buda"
"""Purple to yellow, all of it brighter than a dimmed image."""

NOT_ANALYSED = "#C8CDD6"

DIM = 0.75
"""The image under a structure is so much darker than alone, so that atoms stand out."""


@cache
def colour_map(name: str) -> Colormap:
    """Map by its name, in which what is not known is a light even grey-blue."""
    if name in matplotlib.colormaps:
        return matplotlib.colormaps[name].with_extremes(bad=NOT_ANALYSED)
    found = find_spec("cmcrameri")
    assert found is not None and found.origin is not None, "a dependency"
    rows = np.loadtxt(Path(found.origin).parent / "cmaps" / f"{name}.txt")
    return ListedColormap(rows, name).with_extremes(bad=NOT_ANALYSED)


def contrast(values: FloatArray) -> tuple[float, float]:
    """Grey range that hot pixels and a few dark ones do not decide."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, [0.5, 99.8])
    return float(low), float(high if high > low else low + 1)


def grey(axes: Axes, image: FloatArray, low: float, high: float, corner_px: tuple[int, int] = (0, 0)) -> None:
    """Show an image between black and white."""
    shade(axes, image, "gray", low, high, corner_px)


def shade(
    axes: Axes, image: FloatArray, colours: str, low: float, high: float, corner_px: tuple[int, int] = (0, 0)
) -> None:
    """Show an image, or the part of one that begins at `corner_px`; what is drawn later does not widen the view."""
    (x, y), (h, w) = corner_px, image.shape
    where = (x - 0.5, x + w - 0.5, y + h - 0.5, y - 0.5)
    axes.imshow(image, cmap=colour_map(colours), vmin=low, vmax=high, extent=where)
    axes.autoscale(False)
