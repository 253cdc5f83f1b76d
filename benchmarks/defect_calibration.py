"""Whether probabilities of defects are frequencies: thousands of recorded defects and pristine columns.

Fields as in `defects.py`, of other seeds: as many with defects of every kind as hold `--defects` of them, and as many
without as hold `--columns` columns; the same fields are recorded at each dose. Every claim and suspect is a statement.

- **reliability**: stated probability of the name, and of anything being wrong, against how often it was so, and the
  expected calibration error over the bins shown, with its standard error (bootstrap over fields: statements of one
  image share its errors). UNKNOWN is no name; a line's name has its length in it.
- **labels**: all probabilities that were stated for a label, as the name or as an alternative, added up, against how
  often it is the truth; both only where something was stated.
- **false positives**: of all claims in all fields, the sum of the probabilities that nothing is wrong there, and how
  often nothing was; and in the fields without defects, the sum of probabilities that something is wrong.

Vacancies and what is made of them occur as in `defect_fields.SHARES`; the analysis learns their densities by image.
Of foreign atoms and antisites each label is as frequent against the others as the analysis believes (`PRIOR_RATES` in
`stemfit/defects/priors.py`), as far as it was rendered. That belief itself cannot be judged on drawn images.

Run: ``OMP_NUM_THREADS=1 python benchmarks/defect_calibration.py [--defects 700] [--columns 50000] [--processes 2]
[--figure docs/calibration.svg] [--keep FILE]`` (about 20 minutes of CPU time)
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from defect_fields import COUNTS, record
from defect_library import views
from defect_runs import Kept, field_of, gathered
from defect_scoring import Statement, score
from defect_tables import BASE_HEAD, BINS, TYPE_HEAD, TYPES, Row, baselines, found_by_type
from machine import headline, table
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

RESAMPLED = 300
"""Bootstrap samples of fields."""


Told = tuple[float, bool]
"""A stated probability, and whether it was so."""


def named(statement: Statement) -> Told | None:
    """Of the name; None for UNKNOWN."""
    return None if statement.named is None else (statement.named, statement.right)


def wrong_here(statement: Statement) -> Told | None:
    """Of anything being wrong."""
    return statement.defective, statement.present


def told(some: Sequence[Kept], of: Callable[[Statement], Told | None]) -> list[FloatArray]:
    """For each recorded field, (N, 2): stated, so."""
    return [
        np.array([pair for s in one.statements if (pair := of(s)) is not None], float).reshape(-1, 2) for one in some
    ]


def calibration_error(pairs: FloatArray) -> float:
    """Expected calibration error over `BINS` of (N, 2) stated, so."""
    bins = np.digitize(pairs[:, 0], BINS[1:-1])
    gaps = [abs(float(np.sum(pairs[bins == k] @ [1.0, -1.0]))) for k in range(len(BINS) - 1)]
    return sum(gaps) / max(len(pairs), 1)


def with_error(fields: Sequence[FloatArray]) -> tuple[float, float]:
    """Expected calibration error and its bootstrap standard error, fields drawn with replacement."""
    rng = np.random.default_rng(0)
    drawn = [
        calibration_error(np.vstack([fields[k] for k in rng.integers(len(fields), size=len(fields))]))
        for _ in range(RESAMPLED)
    ]
    return calibration_error(np.vstack(fields)), float(np.std(drawn))


RELIABILITY_HEAD = ("stated", *(cell for c in COUNTS for cell in (f"{c:g}: stated", "so", "share")))


def reliability(some: Sequence[Kept], of: Callable[[Statement], Told | None]) -> list[Row]:
    """Stated against how often it was so."""
    by_dose = [told([one for one in some if one.counts == c], of) for c in COUNTS]
    rows = []
    for low, high in pairwise(BINS):
        cells = [f"{low:g} to {high:g}"]
        for fields in by_dose:
            p, so = np.vstack(fields).T
            here = (p >= low) & ((p < high) | (high == 1))
            n, true = int(here.sum()), int(so[here].sum())
            cells += [f"{p[here].mean():.4f}", f"{true}/{n}", f"{true / n:.3f}"] if n else ["-", "-", "-"]
        rows.append(tuple(cells))
    errors = [with_error(fields) for fields in by_dose]
    numbers = [(f"{value:.3f} ± {error:.3f}", f"of {sum(map(len, fields))}", "")
               for (value, error), fields in zip(errors, by_dose, strict=True)]  # fmt: skip
    return [*rows, ("expected calibration error", *(cell for three in numbers for cell in three))]


NAMED_HEAD = ("type claimed", *(cell for c in COUNTS for cell in (f"{c:g}: stated", "so", "ECE")))


def types(some: Sequence[Kept]) -> list[Row]:
    """Mean probability of the name and how often it is right, type by type."""
    rows = []
    for kind in TYPES:
        cells = []
        for c in COUNTS:
            here = told([one for one in some if one.counts == c], partial(_named_as, kind))
            pairs = np.vstack([np.empty((0, 2)), *here])
            n, true = len(pairs), int(pairs[:, 1].sum())
            cells += [f"{pairs[:, 0].mean():.3f}", f"{true}/{n}", f"{calibration_error(pairs):.3f}"] if n else 3 * ["-"]
        rows.append((kind, *cells))
    return rows


def _named_as(kind: str, statement: Statement) -> Told | None:
    return named(statement) if statement.stated.type == kind else None


LABEL_HEAD = ("label", "true there", *(f"{c:g}: stated / so" for c in COUNTS))
LEAST = 1.5
"""Labels are listed from this sum of stated probabilities, or of true ones, over all doses."""


def labels(some: Sequence[Kept]) -> list[Row]:
    """Where the probability goes, label by label."""
    stated: dict[float, Counter[str]] = {c: Counter() for c in COUNTS}
    true: dict[float, Counter[str]] = {c: Counter() for c in COUNTS}
    there: Counter[str] = Counter()
    for one in some:
        if one.counts == COUNTS[0]:
            there += one.true
        for s in one.statements:
            true[one.counts][s.true] += 1
            for label, p in ((s.stated.label, s.stated.probability), *s.stated.alternatives.items()):
                stated[one.counts][s.true if label == "ADATOM" and "@" in s.true else label] += p
    every = sum((*stated.values(), *true.values()), Counter[str]())
    listed = [label for label, _ in every.most_common() if max(
        sum(of[c][label] for c in COUNTS) for of in (stated, true)) >= LEAST]
    return [
        (label, str(there[label]), *(f"{stated[c][label]:.1f} / {true[c][label]}" for c in COUNTS)) for label in listed
    ]


FALSE_HEAD = (
    "counts", "claims in all fields", "false: stated", "so", "columns without defects", "claims there: stated", "so",
    "any of their sites: stated", "false per 1000 columns",
)  # fmt: skip


def false_positives(some: Sequence[Kept]) -> list[Row]:
    """Whether nothing is wrong as often as it is said."""
    rows = []
    for c in COUNTS:
        here = [one for one in some if one.counts == c]
        claims = [s for one in here for s in one.claims]
        bare = [one for one in here if not one.plan.defects]
        said = [s for one in bare for s in one.claims]
        every = sum(s.defective for one in bare for s in one.statements)
        columns = sum(one.ours.columns for one in bare)
        rows.append((
            f"{c:g}", str(len(claims)), f"{sum(1 - s.defective for s in claims):.1f}",
            str(sum(not s.present for s in claims)), str(columns), f"{sum(s.defective for s in said):.1f}",
            str(len(said)), f"{every:.1f}", f"{1e3 * len(said) / max(columns, 1):.3f}",
        ))  # fmt: skip
    return rows


def false_names(some: Sequence[Kept]) -> list[Row]:
    """What is claimed where nothing is, and wrong names of high probability."""
    rows = []
    for c in COUNTS:
        claims = [s for one in some if one.counts == c for s in one.claims]
        false = Counter(s.stated.label for s in claims if not s.present)
        wrong = Counter(
            f"{s.stated.label} for {s.true}"
            for s in claims if s.present and not s.right and s.named is not None and s.named > SURE
        )  # fmt: skip
        cells = (", ".join(f"{n} {what}" for what, n in of.most_common(12)) or "-" for of in (false, wrong))
        rows.append((f"{c:g}", *cells))
    return rows


SURE = 0.9
NAMES_HEAD = ("counts", "claimed where nothing is", f"wrong names with P > {SURE:g}")


def beside_unet(some: Sequence[Kept], cache: Path, seconds: float) -> list[Row]:
    """The analysis, the threshold and the U-Net on the same recorded fields."""
    from defect_unet import trained

    net, by_net = trained(cache, seconds), {}
    for plan in dict.fromkeys(one.plan for one in some):
        field = field_of(plan)
        for one in (one for one in some if one.plan == plan):
            shot = record(field, one.counts, plan.seed)
            by_net[plan, one.counts] = score(shot, net(shot))
    return baselines(some, [
        ("stemfit", lambda one: one.ours), ("threshold", lambda one: one.threshold),
        ("U-Net", lambda one: by_net[one.plan, one.counts]),
    ])  # fmt: skip


# -- figure --------------------------------------------------------------------------------------------------------


def draw(some: Sequence[Kept], path: Path) -> None:
    """Reliability diagrams: probability of the name and of any defect, a line per dose, Wilson intervals of 95 %."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "stemfit", "font.size": 8}
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 4.3), sharey=True, layout="constrained")
    for axis, title, of in ((axes[0], "the name", named), (axes[1], "any defect", wrong_here)):
        axis.plot([0, 1], [0, 1], color="0.7", lw=1)
        for number, c in enumerate(COUNTS):
            fields = told([one for one in some if one.counts == c], of)
            value, error = with_error(fields)
            p, low, mid, high = _diagram(np.vstack(fields))
            bars = np.maximum([mid - low, high - mid], 0.0)
            axis.errorbar(
                p + 0.006 * (number - 1), mid, bars, fmt="o-", ms=3, lw=1, capsize=2,
                label=f"{c:g} counts, ECE {value:.3f} ± {error:.3f} ({sum(map(len, fields))})",
            )
        axis.set(title=f"Claims and suspects: {title}", xlabel="stated probability", xlim=(0, 1.02), ylim=(0, 1.02))
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    axes[0].set_ylabel("how often it is so")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=130)
    plt.close(figure)


def _diagram(pairs: FloatArray, bins: int = 10) -> tuple[FloatArray, ...]:
    """Mean stated probability, lower limit, share and upper limit in each tenth that holds five or more."""
    index = np.minimum((pairs[:, 0] * bins).astype(int), bins - 1)
    rows = []
    for k in range(bins):
        p, so = pairs[index == k].T
        n, z = len(p), 1.96
        if n < 5:
            continue
        share = so.mean()
        middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        rows.append((p.mean(), (middle - half) / (1 + z**2 / n), share, (middle + half) / (1 + z**2 / n)))
    return tuple(np.array(rows).reshape(-1, 4).T)


def all_of(some: Sequence[Kept]) -> Iterator[tuple[str, Row, list[Row]]]:
    """Title, head and rows of every table."""
    yield "Reliability of the name, UNKNOWN left out", RELIABILITY_HEAD, reliability(some, named)
    yield "Reliability of anything being wrong", RELIABILITY_HEAD, reliability(some, wrong_here)
    yield "The name, by type", NAMED_HEAD, types(some)
    yield "False positives", FALSE_HEAD, false_positives(some)
    yield "Wrong", NAMES_HEAD, false_names(some)
    with_defects = [one for one in some if one.plan.defects]
    yield "Found by type, in the fields with defects", TYPE_HEAD, found_by_type(with_defects)
    yield "Where the probability goes: sum of what was stated / how often so", LABEL_HEAD, labels(some)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--defects", type=int, default=700, help="each recorded at every dose")
    parser.add_argument("--columns", type=int, default=50_000, help="in fields without defects, at each dose")
    parser.add_argument("--seed", type=int, default=70_000)
    parser.add_argument("--full", action="store_true", help="relax and score candidates too")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="reliability diagrams, SVG or PNG")
    parser.add_argument("--keep", type=Path, help="write what was stated there, and go on from it")
    parser.add_argument("--unet", type=int, default=0, metavar="N", help="compare with a U-Net on the first N fields")
    parser.add_argument("--unet-seconds", type=float, default=75, help="CPU time of its training, once per host")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parents[1] / "data" / "defects")
    asked = parser.parse_args()
    some = gathered(asked)
    with_defects = [one for one in some if one.counts == COUNTS[0] and one.plan.defects]
    print(
        f"{headline()}; seed {asked.seed}, {len(some)} images, {sum(one.true.total() for one in with_defects)} defects "
        f"in {len(with_defects)} fields, {len(views())} microscopes, each at {len(COUNTS)} doses"
        f"{', relaxed and scored' if asked.full else ''}"
    )
    for title, head, rows in all_of(some):
        print(f"\n**{title}**\n", table(head, rows), sep="\n")
    if asked.unet:
        chosen = list(dict.fromkeys(one.plan for one in some if one.plan.defects))[: asked.unet]
        rows = beside_unet([one for one in some if one.plan in chosen], asked.cache, asked.unet_seconds)
        print(f"\n**The first {len(chosen)} fields: F1 (found/true, claimed)**\n", table(BASE_HEAD, rows), sep="\n")
    failed = [f"{one.plan.view}: {one.failure}" for one in some if one.failure]
    print(f"\n{sum(one.cpu_s for one in some):.0f} s CPU, {len(failed)} not analysed", *failed, sep="\n")
    if asked.figure:
        draw(some, asked.figure)


if __name__ == "__main__":
    main()
