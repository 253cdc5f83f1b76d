"""Metal vacancies that took their chalcogen neighbours with them: V_MX3 and V_MX6.

Both are seen in MoS2 by Zhou et al., Nano Lett. 13, 2615 (2013).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stemfit.defects.evidence import Evidence
from stemfit.defects.types import Defect, Site

COMPLEX_RATE = {3: 1e-4, 6: 3e-5}
"""Share of metal sites at which the metal is missing with so many chalcogen atoms: orders of magnitude, a tenth of the
metal vacancies and less (Zhou et al. 2013)."""

BOUND = {1: ((0, 0), (-1, 0), (0, -1)), -1: ((-1, -1), (-1, 0), (0, -1))}
"""Cells, counted from a metal's, of the three chalcogen columns bound to it, by polarity."""


class _Share(NamedTuple):
    """Natural logarithm of each hypothesis' likelihood and probability on one site, over that of all of them."""

    likelihood: dict[str, float]
    probability: dict[str, float]


def complexes(found: Sequence[Defect], evidence: Evidence) -> tuple[list[Defect], list[Defect]]:
    """Recognise V_MX3 and V_MX6 round claimed metal sites; what is recognised, and what is left of the findings."""
    named: list[Defect] = []
    taken: set[Site] = set()
    if not evidence.host.dichalcogenide:
        return [], list(found)
    metals = [d for d in found if len(d.sites) == 1 and d.sites[0][2] == "M" and _may_miss(d, evidence)]
    for metal in sorted(metals, key=lambda d: -d.log_bayes_factor):
        sites = around(metal.sites[0], evidence.lattice.polarity)
        if all(evidence.judged(site) for site in sites) and not taken.intersection(sites):
            weight = weigh(sites, evidence)
            label = max(complex_labels(evidence), key=lambda name: weight[name])
            if sum(weight[name] for name in complex_labels(evidence)) > 0.5:
                named.append(_defect(label, sites, weight, evidence))
                taken.update(sites)
    return named, [d for d in found if not taken.intersection(d.sites)]


def around(metal: Site, polarity: int) -> tuple[Site, ...]:
    """A metal site and the three chalcogen sites bound to it."""
    i, j, _ = metal
    return (metal, *((i + di, j + dj, "X") for di, dj in BOUND[polarity]))


def complex_labels(evidence: Evidence) -> tuple[str, str]:
    """V_MX3 and V_MX6 of this host."""
    metal, x = evidence.host.columns
    return f"V_{metal}{x.rstrip('2')}3", f"V_{metal}{x.rstrip('2')}6"


def complex_rate(label: str) -> float | None:
    """Share of metal sites with this complex beforehand; None if the label is none."""
    match = re.fullmatch(r"V_[A-Z][a-z]?[A-Z][a-z]?([36])", label)
    return COMPLEX_RATE[int(match[1])] if match else None


def _may_miss(finding: Defect, evidence: Evidence) -> bool:
    return evidence.probability(finding.sites[0]).get(f"V_{evidence.host.columns[0]}", 0.0) > 0.0


def weigh(sites: Sequence[Site], evidence: Evidence) -> dict[str, float]:
    """Posterior of what is missing on a metal site and round it.

    The atoms are missing independently, with the densities of this image, or together, with `COMPLEX_RATE`: the first
    gives V_MX3 and V_MX6 too, but rarely. UNKNOWN is all that is neither these nor the metal alone nor pristine.
    """
    metal, x = evidence.host.columns
    half, gone = f"V_{x.rstrip('2')}", f"V_{x}"
    centre, *ring = (_share(site, evidence) for site in sites)
    weight = {}
    for label, count, one in zip(complex_labels(evidence), (3, 6), (half, gone), strict=True):
        together = math.log(COMPLEX_RATE[count]) + centre.likelihood[f"V_{metal}"]
        together += sum(s.likelihood[one] for s in ring)
        chance = centre.probability[f"V_{metal}"] + sum(s.probability[one] for s in ring)
        weight[label] = (together, chance)
    alone = centre.probability[f"V_{metal}"] + sum(s.probability["pristine"] for s in ring)
    pristine = centre.probability["pristine"] + sum(s.probability["pristine"] for s in ring)
    independent = [chance for _, chance in weight.values()] + [alone, pristine]
    logs = {label: float(np.logaddexp(*both)) for label, both in weight.items()}
    logs |= {f"V_{metal}": alone, "pristine": pristine}
    logs["UNKNOWN"] = math.log(max(1.0 - float(np.exp(independent).sum()), 1e-300))
    top = max(logs.values())
    total = sum(math.exp(v - top) for v in logs.values())
    return {label: math.exp(v - top) / total for label, v in logs.items()}


def _share(site: Site, evidence: Evidence) -> _Share:
    likelihood, rate = evidence.log_likelihood(site), evidence.rate(site)
    joint = {label: value + math.log(rate[label]) for label, value in likelihood.items() if rate[label] > 0}
    total = float(np.logaddexp.reduce(list(joint.values())))
    return _Share(
        {label: value - total for label, value in likelihood.items()},
        {label: value - total for label, value in joint.items()},
    )


def _defect(label: str, sites: tuple[Site, ...], weight: dict[str, float], evidence: Evidence) -> Defect:
    metal, x = evidence.host.columns
    missing = [f"V_{metal}", *([f"V_{x.rstrip('2')}" if label.endswith("3") else f"V_{x}"] * 3)]
    extent = np.array([evidence.xy_px(site) for site in sites])
    against = 0.0
    for site, gone in zip(sites, missing, strict=True):
        seen = evidence.log_likelihood(site)
        against += seen[gone] - seen["pristine"]
    others = sorted(((name, p) for name, p in weight.items() if name != label), key=lambda item: -item[1])
    return Defect(0, "VM", label, weight[label], extent.mean(0), sites, extent, tuple(others), against)
