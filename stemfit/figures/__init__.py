"""Figures from an `Findings`. The only package that imports matplotlib; it keeps no global state."""

from stemfit.figures.panels import overlay, save

__all__ = ["overlay", "save"]
