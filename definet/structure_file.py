"""Read structures with their defect markers, and write relaxed ones: CIF, POSCAR, extended XYZ, by the file's name.

The order of the atoms is that of the file, and stays. Only extended XYZ can hold markers: a column `marker` of 0, 1, 2,
in which vacancy nodes are listed like atoms, with the missing element.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from definet.exceptions import InputFileError, OptionError, OutputError, StructureError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core.structure import Structure

FloatArray = NDArray[np.float64]

FORMATS = "name.cif, POSCAR..., CONTCAR..., name.vasp, name.extxyz or name.xyz"


@dataclass(frozen=True, eq=False)
class StructureFile:
    """What a file says.

    Attributes
    ----------
    structure : pymatgen Structure
        All nodes in the order of the file, coordinates as they stand there (not wrapped).
    marker : (N,) int64 array or None
        0 pristine, 1 exchanged or added, 2 vacancy node; None where the file says nothing of it.
    warnings : tuple of str
        What of the file is not heeded.
    """

    structure: Structure
    marker: NDArray[np.int64] | None
    warnings: tuple[str, ...] = ()


def file_format(path: Path) -> str | None:
    """Name of the format that the path stands for, as ASE calls it; None if it stands for none."""
    suffix = path.suffix.lower()
    if suffix in (".cif", ".extxyz", ".xyz"):
        return "cif" if suffix == ".cif" else "extxyz"
    named = path.name.upper().startswith(("POSCAR", "CONTCAR")) or suffix in (".vasp", ".poscar", ".contcar")
    return "vasp" if named else None


def read_structure(path: Path) -> StructureFile:
    """Read one structure.

    Raises
    ------
    InputFileError, StructureError
        As `read_atoms`; StructureError also if there is no cell or markers are none.
    """
    atoms = read_atoms(path)
    if abs(np.linalg.det(np.asarray(atoms.cell))) < 1e-3:
        raise StructureError("no cell of three vectors", "Give the periodic cell (Lattice in extxyz).", subject=path)
    held = ("constraints of the file are not heeded, nor kept: every atom may move",) if atoms.constraints else ()
    return StructureFile(_structure(atoms), _marker(path, atoms), held)


def read_atoms(path: Path) -> Atoms:
    """Read one structure as ASE's atoms, with or without a cell; a column `marker` is an array of that name.

    Raises
    ------
    InputFileError
        If there is no such file, its format is not known or it cannot be read.
    StructureError
        If it holds none or several structures, two atoms at one place of a CIF, partial occupancies, unknown elements
        or coordinates that are no numbers.
    """
    kind = file_format(path)
    if not path.is_file():
        what = "is a folder, not a structure" if path.is_dir() else "no such file"
        raise InputFileError(what, "Check the path.", subject=path)
    if kind is None:
        raise InputFileError("no structure format has this name", f"Name it {FORMATS}.", subject=path)
    frames = _frames(path, kind)
    if not frames:
        raise InputFileError(f"not readable as {kind}: it holds no structure", "Export it again.", subject=path)
    if len(frames) > 1:
        raise StructureError(f"{len(frames)} structures in one file", "Give a file with one structure.", subject=path)
    _check(path, frames[0])
    return frames[0]


def _frames(path: Path, kind: str) -> list[Atoms]:
    from ase.io import read

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that the file leaves open
            if kind == "cif":
                _check_sites(path)
            return list(read(path, index=":", format=kind))
    except StructureError:
        raise
    except KeyError as error:
        what = f"unknown element or missing entry {error}"
        raise StructureError(what, "Name elements by their symbols, H to Og.", subject=path) from error
    except Exception as error:  # the parsers raise whatever they meet first
        what = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise InputFileError(f"not readable as {kind} ({what})", "Export it again.", subject=path) from error


SAME_PLACE = 1e-3
"""Difference of all fractional coordinates below which ASE makes one atom of two sites of a CIF."""


def _check_sites(path: Path) -> None:
    """See that a CIF lists no two whole atoms at one place, one of which would be dropped without a word."""
    from ase.io.cif import parse_cif
    from scipy.spatial import cKDTree

    for block in parse_cif(str(path)):
        full = np.asarray(block.get("_atom_site_occupancy") or 1.0) == 1.0
        if not block.has_structure() or not full.all():  # partial occupancies are refused by name later
            continue
        places = block.get_unsymmetrized_structure().get_scaled_positions(wrap=False)
        places = places % 1.0 % 1.0  # of -1e-17, once gives 1
        if not np.isfinite(places).all():
            continue
        pairs = cKDTree(places, boxsize=np.ones(3)).query_pairs(SAME_PLACE, p=np.inf)
        if pairs:
            first, second = min(pairs)
            what = f"sites {first + 1} and {second + 1} of the file lie at the same place"
            raise StructureError(what, "Take one of them out.", subject=path)


def _check(path: Path, atoms: Atoms) -> None:
    if len(atoms) == 0:
        raise StructureError("it holds no atoms", "Give a file with one structure.", subject=path)
    cell = np.asarray(atoms.cell)
    if not np.isfinite(cell).all() or not np.isfinite(atoms.positions).all():
        raise StructureError("coordinates are not finite numbers", "Export it again.", subject=path)
    strange = sorted({str(atom.symbol) for atom in atoms if atom.number < 1})
    if strange:
        remedy = "Name elements by their symbols, H to Og."
        raise StructureError(f"unknown element {strange[0]}", remedy, subject=path)
    occupancy = atoms.info.get("occupancy", {})
    if any(abs(sum(part.values()) - 1) > 1e-6 or len(part) > 1 for part in occupancy.values()):
        raise StructureError("sites are partially occupied", "Give an ordered structure.", subject=path)


def _structure(atoms: Atoms) -> Structure:
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    symbols = atoms.get_chemical_symbols()
    return Structure(Lattice(np.asarray(atoms.cell)), symbols, atoms.positions, coords_are_cartesian=True)


def _marker(path: Path, atoms: Atoms) -> NDArray[np.int64] | None:
    stored = atoms.arrays.get("marker", atoms.info.get("marker"))
    return None if stored is None else checked_marker(stored, len(atoms), path)


def checked_marker(values: Any, count: int, subject: Path | None = None) -> NDArray[np.int64]:
    """Markers as integers.

    Raises
    ------
    StructureError
        If they are not one of 0, 1, 2 for each of `count` nodes.
    """
    found = np.asarray(values)
    if found.shape != (count,):
        what = f"{found.size} markers in the shape {found.shape} for {count} nodes"
        raise StructureError(what, "Give one marker per node.", subject=subject)
    try:
        numbers = found.astype(np.float64)
    except ValueError:
        numbers = np.full(count, np.nan)
    wrong = np.flatnonzero(~np.isin(numbers, (0.0, 1.0, 2.0)))
    if len(wrong):
        what, remedy = f"marker {found[wrong[0]]} of node {wrong[0] + 1} is not 0, 1 or 2", "Mark pristine atoms 0, "
        raise StructureError(what, f"{remedy}exchanged or added ones 1, vacancy nodes 2.", subject=subject)
    return numbers.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Columns:
    """What an extended XYZ says besides the structure: arrays of one entry per atom, and facts about all of it."""

    per_atom: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, str | float | int | bool] = field(default_factory=dict)


def check_output(path: Path) -> None:
    """See that a structure could be written under this name.

    Raises
    ------
    OptionError
        If no format has this name.
    OutputError
        If the folder is missing or not writable, or a folder stands in the place.
    """
    if file_format(path) is None:
        what = "no structure format has the name of --out, and there is no such folder"
        raise OptionError(what, f"Name it {FORMATS}, or make the folder first.", subject=path)
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "it is a folder" if path.is_dir() else f"{folder} is not a writable folder"
        raise OutputError(f"cannot be written: {what}", "Choose another --out.", subject=path)


def write_structure(path: Path, structure: Structure, columns: Columns | None = None) -> None:
    """Write under a temporary name, then put it in place; columns and facts are kept in extended XYZ only.

    Raises
    ------
    OptionError, OutputError
        As `check_output`.
    """
    from ase import Atoms
    from ase.io import write

    check_output(path)
    kind = str(file_format(path))
    atoms = Atoms(
        numbers=structure.atomic_numbers, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=True
    )
    options: dict[str, Any] = {"cif": {"wrap": False}, "vasp": {"direct": True}, "extxyz": {}}[kind]
    if columns is not None and kind == "extxyz":
        atoms.info.update(columns.facts)
        for name, values in columns.per_atom.items():
            atoms.new_array(name, np.asarray(values))
    staged = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        write(staged, atoms, format=kind, **options)
        os.replace(staged, path)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise OutputError(what, "Choose another --out.", subject=path) from error
    finally:
        staged.unlink(missing_ok=True)
