"""Where the crystal is turned: the main grain, other grains and turned layers on top, from the image's planes alone.

The three first-order spots are turned through all angles, in the frame of the undistorted crystal, and the local
amplitude at each angle says which orientation is there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, gaussian_filter1d, map_coordinates

from stemfit.lattice.spots import polished
from stemfit.lattice.windows import Points, Spectrum, amplitude, points, spectrum

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

STEP_DEG = 1.5
"""Between the angles tried: a window of `WIDE` cells answers to angles within 2.6 degrees (standard deviation)."""

WIDE = 3.0
"""Standard deviation of the window in which an orientation is read, in lattice constants."""

NARROW = 1.5
"""The same of the window that says where a grain ends."""

SPREAD_DEG = float(np.degrees(np.sqrt(0.75) / (2 * np.pi * WIDE)))
"""Standard deviation of that answer over angles: of the window's transform, 1 / (2 pi WIDE a), seen from the spots'
distance, 2 / (sqrt(3) a)."""

LEAST_TURN_DEG = 3.0
"""Smaller turns pass for distortion of the scan: a strain of 2 % turns a crystal by 1.1 degrees either way."""

SIGNIFICANT = 4.0
"""Amplitude over the rms of the noise at the same frequency. Noise amplitudes are Rayleigh: 4 is passed by one window
in 1e7, and three spots have to pass."""

PRESENT = 0.5
"""Amplitude relative to that of the main grain from which the same crystal is there."""

LEAST_CELLS = 30.0
"""A smaller grain has no room for one window."""

MOST = 8
"""Orientations that are looked for beside the main one."""


class Grain(NamedTuple):
    """Another orientation.

    Attributes
    ----------
    turn_deg : float
        From the main grain, counter-clockwise as displayed, -30 to 30.
    area : (H, W) bool array
    amplitude : float
        Median in the area, over that of the main grain.
    main : float
        What is left there of the main grain's amplitude.
    on_top : bool
        The main lattice goes on there.
    """

    turn_deg: float
    area: BoolArray
    amplitude: float
    main: float
    on_top: bool


def turned(g: FloatArray, degrees: float) -> FloatArray:
    """Reciprocal vectors (2, 2) of the same crystal turned in the sample, counter-clockwise as displayed.

    The scan stretches both grains alike, so the turn stands between the stretch of the scan and its inverse.

    Parameters
    ----------
    g : (2, 2) array
        Rows 60 degrees apart in the undistorted crystal, cycles per px (x, y).
    """
    regular = np.array([[1.0, 0.5], [0.0, np.sqrt(0.75)]])
    shape = g.T @ np.linalg.inv(regular)
    u, s, _ = np.linalg.svd(shape)
    stretch = u @ np.diag(s) @ u.T
    c, n = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, n], [-n, c]])  # y is drawn downwards
    return np.asarray(g @ (stretch @ turn @ np.linalg.inv(stretch)).T)


class Scan(NamedTuple):
    """Amplitudes (angles, h, w) of the three spots' geometric mean, at `at`; `noise` (h, w) is their rms of noise."""

    angles: FloatArray
    strength: FloatArray
    noise: FloatArray
    at: Points


def scan(of: Spectrum, g: FloatArray, a_px: float) -> Scan:
    """Turn the spots through all angles; the noise is what the quieter half of all amplitudes shows."""
    angles = np.arange(-30.0, 30.0, STEP_DEG)
    sigma = WIDE * a_px
    single = np.stack([spots(of, turned(g, t), sigma) for t in angles])  # (angles, 3, h, w)
    strength = np.cbrt(single.prod(1))
    # A quarter of Rayleigh amplitudes lies below sqrt(ln(4/3)) rms; grains raise few of the angles.
    quiet = np.quantile(single.reshape(-1, *single.shape[2:]), 0.25, axis=0) / np.sqrt(np.log(4 / 3))
    return Scan(angles, strength, quiet, points(of, sigma))


def spots(of: Spectrum, g: FloatArray, sigma_px: float) -> FloatArray:
    """Amplitudes (3, h, w) at the three first-order spots."""
    return np.stack([np.abs(amplitude(of, k, sigma_px)).astype(np.float64) for k in (g[0], g[1], g[1] - g[0])])


def orientation(of: Scan) -> tuple[FloatArray, FloatArray]:
    """Angle of the strongest answer at every point, by the parabola through three logarithms, and that answer."""
    n = len(of.angles)
    best = of.strength.argmax(0)
    around = [np.take_along_axis(of.strength, ((best + k) % n)[None], 0)[0] for k in (-1, 0, 1)]
    low, mid, high = (np.log(np.maximum(v, 1e-300)) for v in around)
    bend = np.minimum(low - 2 * mid + high, -1e-9)
    return of.angles[best] + STEP_DEG * np.clip(0.5 * (low - high) / bend, -0.5, 0.5), around[1]


def folded(degrees: FloatArray) -> FloatArray:
    """Angles between -30 and 30 that are the same to a hexagonal crystal."""
    return (degrees + 30.0) % 60.0 - 30.0


def principal_turn(of: Scan) -> tuple[float, BoolArray]:
    """Turn of the largest grain, and which points (h, w) belong to others.

    Zero, unless another orientation covers more than the one that was assumed.
    """
    angle, strength = orientation(of)
    crystal = strength > SIGNIFICANT * of.noise
    crystal &= strength > PRESENT * np.median(strength[crystal]) if crystal.any() else False
    mode = _mode(angle[crystal])
    own = crystal & (np.abs(folded(angle - mode)) < LEAST_TURN_DEG)
    mode = mode + float(np.median(folded(angle[own] - mode))) if own.any() else mode
    return float(mode), crystal & (np.abs(folded(angle - mode)) >= LEAST_TURN_DEG)


class MainGrain(NamedTuple):
    """Spots (2, 2) of the grain that covers most, the image with the others smoothed away, and where they are not."""

    g: FloatArray
    image: FloatArray
    own: BoolArray


def largest_grain(image: FloatArray, g: FloatArray) -> MainGrain:
    """Find the grain that covers most; where there is one only, spots and image come back as they are.

    Parameters
    ----------
    image : (H, W) array
    g : (2, 2) array
        Spots of any grain, or a mixture of those of neighbouring grains; as of `turned`.
    """
    a_px = float(np.sqrt(2 / np.sqrt(3) / abs(np.linalg.det(g))))
    of = spectrum(image, WIDE * a_px)
    main = MainGrain(g, image, np.ones(image.shape, dtype=bool))
    for _ in range(2):
        around = scan(of, main.g, a_px)
        turn, others = principal_turn(around)
        if others.sum() * np.prod(around.at.step) < LEAST_CELLS * 0.5 * np.sqrt(3) * a_px**2:
            break
        own = around.at.spread(others.astype(np.float64), image.shape) < 0.5
        flat = np.where(own, image, gaussian_filter(image, a_px))
        main = MainGrain(polished(flat, turned(main.g, turn)), flat, own)
    return main


def other_grains(image: FloatArray, g: FloatArray, a_px: float) -> tuple[Grain, ...]:
    """Orientations beside the one whose spots are g, the largest first; other grains do not overlap.

    Parameters
    ----------
    image : (H, W) array
    g : (2, 2) array
        As of `turned`.
    a_px : float
        Lattice constant.
    """
    of = spectrum(image, WIDE * a_px)
    wide = scan(of, g, a_px)
    shown = _beside(wide)
    if shown is None:
        return ()
    angle, strength, present, main = shown
    least = LEAST_CELLS * 0.5 * np.sqrt(3) * a_px**2 / np.prod(wide.at.step)
    at, narrow = points(of, NARROW * a_px), NARROW * a_px
    here = np.cbrt(spots(of, g, narrow).prod(0))
    found = []
    for turn, its in _turns(angle, present, least):
        near = _reached(at, wide.at, binary_dilation(its, np.ones((3, 3), dtype=bool), iterations=2)) > 0.5
        found.append((turn, its, np.where(near, np.cbrt(spots(of, turned(g, turn), narrow).prod(0)), 0.0)))
    strongest = np.max([here, *(there for _, _, there in found)], axis=0)
    grains = []
    for turn, its, there in found:
        left = float(np.median(wide.strength[_zero(wide)][its])) / main
        on_top = left - float(np.exp(-0.5 * (turn / SPREAD_DEG) ** 2)) > PRESENT
        usual = PRESENT * float(np.median(there[there > 0]))
        rival = np.where(there > usual, 0.0, np.inf) if on_top else np.where(there < strongest, strongest, here)
        area = at.spread(there - np.minimum(rival, 1e3 * there.max()), image.shape) > 0
        grains.append(Grain(turn, area, float(np.median(strength[its])) / main, left, on_top))
    return tuple(grains)


def _turns(angle: FloatArray, present: BoolArray, least: float) -> list[tuple[float, BoolArray]]:
    """Frequent angles, and the points that show them."""
    found: list[tuple[float, BoolArray]] = []
    while present.any() and len(found) < MOST:
        turn = _mode(angle[present])
        its = present & (np.abs(folded(angle - turn)) < LEAST_TURN_DEG)
        if its.sum() < least:
            break
        found.append((turn + float(np.median(folded(angle[its] - turn))), its))
        present = present & ~its
    return found


def _zero(of: Scan) -> int:
    return int(np.argmin(np.abs(of.angles)))


def _mode(angles: FloatArray) -> float:
    """Most frequent of many angles, to a degree."""
    if not len(angles):
        return 0.0
    counts = np.histogram(angles, bins=60, range=(-30, 30))[0].astype(float)
    return float(np.argmax(gaussian_filter1d(counts, 1.0, mode="wrap"))) - 29.5


def _beside(of: Scan) -> tuple[FloatArray, FloatArray, BoolArray, float] | None:
    """The strongest orientation beside the main one at every point: angle, amplitude, whether it is there.

    Where the main one is the strongest, only angles are asked that its own spots do not reach. The last value is the
    amplitude of the main one.
    """
    angle, strength = orientation(of)
    own = np.abs(angle) < LEAST_TURN_DEG
    if not own.any():
        return None
    main = float(np.median(of.strength[_zero(of)][own]))
    apart = np.abs(of.angles) > LEAST_TURN_DEG + 2 * SPREAD_DEG
    far = orientation(of._replace(strength=np.where(apart[:, None, None], of.strength, 0.0)))
    angle, strength = np.where(own, far[0], angle), np.where(own, far[1], strength)
    return angle, strength, strength > np.maximum(SIGNIFICANT * of.noise, PRESENT * main), main


def _reached(at: Points, of: Points, flags: BoolArray) -> FloatArray:
    """Flags on coarser points, on finer ones."""
    where = [np.arange(n) * s / t for n, s, t in zip(at.number, at.step, of.step, strict=True)]
    grid = np.meshgrid(*where, indexing="ij")
    return np.asarray(map_coordinates(flags.astype(np.float64), grid, order=1, mode="nearest"))
