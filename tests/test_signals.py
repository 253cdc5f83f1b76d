"""Which signal of a file is analysed, and which image of a stack; contrast that is not the dark field's is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from recorded_files import write_hspy, write_mrc, write_ncem, write_ser, write_velox, write_zipped_zspy

from stemfit.errors import NotAnalysable, UsageError
from stemfit.micrograph import Micrograph, read

RNG = np.random.default_rng(12)
GREY = RNG.integers(0, 30_000, (66, 90)).astype(np.uint16)
STACK = RNG.integers(0, 30_000, (3, 66, 90)).astype(np.uint16)
STACKS: dict[str, Callable[[Path], None]] = {
    "a.hspy": lambda path: write_hspy(path, STACK), "a.emd": lambda path: write_ncem(path, STACK),
    "v.emd": lambda path: write_velox(path, {"HAADF": STACK}), "a.mrc": lambda path: write_mrc(path, STACK),
    "a.ser": lambda path: write_ser(path, STACK), "a.zspy": lambda path: write_zipped_zspy(path, STACK),
}  # fmt: skip


@pytest.fixture(autouse=True)
def without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 files are good or cut here; what is read in another process first is tested with damaged ones."""
    monkeypatch.setattr("stemfit.micrograph.rosetta.try_hdf5", lambda path: None)


def refused(path: Path, error: type[Exception], words: str, **options: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        read(path, **options)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# -- stacks and signals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STACKS)
def test_stacks(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    STACKS[name](path)
    refused(path, NotAnalysable, "a stack of 3 images; choose one with --frame 0 to 2, or --frame mean or aligned")
    refused(path, UsageError, "no frame 3, the file has 3", frame=3)
    for frame in range(3):
        result = read(path, frame=frame)
        assert np.array_equal(result.image, STACK[frame]) and result.frame == frame
        assert result.pixel_size_A == pytest.approx(0.125)
    mean = read(path, frame="mean")
    assert np.allclose(mean.image, STACK.mean(0)) and mean.frame == "mean"
    assert mean.warnings == ("the mean of 3 frames, as they lie",)


def test_frames_along_two_axes_are_counted_on(tmp_path: Path) -> None:
    data = RNG.integers(0, 99, (2, 3, 66, 90)).astype(np.uint8)
    write_hspy(tmp_path / "a.hspy", data)
    assert np.array_equal(read(tmp_path / "a.hspy", frame=4).image, data[1, 1])


def velox(path: Path, *names: str, **asked: Any) -> Micrograph:
    write_velox(path, {name: GREY + k for k, name in enumerate(names)})
    return read(path, **asked)


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("BF", "DF4", "HAADF"), 2), (("HAADF", "Mo", "S"), 0), (("DF4-A", "DF4-B", "DF4"), 2), (("BF-S", "DF-S"), 1),
        (("ABF", "ADF"), 1), (("LAADF", "MAADF", "iDPC"), 1),
    ],
)  # fmt: skip
def test_the_dark_field_is_taken_and_said(tmp_path: Path, names: tuple[str, ...], taken: int) -> None:
    result = velox(tmp_path / "a.emd", *names)
    assert np.array_equal(result.image, GREY + taken) and result.signal == names[taken]
    said = f"{len(names)} signals: {', '.join(names)}; {names[taken]} taken; --signal NAME for another"
    assert result.warnings == (said,)


def test_signals_by_name_and_number(tmp_path: Path) -> None:
    path = tmp_path / "a.emd"
    for asked in ("df4", "1"):
        result = velox(path, "HAADF", "DF4", signal=asked)
        assert (result.signal, result.warnings) == ("DF4", ()) and np.array_equal(result.image, GREY + 1)
    for asked in ("2", "-1", "HAAD", ""):
        refused(path, UsageError, f"no signal {asked}: 2 signals: HAADF, DF4; choose", signal=asked)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("ABF",), "the signal ABF is bright field"), (("BF-S",), "BF-S is bright field"),
        (("iDPC",), "phase contrast"), (("Annular bright-field",), "bright field"),
        (("DF4-A", "DF4-B"), "none is called a dark field; choose one"),
        (("HAADF", "BF", "haadf"), "2 of them are called HAADF; choose one"),
    ],
)  # fmt: skip
def test_other_contrast_and_unclear_choices_are_refused(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(NotAnalysable, match=words):
        velox(tmp_path / "a.emd", *names)


def test_bright_field_is_refused_even_when_asked_for(tmp_path: Path) -> None:
    write_velox(tmp_path / "a.emd", {"HAADF": GREY, "BF": GREY})
    refused(tmp_path / "a.emd", NotAnalysable, "BF is bright field: .* dark field only; give the annular", signal="BF")


@pytest.mark.parametrize("title", ["HAADF and BF of run 3", "MBFoS2", "sub", "R-DF_HAADF 200kV", "DF of ABF"])
def test_titles_that_name_no_bright_field_pass(tmp_path: Path, title: str) -> None:
    write_hspy(tmp_path / "a.hspy", GREY, title=title)
    assert read(tmp_path / "a.hspy").signal == title


def test_complex_and_colour_are_refused(tmp_path: Path) -> None:
    write_hspy(tmp_path / "a.hspy", GREY.astype(np.complex64))
    refused(tmp_path / "a.hspy", NotAnalysable, "holds complex numbers")
    colours = np.zeros(GREY.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"] = GREY // 200
    write_hspy(tmp_path / "b.hspy", colours)
    refused(tmp_path / "b.hspy", NotAnalysable, "a colour image")
    colours["G"] = colours["B"] = colours["R"]
    write_hspy(tmp_path / "c.hspy", colours)
    assert np.array_equal(read(tmp_path / "c.hspy").image, GREY // 200)


def test_pixels_are_read_here_whatever_dask_is_told(tmp_path: Path) -> None:
    """As on a worker of a cluster, where Dask sends its work to the scheduler, who may be gone."""
    STACKS["a.mrc"](tmp_path / "a.mrc")
    alone = read(tmp_path / "a.mrc", frame=1)
    with dask.config.set(scheduler="dask.distributed"):
        np.testing.assert_array_equal(read(tmp_path / "a.mrc", frame=1).image, alone.image)
