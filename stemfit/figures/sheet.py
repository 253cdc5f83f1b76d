"""Paper, ink and lettering: what all figures share.

Axes carry pixel coordinates as everywhere: (x, y), y down, (0, 0) the centre of the top-left pixel. Colours are those
of Okabe & Ito (2008), which stay apart for colour-blind readers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from matplotlib_scalebar.scalebar import ScaleBar
from numpy.typing import NDArray

from stemfit.defects import Defect, names_in
from stemfit.figures.style import MARGIN_MM, NATURE, Style

FloatArray = NDArray[np.float64]

POINTS_PER_MM = 72 / 25.4

ORANGE, SKY, GREEN, PURPLE, VERMILLION, BLUE = "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2"
YELLOW = "#F0E442"

PLAIN = ("UNKNOWN", "ADATOM", "TWIN")
"""Labels that are words."""


class Sheet:
    """A figure on which axes are placed in millimetres from the top left corner of what the margin leaves."""

    def __init__(self, inner_height_mm: float, style: Style = NATURE) -> None:
        self.style = style
        self.height_mm = inner_height_mm + 2 * MARGIN_MM
        size = (style.width_mm / 25.4, self.height_mm / 25.4)
        self.figure = Figure(figsize=size, dpi=style.dpi, facecolor=style.paper)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Bare axes."""
        x, y = self._place(left, top + height)
        axes = self.figure.add_axes((x, y, width / self.style.width_mm, height / self.height_mm))
        axes.set_axis_off()
        return axes

    def text(self, left: float, top: float, text: str, size_pt: float | None = None, **options: Any) -> None:
        """Text that hangs from (left, top)."""
        size = self.style.text_pt if size_pt is None else size_pt
        self.figure.text(*self._place(left, top), text, size=size, **{"ha": "left", "va": "top", **options})

    def _place(self, left: float, top: float) -> tuple[float, float]:
        """Millimetres to shares of the page, counted from its lower left corner."""
        return (MARGIN_MM + left) / self.style.width_mm, 1 - (MARGIN_MM + top) / self.height_mm


def text_width_pt(text: str, style: Style, size_pt: float | None = None) -> float:
    """Length of a text as it will be printed."""
    font = FontProperties(family=style.family)
    size = style.text_pt if size_pt is None else size_pt
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width) if text.strip() else 0.0


def label_text(label: str) -> str:
    """Label in the typography of the field, as mathtext: V_S2 has the subscript S2, O2_S2 is (O2) with that one.

    Of several joined by "+" equal ones are counted. What is no name of a structure is a word.
    """
    if label in PLAIN:
        return label.lower()
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


def claimed_name(defect: Defect) -> str:
    """The name where it is more probable than not, else the type."""
    return label_text(defect.label) if defect.probability >= 0.5 else label_text(defect.type)


def claim_text(defect: Defect) -> str:
    """The same with the probability of what is said."""
    p = defect.probability if defect.probability >= 0.5 else defect.type_probability
    return f"{claimed_name(defect)} {probability_text(p)}"


def numbered_claim(defect: Defect) -> str:
    """Number, and what is said of the defect."""
    return f"{defect.id}  {claim_text(defect)}"


def statement(probability: float) -> str:
    """The same as a statement about P."""
    return "P > 0.99" if probability > 0.99 else f"P = {probability_text(probability)}"


def points_per_px(axes: Axes) -> float:
    """How long a pixel of the image is on paper."""
    (left, right), figure = axes.get_xlim(), axes.get_figure()
    assert figure is not None
    return float(72 * axes.get_window_extent().width / figure.dpi / abs(right - left))


def scale_bar(
    axes: Axes, pixel_size_A: float, style: Style, share: float = 0.22, size_pt: float | None = None
) -> FloatArray:
    """A round number of nanometres, at most `share` of the width, in the lower left corner; its corners (2, 2)."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    size = style.text_pt if size_pt is None else size_pt
    per_nm = 10 / pixel_size_A
    wish = share * (right - left) / per_nm
    decade = 10.0 ** np.floor(np.log10(wish))
    length = float(decade * max(step for step in (1, 2, 5) if step * decade <= wish))
    height_pt = points_per_px(axes) * (bottom - top)
    axes.add_artist(
        ScaleBar(
            pixel_size_A / 10, "nm", fixed_value=length, fixed_units="nm", location="lower left", color="white",
            box_color="black", box_alpha=0.55, pad=0.25, border_pad=0.35, sep=0.2 * size, scale_loc="top",
            width_fraction=0.28 * size / height_pt, rotation="horizontal-only", scale_formatter=_nanometres,
            font_properties={"family": style.family, "size": size},
        )
    )  # fmt: skip
    wide = max(length * per_nm, text_width_pt(f"{length:g} nm", style, size) / points_per_px(axes))
    pad, high = 0.9 * size / points_per_px(axes), 3.1 * size / points_per_px(axes)
    return np.array([[left, bottom - high], [left + wide + pad, bottom]])


def _nanometres(value: float, unit: str) -> str:
    return f"{value:g} {unit}"


def plain(axes: Axes) -> None:
    """Axes of a curve or a diagram: two thin lines and small numbers."""
    axes.tick_params(which="both", labelsize=NATURE.small_pt, width=0.5, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_linewidth(0.5)


def lettering(
    axes: Axes, at: Sequence[float] | FloatArray, text: str, colour: str, size: float, **options: Any
) -> None:
    """Text that can be read on any grey."""
    stroke = [withStroke(linewidth=0.23 * size, foreground="black")]
    axes.text(float(at[0]), float(at[1]), text, color=colour, clip_on=True, size=size, path_effects=stroke, **options)
