"""How columns are drawn: one sign for each type of column, the same on the map and in its legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from stemfit.analysis import Analysis
from stemfit.figures.sheet import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, YELLOW
from stemfit.hosts import column_type
from stemfit.optics.scattering import column_elements

FloatArray = NDArray[np.float64]

COLOURS = (SKY, GREEN, PURPLE, VERMILLION, ORANGE, BLUE)
"""Of columns whose atoms' own colour does not do."""

GREY = 0.15
"""Colours of a smaller range from red to blue are grey."""

MIXED = {"M": (SKY, PURPLE), "X": (YELLOW, VERMILLION)}
"""Colours of the first and the second element of a mixed sublattice; columns of both lie between them."""


RIM = "#303030"
"""About white rings."""


class Marks(NamedTuple):
    """How columns of one type are drawn."""

    species: str
    colour: str
    filled: bool


def marks_of(analysis: Analysis) -> list[Marks]:
    """Filled dots for the host's own columns, rings for what is there instead, white ones for what has no name.

    Their colours are those of the atoms, as far as that tells them apart; the host's own elements come first.
    """
    species = analysis.columns["species"]
    mixed = {name: colour for colours in mixed_colours(analysis).values() for name, colour in colours.items()}
    own = [c for c in dict.fromkeys(analysis.own_columns.values()) if c not in mixed]
    counted = Counter(name for name in species.tolist() if name and name not in own and name not in mixed)
    elements = {element for column in own for element in column_elements(column)}
    guests = sorted(counted, key=lambda name: (not elements.issuperset(column_elements(name)), -counted[name], name))
    named = dict(zip(own, distinct_colours(own), strict=True))
    colours = distinct_colours(guests)
    return [
        *(Marks(name, colour, True) for name, colour in named.items() if name in species),
        *(Marks(name, colour, True) for name, colour in mixed.items() if name in species),
        *(Marks(name, colour, False) for name, colour in zip(guests, colours, strict=True)),
        *([Marks("", "white", False)] if "" in species else []),
    ]


def distinct_colours(columns: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """For each column type the colour that its first atom has in a drawn structure; another one where that is `taken`.

    Grey atoms would not show on the image: they get another colour, too.
    """
    from ase.data import atomic_numbers
    from ase.data.colors import jmol_colors

    found: list[str] = []
    for name in columns:
        rgb = jmol_colors[atomic_numbers[column_elements(name)[0]]]
        own, used = to_hex(rgb), {*taken, *found}
        spare = [colour for colour in COLOURS if colour not in used] or list(COLOURS)
        found.append(own if own not in used and np.ptp(rgb) > GREY else spare[0])
    return found


def mixed_colours(analysis: Analysis) -> dict[str, dict[str, str]]:
    """For each mixed sublattice the colour of each type of full columns, from one element to the other."""
    colours = {}
    for sublattice, fractions in (analysis.document["host"]["composition"] or {}).items():
        ends = np.array([to_rgb(c) for c in MIXED[sublattice]])
        size = len(column_elements(analysis.own_columns[sublattice]))
        full = [column_type(atoms) for atoms in combinations_with_replacement(fractions, size)]
        shares = zip(full, np.linspace(0, 1, len(full)), strict=True)
        colours[sublattice] = {column: to_hex(ends[0] * (1 - share) + ends[1] * share) for column, share in shares}
    return colours


def blended(analysis: Analysis) -> dict[int, FloatArray]:
    """Colour (3,) of each full column of a mixed sublattice, by its number.

    That of its likeliest type, as far as that is probable, and for the rest the mean of the sublattice's: of columns
    that nobody judged, that mean alone.
    """
    columns, found = analysis.columns, {}
    for sublattice, colours in mixed_colours(analysis).items():
        palette = {name: np.array(to_rgb(colour)) for name, colour in colours.items()}
        mean = np.mean(list(palette.values()), axis=0)
        for k in np.flatnonzero((columns["sublattice"] == sublattice) & np.isin(columns["species"], list(palette))):
            p = np.nan_to_num(columns["p_species"][k])
            found[int(k)] = p * palette[str(columns["species"][k])] + (1 - p) * mean
    return found


def columns_px(analysis: Analysis) -> FloatArray:
    """Places (K, 2) of all observed columns."""
    return np.column_stack([analysis.columns["x_px"], analysis.columns["y_px"]])


def dot(marks: Marks, size_pt: float) -> dict[str, Any]:
    """Filled dots with a thin dark edge where there is room for one; rings a little wider, so that they stay open.

    White rings have a dark rim: they show on bright images and on paper, too.
    """
    edge = 0.1 * size_pt if size_pt > 2 else 0.0
    ring = max(0.4, 0.25 * size_pt)
    rim = [withStroke(linewidth=1.8 * ring, foreground=RIM)] if marks.colour == "white" and not marks.filled else []
    return {
        "linestyle": "none",
        "marker": "o",
        "markersize": size_pt if marks.filled else 1.35 * size_pt,
        "markerfacecolor": marks.colour if marks.filled else "none",
        "markeredgecolor": "black" if marks.filled else marks.colour,
        "markeredgewidth": edge if marks.filled else ring,
        "path_effects": rim,
    }
