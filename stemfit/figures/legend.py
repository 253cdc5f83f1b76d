"""What the signs on the map mean, and how many defects there are where they are too many to name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stemfit.defects import Defect
from stemfit.figures.marks import dot, marks_of, on_paper, species_of
from stemfit.figures.outlines import defect_style
from stemfit.figures.sheet import INNER_MM, POINTS_PER_MM, TEXT_PT, Sheet, formula, label_text, text_width_pt
from stemfit.result.findings import Findings

Sign = Line2D | Patch

LEGEND_ROW_MM = 3.1
HANDLE_EM, GAP_EM, SPACE_EM = 1.6, 0.4, 1.2
"""Width of a sign, from sign to text, from entry to entry; in units of the letters' size."""

MOST_LABELS = 16
"""More labels cover the image at column width; then only the close-ups are numbered and the legend counts the rest."""


def legend_rows(analysis: Findings) -> list[list[Sign]]:
    """Everything that the map shows, and nothing else, in rows that fit; counted defects begin a row of their own."""
    signs: list[Sign] = [
        Line2D([], [], label=formula(marks.species) or "unnamed", **dot(on_paper(marks), 3.2))
        for marks in marks_of(analysis, species_of(analysis))
    ]
    for fractions in (analysis.host.composition or {}).values():
        text = ", ".join(f"{100 * f:.0f} % {element}" for element, (f, _) in fractions.items())
        signs.append(Line2D([], [], linestyle="none", label=text))
    counts: list[Sign] = []
    if len(analysis.defects) > MOST_LABELS:
        counts = [Line2D([], [], label=text, **defect_style(1.0)) for text in _counts(analysis.defects)]
        signs.append(Line2D([], [], linestyle="none", marker="$1$", color="black", mew=0, ms=3.5, label="close-up 1"))
    elif analysis.defects:
        signs.append(Line2D([], [], label="defect with probability", **defect_style(1.0)))
    if analysis.suspects:
        signs.append(Line2D([], [], label=f"suspected ({len(analysis.suspects)})", **defect_style(0.5)))
    if analysis.regions:
        signs.append(Patch(facecolor="#9AA0AA", edgecolor="white", hatch="//////", linewidth=0, label="not analysed"))
    return [*_in_rows(signs), *_in_rows(counts)]


def _counts(defects: Sequence[Defect]) -> list[str]:
    """One entry for each label: how many, and from what probability up; lines of one kind, of any length, together."""
    by_label: dict[str, list[float]] = {}
    for defect in defects:
        line = defect.type == "LINE"
        name = f"{defect.label.partition('-')[0]} line" if line else defect.label
        by_label.setdefault(name, []).append(defect.type_probability if line else defect.probability)
    return [
        f"{len(p)} × {label_text(label)} (P ≥ {np.floor(100 * min(p)) / 100:.2f})"
        for label, p in sorted(by_label.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _in_rows(signs: Sequence[Sign]) -> list[list[Sign]]:
    """As many side by side as fit."""
    rows: list[list[Sign]] = []
    room = 0.0
    for sign in signs:
        width = text_width_pt(str(sign.get_label())) + (HANDLE_EM + GAP_EM + SPACE_EM) * TEXT_PT
        if width > room or not rows:
            rows.append([])
            room = INNER_MM * POINTS_PER_MM
        rows[-1].append(sign)
        room -= width
    return rows


def draw_legend(sheet: Sheet, rows: Sequence[Sequence[Sign]], top: float) -> None:
    """Below the map, row by row."""
    for k, row in enumerate(rows):
        sheet.axes(0, top + k * LEGEND_ROW_MM, INNER_MM, LEGEND_ROW_MM).legend(
            handles=list(row), ncols=len(row), loc="upper left", frameon=False, fontsize=TEXT_PT, borderpad=0.0,
            borderaxespad=0.0, handlelength=HANDLE_EM, handletextpad=GAP_EM, columnspacing=SPACE_EM,
        )  # fmt: skip
