"""Files as microscopes write them: by the libraries' own writers where they have one, else byte by byte."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np


def axes(shape: Sequence[int], scales: tuple[Any, Any], units: tuple[Any, Any]) -> list[dict[str, Any]]:
    """Of an image (H, W), or a stack (N, H, W); scales and units are (x, y)."""
    count = len(shape) - 2
    each = [("t", 1.0, "s")] * count + [("y", scales[1], units[1]), ("x", scales[0], units[0])]
    return [
        {
            "_type": "UniformDataAxis", "name": name, "size": size, "scale": scale, "offset": 0.0, "units": unit,
            "navigate": k < count, "is_binned": False, "index_in_array": k,
        }
        for k, (size, (name, scale, unit)) in enumerate(zip(shape, each, strict=True))
    ]  # fmt: skip


def document(
    data: np.ndarray, scale: Any = 0.0125, unit: Any = "nm", title: str = "", spectra: bool = False, **metadata: Any
) -> dict[str, Any]:
    """A signal as HyperSpy gives it to RosettaSciIO."""
    two = [value if isinstance(value, tuple) else (value, value) for value in (scale, unit)]
    each = axes(data.shape, two[0], two[1])
    each[-2]["navigate"] = spectra
    return {
        "data": data, "axes": each, "original_metadata": {}, "learning_results": {},
        "metadata": {"General": {"title": title}, "Signal": {"signal_type": ""}, **metadata},
        "attributes": {"_lazy": False}, "tmp_parameters": {}, "models": {},
        "package_info": {"package": "hyperspy", "package_version": "2.0"},
    }  # fmt: skip


def write_hspy(path: Path, data: np.ndarray, **of: Any) -> None:
    import_module("rsciio.hspy").file_writer(str(path), document(data, **of))


def write_ncem(path: Path, data: np.ndarray, **of: Any) -> None:
    import_module("rsciio.emd").file_writer(str(path), document(data, **of))


def write_zspy(path: Path, data: np.ndarray, **of: Any) -> None:
    """As HyperSpy does: Zarr's second format, whose keys have slashes (RosettaSciIO's writer needs an older zarr)."""
    import zarr

    content = document(data, **of)
    root = zarr.create_group(path, zarr_format=2, attributes={"file_format": "ZSpy", "file_format_version": "3.1"})
    signal = root.create_group("Experiments").create_group("__unnamed__")
    signal.create_array("data", data=data, chunk_key_encoding={"name": "v2", "separator": "/"})
    for k, axis in enumerate(content["axes"]):
        signal.create_group(f"axis-{k}").attrs.update({key: v for key, v in axis.items() if v is not None})
    for part in ("metadata", "original_metadata", "attributes", "learning_results", "models"):
        put_zarr(signal.create_group(part), content[part])


def write_zipped_zspy(path: Path, data: np.ndarray, **of: Any) -> None:
    """The same in one file."""
    folder = path.with_suffix(".folder")
    write_zspy(folder, data, **of)
    with zipfile.ZipFile(path, "w") as packed:
        for part in sorted(part for part in folder.rglob("*") if part.is_file()):
            packed.write(part, part.relative_to(folder).as_posix())
    shutil.rmtree(folder)


def put_zarr(group: Any, content: Mapping[str, Any]) -> None:
    """Nested mappings as nested groups."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            put_zarr(group.create_group(key), value)
        else:
            group.attrs[key] = value


def write_mrc(path: Path, data: np.ndarray, scale: Any = 0.0125, unit: str = "nm") -> None:
    """MRC 2014: cell edges in Angstrom over the pixels along them; 0 where nobody stated them."""
    assert unit == "nm"
    mode = {"uint8": 0, "int16": 1, "float32": 2, "complex64": 4, "uint16": 6}[data.dtype.name]
    frames, height, width = data.shape if data.ndim == 3 else (1, *data.shape)
    x, y = (10 * one * size for one, size in zip(scale if isinstance(scale, tuple) else (scale, scale),
                                                 (width, height), strict=True))  # fmt: skip
    header = bytearray(1024)
    header[:52] = struct.pack("<10i3f", width, height, frames, mode, 0, 0, 0, width, height, frames, x, y, frames)
    header[64:76] = struct.pack("<3i", 1, 2, 3)
    header[208:216] = b"MAP DD\0\0"
    path.write_bytes(bytes(header) + data.tobytes())


def write_dm3(
    path: Path, data: np.ndarray, scale: Any = 0.0125, unit: Any = "nm", version: Literal[3, 4] = 3,
    tags: Mapping[str, Any] | None = None,
) -> None:
    """DigitalMicrograph 3: nested tags, big-endian but for what they hold; the x axis comes first."""
    count = {3: "i", 4: "q"}[version]
    kind = {"uint8": 6, "int16": 1, "uint16": 10, "float32": 2}[data.dtype.name]
    scales, units = ((one if isinstance(one, tuple) else (one, one)) for one in (scale, unit))
    calibrations = [{"Origin": 0.0, "Scale": float(s), "Units": u} for s, u in zip(scales, units, strict=True)]
    image = {
        "ImageData": {
            "Calibrations": {
                "Brightness": {"Origin": 0.0, "Scale": 1.0, "Units": ""}, "Dimension": calibrations,
                "DisplayCalibratedUnits": 1,
            },
            "Data": data, "DataType": kind, "Dimensions": list(data.shape[::-1]), "PixelDepth": data.itemsize,
        },
        "ImageTags": {"Microscope Info": {"Voltage": 60000.0}, **(tags or {})}, "Name": "", "UniqueID": [1, 2, 3, 4],
    }  # fmt: skip
    root = dm_group({"ImageList": [image], "InImageMode": 1}, count)
    path.write_bytes(struct.pack(f">i{count}i", version, len(root) + 16, 1) + root + bytes(8))


def write_dm4(path: Path, data: np.ndarray, **of: Any) -> None:
    """The same with integers of eight bytes, and the size of each tag before it."""
    write_dm3(path, data, version=4, **of)


def dm_group(content: Any, count: str) -> bytes:
    """A group of tags, or a list of them, which have no names; `count` is the type of its integers."""
    pairs = list(content.items()) if isinstance(content, dict) else [("", one) for one in content]
    return struct.pack(f">bb{count}", 1, 0, len(pairs)) + b"".join(dm_tag(*pair, count) for pair in pairs)


def dm_tag(name: str, value: Any, count: str) -> bytes:
    """A group, or data: how many words describe them, these words (a type, of arrays also the length), the values."""
    group = isinstance(value, dict | list)
    body = dm_group(value, count) if group else dm_data(value, count)
    size = struct.pack(">q", len(body)) if count == "q" else b""
    return struct.pack(">bh", 20 if group else 21, len(name)) + name.encode() + size + body


def dm_data(value: Any, count: str) -> bytes:
    if isinstance(value, str):
        value = np.frombuffer(value.encode("utf-16-le"), np.uint16)
    if isinstance(value, np.ndarray):
        code = {"uint8": 8, "int16": 2, "uint16": 4, "float32": 6}[value.dtype.name]
        return b"%%%%" + struct.pack(f">4{count}", 3, 20, code, value.size) + value.tobytes()
    code, form = (7, "<d") if isinstance(value, float) else (3, "<i")
    return b"%%%%" + struct.pack(f">2{count}", 1, code) + struct.pack(form, value)


def write_ser(path: Path, data: np.ndarray, scale: float = 0.0125e-9) -> None:
    """TIA's series of images, metres per pixel; the lowest row comes first."""
    frames = data if data.ndim == 3 else data[None]
    kind = {"uint8": 1, "uint16": 2, "uint32": 3, "int16": 5, "int32": 6, "float32": 7}[data.dtype.name]
    head = struct.pack("<3h3i", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, len(frames)) + struct.pack("<i", len(frames))
    dimension = struct.pack("<i2di", len(frames), 0.0, 1.0, 0) + struct.pack("<2i", 0, 0)
    table = len(head) + 8 + len(dimension)
    start = table + 8 * len(frames)
    height, width = frames.shape[1:]
    size = 2 * (8 + 8 + 4) + 2 + 8 + frames[0].nbytes + 8
    places = [start + k * size for k in range(len(frames))]
    tags = [place + size - 8 for place in places]
    body = b"".join(
        struct.pack("<2di2dihii", 0.0, scale, 0, 0.0, scale, 0, kind, width, height) + frame[::-1].tobytes()
        + struct.pack("<hhi", 0x4152, 0, 0)
        for frame in frames
    )
    content = head + struct.pack("<ii", table, 1) + dimension + struct.pack(f"<{2 * len(frames)}i", *places, *tags)
    path.write_bytes(content + body)


def write_velox(
    path: Path, signals: Mapping[str, np.ndarray], metres: Any = 1.25e-11, unit: str = "m",
    rings_rad: Mapping[str, tuple[float, float]] | None = None, **optics: str,
) -> None:
    """Velox: each signal by its detector, (H, W) or (frames, H, W); every image lists all detectors."""
    detectors: dict[str, dict[str, Any]] = {f"Detector-{k}": {"DetectorName": name} for k, name in enumerate(signals)}
    for detector in detectors.values():
        begin, end = (rings_rad or {}).get(detector["DetectorName"], (None, None))
        detector |= {} if begin is None else {"CollectionAngleRange": {"begin": str(begin), "end": str(end)}}
    x, y = metres if isinstance(metres, tuple) else (metres, metres)
    with h5py.File(path, "w") as file:
        file["Version"] = np.array([json.dumps({"format": "Velox", "version": "11"}).encode()])
        for k, data in enumerate(signals.values()):
            frames = data if data.ndim == 3 else data[None]
            group = file.create_group(f"Data/Image/{k:032x}")
            shape = (*frames.shape[1:], 1)
            group.create_dataset("Data", data=np.moveaxis(frames, 0, -1), chunks=shape)
            metadata = {
                "Core": {"MetadataDefinitionVersion": "7.9"}, "CustomProperties": {}, "Instrument": {},
                "Acquisition": {},
                "Optics": {"AccelerationVoltage": "80000", **optics}, "Scan": {"FrameTime": "1.5"}, "Stage": {},
                "Detectors": detectors,
                "BinaryResult": {
                    "DetectorIndex": str(k), "PixelSize": {"width": str(x), "height": str(y)}, "PixelUnitX": unit,
                    "PixelUnitY": unit, "Offset": {"x": "0", "y": "0"},
                },
            }  # fmt: skip
            text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
            group["Metadata"] = np.repeat(text[:, None], len(frames), axis=1)
