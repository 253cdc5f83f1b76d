"""Read an image and its scale: the only place where files become pixels and pixels become Angstrom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Micrograph:
    """One 2-D image.

    Attributes
    ----------
    image : (H, W) float64 array
        Image units as stored.
    path : Path
    sha256 : str
        Of the file's bytes.
    dtype : str
        As stored in the file.
    pixel_size_A : float or None
        As stated by the file or the user; None when unknown.
    pixel_size_source : str or None
        "user", or which tag said so ("ImageJ", "OME", "FEI", "resolution").
    signal : str or None
        Name of the signal that was chosen in a file with several.
    frame : int or None
        Frame taken from a stack.
    """

    image: NDArray[np.float64]
    path: Path
    sha256: str
    dtype: str
    pixel_size_A: float | None
    pixel_size_source: str | None
    signal: str | None
    frame: int | None
