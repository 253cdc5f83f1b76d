"""Images whose areas differ: grains, inverted domains, second layers, films, and crystals that only look uneven.

Columns as in `honeycombs`; shares no code with stemfit. Every scene has the kind of region that is true of each pixel,
"" for the crystal that is to be analysed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from honeycombs import PROFILES, BoolArray, FloatArray, Shape, draw, rotation
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SIZE_PX, A_PX = (430, 520), 22.3
STRETCH = np.array([[1.04, 0.03], [0.03, 0.97]])
BACKGROUND = 0.12


class Layer(NamedTuple):
    """A crystal and where it is.

    Attributes
    ----------
    where : (H, W) bool array or None
    rotation_deg : float
        Above +x as displayed.
    ratio : float
        Intensity of the second sublattice, that of the first is 1.
    inverted : bool
        The second sublattice at 2/3 instead of 1/3 of the cell's diagonal.
    shift : (i, j)
        Cell coordinates of the origin.
    """

    where: BoolArray | None = None
    rotation_deg: float = 13.7
    ratio: float = 0.4
    inverted: bool = False
    shift: tuple[float, float] = (0.0, 0.0)


class Patches(NamedTuple):
    """What is shown.

    Attributes
    ----------
    expected : (H, W) array
        A lone column of the first sublattice peaks at 1.
    kind : (H, W) array of str
        True kind of region.
    orientation_deg : float
        Rotation of the other crystal in [0, 60); nan if there is none.
    """

    expected: FloatArray
    kind: NDArray[np.str_]
    orientation_deg: float = float("nan")

    def taken(self, counts: float, seed: int = 0) -> FloatArray:
        """Poisson counts with so many expected in the peak of a column."""
        rng = np.random.default_rng([seed, round(100 * counts)])
        return rng.poisson(np.maximum(self.expected, 0) * counts).astype(np.float64)


def side(share: float, angle_deg: float = 34.0) -> BoolArray:
    """A straight cut that leaves this share of the image on one side."""
    y, x = np.mgrid[: SIZE_PX[0], : SIZE_PX[1]]
    along = x * np.cos(np.radians(angle_deg)) + y * np.sin(np.radians(angle_deg))
    return np.asarray(along > np.quantile(along, 1 - share))


def columns(layer: Layer) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Positions (N, 2), intensities (N,) and whether first sublattice (N,) of a layer, some way beyond the frame."""
    h, w = SIZE_PX
    cell = A_PX * np.array([[1.0, 0.0], [0.5, -np.sqrt(0.75)]]) @ (STRETCH @ rotation(-layer.rotation_deg)).T
    n = int(1.5 * max(h, w) / A_PX) + 3
    ij = np.stack(np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1)), -1).reshape(-1, 2) + np.array(layer.shift)
    xy = np.array([w / 2 + 3.1, h / 2 - 5.7]) + np.vstack([ij, ij + (2 / 3 if layer.inverted else 1 / 3)]) @ cell
    first = np.repeat([True, False], len(ij))
    near = ((xy > -3 * A_PX) & (xy < np.array([w, h]) + 3 * A_PX)).all(1)
    if layer.where is not None:
        col, row = np.clip(np.rint(xy).astype(int), 0, [w - 1, h - 1]).T
        near &= layer.where[row, col]
    return xy[near], np.where(first, 1.0, layer.ratio)[near], first[near]


def drawn(*crystals: tuple[FloatArray, FloatArray]) -> FloatArray:
    """Columns on a constant background, jitter of rows left out."""
    shape = Shape(PROFILES["core + wide tail"], sigma_px=0.145 * A_PX, stretch=STRETCH)
    image = np.full(SIZE_PX, BACKGROUND)
    for xy, intensity in crystals:
        there = intensity > 0
        draw(image, xy[there], intensity[there] / shape.peak, shape, np.zeros(SIZE_PX[0]))
    return image


def layers(*which: Layer) -> FloatArray:
    """Several crystals in one image."""
    return drawn(*(columns(layer)[:2] for layer in which))


def marked(where: BoolArray, kind: str) -> NDArray[np.str_]:
    return np.where(where, kind, "")


NOTHING = np.full(SIZE_PX, "")


def grains(turn_deg: float, share: float, apart: float = 0.25) -> Patches:
    """Two grains, columns nearer to the boundary than `apart` lattice constants left out."""
    other, gap = side(share), side(share + 0.012)
    expected = layers(Layer(~gap), Layer(other, 13.7 + turn_deg, shift=(0.31, 0.17)))
    return Patches(expected, marked(other, "other-grain"), (13.7 + turn_deg) % 60)


def twin(share: float, ratio: float = 0.4, shift: tuple[float, float] = (0.0, 0.0)) -> Patches:
    """A domain of opposite polarity, its first sublattice in place or shifted."""
    other = side(share)
    expected = layers(Layer(~other, ratio=ratio), Layer(other, ratio=ratio, inverted=True, shift=shift))
    return Patches(expected, marked(other, "twin"))


def bilayer(share: float, stacking: str, ratio: float = 0.4) -> Patches:
    """A second layer: AA' (turned by 60 degrees, first on second), 3R (shifted by a third), or turned by 21 degrees."""
    top = side(share)
    over = {
        "AA'": Layer(top, ratio=ratio, inverted=True, shift=(1 / 3, 1 / 3)),
        "3R": Layer(top, ratio=ratio, shift=(1 / 3, 1 / 3)),
        "turned": Layer(top, 13.7 + 21.0, ratio, shift=(0.2, 0.4)),
    }[stacking]
    angle = (13.7 + 21.0) % 60 if stacking == "turned" else float("nan")
    return Patches(layers(Layer(ratio=ratio), over), marked(top, "second-layer"), angle)


def dirty(share: float, level: float = 0.8, grain: float = 0.35, seed: int = 0) -> Patches:
    """A film with grains of 4 px and a wavy rim; level and rms of its light in column peaks."""
    rng = np.random.default_rng([seed, 7])
    y, x = np.mgrid[: SIZE_PX[0], : SIZE_PX[1]]
    cx, cy = SIZE_PX[1] * rng.uniform(0.3, 0.6), SIZE_PX[0] * rng.uniform(0.3, 0.6)
    angle = np.arctan2(y - cy, x - cx)
    distance = np.hypot(x - cx, y - cy) / (1 + sum(0.1 * np.sin(k * angle + rng.uniform(0, 6.28)) for k in (2, 3, 5)))
    cover = 1 / (1 + np.exp((distance - np.quantile(distance, share)) / 1.5))
    lumps = gaussian_filter(rng.normal(size=SIZE_PX), 4.0) * 4.0 * np.sqrt(4 * np.pi)
    light = cover * np.maximum(level + grain * lumps, 0)
    return Patches(layers(Layer()) + light, marked(cover > 0.5, "contamination"))


def changed(change: Callable[[FloatArray, FloatArray, BoolArray, np.random.Generator], FloatArray], ratio: float = 0.4,
            seed: int = 0) -> Patches:
    """One crystal whose intensities (positions, intensities, first sublattice, generator) are changed: no region."""
    xy, intensity, first = columns(Layer(ratio=ratio))
    return Patches(drawn((xy, change(xy, intensity, first, np.random.default_rng([seed, 9])))), NOTHING)


def unlit(expected: FloatArray, kind: str) -> Patches:
    """Slow unevenness that is not the crystal's."""
    h, w = SIZE_PX
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    if kind == "gain":
        return Patches(expected * (4 / 3 + 2 / 3 * (0.8 * x + 0.6 * y) / 1.4), NOTHING)  # 2/3 to 2: more than twofold
    return Patches(expected + 0.3 * np.exp(-((x - 0.4) ** 2 + (y + 0.3) ** 2) / 0.5) + 0.1 * x, NOTHING)


def jittered(rms_px: float = 0.8, seed: int = 0) -> Patches:
    """Rows moved to the right at random."""
    shape = Shape(PROFILES["core + wide tail"], sigma_px=0.145 * A_PX, stretch=STRETCH)
    xy, intensity, _ = columns(Layer())
    image = np.full(SIZE_PX, BACKGROUND)
    draw(image, xy, intensity / shape.peak, shape, np.random.default_rng([seed, 3]).normal(0, rms_px, SIZE_PX[0]))
    return Patches(image, NOTHING)


def line(xy: FloatArray, first: BoolArray) -> BoolArray:
    """Second-sublattice columns of one row through the image's middle."""
    direction = STRETCH @ np.array([np.cos(np.radians(13.7)), -np.sin(np.radians(13.7))])
    normal = np.array([-direction[1], direction[0]]) / np.hypot(*direction)
    off = (xy - np.array([SIZE_PX[1], SIZE_PX[0]]) / 2) @ normal
    row = off[~first][np.argmin(np.abs(off[~first]))]
    middle = np.abs((xy - np.array([SIZE_PX[1], SIZE_PX[0]]) / 2) @ direction) < 0.4 * SIZE_PX[1]
    return np.asarray(~first & (np.abs(off - row) < 0.1 * A_PX) & middle)


CLEAN: dict[str, Callable[[], Patches]] = {
    "pristine": lambda: changed(lambda xy, i, first, rng: i),
    "10 % of the columns missing": lambda: changed(lambda xy, i, first, rng: i * (rng.random(len(i)) > 0.1)),
    "metal alloy 50 %": lambda: changed(lambda xy, i, f, rng: i * np.where(f & (rng.random(len(i)) < 0.5), 1.9, 1)),
    "chalcogen alloy 50 %": lambda: changed(lambda xy, i, f, rng: i * np.where(~f & (rng.random(len(i)) < 0.5), 3, 1)),
    "line defect": lambda: changed(lambda xy, i, first, rng: np.where(line(xy, first), 0.0, i)),
    "gain gradient of 2": lambda: unlit(layers(Layer()), "gain"),
    "slow background": lambda: unlit(layers(Layer()), "background"),
    "row jitter": jittered,
    "equal sublattices": lambda: changed(lambda xy, i, first, rng: i, ratio=1.0),
    "nearly equal, 10 % missing": lambda: changed(lambda xy, i, f, rng: i * (rng.random(len(i)) > 0.1), ratio=1.1),
    "B beside N": lambda: changed(lambda xy, i, first, rng: i, ratio=0.52),
}
"""Images in which nothing is to be masked."""

SPOILED: dict[str, Callable[[], Patches]] = {
    **{f"grain turned by {t}, share {s}": (lambda t=t, s=s: grains(t, s)) for t in (5, 17, 30) for s in (0.2, 0.42)},
    "twin, first sublattice in place": lambda: twin(0.35),
    "twin, shifted": lambda: twin(0.3, shift=(0.21, 0.4)),
    "twin, ratio 0.2": lambda: twin(0.35, ratio=0.2),
    "second layer AA'": lambda: bilayer(0.4, "AA'"),
    "second layer AA' over more": lambda: bilayer(0.6, "AA'"),
    "second layer 3R": lambda: bilayer(0.4, "3R"),
    "second layer turned by 21": lambda: bilayer(0.4, "turned"),
    "film of 0.8 +- 0.35": lambda: dirty(0.25),
    "film of 0.4 +- 0.2": lambda: dirty(0.25, 0.4, 0.2),
}
"""Images with one area that is not to be analysed."""
