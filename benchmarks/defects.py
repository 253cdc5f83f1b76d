"""Which defects are named, where, and how sure: hundreds of each type of known truth, by multislice, at three doses.

The fields: `defect_fields.py`, from kept renderings (`defect_stamps.py`) of structures relaxed by a potential that did
not teach the network (`defect_kinds.py`). What counts as found: `defect_scoring.py`. Host and pixel size are stated.
Analysed are columns, lattice, imaging and defects; with ``--full`` candidates are relaxed and scored as well.

Baselines: the brightness threshold of `scoring.py`, which is given the lattice that the analysis found, and with
``--unet`` a U-Net that was trained on images of Gaussian columns (`defect_unet.py`).

Run: ``OMP_NUM_THREADS=1 python benchmarks/defects.py [--quick] [--rounds 3] [--seed 41] [--full] [--unet]``
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import defect_tables as tables
import numpy as np
import tifffile
from defect_fields import COUNTS, Field, Shot, build, drawn_labels, families, record
from defect_library import library, views
from defect_scoring import EDGE_A, Stated, score
from defect_stages import analyse
from machine import headline, table

LARGE = 1024
"""Side in pixels of the field that is only timed, with 30 defects."""


def fields(seed: int, rounds: int, quick: bool) -> Iterator[Field]:
    """The families, and one large field; `quick` keeps a third of the defects and negatives of two microscopes."""
    kept = set(views()[::2][:2]) if quick else set(views())
    for field in families(seed, 1 if quick else rounds):
        if field.family == "defects" or field.view in kept:
            yield field
    lib = library(views()[0])
    wanted = drawn_labels(lib, np.random.default_rng(seed), 30)
    yield build("large", "large", lib.name, wanted, seed, LARGE)


def write(folder: Path, shots: Iterator[Shot]) -> None:
    """Images as TIFF with their scale, and what is true of them as JSON, to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    for shot in shots:
        stem, per_nm = f"{shot.field.name}-{shot.counts:g}", 10 / shot.field.pixel_A
        how = {"resolution": (per_nm, per_nm), "metadata": {"unit": "nm"}, "imagej": True}
        tifffile.imwrite(folder / f"{stem}.tif", shot.recording.image, **how)
        truth = [
            {"type": d.type, "label": d.label, "center_px": list(d.sites_px.mean(0)), "extent_px": d.sites_px.tolist()}
            for d in (*shot.defects, *shot.areas)
        ]
        facts = {"host": shot.field.host, "pixel_size_A": shot.field.pixel_A, "counts": shot.counts, "defects": truth}
        (folder / f"{stem}.json").write_text(json.dumps(facts, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="fields of defects per microscope")
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--quick", action="store_true", help="one field of defects per microscope, fewer negatives")
    parser.add_argument("--full", action="store_true", help="relax and score candidates too")
    parser.add_argument("--unet", action="store_true", help="compare with a small U-Net per host")
    parser.add_argument("--unet-seconds", type=float, default=75, help="CPU time of its training, once per host")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parents[1] / "data" / "defects")
    parser.add_argument("--failures", type=Path, help="list what went wrong in this file")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write images and truths there, and analyse nothing")
    asked = parser.parse_args()
    if asked.write:
        some = (field for field in fields(asked.seed, asked.rounds, asked.quick) if field.family != "large")
        write(asked.write, (record(field, counts, asked.seed) for field in some for counts in COUNTS))
        return
    net = None
    if asked.unet:
        from defect_unet import trained

        net = trained(asked.cache, asked.unet_seconds)
    done: list[tables.Done] = []
    start = time.process_time()
    for field in fields(asked.seed, asked.rounds, asked.quick):
        for counts in COUNTS[:1] if field.family == "large" else COUNTS:
            shot = record(field, counts, asked.seed)
            answer = analyse(shot, asked.full)
            by_net: list[Stated] | None = None if net is None else net(shot)
            done.append(tables.Done(
                shot, answer, score(shot, answer.claims, answer.suspects), score(shot, answer.by_threshold),
                None if by_net is None else score(shot, by_net),
            ))  # fmt: skip
            print(field.name, f"{counts:g}", answer.failure, file=sys.stderr)
    number = sum(len(one.shot.defects) for one in done) // len(COUNTS)
    print(
        f"{headline()}; seed {asked.seed}, {len(done)} images of {len({one.shot.field.name for one in done})} fields, "
        f"{number} defects, {len(views())} microscopes{', relaxed and scored' if asked.full else ''}; "
        f"a border of {EDGE_A:g} A is counted apart"
    )
    for title, head, rows in tables.all_of(done):
        print(f"\n**{title}**\n", table(head, rows), sep="\n")
    print(f"\n{time.process_time() - start:.0f} s CPU")
    if asked.failures:
        asked.failures.write_text("\n".join(_failures(done)) + "\n")


def _failures(done: list[tables.Done]) -> Iterator[str]:
    """What was not found and what is not there, image by image."""
    for one in done:
        where = f"{one.shot.field.name} {one.dose}"
        if one.answer.failure:
            yield f"{where}: not analysed: {one.answer.failure}"
        for verdict in one.ours.verdicts:
            if verdict.outcome != "right":
                x, y = verdict.truth.sites_px.mean(0)
                near = [c for c in one.answer.claims if np.hypot(*(c.center_px - (x, y))) < 4 / one.shot.field.pixel_A]
                said = ", ".join(f"{c.label} {c.probability:.2f}" for c in near) or "nothing"
                yield f"{where}: ({x:.0f}, {y:.0f}) true {verdict.truth.label}, {verdict.outcome}: {said}"
        for claim in one.ours.false:
            x, y = claim.center_px
            yield f"{where}: ({x:.0f}, {y:.0f}) nothing there, claimed {claim.label} {claim.probability:.3f}"


if __name__ == "__main__":
    main()
