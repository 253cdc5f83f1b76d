"""One self-contained page about a folder: densities, and a card for each image, to be filtered and sorted."""

from __future__ import annotations

import math
import sqlite3
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from stemfit.batch import thumbnail
from stemfit.batch.statistics import Field, Line
from stemfit.report import words
from stemfit.report.sealed import asset, environment, policy

ASSETS = Path(__file__).parent / "assets"
MOST_CARDS = 5000
"""Cards on a page: more than some 50 MB no browser likes. Failures come first, and the tables hold all."""

MOST_MARKS = 80
"""Defects that are marked on a card."""

BINS = 12
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


class Bar(NamedTuple):
    """One bar of a histogram, shares of its width and height in per cent."""

    left: float
    width: float
    height: float
    number: int


class Histogram(NamedTuple):
    """Images by their density, in one host."""

    host: str
    largest: float
    bars: tuple[Bar, ...]


def page(root: Path, folder: Path, index: Path, lines: Sequence[Line], fields: Sequence[Field]) -> Iterator[str]:
    """The page, piece by piece.

    Parameters
    ----------
    root : path
        Of the results: links and pictures are relative to it.
    folder : path
        Of the images, for the title.
    index : path
        `index.sqlite`, made from the results.
    lines, fields : sequences
        Statistics.
    """
    style = asset("page.css") + asset("gallery.css", ASSETS)
    script = asset("gallery.js", ASSETS)
    connection = sqlite3.connect(f"file:{quote(str(index))}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        counts = dict(connection.execute("SELECT status, COUNT(*) FROM images GROUP BY status").fetchall())
        hosts = [row[0] for row in connection.execute(
            "SELECT host FROM images WHERE host IS NOT NULL GROUP BY host ORDER BY COUNT(*) DESC, host")]  # fmt: skip
        types = [row[0] for row in connection.execute(
            "SELECT type FROM defects WHERE claimed GROUP BY type ORDER BY COUNT(*) DESC, type")]  # fmt: skip
        yield from _templates().get_template("gallery.html").generate(
            title=folder.name or str(folder), counts=counts, total=sum(counts.values()), hosts=hosts, types=types,
            lines=lines, scale=_scale(lines), histograms=_histograms(fields), cards=_cards(connection, root),
            most=MOST_CARDS, equal=connection.execute("SELECT COUNT(equal_to) FROM images").fetchone()[0],
            colours=COLOURS, style=Markup(style), script=Markup(script), policy=policy([script], [style]),
        )  # fmt: skip
    finally:
        connection.close()


def _cards(connection: sqlite3.Connection, root: Path) -> Iterator[Card]:
    order = "CASE status WHEN 'failed' THEN 0 WHEN 'ok' THEN 1 ELSE 2 END, file"
    for row in connection.execute(f"SELECT * FROM images ORDER BY {order} LIMIT {MOST_CARDS}"):
        image = dict(row)
        if image["status"] != "ok":
            yield Card(image, "", "", (), (), "")
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
            image, quote(f"{image['folder']}/report.html"), _picture(root / image["folder"] / thumbnail.NAME),
            tuple(Mark(x, y, COLOURS.get(kind, len(COLOURS))) for x, y, kind in marks),
            tuple((label, n) for label, n, _ in labels), " ".join(sorted({kind for _, _, kind in labels})),
        )  # fmt: skip


def _picture(path: Path) -> str:
    try:
        return "data:image/jpeg;base64," + b64encode(path.read_bytes()).decode("ascii")
    except OSError:
        return ""


def _scale(lines: Sequence[Line]) -> float:
    """Largest density that the bars show: that of all defects of the host that has most."""
    return max((line.density.high or 0.0 for line in lines), default=0.0) or 1.0


def _histograms(fields: Sequence[Field]) -> list[Histogram]:
    """Only of hosts with images enough for a distribution."""
    found = []
    for host in dict.fromkeys(one.host for one in fields):
        densities = [one.number / one.area_nm2 for one in fields if one.host == host]
        largest = max(densities)
        if len(densities) < 5 or largest == 0:
            continue
        bins = min(BINS, math.ceil(math.sqrt(len(densities))) + 1)
        numbers = [0] * bins
        for value in densities:
            numbers[min(int(bins * value / largest), bins - 1)] += 1
        bars = tuple(Bar(100 * k / bins, 100 / bins, 100 * n / max(numbers), n) for k, n in enumerate(numbers))
        found.append(Histogram(host, largest, bars))
    return found


@cache
def _templates() -> Environment:
    made = environment("stemfit.batch")
    made.filters |= {"label": words.label, "number": words.number, "formula": words.formula, "density": density}
    made.globals |= {"count": words.count, "types_told": words.TYPES}
    return made


def density(value: float | None) -> str:
    """Per nm^2, with three digits."""
    return "–" if value is None else f"{value:.3g}"
