"""What a host crystal looks like from above."""

from __future__ import annotations

from dataclasses import dataclass


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
