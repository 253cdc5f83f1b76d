"""Paper, ink and lettering: what all figures share.

Sized for one column of a journal (89 mm) at print resolution, so that the same file is large on a screen. Colours are
those of Okabe & Ito (2008), which stay apart for colour-blind readers. Axes carry pixel coordinates as everywhere:
(x, y), y down, (0, 0) the centre of the top-left pixel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from stemfit.defects import names_in

FloatArray = NDArray[np.float64]

WIDTH_MM = 89.0
MARGIN_MM = 1.0
INNER_MM = WIDTH_MM - 2 * MARGIN_MM
DPI = 360
POINTS_PER_MM = 72 / 25.4
SMALL_PT, TEXT_PT = 5.0, 6.0

ORANGE, SKY, GREEN, PURPLE, VERMILLION, BLUE = "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2"
YELLOW = "#F0E442"


class Sheet:
    """A figure on which axes are placed in millimetres from the top left corner of what the margin leaves."""

    def __init__(self, inner_height_mm: float) -> None:
        self.height_mm = inner_height_mm + 2 * MARGIN_MM
        self.figure = Figure(figsize=(WIDTH_MM / 25.4, self.height_mm / 25.4), dpi=DPI, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Bare axes."""
        x, y = self._place(left, top + height)
        axes = self.figure.add_axes((x, y, width / WIDTH_MM, height / self.height_mm))
        axes.set_axis_off()
        return axes

    def text(self, left: float, top: float, text: str, size_pt: float = TEXT_PT) -> None:
        """Text that hangs from (left, top)."""
        self.figure.text(*self._place(left, top), text, size=size_pt, va="top", ha="left")

    def _place(self, left: float, top: float) -> tuple[float, float]:
        """Millimetres to shares of the page, counted from its lower left corner."""
        return (MARGIN_MM + left) / WIDTH_MM, 1 - (MARGIN_MM + top) / self.height_mm


def text_width_pt(text: str, size_pt: float = TEXT_PT) -> float:
    """Length of a text as it will be printed."""
    return float(TextPath((0, 0), text, size=size_pt).get_extents().width) if text.strip() else 0.0


def label_text(label: str) -> str:
    """Label in the typography of the field, as mathtext: V_S2 has the subscript S2, O2_S2 is (O2) with that one.

    Of several joined by "+" equal ones are counted.
    """
    if "+" in label:
        each = names_in(label).items()
        return ", ".join(label_text(name) if n == 1 else f"{n} {label_text(name)}" for name, n in each)
    if not re.fullmatch(r"[A-Za-z0-9]+_[A-Za-z0-9]+", label):
        return re.sub(r"([$_^\\])", r"\\\1", label)
    there, belongs = (re.sub(r"(\d+)", r"_{\1}", part) for part in label.split("_"))
    return rf"$\mathrm{{{f'({there})' if '_' in there else there}_{{{belongs}}}}}$"


def formula(species: str) -> str:
    """Column type with its counts as subscripts; nothing for nothing."""
    return r"$\mathrm{" + re.sub(r"(\d+)", r"_{\1}", species) + "}$" if species else ""


def probability_text(probability: float) -> str:
    """Two decimals, never 1.00: that would be a claim of certainty."""
    return ">0.99" if probability > 0.99 else f"{probability:.2f}"


def statement(probability: float) -> str:
    """The same as a statement about P."""
    return "P > 0.99" if probability > 0.99 else f"P = {probability_text(probability)}"


def contrast(values: FloatArray) -> tuple[float, float]:
    """Grey range that hot pixels and a few dark ones do not decide."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, [0.5, 99.8])
    return float(low), float(high if high > low else low + 1)


def grey(axes: Axes, image: FloatArray, low: float, high: float, corner_px: tuple[int, int] = (0, 0)) -> None:
    """Show an image between black and white."""
    shade(axes, image, "gray", low, high, corner_px)


def shade(
    axes: Axes, image: FloatArray, colours: str, low: float, high: float, corner_px: tuple[int, int] = (0, 0)
) -> None:
    """Show an image, or the part of one that begins at `corner_px`; what is drawn later does not widen the view."""
    (x, y), (h, w) = corner_px, image.shape
    where = (x - 0.5, x + w - 0.5, y + h - 0.5, y - 0.5)
    axes.imshow(image, cmap=masked(colours), vmin=low, vmax=high, extent=where)
    axes.autoscale(False)


def masked(name: str) -> Colormap:
    """Colour map in which what is not analysed is a light even grey-blue."""
    return matplotlib.colormaps[name].with_extremes(bad="#C8CDD6")


def scale_bar(axes: Axes, pixel_size_A: float, share: float = 0.22, size_pt: float = TEXT_PT) -> FloatArray:
    """A round number of nanometres, at most `share` of the width, in the lower left corner; its corners (2, 2)."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width, height = right - left, bottom - top
    per_nm = 10 / pixel_size_A
    wish = share * width / per_nm
    decade = 10.0 ** np.floor(np.log10(wish))
    length = decade * max(step for step in (1, 2, 5) if step * decade <= wish)
    margin = 0.04 * min(width, height)
    x, y = left + margin, bottom - margin
    thick = size_pt / 3
    axes.plot(
        [x, x + length * per_nm], [y, y], color="white", linewidth=thick, solid_capstyle="butt", zorder=5,
        path_effects=[withStroke(linewidth=thick + 0.8, foreground="black")],
    )  # fmt: skip
    lettering(axes, (x, y - 0.3 * margin), f"{length:g} nm", "white", ha="left", va="bottom", size=size_pt, zorder=5)
    return np.array([[x, y - 2 * margin], [x + length * per_nm, y + margin]])


def lettering(
    axes: Axes, at: Sequence[float] | FloatArray, text: str, colour: str, size: float = TEXT_PT, **options: Any
) -> None:
    """Text that can be read on any grey."""
    stroke = [withStroke(linewidth=0.23 * size, foreground="black")]
    axes.text(float(at[0]), float(at[1]), text, color=colour, clip_on=True, size=size, path_effects=stroke, **options)
