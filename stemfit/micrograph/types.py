"""What a file holds, and what one image of it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.micrograph.microscope import Optics

Frame = int | Literal["mean", "aligned"]
"""Image of a stack, counted from 0; the mean of all; their mean after they were shifted onto each other."""


@dataclass(frozen=True)
class Micrograph:
    """One 2-D image.

    Attributes
    ----------
    image : (H, W) float64 array
        Image units as stored.
    path : Path
        The file; the name of an array that comes from none.
    sha256 : str
        Of the file's bytes; of the array's where there is no file.
    dtype : str
        As stored in the file.
    pixel_size_A : float or None
        As stated by the file or the user; None when unknown.
    pixel_size_source : str or None
        "user", or who said so: a tag ("ImageJ", "OME", "FEI", "resolution", ...) or a format ("Velox", "MRC", ...).
    signal : str or None
        Name of the signal, where the file names it.
    frame : int, "mean", "aligned" or None
        What was taken from a stack; frames are counted from 0.
    metadata_pixel_size_A : float or None
        As stated by the file, also where the user's wins.
    stated_voltage_kV, stated_convergence_mrad : float or None
        Acceleration voltage and semi-angle of the probe that the file states.
    stated_detector_mrad : (inner, outer) or None
        Of the annular detector of this signal, as the file states it.
    warnings : tuple of str
        What the user must know of the reading: which signal was taken, how many frames, scales that contradict.
    """

    image: NDArray[np.float64]
    path: Path
    sha256: str
    dtype: str
    pixel_size_A: float | None
    pixel_size_source: str | None
    signal: str | None
    frame: Frame | None
    metadata_pixel_size_A: float | None = None
    stated_voltage_kV: float | None = None
    stated_convergence_mrad: float | None = None
    stated_detector_mrad: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()


class Scale(NamedTuple):
    """Size of a pixel, as one source states it.

    Attributes
    ----------
    source : str
    x_A, y_A : float
        Width and height in Angstrom; in 1/Angstrom where `reciprocal`.
    reciprocal : bool
        In a unit like 1/nm: not the specimen, but its diffraction.
    """

    source: str
    x_A: float
    y_A: float
    reciprocal: bool = False


@dataclass(frozen=True)
class Signal:
    """An image or a stack of images in a file; pixels are not read before they are asked for.

    Attributes
    ----------
    name : str or None
    shape_px : (H, W)
    frames : int
    load : callable
        From the index of a frame to its pixels as stored, (H, W), or (H, W, C) with colours.
    scales : tuple of Scale
        The most specific first.
    optics : Optics
        What the file states of the microscope.
    """

    name: str | None
    shape_px: tuple[int, int]
    frames: int
    load: Callable[[int], NDArray[Any]]
    scales: tuple[Scale, ...] = ()
    optics: Optics = Optics()  # noqa: RUF009
