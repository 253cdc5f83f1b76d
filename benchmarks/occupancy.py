"""Claims of single and double vacancies against the truth, and false ones where an image is uneven.

Columns as in `honeycombs` (profile with a wide tail), brightness by column type from multislice (60 kV, 60-200 mrad,
relative to the metal), neighbours of a vacancy drawn towards it as DFT (PBE) has them. The host is stated.

- **vacancies**: 1 % of the chalcogen columns miss one atom, 0.3 % both. Precision, recall and F1 of claims of type SV
  and DV within 1 A; *other*: claims of anything else per 1,000 columns.
- **uneven**: no defects. A contamination edge (background + 30 % of a metal peak, brightness + 20 %, over 5 A), an
  island of a second layer, a hole, and the image's edge in all of them; claims per 1,000 analysed columns within 10 A
  of what is uneven or inside it (*there*) and elsewhere.

Run: ``python benchmarks/occupancy.py [--counts 20 5] [--images 4] [--only WORD]``
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from honeycombs import BoolArray, FloatArray, Part, Shape, draw, rotation
from machine import headline, table
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import cKDTree

PIXEL_A, SIGMA_A, BACKGROUND, REACH_A = 0.12, 0.45, 0.1, 1.0
SIZE_PX = (900, 900)
SHAPE = Shape((Part(0.88, 1.0), Part(0.12, 2.8)), SIGMA_A / PIXEL_A)


class Host(NamedTuple):
    """Lattice constant (A), brightness of X2 and X relative to the metal, inward moves (A) beside SV and DV."""

    a_A: float
    pair: float
    single: float
    moves_A: tuple[float, float]


HOSTS = {
    "MoS2": Host(3.16, 0.46, 0.224, (0.046, 0.195)),
    "WSe2": Host(3.282, 0.864, 0.408, (0.110, 0.299)),
    "MoSe2": Host(3.288, 1.60, 0.755, (0.110, 0.299)),
    "WS2": Host(3.153, 0.249, 0.121, (0.046, 0.195)),
}


class Scene(NamedTuple):
    """Image; true sites (N, 2) with "V_X", "V_X2" in it; what is uneven."""

    image: FloatArray
    vacant_px: FloatArray
    atoms_missing: FloatArray
    uneven: BoolArray


def crystal(host: Host, rng: np.random.Generator) -> tuple[FloatArray, BoolArray]:
    """Positions (N, 2) px of the sites and whether metal, at a random angle and polarity."""
    a = host.a_A / PIXEL_A
    cell = a * np.array([[1.0, 0.0], [0.5, -np.sqrt(0.75)]]) @ rotation(-rng.uniform(0, 60)).T
    n = int(1.5 * max(SIZE_PX) / a) + 3
    ij = np.stack(np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1)), -1).reshape(-1, 2)
    xy = np.array(SIZE_PX[::-1]) / 2 + rng.uniform(-9, 9, 2) + np.vstack([ij, ij + rng.choice([1, 2]) / 3]) @ cell
    near = ((xy > -2 * a) & (xy < np.array(SIZE_PX[::-1]) + 2 * a)).all(1)
    return xy[near], np.repeat([True, False], len(ij))[near]


def scene(name: str, kind: str, counts: float, seed: int) -> Scene:
    """`kind`: vacancies, edge, island or hole."""
    host, rng = HOSTS[name], np.random.default_rng([seed, round(10 * counts), sum(map(ord, name + kind))])
    xy, metal = crystal(host, rng)
    value = np.where(metal, 1.0, host.pair)
    missing = np.zeros(len(xy))
    if kind == "vacancies":
        luck = rng.random(len(xy))
        missing = np.where(metal | (luck > 0.013), 0, np.where(luck < 0.01, 1, 2))
        value = np.where(missing == 1, host.single, np.where(missing == 2, 0.0, value))
    there, film, uneven = uneven_area(kind, rng)
    col, row = np.clip(np.rint(xy).astype(int), 0, np.array(SIZE_PX[::-1]) - 1).T
    value = value * (1 + 0.2 * film[row, col]) * there[row, col]
    expected = BACKGROUND * (1 - 0.8 * gaussian_filter((~there).astype(float), 2)) + 0.3 * film
    moved = drawn_in(xy, metal, missing, host)
    lit = value > 0
    draw(expected, moved[lit], value[lit] / SHAPE.peak, SHAPE, np.zeros(SIZE_PX[0]))
    if kind == "island":
        over, second = crystal(host, rng)
        col, row = np.clip(np.rint(over).astype(int), 0, np.array(SIZE_PX[::-1]) - 1).T
        on = uneven[row, col]
        draw(expected, over[on], np.where(second, 1.0, host.pair)[on] / SHAPE.peak, SHAPE, np.zeros(SIZE_PX[0]))
    return Scene(rng.poisson(counts * expected).astype(float), xy[missing > 0], missing[missing > 0], uneven)


def uneven_area(kind: str, rng: np.random.Generator) -> tuple[BoolArray, FloatArray, BoolArray]:
    """Where there is crystal, how far (0 to 1) a film covers it, and what is uneven; all (H, W)."""
    h, w = SIZE_PX
    y, x = np.mgrid[:h, :w]
    flat = np.ones(SIZE_PX, dtype=bool)
    if kind == "edge":
        angle, at = rng.uniform(0, 2 * np.pi), rng.uniform(-0.1, 0.1) * w
        along = ((x - w / 2) * np.cos(angle) + (y - h / 2) * np.sin(angle) - at) * PIXEL_A
        return flat, np.clip(along / 5.0 + 0.5, 0, 1), np.abs(along) < 12.5
    blob = np.hypot(x - w * rng.uniform(0.35, 0.65), y - h * rng.uniform(0.35, 0.65))
    blob = blob < (0.22 if kind == "island" else 0.08) * w * (1 + 0.15 * np.sin(3 * np.arctan2(y - h / 2, x - w / 2)))
    if kind == "hole":
        return ~blob, np.zeros(SIZE_PX), blob
    return flat, np.zeros(SIZE_PX), blob if kind == "island" else ~flat


def drawn_in(xy: FloatArray, metal: BoolArray, missing: FloatArray, host: Host) -> FloatArray:
    """Positions of all columns, the three metals beside each vacancy moved towards it."""
    moved, tree, metals = xy.copy(), cKDTree(xy[metal]), np.flatnonzero(metal)
    for k in np.flatnonzero(missing > 0):
        for m in metals[tree.query(xy[k], k=3)[1]]:
            away = xy[m] - xy[k]
            moved[m] -= away / np.hypot(*away) * host.moves_A[int(missing[k]) - 1] / PIXEL_A
    return moved


def surveyed(name: str, image: FloatArray, cache: Path | None) -> Any:
    """Everything before the imaging stage; kept in a file where the same is asked for again."""
    from stemfit.columns import find
    from stemfit.hosts import projected
    from stemfit.lattice import Look, Optics, read_crystal

    if cache is not None and cache.exists():
        return pickle.loads(cache.read_bytes())
    found = read_crystal(image, find(image, calibrate=False), projected(name), Optics(), Look())
    if cache is not None:
        cache.write_bytes(pickle.dumps(found))
    return found


def claims(found: Any) -> tuple[Sequence[Any], Any]:
    """Defects that are claimed, and the sites."""
    from stemfit.defects import Evidence, find_defects, occupancy, offsets
    from stemfit.imaging import fit_imaging

    (image, _, columns, _, _, brightness, regions, region_map), identity, lattice, sites = found
    host = identity.host
    imaging = fit_imaging(columns, sites, brightness, host, None, None)
    placed = offsets(columns, sites)
    posteriors = [occupancy(sites, brightness, imaging, host, s, placed) for s in host.sublattices]
    measured = Evidence(columns, sites, tuple(posteriors), lattice, host, region_map, imaging, image, regions)
    return find_defects(measured)[0], sites


def judged(scene: Scene, found: Any, name: str) -> Counter[str]:
    """Counts of what was right and wrong."""
    defects, sites = claims(found)
    analysed = sites.xy_px[sites.analysed]
    near = distance_transform_edt(~scene.uneven) * PIXEL_A < 10.0 if scene.uneven.any() else scene.uneven
    at = np.rint(analysed).astype(int)
    said: Counter[str] = Counter(columns=len(analysed), columns_there=int(near[at[:, 1], at[:, 0]].sum()))
    tree = cKDTree(analysed)
    counted = np.asarray(tree.query(scene.vacant_px)[0]) < 3.0 if len(scene.vacant_px) else np.zeros(0, bool)
    truth = scene.vacant_px[counted], scene.atoms_missing[counted]
    taken = np.zeros(len(truth[0]), dtype=bool)
    for k, kind in enumerate(("SV", "DV"), start=1):
        said[f"{kind} true"] = int((truth[1] == k).sum())
    for defect in defects:
        kinds = {"SVL": "SV", "CVL": "DV"}.get(defect.label[:3], defect.type)
        points = defect.extent_px if defect.type == "LINE" else [defect.center_px]
        for x, y in points:
            inside = 0 <= round(x) < near.shape[1] and 0 <= round(y) < near.shape[0] and near[round(y), round(x)]
            said["claims there" if inside else "claims elsewhere"] += 1
            off = np.hypot(*(truth[0] - [x, y]).T) * PIXEL_A if len(truth[0]) else np.array([np.inf])
            k = int(np.argmin(off))
            right = off[k] < REACH_A and ("SV", "DV")[int(truth[1][k]) - 1] == kinds and not taken[k]
            if kinds in ("SV", "DV"):
                said[f"{kinds} {'right' if right else 'wrong'}"] += 1
                if right:
                    taken[k] = True
            elif off[k] >= REACH_A or True:
                said["other"] += 1
                said[f"as {defect.label}"] += 1
    return said


def row(name: str, kind: str, counts: float, images: int, cache: Path | None) -> tuple[str, ...]:
    total: Counter[str] = Counter()
    for seed in range(images):
        drawn = scene(name, kind, counts, seed)
        file = None if cache is None else cache / f"{name}-{kind}-{counts:g}-{seed}.pkl"
        total += judged(drawn, surveyed(name, drawn.image, file), name)
    cells = [name, kind, f"{counts:g}", f"{total['columns']}"]
    for vacancy in ("SV", "DV"):
        true, right, wrong = (total[f"{vacancy} {w}"] for w in ("true", "right", "wrong"))
        recall = right / true if true else float("nan")
        f1 = 2 * right / (true + right + wrong) if true + wrong else float("nan")
        cells.append(f"{recall:.3f} {f1:.3f} ({right}+{wrong}/{true})")
    there, away = total["columns_there"], total["columns"] - total["columns_there"]
    cells.append(f"{1000 * total['other'] / total['columns']:.2f}")
    cells.append(f"{1000 * total['claims there'] / there:.2f}" if there else "-")
    cells.append(f"{1000 * total['claims elsewhere'] / away:.2f}")
    others = ", ".join(f"{k[3:]} {n}" for k, n in total.most_common() if k.startswith("as "))
    return (*cells, others)


HEAD = ("host", "scene", "counts", "columns", "SV recall F1", "DV recall F1", "other", "there", "elsewhere", "said")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=float, default=[20.0, 5.0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--only", default="", help="lines whose 'host scene' has this word")
    parser.add_argument("--cache", type=Path, help="folder for what comes before the imaging stage")
    asked = parser.parse_args()
    rows = []
    for kind in ("vacancies", "edge", "island", "hole"):
        for name in HOSTS:
            for counts in asked.counts:
                if asked.only in f"{name} {kind}":
                    rows.append(row(name, kind, counts, asked.images, asked.cache))
                    print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    print(headline(), f"{SIZE_PX[1]} x {SIZE_PX[0]} px", sep="; ", end="\n\n")
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
