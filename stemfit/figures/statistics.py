"""Densities of a folder: by type with their intervals, and images by their density."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from stemfit.figures.sheet import BLUE, SKY, formula, plain
from stemfit.figures.style import NATURE

if TYPE_CHECKING:
    from stemfit.batch.statistics import Field, Line

ROW_MM, HISTOGRAM_MM, AROUND_MM = 3.6, 27.0, 13.0
MOST_HOSTS = 6
"""Those of most area; the table has all."""

LEAST_IMAGES = 5
"""In a histogram."""

MOST_BINS = 16


def densities(lines: Sequence[Line], fields: Sequence[Field]) -> Figure:
    """Densities by type of each host with 95 % intervals on a logarithmic axis; images of each host by their density.

    Parameters
    ----------
    lines : sequence of Line
        From `stemfit.batch.statistics.lines`, not empty.
    fields : sequence of Field
        Of the images behind them.
    """
    hosts = list(dict.fromkeys(line.host for line in lines))[:MOST_HOSTS]
    rows = [line for line in lines if line.host in hosts and line.label == "all"]
    many = [host for host in hosts if sum(one.host == host for one in fields) >= LEAST_IMAGES]
    below = math.ceil(len(many) / 2)
    heights = [AROUND_MM + ROW_MM * (len(rows) + len(hosts)), *[HISTOGRAM_MM + AROUND_MM] * below]
    size = NATURE.width_mm / 25.4, sum(heights) / 25.4
    with NATURE.context():
        figure = Figure(figsize=size, dpi=NATURE.dpi, facecolor="white", layout="constrained")
        grid = figure.add_gridspec(1 + below, 2, height_ratios=heights)
        _intervals(figure.add_subplot(grid[0, :]), rows, hosts)
        for k, host in enumerate(many):
            place = grid[1 + k // 2, :] if k == len(many) - 1 and k % 2 == 0 else grid[1 + k // 2, k % 2]
            _images(figure.add_subplot(place), host, [one.number / one.area_nm2 for one in fields if one.host == host])
    return figure


def _intervals(axes: Axes, rows: Sequence[Line], hosts: Sequence[str]) -> None:
    """A line for each type, below the name of its host; where nothing was claimed, the upper end of the interval."""
    seen = [value for row in rows for value in row.density if value]
    high = 1.6 * max(seen, default=1.0)
    low = min(min(seen, default=0.1) / 1.6, high / 30)
    y, names, places = 0.0, [], []
    for host in hosts:
        own = [row for row in rows if row.host == host]
        doubt = f", host uncertain in {own[0].images_host_uncertain}" if own[0].images_host_uncertain else ""
        said = f"{own[0].images} image{'s' * (own[0].images != 1)}, {own[0].area_nm2:,.0f} nm²{doubt}"
        axes.annotate(f"{_named(host)}  {said}", (0, y), (2, 0),
                      xycoords=("axes fraction", "data"), textcoords="offset points", size=NATURE.text_pt,
                      va="center")  # fmt: skip
        y += 1
        for row in own:
            _interval(axes, row, y, low)
            names.append("all" if row.type == "all" else row.type)
            places.append(y)
            y += 1
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low, high)
    axes.set_ylim(y - 0.3, -0.7)
    axes.set_yticks(places, names)
    axes.set_xlabel("defects per nm² (interval of 95 %; arrow: none claimed, upper end)", size=NATURE.text_pt)
    plain(axes)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.3, color="#D4D9E0")
    axes.set_axisbelow(True)


def _interval(axes: Axes, row: Line, y: float, low: float) -> None:
    begin, value, end = row.density.low, row.density.value, row.density.high
    if begin is None or value is None or end is None:
        axes.annotate("cannot be told", (0, y), (2, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", size=NATURE.small_pt, va="center", color="#566070")  # fmt: skip
        return
    thick = 1.2 if row.type == "all" else 0.8
    axes.plot([max(begin, low), end], [y, y], color=BLUE if row.type == "all" else SKY, linewidth=thick)
    if value > 0:
        axes.plot([value], [y], "o", color="black", markersize=2.2)
    else:
        axes.plot([low], [y], "<", color=SKY, markersize=3, clip_on=False)
        axes.plot([end], [y], "|", color=SKY, markersize=4)


def _images(axes: Axes, host: str, values: Sequence[float]) -> None:
    """Images of one host by their density."""
    bins = min(MOST_BINS, math.ceil(math.sqrt(len(values))) + 1)
    axes.hist(values, bins=bins, range=(0.0, max(values) or 1.0), color=SKY, edgecolor="white", linewidth=0.3)
    axes.set_xlabel(f"defects per nm², images of {_named(host)}", size=NATURE.text_pt)
    axes.set_ylabel("images", size=NATURE.text_pt)
    axes.set_xlim(left=0.0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    plain(axes)


def _named(host: str) -> str:
    """A crystal's formula as such; a name of a file's as it is."""
    return formula(host) if re.fullmatch(r"(?:[A-Z][a-z]?\d*)+", host) else re.sub(r"([$_^\\])", r"\\\1", host)
