"""Hessians that optimisers start from: right by another way to take them, refused of other atoms, worth their cost."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.io import read, write
from springs import Springs, broken
from test_inputs import patch

from definet.hessian import FLOOR_eV_A2, preconditioner, stiffness
from stemfit.errors import ModelError
from stemfit.inputs import Patch, hessian


class Dft(Springs):
    """What stands for DFT here: other bond lengths and stiffnesses than the potential's, and an anharmonic term."""

    def calculate(self, atoms=None, properties=None, system_changes=("positions",)):
        super().calculate(atoms, properties, system_changes)
        mean = atoms.positions.mean(axis=0)
        off = atoms.positions - mean - SITES[len(atoms)]
        self.results["energy"] = 1.3 * self.results["energy"] + 0.3 * (off[:, 2] ** 2).sum() + 2.0 * (off**4).sum()
        self.results["free_energy"] = self.results["energy"]
        pull = 8.0 * off**3
        pull[:, 2] += 0.6 * off[:, 2]
        self.results["forces"] = 1.3 * self.results["forces"] - (pull - pull.mean(axis=0))


ONE = patch("MoS2", "V_S", "SV", 3)
SITES = {len(ONE.atoms): ONE.atoms.positions - ONE.atoms.positions.mean(axis=0)}


def slab() -> Atoms:
    """Copper with a vacancy, off its minimum."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    del atoms[-1]
    atoms.pbc = True
    atoms.rattle(0.05, seed=3)
    return atoms


def test_stiffness_is_the_second_difference_of_the_energy() -> None:
    atoms = slab()
    atoms.calc = EMT()
    found, rest, h = stiffness(atoms), atoms.get_positions(), 0.005
    assert np.array_equal(atoms.positions, rest)

    def energy(step: np.ndarray) -> float:
        atoms.set_positions(rest + step.reshape(-1, 3))
        return float(atoms.get_potential_energy())

    rng = np.random.default_rng(5)
    for _ in range(4):
        along = rng.normal(size=rest.size)
        along /= np.linalg.norm(along)
        curvature = (energy(h * along) - 2 * energy(0 * along) + energy(-h * along)) / h**2
        assert along @ found @ along == pytest.approx(curvature, rel=0.01)
        order = rng.permutation(rest.size)
        assert along @ found[np.ix_(order, order)] @ along != pytest.approx(curvature, rel=0.01)
    shift = np.tile(np.eye(3), (len(atoms), 1))
    assert np.abs(found @ shift).max() < 1e-4 * np.abs(found).max(), "a shift of all atoms costs nothing"


def test_a_preconditioner_is_stiff_everywhere_and_the_same_where_it_was() -> None:
    atoms = slab()
    atoms.calc = EMT()
    raw = stiffness(atoms)
    made = preconditioner(raw)
    before, after = np.linalg.eigvalsh(raw), np.linalg.eigvalsh(made)
    assert before[0] < FLOOR_eV_A2 and after[0] == pytest.approx(FLOOR_eV_A2)
    stiff, motions = np.linalg.eigh(raw)
    for value, motion in zip(stiff, motions.T, strict=True):
        assert motion @ made @ motion == pytest.approx(max(abs(value), FLOOR_eV_A2))
    assert np.allclose(made, made.T)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported Hessian of the springs with its script; DFT is something else."""
    where = tmp_path_factory.mktemp("hessian")
    export(where, ONE)
    return where


def export(where: Path, one: Patch) -> None:
    for name, content in hessian.files(one, Springs(), "springs").items():
        (where / name).write_bytes(content)


Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the script of a folder, gives the steps that it says it took."""

    def steps(folder: Path, *arguments: str) -> int:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "argv", ["relax", "--calculator", "test_hessian:Dft", *arguments])
        runpy.run_path(f"relax_{ONE.name}.py", run_name="__main__")
        found = re.search(r"(\d+) steps, at rest", capsys.readouterr().out)
        assert found
        return int(found[1])

    return steps


def test_fewer_steps_to_the_same_minimum_and_more_with_shuffled_motions(folder: Path, run: Run) -> None:
    quick = run(folder)
    first = read(folder / f"{ONE.name}.relaxed.extxyz")
    plain = run(folder, "--plain")
    second = read(folder / f"{ONE.name}.relaxed.extxyz")
    assert quick < 0.7 * plain
    assert np.linalg.norm(first.get_forces(), axis=1).max() < 0.01
    moved = first.positions - second.positions
    assert np.abs(moved - moved.mean(axis=0)).max() < 0.02
    known = dict(np.load(folder / f"{ONE.name}.hessian.npz"))
    order = np.random.default_rng(0).permutation(len(known["numbers"]))
    rows = (3 * order[:, None] + np.arange(3)).ravel()
    twin = folder / "twin"
    twin.mkdir()
    (twin / f"relax_{ONE.name}.py").write_bytes((folder / f"relax_{ONE.name}.py").read_bytes())
    np.savez(twin / f"{ONE.name}.hessian.npz", **{**known, "hessian_eV_A2": known["hessian_eV_A2"][np.ix_(rows, rows)]})
    assert run(twin) > quick


def test_other_atoms_are_refused(folder: Path, run: Run) -> None:
    atoms = ONE.atoms.copy()
    rng = np.random.default_rng(1)
    metals = np.flatnonzero(atoms.numbers == 42)
    order = np.arange(len(atoms))
    order[metals] = rng.permutation(metals)
    wrong = {"metals": atoms[order], "reversed": atoms[::-1], "fewer": atoms[1:], "wider": atoms.copy()}
    wrong["wider"].set_cell(np.asarray(atoms.cell) * 1.1, scale_atoms=True)
    said = {"metals": "elsewhere", "reversed": "another order", "fewer": f"{len(atoms) - 1} atoms", "wider": "cell"}
    for name, structure in wrong.items():
        write(folder / f"{name}.extxyz", structure)
        with pytest.raises(SystemExit, match=said[name]) as caught:
            run(folder, f"{name}.extxyz")
        assert len(str(caught.value).splitlines()) == 1
    moved = atoms.copy()
    moved.rattle(0.1, seed=2)
    write(folder / "moved.extxyz", moved)
    assert run(folder, "moved.extxyz") > 0


def test_structures_that_are_alike_are_asked_once() -> None:
    class Counting(Springs):
        calls = 0

        def calculate(self, *arguments, **options):
            Counting.calls += 1
            super().calculate(*arguments, **options)

    known: list[hessian.Known] = []
    first = hessian.files(ONE, Counting(), "springs", known)
    assert Counting.calls == 6 * len(ONE.atoms)
    moved = ONE.atoms.copy()
    moved.positions += 1e-5
    twin = hessian.files(replace(ONE, name="twin", atoms=moved), Counting(), "springs", known)
    assert Counting.calls == 6 * len(ONE.atoms) and [*twin] == ["twin.hessian.npz", "relax_twin.py"]
    assert len(first) == len(twin) == 2
    moved.positions[3, 2] += 0.01
    hessian.files(replace(ONE, atoms=moved), Counting(), "springs", known)
    assert Counting.calls == 12 * len(ONE.atoms) and len(known) == 2


def test_forces_that_are_none_are_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        hessian.files(ONE, broken(), "broken")


def test_units_and_order_are_said(folder: Path) -> None:
    with np.load(folder / f"{ONE.name}.hessian.npz") as known:
        assert known["hessian_eV_A2"].shape == (3 * len(ONE.atoms),) * 2
        assert np.array_equal(known["numbers"], ONE.atoms.numbers) and str(known["potential"]) == "springs"
        assert "x, y, z of the first atom" in str(known["order"])
        assert np.linalg.eigvalsh(known["hessian_eV_A2"])[0] > 0.9 * FLOOR_eV_A2
