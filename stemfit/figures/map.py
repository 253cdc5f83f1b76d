"""The image with everything that was found drawn on it, and the legend that explains it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from stemfit.defects import Defect
from stemfit.figures.labels import bounds, place
from stemfit.figures.sheet import (
    BLUE,
    GREEN,
    ORANGE,
    POINTS_PER_MM,
    PURPLE,
    SKY,
    TEXT_PT,
    VERMILLION,
    WIDTH_MM,
    YELLOW,
    Sheet,
    contrast,
    formula,
    grey,
    label_text,
    lettering,
    probability_text,
    scale_bar,
)
from stemfit.optics.scattering import column_elements
from stemfit.result.tables import columns_csv
from stemfit.result.types import Analysis

FloatArray = NDArray[np.float64]

LEGEND_ROW_MM = 3.0
DOTS = (0, (1.4, 1.0))
GUEST_COLOURS = (GREEN, PURPLE, VERMILLION, BLUE)
LABEL_BACK = {"boxstyle": "square,pad=0.12", "facecolor": "black", "edgecolor": "none", "alpha": 0.55}

SMALLEST_MARKER_PT = 0.7
"""Smaller dots are not seen in print: an image with so many columns is shown without them."""

MOST_LABELS = 16
"""More labels cover the image at column width; then only the close-ups are numbered and the legend counts the rest."""


class Marks(NamedTuple):
    """How columns of one type are drawn."""

    species: str
    colour: str
    filled: bool


def draw_map(axes: Axes, analysis: Analysis, numbered: Sequence[Defect], height_mm: float) -> None:
    """Image with columns, unit cell, defects, regions and scale bar; `numbered` are the defects with a close-up."""
    image = analysis.micrograph.image
    grey(axes, image, *contrast(image[analysis.region_map == 0]))
    points_per_px = height_mm * POINTS_PER_MM / image.shape[0]
    _columns(axes, analysis, points_per_px)
    _regions(axes, analysis)
    _unit_cell(axes, analysis)
    _defects(axes, analysis, numbered, points_per_px)
    scale_bar(axes, analysis.calibration.pixel_size_A)


def _columns(axes: Axes, analysis: Analysis, points_per_px: float) -> None:
    """A dot on every observed column, a fifth of the nearest distance between columns wide."""
    size = _marker_pt(analysis, points_per_px)
    if size < SMALLEST_MARKER_PT:
        return
    species = _species(analysis)
    for marks in _marks(analysis, species):
        xy = analysis.columns.xy_px[species == marks.species]
        axes.plot(*xy.T, **_dot(marks, size))


def _marker_pt(analysis: Analysis, points_per_px: float) -> float:
    nearest_px = analysis.lattice.a_px_iso / np.sqrt(3)
    return float(min(0.28 * nearest_px * points_per_px, 4.0))


def _dot(marks: Marks, size_pt: float) -> dict[str, Any]:
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


def _species(analysis: Analysis) -> NDArray[np.str_]:
    """Column type of every observed column as the result states it, empty where unknown."""
    return np.array([row["species"] for row in csv.DictReader(io.StringIO(columns_csv(analysis)))], dtype=np.str_)


def _marks(analysis: Analysis, species: NDArray[np.str_]) -> list[Marks]:
    """Filled dots for the host's own columns, rings for what is there instead, white ones for what has no name.

    The host's own elements come first among the guests, so that a column with a vacancy has the same colour everywhere.
    """
    own = list(dict.fromkeys(analysis.host.host.columns))
    counted = Counter(name for name in species.tolist() if name and name not in own)
    elements = {element for column in own for element in column_elements(column)}
    guests = sorted(counted, key=lambda name: (not elements.issuperset(column_elements(name)), -counted[name], name))
    colours = [GUEST_COLOURS[k % len(GUEST_COLOURS)] for k in range(len(guests))]
    return [
        *(Marks(name, colour, True) for name, colour in zip(own, (ORANGE, SKY), strict=False) if name in species),
        *(Marks(name, colour, False) for name, colour in zip(guests, colours, strict=True)),
        *([Marks("", "white", False)] if "" in species else []),
    ]


def _regions(axes: Axes, analysis: Analysis) -> None:
    """What was not analysed, hatched, with the reason in one word."""
    for region in analysis.regions:
        outline = Polygon(
            region.polygon_px, closed=True, facecolor="none", edgecolor="white", hatch="////", linewidth=0.6, alpha=0.55
        )
        outline.set_hatch_linewidth(0.35)
        axes.add_patch(outline)
        inside = np.clip(region.polygon_px, 0, np.array(analysis.micrograph.image.shape[::-1]) - 1)
        centre = (inside.min(axis=0) + inside.max(axis=0)) / 2
        lettering(axes, centre, region.kind, "white", ha="center", va="center")


def _unit_cell(axes: Axes, analysis: Analysis) -> None:
    """One fitted cell, drawn at the pristine place nearest to the upper left."""
    corners = cell_corners(analysis)
    if corners is not None:
        stroke = [withStroke(linewidth=1.6, foreground="black")]
        axes.add_patch(Polygon(corners, closed=True, fill=False, edgecolor="white", linewidth=0.8, path_effects=stroke))


def cell_corners(analysis: Analysis) -> FloatArray | None:
    """Corners (4, 2) of a cell whose sites are analysed and belong to no defect, None if there is none."""
    sites, lattice = analysis.sites, analysis.lattice
    taken = {site[:2] for defect in (*analysis.defects, *analysis.suspects) for site in defect.sites}
    first = np.flatnonzero((sites.sublattice == analysis.host.host.sublattices[0]) & sites.analysed)
    at = {(int(i), int(j)): k for (i, j), k in zip(sites.ij[first], first, strict=True)}
    size = np.array(lattice.shape_px[::-1])
    wish = 0.06 * size + lattice.a_px_iso
    best, best_distance = None, np.inf
    for i, j in at:
        cell = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
        if all(corner in at and corner not in taken for corner in cell):
            xy = sites.xy_px[[at[corner] for corner in cell]]
            distance = float(np.linalg.norm(xy.mean(axis=0) - wish))
            if distance < best_distance:
                best, best_distance = xy, distance
    return best


# -- defects -------------------------------------------------------------------------------------------------------


def _defects(axes: Axes, analysis: Analysis, numbered: Sequence[Defect], points_per_px: float) -> None:
    """Dotted outlines, thinner for what is only suspected; the close-ups numbered, and names where there is room."""
    width = float(np.clip(0.2 * reach_px(analysis) * points_per_px, 0.5, 0.9))
    for defect in analysis.suspects:
        outline(axes, analysis, defect, 0.5 * width)
    for defect in analysis.defects:
        outline(axes, analysis, defect, width)
    _labels(axes, analysis, numbered, points_per_px)


def reach_px(analysis: Analysis) -> float:
    """Radius about a site that takes in its own column and not the next."""
    return 0.42 * analysis.lattice.a_px_iso


def outline(axes: Axes, analysis: Analysis, defect: Defect, width: float) -> None:
    """Dotted line around a defect, `width` in points."""
    x, y = around(defect.extent_px, reach_px(analysis)).T
    axes.add_line(Line2D(x, y, color=YELLOW, gapcolor="black", linestyle=DOTS, linewidth=width, alpha=0.95))


def around(points: FloatArray, radius: float) -> FloatArray:
    """Closed convex outline (K, 2) at `radius` about all points."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring = radius * np.column_stack([np.cos(angle), np.sin(angle)])
    cloud = (np.asarray(points)[:, None, :] + ring).reshape(-1, 2)
    hull = cloud[ConvexHull(cloud).vertices]
    return np.vstack([hull, hull[:1]])


def _labels(axes: Axes, analysis: Analysis, numbered: Sequence[Defect], points_per_px: float) -> None:
    """Number and name of every defect; of many only the numbers that the close-ups refer to."""
    brief = len(analysis.defects) > MOST_LABELS
    outlines = {d.id: around(d.extent_px, reach_px(analysis)) for d in analysis.defects}
    cell = cell_corners(analysis)
    taken = [bounds(points) for points in [*outlines.values(), *([] if cell is None else [cell])]]
    for defect in numbered if brief else analysis.defects:
        name = "" if brief else f"  {label_text(defect.label)} {probability_text(defect.probability)}"
        letters = len(str(defect.id)) + (0 if brief else 0.85 * len(defect.label) + 5)
        size = np.array([0.56 * letters + 0.4, 1.5]) * TEXT_PT / points_per_px
        label = place(outlines[defect.id], size, taken, analysis.micrograph.image.shape)
        taken.append(label.box)
        lettering(axes, label.at, f"{defect.id}{name}", YELLOW, ha=label.ha, va=label.va, bbox=LABEL_BACK)


# -- legend --------------------------------------------------------------------------------------------------------


def legend_entries(analysis: Analysis) -> list[list[Line2D | Patch]]:
    """Everything that the map shows, and nothing else, in blocks; the second one counts defects too many to name."""
    signs: list[Line2D | Patch] = [
        Line2D([], [], label=formula(marks.species) or "unnamed", **_dot(_on_paper(marks), 3.2))
        for marks in _marks(analysis, _species(analysis))
    ]
    if 0 < len(analysis.defects) <= MOST_LABELS:
        signs.append(_dotted("defect", 1.0))
    if analysis.suspects:
        signs.append(_dotted(f"suspected ({len(analysis.suspects)})", 0.5))
    if analysis.regions:
        signs.append(Patch(facecolor="#9AA0AA", edgecolor="white", hatch="//////", linewidth=0, label="not analysed"))
    counts: list[Line2D | Patch] = [_dotted(text, 1.0) for text in _counts(analysis.defects)]
    return [signs, counts] if len(analysis.defects) > MOST_LABELS else [signs]


def _on_paper(marks: Marks) -> Marks:
    """White rings would not show beside the image."""
    return marks._replace(colour="#9AA0AA") if marks.colour == "white" else marks


def _dotted(text: str, width: float) -> Line2D:
    return Line2D([], [], color=YELLOW, gapcolor="black", linestyle=DOTS, linewidth=width, label=text)


def _counts(defects: Sequence[Defect]) -> list[str]:
    """One entry for each label: how many, and from what probability up."""
    by_label: dict[str, list[float]] = {}
    for defect in defects:
        by_label.setdefault(defect.label, []).append(defect.probability)
    return [
        f"{len(p)} × {label_text(label)} (P ≥ {np.floor(100 * min(p)) / 100:.2f})"
        for label, p in sorted(by_label.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def draw_legend(sheet: Sheet, blocks: Sequence[Sequence[Line2D | Patch]], top: float) -> None:
    """Below the map, block by block, row by row."""
    for block in filter(None, blocks):
        columns = _legend_columns(block)
        in_rows = [entry for k in range(columns) for entry in block[k::columns]]  # matplotlib fills column by column
        height = legend_height([block])
        sheet.axes(0, top, WIDTH_MM, height).legend(
            handles=in_rows, ncols=columns, loc="upper left", frameon=False, fontsize=TEXT_PT,
            borderpad=0.0, borderaxespad=0.0, handlelength=1.4, handletextpad=0.4, columnspacing=1.2, labelspacing=0.35,
        )  # fmt: skip
        top += height


def legend_height(blocks: Sequence[Sequence[Line2D | Patch]]) -> float:
    """Millimetres that the legend takes."""
    return sum(math.ceil(len(block) / _legend_columns(block)) * LEGEND_ROW_MM + 0.3 for block in blocks if block)


def _legend_columns(block: Sequence[Line2D | Patch]) -> int:
    """As many as the lengths of the entries let stand side by side."""
    widths = [6.5 + 1.15 * len(re.sub(r"\\mathrm|[${}_]", "", str(entry.get_label()))) for entry in block]
    fitting = [n for n in range(1, len(block) + 1) if sum(max(widths[k::n]) for k in range(n)) <= WIDTH_MM]
    return max(fitting, default=1)
