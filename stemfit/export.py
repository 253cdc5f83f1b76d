"""Structures of a result in the formats of other programs: CIF, POSCAR, extended XYZ, LAMMPS data, input of DFT codes.

Candidates are periodic patches of the crystal with one defect; the whole field is a piece of it in a box. Cells have
the experimental lattice constant of the calibration, or one that is asked for, and as much vacuum as is asked for.
Only candidates are ready for a DFT code: the field ends in its box.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.analysis import WHOLE, Analysis, Explanation
from stemfit.errors import OutputError, UsageError
from stemfit.hosts import projected
from stemfit.inputs import Patch, espresso, gpaw, hessian, vasp
from stemfit.optics.scattering import column_elements
from stemfit.wording import sure

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

LEAST_VACUUM_A = 5.0
"""Layers nearer than this overlap: a potential or DFT would bind them."""


class Named(NamedTuple):
    """A structure, the name of its file without suffix, one line that says what it is, and how to calculate it."""

    name: str
    atoms: Atoms
    title: str
    patch: Patch | None = None


class Potential(NamedTuple):
    """An ASE calculator, and its name with its version."""

    calculator: Calculator
    tag: str


def chosen(
    analysis: Analysis, *, what: str = "best", candidates: tuple[str, ...] = (), vacuum_A: float = 20.0,
    lattice_constant_A: float | None = None,
) -> Iterator[Named]:
    """Structures of a result, ready to write.

    Parameters
    ----------
    analysis : Analysis
    what : str
        "field": the whole field; "best": it, and the best candidate of every claimed defect; "all": it, and all
        candidates.
    candidates : tuple of str
        Only these, by id, and no field.
    vacuum_A : float
        Between the atoms of one layer and the next; along z.
    lattice_constant_A : float, optional
        a that the crystal shall have in the plane: that of a functional or a potential. Only candidates are stretched
        to it: the field stays what the image shows.

    Raises
    ------
    UsageError
        If there is no such candidate, there is too little vacuum, or the crystal's own lattice constant is not known.
    """
    if not LEAST_VACUUM_A <= vacuum_A < np.inf:
        remedy = f"give at least {LEAST_VACUUM_A:g} Angstrom: layers nearer than that touch"
        raise UsageError(f"--vacuum {vacuum_A:g}", remedy=remedy)
    own_A, stretch = _stretch(analysis, lattice_constant_A)
    known = {c.id: c for c in analysis.candidates}
    for name in candidates:
        if name not in known:
            listed = ", ".join(list(known)[:6]) + (f" and {len(known) - 6} more" if len(known) > 6 else "")
            raise UsageError(f"there is no candidate {name!r}", remedy=f"there are {listed or 'none'}")
    if not candidates:
        yield Named(WHOLE, _in_vacuum(analysis.structures[WHOLE], vacuum_A), _title(analysis, None, own_A))
        best = tuple(d.best_candidate for d in analysis.defects if d.best_candidate is not None)
        candidates = {"field": (), "best": best, "all": tuple(known)}[what]
    for name in candidates:
        title = _title(analysis, known[name], own_A * stretch)
        atoms = _patch(analysis.structures[name], vacuum_A, stretch)
        kind, center_A = _defect(analysis, known[name])
        patch = Patch(
            f"candidate-{name}", atoms, title, known[name].label, kind, stretch * center_A, own_A * stretch,
            lattice_constant_A is None,
        )  # fmt: skip
        yield Named(patch.name, atoms, title, patch)


def _defect(analysis: Analysis, candidate: Explanation) -> tuple[str, NDArray[np.float64]]:
    """Contract type of a candidate, empty for the perfect crystal, and where its defect is in its structure (2,), A."""
    where = next(d for d in (*analysis.defects, *analysis.suspects) if d.id == candidate.defect)
    kind = where.type if candidate.label == where.label else where.kind_of(candidate.label) or ""
    own = {element for column in analysis.own_columns.values() for element in column_elements(column)}
    there, _, belongs = (re.sub(r"\d", "", part) for part in candidate.label.partition("_"))
    if there != belongs and {there, belongs} <= own:  # results of before do not say so of every alternative
        kind = "ANTI"
    return kind, np.asarray(np.linalg.solve(candidate.matrix, where.center_px - candidate.offset_px), np.float64)


def write(
    structures: Iterable[Named], formats: tuple[str, ...], folder: Path, potential: Potential | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write every structure in every format; each file appears whole or not at all.

    Parameters
    ----------
    structures : iterable of Named
    formats : tuple of str
        Of `FORMATS` and `CALCULATIONS`; the whole field is written in the former only.
    folder : path
        Made if it is not there; must be empty if it is.
    potential : Potential, optional
        Whose Hessian is to be written, with a script that uses it.
    progress : callable
        Told which Hessian is being taken.

    Returns
    -------
    list of path
        Files, and the folders of formats that are several files.

    Raises
    ------
    OutputError
    UsageError
        If nothing of this can be calculated.
    ModelError
        If the potential fails.
    """
    structures = tuple(structures)
    if all(one.patch is None for one in structures) and (potential or not set(formats) & set(FORMATS)):
        remedy = "name a candidate, or ask for --what all"
        raise UsageError("there is no candidate to calculate, and the whole field is no periodic cell", remedy=remedy)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OutputError("the folder is not empty", remedy="choose another --out", subject=folder)
        made = [_put(folder, name, content) for one in structures for name, content in _contents(one, formats)]
        known: list[hessian.Known] = []
        for patch in [one.patch for one in structures if one.patch is not None and potential is not None]:
            assert potential is not None
            progress(f"Hessian of {patch.name}: {6 * len(patch.atoms)} force calls of {potential.tag}")
            made += [_put(folder, *file) for file in hessian.files(patch, *potential, known).items()]
        return made
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise OutputError(what, remedy="choose another --out", subject=folder) from error


Content = str | bytes | Mapping[str, str]
"""Of a file, or of the files of a folder by name."""


def _contents(one: Named, formats: tuple[str, ...]) -> Iterator[tuple[str, Content]]:
    """Names and contents of what is written of a structure."""
    for kind in formats:
        if kind in FORMATS:
            suffix, text = FORMATS[kind]
            yield f"{one.name}{suffix}", text(one)
        elif one.patch is not None:
            suffix, make = CALCULATIONS[kind]
            yield f"{one.name}{suffix}", make(one.patch)


def _put(folder: Path, name: str, content: Content) -> Path:
    path = folder / name
    if isinstance(content, Mapping):
        work = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder))
        try:
            for inner, text in content.items():
                _put(work, inner, text)
            work.chmod(0o755)
            work.rename(path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return path
    handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=folder)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content if isinstance(content, bytes) else content.encode())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
    return path


def _stretch(analysis: Analysis, wanted_A: float | None) -> tuple[float, float]:
    """Lattice constant of the result's structures, and the factor to the one that is wanted."""
    from_file = str(analysis.document["settings"]["host"]).lower().endswith(".cif")
    own_A = float("nan") if from_file else projected(analysis.host).a_A
    if wanted_A is None:
        return own_A, 1.0
    if from_file:
        what = f"--lattice-constant cannot be used: that of {analysis.host}, from a file, is not known here"
        raise UsageError(what, remedy="stretch the exported cell yourself")
    if not 0.9 * own_A <= wanted_A <= 1.1 * own_A:
        what = f"--lattice-constant {wanted_A:g} is not within 10 % of {own_A:.3f} Angstrom, that of {analysis.host}"
        raise UsageError(what, remedy="give a of the crystal, not of the supercell, in Angstrom")
    return own_A, wanted_A / own_A


def _title(analysis: Analysis, candidate: Explanation | None, a_A: float) -> str:
    """One line of plain ASCII: what it is, how sure, in which scale."""
    version = analysis.document["version"]
    image = analysis.name.encode("ascii", "replace").decode()
    image = "".join(letter if letter.isprintable() else "?" for letter in image)
    if candidate is None:
        what = f"{analysis.host} field of {len(analysis.defects)} defects"
        filled = ", ".join(str(d.id) for d in analysis.defects if d.best_candidate is None)
        what += f" (no structure known at {filled}: perfect crystal there)" if filled else ""
    else:
        what = f"{candidate.label} in {analysis.host}, candidate {candidate.id}, posterior {sure(candidate.posterior)}"
        what += f", relaxer {candidate.relaxer}"
    scale = f", a {a_A:.4f} A" if np.isfinite(a_A) else ""
    return f"{what}{scale}, image {image}, stemfit {version}"


def _patch(atoms: Atoms, vacuum_A: float, stretch: float) -> Atoms:
    """A periodic patch; stretched in the plane with its atoms, along z it keeps its bonds."""
    cell, r = np.array(atoms.cell), atoms.positions.copy()
    cell[:2, :2] *= stretch
    r[:, :2] *= stretch
    atoms = atoms.copy()
    atoms.set_cell(cell)
    atoms.set_positions(r)
    return _in_vacuum(atoms, vacuum_A)


def _in_vacuum(atoms: Atoms, vacuum_A: float) -> Atoms:
    """The layer in the middle of a cell that is higher by the vacuum; sorted by element, from the bottom up."""
    z = atoms.positions[:, 2]
    height = float(np.ptp(z)) + vacuum_A
    atoms = atoms[np.lexsort((z, atoms.get_chemical_symbols()))]
    cell = np.array(atoms.cell)
    cell[2] = [0.0, 0.0, height]
    atoms.set_cell(cell)
    atoms.positions[:, 2] += height / 2 - (z.min() + z.max()) / 2
    atoms.pbc = True
    return atoms


# -- formats -------------------------------------------------------------------------------------------------------


def _text(one: Named, kind: str, **options: Any) -> str:
    from ase.io import write as write_atoms

    stream = io.BytesIO() if kind == "cif" else io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the formats cannot hold
        write_atoms(stream, one.atoms, format=kind, **options)
    value = stream.getvalue()
    return value.decode() if isinstance(value, bytes) else value


def _cif(one: Named) -> str:
    return f"# {one.title}\n{_text(one, 'cif')}"


def _poscar(one: Named) -> str:
    return _retitled(one, _text(one, "vasp", direct=True))


def _extxyz(one: Named) -> str:
    named = one.atoms.copy()
    named.info["title"] = one.title
    return _text(one._replace(atoms=named), "extxyz")


def _lammps(one: Named) -> str:
    """Types in the order of the elements' names, with masses; the first line is a comment."""
    elements = sorted(set(one.atoms.get_chemical_symbols()))
    return _retitled(one, _text(one, "lammps-data", masses=True, specorder=elements, atom_style="atomic"))


def _retitled(one: Named, text: str) -> str:
    """With the title as the first line, which programs skip."""
    return f"{one.title}\n{text.partition(chr(10))[2]}"


FORMATS: Mapping[str, tuple[str, Callable[[Named], str]]] = {
    "cif": (".cif", _cif), "poscar": (".vasp", _poscar), "extxyz": (".extxyz", _extxyz), "lammps": (".lmp", _lammps),
}  # fmt: skip
"""Suffix and writer by name."""

CALCULATIONS: Mapping[str, tuple[str, Callable[[Patch], Content]]] = {
    "gpaw": (".gpaw.py", gpaw.text),
    "vasp": ("-vasp", lambda patch: vasp.files(patch, _poscar(Named(patch.name, patch.atoms, patch.title)))),
    "qe": (".pw.in", espresso.text),
}
"""The same for input of programs that compute electrons; that of VASP is a folder."""
