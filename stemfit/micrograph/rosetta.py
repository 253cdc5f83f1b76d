"""Microscopes' own files through RosettaSciIO, and HyperSpy's signals, which have the same axes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import InputError, NotAnalysable, UsageError
from stemfit.micrograph.hdf5_trial import try_hdf5
from stemfit.micrograph.headers import check_mrc, check_series
from stemfit.micrograph.microscope import Optics, found, optics_in
from stemfit.micrograph.scale import scale_of
from stemfit.micrograph.types import Signal

UNNAMED = "__unnamed__"
"""What the library calls signals that have no name."""


class Axis(NamedTuple):
    """One axis of a data array.

    Attributes
    ----------
    size : int
    scale, units : object
        Of one step, as stated.
    navigate : bool
        Whether it counts images or spectra, and is not within one.
    """

    size: int
    scale: object
    units: object
    navigate: bool


# -- files ---------------------------------------------------------------------------------------------------------


@contextmanager
def digital_micrograph(path: Path) -> Iterator[list[Signal]]:
    """DM3 and DM4: the images of the file, without its thumbnail."""
    yield _signals(path, "DigitalMicrograph", _read("digitalmicrograph", path, lazy=True))


@contextmanager
def tia(path: Path) -> Iterator[list[Signal]]:
    """SER, and EMI with the SER files beside it, which the library tells apart by their names."""
    if path.suffix.lower() not in (".ser", ".emi"):
        problem = "a series of TIA whose name does not end in .ser"
        raise InputError(problem, remedy="give it its name back", subject=path)
    beside = sorted(path.parent.glob(f"{escape(path.stem)}_[0-9].ser"))
    for series in [path] if path.suffix.lower() == ".ser" else beside:
        check_series(series)
    documents = _read("tia", path, lazy=True)
    if not documents:
        remedy = f"put {path.stem}_1.ser beside it, which holds the image"
        raise InputError("an EMI file without its SER files", remedy=remedy, subject=path)
    yield _signals(path, "TIA", documents)


@contextmanager
def mrc(path: Path) -> Iterator[list[Signal]]:
    """MRC 2014 and older: one image or a stack; rows in the order of the file."""
    check_mrc(path)
    yield _signals(path, "MRC", _read("mrc", path, lazy=True))


@contextmanager
def zspy(path: Path) -> Iterator[list[Signal]]:
    """HyperSpy's signals in a folder."""
    yield _signals(path, "HyperSpy", _read("zspy", path, lazy=True, mode="r"))


@contextmanager
def zipped(path: Path) -> Iterator[list[Signal]]:
    """The same in one file, which other programs' ZIP files are not."""
    with ZipFile(path) as packed:
        if not any(name.endswith((".zgroup", "zarr.json")) for name in packed.namelist()):
            raise InputError("a ZIP file that is no zspy", remedy="unpack it, and give the image in it", subject=path)
    with zspy(path) as signals:
        yield signals


@contextmanager
def hdf5(path: Path) -> Iterator[list[Signal]]:
    """HDF5: HyperSpy's, Velox's or that of the EMD format."""
    import h5py

    try_hdf5(path)
    with path.open("rb") as file:  # not by its name, for the library keeps what it opened for as long as it likes
        with h5py.File(file, "r") as root:
            groups = [root, *(item for item in root.values() if isinstance(item, h5py.Group))]
            hyperspy = "Experiments" in root or "HyperSpy" in str(root.attrs.get("file_format", ""))
            velox = "Version" in root and "Data" in root
            ncem = any({"version_major", "version"} & set(group.attrs) for group in groups)
        if hyperspy:
            yield _signals(path, "HyperSpy", _read("hspy", file, lazy=True, mode="r"))
        elif velox:
            # The frames that were taken along with a spectrum image are a stack, too.
            documents = _read("emd", file, lazy=True, select_type="images", load_SI_image_stack=True)
            yield _signals(path, "Velox", documents)
        elif ncem:
            yield _signals(path, "EMD", _read("emd", file, lazy=True))
        else:
            problem = "an HDF5 file, but neither EMD nor HyperSpy's"
            remedy = "export the image as TIFF, or give the array to stemfit.analyze in Python"
            raise InputError(problem, remedy=remedy, subject=path)


def _read(plugin: str, file: Path | BinaryIO, **options: Any) -> list[dict[str, Any]]:
    """What the library reads; its messages, which it writes to stdout, are switched off by whoever opens the file."""
    level = logging.getLogger("rsciio").level
    reader: Callable[..., list[dict[str, Any]]] = import_module(f"rsciio.{plugin}").file_reader
    logging.getLogger("rsciio").setLevel(max(level, logging.CRITICAL + 1))
    return reader(os.fspath(file) if isinstance(file, Path) else file, **options)


def _signals(path: Path, source: str, documents: Sequence[Mapping[str, Any]]) -> list[Signal]:
    """The images among what was read.

    Raises
    ------
    NotAnalysable
        If there are none.
    """
    signals = [signal for signal in (_signal(source, document) for document in documents) if signal is not None]
    if not signals:
        shapes = ", ".join(" x ".join(map(str, np.shape(document["data"]))) for document in documents[:3])
        problem = f"holds no image (data of {shapes})" if shapes else "holds no data"
        raise NotAnalysable(problem, remedy="export a 2-D image", subject=path)
    return signals


def _signal(source: str, document: Mapping[str, Any]) -> Signal | None:
    axes = sorted(document["axes"], key=lambda axis: int(axis.get("index_in_array") or 0))
    if any("index_in_array" not in axis for axis in axes):
        axes = list(document["axes"])
    cell = [found(document, f"original_metadata.std_header.{name}") for name in ("MX", "Xlen")]
    unknown = source == "MRC" and not all(cell)  # the library puts 1 nm there
    each = [
        Axis(int(axis["size"]), None if unknown else axis.get("scale"), axis.get("units"), bool(axis.get("navigate")))
        for axis in axes
    ]
    return _arranged(document["data"], each, source, _name(document), optics_in(document))


def _arranged(
    data: Any, axes: Sequence[Axis], source: str, name: str | None, optics: Optics
) -> Signal | None:
    """The image within an array of any number of axes: its last two signal axes; all others count frames."""
    image = [k for k, axis in enumerate(axes) if not axis.navigate]
    image = [0, 1] if not image and len(axes) == 2 else image[-2:]
    if len(image) < 2 or np.ndim(data) != len(axes) or 0 in np.shape(data) or data.dtype.kind == "O":
        return None
    others = [k for k in range(len(axes)) if k not in image]
    counts = tuple(axes[k].size for k in others)
    y, x = (axes[k] for k in image)

    def load(index: int) -> NDArray[Any]:
        place: list[Any] = [slice(None)] * len(axes)
        for k, at in zip(others, np.unravel_index(index, counts) if counts else (), strict=True):
            place[k] = int(at)
        frame = data[tuple(place)]
        # Data that are read when they are asked for are read here: never on the cluster whose worker this may be.
        return np.asarray(frame.compute(scheduler="synchronous") if hasattr(frame, "compute") else frame)

    scale = scale_of(source, (x.scale, x.units), (y.scale, y.units))
    scales = () if scale is None else (scale,)
    return Signal(name, (y.size, x.size), int(np.prod(counts, dtype=int)), load, scales, optics)


def _name(document: Mapping[str, Any]) -> str | None:
    """The detector where the file names it, else the title."""
    title = found(document, "metadata.General.title")
    for group in found(document, "original_metadata.ImageList") or {}:  # of DigitalMicrograph, one for this image
        title = found(document, f"original_metadata.ImageList.{group}.ImageTags.DataBar.Signal Name") or title
    name = str(title or "").strip()
    return None if name in ("", UNNAMED) else name


# -- signals in memory ---------------------------------------------------------------------------------------------


def signal_in_memory(signal: Any) -> Signal:
    """The image of a HyperSpy signal, or of anything with `data`, `axes_manager` and `metadata` like one.

    Raises
    ------
    UsageError
        If it holds no image.
    """
    manager = signal.axes_manager
    marked = [(axis, True) for axis in manager.navigation_axes] + [(axis, False) for axis in manager.signal_axes]
    marked.sort(key=lambda one: int(one[0].index_in_array))
    axes = [
        Axis(int(axis.size), getattr(axis, "scale", None), getattr(axis, "units", None), navigate)
        for axis, navigate in marked
    ]
    stated = {part: getattr(signal, part, None) for part in ("metadata", "original_metadata")}
    title = found(stated, "metadata.General.title")
    image = _arranged(signal.data, axes, "HyperSpy", title or None, optics_in(stated))
    if image is None:
        shape = " x ".join(map(str, np.shape(signal.data)))
        raise UsageError(f"a signal of {shape} values is no image", remedy="give one with two signal axes")
    return image
