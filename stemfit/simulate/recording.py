"""What becomes of a simulated image: counts, and a TIFF that says how it was made."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import OutputError, UsageError

FloatArray = NDArray[np.float64]

SCHEMA = "stemfit.simulate/1"

MOST_DOSE = 1e12
"""Electrons per square Angstrom from which a pixel's noise is lost in single precision."""


def counts(fraction: FloatArray, dose_per_A2: float, pixel_A: float, seed: int) -> FloatArray:
    """Electrons that hit the detector while the beam stays on each pixel, Poisson-distributed.

    Parameters
    ----------
    fraction : (H, W) array
        Share of the beam; what the Fourier series leaves below 0 counts as 0.
    dose_per_A2 : float
        Electrons of the beam per square Angstrom.
    pixel_A : float
    seed : int

    Raises
    ------
    UsageError
        For a dose that is none.
    """
    check_dose(dose_per_A2)
    expected = fraction.clip(0, None) * dose_per_A2 * pixel_A**2
    return np.random.default_rng(seed).poisson(expected).astype(np.float64)


def check_dose(dose_per_A2: float) -> None:
    """Refuse what cannot be counted.

    Raises
    ------
    UsageError
    """
    if not 0 < dose_per_A2 <= MOST_DOSE:
        what = f"dose {dose_per_A2:g} e/A^2 is none that can be counted"
        raise UsageError(what, remedy="give electrons per square Angstrom, usually 1e3 to 1e7, or leave --dose out")


def write_image(out: Path, image: FloatArray, pixel_A: float, made: Mapping[str, Any]) -> None:
    """Write a float32 TIFF with its scale (as ImageJ has it) and, as JSON in the description, how it was made.

    It is written under a temporary name and renamed.

    Raises
    ------
    UsageError, OutputError
        As `check_out`, or if the disk is full.
    """
    import tifffile

    check_out(out)
    said = json.dumps({"schema": SCHEMA, **made}, allow_nan=False)
    try:
        handle, staged = tempfile.mkstemp(prefix=f".tmp-{out.name}-", suffix=".tif", dir=out.parent)
        os.close(handle)
        try:
            scale = (10.0 / pixel_A, 10.0 / pixel_A)
            tifffile.imwrite(staged, image.astype(np.float32), imagej=True, resolution=scale,
                             metadata={"unit": "nm", "stemfit": said})  # fmt: skip
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(staged, 0o666 & ~mask)  # mkstemp's file is private, a result is not
            os.replace(staged, out)
        finally:
            Path(staged).unlink(missing_ok=True)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise OutputError(what, remedy="choose another --out, or make room", subject=out) from error


def check_out(out: Path) -> None:
    """Find out before a long simulation whether the image could be written.

    Raises
    ------
    UsageError
        If its name is not that of a TIFF.
    OutputError
        If something stands there that `write_image` has not written, or the folder is missing or not writable.
    """
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"--out {out} is no TIFF by its name", remedy="give a name that ends in .tif or .tiff")
    if os.path.lexists(out) and how_made(out) is None:
        what = "something that is no simulated image stands there already"
        raise OutputError(what, remedy="move it away or choose another --out", subject=out)
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out.parent} is not a writable folder", remedy="choose another --out", subject=out)


def how_made(path: Path) -> dict[str, Any] | None:
    """What `write_image` noted in a file, None if it has not written it."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            noted = json.loads(str((tiff.imagej_metadata or {}).get("stemfit")))
    except (OSError, ValueError, tifffile.TiffFileError):
        return None
    return dict(noted) if isinstance(noted, dict) and noted.get("schema") == SCHEMA else None
