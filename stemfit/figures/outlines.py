"""Dotted lines around defects, which enclose what belongs to a defect and little else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.path import Path
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from stemfit.defects import Defect
from stemfit.figures.sheet import YELLOW

FloatArray = NDArray[np.float64]

DOTS = (0, (1.4, 1.0))
LINK_WIDTH = 0.4
"""Width of the line between circles, relative to the circles' own."""

LEAST_SHARE = 0.5
"""Of the area in an outline, this much must be the members' own; else it would claim what nobody found there."""

MANY_SUSPECTS = 40
"""So many outlines would hide the image; then they are drawn fainter."""


def defect_style(width: float, colour: str = YELLOW) -> dict[str, Any]:
    """Line around a defect, `width` in points."""
    return {"color": colour, "gapcolor": "black", "linestyle": DOTS, "linewidth": width, "alpha": 0.95}


def suspect_style(width: float, suspects: Sequence[Defect], colour: str = YELLOW) -> dict[str, Any]:
    """The same for what is not claimed: thinner, and fainter where there are many."""
    faint = {"alpha": 0.6, "gapcolor": None} if len(suspects) > MANY_SUSPECTS else {}
    return {**defect_style(0.5 * width, colour), **faint}


def draw_outline(axes: Axes, points: FloatArray, radius: float, style: dict[str, Any]) -> None:
    """Around all points together, or around each of them with lines between, where they lie far apart."""
    for x, y in (ring.T for ring in rings(points, radius)):
        axes.add_line(Line2D(x, y, **style))
    if scattered(points, radius):
        thin = {**style, "linewidth": LINK_WIDTH * style["linewidth"], "linestyle": "-", "gapcolor": None}
        for x, y in (link.T for link in links(points, radius)):
            axes.add_line(Line2D(x, y, **thin))


def rings(points: FloatArray, radius: float) -> list[FloatArray]:
    """Closed lines (K, 2): one at `radius` about all points, or a circle about each of them."""
    if not scattered(points, radius):
        return [around(points, radius)]
    return [around(point[None], radius) for point in points]


def around(points: FloatArray, radius: float) -> FloatArray:
    """Closed convex outline (K, 2) at `radius` about all points."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring = radius * np.column_stack([np.cos(angle), np.sin(angle)])
    cloud = (np.asarray(points)[:, None, :] + ring).reshape(-1, 2)
    hull = cloud[ConvexHull(cloud).vertices]
    return np.vstack([hull, hull[:1]])


def scattered(points: FloatArray, radius: float) -> bool:
    """Whether most of the area within the common outline is farther than `radius` from every point."""
    hull = around(points, radius)
    axes = (np.arange(low, high, radius / 4) for low, high in zip(hull.min(axis=0), hull.max(axis=0), strict=True))
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    inside = grid[Path(hull).contains_points(grid)]
    return bool(np.mean(cdist(inside, points).min(axis=1) < radius) < LEAST_SHARE)


def links(points: FloatArray, radius: float) -> list[FloatArray]:
    """Straight lines (2, 2) that join all circles by the shortest ways, from rim to rim."""
    tree = minimum_spanning_tree(cdist(points, points)).tocoo()
    ends = [(points[i], points[j], length) for i, j, length in zip(tree.row, tree.col, tree.data, strict=True)]
    return [
        np.stack([p + radius / length * (q - p), q - radius / length * (q - p)])
        for p, q, length in ends
        if length > 2 * radius
    ]
