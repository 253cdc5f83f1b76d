"""The sample images against their truth, and beside it what a threshold on the brightness of the sites would say.

A defect is found when a claim of its type and label overlaps it, and has a wrong name when only other claims do. A
claim that overlaps no true defect is false. Two things overlap when one site of each lies within a quarter of the
lattice constant of the other (the nearest neighbour is 0.58 away).

The threshold: mean intensity in a disc of a quarter of the lattice constant about every X site, less the median of the
same about the hollow sites; below 0.75 of the median X site it says SV, below 0.25 DV. It is given the lattice, the
sublattices and the masked area that the analysis found.

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
from typing import Any, NamedTuple

import numpy as np
from machine import Run, alone, headline, table
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

SAMPLES = Path(__file__).parents[1] / "sample_images"
SINGLE, DOUBLE = 0.75, 0.25


class Claim(NamedTuple):
    """A defect, true or said to be: type, label and the sites (K, 2) that it comprises, px."""

    type: str
    label: str
    sites_px: FloatArray


class Said(NamedTuple):
    """What an analysis says of an image."""

    host: str
    host_probability: float
    a_px: float
    pixel_A: float
    pixel_sigma_A: float
    residual_pm: float
    masked: float
    claims: list[Claim]
    suspects: int
    by_threshold: list[Claim]


class Tally(NamedTuple):
    """Claims against truth."""

    found: Counter[str]
    wrong: int
    false: int
    names: Counter[str]
    """Labels of wrong and false claims."""


def analyse(path: Path, host: str, relaxer: str, optics: dict[str, Any], dose: dict[str, float], share: float) -> Said:
    from stemfit import micrograph, pipeline, relax

    image = micrograph.read(path)
    image = image if share == 1 else replace(image, image=thinned(image.image, dose, share))
    settings = pipeline.Settings(host=host, **optics)
    analysis = pipeline.analyze(image, settings, relax.relaxer(relaxer))
    scale, lattice = analysis.calibration, analysis.lattice
    return Said(
        analysis.host.host.name, analysis.host.probability, lattice.a_px_iso,
        scale.pixel_size_A, scale.pixel_size_sigma_A,
        100 * lattice.residual_rms_px * scale.pixel_size_A, float(np.mean(analysis.region_map > 0)),
        [Claim(d.type, d.label, d.extent_px) for d in analysis.defects], len(analysis.suspects), threshold(analysis),
    )  # fmt: skip


def thinned(image: FloatArray, dose: dict[str, float], share: float) -> FloatArray:
    """Image in electrons, of which a share is kept."""
    electrons = np.rint((image - dose["offset"]) / dose["gain"]).clip(0).astype(int)
    return np.random.default_rng(0).binomial(electrons, share).astype(float)


# -- the baseline --------------------------------------------------------------------------------------------------


def threshold(analysis: Any) -> list[Claim]:
    """Single and double vacancies by the brightness of the X sites alone."""
    host, sites, lattice = analysis.host.host, analysis.sites, analysis.lattice
    chosen = sites.analysed & (sites.sublattice == host.sublattices[1])
    metal, chalcogen = lattice.basis
    hollow = lattice.positions(sites.ij[chosen] + (2 * chalcogen - metal) % 1)
    radius = 0.25 * lattice.a_px_iso
    image = analysis.micrograph.image
    level = disc_means(image, sites.xy_px[chosen], radius) - np.nanmedian(disc_means(image, hollow, radius))
    relative = level / np.nanmedian(level)
    single, double = f"V_{host.columns[1].rstrip('2')}", f"V_{host.columns[1]}"
    return [
        Claim("DV", double, xy[None]) if share < DOUBLE else Claim("SV", single, xy[None])
        for xy, share in zip(sites.xy_px[chosen], relative, strict=True)
        if share < SINGLE
    ]


def disc_means(image: FloatArray, xy: FloatArray, radius: float) -> FloatArray:
    """Mean over the pixels within `radius` of each position, NaN where none is in the image."""
    reach = np.arange(-int(radius) - 1, int(radius) + 2)
    offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    at = np.rint(xy).astype(int)[:, None] + offsets
    near = np.hypot(*np.moveaxis(at - xy[:, None], -1, 0)) <= radius
    near &= np.all((at >= 0) & (at < image.shape[::-1]), axis=-1)
    values = image[at[..., 1].clip(0, image.shape[0] - 1), at[..., 0].clip(0, image.shape[1] - 1)]
    counts = near.sum(axis=1)
    sums = (values * near).sum(axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full(len(xy), np.nan), where=counts > 0))


# -- against the truth ---------------------------------------------------------------------------------------------


def truth_of(sample: dict[str, Any]) -> list[Claim]:
    return [Claim(d["type"], d["label"], np.array(d["extent_px"])) for d in sample["defects"]]


def compare(claims: Sequence[Claim], truth: Sequence[Claim], reach_px: float) -> Tally:
    """Count what was found under its name, what under another, and what is not there."""
    found: Counter[str] = Counter()
    names: Counter[str] = Counter()
    wrong = 0
    for defect in truth:
        near = [claim for claim in claims if overlap(claim, defect, reach_px)]
        right = any((claim.type, claim.label) == (defect.type, defect.label) for claim in near)
        found[defect.type] += right
        wrong += bool(near) and not right
        names.update(claim.label for claim in near if claim.label != defect.label)
    false = [claim for claim in claims if not any(overlap(claim, defect, reach_px) for defect in truth)]
    names.update(claim.label for claim in false)
    return Tally(found, wrong, len(false), names)


def overlap(one: Claim, other: Claim, reach_px: float) -> bool:
    gaps = np.hypot(*np.moveaxis(one.sites_px[:, None] - other.sites_px, -1, 0))
    return bool(gaps.min() < reach_px)


# -- the tables ----------------------------------------------------------------------------------------------------

HEAD = (
    "sample", "host", "found/true", "wrong name", "false", "their names", "suspects",
    "threshold: found/true", "wrong name", "false",
    "pixel error % (in sigma)", "residual pm", "masked %", "CPU s", "wall s", "MB",
)  # fmt: skip


def row(name: str, sample: dict[str, Any], asked: str, run: Run[Said]) -> tuple[tuple[str, ...], Tally, Tally]:
    said, truth = run.outcome, truth_of(sample)
    ours, naive = (compare(claims, truth, 0.25 * said.a_px) for claims in (said.claims, said.by_threshold))
    error = said.pixel_A - sample["lattice_pixel_size_A"]
    error_text = f"{100 * error / said.pixel_A:+.3f} ({error / said.pixel_sigma_A:+.2f})"
    cells = (
        name, asked if asked != "auto" else f"auto: {said.host} {said.host_probability:.2f}",
        counts(ours, truth), str(ours.wrong), str(ours.false), named(ours.names), str(said.suspects),
        counts(naive, truth), str(naive.wrong), str(naive.false), error_text,
        f"{said.residual_pm:.1f}", f"{100 * said.masked:.1f}",
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
