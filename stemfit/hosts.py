"""What a host crystal looks like from above."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from definet.crystals import HOSTS, Crystal
from stemfit.errors import UnknownHost
from stemfit.optics.scattering import ratio

INFERABLE: tuple[str, ...] = ("MoS2", "WS2", "MoSe2", "WSe2", "MoTe2", "graphene", "hBN", "GaSe", "InSe")
"""Honeycombs that can be told from an image. WTe2 in the H phase must be named: it is not found in nature."""

RARE = 0.3
"""Weight of GaSe, InSe and black phosphorus against any other host before the image is asked: their monolayers do not
last in air, and few have been imaged. An order of magnitude is not claimed: the image decides where it can."""


@dataclass(frozen=True)
class ProjectedHost:
    """Column types of a two-dimensional crystal seen along its normal.

    Attributes
    ----------
    name : str
    a_A : float
        Experimental lattice constant, Angstrom.
    sublattices : (str, str)
        Names: ("M", "X"), or ("A", "B") for graphene and hBN.
    columns : (str, str)
        Column type on each: ("Mo", "S2"), ("B", "N"), ("C", "C").
    """

    name: str
    a_A: float
    sublattices: tuple[str, str]
    columns: tuple[str, str]

    @property
    def dichalcogenide(self) -> bool:
        """Whether single metals alternate with pairs of chalcogens."""
        return self.sublattices == ("M", "X") and not self.columns[0].endswith("2")

    @property
    def log_prior(self) -> float:
        """Natural logarithm of how likely this host is before the image is asked, up to a constant."""
        return 0.0 if self.dichalcogenide or self.name in ("graphene", "hBN") else math.log(RARE)


def column_type(elements: Iterable[str]) -> str:
    """Name of a stack of atoms, whatever their order: ["S", "Mo"] -> "MoS", ["S", "S"] -> "S2".

    Alphabetical, because top and bottom look the same from above.
    """
    return "".join(element + (str(n) if n > 1 else "") for element, n in sorted(Counter(elements).items()))


def projected(name: str) -> ProjectedHost:
    """Look up a hexagonal host.

    Raises
    ------
    UnknownHost
        If there is none of that name; the message lists the names.
    """
    known = [crystal.name for crystal in HOSTS.values() if crystal.hexagonal]
    if name not in known:
        raise UnknownHost(name, known)
    crystal = HOSTS[name]
    first, second = crystal.sublattices
    return ProjectedHost(name, crystal.a_exp_A, (first, second), (_stack(crystal, first), _stack(crystal, second)))


def amplitude_ratio(
    host: ProjectedHost, voltage_kV: float | None, detector_mrad: tuple[float, float] | None
) -> tuple[float, float]:
    """Brightness of the second sublattice over the first (X over M, B over A), and its standard error.

    Parameters as in `stemfit.optics.scattering.amplitude`.
    """
    value, relative_sigma = ratio(host.columns[1], host.columns[0], voltage_kV, detector_mrad)
    return value, value * relative_sigma


def _stack(crystal: Crystal, sublattice: str) -> str:
    return column_type(crystal.basis[k].element for k in crystal.column(sublattice))
