"""One self-contained page about one image: everything that its result says, to be looked at without anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stemfit.analysis import Analysis

__all__ = ["html"]


def html(analysis: Analysis) -> str:
    """Page about one analysis, as HTML5 in UTF-8; what draws it is loaded when it is asked for."""
    from stemfit.report.page import html as page

    return page(analysis)
