"""What stands on disk: results with their keys, failures with theirs. Tables and pages are made from it.

::

    RESULTS/<path of the image>.stemfit/     a result, and in it batch.json: its key
    RESULTS/.stemfit-batch/folder.json       whose images they are of (`owner`)
    RESULTS/.stemfit-batch/failures/         one file for each image that failed
    RESULTS/.stemfit-batch/locks/            who works here
    RESULTS/.tmp-batch-<who>/                what is not finished
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stemfit.batch.inputs import RESULT, told
from stemfit.batch.whole import SIDECAR, carry_over, files_of, replace, whole
from stemfit.errors import OutputError

SCHEMA = "stemfit.batch/1"
OWN = ".stemfit-batch"
UNFINISHED = ".tmp-batch-"
DERIVED = (
    "summary.csv", "summary.parquet", "index.sqlite", "index.html", "statistics.csv", "statistics.svg",
    "statistics.pdf", "statistics.png",
)  # fmt: skip
JOURNAL = "log.jsonl"
BESIDE = re.compile("|".join(re.escape(name) for name in (*DERIVED, JOURNAL)) + r"|log-\d+-of-\d+\.jsonl")
"""Files of a batch beside its results: an input's folder cannot be called like one."""


@dataclass(frozen=True)
class Sidecar:
    """What a finished result is of.

    Attributes
    ----------
    input : str
        Path of the image below the folder.
    sha256 : str
        Of the image.
    settings_sha256, code, key : str
        As in `stemfit.batch.keys`.
    """

    input: str
    sha256: str
    settings_sha256: str
    code: str
    key: str


@dataclass(frozen=True)
class Failure:
    """An image that has no result.

    Attributes
    ----------
    input : str
        Path of the image below the folder.
    key : str or None
        Of the result that it would be; None where the file could not be read, which is tried again every time.
    exit_code : int
        That `stemfit analyze` would end with.
    reason : str
        One line.
    trace : str
        Traceback, empty where there is none.
    passing : bool
        Its cause may lie outside of what the key holds (memory, a file server, what stands in the result's place): it
        is tried again by the next run.
    """

    input: str
    key: str | None
    exit_code: int
    reason: str
    trace: str = ""
    passing: bool = False


def folder_of(root: Path, name: str) -> Path:
    """Folder of the result of an image."""
    return root / f"{name}{RESULT}"


def claim(root: Path) -> None:
    """Make the folder of results.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    with writing(root):
        for name in ("failures", "locks"):
            (root / OWN / name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root / OWN):
            pass


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """What the system refuses where results are written is said in one line.

    Raises
    ------
    OutputError
    """
    try:
        yield
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        remedy = "make room, or it writable; the same command goes on"
        raise OutputError(what, remedy=remedy, subject=root) from error


def finished(root: Path, name: str) -> Sidecar | None:
    """What the result of an image is of, None where there is none, or where some of it is missing or cut short."""
    folder = folder_of(root, name)
    try:
        stated = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        if stated.pop("schema") != SCHEMA or not whole(folder, stated.pop("files")):
            return None
        found = Sidecar(**stated)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found if found.input == name else None


def standing(root: Path) -> Iterator[str]:
    """Images that have a result here, whatever it is of."""
    for folder, below, _ in os.walk(root):
        for one in below:
            if one.endswith(RESULT) and one != RESULT and Path(folder, one, SIDECAR).is_file():
                yield Path(folder, one).relative_to(root).as_posix().removesuffix(RESULT)
        below[:] = [one for one in below if not one.endswith(RESULT) and not one.startswith(".")]


def write_sidecar(folder: Path, sidecar: Sidecar) -> None:
    """Say in an unfinished result what it is of, and which files it has."""
    _write(folder / SIDECAR, {"schema": SCHEMA, **asdict(sidecar), "files": files_of(folder)})


def publish(work: Path, root: Path, sidecar: Sidecar) -> None:
    """Give a finished result its name: it is there whole or not at all, also if the machine stops.

    Raises
    ------
    OutputError
        Something that is not the result of this image stands there.
    OSError
    """
    place = folder_of(root, sidecar.input)
    check_free(root, sidecar.input, sidecar.sha256)
    write_sidecar(work, sidecar)
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(place):
        carry_over(place, work)
        _to_disk(work)
        replace(place, work, sidecar.input)
    else:
        _to_disk(work)
        work.rename(place)
    _sync(place.parent)


def check_free(root: Path, name: str, sha256: str) -> None:
    """Find out before a long analysis whether its result could get its name.

    Raises
    ------
    OutputError
    """
    place = folder_of(root, name)
    if "/" in name and BESIDE.fullmatch(name.partition("/")[0]):
        what = "the folder of the image has the name of a file of the batch"
        raise OutputError(what, remedy="rename the folder", subject=place)
    longest = os.pathconf(root, "PC_NAME_MAX")
    if len(os.fsencode(place.name)) > longest:
        what = f"the name of its result would be longer than the {longest} bytes that the file system takes"
        raise OutputError(what, remedy="rename the image", subject=place)
    try:
        stated = json.loads((place / SIDECAR).read_text(encoding="utf-8"))
        other = stated["input"]
    except (OSError, ValueError, TypeError, KeyError):
        damaged = (place / SIDECAR).is_file() or (place.is_dir() and not any(place.iterdir()))
        if os.path.lexists(place) and not damaged:
            from stemfit.result import check_place

            check_place(place, sha256)
        return
    if other != name:
        what = f"the result of {told(other)} stands there: the file system takes the two names for one"
        raise OutputError(what, remedy="rename one of the images", subject=place)


def failure(root: Path, name: str) -> Failure | None:
    """How an image failed, None where it did not."""
    try:
        stated = json.loads(_failure_file(root, name).read_text(encoding="utf-8"))
        found = Failure(**stated)
    except (OSError, ValueError, TypeError):
        return None
    return found if found.input == name else None


def write_failure(root: Path, one: Failure) -> None:
    """Keep it, so that it is not tried again."""
    _write(_failure_file(root, one.input), asdict(one))


def forget_failure(root: Path, name: str) -> None:
    """An image that failed before has a result now."""
    _failure_file(root, name).unlink(missing_ok=True)
    failure_picture(root, name).unlink(missing_ok=True)


def failure_picture(root: Path, name: str) -> Path:
    """Where a picture of an image is that could be read and not analysed."""
    return _failure_file(root, name).with_suffix(".jpg")


def keep_picture(picture: Path, root: Path, name: str) -> None:
    """Put a picture of an image without a result beside how it failed, if there is one."""
    with suppress(OSError):
        picture.replace(failure_picture(root, name))


def _failure_file(root: Path, name: str) -> Path:
    return root / OWN / "failures" / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.json"


def write_file(path: Path, content: Iterable[bytes]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".tmp-{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _write(path: Path, content: Any) -> None:
    # Names that are no text stay what they are as escapes of ASCII.
    write_file(path, [(json.dumps(content, indent=1) + "\n").encode()])


def _to_disk(folder: Path) -> None:
    """All files of a folder: the name of a folder may reach the disk before what is in it does."""
    for path in folder.rglob("*"):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
