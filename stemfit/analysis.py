"""All that is said of one image, as a result folder holds it: what figures, pages, exports and notebooks are made of.

Positions are pixels (x, y), y down, (0, 0) the centre of the top-left pixel; structures in Angstrom, x right, y up.
"""

from __future__ import annotations

import csv
import shutil
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stemfit import result
from stemfit.columns import Noise
from stemfit.defects import Defect
from stemfit.errors import InputError, StemfitError
from stemfit.result.fields import Fields, read_fields

if TYPE_CHECKING:
    from ase import Atoms

FloatArray = NDArray[np.float64]

TEXTS = ("sublattice", "species")
"""Columns of `columns.csv` that hold no number."""

CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
"""Of a CIF, in the order of ASE."""

WHOLE = "structure"
"""Key of the structure of the whole field among `Analysis.structures`."""


@dataclass(frozen=True)
class Explanation:
    """A structure that was compared with the image at a defect; fields as in `candidates` of `analysis.json`.

    Attributes
    ----------
    id : str
    defect : int
    label : str
    log_likelihood, posterior : float
        The posterior is among the candidates of its defect, which are structures of the host that the result states;
        the probabilities of defects are over all hosts that the image leaves open.
    in_95_set : bool
    ncc, ssim, reduced_chi2 : float
    evidence_relaxed_minus_unrelaxed : float
        Natural logarithm; NaN where it was not asked.
    max_displacement_A : float
    tie_with : tuple of str
    relaxer : str
    matrix, offset_px : (2, 2), (2,) array
        ``p_px = matrix @ r_A + offset_px`` of its structure, without jitter of rows.
    """

    id: str
    defect: int
    label: str
    log_likelihood: float
    posterior: float
    in_95_set: bool
    ncc: float
    ssim: float
    reduced_chi2: float
    evidence_relaxed_minus_unrelaxed: float
    max_displacement_A: float
    tie_with: tuple[str, ...]
    relaxer: str
    matrix: FloatArray
    offset_px: FloatArray


@dataclass(frozen=True)
class Analysis:
    """One analysed image.

    Attributes
    ----------
    document : mapping
        `analysis.json`.
    image : (H, W) array
        Image units; NaN where masked if the file of the image is gone.
    simulated : (H, W) array
        Best model of the image, NaN where masked.
    mask : (H, W) uint8 array
        0 analysed, k = k-th of the regions.
    columns : mapping of str to (K,) array
        `columns.csv`: names to float or str arrays; NaN or "" where nothing is known. Ready for ``pandas.DataFrame``.
    defects, suspects : tuple of Defect
        Ready for ``pandas.DataFrame``.
    candidates : tuple of Explanation
    structures : mapping of str to ase.Atoms
        "structure", the whole field, and every candidate by its id.
    fields : Fields or None
        `fields.npz`, where the folder has one: background, gain, distortion, jitter of rows.
    """

    document: Mapping[str, Any]
    image: FloatArray
    simulated: FloatArray
    mask: NDArray[np.uint8]
    columns: Mapping[str, NDArray[Any]]
    defects: tuple[Defect, ...]
    suspects: tuple[Defect, ...]
    candidates: tuple[Explanation, ...]
    structures: Mapping[str, Atoms]
    fields: Fields | None = None

    @classmethod
    def load(cls, folder: str | Path, *, image: FloatArray | None = None, temporary: Path | None = None) -> Analysis:
        """Read a result folder.

        Parameters
        ----------
        folder : path
            That `stemfit analyze` or `match` has written.
        image : (H, W) array, optional
            The image, if it is at hand; otherwise its file is read where it is still what it was, and masked areas
            stay NaN where it is not.
        temporary : path, optional
            Removed when nobody refers to the structures any more.

        Raises
        ------
        InputError
            If a file of the folder is missing, damaged or of another result.
        """
        folder = Path(folder)
        document = result.read(folder)
        try:
            records = _records(document)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            what = f"a defect or candidate is incomplete ({type(error).__name__} {error})"
            remedy = "it is damaged, or of an earlier stemfit: analyse the image again"
            raise InputError(what, remedy=remedy, subject=folder / "analysis.json") from error
        simulated, residual = (_tiff(folder, name, document) for name in ("simulated.tif", "residual.tif"))
        mask = _tiff(folder, "mask.tif", document).astype(np.uint8)
        if image is None:
            image = _image_of(document, folder)
        return cls(
            document=document,
            image=simulated + residual if image is None else image,
            simulated=simulated,
            mask=mask,
            columns=_columns(folder / "columns.csv"),
            defects=records[0],
            suspects=records[1],
            candidates=records[2],
            structures=_Structures(folder, document["candidates"], temporary),
            fields=read_fields(folder),
        )

    @property
    def residual(self) -> FloatArray:
        """Image minus model (H, W), NaN where masked."""
        return self.image - self.simulated

    @property
    def noise(self) -> Noise:
        """Of the pixels."""
        return Noise(**self.document["imaging"]["noise"])

    @property
    def name(self) -> str:
        """File name of the image."""
        return Path(self.document["input"]["path"]).name

    @property
    def host(self) -> str:
        """Name of the crystal."""
        return str(self.document["host"]["name"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before believing the rest."""
        return tuple(self.document["warnings"])

    @property
    def pixel_size_A(self) -> float:
        """Angstrom per pixel."""
        return float(self.document["calibration"]["pixel_size_A"])

    @property
    def cell_px(self) -> FloatArray:
        """Rows a and b (2, 2) of the fitted cell."""
        return np.array([self.document["lattice"]["a_px"], self.document["lattice"]["b_px"]], dtype=np.float64)

    @property
    def step_px(self) -> float:
        """Mean length of a and b, px."""
        return float(np.linalg.norm(self.cell_px, axis=1).mean())

    @property
    def own_columns(self) -> dict[str, str]:
        """Column type of each sublattice of the perfect crystal."""
        return {site["sublattice"]: site["column"] for site in self.document["lattice"]["basis"]}

    @property
    def nearest_px(self) -> float:
        """Smallest distance between two sites of the fitted lattice, px."""
        basis = np.array([[site["u"], site["v"]] for site in self.document["lattice"]["basis"]])
        steps = np.mgrid[-1:2, -1:2].reshape(2, -1).T
        apart = basis[:, None, None] - basis[None, :, None] + steps
        length = np.linalg.norm(apart.reshape(-1, 2) @ self.cell_px, axis=1)
        return float(length[length > 1e-6].min())

    def __repr__(self) -> str:
        found = f"{len(self.defects)} defects, {len(self.suspects)} suspected"
        return f"<Analysis of {self.name}: {self.host}, {found}>"

    def _repr_html_(self) -> str:
        from stemfit import notebook

        return notebook.html(self)

    def explanations(self, defect: int) -> tuple[Explanation, ...]:
        """Candidates of a defect, the most probable first."""
        return tuple(sorted((c for c in self.candidates if c.defect == defect), key=lambda c: -c.posterior))


class _Structures(Mapping[str, "Atoms"]):
    """Structures of a folder, each read when it is asked for."""

    def __init__(self, folder: Path, candidates: Sequence[Mapping[str, Any]], temporary: Path | None) -> None:
        if temporary is not None:
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
        self._path = {WHOLE: folder / "structure.extxyz"} | {c["id"]: folder / c["file"] for c in candidates}

    def __getitem__(self, name: str) -> Atoms:
        from definet.structure_file import read_atoms

        path = self._path[name]
        return _own_cif(path) if path.suffix == ".cif" else read_atoms(path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._path)

    def __len__(self) -> int:
        return len(self._path)


def _own_cif(path: Path) -> Atoms:
    """A candidate's file, as results have them: every atom listed (P1), one loop of sites, a line each, no quotes.

    Readers of all that a CIF may be take up to a second for each of some hundred.
    """
    from ase import Atoms

    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        values = dict(line.split(maxsplit=1) for line in lines if line.startswith(("_cell_length_", "_cell_angle_")))
        cell = [float(values[f"_cell_{name}"]) for name in CELL]
        names = [line for line in lines if line.startswith("_atom_site_")]
        rows = [line.split() for line in lines[lines.index(names[-1]) + 1 :]]
        sites = dict(zip(names, zip(*rows, strict=True), strict=True))
        places = np.array([sites[f"_atom_site_fract_{axis}"] for axis in "xyz"], dtype=np.float64).T
        return Atoms(list(sites["_atom_site_type_symbol"]), cell=cell, scaled_positions=places, pbc=True)
    except (OSError, ValueError, LookupError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__})"
        raise InputError(what, remedy="analyse the image again", subject=path) from None


def _tiff(folder: Path, name: str, document: Mapping[str, Any]) -> NDArray[Any]:
    import tifffile

    path, remedy = folder / name, "analyse the image again"
    try:
        values = tifffile.imread(path)
    except FileNotFoundError:
        raise InputError("no such file", remedy=remedy, subject=path) from None
    except Exception as error:  # tifffile raises whatever the damage leads to
        raise InputError(f"cannot be read ({type(error).__name__})", remedy=remedy, subject=path) from error
    if list(values.shape) != document["input"]["shape_px"]:
        raise InputError("is not of the shape that analysis.json states", remedy=remedy, subject=path)
    return np.asarray(values if values.dtype == np.uint8 else values.astype(np.float64))


def _image_of(document: Mapping[str, Any], folder: Path) -> FloatArray | None:
    """The image from its file, beside the result if it is not where it was; None where it is gone or another one."""
    from stemfit import micrograph

    stated = Path(document["input"]["path"])
    for path in (stated, folder.parent / stated.name):
        try:
            found = micrograph.read(path, frame=document["input"]["frame"], signal=document["input"]["signal"])
        except (StemfitError, OSError):
            continue
        if found.sha256 == document["input"]["sha256"]:
            return found.image
    return None


def _columns(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.reader(lines))
        table = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True)) if rows[1:] else dict.fromkeys(rows[0], ())
        return {
            name: np.array(cells, dtype=np.str_)
            if name in TEXTS
            else np.array([float(cell or "nan") for cell in cells], dtype=np.float64)
            for name, cells in table.items()
        }
    except (OSError, ValueError, IndexError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise InputError(what, remedy="analyse the image again", subject=path) from None


def _records(
    document: Mapping[str, Any],
) -> tuple[tuple[Defect, ...], tuple[Defect, ...], tuple[Explanation, ...]]:
    """Defects, suspects and candidates."""
    claimed, suspects = (tuple(_defect(one) for one in document[key]) for key in ("defects", "suspects"))
    return claimed, suspects, tuple(_explanation(one) for one in document["candidates"])


def _defect(stated: Mapping[str, Any]) -> Defect:
    return Defect(
        stated["id"], stated["type"], stated["label"], _float(stated["probability"]),
        np.array(stated["center_px"], dtype=np.float64), tuple((i, j, str(s)) for i, j, s in stated["sites"]),
        np.array(stated["extent_px"], dtype=np.float64).reshape(-1, 2),
        tuple((other["label"], _float(other["probability"])) for other in stated["alternatives"]),
        _float(stated["log_bayes_factor"]), stated["best_candidate"],
        {other["label"]: other["type"] for other in stated["alternatives"] if other.get("type")},
    )  # fmt: skip


def _explanation(stated: Mapping[str, Any]) -> Explanation:
    to_px = stated["image_from_structure"]
    numbers = (
        "log_likelihood", "posterior", "ncc", "ssim", "reduced_chi2", "evidence_relaxed_minus_unrelaxed",
        "max_displacement_A",
    )  # fmt: skip
    return Explanation(
        id=stated["id"], defect=stated["defect"], label=stated["label"], in_95_set=stated["in_95_set"],
        tie_with=tuple(stated["tie_with"]), relaxer=stated["relaxer"]["name"], matrix=np.array(to_px["matrix"]),
        offset_px=np.array(to_px["offset_px"]), **{name: _float(stated[name]) for name in numbers},
    )  # fmt: skip


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)
