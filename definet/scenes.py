"""Draw random defects to learn from: every scene follows from a seed and its number, so that a set can be gone on with.

Hosts and kinds of defect are interleaved: a set that is stopped at any time is balanced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from definet.crystals import Crystal, host
from definet.exceptions import OptionError, StructureError
from definet.families import families
from definet.structures import VACANCY, DefectStructure, elements_of, pristine

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """Number of the draw, and what was drawn."""

    number: int
    crystal: DefectStructure
    group: str


def scenes(
    seed: int,
    lattice_A: Mapping[str, float],
    weights: Mapping[str, float] | None = None,
    crystals: Mapping[str, Crystal] | None = None,
) -> Iterator[Scene]:
    """Endless stream of different defects.

    Parameters
    ----------
    seed : int
    lattice_A : mapping of host to a
        Lattice constant of each host in the potential that will relax them.
    weights : mapping of host to weight, optional
        How often each host is drawn; default equally.
    crystals : mapping of host to Crystal, optional
        Hosts with their atoms where that potential wants them; default where they are in PBE.

    Raises
    ------
    OptionError
        If there are no hosts.
    """
    hosts = sorted(lattice_A)
    shares = np.array([(weights or {}).get(name, 1.0) for name in hosts])
    if not hosts or shares.sum() <= 0:
        raise OptionError("no host to draw defects in", "Name at least one host.")
    for name in hosts:
        families(name)
    seen: set[tuple[str, tuple[int, ...]]] = set()
    number = 0
    while True:
        rng = np.random.default_rng([seed, number])
        name = hosts[rng.choice(len(hosts), p=shares / shares.sum())]
        crystal = _draw(rng, (crystals or {}).get(name, host(name)), lattice_A[name])
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
    nodes = crystal.structure.cart_coords[list(crystal.sites)].reshape(-1, 3)
    scale_A = float(crystal.structure.lattice.a) / crystal.shape[0]
    return fingerprint(crystal.host, crystal.label, kinds, nodes, crystal.structure.lattice.matrix, scale_A)


def fingerprint(
    host_name: str, label: str, kinds: Sequence[str], nodes: FloatArray, cell: FloatArray, scale_A: float
) -> str:
    """Key of a configuration, see `configuration`.

    Parameters
    ----------
    host_name, label : str
    kinds : sequence of str
        "belongs>is" of each node of the defect, elements.
    nodes : (D, 3) array
        Their positions, Angstrom.
    cell : (3, 3) array
        Rows, Angstrom.
    scale_A : float
        Lattice constant that distances are counted in.
    """
    from pymatgen.core.lattice import Lattice

    fractional = nodes @ np.linalg.inv(cell)
    distance = Lattice(cell).get_all_distances(fractional, fractional) / scale_A
    pairs = sorted(
        f"{min(kinds[p], kinds[q])}|{max(kinds[p], kinds[q])}|{distance[p, q]:.2f}"
        for p in range(len(kinds))
        for q in range(p + 1)
    )
    digest = hashlib.sha256("\n".join(pairs).encode()).hexdigest()[:10]
    return f"{host_name}/{'+'.join(sorted(label.split('+')))}/{digest}"


def _draw(rng: np.random.Generator, crystal: Crystal, a_A: float) -> DefectStructure:
    """One scene; a defect that does not fit where chance puts it is drawn again."""
    kinds = families(crystal.name)
    shares = np.array([kind.share for kind in kinds])
    kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
    while True:
        shape = kind.shapes[rng.integers(len(kind.shapes))]
        try:
            return kind.draw(rng, pristine(crystal, *shape, a_A=a_A))
        except StructureError:
            continue
