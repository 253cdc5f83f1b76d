"""Graphene and boron nitride with holes and rotated bonds, from a few lines that share nothing with the package.

Atoms are held by springs between neighbours (rest length one bond) and weaker ones between second neighbours, after
what is bound to what has been laid down: rings close where they are said to.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]

BOND_A = {"graphene": 1.42, "hBN": 1.446}
LIGHT = {"graphene": (1.0, 1.0), "hBN": (0.5, 1.0)}
"""Peak of the columns of A and B: boron is half as bright as nitrogen."""


class Truth(NamedTuple):
    """One defect that was put in."""

    label: str
    xy_px: FloatArray


class Sheet(NamedTuple):
    """A recorded image and what was drawn: columns (N, 2) to 6 A outside the image, and their brightness (N,)."""

    image: FloatArray
    truth: tuple[Truth, ...]
    columns: int
    pixel_A: float
    xy_px: FloatArray
    light: FloatArray


class _Net(NamedTuple):
    """Atoms in bonds: places (N, 2), sublattice (N,), whether there (N,), and bound pairs beyond near neighbours."""

    xy: FloatArray
    kind: NDArray[np.int64]
    there: NDArray[np.bool_]
    extra: list[tuple[int, int, float]]


def sheet(
    host: str, wanted: tuple[tuple[str, tuple[float, float]], ...], *, shape: tuple[int, int] = (260, 280),
    pixel_A: float = 0.1, turn_deg: float = 17.0, mirror: bool = False, shear: float = 0.02, counts: float = 100.0,
    sigma_A: float = 0.42, seed: int = 0, element: float = 2.2,
) -> Sheet:
    """Draw Gaussian columns and count electrons; `counts` is the peak of a column of brightness 1.

    Defects are (label, (x, y) as shares of the image): V_A, V_B and V_2 (one atom or two neighbours missing), V_2c (the
    same, ends bound to each other), 5-9 (one missing, two of its neighbours bound), SW, swap (another element on B, as
    bright as `element`; swap=0.7 and swapA=0.7 for another brightness, and on A), V_3 (three of A, one of B), V_3b (the
    other way round), V_6 (six and three), row3 (three in a row), ring (a hexagon), adatom (on an atom), and filled
    (such an atom in the place of two).
    """
    rng = np.random.default_rng(seed)
    h, w = shape
    bond = BOND_A[host]
    t = np.radians(turn_deg)
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    flip = np.diag([1.0, -1.0 if mirror else 1.0])
    scan = np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([1.0, -1.0]) @ turn @ flip * bond / pixel_A
    middle = np.array([w / 2 + 3.3, h / 2 - 2.6])
    net = _honeycomb((1.1 * float(np.hypot(h, w)) * pixel_A / 2 + 6) / bond)
    places = [np.linalg.solve(scan, np.array([u * w, v * h]) - middle) for _, (u, v) in wanted]
    light = np.array(LIGHT[host])[net.kind]
    made = []
    for (label, _), place in zip(wanted, places, strict=True):
        net, centre = _edit(net, label, place, rng)
        kind, _, value = label.partition("=")
        if kind == "filled":
            light = np.append(light, element)
        if kind in ("swap", "swapA"):
            light[int(np.argmin(np.hypot(*(net.xy - centre).T)))] = float(value or element)
        if kind == "adatom":
            light[int(np.argmin(np.hypot(*(net.xy - centre).T)))] += 1.0
        made.append(Truth(label, middle + centre @ scan.T))
    xy = middle + _settled(net) @ scan.T
    image, sigma = np.full(shape, 0.05), sigma_A / pixel_A
    y, x = np.arange(h)[:, None], np.arange(w)[None]
    seen = net.there & ((xy > -5 * sigma) & (xy < np.array([w, h]) + 5 * sigma)).all(1)
    for (cx, cy), value in zip(xy[seen], light[seen], strict=True):
        image += value * np.exp(-0.5 * ((y - cy) / sigma) ** 2) @ np.exp(-0.5 * ((x - cx) / sigma) ** 2)
    inside = seen & ((xy >= 0) & (xy <= [w - 1, h - 1])).all(1)
    known = net.there & ((xy > -6 / pixel_A) & (xy < np.array([w, h]) + 6 / pixel_A)).all(1)
    return Sheet(
        rng.poisson(image * counts).astype(float), tuple(made), int(inside.sum()), pixel_A, xy[known], light[known]
    )


def at_rest(label: str, seed: int = 0) -> FloatArray:
    """Atoms (N, 2) of a round flake with one defect in its middle, in bonds."""
    net, _ = _edit(_honeycomb(8.0), label, np.zeros(2), np.random.default_rng(seed))
    return _settled(net)[net.there]


def dislocated() -> FloatArray:
    """Atoms (N, 2) of a flake about an edge dislocation with Burgers vector sqrt(3) along x, in bonds.

    Displaced as in an elastic continuum of Poisson ratio 0.2 (Hirth & Lothe, Theory of Dislocations), then settled.
    """
    whole = _honeycomb(9.0)
    x, y = (whole.xy - [0.3, 0.2]).T
    far, b = x**2 + y**2, np.sqrt(3) / (2 * np.pi)
    ux = b * (np.arctan2(y, x) + x * y / (1.6 * far))
    uy = -b * (0.6 / 3.2 * np.log(far) + (x**2 - y**2) / (3.2 * far))
    moved = whole.xy - [0.3, 0.2] + np.column_stack([ux, uy])
    double = {max(pair) for pair in cKDTree(moved).query_pairs(0.55)}
    kept = np.array([k not in double for k in range(len(moved))])
    return _settled(_Net(moved[kept], whole.kind[kept], np.ones(kept.sum(), dtype=bool), []))


def _honeycomb(radius: float) -> _Net:
    a, b = np.sqrt(3) * np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
    n = int(radius) + 3
    cells = np.stack(np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1)), -1).reshape(-1, 2)
    xy = np.vstack([cells @ np.stack([a, b]), (cells + 1 / 3) @ np.stack([a, b])])
    kind = np.repeat([0, 1], len(cells))
    near = np.hypot(*xy.T) < radius + 2
    return _Net(xy[near], kind[near], np.ones(near.sum(), dtype=bool), [])


def _edit(net: _Net, label: str, place: FloatArray, rng: np.random.Generator) -> tuple[_Net, FloatArray]:
    xy, there, extra = net.xy.copy(), net.there.copy(), list(net.extra)
    label = label.partition("=")[0]
    kind = 1 if label in ("V_B", "swap", "V_3b") else 0
    own = np.flatnonzero((net.kind == kind) & there)
    first = int(own[np.argmin(np.hypot(*(xy[own] - place).T))])
    around = _neighbours(net.xy, first, 3)
    if label in ("swap", "swapA", "adatom"):
        return net, xy[first]
    if label in ("V_A", "V_B", "5-9"):
        there[first] = False
        if label == "5-9":
            p, q = rng.permutation(around)[:2]
            extra.append((int(p), int(q), 1.35))
        return _Net(xy, net.kind, there, extra), net.xy[first]
    gone = _hole(net, label, first, rng)
    if gone:
        there[gone] = False
        return _Net(xy, net.kind, there, extra), net.xy[gone].mean(0)
    second = int(rng.choice(around))
    centre = (xy[first] + xy[second]) / 2
    if label == "SW":
        for k in (first, second):
            xy[k] = centre + (xy[k] - centre) @ np.array([[0.0, 1.0], [-1.0, 0.0]])
        return _Net(xy, net.kind, there, extra), centre
    there[[first, second]] = False
    if label == "filled":
        ends = [int(n) for k in (first, second) for n in _neighbours(xy, k, 3) if n not in (first, second)]
        extra += [(len(xy), n, 1.32) for n in ends]
        return _Net(np.vstack([xy, centre]), np.append(net.kind, 0), np.append(there, True), extra), centre
    if label == "V_2c":
        for k, other in ((first, second), (second, first)):
            p, q = (int(n) for n in _neighbours(net.xy, k, 3) if n != other)
            extra.append((p, q, 1.1))
    return _Net(xy, net.kind, there, extra), centre


def _hole(net: _Net, label: str, first: int, rng: np.random.Generator) -> list[int]:
    """Atoms that a hole of three and more lacks."""
    around = [int(k) for k in _neighbours(net.xy, first, 3)]
    if label == "row3":
        return [first, *(int(k) for k in rng.permutation(around)[:2])]
    if label in ("V_3", "V_3b"):
        return [around[0], *(int(k) for k in _neighbours(net.xy, around[0], 3))]
    if label == "V_6":  # three of B about a hollow, and the six of A next to them
        middle = _hollow(net, first)
        of_b = np.flatnonzero(net.kind == 1)
        three = of_b[np.argsort(np.hypot(*(net.xy[of_b] - middle).T))[:3]]
        return sorted({int(k) for b in three for k in (b, *_neighbours(net.xy, int(b), 3))})
    if label == "ring":
        middle = _hollow(net, first)
        return [int(k) for k in np.argsort(np.hypot(*(net.xy - middle).T))[:6]]
    return []


def _hollow(net: _Net, atom: int) -> FloatArray:
    """Middle (2,) of a hexagon beside an atom: opposite to one of its neighbours."""
    return np.asarray(2 * net.xy[atom] - net.xy[int(_neighbours(net.xy, atom, 3)[0])])


def _neighbours(xy: FloatArray, k: int, count: int) -> NDArray[np.int64]:
    return np.asarray(np.argsort(np.hypot(*(xy - xy[k]).T))[1 : count + 1])


def _settled(net: _Net) -> FloatArray:
    """Places (N, 2) at rest; what is missing and what lies outermost stays."""
    use = np.flatnonzero(net.there)
    pairs = use[cKDTree(net.xy[use]).query_pairs(1.3, output_type="ndarray")]
    rest = np.ones(len(pairs))
    for p, q, length in net.extra:
        pairs, rest = np.vstack([pairs, [p, q]]), np.append(rest, length)
    bound: dict[int, set[int]] = {int(k): set() for k in use}
    for p, q in pairs:
        bound[int(p)].add(int(q))
        bound[int(q)].add(int(p))
    second = {(p, q) for ring in bound.values() for p in ring for q in ring if p < q and q not in bound[p]}
    springs = np.vstack([pairs, np.array(sorted(second))])
    length = np.append(rest, np.full(len(second), np.sqrt(3)))
    stiff = np.append(np.ones(len(pairs)), np.full(len(second), 0.15))
    free = net.there & (np.hypot(*net.xy.T) < np.hypot(*net.xy.T).max() - 2.5)

    def energy(flat: FloatArray) -> tuple[float, FloatArray]:
        xy = flat.reshape(-1, 2)
        step = xy[springs[:, 0]] - xy[springs[:, 1]]
        far = np.hypot(*step.T)
        pull = (stiff * (far - length) / far)[:, None] * step
        force = np.zeros_like(xy)
        np.add.at(force, springs[:, 0], pull)
        np.add.at(force, springs[:, 1], -pull)
        force[~free] = 0.0
        return float(0.5 * (stiff * (far - length) ** 2).sum()), force.ravel()

    settled = minimize(energy, net.xy.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 400}).x
    return np.asarray(settled).reshape(-1, 2)


def bicrystal(
    spacing: float, *, shape: tuple[int, int] = (400, 420), pixel_A: float = 0.1, turn_deg: float = 8.0,
    counts: float = 100.0, sigma_A: float = 0.42, seed: int = 0,
) -> Sheet:
    """Graphene with a row of edge dislocations about `spacing` bonds apart, whose label is 5-7.

    Grains on both sides are turned by the Burgers vector over the spacing (Hirth & Lothe, Theory of Dislocations).
    """
    h, w = shape
    scale = BOND_A["graphene"] / pixel_A
    at_rest, cores = _tilted(spacing, 0.55 * float(np.hypot(h, w)) / scale)
    t = np.radians(turn_deg)
    scan = scale * np.array([[np.cos(t), -np.sin(t)], [-np.sin(t), -np.cos(t)]])
    middle = np.array([w, h]) / 2 + [2.2, -1.4]
    xy, y, x = middle + at_rest @ scan.T, np.arange(h)[:, None], np.arange(w)[None]
    image, sigma = np.full(shape, 0.05), sigma_A / pixel_A
    for cx, cy in xy[((xy > -20) & (xy < np.array([w, h]) + 20)).all(1)]:
        image += np.exp(-0.5 * ((y - cy) / sigma) ** 2) @ np.exp(-0.5 * ((x - cx) / sigma) ** 2)
    at = middle + cores @ scan.T
    made = tuple(Truth("5-7", core) for core in at if ((core > 0) & (core < [w - 1, h - 1])).all())
    noisy = np.random.default_rng(seed).poisson(image * counts).astype(float)
    inside = ((xy >= 0) & (xy <= [w - 1, h - 1])).all(1)
    known = ((xy > -6 / pixel_A) & (xy < np.array([w, h]) + 6 / pixel_A)).all(1)
    return Sheet(noisy, made, int(inside.sum()), pixel_A, xy[known], np.ones(int(known.sum())))


@cache
def _tilted(spacing: float, radius: float) -> tuple[FloatArray, FloatArray]:
    """Atoms at rest (N, 2) about edge dislocations, and these, in an elastic continuum of Poisson ratio 0.2.

    Where a dislocation may stand is not told by the continuum: places are tried until every atom has three neighbours.
    """
    whole, b, count = _honeycomb(radius), np.sqrt(3) / (2 * np.pi), int(radius / spacing) + 2
    for x0, y0 in product((0.3, 0.0, 0.6), (0.2, 0.5, 0.9, 1.3)):
        period = 3 * max(2, round(spacing / 3))  # as the crystal repeats
        cores = np.array([[x0, y0 + n * period] for n in range(-count, count + 1)])
        moved = whole.xy.copy()
        for core in cores:
            x, y = (whole.xy - core).T
            far = x**2 + y**2
            moved[:, 0] += b * (np.arctan2(y, x) + x * y / (1.6 * far))
            moved[:, 1] -= b * (0.6 / 3.2 * np.log(far) + (x**2 - y**2) / (3.2 * far))
        moved -= np.median(moved - whole.xy, axis=0)
        double = {max(pair) for pair in cKDTree(moved).query_pairs(0.55)}
        kept = np.array([k not in double for k in range(len(moved))])
        settled = _settled(_Net(moved[kept], whole.kind[kept], np.ones(kept.sum(), dtype=bool), []))
        inner = settled[np.hypot(*settled.T) < radius - 3]
        neighbours = [len(near) - 1 for near in cKDTree(settled).query_ball_point(inner, 1.3)]
        if set(neighbours) == {3}:
            near = [int(np.argmin(np.hypot(*(whole.xy - core).T))) for core in cores]
            return settled, moved[near]
    raise RuntimeError(f"no row of dislocations {spacing:g} bonds apart came to rest with three neighbours each")
