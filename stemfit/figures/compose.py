"""Figures of chosen panels of one view, in a row or a grid, with letters: what goes into an article or on a slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stemfit.analysis import Analysis
from stemfit.defects import Defect
from stemfit.figures.atoms import draw_structure, element_signs
from stemfit.figures.legend import (
    LEGEND_ROW_MM,
    Sign,
    column_signs,
    draw_legend,
    in_rows,
    outline_signs,
    region_sign,
)
from stemfit.figures.map import (
    MOST_NAMES,
    SMALLEST_MARKER_PT,
    draw_columns,
    draw_labels,
    draw_names,
    draw_outlines,
    draw_regions,
)
from stemfit.figures.outlines import MANY_SUSPECTS
from stemfit.figures.panels import STRONG_RESIDUAL, bar, diverging, residual_in_noise, score
from stemfit.figures.shades import DIM, SIGNED, UNSIGNED, colour_map, contrast, grey
from stemfit.figures.sheet import POINTS_PER_MM, Sheet, numbered_claim, points_per_px, scale_bar, text_width_pt
from stemfit.figures.style import MARGIN_MM, NATURE, Style
from stemfit.strain import Strain, displacements, strain

FloatArray = NDArray[np.float64]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in px."""

CLOSE_UP = ("image", "structure", "simulated", "residual")
"""What a defect is shown by."""

STRAINS = {
    "exx": (r"$\mathrm{\epsilon_{xx}}$", "%", 100.0), "eyy": (r"$\mathrm{\epsilon_{yy}}$", "%", 100.0),
    "exy": (r"$\mathrm{\epsilon_{xy}}$", "%", 100.0), "rotation": ("rotation", "°", 180 / np.pi),
}  # fmt: skip
"""Sign, unit, and what the numbers are multiplied by."""

TITLES = {
    "image": "image", "columns": "columns", "defects": "defects", "structure": "structure", "simulated": "simulated",
    "residual": "residual", "displacement": "displacement", **{name: sign for name, (sign, _, _) in STRAINS.items()},
}  # fmt: skip
"""Panels by their names, with what is written above them."""

GROUPS = {"strain": tuple(STRAINS)}
"""Names that stand for several panels."""

GAP_MM, HEAD_MM, BAR_MM = 1.5, 3.8, 7.4
NARROWEST_MM = 20.0
"""Of a panel beside letters of six points; where more stand in a row, they go into a grid."""

STEPS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
"""Where scales may end: next to a larger end there is hardly any colour."""

LEAST_SHRUNK = 0.45
"""Panels that had to be smaller to fit a slide, relative to the room they have side by side, stay as they are."""

MOST_SAID = 0.6
"""Of a panel's width: longer words in its corner are left to the caption."""

MOST_ACROSS = 4
"""Panels in a row, however wide the page."""


@dataclass(frozen=True)
class Scene:
    """What all panels of a figure share.

    Attributes
    ----------
    analysis : Analysis
    box : (x0, y0, x1, y1)
        The view, px.
    style : Style
    labels : bool
        Whether names and numbers are written into the panels.
    defect : Defect or None
        The one that it is about.
    """

    analysis: Analysis
    box: Box
    style: Style = NATURE
    labels: bool = True
    defect: Defect | None = None

    @property
    def part(self) -> tuple[slice, slice]:
        """Rows and columns of the pixels in view, wholly or in part; pixel k reaches from k - 1/2 to k + 1/2."""
        x0, y0, x1, y1 = self.box
        return slice(max(floor(y0 + 0.5), 0), ceil(y1 + 0.5)), slice(max(floor(x0 + 0.5), 0), ceil(x1 + 0.5))

    @property
    def close(self) -> bool:
        """Whether no more is seen than what a defect's close-up shows, or a few defects."""
        return self.defect is not None or len(in_view(self, self.analysis.defects)) <= MOST_NAMES

    @property
    def limits(self) -> tuple[float, float]:
        """Grey range of image and model."""
        rows, columns = self.part
        seen = self.analysis.image[rows, columns]
        analysed = self.analysis.mask[rows, columns] == 0
        return contrast(seen[analysed] if analysed.any() else seen)


class Scale(NamedTuple):
    """What the colours of a panel mean: range, and the name of the map."""

    low: float
    high: float
    label: str
    colours: str = SIGNED


def compose(scene: Scene, names: Sequence[str]) -> Figure:
    """Panels of one view side by side, with letters, colour bars and a legend of everything that is drawn.

    Parameters
    ----------
    scene : Scene
    names : sequence of str
        Of `TITLES` and `GROUPS`.

    Returns
    -------
    Figure
        As wide as the style says. Write it with `save`.
    """
    names, style = expanded(names), scene.style
    with style.context():
        across, wide, high = _layout(scene, len(names))
        below = [any(_has_bar(name) for name in names[k : k + across]) for k in range(0, len(names), across)]
        head, rest = style.beside(HEAD_MM), [style.beside(BAR_MM) if each else GAP_MM for each in below]
        rows, beyond = _legend(scene, names, across)  # mm from the end of the panels
        after = max(0.0, beyond + len(rows) * style.beside(LEGEND_ROW_MM))
        share = ((style.tallest_mm - 2 * MARGIN_MM - after - sum(rest)) / len(below) - head) / high
        share = share if LEAST_SHRUNK <= share < 1 else 1.0  # they fit, or cannot
        seen_wide, high = share * wide, share * high
        tops = np.cumsum([0.0] + [head + high + each for each in rest])
        legend_top = float(tops[-1]) + beyond
        sheet = Sheet(float(tops[-1]) + after, style)
        draw_legend(sheet, rows, legend_top)
        drawers = _drawers(scene, names)
        indent = _indent(style, len(names))
        for k, name in enumerate(names):
            left, top = (k % across) * (wide + GAP_MM), float(tops[k // across])
            _head(sheet, k, _titles(scene, names, k), (left, top, wide), indent if scene.labels else None)
            axes = sheet.axes(left + (wide - seen_wide) / 2, top + head, seen_wide, high)
            scale = drawers[name](axes)
            if k == 0:
                scale_bar(axes, scene.analysis.pixel_size_A, style, 0.4 if across > 1 else 0.22)
            if scale is not None:
                shown = ScalarMappable(Normalize(scale.low, scale.high), colour_map(scale.colours))
                ends: Literal["both", "max"] = "both" if scale.low < 0 else "max"
                bar(sheet, shown, (left, top + head + high, wide), scale.label, ends)
    return sheet.figure


def expanded(names: Sequence[str]) -> list[str]:
    """Names of single panels."""
    return [single for name in names for single in GROUPS.get(name, (name,))]


def _layout(scene: Scene, count: int) -> tuple[int, float, float]:
    """Panels in a row, and width and height of each, mm."""
    style, (x0, y0, x1, y1) = scene.style, scene.box
    most = max(1, int((style.inner_mm + GAP_MM) / (style.beside(NARROWEST_MM) + GAP_MM)))
    rows = -(-count // min(most, MOST_ACROSS))
    across = -(-count // rows)
    wide = (style.inner_mm - (across - 1) * GAP_MM) / across
    return across, wide, wide * (y1 - y0) / (x1 - x0)


def _legend(scene: Scene, names: Sequence[str], across: int) -> tuple[list[list[Sign]], float]:
    """Rows of signs and where they begin, counted from the end of the panels and bars.

    That is left of the colour bars of the last row, if there is room, or below all.
    """
    signs, style = _signs(scene, names), scene.style
    last = [_has_bar(name) for name in names[(len(names) - 1) // across * across :]]
    free = last.index(True) / across * style.inner_mm if True in last else 0.0
    rows, high = in_rows(signs, style, free), style.beside(BAR_MM) - 1.0
    if len(rows) * style.beside(LEGEND_ROW_MM) <= high and all(len(row) > 1 for row in rows):
        return rows, -high
    return in_rows(signs, style), 0.0


def _indent(style: Style, count: int) -> float:
    """Where names begin after the letters of so many panels, mm: below each other in all rows."""
    widest = max(text_width_pt(_letter(style, k), style, style.letter_pt) for k in range(count))
    return 1.25 * widest / POINTS_PER_MM + style.beside(0.9)


def _letter(style: Style, k: int) -> str:
    return style.letter.format(chr(ord("a") + k))


def _titles(scene: Scene, names: Sequence[str], k: int) -> list[str]:
    """What may stand above a panel, the fullest first: its name, and with the structure the one defect it is about."""
    plain, named = TITLES[names[k]], "structure" if "structure" in names else names[0]
    within = in_view(scene, scene.analysis.defects)
    defect = scene.defect or (within[0] if len(within) == 1 else None)
    if defect is None or names[k] != named:
        return [plain]
    return [f"{plain}, {numbered_claim(defect)}", numbered_claim(defect), plain]


def _head(sheet: Sheet, k: int, titles: list[str], place: tuple[float, float, float], indent: float | None) -> None:
    """Letter and, `indent` mm after it, the first of the titles that has room above a panel."""
    style, (left, top, wide) = sheet.style, place
    low = top + 0.78 * style.beside(HEAD_MM)
    weight = "bold" if style.bold else "normal"
    sheet.text(left, low, _letter(style, k), style.letter_pt, va="baseline", weight=weight)
    fitting = [text for text in titles if text_width_pt(text, style) < ((wide - (indent or 0)) * POINTS_PER_MM)]
    if indent is not None and fitting:
        sheet.text(left + indent, low, fitting[0], va="baseline")


def _has_bar(name: str) -> bool:
    return name in ("residual", "displacement") or name in STRAINS


# -- panels --------------------------------------------------------------------------------------------------------


def _drawers(scene: Scene, names: Sequence[str]) -> dict[str, Callable[[Axes], Scale | None]]:
    """What draws each panel; strain is found once for all of its maps."""
    maps = strain(scene.analysis, scene.box, per_window=6.0) if set(names) & set(STRAINS) else None
    found: dict[str, Callable[[Axes], Scale | None]] = {
        "image": lambda axes: _image(axes, scene),
        "columns": lambda axes: _columns(axes, scene),
        "defects": lambda axes: _defects(axes, scene),
        "structure": lambda axes: _structure(axes, scene),
        "simulated": lambda axes: _simulated(axes, scene),
        "residual": lambda axes: _residual(axes, scene),
        "displacement": lambda axes: _displacement(axes, scene),
    }
    if maps is not None:
        found |= {name: _strain_drawer(scene, maps, name) for name in STRAINS}
    return found


def _image(axes: Axes, scene: Scene, dim: float = 1.0) -> None:
    low, high = scene.limits
    rows, columns = scene.part
    grey(axes, scene.analysis.image[rows, columns], low, low + (high - low) / dim, (columns.start, rows.start))
    _look(axes, scene)


def _look(axes: Axes, scene: Scene) -> None:
    x0, y0, x1, y1 = scene.box
    axes.set(xlim=(x0, x1), ylim=(y1, y0))


def _columns(axes: Axes, scene: Scene) -> None:
    _image(axes, scene)
    draw_columns(axes, scene.analysis, scene.style, SMALLEST_MARKER_PT)


def _defects(axes: Axes, scene: Scene) -> None:
    _image(axes, scene)
    words = draw_regions(axes, scene.analysis, scene.style)
    draw_outlines(axes, scene.analysis, scene.style)
    if scene.labels:
        draw_labels(axes, scene.analysis, (), words, scene.style)


def _structure(axes: Axes, scene: Scene) -> None:
    _image(axes, scene, DIM)
    draw_structure(axes, scene.analysis, scene.style)
    draw_outlines(axes, scene.analysis, scene.style, crowds=False)
    if scene.labels:
        draw_names(axes, scene.analysis, scene.style)


def _simulated(axes: Axes, scene: Scene) -> None:
    rows, columns = scene.part
    grey(axes, scene.analysis.simulated[rows, columns], *scene.limits, (columns.start, rows.start))
    _look(axes, scene)
    if scene.close:
        draw_outlines(axes, scene.analysis, scene.style, crowds=False)


def _residual(axes: Axes, scene: Scene) -> Scale:
    rows, columns = scene.part
    diverging(axes, residual_in_noise(scene.analysis)[rows, columns], (columns.start, rows.start))
    _look(axes, scene)
    ncc, chi2 = score(scene.analysis, scene.part)
    size, (x0, _, x1, y1) = scene.style.small_pt, scene.box
    long = text_width_pt(f"NCC {ncc:.3f}", scene.style, size) > MOST_SAID * (x1 - x0) * points_per_px(axes)
    if scene.labels and np.isfinite(ncc) and not long:
        back = {"boxstyle": "square,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        text = f"NCC {ncc:.3f}\nχ²/n {chi2:.2f}"
        off = 0.04 * (x1 - x0)
        axes.text(x0 + off, y1 - off, text, color="black", size=size, ha="left", va="bottom", bbox=back)
    return Scale(-STRONG_RESIDUAL, STRONG_RESIDUAL, "residual / noise")


def _displacement(axes: Axes, scene: Scene) -> Scale:
    """Arrows from the sites of the affine cell, so much longer than true that most of them reach no next site."""
    _image(axes, scene, 0.7 * DIM)
    analysis = scene.analysis
    at, moved, sigma = displacements(analysis)
    (x0, y0, x1, y1), per_pm = scene.box, 100 * analysis.pixel_size_A
    column, row = np.clip(np.rint(at).astype(int), 0, np.array(analysis.mask.shape[::-1]) - 1).T
    seen = ((at > [x0, y0]) & (at < [x1, y1])).all(axis=1) & (analysis.mask[row, column] == 0)
    at, moved = at[seen], moved[seen]
    length = np.hypot(*moved.T) if len(moved) else np.zeros(1)
    error = float(np.median(sigma)) if len(sigma) else 0.0
    usual = max(float(np.percentile(length, 95)), 2 * error) or 1.0
    factor = float(f"{2 * analysis.nearest_px / _rounded(usual):.1g}")
    limit = _rounded(usual * per_pm)
    axes.quiver(
        *at.T, *moved.T, length * per_pm, cmap=colour_map(UNSIGNED), clim=(0, limit), angles="xy", scale_units="xy",
        scale=1 / factor, width=0.1 * analysis.nearest_px, units="xy",
        headwidth=3.2, headlength=3.2, headaxislength=2.8, minlength=0.5, zorder=2,
    )  # fmt: skip
    return Scale(0.0, limit, f"pm, σ = {error * per_pm:.2g}; arrows × {factor:g}", UNSIGNED)


def _strain_drawer(scene: Scene, maps: Strain, name: str) -> Callable[[Axes], Scale]:
    sign, unit, factor = STRAINS[name]
    values, sigma = factor * getattr(maps, name), factor * getattr(maps, f"sigma_{name}")
    known = np.isfinite(values)
    error = float(np.median(sigma[known])) if known.any() else 0.0
    limit = _rounded(max(float(np.percentile(np.abs(values[known]), 98)), 2 * error)) if known.any() else 1.0

    def draw(axes: Axes) -> Scale:
        x0, y0, x1, y1 = scene.box
        axes.imshow(
            values, cmap=colour_map(SIGNED), vmin=-limit, vmax=limit, extent=(x0, x1, y1, y0), interpolation="bilinear"
        )
        axes.autoscale(False)
        draw_outlines(axes, scene.analysis, scene.style, crowds=False)
        return Scale(-limit, limit, f"{sign} ({unit}), σ = {error:.2g}")

    return draw


def _rounded(value: float) -> float:
    """The next larger of `STEPS` times a power of ten."""
    decade = 10.0 ** np.floor(np.log10(value))
    return float(decade * next(step for step in STEPS if value <= step * decade * (1 + 1e-9)))


def in_view(scene: Scene, defects: Sequence[Defect]) -> tuple[Defect, ...]:
    """Those of which a site is in view."""
    x0, y0, x1, y1 = scene.box
    low, high = np.array([x0, y0]), np.array([x1, y1])
    return tuple(d for d in defects if ((d.extent_px >= low) & (d.extent_px <= high)).all(axis=1).any())


def _in_view(scene: Scene) -> Analysis:
    """Defects and columns that are seen."""
    analysis, (x0, y0, x1, y1) = scene.analysis, scene.box
    x, y = analysis.columns["x_px"], analysis.columns["y_px"]
    seen = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    return replace(
        analysis, columns={name: values[seen] for name, values in analysis.columns.items()},
        defects=in_view(scene, analysis.defects), suspects=in_view(scene, analysis.suspects),
    )  # fmt: skip


def _signs(scene: Scene, names: Sequence[str]) -> list[Sign]:
    """Everything that is drawn in some panel."""
    analysis, style, shown = _in_view(scene), scene.style, set(names)
    signs: list[Sign] = column_signs(analysis, style) if "columns" in shown else []
    if "structure" in shown:
        axes = Sheet(10.0, style).axes(0, 0, 10, 10)
        _look(axes, scene)
        signs += element_signs(axes, analysis, style, " atom" if "columns" in shown else "")
    if shown & {"defects", "structure", *STRAINS} or ("simulated" in shown and scene.close):
        quiet = "defects" not in shown and len(analysis.suspects) > MANY_SUSPECTS
        signs += outline_signs(replace(analysis, suspects=()) if quiet else analysis, style, "defect")
    rows, columns = scene.part
    if shown & {"defects", "simulated", "residual", *STRAINS} and (analysis.mask[rows, columns] > 0).any():
        signs.append(region_sign())
    return signs
