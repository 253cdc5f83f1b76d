"""Where pixels are not to be trusted, brightness says which structure a place has.

A structure that is built, comes from a file or is larger than what the relaxer was taught has its atoms tenths of an
Angstrom from where they are: its likelihood is off by hundreds of nats, and a line with a vacancy too many may fit by
chance what the right one misses. What sites hold is measured wherever their columns stand.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.defects import Site, names_in
from stemfit.matching.compare import Compared
from stemfit.matching.held import Held
from stemfit.matching.spots import WORTH, kind_of
from stemfit.relax import Relaxed
from stemfit.score import Score, shared_out

FloatArray = NDArray[np.float64]


class _Group(NamedTuple):
    """Candidates that hold the same on all judged sites.

    Attributes
    ----------
    rows : list of int
    hold : mapping of site to column type
    trusted : bool
        Whether pixels may say how likely one of them is.
    name : str
        Lines and trefoils of a mixed sublattice, "" for all else.
    most : float
        Probability that all groups of that name may have at most.
    """

    rows: list[int]
    hold: dict[Site, str]
    trusted: bool
    name: str
    most: float


def as_bright(
    compared: Compared, relaxed: Sequence[Relaxed], scores: Sequence[Score], held: Held, mixed: Collection[str] = ()
) -> tuple[Score, ...]:
    """Scores whose odds between different columns are those of brightness, where positions are not to be trusted.

    Structures that differ by what sites hold are weighed by that, against the likeliest of those whose positions are
    trusted; among those that hold the same, pixels decide. So it is on `mixed` sublattices, where no structure knows
    how unlike neighbours move; lines and trefoils, which show there by what they move, are no likelier than their names
    were when they were found.
    """
    groups = _groups(compared, relaxed, held, mixed)
    prior = np.array([c.log_prior for c in compared.candidates])
    pixels = np.array([s.log_likelihood for s in scores]) + prior
    weight = np.array([logsumexp(pixels[g.rows]) for g in groups])
    # Of whole columns brightness knows itself which atoms they may be.
    light = held.between([g.hold for g in groups])
    light += [logsumexp(prior[g.rows]) if g.hold else 0.0 for g in groups]
    trusted = np.array([g.trusted for g in groups])
    best = int(np.argmax(np.where(trusted, weight, -np.inf)))  # the perfect crystal, if no other
    share = _shares(np.where(trusted, weight, weight[best] + light - light[best]), groups)
    number = {k: str(n) for n, g in enumerate(groups) for k in g.rows}
    spot = replace(
        compared.spot.defect, label="0", probability=float(share[0]),
        alternatives=tuple((str(n), float(p)) for n, p in enumerate(share) if n),
    )
    return shared_out(spot, [replace(c, label=number[k]) for k, c in enumerate(compared.candidates)], scores)


def unknown_by_light(compared: Compared, best: int, held: Held, rate: float) -> float:
    """Probability that the sites of the likeliest candidate hold nothing that has a name; `rate` of such defects."""
    nothing = held.anything(compared.hold[best]) + float(np.log(rate))
    known = float(held.between([compared.hold[best]])[0]) + compared.candidates[best].log_prior
    return float(np.exp(nothing - np.logaddexp(nothing, known)))


def unexplained(compared: Compared, best: int, held: Held) -> float:
    """Probability of what was found here as one defect without a name, if the likeliest candidate is not all of it.

    It is if it changes half of the sites that are not as in the perfect crystal: findings take in what is beside them.
    """
    most = 0.0
    for defect in compared.here:
        sites = held.changed(defect.sites)
        if defect.label == "UNKNOWN" and len(sites & compared.hold[best].keys()) < WORTH * len(sites):
            most = max(most, defect.probability)
    return most


def _groups(compared: Compared, relaxed: Sequence[Relaxed], held: Held, mixed: Collection[str]) -> list[_Group]:
    rows: dict[frozenset[tuple[Site, str]], list[int]] = {}
    for k, hold in enumerate(compared.hold):
        rows.setdefault(frozenset(item for item in hold.items() if item[0][2] in held.posterior), []).append(k)
    made = []
    for key, own in rows.items():
        alloyed = any(site[2] in mixed for site, _ in key)
        moving = bool(compared.here) and any(_extended(compared.candidates[k].label) for k in own)
        known = any(not compared.hold[k] or _vouched(relaxed[k]) for k in own)
        name = compared.candidates[own[0]].label if alloyed and moving else ""
        trusted = not key or (moving if alloyed else known)
        made.append(_Group(own, dict(key), trusted, name, _named(compared, name)))
    return made


def _vouched(relaxed: Relaxed) -> bool:
    return not relaxed.caution and relaxed.relaxer not in ("keep", "file")


def _extended(label: str) -> list[str]:
    """Lines and trefoils among the names of a label."""
    return [name for name in names_in(label) if kind_of(name) in ("LINE", "TREFOIL")]


def _named(compared: Compared, label: str) -> float:
    """Probability that the names of the lines and trefoils in a label had when they were found."""
    said = [{d.label: d.probability, **dict(d.alternatives)} for d in compared.here]
    return min((max(of.get(name, 0.0) for of in said) for name in _extended(label)), default=1.0)


def _shares(weight: FloatArray, groups: Sequence[_Group]) -> FloatArray:
    """Shares (G,) by log weights, no name above what it may have at most; what is left goes to the others."""
    same = [[n for n, g in enumerate(groups) if g.name == name] if name else [k] for k, name in enumerate(
        g.name for g in groups)]  # fmt: skip
    families = [list(rows) for rows in dict.fromkeys(map(tuple, same))]
    whole = np.array([logsumexp(weight[rows]) for rows in families])
    most = np.array([groups[rows[0]].most for rows in families])
    of, free = np.zeros(len(whole)), np.ones(len(whole), dtype=bool)
    while free.any():
        of[free] = (1 - of[~free].sum()) * np.exp(whole[free] - logsumexp(whole[free]))
        over = free & (of > most)
        if not over.any():
            break
        of[over], free = most[over], free & ~over
    share = np.zeros(len(weight))
    for rows, p, w in zip(families, of, whole, strict=True):
        share[rows] = p * np.exp(weight[rows] - w)
    return share
