"""Hashes of files that have not changed since they were read: a file is read once, not by every run and every look."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from stemfit.micrograph.files import sha256

SCHEMA = "stemfit.hashes/1"

SETTLED_S = 2.0
"""A file that has changed later than so long before it was read could change again without another time: the clocks of
file systems tick in milliseconds, or two seconds (FAT)."""


class Hashes:
    """What is known, from a file that may be missing or damaged; several threads may ask.

    Parameters
    ----------
    path : path
        Of that file. It can be removed at any time.
    folder : path
        Of the images.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder, self.known, self.new = path, folder, _read(path), 0
        self.asked: set[str] = set()

    def of(self, name: str) -> str:
        """SHA-256 of a file, or of the files of a folder, with this path below the folder of the images.

        Raises
        ------
        OSError
        """
        now, path = time.time(), self.folder / name
        self.asked.add(name)
        state, changed = _state(path)
        before = self.known.get(name)
        if before is not None and before[0] == state:
            return before[1]
        content = sha256(path)
        if now - changed > SETTLED_S and _state(path)[0] == state:
            self.known[name] = (state, content)
            self.new += 1
        else:
            self.known.pop(name, None)
        return content

    def save(self) -> None:
        """Write what is known of files that are still there, if there is anything new.

        Raises
        ------
        OSError
        """
        if self.new:
            from stemfit.batch.store import write_file

            known = dict(self.known)  # threads may still be adding to it
            there = [name for name in sorted(known) if name in self.asked or os.path.lexists(self.folder / name)]
            document = {"schema": SCHEMA, "files": {name: known[name] for name in there}}
            write_file(self.path, [json.dumps(document, indent=0).encode()])
            self.new = 0


def _read(path: Path) -> dict[str, tuple[str, str]]:
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated["schema"] != SCHEMA:
            return {}
        return {str(name): (str(state), str(content)) for name, (state, content) in stated["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _state(path: Path) -> tuple[str, float]:
    """Sizes, times and inodes of a file, or of all in a folder, and when the last of them changed.

    The time of the inode's change is that of the system: a copy that keeps the time of the file has another one.
    """
    names = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]
    stats = [part.stat() for part in names]
    states = [f"{s.st_size}-{s.st_mtime_ns}-{s.st_ctime_ns}-{s.st_ino}" for s in stats]
    if path.is_dir():
        told = [f"{part.relative_to(path).as_posix()} {state}" for part, state in zip(names, states, strict=True)]
        states = [hashlib.sha256("\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()]
    return states[0], max((max(s.st_mtime, s.st_ctime) for s in stats), default=0.0)
