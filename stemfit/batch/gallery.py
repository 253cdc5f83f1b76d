"""One self-contained page about a folder: densities, and a card for each image, to be filtered and sorted."""

from __future__ import annotations

import sqlite3
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from stemfit.batch import thumbnail
from stemfit.batch.inputs import FIGURE, told
from stemfit.batch.plan import Request
from stemfit.batch.remarks import INDEX, opened, remarks
from stemfit.batch.statistics import Line
from stemfit.batch.store import failure, failure_picture
from stemfit.report import words
from stemfit.report.sealed import asset, environment, policy

ASSETS = Path(__file__).parent / "assets"
MOST_CARDS = 5000
"""Cards on a page: more than some 50 MB no browser likes. Failures come first, and the tables hold all."""

MOST_MARKS = 80
"""Defects that are marked on a card."""

NO_CRYSTAL = 0.01
"""Probability of the most probable host below which a card says that none is known."""

MOST_WITHIN = 300
"""Images of which the page holds the pictures, 10 to 20 kB each; of more it shows those in the folders beside it, which
a browser loads as they come into sight."""

BESIDE = "data: 'self' file:"
"""Where these may come from: the same site, or, where that means nothing, the same disk."""

TABLES = ("summary.csv", "summary.parquet", "statistics.csv", INDEX)
FIGURES = ("statistics.svg", "statistics.pdf", FIGURE)

DOUBTS = {
    "inverted": "an inverted image?",
    "misfit": "badly explained",
    "host": "host uncertain",
    "metal": "metal uncertain",
    "lie": "orientation uncertain",
    "vacancies": "single vacancies cannot be told",
    "unlike": "partly another crystal",
}
"""Of `stemfit.warn.doubts`, on a card."""

COLOURS = {"SV": 0, "DV": 1, "VM": 2, "SUB": 3, "ANTI": 4, "LINE": 5, "TREFOIL": 6}
"""Which colour a type has; the others share one."""


class Mark(NamedTuple):
    """Where a defect is on a card, px of the image, and its colour."""

    x: float
    y: float
    colour: int


class Card(NamedTuple):
    """One image on the page; `image` is its row of the tables."""

    image: Mapping[str, Any]
    link: str
    picture: str
    marks: tuple[Mark, ...]
    labels: tuple[tuple[str, int], ...]
    types: str
    trace: str = ""


def page(asked: Request, lines: Sequence[Line]) -> Iterator[str]:
    """The page of a folder whose index is made, piece by piece.

    Parameters
    ----------
    asked : Request
    lines : sequence of Line
        Statistics.
    """
    root = asked.results
    style = asset("page.css") + asset("gallery.css", ASSETS)
    script = asset("gallery.js", ASSETS)
    connection = opened(root)
    connection.row_factory = sqlite3.Row
    try:
        counts = dict(connection.execute("SELECT status, COUNT(*) FROM images GROUP BY status").fetchall())
        hosts = [row[0] for row in connection.execute(
            "SELECT host FROM images WHERE host IS NOT NULL GROUP BY host ORDER BY COUNT(*) DESC, host")]  # fmt: skip
        types = [row[0] for row in connection.execute(
            "SELECT type FROM defects WHERE claimed GROUP BY type ORDER BY COUNT(*) DESC, type")]  # fmt: skip
        total = sum(counts.values())
        within = total <= MOST_WITHIN
        yield from _templates().get_template("gallery.html").generate(
            title=asked.folder.name or str(asked.folder), counts=counts, total=total, hosts=hosts, types=types,
            lines=lines, scale=_scale(lines), spread=any(line.dispersion is not None for line in lines),
            within=within, cards=_cards(connection, root, within), remarks=remarks(root),
            made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", code=asked.code, settings=_settings(asked), files=TABLES,
            figure=_embedded(root / FIGURES[0], "svg+xml") if lines else "", figures=FIGURES if lines else (),
            most=MOST_CARDS, equal=connection.execute("SELECT COUNT(equal_to) FROM images").fetchone()[0],
            colours=COLOURS, nobody=NO_CRYSTAL, style=Markup(style), script=Markup(script),
            policy=policy([script], [style], "data:" if within else BESIDE),
        )  # fmt: skip
    finally:
        connection.close()


def _settings(asked: Request) -> list[tuple[str, str]]:
    """What was asked for, without what was left open."""
    return [(name, told(str(value))) for name, value in asked.settings.items() if value not in (None, "auto")]


def _cards(connection: sqlite3.Connection, root: Path, within: bool) -> Iterator[Card]:
    order = "CASE status WHEN 'failed' THEN 0 WHEN 'ok' THEN 1 ELSE 2 END, rowid"
    for row in connection.execute(f"SELECT rowid AS place, * FROM images ORDER BY {order} LIMIT {MOST_CARDS}"):
        image = dict(row)
        if image["status"] != "ok":
            failed = failure(root, image["file"]) if image["status"] == "failed" else None
            seen = failure_picture(root, image["file"])
            yield Card(image, "", _picture(root, seen, within) if failed and seen.exists() else "", (), (), "",
                       told(failed.trace) if failed else "")  # fmt: skip
            continue
        own = (image["file"],)
        marks = connection.execute(
            f"SELECT x_px, y_px, type FROM defects WHERE file = ? AND claimed ORDER BY id LIMIT {MOST_MARKS}", own
        )
        labels = connection.execute(
            "SELECT label, COUNT(*), type FROM defects WHERE file = ? AND claimed GROUP BY label, type "
            "ORDER BY COUNT(*) DESC, label", own,
        ).fetchall()  # fmt: skip
        yield Card(
            image, quote(f"{image['folder']}/report.html"),
            _picture(root, root / image["folder"] / thumbnail.NAME, within),
            tuple(Mark(x, y, COLOURS.get(kind, len(COLOURS))) for x, y, kind in marks),
            tuple((label, n) for label, n, _ in labels), " ".join(sorted({kind for _, _, kind in labels})),
        )  # fmt: skip


def _picture(root: Path, path: Path, within: bool) -> str:
    return _embedded(path, "jpeg") if within else quote(path.relative_to(root).as_posix())


def _embedded(path: Path, kind: str) -> str:
    try:
        return f"data:image/{kind};base64," + b64encode(path.read_bytes()).decode("ascii")
    except OSError:
        return ""


def _scale(lines: Sequence[Line]) -> float:
    """Largest density that the bars show: that of all defects of the host that has most."""
    return max((line.density.high or 0.0 for line in lines), default=0.0) or 1.0


@cache
def _templates() -> Environment:
    made = environment("stemfit.batch")
    made.filters |= {"label": words.label, "number": words.number, "formula": words.formula, "density": density,
                     "probability": words.probability}  # fmt: skip
    made.globals |= {"count": words.count, "types_told": words.TYPES, "doubts_told": DOUBTS}
    return made


def density(value: float | None) -> str:
    """Per nm^2, with three digits."""
    return "–" if value is None else f"{value:.3g}"
