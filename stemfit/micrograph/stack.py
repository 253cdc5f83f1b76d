"""One image of a stack: a frame, the mean of all, or their mean after the drift between them was taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import NotAnalysable, UsageError
from stemfit.micrograph.check import MIN_SIDE_PX, in_colour, real
from stemfit.micrograph.types import Frame, Signal

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

STEPS_PER_PX = 20
"""Of the drift. Columns are a few pixels wide, whose mean is not widened by a twentieth of one."""

FINE = 0.35
"""Cycles per pixel beyond which there is noise alone: columns are at least two pixels wide."""

SILENT = 5.0
"""Frequencies whose power is not this many times that of the noise are left out: one in 150 of those without signal is
higher. They would shift the peak, and the more the finer they are."""


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
        values = signal.load(0)
        return real(path, values), None, in_colour(values)
    if isinstance(frame, int):
        values = signal.load(frame)
        return real(path, values), frame, in_colour(values)
    colours = in_colour(signal.load(0))
    if frame == "aligned":
        values, frame, told = _aligned(path, signal)
        return values, frame, (*told, *colours)
    total = sum(_finite(path, signal, k) for k in range(signal.frames))
    return np.asarray(total) / signal.frames, frame, (f"the mean of {signal.frames} frames, as they lie", *colours)


def _finite(path: Path, signal: Signal, index: int) -> FloatArray:
    values = np.asarray(real(path, signal.load(index)), dtype=np.float64)
    if not np.isfinite(values).all():
        remedy = "choose a frame without, --frame N"
        raise NotAnalysable(f"frame {index} holds NaN or infinite pixels", remedy=remedy, subject=path)
    return values


# -- rigid alignment -----------------------------------------------------------------------------------------------


def _aligned(path: Path, signal: Signal) -> tuple[FloatArray, Frame, tuple[str, ...]]:
    """Mean of the frames over the area that all of them show, in the place of the first frame.

    Every frame is compared with the mean of those before it, beginning where the frame before it lay.
    """
    from scipy.ndimage import shift

    total = _finite(path, signal, 0)
    shape, drifts = total.shape, np.zeros((signal.frames, 2))
    weight = np.ones(shape)
    for k in range(1, signal.frames):
        frame = _finite(path, signal, k)
        drifts[k] = _drift(path, total / np.maximum(weight, 1.0), k, frame, drifts[k - 1])
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


def _drift(path: Path, reference: FloatArray, count: int, frame: FloatArray, before: FloatArray) -> FloatArray:
    """Where `frame` shows what `reference`, the mean of `count` frames, shows: (y, x) in px, near `before`.

    The peak of the cross-correlation. A crystal fits onto itself after every lattice vector, so that there are many,
    and noise decides which is the highest: of those that noise cannot tell apart the nearest is taken. Without noise,
    what is not periodic in the image tells them apart.
    """
    whole = np.round(before).astype(int)
    here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(whole, frame.shape, strict=True))
    there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(whole, frame.shape, strict=True))
    one, two = reference[here], frame[there]
    if min(one.shape) < MIN_SIDE_PX:
        raise _lost(path)
    # The window takes the edges out, which would hold the frames where they are.
    window = np.outer(np.hanning(one.shape[0]), np.hanning(one.shape[1]))
    first, second = (np.fft.fft2(window * (image - image.mean())) for image in (one, two))
    noise = _noise(second)
    heard = np.maximum(0.0, 1 - SILENT * noise / count / np.maximum(np.abs(first) ** 2, 1e-300))
    cross = heard * second * first.conj()
    variance = np.sum(heard**2 * (np.abs(first) ** 2 * noise + np.abs(second) ** 2 * noise / count))
    step = _nearest_peak(np.fft.ifft2(cross).real, float(np.sqrt(variance)) / second.size)
    return whole + step + _fraction(cross, step)


def _noise(spectrum: ComplexArray) -> float:
    """Power of white noise in the transform of an image."""
    y, x = (np.abs(np.fft.fftfreq(n)) for n in spectrum.shape)
    fine = (y[:, None] ** 2 + x**2) > FINE**2
    return float(np.median(np.abs(spectrum[fine]) ** 2) / np.log(2))  # of an exponential distribution


def _nearest_peak(correlation: FloatArray, sigma: float) -> FloatArray:
    """The step (y, x) in whole pixels, of all peaks as high as the highest within three of their differences' sigma."""
    from scipy.ndimage import maximum_filter

    high = correlation >= correlation.max() - 3 * np.sqrt(2) * sigma
    peaks = np.argwhere(high & (correlation == maximum_filter(correlation, 3, mode="wrap")))
    shape = np.array(correlation.shape)
    steps = (peaks + shape // 2) % shape - shape // 2
    return np.asarray(steps[np.argmin(np.sum(steps**2, axis=1))], dtype=np.float64)


def _fraction(cross: ComplexArray, step: FloatArray) -> FloatArray:
    """What the peak lies beside `step`, by Fourier sums (Guizar-Sicairos et al., Opt. Lett. 33, 156 (2008), Sec. 2)."""
    fine = np.arange(-STEPS_PER_PX, STEPS_PER_PX + 1) / STEPS_PER_PX
    rows, columns = (
        np.exp(2j * np.pi * np.outer(step[axis] + fine, np.fft.fftfreq(cross.shape[axis]))) for axis in (0, 1)
    )
    around = (rows @ cross @ columns.T).real
    return fine[list(np.unravel_index(np.argmax(around), around.shape))]


def _lost(path: Path) -> NotAnalysable:
    problem = f"its frames drifted so far that less than {MIN_SIDE_PX} px are common to all"
    return NotAnalysable(problem, remedy="choose a part of the stack, or one frame with --frame N", subject=path)
