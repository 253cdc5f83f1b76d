"""Column finders on images with known truth: what they find, how precisely, at what cost.

MX2 honeycombs at 0.12 A/px with 20 halved and 20 removed X2 columns each, metal columns of 100, 20 and 5 counts in the
peak pixel, three column profiles (`honeycombs`). Judged are the columns one lattice constant or more from the edge.

- **ours** is what an analysis reports, **first fit** the part of it that knows nothing of a lattice.
- **halves**: share of the halved X2 columns that is found. **in vacancies**: columns found on removed sites.
- **pm**, **%**: rms error per axis of the positions, rms error of the intensities after one common factor for all
  columns, of whole columns; in brackets the same in units of the Cramer-Rao bound (`cramer_rao`).
- **factor**: the common factor less 1.

Run: ``python benchmarks/columns.py [--quick] [--tools ours atomap blob_log atomai] [--seeds 2]``
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import ours
import peers
from column_scores import Score, judge, percent, picometres, pulls, ratio
from cramer_rao import Bound, bound
from honeycombs import LATTICE_A, PIXEL_A, PROFILES, SIGMA_A, BoolArray, FloatArray, Recipe, Scene, make
from machine import headline, process, table
from peers import Found, Hints

SIZE_PX = (440, 600)
HINTS = Hints(SIGMA_A / PIXEL_A, LATTICE_A / PIXEL_A / np.sqrt(3))
MARGIN_PX = LATTICE_A / PIXEL_A


def find_ours(image: FloatArray, hints: Hints) -> Found:
    """Told nothing."""
    return ours.columns(image)


def find_first(image: FloatArray, hints: Hints) -> Found:
    """Told nothing, and not looking for a lattice."""
    return ours.first_columns(image)


class Tool(NamedTuple):
    """How a tool is called, what it imports, and what it does once before it is timed."""

    find: Callable[[FloatArray, Hints], Found]
    modules: tuple[str, ...] = ()
    prepare: Callable[[], object] | None = None


TOOLS = {
    "ours": Tool(find_ours, ours.MODULES),
    "first fit": Tool(find_first, ours.MODULES),
    "atomap": Tool(peers.atomap, ("scipy.ndimage", "skimage.feature"), peers.import_atomap),
    "blob_log": Tool(peers.blobs, ("scipy.optimize", "skimage.feature")),
    "atomai": Tool(peers.atomai, (), peers.train_atomai),
}


class Case(NamedTuple):
    """One image with its truth; `judged` are the whole columns whose errors count."""

    scene: Scene
    judged: BoolArray
    bound: Bound


def cases(counts: Sequence[float], profiles: Sequence[str], seeds: int) -> dict[tuple[str, float], list[Case]]:
    """All images, by profile and dose."""
    made = {}
    for profile, dose in product(profiles, counts):
        print(f"images and bounds: {profile}, {dose:g} counts", file=sys.stderr)
        made[profile, dose] = [case(profile, dose, seed) for seed in range(seeds)]
    return made


def case(profile: str, counts: float, seed: int) -> Case:
    rng = np.random.default_rng([seed, 1])
    scene = make(Recipe(
        SIZE_PX, counts, profile, ratio=rng.uniform(0.32, 0.48), rotation_deg=rng.uniform(0, 60),
        background=rng.uniform(0.08, 0.2), halved=20, removed=20, seed=seed,
    ))  # fmt: skip
    judged = scene.inside(MARGIN_PX) & (scene.share == 1)
    return Case(scene, judged, bound(scene, judged))


# -- running the tools ---------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How a tool did on the images of one profile and dose; `failure` says why it did not."""

    scores: list[Score]
    cpu_s: float
    failure: str = ""


def outcomes(name: str, images: dict[tuple[str, float], list[Case]]) -> tuple[dict[tuple[str, float], Outcome], str]:
    """Run a tool on all images in one process, and say in one line what the process took."""
    tool, results = TOOLS[name], {}
    try:
        with process(tool.modules) as run:
            readied = run(tool.prepare or time.time)
            for key, group in images.items():
                print(f"{name}: {key[0]}, {key[1]:g} counts", file=sys.stderr)
                runs = [run(attempt, name, one.scene.image) for one in group]
                failed = [each.outcome for each in runs if isinstance(each.outcome, str)]
                scores = [
                    judge(one.scene, one.judged, one.bound, each.outcome, MARGIN_PX)
                    for one, each in zip(group, runs, strict=True) if not isinstance(each.outcome, str)
                ]  # fmt: skip
                results[key] = Outcome(scores, float(np.mean([r.cpu_s for r in runs])), failed[0] if failed else "")
            peak = run(time.time).peak_MB
    except ImportError as error:
        return {}, f"{name}: not run, {error}"
    before = f", {readied.peak_MB:.0f} MB after {readied.cpu_s:.0f} s CPU to prepare" if tool.prepare else ""
    failed = [f"\n{name}, {key[0]}, {key[1]:g} counts: {o.failure}" for key, o in results.items() if o.failure]
    return results, f"{name}: peak memory {peak:.0f} MB, libraries included{before}" + "".join(failed)


def attempt(name: str, image: FloatArray) -> Found | str:
    """What the tool finds, or what went wrong."""
    try:
        return TOOLS[name].find(image, HINTS)
    except ImportError:
        raise
    except Exception as error:  # said in the table; the other images still have their turn
        return f"{type(error).__name__}: {error}"


HEAD = (
    "profile", "counts", "tool", "CPU s", "precision", "recall", "halves", "in vacancies", "M pm", "X2 pm", "M %",
    "X2 %", "factor %",
)  # fmt: skip


def row(name: str, key: tuple[str, float], outcome: Outcome) -> tuple[str, ...]:
    start = key[0], f"{key[1]:g}", name
    if outcome.failure or not outcome.scores:
        return (*start, "failed" if outcome.failure else "-", *["-"] * (len(HEAD) - 4))
    found = outcome.scores
    share = [ratio(found, *names) for names in (("right", "said"), ("seen", "true"), ("halves_seen", "halves"))]
    invented = f"{sum(s.invented for s in found)}/{sum(s.removed for s in found)}"
    return (
        *start, f"{outcome.cpu_s:.2f}", *share, invented,
        picometres(found, True), picometres(found, False), percent(found, True), percent(found, False),
        ", ".join(f"{100 * (s.factor - 1):+.1f}" for s in found) if found[0].intensity_error is not None else "-",
    )  # fmt: skip


def bound_row(key: tuple[str, float], group: list[Case]) -> tuple[str, ...]:
    cells = []
    for metal in (True, False):
        rows = [one.scene.metal[one.judged] == metal for one in group]
        values = np.concatenate([one.bound.position[use].ravel() for one, use in zip(group, rows, strict=True)])
        cells.append(f"{100 * PIXEL_A * np.sqrt(np.mean(values**2)):.2f}")
    for metal in (True, False):
        relative = []
        for one in group:
            intensity, use = one.scene.intensity[one.judged], one.scene.metal[one.judged] == metal
            relative.append((one.bound.relative_intensity(intensity) / intensity)[use])
        cells.append(f"{100 * np.sqrt(np.mean(np.concatenate(relative) ** 2)):.2f}")
    return (key[0], f"{key[1]:g}", "(bound)", *["-"] * 5, *cells, "-")


PULL_HEAD = ("profile", "counts", "position M", "position X2", "intensity M", "intensity X2")


def pull_row(key: tuple[str, float], scores: list[Score]) -> tuple[str, ...]:
    return (key[0], f"{key[1]:g}", *(f"{value:.2f}" for value in pulls(scores)))


# -- cost ----------------------------------------------------------------------------------------------------------


def sized(side: int) -> Scene:
    """A square of Gaussian columns at 100 counts, defects at the same density as in the other images."""
    defects = round(20 * side**2 / (SIZE_PX[0] * SIZE_PX[1]))
    return make(Recipe((side, side), 100, ratio=0.45, halved=defects, removed=defects, displaced_A=0.03, seed=5))


STAGES, SIDES = ("find", "lattice", "imaging"), (512, 1024, 2048, 4096)


def cost_of_ours(side: int) -> tuple[tuple[str, ...], float]:
    """Row of the cost table and the CPU seconds of all stages."""
    print(f"cost: ours, {side} px", file=sys.stderr)
    with process(ours.MODULES) as run:
        try:
            used = run(ours.stages, sized(side).image)
        except Exception as error:  # said in the table
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return (f"{side}", "ours", "failed", *["-"] * 6), float("nan")
    seconds, found, _ = used.outcome
    total = sum(seconds.values())
    each = tuple(f"{seconds[stage]:.2f}" for stage in STAGES)
    return (
        f"{side}", "ours", f"{found}", *each, f"{total:.1f}", f"{1000 * total / found:.2f}", f"{used.peak_MB:.0f}"
    ), total  # fmt: skip


def cost_of_atomap(side: int) -> tuple[str, ...]:
    print(f"cost: atomap, {side} px", file=sys.stderr)
    try:
        with process(TOOLS["atomap"].modules) as run:
            run(peers.import_atomap)
            used = run(peers.atomap, sized(side).image, HINTS)
    except ImportError as error:
        print(f"atomap: {error}", file=sys.stderr)
        return (f"{side}", "atomap", "not run", *["-"] * 6)
    found = len(used.outcome.xy)
    return (
        f"{side}", "atomap", f"{found}", f"{used.cpu_s:.1f}", "-", "-", f"{used.cpu_s:.1f}",
        f"{1000 * used.cpu_s / found:.2f}", f"{used.peak_MB:.0f}",
    )  # fmt: skip


COST_HEAD = ("side px", "tool", "columns", *(f"{stage} CPU s" for stage in STAGES), "all", "ms/column", "MB")


def costs(sides: Sequence[int], beside: int | None) -> str:
    """Table of ours at every side and of atomap at one of them."""
    rows, totals = [], []
    for side in sides:
        cells, total = cost_of_ours(side)
        rows.append(cells)
        totals.append(total)
        if side == beside:
            rows.append(cost_of_atomap(side))
    text = table(COST_HEAD, rows)
    if len(sides) > 1:
        growth = np.log(totals[-1] / totals[0]) / np.log((sides[-1] / sides[0]) ** 2)
        text += f"\n\nours, {sides[0]} to {sides[-1]} px a side: CPU time grows as pixels^{growth:.2f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, two profiles, 100 and 5 counts, up to 1024 px")
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=["ours", "first fit", "atomap", "blob_log"])
    parser.add_argument("--seeds", type=int, help="images of each kind; 2, or 1 with --quick")
    parser.add_argument("--largest", type=int, default=2048, choices=SIDES, help="px a side, for cost")
    asked = parser.parse_args()
    profiles = list(PROFILES)[:2] if asked.quick else list(PROFILES)
    images = cases((100, 5) if asked.quick else (100, 20, 5), profiles, asked.seeds or (1 if asked.quick else 2))
    results, remarks = {}, []
    for name in asked.tools:
        results[name], remark = outcomes(name, images)
        remarks.append(remark)
    print(headline(), f"{SIZE_PX[1]} x {SIZE_PX[0]} px, CPU s per image", sep="; ", end="\n\n")
    rows = []
    for key, group in images.items():
        rows.append(bound_row(key, group))
        rows += [row(name, key, results[name].get(key, Outcome([], 0.0))) for name in asked.tools]
    print(table(HEAD, rows), *remarks, sep="\n\n", end="\n\n")
    if results.get("ours"):
        print("Errors of ours in units of the standard errors that it states:\n")
        print(table(PULL_HEAD, [pull_row(key, o.scores) for key, o in results["ours"].items() if o.scores]), end="\n\n")
    if "ours" in asked.tools:
        sides = [side for side in SIDES if side <= (1024 if asked.quick else asked.largest)]
        print(costs(sides, 1024 if "atomap" in asked.tools and not asked.quick else None))


if __name__ == "__main__":
    main()
