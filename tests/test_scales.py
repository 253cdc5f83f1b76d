"""What TIFF tags state of a pixel's size: every flavour and unit, sources that contradict, decimal commas."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stemfit.errors import NotAnalysable
from stemfit.micrograph import Micrograph, read
from stemfit.micrograph.scale import MAX_OBLONG, angstrom

GREY = np.random.default_rng(5).integers(0, 200, (66, 90)).astype(np.uint8)
UNITS = {"nm": 10.0, "A": 1.0, "Å": 1.0, "pm": 0.01, "µm": 1e4, "um": 1e4, "mm": 1e7, "cm": 1e8, "m": 1e10}
FAST = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def fei(x_m: float, y_m: float, comma: bool = False) -> list[Any]:
    text = f"[Beam]\r\nHV=60000\r\n[Scan]\r\nPixelWidth={x_m}\r\nPixelHeight={y_m}\r\n"
    return text_tag(34682, text.replace(".", ",") if comma else text)


def zeiss(size: str) -> list[Any]:
    return text_tag(34118, f"0\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {size}\r\nAP_WD\r\nWD = 4 mm\r\n")


def text_tag(code: int, text: str) -> list[Any]:
    content = text.encode("latin-1") + b"\0"
    return [(code, 2, len(content), content, True)]


def gatan(x: float, y: float, unit_x: str | None, unit_y: str | None) -> list[Any]:
    """Tags 65003 to 65010 of DigitalMicrograph's export: y before x."""
    tags: list[Any] = [(65009, 12, 1, struct.pack("<d", y), True), (65010, 12, 1, struct.pack("<d", x), True)]
    for code, unit in ((65003, unit_y), (65004, unit_x)):
        tags += [] if unit is None else text_tag(code, unit)
    return tags


def written(folder: Path, **how: Any) -> Path:
    tifffile.imwrite(folder / "a.tif", GREY, **how)
    return folder / "a.tif"


def read_with(folder: Path, **how: Any) -> Micrograph:
    result = read(written(folder, **how))
    assert np.array_equal(result.image, GREY)
    return result


sizes = st.floats(0.006, 1.8)
oblong = st.floats(1 / 1.12, 1.12)


@FAST
@given(size=sizes, ratio=oblong, unit=st.sampled_from(sorted(UNITS)))
def test_gatan(tmp_path: Path, size: float, ratio: float, unit: str) -> None:
    x, y = size / UNITS[unit], size * ratio / UNITS[unit]
    result = read_with(tmp_path, extratags=gatan(x, y, unit, unit))
    assert result.pixel_size_A == pytest.approx(size * ratio**0.5, rel=1e-6)
    assert result.pixel_size_source == "DigitalMicrograph"


@FAST
@given(size=sizes, ratio=oblong, unit=st.sampled_from(sorted(UNITS)))
def test_ome(tmp_path: Path, size: float, ratio: float, unit: str) -> None:
    metadata = {
        "axes": "YX", "PhysicalSizeX": size / UNITS[unit], "PhysicalSizeY": size * ratio / UNITS[unit],
        "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit,
    }  # fmt: skip
    result = read_with(tmp_path, ome=True, metadata=metadata)
    assert result.pixel_size_A == pytest.approx(size * ratio**0.5, rel=1e-6) and result.pixel_size_source == "OME"


@FAST
@given(size=sizes, ratio=oblong, comma=st.booleans())
def test_fei(tmp_path: Path, size: float, ratio: float, comma: bool) -> None:
    result = read_with(tmp_path, extratags=fei(1e-10 * size, 1e-10 * size * ratio, comma))
    assert result.pixel_size_A == pytest.approx(size * ratio**0.5, rel=1e-6) and result.pixel_size_source == "FEI"
    assert result.stated_voltage_kV == 60


@FAST
@given(size=sizes, unit=st.sampled_from(["nm", "pm", "µm"]), comma=st.booleans())
def test_zeiss(tmp_path: Path, size: float, unit: str, comma: bool) -> None:
    text = f"{size / UNITS[unit]:.9f}"
    result = read_with(tmp_path, extratags=zeiss(f"{text.replace('.', ',') if comma else text} {unit}"))
    assert result.pixel_size_A == pytest.approx(UNITS[unit] * float(text), rel=1e-6)
    assert result.pixel_size_source == "Zeiss"


@FAST
@given(size=sizes, ratio=oblong, unit=st.sampled_from(["nm", "A", "pm", "um", "\\u00B5m", "micron"]))
def test_imagej(tmp_path: Path, size: float, ratio: float, unit: str) -> None:
    per = {"micron": 1e4, "\\u00B5m": 1e4}.get(unit) or UNITS[unit]
    resolution = (per / size, per / (size * ratio))
    result = read_with(tmp_path, imagej=True, resolution=resolution, metadata={"unit": unit})
    assert result.pixel_size_A == pytest.approx(size * ratio**0.5, rel=1e-4) and result.pixel_size_source == "ImageJ"


@FAST
@given(size=st.floats(0.07, 1.9), inch=st.booleans())  # finer ones are more pixels than the tag's integers can count
def test_resolution(tmp_path: Path, size: float, inch: bool) -> None:
    unit = 2.54e8 if inch else 1e8
    result = read_with(tmp_path, resolution=(unit / size, unit / size), resolutionunit="INCH" if inch else "CENTIMETER")
    assert result.pixel_size_A == pytest.approx(size, rel=1e-4) and result.pixel_size_source == "resolution"


# -- what is missing, contradicts or is not square -----------------------------------------------------------------


def test_unit_on_one_axis_only(tmp_path: Path) -> None:
    for units in (("nm", None), (None, "nm"), ("nm", ""), ("px", "nm")):
        assert read_with(tmp_path, extratags=gatan(0.0125, 0.0125, *units)).pixel_size_A == pytest.approx(0.125)
    for units in ((None, None), ("", ""), ("px", "px"), ("nA", "s")):
        assert read_with(tmp_path, extratags=gatan(0.0125, 0.0125, *units)).pixel_size_A is None


def test_two_units_of_one_length_are_no_contradiction(tmp_path: Path) -> None:
    assert read_with(tmp_path, extratags=gatan(0.0125, 12.5, "nm", "pm")).pixel_size_A == pytest.approx(0.125)


def imagej(size_nm: float) -> dict[str, Any]:
    return {"imagej": True, "resolution": (1 / size_nm, 1 / size_nm), "metadata": {"unit": "nm"}}


@pytest.mark.parametrize(
    ("imagej_nm", "expected", "words"),
    [
        (0.0125, 0.125, None), (0.01255, 0.125, None),
        (0.0135, 0.125, "the file states 0.125 A a pixel (FEI) and 0.135 A (ImageJ): the former is used"),
        (0.025, None, "the file states 0.125 A a pixel (FEI) and 0.25 A (ImageJ): neither is used"),
        (12.5, 0.125, "the file states 125 A a pixel (ImageJ), with which atoms are not resolved: not used"),
    ],
)  # fmt: skip
def test_sources_that_contradict(tmp_path: Path, imagej_nm: float, expected: float | None, words: str | None) -> None:
    """Rounding is none, bad calibration is told, a binning or another unit leaves no scale."""
    path = written(tmp_path, extratags=fei(1.25e-11, 1.25e-11), **imagej(imagej_nm))
    result = read(path)
    assert result.pixel_size_A == result.metadata_pixel_size_A == (expected and pytest.approx(expected))
    assert result.warnings == (() if words is None else (words,))
    assert result.pixel_size_source == ("FEI" if expected else None)
    assert read(path, pixel_size_A=0.2).pixel_size_A == 0.2


def test_three_sources_the_last_of_which_contradicts(tmp_path: Path) -> None:
    tags = fei(1.25e-11, 1.25e-11) + gatan(0.0125, 0.0125, "nm", "nm")
    result = read(written(tmp_path, extratags=tags, **imagej(0.1)))
    assert result.pixel_size_A is None and result.warnings[0].endswith("and 1 A (ImageJ): neither is used")


def test_sizes_that_show_no_atoms_are_not_used(tmp_path: Path) -> None:
    """ImageJ keeps the 72 dpi of a screen; a wrong unit is off by a thousand."""
    printed = read(written(tmp_path, imagej=True, resolution=(72, 72), metadata={"unit": "inch"}))
    assert printed.pixel_size_A is None and printed.warnings[0].startswith("the file states 3.528e+06 A a pixel")
    tiny = read(written(tmp_path, extratags=gatan(0.0125, 0.0125, "pm", "pm")))
    assert tiny.pixel_size_A is None and "0.000125 A a pixel (DigitalMicrograph)" in tiny.warnings[0]


def test_reciprocal_units_are_refused_and_contradict_lengths(tmp_path: Path) -> None:
    path = written(tmp_path, extratags=gatan(0.1, 0.1, "1/nm", "1/nm"))
    with pytest.raises(NotAnalysable, match=r"a\.tif: its scale is a reciprocal length: a diffraction pattern"):
        read(path)
    tags = fei(1.25e-11, 1.25e-11) + gatan(0.1, 0.1, "1/nm", "1/nm")
    assert "reciprocal length (DigitalMicrograph): neither" in read(written(tmp_path, extratags=tags)).warnings[0]


@FAST
@given(ratio=st.floats(1.01 * MAX_OBLONG, 10), swap=st.booleans())
def test_pixels_that_are_not_square_by_far_are_refused(tmp_path: Path, ratio: float, swap: bool) -> None:
    sides = (0.01, 0.01 * ratio)
    path = written(tmp_path, extratags=gatan(*(sides[::-1] if swap else sides), "nm", "nm"))
    with pytest.raises(NotAnalysable, match=r"are not square, 1.13 : 1 is the limit; bin it to square"):
        read(path)


@pytest.mark.parametrize("value", ["1,25", "1.25", " 1.25 "])
def test_decimal_commas(value: str) -> None:
    assert angstrom(value, "nm") == 12.5


@pytest.mark.parametrize("value", ["1,250.0", "1,2,5", "wide", "", None, "nan", "-1", 0, float("inf"), b"x"])
def test_what_is_no_number(value: object) -> None:
    assert angstrom(value, "nm") is None
