"""Fields of known defects for `defect_calibration.py`: made, recorded at each dose, analysed; resumable."""

from __future__ import annotations

import argparse
import pickle
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from defect_fields import COUNTS, SHARES, Field, build, drawn_labels, record
from defect_library import library, views
from defect_scoring import Score, Statement, score
from defect_stages import analyse

TYPES_HERE = SHARES | {"ANTI": 0.5}
"""As believed, single antisites are four times rarer against exchanged atoms than in `SHARES`."""

PRISTINE_SIZE = 960
"""Side in pixels of fields without defects."""

ISOVALENT_WEIGHT, PAIR_WEIGHT = 4.0, 0.02
"""Of exchanged metals and of columns whose both chalcogens are exchanged, against other labels of their type: as the
analysis believes. Whether that is so in samples cannot be learnt from drawn images; the rest can."""


class Plan(NamedTuple):
    """A field to make: microscope, seed, and whether it holds defects."""

    view: str
    seed: int
    defects: bool


class Kept(NamedTuple):
    """What one recorded field adds.

    Attributes
    ----------
    plan : Plan
    counts : float
    ours, threshold : Score
        Of the analysis and of the brightness threshold.
    true : Counter
        Labels of all defects there.
    failure : str
    cpu_s : float
    """

    plan: Plan
    counts: float
    ours: Score
    threshold: Score
    true: Counter[str]
    failure: str
    cpu_s: float

    @property
    def dose(self) -> str:
        """Counts as written in the tables."""
        return f"{self.counts:g}"

    @property
    def statements(self) -> list[Statement]:
        """Of claims, then of suspects."""
        return self.ours.statements

    @property
    def claims(self) -> list[Statement]:
        """Those of claims."""
        return self.statements[: self.ours.claimed.total() + self.ours.members.total()]


def field_of(plan: Plan) -> Field:
    """Put the field of a plan together."""
    lib = library(plan.view)
    name = f"{plan.view}-{plan.seed}"
    if not plan.defects:
        return build(name, "pristine", plan.view, [], plan.seed + 1, PRISTINE_SIZE)
    weights = {label: _weight(label) for label in lib.stamps}
    drawn = drawn_labels(lib, np.random.default_rng(plan.seed), weights=weights, shares=TYPES_HERE)
    return build(name, "defects", plan.view, drawn, plan.seed + 1)


def _weight(label: str) -> float:
    """Frequency of a label among those of its type."""
    both = re.fullmatch(r"(S|Se|Te|O)2_(S|Se)2", label) is not None
    return PAIR_WEIGHT if both else ISOVALENT_WEIGHT if label in ("W_Mo", "Mo_W") else 1.0


def kept(plan: Plan, counts: Sequence[float], full: bool) -> list[Kept]:
    """Record a field at each dose and analyse it."""
    field, result = field_of(plan), []
    for one in counts:
        start = time.process_time()
        shot = record(field, one, plan.seed)
        answer = analyse(shot, full)
        ours, threshold = score(shot, answer.claims, answer.suspects), score(shot, answer.by_threshold)
        true = Counter(defect.label for defect in shot.defects)
        spent = time.process_time() - start
        result.append(Kept(plan, one, ours, threshold, true, answer.failure, spent))
    return result


def gathered(asked: argparse.Namespace) -> list[Kept]:
    """Analyse fields until there are as many defects and columns as asked; goes on where `--keep` ends."""
    each = partial(kept, counts=COUNTS, full=asked.full)
    before: list[Kept] = pickle.loads(asked.keep.read_bytes()) if asked.keep and asked.keep.exists() else []
    known = {plan: [one for one in before if one.plan == plan] for plan in {one.plan for one in before}}
    result: list[Kept] = []
    with ProcessPoolExecutor(asked.processes) as pool:
        for defects, wanted in ((True, asked.defects), (False, asked.columns)):
            seen, number = 0, 0
            while seen < wanted:
                some = [
                    Plan(views()[k % len(views())], asked.seed + 10 * k + 5 * (not defects), defects)
                    for k in range(number, number + 2 * asked.processes)
                ]
                number += len(some)
                waited = [known.get(plan) or pool.submit(each, plan) for plan in some]
                for field in (one if isinstance(one, list) else one.result() for one in waited):
                    seen += field[0].true.total() if defects else min(one.ours.columns for one in field)
                    result += field
                    print(field[0].plan, seen, *{one.failure for one in field}, file=sys.stderr, flush=True)
                if asked.keep:
                    asked.keep.write_bytes(pickle.dumps(result))
    return result
