"""Arrays as PNG files of eight bits: image, model and residual, small enough to stand in a page."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemfit.analysis import Analysis
from stemfit.figures.panels import STRONG_RESIDUAL
from stemfit.figures.shades import SIGNED, colour_map, contrast

FloatArray = NDArray[np.float64]

LARGEST_PX = 2048
"""Longer sides are averaged down: a page of 4096 px would be larger than most mailboxes take."""

UNKNOWN = 0
"""Palette entry of pixels that have no value; the others are 1 to 255."""

GREY_BLUE = (154, 164, 178)


@dataclass(frozen=True)
class Pictures:
    """What a page shows of the pixels.

    Attributes
    ----------
    image, simulated, residual : str
        PNG as a data address.
    shrunk : int
        Pixels of the image along each side that one of these pixels is the mean of.
    low, high : float
        Image units that are black and white.
    """

    image: str
    simulated: str
    residual: str
    shrunk: int
    low: float
    high: float


def pictures(analysis: Analysis) -> Pictures:
    """Image and model with the same contrast, the residual in units of the noise."""
    shrunk = -(-max(analysis.image.shape) // LARGEST_PX)
    image, simulated = reduced(analysis.image, shrunk), reduced(analysis.simulated, shrunk)
    low, high = contrast(image[np.isfinite(simulated)])
    noise = np.sqrt(analysis.noise.variance(analysis.simulated))
    strength = reduced(analysis.residual / noise, shrunk)
    return Pictures(
        data_address(levels(image, low, high), greys()),
        data_address(levels(simulated, low, high), greys()),
        data_address(levels(strength, -STRONG_RESIDUAL, STRONG_RESIDUAL), signed()),
        shrunk, low, high,
    )  # fmt: skip


def reduced(values: FloatArray, by: int) -> FloatArray:
    """Mean of squares of `by` pixels a side; of those at the lower and right edge that are not whole, what there is."""
    if by == 1:
        return values
    pad = [(0, -side % by) for side in values.shape]
    tall = np.pad(values, pad, constant_values=np.nan)
    blocks = tall.reshape(tall.shape[0] // by, by, tall.shape[1] // by, by)
    known = np.isfinite(blocks)
    total, n = np.where(known, blocks, 0.0).sum(axis=(1, 3)), known.sum(axis=(1, 3))
    return np.asarray(np.where(n > 0, total / np.maximum(n, 1), np.nan))


def levels(values: FloatArray, low: float, high: float) -> NDArray[np.uint8]:
    """Palette entries 1 to 255 between two values, `UNKNOWN` where there is none."""
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1)
    return np.where(known, np.rint(1 + 254 * share), UNKNOWN).astype(np.uint8)


def greys() -> NDArray[np.uint8]:
    """Palette (256, 3) from black to white."""
    steps = np.rint(np.linspace(0, 255, 255))
    return np.vstack([GREY_BLUE, np.repeat(steps[:, None], 3, axis=1)]).astype(np.uint8)


def signed() -> NDArray[np.uint8]:
    """Palette (256, 3) from blue (the model is too bright) by white to red (too dark), as in the figures."""
    ramp = colour_map(SIGNED)(np.linspace(0, 1, 255))[:, :3]
    return np.vstack([GREY_BLUE, np.rint(255 * ramp)]).astype(np.uint8)


def data_address(entries: NDArray[np.uint8], palette: NDArray[np.uint8]) -> str:
    """PNG of palette entries, as an address that holds the whole file."""
    from PIL import Image

    picture = Image.fromarray(entries)
    picture.putpalette(palette.ravel().tolist())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode("ascii")
