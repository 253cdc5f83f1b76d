"""The atoms of a drawn sheet by abTEM multislice (`stemfit.simulate.multislice`), a minute or two per field and core.

60 kV, 31 mrad, 60 to 200 mrad, thermal motion of 0.06 A; astigmatism, coma, three-fold astigmatism and the size of the
source are drawn per field.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sheets import Sheet

from stemfit.simulate import multislice

FloatArray = NDArray[np.float64]

NUMBERS = {
    "graphene": {1.0: (6,), 1.38: (7,), 3.9: (14,), 2.2: (14,), 2.0: (6, 6)},
    "hBN": {0.5: (5,), 1.0: (7,), 0.73: (6,), 1.3: (8,)},
}
"""Atoms of a column that is drawn with this brightness."""


def image_of(drawn: Sheet, host: str, seed: int, cache: Path) -> FloatArray:
    """Noise-free image, 1 where the brightest column that occurs often is brightest."""
    optics, source_A = _microscope(seed)
    kept = cache / f"{host}-{seed}-{len(drawn.xy_px)}.npy"
    h, w = drawn.image.shape
    side = max(h, w) * drawn.pixel_A + 12.0
    grid = multislice.grid_for(optics, side)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, _scattered(drawn, host, optics, grid, seed))
    size = max(h, w)
    whole = multislice.resample(np.load(kept), grid, drawn.pixel_A, (size, size), source_A)
    top, left = (size - h) // 2, (size - w) // 2
    image = whole[top : top + h, left : left + w]
    usual = max(value for value in np.unique(drawn.light) if np.mean(drawn.light == value) > 0.2)
    at = np.rint(drawn.xy_px[drawn.light == usual]).astype(int)
    at = at[((at >= 0) & (at < [w, h])).all(1)]
    return np.asarray(np.maximum(image, 0) / np.median(image[at[:, 1], at[:, 0]]))


def _microscope(seed: int) -> tuple[multislice.Optics, float]:
    rng = np.random.default_rng([seed, 1])
    aberrations = {
        "C10": rng.normal(0, 10), "C12": rng.uniform(0, 10), "phi12": rng.uniform(0, np.pi),
        "C21": rng.uniform(0, 100), "phi21": rng.uniform(0, 2 * np.pi),
        "C23": rng.uniform(0, 100), "phi23": rng.uniform(0, 2 * np.pi),
    }  # fmt: skip
    optics = multislice.Optics(60e3, 31.0, 60.0, 200.0, {k: float(v) for k, v in aberrations.items()}, 0.06)
    return optics, float(rng.uniform(0.6, 0.9))


def _scattered(
    drawn: Sheet, host: str, optics: multislice.Optics, grid: multislice.Grid, seed: int
) -> FloatArray:
    h, w = drawn.image.shape
    size = max(h, w)
    middle = np.array([w - 1, h - 1]) / 2 + np.array([(size - w) % 2, (size - h) % 2]) / 2
    xy = (drawn.xy_px - middle) * drawn.pixel_A + grid.box_A / 2
    inside = ((xy > 0) & (xy < grid.box_A)).all(1)
    columns = [(NUMBERS[host][round(float(v), 2)], at) for v, at in zip(drawn.light[inside], xy[inside], strict=True)]
    numbers = np.array([z for stack, _ in columns for z in stack])
    yx = np.array([at[::-1] for stack, at in columns for _ in stack])
    layer = np.array([k for stack, _ in columns for k in range(len(stack))])
    return multislice.adf_image(numbers, yx, layer, 1.5, optics, grid, seed)
