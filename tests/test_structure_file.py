"""Structures survive the file in three formats, in their order; what is wrong with one is an error with its code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from frames import Frame

from definet.exceptions import DefinetError, InputFileError, OptionError, OutputError, StructureError
from definet.layer import check_layer, closest
from definet.markers import nodes_of
from definet.structure_file import Columns, checked_marker, file_format, read_structure, write_structure
from definet.structures import build, elements_of, pristine

BUILT = build(pristine("MoS2", 4), "SVL-2")
SHUFFLED = Frame(0.0, (0.3, 0.2, 0.1), seed=7)(BUILT.atoms)


@pytest.mark.parametrize("name", ["a.cif", "POSCAR", "POSCAR_7", "CONTCAR", "a.vasp", "a.extxyz", "a.xyz"])
def test_round_trip_keeps_atoms_cell_and_order(name: str, tmp_path: Path) -> None:
    write_structure(tmp_path / name, SHUFFLED)
    read = read_structure(tmp_path / name)
    assert elements_of(read.structure) == elements_of(SHUFFLED) and read.marker is None
    assert elements_of(SHUFFLED) != sorted(elements_of(SHUFFLED)), "sorting would show"
    np.testing.assert_allclose(read.structure.lattice.parameters, SHUFFLED.lattice.parameters, atol=1e-6)
    tolerance = 1e-7 if name.startswith(("a.e", "a.x")) is False else 1e-6  # extended XYZ: 8 decimals of Cartesian
    np.testing.assert_allclose(read.structure.frac_coords, SHUFFLED.frac_coords, atol=tolerance)
    assert os.listdir(tmp_path) == [name]


def test_coordinates_are_not_wrapped(tmp_path: Path) -> None:
    far = Frame(0.4, (31.0, -17.0, 0.0), wrapped=False)(BUILT.atoms)
    for name in ("POSCAR", "a.extxyz"):  # of a CIF, all positions are images of those inside the cell
        write_structure(tmp_path / name, far)
        np.testing.assert_allclose(read_structure(tmp_path / name).structure.frac_coords, far.frac_coords, atol=1e-6)


def test_markers_and_columns(tmp_path: Path) -> None:
    path, count = tmp_path / "a.extxyz", len(BUILT.structure)
    move = np.arange(3.0 * count).reshape(-1, 3)
    write_structure(path, BUILT.structure, Columns({"marker": BUILT.marker, "displacement_A": move}, {"host": "MoS2"}))
    np.testing.assert_array_equal(read_structure(path).marker, BUILT.marker)
    stored = ase.io.read(path)
    np.testing.assert_allclose(stored.arrays["displacement_A"], move)
    assert stored.info["host"] == "MoS2" and stored.pbc.all()


def test_files_of_other_programs(tmp_path: Path) -> None:
    """A CIF with symmetry, a POSCAR with selective dynamics and a scale."""
    (tmp_path / "a.cif").write_text(
        "data_x\n_cell_length_a 3.16\n_cell_length_b 3.16\n_cell_length_c 20\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 90\n_cell_angle_gamma 120\n_symmetry_space_group_name_H-M 'P -6 m 2'\n"
        "_symmetry_Int_Tables_number 187\nloop_\n"
        "_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
        "Mo1 Mo 0.3333 0.6667 0.5\nS1 S 0.6667 0.3333 0.57825\n"
    )
    assert sorted(elements_of(read_structure(tmp_path / "a.cif").structure)) == ["Mo", "S", "S"]
    (tmp_path / "POSCAR").write_text(
        "layer\n2.0\n1.58 0 0\n-0.79 1.36832 0\n0 0 10\nMo S\n1 2\nSelective dynamics\nDirect\n"
        "0 0 0.5 F F F\n0.333333 0.666667 0.57825 T T T\n0.333333 0.666667 0.42175 T T T\n"
    )
    read = read_structure(tmp_path / "POSCAR").structure
    assert elements_of(read) == ["Mo", "S", "S"] and read.lattice.a == pytest.approx(3.16)
    assert "constraints" in read_structure(tmp_path / "POSCAR").warnings[0]
    assert nodes_of(read_structure(tmp_path / "POSCAR"), "MoS2").warnings[0].startswith("constraints")


# -- what is wrong -------------------------------------------------------------------------------------------------

XYZ = 'Lattice="9 0 0 0 9 0 0 0 20" Properties=species:S:1:pos:R:3{columns} pbc="T T T"{facts}\n'


def xyz(rows: list[str], columns: str = "", facts: str = "") -> str:
    return f"{len(rows)}\n{XYZ.format(columns=columns, facts=facts)}" + "\n".join(rows) + "\n"


TWO = ["Mo 0 0 5", "S 2 0 5"]
CIF_HALF = """data_x
_cell_length_a 3
_cell_length_b 3
_cell_length_c 20
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Mo1 Mo 0 0 0.5 0.5
W1 W 0 0 0.5 0.5
"""


@pytest.mark.parametrize(
    ("name", "text", "code", "word"),
    [
        ("none.cif", None, 3, "no such file"),
        ("a.pdf", "x", 3, "no structure format"),
        ("a.cif", "no structure, only words", 3, "not readable as cif"),
        ("a.cif", "", 3, "not readable as cif"),
        ("POSCAR", "words\nand\nmore words\n", 3, "not readable as vasp"),
        ("POSCAR", "x\n1.0\n3 0 0\n0 3 0\n0 0 20\nMo S\n1 2\nDirect\n0 0 0.5\n", 3, "not readable as vasp"),
        ("a.extxyz", "5\n" + xyz(TWO).split("\n", 1)[1], 3, "not readable as extxyz"),
        ("a.extxyz", b"\x00\xff\xfe" * 40, 3, "not readable as extxyz"),
        ("POSCAR", "x\n1.0\n3 0 0\n0 3 0\n0 0 20\nMo Qq\n1 1\nDirect\n0 0 0.5\n0.5 0.5 0.5\n", 4, "Qq"),
        ("a.extxyz", xyz(["Mo 0 0 5", "Qq 2 0 5"]), 4, "unknown element.*Qq"),
        ("a.extxyz", xyz(["Mo 0 0 5", "X 2 0 5"]), 4, "unknown element X"),
        ("a.extxyz", xyz(TWO) * 2, 4, "2 structures"),
        ("a.xyz", "2\nplain\nMo 0 0 5\nS 2 0 5\n", 4, "no cell"),
        ("a.extxyz", xyz(["Mo 0 0 nan", "S 2 0 5"]), 4, "not finite"),
        ("a.cif", CIF_HALF, 4, "partially occupied"),
        ("a.extxyz", xyz(["Mo 0 0 5 0", "S 2 0 5 3"], ":marker:I:1"), 4, "marker 3 of node 2"),
        ("a.extxyz", xyz(["Mo 0 0 5 0.5", "S 2 0 5 1"], ":marker:R:1"), 4, "marker 0.5 of node 1"),
        ("a.extxyz", xyz(["Mo 0 0 5 a", "S 2 0 5 b"], ":marker:S:1"), 4, "marker a of node 1"),
        ("a.extxyz", xyz(["Mo 0 0 5 0 1", "S 2 0 5 1 1"], ":marker:I:2"), 4, "4 markers in the shape"),
        ("a.extxyz", xyz(TWO, facts=' marker="0 1 2"'), 4, "3 markers"),
    ],
)  # fmt: skip
def test_bad_files(name: str, text: str | bytes | None, code: int, word: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DefinetError, match=word) as caught:
        read_structure(path)
    assert caught.value.exit_code == code and name in str(caught.value)
    assert "\n" not in str(caught.value) + caught.value.remedy


@pytest.mark.parametrize("occupancy", [True, False])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2e-4])
def test_an_atom_that_a_cif_lists_twice_is_not_dropped(occupancy: bool, shift: float, tmp_path: Path) -> None:
    """ASE makes one atom of two sites at one place, or of images of one."""
    path = tmp_path / "a.cif"
    rows = [(str(site.specie), *site.frac_coords % 1.0) for site in BUILT.atoms]
    symbol, x, y, z = rows[-1]

    def written(listed: list[tuple[str, float, float, float]]) -> None:
        head = CIF_HALF.replace("_a 3\n", "_a 12.76\n").replace("_b 3\n", "_b 12.76\n").replace("gamma 90", "gamma 60")
        head = head.split("Mo1")[0] if occupancy else head.split("_atom_site_occupancy")[0]
        lines = [f"{s}{k} {s} {u} {v} {w}{' 1.0' * occupancy}" for k, (s, u, v, w) in enumerate(listed)]
        path.write_text(head + "\n".join(lines) + "\n")

    written(rows)
    assert len(read_structure(path).structure) == len(rows)
    written([*rows, (symbol, x + shift, y, z)])
    with pytest.raises(StructureError, match=f"sites {len(rows)} and {len(rows) + 1} .* same place") as caught:
        read_structure(path)
    assert caught.value.exit_code == 4


def test_a_folder_is_no_structure(tmp_path: Path) -> None:
    (tmp_path / "a.cif").mkdir()
    with pytest.raises(InputFileError, match="is a folder"):
        read_structure(tmp_path / "a.cif")


def test_markers_of_the_wrong_length() -> None:
    with pytest.raises(StructureError, match="2 markers"):
        checked_marker([0, 1], 3)
    assert checked_marker([0.0, 2.0, 1.0], 3).tolist() == [0, 2, 1]


def test_names_that_stand_for_formats() -> None:
    named = {"x.CIF": "cif", "POSCAR.old": "vasp", "poscar": "vasp", "x.xyz": "extxyz", "x.pdb": None, "x": None}
    assert {name: file_format(Path(name)) for name in named} == named


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.cif").mkdir()
    cases: list[tuple[str, type[DefinetError]]] = [
        ("a.doc", OptionError), ("none/a.cif", OutputError), ("folder.cif", OutputError)
    ]  # fmt: skip
    for name, kind in cases:
        with pytest.raises(kind):
            write_structure(tmp_path / name, SHUFFLED)
    assert os.listdir(tmp_path) == ["folder.cif"]


def test_what_stood_there_stays_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.cif"
    path.write_text("mine")

    def full(*args: object, **kwargs: object) -> None:
        Path(args[0]).write_text("half")  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ase.io, "write", full)
    with pytest.raises(OutputError, match="No space left"):
        write_structure(path, SHUFFLED)
    assert path.read_text() == "mine" and os.listdir(tmp_path) == ["a.cif"]


# -- what is no layer ----------------------------------------------------------------------------------------------


def tilted() -> Atoms:
    return Atoms("Mo", [[0, 0, 5]], cell=[[3, 0, 0], [0, 3, 0], [1, 0, 20]])


def bulk() -> Atoms:
    return Atoms("Mo2", [[0, 0, 1], [1.5, 1.5, 4]], cell=[3, 3, 6.5])


def clash() -> Atoms:
    """Closer across the border than inside."""
    return Atoms("Mo2", [[0.1, 0, 5], [5.8, 0, 5]], cell=[6, 6, 20])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (tilted, "c is 87.1 degrees"),
        (bulk, "no vacuum: the largest gap along c is 3.50 A, 5 A"),
        (clash, "nodes 1 and 2 are 0.30 A"),
    ],
)
def test_what_cannot_be_relaxed_as_a_layer(make: Callable[[], Atoms], word: str, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.extxyz", make())
    with pytest.raises(StructureError, match=word) as caught:
        check_layer(read_structure(tmp_path / "a.extxyz").structure)
    assert caught.value.exit_code == 4


def test_a_layer_across_the_border_of_the_cell_is_one() -> None:
    atoms = Frame(0.0, (0, 0, 11.6))(BUILT.atoms)
    assert np.ptp(atoms.frac_coords[:, 2]) > 0.5
    check_layer(atoms)
    assert closest(atoms, 3.0)[2] == pytest.approx(2.40, abs=0.02)  # type: ignore[index]
