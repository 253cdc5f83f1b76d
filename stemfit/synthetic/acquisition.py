"""What a microscope does to a noise-free image: dose, scan errors, tails, background, electronics, export."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from stemfit.micrograph import Micrograph
from stemfit.synthetic.gaussians import Crystal, fit_cell, inside

FloatArray = NDArray[np.float64]
WAVES = 8  # enough random directions for a field that has no axis of its own


@dataclass(frozen=True)
class SmoothField:
    """A sum of long waves, of rms 1 over all phases, known at every point.

    Attributes
    ----------
    k : (K, 2) array
        Wave vectors, rad/px.
    phase : (K,) array
        rad.
    """

    k: FloatArray
    phase: FloatArray

    def __call__(self, xy_px: FloatArray) -> FloatArray:
        """Value at (..., 2) points, shape (...)."""
        waves = np.cos(np.asarray(xy_px) @ self.k.T + self.phase)
        return np.asarray(np.sqrt(2 / len(self.phase)) * waves.sum(-1))


def smooth_field(rng: np.random.Generator, shape: tuple[int, int]) -> SmoothField:
    """Waves of 0.8 to 2 times the longer image side: what drifting charge and creep leave in a frame."""
    angle, phase = rng.uniform(0, 2 * np.pi, (2, WAVES))
    k = 2 * np.pi / (max(shape) * rng.uniform(0.8, 2.0, WAVES))
    return SmoothField(np.column_stack([k * np.cos(angle), k * np.sin(angle)]), phase)


@dataclass(frozen=True)
class ScanMap:
    """Where the ideal image ends up in the recorded one.

    A point q of the ideal image (margin removed) is recorded at p = q + u(p), with u the drift, linear in the slow
    scan direction y, plus a smooth distortion. Rows are shifted besides by their jitter, which is noise around this
    map: what lies between two rows has no offset of its own.

    Attributes
    ----------
    shape_px : (H, W)
        Of the recorded image.
    margin_px : int
        By how much the ideal image is larger on each side.
    drift_px : (2,) array
        How far the sample moves in (x, y) from the first to the last row.
    distortion_px : float
        rms of the smooth distortion per axis.
    fields : (SmoothField, SmoothField)
        Its x and y components at rms 1.
    row_offset_px : (H,) array
        How far each row is displaced in x.
    """

    shape_px: tuple[int, int]
    margin_px: int
    drift_px: FloatArray
    distortion_px: float
    fields: tuple[SmoothField, SmoothField]
    row_offset_px: FloatArray

    def displacement(self, xy_px: FloatArray) -> FloatArray:
        """Give u at recorded positions (..., 2), same shape, px."""
        time = xy_px[..., 1:] / (self.shape_px[0] - 1) - 0.5
        smooth = np.stack([field(xy_px) for field in self.fields], -1)
        return np.asarray(self.drift_px * time + self.distortion_px * smooth)

    def to_ideal(self, xy_px: FloatArray) -> FloatArray:
        """Recorded positions (..., 2) to positions in the ideal array."""
        return np.asarray(xy_px - self.displacement(xy_px) + self.margin_px)

    def to_image(self, xy_px: FloatArray) -> FloatArray:
        """Positions (..., 2) in the ideal array to recorded positions, to 1e-10 px.

        The fixed-point iteration contracts by the strain of the map, a few per cent, at each of its 40 steps.
        """
        ideal = np.asarray(xy_px, dtype=float) - self.margin_px
        recorded = ideal
        for _ in range(40):
            recorded = ideal + self.displacement(recorded)
        return recorded


@dataclass(frozen=True)
class Acquisition:
    """How an ideal image is recorded.

    Attributes
    ----------
    counts : float
        Expected electrons in a pixel where the ideal image is 1; infinity for no shot noise at all (then the
        image stays in units of the ideal one).
    jitter_px : float
        rms of the independent x offset of each scan row.
    drift_px : (x, y)
        Movement of the sample during the frame.
    distortion_px : float
        rms of a smooth distortion, per axis.
    tail_fraction, tail_sigma_px : float
        Share of the signal that a wide probe tail spreads.
    background, background_variation : float
        Mean of an additive smooth background (units of the ideal image) and its relative rms.
    gain, offset, read_sigma : float
        Image units per electron, value at no electrons, and signal-independent noise in image units.
    dtype : str
        "float32", "uint16" (rounded, clipped) or "uint8" (stretched to 0..255, as exports do).
    margin_px : int
        Border of the ideal image that is given up to drift and distortion.
    """

    counts: float = np.inf
    jitter_px: float = 0.0
    drift_px: tuple[float, float] = (0.0, 0.0)
    distortion_px: float = 0.0
    tail_fraction: float = 0.0
    tail_sigma_px: float = 10.0
    background: float = 0.0
    background_variation: float = 0.3
    gain: float = 1.0
    offset: float = 0.0
    read_sigma: float = 0.0
    dtype: str = "float32"
    margin_px: int = 0


@dataclass(frozen=True)
class Recording:
    """What the microscope wrote, and what it should have written.

    Attributes
    ----------
    image : (H, W) array of the acquisition's dtype
    expected : (H, W) float64 array
        Noise-free signal, electrons (ideal units at infinite counts).
    gain, offset : float
        image = gain * electrons + offset, apart from noise, rounding and clipping.
    scan : ScanMap
    """

    image: NDArray[np.generic]
    expected: FloatArray
    gain: float
    offset: float
    scan: ScanMap


def acquire(ideal: FloatArray, how: Acquisition, seed: int = 0) -> Recording:
    """Record a noise-free image the way a real microscope would.

    Parameters
    ----------
    ideal : (H + 2 margin, W + 2 margin) array
        Noise-free, not negative. Its values between pixels are taken from a cubic spline, so columns should be at
        least 2 px wide (sigma).
    how : Acquisition
    seed : int

    Returns
    -------
    Recording
    """
    rng = np.random.default_rng(seed)
    scan = _scan_map(rng, ideal.shape, how)
    expected = _sample(_with_tails(ideal, how), scan)
    points = np.stack(np.meshgrid(np.arange(expected.shape[1]), np.arange(expected.shape[0])), -1).astype(float)
    haze = 1 + how.background_variation * smooth_field(rng, expected.shape)(points)
    expected = np.maximum(expected + how.background * np.maximum(haze, 0), 0)
    if np.isfinite(how.counts):
        expected = expected * how.counts
        electrons = rng.poisson(expected).astype(float)
    else:
        electrons = expected
    signal = how.gain * electrons + how.offset + rng.normal(0, how.read_sigma, expected.shape)
    image, stretch, floor = _export(signal, how.dtype)
    return Recording(image, expected, how.gain * stretch, how.offset * stretch + floor, scan)


def _scan_map(rng: np.random.Generator, shape: tuple[int, ...], how: Acquisition) -> ScanMap:
    height, width = (int(n) - 2 * how.margin_px for n in shape)
    fields = (smooth_field(rng, (height, width)), smooth_field(rng, (height, width)))
    rows = rng.normal(0, how.jitter_px, height)
    return ScanMap((height, width), how.margin_px, np.array(how.drift_px), how.distortion_px, fields, rows)


def _with_tails(ideal: FloatArray, how: Acquisition) -> FloatArray:
    if how.tail_fraction == 0:
        return ideal
    spread = gaussian_filter(ideal, how.tail_sigma_px, mode="nearest")
    return np.asarray((1 - how.tail_fraction) * ideal + how.tail_fraction * spread)


def _sample(ideal: FloatArray, scan: ScanMap) -> FloatArray:
    height, width = scan.shape_px
    points = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(float)
    source = scan.to_ideal(points)
    source[..., 0] -= scan.row_offset_px[:, None]
    return np.asarray(map_coordinates(ideal, [source[..., 1], source[..., 0]], order=3, mode="nearest"))


def _export(signal: FloatArray, dtype: str) -> tuple[NDArray[np.generic], float, float]:
    """Image of the wanted type with the scale and offset that the conversion applied."""
    if dtype == "uint8":
        low, high = float(signal.min()), float(signal.max())
        stretch = 255 / (high - low) if high > low else 1.0
        return np.round((signal - low) * stretch).astype(np.uint8), stretch, -low * stretch
    if dtype == "uint16":
        return np.clip(np.round(signal), 0, 65535).astype(np.uint16), 1.0, 0.0
    return signal.astype(np.float32), 1.0, 0.0


def record(sample: Crystal, how: Acquisition, seed: int = 0) -> tuple[Recording, Crystal]:
    """Record a crystal and carry its truth along; columns that leave the frame are dropped.

    Returns
    -------
    Recording
    Crystal
        Positions and defects in the recorded image, `image` the expected signal. Cell and origin are the affine ones
        nearest to where the undisplaced sites were recorded.
    """
    recording = acquire(sample.image, how, seed)
    scan = recording.scan
    moved = replace(sample.columns, xy_px=scan.to_image(sample.columns.xy_px))
    seen = inside(moved.xy_px, scan.shape_px)
    columns = moved.select(seen)
    second = sample.columns.sublattice != "M"
    sites = scan.to_image(sample.site_px(sample.columns.ij, second))
    a_px, b_px, origin_px = fit_cell(columns.ij, second[seen], sites[seen], sample.polarity)
    defects = (replace(defect, center_px=scan.to_image(defect.center_px)) for defect in sample.defects)
    kept = tuple(defect for defect in defects if inside(defect.center_px[None], scan.shape_px)[0])
    return recording, replace(
        sample, image=recording.expected, columns=columns, defects=kept, a_px=a_px, b_px=b_px, origin_px=origin_px
    )


def as_micrograph(image: NDArray[np.generic], pixel_size_A: float | None) -> Micrograph:
    """Wrap an array as if it had been read from a file that states `pixel_size_A`."""
    source = None if pixel_size_A is None else "user"
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    values = np.asarray(image, dtype=np.float64)
    return Micrograph(values, Path("synthetic"), digest, str(image.dtype), pixel_size_A, source, None, None)
