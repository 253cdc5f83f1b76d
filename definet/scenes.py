"""Draw random defects to learn from: every scene follows from a seed and its number, so that a set can be gone on with.

Hosts and kinds of defect are interleaved: a set that is stopped at any time is balanced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from definet.crystals import host
from definet.exceptions import OptionError, StructureError
from definet.structures import (
    VACANCY,
    Cell,
    DefectStructure,
    Layer,
    build,
    elements_of,
    line,
    pristine,
    stone_wales,
    trefoil,
)

FloatArray = NDArray[np.float64]
Draw = Callable[[np.random.Generator, DefectStructure], DefectStructure]

SHAPES: tuple[Cell, ...] = ((7, 7), (7, 8), (8, 7), (8, 8))
"""Supercells: in smaller ones the images of a defect change its displacements by a quarter."""

# What is seen on metal, chalcogen, boron, nitrogen and carbon sites of these crystals; the common ones come twice.
_IMPURITIES: dict[str, tuple[str, ...]] = {
    "M": ("Mo", "W", "Mo", "W", "Nb", "V", "Re"),
    "X": ("S", "Se", "S", "Se", "Te", "O"),
    "B": ("C",),
    "N": ("C",),
    "C": ("N", "B", "Si"),
}


@dataclass(frozen=True)
class Scene:
    """Number of the draw, and what was drawn."""

    number: int
    crystal: DefectStructure
    group: str


def scenes(seed: int, lattice_A: Mapping[str, float], weights: Mapping[str, float] | None = None) -> Iterator[Scene]:
    """Endless stream of different defects.

    Parameters
    ----------
    seed : int
    lattice_A : mapping of host to a
        Lattice constant of each host in the potential that will relax them.
    weights : mapping of host to weight, optional
        How often each host is drawn; default equally.

    Raises
    ------
    OptionError
        If there are no hosts, or one that no family is known for.
    """
    hosts = sorted(lattice_A)
    shares = np.array([(weights or {}).get(name, 1.0) for name in hosts])
    if not hosts or shares.sum() <= 0:
        raise OptionError("no host to draw defects in", "Name at least one host.")
    for name in hosts:
        _families(name)
    seen: set[tuple[str, tuple[int, ...]]] = set()
    number = 0
    while True:
        rng = np.random.default_rng([seed, number])
        name = hosts[rng.choice(len(hosts), p=shares / shares.sum())]
        crystal = _draw(rng, name, lattice_A[name])
        group = configuration(crystal)
        key = (group, tuple(sorted(crystal.shape)))
        if key not in seen:
            seen.add(key)
            yield Scene(number, crystal, group)
        number += 1


def configuration(crystal: DefectStructure) -> str:
    """Key that is equal for defects equal up to translation, rotation, reflection and the size of the supercell.

    Host, label, and a hash of all distances between the defect's nodes in units of the lattice constant, with what is
    and what belongs there; distances to periodic images do not enter unless they are the shortest.
    """
    facts = host(crystal.host)
    count = len(facts.basis) * crystal.shape[0] * crystal.shape[1]
    elements = elements_of(crystal.structure)
    kinds = [
        f"{facts.basis[k % len(facts.basis)].element if k < count else ''}"
        f">{'' if crystal.marker[k] == VACANCY else elements[k]}"
        for k in crystal.sites
    ]
    nodes = crystal.structure.frac_coords[list(crystal.sites)].reshape(-1, 3)
    scale_A = float(crystal.structure.lattice.a) / crystal.shape[0]
    distance = crystal.structure.lattice.get_all_distances(nodes, nodes) / scale_A
    pairs = sorted(
        f"{min(kinds[p], kinds[q])}|{max(kinds[p], kinds[q])}|{distance[p, q]:.2f}"
        for p in range(len(kinds))
        for q in range(p + 1)
    )
    digest = hashlib.sha256("\n".join(pairs).encode()).hexdigest()[:10]
    return f"{crystal.host}/{'+'.join(sorted(crystal.label.split('+')))}/{digest}"


def _draw(rng: np.random.Generator, name: str, a_A: float) -> DefectStructure:
    """One scene; a defect that does not fit where chance puts it is drawn again."""
    families = _families(name)
    shares = np.array([share for share, _ in families])
    draw = families[rng.choice(len(families), p=shares / shares.sum())][1]
    while True:
        n, m = SHAPES[rng.integers(len(SHAPES))]
        crystal = pristine(name, n, m, a_A)
        try:
            return draw(rng, crystal)
        except StructureError:
            continue


def _families(name: str) -> list[tuple[float, Draw]]:
    facts = host(name)
    if facts.sublattices == ("M", "X") and len(facts.column("M")) == 1:
        return [
            (1.0, _one_of(_metal_labels, 1)),
            (2.0, _one_of(_vacancy_labels, 1)),
            (4.0, _several(_vacancy_labels)),
            (3.0, _several(_substitution_labels)),
            (3.0, _several(_mixed_labels)),
            (1.0, _several(_metal_labels)),
            (4.0, _line),
            (2.0, _trefoil),
        ]
    if facts.sublattices == ("A", "B") and facts.hexagonal:
        return [(4.0, _several(_flat_labels)), (1.0, _one_of(_flat_labels, 1)), (1.0, _stone_wales)]
    raise OptionError(f"no defects are drawn in {name} yet", "Choose a dichalcogenide, hBN or graphene.")


def _elements(crystal: DefectStructure) -> tuple[str, str]:
    facts = host(crystal.host)
    first, second = facts.sublattices
    return facts.elements[first], facts.elements[second]


def _vacancy_labels(crystal: DefectStructure) -> list[str]:
    chalcogen = _elements(crystal)[1]
    return [f"V_{chalcogen}"] * 2 + [f"V_{chalcogen}2"]


def _substitution_labels(crystal: DefectStructure) -> list[str]:
    metal, chalcogen = _elements(crystal)
    metals = [f"{element}_{metal}" for element in _IMPURITIES["M"] if element != metal]
    single = [f"{element}_{chalcogen}" for element in _IMPURITIES["X"] if element != chalcogen]
    double = [f"{element}2_{chalcogen}2" for element in ("S", "Se") if element != chalcogen]
    return metals + single + double


def _metal_labels(crystal: DefectStructure) -> list[str]:
    metal, chalcogen = _elements(crystal)
    antisites = [f"{metal}_{chalcogen}", f"{metal}_{chalcogen}2", f"{chalcogen}_{metal}", f"{chalcogen}2_{metal}"]
    return [f"V_{metal}"] * 3 + [f"V_{metal}{chalcogen}3", f"V_{metal}{chalcogen}6", *antisites]


def _mixed_labels(crystal: DefectStructure) -> list[str]:
    return _vacancy_labels(crystal) * 2 + _substitution_labels(crystal)


def _flat_labels(crystal: DefectStructure) -> list[str]:
    first, second = _elements(crystal)
    pair = f"V_{first}2" if first == second else f"V_{first}{second}"
    changed = [f"{new}_{old}" for old in dict.fromkeys((first, second)) for new in _IMPURITIES[old]]
    return [f"V_{first}", f"V_{second}", pair, *changed]


def _near(rng: np.random.Generator, crystal: DefectStructure) -> Cell:
    """A cell within three cells of the middle, so that several defects feel each other."""
    n, m = crystal.shape
    i, j = rng.integers(-3, 4, 2)
    return int(n // 2 + i), int(m // 2 + j)


def _layer(rng: np.random.Generator) -> Layer:
    return "top" if rng.random() < 0.5 else "bottom"


def _one_of(labels: Callable[[DefectStructure], list[str]], count: int) -> Draw:
    """Place `count` defects out of a list of labels."""

    def draw(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
        for _ in range(count):
            crystal = build(crystal, str(rng.choice(labels(crystal))), _near(rng, crystal), _layer(rng))
        return crystal

    return draw


def _several(labels: Callable[[DefectStructure], list[str]]) -> Draw:
    """Two to five of them."""
    return lambda rng, crystal: _one_of(labels, int(rng.integers(2, 6)))(rng, crystal)


def _line(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
    kind = str(rng.choice(["SVL", "SVL", "DVL", "DVL", "DVL", "CVL"]))
    total = int(rng.integers(3, 7)) if kind != "CVL" else int(rng.choice([4, 6]))
    crystal = line(
        crystal,
        f"{kind}-{total}",
        layer=_layer(rng),
        direction=int(rng.integers(6)),
        opposite=bool(rng.random() < 0.5),
        shift=-int(rng.integers(2)) if kind == "DVL" else 0,
    )
    return _perhaps_more(rng, crystal)


def _trefoil(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
    label = str(rng.choice(["T1", "T1", "T2", "T2", "T3", "T1-484"]))
    return _perhaps_more(rng, trefoil(crystal, label, direction=int(rng.integers(6))))


def _stone_wales(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
    crystal = stone_wales(crystal, direction=int(rng.integers(3)))
    return crystal if rng.random() < 0.2 else _one_of(_flat_labels, 1)(rng, crystal)


def _perhaps_more(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
    """In two of three cases one or two point defects more, for environments as they occur in real layers."""
    for _ in range(int(rng.integers(3))):
        i, j = (int(value) for value in rng.integers(0, crystal.shape))
        crystal = build(crystal, str(rng.choice(_mixed_labels(crystal))), (i, j), _layer(rng))
    return crystal
