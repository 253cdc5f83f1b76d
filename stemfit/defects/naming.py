"""What a defect is called where the image does not say which sublattice is which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stemfit.defects.types import Defect
from stemfit.hosts import ProjectedHost


def with_naming_doubt(
    defects: Sequence[Defect], host: ProjectedHost, metal_probability: float
) -> tuple[Defect, ...]:
    """Share the probability of every name with the one that it has if the sublattices are the other way round.

    Concerns hosts whose columns are all pairs (GaSe, InSe): there the same image shows V_Ga2 or V_Se2, and in GaSe both
    columns are equally bright. In the other honeycombs a dim site itself says on which sublattice it is.
    """
    if not host.honeycomb or any(not column.endswith("2") for column in host.columns):
        return tuple(defects)
    first, second = (column.rstrip("2") for column in host.columns)
    twins = {f"V_{first}{n}": f"V_{second}{n}" for n in ("", "2")}
    twins |= {other: name for name, other in twins.items()}
    return tuple(_shared(defect, twins, metal_probability) for defect in defects)


def _shared(defect: Defect, twins: dict[str, str], sure: float) -> Defect:
    weight: dict[str, float] = {}
    for label, p in ((defect.label, defect.probability), *defect.alternatives):
        fixed = label in ("pristine", "UNKNOWN", "ADATOM")
        weight[label] = weight.get(label, 0.0) + p * (1.0 if fixed else sure)
        other = label if fixed else twins.get(label, "UNKNOWN")
        weight[other] = weight.get(other, 0.0) + (0.0 if fixed else p * (1 - sure))
    own = weight.pop(defect.label)
    others = sorted(weight.items(), key=lambda item: -item[1])
    return replace(defect, probability=own, alternatives=tuple(others))
