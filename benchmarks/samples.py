"""The sample images against their truth, and beside it what a threshold on the brightness of the sites would say.

What counts as found and what the threshold is: `scoring.py`.

With ``--electrons 0.1`` every electron of an image is kept with that probability: the image of a tenth of the dose,
exact but for the read noise, which is a third of an electron.

Run: ``python benchmarks/samples.py [NAME ...] [--electrons SHARE] [--relaxer keep] [--optics]``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import Run, alone, headline, table
from scoring import REACH, Claim, FloatArray, Said, Tally, compare, said, truth_of

SAMPLES = Path(__file__).parents[1] / "sample_images"


def analyse(path: Path, host: str, relaxer: str, optics: dict[str, Any], dose: dict[str, float], share: float) -> Said:
    from stemfit import micrograph, pipeline, relax

    image = micrograph.read(path)
    image = image if share == 1 else replace(image, image=thinned(image.image, dose, share))
    settings = pipeline.Settings(host=host, **optics)
    return said(pipeline.analyze(image, settings, relax.relaxer(relaxer)))


def thinned(image: FloatArray, dose: dict[str, float], share: float) -> FloatArray:
    """Image in electrons, of which a share is kept."""
    electrons = np.rint((image - dose["offset"]) / dose["gain"]).clip(0).astype(int)
    return np.random.default_rng(0).binomial(electrons, share).astype(float)


# -- the tables ----------------------------------------------------------------------------------------------------

HEAD = (
    "sample", "host", "found/true", "wrong name", "false", "their names", "suspects",
    "threshold: found/true", "wrong name", "false",
    "pixel error % (in sigma)", "residual pm", "masked %", "CPU s", "wall s", "MB",
)  # fmt: skip


def row(name: str, sample: dict[str, Any], asked: str, run: Run[Said]) -> tuple[tuple[str, ...], Tally, Tally]:
    analysed, truth = run.outcome, truth_of(sample)
    ours, naive = (compare(claims, truth, REACH * analysed.a_px) for claims in (analysed.claims, analysed.by_threshold))
    error = analysed.pixel_A - sample["lattice_pixel_size_A"]
    error_text = f"{100 * error / analysed.pixel_A:+.3f} ({error / analysed.pixel_sigma_A:+.2f})"
    cells = (
        name, asked if asked != "auto" else f"auto: {analysed.host} {analysed.host_probability:.2f}",
        counts(ours, truth), str(ours.wrong), str(ours.false), named(ours.names), str(len(analysed.suspects)),
        counts(naive, truth), str(naive.wrong), str(naive.false), error_text,
        f"{analysed.residual_pm:.1f}", f"{100 * analysed.masked:.1f}",
        f"{run.cpu_s:.1f}", f"{run.wall_s:.1f}", f"{run.peak_MB:.0f}",
    )  # fmt: skip
    return cells, ours, naive


def counts(tally: Tally, truth: Sequence[Claim]) -> str:
    """Found of true, type by type."""
    true = Counter(defect.type for defect in truth)
    return ", ".join(f"{kind} {tally.found[kind]}/{n}" for kind, n in sorted(true.items())) or "none there"


def named(labels: Counter[str]) -> str:
    return ", ".join(f"{n} {label}" for label, n in labels.most_common()) or "-"


def optics_of(sample: dict[str, Any], wanted: bool) -> dict[str, Any]:
    """Voltage and detector as a user would state them."""
    stated = sample["optics"]
    return {"voltage_kV": stated["voltage_kV"], "detector_mrad": tuple(stated["detector_mrad"])} if wanted else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="samples; all when none is named")
    parser.add_argument("--relaxer", default="definet", choices=["definet", "keep"])
    parser.add_argument("--electrons", type=float, default=1.0, metavar="SHARE", help="share of the dose that is kept")
    parser.add_argument("--optics", action="store_true", help="state voltage and detector")
    asked = parser.parse_args()
    paths = sorted(p for p in SAMPLES.glob("*.json") if p.stem in asked.names or not asked.names)
    rows, totals = [], {"claims": [0, 0, 0], "threshold": [0, 0, 0]}
    true = 0
    for path in paths:
        sample = json.loads(path.read_text())
        for host in (sample["host"], "auto"):
            print(f"{path.stem} {host}", file=sys.stderr)
            optics = optics_of(sample, asked.optics)
            image = path.with_suffix(".tif")
            run = alone(analyse, image, host, asked.relaxer, optics, sample["dose"], asked.electrons)
            cells, *tallies = row(path.stem, sample, host, run)
            rows.append(cells)
            if host != "auto":
                true += len(sample["defects"])
                for name, tally in zip(totals, tallies, strict=True):
                    totals[name] = [a + b for a, b in zip(totals[name], count(tally), strict=True)]
    how = f"relaxer {asked.relaxer}, {asked.electrons:g} of the dose, optics {'' if asked.optics else 'not '}stated"
    print(headline(), how, sep="; ")
    print("", table(HEAD, rows), "", sep="\n")
    for name, (found, wrong, false) in totals.items():
        print(f"host given, {name}: {found} of {true} found, {wrong} under a wrong name, {false} false")


def count(tally: Tally) -> tuple[int, int, int]:
    return tally.found.total(), tally.wrong, tally.false


if __name__ == "__main__":
    main()
