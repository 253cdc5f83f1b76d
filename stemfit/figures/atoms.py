"""Atoms and bonds over an image, as structure viewers draw them, seen from above.

Colours of elements are Jmol's, radii a share of the covalent ones (Cordero et al., Dalton Trans. 2008, 2832), both as
ASE has them. What is on top hides what is below; atoms farther from the viewer are darker, so that a column that has
lost its upper atom looks different. An atom that does not belong there is drawn above the host's of its column: from
above nobody can tell their order. Bonds lie under all atoms. Where no structure explains a defect there are no atoms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from stemfit.analysis import WHOLE, Analysis
from stemfit.defects import Defect
from stemfit.figures.marks import columns_px
from stemfit.figures.sheet import points_per_px
from stemfit.figures.style import Style
from stemfit.optics.scattering import column_elements

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

COLUMN = 0.35
"""Atoms nearer to each other in the image than this share of the nearest distance are in one column."""

LIFT_A = 0.01
"""By which foreign atoms are drawn above the highest of the host's."""

RING, ARCS = 1.6, 8
"""Radius of the ring for a missing atom, relative to that of the ball that is left; pieces that it has."""

MANY = 3000
"""So many atoms are pixels in a pdf or svg, too, which viewers could not show otherwise."""


def draw_structure(axes: Axes, analysis: Analysis, style: Style) -> None:
    """The relaxed structure of the field, as far as it is in view."""
    atoms, xy = _seen(axes, analysis)
    if not len(atoms):
        return
    _sticks(axes, analysis, atoms, xy, style)
    _balls(axes, analysis, atoms, xy, style)
    _rings(axes, analysis, atoms, xy, style)


def unexplained(analysis: Analysis) -> list[Defect]:
    """Defects without a candidate: the structure has the perfect crystal there, which is not what was found."""
    return [defect for defect in analysis.defects if defect.best_candidate is None]


def element_signs(axes: Axes, analysis: Analysis, style: Style, also: str = "") -> list[Line2D]:
    """One for each element in view, the heaviest first; `also` follows the symbols."""
    from ase.data import chemical_symbols

    atoms, xy = _seen(axes, analysis)
    (x0, x1), (y1, y0) = axes.get_xlim(), axes.get_ylim()
    visible = ((xy > [x0, y0]) & (xy < [x1, y1])).all(axis=1)
    lost = sorted(set(atoms.numbers[half_filled(analysis, atoms, xy) & visible].tolist()))
    numbers = sorted(set(atoms.numbers[visible].tolist()), reverse=True)
    edge = style.line(0.4)
    signs = [
        Line2D([], [], linestyle="none", marker="o", markersize=0.7 * style.text_pt, markerfacecolor=tuple(colour),
               markeredgecolor="black", markeredgewidth=edge, label=chemical_symbols[number] + also)
        for number, colour in zip(numbers, _colours(np.array(numbers, dtype=np.int64)), strict=True)
    ]  # fmt: skip
    if lost:
        ring = _ring_style(_colours(np.array(lost))[0], 0.9 * style.text_pt, style)
        signs.append(Line2D([], [], label="one of two atoms missing", **ring))
    return signs


def half_filled(analysis: Analysis, atoms: Atoms, xy: FloatArray) -> NDArray[np.bool_]:
    """Which atoms (N,) are alone in a column of a defect where the crystal has more, one of the crystal's own there.

    Parameters
    ----------
    analysis : Analysis
    atoms : ase.Atoms
        Of its structure, some or all.
    xy : (N, 2) array
        Where the image shows them.
    """
    from scipy.spatial import cKDTree

    found = np.zeros(len(atoms), dtype=np.bool_)
    there = columns_px(analysis)
    at = np.flatnonzero(atoms.arrays["defect_id"] > 0)
    if not len(at) or not len(there):
        return found
    beside = cKDTree(xy).query_pairs(COLUMN * analysis.nearest_px, output_type="ndarray")
    alone = np.bincount(beside.ravel(), minlength=len(xy))[at] == 0
    between = np.linalg.norm(xy[at][:, None] - there, axis=2)
    column, distance = between.argmin(axis=1), between.min(axis=1)
    mixtures = analysis.document["host"]["composition"] or {}
    for k, observed, one in zip(at, column, alone & (distance < analysis.nearest_px / 2), strict=True):
        sublattice = str(analysis.columns["sublattice"][observed])
        full = analysis.own_columns.get(sublattice, "")  # none where a column stands beside the lattice
        own = column_elements(full) if full else ()
        found[k] = one and len(own) > 1 and atoms.symbols[k] in (*own, *mixtures.get(sublattice, ()))
    return found


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
    """Atoms in view from the lowest to the highest, and where the image shows them; none where none explains it."""
    atoms = analysis.structures[WHOLE]
    atoms = atoms[~np.isin(atoms.arrays["defect_id"], [defect.id for defect in unexplained(analysis)])]
    xy = np.column_stack([atoms.arrays["x_px"], atoms.arrays["y_px"]]).astype(np.float64)
    (x0, x1), (y1, y0), more = axes.get_xlim(), axes.get_ylim(), 3 / analysis.pixel_size_A
    inside = ((xy > [x0 - more, y0 - more]) & (xy < [x1 + more, y1 + more])).all(axis=1)
    order = np.flatnonzero(inside)[np.argsort(_height(atoms)[inside], kind="stable")]
    return atoms[order], xy[order]


def _height(atoms: Atoms) -> FloatArray:
    """How near to the viewer atoms are drawn, Angstrom: exchanged and added ones above all."""
    z = np.asarray(atoms.positions[:, 2], dtype=np.float64)
    return np.where(atoms.arrays["marker"] > 0, z.max(initial=-np.inf) + LIFT_A, z)


def _colours(numbers: IntArray) -> FloatArray:
    from ase.data.colors import jmol_colors

    return np.asarray(jmol_colors[numbers], dtype=np.float64)


def _balls(axes: Axes, analysis: Analysis, atoms: Atoms, xy: FloatArray, style: Style) -> None:
    """Each ball with its highlight before the next higher one."""
    from ase.data import covalent_radii

    radius = BALL * covalent_radii[atoms.numbers] / analysis.pixel_size_A
    z = _height(atoms)
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


def _rings(axes: Axes, analysis: Analysis, atoms: Atoms, xy: FloatArray, style: Style) -> None:
    """A broken ring about the ball of a column that has lost an atom."""
    from ase.data import covalent_radii

    half = np.flatnonzero(half_filled(analysis, atoms, xy))
    for number in sorted(set(atoms.numbers[half].tolist())):
        across = 2 * RING * BALL * float(covalent_radii[number]) / analysis.pixel_size_A * points_per_px(axes)
        ring = _ring_style(_colours(np.array([number]))[0], across, style)
        at = xy[half[atoms.numbers[half] == number]]
        axes.add_line(Line2D(*at.T, zorder=1.9, **ring))


def _ring_style(colour: FloatArray, across_pt: float, style: Style) -> dict[str, Any]:
    """A ring of `ARCS` pieces."""
    starts = 360 / ARCS * np.arange(ARCS)
    pieces = Path.make_compound_path(*(Path.arc(start, start + 0.6 * 360 / ARCS) for start in starts))
    width = min(style.line(0.6), 0.1 * across_pt)
    return {
        "linestyle": "none", "marker": pieces, "markersize": across_pt, "markerfacecolor": "none",
        "markeredgecolor": tuple(colour), "markeredgewidth": width,
        "path_effects": [withStroke(linewidth=2 * width, foreground="black")],
    }  # fmt: skip


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
