"""Find atomic columns and measure where they are and how bright they are.

Positions are pixels (x, y): x right along axis 1, y down along axis 0, (0, 0) the centre of the top-left pixel.
"""

from stemfit.columns.detect import find
from stemfit.columns.fit import refine
from stemfit.columns.types import Columns, Noise, Profile

__all__ = ["Columns", "Noise", "Profile", "find", "refine"]
