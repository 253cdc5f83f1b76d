"""Hexagonal crystals of Gaussian columns with every position, brightness and defect known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Site = tuple[int, int, str]


@dataclass(frozen=True)
class TrueColumns:
    """Every crystal site inside the image, occupied or not.

    Attributes
    ----------
    xy_px : (N, 2) array
        Exact position, px.
    intensity : (N,) array
        Integral of the column, units of the noise-free image x px^2; 0 on an empty site.
    species : (N,) array of str
        Column type ("Mo", "S2", "S"), empty string on an empty site.
    state : (N,) array of str
        "full", "half" (one of two atoms is missing) or "empty".
    ij : (N, 2) int array
        Cell of the site.
    sublattice : (N,) array of str
        "M" or "X".
    """

    xy_px: FloatArray
    intensity: FloatArray
    species: NDArray[np.str_]
    state: NDArray[np.str_]
    ij: NDArray[np.int64]
    sublattice: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.xy_px)

    def select(self, keep: NDArray[np.bool_]) -> TrueColumns:
        """Only the columns where (N,) `keep` is True."""
        return TrueColumns(*(np.asarray(getattr(self, name))[keep] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class TrueDefect:
    """One defect that was put in; `sites` as (i, j, sublattice)."""

    type: str
    label: str
    center_px: FloatArray
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class ColumnShape:
    """Shape of a column: a Gaussian core and a wider Gaussian tail, sigmas in px, `tail_fraction` of the integral."""

    core_sigma_px: float
    tail_sigma_px: float
    tail_fraction: float

    def peak(self) -> float:
        """Height at the centre of a column of integral 1, px^-2."""
        core = (1 - self.tail_fraction) / self.core_sigma_px**2
        return (core + self.tail_fraction / self.tail_sigma_px**2) / (2 * np.pi)


@dataclass(frozen=True)
class Crystal:
    """A noise-free image and all that is true of it.

    Attributes
    ----------
    image : (H, W) array
        An isolated metal column peaks at exactly 1.
    columns : TrueColumns
    defects : tuple of TrueDefect
    a_px, b_px : (2,) array
        Cell vectors; before strain 60 degrees apart, b counter-clockwise from a as displayed (y downwards).
    origin_px : (2,) array
        The metal site (0, 0).
    polarity : int
        +1: X at (a + b)/3; -1: X at 2 (a + b)/3.
    pixel_size_A : float
    profile : ColumnShape
    """

    image: FloatArray
    columns: TrueColumns
    defects: tuple[TrueDefect, ...]
    a_px: FloatArray
    b_px: FloatArray
    origin_px: FloatArray
    polarity: int
    pixel_size_A: float
    profile: ColumnShape

    def site_px(self, ij: NDArray[np.int64], second: NDArray[np.bool_]) -> FloatArray:
        """Positions (N, 2) of sites that nothing has displaced; `second` is True on X."""
        return _site_px(ij, second, np.column_stack([self.a_px, self.b_px]), self.origin_px, self.polarity)


def _site_px(
    ij: NDArray[np.int64], second: NDArray[np.bool_], cell: FloatArray, origin_px: FloatArray, polarity: int
) -> FloatArray:
    shift = np.where(second, (1 if polarity > 0 else 2) / 3, 0.0)
    return np.asarray(origin_px + (ij + shift[:, None]) @ cell.T)


def render(xy_px: FloatArray, intensity: FloatArray, profile: ColumnShape, shape: tuple[int, int]) -> FloatArray:
    """Sum of columns, sampled at the pixel centres.

    Parameters
    ----------
    xy_px : (N, 2) array
        Positions, also outside the image.
    intensity : (N,) array
        Integrals, image units x px^2.
    profile : ColumnShape
    shape : (H, W)

    Returns
    -------
    (H, W) array
    """
    image = np.zeros(shape)
    parts = ((profile.core_sigma_px, 1 - profile.tail_fraction), (profile.tail_sigma_px, profile.tail_fraction))
    for sigma, share in parts:
        for (x, y), value in zip(xy_px, share * intensity, strict=True):
            _add_gaussian(image, x, y, value, sigma)
    return image


def _add_gaussian(image: FloatArray, x: float, y: float, integral: float, sigma: float) -> None:
    reach = 6 * sigma  # the rest is 1e-8 of the peak
    x0, x1 = max(0, int(np.ceil(x - reach))), min(image.shape[1], int(np.floor(x + reach)) + 1)
    y0, y1 = max(0, int(np.ceil(y - reach))), min(image.shape[0], int(np.floor(y + reach)) + 1)
    if x0 >= x1 or y0 >= y1 or integral == 0:
        return
    across = np.exp(-((np.arange(x0, x1) - x) ** 2) / (2 * sigma**2))
    down = np.exp(-((np.arange(y0, y1) - y) ** 2) / (2 * sigma**2))
    image[y0:y1, x0:x1] += integral / (2 * np.pi * sigma**2) * np.outer(down, across)


def cell_vectors(a_px: float, rotation_deg: float, strain: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
    """Hexagonal cell as displayed: a at `rotation_deg` above +x, b 60 degrees further counter-clockwise.

    Parameters
    ----------
    a_px : float
        Lattice constant, px.
    rotation_deg : float
    strain : (2, 2) array, optional
        Applied to (x, y) afterwards: scan shear, unequal scales.

    Returns
    -------
    a_px, b_px : (2,) arrays
        In pixels (x, y), y downwards: hence the minus sign of the sine.
    """
    angles = np.deg2rad([rotation_deg, rotation_deg + 60])
    vectors = a_px * np.column_stack([np.cos(angles), -np.sin(angles)])
    if strain is not None:
        vectors = vectors @ np.asarray(strain).T
    return vectors[0], vectors[1]


def lattice_sites(
    a_px: FloatArray, b_px: FloatArray, origin_px: FloatArray, polarity: int, shape: tuple[int, int], margin_px: float
) -> tuple[NDArray[np.int64], NDArray[np.str_], FloatArray]:
    """All M and X sites of an image grown by `margin_px` on every side.

    Returns
    -------
    ij : (N, 2) int array
    sublattice : (N,) array of str
    xy_px : (N, 2) array
    """
    cell = np.column_stack([a_px, b_px])
    height, width = shape
    low, high = -margin_px - 0.5, margin_px - 0.5
    corners = np.array([[x, y] for x in (low, width + high) for y in (low, height + high)])
    uv = np.linalg.solve(cell, (corners - origin_px).T)
    lows, highs = np.floor(uv.min(1)).astype(int) - 1, np.ceil(uv.max(1)).astype(int) + 1
    grid = np.stack(np.meshgrid(*(np.arange(lo, hi + 1) for lo, hi in zip(lows, highs, strict=True))), -1)
    ij = np.repeat(grid.reshape(-1, 2), 2, axis=0)
    sublattice = np.tile(np.array(["M", "X"]), len(ij) // 2)
    xy = _site_px(ij, sublattice == "X", cell, origin_px, polarity)
    near = np.all((xy >= low) & (xy <= np.array([width, height]) + high), axis=1)
    return ij[near], sublattice[near], xy[near]


def crystal(
    shape: tuple[int, int] = (360, 420),
    *,
    pixel_size_A: float = 0.12,
    a_A: float = 3.16,
    rotation_deg: float = 17.3,
    polarity: int = 1,
    strain: FloatArray | None = None,
    origin_px: tuple[float, float] | None = None,
    species: tuple[str, str] = ("Mo", "S2"),
    brightness: tuple[float, float] = (1.0, 0.45),
    half_share: float = 0.5,
    core_sigma_A: float = 0.45,
    tail_sigma_A: float = 1.3,
    tail_fraction: float = 0.1,
    halved: int = 0,
    removed: int = 0,
    removed_metals: int = 0,
    position_rms_A: float = 0.0,
    seed: int = 0,
) -> Crystal:
    """Draw a hexagonal monolayer of Gaussian columns, with defects at random well-separated sites.

    Parameters
    ----------
    shape : (H, W)
    pixel_size_A : float
        Angstrom per pixel.
    a_A : float
        Lattice constant, Angstrom.
    rotation_deg : float
        Angle of a above +x as displayed.
    polarity : int
        +1: X at (a + b)/3; -1: X at 2 (a + b)/3.
    strain : (2, 2) array, optional
        Applied to pixel vectors (x, y).
    origin_px : (x, y), optional
        A metal site; random near the image centre when not given.
    species : (str, str)
        Column types of the two sublattices.
    brightness : (float, float)
        Integral of each full column, relative to a metal column that peaks at 1.
    half_share : float
        What a halved X column keeps (a third to a half, by detector).
    core_sigma_A, tail_sigma_A, tail_fraction : float
        Column shape, Angstrom and share of the integral.
    halved, removed, removed_metals : int
        How many X columns lose one atom, X columns and metal columns lose all.
    position_rms_A : float
        Random displacement of each column per axis, Angstrom (carried in the truth).
    seed : int

    Returns
    -------
    Crystal

    Raises
    ------
    ValueError
        If the image has no room for so many separated defects.
    """
    rng = np.random.default_rng(seed)
    spacing = a_A / pixel_size_A
    profile = ColumnShape(core_sigma_A / pixel_size_A, tail_sigma_A / pixel_size_A, tail_fraction)
    a_px, b_px = cell_vectors(spacing, rotation_deg, strain)
    near_centre = np.array([shape[1] / 2, shape[0] / 2]) + rng.uniform(-0.5, 0.5, 2) * spacing
    origin = near_centre if origin_px is None else np.array(origin_px, dtype=float)
    ij, sublattice, xy = lattice_sites(a_px, b_px, origin, polarity, shape, 6 * profile.tail_sigma_px)

    wanted = {("half", "X"): halved, ("empty", "X"): removed, ("empty", "M"): removed_metals}
    state = _choose_states(rng, sublattice, xy, shape, spacing, wanted)
    full = np.where(sublattice == "M", *brightness) / profile.peak()
    share = np.select([state == "full", state == "half"], [1.0, half_share], 0.0)
    names = np.where(sublattice == "M", *species)
    names = np.select([state == "full", state == "half"], [names, species[1].rstrip("2")], "")
    xy = xy + rng.normal(0, position_rms_A / pixel_size_A, xy.shape)

    columns = TrueColumns(xy, full * share, names, state, ij, sublattice)
    image = render(xy, columns.intensity, profile, shape)
    seen = columns.select(inside(xy, shape))
    defects = tuple(_name(seen, int(k), species) for k in np.flatnonzero(seen.state != "full"))
    return Crystal(image, seen, defects, a_px, b_px, origin, polarity, pixel_size_A, profile)


def inside(xy: FloatArray, shape: tuple[int, int], margin: float = 0.0) -> NDArray[np.bool_]:
    """Which of (N, 2) positions lie on the pixels of an image and `margin` px away from its edges."""
    upper = np.array([shape[1], shape[0]]) - 0.5 - margin
    return np.asarray(np.all((xy >= margin - 0.5) & (xy <= upper), axis=1))


def _choose_states(
    rng: np.random.Generator,
    sublattice: NDArray[np.str_],
    xy: FloatArray,
    shape: tuple[int, int],
    spacing: float,
    counts: dict[tuple[str, str], int],
) -> NDArray[np.str_]:
    """Give sites a state at random, none closer than 2.5 lattice constants: each defect stays what it is called."""
    state = np.full(len(xy), "full", dtype="<U5")
    free = inside(xy, shape, 2 * spacing)
    for (kind, letter), number in counts.items():
        for _ in range(number):
            choices = np.flatnonzero(free & (sublattice == letter))
            if len(choices) == 0:
                raise ValueError(f"no room for {number} separated {kind} {letter} columns in an image of {shape} px")
            pick = rng.choice(choices)
            state[pick] = kind
            free &= np.hypot(*(xy - xy[pick]).T) > 2.5 * spacing
    return state


def _name(columns: TrueColumns, k: int, species: tuple[str, str]) -> TrueDefect:
    site = (int(columns.ij[k, 0]), int(columns.ij[k, 1]), str(columns.sublattice[k]))
    pair = species[1].endswith("2")
    if not pair:
        kind, label = "SV", f"V_{species[site[2] == 'X']}"
    elif site[2] == "M":
        kind, label = "VM", f"V_{species[0]}"
    elif columns.state[k] == "half":
        kind, label = "SV", f"V_{species[1].rstrip('2')}"
    else:
        kind, label = "DV", f"V_{species[1]}"
    return TrueDefect(kind, label, columns.xy_px[k], (site,))


def fit_cell(
    ij: NDArray[np.int64], second: NDArray[np.bool_], xy_px: FloatArray, polarity: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Affine cell nearest to known site positions, by least squares.

    Parameters
    ----------
    ij : (N, 2) int array
        Cells.
    second : (N,) bool array
        True on the second sublattice (X, B).
    xy_px : (N, 2) array
    polarity : int

    Returns
    -------
    a_px, b_px, origin_px : (2,) arrays
    """
    shift = np.where(second, (1 if polarity > 0 else 2) / 3, 0.0)
    design = np.column_stack([ij + shift[:, None], np.ones(len(ij))])
    a_px, b_px, origin_px = np.linalg.lstsq(design, xy_px, rcond=None)[0]
    return a_px, b_px, origin_px
