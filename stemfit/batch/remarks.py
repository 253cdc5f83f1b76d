"""What must be known before the numbers of a folder are believed: for its page, and for the end of a run."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from stemfit.batch.inputs import RESULT, told
from stemfit.batch.store import standing

INDEX = "index.sqlite"


def opened(root: Path) -> sqlite3.Connection:
    """The index of a folder of results, to be read."""
    return sqlite3.connect(f"file:{quote(str(root / INDEX))}?mode=ro", uri=True)


def remarks(root: Path) -> tuple[str, ...]:
    """Doubts about all images together, and how many results the tables leave out.

    Parameters
    ----------
    root : path
        Of the results, with their index.
    """
    if not (root / INDEX).is_file():
        return ()
    connection = opened(root)
    try:
        images, open_hosts, blind, unlike = connection.execute(
            "SELECT COUNT(*), SUM(host_uncertain), COUNT(blind_to), SUM(doubts LIKE '%misfit%') FROM images "
            "WHERE status = 'ok'"
        ).fetchone()
        told_of = {row[0] for row in connection.execute("SELECT folder FROM images WHERE status = 'ok'")}
    finally:
        connection.close()
    untold = {told(name) + RESULT for name in standing(root)} - told_of
    of, left = f"of {images} image{'s' * (images != 1)}", len(untold)
    lines = (
        (open_hosts, f"in {open_hosts} {of} the host is not certain, and names hang on it: give --host"),
        (unlike, f"in {unlike} {of} the model leaves far more than noise: probably no monolayer of the host named"),
        (blind, f"in {blind} {of} single vacancies cannot be told from full columns: they are in no density of SV"),
        (left, f"{left} result{'s' * (left != 1)} here {'are' if left != 1 else 'is'} in no table: of images that were "
               "not asked for, other options, or another version"),
    )  # fmt: skip
    return tuple(text for number, text in lines if number)
