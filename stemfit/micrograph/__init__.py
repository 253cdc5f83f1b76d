"""Read an image and its scale: the only place where files become pixels and pixels become Angstrom.

What files hold (`files`: by their first bytes; `tiff`, `png`, `rosetta`), which of their signals is meant (`choice`),
which frame or mean of frames (`stack`), how large a pixel is (`scale`), and whether it can be analysed (`check`).
"""

from stemfit.micrograph.check import MIN_SIDE_PX
from stemfit.micrograph.reading import from_array, from_signal, read
from stemfit.micrograph.types import Frame, Micrograph

__all__ = ["MIN_SIDE_PX", "Frame", "Micrograph", "from_array", "from_signal", "read"]
