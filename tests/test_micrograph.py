"""Files become pixels and Angstrom: against files written by tifffile and Pillow, and against files made wrong."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from definet.exceptions import ModelError
from stemfit.errors import InputError, NotAnalysable, OutputError, StemfitError, UnknownHost, UsageError, one_line
from stemfit.micrograph import MIN_SIDE_PX, Micrograph, read
from stemfit.micrograph.scale import angstrom

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 200, (90, 130)).astype(np.uint8)  # neither square nor symmetric
RGB = np.stack([GREY, GREY // 2, GREY], axis=-1)
STACK = RNG.integers(0, 60000, (5, 90, 130)).astype(np.uint16)


def micrograph(path: Path, **options: Any) -> Micrograph:
    """Read, and require that what no test asks about holds for every file."""
    result = read(path, **options)
    assert result.image.dtype == np.float64 and result.image.flags.c_contiguous
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return result


def overwrite_size(path: Path, side: int) -> None:
    """Let the header of a small TIFF claim `side` x `side` px."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength"):
            tiff.pages.first.tags[name].overwrite(side)


# -- pixels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_values_come_through_unchanged(tmp_path: Path, dtype: str, byteorder: Any, compression: str | None) -> None:
    values = (RNG.normal(1000, 300, (90, 130)) if dtype[0] == "f" else STACK[0] // 300).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=byteorder, compression=compression)
    result = micrograph(tmp_path / "a.tif")
    assert np.array_equal(result.image, values)
    assert (result.dtype, result.frame, result.signal) == (dtype, None, None)
    assert (result.pixel_size_A, result.pixel_size_source, result.metadata_pixel_size_A) == (None, None, None)


def test_name_does_not_matter(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    assert np.array_equal(micrograph(tmp_path / "a.tif").image, GREY)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_grey_png_in_every_mode(tmp_path: Path, mode: str) -> None:
    Image.fromarray(GREY).convert(mode).save(tmp_path / "a.png", dpi=(300, 300))
    result = micrograph(tmp_path / "a.png")
    assert np.array_equal(result.image, GREY)
    assert result.pixel_size_A is None  # 300 dpi is the page it was printed on


def test_16_bit_png(tmp_path: Path) -> None:
    Image.fromarray(STACK[0]).save(tmp_path / "a.png")
    result = micrograph(tmp_path / "a.png")
    assert np.array_equal(result.image, STACK[0]) and result.dtype == "uint16"


def test_frames_in_grey_colours_are_told(tmp_path: Path) -> None:
    colours = np.repeat(STACK[:2, ..., None], 3, axis=-1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    for frame in (0, "mean", "aligned"):
        told = micrograph(tmp_path / "a.tif", frame=frame).warnings
        assert sum("in colour whose channels are equal" in text for text in told) == 1


def test_grey_rgb_tiff_is_grey(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([GREY] * 3, axis=-1), photometric="rgb")
    read_as = micrograph(tmp_path / "a.tif")
    assert np.array_equal(read_as.image, GREY)
    assert len(read_as.warnings) == 1 and "in colour whose channels are equal is read as grey" in read_as.warnings[0]


def test_white_at_zero_is_turned_round(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="miniswhite")
    assert np.array_equal(micrograph(tmp_path / "a.tif").image, GREY.max() - GREY.astype(float))


def write_pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for page in STACK:
            writer.write(page, metadata=None)


STACKS: dict[str, Callable[[Path], None]] = {
    "shaped": lambda path: tifffile.imwrite(path, STACK, photometric="minisblack"),
    "compressed": lambda path: tifffile.imwrite(path, STACK, photometric="minisblack", compression="zlib"),
    "ImageJ": lambda path: tifffile.imwrite(path, STACK, imagej=True),
    "OME": lambda path: tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "TYX"}),
    "pages": write_pages,
    "planes": lambda path: tifffile.imwrite(path, STACK[:3], photometric="rgb", planarconfig="separate"),
}


@pytest.mark.parametrize("kind", STACKS)
def test_stack_needs_a_frame(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    STACKS[kind](path)
    count = 3 if kind == "planes" else 5
    with pytest.raises(NotAnalysable, match=rf"a\.tif: a stack of {count} images; choose one with --frame 0 to"):
        read(path)
    for frame in (0, 2):
        result = micrograph(path, frame=frame)
        assert np.array_equal(result.image, STACK[frame]) and result.frame == frame
    with pytest.raises(UsageError, match=f"no frame {count}"):
        read(path, frame=count)


# -- scale ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "per_pixel", "length_A"),
    [
        ("nm", 0.0125, 0.125), ("pm", 12.5, 0.125), ("A", 0.125, 0.125), ("Å", 0.125, 0.125), ("\u212b", 0.125, 0.125),
        ("\u00b5m", 1.25e-5, 0.125), ("\u03bcm", 1.25e-5, 0.125), ("\\u00B5m", 1.25e-5, 0.125), ("um", 1.25e-5, 0.125),
        ("micron", 1.25e-5, 0.125), ("pixel", 1.0, None), ("", 1.0, None), ("1/nm", 0.1, None),
    ],
)  # fmt: skip
def test_units(unit: str, per_pixel: float, length_A: float | None) -> None:
    assert angstrom(per_pixel, unit) == (None if length_A is None else pytest.approx(length_A))


@pytest.mark.parametrize(("unit", "per_pixel"), [("nm", 0.0125), ("um", 1.25e-5), ("\\u00B5m", 1.25e-5)])
def test_imagej_scale(tmp_path: Path, unit: str, per_pixel: float) -> None:
    resolution = (1 / per_pixel, 1 / per_pixel)
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, resolution=resolution, metadata={"unit": unit})
    result = micrograph(tmp_path / "a.tif")
    assert result.pixel_size_A == pytest.approx(0.125, rel=1e-6)
    assert result.pixel_size_source == "ImageJ"


def test_imagej_without_a_unit_has_no_scale(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, resolution=(80.0, 80.0))
    assert micrograph(tmp_path / "a.tif").pixel_size_A is None


def test_fei_scale(tmp_path: Path) -> None:
    text = b"[User]\r\nUser=x\r\n[Scan]\r\nPixelWidth=1.25e-11\r\nPixelHeight=1.25e-11\r\n"
    for code in (34680, 34682):
        tifffile.imwrite(tmp_path / "a.tif", GREY, extratags=[(code, 2, len(text) + 1, text + b"\0", True)])
        result = micrograph(tmp_path / "a.tif")
        assert result.pixel_size_A == pytest.approx(0.125) and result.pixel_size_source == "FEI"


@pytest.mark.parametrize(("unit", "size"), [("nm", 0.0125), (None, 1.25e-5), ("µm", 1.25e-5), ("Å", 0.125)])
def test_ome_scale(tmp_path: Path, unit: str | None, size: float) -> None:
    metadata: dict[str, Any] = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size}
    if unit is not None:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.tif", GREY, ome=True, metadata=metadata)
    result = micrograph(tmp_path / "a.tif")
    assert result.pixel_size_A == pytest.approx(0.125) and result.pixel_size_source == "OME"


@pytest.mark.parametrize(
    ("per_unit", "unit", "angstrom"),
    [(8e8, "CENTIMETER", 0.125), (72, "INCH", None), (300, "INCH", None), (8e8, "NONE", None)],
)
def test_resolution_tags_only_at_atomic_scale(
    tmp_path: Path, per_unit: float, unit: Any, angstrom: float | None
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, resolution=(per_unit, per_unit), resolutionunit=unit)
    result = micrograph(tmp_path / "a.tif")
    assert result.pixel_size_A == (None if angstrom is None else pytest.approx(angstrom, rel=1e-6))
    assert result.pixel_size_source == (None if angstrom is None else "resolution")


def test_oblong_pixels_give_the_geometric_mean_within_what_a_scan_may_be_stretched(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, imagej=True, resolution=(100, 90), metadata={"unit": "nm"})
    assert micrograph(path).pixel_size_A == pytest.approx(1 / np.sqrt(10 * 9))
    tifffile.imwrite(path, GREY, imagej=True, resolution=(100, 80), metadata={"unit": "nm"})
    with pytest.raises(NotAnalysable, match=r"pixels of 0.1 x 0.125 A are not square"):
        read(path)
    assert micrograph(path, pixel_size_A=0.11).pixel_size_A == 0.11  # who states one size states that they are square


def test_user_wins_and_the_file_is_remembered(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, resolution=(80, 80), metadata={"unit": "nm"})
    result = micrograph(tmp_path / "a.tif", pixel_size_A=0.2)
    assert (result.pixel_size_A, result.pixel_size_source) == (0.2, "user")
    assert result.metadata_pixel_size_A == pytest.approx(0.125)


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
def test_pixel_size_must_be_a_length(tmp_path: Path, value: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    with pytest.raises(UsageError, match="pixel size"):
        read(tmp_path / "a.tif", pixel_size_A=value)


# -- bad input -----------------------------------------------------------------------------------------------------


def damaged(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.tif: no such file; check the path"):
        read(tmp_path / "a.tif")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"Notes of Tuesday: the tip is bad.\n", b"GIF89a" + bytes(200)])
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"a\.tif: .*(empty|neither|a GIF picture)"):
        read(damaged(tmp_path / "a.tif", content))


@pytest.mark.parametrize("kind", ["first", "last", "png"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(share=st.floats(0.002, 0.98))
def test_truncated_anywhere(tmp_path: Path, kind: str, share: float) -> None:
    """Directory before the pixels (tifffile), behind them (Pillow), and a PNG: every cut is noticed."""
    whole = tmp_path / "whole"
    if kind == "first":
        tifffile.imwrite(whole, GREY)
    else:
        Image.fromarray(GREY).save(whole, format="PNG" if kind == "png" else "TIFF")
    content = whole.read_bytes()
    with pytest.raises(InputError) as caught:
        read(damaged(tmp_path / "cut.tif", content[: int(share * len(content))]))
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


def test_colour_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for path in (tmp_path / "a.tif", tmp_path / "a.png"):
        with pytest.raises(NotAnalysable, match=r"a colour image .3 channels that differ.; export"):
            read(path)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.full((90, 130), 17, np.uint16), "constant image, every pixel is 17"),
        (np.full((90, 130), np.nan, np.float32), "100 % of the pixels are NaN"),
        (np.where(GREY > 190, np.inf, GREY).astype(np.float32), "% of the pixels are NaN or infinite"),
        (GREY[:16, :16], "16 x 16 px is too small, 64 px"),
        (GREY[: MIN_SIDE_PX - 1], "130 x 63 px is too small"),
        (GREY.astype(np.complex64), r"holds complex numbers .complex64."),
    ],
)
def test_readable_but_not_analysable(tmp_path: Path, values: np.ndarray, problem: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values)
    with pytest.raises(NotAnalysable, match=problem) as caught:
        read(tmp_path / "a.tif")
    assert caught.value.exit_code == 4 and caught.value.remedy


def test_too_large_is_known_from_the_header(tmp_path: Path) -> None:
    """The pixels that the header claims are not in the file: had they been asked for, it would be `truncated`."""
    tiff, png = tmp_path / "a.tif", tmp_path / "a.png"
    tifffile.imwrite(tiff, GREY)
    overwrite_size(tiff, 20_000)
    Image.fromarray(GREY).save(png)
    content = bytearray(png.read_bytes())
    content[16:24] = (20_000).to_bytes(4, "big") * 2
    png.write_bytes(content)
    for path in (tiff, png):
        with pytest.raises(NotAnalysable, match=r"20000 x 20000 px would need \d+ GiB .* limit is 8 GiB; crop or bin"):
            read(path)


def test_4096_passes_the_limit(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    overwrite_size(tmp_path / "a.tif", 4096)
    with pytest.raises(InputError, match="truncated"):  # so the size was accepted
        read(tmp_path / "a.tif")
    with pytest.raises(NotAnalysable, match="4096 x 4096 px would need 7 GiB"):
        read(tmp_path / "a.tif", memory_limit_bytes=2**30)


# -- errors and real files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [UnknownHost("mos", ["MoS2", "WSe2"]), OutputError("no\nspace", remedy="free some", subject=Path("a/b"))],
)
def test_errors_are_one_line_and_cross_processes(error: StemfitError) -> None:
    twin = pickle.loads(pickle.dumps(error))
    assert str(twin) == str(error) and "\n" not in str(error)
    assert (type(twin), twin.exit_code, twin.remedy) == (type(error), error.exit_code, error.remedy)


def test_stage_errors_get_the_file_in_front() -> None:
    error = NotAnalysable("3 columns found, 30 are needed", remedy="record a larger field")
    assert one_line(error, "x.tif") == "x.tif: 3 columns found, 30 are needed; record a larger field"
    foreign = ModelError("no such checkpoint.", "Choose another one.")
    assert one_line(foreign, "x.tif") == "x.tif: no such checkpoint; choose another one"
    assert "did you mean MoS2?" in str(UnknownHost("mos", ["MoS2", "WSe2"]))


@pytest.mark.parametrize(
    ("name", "shape", "pixel_size_A"),
    [
        ("wsse_100kV_nanohole.tif", (512, 512), 0.15625), ("wsse_100kV_4nm.tif", (512, 512), 0.078125),
        ("mose2_40kV.tif", (500, 580), None), ("wse2_100kV.tif", (1024, 1024), None),
        ("mowsse_line_defects.png", (1024, 1024), None), ("formats/rgb_8bit.tif", (1024, 1024), None),
    ],
)  # fmt: skip
def test_real_files(real_images: Path, name: str, shape: tuple[int, int], pixel_size_A: float | None) -> None:
    result = micrograph(real_images / name)
    assert result.image.shape == shape
    assert result.pixel_size_A == pixel_size_A  # as stated; the lattice says 12 to 17 % more
