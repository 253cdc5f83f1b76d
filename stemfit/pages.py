"""What a result folder shows to people: overlay and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stemfit.analysis import Analysis
    from stemfit.result import Findings


def draw(findings: Findings, folder: Path) -> None:
    """Draw overlay and report into a result folder whose other files are there already.

    Both are drawn from these files, so that they are the same when they are read again.
    """
    from stemfit.analysis import Analysis

    draw_again(Analysis.load(folder, image=findings.micrograph.image), folder)


def draw_again(analysis: Analysis, folder: Path) -> None:
    """Draw overlay and report of what the files of a folder say."""
    from stemfit import figures, report

    overlay = figures.overlay(analysis)
    for name in ("overlay.png", "overlay.pdf"):
        figures.save(overlay, folder / name)
    (folder / "report.html").write_text(report.html(analysis), encoding="utf-8", newline="\n")
