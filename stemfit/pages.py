"""What a result folder shows to people: overlay and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stemfit.analysis import Analysis

if TYPE_CHECKING:
    from stemfit.result import Findings


def draw(findings: Findings, folder: Path) -> None:
    """Draw overlay and report into a result folder whose other files are there already.

    The overlay is drawn from these files, so that it is the same when they are read again.
    """
    from stemfit import figures, report

    overlay = figures.overlay(Analysis.load(folder, image=findings.micrograph.image))
    for name in ("overlay.png", "overlay.pdf"):
        figures.save(overlay, folder / name)
    page = report.html(findings, (folder / "overlay.png").read_bytes())
    (folder / "report.html").write_text(page, encoding="utf-8")
