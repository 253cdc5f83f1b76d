"""One image from a file, an array or a signal in memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stemfit.errors import UsageError
from stemfit.micrograph.check import MEMORY_LIMIT_BYTES, check_size, checked
from stemfit.micrograph.choice import choose
from stemfit.micrograph.files import sha256, signals_of
from stemfit.micrograph.microscope import Optics
from stemfit.micrograph.rosetta import signal_in_memory
from stemfit.micrograph.scale import agreed
from stemfit.micrograph.stack import image_of
from stemfit.micrograph.types import Frame, Micrograph, Signal


def read(
    path: Path | str,
    *,
    pixel_size_A: float | None = None,
    frame: Frame | None = None,
    signal: str | None = None,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> Micrograph:
    """Read one image from a TIFF, PNG, dm3, dm4, emd, ser, emi, mrc, hspy or zspy file.

    Parameters
    ----------
    path : path
    pixel_size_A : float, optional
        Wins over what the file states.
    frame : int, "mean" or "aligned", optional
        Which image of a stack, counted from 0, or how all of them become one.
    signal : str, optional
        Name or number, from 0, of a signal in a file with several; the annular dark field without.
    memory_limit_bytes : int
        Largest working memory that the analysis may need; larger images are refused from their header.

    Returns
    -------
    Micrograph

    Raises
    ------
    InputError
        The file is missing, unreadable or truncated.
    NotAnalysable
        A stack without `frame`, a colour, complex, bright-field or diffraction image, or one that is too small, too
        large, constant or not finite.
    UsageError
        `frame`, `signal` or `pixel_size_A` out of range.
    """
    path = Path(path)
    _check_scale(pixel_size_A)
    with signals_of(path) as signals:
        chosen, told = choose(path, signals, signal)
        return _one_image(path, chosen, pixel_size_A, frame, memory_limit_bytes, lambda: sha256(path), told)


def from_array(image: ArrayLike, pixel_size_A: float | None = None, name: str = "array") -> Micrograph:
    """Make a micrograph of an image in memory.

    Parameters
    ----------
    image : (H, W) array
        Or (H, W, C) with equal colours.
    pixel_size_A : float, optional
    name : str
        What the result calls it.

    Raises
    ------
    NotAnalysable, UsageError
        As `read`.
    """
    values = np.asarray(image)
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] <= 4)):
        shape = " x ".join(map(str, values.shape))
        raise UsageError(f"an array of {shape} values is no image", remedy="give (H, W)", subject=name)
    _check_scale(pixel_size_A)
    given = Signal(None, (values.shape[0], values.shape[1]), 1, lambda index: values)
    return _one_image(Path(name), given, pixel_size_A, None, MEMORY_LIMIT_BYTES, lambda: _sha256(values))


def from_signal(signal: Any, pixel_size_A: float | None = None, frame: Frame | None = None) -> Micrograph:
    """Make a micrograph of a HyperSpy signal, or of anything that has its attributes; HyperSpy is not needed.

    Parameters
    ----------
    signal : object
        With `data`, `axes_manager.signal_axes` and `.navigation_axes` (`index_in_array`, `size`, `scale`, `units`) and
        `metadata.General.title`.
    pixel_size_A : float, optional
        Wins over what the signal states.
    frame : int, "mean" or "aligned", optional
        Of a stack, as in `read`.

    Raises
    ------
    NotAnalysable, UsageError
        As `read`.
    """
    _check_scale(pixel_size_A)
    one = signal_in_memory(signal)
    name = Path(one.name or "signal")
    chosen, _ = choose(name, [one], None)
    return _one_image(name, chosen, pixel_size_A, frame, MEMORY_LIMIT_BYTES, lambda: _sha256(signal.data))


def _one_image(
    path: Path, chosen: Signal, pixel_size_A: float | None, frame: Frame | None, memory_limit_bytes: int,
    digest: Callable[[], str], told: tuple[str, ...] = (),
) -> Micrograph:
    check_size(path, chosen.shape_px, memory_limit_bytes)
    stated, source, doubts = agreed(path, chosen.scales, pixel_size_A)
    values, taken, of_stack = image_of(path, chosen, frame)
    return Micrograph(
        image=checked(path, values),
        path=path,
        sha256=digest(),
        dtype=values.dtype.name,
        pixel_size_A=stated if pixel_size_A is None else pixel_size_A,
        pixel_size_source=source if pixel_size_A is None else "user",
        signal=chosen.name,
        frame=taken,
        metadata_pixel_size_A=stated,
        stated_voltage_kV=chosen.optics.voltage_kV,
        stated_convergence_mrad=chosen.optics.convergence_mrad,
        stated_detector_mrad=chosen.optics.detector_mrad,
        warnings=(*told, *of_stack, *doubts, *_impossible(chosen.optics)),
    )


def _impossible(optics: Optics) -> tuple[str, ...]:
    if not optics.impossible:
        return ()
    return (f"the file states {' and '.join(optics.impossible)}, which cannot be: not used",)


def _check_scale(pixel_size_A: float | None) -> None:
    if pixel_size_A is not None and not (math.isfinite(pixel_size_A) and pixel_size_A > 0):
        raise UsageError(f"pixel size {pixel_size_A}", remedy="give it in Angstrom, greater than 0")


def _sha256(values: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
