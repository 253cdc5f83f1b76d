"""Files that are cut, overwritten or lie about themselves: an image, or one line about the file, and never a hang."""

from __future__ import annotations

import errno
import json
import re
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from recorded_files import (
    write_dm3,
    write_dm4,
    write_hspy,
    write_mrc,
    write_ncem,
    write_ser,
    write_velox,
    write_zipped_zspy,
)

from stemfit.errors import InputError, NotAnalysable, StemfitError
from stemfit.micrograph import hdf5_trial, read, rosetta
from stemfit.micrograph.damage import damaged

GREY = np.random.default_rng(11).integers(0, 30_000, (66, 90)).astype(np.uint16)
Writer = Callable[[Path], Any]
BY_PYTHON: dict[str, Writer] = {
    "a.mrc": lambda path: write_mrc(path, GREY),
    "a.ser": lambda path: write_ser(path, GREY),
    "a.dm3": lambda path: write_dm3(path, GREY),
    "a.dm4": lambda path: write_dm4(path, GREY),
    "a.zspy": lambda path: write_zipped_zspy(path, GREY),
    "a.tif": lambda path: tifffile.imwrite(path, GREY),
    "imagej.tif": lambda path: tifffile.imwrite(path, GREY, imagej=True, resolution=(80, 80), metadata={"unit": "nm"}),
    "ome.tif": lambda path: tifffile.imwrite(path, GREY, ome=True, metadata={"axes": "YX", "PhysicalSizeX": 0.0125}),
    "packed.tif": lambda path: tifffile.imwrite(path, GREY, compression="zlib"),
    "a.png": lambda path: Image.fromarray(GREY).save(path),
}
BY_HDF5: dict[str, Writer] = {
    "a.hspy": lambda path: write_hspy(path, GREY),
    "ncem.emd": lambda path: write_ncem(path, GREY),
    "velox.emd": lambda path: write_velox(path, {"HAADF": GREY}, rings_rad={"HAADF": (0.06, 0.2)}),
}
PYTHON = re.compile(
    r"index|tuple|object|attribute|NoneType|unpack|argument|dtype|instance|Errno|\\x|b'|iterable|decode|codec|zip\(|"
    r"reshape|int\b|array|sequence|infinite loop|division|modulo|synchronously|mmap|buffer|Error"
)
"""Words of a programmer, not of a microscopist."""

WORDS = st.sampled_from([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1", b"\0" * 8])
WRITTEN_OVER = st.lists(st.tuples(st.floats(0, 1), st.booleans(), WORDS | st.binary(min_size=1, max_size=4)),
                        min_size=1, max_size=6)  # fmt: skip
HEADER_BYTES = 3000


def fuzzed(count: int) -> Any:
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(suppress_health_check=health, max_examples=count, deadline=None)


def put_over(whole: bytes, changes: list[tuple[float, bool, bytes]]) -> bytes:
    """Bytes with others written over them, in the header or anywhere."""
    content = bytearray(whole)
    for share, in_header, piece in changes:
        at = int(share * ((min(len(whole), HEADER_BYTES) if in_header else len(whole)) - 1))
        content[at : at + len(piece)] = piece[: len(content) - at]
    return bytes(content)


def assert_image_or_one_line(path: Path) -> None:
    try:
        image = read(path).image
    except StemfitError as error:
        said = str(error).removeprefix(f"{path}: ")
        assert error.exit_code in (3, 4) and "\n" not in said and not PYTHON.search(said), said
    else:
        assert image.ndim == 2 and np.isfinite(image).all()


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder, contents = tmp_path_factory.mktemp("whole"), {}
    for name, write in {**BY_PYTHON, **BY_HDF5}.items():
        write(folder / name)
        contents[name] = (folder / name).read_bytes()
    return contents


@pytest.mark.parametrize("name", BY_PYTHON)
@fuzzed(40)
@given(changes=WRITTEN_OVER)
def test_written_over(
    tmp_path: Path, wholes: dict[str, bytes], name: str, changes: list[tuple[float, bool, bytes]]
) -> None:
    (tmp_path / name).write_bytes(put_over(wholes[name], changes))
    assert_image_or_one_line(tmp_path / name)


@pytest.mark.parametrize("name", BY_HDF5)
@fuzzed(4)
@given(changes=WRITTEN_OVER)
def test_hdf5_written_over(
    tmp_path: Path, wholes: dict[str, bytes], name: str, changes: list[tuple[float, bool, bytes]]
) -> None:
    (tmp_path / name).write_bytes(put_over(wholes[name], changes))
    assert_image_or_one_line(tmp_path / name)


@pytest.mark.parametrize("name", BY_PYTHON)
@fuzzed(12)
@given(share=st.floats(0.1, 0.99))
def test_cut(tmp_path: Path, wholes: dict[str, bytes], name: str, share: float) -> None:
    """The data end too early: said so in most formats, and never taken for an image."""
    (tmp_path / name).write_bytes(wholes[name][: int(share * len(wholes[name]))])
    if "ome" not in name:  # its header is at the end
        with pytest.raises(InputError, match=r"ends before its data do: it is truncated|damaged PNG"):
            read(tmp_path / name)
    assert_image_or_one_line(tmp_path / name)


# -- hangs, crashes, memory ----------------------------------------------------------------------------------------


def test_a_file_that_the_library_never_ends_reading(
    tmp_path: Path, wholes: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A string in the global heap is longer than what is left there: h5py runs in circles."""
    here = b"\2\0\0\0\0\0\0\0nm"
    assert here in wholes["a.hspy"]
    (tmp_path / "a.hspy").write_bytes(wholes["a.hspy"].replace(here, b"\x90" + here[1:], 1))
    monkeypatch.setattr(rosetta, "try_hdf5", partial(hdf5_trial.try_hdf5, patience_s=2.0))
    with pytest.raises(InputError, match="a damaged HDF5 file: reading it comes to no end in 2 s; copy it again"):
        read(tmp_path / "a.hspy")


def test_a_file_that_makes_the_library_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hspy(tmp_path / "a.hspy", GREY)
    monkeypatch.setattr(hdf5_trial, "PROGRAM", "import os; os.abort()")
    with pytest.raises(InputError, match="the library that reads it crashes; copy it again"):
        read(tmp_path / "a.hspy")


def sparse_series(path: Path, side: int, frames: int) -> None:
    """As large as it says, though nothing of it was ever written."""
    write_ser(path, np.zeros((frames, 2, 2), np.uint16))
    content = bytearray(path.read_bytes())
    (table,) = struct.unpack_from("<i", content, 22)
    step = 50 + side * side * 2 + 8
    (first,) = struct.unpack_from("<i", content, table)
    struct.pack_into(f"<{frames}i", content, table, *(first + k * step for k in range(frames)))
    struct.pack_into("<2i", content, first + 42, side, side)
    with path.open("wb") as file:
        file.write(content[: first + 50])
        file.truncate(first + frames * step)


@pytest.mark.parametrize(("side", "frames", "words"), [(30_000, 1, "30000 x 30000 px would need"),
                                                       (4096, 50, "50 images of 32 MiB are read at once")])  # fmt: skip
def test_series_are_refused_from_their_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, frames: int, words: str
) -> None:
    monkeypatch.setattr("stemfit.micrograph.headers.MEMORY_LIMIT_BYTES", 8 * 2**30 if frames == 1 else 2**30)
    if frames > 1:
        monkeypatch.setattr("stemfit.micrograph.headers.check_size", lambda *of: None)
    sparse_series(tmp_path / "a.ser", side, frames)
    (tmp_path / "a.emi").write_bytes(b"JF\2\0")
    (tmp_path / "a_1.ser").symlink_to(tmp_path / "a.ser")
    for name in ("a.ser", "a.emi"):
        tracemalloc.start()
        with pytest.raises(NotAnalysable, match=words):
            read(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**24, "nothing of the image was read"
        tracemalloc.stop()


def test_a_header_that_asks_for_more_than_there_is(tmp_path: Path) -> None:
    error = damaged(tmp_path / "a.dm3", "DigitalMicrograph file", MemoryError())
    assert "asks for more memory than there is" in str(error) and error.exit_code == 3


# -- what is wrong, in words ---------------------------------------------------------------------------------------


def test_other_zip_files_and_codecs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zspy", "w") as packed:
        packed.writestr("word/document.xml", "<a/>")
    with pytest.raises(InputError, match="a ZIP file that is no zspy; unpack it"):
        read(tmp_path / "a.zspy")
    error = damaged(tmp_path / "a.tif", "TIFF", ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package"))
    assert "a compressed TIFF (LZW), which the package imagecodecs reads; install imagecodecs" in str(error)


def test_a_failing_disk_is_not_a_damaged_file(tmp_path: Path) -> None:
    error = damaged(tmp_path / "a.tif", "TIFF", OSError(errno.EIO, "Input/output error"))
    assert "the disk or the network fails; copy it to another disk" in str(error)


def test_what_the_parser_said_is_the_cause(tmp_path: Path, wholes: dict[str, bytes]) -> None:
    """For --debug, which shows it with the traceback."""
    (tmp_path / "a.dm3").write_bytes(wholes["a.dm3"][:9000])
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.dm3")
    assert isinstance(caught.value.__cause__, struct.error)
    assert json.dumps(str(caught.value)).count("unpack") == 0
