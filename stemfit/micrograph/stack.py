"""One image of a stack: a frame, the mean of all, or their mean after the drift between them was taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import NotAnalysable, UsageError
from stemfit.micrograph.check import MIN_SIDE_PX, real
from stemfit.micrograph.types import Frame, Signal

FloatArray = NDArray[np.float64]

STEPS_PER_PX = 20
"""Of the drift. Columns are a few pixels wide, whose mean is not widened by a twentieth of one."""


def image_of(
    path: Path, signal: Signal, frame: Frame | None
) -> tuple[NDArray[Any], Frame | None, tuple[str, ...]]:
    """Pixels (H, W) of a signal, what was taken of a stack, and what to tell the user of it.

    Raises
    ------
    NotAnalysable
        A stack without `frame`, or one that drifted out of the picture.
    UsageError
        No such frame.
    """
    if frame is None and signal.frames > 1:
        remedy = f"choose one with --frame 0 to {signal.frames - 1}, or --frame mean or aligned"
        raise NotAnalysable(f"a stack of {signal.frames} images", remedy=remedy, subject=path)
    if isinstance(frame, int) and not 0 <= frame < signal.frames:
        remedy = f"choose one with --frame 0 to {signal.frames - 1}" if signal.frames > 1 else "leave --frame out"
        raise UsageError(f"no frame {frame}, the file has {signal.frames}", remedy=remedy, subject=path)
    if signal.frames == 1:
        return real(path, signal.load(0)), None, ()
    if frame == "mean":
        total = sum(_finite(path, signal, k) for k in range(signal.frames))
        return np.asarray(total) / signal.frames, frame, (f"the mean of {signal.frames} frames, as they lie",)
    if frame == "aligned":
        return _aligned(path, signal)
    assert isinstance(frame, int)
    return real(path, signal.load(frame)), frame, ()


def _finite(path: Path, signal: Signal, index: int) -> FloatArray:
    values = np.asarray(real(path, signal.load(index)), dtype=np.float64)
    if not np.isfinite(values).all():
        remedy = "choose a frame without, --frame N"
        raise NotAnalysable(f"frame {index} holds NaN or infinite pixels", remedy=remedy, subject=path)
    return values


# -- rigid alignment -----------------------------------------------------------------------------------------------


def _aligned(path: Path, signal: Signal) -> tuple[FloatArray, Frame, tuple[str, ...]]:
    """Mean of the frames over the area that all of them show, in the place of the first frame.

    Every frame is compared with the mean of those before it, beginning where the frame before it lay: a crystal fits
    onto itself after every lattice vector, and of these the smallest step is taken. Steps of half a lattice constant
    and more from one frame to the next may so be off by a lattice vector.
    """
    from scipy.ndimage import shift

    total = _finite(path, signal, 0)
    shape, drifts = total.shape, np.zeros((signal.frames, 2))
    weight = np.ones(shape)
    for k in range(1, signal.frames):
        frame = _finite(path, signal, k)
        drifts[k] = _drift(path, total / np.maximum(weight, 1.0), frame, drifts[k - 1])
        total += shift(frame, -drifts[k], order=3, mode="constant", cval=0.0)
        weight += shift(np.ones(shape), -drifts[k], order=1, mode="constant", cval=0.0)
    # What the spline does at an edge decays by 0.27 a pixel: two within it, 7 % are left.
    low = np.ceil(np.maximum(-drifts.min(0), 0) + 2 * (drifts.min(0) < 0)).astype(int)
    high = np.array(shape) - np.ceil(np.maximum(drifts.max(0), 0) + 2 * (drifts.max(0) > 0)).astype(int)
    if min(high - low) < MIN_SIDE_PX:
        raise _lost(path)
    common = total[low[0] : high[0], low[1] : high[1]] / signal.frames
    largest = float(np.max(np.linalg.norm(drifts, axis=1)))
    height, width = common.shape
    said = (
        f"the mean of {signal.frames} frames that were shifted onto each other: they drifted by up to {largest:.1f} "
        f"px; {width} x {height} of {shape[1]} x {shape[0]} px are shown by all"
    )
    return common, "aligned", (said,)


def _drift(path: Path, reference: FloatArray, frame: FloatArray, before: FloatArray) -> FloatArray:
    """Where `frame` shows what `reference` shows, (y, x) in px, near `before` (Guizar-Sicairos et al., Opt. Lett. 33,
    156 (2008): the peak of the cross-correlation, refined by Fourier sums).
    """  # noqa: D205
    from skimage.registration import phase_cross_correlation

    whole = np.round(before).astype(int)
    here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(whole, frame.shape, strict=True))
    there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(whole, frame.shape, strict=True))
    one, two = reference[here], frame[there]
    if min(one.shape) < MIN_SIDE_PX:
        raise _lost(path)
    # The window takes the edges out, which would hold the frames where they are, and prefers the smallest step.
    window = np.outer(np.hanning(one.shape[0]), np.hanning(one.shape[1]))
    step, _, _ = phase_cross_correlation(
        window * (one - one.mean()), window * (two - two.mean()), upsample_factor=STEPS_PER_PX, normalization=None
    )
    return np.asarray(whole - step, dtype=np.float64)


def _lost(path: Path) -> NotAnalysable:
    problem = f"its frames drifted so far that less than {MIN_SIDE_PX} px are common to all"
    return NotAnalysable(problem, remedy="choose a part of the stack, or one frame with --frame N", subject=path)
