"""What headers announce, before a library believes it: images larger than the memory, or than their own file.

TIA's series (SER), of which RosettaSciIO reads all images at once; numbers are little-endian, one table of offsets
leads to the images. MRC: width, height, number and type of the images are the first four numbers (MRC2014: Cheng et
al., J. Struct. Biol. 192, 146 (2015)).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from stemfit.errors import InputError, NotAnalysable
from stemfit.micrograph.check import MEMORY_LIMIT_BYTES, check_size
from stemfit.micrograph.damage import cut_short

KIND = "TIA series"
IMAGES = 0x4122
WIDE_OFFSETS = 0x0211
"""Versions from here on count bytes with eight bytes."""

BEFORE_PIXELS = struct.Struct("<ddiddihii")
"""Of an image: offset, step and element of each calibration, type, width, height."""

BYTES = {1: 1, 2: 2, 3: 4, 4: 1, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8, 10: 16}
"""Of a pixel, by type."""

MRC_BYTES = {0: 1, 1: 2, 2: 4, 4: 8, 6: 2, 12: 2}
MRC_HEADER_BYTES = 1024


class Series(NamedTuple):
    """What the header announces: images (H, W) of `bytes_per_pixel`, each beginning at one of `offsets`."""

    offsets: tuple[int, ...]
    shape_px: tuple[int, int]
    bytes_per_pixel: int


def check_series(path: Path) -> None:
    """Refuse what is larger than the memory, or than its file, before a pixel is read; spectra are left to others.

    Raises
    ------
    InputError
        The file is shorter than its header announces, or holds nothing.
    NotAnalysable
        An image, or all of them together, are too large.
    """
    with path.open("rb") as file:
        length = file.seek(0, 2)
        try:
            series = _header(path, file, length)
        except struct.error:
            raise cut_short(path, KIND) from None
    if series is None:
        return
    check_size(path, series.shape_px, MEMORY_LIMIT_BYTES)
    each = math.prod(series.shape_px) * series.bytes_per_pixel
    if any(not 0 < offset <= length - BEFORE_PIXELS.size - each for offset in series.offsets):
        raise cut_short(path, KIND)
    if each * len(series.offsets) > MEMORY_LIMIT_BYTES:
        problem = f"{len(series.offsets)} images of {each / 2**20:.0f} MiB are read at once, {limit()} is the limit"
        raise NotAnalysable(problem, remedy="export the images that are meant as TIFF", subject=path)


def limit() -> str:
    """Of the memory, in words."""
    return f"{MEMORY_LIMIT_BYTES / 2**30:.0f} GiB"


def check_mrc(path: Path) -> None:
    """Refuse a file that is shorter than the images that it announces, in whichever order its bytes are.

    Raises
    ------
    InputError
    """
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(0)
        head = file.read(16)
    if len(head) < 16:
        raise cut_short(path, "MRC file")
    orders = (struct.unpack(f"{order}4I", head) for order in "<>")
    if all(MRC_HEADER_BYTES + math.prod(sizes) * MRC_BYTES.get(mode, 1) > length for *sizes, mode in orders):
        raise cut_short(path, "MRC file")


def _header(path: Path, file: BinaryIO, length: int) -> Series | None:
    """What is announced; None of spectra."""
    file.seek(0)
    version, data_type, _, _, valid = struct.unpack("<4x1h4i", file.read(22))
    wide = version >= WIDE_OFFSETS
    (table,) = struct.unpack("<q" if wide else "<i", file.read(8 if wide else 4))
    if data_type != IMAGES:
        return None
    if valid <= 0:
        raise InputError("a series without images", remedy="check that the acquisition was finished", subject=path)
    size = 8 if wide else 4
    if not 0 < table <= length - valid * size:
        raise cut_short(path, KIND)
    file.seek(table)
    offsets = struct.unpack(f"<{valid}{'q' if wide else 'i'}", file.read(valid * size))
    if not 0 < offsets[0] < length:
        raise cut_short(path, KIND)
    file.seek(offsets[0])
    *_, kind, width, height = BEFORE_PIXELS.unpack(file.read(BEFORE_PIXELS.size))
    if kind not in BYTES or width <= 0 or height <= 0:
        problem = "a damaged TIA series: its first image has no size or type"
        raise InputError(problem, remedy="copy it again from where it was recorded", subject=path)
    return Series(offsets, (height, width), BYTES[kind])
