"""The published layout, in a tiny folder made in it: what is read is what was written, borders included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer.testing
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

import cli
from definet import published
from definet.checkpoint import load_checkpoint
from definet.dataset import data_sha256, load, split
from definet.exceptions import InputFileError

# As published: 120 degrees, the layer not in the middle, a unit cell of another height than the defective ones.
MOS2 = Structure(
    Lattice.hexagonal(3.19032, 14.879),
    ["Mo", "S", "S"],
    [[2 / 3, 1 / 3, 0.75], [1 / 3, 2 / 3, 0.855174], [1 / 3, 2 / 3, 0.644826]],
)
# Two corners of the cell are sites, and the layer lies across the lower border.
HBN = Structure(Lattice.hexagonal(2.51243, 15.0), ["B", "N"], [[0, 0, 0], [1 / 3, 2 / 3, 0]])


def write(structure: Structure, path: Path, nudge: float = 0.0) -> None:
    """Write with fractional coordinates just below 1 where they are 0, as rounding leaves them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    moved = structure.copy()
    for k, site in enumerate(moved):
        moved.replace(k, site.species, (site.frac_coords - nudge) % 1.0)
    CifWriter(moved, significant_figures=8).write_file(path)


def high(unit: Structure, n: int) -> Structure:
    """Supercell with c set to 20 A, atoms at their Cartesian places (rounding must not send one a cell up)."""
    crystal = unit * (n, n, 1)
    cell, fractional = crystal.lattice.matrix.copy(), crystal.frac_coords
    there = (fractional - np.round(fractional) * [0, 0, 1]) @ cell
    cell[2, 2] = 20.0
    return Structure(Lattice(cell), crystal.species, there, coords_are_cartesian=True)


def moved(crystal: Structure, seed: int) -> tuple[Structure, np.ndarray]:
    """Relaxed structure and its displacements, with no net shift, as they were drawn."""
    shift = np.random.default_rng(seed).normal(0, 0.05, (len(crystal), 3))
    shift -= shift.mean(axis=0)
    there = crystal.cart_coords + shift
    return Structure(crystal.lattice, crystal.species, there, coords_are_cartesian=True), shift


def store(folder: Path, name: str, crystal: Structure, seed: int, nudge: float = 0.0) -> np.ndarray:
    relaxed, shift = moved(crystal, seed)
    write(crystal, folder / f"{name}_unrelaxed.cif", nudge)
    write(relaxed, folder / f"{name}_relaxed.cif")
    return shift


@pytest.fixture
def layout(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """hBN of high density and MoS2 of low density; displacements of each pair."""
    dense, sparse = tmp_path / "high_density_defects", tmp_path / "low_density_defects"
    write(HBN, dense / "BN.cif")
    write(MOS2, sparse / "MoS2.cif")
    boron = high(HBN, 4)
    boron.replace(20, "C")  # an N
    boron.remove_sites([0, 5])  # the B at the corner, and one more
    sulphur = MOS2 * (4, 4, 1)
    pair = [k for k, site in enumerate(sulphur) if site.specie.symbol == "S"]
    column = [k for k in pair if sulphur.get_distance(pair[0], k) < 3.2 and k != pair[0]]
    below = next(k for k in column if np.allclose(sulphur[k].coords[:2], sulphur[pair[0]].coords[:2]))
    both = sulphur.copy()
    both.remove_sites([pair[0], below])
    exchanged = sulphur.copy()
    exchanged.replace(pair[3], "Se")
    exchanged.replace(2, "W")
    shifts = {
        "bn-1": store(dense / "hBN_spin_500" / "CIF", "bn-1", boron, 1, 1e-9),
        "bn-2": store(dense / "hBN_spin_500" / "CIF", "bn-2", boron, 2, 4e-4),
        "mo-1": store(sparse / "MoS2" / "CIF_POSCAR", "mo-1", both, 3),
        "mo-2": store(sparse / "MoS2" / "CIF_POSCAR", "mo-2", exchanged, 4),
    }
    for folder, lists in (
        (dense / "hBN_spin_500", {"train": ["bn-1"], "val": ["bn-2"], "test": []}),
        (sparse / "MoS2", {"train": ["mo-1"], "val": [], "test": ["mo-2"]}),
    ):
        for part, ids in lists.items():
            (folder / f"{part}.csv").write_text("atoms_id,energy\n" + "".join(f"{name},0.0\n" for name in ids))
    return tmp_path, shifts


def test_what_was_written_is_read(layout: tuple[Path, dict[str, np.ndarray]]) -> None:
    root, shifts = layout
    samples = dict(zip(["bn-1", "bn-2", "mo-1", "mo-2"], load(root), strict=True))
    for name, sample in samples.items():
        atoms = sample.marker != 2
        assert np.all(np.diff(atoms.astype(int)) <= 0), "vacancy nodes come last"
        assert sample.displacement[atoms] == pytest.approx(shifts[name], abs=1e-6)
        assert np.all(sample.displacement[~atoms] == 0)
        assert sample.source == "PBE (2DMD)" and np.isnan(sample.energy_eV) and sample.shape == (4, 4)
    boron, sulphur, other = samples["bn-1"], samples["mo-1"], samples["mo-2"]
    assert boron.label == "C_N+V_B+V_B" and boron.host == "hBN" and len(boron.numbers) == 32
    assert boron.marker.tolist().count(1) == 1 and boron.numbers[boron.marker == 1].tolist() == [6]
    assert boron.numbers[boron.marker == 2].tolist() == [5, 5]
    corner = boron.positions[boron.marker == 2] @ np.linalg.inv(boron.cell)
    assert np.abs(corner - np.round(corner)).max(axis=1).min() == pytest.approx(0, abs=1e-6)
    assert sulphur.label == "V_S2" and other.label == "Se_S+W_Mo"
    assert sorted(other.numbers[other.marker == 1].tolist()) == [34, 74]
    assert boron.group == samples["bn-2"].group != sulphur.group
    assert boron.origin == "high_density_defects/hBN_spin_500/bn-1"


def test_high_density_cells_are_20_A_high_with_the_layer_in_one_piece(
    layout: tuple[Path, dict[str, np.ndarray]],
) -> None:
    root, _ = layout
    for sample in load(root / "high_density_defects"):
        assert sample.cell[2] == pytest.approx([0, 0, 20])
        assert np.ptp(sample.positions[:, 2]) < 0.05, "a flat layer at the border stays flat"
    (first, *_) = load(root / "low_density_defects" / "MoS2")
    assert first.cell[2] == pytest.approx([0, 0, 14.879])
    assert np.ptp(first.positions[:, 2]) == pytest.approx(0.210348 * 14.879, abs=1e-4)


def test_nearest_neighbours_are_those_of_the_pristine_crystal(layout: tuple[Path, dict[str, np.ndarray]]) -> None:
    """Nodes of the two hosts together fill the honeycomb: each has three at the bond length."""
    for sample, bond in zip(load(layout[0]), [2.51243 / 3**0.5] * 2 + [2.4137] * 2, strict=True):
        crystal = Structure(
            Lattice(sample.cell), sample.numbers.tolist(), sample.positions, coords_are_cartesian=True
        )
        counts = [len(near) for near in crystal.get_all_neighbors(bond + 0.1)]
        metal = np.isin(sample.numbers, [42, 74])
        assert counts == np.where(metal, 6, 3).tolist()


def test_the_published_split_is_kept(layout: tuple[Path, dict[str, np.ndarray]]) -> None:
    parts = split(load(layout[0]), seed=5)
    assert [sample.host for sample in parts["train"]] == ["hBN", "MoS2"]
    assert [sample.host for sample in parts["valid"]] == ["hBN"]
    assert [sample.host for sample in parts["test"]] == ["MoS2"]


def test_rounded_keys_would_have_failed_here(layout: tuple[Path, dict[str, np.ndarray]]) -> None:
    """The folder is a test: fractional coordinates of one file, rounded, miss sites of the pristine crystal."""
    cell = published.read_cif(layout[0] / "high_density_defects/hBN_spin_500/CIF/bn-1_unrelaxed.cif")
    fractional = np.round(cell.positions @ np.linalg.inv(cell.cell), 3)
    unit = published.read_cif(layout[0] / "high_density_defects/BN.cif")
    assert (fractional == 1.0).any() and not (np.round(unit.positions @ np.linalg.inv(unit.cell), 3) == 1.0).any()


def test_the_hash_follows_the_files(layout: tuple[Path, dict[str, np.ndarray]]) -> None:
    root, _ = layout
    before = data_sha256(root)
    assert data_sha256(root) == before
    with (root / "low_density_defects/MoS2/test.csv").open("a") as file:
        file.write("mo-1,0.0\n")
    assert data_sha256(root) != before


def test_what_is_wrong_is_said(layout: tuple[Path, dict[str, np.ndarray]]) -> None:
    root, _ = layout
    folder = root / "low_density_defects" / "MoS2"

    def refused(words: str) -> None:
        with pytest.raises(InputFileError, match=words) as caught:
            load(folder)
        assert caught.value.exit_code == 3

    pair = folder / "CIF_POSCAR" / "mo-1_relaxed.cif"
    whole = pair.read_text()
    pair.unlink()
    refused("mo-1_relaxed.cif cannot be read")
    pair.write_text(whole.replace("_cell_length_b", "_cell_length_d"))
    refused("no readable CIF")
    pair.write_text("\n".join(whole.splitlines()[:-1]))
    refused("same atoms")
    pair.write_text(whole)
    first = folder / "CIF_POSCAR" / "mo-1_unrelaxed.cif"
    text = first.read_text()
    atoms = published.read_cif(first)
    shifted = Structure(Lattice(atoms.cell), atoms.numbers.tolist(), atoms.positions, coords_are_cartesian=True)
    shifted.translate_sites([0], [0.08, 0.08, 0.0])
    CifWriter(shifted).write_file(first)
    refused("off any site")
    first.write_text(text)
    write(MOS2.copy().apply_strain(0.1, inplace=False), root / "low_density_defects" / "MoS2.cif")
    refused("unit cells of the host")
    (folder / "train.csv").write_text("name\nmo-1\n")
    refused("atoms_id")


def test_the_network_is_trained_on_it(layout: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    options = ("--channels", "8", "--layers", "1", "--steps", "1", "--out", str(tmp_path / "run"))
    done = typer.testing.CliRunner().invoke(cli.app, ["train", "--data", str(layout[0]), *options])
    assert done.exit_code == 0 and "2 to learn from, 1 to validate on" in done.stdout, done.stderr
    seen = load_checkpoint(tmp_path / "run" / "best.safetensors").provenance
    assert seen.teacher == "PBE (2DMD)" and seen.hosts["hBN"].elements == ("B", "C", "N")
    assert seen.hosts["MoS2"].a_A == pytest.approx(3.19032)
    assert (seen.hosts["hBN"].structures, seen.hosts["hBN"].kinds) == (1, ()), "once seen is not learnt"
