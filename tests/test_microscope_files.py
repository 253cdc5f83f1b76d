"""Microscopes' own files: pixels and scale come through, and what is wrong gets one line."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_files import (
    write_dm3,
    write_dm4,
    write_hspy,
    write_mrc,
    write_ncem,
    write_ser,
    write_velox,
    write_zipped_zspy,
    write_zspy,
)

from stemfit.errors import InputError, NotAnalysable
from stemfit.micrograph import read

RNG = np.random.default_rng(11)
GREY = RNG.integers(0, 30_000, (66, 90)).astype(np.uint16)  # neither square nor symmetric
IN_NM: dict[str, Callable[[Path, np.ndarray, float], None]] = {
    "hspy": lambda path, data, nm: write_hspy(path, data, scale=nm),
    "zspy": lambda path, data, nm: write_zspy(path, data, scale=nm),
    "zip": lambda path, data, nm: write_zipped_zspy(path, data, scale=nm),
    "ncem": lambda path, data, nm: write_ncem(path, data, scale=nm),
    "velox": lambda path, data, nm: write_velox(path, {"HAADF": data}, metres=1e-9 * nm),
    "mrc": write_mrc,
    "ser": lambda path, data, nm: write_ser(path, data, scale=1e-9 * nm),
    "dm3": lambda path, data, nm: write_dm3(path, data, scale=nm),
    "dm4": lambda path, data, nm: write_dm4(path, data, scale=nm),
}
SUFFIX = {"zip": "zspy", "ncem": "emd", "velox": "emd"}
SOURCE = {"hspy": "HyperSpy", "zspy": "HyperSpy", "zip": "HyperSpy", "ncem": "EMD", "velox": "Velox", "mrc": "MRC",
          "ser": "TIA", "dm3": "DigitalMicrograph", "dm4": "DigitalMicrograph"}  # fmt: skip
EMI = b"<ObjectInfo><Uuid>0</Uuid><ExperimentalDescription><Root></Root></ExperimentalDescription></ObjectInfo>"
FAST = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=6, deadline=None)


@pytest.fixture(autouse=True)
def without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 files are good or cut here; what is read in another process first is tested with damaged ones."""
    monkeypatch.setattr("stemfit.micrograph.rosetta.try_hdf5", lambda path: None)


def named(folder: Path, kind: str) -> Path:
    """A path of this kind where nothing stands."""
    path = folder / f"a.{SUFFIX.get(kind, kind)}"
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def refused(path: Path, error: type[Exception], words: str, **options: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        read(path, **options)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# -- pixels and scale ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", IN_NM)
@FAST
@given(nm=st.floats(0.001, 0.1), dtype=st.sampled_from(["uint8", "int16", "uint16", "float32"]), seed=st.integers(0, 9))
def test_pixels_and_scale_come_through(tmp_path: Path, kind: str, nm: float, dtype: str, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 100, (66, 90)).astype(dtype)
    path = named(tmp_path, kind)
    IN_NM[kind](path, values, nm)
    result = read(path)
    assert np.array_equal(result.image, values) and result.dtype == dtype
    assert result.pixel_size_A == result.metadata_pixel_size_A == pytest.approx(10 * nm, rel=1e-6)
    assert (result.pixel_size_source, result.frame, result.warnings) == (SOURCE[kind], None, ())
    if path.is_file():
        assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


UNITS = {"nm": 10.0, "Å": 1.0, "A": 1.0, "pm": 0.01, "µm": 1e4, "um": 1e4, "m": 1e10, "mm": 1e7}


@pytest.mark.parametrize("write", [write_hspy, write_zspy, write_ncem, write_dm3])
@FAST
@given(unit=st.sampled_from(sorted(UNITS)), size_A=st.floats(0.02, 1.0), oblong=st.floats(0.9, 1.1))
def test_every_unit(tmp_path: Path, write: Any, unit: str, size_A: float, oblong: float) -> None:
    path = named(tmp_path, write.__name__.removeprefix("write_"))
    write(path, GREY, scale=(size_A / UNITS[unit], size_A * oblong / UNITS[unit]), unit=unit)
    assert read(path).pixel_size_A == pytest.approx(size_A * oblong**0.5, rel=1e-6)


@pytest.mark.parametrize("unit", ["", "px", "eV", "1", None])
def test_a_scale_without_a_unit_is_none(tmp_path: Path, unit: str | None) -> None:
    for write in (write_hspy, write_dm3):
        path = named(tmp_path, write.__name__.removeprefix("write_"))
        write(path, GREY, scale=0.0125, unit=unit or "")
        assert read(path).pixel_size_A is None


def test_a_unit_on_one_axis_is_that_of_both(tmp_path: Path) -> None:
    for units in (("nm", ""), ("", "nm")):
        path = named(tmp_path, "hspy")
        write_hspy(path, GREY, scale=(0.0125, 0.0125), unit=units)
        assert read(path).pixel_size_A == pytest.approx(0.125)


def test_mrc_without_a_cell_has_no_scale(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", GREY, scale=0.0)
    assert read(tmp_path / "a.mrc").pixel_size_A is None


@pytest.mark.parametrize("unit", ["1/nm", "nm^-1", "1/Å", "nm⁻¹", "1 / nm"])
def test_diffraction_is_refused(tmp_path: Path, unit: str) -> None:
    write_hspy(tmp_path / "a.hspy", GREY, scale=0.1, unit=unit)
    refused(tmp_path / "a.hspy", NotAnalysable, "reciprocal length: a diffraction pattern")


def test_oblong_pixels_are_refused_unless_the_user_knows_better(tmp_path: Path) -> None:
    write_velox(tmp_path / "a.emd", {"HAADF": GREY}, metres=(1e-11, 2e-11))
    refused(tmp_path / "a.emd", NotAnalysable, r"pixels of 0.1 x 0.2 A are not square, 1.13 : 1 .*--pixel-size")
    assert read(tmp_path / "a.emd", pixel_size_A=0.1).pixel_size_A == 0.1


def test_voltage_where_the_file_states_one(tmp_path: Path) -> None:
    write_velox(tmp_path / "a.emd", {"HAADF": GREY})
    assert read(tmp_path / "a.emd").stated_voltage_kV == 80
    write_dm3(tmp_path / "a.dm3", GREY)
    assert read(tmp_path / "a.dm3").stated_voltage_kV == 60


def test_name_does_not_matter_where_the_bytes_tell(tmp_path: Path) -> None:
    for kind in ("hspy", "ncem", "velox", "mrc", "zip", "dm3", "dm4"):
        path = tmp_path / f"{kind}.tif"
        IN_NM[kind](path, GREY, 0.0125)
        assert np.array_equal(read(path).image, GREY)
    write_ser(tmp_path / "ser.tif", GREY)
    refused(tmp_path / "ser.tif", InputError, "does not end in .ser; give it its name back")


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in IN_NM if kind != "zspy"])
@FAST
@given(share=st.floats(0.0, 0.97))
def test_truncated_anywhere(tmp_path: Path, kind: str, share: float) -> None:
    whole, cut = named(tmp_path, kind), tmp_path / f"cut.{SUFFIX.get(kind, kind)}"
    IN_NM[kind](whole, GREY, 0.0125)
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    refused(cut, InputError, "is truncated|damaged|empty file|neither a TIFF")


def test_zspy_folder_with_a_part_missing(tmp_path: Path) -> None:
    write_zspy(tmp_path / "a.zspy", GREY)
    (tmp_path / "a.zspy/Experiments/__unnamed__/data/.zarray").unlink()
    with pytest.raises((InputError, NotAnalysable)):
        read(tmp_path / "a.zspy")


def test_a_library_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zspy(tmp_path / "a.zspy", GREY)
    monkeypatch.setitem(sys.modules, "zarr", None)
    for name in ("rsciio.zspy", "rsciio.zspy._api"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    refused(tmp_path / "a.zspy", InputError, "zspy needs zarr; install zarr")


def test_an_hdf5_file_of_another_kind(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.emd", "w") as file:
        file["image"] = GREY
    refused(tmp_path / "a.emd", InputError, "an HDF5 file, but neither EMD nor HyperSpy's; export")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\xff\xd8\xff\xe0..JFIF", "a JPEG, whose compression changes how bright columns are; give the recorded"),
        (b"BM......", "a BMP picture; export"), (b"\x93NUMPY\1\0", "a NumPy array; give it to stemfit.analyze"),
        (b"", "an empty file; copy it again"), (b"12 13 14", "neither a TIFF nor a PNG .*; give TIFF, PNG, dm3"),
    ],
)  # fmt: skip
def test_files_of_another_kind(tmp_path: Path, head: bytes, words: str) -> None:
    (tmp_path / "a.tif").write_bytes(head)
    refused(tmp_path / "a.tif", InputError, words)


def test_a_signal_without_a_name_has_none(tmp_path: Path) -> None:
    write_ncem(tmp_path / "a.emd", GREY)
    assert read(tmp_path / "a.emd").signal is None


def test_emi_without_its_series(tmp_path: Path) -> None:
    (tmp_path / "a.emi").write_bytes(b"JF\2\0<ObjectInfo></ObjectInfo>")
    refused(tmp_path / "a.emi", InputError, "an EMI file without its SER files; put a_1.ser beside it")
    write_ser(tmp_path / "a_1.ser", GREY)
    (tmp_path / "a.emi").write_bytes(b"JF\2\0" + EMI)
    assert np.array_equal(read(tmp_path / "a.emi").image, GREY)


def test_spectra_are_no_image(tmp_path: Path) -> None:
    write_hspy(tmp_path / "a.hspy", GREY, spectra=True)
    refused(tmp_path / "a.hspy", NotAnalysable, r"holds no image \(data of 66 x 90\)")


def test_too_large_is_known_before_a_pixel_is_read(tmp_path: Path) -> None:
    """The cube would be 1.2 TB; its chunks were never written."""
    path = tmp_path / "a.hspy"
    write_hspy(path, GREY)
    with h5py.File(path, "r+") as file:
        group = file["Experiments/__unnamed__"]
        del group["data"]
        group.create_dataset("data", shape=(600_000, 1_000_000), dtype="u2", chunks=(1000, 1000))
        group["axis-0"].attrs["size"], group["axis-1"].attrs["size"] = 600_000, 1_000_000
    refused(path, NotAnalysable, "1000000 x 600000 px would need")


def test_libraries_keep_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_zipped_zspy(tmp_path / "a.zspy", GREY)
    read(tmp_path / "a.zspy")  # opened read-only, of which RosettaSciIO warns
    write_velox(tmp_path / "a.emd", {"HAADF": GREY}, unit="nonsense")
    with pytest.raises(InputError):
        read(tmp_path / "a.emd")
    assert capfd.readouterr() == ("", "")
