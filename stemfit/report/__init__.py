"""One self-contained page about one image: everything that its result says, to be looked at without anything else."""

from stemfit.report.page import html

__all__ = ["html"]
