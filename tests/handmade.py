"""A small analysis put together by hand, with everything known: no stage has to work for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from definet.structures import DefectStructure, build, pristine
from stemfit.calibrate import Calibration
from stemfit.candidates import Candidate
from stemfit.columns import Columns, Noise, Profile
from stemfit.defects import Defect, Evidence
from stemfit.hosts import ProjectedHost
from stemfit.imaging import USUAL_TAIL, Amplitude, Imaging
from stemfit.lattice import Lattice, Region, SiteMap
from stemfit.micrograph import Micrograph
from stemfit.relax import Relaxed
from stemfit.result import Findings, HostCall
from stemfit.score import Score

FloatArray = NDArray[np.float64]

SHAPE = (200, 240)
HOST = ProjectedHost("MoSe2", 3.288, ("M", "X"), ("Mo", "Se2"))
PIXEL_A = 0.18
SV, DV = (6, 3, "X"), (2, 7, "X")


def lattice(polarity: int = 1) -> Lattice:
    """Sheared and rotated by an odd angle; y points down, so that a counter-clockwise b has a negative determinant."""
    angle, a_px = np.radians(17.3), HOST.a_A / PIXEL_A
    shear = np.array([[1.02, 0.015], [0.0, 0.98]])
    a, b = (shear @ (a_px * np.array([np.cos(t), -np.sin(t)])) for t in (angle, angle + np.pi / 3))
    bend = np.zeros((2, 2, 2))
    bend[1, :, 0] = 1.5  # the lower edge of the image is shifted right by 1.5 px
    return Lattice(a, b, np.array([25.0, 170.0]), polarity, np.eye(6) * 1e-4, bend, SHAPE, 0.3)


def distorted(xy_px: FloatArray) -> FloatArray:
    """Where the scan puts what lies at `xy_px` on the affine cell."""
    return np.asarray(xy_px + np.column_stack([1.5 * xy_px[:, 1] / (SHAPE[0] - 1), np.zeros(len(xy_px))]))


def sites(lattice: Lattice) -> SiteMap:
    """All sites in the image, with one column each but on the divacancy."""
    u = 1 / 3 if lattice.polarity > 0 else 2 / 3
    i, j, k = (index.ravel() for index in np.meshgrid(range(-20, 30), range(-20, 30), (0, 1), indexing="ij"))
    ideal = lattice.origin_px + np.column_stack([i + u * k, j + u * k]) @ np.stack([lattice.a_px, lattice.b_px])
    real = distorted(ideal)
    inside = np.all((real > 3) & (real < np.array(SHAPE[::-1]) - 4), axis=1)
    ij, sublattice, real = np.column_stack([i, j])[inside], np.where(k, "X", "M")[inside], real[inside]
    there = ~((ij == DV[:2]).all(axis=1) & (sublattice == "X"))
    column = np.where(there, np.cumsum(there) - 1, -1)
    analysed = np.all((real > 12) & (real < np.array(SHAPE[::-1]) - 13), axis=1)
    return SiteMap(ij, sublattice, real, column, analysed)


def unmeasured(crystal: Lattice, site_map: SiteMap | None = None) -> Evidence:
    """Nothing but a lattice: for findings that are made by hand."""
    none = np.zeros(SHAPE)
    profile, noise = Profile(np.eye(2), 8.0, 0.1), Noise(1.0, 0.0, 0.1, 1.0)
    columns = Columns(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 3, 3)), profile, none, none, noise)
    no_sites = SiteMap(np.zeros((0, 2), int), np.zeros(0, str), np.zeros((0, 2)), np.zeros(0, int), np.zeros(0, bool))
    amplitudes = {"Mo": Amplitude(250.0, 3.0, "image"), "Se2": Amplitude(240.0, 3.0, "image")}
    imaging = Imaging(profile, noise, none, np.ones(SHAPE), amplitudes, {"M": 0.02, "X": 0.03},
        {"M": USUAL_TAIL, "X": USUAL_TAIL})
    return Evidence(columns, site_map or no_sites, (), crystal, HOST, np.zeros(SHAPE, np.uint8), imaging, none)


def index(site_map: SiteMap, site: tuple[int, int, str]) -> int:
    """Row of a site."""
    here = (site_map.ij == site[:2]).all(axis=1) & (site_map.sublattice == site[2])
    return int(np.flatnonzero(here)[0])


def defect(number: int, kind: str, label: str, site: tuple[int, int, str], at: FloatArray, best: str | None) -> Defect:
    """One defect on one site."""
    others = (("pristine", 0.02), ("V_Se" if label != "V_Se" else "V_Se2", 0.03))
    return Defect(number, kind, label, 0.95, at, (site,), at[None], others, 41.5, best)


def candidate(name: str, label: str, at_px: FloatArray, crystal: Lattice, turn: int) -> tuple[Candidate, Relaxed]:
    """Patch with the defect, turned by `turn` times 120 degrees, whose atoms all shrink toward it by 1 %."""
    structure: DefectStructure = build(pristine("MoSe2", 5), label)
    t = np.radians(120 * turn)
    rotate = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    cell_A = HOST.a_A * np.array([[1.0, 0.5], [0.0, np.sqrt(0.75)]])
    matrix = np.column_stack([crystal.a_px, crystal.b_px]) @ np.linalg.inv(cell_A) @ rotate
    center = structure.center_A
    number, offset_px = int(name.split("-")[0]), at_px - matrix @ center
    patch = Candidate(name, number, "SV", label, structure, center, matrix, offset_px, 0.0)
    positions, cell = np.array(structure.structure.cart_coords), np.asarray(structure.structure.lattice.matrix)[:2, :2]
    offset = positions[:, :2] - center
    offset -= np.round(offset @ np.linalg.inv(cell)) @ cell
    positions[:, :2] -= 0.01 * offset
    return patch, Relaxed(positions, np.full(len(positions), 0.02), "definet", "c0ffee")


def analysis(path: Path = Path("image.tif"), sha256: str = "ab" * 32, polarity: int = 1) -> Findings:
    """MoSe2 with a single and a double vacancy, something unexplained off the lattice, one suspect, one region."""
    crystal = lattice(polarity)
    site_map = sites(crystal)
    sv, dv = site_map.xy_px[index(site_map, SV)], site_map.xy_px[index(site_map, DV)]
    strange = np.array([180.0, 160.0])
    xy = np.vstack([site_map.xy_px[site_map.column >= 0], strange])
    profile, noise = Profile(np.array([[9.0, 0.5], [0.5, 8.0]]), 7.0, 0.1), Noise(2.0, 0.0, 1.0, 1.0)
    rng = np.random.default_rng(3)
    flat = np.full(SHAPE, 10.0)
    cov = np.tile(np.diag([0.01, 0.04, 25.0]), (len(xy), 1, 1))
    columns = Columns(xy, rng.uniform(230, 260, len(xy)), cov, profile, flat, flat, noise)
    region_map = np.zeros(SHAPE, np.uint8)
    region_map[:10] = 1
    simulated = np.where(region_map > 0, np.nan, rng.uniform(10, 60, SHAPE))
    image = np.nan_to_num(simulated, nan=5.0) + rng.normal(0, np.sqrt(noise.variance(np.nan_to_num(simulated))))
    pairs = [candidate("1-1", "V_Se", sv, crystal, 0), candidate("2-1", "V_Se2", dv, crystal, 1)]
    unknown = Defect(3, "UNKNOWN", "UNKNOWN", 0.9, strange, ((0, 0, "-"),), strange[None], (("pristine", 0.1),), 9.0)
    doubt = (4, 5, "X")
    suspect = Defect(4, "SV", "V_Se", 0.2, site_map.xy_px[index(site_map, doubt)], (doubt,),
                     site_map.xy_px[index(site_map, doubt)][None], (("pristine", 0.8),), -1.4)  # fmt: skip
    amplitudes = {"Mo": Amplitude(250.0, 3.0, "image"), "Se2": Amplitude(240.0, 3.0, "image")}
    return Findings(
        micrograph=Micrograph(image, path, sha256, "uint8", 0.2, "ImageJ", None, None, 0.2),
        columns=columns,
        host=HostCall(HOST, "inferred", 0.9, (("WSe2", 0.1),)),
        calibration=Calibration(PIXEL_A, 0.0002, "lattice", 0.2, PIXEL_A),
        lattice=crystal,
        sites=site_map,
        regions=(Region("vacuum", "no columns", np.array([[0.0, 0.0], [239.0, 0.0], [239.0, 9.0], [0.0, 9.0]])),),
        region_map=region_map,
        imaging=Imaging(profile, noise, flat, np.ones(SHAPE), amplitudes, {"M": 0.02, "X": 0.03},
            {"M": USUAL_TAIL, "X": USUAL_TAIL}),
        defects=(defect(1, "SV", "V_Se", SV, sv, "1-1"), defect(2, "DV", "V_Se2", DV, dv, "2-1"), unknown),
        suspects=(suspect,),
        candidates=tuple(patch for patch, _ in pairs),
        relaxed=tuple(relaxed for _, relaxed in pairs),
        scores=tuple(
            Score(patch.id, -100.0, 0.95, True, 0.97, 0.9, 1.1, float("nan"), 0.07, ()) for patch, _ in pairs
        ),
        simulated=simulated,
        warnings=("the file's pixel size is 11 % larger than the lattice's",),
        settings={"host": "auto", "roi": None, "device": "cpu", "path": path},
        environment={"torch": "2"},
        timings_s={"columns": 1.5},
    )
