"""Densities of defects over a folder, with exact confidence intervals of the Poisson distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import chdtrc, chdtri

LEVEL = 0.95
"""Of confidence."""


class Density(NamedTuple):
    """Defects per nm^2 with the ends of its confidence interval; NaN where there is no area."""

    value: float | None
    low: float | None
    high: float | None


class Line(NamedTuple):
    """Statistics of one kind of defect in one host.

    Attributes
    ----------
    host, type, label : str
        "all" where they are taken together.
    images : int
        In which it was looked for and could be told, equal ones once.
    images_host_uncertain : int
        Of these, those whose host is only the likeliest of several.
    images_blind : int
        In which it could not be told from a full column, so that its absence there means nothing: they are in no other
        number of this line. Of all types together, those in which any type could not be told: these are counted.
    area_nm2 : float
        Of the sites that were judged.
    number : int
        Claimed.
    number_blind : int
        Claimed all the same in images that are blind to it.
    expected : float
        Sum of the probabilities of the claims: fewer than `number`, because claims may be wrong.
    density : Density
        `number` in this area.
    dispersion : float or None
        Chi squared of the counts of the images against one density, over its degrees of freedom: 1 if the images have
        the same density; the interval is too narrow for the specimen where this is well above 1.
    p_even : float or None
        Probability of so large a chi squared if the density is the same everywhere.
    """

    host: str
    type: str
    label: str
    images: int
    images_host_uncertain: int
    images_blind: int
    area_nm2: float
    number: int
    number_blind: int
    expected: float
    density: Density
    dispersion: float | None
    p_even: float | None


def garwood(count: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact central confidence interval of the mean of a Poisson distribution of which `count` was drawn.

    F. Garwood, Biometrika 28, 437 (1936): quantiles of chi squared at 2 n and 2 n + 2 degrees of freedom, halved. It
    holds the mean in `level` of all cases or more.
    """
    tail = (1 - level) / 2
    low = float(chdtri(2 * count, 1 - tail)) / 2 if count else 0.0
    return low, float(chdtri(2 * count + 2, tail)) / 2


def density(count: int, area_nm2: float) -> Density:
    """Density of so many in an area."""
    if not area_nm2 > 0:
        return Density(None, None, None)
    low, high = garwood(count)
    return Density(count / area_nm2, low / area_nm2, high / area_nm2)


class Field(NamedTuple):
    """What statistics need of one image.

    Attributes
    ----------
    host : str
    area_nm2 : float
        Of the sites that were judged.
    claims : mapping
        Of each (type, label) how many claims, and the sum of their probabilities.
    host_uncertain : bool
    looked_for, blind_to : frozenset of str
        Labels of single vacancies: all that the crystal can have, and those that cannot be told from full columns.
    """

    host: str
    area_nm2: float
    claims: Mapping[tuple[str, str], tuple[int, float]]
    host_uncertain: bool = False
    looked_for: frozenset[str] = frozenset()
    blind_to: frozenset[str] = frozenset()

    @property
    def number(self) -> int:
        """Of all claims."""
        return sum(n for n, _ in self.claims.values())

    def blind(self, kind: str, label: str) -> bool:
        """Whether some of this type and label cannot be told."""
        return kind in ("all", "SV") and bool(self.blind_to if label == "all" else self.blind_to & {label})


def field(image: Mapping[str, Any], defects: Sequence[Mapping[str, Any]]) -> Field | None:
    """An image as it counts; None where it does not: without a result, without area, or equal to one before it."""
    if image["status"] != "ok" or image["equal_to"] is not None or not image["judged_nm2"] > 0:
        return None
    claims: dict[tuple[str, str], tuple[int, float]] = {}
    for one in defects:
        if one["claimed"]:
            n, sure = claims.get((one["type"], one["label"]), (0, 0.0))
            claims[one["type"], one["label"]] = n + 1, sure + one["probability"]
    names = [frozenset((image[name] or "").split()) for name in ("looked_for", "blind_to")]
    return Field(image["host"], image["judged_nm2"], claims, bool(image["host_uncertain"]), *names)


def lines(fields: Sequence[Field]) -> list[Line]:
    """Statistics of a folder: hosts by their area; in each all defects, the types, and the labels of each type.

    Single vacancies have a line wherever the crystal can have some: that none is claimed is a density, too.
    """
    areas: dict[str, float] = {}
    for one in fields:
        areas[one.host] = areas.get(one.host, 0.0) + one.area_nm2
    found = []
    for host in sorted(areas, key=lambda name: (-areas[name], name)):
        own = [one for one in fields if one.host == host]
        kinds = {kind for one in own for kind in one.claims} | {("SV", name) for one in own for name in one.looked_for}
        asked = [("all", "all")]
        for kind in sorted({t for t, _ in kinds}, key=lambda t: (-_count(own, t), t)):
            asked.append((kind, "all"))
            asked += sorted(((t, label) for t, label in kinds if t == kind), key=lambda k: (-_count(own, *k), k))
        found += [_line(host, kind, label, own) for kind, label in asked]
    return found


def _count(fields: Sequence[Field], kind: str, label: str = "all") -> int:
    return sum(_of(one, kind, label)[0] for one in fields)


def _of(one: Field, kind: str, label: str) -> tuple[int, float]:
    """Number and expected number of right ones of a kind in an image."""
    meant = [sums for (t, name), sums in one.claims.items() if kind in ("all", t) and label in ("all", name)]
    return sum(n for n, _ in meant), math.fsum(sure for _, sure in meant)


def _line(host: str, kind: str, label: str, fields: Sequence[Field]) -> Line:
    blind = [one for one in fields if one.blind(kind, label)]
    seeing = list(fields) if kind == "all" else [one for one in fields if not one.blind(kind, label)]
    counts, areas = [_of(one, kind, label) for one in seeing], [one.area_nm2 for one in seeing]
    area, total = math.fsum(areas), sum(n for n, _ in counts)
    uncertain = sum(one.host_uncertain for one in seeing)
    missed = 0 if kind == "all" else _count(blind, kind, label)
    expected, even = math.fsum(p for _, p in counts), _evenness([n for n, _ in counts], areas)
    return Line(host, kind, label, len(seeing), uncertain, len(blind), area, total, missed, expected,
                density(total, area), *even)  # fmt: skip


def _evenness(counts: Sequence[int], areas: Sequence[float]) -> tuple[float | None, float | None]:
    """Chi squared of counts against areas over its degrees of freedom, and the probability to exceed it.

    Cochran's rule: not asked where fewer than five are expected in the mean image.
    """
    total, area, freedom = sum(counts), math.fsum(areas), len(counts) - 1
    if freedom < 1 or total < 5 * len(counts):
        return None, None
    chi2 = math.fsum((n - total * a / area) ** 2 / (total * a / area) for n, a in zip(counts, areas, strict=True))
    return chi2 / freedom, float(chdtrc(freedom, chi2))
