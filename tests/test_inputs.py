"""Input of DFT codes: read back by other readers it is the same structure, and its choices follow from the crystal."""

from __future__ import annotations

import bz2
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pymatgen.io.vasp
import pytest
import typer.testing
from ase import Atoms
from ase.io import read
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.io.pwscf import PWInput
from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar
from springs import Springs
from test_export import A_WSE2, analysis

import cli
from definet.crystals import host
from definet.structures import build, elements_of, pristine
from stemfit.commands.export import KNOWN
from stemfit.errors import UsageError
from stemfit.export import CALCULATIONS, FORMATS, Potential, chosen, write
from stemfit.inputs import Patch, espresso, vasp
from stemfit.inputs.plan import (
    ENOUGH_VACUUM_A,
    SPACING_1_A,
    FMAX_eV_A,
    corner,
    faces_differ,
    mesh,
    moments,
    reasons,
    spin_reason,
)

TITLES = "potcar-summary-stats.json.bz2"
"""Data sets that pymatgen knows."""


def patch(name: str, label: str, kind: str, cells: int | tuple[int, int] = 4, layer: str = "top") -> Patch:
    """A candidate as it is exported: elements together, the layer in the middle."""
    shape = (cells, cells) if isinstance(cells, int) else cells
    made = pristine(name, *shape)
    if label != "pristine":
        made = build(made, label, layer=layer) if kind in ("SV", "VM") else build(made, label)
    here = made.occupied
    elements = np.array(elements_of(made.structure))[here]
    atoms = Atoms(list(elements), made.nodes_A[here], cell=made.structure.lattice.matrix, pbc=True)
    atoms = atoms[np.argsort(atoms.get_chemical_symbols(), kind="stable")]
    center = made.center_A if made.sites else np.zeros(2)
    return Patch(f"candidate-{label}", atoms, f"{label} in {name}", label, kind, center, host(name).a_exp_A, True)


CASES = (
    patch("MoS2", "V_S", "SV"), patch("WSe2", "V_Se2", "DV"), patch("MoS2", "V_Mo", "VM"),
    patch("MoSe2", "Mo_Se2", "ANTI"), patch("hBN", "V_N", "SV"), patch("WS2", "SVL-3", "LINE", (7, 4)),
)  # fmt: skip


def same(found: Atoms, one: Patch) -> None:
    """Same atoms in the same order at the same places in the same cell."""
    assert list(found.symbols) == list(one.atoms.symbols)
    assert np.allclose(np.asarray(found.cell), np.asarray(one.atoms.cell), atol=1e-6)
    off = found.get_scaled_positions(wrap=False) - one.atoms.get_scaled_positions(wrap=False)
    assert np.abs((off - np.round(off)) @ np.asarray(one.atoms.cell)).max() < 1e-5


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.label)
def test_vasp_reads_what_was_written(one: Patch, tmp_path: Path) -> None:
    named = next(iter(write_one(one, "vasp", tmp_path)))
    same(read(named / "POSCAR"), one)
    poscar = Poscar.from_file(named / "POSCAR", check_for_potcar=False)
    same(poscar.structure.to_ase_atoms(), one)
    assert poscar.site_symbols == vasp.species(one) and len(set(poscar.site_symbols)) == len(poscar.site_symbols)
    points = Kpoints.from_file(named / "KPOINTS")
    assert points.style.name == "Gamma" and points.kpts == [mesh(one)] and points.kpts_shift == (0, 0, 0)
    incar = Incar.from_file(named / "INCAR")
    assert (incar["ISIF"], incar["EDIFFG"], incar["ENCUT"]) == (2, -FMAX_eV_A, 500)
    assert ("LDIPOL" in incar) == faces_differ(one) and "NELECT" not in incar
    assert np.allclose(incar.get("MAGMOM", np.zeros(len(one.atoms))), moments(one))
    assert incar["ISPIN"] == (2 if moments(one).any() else 1)
    assert not incar.check_params(), "pymatgen knows every tag and value"


def write_one(one: Patch, kind: str, folder: Path) -> list[Path]:
    from stemfit.export import Named

    return write([Named(one.name, one.atoms, one.title, one)], (kind,), folder / kind)


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.label)
def test_espresso_reads_what_was_written(one: Patch, tmp_path: Path) -> None:
    [path] = write_one(one, "qe", tmp_path)
    found = read(path, format="espresso-in")
    same(found, one)
    # pymatgen knows neither moments of species nor two species of one element.
    text = re.sub(r"(?m)^ *starting_magnetization.*\n", "", path.read_text())
    other = PWInput.from_str(re.sub(r"(?m)^([A-Z][a-z]?)1 ", r"\1  ", text))
    assert other.sections["system"]["ibrav"] == 0 and other.sections["system"]["nat"] == len(one.atoms)
    assert other.sections["system"]["assume_isolated"] == "2D" and other.sections["control"]["calculation"] == "relax"
    assert tuple(other.kpoints_grid) == mesh(one) and tuple(other.kpoints_shift) == (0, 0, 0)
    lattice = other.structure.lattice.matrix
    assert np.allclose(lattice, np.asarray(one.atoms.cell), atol=1e-6)
    assert np.allclose(other.structure.cart_coords, one.atoms.positions, atol=1e-6)
    assert [line.split()[0][-1] == "1" for line in path.read_text().split("angstrom\n")[-1].splitlines()] == (
        moments(one) > 0
    ).tolist()  # ASE drops the numbers of species
    # 0.01 eV/A in Ry/bohr: an independent conversion.
    assert other.sections["control"]["forc_conv_thr"] == pytest.approx(0.01 / 25.71104, rel=1e-3)


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.label)
def test_the_gpaw_script_holds_the_structure(one: Patch, tmp_path: Path) -> None:
    [path] = write_one(one, "gpaw", tmp_path)
    script = runpy.run_path(str(path))
    atoms = script["structure"]()
    same(atoms, one)
    assert np.array_equal(atoms.get_initial_magnetic_moments(), moments(one))
    text = path.read_text()
    assert f'"size": {mesh(one)}' in text and ("dipolelayer" in text) == faces_differ(one) != atoms.pbc[2]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["MoS2", "graphene", "blackP"]))
def test_the_mesh_is_as_dense_as_said_and_no_denser(n: int, m: int, name: str) -> None:
    one = patch(name, "pristine", "", (n, m))
    grid = mesh(one)
    lengths = np.linalg.norm(2 * np.pi * np.linalg.inv(np.asarray(one.atoms.cell)).T, axis=1)
    for count, length in zip(grid[:2], lengths[:2], strict=True):
        assert length / count <= SPACING_1_A + 1e-6
        assert count == 1 or length / (count - 1) > SPACING_1_A
    assert grid[2] == 1


@pytest.mark.parametrize("n", (1, 2, 3, 4, 6, 8))
@pytest.mark.parametrize("m", (3, 5, 8))
def test_where_k_falls_is_where_reciprocal_vectors_put_it(n: int, m: int) -> None:
    one = patch("MoS2", "pristine", "", (n, m))
    unit = 2 * np.pi * np.linalg.inv(host("MoS2").plane_A(one.a_A)).T
    k = (unit[0] - unit[1]) / 3  # the corner between reciprocal vectors 120 degrees apart is at (1, 2)/3 or (1, -1)/3
    corners = [k, (2 * unit[0] + unit[1]) / 3]
    assert np.linalg.norm(corners[1]) == pytest.approx(4 * np.pi / 3 / one.a_A)
    big = 2 * np.pi * np.linalg.inv(np.asarray(one.atoms.cell)[:2, :2]).T
    inside = np.linalg.solve(big.T, corners[1])
    on_gamma = np.abs(inside - np.round(inside)).max() < 1e-6
    scaled = inside * mesh(one)[:2]
    on_mesh = np.abs(scaled - np.round(scaled)).max() < 1e-6
    said = corner(one)
    assert ("folds onto Gamma" in said) == on_gamma and ("falls between" in said) == (not on_mesh)


def test_faces_that_differ_have_a_dipole() -> None:
    assert [faces_differ(one) for one in CASES] == [True, False, False, False, False, True]
    under = patch("MoS2", "V_S", "SV", layer="bottom")
    assert faces_differ(under) and not faces_differ(patch("MoS2", "pristine", ""))
    both = CASES[0].atoms.copy()
    del both[int(np.argmin(np.where(both.numbers == 16, np.abs(both.positions - missing(CASES[0])).sum(1), 99)))]
    assert not faces_differ(replace(CASES[0], atoms=both)), "with the atom below gone too, the faces are alike"


def missing(one: Patch) -> np.ndarray:
    """Where the lower atom of the column of a vacancy is."""
    return np.append(one.center_A, one.atoms.positions[:, 2].min())


def test_spin_is_for_broken_bonds_and_odd_electrons() -> None:
    near = {one.label: np.array(one.atoms.symbols)[moments(one) > 0].tolist() for one in CASES}
    assert near["V_S"] == near["V_Se2"] == near["SVL-3"] == []
    assert near["V_Mo"] == ["S"] * 6, "those that lost a bond"
    assert sorted(near["Mo_Se2"]) == ["Mo"] * 4, "the antisite and the metals around it"
    assert near["V_N"] == ["B"] * 3
    rhenium = patch("MoS2", "Re_Mo", "SUB")
    assert rhenium.atoms.numbers.sum() % 2 and "odd" in spin_reason(rhenium)
    assert not spin_reason(patch("MoS2", "W_Mo", "SUB"))


def test_data_sets_exist() -> None:
    titles = json.loads(bz2.decompress((Path(pymatgen.io.vasp.__file__).parent / TITLES).read_bytes()))["PBE_54"]
    known = {match[1] for title in titles if (match := re.match(r"PAW_PBE(.+?)\d\d[A-Z]", title))}
    assert set(vasp.POTENTIALS.values()) <= known and "Mo_xx" not in known
    assert set(vasp.POTENTIALS) == set(espresso.PSEUDOPOTENTIALS)
    elements = {atom.element for name in ("MoS2", "WTe2", "hBN", "GaSe", "InSe", "blackP") for atom in host(name).basis}
    assert elements <= set(vasp.POTENTIALS)


def test_what_is_not_known_is_said() -> None:
    one = replace(CASES[0], a_A=float("nan"))
    assert "unit cells" not in " ".join(reasons(one))
    one.atoms.symbols[0] = "Hf"
    assert "Hf (marked ?)" in vasp.files(one, "")["POTCAR.txt"] and "Of Hf no file" in espresso.text(one)
    thin = CASES[1].atoms.copy()
    thin.cell[2, 2] -= 14.0
    low = replace(CASES[1], atoms=thin)
    assert low.vacuum_A < ENOUGH_VACUUM_A and "That is little" in " ".join(reasons(low))
    assert "assume_isolated = '2D'\n" not in espresso.text(low) and "--vacuum" in espresso.text(low)


def test_the_command_knows_every_format() -> None:
    assert (*FORMATS, *CALCULATIONS) == KNOWN


def test_only_candidates_are_calculated_and_twice_the_same(tmp_path: Path) -> None:
    one = analysis()
    kinds = (*CALCULATIONS, "poscar")
    springs = Potential(Springs(), "springs")
    for folder in ("a", "b"):
        made = write(chosen(one), kinds, tmp_path / folder, springs)
    names = sorted(path.name for path in made)
    assert names == sorted([
        "structure.vasp", "candidate-1-1.vasp", "candidate-1-1-vasp", "candidate-1-1.pw.in", "candidate-1-1.gpaw.py",
        "candidate-1-1.hessian.npz", "relax_candidate-1-1.py",
    ])  # fmt: skip
    for path in (tmp_path / "a").rglob("*"):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.is_dir() or path.read_bytes() == other.read_bytes()
    same(read(tmp_path / "a" / "candidate-1-1-vasp" / "POSCAR"), next(n.patch for n in chosen(one) if n.patch))
    with pytest.raises(UsageError, match="no candidate"):
        write(chosen(one, what="field"), ("vasp",), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_defect_is_where_the_image_has_it_in_the_stretched_cell() -> None:
    stretched = next(n.patch for n in chosen(analysis(), lattice_constant_A=1.01 * A_WSE2) if n.patch)
    assert stretched is not None and (stretched.kind, stretched.label) == ("SV", "V_Se")
    assert stretched.center_A == pytest.approx([30.3, 30.3]) and not stretched.measured
    assert stretched.a_A == pytest.approx(1.01 * A_WSE2)


def test_the_command_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemfit.analysis.Analysis.load", lambda folder: analysis())
    monkeypatch.setattr("stemfit.relax.teacher", failing)
    run = typer.testing.CliRunner()
    base = ["export", "image.stemfit", "--out", str(tmp_path / "out")]
    unasked = run.invoke(cli.app, [*base, "--potential", "chgnet"])
    assert unasked.exit_code == 2 and "add --hessian" in unasked.stderr
    gone = run.invoke(cli.app, [*base, "--hessian", "--potential", "chgnet"])
    assert gone.exit_code == 6 and len(gone.stderr.splitlines()) == 1 and "stemfit[teacher]" in gone.stderr
    assert not (tmp_path / "out").exists(), "nothing is written"


def failing(name: str) -> None:
    from stemfit.errors import ModelError

    raise ModelError(f"{name} cannot be loaded", remedy="pip install 'stemfit[teacher]'")


@pytest.mark.parametrize(("label", "kind"), [("W_Se", "ANTI"), ("Se2_W", "ANTI"), ("S_W", "SUB"), ("Mo_Se2", "SUB")])
def test_an_antisite_is_one_of_the_host_whatever_a_result_says(label: str, kind: str) -> None:
    one = analysis()
    other = replace(one.candidates[1], label=label)
    found = next(n.patch for n in chosen(replace(one, candidates=(one.candidates[0], other)), candidates=("1-2",)))
    assert found is not None and found.kind == kind
