"""Hosts from CIF files: what is accepted, what is refused with which exit code, and what is recognised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from patterns import write_cif

from definet.crystals import HOSTS, unit_cell
from stemfit.crystal_file import asked_host, read_host
from stemfit.defects import hypotheses
from stemfit.errors import InputError, UnknownHost, UsageError
from stemfit.hosts import projected
from stemfit.imaging import foreign_columns

SQUARE = [("Fe", 0.0, 0.0, 0.55), ("Fe", 0.0, 0.0, 0.45), ("Se", 0.5, 0.5, 0.5)]


@pytest.mark.parametrize("name", HOSTS)
def test_a_listed_crystal_is_recognised_with_the_scale_of_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "layer.cif"
    unit_cell(name, 1.01 * HOSTS[name].a_exp_A).to(filename=str(path))
    host, listed = read_host(path), projected(name)
    # Hosts of one element and the same cell cannot be confused: the elements are in the column types.
    assert (host.name, host.sublattices, host.columns) == (name, listed.sublattices, listed.columns)
    assert host.a_A == pytest.approx(1.01 * listed.a_A, rel=1e-6)
    assert host.honeycomb == listed.honeycomb


def test_mos2_is_recognised_in_the_usual_setting_and_wherever_it_lies(tmp_path: Path) -> None:
    """120 degrees, sulphur first, origin anywhere, the layer across the boundary of the cell."""
    atoms = [("S", 1 / 3, 2 / 3, 0.08), ("S", 1 / 3, 2 / 3, 0.92), ("Mo", 2 / 3, 1 / 3, 0.0)]
    moved = [(e, u + 0.2, v + 0.13, w) for e, u, v, w in atoms]
    host = read_host(write_cif(tmp_path / "x.cif", (3.19, 3.19, 20, 90, 90, 120), moved))
    assert (host.name, host.columns, host.honeycomb) == ("MoS2", ("Mo", "S2"), True)
    assert host.a_A == pytest.approx(3.19)


def test_black_phosphorus_is_recognised_with_its_axes_exchanged(tmp_path: Path) -> None:
    atoms = [(p.element, p.v, p.u, 0.5 + p.z_A / 20) for p in HOSTS["blackP"].basis]
    host = read_host(write_cif(tmp_path / "p.cif", (4.3763, 3.3136, 20, 90, 90, 90), atoms))
    assert host == projected("blackP") or (host.name, host.cell) == ("blackP", projected("blackP").cell)


@pytest.mark.parametrize(
    ("atoms", "cell"),
    [
        # 1T: as the H phase in formula and cell, three columns from above.
        ([("Mo", 0, 0, 0.5), ("S", 1 / 3, 2 / 3, 0.58), ("S", 2 / 3, 1 / 3, 0.42)], (3.19, 3.19, 20, 90, 90, 120)),
        # A cell that differs by more than functionals do.
        ([("Mo", 0, 0, 0.5), ("S", 1 / 3, 2 / 3, 0.58), ("S", 1 / 3, 2 / 3, 0.42)], (3.4, 3.4, 20, 90, 90, 120)),
        # Four P a cell in another place.
        ([("P", 0, 0.1, 0.5), ("P", 0.5, 0.4, 0.5), ("P", 0, 0.6, 0.5), ("P", 0.5, 0.9, 0.5)],
         (3.31, 4.38, 20, 90, 90, 90)),
    ],
)  # fmt: skip
def test_what_only_resembles_a_listed_crystal_is_its_own(tmp_path: Path, atoms: list, cell: tuple) -> None:
    host = read_host(write_cif(tmp_path / "MoS2.cif", cell, atoms))
    assert host.name == "MoS2.cif"  # not "MoS2", whose network would be used
    assert not host.honeycomb


def test_columns_are_stacks_of_atoms_and_the_first_is_the_origin(tmp_path: Path) -> None:
    path = write_cif(tmp_path / "x.cif", (3.9, 3.9, 20, 90, 90, 90), SQUARE)
    host = read_host(path)
    assert (host.sublattices, host.columns) == (("A", "B"), ("Fe2", "Se"))
    assert host.cell.basis == ((0.0, 0.0), (0.5, 0.5))
    assert [host.structure.basis[k].element for k in host.column_atoms("A")] == ["Fe", "Fe"]
    low, high = (host.structure.basis[k].z_A for k in host.column_atoms("A"))
    assert high - low == pytest.approx(2.0)
    leaning = [("Fe", 0.03, 0.99, 0.55), ("Fe", 0.99, 0.01, 0.45), ("Se", 0.5, 0.5, 0.5)]  # 0.18 A apart, over the edge
    host = read_host(write_cif(tmp_path / "y.cif", (3.9, 3.9, 20, 90, 90, 90), leaning))
    assert host.columns == ("Fe2", "Se")
    assert np.allclose(host.cell.basis[1], (0.49, 0.5), atol=1e-6)


def test_an_oblique_cell_keeps_its_axes_and_its_hand(tmp_path: Path) -> None:
    atoms = [("Re", 0, 0, 0.5), ("S", 0.3, 0.1, 0.5)]
    host = read_host(write_cif(tmp_path / "x.cif", (6.4, 6.5, 20, 90, 90, 106), atoms))
    (ax, ay), (bx, by) = host.cell.plane
    assert (ax, ay) == pytest.approx((6.4, 0))
    assert (bx, by) == pytest.approx((6.5 * np.cos(np.radians(106)), 6.5 * np.sin(np.radians(106))))
    over = host.turned_over()
    (_, _), (cx, cy) = over.cell.plane
    assert (cx, cy) == pytest.approx((-bx, by))
    assert over.cell.basis[1] == pytest.approx((0.3, 0.9))
    assert over.name == host.name


@pytest.mark.parametrize(
    ("cell", "atoms", "word"),
    [
        ((3.9, 3.9, 20, 90, 80, 90), SQUARE, "normal"),
        ((3.9, 3.9, 6, 90, 90, 90), [("Fe", 0, 0, 0.0), ("Se", 0.5, 0.5, 0.5)], "vacuum"),
        ((3.16, 3.16, 6.1, 90, 90, 120),
         [("Mo", 0, 0, 0.5), ("S", 1 / 3, 2 / 3, 0.756), ("S", 1 / 3, 2 / 3, 0.244)], "vacuum"),
    ],
)  # fmt: skip
def test_what_is_no_layer_is_refused_in_one_line(tmp_path: Path, cell: tuple, atoms: list, word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        read_host(write_cif(tmp_path / "x.cif", cell, atoms))
    assert caught.value.exit_code == 2
    assert "x.cif" in str(caught.value) and "\n" not in str(caught.value)


def test_a_partly_occupied_site_is_refused(tmp_path: Path) -> None:
    path = write_cif(tmp_path / "x.cif", (3.9, 3.9, 20, 90, 90, 90), SQUARE, occupancy=0.5)
    with pytest.raises(UsageError, match="occupied"):
        read_host(path)


def test_what_cannot_be_read_is_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "notes.cif").write_text("Notes of Tuesday.\n")
    (tmp_path / "empty.cif").write_bytes(b"")
    whole = write_cif(tmp_path / "x.cif", (3.9, 3.9, 20, 90, 90, 90), SQUARE).read_text()
    (tmp_path / "half.cif").write_text(whole[: len(whole) // 3])
    for name in ("no.cif", "notes.cif", "empty.cif", "half.cif"):
        with pytest.raises(InputError) as caught:
            asked_host(str(tmp_path / name))
        assert caught.value.exit_code == 3
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_user_means_by_host() -> None:
    assert asked_host("auto") is None
    meant = asked_host("GaSe")
    assert meant is not None and meant.name == "GaSe"
    with pytest.raises(UnknownHost):
        asked_host("GaSe2")


def test_every_atom_of_a_stack_has_a_brightness(tmp_path: Path) -> None:
    """Vacancies of a column are scored by the brightness of what is missing."""
    janus = [("Mo", 0, 0, 0.5), ("S", 1 / 3, 2 / 3, 0.58), ("Se", 1 / 3, 2 / 3, 0.42)]
    host = read_host(write_cif(tmp_path / "janus.cif", (3.25, 3.25, 20, 90, 90, 120), janus))
    assert host.columns == ("Mo", "SSe")
    assert set(foreign_columns(host)) == {"S", "Se"}
    assert [h.label for h in hypotheses(host, "B")] == ["pristine", "V_SSe", "ADATOM", "UNKNOWN"]
