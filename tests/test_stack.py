"""Frames that drifted are shifted onto each other: against stacks whose drift is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter, map_coordinates

from stemfit.errors import NotAnalysable
from stemfit.micrograph import MIN_SIDE_PX, from_array, read

FloatArray = np.ndarray
SHAPE = (150, 170)


def scene(yx: np.ndarray) -> FloatArray:
    """A honeycomb without one column and with a smooth background, at points (2, H, W); smooth between pixels."""
    return np.asarray(map_coordinates(SCENE, yx + 40, order=5))


def _drawn() -> FloatArray:
    """The whole field that frames are cut from: 40 px more on each side."""
    height, width = SHAPE[0] + 80, SHAPE[1] + 80
    image = np.zeros((height, width))
    a = 16.0
    for i in range(-40, 40):
        for j in range(-40, 40):
            for k, brightness in ((0.0, 1.0), (1 / 3, 0.5)):
                x, y = a * (i + k + 0.5 * (j + k)), a * 0.75**0.5 * (j + k)
                if 0 <= round(x) < width and 0 <= round(y) < height and (i, j, k) != (3, 8, 0.0):
                    image[round(y), round(x)] += brightness
    rng = np.random.default_rng(0)
    return gaussian_filter(image, 2.5) * 40 + gaussian_filter(rng.normal(size=image.shape), 20) * 5


SCENE = _drawn()


def frames(drifts: np.ndarray, noise: float = 0.0, seed: int = 1) -> FloatArray:
    """Frame k at p shows the scene at p - drifts[k], (y, x)."""
    rng, grid = np.random.default_rng(seed), np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    return np.stack([scene(grid - d[:, None, None]) + rng.normal(0, noise, SHAPE) for d in drifts]).astype(np.float32)


def stack_file(folder: Path, stack: FloatArray) -> Path:
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack")
    return folder / "a.tif"


DRIFT = np.array([[0.0, 0.0], [1.3, -0.7], [2.4, -1.9], [4.1, -2.6], [4.9, -4.2], [6.6, -4.7]])


@pytest.mark.parametrize("sign", [1, -1])
def test_drift_is_taken_out(tmp_path: Path, sign: int) -> None:
    """The mean is the first frame's part that all show; the plain mean of the frames is far from it."""
    drifts = sign * DRIFT
    path = stack_file(tmp_path, frames(drifts))
    aligned, plain = read(path, frame="aligned"), read(path, frame="mean")
    top, left = (0, 7) if sign == 1 else (9, 0)
    height, width = aligned.image.shape
    assert abs(height - (SHAPE[0] - 9)) <= 1 and abs(width - (SHAPE[1] - 7)) <= 1
    assert aligned.frame == "aligned"
    # Rows at the top are lost where the scene moves up, as the last frame no longer shows them.
    first = frames(drifts[:1])[0][top : top + height, left : left + width]
    assert np.abs(aligned.image - first).max() < 0.05 * first.std()
    assert np.abs(plain.image[top : top + height, left : left + width] - first).max() > first.std()
    largest = np.linalg.norm(DRIFT, axis=1).max()
    (said,) = aligned.warnings
    assert f"the mean of 6 frames that were shifted onto each other: they drifted by up to {largest:.1f} px" in said
    assert f"{width} x {height} of 170 x 150 px are shown by all" in said


def test_noise_is_averaged(tmp_path: Path) -> None:
    noise = 1.0
    path = stack_file(tmp_path, frames(DRIFT, noise))
    aligned = read(path, frame="aligned").image
    truth = frames(DRIFT[:1])[0][: aligned.shape[0], 7 : 7 + aligned.shape[1]]
    # Six frames, whose interpolation takes some more noise out; a drift that is off would add to it.
    assert (aligned - truth).std() < 1.05 * noise / np.sqrt(len(DRIFT))


@pytest.mark.parametrize("seed", range(4))
def test_noise_does_not_move_a_crystal_by_a_lattice_vector(tmp_path: Path, seed: int) -> None:
    """The highest of the correlation's peaks, which noise chooses, is up to 40 px away here."""
    aligned = read(stack_file(tmp_path, frames(np.zeros((4, 2)), 1.0, seed)), frame="aligned")
    assert min(np.subtract(aligned.image.shape, SHAPE)) >= -6  # a pixel and the spline's two on each side


def test_frames_that_are_equal_stay_where_they_are(tmp_path: Path) -> None:
    stack = np.repeat(frames(np.zeros((1, 2)), 1.0), 4, axis=0)
    aligned = read(stack_file(tmp_path, stack), frame="aligned")
    assert aligned.image.shape == SHAPE and np.allclose(aligned.image, stack[0], atol=1e-5)


def test_a_stack_that_ran_away_is_refused(tmp_path: Path) -> None:
    steps = np.arange(30)[:, None] * [0.0, 5.0]
    grid = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    wide = gaussian_filter(np.random.default_rng(2).normal(size=(SHAPE[0], SHAPE[1] + 150)), 2)
    stack = np.stack([map_coordinates(wide, [grid[0], grid[1] + 150 - d[1]], order=1) for d in steps])
    path = stack_file(tmp_path, stack.astype(np.float32))
    with pytest.raises(NotAnalysable, match=f"drifted so far that less than {MIN_SIDE_PX} px are common"):
        read(path, frame="aligned")


def test_nan_in_one_frame_is_named(tmp_path: Path) -> None:
    stack = frames(DRIFT[:3])
    stack[1, 5, 5] = np.nan
    path = stack_file(tmp_path, stack)
    for frame in ("mean", "aligned"):
        with pytest.raises(NotAnalysable, match="frame 1 holds NaN or infinite pixels; choose a frame without"):
            read(path, frame=frame)  # type: ignore[arg-type]
    assert np.array_equal(read(path, frame=2).image, stack[2])


def test_one_image_is_its_own_mean(tmp_path: Path) -> None:
    path = stack_file(tmp_path, frames(DRIFT[:1])[0])
    for frame in ("mean", "aligned"):
        result = read(path, frame=frame)  # type: ignore[arg-type]
        assert (result.frame, result.warnings) == (None, ())
        assert np.array_equal(result.image, from_array(tifffile.imread(path)).image)
