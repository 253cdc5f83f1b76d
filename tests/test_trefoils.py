"""Trefoils: which sites they comprise, that they are found and named as one, and what is none of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from chain import PIXEL_A, Chain, FloatArray, Site, redrawn, row_of, run, taken
from handmade import HOST, lattice
from handmade import sites as all_sites
from numpy.typing import NDArray

from definet.structures import VACANCY, ZIGZAG, pristine, trefoil
from stemfit.candidate_trefoils import crystal_cell
from stemfit.candidates import Candidate, propose, sites_of
from stemfit.columns import find
from stemfit.defects import Defect
from stemfit.defects import trefoil_shapes as shapes
from stemfit.defects.trefoils import _clusters
from stemfit.micrograph import read
from stemfit.simulate.image import ProjectedColumns, project
from stemfit.synthetic import Crystal, crystal

Cell = tuple[int, int]
BENT: tuple[Cell, ...] = ((0, 0), (1, 0), (1, 1))
SAMPLES = Path(__file__).parents[1] / "sample_images"
COUNTS = 20 * (PIXEL_A / 0.12) ** 2


def chain_of(n: int, direction: int) -> tuple[Cell, ...]:
    return tuple((t * ZIGZAG[direction][0], t * ZIGZAG[direction][1]) for t in range(n))


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("metals", [chain_of(1, 0), chain_of(2, 1), chain_of(3, 0), chain_of(3, 5), BENT])
def test_sites_are_those_that_the_builder_changes(metals: tuple[Cell, ...], kept: bool, polarity: int) -> None:
    shape = shapes.trefoil(frozenset(metals), polarity, kept)
    n, at = 12, (6, 6)
    built = trefoil(pristine("MoS2", n), shape.label, at, metals=[crystal_cell(m, polarity) for m in shape.metals])
    uv = built.structure.frac_coords[:, :2] * n - at
    gone = {(round(3 * u), round(3 * v)) for u, v in uv[built.marker == VACANCY]}
    come = {(round(3 * u), round(3 * v)) for u, v in uv[len(pristine("MoS2", n).structure) :]}
    x = 1 if polarity > 0 else 2
    thirds = {
        s: {crystal_cell((3 * i + k, 3 * j + k), polarity) for i, j, _ in sites}
        for s, sites, k in (("X", shape.emptied, x), ("H", shape.hollows, 3 - x))
    }
    assert (thirds["X"], thirds["H"]) == (gone, come)
    assert shapes.read_off(shape.sites, polarity) == shape
    assert shapes.read_off(shape.sites[1:], polarity) is None


def test_rivals_are_connected_and_differ_by_one_metal() -> None:
    row = frozenset(chain_of(3, 0))
    assert {frozenset(s) for s in shapes.shrunk(row)} == {row - {(0, 0)}, row - {(2, 0)}}  # not the middle one
    assert len(shapes.grown(row)) == 10
    assert shapes.shrunk(frozenset(((4, 2),))) == []


class Planted(NamedTuple):
    """Sites to be emptied, and columns (x, y, brightness) to be added, px."""

    emptied: set[Site]
    added: list[tuple[float, float, float]]

    @property
    def center_px(self) -> FloatArray:
        return np.asarray(np.mean([(x, y) for x, y, _ in self.added], axis=0))


def turned(sample: Crystal, metals: Sequence[Cell], pair: float, outer_kept: bool = False) -> Planted:
    """X columns about each metal go through it to the other side; those within 1.2 bonds of them there go away."""
    columns = sample.columns
    bond = float(np.linalg.norm(sample.a_px)) / np.sqrt(3)
    is_x = columns.sublattice == "X"
    places = [columns.xy_px[row_of(columns, (*m, "M"))] for m in metals]
    near = [np.flatnonzero(is_x & (np.linalg.norm(columns.xy_px - m, axis=1) < 1.1 * bond)) for m in places]
    across = [2 * m - columns.xy_px[k] for m, own in zip(places, near, strict=True) for k in own]
    come = np.unique(np.round(across, 6), axis=0)
    touching = np.flatnonzero(is_x & (np.linalg.norm(columns.xy_px[:, None] - come, axis=2).min(1) < 1.2 * bond))
    moved = set(np.concatenate(near).tolist())
    rows = moved | (set() if outer_kept else set(touching.tolist()))
    emptied = {(int(i), int(j), "X") for i, j in columns.ij[sorted(rows)]}
    return Planted(emptied, [(float(x), float(y), pair) for x, y in come])


def metal_at(sample: Crystal, xy: tuple[float, float]) -> Cell:
    columns = sample.columns
    away = np.linalg.norm(columns.xy_px - xy, axis=1) + 1e6 * (columns.sublattice != "M")
    i, j = columns.ij[int(np.argmin(away))]
    return int(i), int(j)


def seen(sample: Crystal, changes: Sequence[Planted], host: str, moved: dict[Site, list[float]] | None = None) -> Chain:
    share = {site: 0.0 for change in changes for site in change.emptied}
    added = [column for change in changes for column in change.added]
    image, truth = taken(redrawn(sample, share, moved, added), COUNTS, jitter_px=0.3, distortion_px=0.3)
    return run(truth, image, host, fitted=find(image, calibrate=False))


def called(found: Sequence[Defect], xy: FloatArray) -> list[str]:
    return [d.label for d in found if np.linalg.norm(d.center_px - xy) < 50]


@cache
def unrelaxed() -> tuple[list[tuple[str, Planted]], Chain]:
    """MoSe2 of negative polarity: T1, T1-484, a chain of four and a bent one."""
    sample = crystal(
        (300, 300), pixel_size_A=PIXEL_A, a_A=3.288, rotation_deg=23.7, polarity=-1, species=("Mo", "Se2"),
        brightness=(1.0, 1.42), seed=3,
    )  # fmt: skip
    pieces = []
    for label, metals, at in (
        ("T1", ((0, 0),), (70, 70)), ("T1-484", ((0, 0),), (225, 65)), ("T4", chain_of(4, 4), (60, 200)),
        ("T3", BENT, (225, 210)),
    ):  # fmt: skip
        i, j = metal_at(sample, at)
        pieces.append((label, turned(sample, [(i + p, j + q) for p, q in metals], 1.42, label.endswith("484"))))
    return pieces, seen(sample, [p for _, p in pieces], "MoSe2")


@cache
def relaxed() -> tuple[dict[str, FloatArray], Chain]:
    """WSe2 with a T1 and a T2 as relaxed by CHGNet: one tungsten of the T2 leaves its site by 1.1 A.

    The file has, per column, thirds of a and b from the first metal, and the displacement in units of the cell.
    """
    sample = crystal(
        (230, 300), pixel_size_A=PIXEL_A, a_A=3.282, rotation_deg=11.4, species=("W", "Se2"),
        brightness=(1.0, 0.55), seed=5,
    )  # fmt: skip
    cell, pieces, moved = np.column_stack([sample.a_px, sample.b_px]), {}, {}
    stored = json.loads((Path(__file__).parent / "data" / "wse2_trefoils.json").read_text())
    for label, at in (("T1", (75, 110)), ("T2", (200, 115))):
        i, j = metal_at(sample, at)
        plan = turned(sample, [(i + t, j) for t in range(int(label[1]))], 0.55)
        added = np.array(plan.added)
        for p, q, du, dv in stored[label]:
            ideal = sample.origin_px + cell @ (np.array([i + p / 3, j + q / 3]))
            step = cell @ np.array([du, dv])
            k = int(np.argmin(np.linalg.norm(sample.columns.xy_px - ideal, axis=1)))
            if np.linalg.norm(sample.columns.xy_px[k] - ideal) < 1:
                cell_of = sample.columns.ij[k]
                moved[int(cell_of[0]), int(cell_of[1]), str(sample.columns.sublattice[k])] = step.tolist()
            else:
                added[int(np.argmin(np.linalg.norm(added[:, :2] - ideal, axis=1))), :2] += step
        pieces[label] = plan, plan._replace(added=[tuple(c) for c in added])
    return (
        {label: plan.center_px for label, (plan, _) in pieces.items()},
        seen(sample, [displaced for _, displaced in pieces.values()], "WSe2", moved),
    )


def test_each_is_one_defect_with_its_name() -> None:
    pieces, chain = unrelaxed()
    assert [r.kind for r in chain.regions] == []  # what fills the hollows is no film
    assert sorted(d.label for d in chain.found) == sorted(label for label, _ in pieces)
    for label, plan in pieces:
        (found,) = (d for d in chain.found if np.linalg.norm(d.center_px - plan.center_px) < 3.0 and d.label == label)
        assert found.type == "TREFOIL"
        assert found.probability > 0.9
        assert found.probability + sum(p for _, p in found.alternatives) == pytest.approx(1)
        assert "pristine" in dict(found.alternatives) and "UNKNOWN" in dict(found.alternatives)
        assert {s[2] for s in found.sites} == {"X", "H"}
        assert found.center_px == pytest.approx(found.extent_px.mean(0))
        hollows = found.extent_px[[s[2] == "H" for s in found.sites]]
        put = np.array([(x, y) for x, y, _ in plan.added])
        assert len(hollows) == len(put)
        assert np.linalg.norm(hollows[:, None] - put, axis=2).min(1).max() < 3.0
        assert sum(s[2] == "X" for s in found.sites) == len(plan.emptied)


def test_relaxed_ones_are_known_too() -> None:
    centres, chain = relaxed()
    assert {d.label for d in chain.found} == {"T1", "T2"}
    for found in chain.found:
        assert np.linalg.norm(found.center_px - centres[found.label]) * PIXEL_A < 1.0
    assert chain.suspects == ()


@cache
def lookalikes() -> tuple[dict[str, FloatArray], Chain]:
    """WSe2 with what resembles trefoils."""
    sample = crystal(
        (300, 300), pixel_size_A=PIXEL_A, a_A=3.282, rotation_deg=41.9, species=("W", "Se2"),
        brightness=(1.0, 0.55), seed=8,
    )  # fmt: skip
    whole = {
        name: turned(sample, [metal_at(sample, at)], 0.55)
        for name, at in (("adatom", (75, 75)), ("bare", (225, 75)), ("outer", (75, 225)), ("hollow", (225, 225)))
    }
    inner = {
        name: turned(sample, [metal_at(sample, tuple(plan.center_px))], 0.55, outer_kept=True)
        for name, plan in whole.items()
    }
    one = sorted(inner["adatom"].emptied)[0]
    outer = sorted(whole["outer"].emptied - inner["outer"].emptied)[0]
    changes = [
        Planted({one}, whole["adatom"].added[:1]),  # an adatom near a vacancy
        Planted(inner["bare"].emptied, []),  # three vacancies round a metal, nothing in the hollows
        Planted(whole["outer"].emptied - {outer}, whole["outer"].added),
        Planted(whole["hollow"].emptied, whole["hollow"].added[:2]),
    ]
    return {name: plan.center_px for name, plan in whole.items()}, seen(sample, changes, "WSe2")


def test_what_resembles_a_trefoil_is_not_called_one() -> None:
    places, chain = lookalikes()
    assert not [d for d in chain.found if d.type == "TREFOIL"]
    assert called(chain.found, places["bare"]) == ["V_Se2"] * 3
    assert "UNKNOWN" in called(chain.found, places["adatom"])
    for name in ("outer", "hollow"):  # all but whole: one defect without a name, and with the right alternative
        (found,) = (d for d in chain.found if np.linalg.norm(d.center_px - places[name]) < 50)
        assert found.type == found.label == "UNKNOWN"
        assert "T1" in dict(found.alternatives)
        assert len(found.sites) == 8
        assert found.log_bayes_factor > 50


def test_both_of_the_multislice_sample_are_found() -> None:
    truth = json.loads((SAMPLES / "wse2_trefoil.json").read_text())
    image = read(SAMPLES / "wse2_trefoil.tif").image
    chain = run(None, image, "WSe2", fitted=find(image, calibrate=False))  # type: ignore[arg-type]
    wanted = {d["label"]: np.array(d["center_px"]) for d in truth["defects"]}
    assert sorted(d.label for d in chain.found) == sorted(d["label"] for d in truth["defects"])
    for d in truth["defects"]:
        away = [np.linalg.norm(f.center_px - d["center_px"]) for f in chain.found if f.label == d["label"]]
        assert min(away) * truth["lattice_pixel_size_A"] < 1.0
    assert wanted.keys() == {"T1", "V_Se"}


def named(shape: shapes.Trefoil, polarity: int, others: Sequence[tuple[str, float]] = ()) -> list[Candidate]:
    where, site_map = lattice(polarity), all_sites(lattice(polarity))
    extent = places(shape.sites, polarity)
    found = Defect(1, "TREFOIL", shape.label, 0.9, extent.mean(0), shape.sites, extent, tuple(others), 100.0)
    return list(propose(found, HOST, where, site_map, {"pristine": 0.9}))


def places(sites: Sequence[Site], polarity: int) -> FloatArray:
    """Where sites lie in the bent image of `handmade`."""
    from handmade import distorted

    where, x = lattice(polarity), 1 / 3 if polarity > 0 else 2 / 3
    third = np.array([{"M": 0.0, "X": x, "H": 1 - x}[s[2]] for s in sites])
    cells = np.array([s[:2] for s in sites]) + third[:, None]
    return distorted(where.origin_px + cells @ np.stack([where.a_px, where.b_px]))


def projected(candidate: Candidate, use: NDArray[np.bool_]) -> ProjectedColumns:
    structure = candidate.structure.structure
    numbers = np.array([s.specie.Z for s in structure])[use]
    return project(numbers, structure.cart_coords[use], candidate.matrix, candidate.offset_px)


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize("metals", [chain_of(1, 0), chain_of(2, 0), chain_of(2, 1), chain_of(2, 5), BENT])
def test_its_structures_lie_on_the_sites_of_the_image(metals: tuple[Cell, ...], polarity: int) -> None:
    shape = shapes.trefoil(frozenset((i + 5, j + 3) for i, j in metals), polarity)
    made = named(shape, polarity)
    assert [c.label for c in made[:3]] == ["pristine", shape.label, f"{shape.label}-484"]
    perfect, own = made[:2]
    a_px = lattice().a_px_iso
    nodes, marker = own.structure, own.structure.marker
    gone = projected(own, marker == VACANCY).xy_px
    come = projected(own, np.arange(len(marker)) >= len(perfect.structure.marker)).xy_px
    for columns, expected in ((gone, places(shape.emptied, polarity)), (come, places(shape.hollows, polarity))):
        assert len(columns) == len(expected)
        assert np.linalg.norm(columns[:, None] - expected, axis=2).min(1).max() < 0.02 * a_px
    # Hollows of the other polarity are somewhere else.
    turned_over = 2 * own.matrix @ own.center_A + 2 * own.offset_px - come
    assert np.linalg.norm(turned_over[:, None] - places(shape.hollows, polarity), axis=2).min(1).max() > 0.3 * a_px
    assert all(np.array_equal(c.matrix, own.matrix) and np.array_equal(c.offset_px, own.offset_px) for c in made)
    assert nodes.label == shape.label and own.type == "TREFOIL"
    kept = projected(own, nodes.occupied & (np.arange(len(marker)) < len(perfect.structure.marker)))
    site_map = all_sites(lattice(polarity))
    inside = np.linalg.norm(kept.xy_px - places(shape.sites, polarity).mean(0), axis=1) < 1.5 * a_px
    away = np.linalg.norm(kept.xy_px[inside, None] - site_map.xy_px, axis=2)
    species = np.where(np.array(kept.types)[inside] == "Mo", "M", "X")
    assert (site_map.sublattice[away.argmin(1)] == species).all() and away.min(1).max() < 0.05 * a_px


def test_rivals_are_proposed() -> None:
    one = shapes.trefoil(frozenset(((5, 3),)), 1)
    assert [c.label for c in named(one, 1)] == ["pristine", "T1", "T1-484"]
    assert [c.label for c in named(one, 1, [("T2", 0.01)])] == ["pristine", "T1", "T1-484"] + ["T2"] * 6
    two = shapes.trefoil(frozenset(((5, 3), (5, 4))), -1)
    made = named(two, -1)
    assert [c.label for c in made] == ["pristine", "T2", "T2-484", "T1", "T1"]
    # The two T1 are those of the two metals.
    far = len(made[0].structure.marker)
    centres = [projected(c, np.arange(len(c.structure.marker)) >= far).xy_px.mean(0) for c in made[3:]]
    metals = places([(5, 3, "M"), (5, 4, "M")], -1)
    assert sorted(map(tuple, np.round(centres, 0))) == sorted(map(tuple, np.round(metals, 0)))
    assert made[0].log_prior > made[1].log_prior > made[2].log_prior


@pytest.mark.parametrize("polarity", [1, -1])
def test_what_wins_in_the_end_says_its_own_sites(polarity: int) -> None:
    two = shapes.trefoil(frozenset(((5, 3), (5, 4))), polarity)
    made = named(two, polarity, [("T3", 0.01)])
    one, outer = shapes.trefoil(frozenset(((5, 3),)), polarity), shapes.trefoil(frozenset(two.metals), polarity, True)
    said = [set(sites_of(c, all_sites(lattice(polarity)), lattice(polarity))[0]) for c in made]
    assert said[1] == set(two.sites) and said[2] == set(outer.sites) and set(one.sites) in said[3:5]
    assert len(made) > 5 and all(shapes.read_off(sites, polarity) for sites in said[1:])
    for candidate, sites in zip(made[1:], said[1:], strict=True):
        _, where_px = sites_of(candidate, all_sites(lattice(polarity)), lattice(polarity))
        assert np.linalg.norm(where_px.mean(0) - places(sorted(sites), polarity).mean(0)) < 0.5


def test_another_stacking_is_not_read_as_trefoils() -> None:
    """Hollows that are occupied everywhere; a whole chain of four is within what is read."""
    everywhere = {(i, j) for i in range(8) for j in range(8)}
    assert _clusters(everywhere, set(), 1) == []
    chain = shapes.trefoil(frozenset((k, 0) for k in range(4)), 1)
    (read,) = _clusters({site[:2] for site in chain.hollows}, set(), 1)
    assert {(k, 0) for k in range(4)} <= read
