"""Name the defects of a structure whose host is known, in the words in which they are built: "V_S", "SVL-4", "T1"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from definet.host_fit import HostFit
from definet.structures import ZIGZAG

FloatArray = NDArray[np.float64]

SAME_COLUMN_A = 0.6
"""Atoms closer than this in projection stand above each other: columns of these hosts are 0.78 A apart or more."""


@dataclass(frozen=True)
class _Spot:
    """One column of a site or beside all sites: what is missing, what is there instead, its place in the plane (A)."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    x_A: float
    y_A: float
    level: tuple[int, ...] = ()

    @property
    def hollow(self) -> bool:
        """Whether nothing belongs here."""
        return not self.missing and bool(self.extra)

    @property
    def vacant(self) -> bool:
        """Whether nothing took the place of what is missing."""
        return bool(self.missing) and not self.extra


def label(fit: HostFit, elements: Sequence[str]) -> str:
    """Label of all defects, joined by "+" in alphabetical order; "pristine" where there is none.

    Parameters
    ----------
    fit : HostFit
    elements : sequence of str
        Of the N atoms.
    """
    spots = _spots(fit, elements)
    names = [name for group in _groups(fit, spots) for name in _named(fit, [spots[k] for k in group])]
    return "+".join(sorted(names)) or "pristine"


def _spots(fit: HostFit, elements: Sequence[str]) -> list[_Spot]:
    """Every column that is not as in the ideal host."""
    basis = fit.host.basis
    places: dict[tuple[float, float], list[int]] = {}
    for k, atom in enumerate(basis):
        places.setdefault((atom.u, atom.v), []).append(k)
    loose = {int(n): fit.atom_A[n] for n in np.flatnonzero(fit.site < 0)}
    found: list[_Spot] = []
    for cell in range(len(fit.cell_ij)):
        for members in places.values():
            sites = [cell * len(basis) + k for k in members]
            there = [elements[fit.occupant[s]] for s in sites if fit.occupant[s] >= 0]
            belongs = [basis[k].element for k in members]
            if there == belongs:
                continue
            x, y, _ = fit.site_A[sites[0]]
            above = [n for n, r in loose.items() if _apart(fit, r[:2], fit.site_A[sites[0], :2]) < SAME_COLUMN_A]
            there += [elements[n] for n in above]
            loose = {n: r for n, r in loose.items() if n not in above}
            level = tuple(k for k, s in zip(members, sites, strict=True) if fit.occupant[s] < 0)
            found.append(_Spot(_less(belongs, there), _less(there, belongs), float(x), float(y), level))
    return found + _beside(fit, elements, loose)


def _beside(fit: HostFit, elements: Sequence[str], loose: dict[int, FloatArray]) -> list[_Spot]:
    """Columns of atoms on no site."""
    found: list[_Spot] = []
    left = dict(loose)
    while left:
        _, r = next(iter(left.items()))
        column = [n for n, other in left.items() if _apart(fit, other[:2], r[:2]) < SAME_COLUMN_A]
        found.append(_Spot((), tuple(sorted(elements[n] for n in column)), float(r[0]), float(r[1])))
        left = {n: other for n, other in left.items() if n not in column}
    return found


def _less(these: Iterable[str], those: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted((Counter(these) - Counter(those)).elements()))


def _apart(fit: HostFit, p: FloatArray, q: FloatArray) -> float:
    return float(np.linalg.norm(_step(fit, p, q)))


def _step(fit: HostFit, p: FloatArray, q: FloatArray) -> FloatArray:
    """From p to the nearest image of q, in the plane."""
    cell = fit.repeat @ fit.plane_A
    off = (q - p) @ np.linalg.inv(cell)
    near = off - np.round(off)
    around = (near + np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])) @ cell
    return np.asarray(around[int(np.argmin(np.linalg.norm(around, axis=1)))])


def _groups(fit: HostFit, spots: Sequence[_Spot]) -> list[list[int]]:
    """Neighbours among spots: empty columns of one sublattice a lattice vector apart, empty or new ones a bond apart.

    What is exchanged stands for itself, wherever it is.
    """
    bond = 1.15 * fit.a_A / np.sqrt(3) if fit.host.hexagonal else 1.15 * fit.a_A / 2
    group = list(range(len(spots)))
    for i, first in enumerate(spots):
        for j, second in enumerate(spots[:i]):
            rows = first.vacant and second.vacant and first.missing[0] == second.missing[0]
            here, there = np.array([first.x_A, first.y_A]), np.array([second.x_A, second.y_A])
            limit = 1.15 * fit.a_A if rows and fit.host.sublattices == ("M", "X") else bond
            alone = (first.missing and first.extra) or (second.missing and second.extra)
            if not alone and _apart(fit, here, there) < limit:
                low, high = sorted((group[i], group[j]))
                group = [low if g == high else g for g in group]
    return [[k for k, g in enumerate(group) if g == head] for head in dict.fromkeys(group)]


def _named(fit: HostFit, group: list[_Spot]) -> list[str]:
    """Name of what neighbours are together; else the name of each."""
    if fit.host.sublattices == ("M", "X"):
        together = _trefoil(fit, group) or _metal_complex(fit, group) or _line(fit, group)
    else:
        together = _flat(group) if fit.host.hexagonal else None
    if together:
        return [together]
    return [name for spot in group for name in _alone(fit, spot)]


def _alone(fit: HostFit, spot: _Spot) -> list[str]:
    if spot.hollow:
        return [f"{element}_i" for element in spot.extra]
    if spot.vacant:
        return [f"V_{_formula(spot.missing)}"]
    kinds = Counter(spot.extra)
    if fit.host.elements.get("M") in kinds or len(spot.extra) > len(spot.missing):
        return [f"{_formula(spot.extra)}_{_formula(spot.missing)}"]
    names, left = [], list(spot.missing)
    for element, count in kinds.items():
        names.append(f"{_formula([element] * count)}_{_formula(left[:count])}")
        left = left[count:]
    return [*names, *([f"V_{_formula(left)}"] if left else [])]


def _formula(elements: Sequence[str]) -> str:
    return "".join(element + (str(n) if n > 1 else "") for element, n in Counter(elements).items())


def _trefoil(fit: HostFit, group: list[_Spot]) -> str | None:
    """Chain of n rotated metals: 2 n + 1 chalcogen pairs moved to hollows, n + 2 gone (Lin et al. 2015)."""
    pair = (fit.host.elements["X"],) * len(fit.host.column("X"))
    hollows = [spot for spot in group if spot.hollow and spot.extra == pair]
    empty = [spot for spot in group if spot.vacant and spot.missing == pair]
    n, odd = divmod(len(hollows) - 1, 2)
    if n < 1 or odd or len(hollows) + len(empty) < len(group):
        return None
    gone = len(empty) - len(hollows)
    return {n + 2: f"T{n}", 0: f"T{n}-484"}.get(gone)


def _metal_complex(fit: HostFit, group: list[_Spot]) -> str | None:
    """A metal vacancy with the three or six chalcogens around it."""
    metal, chalcogen = fit.host.elements["M"], fit.host.elements["X"]
    metals = [spot for spot in group if metal in spot.missing]
    ring = [spot for spot in group if spot.missing and set(spot.missing) == {chalcogen}]
    alike = {len(spot.missing) for spot in ring} if len({spot.level for spot in ring}) == 1 else set[int]()
    if len(group) != 4 or len(metals) != 1 or len(ring) != 3 or len(alike) != 1 or not all(s.vacant for s in group):
        return None
    return f"V_{metal}{chalcogen}{3 * alike.pop()}" if metals[0].missing == (metal,) else None


def _line(fit: HostFit, group: list[_Spot]) -> str | None:
    """Rows of chalcogen vacancies along zigzag: from three vacancies on, as in `definet.structures.line`."""
    chalcogen = fit.host.elements["X"]
    if not all(spot.vacant and set(spot.missing) == {chalcogen} for spot in group):
        return None
    each, total = {len(spot.missing) for spot in group}, sum(len(spot.missing) for spot in group)
    if total < 3 or len(group) < 2 or len(each) > 1:
        return None
    rows = _rows(fit, group)
    if rows == 1:
        return f"SVL-{total}" if each == {1} else f"CVL-{total}"
    return f"DVL-{total}" if rows == 2 and each == {1} else None


def _rows(fit: HostFit, group: list[_Spot]) -> int | None:
    """Least number of unbroken zigzag rows that hold all columns; None if that is more than two."""
    at = _unwound(fit, group)
    found = []
    for (a, b), (p, q) in pairwise(ZIGZAG[:4]):
        # Coordinates along the row and from row to row.
        det = a * q - b * p
        along, across = [(i * q - j * p) // det for i, j in at], [(j * a - i * b) // det for i, j in at]
        rows = {r: sorted(s for s, t in zip(along, across, strict=True) if t == r) for r in across}
        if all(row[-1] - row[0] == len(row) - 1 for row in rows.values()):
            found.append(len(rows))
    return min(found) if found and min(found) <= 2 else None


def _unwound(fit: HostFit, group: list[_Spot]) -> list[tuple[int, int]]:
    """Cells of neighbouring columns counted from the first, across the border of the supercell."""
    at: dict[int, FloatArray] = {0: np.zeros(2)}
    places = [np.array([spot.x_A, spot.y_A]) for spot in group]
    queue = [0]
    while queue:
        k = queue.pop()
        for n, place in enumerate(places):
            step = _step(fit, places[k], place)
            if n not in at and np.linalg.norm(step) < 1.15 * fit.a_A:
                at[n] = at[k] + step
                queue.append(n)
    inverse = np.linalg.inv(fit.plane_A)
    cells = [np.round(at[n] @ inverse).astype(int) for n in range(len(group))]
    return [(int(i), int(j)) for i, j in cells]


TRIANGLES = ((1, 3), (3, 6), (6, 10))
"""Atoms of either kind that a triangular hole in boron nitride lacks (Jin et al., PRL 102, 195505 (2009))."""


def _flat(group: list[_Spot]) -> str | None:
    """Two neighbours missing, or turned by a right angle about the middle of their bond; a triangular hole."""
    missing = tuple(sorted(element for spot in group for element in spot.missing))
    added = tuple(sorted(element for spot in group for element in spot.extra))
    empty = [spot for spot in group if spot.vacant]
    if len(empty) == 2 and len(missing) == 2 and added == missing and len(group) == 4:
        return "SW"
    if added:
        return None
    if len(group) == 2 == len(missing):
        return f"V_{_formula(missing)}"
    counts = Counter(missing).most_common()
    if len(counts) == 2 and (counts[1][1], counts[0][1]) in TRIANGLES:
        return f"V_{_formula([element for element, n in counts for _ in range(n)])}"
    return None
