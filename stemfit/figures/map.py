"""The image with everything that was found drawn on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from stemfit.analysis import Analysis
from stemfit.defects import Defect
from stemfit.figures.labels import bounds, overlap, place
from stemfit.figures.legend import MOST_LABELS
from stemfit.figures.marks import blended, columns_px, dot, marks_of
from stemfit.figures.outlines import (
    MANY_SUSPECTS,
    OUTLINE,
    defect_style,
    draw_outline,
    draw_suspects,
    rings,
    suspect_style,
)
from stemfit.figures.shades import contrast, grey
from stemfit.figures.sheet import (
    claimed_name,
    lettering,
    numbered_claim,
    points_per_px,
    scale_bar,
    text_width_pt,
)
from stemfit.figures.style import Style

FloatArray = NDArray[np.float64]

LABEL_BACK = {"boxstyle": "square,pad=0.12", "facecolor": "black", "edgecolor": "none", "alpha": 0.55}

SMALLEST_MARKER_PT = 0.7
"""Smaller dots are not seen in print: an image with so many columns is shown without them."""

MOST_NAMES = 4
"""More names would hide a structure."""

PLACES = 48
"""Along each side of the view, where the word for a region may stand."""

WIDEST_LABEL, WIDEST_WORD = 0.5, 0.4
"""Of the view: where names are longer, numbers stand for them; longer words for regions are left to the legend."""

SMALLEST_OUTLINE_PT = 2.2
"""Radius of an outline: in a smaller one its dots could not be told apart."""

DOT_SHARE, WIDEST_DOT_PT = 0.25, 1.1
"""Diameter of an outline's dots relative to its radius: eleven about a site; and the largest in a journal."""

LEGIBLE_MARKER_PT = 2.0
"""Dots of this size show their colour."""


def draw_map(axes: Axes, analysis: Analysis, numbered: Sequence[Defect], style: Style, labels: bool = True) -> None:
    """Image with columns, unit cell, defects, regions and scale bar; `numbered` are the defects with a close-up."""
    grey(axes, analysis.image, *contrast(analysis.image[analysis.mask == 0]))
    draw_columns(axes, analysis, style)
    taken = [scale_bar(axes, analysis.pixel_size_A, style)]
    taken += draw_regions(axes, analysis, style)
    taken += _unit_cell(axes, analysis, style)
    draw_outlines(axes, analysis, style)
    if labels:
        draw_labels(axes, analysis, numbered, taken, style)


def draw_columns(axes: Axes, analysis: Analysis, style: Style, least_pt: float = 0.0) -> None:
    """A dot on every observed column, a fifth of the nearest distance between columns wide, or `least_pt`."""
    size = max(marker_pt(analysis, points_per_px(axes), style), least_pt)
    if size < SMALLEST_MARKER_PT:
        return
    species, at, colours = analysis.columns["species"], columns_px(analysis), blended(analysis)
    alone = ~np.isin(np.arange(len(species)), list(colours))
    for marks in marks_of(analysis):
        axes.plot(*at[(species == marks.species) & alone].T, **dot(marks, size))
    if colours:  # these carry the composition: larger where the image has many columns
        large = min(2.2 * size, max(size, LEGIBLE_MARKER_PT))
        xy, edge = at[list(colours)], 0.1 * size if size > 2 else 0.0
        shade = np.array(list(colours.values()))
        axes.scatter(xy[:, 0], xy[:, 1], s=large**2, c=shade, edgecolors="black", linewidths=edge)


def marker_pt(analysis: Analysis, pt_per_px: float, style: Style) -> float:
    """Diameter of the dots."""
    return float(min(0.28 * analysis.nearest_px * pt_per_px, 4.0 * style.thicker))


def draw_regions(axes: Axes, analysis: Analysis, style: Style) -> list[FloatArray]:
    """What was not analysed, hatched, with the reason in one word; where these words stand."""
    words = []
    for region in analysis.document["regions"]:
        polygon = np.array(region["polygon_px"], dtype=np.float64)
        outline = Polygon(
            polygon, closed=True, facecolor="none", edgecolor="white", hatch="////", linewidth=style.line(0.6),
            alpha=0.55,
        )  # fmt: skip
        outline.set_hatch_linewidth(0.35)
        axes.add_patch(outline)
        half = _text_size(region["kind"], axes, style) / 2
        centre = _within(polygon, half, axes)
        low, high = _view(axes)
        if centre is not None and 2 * half[0] < WIDEST_WORD * (high - low)[0]:
            lettering(axes, centre, region["kind"], "white", style.text_pt, ha="center", va="center")
            words.append(np.array([centre - half, centre + half]))
    return words


def _within(polygon_px: FloatArray, half: FloatArray, axes: Axes) -> FloatArray | None:
    """Place in a polygon nearest to the middle of what is seen of it, moved for a box of half size (w, h) to be seen.

    None where nothing of it is seen.
    """
    low, high = _view(axes)
    x, y = np.linspace(low, high, PLACES).T
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    inside = grid[Path(polygon_px).contains_points(grid)]
    if not len(inside):
        return None
    centre, middle = inside[np.argmin(np.hypot(*(inside - inside.mean(axis=0)).T))], (low + high) / 2
    return np.asarray(np.clip(centre, np.minimum(low + half, middle), np.maximum(high - half, middle)))


def _view(axes: Axes) -> tuple[FloatArray, FloatArray]:
    """Upper left and lower right corner of what is seen."""
    (x0, x1), (y1, y0) = axes.get_xlim(), axes.get_ylim()
    return np.array([x0, y0]), np.array([x1, y1])


def _text_size(text: str, axes: Axes, style: Style) -> FloatArray:
    """Width and height in pixels, with the room that a label wants about it."""
    size = style.text_pt
    return np.array([text_width_pt(text, style) + 0.3 * size, 1.5 * size]) / points_per_px(axes)


def _unit_cell(axes: Axes, analysis: Analysis, style: Style) -> list[FloatArray]:
    """One fitted cell, drawn at the pristine place nearest to the upper left."""
    corners = cell_corners(analysis)
    if corners is None:
        return []
    width = style.line(0.8)
    stroke = [withStroke(linewidth=2 * width, foreground="black")]
    axes.add_patch(Polygon(corners, closed=True, fill=False, edgecolor="white", linewidth=width, path_effects=stroke))
    return [corners]


def cell_corners(analysis: Analysis) -> FloatArray | None:
    """Corners (4, 2) of a cell of analysed columns that belong to no defect, None if there is none.

    Its shape is that of the fitted lattice, its place that of the four columns.
    """
    at = _first_columns(analysis)
    taken = {site[:2] for defect in (*analysis.defects, *analysis.suspects) for site in defect.sites}
    wish = 0.06 * np.array(analysis.image.shape[::-1]) + analysis.step_px
    best, best_distance = None, np.inf
    for i, j in at:
        cell = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
        if all(corner in at and corner not in taken for corner in cell):
            centre = np.mean([at[corner] for corner in cell], axis=0)
            beside = any((i + k, j + m) in taken for k in (-1, 0, 1, 2) for m in (-1, 0, 1, 2))
            distance = float(np.linalg.norm(centre - wish)) + beside * float(np.hypot(*analysis.image.shape))
            if distance < best_distance:
                best, best_distance = centre, distance
    steps = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    return None if best is None else best + steps @ analysis.cell_px


def _first_columns(analysis: Analysis) -> dict[tuple[int, int], FloatArray]:
    """Places of the columns of the first sublattice that were analysed, by their cell."""
    columns, mask = analysis.columns, analysis.mask
    first = columns["sublattice"] == next(iter(analysis.own_columns))
    at = columns_px(analysis)
    x, y = np.clip(np.rint(at).astype(int), 0, np.array(mask.shape[::-1]) - 1).T
    chosen = np.flatnonzero(first & (mask[y, x] == 0) & np.isfinite(columns["i"]))
    return {(int(columns["i"][k]), int(columns["j"][k])): at[k] for k in chosen}


# -- defects -------------------------------------------------------------------------------------------------------


def draw_outlines(axes: Axes, analysis: Analysis, style: Style, crowds: bool = True) -> None:
    """Dotted outlines of what is in view, other ones of what is only suspected; where these are many if `crowds`."""
    reach = max(reach_px(analysis), SMALLEST_OUTLINE_PT * style.thicker / points_per_px(axes))
    width = max(min(DOT_SHARE * reach * points_per_px(axes), WIDEST_DOT_PT * style.thicker), style.least_line_pt)
    suspects = seen(axes, analysis.suspects)
    if crowds or len(suspects) <= MANY_SUSPECTS:
        draw_suspects(axes, suspects, reach, suspect_style(width, suspects))
    for defect in analysis.defects:
        draw_outline(axes, defect.extent_px, reach, defect_style(width))


def seen(axes: Axes, defects: Sequence[Defect]) -> list[Defect]:
    """Those of which a site is in view."""
    low, high = _view(axes)
    return [d for d in defects if ((d.extent_px >= low) & (d.extent_px <= high)).all(axis=1).any()]


def reach_px(analysis: Analysis) -> float:
    """Radius about a site that takes in its own column and not the next."""
    return 0.42 * float(np.sqrt(3)) * analysis.nearest_px


def draw_labels(
    axes: Axes,
    analysis: Analysis,
    numbered: Sequence[Defect],
    taken: Sequence[FloatArray],
    style: Style,
) -> None:
    """Number, name and probability of every defect in view, clear of what is `taken`; of many only the close-ups'.

    In a small view numbers alone. What has no room clear of other labels gets its number, or none.
    """
    low, high = _view(axes)
    shown = seen(axes, analysis.defects)
    brief = len(shown) > MOST_LABELS
    drawn = {d.id: rings(d.extent_px - low, reach_px(analysis)) for d in analysis.defects}
    boxes = [bounds(points - low) for points in taken]
    boxes += [bounds(ring) for each in drawn.values() for ring in each]
    texts = {d.id: numbered_claim(d) for d in shown}
    widest = max((_text_size(text, axes, style)[0] for text in texts.values()), default=0.0)
    short = brief or widest > WIDEST_LABEL * (high - low)[0]
    wanted = {d.id: (str(d.id),) if short else (texts[d.id], str(d.id)) for d in (numbered if brief else shown)}
    back = {} if short else {"bbox": LABEL_BACK}
    _write(axes, wanted, {each: _innermost(drawn[each]) for each in wanted}, boxes, style, **back)


def draw_names(axes: Axes, analysis: Analysis, style: Style) -> None:
    """Number, name and probability of few defects in view, as far as there is room."""
    low, _ = _view(axes)
    shown = seen(axes, analysis.defects)
    if len(shown) <= MOST_NAMES:
        drawn = {d.id: rings(d.extent_px - low, reach_px(analysis)) for d in shown}
        boxes = [bounds(ring) for each in drawn.values() for ring in each]
        texts = {d.id: (numbered_claim(d), f"{d.id}  {claimed_name(d)}", str(d.id)) for d in shown}
        wanted = {each: tuple(t for t in some if _fits(t, axes, style)) for each, some in texts.items()}
        _write(axes, wanted, {each: _innermost(drawn[each]) for each in wanted}, boxes, style, bbox=LABEL_BACK)


def _fits(text: str, axes: Axes, style: Style) -> bool:
    low, high = _view(axes)
    return bool(_text_size(text, axes, style)[0] < WIDEST_LABEL * (high - low)[0])


def _write(
    axes: Axes,
    wanted: Mapping[int, Sequence[str]],
    beside: Mapping[int, FloatArray],
    boxes: Sequence[FloatArray],
    style: Style,
    **options: Any,
) -> None:
    """Of each of `wanted` the first text that covers no other label, beside its outline (from the view's corner)."""
    low, high = _view(axes)
    labels: list[FloatArray] = []
    for each, texts in wanted.items():
        for text in texts:
            size = _text_size(text, axes, style)
            taken = [*boxes, *labels * 9]  # to cover a label is worse
            label = place(beside[each], size, taken, ((high - low)[1], (high - low)[0]))
            if not any(overlap(label.box, other) > 0 for other in labels):
                labels.append(label.box)
                at = np.array(label.at) + low
                lettering(axes, at, text, OUTLINE, style.text_pt, ha=label.ha, va=label.va, **options)
                break


def _innermost(outlines: Sequence[FloatArray]) -> FloatArray:
    """The one nearest to the middle of all, for a label beside it."""
    centres = np.array([ring.mean(axis=0) for ring in outlines])
    return outlines[int(np.argmin(np.linalg.norm(centres - centres.mean(axis=0), axis=1)))]
