"""Structures of lines and of metal complexes lie on their sites, whichever way the crystal and the line are turned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from handmade import HOST, lattice, sites
from planted_sites import EMPTY, VACANT, field, seen
from test_candidates import columns, disagreement

from stemfit.candidates import Candidate, propose, sites_of
from stemfit.defects import Defect, find_defects
from stemfit.defects.complexes import around
from stemfit.defects.row_shapes import cell_of, row_of
from stemfit.lattice import SiteMap
from stemfit.score.scene import REACH
from stemfit.simulate.image import project

Cell = tuple[int, int]
RATES = {"pristine": 0.98, "V_Se": 0.01, "V_Se2": 0.003, "V_Mo": 1e-3}
MIDDLE = (4, 3)
"""A cell in the middle of the image: lines pass through it."""


def rows_through(direction: int, columns: Sequence[int], shift: int = 0) -> list[Cell]:
    across, along = row_of(direction, MIDDLE)
    return [cell_of(direction, across + k, along - 1 + k * shift + t) for k, n in enumerate(columns) for t in range(n)]


def found(polarity: int, cells: Sequence[Cell], kind: str = "SVL", doubtful: float | None = None) -> Defect:
    """The line that these vacancies make; with `doubtful` the last one is as likely as that (a logarithm)."""
    what = {(i, j, "X"): EMPTY if kind == "CVL" else VACANT for i, j in cells}
    if doubtful is not None:
        what[(*cells[-1], "X")] = {"V_Se": doubtful}
    where = (lattice(polarity), sites(lattice(polarity)))
    (line,) = find_defects(seen(what, polarity, where=where))[0]
    return line


def proposed(polarity: int, defect: Defect, most: int = 24) -> tuple[SiteMap, tuple[Candidate, ...]]:
    crystal = lattice(polarity)
    site_map = sites(crystal)
    return site_map, propose(defect, HOST, crystal, site_map, RATES, most)


def gone(candidate: Candidate) -> np.ndarray:  # type: ignore[type-arg]
    nodes = list(candidate.structure.sites)
    places = candidate.structure.structure.cart_coords[nodes]
    return project(np.full(len(nodes), 34), places, candidate.matrix, candidate.offset_px).xy_px


SHAPES = [("SVL", (3,), 0), ("CVL", (3,), 0), ("DVL", (3, 3), 0), ("DVL", (3, 3), -1), ("DVL", (3, 2), 1),
          ("DVL", (2, 3), -1), ("DVL", (4, 2), 0)]  # fmt: skip


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize("direction", [0, 1, 2])
@pytest.mark.parametrize(("kind", "lengths", "shift"), SHAPES)
def test_every_structure_of_a_line_lies_on_its_sites(
    polarity: int, direction: int, kind: str, lengths: tuple[int, ...], shift: int
) -> None:
    cells = rows_through(direction, lengths, shift)
    line = found(polarity, cells, kind)
    assert line.type == "LINE" and {s[:2] for s in line.sites} == set(cells)
    site_map, made = proposed(polarity, line)
    assert made[0].label == "pristine"
    own = [c for c in made if c.label == line.label]
    assert len(own) == {"SVL": 4, "CVL": 2, "DVL": 8}[kind]
    for candidate in own:
        places = gone(candidate)
        assert len(places) == len(cells)
        for xy in line.extent_px:
            assert np.linalg.norm(places - xy, axis=1).min() < 0.3  # the scan is bent by that much
        assert set(sites_of(candidate, site_map, lattice(polarity))[0]) == set(line.sites)
    # Where nothing is missing the patch is the crystal of the image: metals on metals, chalcogens on chalcogens.
    for candidate in (made[0], own[0]):
        assert disagreement(columns(candidate), site_map, line.center_px, 2.0 * lattice().a_px_iso) < 0.3
    kept = [t for t in columns(own[0]).types if t == "Se"]
    assert len(kept) == (0 if kind == "CVL" else len(cells))


def test_what_a_projection_cannot_tell_is_listed() -> None:
    line = found(1, rows_through(0, (4, 4)))
    _, made = proposed(1, line)
    heights, starts = set(), set()
    for candidate in made[1:]:
        structure = candidate.structure
        z = structure.structure.cart_coords[list(structure.sites), 2]
        top = z > structure.structure.cart_coords[:, 2].mean()
        heights.add((bool(top[0]), bool(top[-1])))
        ideal = made[0].structure.structure.cart_coords
        starts.add(round(float(np.abs(structure.structure.cart_coords - ideal)[:, :2].max()), 2))
    assert heights == {(True, True), (True, False), (False, True), (False, False)}
    assert len(starts) == 2 and 0.0 in starts  # from the ideal sites, and from a gap that is partly closed
    weights = [np.exp(c.log_prior) for c in made[1:]]
    assert sum(weights) == pytest.approx(RATES["V_Se"])  # shared, not multiplied
    assert np.ptp(weights) < 1e-12


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize("direction", [0, 1, 2])
def test_a_doubtful_end_is_proposed_with_and_without(polarity: int, direction: int) -> None:
    cells = rows_through(direction, (4,))
    line = found(polarity, cells, doubtful=0.5)
    site_map, made = proposed(polarity, line)
    assert {c.label for c in made} >= {"SVL-3", "SVL-4"}
    for candidate in made[1:]:
        own = {s[:2] for s in sites_of(candidate, site_map, lattice(polarity))[0]}
        length = int(candidate.label[4:])
        assert own in (set(cells[:length]), set(cells[-length:]))
        nearest = np.linalg.norm(gone(candidate)[:, None] - site_map.xy_px[None], axis=2).min(1)
        assert nearest.max() < 0.4
    # All are compared on the same spot.
    assert len({tuple(np.round(c.matrix @ c.center_A + c.offset_px, 6)) for c in made}) == 1


def test_the_least_probable_are_left_out_and_counted() -> None:
    line = found(1, rows_through(0, (4, 4)))
    _, made = proposed(1, line, most=5)
    assert len(made) == 5
    assert all(c.possible == 9 for c in made)
    assert made[0].label == "pristine"


def test_one_shape_is_built_once() -> None:
    """The same objects wherever and in whatever direction the same line lies: each is relaxed once."""
    one, other = (proposed(p, found(p, rows_through(d, (3,))))[1] for p, d in ((1, 0), (-1, 2)))
    assert [c.structure for c in one] == [c.structure for c in other]
    assert all(a.structure is b.structure for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize(("label", "what", "left"), [("V_MoSe3", VACANT, 3), ("V_MoSe6", EMPTY, 0)])
def test_complexes_lie_on_their_sites(polarity: int, label: str, what: dict[str, float], left: int) -> None:
    centre = (5, 4, "M")
    own = {site: what for site in around(centre, polarity)[1:]} | {centre: {"V_Mo": 30.0}}
    where = (lattice(polarity), sites(lattice(polarity)))
    (one,) = find_defects(seen(own, polarity, where=where))[0]
    assert (one.type, one.label) == ("VM", label)
    site_map, made = proposed(polarity, one)
    same = [c for c in made if c.label == label]
    assert len(same) == (2 if left else 1)  # of the upper or of the lower layer
    for candidate in same:
        assert set(sites_of(candidate, site_map, lattice(polarity))[0]) == set(one.sites)
        assert sum(t == "Se" for t in columns(candidate).types) == left
        assert disagreement(columns(candidate), site_map, one.center_px, 2.0 * lattice().a_px_iso) < 0.3


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("lengths", [(3,), (12,), (4, 3), (8, 8)])
def test_the_patch_covers_what_is_compared_with_the_image(direction: int, lengths: tuple[int, ...]) -> None:
    """Columns are compared up to two lattice constants beyond the outermost site: the patch has all of them."""
    crystal, site_map = field(1, 24)
    cells = [cell_of(direction, k, t) for k, n in enumerate(lengths) for t in range(n)]
    (line,) = find_defects(seen({(i, j, "X"): VACANT for i, j in cells}, where=(crystal, site_map)))[0]
    perfect = propose(line, HOST, crystal, site_map, RATES)[0]
    there = columns(perfect).xy_px
    reach = np.linalg.norm(line.extent_px - line.center_px, axis=1).max() + REACH * crystal.a_px_iso
    near = site_map.xy_px[np.linalg.norm(site_map.xy_px - line.center_px, axis=1) < reach]
    missing = np.linalg.norm(near[:, None] - there[None], axis=2).min(1) > 1.0
    assert len(near) > 40 and not missing.any()
