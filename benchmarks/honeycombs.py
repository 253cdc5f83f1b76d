"""Images of MX2 honeycombs with known truth, for the benchmarks; shares no code with stemfit.

Every column is one profile of unit integral times its intensity, evaluated (not integrated) at the pixel centres. On a
background the expected counts follow, and from them the Poisson image. Positions are pixels (x, y): x right along axis
1, y down along axis 0, (0, 0) the centre of the top-left pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

PIXEL_A, LATTICE_A, SIGMA_A = 0.12, 3.16, 0.45


# -- what one column looks like ------------------------------------------------------------------------------------


class Part(NamedTuple):
    """Share of a profile: a Gaussian, or with an exponent the function (1 + (r / width)^2)^-exponent.

    `width` counts in standard deviations of the core.
    """

    share: float
    width: float
    exponent: float | None = None


@dataclass(frozen=True)
class Shape:
    """Image of one column, of unit integral (what the cut at `reach_px` takes away apart).

    Attributes
    ----------
    parts : tuple of Part
        The first is the core.
    sigma_px : float
        Standard deviation of the core.
    stretch : (2, 2) array
        Deformation of a round column.
    """

    parts: tuple[Part, ...]
    sigma_px: float = SIGMA_A / PIXEL_A
    stretch: FloatArray = field(default_factory=lambda: np.eye(2))

    @property
    def reach_px(self) -> int:
        """Beyond this a column ends: 2e-6 of a Gaussian, 1e-4 of a Lorentzian-like tail's peak remains there."""
        widest = max(part.width * (5.2 if part.exponent is None else 10.0) for part in self.parts)
        return int(np.ceil(widest * self.sigma_px * np.linalg.svd(self.stretch, compute_uv=False)[0]))

    def radial(self, r: FloatArray, scale: float = 1.0) -> tuple[FloatArray, FloatArray]:
        """Value at distance r (px) from an undeformed column whose widths are `scale` times ours, and -d/dr / r."""
        value, slope = np.zeros_like(r), np.zeros_like(r)
        for share, width, exponent in self.parts:
            w2 = (width * self.sigma_px * scale) ** 2
            if exponent is None:
                f = share / (2 * np.pi * w2) * np.exp(-0.5 * r**2 / w2)
                g = f / w2
            else:
                f = share * (exponent - 1) / (np.pi * w2) * (1 + r**2 / w2) ** -exponent
                g = 2 * exponent * f / (w2 + r**2)
            value, slope = value + f, slope + g
        return value, slope

    @property
    def peak(self) -> float:
        """Value at the centre, 1/px^2."""
        return float(self.radial(np.zeros(1))[0][0] / np.linalg.det(self.stretch))


PROFILES = {
    "Gaussian": (Part(1.0, 1.0),),
    "core + wide tail": (Part(0.75, 1.0), Part(0.25, 2.7)),
    "core + Lorentzian": (Part(0.75, 1.0), Part(0.25, 2.0, 2.0)),
}


# -- what the scan does to the crystal -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """Errors of scan and sample.

    Attributes
    ----------
    anisotropy, axis_deg : float
        Ratio of the principal stretches of the whole image at equal area, and the direction of the longer one.
    strain : float
        Largest local strain (norm of the displacement gradient) of a smooth distortion: quadratic and cubic terms.
    jitter_px : float
        rms of the independent x offset of each row.
    missing : float
        Share of the columns, of both kinds, that is not there.
    blot : str
        "", "hole" (nothing there, dark) or "contamination" (bright grainy film over the columns).
    blot_area : float
        Share of the image that it covers.
    """

    anisotropy: float = 1.0
    axis_deg: float = 25.0
    strain: float = 0.0
    jitter_px: float = 0.0
    missing: float = 0.0
    blot: str = ""
    blot_area: float = 0.0

    @property
    def stretch(self) -> FloatArray:
        """Deformation (2, 2) of unit determinant."""
        turn, root = rotation(self.axis_deg), np.sqrt(self.anisotropy)
        return np.asarray(turn @ np.diag([root, 1 / root]) @ turn.T)


@dataclass(frozen=True)
class Recipe:
    """What is to be made.

    Attributes
    ----------
    size_px : (H, W)
    counts : float
        Expected in the peak pixel of a metal column, above the background.
    profile : str
        A key of PROFILES.
    ratio : float
        Intensity of a whole X2 column, metal 1.
    rotation_deg : float
    background : float
        Constant, metal peak 1.
    halved, removed : int
        X2 columns with half their intensity, and with none.
    displaced_A : float
        rms per axis by which every column is off its site.
    """

    size_px: tuple[int, int]
    counts: float
    profile: str = "Gaussian"
    ratio: float = 0.4
    rotation_deg: float = 11.7
    background: float = 0.12
    halved: int = 0
    removed: int = 0
    displaced_A: float = 0.03
    scan: Scan = field(default_factory=Scan)
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """An image and its truth; sites beyond the frame whose light reaches into it are among them.

    Attributes
    ----------
    recipe : Recipe
    image, expected : (H, W) array
        Counts, and their expectation.
    background : float
        Counts per pixel; outside the blot, if there is one.
    shape : Shape
    xy : (N, 2) array
        Where every site's column is (or would be), px.
    cell_index : (N, 2) array
        Cell coordinates, thirds included.
    metal : (N,) bool array
    intensity : (N,) array
        Integral of each column, counts.
    share : (N,) array
        Of a whole column: 1, 0.5 or 0.
    clear : (N,) bool array
        Outside the blot.
    """

    recipe: Recipe
    image: FloatArray
    expected: FloatArray
    background: float
    shape: Shape
    xy: FloatArray
    cell_index: FloatArray
    metal: BoolArray
    intensity: FloatArray
    share: FloatArray
    clear: BoolArray

    def inside(self, margin_px: float) -> BoolArray:
        """Which sites lie this far from the image's edge."""
        return within(self.xy, self.recipe.size_px, margin_px)

    @property
    def bond_px(self) -> float:
        """Shortest distance of two sites in the undeformed crystal."""
        return float(LATTICE_A / PIXEL_A / np.sqrt(3))


def make(recipe: Recipe) -> Scene:
    """Draw the image of a recipe."""
    rng = np.random.default_rng([recipe.seed, round(100 * recipe.counts)])
    shape = Shape(PROFILES[recipe.profile], stretch=recipe.scan.stretch)
    xy, cell_index, metal = sites(recipe, shape.reach_px, rng)
    film = blot(recipe, rng)
    clear = ~at_pixel(film > 0.5, xy)
    share = shares(recipe, xy, metal, rng)
    if recipe.scan.blot == "hole":
        share = np.where(clear, share, 0.0)
    whole = recipe.counts / shape.peak
    intensity = whole * share * np.where(metal, 1.0, recipe.ratio)
    background = recipe.background * recipe.counts
    offsets = rng.normal(0, recipe.scan.jitter_px, recipe.size_px[0])
    expected = background_image(recipe, film, background, rng)
    there = intensity > 0
    draw(expected, xy[there], intensity[there], shape, offsets)
    image = rng.poisson(expected).astype(np.float64)
    return Scene(
        recipe, image, expected, background, shape, xy, cell_index, metal, intensity, share, clear
    )  # fmt: skip


def rotation(degrees: float) -> FloatArray:
    """Matrix (2, 2) that turns (x, y)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def cell(recipe: Recipe) -> FloatArray:
    """Rows a, b in px, without the smooth distortion."""
    regular = LATTICE_A / PIXEL_A * np.array([[1.0, 0.0], [0.5, -np.sqrt(0.75)]])
    return np.asarray(regular @ (recipe.scan.stretch @ rotation(-recipe.rotation_deg)).T)


def sites(recipe: Recipe, margin_px: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Positions, cell coordinates and kind of all sites in the frame and `margin_px` around it."""
    h, w = recipe.size_px
    n = int(1.5 * (max(h, w) + 2 * margin_px) / (LATTICE_A / PIXEL_A))
    ij = np.stack(np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1)), -1).reshape(-1, 2)
    third = rng.choice([1 / 3, 2 / 3])
    cell_index = np.vstack([ij, ij + third]).astype(np.float64)
    metal = np.repeat([True, False], len(ij))
    xy = np.array([w / 2, h / 2]) + rng.uniform(-9, 9, 2) + cell_index @ cell(recipe)
    xy = xy + smooth_displacement(xy, recipe, rng)
    xy = xy + rng.normal(0, recipe.displaced_A / PIXEL_A, xy.shape)
    near = within(xy, recipe.size_px, -margin_px)
    return xy[near], cell_index[near], metal[near]


def smooth_displacement(xy: FloatArray, recipe: Recipe, rng: np.random.Generator) -> FloatArray:
    """Quadratic and cubic polynomials in x and y, whose largest strain within the frame is the recipe's."""
    h, w = recipe.size_px
    factors = rng.normal(size=(2, 7))
    powers = [(2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)]
    half = max(h, w) / 2

    def displacement(at: FloatArray) -> FloatArray:
        u, v = ((at - np.array([w, h]) / 2) / half).T
        return np.asarray(np.column_stack([u**p * v**q for p, q in powers]) @ factors.T)

    frame = np.stack(np.meshgrid(np.linspace(0, w, 25), np.linspace(0, h, 25)), -1).reshape(-1, 2)
    gradient = [displacement(frame + step) - displacement(frame - step) for step in (np.array([0.5, 0]), [0, 0.5])]
    largest = float(np.linalg.norm(np.stack(gradient, -1), ord=2, axis=(1, 2)).max())
    beyond = np.clip(xy, [-0.2 * w, -0.2 * h], [1.2 * w, 1.2 * h])  # a cubic runs away outside the frame
    return displacement(beyond) * recipe.scan.strain / largest


def shares(recipe: Recipe, xy: FloatArray, metal: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Which columns are whole: the halved and removed ones are X2 columns well inside the frame."""
    share = np.where(rng.random(len(xy)) < recipe.scan.missing, 0.0, 1.0)
    inner = np.flatnonzero(~metal & within(xy, recipe.size_px, 1.5 * LATTICE_A / PIXEL_A))
    chosen = rng.permutation(inner)[: recipe.halved + recipe.removed]
    share[chosen[: recipe.halved]] = 0.5
    share[chosen[recipe.halved :]] = 0.0
    return share


def blot(recipe: Recipe, rng: np.random.Generator) -> FloatArray:
    """How far (0 to 1) a blot with a wavy, 6 px wide edge covers each pixel."""
    h, w = recipe.size_px
    if not recipe.scan.blot:
        return np.zeros((h, w))
    y, x = np.mgrid[:h, :w]
    cx, cy = w * rng.uniform(0.25, 0.4), h * rng.uniform(0.3, 0.45)
    angle = np.arctan2(y - cy, x - cx)
    waves = sum(0.12 * np.sin(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    distance = np.hypot(x - cx, y - cy) / (1 + waves)
    radius = np.quantile(distance, recipe.scan.blot_area)
    return np.asarray(1 / (1 + np.exp(np.clip((distance - radius) / 1.5, -50, 50))))


def background_image(recipe: Recipe, film: FloatArray, level: float, rng: np.random.Generator) -> FloatArray:
    """Expected counts without columns: dark in a hole; under a film bright, with grains of 4 px."""
    if recipe.scan.blot == "hole":
        return np.asarray(level * (1 - 0.8 * film))
    grains = gaussian_filter(rng.normal(size=film.shape), 4.0) * 4.0 * np.sqrt(4 * np.pi)
    return np.asarray(level + recipe.counts * film * np.maximum(0.8 + 0.35 * grains, 0))


def draw(canvas: FloatArray, xy: FloatArray, intensity: FloatArray, shape: Shape, row_offset: FloatArray) -> None:
    """Add columns to the canvas, every row moved to the right by its offset."""
    inverse, area = np.linalg.inv(shape.stretch), np.linalg.det(shape.stretch)
    for rows, cols, k in stamps(canvas.shape, xy, shape.reach_px):
        dx = cols[None, :] - xy[k, 0] - row_offset[rows][:, None]
        dy = np.broadcast_to((rows - xy[k, 1])[:, None], dx.shape)
        r = np.hypot(*np.einsum("ij,jyx->iyx", inverse, np.stack([dx, dy])))
        value, _ = shape.radial(r)
        canvas[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] += np.where(
            r <= shape.reach_px, intensity[k] / area * value, 0.0
        )


def stamps(
    size: tuple[int, ...], xy: FloatArray, reach: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """Rows and columns of pixels within reach of each position, and its number; those out of the image are left out."""
    for k, (x, y) in enumerate(np.rint(xy).astype(int)):
        rows = np.arange(max(0, y - reach), min(size[0], y + reach + 1))
        cols = np.arange(max(0, x - reach), min(size[1], x + reach + 1))
        if len(rows) and len(cols):
            yield rows, cols, k


def within(xy: FloatArray, size: tuple[int, ...], margin_px: float) -> BoolArray:
    """Which positions are this far from the image's edge."""
    far = np.array([size[1], size[0]]) - 1 - margin_px
    return np.asarray(((xy >= margin_px) & (xy <= far)).all(1))


def at_pixel(mask: BoolArray, xy: FloatArray) -> BoolArray:
    """Value of the mask at the pixel nearest to each position, that of the edge beyond it."""
    col, row = np.clip(np.rint(xy).astype(int), 0, np.array(mask.shape[::-1]) - 1).T
    return np.asarray(mask[row, col])
