"""Structures of what two and more neighbouring sites of graphene or boron nitride can be together."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stemfit.defects import Defect
from stemfit.hosts import ProjectedHost
from stemfit.lattice import Lattice

if TYPE_CHECKING:
    from definet.structures import DefectStructure

FloatArray = NDArray[np.float64]

SHARES = {"SW": 1e-4, "5-8-5": 1e-3, "V_C2": 1e-4, "V_BN": 1e-3, "Si_C2": 1e-4}
"""Share of sites beforehand, orders of magnitude. Divacancies are nearly as frequent as vacancies, which pair under the
beam; one of carbon that stays open is no minimum of its energy, one of boron nitride is; bonds turn rarely and turn
back (Banhart, Kotakoski & Krasheninnikov, ACS Nano 5, 26 (2011)). Silicon is common in grown graphene, bound to three
or to four (Zhou et al., Phys. Rev. Lett. 109, 206803 (2012))."""

HOLE_SHARE = 1e-4
"""The same of holes of three and more atoms, whatever their shape: rarer than divacancies, as long as none grows."""


def is_hole(defect: Defect, host: ProjectedHost) -> bool:
    """Whether three and more neighbours of a flat honeycomb are missing."""
    flat = host.honeycomb and host.sublattices == ("A", "B")
    return flat and defect.label.startswith("V_") and len(defect.sites) > 2


def hole_structures(
    defect: Defect, host: ProjectedHost, lattice: Lattice, cells: tuple[int, int]
) -> tuple[DefectStructure, ...]:
    """Perfect crystal, and without the atoms of these sites."""
    sites = tuple(_in_crystal(site, lattice.polarity) for site in defect.sites)
    i, j = sites[0][:2]
    return _hole(host, defect.label, tuple((p - i, q - j, k) for p, q, k in sites), cells)


@lru_cache(maxsize=64)
def _hole(
    host: ProjectedHost, label: str, sites: tuple[tuple[int, int, int], ...], cells: tuple[int, int]
) -> tuple[DefectStructure, ...]:
    from definet.structures import Edit, Site, place, pristine

    crystal = pristine(host.crystal or host.name, *cells)
    return crystal, place(crystal, Edit(label, tuple(Site(*site) for site in sites)))


def _in_crystal(site: tuple[int, int, str], polarity: int) -> tuple[int, int, int]:
    """Cell and basis atom of a site in the crystal frame, whose axes are b and b - a where B is at 2 (a + b)/3."""
    i, j, sublattice = site
    if polarity > 0:
        return i, j, int(sublattice == "B")
    return (i + j, -i, 0) if sublattice == "A" else (i + j + 1, -i - 1, 1)


def is_pair(defect: Defect, host: ProjectedHost) -> bool:
    """Whether a defect is two neighbours of a flat honeycomb that are missing or turned."""
    return host.honeycomb and host.sublattices == ("A", "B") and defect.label in SHARES


def pair_structures(
    defect: Defect, host: ProjectedHost, lattice: Lattice, cells: tuple[int, int]
) -> tuple[DefectStructure, ...]:
    """Perfect crystal, turned bond, divacancy with its ends bound, as cut, and filled by silicon; all about one bond.

    Which of the three bonds of the cell it is, is told by the two sites.
    """
    first, second = defect.sites[:2]
    return _family(host, _direction(first[:2], second[:2], lattice.polarity), cells)


def stays_as_built(label: str) -> bool:
    """Whether a hypothesis is the unrelaxed structure itself.

    An open divacancy of carbon has no minimum and would relax to its rival. Silicon in one has the bonds of its
    carbide, 1.9 A, as built; the network has never seen an atom between sites and pushes its neighbours away.
    """
    return label in ("V_C2", "Si_C2")


@lru_cache(maxsize=16)
def _family(host: ProjectedHost, direction: int, cells: tuple[int, int]) -> tuple[DefectStructure, ...]:
    from definet.structures import divacancy, pristine, stone_wales

    crystal = pristine(host.crystal or host.name, *cells)
    uniform = host.columns[0] == host.columns[1]
    ways = (False,) if uniform else (False, True)
    turned = [stone_wales(crystal, direction=direction, clockwise=way) for way in ways]
    filled = [divacancy(crystal, direction=direction, filled="Si")] if uniform else []
    closed, cut = (divacancy(crystal, direction=direction, closed=shut) for shut in (True, False))
    return crystal, *turned, closed, cut, *filled


def middle_px(defect: Defect) -> FloatArray:
    """Middle (2,) of the bond between the two sites, wherever their atoms are now."""
    return np.asarray(defect.extent_px[:2].mean(0))


def _direction(of_a: tuple[int, int], of_b: tuple[int, int], polarity: int) -> int:
    """Which of the three bonds of an atom A, as the builders count them.

    Seen with B at 2 (a + b)/3, the axes of the crystal frame are b and b - a: cell (i, j) is (i + j, -i) there, and B
    stands in the cell beside it.
    """
    i, j = of_b[0] - of_a[0], of_b[1] - of_a[1]
    if polarity < 0:
        i, j = i + j + 1, -i - 1
    return ((0, 0), (-1, 0), (0, -1)).index((i, j))
