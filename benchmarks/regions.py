"""What is masked, and under which name, on images whose areas differ (`patchwork`), 520 x 430 px, a = 22.3 px.

- **masked**: share of the area's pixels that is masked under whatever name, farther than half a lattice constant from
  its rim.
- **named right**: share of them that is masked under the true kind.
- **false**: share of the other pixels, as far from the rim, that is masked; for clean images of all pixels.
- **angle**: error of the orientation of the largest region of the true kind, degrees.
- **CPU s**: of `find_regions` alone.

Run: ``python benchmarks/regions.py [--counts 1000 100 10 5] [--only WORD]``
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from honeycombs import BoolArray
from machine import headline, table
from patchwork import A_PX, CLEAN, SIZE_PX, SPOILED, Patches
from scipy.ndimage import distance_transform_edt

HEAD = ("scene", "counts", "masked", "named right", "false", "angle", "said", "CPU s")


class Found(NamedTuple):
    """Shares as in the table's head (nan where there is nothing to share), kinds with areas, CPU seconds."""

    masked: float
    right: float
    false: float
    angle_deg: float
    said: str
    cpu_s: float


def judge(patches: Patches, counts: float, seed: int = 0) -> Found | str:
    """Regions of one image against the truth, or why there are none."""
    from stemfit.columns import find
    from stemfit.errors import StemfitError
    from stemfit.lattice import find_regions, fit_grid

    image = patches.taken(counts, seed)
    try:
        seen = find(image, calibrate=False)
        grid = fit_grid(image, seen)
    except StemfitError as error:
        return str(error)
    start = time.process_time()
    regions, number = find_regions(image, seen, grid)
    cpu = time.process_time() - start
    kinds = np.array(["", *(r.kind for r in regions)])[number]
    true = patches.kind != ""
    inside, outside = deep(true), deep(~true)
    kind = str(patches.kind[true][0]) if true.any() else ""
    said = ", ".join(f"{k} {100 * np.mean(kinds == k):.1f} %" for k in sorted({r.kind for r in regions})) or "-"
    return Found(
        share(kinds[inside] != ""), share(kinds[inside] == kind), share(kinds[outside] != ""),
        turn_error(patches, kind, [(int((number == k).sum()), r.kind, r.orientation_deg)
                                   for k, r in enumerate(regions, start=1)]), said, cpu,
    )  # fmt: skip


def deep(area: BoolArray) -> BoolArray:
    """What lies half a lattice constant inside, the image's edge being no rim."""
    if area.all() or not area.any():
        return area
    return np.asarray(distance_transform_edt(area) > 0.5 * A_PX)


def turn_error(patches: Patches, kind: str, said: Sequence[tuple[int, str, float | None]]) -> float:
    """Error of the largest region of a kind."""
    angles = [angle for _, name, angle in sorted(said, reverse=True) if name == kind and angle is not None]
    if not angles or np.isnan(patches.orientation_deg):
        return float("nan")
    return float((angles[0] - patches.orientation_deg + 30) % 60 - 30)


def share(flags: BoolArray) -> float:
    return float(flags.mean()) if flags.size else float("nan")


def row(name: str, counts: float, make: Callable[[], Patches]) -> tuple[str, ...]:
    found = judge(make(), counts)
    if isinstance(found, str):
        return (name, f"{counts:g}", "-", "-", "-", "-", found, "-")
    cells = ["-" if np.isnan(v) else f"{v:.3f}" for v in (found.masked, found.right)]
    angle = "-" if np.isnan(found.angle_deg) else f"{found.angle_deg:+.2f}"
    return (name, f"{counts:g}", *cells, f"{found.false:.4f}", angle, found.said, f"{found.cpu_s:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=float, default=[1000.0, 100.0, 10.0, 5.0])
    parser.add_argument("--only", default="", help="scenes whose name has this word")
    asked = parser.parse_args()
    rows = []
    for name, make in {**SPOILED, **CLEAN}.items():
        if asked.only in name:
            print(name, file=sys.stderr)
            rows += [row(name, counts, make) for counts in asked.counts]
    print(headline(), f"{SIZE_PX[1]} x {SIZE_PX[0]} px", sep="; ", end="\n\n")
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
