"""An `Findings` of a made-up image, for what draws and writes results: no stage of the chain is involved."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from stemfit.calibrate import Calibration
from stemfit.columns import Columns, Noise, Profile
from stemfit.defects import Defect
from stemfit.hosts import ProjectedHost
from stemfit.imaging import USUAL_TAIL, Amplitude, Imaging
from stemfit.lattice import Region, SiteMap
from stemfit.micrograph import Micrograph
from stemfit.relax import Relaxed
from stemfit.result import Findings, HostCall
from stemfit.score import Score

HOST = ProjectedHost("WSe2", 3.282, ("M", "X"), ("W", "Se2"))
BRIGHTNESS = {"W": 1.0, "Se2": 0.9, "Se": 0.4, "": 0.0, "Mo": 0.53, "SSe": 0.62}


@dataclass(frozen=True)
class FakeLattice:
    """Has what drawing and reporting ask of a lattice."""

    a_px: np.ndarray
    b_px: np.ndarray
    origin_px: np.ndarray
    polarity: int
    cell_cov: np.ndarray
    distortion_px: np.ndarray
    shape_px: tuple[int, int]
    residual_rms_px: float
    a_px_iso: float
    anisotropy: float
    rotation_deg: float

    @property
    def basis(self):
        return np.array([[0.0, 0.0], [1 / 3, 1 / 3]])

    @property
    def nearest_px(self):
        return self.a_px_iso / np.sqrt(3)

    def image_from_structure(self, a_exp_A):
        return np.diag([1.0, -1.0]) * self.a_px_iso / a_exp_A, self.origin_px


def lattice_of(shape, a_px, degrees):
    turn = np.radians([degrees, degrees + 60])
    a, b = (a_px * np.array([np.cos(t), -np.sin(t)]) for t in turn)  # counter-clockwise as displayed
    origin = np.array([shape[1] / 2 + 1.3, shape[0] / 2 - 2.1])
    return FakeLattice(a, b, origin, 1, np.eye(6) * 1e-4, np.zeros((2, 2, 2)), shape, 0.3, a_px, 1.02, degrees)


def sites_of(lattice):
    height, width = lattice.shape_px
    reach = int(max(height, width) / lattice.a_px_iso) + 2
    i, j = (g.ravel() for g in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    ij = np.tile(np.column_stack([i, j]), (2, 1))
    sublattice = np.repeat(["M", "X"], len(i))
    cell = ij + np.where(sublattice == "M", 0, 1 / 3)[:, None]
    xy = lattice.origin_px + cell @ np.stack([lattice.a_px, lattice.b_px])
    inside = ((xy > 0) & (xy < [width - 1, height - 1])).all(1)
    return ij[inside], sublattice[inside], xy[inside]


def density(shape, xy, amplitude, sigma):
    image = np.zeros(shape)
    half = int(5 * sigma)
    for (x, y), a in zip(xy, amplitude, strict=True):
        rows = np.arange(max(0, int(y) - half), min(shape[0], int(y) + half + 2))
        cols = np.arange(max(0, int(x) - half), min(shape[1], int(x) + half + 2))
        spot = np.exp(-0.5 * ((rows[:, None] - y) ** 2 + (cols - x) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
        image[rows[:, None], cols] += a * spot
    return image


def defect_of(number, kind, label, probability, ij_sublattices, xy, center=None, alternatives=None):
    rest = 1 - probability
    return Defect(
        number, kind, label, probability, xy.mean(0) if center is None else center, tuple(ij_sublattices), xy,
        alternatives or (("pristine", 0.4 * rest), ("V_Se2", 0.6 * rest)), 12.3, f"{number}-1",
    )  # fmt: skip


def candidate_of(defect, rank, label):
    return SimpleNamespace(
        id=f"{defect}-{rank}", defect=defect, type="SV", label=label, matrix=np.eye(2), offset_px=np.zeros(2)
    )


def fake_analysis(
    shape=(330, 360), a_px=30.0, degrees=17.0, vacancies=2, region=True, suspects=True, seed=0, counts=60.0, line=True
):
    """Synthetic WSe2 with single vacancies, one double vacancy, one substitution and one line; optionally a hole."""
    rng = np.random.default_rng(seed)
    lattice = lattice_of(shape, a_px, degrees)
    ij, sublattice, xy = sites_of(lattice)
    species = np.where(sublattice == "M", "W", "Se2").astype("<U3")
    hole = (np.hypot(*(xy - [shape[1] - 1, 0]).T) < 0.33 * min(shape)) & region
    margin = ((xy > 1.6 * a_px) & (xy < np.array(shape[::-1]) - 1.6 * a_px)).all(1)
    inner = np.flatnonzero(margin & ~hole & (sublattice == "X"))
    apart: list[int] = []
    for k in rng.permutation(inner):
        if all(np.hypot(*(xy[k] - xy[m])) > 2.6 * a_px for m in apart):
            apart.append(int(k))
    keys = [(int(i), int(j), str(s)) for (i, j), s in zip(ij, sublattice, strict=True)]
    where = {key: n for n, key in enumerate(keys)}
    plan = [("SV", "V_Se", "Se")] * vacancies + [("DV", "V_Se2", ""), ("SUB", "S_Se", "SSe")]
    defects = []
    for number, ((kind, label, left), k) in enumerate(zip(plan, apart, strict=False), start=1):
        species[k] = left
        probability = float(np.clip(1 - rng.exponential(0.04), 0.51, 1.0))
        defects.append(defect_of(number, kind, label, probability, [keys[k]], xy[[k]]))
    rest = apart[len(plan) :]
    for k in rest if line else ():
        row = [where.get((keys[k][0] + step, keys[k][1], "X")) for step in range(3)]
        if all(n is not None and margin[n] and not hole[n] and species[n] == "Se2" for n in row):
            species[row] = "Se"
            number = len(defects) + 1
            defects.append(defect_of(number, "LINE", "SVL-3", 0.88, [keys[n] for n in row], xy[row]))
            break
    doubts = ()
    if suspects and rest:
        doubts = (defect_of(len(defects) + 1, "SV", "V_Se", 0.31, [keys[rest[-1]]], xy[[rest[-1]]]),)
    species[hole] = ""
    sigma = 0.15 * a_px
    strength = np.array([BRIGHTNESS[s] for s in species]) * 2 * np.pi * sigma**2
    background = np.full(shape, 0.06)
    truth = background + density(shape, xy + rng.normal(scale=0.01 * a_px, size=xy.shape), strength, sigma)
    image = rng.poisson(truth * counts) / counts
    simulated = background + density(shape, xy, strength, sigma)
    y, x = np.mgrid[: shape[0], : shape[1]]
    masked = (np.hypot(x - shape[1] + 1, y) < 0.33 * min(shape) + 0.3 * a_px) & region
    simulated[masked] = np.nan
    regions = ()
    if region:
        t = np.linspace(np.pi / 2, np.pi, 24)
        r = 0.33 * min(shape) + 0.3 * a_px
        arc = np.column_stack([shape[1] - 1 + r * np.cos(t), r * np.sin(t)])
        regions = (Region("hole", "intensity 0.06 of 1.0", np.vstack([[shape[1] - 1, 0], arc])),)
    seen = np.flatnonzero(species != "")
    column = np.full(len(xy), -1)
    column[seen] = np.arange(len(seen))
    noise = Noise(1 / counts, 0.0, 0.0, 1.0)
    profile = Profile(np.eye(2) * sigma**2, 2 * sigma, 0.0)
    columns = Columns(
        xy[seen], strength[seen], np.tile(np.eye(3) * 0.01, (len(seen), 1, 1)), profile, background, simulated, noise
    )
    amplitudes = {s: Amplitude(b * 2 * np.pi * sigma**2, 0.02, "table") for s, b in BRIGHTNESS.items() if s}
    amplitudes["W"] = Amplitude(2 * np.pi * sigma**2, 0.01, "image")
    candidates = tuple(candidate_of(d.id, k, label) for d in defects for k, label in ((1, d.label), (2, "pristine")))
    scores = tuple(
        Score(c.id, -100.0 - k % 2 * 7, 0.999 - 0.998 * (k % 2), k % 2 == 0, 0.98, 0.9, 1.05, 1.2, 0.21, ())
        for k, c in enumerate(candidates)
    )
    relaxed = tuple(Relaxed(np.zeros((1, 3)), None, "keep", None) for _ in candidates)
    return Findings(
        Micrograph(image, Path("fake <image> & co.tif"), hashlib.sha256(image.tobytes()).hexdigest(), "float32",
                   0.11, "ImageJ", None, None),
        columns, HostCall(HOST, "inferred", 0.97, (("WS2", 0.02), ("MoSe2", 0.01))),
        Calibration(HOST.a_A / a_px, 0.0003, "lattice", 0.11, HOST.a_A / a_px), lattice,
        SiteMap(ij, sublattice, xy, column, margin & ~hole), regions, masked.astype(np.uint8),
        Imaging(profile, noise, background, np.ones(shape), amplitudes, {"M": 0.02, "X": 0.03},
            {"M": USUAL_TAIL, "X": USUAL_TAIL}),
        tuple(defects), doubts, candidates, relaxed, scores, simulated,
        ("the pixel size in the file, 0.1100 A, differs from the lattice's by 0.5 %",),
        {"host": "auto", "voltage_kV": None, "out": "<b>bold</b>"}, {"stemfit": "0.1.0", "device": "cpu"},
        {"columns": 3.2, "lattice": 0.4},
    )  # fmt: skip
