"""An analysis as notebooks show it: the overlay and the defects."""

from __future__ import annotations

import io
from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING

from stemfit.wording import log_bayes, sure

if TYPE_CHECKING:
    from stemfit.analysis import Analysis

MAX_ROWS = 20
"""Defects that are listed; `Analysis.defects` holds all."""

HEAD = ("id", "type", "P(type)", "label", "P", "x (px)", "y (px)", "ln BF", "or else")


def html(analysis: Analysis) -> str:
    """Overlay and table, everything inline; texts from outside are escaped."""
    from stemfit import figures

    stream = io.BytesIO()
    style = figures.STYLES["nature"]
    with style.context():  # letters are looked up when they are drawn, not when they are written down
        figures.overlay(analysis, style).savefig(stream, format="png", dpi=240)
    image = b64encode(stream.getvalue()).decode("ascii")
    rows = []
    for defect in analysis.defects[:MAX_ROWS]:
        others = sorted(defect.alternatives, key=lambda other: -other[1])[:2]
        x, y = defect.center_px
        cells = (
            str(defect.id), defect.type, sure(defect.type_probability), defect.label, sure(defect.probability),
            f"{x:.1f}", f"{y:.1f}", log_bayes(defect.log_bayes_factor),
            ", ".join(f"{label} {p:.2g}" for label, p in others),
        )  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    more = len(analysis.defects) - MAX_ROWS
    notes = [f"and {more} more"] * (more > 0) + list(analysis.warnings)
    host = analysis.document["host"]
    return (
        f"<p><b>{escape(analysis.name)}</b>: {escape(analysis.host)} (P = {sure(host['probability'])}), "
        f"{analysis.pixel_size_A:.4f} Å a pixel, {len(analysis.defects)} defects, "
        f"{len(analysis.suspects)} suspected</p>"
        '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">'
        f'<img alt="overlay" style="width:420px;max-width:100%" src="data:image/png;base64,{image}">'
        '<div style="flex:1 1 24em;min-width:0;overflow-x:auto">'
        "<table><tr>" + "".join(f"<th>{name}</th>" for name in HEAD) + "</tr>" + "".join(rows) + "</table>"
        + "".join(f"<p>{escape(note)}</p>" for note in notes)
        + "</div></div>"
    )
