"""What is looked at, and where: atoms from a file or from memory, repeated as far as the image needs them.

Structures: Angstrom, right-handed, x right, y up, z toward the viewer; the beam comes from the viewer. Images: rows go
down. The middle of an image is the middle of the cell of a periodic structure, else that of the atoms' bounding box,
unless another place is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stemfit.errors import NotAnalysable, UsageError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

THERMAL_A = 0.07
"""rms displacement along each axis in the plane at room temperature: 0.069 A for Mo and 0.062 A for S in MoS2, as X-ray
diffraction (Schoenfeld, Huang & Moss, Acta Cryst. B 39, 404 (1983)) is quoted by others who simulate it. Taken for all
atoms but those of `LIGHT_THERMAL_A`."""

LIGHT_THERMAL_A = {"B": 0.06, "C": 0.06, "N": 0.06}
"""The same in graphene: a plane with the Debye temperature 2312 K of motion within it (Tewary & Yang, Phys. Rev. B 79,
125416 (2009)) has 0.042 A at rest and, at 300 K, 0.049 A from waves up to 10 nm long, 0.059 A up to 100 nm. Boron
nitride is taken to be alike."""

FLAT = 0.02
"""Sine of the angle by which the cell's vectors may leave the plane of the image."""

MOST_ATOMS = 10**6
"""A square of 480 A of a dichalcogenide, some seconds."""


@dataclass(frozen=True)
class View:
    """What part of a structure is looked at.

    Attributes
    ----------
    pixel_A : float
        Pixel size.
    shape : (H, W)
    centre_A : (x, y) or None
        Place in the structure at the middle of the image (between the pixels where a side is even); None is the middle
        of the structure.
    """

    pixel_A: float
    shape: tuple[int, int]
    centre_A: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no image."""
        if not 0 < self.pixel_A < math.inf:
            raise UsageError(f"pixel size {self.pixel_A:g} A is no positive number", remedy="give it in Angstrom")
        if min(self.shape) < 1:
            what = f"an image of {self.shape[0]} x {self.shape[1]} px has no pixels"
            raise UsageError(what, remedy="give height and width of 1 or more")
        if not all(math.isfinite(c) for c in self.centre_A or ()):
            raise UsageError(f"the centre {self.centre_A} is no place", remedy="give x,y in Angstrom")

    @property
    def size_A(self) -> tuple[float, float]:
        """Width and height, Angstrom."""
        return self.shape[1] * self.pixel_A, self.shape[0] * self.pixel_A


class Atoms(NamedTuple):
    """Atoms in and round a view.

    Attributes
    ----------
    numbers : (N,) int array
        Atomic numbers.
    xyz_A : (N, 3) array
        From the middle of the view, y up, z toward the viewer.
    thermal_A : (N,) array
        rms displacement along each axis.
    """

    numbers: IntArray
    xyz_A: FloatArray
    thermal_A: FloatArray


@dataclass(frozen=True, eq=False)
class Specimen:
    """A layer, one or more atoms thick.

    Attributes
    ----------
    numbers : (N,) int array
        Atomic numbers; vacancy nodes are no atoms.
    xyz_A : (N, 3) array
    plane_A : (2, 2) array or None
        Rows a, b by which it repeats in the plane; None if it does not.
    thermal_A : (N,) array
        rms displacement along each axis.
    """

    numbers: IntArray
    xyz_A: FloatArray
    plane_A: FloatArray | None
    thermal_A: FloatArray

    @property
    def middle_A(self) -> FloatArray:
        """(2,) middle of the cell, or of the bounding box of the atoms where there is none."""
        if self.plane_A is not None:
            return np.asarray(self.plane_A.sum(0) / 2)
        return np.asarray((self.xyz_A[:, :2].min(0) + self.xyz_A[:, :2].max(0)) / 2)

    def around(self, view: View, margin_A: float) -> Atoms:
        """All atoms in the view and within `margin_A` of it.

        Raises
        ------
        NotAnalysable
            If none is in the view, or more than a million are asked for.
        """
        centre = self.middle_A if view.centre_A is None else np.asarray(view.centre_A)
        xyz = self.xyz_A - [*centre, 0.0]
        half = np.array(view.size_A) / 2
        numbers, thermal = self.numbers, self.thermal_A
        if self.plane_A is not None:
            expected = 4 * np.prod(half + margin_A) / abs(np.linalg.det(self.plane_A)) * len(xyz)
            if expected > MOST_ATOMS:
                what = f"some {expected:.2g} atoms lie in and round the view, the limit is {MOST_ATOMS}"
                raise NotAnalysable(what, remedy="give a smaller shape or pixel size")
            shifts = _shifts(self.plane_A, xyz[:, :2], half + margin_A)
            every = (shifts[:, None] + xyz).reshape(-1, 3)
            which = np.tile(np.arange(len(xyz)), len(shifts))
        else:
            every, which = xyz, np.arange(len(xyz))
        near = (np.abs(every[:, :2]) <= half + margin_A).all(1)
        if not (np.abs(every[:, :2]) <= half).all(1).any():
            low, high = self.xyz_A[:, :2].min(0), self.xyz_A[:, :2].max(0)
            what = f"no atom lies in the view of {2 * half[0]:.4g} x {2 * half[1]:.4g} A round {_place(centre)}"
            remedy = f"look between {_place(low)} and {_place(high)}, where the structure is"
            raise NotAnalysable(what, remedy=remedy)
        return Atoms(numbers[which[near]], every[near], thermal[which[near]])


def specimen(
    numbers: ArrayLike, xyz_A: ArrayLike, plane_A: ArrayLike | None = None, thermal_A: float | None = None
) -> Specimen:
    """Atoms from memory.

    Parameters
    ----------
    numbers : (N,) int
    xyz_A : (N, 3)
    plane_A : (2, 2), optional
        Rows a, b by which the structure repeats.
    thermal_A : float, optional
        rms displacement of all atoms; else by element.
    """
    from ase.data import chemical_symbols

    z = np.asarray(numbers, dtype=np.int64)
    if thermal_A is not None and not 0 <= thermal_A < 1:
        raise UsageError(f"thermal motion of {thermal_A:g} A is none", remedy="give its rms, 0.05 to 0.09 A as a rule")
    own = [LIGHT_THERMAL_A.get(chemical_symbols[k], THERMAL_A) if thermal_A is None else thermal_A for k in z.tolist()]
    plane = None if plane_A is None else np.asarray(plane_A, dtype=np.float64)
    return Specimen(z, np.asarray(xyz_A, dtype=np.float64).reshape(-1, 3), plane, np.array(own, dtype=np.float64))


def read_specimen(path: Path, thermal_A: float | None = None) -> Specimen:
    """Read CIF, POSCAR or extended XYZ, by the file's name; a layer seen along z.

    What an extended XYZ marks as vacancy nodes (`marker` 2) is left out. Atoms that the file has wrapped through the
    cell's floor and ceiling are put together again at the widest gap along z.

    Raises
    ------
    definet.exceptions.InputFileError
        If the file is missing or cannot be read.
    NotAnalysable
        If a and b of a periodic structure do not lie in the plane, or nothing but vacancies is left.
    """
    from definet.structure_file import checked_marker, read_atoms

    atoms = read_atoms(path)
    marker = atoms.arrays.get("marker")
    if marker is not None:
        atoms = atoms[checked_marker(marker, len(atoms), path) != 2]
    if len(atoms) == 0:
        raise NotAnalysable("it holds vacancies only", remedy="give a structure with atoms", subject=path)
    cell, periodic = np.asarray(atoms.cell, dtype=np.float64), np.asarray(atoms.pbc)
    plane = None
    if periodic[:2].all():
        plane = cell[:2, :2]
        lengths = np.linalg.norm(cell[:2], axis=1)
        if (np.abs(cell[:2, 2]) > FLAT * lengths).any() or abs(np.linalg.det(plane)) < 0.1:
            what = "the vectors a and b of the cell do not lie in the plane of the image"
            raise NotAnalysable(what, remedy="turn the cell so that the layer is seen along z", subject=path)
    xyz = np.asarray(atoms.positions, dtype=np.float64)
    if periodic[2] and abs(np.linalg.det(cell)) > 1e-3:
        xyz = _joined(xyz, cell[2])
    return specimen(atoms.numbers, xyz, plane, thermal_A)


def _joined(xyz: FloatArray, c: FloatArray) -> FloatArray:
    """Whole layer: atoms below the widest gap along c go up by c, apart from what that shifts all of them by."""
    height = xyz[:, 2] / c[2] % 1.0
    whole = xyz + np.outer(height - xyz[:, 2] / c[2], c)
    order = np.sort(height)
    gaps = np.diff([*order, order[0] + 1])
    above = order[(int(np.argmax(gaps)) + 1) % len(order)]
    return np.asarray(whole + np.outer(height < above, c))


def _shifts(plane: FloatArray, xy: FloatArray, half: FloatArray) -> FloatArray:
    """Translations (S, 3) that bring any atom into the rectangle |x|, |y| <= half."""
    corners = np.array([[sx * half[0], sy * half[1]] for sx in (-1, 1) for sy in (-1, 1)])
    wanted = (corners[:, None] - np.array([xy.min(0), xy.max(0), [xy[:, 0].min(), xy[:, 1].max()],
                                           [xy[:, 0].max(), xy[:, 1].min()]])).reshape(-1, 2)  # fmt: skip
    cells = wanted @ np.linalg.inv(plane)
    low, high = np.floor(cells.min(0)).astype(int), np.ceil(cells.max(0)).astype(int)
    i, j = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1), indexing="ij")
    flat = np.column_stack([i.ravel(), j.ravel()]) @ plane
    return np.column_stack([flat, np.zeros(len(flat))])


def _place(xy: FloatArray) -> str:
    return f"({xy[0]:.4g}, {xy[1]:.4g}) A"
