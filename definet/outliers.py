"""Relaxations that must not be learnt from: torn structures, atoms that left, minima that chance has chosen."""

from __future__ import annotations

import hashlib
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from definet.samples import Sample

FloatArray = NDArray[np.float64]

RULES = 3
"""Raised when the rules change: a shard says which it was judged by."""
LARGEST_MOVE_A = 1.5
"""An atom that moves further than to the next site did not relax about the defect that was built."""
ISOLATED_A = 3.5
"""Longer than any bond of these hosts (Te-Te, Mo-Mo at 3.5 A are second neighbours)."""
BROKEN_A = 0.2
"""Displacements of equivalent atoms agree to 0.02 A at the residual forces allowed; ten times that is another place."""
SAME_A = 0.01
BONDED, BOND_MADE, BOND_BROKEN = 1.25, 1.2, 1.4
"""In bond lengths of the host. Before relaxation no pair lies between 1.1 and 1.3, so that `BONDED` may be anywhere
there. Of 300 000 bonds in 881 relaxations two end between 1.25 and 1.4, where held ones part from broken ones. Pairs
that approached part at 1.2, above the long new bonds of pentagons (graphene, up to 1.2). Limits of 1.15 to 1.25 and of
1.3 to 1.5 find 120 to 124 relaxations with changed bonds."""
FAR_A = 6.0
"""Bonds at second neighbours of a defect rearrange with it, and may reach out to the next ones (metals 6.2 A from
trefoils in MoTe2): far are those of which both atoms are farther than that."""
SUSPICIOUS_MOVE_A = 0.5
"""A sixth of the way to the next site, and ten times what atoms beside a vacancy move."""
SHAKE_A = 0.02
"""Standard deviation along each axis: far below the change of a bond, far above rounding, which leaves a saddle too."""
ELSEWHERE_A = 0.2
"""Of the first 102 relaxations done twice 68 end within 0.05 A of where they did, 29 from 0.35 A on, five between."""


def outlier(sample: Sample) -> str | None:
    """Why a sample must not be learnt from, or None.

    "moved": an atom moved too far for a relaxation; reconstructed bonds belong to lines, trefoils and rotated bonds, so
    that there only twice that counts. "torn": an atom lost its neighbours. "transformed": bonds changed far from every
    changed or empty node. The host itself gave way, which is no relaxation of the defect that was built. "broken":
    atoms that symmetry makes equivalent moved differently. The start was a saddle point, rounding chose the side, and
    no function of the structure can know which. A fifth reason, "chance", takes a second relaxation:
    `definet.chance`.
    """
    atoms = sample.marker != 2
    distance = np.linalg.norm(sample.displacement[atoms], axis=1)
    if distance.max() > farthest_move_A(sample.label):
        return "moved"
    if _farthest_neighbour(sample.relaxed[atoms], sample.cell) > ISOLATED_A:
        return "torn"
    if transformed(sample):
        return "transformed"
    return "broken" if broken_symmetry_A(sample) > BROKEN_A else None


def farthest_move_A(label: str) -> float:
    """How far an atom may move in a relaxation that is learnt from; no network has learnt to move one further."""
    extended = any(mark in label for mark in ("VL-", "T1", "T2", "T3", "T4", "SW"))
    return LARGEST_MOVE_A * (2 if extended else 1)


def changed_bonds(sample: Sample) -> NDArray[np.int64]:
    """(K, 2) nodes of the bonds that relaxation made or broke.

    Where the host has a metal, bonds are those of metals with others; elsewhere those of any two atoms.
    """
    from pymatgen.core.periodic_table import Element

    metals = [number for number in np.unique(sample.numbers) if Element.from_Z(int(number)).is_metal]
    metal, there = np.isin(sample.numbers, metals), sample.marker != 2
    pairs = there[:, None] & there[None] & ~np.eye(len(there), dtype=bool)
    if metal[sample.marker == 0].any():
        pairs &= metal[:, None] != metal[None]
    before, after = (
        np.where(pairs, np.linalg.norm(_offsets(at, at, sample.cell), axis=2), np.inf)
        for at in (sample.positions, sample.relaxed)
    )
    nearest = before.min(axis=1)
    length_A = np.median(nearest[np.isfinite(nearest)])
    bonded = before < BONDED * length_A
    changed = np.where(bonded, after > BOND_BROKEN * length_A, after < BOND_MADE * length_A)
    return np.argwhere(np.triu(changed & pairs))


def transformed(sample: Sample) -> bool:
    """Whether a bond changed both of whose atoms are far in plane from every changed or empty node."""
    bonds = changed_bonds(sample)
    apart = _offsets(sample.positions, sample.positions[sample.marker != 0], sample.cell)[..., :2]
    far = np.linalg.norm(apart, axis=2).min(axis=1, initial=np.inf) > FAR_A
    return bool(far[bonds].all(axis=1).any())


def suspicious(sample: Sample) -> bool:
    """Whether a sample may not be where its valley leads.

    It left the valley that it began in, so that its minimum may be one of several; or an atom of the host stands on the
    site of another kind: often a saddle point, which forces that keep the symmetry of the start do not leave (MoS2 S_Mo
    gains another 0.6 eV once it is shaken).
    """
    moved = np.linalg.norm(sample.displacement[sample.marker != 2], axis=1)
    return bool(moved.max() > SUSPICIOUS_MOVE_A or _has_antisite(sample) or len(changed_bonds(sample)))


def _has_antisite(sample: Sample) -> bool:
    from definet.crystals import host

    own = set(host(sample.host).elements.values())
    pairs = (re.sub(r"\d", "", part).split("_") for part in sample.label.split("+"))
    return any(len(pair) == 2 and own.issuperset(pair) for pair in pairs)


def shaken(sample: Sample) -> FloatArray:
    """(N, 3) unrelaxed positions with every atom displaced a little, as follows from what was drawn; Angstrom."""
    drawn = f"{sample.group} {sample.shape[0]} {sample.shape[1]}"
    rng = np.random.default_rng(int(hashlib.sha256(drawn.encode()).hexdigest()[:16], 16))
    shift = rng.normal(0.0, SHAKE_A, sample.positions.shape)
    return np.asarray(sample.positions + np.where(sample.marker[:, None] == 2, 0.0, shift))


def farthest_apart_A(sample: Sample, relaxed: FloatArray) -> float:
    """Largest distance between where an atom ended and where it ended another time, a rigid shift left out."""
    difference = (relaxed - sample.relaxed)[sample.marker != 2]
    return float(np.linalg.norm(difference - difference.mean(axis=0), axis=1).max())


def broken_symmetry_A(sample: Sample) -> float:
    """Largest difference between displacements of atoms that the unrelaxed structure's symmetry makes equivalent."""
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    atoms = sample.marker != 2
    lattice = Lattice(sample.cell)
    positions, moved = sample.positions[atoms], sample.displacement[atoms]
    structure = Structure(lattice, sample.numbers[atoms], positions, coords_are_cartesian=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="spglib")
        operations = SpacegroupAnalyzer(structure, symprec=SAME_A).get_symmetry_operations(cartesian=True)
    largest = 0.0
    for operation in operations:
        image = positions @ operation.rotation_matrix.T + operation.translation_vector
        partner = np.linalg.norm(_offsets(image, positions, sample.cell), axis=2).argmin(axis=1)
        difference = moved @ operation.rotation_matrix.T - moved[partner]
        difference -= difference.mean(axis=0)
        largest = max(largest, float(np.linalg.norm(difference, axis=1).max()))
    return largest


def _farthest_neighbour(positions: FloatArray, cell: FloatArray) -> float:
    """Distance from the loneliest atom to its nearest neighbour, Angstrom."""
    distance = np.linalg.norm(_offsets(positions, positions, cell), axis=2)
    np.fill_diagonal(distance, np.inf)
    return float(distance.min(axis=1).max())


def _offsets(points: FloatArray, others: FloatArray, cell: FloatArray) -> FloatArray:
    """(P, Q, 3) from each of the others' nearest periodic image to each point."""
    inverse = np.linalg.inv(cell)
    offset = (points @ inverse)[:, None] - (others @ inverse)[None]
    return np.asarray((offset - np.round(offset)) @ cell)
