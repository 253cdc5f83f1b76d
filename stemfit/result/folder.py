"""The result folder, written under a temporary name beside its place and renamed: whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import InputError, OutputError
from stemfit.result.document import SCHEMA, candidate_file, document, problem, to_json
from stemfit.result.field import atoms, field, frame
from stemfit.result.fields import write_fields
from stemfit.result.findings import Findings
from stemfit.result.tables import columns_csv, defects_csv

if TYPE_CHECKING:
    from ase import Atoms

    from stemfit.candidates import Candidate
    from stemfit.relax import Relaxed

Extras = Callable[[Findings, Path], None]
"""Writes further files (overlay, report) into the folder that is given, before it gets its name."""


def write(analysis: Findings, out: Path, *, extras: Extras | None = None) -> Path:
    """Write a result folder.

    Parameters
    ----------
    analysis : Findings
    out : path
        The folder to make. A result of the same image that stands there is replaced: renamed aside first, removed
        when the new one has its name.
    extras : callable, optional
        Called with the analysis and the unfinished folder.

    Returns
    -------
    path
        `out`.

    Raises
    ------
    OutputError
        Something else stands there, or it cannot be written.
    """
    check_place(out, analysis.micrograph.sha256)
    with _os_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".tmp-{out.name}-", dir=out.parent))
        try:
            work.chmod(0o777 & ~_umask())  # mkdtemp's folder is private, a result is not
            _fill(work, analysis)
            if extras is not None:
                extras(analysis, work)
            _rename(work, out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return out


def check_place(out: Path, sha256: str) -> None:
    """Find out before a long analysis whether its result could be written.

    Parameters
    ----------
    out : path
        The folder to make.
    sha256 : str
        Of the image's bytes.

    Raises
    ------
    OutputError
    """
    with _os_errors(out):
        if os.path.lexists(out) and _sha256(out) != sha256:
            what = "something that is no result of this image stands there already"
            raise OutputError(what, remedy="move it away or choose another --out", subject=out)
        above = next(folder for folder in out.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise OutputError(f"{above} is not a writable folder", remedy="choose another --out", subject=out)


def read(folder: Path) -> dict[str, Any]:
    """Read the `analysis.json` of a result folder.

    Raises
    ------
    InputError
        There is none, or it is no document of this schema.
    """
    path, remedy = folder / "analysis.json", "give a folder that `stemfit analyze` has written"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", remedy=remedy, subject=path) from None
    except NotADirectoryError:
        raise InputError("is a file and no result", remedy=f"give the folder of the result: {folder.parent}",
                         subject=folder) from None  # fmt: skip
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", remedy=remedy, subject=path) from error
    found = problem(content)
    if found is not None:
        raise InputError(found, remedy=f"{remedy}, with a version that writes {SCHEMA}", subject=path)
    return dict(content)


def _fill(work: Path, analysis: Findings) -> None:
    from ase.io import write as write_atoms

    structure_frame, structure = frame(analysis), atoms(field(analysis))
    _text(work / "analysis.json", to_json(document(analysis, structure_frame)))
    _text(work / "columns.csv", columns_csv(analysis))
    _text(work / "defects.csv", defects_csv(analysis, structure_frame))
    write_atoms(work / "structure.cif", structure, format="cif")
    write_atoms(work / "structure.extxyz", structure, format="extxyz")
    (work / "candidates").mkdir()
    for candidate, relaxed in zip(analysis.candidates, analysis.relaxed, strict=True):
        write_atoms(work / candidate_file(candidate.id), _candidate_atoms(candidate, relaxed), format="cif")
    image = analysis.micrograph.image
    masked = analysis.region_map > 0
    simulated = np.where(masked, np.nan, analysis.simulated)
    _tiff(work / "simulated.tif", simulated.astype(np.float32), analysis)
    _tiff(work / "residual.tif", (image - simulated).astype(np.float32), analysis)
    _tiff(work / "mask.tif", analysis.region_map.astype(np.uint8), analysis)
    write_fields(work, analysis)


def _candidate_atoms(candidate: Candidate, relaxed: Relaxed) -> Atoms:
    """The atoms of a relaxed candidate: nodes without vacancies."""
    from ase import Atoms

    from definet.structures import elements_of

    structure, there = candidate.structure.structure, candidate.structure.occupied
    elements = np.array(elements_of(structure))[there]
    return Atoms(list(elements), positions=relaxed.positions_A[there], cell=structure.lattice.matrix, pbc=True)


def _text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8", newline="\n")


def _tiff(path: Path, image: NDArray[Any], analysis: Findings) -> None:
    """ImageJ's flavour with the scale, so that it opens calibrated wherever micrographs are looked at."""
    import tifffile

    pixels_per_nm = 10.0 / analysis.calibration.pixel_size_A
    tifffile.imwrite(path, image, imagej=True, resolution=(pixels_per_nm, pixels_per_nm), metadata={"unit": "nm"})


def _rename(work: Path, out: Path) -> None:
    """Give the finished folder its name; what stood there comes back if that fails."""
    if not os.path.lexists(out):
        work.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".tmp-{out.name}-old-", dir=out.parent))
    out.rename(aside / out.name)
    try:
        work.rename(out)
    except BaseException:
        (aside / out.name).rename(out)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sha256(out: Path) -> str | None:
    """Image of the result that stands at `out`, None if that is no result."""
    try:
        return str(read(out)["input"]["sha256"])
    except InputError:
        return None


@contextmanager
def _os_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "choose another --out, or make room and the folder writable"
        raise OutputError(f"cannot be written ({error.strerror or error})", remedy=remedy, subject=out) from error


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
