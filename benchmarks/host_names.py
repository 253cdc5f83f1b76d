"""Whether names are frequencies where the host is inferred: crystals and microscopes drawn as the inference believes.

Host, voltage, detector and the errors of the scattering table are drawn from what `lattice/identify` holds possible.
Gaussian columns are drawn with them, with vacancies of both sublattices; no scale is stated. The names are judged as
they are given the most probable host, and with their share under the others; so are the types, which hold whatever the
host is.

Run: ``OMP_NUM_THREADS=1 python benchmarks/host_names.py [--images 80] [--seed 11]`` (about 5 minutes of CPU time)
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import numpy as np
from machine import headline, table

from stemfit.columns import find
from stemfit.defects import (
    Defect,
    Evidence,
    find_defects,
    occupancies,
    offsets,
    otherwise,
    with_kinds,
    with_naming_doubt,
)
from stemfit.hosts import projected
from stemfit.imaging import fit_imaging
from stemfit.lattice import identify, name_lattice, name_sites, survey
from stemfit.lattice.identify import MODEL_ERROR
from stemfit.optics.scattering import PLAUSIBLE_DETECTORS_MRAD, PLAUSIBLE_VOLTAGES_KV, ratio
from stemfit.synthetic import Acquisition, Crystal, TrueDefect, crystal, record

HOSTS = ("MoS2", "WS2", "MoSe2", "WSe2", "MoTe2")
BINS = (0.0, 0.5, 0.8, 0.95, 0.99, 1.0)
NEAR = 0.3
"""Lattice constants within which a claim is about a defect."""

Told = tuple[float, bool]


def drawn(rng: np.random.Generator) -> tuple[np.ndarray, Crystal, str]:
    """An image, its truth and its host."""
    host = projected(str(rng.choice(HOSTS)))
    voltage = float(rng.choice(PLAUSIBLE_VOLTAGES_KV))
    detector = PLAUSIBLE_DETECTORS_MRAD[rng.integers(len(PLAUSIBLE_DETECTORS_MRAD))]
    pair, error = ratio(host.columns[1], host.columns[0], voltage, detector)
    one = ratio(host.columns[1].rstrip("2"), host.columns[1], voltage, detector)[0]
    sample = crystal(
        (380, 400), pixel_size_A=0.16, a_A=host.a_A, species=(host.columns[0], host.columns[1]),
        brightness=(1.0, float(pair * np.exp(rng.normal(0, np.hypot(error, MODEL_ERROR))))), half_share=float(one),
        rotation_deg=float(rng.uniform(0, 60)), polarity=int(rng.choice([-1, 1])), halved=4, removed=3,
        removed_metals=3, seed=int(rng.integers(2**31)),
    )  # fmt: skip
    how = Acquisition(counts=float(rng.choice([20, 100])), background=0.05)
    recording, truth = record(sample, how, int(rng.integers(2**31)))
    return np.asarray(recording.image, dtype=float), truth, host.name


def told(image: np.ndarray, truth: Crystal, host: str) -> tuple[Told, list[list[Told]]]:
    """The host; names and types given it and with their share: stated probability, and whether it is so."""
    image, _, seen, grid, honey, brightness, regions, region_map = survey(image, find(image))
    said = identify(honey, brightness, grid.a_px_iso)
    sites = name_sites(honey, said.host, said.metal_third)
    imaging = fit_imaging(seen, sites, brightness, said.host, None, None)
    posteriors = occupancies(sites, brightness, imaging, said.host, offsets(seen, sites))
    lattice = name_lattice(grid, said.metal_third)
    evidence = Evidence(seen, sites, posteriors, lattice, said.host, region_map, imaging, image, regions)
    found = find_defects(evidence)[0]
    names = with_naming_doubt(found, found, said, otherwise(said, seen, sites, brightness, None, None), evidence)

    def near(defect: Defect) -> list[TrueDefect]:
        return [t for t in truth.defects if np.hypot(*(t.center_px - defect.center_px)) < NEAR * grid.a_px_iso]

    found, names = ([with_kinds(d, posteriors) for d in some if d.type != "UNKNOWN"] for some in (found, names))
    each: list[list[Told]] = []
    for some in (found, names):
        each.append([(d.probability, any(t.label == d.label for t in near(d))) for d in some])
        each.append([(d.type_probability, any(t.type == d.type for t in near(d))) for d in some])
    return (said.probability, said.host.name == host), each


def row(title: str, pairs: list[Told]) -> tuple[str, ...]:
    """Number, mean stated, share that is so, expected calibration error, and how many of the sure ones are right."""
    p, is_so = np.array(pairs, dtype=float).T
    bins = np.digitize(p, BINS[1:-1])
    error = sum(abs(float((p - is_so)[bins == k].sum())) for k, _ in enumerate(pairwise(BINS))) / len(p)
    sure = p > 0.95
    return (
        title, str(len(p)), f"{p.mean():.3f}", f"{is_so.mean():.3f}", f"{error:.3f}",
        f"{int(is_so[sure].sum())}/{int(sure.sum())}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--seed", type=int, default=11)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    hosts: list[Told] = []
    every: list[list[Told]] = [[], [], [], []]
    for _ in range(asked.images):
        host, each = told(*drawn(rng))
        hosts, every = [*hosts, host], [a + b for a, b in zip(every, each, strict=True)]
    print(f"{headline()}; seed {asked.seed}, {asked.images} images, host and microscope not stated\n")
    head = ("", "number", "stated", "so", "ECE", "right with P > 0.95")
    titles = ("names given the host", "types given the host", "names as stated", "types as stated")
    print(table(head, [row("host", hosts), *(row(t, pairs) for t, pairs in zip(titles, every, strict=True))]))


if __name__ == "__main__":
    main()
