"""What the signs on the map mean, and how many defects there are where they are too many to name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stemfit.analysis import Analysis
from stemfit.defects import Defect
from stemfit.figures.marks import dot, marks_of
from stemfit.figures.outlines import defect_style, suspect_style
from stemfit.figures.sheet import POINTS_PER_MM, Sheet, formula, label_text, text_width_pt
from stemfit.figures.style import Style

Sign = Line2D | Patch

LEGEND_ROW_MM = 3.1
HANDLE_EM, GAP_EM, SPACE_EM = 1.6, 0.4, 1.2
"""Width of a sign, from sign to text, from entry to entry; in units of the letters' size."""

MOST_LABELS = 16
"""More labels cover the image at column width; then only the close-ups are numbered and the legend counts the rest."""


def legend_rows(analysis: Analysis, style: Style) -> list[list[Sign]]:
    """Everything that the map shows, and nothing else, in rows that fit; counted defects begin a row of their own."""
    signs, counts = [*column_signs(analysis, style), *_composition(analysis)], list[Sign]()
    if len(analysis.defects) > MOST_LABELS:
        drawn = defect_style(style.line(1.0))
        bare = {"linestyle": "none"}
        texts = _counts(analysis.defects)
        counts = [Line2D([], [], label=text, **(bare if k else drawn)) for k, text in enumerate(texts)]
        size = 0.6 * style.text_pt
        close_up = Line2D([], [], linestyle="none", marker="$1$", color=style.ink, mew=0, ms=size, label="close-up 1")
        signs.append(close_up)
        signs += outline_signs(analysis, style)[1:]
    else:
        signs += outline_signs(analysis, style)
    if analysis.document["regions"]:
        signs.append(region_sign())
    return [*in_rows(signs, style), *in_rows(counts, style)]


def column_signs(analysis: Analysis, style: Style) -> list[Sign]:
    """One for each type of column."""
    size = 0.53 * style.text_pt
    return [
        Line2D([], [], label=formula(each.species) or "not identified", **dot(each, size))
        for each in marks_of(analysis)
    ]  # fmt: skip


def _composition(analysis: Analysis) -> list[Sign]:
    mixtures = (analysis.document["host"]["composition"] or {}).values()
    texts = [", ".join(f"{100 * f:.0f} % {element}" for element, (f, _) in mixture.items()) for mixture in mixtures]
    return [Line2D([], [], linestyle="none", label=text) for text in texts]


def outline_signs(analysis: Analysis, style: Style, named: str = "defect with probability") -> list[Sign]:
    """Of what is claimed and what is suspected, as far as there is any."""
    signs = [Line2D([], [], label=named, **defect_style(style.line(1.0)))]
    if not analysis.defects:
        signs.clear()
    if analysis.suspects:
        thin = suspect_style(style.line(0.9), analysis.suspects)
        signs.append(Line2D([], [], label=f"suspected, not claimed ({len(analysis.suspects)})", **thin))
    return list(signs)


def region_sign() -> Sign:
    """Of what was not analysed."""
    return Patch(facecolor="#9AA0AA", edgecolor="white", hatch="//////", linewidth=0, label="not analysed")


def _counts(defects: Sequence[Defect]) -> list[str]:
    """One entry for each label: how many, and from what probability up; lines of one kind, of any length, together."""
    by_label: dict[str, list[float]] = {}
    for defect in defects:
        line = defect.type == "LINE"
        name = f"{defect.label.partition('-')[0]} line" if line else defect.label
        by_label.setdefault(name, []).append(defect.type_probability if line else defect.probability)
    return [
        f"{len(p)} × {label_text(label)} (P ≥ {min(np.floor(100 * min(p)) / 100, 0.99):.2f})"
        for label, p in sorted(by_label.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def in_rows(signs: Sequence[Sign], style: Style, room_mm: float | None = None) -> list[list[Sign]]:
    """As many side by side as fit into the room, by default that between the margins."""
    rows: list[list[Sign]] = []
    room = 0.0
    for sign in signs:
        width = text_width_pt(str(sign.get_label()), style) + (HANDLE_EM + GAP_EM + SPACE_EM) * style.text_pt
        if width > room or not rows:
            rows.append([])
            room = (style.inner_mm if room_mm is None else room_mm) * POINTS_PER_MM
        rows[-1].append(sign)
        room -= width
    return rows


def draw_legend(sheet: Sheet, rows: Sequence[Sequence[Sign]], top: float) -> None:
    """Below the map, row by row."""
    style, high = sheet.style, sheet.style.beside(LEGEND_ROW_MM)
    for k, row in enumerate(rows):
        sheet.axes(0, top + k * high, style.inner_mm, high).legend(
            handles=list(row), ncols=len(row), loc="upper left", frameon=False, fontsize=style.text_pt, borderpad=0.0,
            borderaxespad=0.0, handlelength=HANDLE_EM, handletextpad=GAP_EM, columnspacing=SPACE_EM,
        )  # fmt: skip
