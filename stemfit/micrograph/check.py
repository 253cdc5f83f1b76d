"""What can be analysed, and why the rest cannot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import InputError, NotAnalysable

WORKING_BYTES_PER_PIXEL = 450
"""What an analysis holds per pixel at its peak, libraries aside: measured 420 on 1024 x 1024 px with 26 px per lattice
constant; the windows of the columns make it 900 with 14 px."""

MEMORY_LIMIT_BYTES = 8 * 2**30
"""19 million pixels: 4096 x 4096 passes."""

MIN_SIDE_PX = 64
"""Eight unit cells of 7 px. Columns closer than 4 px merge, so a = sqrt(3) x 4 px is the finest usable lattice, and
with fewer than eight cells a side the spots of the Fourier transform are too wide to tell the cell's shear."""


LONGEST_SIDE_PX = 10**6
"""A thousand times what is recorded."""


def check_size(path: Path, shape_px: tuple[int, int], memory_limit_bytes: int) -> None:
    """Judge the shape that the header states, before a pixel is read.

    Raises
    ------
    InputError
        If no image has it.
    NotAnalysable
        If it is too small or too large to be analysed.
    """
    height, width = shape_px
    if min(height, width) < MIN_SIDE_PX:
        problem = f"{width} x {height} px is too small, {MIN_SIDE_PX} px a side are needed"
        raise NotAnalysable(problem, remedy="record a larger field; a finer sampling does not help", subject=path)
    if max(height, width) > LONGEST_SIDE_PX:
        problem = f"states an image of {width} x {height} px, which nobody records: its header is damaged"
        raise InputError(problem, remedy="copy it again from where it was recorded", subject=path)
    needed = height * width * WORKING_BYTES_PER_PIXEL
    if needed > memory_limit_bytes:
        side = math.isqrt(memory_limit_bytes // WORKING_BYTES_PER_PIXEL)
        problem = (
            f"{width} x {height} px would need {needed / 2**30:.0f} GiB of memory, "
            f"the limit is {memory_limit_bytes / 2**30:.0f} GiB"
        )
        raise NotAnalysable(problem, remedy=f"crop or bin it to {side} x {side} px or less", subject=path)


def checked(path: Path, values: NDArray[Any]) -> NDArray[np.float64]:
    """A copy of an image (H, W) as float64, or why it cannot be analysed."""
    image = np.array(real(path, values), dtype=np.float64, order="C")
    bad = 1.0 - np.isfinite(image).mean()
    if bad > 0:
        problem = f"{100 * bad:.3g} % of the pixels are NaN or infinite"
        raise NotAnalysable(problem, remedy="crop to the part that was recorded", subject=path)
    if image.min() == image.max():
        problem = f"constant image, every pixel is {image.flat[0]:g}"
        raise NotAnalysable(problem, remedy="export the recorded signal instead", subject=path)
    return image


def real(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    """Pixels (H, W), of (H, W, C) with equal colours the first channel, or why they are no real numbers."""
    if values.dtype.names is not None and set(values.dtype.names) <= set("RGBA"):
        values = np.stack([values[name] for name in "RGBA" if name in values.dtype.names], axis=-1)
    if values.ndim == 3:
        values = grey(path, values)
    if values.dtype.kind == "c":
        remedy = "give the annular dark field image; a phase or its transform has no bright atoms"
        raise NotAnalysable(f"holds complex numbers ({values.dtype.name})", remedy=remedy, subject=path)
    if values.dtype.kind not in "buif":
        remedy = "export it with real-valued pixels"
        raise NotAnalysable(f"holds {values.dtype.name} values", remedy=remedy, subject=path)
    return values


def in_colour(values: NDArray[Any]) -> tuple[str, ...]:
    """What to tell of pixels that are stored with colours, which `real` has found to be equal."""
    names = values.dtype.names or ()
    if not (values.ndim == 3 and values.shape[2] > 2) and not {"R", "G"} <= set(names):
        return ()
    return (
        "a picture in colour whose channels are equal is read as grey: pictures made to be looked at are often "
        "clipped, resampled or marked with a scale bar; give the recorded signal where there is one",
    )


def grey(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    """One channel of an (H, W, C) image whose colour channels are equal; a last alpha channel is left out."""
    channels = values.shape[2]
    colours = values[..., : channels - 1 if channels in (2, 4) else channels]
    if np.any(colours != colours[..., :1]):
        remedy = "export the recorded signal as a greyscale image, without overlays"
        raise NotAnalysable(f"a colour image ({channels} channels that differ)", remedy=remedy, subject=path)
    return values[..., 0]
