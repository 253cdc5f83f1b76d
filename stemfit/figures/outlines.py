"""Dotted lines around defects, which enclose what belongs to a defect and little else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from stemfit.defects import Defect
from stemfit.figures.sheet import points_per_px

FloatArray = NDArray[np.float64]

OUTLINE = "white"
"""No element has that colour: yellow ones would be lost among sulphur."""

DOTS = (0.0, (0.01, 2.3))
"""Round dots, somewhat more than twice their diameter apart; on a closed line as near to that as closes evenly."""

RIM = 0.6
"""Of black about every dot, in diameters: so it shows on bright and on dark ground."""

LINK_WIDTH = 0.4
"""Width of the line between circles, relative to the dots' diameter."""

LEAST_SHARE = 0.5
"""Of the area in an outline, this much must be the members' own; else it would claim what nobody found there."""

MANY_SUSPECTS = 12
"""More outlines of what is not claimed would draw the eye from what is: then each is a small cross in its middle."""

SUSPECT = 0.6
"""Dots about what is not claimed, relative to those about defects."""


def defect_style(width: float) -> dict[str, Any]:
    """Dotted line around a defect; diameter of its dots in points."""
    rim = withStroke(linewidth=(1 + RIM) * width, foreground="black", alpha=0.8)
    return {
        "color": OUTLINE, "linestyle": DOTS, "dash_capstyle": "round", "linewidth": width, "path_effects": [rim],
    }  # fmt: skip


def suspect_style(width: float, suspects: Sequence[Defect]) -> dict[str, Any]:
    """The same for what is not claimed: smaller dots, or crosses where there are many."""
    if len(suspects) <= MANY_SUSPECTS:
        return defect_style(SUSPECT * width)
    rim = withStroke(linewidth=(1 + RIM) * width, foreground="black", alpha=0.5)
    return {
        "color": OUTLINE, "linestyle": "none", "marker": "x", "markersize": 2.5 * width, "path_effects": [rim],
        "markeredgewidth": 0.8 * SUSPECT * width, "alpha": 0.8,
    }  # fmt: skip


def draw_suspects(axes: Axes, suspects: Sequence[Defect], radius: float, style: dict[str, Any]) -> None:
    """What is not claimed, in a style of `suspect_style`."""
    if "marker" in style:
        axes.add_line(Line2D(*np.array([defect.center_px for defect in suspects]).T, **style))
        return
    for defect in suspects:
        draw_outline(axes, defect.extent_px, radius, style)


def draw_outline(axes: Axes, points: FloatArray, radius: float, style: dict[str, Any]) -> None:
    """Around all points together, or around each of them with lines between, where they lie far apart."""
    for ring in rings(points, radius):
        axes.add_line(Line2D(*ring.T, **{**style, "linestyle": _closing(axes, ring, style["linewidth"])}))
    if scattered(points, radius):
        thin = {"color": style["color"], "linewidth": LINK_WIDTH * style["linewidth"]}
        for x, y in (link.T for link in links(points, radius)):
            axes.add_line(Line2D(x, y, **thin))


def _closing(axes: Axes, ring: FloatArray, width: float) -> tuple[float, tuple[float, float]]:
    """`DOTS` with the period next to theirs that fits a whole number of times into a closed line on paper."""
    length = float(np.hypot(*np.diff(ring, axis=0).T).sum()) * points_per_px(axes) / width
    (on, off), start = DOTS[1], DOTS[0]
    period = length / max(round(length / (on + off)), 1)
    return start, (on, period - on)


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
