"""The files of one result: whether all are there, and which of those that stand beside them are the user's own."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from stemfit.batch.inputs import RESULT

SIDECAR = "batch.json"
"""In a result: its key and its files."""

MEASURED = frozenset({".csv", ".tif", ".cif", ".extxyz"})
"""Kinds of files that hold the same bytes however often they are made: these may not be shorter than they were.
`analysis.json` and the report hold how long things took, and pictures may have been drawn again by `stemfit overlay`:
of these it is known only that they are there, and not empty."""

ASIDE, OLD, PLACE = "aside-", "old", "place.json"
"""A result that is being replaced: `aside-x/old`, and beside it the name of the image that it is of."""


def files_of(folder: Path) -> dict[str, int | None]:
    """Files of an unfinished result with the bytes of those that are measured, in the order of their names.

    Of folders in it (candidates, hundreds of small files) sizes are left out: to look at each takes long on file
    servers.
    """
    return {
        name: (folder / name).stat().st_size if "/" not in name and Path(name).suffix in MEASURED else None
        for name in sorted(_files(folder))
        if name != SIDECAR
    }


def whole(folder: Path, files: Mapping[str, int | None]) -> bool:
    """Whether all files of a result are there, none shorter than it was or empty."""
    below: dict[str, set[str]] = {}
    for name, size in files.items():
        above, _, last = name.rpartition("/")
        if not above and (folder / name).stat().st_size < (size or 1):
            return False
        if above and last not in below.setdefault(above, set()):
            below[above] = set(os.listdir(folder / above))
            if last not in below[above]:
                return False
    return _ended(folder / "analysis.json")


def _ended(document: Path) -> bool:
    """Whether a document of JSON ends as such: all is read from it."""
    with document.open("rb") as file:
        file.seek(-min(16, document.stat().st_size), os.SEEK_END)
        return file.read().rstrip().endswith(b"}")


def carry_over(result: Path, work: Path) -> None:
    """Give the new result what the user has put into the old one: files that stemfit has not written there.

    They are the same files under a second name, or copies, so that nothing is lost whenever this is cut off.
    """
    own = _listed(result)
    for name in sorted(_files(result)):
        ours = name in own if own is not None else name.startswith("candidates/")
        if ours or name == SIDECAR or name.rpartition("/")[2].startswith(".tmp-") or os.path.lexists(work / name):
            continue
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(result / name, work / name, follow_symlinks=False)
        except (OSError, NotImplementedError):
            shutil.copy2(result / name, work / name, follow_symlinks=False)


def copied(result: Path, place: Path) -> None:
    """Copy a result: its own files, not those that the user has put beside them."""
    for name in _listed(result) or ():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(result / name, place / name)


def replace(place: Path, work: Path, name: str) -> None:
    """Give a new result the place of the old one; who is killed between the two renames leaves what `restore` needs."""
    aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=work.parent))
    (aside / PLACE).write_text(json.dumps(name))
    place.rename(aside / OLD)
    try:
        work.rename(place)
    except BaseException:
        (aside / OLD).rename(place)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def restore(unfinished: Path, root: Path, name: str | None = None) -> None:
    """Give results that were put aside their place again, if nothing has taken it: who did it was killed in between.

    Parameters
    ----------
    unfinished : path
        Of a run.
    root : path
        Of the results.
    name : str, optional
        Of the only image to look for: others may just be replaced.
    """
    for aside in unfinished.glob(f"*/{ASIDE}*"):
        try:
            of = str(json.loads((aside / PLACE).read_text()))
            place = root / f"{of}{RESULT}"
            if name in (None, of) and not os.path.lexists(place):
                (aside / OLD).rename(place)
        except (OSError, ValueError):  # cut off before anything was put aside
            continue


def _listed(result: Path) -> set[str] | None:
    """Files that a result says are its own, None where it does not say."""
    try:
        return set(json.loads((result / SIDECAR).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _files(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder; what links lead to is not looked into."""
    for above, below, files in os.walk(folder):
        links = [name for name in below if Path(above, name).is_symlink()]
        yield from (Path(above, name).relative_to(folder).as_posix() for name in (*files, *links))
