"""Lay an ideal host under a structure: which supercell it is, which atom stands on which site, which site is empty.

The cell may be rotated about its normal, strained by some per cent, skewed, rectangular, left-handed, and its origin
may lie anywhere: its vectors are whole combinations of the host's, and their right ones are those under which the atoms
repeat (structure factors); the register is the shift that puts most atoms on sites of their own element.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from definet.crystals import Crystal
from definet.exceptions import StructureError
from definet.layer import bottom
from definet.structures import ZIGZAG

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LARGEST_STRAIN = 0.06
"""Of either axis: functionals and experiments differ by up to 3 % (black phosphorus: 5 % along b)."""

REACH = 0.4
"""Farthest an atom may be from its site, in nearest-neighbour distances: below half, so that there is one nearest."""

MISFIT = 0.5
"""Share of the sites of each kind that must hold their own element; below it another host fits better."""

_ENOUGH = 0.8
"""Agreement of structure factors that no wrong cell reaches: its phases wind round and add up to nothing."""

_LEAST = 0.4
"""Agreement below which a cell is none: trefoil chains in 7 x 7 cells leave 0.9."""

_VOTERS, _WITNESSES = 24, 400
"""Atoms that propose registers, and atoms that judge them."""


@dataclass(frozen=True, eq=False)
class HostFit:
    """An ideal host under the N atoms of a structure that stands upright.

    Attributes
    ----------
    host : Crystal
    repeat : (2, 2) int array
        In-plane cell vectors in units of the host's.
    plane_A : (2, 2) array
        The host's vectors as they are in this structure (rotated, strained), rows.
    a_A : float
        Lattice constant of the host in this cell: of equal area for hexagonal hosts, else along its a.
    strain : float
        Largest of the two principal strains less their mean: how far the cell is from a merely scaled host.
    site : (N,) int array
        Site of each atom, cell * K + basis index; -1 where it stands on none.
    occupant : (S,) int array
        Atom on each site; -1 where it is empty.
    site_A : (S, 3) array
        Where the sites are, Cartesian in the structure's frame.
    atom_A : (N, 3) array
        Where the atoms are, in the same period of the vacuum.
    cell_ij : (S / K, 2) int array
        Indices of each cell along the host's vectors.
    off_A : (N,) array
        How far each atom is from its site; 0 where it stands on none.
    """

    host: Crystal
    repeat: IntArray
    plane_A: FloatArray
    a_A: float
    strain: float
    site: IntArray
    occupant: IntArray
    site_A: FloatArray
    atom_A: FloatArray
    cell_ij: IntArray
    off_A: FloatArray

    @property
    def element(self) -> list[str]:
        """(S,) what belongs on each site."""
        return [atom.element for atom in self.host.basis] * len(self.cell_ij)

    @property
    def hollow(self) -> int:
        """Cells that are empty together with all six around them: a hole, or vacuum beyond an edge."""
        cells = _Cells.of(self.repeat)
        empty = np.asarray((self.occupant.reshape(len(self.cell_ij), -1) < 0).all(axis=1), np.bool_).reshape(-1)
        around = [empty[cells.index(self.cell_ij + np.array(step))] for step in ZIGZAG]
        return int((empty & np.all(around, axis=0)).sum())

    @property
    def shape(self) -> tuple[int, int]:
        """Repeats n, m where the cell spans the same lattice as n a and m b, else (0, 0); cell (i, j) is i m + j."""
        cells = _Cells.of(self.repeat)
        return (cells.p, cells.r) if cells.q % cells.r == 0 else (0, 0)


def fit_host(structure: Structure, host: Crystal) -> HostFit:
    """Find the host's sites in a structure.

    Parameters
    ----------
    structure : pymatgen Structure
        Atoms of one layer, c along z (`definet.layer.upright`), vacancies not listed.
    host : Crystal

    Raises
    ------
    StructureError
        If the cell is no supercell of the host, or the atoms do not stand on its sites.
    """
    atoms = _Atoms.of(structure)
    repeats = _supercells(atoms, host)
    if not repeats:
        a, b = np.linalg.norm(atoms.cell, axis=1)
        within = f"{host.name} within {LARGEST_STRAIN:.0%} strain"
        what = f"the cell (a = {a:.3f} A, b = {b:.3f} A) is no supercell of {within}"
        raise StructureError(what, "Give another --host, or a structure with markers.")
    turned = [repeat @ turn for repeat in repeats for turn in _symmetries(host)]
    best = max((_register(atoms, host, repeat) for repeat in turned), key=lambda found: round(found.votes, 6))
    fit = _assigned(atoms, host, best)
    _check(atoms, fit)
    return fit


@dataclass(frozen=True, eq=False)
class _Atoms:
    """In-plane cell (2, 2) A, cell coordinates (N, 2), heights above the lowest atom (N,) A, elements (N,)."""

    cell: FloatArray
    at: FloatArray
    z: FloatArray
    element: NDArray[np.str_]
    floor_A: float

    @staticmethod
    def of(structure: Structure) -> _Atoms:
        start, _ = bottom(structure)
        c_A = float(structure.lattice.matrix[2, 2])
        # Rounding must not lift the lowest atom through the whole cell.
        z = ((structure.frac_coords[:, 2] - start + 1e-6) % 1.0 - 1e-6) * c_A
        element = np.array([site.specie.symbol for site in structure])
        return _Atoms(structure.lattice.matrix[:2, :2], structure.frac_coords[:, :2], z, element, start * c_A)


# -- which supercell -----------------------------------------------------------------------------------------------


def _supercells(atoms: _Atoms, host: Crystal) -> list[IntArray]:
    """Whole combinations of the host's vectors that are the cell, apart from the host's own rotations; best first."""
    plane = host.plane_A()
    found = _combinations(atoms.cell, plane)
    if len(found) == 0:
        return []
    strains = np.linalg.svd(np.linalg.solve(found @ plane, np.broadcast_to(atoms.cell, found.shape)))[1]
    turns = np.linalg.det(np.linalg.solve(found @ plane, np.broadcast_to(atoms.cell, found.shape))) > 0
    good = turns & (np.abs(strains - 1) <= LARGEST_STRAIN).all(axis=1)
    found, strains = found[good], strains[good]
    found = found[np.argsort(np.ptp(strains, axis=1) + 1e-3 * np.abs(strains.mean(axis=1) - 1), kind="stable")]
    kept: list[tuple[float, IntArray]] = []
    for start in range(0, len(found), 500):
        chunk = found[start : start + 500]
        kept += list(zip(_agreement(atoms, host, chunk).tolist(), chunk, strict=True))
        if max(score for score, _ in kept) > _ENOUGH:
            break
    kept.sort(key=lambda item: -item[0])
    return [repeat for score, repeat in kept[:3] if score > max(0.5 * kept[0][0], _LEAST)]


def _combinations(cell: FloatArray, plane: FloatArray) -> IntArray:
    """(C, 2, 2) pairs of lattice vectors as long as the cell's, and at their angle, one of each rotated family."""
    lengths = np.linalg.norm(cell, axis=1)
    most = int(np.ceil(1.3 * lengths.max() / np.linalg.norm(plane, axis=1).min())) + 1
    grid = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    long = np.linalg.norm(grid @ plane, axis=1)
    first, second = (grid[np.abs(long / length - 1) <= 1.1 * LARGEST_STRAIN] for length in lengths)
    symmetries = _turns(plane)
    images = np.stack([first @ turn for turn in symmetries], 1)  # (A, G, 2)
    rank = images[..., 0] * (4 * most) + images[..., 1]
    first = first[rank[:, 0] >= rank.max(axis=1)] if len(first) else first
    wanted = _angle(cell[0], cell[1])
    pairs = []
    for vector in first:
        off = np.angle(np.exp(1j * (_angle(vector @ plane, second @ plane) - wanted)))
        near = second[np.abs(off) <= 2.2 * LARGEST_STRAIN]
        pairs.append(np.stack([np.broadcast_to(vector, near.shape), near], 1))
    return np.concatenate(pairs).astype(np.int64) if pairs else np.zeros((0, 2, 2), np.int64)


def _angle(start: FloatArray, end: FloatArray) -> FloatArray:
    """From one vector to others (..., 2), counter-clockwise."""
    return np.asarray(
        np.arctan2(start[..., 0] * end[..., 1] - start[..., 1] * end[..., 0], (start * end).sum(axis=-1)), np.float64
    )


def _symmetries(host: Crystal) -> list[IntArray]:
    return _turns(host.plane_A())


def _turns(plane: FloatArray) -> list[IntArray]:
    """Rotations of a lattice in its own coordinates."""
    gram = plane @ plane.T
    turns = [np.array(entries).reshape(2, 2) for entries in product((-1, 0, 1), repeat=4)]
    return [t for t in turns if round(np.linalg.det(t)) == 1 and np.allclose(t @ gram @ t.T, gram, atol=1e-6)]


_ORDERS = np.array([k for k in product(range(3), range(-2, 3)) if k > (0, 0)])


def _agreement(atoms: _Atoms, host: Crystal, repeats: IntArray) -> FloatArray:
    """(C,) structure factors of the atoms against those of the ideal host, 1 if they are its; independent of origin."""
    basis = np.array([[atom.u, atom.v] for atom in host.basis])
    ideal = np.abs(np.exp(2j * np.pi * basis @ _ORDERS.T).mean(axis=0))
    some = _sample(len(atoms.at), _WITNESSES)
    waves = repeats @ _ORDERS.T  # (C, 2, O): reciprocal vectors in cell coordinates
    seen = np.abs(np.exp(2j * np.pi * np.einsum("nd,cdo->cno", atoms.at[some], waves)).mean(axis=1))
    return np.asarray(seen @ ideal / (ideal @ ideal), np.float64)


def _sample(count: int, most: int) -> IntArray:
    """Indices of at most `most` of `count`, drawn without order: evenly spaced ones would alias with the lattice."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


# -- where it lies -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Register:
    """Supercell, the host's vectors here (2, 2), shift of each basis atom (K, 3) in host cells and A, votes."""

    repeat: IntArray
    plane_A: FloatArray
    shift: FloatArray
    votes: float


def _register(atoms: _Atoms, host: Crystal, repeat: IntArray) -> _Register:
    """The shift under which most atoms stand on sites of their element."""
    plane: FloatArray = np.asarray(np.linalg.solve(repeat.astype(np.float64), atoms.cell), np.float64)
    basis = np.array([[atom.u, atom.v, atom.z_A] for atom in host.basis])
    element = np.array([atom.element for atom in host.basis])
    here = np.column_stack([atoms.at @ repeat, atoms.z])
    own = atoms.element[:, None] == element[None]
    voters, witnesses = _sample(len(here), _VOTERS), _sample(len(here), _WITNESSES)
    shifts = (here[voters, None] - basis[None]).reshape(-1, 3)[own[voters].ravel()]
    if len(shifts) == 0:
        shifts = (here[voters, None] - basis[None]).reshape(-1, 3)
    reach = _reach(host)
    votes = [_votes(here[witnesses], basis + shift, own[witnesses], plane, reach) for shift in shifts]
    shift = basis + shifts[int(np.argmax(votes))]
    for _ in range(2):
        shift = _settled(here, shift, own, plane, reach)
    return _Register(repeat, plane, shift, float(max(votes)))


def _steps(here: FloatArray, sites: FloatArray, plane: FloatArray) -> FloatArray:
    """(N, K, 3) Angstrom, from the nearest site of each kind to each atom."""
    off = here[:, None] - sites[None]
    off[..., :2] = (off[..., :2] - np.round(off[..., :2])) @ plane
    return off


def _votes(here: FloatArray, sites: FloatArray, own: NDArray[np.bool_], plane: FloatArray, reach: float) -> float:
    """Share of atoms on sites of their element; foreign ones count a quarter; nearer ones break ties."""
    distance = np.linalg.norm(_steps(here, sites, plane), axis=2)
    hit = (distance < reach) * np.where(own, 1.0, 0.25) * (1 - 0.1 * distance / reach)
    return float(hit.max(axis=1).mean())


def _settled(
    here: FloatArray, sites: FloatArray, own: NDArray[np.bool_], plane: FloatArray, reach: float
) -> FloatArray:
    """Sites moved to the median of the atoms on them; in the plane all alike, in height each kind by itself."""
    off = _steps(here, sites, plane)
    on = own & (np.linalg.norm(off, axis=2) < reach)
    if not on.any():
        return sites
    moved = sites.copy()
    moved[:, :2] += np.median(off[on][:, :2], axis=0) @ np.linalg.inv(plane)
    moved[:, 2] += [np.median(off[on[:, k], k, 2]) if on[:, k].any() else 0.0 for k in range(len(sites))]
    return moved


def _reach(host: Crystal) -> float:
    """`REACH` in Angstrom."""
    plane = host.plane_A()
    flat = np.array([[atom.u, atom.v] for atom in host.basis])
    cells = np.array(list(product((-1, 0, 1), repeat=2)))
    steps = (flat[:, None, None] - flat[None, :, None] + cells) @ plane
    z = np.array([atom.z_A for atom in host.basis])
    distance = np.sqrt((steps**2).sum(axis=-1) + (z[:, None, None] - z[None, :, None]) ** 2)
    return REACH * float(distance[distance > 1e-6].min())


# -- who stands where ----------------------------------------------------------------------------------------------


def _assigned(atoms: _Atoms, host: Crystal, found: _Register) -> HostFit:
    here = np.column_stack([atoms.at @ found.repeat, atoms.z])
    count, cells = len(host.basis), _Cells.of(found.repeat)
    off = _steps(here, found.shift, found.plane_A)  # (N, K, 3)
    home = np.round(here[:, None, :2] - found.shift[None, :, :2]).astype(np.int64)  # (N, K, 2)
    index = cells.index(home) * count + np.arange(count)
    distance = np.linalg.norm(off, axis=2)
    site, occupant = np.full(len(here), -1), np.full(len(cells.ij) * count, -1)
    _claim(index, np.where(distance < _reach(host), distance, np.inf), site, occupant)
    # An antisite stands lower or higher than the atom it replaces: in the same column, within the layer.
    z = np.array([atom.z_A for atom in host.basis])
    column = np.linalg.norm(off[..., :2], axis=2) < _reach(host)
    inside = np.abs(off[..., 2]) < max(1.15 * float(np.abs(z).max()), 1e-9)
    # Of two empty sites as near, the upper one, as where such a defect is built.
    far = np.where(column & inside, np.abs(off[..., 2]) - 1e-3 * z, np.inf)
    _claim(index, np.where((site >= 0)[:, None], np.inf, far), site, occupant)
    at = (cells.ij[:, None] + found.shift[None, :, :2]) @ found.plane_A
    site_A = np.concatenate([at, np.broadcast_to(found.shift[:, 2:] + atoms.floor_A, (*at.shape[:2], 1))], axis=2)
    strains = np.linalg.svd(np.linalg.solve(host.plane_A(), found.plane_A))[1]
    scale = float(np.sqrt(strains.prod())) if host.hexagonal else _length(found.plane_A[0]) / host.a_exp_A
    return HostFit(
        host, found.repeat, found.plane_A, host.a_exp_A * scale, float(np.ptp(strains)) / 2, site, occupant,
        site_A.reshape(-1, 3), np.column_stack([atoms.at @ atoms.cell, atoms.z + atoms.floor_A]), cells.ij,
        np.where(site >= 0, np.take_along_axis(distance, (site % count)[:, None], 1)[:, 0], 0.0),
    )  # fmt: skip


def _length(vector: FloatArray) -> float:
    return float(np.linalg.norm(vector))


def _claim(index: IntArray, distance: FloatArray, site: IntArray, occupant: IntArray) -> None:
    """Give sites to atoms, the nearest pairs first; `site` and `occupant` are filled in."""
    for flat in np.argsort(distance, axis=None, kind="stable"):
        n, k = divmod(int(flat), distance.shape[1])
        if not np.isfinite(distance[n, k]):
            return
        if site[n] < 0 and occupant[index[n, k]] < 0:
            site[n], occupant[index[n, k]] = index[n, k], n


@dataclass(frozen=True, eq=False)
class _Cells:
    """The host's cells in a supercell, by the Hermite normal form ((p, q), (0, r)) of its vectors."""

    p: int
    q: int
    r: int

    @staticmethod
    def of(repeat: IntArray) -> _Cells:
        (a, b), (c, d) = repeat.tolist()
        while c:
            (a, b), (c, d) = (c, d), (a - a // c * c, b - a // c * d)
        if a < 0:
            a, b = -a, -b
        return _Cells(a, b, abs(d))

    @property
    def ij(self) -> IntArray:
        """(p r, 2) one of each cell, in the order of `index`."""
        return np.stack(np.divmod(np.arange(self.p * self.r), self.r), axis=1)

    def index(self, ij: IntArray) -> IntArray:
        """Which of the cells (..., 2) stand for."""
        turns = ij[..., 0] // self.p
        return np.asarray((ij[..., 0] - turns * self.p) * self.r + (ij[..., 1] - turns * self.q) % self.r)


def _check(atoms: _Atoms, fit: HostFit) -> None:
    """See that the host is the right one."""
    count, remedy = len(fit.host.basis), "Give another --host, or a structure with markers."
    for k, atom in enumerate(fit.host.basis):
        occupant = fit.occupant[k::count]
        share = float((atoms.element[occupant] == atom.element)[occupant >= 0].sum()) / len(occupant)
        if share < MISFIT:
            what = f"only {share:.0%} of the {atom.element} sites at {atom.z_A:+.2f} A hold {atom.element}"
            raise StructureError(f"the structure does not fit {fit.host.name}: {what}", remedy)
    beside = float((fit.site < 0).sum()) / len(fit.occupant)
    if beside > MISFIT:
        what = f"{(fit.site < 0).sum()} atoms stand on none of its {len(fit.occupant)} sites"
        raise StructureError(f"the structure does not fit {fit.host.name}: {what}", remedy)
