"""Figures from an `Analysis`. The only package that imports matplotlib; it keeps no global state."""

from stemfit.figures.panels import overlay, save
from stemfit.figures.style import STYLES, Style

__all__ = ["STYLES", "Style", "overlay", "save"]
