"""What kind of file this is: chosen by the first bytes, by the name only where they do not tell."""

from __future__ import annotations

import hashlib
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from stemfit.errors import InputError, StemfitError
from stemfit.micrograph import png, rosetta, tiff
from stemfit.micrograph.damage import damaged
from stemfit.micrograph.types import Signal

KNOWN = "TIFF, PNG, dm3, dm4, emd, ser, emi, mrc, hspy or zspy"
FOREIGN = (
    (b"\xff\xd8\xff", "a JPEG, whose compression changes how bright columns are", "give the recorded signal"),
    (b"BM", "a BMP picture", "export the recorded signal as TIFF"),
    (b"GIF8", "a GIF picture", "export the recorded signal as TIFF"),
    (b"%PDF", "a PDF", "give the image itself, as it was recorded"),
    (b"\x93NUMPY", "a NumPy array", "give it to stemfit.analyze in Python, or save it as TIFF"),
)
"""Kinds that are met, by their first bytes, and what to do."""

LIBRARIES = ("rsciio", "tifffile", "h5py", "PIL")


class Kind(NamedTuple):
    """A file format and the function that opens it."""

    name: str
    opened: Callable[[Path], AbstractContextManager[list[Signal]]]


@contextmanager
def signals_of(path: Path) -> Iterator[list[Signal]]:
    """Images that a file holds, while it is open.

    Raises
    ------
    InputError
        If it is missing, unreadable, damaged or of no known kind: while it is opened or its pixels are read.
    """
    kind = kind_of(path)
    with _quiet():
        try:
            with kind.opened(path) as signals:
                yield signals
        except StemfitError:
            raise
        except Exception as error:  # damaged files fail in the parsers in every possible way
            traceback.clear_frames(error.__traceback__)  # and leave files open, of which Python warns
            raise damaged(path, kind.name, error) from error


def kind_of(path: Path) -> Kind:
    """Format of a file."""
    try:
        if path.is_dir():
            return _folder(path)
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise InputError("no such file", remedy="check the path", subject=path) from None
    except OSError as error:
        problem = f"cannot be opened ({error.strerror})"
        raise InputError(problem, remedy="check the file's permissions", subject=path) from error
    kind = _by_bytes(path, head) or _by_name(path)
    if kind is None:
        raise _foreign(path, head)
    return kind


def _foreign(path: Path, head: bytes) -> InputError:
    """What to do with a file of another kind."""
    if not head:
        return InputError("an empty file", remedy="copy it again from where it was recorded", subject=path)
    for begin, what, remedy in FOREIGN:
        if head.startswith(begin):
            return InputError(what, remedy=remedy, subject=path)
    what = "neither a TIFF nor a PNG nor a microscope's file that is known"
    return InputError(what, remedy=f"give {KNOWN}; other formats can be exported as TIFF", subject=path)


def _folder(path: Path) -> Kind:
    if (path / ".zgroup").is_file() or (path / "zarr.json").is_file():
        return Kind("zspy", rosetta.zspy)
    raise InputError("is a folder", remedy="give one image file", subject=path)


def _by_bytes(path: Path, head: bytes) -> Kind | None:
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return Kind("TIFF", tiff.opened)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return Kind("PNG", png.opened)
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return Kind("HDF5 file", rosetta.hdf5)
    if head[:4] in (b"\0\0\0\3", b"\0\0\0\4") and b"\0\0\0" in head[8:16]:
        return Kind("DigitalMicrograph file", rosetta.digital_micrograph)
    if head[:4] == b"II\x97\x01":
        return Kind("TIA series", rosetta.tia)
    if head[208:212] == b"MAP ":
        return Kind("MRC file", rosetta.mrc)
    if head[:4] == b"PK\3\4":
        return Kind("ZIP file", rosetta.zipped)
    return None


def _by_name(path: Path) -> Kind | None:
    """Old MRC files and those of TIA's experiments begin with anything."""
    return {".mrc": Kind("MRC file", rosetta.mrc), ".emi": Kind("TIA file", rosetta.tia)}.get(path.suffix.lower())


@contextmanager
def _quiet() -> Iterator[None]:
    """What libraries say of files does not reach the user, who gets one line of ours."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def sha256(path: Path) -> str:
    """Of a file's bytes; of a folder's files one after the other, in the order of their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in sorted(part for part in path.rglob("*") if part.is_file()):
        digest.update(part.relative_to(path).as_posix().encode() + b"\0" + part.read_bytes())
    return digest.hexdigest()
