"""Structures from files: what repeats fills the view, what does not stays alone, what cannot be looked at says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from numpy.testing import assert_allclose

from definet.exceptions import InputFileError
from stemfit.errors import NotAnalysable, UsageError
from stemfit.simulate.specimen import View, read_specimen, specimen

A = 3.16


def cell(z: float = 7.0) -> Atoms:
    """MoS2, its layer at this height of a cell of 15 A."""
    vectors = [[A, 0, 0], [A / 2, A * 3**0.5 / 2, 0], [0, 0, 15.0]]
    x, y = A / 2, A / 12**0.5
    return Atoms("MoS2", [[0, 0, z], [x, y, z + 1.56], [x, y, z - 1.56]], cell=vectors, pbc=True)


@pytest.mark.parametrize("name", ["one.cif", "POSCAR", "one.extxyz"])
def test_a_cell_fills_the_view_as_its_supercell_does(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, cell())
    write(tmp_path / f"many-{name}" if "POSCAR" not in name else tmp_path / "POSCAR-many", cell() * (7, 9, 1))
    many = tmp_path / f"many-{name}" if "POSCAR" not in name else tmp_path / "POSCAR-many"
    view = View(0.3, (41, 57), (1.7, -2.9))
    one, other = (read_specimen(path).around(view, 4.0) for path in (tmp_path / name, many))
    order = [np.lexsort(np.round(atoms.xyz_A.T, 3)) for atoms in (one, other)]
    assert len(one.numbers) == len(other.numbers) > 150
    assert_allclose(one.xyz_A[order[0]], other.xyz_A[order[1]], atol=2e-3)
    assert (one.numbers[order[0]] == other.numbers[order[1]]).all()
    half = np.array(view.size_A) / 2
    assert (np.abs(one.xyz_A[:, :2]) <= half + 4.0).all()
    assert_allclose(len(one.numbers) / np.prod(2 * (half + 4.0)), 3 / (A**2 * 0.75**0.5), rtol=0.1)


def test_where_the_middle_is(tmp_path: Path) -> None:
    write(tmp_path / "one.cif", cell())
    assert_allclose(read_specimen(tmp_path / "one.cif").middle_A, [0.75 * A, A * 3**0.5 / 4], atol=1e-3)
    flake = Atoms("MoS", [[1, 2, 0], [5, 3, 0]])
    write(tmp_path / "flake.xyz", flake, format="extxyz")
    alone = read_specimen(tmp_path / "flake.xyz")
    assert alone.plane_A is None
    assert_allclose(alone.middle_A, [3, 2.5])
    seen = alone.around(View(1.0, (8, 8)), 50.0)
    assert_allclose(seen.xyz_A[:, :2], [[-2, -0.5], [2, 0.5]])


def test_a_layer_that_the_file_has_wrapped_is_put_together(tmp_path: Path) -> None:
    low = cell(0.5)
    low.wrap()
    assert np.ptp(low.positions[:, 2]) > 10
    write(tmp_path / "low.cif", low)
    height = read_specimen(tmp_path / "low.cif").xyz_A[:, 2]
    assert np.ptp(height) == pytest.approx(3.12, abs=1e-3)
    assert height[0] == pytest.approx(height.mean(), abs=1e-3), "Mo in the middle"


def test_vacancy_nodes_are_no_atoms(tmp_path: Path) -> None:
    marked = cell()
    marked.new_array("marker", np.array([0, 2, 0]))
    write(tmp_path / "marked.extxyz", marked)
    assert read_specimen(tmp_path / "marked.extxyz").numbers.tolist() == [42, 16]
    marked.set_array("marker", np.array([2, 2, 2]))
    write(tmp_path / "none.extxyz", marked)
    with pytest.raises(NotAnalysable, match="vacancies only"):
        read_specimen(tmp_path / "none.extxyz")


def test_thermal_motion_by_element_or_as_asked() -> None:
    layer = specimen([42, 6], np.zeros((2, 3)))
    assert layer.thermal_A.tolist() == [0.07, 0.06]
    assert specimen([42, 6], np.zeros((2, 3)), thermal_A=0.05).thermal_A.tolist() == [0.05, 0.05]
    with pytest.raises(UsageError, match=r"thermal motion of 70 A"):
        specimen([42], np.zeros((1, 3)), thermal_A=70.0)


def test_what_cannot_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        read_specimen(tmp_path / "no.cif")
    upright = Atoms("Mo", [[0, 0, 0]], cell=[[3, 0, 0], [0, 0, 15], [0, -3, 0]], pbc=True)
    write(tmp_path / "upright.extxyz", upright)
    with pytest.raises(NotAnalysable, match="do not lie in the plane"):
        read_specimen(tmp_path / "upright.extxyz")
    with pytest.raises(NotAnalysable, match="look between"):
        specimen([42], np.zeros((1, 3))).around(View(0.1, (9, 9), (30.0, 0.0)), 5.0)
    with pytest.raises(NotAnalysable, match="smaller shape"):
        specimen([42], np.zeros((1, 3)), np.eye(2)).around(View(1.0, (8000, 8000)), 5.0)


@pytest.mark.parametrize(
    "values", [(-0.1, (5, 5), None), (float("nan"), (5, 5), None), (0.1, (0, 5), None), (0.1, (5, 5), (np.inf, 0.0))]
)
def test_views_that_are_none(values: tuple[float, tuple[int, int], tuple[float, float] | None]) -> None:
    with pytest.raises(UsageError):
        View(*values)
