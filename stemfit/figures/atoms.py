"""Atoms and bonds over an image, as structure viewers draw them, seen from above.

Colours of elements are Jmol's, radii a share of the covalent ones (Cordero et al., Dalton Trans. 2008, 2832), both as
ASE has them. What is on top hides what is below; atoms farther from the viewer are darker, so that a column that has
lost its upper atom looks different. Bonds lie under all atoms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from stemfit.analysis import WHOLE, Analysis
from stemfit.figures.sheet import points_per_px
from stemfit.figures.style import Style

if TYPE_CHECKING:
    from ase import Atoms

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BALL = 0.32
"""Radius of a ball, in covalent radii: columns stay apart, and the image shows between them."""

TOLERANCE = 1.15
"""Atoms nearer than this many sums of covalent radii are bonded."""

METALS = (range(21, 31), range(39, 49), range(57, 81))
"""Atomic numbers of transition metals: two of them are nearer in these layers than that, and not bonded."""

STICK_A, DARKEST, BRIGHT_PT = 0.2, 0.5, 1.2
"""Thickness of bonds; brightness of the lowest atoms; radius from which balls get a highlight."""

MANY = 3000
"""So many atoms are pixels in a pdf or svg, too, which viewers could not show otherwise."""


def draw_structure(axes: Axes, analysis: Analysis, style: Style) -> None:
    """The relaxed structure of the field, as far as it is in view."""
    atoms, xy = _seen(axes, analysis)
    if not len(atoms):
        return
    _sticks(axes, analysis, atoms, xy, style)
    _balls(axes, analysis, atoms, xy, style)


def element_signs(axes: Axes, analysis: Analysis, style: Style, also: str = "") -> list[Line2D]:
    """One for each element in view, the heaviest first; `also` follows the symbols."""
    from ase.data import chemical_symbols

    atoms, _ = _seen(axes, analysis)
    numbers = sorted(set(atoms.numbers.tolist()), reverse=True)
    edge = style.line(0.4)
    return [
        Line2D([], [], linestyle="none", marker="o", markersize=0.7 * style.text_pt, markerfacecolor=tuple(colour),
               markeredgecolor="black", markeredgewidth=edge, label=chemical_symbols[number] + also)
        for number, colour in zip(numbers, _colours(np.array(numbers, dtype=np.int64)), strict=True)
    ]  # fmt: skip


def bonds(numbers: IntArray, at: FloatArray) -> IntArray:
    """Pairs (B, 2) of bonded atoms, sorted; the structure ends where it ends, and does not repeat.

    Parameters
    ----------
    numbers : (N,) array
        Atomic numbers.
    at : (N, 3) array
        Positions, Angstrom.
    """
    from ase.data import covalent_radii
    from scipy.spatial import cKDTree

    if len(at) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    radius = covalent_radii[numbers]
    pairs = cKDTree(at).query_pairs(2 * TOLERANCE * float(radius.max()), output_type="ndarray")
    length = np.linalg.norm(at[pairs[:, 0]] - at[pairs[:, 1]], axis=1)
    metal = np.isin(numbers, [number for row in METALS for number in row])
    kept = (length < TOLERANCE * radius[pairs].sum(axis=1)) & ~metal[pairs].all(axis=1)
    found = np.asarray(pairs[kept], dtype=np.int64)
    return found[np.lexsort(found.T[::-1])]


def _seen(axes: Axes, analysis: Analysis) -> tuple[Atoms, FloatArray]:
    """Atoms in view from the lowest to the highest, and where the image shows them."""
    atoms = analysis.structures[WHOLE]
    xy = np.column_stack([atoms.arrays["x_px"], atoms.arrays["y_px"]]).astype(np.float64)
    (x0, x1), (y1, y0), more = axes.get_xlim(), axes.get_ylim(), 3 / analysis.pixel_size_A
    inside = ((xy > [x0 - more, y0 - more]) & (xy < [x1 + more, y1 + more])).all(axis=1)
    order = np.flatnonzero(inside)[np.argsort(atoms.positions[inside, 2], kind="stable")]
    return atoms[order], xy[order]


def _colours(numbers: IntArray) -> FloatArray:
    from ase.data.colors import jmol_colors

    return np.asarray(jmol_colors[numbers], dtype=np.float64)


def _balls(axes: Axes, analysis: Analysis, atoms: Atoms, xy: FloatArray, style: Style) -> None:
    """Each ball with its highlight before the next higher one."""
    from ase.data import covalent_radii

    radius = BALL * covalent_radii[atoms.numbers] / analysis.pixel_size_A
    z = atoms.positions[:, 2]
    depth = (z.max() - z) / max(float(np.ptp(z)), 1.0)
    colour = _colours(atoms.numbers) * (1 - (1 - DARKEST) * depth)[:, None]
    shine = 0.35 * colour + 0.65 * (1 - 0.6 * depth)[:, None]
    bright = radius * points_per_px(axes) > BRIGHT_PT
    size = np.column_stack([2 * radius, np.where(bright, 0.7 * radius, 0.0)]).ravel()
    face = np.stack([colour, shine], axis=1).reshape(-1, 3)
    at = np.stack([xy, xy - 0.32 * radius[:, None]], axis=1).reshape(-1, 2)
    edge = np.column_stack([np.full(len(xy), style.line(0.3)), np.zeros(len(xy))]).ravel()
    axes.add_collection(
        EllipseCollection(
            size, size, np.zeros(len(size)), units="xy", offsets=at, offset_transform=axes.transData, facecolors=face,
            edgecolors="black", linewidths=edge, zorder=1.8, rasterized=len(xy) > MANY,
        ),
        autolim=False,
    )  # fmt: skip


def _sticks(axes: Axes, analysis: Analysis, atoms: Atoms, xy: FloatArray, style: Style) -> None:
    """Each half in the colour of its atom, on a black line that is a little wider."""
    pairs = bonds(np.asarray(atoms.numbers), np.asarray(atoms.positions))
    if not len(pairs):
        return
    thick = STICK_A / analysis.pixel_size_A * points_per_px(axes)
    middle = xy[pairs].mean(axis=1)
    halves = np.stack([xy[pairs].reshape(-1, 2), np.repeat(middle, 2, axis=0)], axis=1)
    colour = _colours(atoms.numbers[pairs].ravel())
    edge = LineCollection(list(xy[pairs]), colors="black", linewidths=thick + style.line(0.4), zorder=1.6)
    inside = LineCollection(list(halves), colors=colour, linewidths=thick, capstyle="butt", zorder=1.7)
    for lines in (edge, inside):
        lines.set_rasterized(len(xy) > MANY)
        axes.add_collection(lines, autolim=False)
