"""Read the published training set: 2DMD as released with DefiNet (Zenodo 14027373).

Huang et al., npj 2D Mater. Appl. 7, 6 (2023) made it, Yang et al., arXiv:2503.15391 trained on it: PBE, 500 eV, forces
below 0.01 eV/A. Pairs of CIF files, unrelaxed and relaxed, of supercells whose pristine unit cell lies beside them::

    high_density_defects/{MoS2,WSe2,BN,GaSe,InSe,P}.cif
    high_density_defects/{MoS2_500,WSe2_500,hBN_spin_500,GaSe_spin_500,InSe_spin_500,BP_spin_500}/
        {train,val,test}.csv, CIF/<atoms_id>_{unrelaxed,relaxed}.cif
    low_density_defects/{MoS2,WSe2}.cif
    low_density_defects/{MoS2,WSe2}/{train,val,test}.csv, CIF_POSCAR/<atoms_id>_{unrelaxed,relaxed}.cif

What is missing follows from the pristine supercell, by distance under periodic boundaries: coordinates rounded to
three digits, as keys of a table, take 0.0004 and 0.9996 for two sites.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from definet.exceptions import InputFileError
from definet.samples import Sample
from definet.scenes import fingerprint

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SOURCE = "PBE (2DMD)"
PARTS = {"train": "train", "val": "valid", "test": "test"}
"""Names of the published files, and of the parts as `definet.dataset.split` calls them."""
HIGH_DENSITY_C_A = 20.0
"""Height of the cells of high density; their unit cells' files say something else."""
SITE_A = 0.5
"""An atom nearer than this stands on a site: less than half of the shortest bond, that of B-N, 1.45 A."""

_FOLDERS = {
    "MoS2": ("MoS2", "MoS2"),
    "WSe2": ("WSe2", "WSe2"),
    "MoS2_500": ("MoS2", "MoS2"),
    "WSe2_500": ("WSe2", "WSe2"),
    "hBN_spin_500": ("BN", "hBN"),
    "GaSe_spin_500": ("GaSe", "GaSe"),
    "InSe_spin_500": ("InSe", "InSe"),
    "BP_spin_500": ("P", "blackP"),
}
"""Host's file and host of each folder."""


class Layer(NamedTuple):
    """What a CIF file holds: cell (3, 3) as rows and Cartesian positions (N, 3), Angstrom; atomic numbers (N,)."""

    cell: FloatArray
    numbers: IntArray
    positions: FloatArray


@dataclass(frozen=True, eq=False)
class Sites:
    """Ideal supercell: what belongs where.

    Attributes
    ----------
    numbers : (S,) array
    positions : (S, 3) array
        Cartesian, Angstrom; the layer is in one piece along z.
    column : (S,) array
        Equal for sites above one another.
    shape : (n, m)
    a_A : float
        Lattice constant of the unit cell.
    """

    numbers: IntArray
    positions: FloatArray
    column: IntArray
    shape: tuple[int, int]
    a_A: float


def folders(root: Path) -> list[Path]:
    """Folders of the published layout in `root`: itself, or up to two levels below; empty if it is none."""
    found = (path.parent for level in ("", "*/", "*/*/") for path in root.glob(f"{level}*.csv"))
    return sorted({path for path in found if path.name in _FOLDERS and (path / "train.csv").exists()})


def load(root: Path) -> list[Sample]:
    """Read all pairs of the folders in `root`; `Sample.part` says what the published split uses them for.

    Energies and the largest force left are not in these files: NaN.

    Raises
    ------
    InputFileError
        If a file is missing or damaged, or an atom stands on no site of the host.
    """
    return [found for folder in folders(root) for found in _of_folder(folder)]


def data_sha256(root: Path) -> str:
    """Hash of all lists and structures in `root`, in their order."""
    digest = hashlib.sha256()
    for folder in folders(root):
        for path in [*sorted(folder.glob("*.csv")), *sorted(folder.glob("CIF*/*.cif"))]:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _of_folder(folder: Path) -> Iterator[Sample]:
    file, host = _FOLDERS[folder.name]
    unit = read_cif(folder.parent / f"{file}.cif")
    dense = folder.parent.name == "high_density_defects"
    cifs = folder / ("CIF" if dense else "CIF_POSCAR")
    for part, name in PARTS.items():
        for atoms_id in _ids(folder / f"{part}.csv"):
            before, after = (read_cif(cifs / f"{atoms_id}_{state}.cif") for state in ("unrelaxed", "relaxed"))
            try:
                found = pair(unit, before, after, host, HIGH_DENSITY_C_A if dense else None)
                yield replace(found, part=name, origin=f"{folder.parent.name}/{folder.name}/{atoms_id}")
            except ValueError as error:
                remedy = "Take it out of the list, or get the file again."
                raise InputFileError(f"{cifs / atoms_id}_unrelaxed.cif: {error}", remedy) from error


def pair(unit: Layer, before: Layer, after: Layer, host: str, c_A: float | None = None) -> Sample:
    """Match a defective supercell to its pristine one.

    Parameters
    ----------
    unit : Layer
        Pristine unit cell.
    before, after : Layer
        The same atoms in the same order, unrelaxed and relaxed.
    host : str
    c_A : float, optional
        Height that the cell gets; the atoms keep their Cartesian coordinates.

    Returns
    -------
    Sample
        The atoms in the order of the file, then the vacancy nodes.

    Raises
    ------
    ValueError
        If both do not hold the same atoms, or one stands on no site or on an occupied one.
    """
    if not np.array_equal(before.numbers, after.numbers):
        raise ValueError("the relaxed structure does not hold the same atoms in the same order")
    sites = ideal(unit, before)
    offset = _nearest(before.positions[:, None] - sites.positions[None], before.cell)  # (N, S, 3)
    distance = np.linalg.norm(offset, axis=2)
    site = distance.argmin(axis=1)
    worst = int(distance.min(axis=1).argmax())
    if distance[worst].min() > SITE_A:
        symbol = chemical_symbols[before.numbers[worst]]
        raise ValueError(f"{symbol} number {worst + 1} is {distance[worst].min():.2f} A off any site of {host}")
    if len(set(site.tolist())) < len(site):
        raise ValueError("two atoms stand on one site")
    empty = np.setdiff1d(np.arange(len(sites.numbers)), site)
    start = sites.positions[site] + offset[np.arange(len(site)), site]
    moved = _nearest(after.positions - start, before.cell)
    moved -= moved.mean(axis=0)
    cell = before.cell.copy()
    if c_A is not None:
        cell[2] = [0.0, 0.0, c_A]
    order = np.concatenate([site, empty])
    now = np.concatenate([before.numbers, np.zeros(len(empty), np.int64)])
    positions = np.concatenate([start, sites.positions[empty]])
    label, group = _names(sites, order, now, positions, cell, host)
    return Sample(
        numbers=np.where(now > 0, now, sites.numbers[order]),
        positions=positions,
        relaxed=positions + np.concatenate([moved, np.zeros((len(empty), 3))]),
        cell=cell,
        marker=np.where(now == 0, 2, np.where(now == sites.numbers[order], 0, 1)),
        host=host,
        label=label,
        source=SOURCE,
        group=group,
        converged=True,
        energy_eV=float("nan"),
        initial_energy_eV=float("nan"),
        shape=sites.shape,
        fmax_eV_A=float("nan"),
    )


def ideal(unit: Layer, whole: Layer) -> Sites:
    """Repeat a unit cell until it fills the in-plane vectors of a supercell.

    Raises
    ------
    ValueError
        If that takes no whole number of unit cells.
    """
    cell = whole.cell
    repeats = np.linalg.norm(cell[:2], axis=1) / np.linalg.norm(unit.cell[:2], axis=1)
    n, m = (int(number) for number in np.round(repeats))
    wanted = unit.cell[:2] * np.array([[n], [m]])
    if min(n, m) < 1 or np.abs(wanted - cell[:2]).max() > SITE_A:
        raise ValueError(f"its cell is {repeats[0]:.3f} x {repeats[1]:.3f} unit cells of the host")
    basis = _at_level(_in_one_piece(unit), unit, whole)
    i, j, k = np.indices((n, m, len(basis))).reshape(3, -1)
    flat = np.round(_nearest(basis[:, None] - basis[None], unit.cell)[..., :2], 3)
    first = (np.abs(flat).sum(axis=2) == 0).argmax(axis=1)
    return Sites(
        numbers=unit.numbers[k],
        positions=basis[k] + i[:, None] * cell[0] / n + j[:, None] * cell[1] / m,
        column=(i * m + j) * len(basis) + first[k],
        shape=(n, m),
        a_A=float(np.linalg.norm(unit.cell[0])),
    )


def read_cif(path: Path) -> Layer:
    """Read a structure without symmetry, as all of these are; three times as fast as a general reader.

    Raises
    ------
    InputFileError
        If it is missing, unreadable, or lists part of its atoms by symmetry alone.
    """
    from pymatgen.core.lattice import Lattice
    from pymatgen.io.cif import CifFile

    try:
        block = next(iter(CifFile.from_str(path.read_text()).data.values()))
        lengths = [_number(block[f"_cell_length_{axis}"]) for axis in "abc"]
        angles = [_number(block[f"_cell_angle_{axis}"]) for axis in ("alpha", "beta", "gamma")]
        fractional = np.array([[_number(text) for text in block[f"_atom_site_fract_{axis}"]] for axis in "xyz"]).T
        numbers = [atomic_numbers[symbol.rstrip("0123456789+-")] for symbol in block["_atom_site_type_symbol"]]
        operations = block.data.get("_symmetry_equiv_pos_as_xyz", ["x, y, z"])
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError, IndexError, StopIteration) as error:
        raise InputFileError(f"{path} is no readable CIF file: {' '.join(str(error).split())}") from error
    if len(operations) != 1 or len(fractional) == 0:
        raise InputFileError(f"{path} holds no list of all atoms", "Write it without symmetry (P 1).")
    cell = Lattice.from_parameters(*lengths, *angles, vesta=True).matrix
    return Layer(cell, np.array(numbers, np.int64), fractional @ cell)


def _number(text: str) -> float:
    """A number that may carry its uncertainty, "0.3333(2)"."""
    return float(text.partition("(")[0])


def _ids(path: Path) -> list[str]:
    try:
        with path.open(newline="") as stream:
            return [row["atoms_id"] for row in csv.DictReader(stream)]
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise InputFileError(f"{path} is no list with a column atoms_id") from error


def _nearest(vector: FloatArray, cell: FloatArray) -> FloatArray:
    """Shortest of the periodic images of vectors (..., 3) that are much shorter than the cell."""
    fractional = vector @ np.linalg.inv(cell)
    return np.asarray(vector - np.round(fractional) @ cell)


def _in_one_piece(unit: Layer) -> FloatArray:
    """Positions of a unit cell's atoms, none across the lower border from the others: cut where the vacuum is."""
    fractional = unit.positions @ np.linalg.inv(unit.cell)
    height = np.sort(fractional[:, 2] % 1.0)
    gaps = np.append(height[1:], height[0] + 1) - height
    floor = height[(int(gaps.argmax()) + 1) % len(height)]
    fractional[:, 2] = floor + (fractional[:, 2] - floor + 1e-9) % 1.0 - 1e-9
    return np.asarray(fractional @ unit.cell)


def _at_level(basis: FloatArray, unit: Layer, whole: Layer) -> FloatArray:
    """The image of a layer along its own c that lies where the supercell's does, whose cell may be higher."""

    def off(lift: int) -> float:
        height = whole.positions[:, None, 2] - basis[None, :, 2] - lift * unit.cell[2, 2]
        return float(np.abs(height - np.round(height / whole.cell[2, 2]) * whole.cell[2, 2]).min(axis=1).sum())

    return np.asarray(basis + min((0, -1, 1), key=off) * unit.cell[2])


def _names(
    sites: Sites, order: IntArray, now: IntArray, positions: FloatArray, cell: FloatArray, host: str
) -> tuple[str, str]:
    """Label and configuration of what differs from the pristine crystal.

    Only what stands in one column is taken together (V_S2, Se2_S2): complexes keep the names of their parts.
    """
    changed = np.flatnonzero(now != sites.numbers[order])
    columns: dict[tuple[int, int, int], int] = {}
    for node in changed:
        key = (int(sites.column[order[node]]), int(sites.numbers[order[node]]), int(now[node]))
        columns[key] = columns.get(key, 0) + 1
    labels = [_label(belongs, there, count) for (_, belongs, there), count in columns.items()]
    kinds = [
        f"{chemical_symbols[sites.numbers[order[node]]]}>{chemical_symbols[now[node]] if now[node] else ''}"
        for node in changed
    ]
    label = "+".join(sorted(labels)) or "pristine"
    return label, fingerprint(host, label, kinds, positions[changed], cell, sites.a_A)


def _label(belongs: int, there: int, count: int) -> str:
    many = str(count) if count > 1 else ""
    old = chemical_symbols[belongs] + many
    return f"V_{old}" if there == 0 else f"{chemical_symbols[there]}{many}_{old}"
