"""Images of alloys whose every column is known: multislice brightness (60 kV, 60-200 mrad), no table of the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from chain import redrawn, taken
from numpy.typing import NDArray

from stemfit.columns import find
from stemfit.defects import Defect, Evidence, find_defects, occupancies
from stemfit.imaging import fit_imaging
from stemfit.lattice import Brightness, Look, Optics, Populations, read_crystal
from stemfit.synthetic import Crystal, crystal

FloatArray = NDArray[np.float64]
Cell = tuple[int, int]

W = {"W": 1.0, "S": 0.11, "Se": 0.408, "S2": 0.235, "SSe": 0.53, "Se2": 0.864, "": 0.0}
MO = {"Mo": 1.0, "W": 1.85, "S": 0.224, "Se": 0.75, "S2": 0.46, "SSe": 1.06, "Se2": 1.60, "": 0.0}

SHAPE, PIXEL_A, A_A, FADE_A = (400, 420), 0.15, 3.20, 5.0


class Sample(NamedTuple):
    """A drawn alloy: column type of every site of the truth, and what is missing where."""

    truth: Crystal
    types: NDArray[np.str_]
    gone: list[Cell]


class Answer(NamedTuple):
    """What is said of it."""

    host: str
    populations: Mapping[str, Populations]
    evidence: Evidence
    claims: list[Defect]
    brightness: Brightness


def sample(
    levels: Mapping[str, float], metals: Mapping[str, float], pairs: Mapping[str, float], *, gone: int = 0,
    line: Sequence[Cell] = (), closed_A: float = 0.0, seed: int = 5,
) -> Sample:
    """Draw column types at random; columns that lost both atoms; and a row of columns that lost one each.

    Along the row the sites on both sides come together by `closed_A`, less with the distance from it.
    """
    rng = np.random.default_rng(seed)
    perfect = crystal(SHAPE, pixel_size_A=PIXEL_A, a_A=A_A, rotation_deg=13.0, brightness=(1.0, 1.0), seed=seed)
    sites = perfect.columns
    on_m = sites.sublattice == "M"
    drawn = [rng.choice(list(of), len(on_m), p=list(of.values())) for of in (metals, pairs)]
    types = np.where(on_m, *drawn).astype("<U3")
    cells = [(int(i), int(j)) for i, j in sites.ij]
    in_line = np.array([not m and c in set(line) for m, c in zip(on_m, cells, strict=True)])
    for k in np.flatnonzero(in_line):  # one of its two atoms is left
        types[k] = {"S2": "S", "Se2": "Se", "SSe": str(rng.choice(["S", "Se"]))}[types[k]]
    room = 2.5 * A_A / PIXEL_A
    h, w = SHAPE
    away = np.hypot(*(sites.xy_px[:, None] - sites.xy_px[in_line]).transpose(2, 0, 1)).min(1, initial=np.inf)
    inner = (sites.xy_px > room).all(1) & (sites.xy_px < [w - room, h - room]).all(1) & (away > 1.5 * room)
    lost = rng.choice(np.flatnonzero(~on_m & inner), gone, replace=False)
    types[lost] = ""
    moved = _closing(perfect, sites.xy_px[in_line], closed_A / PIXEL_A) if line else np.zeros_like(sites.xy_px)
    names = [(*c, str(s)) for c, s in zip(cells, sites.sublattice, strict=True)]
    truth = redrawn(
        perfect, {n: levels[t] for n, t in zip(names, types, strict=True)},
        {n: tuple(d) for n, d in zip(names, moved, strict=True) if np.hypot(*d) > 0.01},
    )
    return Sample(truth, types, [cells[k] for k in lost])


def _closing(perfect: Crystal, row_px: FloatArray, closed_px: float) -> FloatArray:
    """Displacement of every column towards a row, half of it from either side, fading beyond the row and its ends."""
    along = (row_px[-1] - row_px[0]) / np.hypot(*(row_px[-1] - row_px[0]))
    normal = np.array([-along[1], along[0]])
    off = perfect.columns.xy_px - row_px.mean(0)
    half = np.hypot(*(row_px[-1] - row_px[0])) / 2 + 0.5 * A_A / PIXEL_A
    beyond = np.maximum(np.abs(off @ along) - half, 0.0)
    across = off @ normal
    fade = np.exp(-(np.maximum(np.abs(across) - 2.0 / PIXEL_A, 0.0) + 3 * beyond) * PIXEL_A / FADE_A)
    return -0.5 * closed_px * (np.sign(across) * fade * (np.abs(across) > 0.1))[:, None] * normal


def answer(drawn: Sample, counts: float = 60.0, seed: int = 2) -> Answer:
    """Record it and read it, with the detector known."""
    return read_without_hint(taken(drawn.truth, counts, seed)[0], 60.0, (60.0, 200.0))


def read_without_hint(
    image: FloatArray, voltage_kV: float | None = None, detector_mrad: tuple[float, float] | None = None
) -> Answer:
    """From an image to its claims; neither host nor scale are told."""
    whole, identity, lattice, sites = read_crystal(
        image, find(image), None, Optics(voltage_kV, detector_mrad, None, False), Look("cpu", None)
    )
    mixtures = {} if identity.alloy is None else identity.alloy.populations
    imaging = fit_imaging(
        whole.columns, sites, whole.brightness, identity.host, voltage_kV, detector_mrad, mixtures
    )
    posteriors = occupancies(sites, whole.brightness, imaging, identity.host)
    evidence = Evidence(
        whole.columns, sites, posteriors, lattice, identity.host, whole.region_map, imaging, whole.image, whole.regions
    )
    return Answer(identity.host.name, mixtures, evidence, list(find_defects(evidence)[0]), whole.brightness)


def near(defects: Sequence[Defect], xy_px: FloatArray, reach_px: float = 4.0) -> list[Defect]:
    """Those with a site there."""
    return [d for d in defects if np.hypot(*(d.extent_px - xy_px).T).min() < reach_px]
