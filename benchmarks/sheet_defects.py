"""Graphene and boron nitride: which defects are named, and what is claimed where nothing is, at three doses.

Truth is drawn by `sheets.py`: Gaussian columns at places where springs between neighbours come to rest, nine defects a
field or a row of dislocations (the boundary of two grains), random rotation, either handedness, shear, Poisson counts;
or, with ``--multislice``, the same atoms rendered by abTEM (60 kV, 31 mrad, 60 to 200 mrad, astigmatism and coma; kept
in ``--cache``). Host and pixel size are stated.

A defect is named when a claim with its label has its middle within 1 A of it (of a dislocation, whose core is put into
an elastic continuum: within 2.5 A); nearly if the truth is among the alternatives of one with P of 0.1 and more;
unnamed if all that is claimed there is UNKNOWN. A claim farther than 3 A from what is there is false. Claims within 4 A
of the border are not counted, nor are defects that are not farther inside by as much as their middles may be off.

Run: ``OMP_NUM_THREADS=1 python benchmarks/sheet_defects.py [--rounds 3] [--seed 5] [--full] [--multislice]``
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from machine import headline, table
from numpy.typing import NDArray
from sheets import Sheet, bicrystal, sheet

from stemfit import observed, pipeline, relax
from stemfit.errors import StemfitError
from stemfit.synthetic import as_micrograph

COUNTS = (100.0, 20.0, 5.0)
"""Peak of the brightest pristine column."""

KINDS = {
    "graphene": {
        "V_A": "V_C", "5-9": "V_C", "V_2c": "5-8-5", "SW": "SW", "filled": "Si_C2", "swap=3.9": "Si_C",
        "swapA=1.38": "N_C", "row3": "V_C3", "V_3": "V_C4", "ring": "V_C6", "adatom": "ADATOM",
        "5-7": "5-7",
    },
    "hBN": {
        "V_A": "V_B", "V_B": "V_N", "V_2": "V_BN", "V_3": "V_B3N", "V_3b": "V_N3B", "V_6": "V_B6N3",
        "swap=0.73": "C_N", "swapA=0.73": "C_B", "SW": "SW",
    },
}  # fmt: skip
NEAR_A, NEAR_CORE_A, FAR_A, EDGE_A, TIE = 1.0, 2.5, 3.0, 4.0, 0.1
SPACINGS = (8.0, 30.0)
"""Bonds between dislocations."""
PLACES = [(u, v) for v in (0.21, 0.5, 0.79) for u in (0.21, 0.5, 0.79)]
SHAPE = (340, 350)


class Field(NamedTuple):
    """What to draw: host, kinds at `PLACES`, and how it is scanned."""

    host: str
    wanted: tuple[str, ...]
    scan: dict[str, Any]


class Said(NamedTuple):
    """A claim or suspect."""

    label: str
    probability: float
    alternatives: dict[str, float]
    at_px: NDArray[np.float64]
    extent_px: NDArray[np.float64]


def fields(seed: int, rounds: int) -> Iterator[Field]:
    """Every kind about equally often, and one field without a defect in each round."""
    for host, kinds in KINDS.items():
        rng = np.random.default_rng([seed, len(kinds)])
        for _ in range(rounds):
            names = [str(kind) for kind in rng.permutation([kind for kind in kinds if kind != "5-7"])]
            row = [("5-7",)] if "5-7" in kinds else []
            for wanted in ((names + names)[: len(PLACES)], (names + names)[len(PLACES) : 2 * len(PLACES)], *row, ()):
                scan = {
                    "turn_deg": float(rng.uniform(0, 60)), "mirror": bool(rng.integers(2)),
                    "shear": float(rng.uniform(-0.04, 0.04)), "sigma_A": float(rng.uniform(0.36, 0.46)),
                    "seed": int(rng.integers(2**31)), "pixel_A": float(rng.uniform(0.09, 0.12)),
                }  # fmt: skip
                yield Field(host, tuple(wanted), scan)


def draw(field: Field, counts: float) -> Sheet:
    """A field at one dose."""
    if field.wanted != ("5-7",):
        wanted = tuple(zip(field.wanted, PLACES, strict=False))
        return sheet(field.host, wanted, shape=SHAPE, counts=counts, **field.scan)
    spacing = float(np.random.default_rng(field.scan["seed"]).uniform(*SPACINGS))
    scan = {key: field.scan[key] for key in ("turn_deg", "sigma_A", "seed", "pixel_A")}
    return bicrystal(spacing, shape=SHAPE, counts=counts, **scan)


class _Enough(Exception):
    """The defects are known."""


def analyse(drawn: Sheet, host: str, full: bool) -> tuple[list[Said], list[Said]] | str:
    """Claims and suspects, or why there are none."""
    kept: list[Any] = []
    find = observed.find_defects

    def watched(evidence: Any) -> Any:
        kept.append(find(evidence))
        if not full:
            raise _Enough
        return kept[0]

    with mock.patch.object(observed, "find_defects", watched):
        try:
            settings = pipeline.Settings(host=host)
            whole = pipeline.analyze(as_micrograph(drawn.image, drawn.pixel_A), settings, relax.relaxer("definet"))
            kept[0] = (whole.defects, whole.suspects)
        except _Enough:
            pass
        except StemfitError as error:
            return str(error)
    claims, suspects = ([
        Said(d.label, d.probability, dict(d.alternatives), np.asarray(d.center_px), np.atleast_2d(d.extent_px))
        for d in of
    ] for of in kept[0])
    return claims, suspects


class Tally(NamedTuple):
    """Outcomes by host, dose and kind; false claims; sites; stated probabilities and whether they were so."""

    outcome: dict[tuple[str, float, str], Counter[str]]
    false: dict[tuple[str, float, bool], Counter[str]]
    sites: Counter[tuple[str, float, bool]]
    stated: list[tuple[str, float, float, bool]]


def count(field: Field, drawn: Sheet, counts: float, said: tuple[list[Said], list[Said]], into: Tally) -> list[str]:
    """Count one image; what went wrong, in words."""
    row = field.wanted == ("5-7",)
    wrong, near, far = [], (NEAR_CORE_A if row else NEAR_A) / drawn.pixel_A, FAR_A / drawn.pixel_A
    border = EDGE_A / drawn.pixel_A
    h, w = drawn.image.shape

    def inner(one: Said) -> bool:
        return bool(((one.at_px > border) & (one.at_px < np.array([w, h]) - 1 - border)).all())

    claims, suspects = ([one for one in of if inner(one)] for of in said)
    where = [truth.xy_px for truth in drawn.truth]
    labels = [KINDS[field.host][truth.label] for truth in drawn.truth]
    for truth, label, xy in zip(drawn.truth, labels, where, strict=True):
        if not ((xy > border + near) & (xy < np.array([w, h]) - 1 - border - near)).all():
            continue
        about = [c for c in claims if np.hypot(*(c.extent_px - xy).T).min() < far]
        here = [c for c in about if np.hypot(*(c.at_px - xy)) < near]
        if any(c.label == label for c in here):
            outcome = "named"
        elif any(c.alternatives.get(label, 0.0) >= TIE for c in here):
            outcome = "nearly"
        elif not about:
            outcome = "missed"
        else:
            outcome = "unnamed" if all(c.label == "UNKNOWN" for c in about) else "wrong"
        into.outcome[field.host, counts, truth.label][outcome] += 1
        if outcome != "named":
            what = ", ".join(f"{c.label} {c.probability:.2f}" for c in about) or "nothing"
            wrong.append(f"{field.host} {counts:g} ({xy[0]:.0f}, {xy[1]:.0f}) {truth.label}: {outcome}: {what}")
    bare = not field.wanted
    into.sites[field.host, counts, bare] += drawn.columns
    for c in (*claims, *suspects):
        off = min((float(np.hypot(*(c.extent_px - xy).T).min()) for xy in where), default=np.inf)
        right = any(c.label == label and np.hypot(*(c.at_px - xy)) < near
                    for label, xy in zip(labels, where, strict=True))
        if c.label != "UNKNOWN":
            into.stated.append((field.host, counts, c.probability, right))
        if off > far and any(c is one for one in claims):
            into.false[field.host, counts, bare][c.label] += 1
            x, y = c.at_px
            wrong.append(f"{field.host} {counts:g} ({x:.0f}, {y:.0f}) false: {c.label} {c.probability:.2f}")
    return wrong


def rendered(drawn: Sheet, field: Field, counts: float, cache: Path) -> Sheet:
    """The same atoms by multislice, recorded with as many counts in the brightest pristine column."""
    from sheet_multislice import image_of

    ideal = image_of(drawn, field.host, field.scan["seed"], cache)
    rng = np.random.default_rng([field.scan["seed"], int(counts)])
    return drawn._replace(image=rng.poisson(ideal * counts).astype(float))


def tables(into: Tally) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """What was counted."""
    kinds = list(dict.fromkeys((host, kind) for host, _, kind in into.outcome))
    names = ("named", "nearly", "unnamed", "wrong", "missed")
    rows: list[list[str]] = []
    for host, kind in kinds:
        row: list[str] = [host, kind, KINDS[host][kind]]
        for counts in COUNTS:
            got = into.outcome[host, counts, kind]
            others = " ".join(f"{got[name]} {name}" for name in names[1:] if got[name])
            row.append(f"{got['named']} of {got.total()}" + (f" ({others})" if others else ""))
        rows.append(row)
    yield "Named", ["host", "kind", "label", *(f"{c:g} counts" for c in COUNTS)], rows
    rows = []
    for (host, counts, bare), sites in sorted(into.sites.items(), key=lambda item: (item[0][0], -item[0][1])):
        false = into.false[host, counts, bare]
        said = ", ".join(f"{n} {label}" for label, n in false.most_common())
        rows.append([host, f"{counts:g}", "none" if bare else "9", f"{sites}", f"{false.total()}",
                     f"{1000 * false.total() / sites:.2f}", said])
    yield "False claims", ["host", "counts", "defects in the field", "columns", "false", "per 1000", "which"], rows
    rows, edges = [], (0.0, 0.1, 0.5, 0.7, 0.9, 0.99, 1.01)
    for low, high in pairwise(edges):
        own = [(p, right) for _, _, p, right in into.stated if low <= p < high]
        if own:
            rows.append([f"{low:g} to {min(high, 1):g}", f"{len(own)}", f"{np.mean([p for p, _ in own]):.3f}",
                         f"{np.mean([r for _, r in own]):.3f}"])
    yield "Stated probability of a name, claims and suspects", ["P", "n", "mean P", "right"], rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="relax and score candidates too")
    parser.add_argument("--multislice", action="store_true", help="render the atoms with abTEM")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parents[1] / "data" / "sheets")
    parser.add_argument("--failures", type=Path, help="list what went wrong in this file")
    asked = parser.parse_args()
    into = Tally(defaultdict(Counter), defaultdict(Counter), Counter(), [])
    wrong, start, images = [], time.process_time(), 0
    for field in fields(asked.seed, asked.rounds):
        for counts in COUNTS:
            drawn = draw(field, counts)
            if asked.multislice:
                drawn = rendered(drawn, field, counts, asked.cache)
            said = analyse(drawn, field.host, asked.full)
            images += 1
            if isinstance(said, str):
                wrong.append(f"{field.host} {counts:g}: not analysed: {said}")
                said = ([], [])
            wrong += count(field, drawn, counts, said, into)
            print(field.host, len(field.wanted), f"{counts:g}", file=sys.stderr)
    how = "multislice" if asked.multislice else "drawn"
    print(f"{headline()}; seed {asked.seed}, {images} images, {how}{', relaxed and scored' if asked.full else ''}")
    for title, head, rows in tables(into):
        print(f"\n**{title}**\n", table(head, rows), sep="\n")
    print(f"\n{time.process_time() - start:.0f} s CPU")
    if asked.failures:
        asked.failures.write_text("\n".join(wrong) + "\n")


if __name__ == "__main__":
    main()
