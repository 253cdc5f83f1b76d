"""TIFF: pages, stacks, and the tags in which they state a scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import NotAnalysable
from stemfit.micrograph.microscope import Optics, found, optics_of, scaled
from stemfit.micrograph.scale import atomic, scale_of
from stemfit.micrograph.types import Scale, Signal

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

DM_UNITS, DM_SCALES = (65004, 65003), (65010, 65009)
"""Private tags of DigitalMicrograph, x and y."""

FEI_XML = 34683


@contextmanager
def opened(path: Path) -> Iterator[list[Signal]]:
    """The largest series of the file, one signal."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        series = max(tiff.series, key=lambda one: math.prod(one.shape))
        height, width, frames = _layout(path, series)
        turned = series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE

        def load(index: int) -> NDArray[Any]:
            values = _frame(tiff, series, index, frames)
            return values.max() - values if turned else values

        yield [Signal(None, (height, width), frames, load, tuple(_scales(tiff)), _optics(tiff))]


def _layout(path: Path, series: TiffPageSeries) -> tuple[int, int, int]:
    """Height, width and number of frames; samples in planes of their own are frames."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    if "Y" not in sizes or "X" not in sizes:
        shape = " x ".join(map(str, series.shape)) or "nothing"
        problem = f"holds no image (data of {shape})"
        raise NotAnalysable(problem, remedy="export a 2-D image", subject=path)
    height, width, channels = sizes["Y"], sizes["X"], sizes["S"] if series.axes.endswith("S") else 1
    return height, width, math.prod(series.shape) // (height * width * channels)


def _frame(tiff: TiffFile, series: TiffPageSeries, index: int, frames: int) -> NDArray[Any]:
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


# -- microscope ----------------------------------------------------------------------------------------------------


def _optics(tiff: TiffFile) -> Optics:
    """Volts in the section Beam of the tags 34680 and 34682, and what the XML of the tag 34683 states.

    That has the names and units of the metadata in the same maker's EMD files: V and rad.
    """
    volts = found(tiff.fei_metadata or {}, "Beam.HV")
    root = _xml(tiff.pages.first.tags.valueof(FEI_XML))
    rings = [_ring(detector) for detector in _of_this_image(root)]
    return optics_of(
        scaled(1e-3, volts, root.findtext("Optics/AccelerationVoltage")),
        scaled(1e3, root.findtext("Optics/BeamConvergence")),
        rings,
    )


def _xml(text: object) -> ElementTree.Element:
    """The document in a tag, without its namespaces; an empty one where there is none that can be read."""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    try:
        root = ElementTree.fromstring(text.strip("\0\r\n ")) if isinstance(text, str) else ElementTree.Element("none")
    except ElementTree.ParseError:
        return ElementTree.Element("none")
    for node in root.iter():
        node.tag = str(node.tag).rpartition("}")[2]
    return root


def _of_this_image(root: ElementTree.Element) -> list[ElementTree.Element]:
    """The detector that the image names, of several; the only one, where it names none."""
    detectors = [node for node in root.iterfind("Detectors/*") if node.find("CollectionAngleRange") is not None]
    name = root.findtext("BinaryResult/Detector")
    named = [node for node in detectors if name and node.findtext("DetectorName") == name]
    return named or (detectors if len(detectors) == 1 and not name else [])


def _ring(detector: ElementTree.Element) -> tuple[float | None, float | None]:
    begin, end = (scaled(1e3, detector.findtext(f"CollectionAngleRange/{name}"))[0] for name in ("begin", "end"))
    return begin, end


# -- scale ---------------------------------------------------------------------------------------------------------


def _scales(tiff: TiffFile) -> Iterator[Scale]:
    """What the tags state: those that the microscope's software wrote before those of any program."""
    for stated in (_fei, _digital_micrograph, _zeiss, _ome, _imagej, _resolution):
        scale = stated(tiff)
        if scale is not None:
            yield scale


def _fei(tiff: TiffFile) -> Scale | None:
    """Metres in the section Scan (EScan, IScan) of the tags 34680 and 34682."""
    metadata = tiff.fei_metadata or {}
    for section in ("Scan", "EScan", "IScan"):
        values = metadata.get(section, {})
        if "PixelWidth" in values:
            return scale_of("FEI", (values["PixelWidth"], "m"), (values.get("PixelHeight"), "m"))
    return None


def _digital_micrograph(tiff: TiffFile) -> Scale | None:
    """Scale and unit in private tags, one for each axis."""
    tags = tiff.pages.first.tags
    x, y = ((tags.valueof(scale), tags.valueof(unit)) for scale, unit in zip(DM_SCALES, DM_UNITS, strict=True))
    return scale_of("DigitalMicrograph", x, y)


def _zeiss(tiff: TiffFile) -> Scale | None:
    """Image Pixel Size of the tag 34118."""
    stated: Any = (tiff.sem_metadata or {}).get("ap_image_pixel_size", ())
    if len(stated) == 2:  # a number that the parser did not take for one: "0,0125 nm"
        stated = (stated[0], *str(stated[1]).split())
    return scale_of("Zeiss", stated[1:3], stated[1:3]) if len(stated) == 3 else None


def _ome(tiff: TiffFile) -> Scale | None:
    """PhysicalSizeX and Y of the first Pixels element; micrometres where it names no unit (OME-XML 2016-06)."""
    if not tiff.ome_metadata:
        return None
    nodes = ElementTree.fromstring(tiff.ome_metadata).iter()
    stated: Mapping[str, str] = next((node.attrib for node in nodes if node.tag.endswith("}Pixels")), {})
    x, y = ((stated.get(f"PhysicalSize{axis}"), stated.get(f"PhysicalSize{axis}Unit", "μm")) for axis in "XY")
    return scale_of("OME", x, y)


def _imagej(tiff: TiffFile) -> Scale | None:
    """Resolution tags count pixels per unit of the ImageJ description."""
    metadata = tiff.imagej_metadata or {}
    unit = metadata.get("unit")
    return _from_resolution(tiff, "ImageJ", unit, metadata.get("yunit", unit))


def _resolution(tiff: TiffFile) -> Scale | None:
    """Pixels per inch or centimetre, where that is a distance between atoms and not a printing resolution."""
    unit = {2: "inch", 3: "cm"}.get(int(tiff.pages.first.tags.valueof(296, default=1)))
    if unit is None or tiff.is_imagej:
        return None
    scale = _from_resolution(tiff, "resolution", unit, unit)
    return scale if scale is not None and atomic(scale) else None


def _from_resolution(tiff: TiffFile, source: str, *units: object) -> Scale | None:
    """The rational tags 282 and 283, pixels per unit."""
    sides = []
    for code in (282, 283):
        pixels, per = tiff.pages.first.tags.valueof(code, default=(0, 1))
        sides.append(per / pixels if pixels else None)
    return scale_of(source, (sides[0], units[0]), (sides[1], units[1]))
