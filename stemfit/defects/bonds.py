"""Bonds between observed columns of a flat honeycomb, and the rings that they close.

All lengths here are in bonds of the crystal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import expit

FloatArray = NDArray[np.float64]
Ring = tuple[int, ...]

STRAIN = 0.15
"""Spread of distances between bound atoms, and between atoms that share a neighbour, in a distorted network: bonds of
reconstructed vacancies are up to this much longer (El-Barbary et al., Phys. Rev. B 68, 144107 (2003))."""

SECOND = float(np.sqrt(3))
"""Distance of second neighbours."""


class Net(NamedTuple):
    """Columns (N, 2) of an undistorted crystal, standard error (N,) per axis, and bonds (K, 2) between them."""

    xy: FloatArray
    sigma: FloatArray
    bonds: NDArray[np.int64]


def bound(distance: FloatArray, sigma: FloatArray) -> FloatArray:
    """Probability that two atoms at a distance are bound to each other rather than to a third one.

    Either distance scatters by `STRAIN`, beside its own standard error; beforehand both are as likely.
    """
    variance = STRAIN**2 + sigma**2
    return np.asarray(expit(((distance - SECOND) ** 2 - (distance - 1.0) ** 2) / (2 * variance)))


def net(xy: FloatArray, sigma: FloatArray) -> Net:
    """Bind all columns that are rather neighbours than second neighbours."""
    if len(xy) < 2:
        return Net(xy, sigma, np.zeros((0, 2), dtype=np.int64))
    pairs = cKDTree(xy).query_pairs(0.5 * (1 + SECOND), output_type="ndarray")
    return Net(xy, sigma, np.asarray(pairs, dtype=np.int64))


VALENCE = 3
"""Bonds of an atom of a flat sheet (sp2)."""


def saturated(of: Net) -> Net:
    """The same with no atom bound to more than three, and no three to each other: of too many the longest bond goes.

    Columns that are measured badly, and the corners of a pentagon, may lie nearer than half way to second neighbours.
    """
    length = np.hypot(*(of.xy[of.bonds[:, 0]] - of.xy[of.bonds[:, 1]]).T)
    partners: dict[int, set[int]] = {k: set() for k in range(len(of.xy))}
    kept = []
    for n in np.argsort(length, kind="stable"):
        p, q = (int(k) for k in of.bonds[n])
        if len(partners[p]) < VALENCE and len(partners[q]) < VALENCE and not partners[p] & partners[q]:
            partners[p].add(q)
            partners[q].add(p)
            kept.append(n)
    return of._replace(bonds=of.bonds[np.sort(np.array(kept, dtype=np.int64))])


def certainty_of_bonds(of: Net, among: NDArray[np.int64]) -> float:
    """Probability that all bonds between these columns of a saturated net are there, and none besides.

    Two atoms that both have three others are not bound to each other, however near they seem.
    """
    own, every = set(among.tolist()), np.bincount(of.bonds.ravel(), minlength=len(of.xy))
    bonds = {(int(p), int(q)) for p, q in of.bonds if p in own and q in own}
    free = [k for k in own if every[k] < VALENCE]
    apart = [(p, q) for n, p in enumerate(free) for q in free[:n] if (p, q) not in bonds and (q, p) not in bonds]
    pairs = np.array([*bonds, *apart], dtype=np.int64).reshape(-1, 2)
    p = bound(np.hypot(*(of.xy[pairs[:, 0]] - of.xy[pairs[:, 1]]).T), np.hypot(*of.sigma[pairs].T))
    return float(np.prod(p[: len(bonds)]) * np.prod(1 - p[len(bonds) :]))


def rings(of: Net) -> list[Ring]:
    """Faces of the planar graph, the one all round left out; what ends in nothing is walked along on both sides.

    From every bond the next one is the first to the left, until the walk closes.
    """
    onward: dict[int, list[int]] = {}
    for p, q in np.vstack([of.bonds, of.bonds[:, ::-1]]):
        onward.setdefault(int(p), []).append(int(q))
    for p, ends in onward.items():
        step = of.xy[ends] - of.xy[p]
        onward[p] = [ends[k] for k in np.argsort(np.arctan2(step[:, 1], step[:, 0]))]
    left = {(p, q) for p, ends in onward.items() for q in ends}
    found = []
    while left:
        first = here = min(left)
        walk = []
        while True:
            left.discard(here)
            p, q = here
            walk.append(p)
            around = onward[q]
            here = (q, around[(around.index(p) - 1) % len(around)])
            if here == first:
                break
        if _area(of.xy[walk]) > 0:
            found.append(tuple(walk))
    return found


def _area(corners: FloatArray) -> float:
    x, y = corners.T
    return float(0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def certainty(of: Net, among: NDArray[np.int64]) -> float:
    """Probability that no two of these columns are bound where they are taken for apart, or the other way round."""
    pairs = np.array([(p, q) for k, p in enumerate(among) for q in among[:k]], dtype=np.int64).reshape(-1, 2)
    distance = np.hypot(*(of.xy[pairs[:, 0]] - of.xy[pairs[:, 1]]).T)
    p = bound(distance, np.hypot(*of.sigma[pairs].T))
    return float(np.prod(np.maximum(p, 1 - p)))
