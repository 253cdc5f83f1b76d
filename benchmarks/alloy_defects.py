"""Vacancies in alloys: what brightness says of them, and what the comparison of structures would make of it.

Alloys are drawn with the brightness that multislice gives each column type (`tests/alloy_fields.py`). The metals round
a vacancy are drawn in by hand, by 0.06 A (one atom gone) or 0.12 A (both), give or take 0.02 A, and every column is off
by 0.02 A. Half of the vacancies lost one atom, the others both. *Brightness* is what the analysis states, *comparison*
the posterior over the candidates of a defect: right is the type (SV or DV), Brier the mean squared error of its
probability.

Run: ``OMP_NUM_THREADS=1 python benchmarks/alloy_defects.py [--seeds 61,62] [--counts 100]`` (about two minutes)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import headline, table
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from alloy_fields import A_A, MO, PIXEL_A, SHAPE, Answer, W, read_without_hint
from chain import redrawn, taken

from stemfit.candidate_alloys import mixtures_of, propose_in
from stemfit.defects import Defect, label_rates, with_learned_halves
from stemfit.optics.scattering import column_elements
from stemfit.relax import relaxer
from stemfit.score import Score, rank
from stemfit.synthetic import Crystal, crystal

FloatArray = NDArray[np.float64]

ALLOYS: Mapping[str, tuple[Mapping[str, float], Mapping[str, float], Mapping[str, float]]] = {
    "WSSe": (W, {"W": 1.0}, {"S2": 0.35, "SSe": 0.45, "Se2": 0.2}),
    "MoWSSe": (MO, {"Mo": 0.7, "W": 0.3}, {"S2": 0.3, "SSe": 0.5, "Se2": 0.2}),
    "MoWS2": (MO, {"Mo": 0.6, "W": 0.4}, {"S2": 1.0}),
}
"""Brightness of column types, and shares of the columns of both sublattices."""

EACH, APART, ROOM = 8, 2.2, 2.5
"""Vacancies of either kind, and their distances from each other and from the border, in lattice constants."""

DRAWN_IN_A, SPREAD_A = {"SV": 0.06, "DV": 0.12}, 0.02


class Drawn(NamedTuple):
    """A crystal, and where (K, 2), px, it lacks what (SV or DV)."""

    truth: Crystal
    at_px: FloatArray
    lost: list[str]


def drawn(name: str, seed: int) -> Drawn:
    """One alloy with vacancies."""
    levels, *shares = ALLOYS[name]
    rng = np.random.default_rng(seed)
    perfect = crystal(SHAPE, pixel_size_A=PIXEL_A, a_A=A_A, rotation_deg=13.0 + 7 * seed, brightness=(1, 1), seed=seed)
    sites = perfect.columns
    metal = sites.sublattice == "M"
    types = np.where(metal, *(rng.choice(list(s), len(metal), p=list(s.values())) for s in shares)).astype("<U3")
    a_px = A_A / PIXEL_A
    inside = (sites.xy_px > ROOM * a_px).all(1) & (sites.xy_px < np.array(SHAPE[::-1]) - ROOM * a_px).all(1)
    picked: list[int] = []
    for k in rng.permutation(np.flatnonzero(~metal & inside)).tolist():
        if len(picked) < 2 * EACH and all(np.hypot(*(sites.xy_px[k] - sites.xy_px[q])) > APART * a_px for q in picked):
            picked.append(k)
    move = rng.normal(0, SPREAD_A / PIXEL_A, sites.xy_px.shape)
    lost = ["SV" if n % 2 else "DV" for n in range(len(picked))]
    for k, kind in zip(picked, lost, strict=True):
        types[k] = "" if kind == "DV" else column_elements(str(types[k]))[rng.integers(2)]
        off = sites.xy_px - sites.xy_px[k]
        away = np.hypot(*off.T)
        near = metal & (away < 0.7 * a_px)
        move[near] -= off[near] / away[near, None] * rng.normal(DRAWN_IN_A[kind], SPREAD_A) / PIXEL_A
    names = [(int(i), int(j), str(s)) for (i, j), s in zip(sites.ij, sites.sublattice, strict=True)]
    light = {n: levels[t] for n, t in zip(names, types, strict=True)}
    truth = redrawn(perfect, light, {n: tuple(d) for n, d in zip(names, move, strict=True)})
    return Drawn(truth, sites.xy_px[picked], lost)


def compared(answer: Answer) -> tuple[dict[int, dict[str, float]], int]:
    """Posterior over types by defect, from the comparison alone, and how many defects have candidates."""
    seen = answer.evidence
    rates, imaging = label_rates(seen.posteriors), with_learned_halves(seen.imaging, seen.posteriors)
    mixed = mixtures_of(seen.posteriors, seen.host, answer.populations)
    made = [c for d in answer.claims for c in propose_in(d, seen.host, seen.lattice, seen.sites, rates, mixed, 24)]
    ranking = rank(
        answer.claims, made, relaxer("definet", "cpu")(made), seen.image, seen.columns, imaging, seen.lattice,
        seen.sites, answer.brightness, rates["UNKNOWN"],
    )  # fmt: skip
    found: dict[int, dict[str, float]] = {}
    scores: tuple[Score, ...] = ranking.scores
    for c, s in zip(made, scores, strict=True):
        of = found.setdefault(c.defect, {})
        of[c.type] = of.get(c.type, 0.0) + s.posterior
    return found, len(found)


def judged(truth: Drawn, claims: list[Defect], posterior: Mapping[int, Mapping[str, float]]) -> list[Any]:
    """Found, right by brightness and by comparison, mean P and Brier of both, false claims."""
    used: set[int] = set()
    told: list[tuple[tuple[float, bool], tuple[float, bool]]] = []
    for xy, kind in zip(truth.at_px, truth.lost, strict=True):
        near = [d for d in claims if np.hypot(*(d.center_px - xy)) < 0.3 * A_A / PIXEL_A]
        if near:
            used.add(near[0].id)
            odds = posterior.get(near[0].id, {})
            best = max(odds, key=lambda t: odds[t], default="")
            by_light = (near[0].type_probability, near[0].type == kind)
            told.append((by_light, (odds.get(best, 0.0), best == kind)))
    cells: list[Any] = [f"{len(told)}/{len(truth.lost)}"]
    for which in (0, 1):
        p, so = np.array([t[which][0] for t in told]), np.array([t[which][1] for t in told])
        cells += [f"{so.sum()}/{len(so)}", f"{p.mean():.2f}", f"{np.mean((p - so) ** 2):.3f}"]
    return [*cells, sum(d.id not in used for d in claims)]


HEAD = (
    "alloy", "seed", "counts", "found", "brightness: right", "mean P", "Brier", "comparison: right", "mean P", "Brier",
    "false", "with candidates",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="61,62")
    parser.add_argument("--counts", type=float, default=100.0)
    asked = parser.parse_args()
    rows, start = [], time.process_time()
    for name in ALLOYS:
        for seed in map(int, asked.seeds.split(",")):
            truth = drawn(name, seed)
            answer = read_without_hint(taken(truth.truth, asked.counts, seed)[0], 60.0, (60.0, 200.0))
            posterior, count = compared(answer)
            cells = judged(truth, list(answer.claims), posterior)
            rows.append(tuple(map(str, (name, seed, f"{asked.counts:g}", *cells, f"{count}/{len(answer.claims)}"))))
            print(name, seed, file=sys.stderr)
    print(headline(), table(HEAD, rows), f"{time.process_time() - start:.0f} s CPU", sep="\n\n")


if __name__ == "__main__":
    main()
