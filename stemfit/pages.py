"""What a result folder shows to people: overlay and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stemfit.result import Findings


def draw(findings: Findings, folder: Path) -> None:
    """Draw overlay and report into a result folder whose other files are there already.

    Both are drawn from these files, so that they are the same when they are read again.
    """
    from stemfit import figures, report
    from stemfit.analysis import Analysis

    analysis = Analysis.load(folder, image=findings.micrograph.image)
    overlay = figures.overlay(analysis)
    for name in ("overlay.png", "overlay.pdf"):
        figures.save(overlay, folder / name)
    (folder / "report.html").write_text(report.html(analysis), encoding="utf-8", newline="\n")
