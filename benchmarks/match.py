"""How often a structure of one's own is found where it is, and claimed where it is not, beside plain cross-correlation.

Fields of drawn defects, rendered by multislice with the displacements of SevenNet-0 (`defect_fields.py`), are recorded
at each dose. In each, structures that are there and structures that are not are looked for: as they were built, relaxed
by the network that comes along. Then, without the right one, the next smaller and the next larger of the line or
trefoil that is there. Beside `stemfit match` stands what is usually done: the simulated patch in all equivalent
orientations, drawn with the image's own columns, against the image by normalised cross-correlation, the best place
taken.

``OMP_NUM_THREADS=1 python benchmarks/match.py [--fields 1] [--seed 11] [--views MoS2-60kV-haadf,...] [--keep DIR]``
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from defect_fields import COUNTS, Shot, build, drawn_labels, record
from defect_kinds import built
from defect_library import library, type_of, views
from machine import headline, table
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.feature import match_template

from definet.structure_file import write_structure
from stemfit import pipeline, relax
from stemfit.candidates import crystal_axes
from stemfit.columns.stamps import render
from stemfit.errors import StemfitError
from stemfit.matching.given import Given, read_given
from stemfit.matching.places import patch_cells
from stemfit.matching.ways import centre_of, embedded, places_of, reach_cells, turned, ways_of
from stemfit.result import Findings
from stemfit.simulate.image import project
from stemfit.synthetic import as_micrograph

FloatArray = NDArray[np.float64]

SIZE, OBJECTS = 320, 6
EXTENDED, POINTS = ("LINE", "TREFOIL"), ("SV", "DV", "VM")
SAME = 0.35
"""Two places are the same within so many lattice constants: about half a bond."""


class Asked(NamedTuple):
    """One structure in one image.

    Attributes
    ----------
    label : str
    there : int
        How often it is in the image.
    first : bool
        Whether its most probable place is a true one.
    right, wrong : int
        Claims.
    ncc_first : bool
        Whether the place of the highest cross-correlation is a true one.
    ncc : float
        That correlation.
    near_miss : bool
        Whether it is one that is there with one vacancy, column or metal less or more.
    """

    label: str
    there: int
    first: bool
    right: int
    wrong: int
    ncc_first: bool
    ncc: float
    near_miss: bool


class Run(NamedTuple):
    """One recorded field."""

    view: str
    counts: float
    asked: list[Asked]
    failure: str


def _field(view: str, seed: int) -> tuple[Any, list[str], list[str]]:
    """A field, and the structures to look for: one extended and one point defect of each, there and absent.

    Of the extended one that is there also the next smaller and the next larger of its kind.
    """
    lib, rng = library(view), np.random.default_rng(seed)
    field = build(f"{view}-{seed}", "defects", view, drawn_labels(lib, rng, OBJECTS), seed + 1, SIZE)
    there = {d.label for d in field.defects}
    chosen = []
    for kinds in (EXTENDED, POINTS):
        for present in (True, False):
            some = sorted(k for k in lib.stamps if "@" not in k and k not in ("hole", "island")
                          and type_of(k) in kinds and (k in there) == present)  # fmt: skip
            chosen += [str(rng.choice(some))] if some else []
    near = [n for label in chosen if label in there and type_of(label) in EXTENDED for n in _near_misses(label)]
    return field, chosen, [label for label in near if label not in {*there, *chosen}]


def _near_misses(label: str) -> list[str]:
    """A line with one vacancy less and more (two for whole columns), a trefoil with one metal less and more."""
    kind, number = (label[:4], int(label[4:])) if type_of(label) == "LINE" else ("T", int(label[1:]))
    step = 2 if kind == "CVL-" else 1
    return [f"{kind}{n}" for n in (number - step, number + step) if n > 0]


def run(view: str, counts: float, seed: int) -> Run:
    """Look for structures in one recorded field."""
    field, labels, near = _field(view, seed)
    shot = record(field, counts, seed)
    with tempfile.TemporaryDirectory() as folder:
        both = [[_given(Path(folder), label, field.host) for label in some] for some in (labels, near)]
        micrograph = as_micrograph(shot.recording.image, field.pixel_A)
        network = relax.relaxer("definet")
        try:
            asked = []
            for near_miss, givens in enumerate(both):
                if givens:
                    settings = pipeline.Settings(host=field.host)
                    analysis = pipeline.match(micrograph, settings, givens, network, network)
                    asked += [_asked(g, bool(near_miss), shot, analysis) for g in givens]
        except StemfitError as error:
            return Run(view, counts, [], str(error))
    return Run(view, counts, asked, "")


def _given(folder: Path, label: str, host: str) -> Given:
    path = folder / f"{label}.cif"
    write_structure(path, built(host, label).atoms)
    return read_given(path, host)


def _asked(given: Given, near_miss: bool, shot: Shot, analysis: Findings) -> Asked:
    label = given.path.stem
    true = [d.sites_px for d in shot.defects if d.label == label]
    reach = SAME * analysis.lattice.a_px_iso
    own = [m for m in analysis.matches if m.structure == str(given.path)]
    at = {m.candidate: _places_px(m, given) for m in own}
    hit = {m.candidate: any(_same(at[m.candidate], one, reach) for one in true) for m in own}
    claimed = [m for m in own if m.found]
    first = max(own, key=lambda m: m.probability, default=None)
    right = sum(hit[m.candidate] for m in claimed)
    ncc, place = _correlated(given, analysis)
    return Asked(
        label, len(true), first is not None and hit[first.candidate], right, len(claimed) - right,
        any(_same(place, one, reach) for one in true), ncc, near_miss,
    )


def _places_px(match: Any, given: Given) -> FloatArray:
    """Where the changed places of a file lie in the image."""
    to_cells, shift = given.frame
    r_A = (places_of(given) - shift) @ np.linalg.inv(to_cells)
    matrix, offset = match.image_from_structure
    return np.asarray(r_A @ matrix.T + offset)


def _same(one: FloatArray, other: FloatArray, reach_px: float) -> bool:
    return len(one) == len(other) and bool((np.asarray(cKDTree(one).query(other)[0]) < reach_px).all())


def _correlated(given: Given, analysis: Findings) -> tuple[float, FloatArray]:
    """Highest cross-correlation over all ways and pixels, and the places that it puts the structure to."""
    image, crystal, best = analysis.micrograph.image, given.crystal, (-1.0, np.empty((0, 2)))
    frame = crystal_axes(analysis.lattice) @ np.linalg.inv(crystal.plane_A().T)
    for way in ways_of(crystal):
        lying = turned(given, way)
        half = int((reach_cells(lying) + 2.0) * analysis.lattice.a_px_iso)
        patch = embedded(lying, patch_cells(reach_cells(lying) + 4.0))
        atoms = patch.structure.occupied
        middle = (centre_of(lying) + patch.anchor) @ crystal.plane_A()
        seen = project(patch.structure.numbers[atoms], patch.positions_A[atoms] - [*middle, 0.0], frame, [half, half])
        light = np.array([analysis.imaging.amplitude(t).value for t in seen.types])
        template = render(seen.xy_px, light, analysis.imaging.profile, (2 * half + 1, 2 * half + 1))
        if template.shape[0] > min(image.shape):
            continue
        answer = match_template(image, template)
        y, x = np.unravel_index(int(np.argmax(answer)), answer.shape)
        if answer[y, x] > best[0]:
            places = (places_of(lying) - centre_of(lying)) @ crystal.plane_A() @ frame.T + [x + half, y + half]
            best = (float(answer[y, x]), places)
    return best


# -- what is printed -----------------------------------------------------------------------------------------------


def _report(runs: list[Run]) -> str:
    rows = []
    for counts in COUNTS:
        for name, kinds, near in (("lines, trefoils", EXTENDED, False), ("points", POINTS, False),
                                  ("one more or less", EXTENDED, True)):  # fmt: skip
            every = [a for r in runs if r.counts == counts for a in r.asked if type_of(a.label) in kinds]
            own = [a for a in every if a.near_miss == near]
            there, absent = [a for a in every if a.there], [a for a in own if not a.there]
            hits = sum(a.right > 0 for a in there)
            limit = sorted((a.ncc for a in there if a.ncc_first), reverse=True)
            least = limit[min(hits, len(limit)) - 1] if limit and hits else np.inf
            rows.append([
                f"{counts:g}", name,
                *(["-"] * 3 if near else [
                    _share(sum(a.first for a in there), len(there)),
                    _share(sum(a.ncc_first for a in there), len(there)),
                    _share(sum(a.right for a in there), sum(a.there for a in there)),
                ]),
                str(sum(a.wrong for a in own)), str(len(absent)), str(sum(a.wrong > 0 for a in absent)),
                str(sum(a.ncc >= least for a in absent)),
            ])  # fmt: skip
    head = (
        "counts", "structures", "best place is true", "the same, NCC", "all copies found", "false claims", "absent",
        "absent claimed", "NCC, as many hits",
    )
    failed = [f"{r.view}, {r.counts:g} counts: {r.failure}" for r in runs if r.failure]
    return "\n".join([headline(), "", table(head, rows), *failed])


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole}"


def main() -> None:
    """Run what is not kept yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=1, help="per microscope")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--views", default=",".join(views()))
    parser.add_argument("--keep", type=Path, default=None, help="folder where finished runs are kept")
    asked = parser.parse_args()
    runs = []
    for turn in range(asked.fields):
        for number, view in enumerate(asked.views.split(",")):
            seed = int(np.random.default_rng([asked.seed, turn, number]).integers(2**31))
            for counts in COUNTS:
                path = None if asked.keep is None else asked.keep / f"{view}-{asked.seed}-{turn}-{counts:g}.pickle"
                if path is not None and path.exists():
                    runs.append(pickle.loads(path.read_bytes()))
                    continue
                runs.append(run(view, counts, seed))
                print(runs[-1], flush=True)
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(pickle.dumps(runs[-1]))
    print(_report(runs))


if __name__ == "__main__":
    main()
