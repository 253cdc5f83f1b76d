"""Labels and numbers as the page writes them; all of them are safe to stand in HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from stemfit.analysis import Explanation
    from stemfit.defects.types import Defect

LEAST_TOLD = 0.01
"""Alternatives below this, which would be told as 0.00, are told together, as "others"."""

OTHERS = "others"
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

TYPES = {
    "SV": "one atom of a column missing",
    "DV": "both atoms of a column missing, or two that were neighbours",
    "VM": "metal atom missing, with its neighbours or without",
    "SUB": "atom of another element",
    "ANTI": "atom of the host on the site of another",
    "LINE": "row of vacancies: SVL along one row, DVL along two, CVL of whole columns; the number counts missing atoms",
    "TREFOIL": "metals turned about a point, with vacancies",
    "BOND": "turned bonds, rings of 5, 7 or 8",
    "TWIN": "mirrored part",
    "ADATOM": "atom on top",
    "UNKNOWN": "none of the structures that are known explains it",
}

OPEN = {
    "pristine": "no defect",
    "UNKNOWN": "UNKNOWN: none of the structures that are known",
    OTHERS: "others, each below 0.01",
}
"""What the names mean that are no names of structures."""


def label(name: str) -> Markup:
    """V_S2 as the field writes it; anything else as it is."""
    if "+" in name:
        from stemfit.defects import names_in

        each = names_in(name).items()
        return Markup(", ").join(label(one) if n == 1 else Markup(f"{n} ") + label(one) for one, n in each)
    if not re.fullmatch(r"[A-Za-z0-9]+_[A-Za-z0-9]+", name):
        return escape(name)
    there, belongs = (Markup(re.sub(r"(\d+)", r"<sub>\1</sub>", part)) for part in name.split("_"))
    return Markup("{}<sub>{}</sub>").format(Markup("({})").format(there) if "<" in there else there, belongs)


def probability(value: float) -> str:
    """Two decimals, never a certainty."""
    if value > 0.99:
        return ">0.99"
    return "<0.01" if value < 0.01 else f"{value:.2f}"


def number(value: float | None, decimals: int | None = None) -> str:
    """Fixed decimals, or four digits; a dash for what is not a number."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"


def measured(value: float | None, sigma: float | None) -> str:
    """Value ± standard error, as many digits as two of the error need, in powers of ten where these are many."""
    if value is None or not math.isfinite(value):
        return "–"
    if sigma is None or not math.isfinite(sigma) or sigma <= 0:
        return f"{value:.4g}"
    power = math.floor(math.log10(max(abs(value), sigma)))
    if sigma >= 100:
        scaled = measured(value / 10**power, sigma / 10**power)
        return f"({scaled}) × 10{str(power).translate(RAISED)}"
    decimals = max(0, 1 - math.floor(math.log10(sigma)))
    return f"{value:.{decimals}f} ± {sigma:.{decimals}f}"


def formula(name: str) -> Markup:
    """MoSe2 with its number below the line; what is no formula as it is."""
    if not re.fullmatch(r"(?:[A-Z][a-z]?\d*)+", name):
        return escape(name)
    return Markup(re.sub(r"(\d+)", r"<sub>\1</sub>", name))


def vector(values: Iterable[float], decimals: int = 3) -> str:
    """Numbers with commas between them."""
    return ", ".join(f"{value:.{decimals}f}" for value in values)


def count(n: int, noun: str) -> str:
    """Number and noun."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def shares(defect: Defect) -> list[tuple[str, float]]:
    """What is at a place, the claim first: (label, probability), what hardly counts as one; they sum to 1."""
    told = [(name, p) for name, p in defect.alternatives if p >= LEAST_TOLD]
    rest = sum(p for _, p in defect.alternatives) - sum(p for _, p in told)
    told.sort(key=lambda one: -one[1])
    return [(defect.label, defect.probability), *told, *([(OTHERS, rest)] if rest >= LEAST_TOLD else [])]


def priors(rivals: Sequence[Explanation]) -> list[float | None]:
    """What makes posteriors of likelihoods, as natural logarithms below the largest; None where nothing is left."""
    each = [math.log(one.posterior) - one.log_likelihood if one.posterior > 1e-300 else None for one in rivals]
    most = max((value for value in each if value is not None), default=0.0)
    return [None if value is None else most - value for value in each]


def tally(defects: Sequence[Defect]) -> list[tuple[str, int, float]]:
    """How many of each claim (name or type), the most frequent first, and the least probability among them."""
    claims = [defect.claim for defect in defects]
    each = {name: [p for other, p in claims if other == name] for name, _ in claims}
    return sorted(((name, len(p), min(p)) for name, p in each.items()), key=lambda one: (-one[1], one[0]))
