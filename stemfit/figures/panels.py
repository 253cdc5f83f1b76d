"""The overlay as a page: annotated map; image, model and residual; close-ups of the most probable defects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from stemfit.defects import Defect
from stemfit.figures.legend import LEGEND_ROW_MM, draw_legend, legend_rows
from stemfit.figures.map import draw_map, reach_px
from stemfit.figures.outlines import defect_style, draw_outline
from stemfit.figures.sheet import (
    INNER_MM,
    SMALL_PT,
    TEXT_PT,
    Sheet,
    contrast,
    grey,
    label_text,
    probability_text,
    scale_bar,
    shade,
    statement,
)
from stemfit.result.findings import Findings

FloatArray = NDArray[np.float64]
Panels = tuple[FloatArray, FloatArray, FloatArray]
"""Image, model, residual."""

TALLEST_MM = 110.0
GAP_MM, PAIR_GAP_MM, TILE_GAP_MM = 1.2, 3.0, 0.4
TITLE_MM, BAR_MM = 3.6, 7.0
TILE_MM = (INNER_MM - PAIR_GAP_MM - 4 * TILE_GAP_MM) / 6
RESIDUAL_MAP = "RdBu_r"

CLOSE_UPS = 6
STRONG_RESIDUAL = 5.0
"""End of the residual's colour scale, in standard deviations of the noise: one pixel in two million exceeds it."""


def overlay(analysis: Findings) -> Figure:
    """What was found, drawn on the image; below it image, model and residual, and the most probable defects close up.

    Returns
    -------
    Figure
        89 mm wide. Write it with `save`.
    """
    height, width = analysis.micrograph.image.shape
    map_height = min(INNER_MM * height / width, TALLEST_MM)
    third = (INNER_MM - 2 * GAP_MM) / 3
    rows, shown = legend_rows(analysis), _chosen(analysis)
    legend_top = map_height + 1.0
    triple_top = legend_top + LEGEND_ROW_MM * len(rows)
    triple_height = min(third * height / width, TALLEST_MM / 2)
    close_up_top = triple_top + triple_height + BAR_MM

    sheet = Sheet(close_up_top + -(-len(shown) // 2) * (TITLE_MM + TILE_MM))
    draw_map(sheet.axes(0.0, 0.0, INNER_MM, map_height), analysis, shown, map_height)
    draw_legend(sheet, rows, legend_top)
    panels = analysis.micrograph.image, analysis.simulated, _residual(analysis)
    limits = contrast(analysis.micrograph.image[analysis.region_map == 0])
    _triple(sheet, panels, limits, triple_top, third, triple_height)
    for k, defect in enumerate(shown):
        left = (k % 2) * (INNER_MM + PAIR_GAP_MM) / 2
        _close_up(sheet, analysis, panels, defect, left, close_up_top + (k // 2) * (TITLE_MM + TILE_MM))
    return sheet.figure


def _chosen(analysis: Findings) -> list[Defect]:
    """The defects that get a close-up, by number: the surest of every label first, then the surest of the rest."""
    by_probability = sorted(analysis.defects, key=lambda d: (-d.probability, d.id))
    first = {defect.label: defect for defect in reversed(by_probability)}.values()
    first_ids = {defect.id for defect in first}
    ranked = sorted(by_probability, key=lambda d: d.id not in first_ids)  # stable
    return sorted(ranked[:CLOSE_UPS], key=lambda d: d.id)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as png or pdf, after the suffix; the same figure gives the same bytes.

    No date and no version goes into the file; letters in a pdf stay letters (TrueType), as journals ask.
    """
    kind = path.suffix.lower().lstrip(".")
    unstated = {"png": ("Software",), "pdf": ("Creator", "Producer", "CreationDate")}[kind]
    # Noise hardly shrinks: the usual level 6 takes three times as long and saves a twentieth.
    more: dict[str, Any] = {"pil_kwargs": {"compress_level": 2}} if kind == "png" else {}
    with matplotlib.rc_context({"pdf.fonttype": 42, "pdf.compression": 2}):
        figure.savefig(path, metadata=dict.fromkeys(unstated), **more)


def _residual(analysis: Findings) -> FloatArray:
    """Image minus model in standard deviations of the noise, NaN where masked."""
    variance = analysis.imaging.noise.variance(analysis.simulated)
    difference = analysis.micrograph.image - analysis.simulated
    return np.divide(difference, np.sqrt(variance), out=np.full_like(difference, np.nan), where=variance > 0)


def _triple(sheet: Sheet, panels: Panels, limits: tuple[float, float], top: float, width: float, height: float) -> None:
    """The whole field: image and model on one grey scale, residual on its own."""
    for k, (name, panel) in enumerate(zip(("Image", "Model", "Residual"), panels, strict=True)):
        axes = sheet.axes(k * (width + GAP_MM), top, width, height)
        if name == "Residual":
            _diverging(axes, panel)
        else:
            grey(axes, panel, *limits)
        _corner(axes, name)
    counts = ScalarMappable(Normalize(*limits), "gray")
    _bar(sheet, counts, 0.0, top + height, 2 * width + GAP_MM, "intensity (image units)")
    signed = ScalarMappable(Normalize(-STRONG_RESIDUAL, STRONG_RESIDUAL), RESIDUAL_MAP)
    _bar(sheet, signed, 2 * (width + GAP_MM), top + height, width, "residual / noise", "both")


def _diverging(axes: Axes, residual: FloatArray, corner_px: tuple[int, int] = (0, 0)) -> None:
    shade(axes, residual, RESIDUAL_MAP, -STRONG_RESIDUAL, STRONG_RESIDUAL, corner_px)


def _corner(axes: Axes, text: str) -> None:
    """Name of a panel in its upper left corner."""
    axes.text(
        0.03, 0.97, text, transform=axes.transAxes, va="top", ha="left", size=TEXT_PT, color="white",
        path_effects=[withStroke(linewidth=1.4, foreground="black")],
    )  # fmt: skip


def _bar(
    sheet: Sheet,
    scale: ScalarMappable,
    left: float,
    top: float,
    width: float,
    label: str,
    extend: Literal["neither", "both"] = "neither",
) -> None:
    """Horizontal colour bar below a panel."""
    axes = sheet.axes(left + 0.1 * width, top + 0.8, 0.8 * width, 1.3)
    axes.set_axis_on()
    bar = sheet.figure.colorbar(scale, cax=axes, orientation="horizontal", extend=extend)
    bar.ax.tick_params(labelsize=SMALL_PT, length=1.2, width=0.3, pad=0.8)
    bar.outline.set_linewidth(0.3)
    bar.set_label(label, size=SMALL_PT, labelpad=0.8)


def _close_up(sheet: Sheet, analysis: Findings, panels: Panels, defect: Defect, left: float, top: float) -> None:
    """Image, model and residual about one defect, side by side under its name."""
    text = f"{defect.id}  {label_text(defect.label)}  {statement(defect.probability)}"
    if defect.type == "LINE":
        text += f" (LINE {probability_text(defect.type_probability)})"
    sheet.text(left, top + 0.6, text)
    (x0, x1), (y0, y1) = _view(analysis, defect)
    low, high = contrast(
        np.stack([panel[round(y0) : round(y1) + 1, round(x0) : round(x1) + 1] for panel in panels[:2]])
    )
    part = tuple(slice(max(round(low) - 2, 0), round(high) + 3) for low, high in ((y0, y1), (x0, x1)))
    for k, panel in enumerate(panels):
        axes = sheet.axes(left + k * (TILE_MM + TILE_GAP_MM), top + TITLE_MM, TILE_MM, TILE_MM)
        if k < 2:
            grey(axes, panel[part], low, high, (part[1].start, part[0].start))
        else:
            _diverging(axes, panel[part], (part[1].start, part[0].start))
        axes.set(xlim=(x0, x1), ylim=(y1, y0))
        if k == 0:
            draw_outline(axes, defect.extent_px, reach_px(analysis), defect_style(0.7))
            scale_bar(axes, analysis.calibration.pixel_size_A, 0.45, SMALL_PT)


def _view(analysis: Findings, defect: Defect) -> list[tuple[float, float]]:
    """The defect with two cells around it, moved to stay inside the image: (x0, x1), (y0, y1)."""
    extent = float(np.abs(np.asarray(defect.extent_px) - defect.center_px).max())
    shape = analysis.micrograph.image.shape
    half = min(extent + 1.9 * analysis.lattice.a_px_iso, (min(shape) - 1) / 2)
    centre = np.clip(defect.center_px, half, np.array(shape[::-1]) - 1 - half)
    return [(float(c - half), float(c + half)) for c in centre]
