"""A mask that the user brings: which pixels are not to be analysed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import InputError, UsageError


def read_mask(path: Path, shape_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (H, W) that are not to be analysed: those that are not zero in the file, as in `mask.tif` of a result.

    Parameters
    ----------
    path : Path
        TIFF, PNG or NPY.
    shape_px : (H, W)
        Of the image.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    UsageError
        If it is not a mask of this image, or leaves nothing to analyse.
    """
    values = _values(path)
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = values[..., :3].max(2)
    if values.shape != shape_px:
        size = " x ".join(map(str, values.shape[::-1]))
        raise UsageError(
            f"{path}: a mask of {size} px for an image of {shape_px[1]} x {shape_px[0]} px",
            remedy="draw it on the image itself; 0 is analysed, all else is not",
        )
    masked = np.asarray(np.nan_to_num(values) != 0)
    if masked.all():
        raise UsageError(
            f"{path}: the mask leaves no pixel to analyse", remedy="0 is analysed, all else is not: invert it"
        )
    return masked


def _values(path: Path) -> NDArray[np.generic]:
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if path.suffix.lower() == ".png":
            from PIL import Image

            with Image.open(path) as opened:
                return np.asarray(opened)
        import tifffile

        return np.asarray(tifffile.imread(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", remedy="check the path of --mask") from None
    except Exception as error:  # parsers fail in every possible way
        raise InputError(f"{path}: cannot be read as a mask ({error})", remedy="use TIFF, PNG or NPY") from error
