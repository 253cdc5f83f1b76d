"""How often claims are right on images that the analysis was not developed on, and how sure it said it was.

The fields are drawn by a seed and simulated now (`unseen_fields.py`, `assemble.py`): four dichalcogenides with random
single and double vacancies, a pristine one, and pristine graphene or hBN, each recorded at three doses. A third of the
files states no pixel size, a third a wrong one. Each image is analysed with the host stated, which is scored, and again
without, for the inferred host. What counts as found and what the threshold is: `scoring.py`.

Defects less than a lattice constant from the edge of the image need not be found, and claims there do not count. False
claims are counted per thousand atomic columns of the rest, both sublattices.

Needs the development extras (abTEM, CHGNet). Relaxations and multislice runs are kept in the cache folder.

Run: ``OMP_NUM_THREADS=1 python benchmarks/unseen.py [--fields 6] [--seed 20261122] [--relaxer keep] [--failures FILE]``
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
import unseen_tables as tables
from machine import headline, table
from scoring import Claim, FloatArray, Said, Tally, compare, overlap, said, truth_of
from unseen_fields import Image, images
from unseen_tables import Both, Scored, reach_px

from stemfit.errors import StemfitError

EDGE = 1.0
"""Width of the border that is not scored, in lattice constants."""


def analyse(path: Path, host: str, relaxer: str) -> Said | str:
    """What is said, or why nothing can be."""
    from stemfit import micrograph, pipeline, relax

    try:
        return said(pipeline.analyze(micrograph.read(path), pipeline.Settings(host=host), relax.relaxer(relaxer)))
    except StemfitError as error:
        return str(error)
    except Exception as error:  # a fault of ours: counted as nothing found, and the other images still have their turn
        return f"FAULT {type(error).__name__}: {error}"


def both(image: Image, relaxer: str) -> Both:
    """Analyse one image twice."""
    start = time.process_time()
    given, auto = (analyse(image.path, host, relaxer) for host in (image.truth["host"], "auto"))
    return Both(score(image, given), score(image, auto), time.process_time() - start)


def score(image: Image, answer: Said | str) -> Scored:
    """Compare what was said with the truth, away from the edge."""
    inner, all_true = _inner(image), truth_of(image.truth)
    truth = [defect for defect in all_true if inner(defect.sites_px)]
    at_edge = [defect for defect in all_true if not inner(defect.sites_px)]
    columns = sum(inner(np.array([row[:2]])) for row in image.truth["columns"])
    columns += sum(defect.type == "DV" for defect in truth)  # an empty site is a site
    if isinstance(answer, str):
        nothing = compare([], truth, 0)
        return Scored(image, answer, columns, truth, [], [], [], nothing, nothing)
    reach = reach_px(image)

    def counted(claim: Claim) -> bool:
        about, about_edge = (any(overlap(claim, defect, reach) for defect in some) for some in (truth, at_edge))
        return about or (inner(claim.sites_px) and not about_edge)

    said_here = answer.claims, answer.suspects, answer.by_threshold
    claims, suspects, naive = ([claim for claim in some if counted(claim)] for some in said_here)
    tallies: list[Tally] = [compare(some, truth, reach) for some in (claims, naive)]
    return Scored(image, answer, columns, truth, claims, suspects, naive, *tallies)


def _inner(image: Image) -> Callable[[FloatArray], bool]:
    """Whether the mean of some positions lies in the scored part."""
    height, width = tifffile.imread(image.path).shape
    border = EDGE * float(np.hypot(*image.truth["a_px"]))
    upper = np.array([width, height]) - 1 - border
    return lambda sites_px: bool(np.all((sites_px.mean(0) >= border) & (sites_px.mean(0) <= upper)))


# -- what went wrong -----------------------------------------------------------------------------------------------


def failures(one: Scored) -> Iterator[str]:
    """One line for each defect missed or misnamed and each claim of nothing."""
    if isinstance(one.said, str):
        yield f"not analysed: {one.said}"
        return
    reach = reach_px(one.image)
    for defect in one.truth:
        near = [claim for claim in one.claims if overlap(claim, defect, reach)]
        if not any(claim.label == defect.label for claim in near):
            doubted = [claim for claim in one.suspects if overlap(claim, defect, reach)]
            claimed = ", ".join(map(_stated, near)) or "nothing"
            claimed += f" (suspected {', '.join(map(_stated, doubted))})" if doubted else ""
            unseen = np.hypot(*(one.said.analysed - defect.sites_px.mean(0)).T).min() > reach
            yield f"{_place(defect)} true {defect.label}, claimed {claimed}{' (site not analysed)' if unseen else ''}"
    for claim in one.claims:
        if not any(overlap(claim, defect, reach) for defect in one.truth):
            yield f"{_place(claim)} true pristine, claimed {_stated(claim)}"


def _stated(claim: Claim) -> str:
    return f"{claim.label} P = {claim.probability:.4g}"


def _place(claim: Claim) -> str:
    x, y = claim.sites_px.mean(0)
    return f"({x:.0f}, {y:.0f})"


def report(pairs: list[Both], path: Path) -> None:
    """Write all failures, image by image."""
    lines = []
    for pair in pairs:
        for asked, one in (("host stated", pair.given), ("host inferred", pair.auto)):
            wrong = list(failures(one))
            right = not isinstance(one.said, str) and one.said.host == one.host
            if not isinstance(one.said, str) and not right:
                wrong.insert(0, f"taken for {one.said.host} with P = {one.said.host_probability:.3f}")
            if wrong and (asked == "host stated" or not right):
                where = f"{one.image.path.stem}, {asked}; {tables.conditions(one.image)}"
                lines += [f"## {where}", "", *(f"- {line}" for line in wrong), ""]
    path.write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=6, metavar="N", help="each recorded at three doses")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--relaxer", default="definet", choices=["definet", "keep"])
    parser.add_argument("--cache", type=Path, default=Path(__file__).parents[1] / "data" / "unseen")
    parser.add_argument("--failures", type=Path, help="list what went wrong in this file")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    pairs: list[Both] = []
    with tempfile.TemporaryDirectory() as folder:
        for image in images(asked.seed, asked.fields, asked.cache, Path(folder)):
            print(image.path.stem, file=sys.stderr)
            pairs.append(both(image, asked.relaxer))
    print(f"{headline()}; {asked.fields} fields of seed {asked.seed}, relaxer {asked.relaxer}, optics not stated")
    for title, head, rows in tables.all_of(pairs):
        print(f"\n{title}\n", table(head, rows), sep="\n")
    analysing = sum(pair.cpu_s for pair in pairs)
    imaging = time.process_time() - analysing
    print(f"\n{imaging:.0f} s CPU for the images, {analysing:.0f} s for {2 * len(pairs)} analyses")
    if asked.failures:
        report(pairs, asked.failures)


if __name__ == "__main__":
    main()
