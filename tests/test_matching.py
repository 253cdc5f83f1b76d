"""Structures of one's own, found in images with known truth (drawn by `stemfit.synthetic`, not by what analyses)."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain import PIXEL_A, redrawn, taken
from numpy.typing import NDArray

from definet.crystals import HOSTS
from definet.exceptions import StructureError
from definet.structure_file import write_structure
from definet.structures import DefectStructure, Site, build, line, pristine
from stemfit import pipeline
from stemfit.errors import NotAnalysable
from stemfit.matching.given import Given, read_given
from stemfit.matching.places import patch_cells
from stemfit.matching.ways import centre_of, embedded, places_of, reach_cells, turned, ways_of
from stemfit.observed import Clock, Observed, Settings, observe
from stemfit.relax import keep
from stemfit.result import Findings
from stemfit.synthetic import Crystal, as_micrograph, crystal, fit_cell

FloatArray = NDArray[np.float64]
Cell = tuple[int, int]

SHEARED = np.array([[1.0, 0.04], [-0.01, 0.97]])
CHIRAL: tuple[tuple[Cell, str], ...] = (((0, 0), "V_S2"), ((3, 0), "V_S"), ((1, 2), "V_S"))
"""A scalene triangle: no rotation takes it to its mirror image."""


def three(over: bool = False) -> DefectStructure:
    """The triangle, or its mirror image: a and b exchanged take sulphur to sulphur."""
    made = pristine("MoS2", 9)
    for (i, j), label in CHIRAL:
        made = build(made, label, (j + 2, i + 2) if over else (i + 2, j + 2))
    return made


STRUCTURES: dict[str, DefectStructure] = {
    "V_S": build(pristine("MoS2", 6), "V_S"),
    "SVL-4": line(pristine("MoS2", 9, 7), "SVL-4", direction=1),
    "T1": build(pristine("MoS2", 7), "T1"),
    "three": three(),
    "other three": three(over=True),
    "V_MoS6": build(pristine("MoS2", 7), "V_MoS6"),
}


@cache
def given(name: str, folder: Path) -> Given:
    path = folder / f"{name}.cif"
    write_structure(path, STRUCTURES[name].atoms)
    return read_given(path, "MoS2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("structures")


# -- the truth -----------------------------------------------------------------------------------------------------


class Field:
    """A turned, sheared crystal of negative polarity, and what was put in where: (M, 2) px of the changed places."""

    def __init__(self) -> None:
        self.sample = crystal(
            (340, 370), pixel_size_A=PIXEL_A, rotation_deg=23.7, polarity=-1, half_share=0.45, strain=SHEARED, seed=5
        )
        a, b = self.sample.a_px, self.sample.b_px
        # Sulphur at (a' + b')/3: the crystal frame of the builders.
        self.axes = np.stack([b, b - a])
        self.true: dict[str, FloatArray] = {}
        share: dict[tuple[int, int, str], float] = {}
        self.put("V_S", (70, 90), {(0, 0): 0.45}, share)
        self.put("SVL-4", (250, 60), {(-k, k): 0.45 for k in range(4)}, share)  # turned by 60 degrees against the file
        self.put("three", (110, 240), self.triangle(), share)
        # The trefoil: of the six columns about a metal three move to the hollows next to it, three are gone.
        gone = {(i, j): 0.0 for i, j in ((0, 0), (-1, 0), (0, -1), (-1, 1), (1, -1), (-1, -1))}
        self.put("T1", (270, 250), gone, share)
        corner = self.true["T1"][0] - (self.axes[0] + self.axes[1]) / 3
        hollows = np.array([[-1, 2], [-1, -1], [2, -1]]) / 3 @ self.axes + corner
        self.true["T1"] = np.vstack([self.true["T1"], hollows])
        light = 0.45
        self.crystal = redrawn(self.sample, share, added=[(*at, light) for at in hollows])

    def triangle(self) -> dict[Cell, float]:
        """Turned by 120 degrees: a' goes to b' - a', b' to -a', and a sulphur to a sulphur one cell back."""
        cells = {(-i - j - 1, i): label for (i, j), label in CHIRAL}
        return {cell: 0.0 if label == "V_S2" else 0.45 for cell, label in cells.items()}

    def put(self, name: str, near_px: tuple[int, int], cells: dict[Cell, float], share: dict[Any, float]) -> None:
        """Change the sulphur columns of cells counted from the one near a point."""
        columns = self.sample.columns
        sulphur = columns.sublattice == "X"
        start = columns.xy_px[sulphur][np.argmin(np.hypot(*(columns.xy_px[sulphur] - near_px).T))]
        places = start + np.array(list(cells)) @ self.axes
        for place, kept in zip(places, cells.values(), strict=True):
            k = int(np.argmin(np.hypot(*(columns.xy_px - place).T)))
            assert np.hypot(*(columns.xy_px[k] - place)) < 0.01 and columns.sublattice[k] == "X"
            share[int(columns.ij[k, 0]), int(columns.ij[k, 1]), "X"] = kept
        self.true[name] = places


@cache
def field() -> Field:
    return Field()


@cache
def micrograph() -> Any:
    image, _ = taken(field().crystal, counts=60.0)
    return as_micrograph(image, PIXEL_A)


@cache
def seen() -> Observed:
    return observe(micrograph(), Settings(host="MoS2"), Clock(lambda stage: None))


@pytest.fixture(autouse=True)
def seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The crystal in the image is read once for all tests."""
    monkeypatch.setattr(pipeline, "observe", lambda *asked: seen())


@cache
def matched(folder: Path, names: tuple[str, ...], at_px: tuple[float, float] | None = None) -> Findings:
    some = [given(name, folder) for name in names]
    return pipeline.match(micrograph(), Settings(host="MoS2"), some, None, keep, at_px=at_px)


def places_px(found: Any, one: Given) -> FloatArray:
    """Where the changed places of a file come to lie."""
    to_cells, shift = one.frame
    r_A = (places_of(one) - shift) @ np.linalg.inv(to_cells)
    matrix, offset = found.image_from_structure
    return np.asarray(r_A @ matrix.T + offset)


def off_px(one: FloatArray, other: FloatArray) -> float:
    """Largest distance from a place of one to the nearest of the other."""
    return float(np.hypot(*np.moveaxis(one[:, None] - other, -1, 0)).min(1).max())


ASKED = ("V_S", "SVL-4", "T1", "three", "V_MoS6")


@pytest.mark.parametrize("name", ["SVL-4", "T1", "three"])
def test_found_within_a_third_of_a_bond_in_the_right_way(name: str, folder: Path) -> None:
    analysis = matched(folder, ASKED)
    (found,) = [m for m in analysis.matches if m.found and m.structure.endswith(f"{name}.cif")]
    there, true = places_px(found, given(name, folder)), field().true[name]
    assert len(there) == len(true)
    assert max(off_px(there, true), off_px(true, there)) < 0.2 * analysis.lattice.a_px_iso
    defect = next(d for d in analysis.defects if d.id == found.defect)
    assert max(off_px(defect.extent_px, true), off_px(true, defect.extent_px)) < 0.2 * analysis.lattice.a_px_iso
    assert defect.best_candidate == found.candidate and defect.probability > 0.9
    assert sum(p for _, p in defect.alternatives) + defect.probability == pytest.approx(1)


def test_a_single_vacancy_is_found_where_it_stands_alone(folder: Path) -> None:
    analysis = matched(folder, ASKED)
    found = [m for m in analysis.matches if m.found and m.structure.endswith("V_S.cif")]
    alone = field().true["V_S"][0]
    assert sum(np.hypot(*(m.center_px - alone)) < 2 for m in found) == 1
    # Elsewhere it is part of something larger that was given, which explains more.
    larger = np.vstack([field().true[name] for name in ("SVL-4", "T1")])
    assert all(np.hypot(*(larger - m.center_px).T).min() > 2 for m in found)


def test_what_is_not_there_does_not_win(folder: Path) -> None:
    analysis = matched(folder, ASKED)
    absent = [m for m in analysis.matches if m.structure.endswith("V_MoS6.cif")]
    assert absent and not any(m.found for m in absent)
    assert any("V_MoS6.cif was not found" in warning for warning in analysis.warnings)


def test_the_mirror_image_is_the_same_layer_turned_over(folder: Path) -> None:
    """A file of the mirror image is matched too, on the same sites, but turned over."""
    (own,) = [m for m in matched(folder, ASKED).matches if m.found and m.label.count("+") == 2]
    at = tuple(field().true["three"].mean(0).tolist())
    (other,) = [m for m in matched(folder, ("other three",), at).matches if m.found]
    assert (own.turned_over, other.turned_over) == (False, True)
    assert off_px(places_px(other, given("other three", folder)), field().true["three"]) < 4


def test_without_turning_over_the_twin_loses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin of the test above: with rotations alone the mirror image is not found."""
    import stemfit.matching.places as places

    monkeypatch.setattr(places, "ways_of", lambda crystal: [w for w in ways_of(crystal) if not w.over])
    some = [given("other three", folder)]
    at = tuple(field().true["three"].mean(0).tolist())
    analysis = pipeline.match(micrograph(), Settings(host="MoS2"), some, None, keep, at_px=at)
    assert not any(m.found for m in analysis.matches)


def test_a_point_is_heeded(folder: Path) -> None:
    alone = field().true["V_S"][0]
    here = matched(folder, ("V_S",), (float(alone[0]) + 3, float(alone[1]) - 2))
    assert [np.hypot(*(m.center_px - alone)) < 2 for m in here.matches if m.found] == [True]
    beside = matched(folder, ("V_S",), (190.0, 150.0))
    assert len(beside.matches) == 1 and not beside.matches[0].found
    assert np.hypot(*(beside.matches[0].center_px - [190, 150])) < 0.6 * beside.lattice.a_px_iso
    with pytest.raises(NotAnalysable, match="no room at"):
        matched(folder, ("T1",), (3.0, 4.0))


def test_structures_are_ranked_where_they_compete(folder: Path) -> None:
    at = tuple(field().true["SVL-4"].mean(0).tolist())
    analysis = matched(folder, ("V_S", "SVL-4"), at)
    (spot,) = analysis.defects
    first, second = analysis.matches
    assert (first.label, second.label) == ("SVL-4", "V_S") and first.defect == second.defect == spot.id
    assert first.probability > 0.9 and first.log_bayes_factor > second.log_bayes_factor > 10
    assert first.probability + first.pristine + first.unknown + first.other == pytest.approx(1)


def test_pixels_tell_what_differs_beside_the_sites(folder: Path) -> None:
    """A trefoil whose three moved columns are gone empties the same sites."""
    atoms = STRUCTURES["T1"].atoms.copy()
    atoms.remove_sites(range(len(atoms) - 6, len(atoms)))  # added last, two to a hollow
    write_structure(folder / "emptied.cif", atoms)
    emptied = read_given(folder / "emptied.cif", "MoS2")
    assert len(places_of(emptied)) == len(places_of(given("T1", folder))) - 3
    at = tuple(field().true["T1"].mean(0).tolist())
    some = [emptied, given("T1", folder)]
    first, second = pipeline.match(micrograph(), Settings(host="MoS2"), some, None, keep, at_px=at).matches
    assert first.label == "T1" and first.probability > 0.9 and second.probability < 1e-3


def test_another_host_and_no_room_are_refused(folder: Path, tmp_path: Path) -> None:
    write_structure(tmp_path / "other.cif", build(pristine("WSe2", 6), "V_Se").atoms)
    with pytest.raises(StructureError, match=r"structure of WSe2, the image shows MoS2 \(as stated\)"):
        pipeline.match(micrograph(), Settings(host="MoS2"), [read_given(tmp_path / "other.cif")], None, keep)
    write_structure(tmp_path / "long.cif", line(pristine("MoS2", 30, 3), "SVL-26").atoms)
    with pytest.raises(NotAnalysable, match=r"long.cif has no room"):
        pipeline.match(micrograph(), Settings(host="MoS2"), [read_given(tmp_path / "long.cif")], None, keep)


# -- structures from files -----------------------------------------------------------------------------------------


def test_proper_rotations_of_the_hosts() -> None:
    assert len(ways_of(HOSTS["MoS2"])) == 6 and len(ways_of(HOSTS["graphene"])) == 12
    assert len(ways_of(HOSTS["hBN"])) == len(ways_of(HOSTS["GaSe"])) == 6
    for host in ("MoS2", "graphene"):
        first, *rest = ways_of(HOSTS[host])
        assert not first.over and np.array_equal(first.turn, np.eye(2)) and not first.shift.any()
        assert sum(way.over for way in rest) == len(rest) // 2 + 1


@pytest.mark.parametrize("name", ["SVL-4", "T1", "three"])
def test_a_turned_structure_is_the_same_layer(name: str, folder: Path, tmp_path: Path) -> None:
    """In space all ways have the same distances between atoms; from above the turned-over ones are mirrored."""
    one = given(name, folder)
    crystal = one.crystal
    moves = np.random.default_rng(3).normal(0, 0.1, (len(one.moved), 3))
    one = Given(**{**one.__dict__, "moved": dict(zip(one.moved, moves, strict=True))})

    def near(other: Given) -> FloatArray:
        """Atoms near the middle, and their distances."""
        patch = embedded(other, 14)
        middle = (centre_of(other) + patch.anchor) @ crystal.plane_A()
        r = patch.positions_A[patch.structure.occupied]
        r = r[np.hypot(*(r[:, :2] - middle).T) < 6.0]
        return np.sort(np.concatenate([np.linalg.norm(p - q)[None] for p, q in combinations(r, 2)]))

    for way in ways_of(crystal)[1:]:
        np.testing.assert_allclose(near(turned(one, way)), near(one), atol=1e-6)


def test_displacements_and_cuts_survive_the_file(tmp_path: Path) -> None:
    """A relaxed line that the border of a turned, strained cell cuts: same edit, same displacements."""
    made = line(pristine("MoS2", 9, 8), "SVL-3", closing_A=0.2)
    lattice, at = made.structure.lattice, made.atoms
    turn = np.radians(33.0)
    rotate = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    cell = type(lattice)(lattice.matrix * [1.02, 1.02, 1] @ rotate)
    shifted = type(at)(cell, at.species, at.frac_coords + np.array([0.47, 0.53, 0.2]))
    write_structure(tmp_path / "POSCAR", shifted)
    found = read_given(tmp_path / "POSCAR", "MoS2")
    assert found.label == "SVL-3" and len(found.edit.remove) == 3 and not found.warnings
    own = made.structure.cart_coords - pristine("MoS2", 9, 8).structure.cart_coords
    expected = np.sort(np.linalg.norm(own[made.occupied] - own[made.occupied].mean(0), axis=1))[-10:]
    steps = np.sort([np.linalg.norm(step) for step in found.moved.values()])[-10:]
    np.testing.assert_allclose(steps, expected, atol=0.02)  # the fit takes a common shift
    patch = embedded(found, patch_cells(reach_cells(found) + 3))
    assert patch.structure.label == "SVL-3" and len(patch.structure.sites) == 3


def test_the_frame_of_a_file_is_that_of_its_atoms(folder: Path) -> None:
    one = given("T1", folder)
    made = STRUCTURES["T1"]
    r_A = made.structure.cart_coords[list(made.sites), :2]
    uv = r_A @ one.frame[0] + one.frame[1]
    there = places_of(one)
    cell = uv[:, None] - there
    assert (np.abs(cell - np.rint(cell)).max(-1).min(1) < 1e-3).all()


def test_a_structure_without_defect_is_refused(tmp_path: Path) -> None:
    write_structure(tmp_path / "perfect.cif", pristine("MoS2", 4).structure)
    with pytest.raises(StructureError, match="has no defect"):
        read_given(tmp_path / "perfect.cif")
    write_structure(tmp_path / "black.cif", build(pristine("blackP", 4), "V_P").atoms)
    with pytest.raises(StructureError, match="no hexagonal host"):
        read_given(tmp_path / "black.cif")


def test_a_defect_without_end_is_told(tmp_path: Path) -> None:
    atoms = pristine("MoS2", 6)
    for i in range(6):
        atoms = build(atoms, "V_S", (i, 2))
    write_structure(tmp_path / "row.cif", atoms.atoms)
    assert any("runs through its periodic cell" in w for w in read_given(tmp_path / "row.cif").warnings)


def test_a_site_goes_to_a_site_of_its_kind() -> None:
    crystal = HOSTS["MoS2"]
    for way in ways_of(crystal):
        assert crystal.basis[way.site(Site(2, -1, 1), crystal).k].element == crystal.basis[1].element


def test_the_synthetic_cell_is_known() -> None:
    """Of the drawing above: its sites follow the cell that they are placed by."""
    sample: Crystal = field().sample
    second = sample.columns.sublattice == "X"
    a, b, _ = fit_cell(sample.columns.ij, second, sample.columns.xy_px, sample.polarity)
    np.testing.assert_allclose([a, b], [sample.a_px, sample.b_px], atol=1e-6)
