"""PNG: one image, greyscale or colour with equal channels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemfit.micrograph.types import Signal


@contextmanager
def opened(path: Path) -> Iterator[list[Signal]]:
    """One signal without a scale: its resolution is in dots per metre, too coarse for one."""
    from PIL import PngImagePlugin

    with path.open("rb") as file:  # opened past Image.open, whose size guard warns where ours decides
        width, height = struct.unpack(">16x2I", file.read(24))

        def load(index: int) -> NDArray[Any]:
            file.seek(0)
            with PngImagePlugin.PngImageFile(file) as png:
                return np.asarray(png.convert("RGBA") if png.mode == "P" else png)

        yield [Signal(None, (height, width), 1, load)]
