"""How columns are drawn: one sign for each type of column, the same on the map and in its legend."""

from __future__ import annotations

import csv
import io
from collections import Counter
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from numpy.typing import NDArray

from stemfit.figures.sheet import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, YELLOW
from stemfit.optics.scattering import column_elements
from stemfit.result.findings import Findings
from stemfit.result.tables import columns_csv

FloatArray = NDArray[np.float64]

COLOURS = (ORANGE, SKY, GREEN, PURPLE, VERMILLION, BLUE)

MIXED = {"M": (ORANGE, PURPLE), "X": (BLUE, YELLOW)}
"""Colours of the first and the second element of a mixed sublattice; columns of both lie between them."""


class Marks(NamedTuple):
    """How columns of one type are drawn."""

    species: str
    colour: str
    filled: bool


def marks_of(analysis: Findings, species: NDArray[np.str_]) -> list[Marks]:
    """Filled dots for the host's own columns, rings for what is there instead, white ones for what has no name.

    The host's own elements come first among the guests, so that a column with a vacancy has the same colour everywhere.
    """
    mixed = mixed_colours(analysis)
    own = [c for c in dict.fromkeys(analysis.host.host.columns) if c not in mixed]
    counted = Counter(name for name in species.tolist() if name and name not in own and name not in mixed)
    elements = {element for column in own for element in column_elements(column)}
    guests = sorted(counted, key=lambda name: (not elements.issuperset(column_elements(name)), -counted[name], name))
    others = COLOURS[max(2, len(own)) :] or COLOURS[2:]
    colours = [others[k % len(others)] for k in range(len(guests))]
    return [
        *(Marks(name, colour, True) for name, colour in zip(own, cycle(COLOURS), strict=False) if name in species),
        *(Marks(name, colour, True) for name, colour in mixed.items() if name in species),
        *(Marks(name, colour, False) for name, colour in zip(guests, colours, strict=True)),
        *([Marks("", "white", False)] if "" in species else []),
    ]


def mixed_colours(analysis: Findings) -> dict[str, str]:
    """Colour of each type of full columns of the mixed sublattices, from one element to the other."""
    colours = {}
    for posterior in analysis.mixed:
        ends = np.array([to_rgb(c) for c in MIXED[str(analysis.sites.sublattice[posterior.site[0]])]])
        size = max(len(column_elements(c)) for c in posterior.species)
        full = [c for c in posterior.species if len(column_elements(c)) == size]
        for column, share in zip(full, np.linspace(0, 1, len(full)), strict=True):
            colours[column] = to_hex(ends[0] * (1 - share) + ends[1] * share)
    return colours


def blended(analysis: Findings) -> dict[int, FloatArray]:
    """Colour (3,) of each column of a mixed sublattice: those of all types that it may be, by their probabilities."""
    colours, found = mixed_colours(analysis), {}
    for posterior in analysis.mixed:
        full = [k for k, column in enumerate(posterior.species) if column in colours]
        palette = np.array([to_rgb(colours[posterior.species[k]]) for k in full])
        p = np.asarray(posterior.p_species)[:, full]
        column = analysis.sites.column[posterior.site]
        for k in np.flatnonzero((column >= 0) & (p.sum(1) > 0.5)):
            found[int(column[k])] = p[k] @ palette / p[k].sum()
    return found


def species_of(analysis: Findings) -> NDArray[np.str_]:
    """Column type of every observed column as the result states it, empty where unknown."""
    return np.array([row["species"] for row in csv.DictReader(io.StringIO(columns_csv(analysis)))], dtype=np.str_)


def dot(marks: Marks, size_pt: float) -> dict[str, Any]:
    """Filled dots with a thin dark edge where there is room for one; rings a little wider, so that they stay open."""
    edge = 0.1 * size_pt if size_pt > 2 else 0.0
    return {
        "linestyle": "none",
        "marker": "o",
        "markersize": size_pt if marks.filled else 1.35 * size_pt,
        "markerfacecolor": marks.colour if marks.filled else "none",
        "markeredgecolor": "black" if marks.filled else marks.colour,
        "markeredgewidth": edge if marks.filled else max(0.4, 0.25 * size_pt),
    }


def on_paper(marks: Marks) -> Marks:
    """White rings would not show beside the image."""
    return marks._replace(colour="#9AA0AA") if marks.colour == "white" else marks
