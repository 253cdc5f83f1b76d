"""A small picture of an image for the gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NAME = "thumbnail.jpg"
SIDE_PX = 320
"""Of the longer side: sharp on a card of 160 points on a telephone."""


def save(image: NDArray[np.float64], folder: Path) -> None:
    """Write it into the folder of a result, with the contrast of the other pictures."""
    from PIL import Image

    from stemfit.figures.shades import contrast
    from stemfit.report.pictures import levels, reduced

    small = reduced(image, -(-max(image.shape) // SIDE_PX))
    Image.fromarray(levels(small, *contrast(small))).save(folder / NAME, "JPEG", quality=75, optimize=True)
