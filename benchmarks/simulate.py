"""Is the fast simulator true, and how fast is it? Against multislice with other atoms' potentials than the table's.

The reference is abTEM multislice (`stemfit.simulate.multislice`) with Kirkland's parametrisation and displaced atoms of
its own seed per case, at voltages, apertures and detectors between the nodes of the table of cross-sections. Structures
are defects from `definet.structures`, relaxed by the network that comes along (trefoils as it predicts them, too).
Per case:

* NCC: normalised cross-correlation of the whole noise-free image.
* scale: brightness of the host's metal columns, multislice over fast (common to all columns, fitted by an analysis).
* columns: every column that is seen is given its own brightness by linear least squares on the multislice image, all at
  once; rms and largest departure from the fast one, relative to the metal columns' common scale, and that of the
  column nearest to the middle of the defect.
* ranking: noisy images of the multislice truth, 20 counts in the brightest pixel of a metal column, are explained by
  fast images of candidates (scale and background free), weighted by the noise. How often the truth wins of 50.

Times of one image, one thread, in the same run: ours alone (probe included), ours with the probe known, ours in a batch
of 32; `stemfit.simulate.prism` (abTEM's: its matrix once per configuration of atoms, then positions of the Nyquist
grid) and `stemfit.simulate.multislice`, with one configuration of atoms and the five of thermal motion. These two are
timed on few positions and scaled to all: the table says on how many.

Run: ``OMP_NUM_THREADS=1 python benchmarks/simulate.py [--cache DIR] [--quick] [--only times]`` (abTEM, a development
extra). Multislice images are kept in the cache folder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import headline, table
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from definet.checkpoint import load_checkpoint, shipped
from definet.predict import relax
from definet.structures import build, pristine
from stemfit.optics.probe import Probe, transfer
from stemfit.simulate import fast
from stemfit.simulate.specimen import Specimen, View, specimen
from stemfit.simulate.spectrum import draw, frequencies, spectrum

FloatArray = NDArray[np.float64]

PIXEL_A, SOURCE_A = 0.1, 0.8
HAADF, MAADF = (63.0, 148.0), (47.0, 118.0)
FOCUS: dict[str, float] = {}
DEFOCUS = {"defocus_A": 30.0}
ASTIGMATISM = {"astigmatism_A": 25.0, "astigmatism_deg": 25.0}
COMA = {"coma_A": 350.0, "coma_deg": 40.0, "threefold_A": 250.0, "threefold_deg": -15.0}

COUNTS, DRAWS = 20.0, 50
OUTSIDE_A = 1.5
"""Columns so far outside the image are still fitted one by one; farther ones together."""


WHOLE_A = 1.0
"""Columns nearer to the edge are not judged: half of them is outside."""


TOGETHER_A = 0.7
"""Columns so close to each other are judged together: an image cannot tell what each of them has."""


class Case(NamedTuple):
    """A defect under a microscope, and what else it could be."""

    host: str
    label: str
    voltage_kV: float
    convergence_mrad: float
    detector_mrad: tuple[float, float]
    aberrations: dict[str, float]
    others: tuple[str, ...]
    shape: tuple[int, int] = (110, 120)

    @property
    def probe(self) -> Probe:
        """With the source of all cases."""
        return Probe(self.voltage_kV, self.convergence_mrad, source_fwhm_A=SOURCE_A, **self.aberrations)

    @property
    def name(self) -> str:
        """In a line."""
        inner, outer = self.detector_mrad
        wrong = "+".join(f"{k.removesuffix('_A')} {v:g}" for k, v in self.aberrations.items() if k.endswith("_A"))
        return f"{self.host} {self.label}, {self.voltage_kV:g} kV, {self.convergence_mrad:g} mrad, " \
               f"{inner:g}-{outer:g}, {wrong or 'in focus'}"  # fmt: skip


POINTS = ("pristine", "V_S", "V_S2", "O_S", "Se_S")
SELENIUM = ("pristine", "V_Se", "V_Se2", "S_Se")
CASES = (
    Case("MoS2", "V_S2", 60.0, 33.0, HAADF, FOCUS, POINTS),
    Case("WSe2", "V_Se", 80.0, 27.0, MAADF, DEFOCUS, SELENIUM),
    Case("MoS2", "SVL-4", 60.0, 33.0, HAADF, COMA, ("pristine", "DVL-4", "CVL-4", "SVL-3"), (100, 150)),
    Case("WSe2", "T1", 60.0, 33.0, HAADF, FOCUS, ("pristine", "T1-484"), (130, 130)),
    Case("graphene", "V_C2", 60.0, 33.0, MAADF, FOCUS, ("pristine", "V_C", "5-8-5", "SW")),
    Case("hBN", "V_B", 60.0, 33.0, MAADF, ASTIGMATISM, ("pristine", "C_B", "V_BN")),
    Case("MoS2", "W_Mo", 80.0, 27.0, HAADF, ASTIGMATISM, ("pristine", "V_Mo", "Nb_Mo")),
    Case("MoS2", "V_S", 80.0, 33.0, MAADF, FOCUS, POINTS),
    Case("WSe2", "V_Se2", 60.0, 27.0, HAADF, COMA, SELENIUM),
    Case("WSe2", "Mo_W", 60.0, 33.0, MAADF, ASTIGMATISM, ("pristine", "V_W")),
    Case("graphene", "N_C", 80.0, 33.0, HAADF, DEFOCUS, ("pristine", "V_C", "B_C")),
    Case("WSe2", "T1", 80.0, 33.0, MAADF, COMA, ("pristine", "T1-484"), (130, 130)),
    Case("MoS2", "SVL-4", 80.0, 27.0, MAADF, DEFOCUS, ("pristine", "DVL-4", "CVL-4", "SVL-3"), (100, 150)),
)
QUICK = 1
CELLS = {"graphene": 14, "hBN": 14}
METAL = {"MoS2": "Mo", "WSe2": "W", "graphene": "C", "hBN": "N"}
"""Column that the others are compared to."""


class Report(NamedTuple):
    """What is said of a case."""

    ncc: float
    scale: float
    rms: float
    worst: float
    worst_type: str
    own: float
    wins: int
    runner_up: str
    multislice_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "stemfit-simulate")
    parser.add_argument("--quick", action="store_true", help="one case, and times at 256 px")
    parser.add_argument("--only", choices=["cases", "times"])
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print(headline(), flush=True)
    if asked.only != "times":
        _cases(CASES[:QUICK] if asked.quick else CASES, asked.cache)
    if asked.only != "cases":
        _times((256,) if asked.quick else (256, 512))


# -- truth ---------------------------------------------------------------------------------------------------------


def _cases(cases: tuple[Case, ...], cache: Path) -> None:
    rows = []
    for k, case in enumerate(cases):
        found = _judge(case, k, cache)
        rows.append((
            case.name, f"{found.ncc:.5f}", f"{found.scale:.3f}", f"{100 * found.rms:.1f}",
            f"{100 * found.worst:+.1f} ({found.worst_type})", f"{100 * found.own:+.1f}",
            f"{found.wins}/{DRAWS} ({found.runner_up})", f"{found.multislice_s:.0f}",
        ))  # fmt: skip
        print(" | ".join(rows[-1]), flush=True)
    head = ("case", "NCC", "scale", "columns rms %", "worst %", "middle's %", "truth wins (then)", "multislice s")
    print("\n" + table(head, rows), flush=True)
    ncc = [float(row[1]) for row in rows]
    print(f"\nNCC {min(ncc):.5f} to {max(ncc):.5f}; target 0.999. Columns: target 3 %.\n", flush=True)


def _judge(case: Case, seed: int, cache: Path) -> Report:
    labels = list(dict.fromkeys((case.label, *case.others)))
    specimens, centre = _specimens(case, labels)
    view = View(PIXEL_A, case.shape, centre)
    truth, seconds = _reference(case, specimens[0], view, 11 + seed, cache)
    drawn = [fast.image(one, case.probe, case.detector_mrad, view) for one in specimens]
    ncc = float(np.corrcoef(truth.ravel(), drawn[0].ravel())[0, 1])
    seen = fast.scatterers(specimens[0], case.probe, case.detector_mrad, view)
    own = truth - _together(drawn[0], specimens[0], case, view, truth)
    share = _shares(seen, case.probe, view, own)
    cluster = fcluster(linkage(seen.xy_A, "single"), TOGETHER_A, "distance") - 1
    light = np.bincount(cluster, seen.amplitude_A2)
    share = np.bincount(cluster, share * seen.amplitude_A2) / light
    xy = np.stack([np.bincount(cluster, seen.amplitude_A2 * axis) / light for axis in seen.xy_A.T], 1)
    inside = (np.abs(xy) < np.array(view.size_A) / 2 - WHOLE_A).all(1)
    kinds = np.array(["+".join(sorted(np.array(seen.types)[cluster == k])) for k in range(len(xy))])
    scale = float(np.median(share[inside & (kinds == METAL[case.host])]))
    off = np.where(inside, share / scale - 1, 0.0)
    worst = int(np.abs(off).argmax())
    middle = np.hypot(*xy.T).argmin()
    wins, runner_up = _ranking(truth, drawn, labels, seed)
    return Report(ncc, scale, float(np.sqrt(np.mean(off[inside] ** 2))), float(off[worst]), str(kinds[worst]),
                  float(off[middle]), wins, runner_up, seconds)  # fmt: skip


def _specimens(case: Case, labels: list[str]) -> tuple[list[Specimen], tuple[float, float]]:
    """Relaxed structures of all labels, and the middle of the first one's defect."""
    crystal = pristine(case.host, CELLS.get(case.host, 11))
    built = [build(crystal, label) for label in labels]
    marked = np.flatnonzero(built[0].marker > 0)
    centre = built[0].structure.cart_coords[marked, :2].mean(0)
    moved = relax(built, load_checkpoint(shipped()), "cpu")
    specimens = []
    for one, rest in zip(built, moved, strict=True):
        there = one.occupied
        numbers = np.array([site.specie.Z for site in one.structure])[there]
        specimens.append(specimen(numbers, rest.positions_A[there], one.structure.lattice.matrix[:2, :2]))
    return specimens, (float(centre[0]), float(centre[1]))


def _reference(case: Case, one: Specimen, view: View, seed: int, cache: Path) -> tuple[FloatArray, float]:
    """Multislice image and the CPU time that it took."""
    kept = cache / f"{case.name.replace(' ', '_').replace(',', '')}-{seed}.npz"
    if not kept.exists():
        from stemfit.simulate import multislice

        start = time.process_time()
        made = multislice.image(one, case.probe, case.detector_mrad, view, seed=seed, parametrization="kirkland")
        part = kept.with_suffix(".part.npz")
        np.savez(part, image=made, seconds=time.process_time() - start)
        part.replace(kept)
    with np.load(kept) as found:
        return np.asarray(found["image"]), float(found["seconds"])


def _together(drawn: FloatArray, one: Specimen, case: Case, view: View, truth: FloatArray) -> FloatArray:
    """What pairs of columns and the wings of one show, on the scale of the image: it is no column's brightness."""
    alone = fast.image(one, case.probe, case.detector_mrad, view, neighbours=False)
    return np.asarray(float((drawn * truth).sum() / (drawn * drawn).sum()) * (drawn - alone))


def _shares(seen: fast.Scatterers, probe: Probe, view: View, truth: FloatArray) -> FloatArray:
    """Brightness of each column in the image over the one that it was given, by linear least squares; far ones 1."""
    at = frequencies(view, probe.cutoff_per_A, probe.reach_A)
    xy, bright, width = (torch.from_numpy(a) for a in (seen.xy_A, seen.amplitude_A2, seen.width_A))
    each = draw(transfer(probe, *at.plane) * spectrum(xy[:, None], bright[:, None], width[:, None], at), at, view)
    images = each.reshape(len(xy), -1).numpy()
    near = (np.abs(seen.xy_A) < np.array(view.size_A) / 2 + OUTSIDE_A).all(1)
    design = np.vstack([images[near], images[~near].sum(0)])
    fitted = np.linalg.lstsq(design.T, truth.ravel(), rcond=None)[0]
    share = np.ones(len(xy))
    share[near] = fitted[:-1]
    return share


def _ranking(truth: FloatArray, drawn: list[FloatArray], labels: list[str], seed: int) -> tuple[int, str]:
    """How often the first label explains noisy truth best, and the closest other one."""
    rng = np.random.default_rng(seed)
    counts = truth / np.percentile(truth, 99.5) * COUNTS
    chi2 = []
    for _ in range(DRAWS):
        noisy = rng.poisson(counts.clip(0)).astype(float)
        chi2.append([_misfit(noisy, image) for image in drawn])
    mean = np.mean(chi2, axis=0)
    order = 1 + np.argsort(mean[1:])
    return int((np.argmin(chi2, axis=1) == 0).sum()), f"{labels[order[0]]} {mean[order[0]] - mean[0]:+.0f}"


def _misfit(noisy: FloatArray, image: FloatArray) -> float:
    """Squared residual over the variance, scale and background free; the variance is that of the model."""
    design = np.stack([image.ravel(), np.ones(image.size)], 1)
    weight = np.ones(image.size)
    for _ in range(3):
        fitted = np.linalg.lstsq(design * weight[:, None], noisy.ravel() * weight, rcond=None)[0]
        weight = 1 / np.sqrt((design @ fitted).clip(0.2))
    model = design @ fitted
    # What is weighted by the model is made up for by its logarithm: else bright models would be preferred.
    return float(np.sum(((noisy.ravel() - model) * weight) ** 2 - 2 * np.log(weight)))


# -- time ----------------------------------------------------------------------------------------------------------


def _times(sizes: tuple[int, ...]) -> None:
    case = CASES[0]
    rows = []
    for size in sizes:
        one = _perfect(size)
        view = View(PIXEL_A, (size, size))
        whole, known, batched = _ours(one, case, view)
        positions = round((size * PIXEL_A / (0.93 * 1 / (2 * case.probe.cutoff_per_A))) ** 2)
        rows += [
            (f"{size}", "fast, probe and all", f"{whole:.4f}", "1", "all"),
            (f"{size}", "fast, probe known", f"{known:.4f}", "", "all"),
            (f"{size}", "fast, batch of 32, float32", f"{batched:.4f}", "", "all"),
        ]
        print(*rows, sep="\n", flush=True)
        build_s, each_s, tried, interpolation = _prism(one, case, view)
        for configurations in (1, 5):
            prism = configurations * (build_s + each_s * positions)
            what = f"PRISM, interpolation {interpolation}, configurations: {configurations}"
            rows.append((f"{size}", what, f"{prism:.0f}", f"{prism / whole:.0f}, {prism / batched:.0f}",
                         f"{tried} of {positions}"))  # fmt: skip
            print(rows[-1], f"matrix {build_s:.1f} s, position {1e3 * each_s:.2f} ms", flush=True)
        each_s, tried = _multislice(one, case)
        for configurations in (1, 5):
            true = configurations * each_s * positions
            rows.append((f"{size}", f"multislice, configurations: {configurations}", f"{true:.0f}",
                         f"{true / whole:.0f}, {true / batched:.0f}", f"{tried} of {positions}"))  # fmt: skip
    head = ("px", "simulator", "CPU s per image", "ours is faster by (alone, batch)", "positions")
    print("\n" + table(head, rows), flush=True)


def _perfect(size: int) -> Specimen:
    """MoS2 with a divacancy in a cell that is larger than the field, so that nothing repeats in it."""
    cells = int(size * PIXEL_A / 2.6) + 6
    built = build(pristine("MoS2", cells), "V_S2")
    there = built.occupied
    numbers = np.array([site.specie.Z for site in built.structure])[there]
    return specimen(numbers, built.structure.cart_coords[there], built.structure.lattice.matrix[:2, :2])


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    """CPU time of a call, best of a few: the machine is shared."""
    call()
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        spent.append(time.process_time() - start)
    return min(spent)


def _ours(one: Specimen, case: Case, view: View) -> tuple[float, float, float]:
    probe, detector = case.probe, case.detector_mrad
    whole = _seconds(lambda: fast.image(one, probe, detector, view), 3)
    seen = fast.scatterers(one, probe, detector, view)
    columns = [torch.from_numpy(a) for a in (seen.xy_A, seen.amplitude_A2, seen.width_A)]
    at = frequencies(view, probe.cutoff_per_A, probe.reach_A)
    through = transfer(probe, *at.plane)
    known = _seconds(lambda: draw(through * spectrum(*columns, at), at, view), 5)
    single = frequencies(view, probe.cutoff_per_A, probe.reach_A, like=torch.zeros(1))
    light = through.to(torch.complex64)
    many = [c.float().expand(32, *c.shape).contiguous() for c in columns]
    batched = _seconds(lambda: draw(light * spectrum(*many, single), single, view), 3) / 32
    return whole, known, batched


def _prism(one: Specimen, case: Case, view: View) -> tuple[float, float, int, int]:
    """CPU time to build the matrix of one configuration, and per position; on how many; the interpolation.

    The window is the same in any field: the time per position is the difference of two scans of a field of two windows.
    """
    from stemfit.simulate import multislice, prism

    window = multislice.window_of(case.probe)
    optics = multislice._optics(case.probe, case.detector_mrad, 0.0, 0.0)

    def spent(side_A: float, tiles: int) -> tuple[float, int]:
        grid = prism.grid_for(optics, side_A, window)
        atoms = one.around(view, multislice.FADE_A + window / 2)
        inside = (np.abs(atoms.xyz_A[:, :2]) < grid.box_A / 2).all(1)
        xyz, numbers = atoms.xyz_A[inside], atoms.numbers[inside]
        layer, heights = multislice.slices(xyz[:, 2])
        start = grid.n // 2 // prism.TILE * prism.TILE
        wanted = np.zeros((grid.n, grid.n), dtype=bool)
        wanted[start : start + prism.TILE, start : start + tiles * prism.TILE] = True
        begin = time.process_time()
        slices = multislice._transmission(numbers, xyz[:, :2] + grid.box_A / 2, layer, optics, grid)
        prism.scan(slices, (-np.diff(heights)).tolist(), optics, grid, wanted)
        return time.process_time() - begin, grid.n * grid.factor // grid.window

    spent(2 * window, 1)  # plans transforms
    tile = prism.TILE**2
    each_s = (spent(2 * window, 4)[0] - spent(2 * window, 1)[0]) / (3 * tile)
    whole_s, interpolation = spent(max(view.size_A) + multislice.FADE_A + window, 1)
    return whole_s - tile * each_s, each_s, 3 * tile, interpolation


def _multislice(one: Specimen, case: Case) -> tuple[float, int]:
    """CPU time per position of our multislice in one configuration, and on how many."""
    from stemfit.simulate import multislice

    optics = multislice._optics(case.probe, case.detector_mrad, 0.0, 0.0)
    grid = multislice.grid_for(optics, multislice.WINDOW_A)
    atoms = one.around(View(PIXEL_A, (60, 60)), multislice.WINDOW_A)
    inside = (np.abs(atoms.xyz_A[:, :2]) < grid.box_A / 2).all(1)
    xyz = atoms.xyz_A[inside]
    layer, heights = multislice.slices(xyz[:, 2])
    slices = multislice._transmission(atoms.numbers[inside], xyz[:, :2] + grid.box_A / 2, layer, optics, grid)
    wanted = np.zeros((grid.n, grid.n), dtype=bool)
    wanted[:10, :20] = True
    spent = []
    for _ in range(2):
        start = time.process_time()
        multislice._scan(slices, (-np.diff(heights)).tolist(), optics, grid, wanted)
        spent.append(time.process_time() - start)
    return min(spent) / wanted.sum(), int(wanted.sum())


if __name__ == "__main__":
    main()
