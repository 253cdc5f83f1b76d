"""Whose column it is between two defects: one rule for the image of the whole field and for the structure behind it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from handmade import HOST, analysis, candidate, defect, index, lattice, sites
from scipy.spatial import cKDTree

from stemfit.imaging import Amplitude
from stemfit.lattice import Brightness, RowOffsets
from stemfit.result import Findings
from stemfit.result.field import field
from stemfit.simulate.field import Drawn, Territory, drawn

LEFT, RIGHT = (5, 4, "X"), (7, 4, "X")
MIDDLE = (6, 4, "X")


def two_vacancies(offset_px: np.ndarray, swapped: bool) -> tuple[Drawn, Findings]:
    """Two vacancies with one column in the middle: what the image draws, and the result in the scan with its jitter."""
    made, crystal = analysis(), lattice()
    flat = replace(crystal, distortion_px=np.zeros((2, 2, 2)))
    known = sites(crystal)
    shift = np.where(known.sublattice == "X", 1 / 3, 0.0)
    ideal = crystal.origin_px + (known.ij + shift[:, None]) @ np.stack([crystal.a_px, crystal.b_px])
    known = replace(known, xy_px=ideal)
    named = (RIGHT, LEFT) if swapped else (LEFT, RIGHT)
    places = [known.xy_px[index(known, site)] for site in named]
    claims = tuple(defect(k, "SV", "V_Se", named[k - 1], places[k - 1], f"{k}-1") for k in (1, 2))
    pairs = [candidate(f"{k}-1", "V_Se", places[k - 1], flat, k - 1) for k in (1, 2)]
    candidates, relaxed = zip(*pairs, strict=True)
    value = np.where(known.sublattice == "X", 240.0, 250.0)
    columns = replace(made.columns, xy_px=known.xy_px, intensity=value, cov=np.tile(np.eye(3), (len(value), 1, 1)))
    known = replace(known, column=np.arange(len(value)))
    brightness = Brightness(value, 0.02 * value)
    imaging = replace(made.imaging, amplitudes={**made.imaging.amplitudes, "Se": Amplitude(110.0, 3.0, "image")})
    drawing = drawn(known, imaging, HOST, flat, claims, candidates, relaxed, brightness, columns)
    rows = RowOffsets(offset_px, np.full(len(offset_px), 0.01), float(offset_px.std()), 3.0)
    scanned = replace(known, xy_px=rows.in_image(known.xy_px))
    seen = tuple(
        replace(d, center_px=rows.in_image(d.center_px[None])[0], extent_px=rows.in_image(d.extent_px)) for d in claims
    )
    return drawing, replace(
        made, lattice=flat, sites=scanned, defects=seen, suspects=(), candidates=candidates, relaxed=relaxed, rows=rows,
        columns=replace(columns, xy_px=rows.in_image(columns.xy_px)),
    )


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_image_and_structure_say_the_same_of_a_column_between_two_defects(sign: float, swapped: bool) -> None:
    """Jitter of rows makes one of them nearer in the scan; the column in the middle is the first one's all the same."""
    offset = sign * 3.0 * np.sin(np.arange(200) / 7.0)
    drawing, result = two_vacancies(offset, swapped)
    rows = result.rows
    assert rows is not None
    atoms = field(result)
    told = drawing.where(drawing.told & (drawing.light > 0))
    off = np.asarray(cKDTree(atoms.xy_px).query(rows.in_image(told.xy_px))[0])
    assert off.max() < 1e-3
    known, first, second = result.sites, *(d.extent_px[0] for d in result.defects)
    middle = known.xy_px[index(known, MIDDLE)]
    assert abs(np.hypot(*(middle - first)) - np.hypot(*(middle - second))) > 0.3  # px: in the scan it is no tie
    drawn_at = told.xy_px[np.hypot(*(rows.in_image(told.xy_px) - middle).T).argmin()]
    pulled = (drawn_at - rows.straight(middle[None])[0]) @ (rows.straight(first[None]) - rows.straight(second[None]))[0]
    assert pulled > 0  # towards the first


def test_ties_are_decided_by_order_and_no_rounding() -> None:
    """The middle between two sites, put there with errors of 1e-9 px; clearly nearer ones win whatever the order."""
    ends = [np.array([[0.0, 0.0]]), np.array([[20.0, 0.0]])]
    at = np.array([[10.0 + e, 3.0] for e in (-1e-9, 0.0, 1e-9)] + [[10.5, 3.0], [9.5, 3.0], [45.0, 0.0]])
    one, other = (Territory(extents, at, 10.0) for extents in (ends, ends[::-1]))
    assert one.nearest.tolist() == [0, 0, 0, 1, 0, 1]
    assert other.nearest.tolist() == [0, 0, 0, 0, 1, 0]
    assert one.owner.tolist() == [0, 0, 0, 1, 0, -1]
