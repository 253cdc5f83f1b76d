"""Whose results a folder holds: those of one FOLDER of images, and nothing of the user's under the names of tables."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from stemfit.batch import store
from stemfit.batch.inputs import ALL, Shard, told
from stemfit.batch.lock import turn
from stemfit.errors import OutputError

OWNER = "folder.json"
"""In `.stemfit-batch/`: whose images the results are of."""


def journal_of(share: Shard) -> str:
    """Name of the log: one for each share."""
    return store.JOURNAL if share == ALL else f"log-{share.number}-of-{share.of}.jsonl"


def claim(root: Path, folder: Path, share: Shard) -> None:
    """Make the folder of results, or go on with it.

    Parameters
    ----------
    root : path
        Of the results.
    folder : path
        Of the images, absolute.
    share : Shard

    Raises
    ------
    OutputError
        It cannot be written; another folder's results are there; files that no batch has written have its names.
    """
    check(root, folder, share)
    store.claim(root)
    with store.writing(root), turn(root / store.OWN):
        if not _created(root, folder) and _owner(root) != folder:
            check(root, folder, share)  # another run may have been here first
            store.write_file(root / store.OWN / OWNER, [_stated(folder)])  # that folder was moved, or has this name too


def give_back(root: Path, share: Shard) -> None:
    """Remove a folder of results that was made for a run that has done nothing."""
    own = root / store.OWN
    if set(os.listdir(own)) - {"locks", "failures", OWNER} or set(os.listdir(root)) - {store.OWN, journal_of(share)}:
        return
    with suppress(OSError):  # another share may be there: its lock keeps all of it
        (own / "locks").rmdir()
        (own / "failures").rmdir()
        (own / OWNER).unlink()
        own.rmdir()
        (root / journal_of(share)).unlink(missing_ok=True)
        root.rmdir()


def check(root: Path, folder: Path, share: Shard) -> None:
    """Find out whether results of this folder may go there; write nothing.

    Raises
    ------
    OutputError
    """
    taken = [name for name in (*store.DERIVED, store.JOURNAL, journal_of(share)) if os.path.lexists(root / name)]
    if taken and not (root / store.OWN).is_dir():
        what = "stands there already, is of no batch, and would be overwritten"
        raise OutputError(what, remedy="move it away, or give another --out", subject=root / taken[0])
    owner = _owner(root)
    if owner is None or owner == folder or not owner.is_dir():
        return  # who is not there any more was moved or renamed
    try:
        same = owner.samefile(folder)
    except OSError:
        same = False
    if not same:
        what = f"holds the results of {told(str(owner))}, which would be lost"
        raise OutputError(what, remedy=f"give another --out for {told(str(folder))}", subject=root)


def _owner(root: Path) -> Path | None:
    try:
        return Path(json.loads((root / store.OWN / OWNER).read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _created(root: Path, folder: Path) -> bool:
    """Write whose results these are, unless somebody has: of several that begin together one is the first."""
    handle, name = tempfile.mkstemp(prefix=f".tmp-{OWNER}-", dir=root / store.OWN)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_stated(folder))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.link(name, root / store.OWN / OWNER)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: nearly the same
        if (root / store.OWN / OWNER).exists():
            return False
        os.replace(name, root / store.OWN / OWNER)
    finally:
        Path(name).unlink(missing_ok=True)
    return True


def _stated(folder: Path) -> bytes:
    return (json.dumps({"folder": str(folder)}, indent=1) + "\n").encode()
