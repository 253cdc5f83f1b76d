"""Structures for other programs: what ASE and pymatgen read back is what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer.testing
from ase import Atoms
from ase.build import mx2
from ase.geometry import get_distances
from ase.io import read
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Structure
from pymatgen.io.lammps.data import LammpsData

import cli
from stemfit.analysis import Analysis, Explanation
from stemfit.defects import Defect
from stemfit.errors import OutputError, UsageError
from stemfit.export import FORMATS, chosen, write

A_WSE2 = 3.282


def patch(n: int = 4, vacuum: float = 10.0, seed: int = 0) -> Atoms:
    """A sheet of WSe2 with a vacancy, every atom somewhere else."""
    sheet = mx2("WSe2", a=A_WSE2, thickness=3.34, size=(n, n, 1), vacuum=vacuum)
    del sheet[7]
    sheet.rattle(0.1, seed=seed)
    sheet.pbc = True
    return sheet


def analysis(candidates: tuple[str, ...] = ("1-1", "1-2"), name: str = "image.tif") -> Analysis:
    where = np.array([[30.0, 30.0]])
    explained = tuple(
        Explanation(k, 1, "V_Se", -10.0, 0.9999, True, 0.9, 0.9, 1.0, 2.0, 0.1, (), "definet", np.eye(2), np.zeros(2))
        for k in candidates
    )
    field = patch(6, 5.0)
    field.new_array("x_px", np.arange(len(field), dtype=float))
    defect = Defect(1, "SV", "V_Se", 0.99, where[0], ((0, 0, "X"),), where, (("pristine", 0.01),), 50.0, candidates[0])
    document = {"input": {"path": name}, "host": {"name": "WSe2"}, "settings": {"host": "auto"}, "version": "0"}
    document["lattice"] = {"basis": [{"sublattice": "M", "column": "W"}, {"sublattice": "X", "column": "Se2"}]}
    image = np.zeros((64, 64))
    structures = {"structure": field} | {c: patch(4, 10.0, k) for k, c in enumerate(candidates)}
    return Analysis(document, image, image, image.astype(np.uint8), {}, (defect,), (), explained, structures)


def apart(atoms: Atoms) -> np.ndarray:
    """Distances between all atoms, by pairs of elements in a sorted order: what no choice of axes or order changes."""
    kinds = np.array(atoms.get_chemical_symbols())
    distances = get_distances(atoms.positions, cell=atoms.cell, pbc=True)[1]
    pairs = (("W", "W"), ("W", "Se"), ("Se", "Se"))
    return np.concatenate([np.sort(distances[np.ix_(kinds == a, kinds == b)].ravel()) for a, b in pairs])


@pytest.mark.parametrize("kind", FORMATS)
def test_other_readers_find_the_same_structure(kind: str, tmp_path: Path) -> None:
    one = analysis()
    for named, path in zip(chosen(one), write(chosen(one), (kind,), tmp_path), strict=True):
        assert named.title in path.read_text()
        if kind == "lammps":
            found = [
                read(path, format="lammps-data", atom_style="atomic"),
                LammpsData.from_file(str(path), atom_style="atomic").structure.to_ase_atoms(),
            ]
        else:
            found = [read(path)]
            if kind != "extxyz":
                found.append(Structure.from_file(path).to_ase_atoms())
        for again in found:
            assert again.get_chemical_formula() == named.atoms.get_chemical_formula()
            assert np.allclose(apart(again), apart(named.atoms), atol=2e-3)
            assert np.allclose(sorted(again.cell.lengths()), sorted(named.atoms.cell.lengths()), atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.floats(5.0, 40.0), st.floats(2.96, 3.6))
def test_vacuum_and_lattice_constant_are_those_asked_for(vacuum: float, a: float) -> None:
    one = analysis()
    named = {n.name: n.atoms for n in chosen(one, vacuum_A=vacuum, lattice_constant_A=a)}
    before, after = one.structures["1-1"], named["candidate-1-1"]
    z = after.positions[:, 2]
    assert after.cell[2] == pytest.approx([0, 0, np.ptp(z) + vacuum]) and z.min() == pytest.approx(vacuum / 2)
    assert after.cell.lengths()[:2] == pytest.approx([4 * a, 4 * a])
    assert np.ptp(z) == pytest.approx(np.ptp(before.positions[:, 2]))  # bonds along z are not stretched
    field = named["structure"]
    assert field.cell.lengths()[:2] == pytest.approx(one.structures["structure"].cell.lengths()[:2])


def test_what_is_written_is_what_was_asked_for(tmp_path: Path) -> None:
    one = analysis(("1-1", "1-2", "1-3"))
    names = {what: [n.name for n in chosen(one, what=what)] for what in ("field", "best", "all")}
    assert names["field"] == ["structure"] and names["best"] == ["structure", "candidate-1-1"]
    assert names["all"] == ["structure", "candidate-1-1", "candidate-1-2", "candidate-1-3"]
    assert [n.name for n in chosen(one, candidates=("1-3",))] == ["candidate-1-3"]
    first = next(chosen(one, candidates=("1-3",), lattice_constant_A=3.32)).title
    assert "V_Se in WSe2" in first and "a 3.3200 A" in first and "posterior >0.999" in first


def test_titles_are_one_line_of_ascii_whatever_the_image_is_called(tmp_path: Path) -> None:
    for path in write(chosen(analysis(name="böse\n2 3 4\n.tif")), ("poscar", "lammps"), tmp_path):
        assert path.read_text().splitlines()[0].isascii()
        assert len(read(path, format="vasp" if path.suffix == ".vasp" else "lammps-data")) > 40


def test_wrong_wishes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    one = analysis()
    for wrong in ({"candidates": ("9-9",)}, {"vacuum_A": 2.0}, {"lattice_constant_A": 13.1}):
        with pytest.raises(UsageError):
            list(chosen(one, **wrong))
    own = replace(one, document={**one.document, "settings": {"host": "mine.cif"}, "host": {"name": "mine"}})
    assert next(chosen(own, candidates=("1-1",))).title.startswith("V_Se in mine")
    with pytest.raises(UsageError, match="mine"):
        list(chosen(own, lattice_constant_A=3.3))
    (tmp_path / "there").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        write(chosen(one), ("cif",), tmp_path)
    with pytest.raises(OutputError):
        write(chosen(one), ("cif",), tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    run = typer.testing.CliRunner()
    wrong = run.invoke(cli.app, ["export", str(tmp_path), "--format", "posca"])
    assert wrong.exit_code == 2 and "did you mean poscar" in wrong.stderr
    missing = run.invoke(cli.app, ["export", str(tmp_path / "none")])
    assert missing.exit_code == 3 and len(missing.stderr.splitlines()) == 1


def test_what_and_candidate_do_not_go_together(tmp_path: Path) -> None:
    both = typer.testing.CliRunner().invoke(cli.app, ["export", "x", "--candidate", "1-1", "--what", "all"])
    assert both.exit_code == 2 and "leave one of them out" in both.stderr
