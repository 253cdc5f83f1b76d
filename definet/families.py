"""Families of defects to learn from, for each kind of host: what is known from calculations and seen in micrographs.

Point defects follow 2DMD (Huang et al., npj 2D Mater. Appl. 7, 6 (2023)): vacancies, substitutions and their pairs at
low density, random ones up to one site in eight. Lines, trefoils, antisites, complexes, rotated bonds and triangular
holes are what microscopes show beyond that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from definet.crystals import host
from definet.structures import Cell, DefectStructure, Layer, build, line, stone_wales, trefoil

Draw = Callable[[np.random.Generator, DefectStructure], DefectStructure]
Labels = Callable[[DefectStructure], list[str]]

SHAPES: tuple[Cell, ...] = ((7, 7), (7, 8), (8, 7), (8, 8), (8, 8))
"""Supercells: in smaller ones the images of a defect change its displacements by a quarter."""
LONG: tuple[Cell, ...] = ((12, 6), (6, 12), (11, 7), (7, 11), (10, 7), (7, 10))
"""For rows that are longer than the others hold."""
DENSEST = 0.125
"""Largest share of the sites that is changed in the random families of 2DMD."""

# What is seen on metal, chalcogen, boron, nitrogen and carbon sites of these crystals; the common ones come twice.
_IMPURITIES: dict[str, tuple[str, ...]] = {
    "Mo": ("W", "W", "Nb", "V", "Re"),
    "W": ("Mo", "Mo", "Nb", "V", "Re"),
    "S": ("Se", "Se", "Te", "O"),
    "Se": ("S", "S", "Te", "O"),
    "Te": ("Se", "Se", "S", "O"),
    "B": ("C",),
    "N": ("C",),
    "C": ("N", "B", "Si"),
    "Ga": ("In",),
    "In": ("Ga",),
    "P": ("N", "As"),
}


class Family(NamedTuple):
    """How often it is drawn among those of its host, how, and in which supercells."""

    share: float
    draw: Draw
    shapes: tuple[Cell, ...] = SHAPES


def families(name: str) -> tuple[Family, ...]:
    """Families of a host.

    Raises
    ------
    UnknownHostError
    """
    facts = host(name)
    if facts.sublattices == ("M", "X") and len(facts.column("M")) == 1:
        return _DICHALCOGENIDE
    if facts.sublattices == ("A", "B") and facts.hexagonal:
        return _GRAPHENE if len(set(facts.elements.values())) == 1 else _NITRIDE
    return _OTHER


def _elements(crystal: DefectStructure) -> tuple[str, str]:
    facts = host(crystal.host)
    first, second = facts.sublattices
    return facts.elements[first], facts.elements[second]


def _vacancies(crystal: DefectStructure) -> list[str]:
    chalcogen = _elements(crystal)[1]
    return [f"V_{chalcogen}"] * 2 + [f"V_{chalcogen}2"]


def _substitutions(crystal: DefectStructure) -> list[str]:
    metal, chalcogen = _elements(crystal)
    double = [f"{element}2_{chalcogen}2" for element in ("S", "Se") if element != chalcogen]
    return [f"{new}_{old}" for old in (metal, chalcogen) for new in _IMPURITIES[old]] + double


def _metals(crystal: DefectStructure) -> list[str]:
    metal, chalcogen = _elements(crystal)
    return [f"V_{metal}"] * 3 + [f"V_{metal}{chalcogen}3", f"V_{metal}{chalcogen}6"]


def _antisites(crystal: DefectStructure) -> list[str]:
    metal, chalcogen = _elements(crystal)
    return [f"{metal}_{chalcogen}", f"{metal}_{chalcogen}2", f"{chalcogen}_{metal}", f"{chalcogen}2_{metal}"]


def _mixed(crystal: DefectStructure) -> list[str]:
    return _vacancies(crystal) * 2 + _substitutions(crystal)


def _with_metals(crystal: DefectStructure) -> list[str]:
    return _vacancies(crystal) + _metals(crystal) + _substitutions(crystal)[:1]


def _flat(crystal: DefectStructure) -> list[str]:
    first, second = _elements(crystal)
    pair = f"V_{first}2" if first == second else f"V_{first}{second}"
    changed = [f"{new}_{old}" for old in dict.fromkeys((first, second)) for new in _IMPURITIES[old]]
    return [f"V_{first}", f"V_{second}", pair, *changed * 2]


def _harmless(crystal: DefectStructure) -> list[str]:
    """Substitutions and pairs of a flat host: dangling bonds of single carbons break the symmetry at random."""
    return _flat(crystal)[2:]


def _triangles(crystal: DefectStructure) -> list[str]:
    """Holes with edges of one element, as electron beams cut them (Meyer et al., Nano Lett. 9, 2683 (2009))."""
    first, second = _elements(crystal)
    return [f"V_{first}3{second}", f"V_{first}6{second}3", f"V_{second}3{first}"]


def _any(crystal: DefectStructure) -> list[str]:
    """Single vacancies and substitutions of any host."""
    changed = [f"{new}_{old}" for old in dict.fromkeys(_elements(crystal)) for new in _IMPURITIES[old]]
    return [f"V_{old}" for old in dict.fromkeys(_elements(crystal))] * 2 + changed


def _near(rng: np.random.Generator, crystal: DefectStructure) -> Cell:
    """A cell within three cells of the middle, so that several defects feel each other."""
    n, m = crystal.shape
    i, j = rng.integers(-3, 4, 2)
    return int(n // 2 + i), int(m // 2 + j)


def _anywhere(rng: np.random.Generator, crystal: DefectStructure) -> Cell:
    i, j = rng.integers(0, crystal.shape)
    return int(i), int(j)


def _layer(rng: np.random.Generator) -> Layer:
    return "top" if rng.random() < 0.5 else "bottom"


def _some(labels: Labels, fewest: int, most: int) -> Draw:
    """Between `fewest` and `most` of the defects named by `labels`, near each other."""

    def draw(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
        for _ in range(int(rng.integers(fewest, most + 1))):
            crystal = build(crystal, str(rng.choice(labels(crystal))), _near(rng, crystal), _layer(rng))
        return crystal

    return draw


def _low_density(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
    """At most one metal site and two chalcogens: the nine families of 2DMD at low density."""
    metal, chalcogen = _elements(crystal)
    there = _IMPURITIES[chalcogen][0]
    on_metal = ["", f"V_{metal}", f"{_IMPURITIES[metal][0]}_{metal}"]
    pairs: list[list[str]] = [
        [f"V_{chalcogen}"],
        [f"V_{chalcogen}"] * 2,
        [f"{there}_{chalcogen}"],
        [f"{there}_{chalcogen}"] * 2,
        [f"V_{chalcogen}", f"{there}_{chalcogen}"],
    ]
    labels = [on_metal[rng.integers(3)], *pairs[rng.integers(5)]]
    for label in filter(None, labels):
        crystal = build(crystal, label, _near(rng, crystal), _layer(rng))
    return crystal


def _high_density(labels: Labels) -> Draw:
    """From one site in forty to one in eight."""

    def draw(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
        count = int(rng.uniform(0.025, DENSEST) * len(crystal.structure))
        for _ in range(count):
            crystal = build(crystal, str(rng.choice(labels(crystal))), _anywhere(rng, crystal), _layer(rng))
        return crystal

    return draw


def _line(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
    """Rows of two to ten sites: single, double in the same or in opposite layers, or both atoms of each column."""
    kind = str(rng.choice(["SVL", "SVL", "DVL", "DVL", "DVL", "CVL"]))
    row = int(rng.integers(2, max(crystal.shape) - 1))
    total = {"SVL": row, "CVL": 2 * row, "DVL": 2 * row - int(rng.integers(2))}[kind]
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
    label = str(rng.choice(["T1", "T1", "T2", "T2", "T3", "T1-484", "T2-484"]))
    return _perhaps_more(rng, trefoil(crystal, label, direction=int(rng.integers(6))))


def _long_trefoil(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
    return trefoil(crystal, str(rng.choice(["T3", "T4"])), direction=int(rng.integers(6)))


def _stone_wales(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
    crystal = stone_wales(crystal, direction=int(rng.integers(3)))
    return crystal if rng.random() < 0.2 else _some(_harmless, 1, 2)(rng, crystal)


def _perhaps_more(rng: np.random.Generator, crystal: DefectStructure) -> DefectStructure:
    """In two of three cases one or two point defects more, for environments as they occur in real layers."""
    for _ in range(int(rng.integers(3))):
        crystal = build(crystal, str(rng.choice(_mixed(crystal))), _anywhere(rng, crystal), _layer(rng))
    return crystal


_DICHALCOGENIDE = (
    Family(1.0, _some(_vacancies, 1, 1)),
    Family(3.0, _some(_vacancies, 2, 5)),
    Family(1.5, _low_density),
    Family(2.5, _some(_substitutions, 2, 5)),
    Family(3.0, _some(_mixed, 2, 6)),
    Family(1.5, _some(_metals, 1, 2)),
    Family(1.0, _some(_with_metals, 2, 4)),
    Family(0.7, _some(_antisites, 1, 1)),
    Family(1.0, _high_density(_mixed)),
    Family(3.0, _line),
    Family(1.5, _line, LONG),
    Family(2.0, _trefoil),
    Family(0.4, _long_trefoil, LONG),
)
_GRAPHENE = (
    Family(3.0, _some(_harmless, 1, 4)),
    Family(1.0, _some(_flat, 1, 2)),
    Family(1.0, _high_density(lambda crystal: _harmless(crystal)[1:])),
    Family(2.0, _stone_wales),
)
_NITRIDE = (
    Family(3.0, _some(_flat, 1, 4)),
    Family(1.0, _high_density(lambda crystal: _harmless(crystal)[1:])),
    Family(1.0, _stone_wales),
    Family(1.5, _some(_triangles, 1, 1)),
)
_OTHER = (
    Family(1.0, _some(_any, 1, 1)),
    Family(4.0, _some(_any, 2, 5)),
    Family(1.0, _high_density(_any)),
)
