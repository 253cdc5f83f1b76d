"""What the page draws over the image, as plain lists: columns, lattice, outlines of defects and regions.

Positions are pixels (x, y) of the image, y down, (0, 0) the centre of the top-left pixel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemfit.analysis import Analysis
from stemfit.defects import Defect
from stemfit.figures.atoms import BALL
from stemfit.figures.map import reach_px
from stemfit.figures.marks import marks_of
from stemfit.figures.outlines import links, rings, scattered
from stemfit.report.pictures import Pictures, signed

FloatArray = NDArray[np.float64]

BEND = 3
"""Degree of the polynomial that the lattice is bent by: scan distortion is smooth."""


def scene(analysis: Analysis, shown: Pictures, candidates: Mapping[int, Any]) -> dict[str, Any]:
    """Everything that scripts of the page draw.

    Parameters
    ----------
    analysis : Analysis
    shown : Pictures
        What it is drawn on.
    candidates : mapping of defect id to list
        As `stemfit.report.candidates.candidates` gives them.
    """
    imaging = analysis.document["imaging"]
    return {
        "shape": list(analysis.image.shape),
        "pixel_A": analysis.pixel_size_A,
        "shrunk": shown.shrunk,
        "grey": [shown.low, shown.high],
        "ramp": ["#" + bytes(colour).hex() for colour in signed()[np.linspace(1, 255, 9).astype(int)].tolist()],
        "reach": reach_px(analysis),
        "cell": float(np.sqrt(abs(np.linalg.det(analysis.cell_px)))),
        "signs": signs(analysis),
        "columns": columns(analysis),
        "lattice": lattice(analysis),
        "defects": [_outlined(d, True, analysis) for d in analysis.defects]
        + [_outlined(d, False, analysis) for d in analysis.suspects],
        "regions": [
            {"kind": r["kind"], "reason": r["reason"], "outline": rounded(r["polygon_px"], 1)}
            for r in analysis.document["regions"]
        ],
        "profile": {
            "core": imaging["core_cov_px2"], "tail": imaging["tail_sigma_px"], "share": imaging["tail_fraction"],
        },
        "elements": elements({atom[0] for found in candidates.values() for one in found for atom in one["atoms"]}),
        "candidates": {str(defect): found for defect, found in candidates.items()},
    }  # fmt: skip


def signs(analysis: Analysis) -> list[dict[str, Any]]:
    """How columns of each type are drawn, as in the figures, and how many there are."""
    counted = Counter(analysis.columns["species"].tolist())
    return [{**mark._asdict(), "count": counted[mark.species]} for mark in marks_of(analysis)]


def elements(symbols: Collection[str]) -> dict[str, tuple[str, float]]:
    """Colour of each element's atoms, and radius in Angstrom, as in the figures."""
    from ase.data import atomic_numbers, covalent_radii
    from ase.data.colors import jmol_colors

    numbers = {symbol: atomic_numbers[symbol] for symbol in sorted(symbols)}
    shade = {symbol: "#" + bytes(np.rint(255 * jmol_colors[z]).astype(np.uint8)).hex() for symbol, z in numbers.items()}
    return {symbol: (shade[symbol], round(BALL * float(covalent_radii[z]), 3)) for symbol, z in numbers.items()}


def columns(analysis: Analysis) -> dict[str, list[Any]]:
    """`columns.csv` with as many digits as anyone reads; null where nothing is known."""
    table = analysis.columns
    order = {sign["species"]: k for k, sign in enumerate(signs(analysis))}
    known = np.isfinite(table["i"])
    return {
        "x": rounded(table["x_px"], 2),
        "y": rounded(table["y_px"], 2),
        "sx": rounded(table["sigma_x_px"], 3),
        "sy": rounded(table["sigma_y_px"], 3),
        "light": [_digits(value) for value in table["intensity"].tolist()],
        "slight": [_digits(value) for value in table["sigma_intensity"].tolist()],
        "sign": [order[name] for name in table["species"].tolist()],
        "p": rounded(table["p_species"], 4),
        "site": [
            f"{i:.0f}, {j:.0f}, {name}" if there else ""
            for i, j, name, there in zip(table["i"], table["j"], table["sublattice"], known, strict=True)
        ],
        "defect": rounded(table["defect_id"], 0),
    }


def lattice(analysis: Analysis) -> list[list[list[float]]]:
    """Lines along a and b through the sites of the first sublattice, bent as the scan has bent them.

    The fitted cell is affine; what is left between it and the columns is smooth and told by a polynomial of them.
    Lines end where no column is near.
    """
    from scipy.spatial import cKDTree

    table, cell = analysis.columns, analysis.cell_px
    basis = {s["sublattice"]: (s["u"], s["v"]) for s in analysis.document["lattice"]["basis"]}
    used = np.isfinite(table["i"]) & np.isin(table["sublattice"], list(basis))
    if used.sum() < 2 * (BEND + 1) * (BEND + 2):
        return []
    origin = np.array(analysis.document["lattice"]["origin_px"])
    inner = np.array([basis[name] for name in table["sublattice"][used].tolist()])
    index = np.column_stack([table["i"], table["j"]])[used]
    seen = np.column_stack([table["x_px"], table["y_px"]])
    ideal = origin + (index + inner) @ cell
    size = np.array(analysis.image.shape[::-1], dtype=np.float64)
    bend = np.linalg.lstsq(_powers(ideal / size), seen[used] - ideal, rcond=None)[0]

    low, high = index.min(axis=0).astype(int), index.max(axis=0).astype(int)
    i, j = np.mgrid[low[0] : high[0] + 1, low[1] : high[1] + 1]
    nodes = origin + (np.stack([i, j], axis=-1) + next(iter(basis.values()))) @ cell
    flat = nodes.reshape(-1, 2)
    near = np.asarray(cKDTree(seen).query(flat)[0]) < np.linalg.norm(cell, axis=1).max()
    flat = flat + np.where(near[:, None], _powers(flat / size) @ bend, 0.0)
    nodes, near = flat.reshape(nodes.shape), near.reshape(i.shape)
    rows = [*zip(nodes, near, strict=True), *zip(nodes.swapaxes(0, 1), near.T, strict=True)]
    return [rounded(piece, 1) for line, there in rows for piece in _pieces(line, there)]


def _powers(xy: FloatArray) -> FloatArray:
    """All monomials of x and y up to `BEND`."""
    x, y = xy.T
    return np.column_stack([x**m * y**n for m in range(BEND + 1) for n in range(BEND + 1 - m)])


def _pieces(line: FloatArray, there: NDArray[np.bool_]) -> list[FloatArray]:
    """Runs of at least two points that are there."""
    edges = np.flatnonzero(np.diff(np.r_[False, there, False].astype(int)))
    return [line[a:b] for a, b in edges.reshape(-1, 2) if b - a > 1]


def _outlined(defect: Defect, claimed: bool, analysis: Analysis) -> dict[str, Any]:
    points, reach = np.asarray(defect.extent_px, dtype=np.float64), reach_px(analysis)
    apart = scattered(points, reach)
    return {
        "id": defect.id,
        "type": defect.type,
        "label": defect.label,
        "claim": defect.claim[0],
        "claim_p": float(f"{defect.claim[1]:.4g}"),
        "p": float(f"{defect.probability:.4g}"),
        "claimed": claimed,
        "at": rounded(defect.center_px, 2),
        "points": rounded(points, 1),
        "rings": [rounded(ring, 1) for ring in rings(points, reach)],
        "links": [rounded(link, 1) for link in links(points, reach)] if apart else [],
    }


def rounded(values: Any, decimals: int) -> list[Any]:
    """Nested lists of numbers, null for what is no number; whole numbers without a point."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        if not np.isfinite(value):
            return None
        near = round(value, decimals)
        return int(near) if near == int(near) else near

    return list(plain(np.asarray(values, dtype=np.float64).tolist()))


def _digits(value: float) -> float | None:
    """Five digits."""
    return float(f"{value:.5g}") if np.isfinite(value) else None
