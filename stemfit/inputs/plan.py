"""How a defect in a layer is to be calculated: points in reciprocal space, spin, dipole; and why, in words.

The same for all programs. What cannot be known from the structure (how deep to converge, which functional) is that of
the published set of defects 2DMD (Huang et al., npj 2D Mater. Appl. 7, 6 (2023)): PBE, 500 eV, forces below 0.01 eV/A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

FloatArray = NDArray[np.float64]

SPACING_1_A = 0.3
"""Largest distance of neighbouring k points, 2 pi included: 8 x 8 points in the unit cell of MoS2. In 3 x 3 cells of
MoS2 with a vacancy, forces from points 0.38 apart and from others as dense differ by 3 % (`benchmarks/dft`)."""

WAVES_eV, WIDTH_eV, FMAX_eV_A = 500.0, 0.05, 0.01
"""Kinetic energy of the plane waves; width of the occupations, small against the gaps of these layers; largest force at
the end: bending is so soft that 0.05 eV/A leaves up to half of a displacement undone."""

ENOUGH_VACUUM_A = 15.0
"""Vacuum from which densities and dipoles of neighbouring layers of these thicknesses no longer meet."""

ALIKE_A = 0.5
"""How far the mirror image of an atom may be from an atom of the other face: more than relaxation moves atoms, less
than any distance of sites."""

ON_SITE_A = 0.9
"""Atoms whose columns are nearer to the centre of a defect than this stand in its place: columns of these crystals are
at least 1.4 A apart."""
SHELL_A = 0.5
"""Neighbours of a defect are as near to it as the nearest, up to this."""
MOMENT = 1.0
"""Bohr magnetons at which the moments of atoms with broken bonds start."""


@dataclass(frozen=True, eq=False)
class Patch:
    """One candidate, as it is to be calculated.

    Attributes
    ----------
    name : str
        Of its files, without suffix.
    atoms : ase.Atoms
        In a periodic cell with vacuum along z, in the order of all files.
    title : str
        One line of ASCII: what it is, how probable, in which scale.
    label, kind : str
        "V_Mo" and "VM"; the perfect crystal is "pristine" and "".
    center_A : (2,) array
        Of the defect, in the plane of the cell.
    a_A : float
        Lattice constant of the crystal in this cell; NaN where it is not known.
    measured : bool
        Whether that is the experimental one; else it was asked for.
    """

    name: str
    atoms: Atoms
    title: str
    label: str
    kind: str
    center_A: FloatArray
    a_A: float
    measured: bool

    @property
    def vacuum_A(self) -> float:
        """From the atoms of one layer to those of the next."""
        return float(self.atoms.cell[2, 2] - np.ptp(self.atoms.positions[:, 2]))


def mesh(patch: Patch) -> tuple[int, int, int]:
    """Points of a mesh about Gamma along the three reciprocal vectors."""
    lengths = 2 * np.pi * np.linalg.norm(np.asarray(patch.atoms.cell.reciprocal())[:2], axis=1)
    n, m = (max(1, math.ceil(length / SPACING_1_A - 1e-6)) for length in lengths)
    return n, m, 1


def faces_differ(patch: Patch) -> bool:
    """Whether the layer has a dipole: some atom has no mirror image on the other side of the middle plane."""
    from ase.geometry import get_distances

    r, z = patch.atoms.positions, patch.atoms.positions[:, 2]
    mirrored = r * [1, 1, -1] + [0, 0, z.min() + z.max()]
    apart = get_distances(mirrored, r, cell=patch.atoms.cell, pbc=[True, True, False])[1]
    same = patch.atoms.numbers[:, None] == patch.atoms.numbers[None]
    return not bool((np.where(same, apart, np.inf).min(axis=1) < ALIKE_A).all())


def is_flat(patch: Patch) -> bool:
    """Whether the crystal is one atom thick."""
    return float(np.median(np.abs(patch.atoms.positions[:, 2] - np.median(patch.atoms.positions[:, 2])))) < ALIKE_A


def spin_reason(patch: Patch) -> str:
    """Why spin is to be polarised; empty where nothing asks for it."""
    if patch.kind in ("VM", "ANTI"):
        return f"{patch.label} is a {'metal vacancy' if patch.kind == 'VM' else 'metal or chalcogen in a wrong place'}"
    if int(patch.atoms.numbers.sum()) % 2:
        return "the number of electrons is odd"
    if is_flat(patch) and patch.kind == "SV":
        return "the neighbours of a vacancy in a flat sheet have dangling bonds"
    return ""


def moments(patch: Patch) -> FloatArray:
    """Magnetic moments (A,) to start from, Bohr magnetons: on what stands on the site of the defect and around it."""
    if not spin_reason(patch):
        return np.zeros(len(patch.atoms))
    from ase.geometry import get_distances

    at = np.append(patch.center_A, 0.0)[None]
    flat = patch.atoms.positions * [1, 1, 0]
    away = get_distances(at, flat, cell=patch.atoms.cell, pbc=[True, True, False])[1][0]
    ring = away[away > ON_SITE_A].min()
    return np.where((away <= ON_SITE_A) | ((away > ON_SITE_A) & (away < ring + SHELL_A)), MOMENT, 0.0)


# -- in words ----------------------------------------------------------------------------------------------------------


def reasons(patch: Patch) -> list[str]:
    """Why the numbers are what they are, a paragraph each; plain ASCII."""
    return [_about_points(patch), _about_cell(patch), _about_faces(patch), _about_spin(patch), _about_end()]


def _about_points(patch: Patch) -> str:
    n, m, _ = mesh(patch)
    text = (
        f"k points: {n} x {m} x 1 about Gamma: neighbours at most {SPACING_1_A:g} 1/A apart in the plane (2 pi "
        "included; 8 x 8 in the unit cell of MoS2), one along the vacuum."
    )
    gamma = " The mesh holds Gamma, which a shifted one of a hexagonal cell would not." if is_hexagonal(patch) else ""
    folded = corner(patch)
    return f"{text}{gamma} {folded}" if folded else f"{text}{gamma}"


def is_hexagonal(patch: Patch) -> bool:
    """Whether a and b are 60 or 120 degrees apart."""
    angle = float(patch.atoms.cell.angles()[2])
    return min(abs(angle - 60), abs(angle - 120)) < 0.1


def repeats(patch: Patch) -> tuple[int, int] | None:
    """Unit cells along a and b; None where they are not known, or the crystal is not hexagonal."""
    ratio = patch.atoms.cell.lengths()[:2] / patch.a_A
    if not is_hexagonal(patch) or not np.isfinite(patch.a_A) or np.abs(ratio - np.round(ratio)).max() > 0.01:
        return None
    return round(float(ratio[0])), round(float(ratio[1]))


def corner(patch: Patch) -> str:
    """Where the corner K of the unit cell's Brillouin zone falls, and whether the mesh has a point there."""
    cells = repeats(patch)
    if cells is None:
        return ""
    n, m, _ = mesh(patch)
    shape = (
        f"In {cells[0]} x {cells[1]} unit cells their K (the band edges of dichalcogenides, graphene and boron nitride)"
    )
    if cells[0] % 3 == 0 and cells[1] % 3 == 0:
        return f"{shape} folds onto Gamma, which the mesh has."
    if (n * cells[0]) % 3 == 0 and (m * cells[1]) % 3 == 0:
        return f"{shape} folds onto another point of the mesh."
    return f"{shape} falls between the points: for band edges use a multiple of 3 along both."


def _about_cell(patch: Patch) -> str:
    scale = ""
    if np.isfinite(patch.a_A) and patch.measured:
        scale = (
            f" a is the measured {patch.a_A:.4f} A: the constant of the functional (PBE: up to 1 % longer) leaves no "
            "strain; export again with --lattice-constant for it."
        )
    elif np.isfinite(patch.a_A):
        scale = f" a is {patch.a_A:.4f} A, as asked for."
    few = "" if patch.vacuum_A >= ENOUGH_VACUUM_A else f" That is little: {ENOUGH_VACUUM_A:g} A keep layers apart."
    return (
        f"Cell: fixed, only atoms move. {patch.vacuum_A:.1f} A of vacuum between the atoms of one layer and the next."
        f"{few}{scale} Charge: neutral; a charged defect needs a correction that is not made here."
    )


def _about_faces(patch: Patch) -> str:
    if faces_differ(patch):
        return "Dipole: the two faces of the layer differ, so that the field between its images has to be taken off."
    return "Dipole: the two faces of the layer are alike, no correction is needed."


def _about_spin(patch: Patch) -> str:
    why = spin_reason(patch)
    if why:
        count = int((moments(patch) > 0).sum())
        return (
            f"Spin: polarised, because {why}; {count} atoms at the defect start with {MOMENT:g} Bohr magneton each. "
            "Other moments may lead to other minima: compare a few."
        )
    return "Spin: not polarised: no metal vacancy or antisite, an even number of electrons."


def _about_end() -> str:
    return (
        f"Accuracy: PBE, plane waves up to {WAVES_eV:g} eV and forces below {FMAX_eV_A:g} eV/A, as in the published "
        "set of defects 2DMD (Huang et al., npj 2D Mater. Appl. 7, 6 (2023)). Bending of a layer is soft: 0.05 eV/A "
        f"may leave half of a displacement undone. Occupations are smeared by {WIDTH_eV:g} eV, little against the gaps."
    )


def commented(paragraphs: list[str], mark: str, width: int = 100) -> str:
    """Paragraphs as lines of comment."""
    import textwrap

    return "".join(f"{mark} {line}\n" for text in paragraphs for line in textwrap.wrap(text, width))
