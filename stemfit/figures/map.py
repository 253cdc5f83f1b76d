"""The image with everything that was found drawn on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from stemfit.defects import Defect
from stemfit.figures.labels import bounds, place
from stemfit.figures.legend import MOST_LABELS
from stemfit.figures.marks import blended, dot, marks_of, species_of
from stemfit.figures.outlines import defect_style, draw_outline, rings, suspect_style
from stemfit.figures.sheet import (
    POINTS_PER_MM,
    TEXT_PT,
    YELLOW,
    contrast,
    grey,
    label_text,
    lettering,
    probability_text,
    scale_bar,
    text_width_pt,
)
from stemfit.result.findings import Findings

FloatArray = NDArray[np.float64]

LABEL_BACK = {"boxstyle": "square,pad=0.12", "facecolor": "black", "edgecolor": "none", "alpha": 0.55}

SMALLEST_MARKER_PT = 0.7
"""Smaller dots are not seen in print: an image with so many columns is shown without them."""

LEGIBLE_MARKER_PT = 2.0
"""Dots of this size show their colour."""


def draw_map(axes: Axes, analysis: Findings, numbered: Sequence[Defect], height_mm: float) -> None:
    """Image with columns, unit cell, defects, regions and scale bar; `numbered` are the defects with a close-up."""
    image = analysis.micrograph.image
    grey(axes, image, *contrast(image[analysis.region_map == 0]))
    points_per_px = height_mm * POINTS_PER_MM / image.shape[0]
    _columns(axes, analysis, points_per_px)
    taken = [scale_bar(axes, analysis.calibration.pixel_size_A)]
    taken += _regions(axes, analysis, points_per_px)
    taken += _unit_cell(axes, analysis)
    _defects(axes, analysis, points_per_px)
    _labels(axes, analysis, numbered, taken, points_per_px)


def _columns(axes: Axes, analysis: Findings, points_per_px: float) -> None:
    """A dot on every observed column, a fifth of the nearest distance between columns wide."""
    size = _marker_pt(analysis, points_per_px)
    if size < SMALLEST_MARKER_PT:
        return
    species, colours = species_of(analysis), blended(analysis)
    alone = ~np.isin(np.arange(len(species)), list(colours))
    for marks in marks_of(analysis, species):
        xy = analysis.columns.xy_px[(species == marks.species) & alone]
        axes.plot(*xy.T, **dot(marks, size))
    if colours:  # these carry the composition: larger where the image has many columns
        large = min(2.2 * size, max(size, LEGIBLE_MARKER_PT))
        xy, edge = analysis.columns.xy_px[list(colours)], 0.1 * size if size > 2 else 0.0
        shade = np.array(list(colours.values()))
        axes.scatter(xy[:, 0], xy[:, 1], s=large**2, c=shade, edgecolors="black", linewidths=edge)


def _marker_pt(analysis: Findings, points_per_px: float) -> float:
    return float(min(0.28 * analysis.lattice.nearest_px * points_per_px, 4.0))


def _regions(axes: Axes, analysis: Findings, points_per_px: float) -> list[FloatArray]:
    """What was not analysed, hatched, with the reason in one word; where these words stand."""
    words = []
    for region in analysis.regions:
        outline = Polygon(
            region.polygon_px, closed=True, facecolor="none", edgecolor="white", hatch="////", linewidth=0.6, alpha=0.55
        )
        outline.set_hatch_linewidth(0.35)
        axes.add_patch(outline)
        half = _text_size(region.kind, points_per_px) / 2
        centre = _within(region.polygon_px, half, analysis.micrograph.image.shape)
        lettering(axes, centre, region.kind, "white", ha="center", va="center")
        words.append(np.array([centre - half, centre + half]))
    return words


def _within(polygon_px: FloatArray, half: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Middle of what the image shows of a polygon, moved so that a box of half size (w, h) about it stays inside."""
    size = np.array(shape[::-1], dtype=float)
    seen = np.clip(polygon_px, 0, size - 1)
    low, high = np.minimum(half, size / 2), np.maximum(size - half, size / 2)
    return np.asarray(np.clip((seen.min(axis=0) + seen.max(axis=0)) / 2, low, high))


def _text_size(text: str, points_per_px: float) -> FloatArray:
    """Width and height in pixels, with the room that a label wants about it."""
    return np.array([text_width_pt(text) + 0.3 * TEXT_PT, 1.5 * TEXT_PT]) / points_per_px


def _unit_cell(axes: Axes, analysis: Findings) -> list[FloatArray]:
    """One fitted cell, drawn at the pristine place nearest to the upper left."""
    corners = cell_corners(analysis)
    if corners is None:
        return []
    stroke = [withStroke(linewidth=1.6, foreground="black")]
    axes.add_patch(Polygon(corners, closed=True, fill=False, edgecolor="white", linewidth=0.8, path_effects=stroke))
    return [corners]


def cell_corners(analysis: Findings) -> FloatArray | None:
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


def _defects(axes: Axes, analysis: Findings, points_per_px: float) -> None:
    """Dotted outlines, thinner for what is only suspected."""
    reach = reach_px(analysis)
    width = float(np.clip(0.2 * reach * points_per_px, 0.5, 0.9))
    for defect in analysis.suspects:
        draw_outline(axes, defect.extent_px, reach, suspect_style(width, analysis.suspects))
    for defect in analysis.defects:
        draw_outline(axes, defect.extent_px, reach, defect_style(width))


def reach_px(analysis: Findings) -> float:
    """Radius about a site that takes in its own column and not the next."""
    return 0.42 * float(np.sqrt(3)) * analysis.lattice.nearest_px


def _labels(
    axes: Axes, analysis: Findings, numbered: Sequence[Defect], taken: Sequence[FloatArray], points_per_px: float
) -> None:
    """Number and name of every defect, clear of what is `taken`; of many only the numbers of the close-ups."""
    brief = len(analysis.defects) > MOST_LABELS
    drawn = {d.id: rings(d.extent_px, reach_px(analysis)) for d in analysis.defects}
    boxes = [bounds(points) for points in (*taken, *(ring for each in drawn.values() for ring in each))]
    for defect in numbered if brief else analysis.defects:
        name = "" if brief else f"  {label_text(defect.label)} {probability_text(defect.probability)}"
        text = f"{defect.id}{name}"
        size = _text_size(text, points_per_px)
        label = place(_innermost(drawn[defect.id]), size, boxes, analysis.micrograph.image.shape)
        boxes.append(label.box)
        lettering(axes, label.at, text, YELLOW, ha=label.ha, va=label.va, bbox=LABEL_BACK)


def _innermost(outlines: Sequence[FloatArray]) -> FloatArray:
    """The one nearest to the middle of all, for a label beside it."""
    centres = np.array([ring.mean(axis=0) for ring in outlines])
    return outlines[int(np.argmin(np.linalg.norm(centres - centres.mean(axis=0), axis=1)))]
