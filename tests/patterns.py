"""Images of any crystal seen from above, from a few lines that share nothing with the package."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Pattern(NamedTuple):
    """A crystal: plane (2, 2) rows a, b in Angstrom (y up), columns as (name, u, v, brightness)."""

    plane: FloatArray
    columns: tuple[tuple[str, float, float, float], ...]


class Shot(NamedTuple):
    """A recorded image and all that is true of it."""

    image: FloatArray
    xy: FloatArray  # (N, 2) px, every site in the image
    name: NDArray[np.str_]
    brightness: FloatArray  # of the full column
    left: FloatArray  # share of it that is there
    a_px: FloatArray
    b_px: FloatArray
    pixel_A: float


BLACK_P = Pattern(
    np.diag([3.3136, 4.3763]),
    (("P", 0.0, 0.58856, 1.0), ("P", 0.5, 0.91144, 1.0), ("P", 0.0, 0.41144, 1.0), ("P", 0.5, 0.08856, 1.0)),
)
SQUARE = Pattern(np.diag([3.9, 3.9]), (("Fe2", 0.0, 0.0, 1.0), ("Se", 0.5, 0.5, 0.75)))
OBLIQUE = Pattern(
    np.array([[6.4, 0.0], [6.5 * np.cos(np.radians(106.0)), 6.5 * np.sin(np.radians(106.0))]]),
    (("Re", 0.0, 0.0, 1.0), ("Re", 0.42, 0.11, 1.0), ("S", 0.21, 0.55, 0.25), ("S", 0.60, 0.46, 0.25),
     ("S", 0.83, 0.27, 0.25), ("S", 0.24, 0.86, 0.25)),
)  # fmt: skip


def honeycomb(a_A: float, first: tuple[str, float], second: tuple[str, float]) -> Pattern:
    """Two columns a bond apart."""
    plane = a_A * np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
    return Pattern(plane, ((first[0], 0.0, 0.0, first[1]), (second[0], 1 / 3, 1 / 3, second[1])))


def shoot(
    pattern: Pattern, shape: tuple[int, int] = (196, 218), *, pixel_A: float = 0.16, turn_deg: float = 23.7,
    shear: float = 0.02, mirror: bool = False, sigma_A: float = 0.42, counts: float = 200.0, seed: int = 0,
    removed: dict[int, float] | None = None,
) -> Shot:
    """Draw Gaussian columns and count electrons.

    The crystal is turned counter-clockwise, sheared along x, seen from below if `mirror`; `counts` is the peak of a
    column of brightness 1. `removed` maps k to the share that is left of the k-th site away from the edges.
    """
    rng = np.random.default_rng(seed)
    t = np.radians(turn_deg)
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    flip = np.diag([1.0, -1.0 if mirror else 1.0])
    scan = np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([1.0, -1.0]) @ turn @ flip / pixel_A  # Angstrom, y up -> px
    a, b = (scan @ v for v in pattern.plane)
    h, w = shape
    reach = int(2 * max(h, w) * pixel_A / np.linalg.svd(pattern.plane, compute_uv=False)[-1]) + 2
    i, j = (n.ravel() for n in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    origin = np.array([w / 2 + 1.37, h / 2 - 2.21])
    sites = [
        (origin + np.column_stack([i + u, j + v]) @ np.stack([a, b]), np.full(len(i), name), np.full(len(i), z))
        for name, u, v, z in pattern.columns
    ]
    xy, name, z = (np.concatenate(part) for part in zip(*sites, strict=True))
    sigma = sigma_A / pixel_A
    near = ((xy > -5 * sigma) & (xy < np.array([w, h]) + 5 * sigma)).all(1)
    xy, name, z = xy[near], name[near], z[near]
    left = np.ones(len(xy))
    deep = np.flatnonzero(((xy > 6 * sigma) & (xy < np.array([w, h]) - 6 * sigma)).all(1))
    order = deep[np.random.default_rng(seed + 7).permutation(len(deep))]
    for k, share in (removed or {}).items():
        left[order[k]] = share
    y, x = np.arange(h)[:, None], np.arange(w)[None]
    image = np.full(shape, 0.05)
    for (cx, cy), value in zip(xy, z * left, strict=True):
        image += value * np.exp(-0.5 * ((y - cy) / sigma) ** 2) @ np.exp(-0.5 * ((x - cx) / sigma) ** 2)
    inside = ((xy >= 0) & (xy <= [w - 1, h - 1])).all(1)
    counted = rng.poisson(image * counts) / counts
    return Shot(counted, xy[inside], name[inside], z[inside], left[inside], a, b, pixel_A)


def write_cif(
    path: Path, cell: tuple[float, ...], atoms: list[tuple[str, float, float, float]], occupancy: float = 1.0
) -> Path:
    """A CIF by hand, P1; cell as a, b, c, alpha, beta, gamma."""
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_x", *(f"_cell_{n} {value}" for n, value in zip(names, cell, strict=True))]
    lines += ["_symmetry_space_group_name_H-M 'P 1'", "loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{x}" for x in "xyz"] + ["_atom_site_occupancy"]
    lines += [f"{e}{k} {e} {u:.6f} {v:.6f} {w:.6f} {occupancy}" for k, (e, u, v, w) in enumerate(atoms, 1)]
    path.write_text("\n".join(lines) + "\n")
    return path
