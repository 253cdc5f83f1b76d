"""Whether densities of defects are right: over the sites that are judged, and over all pixels that are not masked.

Fields of MoS2 with single vacancies at a known density, everywhere: each is cut from the middle of a larger one, so
that vacancies lie at its edges and beyond as they do in a specimen. Fields of every size are analysed as by
`stemfit analyze` (unrelaxed), and their claims counted together.

Run: ``OMP_NUM_THREADS=1 nice python benchmarks/densities.py [--fields 24 16 8]`` (about 10 minutes on one core)
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from machine import headline, table

from stemfit import pipeline, relax, synthetic
from stemfit.batch.statistics import density
from stemfit.result.document import document
from stemfit.result.field import frame

SIZES = (192, 256, 384)
PIXEL_A, A_A = 0.2, 3.16
PER_NM2 = 0.6
"""As many single vacancies as an electron beam leaves; separated ones, so that each is counted once."""
MARGIN_A = 2.5 * A_A
"""Cut off: `synthetic.crystal` leaves 2 lattice constants at the edge without defects."""


class Field(NamedTuple):
    """One field: claims, true density per nm^2, and nm^2 as pixels and as sites have it."""

    claims: int
    true: float
    pixels_nm2: float
    judged_nm2: float


def field(side: int, seed: int) -> Field:
    """Draw, record, cut, analyse."""
    cut = round(MARGIN_A / PIXEL_A)
    whole = side + 2 * cut
    free_nm2 = ((whole - 4 * A_A / PIXEL_A) * PIXEL_A / 10) ** 2
    count = round(PER_NM2 * free_nm2)
    rng = np.random.default_rng(seed)
    crystal = synthetic.crystal(
        (whole, whole), pixel_size_A=PIXEL_A, a_A=A_A, rotation_deg=float(rng.uniform(0, 60)), halved=count, seed=seed
    )
    recorded, _ = synthetic.record(crystal, synthetic.Acquisition(counts=400), seed)
    inner = np.ascontiguousarray(recorded.image[cut : cut + side, cut : cut + side])
    settings = pipeline.Settings(host="MoS2", device="cpu")
    found = pipeline.analyze(synthetic.as_micrograph(inner, PIXEL_A), settings, relax.keep)
    told = document(found, frame(found))
    pixels_nm2 = (1 - told["lattice"]["masked_fraction"]) * side**2 * (told["calibration"]["pixel_size_A"] / 10) ** 2
    return Field(len(told["defects"]), count / free_nm2, pixels_nm2, told["judged"]["area_nm2"])


def row(name: str, fields: list[Field]) -> tuple[str, ...]:
    """Both densities of some fields with their intervals."""
    claims, true = sum(one.claims for one in fields), float(np.mean([one.true for one in fields]))
    cells = [name, str(len(fields)), str(claims), f"{true:.3f}"]
    for area in (sum(one.judged_nm2 for one in fields), sum(one.pixels_nm2 for one in fields)):
        value, low, high = density(claims, area)
        assert value is not None and low is not None and high is not None
        holds = "yes" if low <= true <= high else "no"
        cells += [f"{value:.3f} ({low:.3f} to {high:.3f})", f"{100 * (value / true - 1):+.1f} %", holds]
    return tuple(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, nargs=len(SIZES), default=(24, 16, 8))
    asked = parser.parse_args()
    print(headline(), flush=True)
    numbers = zip(SIZES, asked.fields, strict=True)
    drawn = {side: [field(side, 1000 * side + k) for k in range(n)] for side, n in numbers}
    rows = [row(f"{side} px, {side * PIXEL_A / 10:.1f} nm", fields) for side, fields in drawn.items() if fields]
    rows.append(row("all", [one for fields in drawn.values() for one in fields]))
    both = ("over judged sites", "off", "holds", "over pixels", "off", "holds")
    head = ("field", "fields", "claims", "true per nm²", *both)
    print(table(head, rows))


if __name__ == "__main__":
    main()
