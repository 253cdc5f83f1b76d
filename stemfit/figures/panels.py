"""The overlay as a page: annotated map; image, simulation and residual; close-ups of the most probable defects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from stemfit.analysis import Analysis
from stemfit.defects import Defect
from stemfit.figures.atoms import draw_structure, element_signs
from stemfit.figures.legend import LEGEND_ROW_MM, Sign, draw_legend, in_rows, legend_rows
from stemfit.figures.map import draw_map, reach_px
from stemfit.figures.outlines import defect_style, draw_outline
from stemfit.figures.shades import DIM, SIGNED, colour_map, contrast, grey, shade
from stemfit.figures.sheet import (
    POINTS_PER_MM,
    Sheet,
    label_text,
    probability_text,
    scale_bar,
    statement,
    text_width_pt,
)
from stemfit.figures.style import ELSEWHERE, MARGIN_MM, NATURE, Style

FloatArray = NDArray[np.float64]
Panels = tuple[FloatArray, FloatArray, FloatArray]
"""Image, simulation, residual."""

TALLEST_SHARE = 1.25
"""Of the page's width: no map is taller."""

GAP_MM = 1.2
TITLE_MM, BAR_MM = 4.6, 7.0
TITLE_OFF_MM = 1.0
"""Between a title and its close-up."""
TITLE_SHARE = 0.6
"""Of the width, that a title may have; its scores stand in the rest."""

CLOSE_UPS = 4
LONGEST_SHARE = 2.7
"""Of the page's width: 240 mm of 89 mm, what a journal's page takes. Close-ups beyond it are left out."""
STRONG_RESIDUAL = 5.0
"""End of the residual's colour scale, in standard deviations of the noise: one pixel in two million exceeds it."""


def overlay(analysis: Analysis, style: Style = NATURE, labels: bool = True) -> Figure:
    """What was found, drawn on the image; below it image, simulation and residual; the most probable defects close up.

    Returns
    -------
    Figure
        As wide as the style says. Write it with `save`.
    """
    height, width = analysis.image.shape
    inner = style.inner_mm
    map_height = min(inner * height / width, TALLEST_SHARE * inner)
    third = (inner - 2 * GAP_MM) / 3
    tile = (inner - 3 * GAP_MM) / 4
    with style.context():
        rows = [*legend_rows(analysis, style), *in_rows(_elements(analysis, style), style)]
        legend_top = map_height + 1.0
        triple_top = legend_top + style.beside(LEGEND_ROW_MM) * len(rows)
        triple_height = min(third * height / width, TALLEST_SHARE * inner / 2)
        close_up_top = triple_top + triple_height + style.beside(BAR_MM)
        title = style.beside(TITLE_MM)
        room = int((LONGEST_SHARE * style.width_mm - 2 * MARGIN_MM - close_up_top) / (title + tile))
        shown = _chosen(analysis, max(1, min(CLOSE_UPS, room)))

        sheet = Sheet(close_up_top + len(shown) * (title + tile), style)
        draw_map(sheet.axes(0.0, 0.0, inner, map_height), analysis, shown, style, labels)
        draw_legend(sheet, rows, legend_top)
        panels = analysis.image, analysis.simulated, residual_in_noise(analysis)
        _triple(sheet, panels, contrast(analysis.image[analysis.mask == 0]), triple_top, third, triple_height)
        for k, defect in enumerate(shown):
            _close_up(sheet, analysis, panels, defect, (close_up_top + k * (title + tile), tile))
    return sheet.figure


def _elements(analysis: Analysis, style: Style) -> list[Sign]:
    """Signs of the atoms that close-ups show."""
    signs: dict[str, Sign] = {}
    for defect in _chosen(analysis):
        x0, y0, x1, y1 = close_view(analysis, defect)
        axes = Sheet(10.0, style).axes(0, 0, 10, 10)
        axes.set(xlim=(x0, x1), ylim=(y1, y0))
        signs |= {str(sign.get_label()): sign for sign in element_signs(axes, analysis, style, " atom")}
    return list(signs.values())


def _chosen(analysis: Analysis, most: int = CLOSE_UPS) -> list[Defect]:
    """The defects that get a close-up, by number: the surest of every label first, then the surest of the rest."""
    by_probability = sorted(analysis.defects, key=lambda d: (-d.probability, d.id))
    first = {defect.label: defect for defect in reversed(by_probability)}.values()
    first_ids = {defect.id for defect in first}
    ranked = sorted(by_probability, key=lambda d: d.id not in first_ids)  # stable
    return sorted(ranked[:most], key=lambda d: d.id)


def save(figure: Figure, path: Path, style: Style = NATURE) -> None:
    """Write a figure as png, pdf or svg, after the suffix; the same figure gives the same bytes.

    No date and no version goes into the file.
    """
    kind = path.suffix.lower().lstrip(".")
    unstated = {
        "png": ("Software",), "pdf": ("Creator", "Producer", "CreationDate"), "svg": ("Creator", "Date"),
    }[kind]  # fmt: skip
    # Noise hardly shrinks: the usual level 6 takes three times as long and saves a twentieth.
    more: dict[str, Any] = {"pil_kwargs": {"compress_level": 2}} if kind == "png" else {}
    with style.context():
        figure.savefig(path, metadata=dict.fromkeys(unstated), **more)
    if kind == "svg":
        text = path.read_text(encoding="utf-8").replace(f"'{style.family}'", ELSEWHERE[style.family])
        path.write_text(text, encoding="utf-8", newline="\n")


def residual_in_noise(analysis: Analysis) -> FloatArray:
    """Image minus model in standard deviations of the noise, NaN where masked."""
    variance = analysis.noise.variance(analysis.simulated)
    difference = analysis.residual
    return np.divide(difference, np.sqrt(variance), out=np.full_like(difference, np.nan), where=variance > 0)


def _triple(sheet: Sheet, panels: Panels, limits: tuple[float, float], top: float, width: float, height: float) -> None:
    """The whole field: image and simulation on one grey scale, residual on its own."""
    for k, (name, panel) in enumerate(zip(("image", "simulated", "residual"), panels, strict=True)):
        axes = sheet.axes(k * (width + GAP_MM), top, width, height)
        if name == "residual":
            diverging(axes, panel)
        else:
            grey(axes, panel, *limits)
        _corner(axes, name, sheet.style)
    counts = ScalarMappable(Normalize(*limits), "gray")
    bar(sheet, counts, (0.0, top + height, 2 * width + GAP_MM), "intensity (image units)")
    signed = ScalarMappable(Normalize(-STRONG_RESIDUAL, STRONG_RESIDUAL), colour_map(SIGNED))
    bar(sheet, signed, (2 * (width + GAP_MM), top + height, width), "residual / noise", "both")


def diverging(axes: Axes, residual: FloatArray, corner_px: tuple[int, int] = (0, 0)) -> None:
    """Residual in units of the noise."""
    shade(axes, residual, SIGNED, -STRONG_RESIDUAL, STRONG_RESIDUAL, corner_px)


def _corner(axes: Axes, text: str, style: Style) -> None:
    """Name of a panel in its upper left corner."""
    axes.text(
        0.03, 0.97, text, transform=axes.transAxes, va="top", ha="left", size=style.text_pt, color="white",
        path_effects=[withStroke(linewidth=0.23 * style.text_pt, foreground="black")],
    )  # fmt: skip


def bar(
    sheet: Sheet,
    scale: ScalarMappable,
    place: tuple[float, float, float],
    label: str,
    extend: Literal["neither", "both", "max"] = "neither",
) -> None:
    """Horizontal colour bar below a panel, which ends at `place`: left, bottom, width in mm."""
    style, (left, bottom, width) = sheet.style, place
    axes = sheet.axes(left + 0.1 * width, bottom + style.beside(0.8), 0.8 * width, style.beside(1.3))
    axes.set_axis_on()
    drawn = sheet.figure.colorbar(scale, cax=axes, orientation="horizontal", extend=extend)
    if extend != "neither":
        drawn.set_ticks(np.linspace(*scale.get_clim(), 3).tolist())
    drawn.ax.tick_params(
        labelsize=style.small_pt, length=style.beside(1.2), width=style.line(0.3), pad=style.beside(0.8)
    )
    drawn.outline.set_linewidth(style.line(0.3))
    drawn.set_label(label, size=style.small_pt, labelpad=style.beside(0.8))


def _close_up(sheet: Sheet, analysis: Analysis, panels: Panels, defect: Defect, place: tuple[float, float]) -> None:
    """Image, structure over it, simulation and residual about one defect in a row below its name; (top, tile) in mm."""
    style, (top, tile) = sheet.style, place
    x0, y0, x1, y1 = close_view(analysis, defect)
    low, high = contrast(
        np.stack([panel[round(y0) : round(y1) + 1, round(x0) : round(x1) + 1] for panel in panels[:2]])
    )
    part = tuple(slice(max(round(low) - 2, 0), round(high) + 3) for low, high in ((y0, y1), (x0, x1)))
    corner = part[1].start, part[0].start
    base = top + style.beside(TITLE_MM - TITLE_OFF_MM)
    sheet.text(0.0, base, _title(defect, style, style.inner_mm * TITLE_SHARE), va="baseline")
    ncc, chi2 = score(analysis, (slice(round(y0), round(y1) + 1), slice(round(x0), round(x1) + 1)))
    if np.isfinite(ncc):
        said = f"NCC {ncc:.3f}, χ²/n {chi2:.2f}"
        sheet.text(style.inner_mm, base, said, style.small_pt, va="baseline", ha="right")
    for k in range(4):
        axes = sheet.axes(k * (tile + GAP_MM), top + style.beside(TITLE_MM), tile, tile)
        if k < 3:
            bright = low + (high - low) / (DIM if k == 1 else 1)
            grey(axes, panels[k // 2][part], low, bright, corner)
        else:
            diverging(axes, panels[2][part], corner)
        axes.set(xlim=(x0, x1), ylim=(y1, y0))
        if k == 1:
            draw_structure(axes, analysis, style)
        if k < 3:
            draw_outline(axes, defect.extent_px, reach_px(analysis), defect_style(style.line(0.7)))
        if k == 2:  # where it hides no atom
            scale_bar(axes, analysis.pixel_size_A, style, 0.45, style.small_pt)


def score(analysis: Analysis, part: tuple[slice, slice]) -> tuple[float, float]:
    """Normalised cross-correlation and reduced chi squared of some pixels, image against simulation as they are shown.

    Those of a candidate are of another model: it was fitted on its own to the patch about its defect.
    """
    model, residual = analysis.simulated[part], residual_in_noise(analysis)[part]
    seen = np.isfinite(model) & np.isfinite(residual)
    if seen.sum() < 2 or np.ptp(model[seen]) == 0:
        return float("nan"), float("nan")
    ncc = np.corrcoef(model[seen], analysis.image[part][seen])[0, 1]
    return float(ncc), float(np.mean(residual[seen] ** 2))


def _title(defect: Defect, style: Style, width_mm: float) -> str:
    """Number, name and probability, with those of the type where they differ and there is room."""
    text = f"{defect.id}  {label_text(defect.label)}  {statement(defect.probability)}"
    of_type = probability_text(defect.type_probability)
    longer = f"{text} ({defect.type} {of_type})"
    fits = text_width_pt(longer, style) < width_mm * POINTS_PER_MM
    return longer if of_type != probability_text(defect.probability) and fits else text


def close_view(analysis: Analysis, defect: Defect) -> tuple[float, float, float, float]:
    """The defect with two cells around it, moved to stay inside the image: x0, y0, x1, y1."""
    extent = float(np.abs(np.asarray(defect.extent_px) - defect.center_px).max())
    shape = analysis.image.shape
    half = min(extent + 1.9 * analysis.step_px, (min(shape) - 1) / 2)
    x, y = np.clip(defect.center_px, half, np.array(shape[::-1]) - 1 - half).tolist()
    return x - half, y - half, x + half, y + half
