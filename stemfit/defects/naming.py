"""What a defect is called if the crystal is another one, or its sublattices are the other way round."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stemfit.columns import Columns
from stemfit.defects.evidence import Evidence
from stemfit.defects.mixed import occupancies
from stemfit.defects.occupancy import SitePosterior
from stemfit.defects.offsets import offsets
from stemfit.defects.types import Defect, type_of
from stemfit.hosts import ProjectedHost
from stemfit.imaging import fit_imaging
from stemfit.lattice import Brightness, Identity, SiteMap
from stemfit.optics.scattering import column_elements

NEGLIGIBLE = 0.005
"""Probability below which a naming is not worked out; what all such have is shared by the others in proportion."""

NO_NAME = "UNKNOWN"

FLAT = frozenset("BCN")
"""Elements of the flat hosts, whose columns are single atoms."""

SEEN = ("pristine", "ADATOM", NO_NAME)
"""What holds whatever the host is called."""

NEVER = 1e-6
"""Probability of a name below which its odds before structures were compared say nothing of what the comparison did."""


@dataclass(frozen=True)
class Otherwise:
    """What the sites hold if the crystal has another name.

    Attributes
    ----------
    probability : float
        Of that name.
    elements : mapping of str to str or None
        Element of the host in use to that of this one; None where their columns are of different kinds.
    sites : mapping of int to mapping of label to float
        Odds of what a site holds, by row of the SiteMap.
    types : mapping of str to str
        Contract type by label.
    """

    probability: float
    elements: Mapping[str, str] | None
    sites: Mapping[int, Mapping[str, float]]
    types: Mapping[str, str]


def otherwise(
    identity: Identity, columns: Columns, sites: SiteMap, brightness: Brightness, voltage_kV: float | None,
    detector_mrad: tuple[float, float] | None, convergence_mrad: float | None = None,
) -> tuple[Otherwise, ...]:
    """Ask all sites again under every other naming of the crystal that is not out of the question."""
    host, third = identity.host, identity.metal_third
    more = [n for n in identity.namings if (n.host.name, n.metal_third) != (host.name, third)]
    places = offsets(columns, sites)
    found = []
    for naming in more:
        if naming.probability < NEGLIGIBLE:
            continue
        turned = naming.metal_third != third
        first, second = naming.host.sublattices[::-1] if turned else naming.host.sublattices
        renamed = replace(sites, sublattice=np.where(sites.sublattice == host.sublattices[0], first, second))
        imaging = fit_imaging(
            columns, renamed, brightness, naming.host, voltage_kV, detector_mrad, convergence_mrad=convergence_mrad
        )
        asked = occupancies(renamed, brightness, imaging, naming.host, places)
        each = {
            int(row): {h.label: float(p) for h, p in zip(one.hypotheses, odds, strict=True)}
            for one in asked for row, odds in zip(one.site, one.probability, strict=True)
        }
        types = {h.label: h.type for one in asked for h in one.hypotheses}
        found.append(Otherwise(naming.probability, _elements(host, naming.host, turned), each, types))
    return tuple(found)


def with_naming_doubt(
    defects: Sequence[Defect], before: Sequence[Defect], identity: Identity, others: Sequence[Otherwise],
    evidence: Evidence,
) -> tuple[Defect, ...]:
    """Share the probability of every name with those that it has if the crystal is another one.

    A name belongs to a host: the same dim column is V_W or V_Mo, of one type. What is claimed is the most probable of
    the names that the host in use has, whose structures were compared with the image, of the type that is the most
    probable with the names of all hosts, or none (UNKNOWN) where that is more probable than every type. It has the
    probability that is left to it; names under other hosts are alternatives. What the comparison did to a name holds
    for its namesakes, which relax alike. Neither that a site is not pristine, nor that no name fits it, becomes less
    sure if the host is another.

    Parameters
    ----------
    defects : sequence of Defect
        As named under `identity.host`.
    before : sequence of Defect
        The same before structures were compared, by id.
    identity : Identity
    others : sequence of Otherwise
    evidence : Evidence
    """
    if not identity.namings:
        return tuple(defects)
    none = max(1.0 - sum(n.probability for n in identity.namings), 0.0)
    key = identity.host.name, identity.metal_third
    own = sum(n.probability for n in identity.namings if (n.host.name, n.metal_third) == key)
    total = own + none + sum(o.probability for o in others)
    first = {d.id: d for d in before}
    shares = own / total, none / total, *(o.probability / total for o in others)
    return tuple(_shared(d, first.get(d.id, d), shares, others, evidence) for d in defects)


def with_kinds(defect: Defect, posteriors: Iterable[SitePosterior]) -> Defect:
    """A defect that knows the types of its alternatives, as the hypotheses about the sites have them."""
    kinds = {h.label: h.type for one in posteriors for h in one.hypotheses}
    known = {label: kinds[label] for label, _ in defect.alternatives if label in kinds and label != "pristine"}
    return replace(defect, kinds=known | dict(defect.kinds))


def _shared(
    defect: Defect, before: Defect, shares: Sequence[float], others: Sequence[Otherwise], evidence: Evidence
) -> Defect:
    """`shares` of the naming in use, of crystals without a name, and of the others."""
    if shares[0] == 1.0:
        return defect
    said, single = _odds(defect), len(defect.sites) == 1 and evidence.judged(defect.sites[0])
    row = evidence.row(defect.sites[0]) if single else -1
    readings, kept = [said, _unnamed(said)], [1.0, 1.0]
    for other in others:
        odds, fits = (
            _asked_again(said, _odds(before), other, row) if row in other.sites else (_translated(said, other), 1.0)
        )
        readings.append(odds)
        kept.append(fits)
    total = sum(share * fits for share, fits in zip(shares, kept, strict=True))
    shares = [share * fits / total for share, fits in zip(shares, kept, strict=True)]
    kinds = {label: kind for other in others for label, kind in other.types.items()}
    kinds |= {h.label: h.type for one in evidence.posteriors for h in one.hypotheses}
    weight = dict.fromkeys(said, 0.0)
    for share, odds in zip(shares, readings, strict=True):
        for label, p in odds.items():
            weight[label] = weight.get(label, 0.0) + share * p
    kind = {name: kinds.get(name) or type_of(name, defect.type) for name in weight} | {defect.label: defect.type}
    kind |= {"pristine": "pristine", NO_NAME: NO_NAME}  # what speaks for neither is of no type of defect
    label = defect.label if defect.label == NO_NAME else _claimed(weight, said, kind)
    p = weight.pop(label)
    alternatives = sorted(((n, q) for n, q in weight.items() if q > 0.0 or n in said), key=lambda item: -item[1])
    best = defect.best_candidate if label == defect.label else None
    return replace(
        defect, type=kind[label], label=label, probability=p, alternatives=tuple(alternatives), best_candidate=best,
        kinds={name: kind[name] for name, _ in alternatives if name != "pristine"},
    )


def _claimed(weight: Mapping[str, float], said: Collection[str], kind: Mapping[str, str]) -> str:
    """The most probable name in the host in use, of the most probable type, or that there is no name.

    A type holds whatever the host is called, so that names of all hosts speak for it.
    """
    mass: dict[str, float] = {}
    for name, p in weight.items():
        mass[kind[name]] = mass.get(kind[name], 0.0) + p
    named = [name for name in said if name not in ("pristine", NO_NAME)]
    first = max((mass[kind[name]] for name in named), default=0.0)
    if not named or mass.get(NO_NAME, 0.0) > first:
        return NO_NAME
    return max((name for name in named if mass[kind[name]] == first), key=lambda name: weight[name])


def _odds(defect: Defect) -> dict[str, float]:
    return {defect.label: defect.probability, **dict(defect.alternatives)}


def _unnamed(said: Mapping[str, float]) -> dict[str, float]:
    """Every name of elements is wrong; what was seen stays."""
    return _gathered((label if _seen(label) else NO_NAME, p) for label, p in said.items())


def _translated(said: Mapping[str, float], other: Otherwise) -> dict[str, float]:
    """Labels with the elements of the other host."""
    if other.elements is None:
        return _unnamed(said)
    return _gathered((_renamed(label, other.elements), p) for label, p in said.items())


def _asked_again(
    said: Mapping[str, float], before: Mapping[str, float], other: Otherwise, row: int
) -> tuple[dict[str, float], float]:
    """Labels of a site under the other host, with what the comparison of structures did to their namesakes.

    Also the share of it that the comparison leaves, over what it leaves of the names in use: where it ruled out the
    namesakes of all that the other host could say of a site, the site speaks against that host.
    """
    new, elements = other.sites[row], other.elements or {}
    gained = {
        _renamed(label, elements): said.get(label, 0.0) / p
        for label, p in before.items() if p > NEVER and (other.elements is not None or _seen(label))
    }
    rest = [label for label in before if label not in ("pristine", NO_NAME)]
    usual = sum(said.get(label, 0.0) for label in rest) / max(sum(before[label] for label in rest), NEVER)
    pristine, nameless = said.get("pristine", 0.0), max(said.get(NO_NAME, 0.0), new.get(NO_NAME, 0.0))
    nameless = min(nameless, 1 - pristine)
    odds = {label: p * gained.get(label, usual) for label, p in new.items() if label not in ("pristine", NO_NAME)}
    shapes = {label: p for label, p in said.items() if _seen(label) and label not in (*SEEN, *odds)}
    size = sum(odds.values())
    if size <= 0.0:
        return _unnamed(said), 1.0
    nameless = min(nameless, max(1 - pristine - sum(shapes.values()), 0.0))
    named = max(1 - pristine - nameless - sum(shapes.values()), 0.0)
    found = shapes | {"pristine": pristine, NO_NAME: nameless} | {n: named * p / size for n, p in odds.items()}
    alike = usual * sum(p for label, p in new.items() if label not in ("pristine", NO_NAME))
    return found, min(size / max(alike, NEVER), 1.0)


def _seen(label: str) -> bool:
    """Whether a label names no elements: the shape of a line, a trefoil, a ring."""
    return label in SEEN or type_of(label, "") in ("LINE", "TREFOIL", "BOND", "TWIN")


def _renamed(label: str, elements: Mapping[str, str]) -> str:
    """A label in which the host's elements are those of another; a guest that is no guest there has no name."""
    if _seen(label):
        return label
    there, _, belongs = label.partition("_")
    guest = re.sub(r"\d", "", there)
    if guest in elements.values() and guest not in elements and guest != "V":
        return NO_NAME
    swapped = _swapped(belongs, elements)
    new = there if guest == "V" else "".join(elements.get(part, part) for part in re.split(r"([A-Z][a-z]?)", there))
    return NO_NAME if new == swapped else f"{new}_{swapped}"


def _swapped(formula: str, elements: Mapping[str, str]) -> str:
    """A formula in the elements of the other host; of flat hosts as `stemfit.defects.rings` writes it."""
    atoms = Counter[str]()
    for name, number in re.findall(r"([A-Z][a-z]?)(\d*)", formula):
        atoms[name] += int(number or 1)
    if not set(atoms) <= FLAT or atoms.total() == 1:
        return "".join(elements.get(part, part) for part in re.split(r"([A-Z][a-z]?)", formula))
    lost = Counter[str]()
    for name, number in atoms.items():
        lost[elements.get(name, name)] += number
    larger_first = sorted(lost.items(), key=lambda one: (-one[1], one[0]))
    return "".join(name + (str(n) if n > 1 else "") for name, n in larger_first)


def _elements(host: ProjectedHost, other: ProjectedHost, turned: bool) -> dict[str, str] | None:
    """Element for element, where the columns of both are of the same kind; `turned` with exchanged sublattices."""
    there = other.columns[::-1] if turned else other.columns
    pairs = [(column_elements(a), column_elements(b)) for a, b in zip(host.columns, there, strict=True)]
    if host.sublattices != other.sublattices or any(len(a) != len(b) for a, b in pairs):
        return None
    table = {a: b for one, two in pairs for a, b in zip(one, two, strict=True)}
    return table if all(table[a] == b for one, two in pairs for a, b in zip(one, two, strict=True)) else None


def _gathered(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    result: dict[str, float] = {}
    for label, p in pairs:
        result[label] = result.get(label, 0.0) + p
    return result
