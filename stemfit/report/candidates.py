"""Candidate structures round their defects: atoms for a look in three dimensions, columns for a look from above."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemfit.analysis import Analysis, Explanation
from stemfit.defects import Defect
from stemfit.errors import UsageError
from stemfit.figures.atoms import bonds
from stemfit.report.scene import rounded

FloatArray = NDArray[np.float64]

REACH_A = 7.0
"""Atoms so near to a site of the defect are shown: two cells of a dichalcogenide, beyond which little moves. From above
a square about the defect that has this margin is."""


def candidates(analysis: Analysis) -> dict[int, list[dict[str, Any]]]:
    """Candidates of every defect and suspect that has some, the most probable first.

    Each has `id`, `label`, `atoms` [[element, x, y, z], ...] in Angstrom from the middle of the defect, x right and y
    up as the image shows them, z toward the viewer; `bonds` [[i, j], ...] between them, by the rule of the figures; and
    `columns` [[x, y, integral], ...] in pixels of the image and
    its units, None where the brightness of a column is not known.
    """
    found = {d.id: _of(analysis, d) for d in (*analysis.defects, *analysis.suspects)}
    return {defect: each for defect, each in found.items() if each}


def _of(analysis: Analysis, defect: Defect) -> list[dict[str, Any]]:
    return [
        {"id": one.id, "label": one.label, **_seen(analysis, defect, one)} for one in analysis.explanations(defect.id)
    ]


def _seen(analysis: Analysis, defect: Defect, one: Explanation) -> dict[str, Any]:
    atoms = analysis.structures[one.id]
    pixel_A = analysis.pixel_size_A
    plane = np.asarray(atoms.cell)[:2, :2]
    steps = np.mgrid[-1:2, -1:2].reshape(2, -1).T
    xy = (np.asarray(atoms.positions)[None, :, :2] + (steps @ plane)[:, None]).reshape(-1, 2)
    px = xy @ one.matrix.T + one.offset_px
    who = np.tile(np.arange(len(atoms)), len(steps))
    z = np.asarray(atoms.positions)[who, 2]
    side = -np.sign(np.linalg.det(one.matrix))  # a patch that was turned over is seen from below
    at = np.column_stack([(px - defect.center_px) * [pixel_A, -pixel_A], side * (z - z.mean())])
    extent = np.asarray(defect.extent_px)
    near = np.linalg.norm(px[:, None] - extent, axis=-1).min(axis=1) * pixel_A < REACH_A
    far_A = np.abs(extent - defect.center_px).max() * pixel_A + REACH_A
    around = np.abs(at[:, :2]).max(axis=1) < far_A
    symbols = atoms.get_chemical_symbols()
    return {
        "atoms": [[symbols[k], *place] for k, place in zip(who[near].tolist(), rounded(at[near], 2), strict=True)],
        "bonds": bonds(np.asarray(atoms.numbers)[who[near]], at[near]).tolist(),
        "columns": _columns(np.asarray(atoms.numbers)[who[around]], at[around], px[around], analysis),
    }


def _columns(numbers: NDArray[np.int64], at_A: FloatArray, px: FloatArray, analysis: Analysis) -> list[Any] | None:
    from stemfit.simulate.image import project
    from stemfit.simulate.like import brightness

    pixel_A = analysis.pixel_size_A
    to_px = np.diag([1 / pixel_A, -1 / pixel_A])
    seen = project(numbers, at_A, to_px, px.mean(axis=0) - at_A.mean(axis=0)[:2] @ to_px)
    known = analysis.document["imaging"]["amplitudes"]
    try:
        light = [brightness(name, known) for name in seen.types]
    except UsageError:
        return None
    return [[*place, float(f"{value:.4g}")] for place, value in zip(rounded(seen.xy_px, 2), light, strict=True)]
