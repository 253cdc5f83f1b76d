"""`stemfit relax` as users meet it: files in and out, what is said, and one line with a code for everything wrong."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import typer.testing
from ase import Atoms
from frames import Frame
from springs import Springs

import cli
from definet.checkpoint import import_published, load_checkpoint, save_checkpoint, shipped
from definet.predict import relax
from definet.structure_file import Columns, read_structure, write_structure
from definet.structures import DefectStructure, build, elements_of, pristine, substitution, vacancy

RUNNER = typer.testing.CliRunner()
BUILT = build(pristine("MoS2", 6), "V_S2")
ODD = Frame(0.0, (0.31, 0.17, 3.0), seed=5)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with one defect in three formats, and one with markers."""
    monkeypatch.chdir(tmp_path)
    for name in ("defect.cif", "POSCAR", "defect.extxyz"):
        write_structure(Path(name), ODD(BUILT.atoms))
    marked("marked.extxyz", BUILT)
    return tmp_path


def marked(name: str, built: DefectStructure, marker: Any = None) -> None:
    write_structure(Path(name), built.structure, Columns({"marker": built.marker if marker is None else marker}))


def run(*arguments: str) -> Any:
    return RUNNER.invoke(cli.app, ["relax", *arguments], catch_exceptions=False)


def said(*arguments: str) -> dict[str, Any]:
    """What is said of the only structure."""
    done = run(*arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, ""), done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "stemfit.relax/1"
    [structure] = document["structures"]
    return dict(structure)


def wanted() -> np.ndarray:
    [relaxed] = relax([BUILT], load_checkpoint(shipped()))
    moved = (relaxed.positions_A - BUILT.structure.cart_coords)[BUILT.occupied]
    return np.asarray(moved[ODD.order(len(moved))])


@pytest.mark.parametrize("name", ["defect.cif", "POSCAR", "defect.extxyz"])
@pytest.mark.parametrize("out", ["out.cif", "CONTCAR", "out.extxyz"])
def test_every_format_in_and_out(name: str, out: str) -> None:
    document = said(name, "--host", "MoS2", "--out", out, "--device", "cpu")
    before, after = (read_structure(Path(path)).structure for path in (name, out))
    assert elements_of(after) == elements_of(before)
    off = after.frac_coords - before.frac_coords
    moved = (off - np.round(off)) @ before.lattice.matrix
    np.testing.assert_allclose(moved, wanted(), atol=3e-5)
    length = np.linalg.norm(wanted(), axis=1)
    assert document["displacement_A"]["mean"] == pytest.approx(length.mean(), abs=2e-5)
    assert document["displacement_A"]["max"] == pytest.approx(length.max(), abs=2e-5) and length.max() > 0.05
    farthest = length[document["displacement_A"]["max_atom"] - 1]
    assert farthest == pytest.approx(length.max(), abs=3e-5), "of atoms that are equal by symmetry, any"
    assert (document["defects"], document["vacancy_nodes"], document["atoms"]) == ("V_S2", 2, 106)
    assert document["warnings"] == [] and document["markers"] == "host"
    assert document["relaxer"]["checkpoint_sha256"] == load_checkpoint(shipped()).sha256


def test_markers_are_taken_and_vacancy_nodes_left_out() -> None:
    document = said("marked.extxyz", "--out", "out.extxyz")
    assert (document["markers"], document["host"]["name"], document["host"]["source"]) == ("file", "MoS2", "guessed")
    atoms = ase.io.read("out.extxyz")
    assert atoms.get_chemical_symbols() == elements_of(BUILT.atoms)
    moved = atoms.positions - BUILT.atoms.cart_coords
    np.testing.assert_allclose(atoms.arrays["displacement_A"], moved, atol=2e-7)
    assert "marker" not in atoms.arrays, "without its vacancy nodes it would be read as something else"
    assert atoms.info["relaxer"] == "definet" and (atoms.arrays["sigma_A"] > 0).all()


def test_sigma_and_energy_where_weights_state_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    import definet.relaxation

    def sure(structures: Any, *arguments: Any) -> Any:
        return [
            replace(r, sigma_A=np.where(s.occupied, 0.02, 0.0), energy_drop_eV=0.25)
            for r, s in zip(relax(structures, *arguments), structures, strict=True)
        ]

    monkeypatch.setattr(definet.relaxation, "predict", sure)
    document = said("marked.extxyz", "--out", "out.extxyz")
    assert document["sigma_A"] == {"mean": 0.02, "max": 0.02} and document["energy_drop_eV"] == 0.25
    assert ase.io.read("out.extxyz").arrays["sigma_A"] == pytest.approx(0.02)
    assert "0.250 eV lower" in run("marked.extxyz", "--out", "out.extxyz").stdout


def test_the_summary() -> None:
    done = run("defect.cif", "--host", "MoS2", "--out", "out.cif")
    assert (done.exit_code, done.stderr) == (0, "")
    for words in ("106 atoms, 2 vacancy nodes", "MoS2 (given, a = 3.1600 A)", "V_S2", "largest 0.", "out.cif"):
        assert words in done.stdout
    assert "warning" not in done.stdout


def test_equal_defects_are_counted() -> None:
    built = pristine("MoS2", 8)
    for at in ((0, 0), (4, 0), (0, 4)):
        built = vacancy(built, "V_S", at)
    write_structure(Path("three.cif"), substitution(built, "W_Mo", (4, 4)).atoms)
    assert "3 V_S, W_Mo\n" in run("three.cif", "--host", "MoS2", "--out", "out.cif").stdout


def test_outside_the_training_range_is_said() -> None:
    write_structure(Path("gold.cif"), build(pristine("MoS2", 5), "Au_Mo").atoms)
    document = said("gold.cif", "--host", "MoS2", "--out", "out.cif")
    assert document["warnings"] == ["outside the training range: Au in MoS2 was not in the training set"]
    write_structure(Path("other.cif"), build(pristine("GaSe", 4), "V_Se").atoms)
    assert "host GaSe was not" in said("other.cif", "--host", "GaSe", "--out", "out.cif")["warnings"][0]


def test_markers_derived_although_there_are_some() -> None:
    marked("wrong.extxyz", BUILT, np.where(BUILT.marker == 2, 2, 1))
    assert len(said("wrong.extxyz", "--host", "MoS2", "--out", "out.cif")["warnings"]) > 0
    document = said("wrong.extxyz", "--host", "MoS2", "--marker-from-host", "--out", "out.cif")
    assert document["warnings"] == [] and document["changed_atoms"] == 0 and document["vacancy_nodes"] == 2


def test_several_files_into_a_folder() -> None:
    write_structure(Path("large.cif"), build(pristine("WSe2", 7), "V_Se").atoms)
    write_structure(Path("small.cif"), build(pristine("MoS2", 4), "V_S").atoms)
    done = run("defect.cif", "small.cif", "--host", "MoS2", "--out", "deep/results", "--json")
    assert done.exit_code == 0 and sorted(os.listdir("deep/results")) == ["defect.cif", "small.cif"]
    assert [d["defects"] for d in json.loads(done.stdout)["structures"]] == ["V_S2", "V_S"]
    mixed = run("defect.cif", "large.cif", "small.cif", "--host", "MoS2", "--out", "more")
    assert mixed.exit_code == 10 and sorted(os.listdir("more")) == ["defect.cif", "small.cif"]
    lines = mixed.stderr.splitlines()
    assert len(lines) == 2 and lines[0].startswith("large.cif: the structure does not fit MoS2")
    assert "1 of 3 files failed" in lines[1]


# -- the teacher's place is taken by springs -----------------------------------------------------------------------


@pytest.fixture
def springs(monkeypatch: pytest.MonkeyPatch) -> None:
    from stemfit import relax as relaxing

    monkeypatch.setattr(relaxing, "teacher", Springs)
    monkeypatch.setattr(relaxing, "teacher_lattice", lambda *_: {"MoS2": 3.20}.get)


def test_teacher_and_refinement(springs: None) -> None:
    whole = said("defect.cif", "--host", "MoS2", "--relaxer", "teacher", "--out", "out.cif")
    assert whole["teacher"]["converged"] and whole["relaxer"]["name"] == "teacher"
    assert whole["relaxer"]["checkpoint_sha256"] is None and whole["energy_drop_eV"] > 0
    some = said("defect.cif", "--host", "MoS2", "--refine", "teacher:2", "--out", "polished.extxyz")
    assert some["relaxer"]["name"] == "definet+teacher:2" and some["teacher"]["steps"] == 2
    assert some["teacher"]["fmax_eV_A"] < some["teacher"]["initial_fmax_eV_A"]
    assert ase.io.read("polished.extxyz").info["relaxer"] == "definet+teacher:2"
    kept = said("defect.cif", "--host", "MoS2", "--relaxer", "keep", "--out", "kept.cif")
    assert kept["displacement_A"]["max"] == 0 and kept["teacher"] is None
    assert "2 steps, largest force" in run("POSCAR", "--host", "MoS2", "--refine", "teacher:2", "--out", "o.cif").stdout


def test_without_the_teacher_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("chgnet", "chgnet.model", "chgnet.model.model"):
        monkeypatch.setitem(sys.modules, name, None)
    for options in (["--relaxer", "teacher"], ["--refine", "teacher:3"]):
        done = run("defect.cif", "--host", "MoS2", "--out", "out.cif", *options)
        assert_one_line(done, 6, "CHGNet", "pip install 'stemfit[teacher]'")


# -- what is wrong -------------------------------------------------------------------------------------------------


def assert_one_line(done: Any, code: int, *words: str) -> None:
    assert (done.exit_code, done.stdout) == (code, ""), done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr and "unexpected" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not [name for name in os.listdir() if name.startswith((".tmp-", "out."))]


def place(atoms: Atoms) -> None:
    ase.io.write("bad.extxyz", atoms)


def flat(vacuum_A: float) -> None:
    """The defect with another height of the cell."""
    atoms = BUILT.atoms
    cell = [*atoms.lattice.abc[:2], 3.13 + vacuum_A, 90, 90, 60]
    z = atoms.cart_coords[:, 2] / cell[2]
    place(Atoms(atoms.atomic_numbers, scaled_positions=np.column_stack([atoms.frac_coords[:, :2], z]), cell=cell))


def bulk() -> None:
    flat(3.87)


def touching() -> None:
    atoms = ase.io.read("defect.extxyz")
    atoms.positions[3] = atoms.positions[4] + [0.2, 0.1, 0]
    place(atoms)


def no_element() -> None:
    text = Path("defect.extxyz").read_text()
    Path("bad.extxyz").write_text(text.replace("\nMo ", "\nQq ", 1))


def short_markers() -> None:
    atoms = ase.io.read("defect.extxyz")
    atoms.info["marker"] = np.array([0, 1])
    place(atoms)


def wrong_markers() -> None:
    marked("bad.extxyz", BUILT, np.where(BUILT.marker == 2, 7, 0))


def all_vacant() -> None:
    marked("bad.extxyz", BUILT, np.full(len(BUILT.marker), 2))


def other_host() -> None:
    write_structure(Path("bad.extxyz"), pristine("WS2", 5).structure)


def superheavy() -> None:
    marked("bad.extxyz", build(pristine("MoS2", 5), "Og_Mo"))


def truncated() -> None:
    Path("bad.extxyz").write_text("".join(Path("defect.extxyz").read_text().splitlines(keepends=True)[:50]))


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (nothing, 3, ["no such file", "check the path"]),
        (truncated, 3, ["not readable as extxyz"]),
        (bulk, 4, ["no vacuum", "3.87 A", "5 A are needed"]),
        (touching, 4, ["nodes 4 and 5 are 0.22 A apart"]),
        (no_element, 4, ["unknown element", "Qq"]),
        (short_markers, 4, ["2 markers", "106 nodes"]),
        (wrong_markers, 4, ["marker 7 of node", "is not 0, 1 or 2"]),
        (all_vacant, 4, ["every node is a vacancy"]),
        (other_host, 4, ["does not fit MoS2", "Mo sites", "--host"]),
        (superheavy, 6, ["atomic number 118"]),
    ],
)
def test_bad_input(make: Any, code: int, words: list[str]) -> None:
    make()
    assert_one_line(run("bad.extxyz", "--host", "MoS2", "--out", "out.cif"), code, "bad.extxyz: ", *words)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["defect.cif", "--out", "out.cif"], 2, ["no marker column", "give --host MoS2"]),
        (["defect.cif", "--host", "MoS3", "--out", "out.cif"], 2, ["unknown host 'MoS3'", "WSe2"]),
        (["marked.extxyz", "--marker-from-host", "--out", "out.cif"], 2, ["--marker-from-host", "--host"]),
        (["defect.cif", "--host", "MoS2", "--out", "out.doc"], 2, ["no structure format", "name.cif"]),
        (["defect.cif", "--host", "MoS2", "--out", "newdir/"], 2, ["no such folder", "make the folder first"]),
        (["defect.cif", "--host", "MoS2", "--out", "defect.cif"], 2, ["is the input itself"]),
        (["defect.cif", "--host", "MoS2", "--out", "out.cif", "--refine", "teacher"], 2, ["is not teacher:N"]),
        (["defect.cif", "--host", "MoS2", "--out", "out.cif", "--refine", "teacher:0"], 2, ["is not teacher:N"]),
        (["defect.cif", "--host", "MoS2", "--out", "out.cif", "--refine", "dft:3"], 2, ["is not teacher:N"]),
        (["defect.cif", "--host", "MoS2", "--out", "out.cif", "--refine", "teacher:3", "--relaxer", "teacher"], 2,
         ["does nothing"]),
        (["defect.cif", "--host", "MoS2", "--out", "out.cif", "--checkpoint", "m.safetensors", "--relaxer", "keep"], 2,
         ["--checkpoint does not go with --relaxer keep"]),
        (["defect.cif", "defect.cif", "--host", "MoS2", "--out", "results"], 2, ["several inputs"]),
        (["defect.cif", "--host", "MoS2", "--out", "none/out.cif"], 5, ["none is not a writable folder"]),
        (["defect.cif", "POSCAR", "--host", "MoS2", "--out", "defect.cif"], 5, ["defect.cif: ", "is no folder"]),
        (["defect.cif", "--host", "MoS2", "--out", "out.cif", "--device", "cuda"], 2, ["no device cuda"]),
        (["defect.cif", "--host", "MoS2", "--out", "out.cif", "--checkpoint", "no.safetensors"], 6,
         ["no.safetensors: no such checkpoint"]),
        (["defect.cif", "--host", "MoS2", "--out", "out.cif", "--checkpoint", "."], 6, ["is a folder, not"]),
        (["defect.cif", "--host", "MoS2", "--out", "out.cif", "--checkpoint", "defect.cif"], 6,
         ["defect.cif: not a readable safetensors file", "stemfit model import"]),
    ],
)  # fmt: skip
def test_bad_options(arguments: list[str], code: int, words: list[str]) -> None:
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is one")
    assert_one_line(run(*arguments), code, *words)


def test_the_network_must_not_see_itself_across_the_vacuum() -> None:
    """5.2 A are a vacuum for the shipped weights and the teacher, and within the 6 A of the published architecture."""
    flat(5.2)
    seeing = str(Path("far.safetensors"))
    save_checkpoint(Path(seeing), import_published(Path(__file__).parent / "data" / "ema_h32_l4.pt"))
    refused = run("bad.extxyz", "--host", "MoS2", "--out", "out.cif", "--checkpoint", seeing)
    assert_one_line(refused, 4, "5.20 A, 6 A are needed")
    assert run("bad.extxyz", "--host", "MoS2", "--out", "out.cif", "--relaxer", "keep").exit_code == 0


def test_the_help_says_what_extended_xyz_holds() -> None:
    columns = {"marker": BUILT.marker, "charge": np.ones(len(BUILT.marker))}
    write_structure(Path("in.extxyz"), BUILT.structure, Columns(columns, {"note": "mine"}))
    assert run("in.extxyz", "--out", "out.extxyz").exit_code == 0
    atoms = ase.io.read("out.extxyz")
    written = (set(atoms.arrays) - {"numbers", "positions"}) | set(atoms.info)
    text = " ".join(run("--help").stdout.split())
    told = text.partition("extended XYZ gets")[2].partition(".")[0]
    assert written == {word.strip(",") for word in told.split() if word not in ("and", "as", "far", "known")}
    assert "Other columns and facts of the input are not carried over" in text


def test_debug_shows_the_traceback() -> None:
    done = run("no.cif", "--out", "out.cif", "--debug")
    assert done.exit_code == 3 and done.stderr.startswith("Traceback")


def test_what_flies_apart_is_not_written() -> None:
    net = load_checkpoint(shipped())
    wild = {name: value * (1e3 if name == "springs.mlp.2.bias" else 1) for name, value in net.weights.items()}
    save_checkpoint(Path("wild.safetensors"), replace(net, weights=wild))
    options = ("--host", "MoS2", "--checkpoint", "wild.safetensors")
    assert_one_line(run("defect.cif", *options, "--out", "out.cif"), 4, "defect.cif: an atom would move by")
    assert not Path("out.cif").exists()


def test_the_teacher_is_the_one_that_taught(springs: None) -> None:
    net = load_checkpoint(shipped())
    foreign = replace(net, provenance=replace(net.provenance, teacher="PBE"))
    save_checkpoint(Path("foreign.safetensors"), foreign)
    asked = ("defect.cif", "--host", "MoS2", "--checkpoint", "foreign.safetensors", "--refine", "teacher:1")
    assert run(*asked, "--out", "a.cif").exit_code == 6
    named = said(*asked, "--out", "b.cif", "--potential", "springs:Springs")
    assert named["relaxer"]["teacher"] == "springs:Springs"
    usual = said(*asked[:3], "--refine", "teacher:1", "--out", "c.cif")
    assert usual["relaxer"]["teacher"] == net.provenance.teacher
    assert_one_line(run(*asked[:3], "--potential", "chgnet", "--out", "d.cif"), 2, "nothing asks it")
