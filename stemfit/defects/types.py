"""What a defect is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NONMETALS = frozenset(("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Ge", "As", "Se", "Br", "Te", "I"))
"""Elements whose vacancies are SV or DV; those of all others are VM."""

Site = tuple[int, int, str]
"""(i, j, sublattice)"""


@dataclass(frozen=True)
class Defect:
    """One defect, or one place that may be one.

    Attributes
    ----------
    id : int
        From 1.
    type : str
        SV, DV, VM, SUB, ANTI, LINE, TREFOIL, BOND, TWIN, ADATOM or UNKNOWN.
    label : str
        "what is there, underscore, what belongs there": V_S, V_S2, W_Mo, ...
    probability : float
        P(this type and label here).
    center_px : (2,) array
        Mean of `extent_px`.
    sites : tuple of (i, j, sublattice)
        Sublattice "H" is a hollow, "-" an off-lattice position.
    extent_px : (K, 2) array
        The sites that the defect comprises: moved, emptied and newly occupied.
    alternatives : tuple of (label, probability)
        Pristine included; with `probability` they sum to 1.
    log_bayes_factor : float
        Natural logarithm, against pristine.
    best_candidate : str or None
        Id of the highest-scoring candidate of this label.
    kinds : mapping of label to type
        Contract types of the alternatives, where these do not follow from the label alone: S_Mo is an antisite in MoS2
        and a substitution in MoSe2.
    """

    id: int
    type: str
    label: str
    probability: float
    center_px: FloatArray
    sites: tuple[Site, ...]
    extent_px: FloatArray
    alternatives: tuple[tuple[str, float], ...]
    log_bayes_factor: float
    best_candidate: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)

    @property
    def type_probability(self) -> float:
        """P(this type here), whatever its label: the length of a line may be open where it is sure that it is one."""
        return self.probability + sum(p for label, p in self.alternatives if self.kind_of(label) == self.type)

    @property
    def claim(self) -> tuple[str, float]:
        """The label where it is more probable than not, else the type; and the probability of what is said."""
        return (self.label, self.probability) if self.probability >= 0.5 else (self.type, self.type_probability)

    def kind_of(self, label: str) -> str | None:
        """Contract type of an alternative; None of the perfect crystal."""
        return None if label == "pristine" else self.kinds.get(label) or type_of(label, "")


def type_of(label: str, otherwise: str) -> str:
    """Contract type of a label; `otherwise` where the label alone does not say (SV or DV of another name)."""
    if label in ("UNKNOWN", "TWIN", "ADATOM"):
        return label
    if re.match(r"[SDC]VL-", label):
        return "LINE"
    if re.match(r"T\d", label):
        return "TREFOIL"
    if label in ("SW", "5-7", "5-8-5"):
        return "BOND"
    there, _, belongs = label.partition("_")
    if there != "V":
        return otherwise if otherwise in ("SUB", "ANTI") else "SUB"
    if any(element not in NONMETALS for element in re.findall(r"[A-Z][a-z]?", belongs)):
        return "VM"
    atoms = sum(int(count or 1) for count in re.findall(r"[A-Z][a-z]?(\d*)", belongs))
    return "DV" if atoms > 1 else "SV"


def names_in(label: str) -> dict[str, int]:
    """Names of a label of several defects, joined by "+", and how often each is there."""
    names = label.split("+")
    return {name: names.count(name) for name in names}
