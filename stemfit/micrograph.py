"""Read an image and its scale: the only place where files become pixels and pixels become Angstrom."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import InputError, NotAnalysable, StemfitError, UsageError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

WORKING_BYTES_PER_PIXEL = 450
"""What an analysis holds per pixel at its peak, libraries aside: measured 420 on 1024 x 1024 px with 26 px per lattice
constant; the windows of the columns make it 900 with 14 px."""

MEMORY_LIMIT_BYTES = 8 * 2**30
"""19 million pixels: 4096 x 4096 passes."""

MIN_SIDE_PX = 64
"""Eight unit cells of 7 px. Columns closer than 4 px merge, so a = sqrt(3) x 4 px is the finest usable lattice, and
with fewer than eight cells a side the spots of the Fourier transform are too wide to tell the cell's shear."""

ANGSTROM_PER_UNIT = {
    "pm": 1e-2, "A": 1.0, "Å": 1.0, "angstrom": 1.0, "ångström": 1.0, "nm": 10.0, "μm": 1e4, "um": 1e4,
    "micron": 1e4, "microns": 1e4, "mm": 1e7, "cm": 1e8, "inch": 2.54e8, "m": 1e10,
}  # fmt: skip

ATOMIC_PIXEL_SIZES_A = (0.005, 2.0)
"""Sampling at which atoms are resolved without absurd oversampling. A resolution in dots per inch outside it is a
printing resolution (72 dpi is 3.5 million Angstrom), not a scale."""


@dataclass(frozen=True)
class Micrograph:
    """One 2-D image.

    Attributes
    ----------
    image : (H, W) float64 array
        Image units as stored.
    path : Path
    sha256 : str
        Of the file's bytes.
    dtype : str
        As stored in the file.
    pixel_size_A : float or None
        As stated by the file or the user; None when unknown.
    pixel_size_source : str or None
        "user", or which tag said so ("ImageJ", "OME", "FEI", "resolution").
    signal : str or None
        Name of the signal that was chosen in a file with several.
    frame : int or None
        Frame taken from a stack, counted from 0.
    metadata_pixel_size_A : float or None
        As stated by the file, also where the user's wins.
    """

    image: NDArray[np.float64]
    path: Path
    sha256: str
    dtype: str
    pixel_size_A: float | None
    pixel_size_source: str | None
    signal: str | None
    frame: int | None
    metadata_pixel_size_A: float | None = None


@dataclass(frozen=True)
class _Pixels:
    """What a file holds: one frame as stored, its scale and who states that."""

    values: NDArray[Any]
    frame: int | None = None
    pixel_size_A: float | None = None
    source: str | None = None


def read(
    path: Path | str,
    *,
    pixel_size_A: float | None = None,
    frame: int | None = None,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> Micrograph:
    """Read one image from a TIFF or PNG file.

    Parameters
    ----------
    path : path
    pixel_size_A : float, optional
        Wins over what the file states.
    frame : int, optional
        Which image of a stack, counted from 0.
    memory_limit_bytes : int
        Largest working memory that the analysis may need; larger images are refused from their header.

    Returns
    -------
    Micrograph

    Raises
    ------
    InputError
        The file is missing, unreadable or truncated.
    NotAnalysable
        A stack without `frame`, a colour image, or one that is too small, too large, constant or not finite.
    UsageError
        `frame` or `pixel_size_A` out of range.
    """
    path = Path(path)
    if pixel_size_A is not None and not (math.isfinite(pixel_size_A) and pixel_size_A > 0):
        raise UsageError(f"pixel size {pixel_size_A}", remedy="give it in Angstrom, greater than 0")
    pixels = _reader(path)(path, frame, memory_limit_bytes)
    stated = pixels.pixel_size_A
    return Micrograph(
        image=_checked(path, pixels.values),
        path=path,
        sha256=_sha256(path),
        dtype=pixels.values.dtype.name,
        pixel_size_A=stated if pixel_size_A is None else pixel_size_A,
        pixel_size_source=pixels.source if pixel_size_A is None else "user",
        signal=None,
        frame=pixels.frame,
        metadata_pixel_size_A=stated,
    )


def _reader(path: Path) -> Callable[[Path, int | None, int], _Pixels]:
    """Choose by the first bytes, never by the name."""
    if path.is_dir():
        raise InputError("is a folder", remedy="give one image file", subject=path)
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise InputError("no such file", remedy="check the path", subject=path) from None
    except OSError as error:
        problem = f"cannot be opened ({error.strerror})"
        raise InputError(problem, remedy="check the file's permissions", subject=path) from error
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _read_tiff
    if head == b"\x89PNG\r\n\x1a\n":
        return _read_png
    what = "an empty file" if not head else "neither a TIFF nor a PNG file"
    raise InputError(what, remedy="export the image as TIFF from the microscope's software", subject=path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- what can be analysed ------------------------------------------------------------------------------------------


def _check_size(path: Path, height: int, width: int, memory_limit_bytes: int) -> None:
    """Judge the shape that the header states, before a pixel is read."""
    if min(height, width) < MIN_SIDE_PX:
        problem = f"{width} x {height} px is too small, {MIN_SIDE_PX} px a side are needed"
        raise NotAnalysable(problem, remedy="record a larger field; a finer sampling does not help", subject=path)
    needed = height * width * WORKING_BYTES_PER_PIXEL
    if needed > memory_limit_bytes:
        side = math.isqrt(memory_limit_bytes // WORKING_BYTES_PER_PIXEL)
        problem = (
            f"{width} x {height} px would need {needed / 2**30:.0f} GiB of memory, "
            f"the limit is {memory_limit_bytes / 2**30:.0f} GiB"
        )
        raise NotAnalysable(problem, remedy=f"crop or bin it to {side} x {side} px or less", subject=path)


def _checked(path: Path, values: NDArray[Any]) -> NDArray[np.float64]:
    """Image as float64, or why it cannot be analysed."""
    if values.dtype.kind not in "buif":
        problem = f"holds {values.dtype.name} values"
        raise NotAnalysable(problem, remedy="export it with real-valued pixels", subject=path)
    image = np.ascontiguousarray(values, dtype=np.float64)
    bad = 1.0 - np.isfinite(image).mean()
    if bad > 0:
        problem = f"{100 * bad:.3g} % of the pixels are NaN or infinite"
        raise NotAnalysable(problem, remedy="crop to the part that was recorded", subject=path)
    if image.min() == image.max():
        problem = f"constant image, every pixel is {image.flat[0]:g}"
        raise NotAnalysable(problem, remedy="export the recorded signal instead", subject=path)
    return image


def _grey(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    """One channel of an (H, W, C) image whose colour channels are equal; a last alpha channel is left out."""
    channels = values.shape[2]
    colours = values[..., : channels - 1 if channels in (2, 4) else channels]
    if np.any(colours != colours[..., :1]):
        remedy = "export the recorded signal as a greyscale image, without overlays"
        raise NotAnalysable(f"a colour image ({channels} channels that differ)", remedy=remedy, subject=path)
    return values[..., 0]


def _frame_index(path: Path, frames: int, frame: int | None) -> int:
    """Position of the wanted frame among `frames`."""
    choice = f"choose one with --frame 0 to {frames - 1}"
    if frame is None and frames > 1:
        raise NotAnalysable(f"a stack of {frames} images", remedy=choice, subject=path)
    if frame is not None and not 0 <= frame < frames:
        raise UsageError(f"no frame {frame}, the file has {frames}", remedy=choice, subject=path)
    return frame or 0


# -- PNG -----------------------------------------------------------------------------------------------------------


def _read_png(path: Path, frame: int | None, memory_limit_bytes: int) -> _Pixels:
    """Greyscale, or colour with equal channels. Its resolution is in dots per metre, too coarse for a scale."""
    from PIL import PngImagePlugin

    try:
        with path.open("rb") as file:  # opened past Image.open, whose size guard warns where ours decides
            width, height = struct.unpack(">16x2I", file.read(24))
            _check_size(path, height, width, memory_limit_bytes)
            _frame_index(path, 1, frame)
            file.seek(0)
            with PngImagePlugin.PngImageFile(file) as png:
                values = np.asarray(png.convert("RGBA") if png.mode == "P" else png)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise _damaged(path, "PNG", error) from error
    return _Pixels(_grey(path, values) if values.ndim == 3 else values)


# -- TIFF ----------------------------------------------------------------------------------------------------------


def _read_tiff(path: Path, frame: int | None, memory_limit_bytes: int) -> _Pixels:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            series = max(tiff.series, key=lambda one: math.prod(one.shape))
            height, width, channels, frames = _layout(path, series)
            _check_size(path, height, width, memory_limit_bytes)
            index = _frame_index(path, frames, frame)
            values = _tiff_frame(tiff, series, index, frames)
            if channels > 1:
                values = _grey(path, values)
            if series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
                values = values.max() - values
            scale, source = next(_tiff_scales(tiff), (None, None))
    except StemfitError:
        raise
    except Exception as error:  # damaged tags fail in the parser in every possible way
        raise _damaged(path, "TIFF", error) from error
    return _Pixels(values, index if frames > 1 else None, scale, source)


def _damaged(path: Path, kind: str, error: Exception) -> InputError:
    if "imagecodecs" in str(error):
        return InputError(str(error), remedy="install it, or save the image without compression", subject=path)
    problem = f"damaged or truncated {kind} ({str(error) or type(error).__name__})"
    return InputError(problem, remedy="copy or export the file again", subject=path)


def _layout(path: Path, series: TiffPageSeries) -> tuple[int, int, int, int]:
    """Height, width, interleaved samples per pixel and number of frames; samples in planes of their own are frames."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    if "Y" not in sizes or "X" not in sizes:
        problem = f"axes {series.axes} of shape {series.shape} are no image"
        raise NotAnalysable(problem, remedy="export a 2-D image", subject=path)
    height, width, channels = sizes["Y"], sizes["X"], sizes["S"] if series.axes.endswith("S") else 1
    return height, width, channels, math.prod(series.shape) // (height * width * channels)


def _tiff_frame(tiff: TiffFile, series: TiffPageSeries, index: int, frames: int) -> NDArray[Any]:
    """One frame, (H, W) or with its samples, without reading the others where the file allows it."""
    shape = series.shape[-3:] if series.axes.endswith("S") else series.shape[-2:]
    if series.dataoffset is not None:
        dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
        offset = series.dataoffset + index * math.prod(shape) * dtype.itemsize
        values = tiff.filehandle.read_array(dtype, math.prod(shape), offset)
    elif len(series.pages) == frames:
        values = series.pages[index].asarray()  # type: ignore[union-attr]
    else:
        values = series.asarray().reshape(frames, *shape)[index]
    return np.asarray(values).reshape(shape).astype(series.dtype)


def _tiff_scales(tiff: TiffFile) -> Iterator[tuple[float, str]]:
    """Pixel sizes in Angstrom that the tags state and who states them, the most trustworthy first."""
    sources = ((_ome_scale, "OME"), (_fei_scale, "FEI"), (_imagej_scale, "ImageJ"), (_resolution_scale, "resolution"))
    for scale, source in sources:
        size = scale(tiff)
        if size is not None and math.isfinite(size) and size > 0:
            yield size, source


def _ome_scale(tiff: TiffFile) -> float | None:
    """PhysicalSizeX and Y of the first Pixels element; micrometres where it names no unit (OME-XML 2016-06)."""
    if not tiff.ome_metadata:
        return None
    nodes = ElementTree.fromstring(tiff.ome_metadata).iter()
    stated = next((node.attrib for node in nodes if node.tag.endswith("}Pixels")), {})
    sizes = [(stated.get(f"PhysicalSize{axis}"), stated.get(f"PhysicalSize{axis}Unit", "μm")) for axis in "XY"]
    return _geometric_mean([_angstrom(size, unit) for size, unit in sizes])


def _fei_scale(tiff: TiffFile) -> float | None:
    """Metres in the section Scan (EScan, IScan) of the tags 34680 and 34682."""
    metadata = tiff.fei_metadata or {}
    for section in ("Scan", "EScan", "IScan"):
        values = metadata.get(section, {})
        if "PixelWidth" in values:
            return _geometric_mean([_angstrom(values.get(key), "m") for key in ("PixelWidth", "PixelHeight")])
    return None


def _imagej_scale(tiff: TiffFile) -> float | None:
    """Resolution tags count pixels per unit of the ImageJ description."""
    unit = (tiff.imagej_metadata or {}).get("unit")
    return None if unit is None else _pixel_from_resolution(tiff, str(unit))


def _resolution_scale(tiff: TiffFile) -> float | None:
    """Pixels per inch or centimetre, where that is a distance between atoms and not a printing resolution."""
    if tiff.is_imagej:
        return None
    tag = tiff.pages.first.tags.get(296)
    unit = {2: "inch", 3: "cm"}.get(int(tag.value)) if tag is not None else None
    size = None if unit is None else _pixel_from_resolution(tiff, unit)
    low, high = ATOMIC_PIXEL_SIZES_A
    return size if size is not None and low <= size <= high else None


def _pixel_from_resolution(tiff: TiffFile, unit: str) -> float | None:
    """Angstrom per pixel from the rational tags 282 and 283, pixels per `unit`."""
    sides = []
    for code in (282, 283):
        tag = tiff.pages.first.tags.get(code)
        pixels, units = tag.value if tag is not None else (0, 0)
        sides.append(_angstrom(units / pixels, unit) if pixels else None)
    return _geometric_mean(sides)


def _angstrom(value: object, unit: str) -> float | None:
    """Length in Angstrom, None where it is no number or the unit is no length (``pixel``)."""
    unit = normalize("NFKC", unit.strip().replace("\\u00B5", "μ"))  # two code points each mean micro and Angstrom
    factor = ANGSTROM_PER_UNIT.get(unit) or ANGSTROM_PER_UNIT.get(unit.lower())
    try:
        return None if factor is None else float(value) * factor  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _geometric_mean(sides: list[float | None]) -> float | None:
    """One size for both directions: the lattice fit is free to stretch, so no pixel has to be square."""
    known = [side for side in sides if side is not None and side > 0]
    return math.prod(known) ** (1 / len(known)) if known else None
