"""Images of a folder: which files are some, what they are called, what they hold, and whose share they are."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from stemfit.batch.hashes import Hashes
from stemfit.errors import InputError, UsageError

SUFFIXES = frozenset({".tif", ".tiff", ".png", ".dm3", ".dm4", ".emd", ".ser", ".mrc", ".hspy", ".zspy"})
"""Names that images have. An EMI file is none: its images are the SER files beside it."""

RESULT = ".stemfit"
"""How the folder of a result ends. Nothing below such a folder is an input."""

FIGURE = "statistics.png"
"""What a batch draws in the folder of results: no input where that is, or was, the folder of images, too."""

READERS = 4
"""Threads that hash files: enough to keep a disk busy, which one is not."""


class Input(NamedTuple):
    """One image.

    Attributes
    ----------
    name : str
        Path below the folder, with "/" between its parts: what it is called everywhere.
    path : Path
        Absolute.
    """

    name: str
    path: Path


class Unreadable(NamedTuple):
    """A file or folder that could not be looked at, and why."""

    name: str
    reason: str


class Found(NamedTuple):
    """What a folder holds, each in the order of the names."""

    inputs: tuple[Input, ...]
    unreadable: tuple[Unreadable, ...]


class Shard(NamedTuple):
    """One of several runs that share the work, counted from 1; 1 of 1 is all of it."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, content: str) -> bool:
        """Whether the image with this hash is of this share: every image is of one, equal images of the same."""
        return int(content[:16], 16) % self.of == self.number - 1


ALL = Shard(1, 1)


def shard(text: str | None) -> Shard:
    """Share of a run, from words like "2/8".

    Raises
    ------
    UsageError
    """
    if text is None:
        return ALL
    parts = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if parts is None or not 1 <= int(parts[1]) <= int(parts[2]):
        raise UsageError(f"--shard {text} is no share", remedy="write --shard 1/8 to --shard 8/8")
    return Shard(int(parts[1]), int(parts[2]))


def find(folder: Path, patterns: Sequence[str] = (), results: Path | None = None) -> Found:
    """Look for images in a folder and all folders below it.

    Parameters
    ----------
    folder : path
    patterns : sequence of str
        With shell wildcards, of names or of paths below the folder; without, files whose names end as images' do.
    results : path, optional
        Where results go: what is in there is no input.

    Returns
    -------
    Found
        Every folder is looked into once, however many links lead to it, and every file is one input. Hidden files,
        results and those folders that results are written to are left out.

    Raises
    ------
    InputError
        The folder is missing or cannot be listed.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "no such folder"
        raise InputError(what, remedy="give the folder of the images", subject=folder)
    inputs: list[Input] = []
    links: list[Input] = []
    unreadable: list[Unreadable] = []
    for name, entries, error in _folders(folder, results):
        if error is not None:
            if not name:
                remedy = "check the permissions of the folder"
                raise InputError(f"cannot be listed ({error.strerror})", remedy=remedy, subject=folder)
            unreadable.append(Unreadable(name, f"the folder cannot be listed ({error.strerror})"))
        for one in (Input(one, folder / one) for one in entries if _wanted(one, patterns) and not _drawn(folder / one)):
            (links if one.path.is_symlink() else inputs).append(one)
    return Found(tuple(sorted([*inputs, *_firsts(links, inputs)])), tuple(sorted(unreadable)))


def _firsts(links: Iterable[Input], inputs: Iterable[Input]) -> Iterator[Input]:
    """Links to files that are no inputs themselves, to each file one."""
    links = sorted(links)
    seen = {_identity(one.path) for one in inputs} if links else set()
    for one in links:
        identity = _identity(one.path)
        if identity is None or identity not in seen:
            yield one
        seen.add(identity)


def _folders(folder: Path, results: Path | None) -> Iterator[tuple[str, list[str], OSError | None]]:
    """Names of folders below `folder`, "" for itself, with the files in each; linked ones after all real ones."""
    own = _identity(results) if results is not None and not _same(folder, results) else None
    seen = {own} if own else set()
    waiting, links = deque([""]), deque[str]()
    while waiting or links:
        name = waiting.popleft() if waiting else links.popleft()
        identity = _identity(folder / name)
        if identity is None or identity in seen:
            continue
        seen.add(identity)
        files: list[str] = []
        try:
            with os.scandir(folder / name) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield name, [], error
            continue
        for entry in listed:
            below = f"{name}/{entry.name}" if name else entry.name
            if entry.name.startswith(".") or entry.name.endswith(RESULT):
                continue
            if entry.is_dir() and not _is_zarr(folder / below):
                (links if entry.is_symlink() else waiting).append(below)
            elif entry.is_file() or entry.is_symlink() or entry.is_dir():
                files.append(below)  # a link that leads nowhere is told as an image that is not there
        yield name, files, None


def _is_zarr(path: Path) -> bool:
    """A signal of HyperSpy that is a folder."""
    return path.suffix.lower() == ".zspy" and ((path / ".zgroup").is_file() or (path / "zarr.json").is_file())


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _same(one: Path, other: Path) -> bool:
    return _identity(one) is not None and _identity(one) == _identity(other)


def _drawn(path: Path) -> bool:
    """Whether that is a figure which a batch has drawn there."""
    from stemfit.batch.store import OWN

    return path.name == FIGURE and (path.parent / OWN).is_dir()


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    if not patterns:
        return Path(name).suffix.lower() in SUFFIXES
    last = name.rpartition("/")[2]
    return any(name == p or last == p or fnmatchcase(name, p) or fnmatchcase(last, p) for p in patterns)


def told(name: str) -> str:
    """A name as it can be written anywhere: what is no text in the file system's encoding as backslashes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def hashed(inputs: Iterable[Input], known: Hashes) -> Iterator[tuple[Input, str | Unreadable]]:
    """What files hold, as SHA-256 of their bytes, or why that is not known; in the order given, several at a time.

    Parameters
    ----------
    inputs : iterable of Input
    known : Hashes
        Of files that were read before; those that are read now are added.
    """
    pool = ThreadPoolExecutor(READERS)
    try:
        yield from pool.map(lambda one: _hashed(one, known), inputs)
    finally:
        pool.shutdown(cancel_futures=True)  # who is interrupted does not wait for the rest


def _hashed(one: Input, known: Hashes) -> tuple[Input, str | Unreadable]:
    try:
        one.name.encode()
        return one, known.of(one.name)
    except UnicodeEncodeError:
        return one, Unreadable(one.name, "its name is not written in UTF-8; rename it")
    except FileNotFoundError:
        return one, Unreadable(one.name, "no such file; it has gone, or is a link that leads nowhere")
    except OSError as error:
        return one, Unreadable(one.name, f"cannot be read ({error.strerror}); check the file's permissions")


def settled(inputs: Iterable[Input]) -> dict[str, tuple[int, int]]:
    """Size and time of change of each image by its name: what is the same twice is not being written any more."""
    found = {}
    for one in inputs:
        try:
            parts = [one.path, *one.path.rglob("*")] if one.path.is_dir() else [one.path]
            stats = [part.stat() for part in parts]
        except OSError:
            continue
        found[one.name] = (sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats))
    return found
