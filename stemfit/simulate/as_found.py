"""A structure of a result's folder drawn as its image shows it: background, gain, distortion and jitter of rows.

The structure of the whole field is drawn where its columns `x_px` and `y_px` put it (the map of the lattice and the
distortion where a file has none), a candidate in the place of its defect with the rest of the field round it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.columns.stamps import render
from stemfit.columns.types import Profile
from stemfit.errors import InputError
from stemfit.lattice import RowOffsets
from stemfit.lattice.types import interpolate, iso
from stemfit.result.fields import Fields
from stemfit.simulate.field import Territory, gain_at
from stemfit.simulate.image import CENTRE_EXPONENT, project
from stemfit.simulate.like import brightness, profile_of
from stemfit.simulate.specimen import read_specimen

FloatArray = NDArray[np.float64]

FIELD = "structure.extxyz"


class Seen(NamedTuple):
    """Columns in the image without jitter of rows: places (C, 2) px, and their types."""

    xy_px: FloatArray
    types: NDArray[np.str_]

    def where(self, chosen: NDArray[np.bool_]) -> Seen:
        """Some of them."""
        return Seen(self.xy_px[chosen], self.types[chosen])


def image_as_found(structure: Path, folder: Path, result: Mapping[str, Any], fields: Fields) -> FloatArray:
    """Noise-free image (H, W) in the units of the image that was analysed.

    Parameters
    ----------
    structure : path
        In `folder`, or in its `candidates`.
    folder : path
        The result.
    result : mapping
        Its `analysis.json`.
    fields : Fields

    Raises
    ------
    InputError
        If a candidate is none of this result, or the result does not say where it lies.
    UsageError
        If the result knows the brightness of no atom of a column.
    """
    imaging = result["imaging"]
    profile = profile_of(imaging)
    offset = fields.row_offset_px
    rows = RowOffsets(offset, np.zeros(len(offset)), float(np.std(offset)), float(fields.row_width_px))
    measured, a_px = fields.measured, _lattice_constant(result["lattice"])
    if structure.resolve().parent == folder.resolve():
        seen = _of_field(structure, result, fields, rows)
    else:
        whole = _of_field(folder / FIELD, result, fields, rows)
        seen, free = _with_candidate(structure, whole, measured[:, :2], result, rows, a_px)
        measured = measured[free]
    if len(measured) and (on_site := measured[:, 3] > 0).any():
        off = np.asarray(cKDTree(measured[on_site, :2]).query(seen.xy_px)[0])
        apart = float(np.median(np.asarray(cKDTree(seen.xy_px).query(seen.xy_px, k=2)[0])[:, 1]))
        seen = seen.where(off > apart / 3)
    value = {str(name): brightness(str(name), imaging["amplitudes"]) for name in set(seen.types)}
    light = np.array([value[str(t)] for t in seen.types]) * gain_at(fields.gain, seen.xy_px)
    return _drawn(np.vstack([seen.xy_px, measured[:, :2]]), np.r_[light, measured[:, 2]], profile, fields, rows)


def _drawn(xy_px: FloatArray, light: FloatArray, profile: Profile, fields: Fields, rows: RowOffsets) -> FloatArray:
    h, w = fields.background.shape
    return rows.jittered(fields.background + render(xy_px, light, profile, (h, w)))


def _lattice_constant(lattice: Mapping[str, Any]) -> float:
    return iso(np.array(lattice["a_px"]), np.array(lattice["b_px"]), len(lattice["basis"]))


def _of_field(path: Path, result: Mapping[str, Any], fields: Fields, rows: RowOffsets) -> Seen:
    """Columns of the structure of the whole field, or one that was made of it."""
    from definet.structure_file import read_atoms

    atoms = read_atoms(path)
    there = atoms.arrays["marker"] != 2 if "marker" in atoms.arrays else np.ones(len(atoms), dtype=bool)
    numbers, xyz = np.asarray(atoms.numbers)[there], np.asarray(atoms.positions, dtype=np.float64)[there]
    if "x_px" in atoms.arrays and "y_px" in atoms.arrays:
        xy = rows.straight(np.column_stack([atoms.arrays["x_px"], atoms.arrays["y_px"]]).astype(np.float64)[there])
    else:
        to_px = result["lattice"]["image_from_structure"]
        h, w = fields.background.shape
        xy = xyz[:, :2] @ np.array(to_px["matrix"]).T + np.array(to_px["offset_px"])
        xy = xy + interpolate(fields.distortion_px, xy, (h, w))
    return _columns(numbers, xyz, xy)


def _columns(numbers: NDArray[np.int64], xyz_A: FloatArray, xy_px: FloatArray) -> Seen:
    """Columns as `project` has them, at the places that are given of their atoms."""
    found = project(numbers, xyz_A, np.eye(2), np.zeros(2))
    weight = numbers.astype(np.float64) ** CENTRE_EXPONENT
    total = np.bincount(found.column_of_atom, weight)
    at = [np.bincount(found.column_of_atom, weight * axis) / total for axis in xy_px.T]
    return Seen(np.column_stack(at), np.array(found.types, dtype=np.str_))


def _with_candidate(
    path: Path, whole: Seen, measured_px: FloatArray, result: Mapping[str, Any], rows: RowOffsets, a_px: float
) -> tuple[Seen, NDArray[np.bool_]]:
    """Columns of the field with a candidate at its defect, and which of the measured ones (K,) are left."""
    known = [c for c in result["candidates"] if Path(c["file"]).name == path.name]
    if not known or known[0].get("image_from_structure") is None:
        what = f"the result in {path.parent.parent} does not say where this candidate lies"
        raise InputError(what, remedy="analyse the image again, or give a structure that it holds", subject=path)
    to_px, defect = known[0]["image_from_structure"], known[0]["defect"]
    said = result["defects"] + result["suspects"]
    centre = next(np.array(d["center_px"]) for d in said if d["id"] == defect)
    matrix, offset = np.array(to_px["matrix"]), np.array(to_px["offset_px"])
    one = read_specimen(path)
    xyz = one.xyz_A.copy()
    if one.plane_A is not None:  # each atom in the periodic image nearest to the defect
        off = xyz[:, :2] - np.linalg.solve(matrix, rows.straight(centre[None])[0] - offset)
        xyz[:, :2] -= np.round(off @ np.linalg.inv(one.plane_A)) @ one.plane_A
    mine = _columns(one.numbers, xyz, xyz[:, :2] @ matrix.T + offset)
    drawn = [d for d in said if d["id"] == defect or (d["best_candidate"] is not None and d in result["defects"])]
    extents = [rows.straight(np.array(d["extent_px"], dtype=np.float64)) for d in drawn]
    territory = Territory(extents, np.vstack([whole.xy_px, measured_px]), a_px)
    k = next(k for k, d in enumerate(drawn) if d["id"] == defect)
    left = territory.owner != k
    mine = mine.where(territory.of(k, mine.xy_px)[0])
    rest = whole.where(left[: len(whole.types)])
    both = Seen(np.vstack([rest.xy_px, mine.xy_px]), np.concatenate([rest.types, mine.types]))
    return both, left[len(whole.types) :]
