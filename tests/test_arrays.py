"""Images that come from no file: arrays, and signals with HyperSpy's attributes."""

from __future__ import annotations

import hashlib
import sys
from types import SimpleNamespace
from typing import Any

import dask.array
import numpy as np
import pytest

from stemfit.errors import NotAnalysable, UsageError
from stemfit.micrograph import from_array, from_signal

RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 200, (70, 90)).astype(np.uint16)
STACK = RNG.integers(0, 200, (3, 70, 90)).astype(np.uint16)


class Undefined:
    """What HyperSpy has where a user gave no unit."""


def signal(
    data: Any, scale: tuple[float, float] = (0.0125, 0.0125), units: Any = "nm", title: str = "", counting: int = 0
) -> Any:
    """As HyperSpy's: axes of the image are x and y, those that count images before them."""
    shape = data.shape
    axes = [
        SimpleNamespace(index_in_array=k, size=shape[k], scale=1.0 if k < counting else scale[len(shape) - 1 - k],
                        units=units)
        for k in range(len(shape))
    ]  # fmt: skip
    manager = SimpleNamespace(navigation_axes=tuple(axes[:counting][::-1]), signal_axes=tuple(axes[counting:][::-1]))
    return SimpleNamespace(
        data=data, axes_manager=manager, metadata=SimpleNamespace(General=SimpleNamespace(title=title))
    )


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64", "bool"])
@pytest.mark.parametrize("size", [None, 0.125])
def test_array(dtype: str, size: float | None) -> None:
    values = (GREY > 100 if dtype == "bool" else GREY).astype(dtype)
    result = from_array(values, size, name="run 7")
    assert np.array_equal(result.image, values) and result.image.dtype == np.float64
    assert (result.dtype, str(result.path), result.frame, result.signal) == (dtype, "run 7", None, None)
    assert (result.pixel_size_A, result.pixel_size_source) == (size, size and "user")
    assert result.sha256 == hashlib.sha256(values.tobytes()).hexdigest()
    assert str(from_array(values).path) == "array"


def test_the_users_array_is_not_shared() -> None:
    values = GREY.astype(float)
    result = from_array(values)
    values[:] = 0
    assert np.array_equal(result.image, GREY)


def test_lists_views_and_grey_colours_are_images() -> None:
    assert np.array_equal(from_array(GREY.tolist()).image, GREY)
    assert from_array(GREY[::-1, ::-1]).image.flags.c_contiguous
    assert np.array_equal(from_array(np.stack([GREY] * 3, axis=-1)).image, GREY)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (STACK, UsageError, "an array of 3 x 70 x 90 values is no image"), (GREY[0], UsageError, "90 values is no"),
        (GREY + 1j, NotAnalysable, "array: holds complex numbers"), (GREY[:40], NotAnalysable, "too small"),
        (np.where(GREY > 190, np.nan, GREY), NotAnalysable, "NaN"), (0 * GREY, NotAnalysable, "constant"),
        (np.dstack([GREY, GREY + 1, GREY]), NotAnalysable, "a colour image"),
        (np.broadcast_to(np.uint8(0), (30_000, 30_000)), NotAnalysable, "would need .* GiB"),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_analysed(values: np.ndarray, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        from_array(values)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan")])
def test_pixel_size_must_be_a_length(size: float) -> None:
    with pytest.raises(UsageError, match="pixel size"):
        from_array(GREY, size)


@pytest.mark.parametrize(
    ("units", "factor"), [("nm", 10.0), ("Å", 1.0), ("µm", 1e4), ("pm", 0.01), (Undefined(), None), ("", None)]
)
def test_signal(units: Any, factor: float | None) -> None:
    scale = 0.125 / (factor or 1.0)
    result = from_signal(signal(GREY, (scale, scale), units, title="HAADF of run 7"))
    assert np.array_equal(result.image, GREY)
    assert (str(result.path), result.signal) == ("HAADF of run 7", "HAADF of run 7")
    assert result.pixel_size_A == (factor and pytest.approx(0.125))
    assert result.sha256 == hashlib.sha256(GREY.tobytes()).hexdigest()
    assert from_signal(signal(GREY), pixel_size_A=0.2).pixel_size_A == 0.2
    assert "hyperspy" not in sys.modules


def test_lazy_signals_and_stacks() -> None:
    lazy = signal(dask.array.from_array(STACK, chunks=(1, 70, 90)), counting=1)
    for k in range(3):
        assert np.array_equal(from_signal(lazy, frame=k).image, STACK[k])
    assert np.allclose(from_signal(lazy, frame="mean").image, STACK.mean(0))
    with pytest.raises(NotAnalysable, match="a stack of 3 images"):
        from_signal(lazy)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (signal(GREY, units="1/nm"), "reciprocal length"), (signal(GREY, (0.01, 0.02)), "not square"),
        (signal(GREY, title="ABF"), "bright field"), (signal(STACK, counting=2), "is no image"),
        (signal(STACK[:0], counting=1), "a signal of 0 x 70 x 90 values is no image"),
    ],
)  # fmt: skip
def test_signals_that_cannot_be_analysed(given: Any, words: str) -> None:
    with pytest.raises((NotAnalysable, UsageError), match=words):
        from_signal(given)
