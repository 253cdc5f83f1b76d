"""The lattice of images with known cell, under what scans and samples do to it.

MX2 honeycombs at 0.12 A/px (`honeycombs`), metal 100 or 10 counts, no two images turned alike. The true cell is the
affine one that fits the true columns best, those under a blot left out: smooth distortion belongs to no cell.

- **cell px, %**: the larger error of the two cell vectors, worst of the images. **in sigma**: rms of the four
  components over their stated errors.
- **residual**: rms per axis of the columns about the sites, in brackets over the errors stated for the columns. Jitter
  of rows moves columns by more than those.
- **sites pm**: rms distance per axis of the sites from where the true columns are.
- **pixel %**: error of the pixel size; in brackets over the stated error, and over the part of it that is not allowed
  for the strain of real monolayers, of which there is none here.
- **named**: true sites off the blot that have a site of the right sublattice within a quarter of the lattice constant.
- **analysed**: share of the sites that is analysed, off and on the blot.

Beside it what the peaks of the Fourier transform say, told roughly where they are; and the zone axes of atomap's metal
sublattice.

Run: ``python benchmarks/lattice.py [--quick] [--seeds 2] [--counts 100 10] [--tools ours fft atomap]``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import ours
import peers
from honeycombs import LATTICE_A, PIXEL_A, BoolArray, FloatArray, Recipe, Scan, Scene, make
from machine import Run, headline, process, table
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

SIZE_PX = (512, 640)
JITTER_PX = 0.1 / PIXEL_A
WORST: dict[str, Any] = {"anisotropy": 1.2, "strain": 0.02, "jitter_px": JITTER_PX, "missing": 0.1}

SCANS = {
    "ideal": Scan(),
    "anisotropy 1.2": Scan(anisotropy=1.2),
    "row jitter 0.1 A": Scan(jitter_px=JITTER_PX),
    "smooth strain up to 2 %": Scan(strain=0.02),
    "10 % missing": Scan(missing=0.1),
    "hole 40 %": Scan(blot="hole", blot_area=0.4),
    "contamination 40 %": Scan(blot="contamination", blot_area=0.4),
    "all but blots": Scan(**WORST),
    "all, hole 25 %": Scan(**WORST, blot="hole", blot_area=0.25),
    "all, hole 40 %": Scan(**WORST, blot="hole", blot_area=0.4),
    "all, contamination 40 %": Scan(**WORST, blot="contamination", blot_area=0.4),
}
QUICK = ("ideal", "all but blots", "all, hole 40 %", "all, contamination 40 %")


def scene(scan: Scan, counts: float, seed: int) -> Scene:
    """Image of whole columns on their sites, but for what the scan does; its anisotropy has another axis each time."""
    rng = np.random.default_rng([seed, 3])
    turned = Scan(**{**vars(scan), "axis_deg": float(rng.uniform(0, 180))})
    return make(Recipe(
        SIZE_PX, counts, "core + wide tail", ratio=rng.uniform(0.34, 0.42), rotation_deg=rng.uniform(0, 60),
        background=rng.uniform(0.08, 0.2), displaced_A=0.0, scan=turned, seed=seed,
    ))  # fmt: skip


def true_cell(image: Scene) -> FloatArray:
    """Rows a, b of the affine cell that fits the visible columns."""
    seen = image.inside(0) & image.clear & (image.share > 0)
    design = np.column_stack([np.ones(seen.sum()), image.cell_index[seen]])
    return np.asarray(np.linalg.lstsq(design, image.xy[seen], rcond=None)[0][1:])


# -- who says what of the cell -------------------------------------------------------------------------------------


def from_ours(image: FloatArray, hint: FloatArray) -> ours.Crystal:
    """Told nothing but that it is MoS2."""
    return ours.stages(image, imaging=False)[2]


ORDERS = np.array([[1, 0], [0, 1], [1, -1], [1, 1], [2, -1], [1, -2]])


def from_fft(image: FloatArray, hint: FloatArray) -> FloatArray:
    """Cell by least squares from six peaks of the Hann-windowed transform, each the strongest near a known one.

    Near means within 6 % of the first-order frequency; a parabola through the logarithm of three bins refines.
    """
    h, w = image.shape
    flat = (image - gaussian_filter(image, min(h, w) / 10)) * np.outer(np.hanning(h), np.hanning(w))
    size = np.array([4 * w, 4 * h])  # padded, so that bins are narrower than peaks
    power = np.log(np.abs(np.fft.fft2(flat, (4 * h, 4 * w))) ** 2 + 1e-12)
    expected = ORDERS @ np.linalg.inv(hint).T
    peaks = [peak_near(power, k * size, 0.06 * float(np.hypot(*expected[0])) * size) / size for k in expected]
    reciprocal = np.linalg.lstsq(ORDERS.astype(float), np.array(peaks), rcond=None)[0]
    return np.asarray(np.linalg.inv(reciprocal).T)


def peak_near(power: FloatArray, bins: FloatArray, reach: FloatArray) -> FloatArray:
    """Position (x, y) in bins of the highest value within reach."""
    x, y = (np.arange(np.floor(c - r), np.ceil(c + r) + 1).astype(int) for c, r in zip(bins, reach, strict=True))
    h, w = power.shape
    cut = power[np.ix_(y % h, x % w)]
    row, col = np.unravel_index(int(np.argmax(cut)), cut.shape)
    at = np.array([x[col], y[row]])
    (cx, cy), steps = at, (-1, 0, 1)
    along_x, along_y = power[cy % h, [(cx + s) % w for s in steps]], power[[(cy + s) % h for s in steps], cx % w]
    return np.asarray(at + np.array([vertex(along_x), vertex(along_y)]))


def vertex(values: FloatArray) -> float:
    """Where the parabola through values at -1, 0, 1 has its top."""
    return float(0.5 * (values[0] - values[2]) / (values[0] - 2 * values[1] + values[2]))


def from_atomap(image: FloatArray, hint: FloatArray) -> FloatArray:
    """Cell by least squares from the zone axes of the metal columns, each given its known indices.

    The metals are the maxima at least 0.6 a apart and brighter than half; centres of mass refine them.
    """
    a = float(np.hypot(*hint.T).min())
    sublattice = peers.atomap_sublattice(image, 0.15 * a, 0.6 * a, 0.5)
    with peers.quiet():
        sublattice.refine_atom_positions_using_center_of_mass(show_progressbar=False)
        sublattice.construct_zone_axes()
    vectors = np.array(sublattice.zones_axis_average_distances)
    orders = np.rint(vectors @ np.linalg.inv(hint))
    short = (np.abs(orders).max(1) <= 1) & (np.abs(orders).max(1) > 0)
    if np.linalg.matrix_rank(orders[short]) < 2:
        raise ValueError("no two zone axes of the lattice")
    return np.asarray(np.linalg.lstsq(orders[short], vectors[short], rcond=None)[0])


class Tool(NamedTuple):
    """How a tool is called, with the image and the true cell, and what it imports first."""

    cell: Callable[[FloatArray, FloatArray], FloatArray | ours.Crystal]
    prepare: Callable[[], None] | None = None


TOOLS = {"ours": Tool(from_ours), "fft": Tool(from_fft), "atomap": Tool(from_atomap, peers.import_atomap)}


def attempt(name: str, image: FloatArray, hint: FloatArray) -> FloatArray | ours.Crystal | str:
    """What the tool says, or what went wrong."""
    try:
        return TOOLS[name].cell(image, hint)
    except ImportError:
        raise
    except Exception as error:  # said in the table; the other images still have their turn
        return f"{type(error).__name__}: {error}"


# -- against the truth ---------------------------------------------------------------------------------------------


def cell_error(cell: FloatArray, true: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Error (2, 2) of rows a, b against the true lattice vectors next to them, and these; nan for another lattice."""
    whole = np.rint(cell @ np.linalg.inv(true))
    if abs(round(float(np.linalg.det(whole)))) != 1:
        return np.full((2, 2), np.nan), true
    return cell - whole @ true, whole @ true


def pixel_A(cell: FloatArray) -> float:
    """Pixel size from the area of the cell."""
    return float(LATTICE_A / np.sqrt(2 * abs(np.linalg.det(cell)) / np.sqrt(3)))


class Sites(NamedTuple):
    """Named sites against the true ones: counts, and the offsets (K, 2) of those that have the right name, px."""

    named: int
    true: int
    analysed: float
    analysed_blot: float
    offset: FloatArray


def sites(image: Scene, said: ours.Crystal) -> Sites:
    """Compare the sites well inside the frame."""
    inner = image.inside(LATTICE_A / PIXEL_A)
    distance, near = cKDTree(said.xy).query(image.xy)
    right = (distance < 0.25 * LATTICE_A / PIXEL_A) & (said.metal[near] == image.metal)
    used = said.analysed[near]
    clear, blot = inner & image.clear, inner & ~image.clear
    return Sites(
        int(right[clear].sum()), int(clear.sum()), share(used[clear]), share(used[blot]),
        said.xy[near][clear & right] - image.xy[clear & right],
    )  # fmt: skip


def share(flags: BoolArray) -> float:
    return float(flags.mean()) if flags.size else float("nan")


def rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


# -- the table -----------------------------------------------------------------------------------------------------

HEAD = (
    "scan", "counts", "tool", "cell px", "cell %", "in sigma", "residual pm (sigma)", "sites pm",
    "pixel % (sigma, fit's)", "named", "analysed off, on blot", "CPU s",
)  # fmt: skip


def row(
    case: tuple[str, float], name: str, images: Sequence[Scene], runs: Sequence[Run[FloatArray | ours.Crystal | str]]
) -> tuple[str, ...]:
    """All images of a kind in one line of the table."""
    start, cpu = (case[0], f"{case[1]:g}", name), f"{np.mean([run.cpu_s for run in runs]):.2f}"
    failed = [run.outcome for run in runs if isinstance(run.outcome, str)]
    if failed:
        return (*start, "failed", *["-"] * (len(HEAD) - 5), cpu)
    cells = [run.outcome.cell if isinstance(run.outcome, ours.Crystal) else run.outcome for run in runs]
    pairs = [cell_error(np.asarray(cell), true_cell(image)) for cell, image in zip(cells, images, strict=True)]
    px = max(float(np.hypot(*error.T).max()) for error, _ in pairs)
    part = max(float((np.hypot(*error.T) / np.hypot(*true.T)).max()) for error, true in pairs)
    error = ("another lattice", "-") if np.isnan(px) else (f"{px:.3f}", f"{100 * part:.3f}")
    said = [run.outcome for run in runs if isinstance(run.outcome, ours.Crystal)]
    if said:
        return (*start, *error, *only_ours(images, said, [e for e, _ in pairs]), cpu)
    off = [pixel_A(np.asarray(cell)) / pixel_A(true_cell(i)) - 1 for cell, i in zip(cells, images, strict=True)]
    return (*start, *error, "-", "-", "-", f"{100 * rms(np.array(off)):.3f}", "-", "-", cpu)


def only_ours(images: Sequence[Scene], said: Sequence[ours.Crystal], errors: Sequence[FloatArray]) -> tuple[str, ...]:
    """Cells of the table that only our lattice fills."""
    in_sigma = rms(np.concatenate([error / one.cell_sigma for error, one in zip(errors, said, strict=True)]))
    residual = rms(np.array([one.residual_px for one in said]))
    over = rms(np.array([one.residual_px / one.column_sigma_px for one in said]))
    found = [sites(image, one) for image, one in zip(images, said, strict=True)]
    offsets = np.concatenate([each.offset for each in found])
    place = f"{100 * PIXEL_A * rms(offsets):.1f}" if len(offsets) else "-"
    off = np.array([one.pixel_A - pixel_A(true_cell(image)) for image, one in zip(images, said, strict=True)])
    stated, fit = (
        rms(off / np.array([getattr(one, which) for one in said])) for which in ("pixel_sigma_A", "pixel_fit_sigma_A")
    )
    named = sum(each.named for each in found) / sum(each.true for each in found)
    used, on_blot = (float(np.mean([getattr(each, k) for each in found])) for k in ("analysed", "analysed_blot"))
    return (
        f"{in_sigma:.2f}", f"{100 * PIXEL_A * residual:.1f} ({over:.2f})", place,
        f"{100 * rms(off) / PIXEL_A:.3f} ({stated:.2f}, {fit:.2f})", f"{named:.4f}",
        f"{used:.3f}, {'-' if np.isnan(on_blot) else f'{on_blot:.3f}'}",
    )  # fmt: skip


@contextmanager
def processes(names: Sequence[str]) -> Iterator[tuple[dict[str, Callable[..., Run[Any]]], list[str]]]:
    """One process for each tool that is there, and remarks about those that are not."""
    from contextlib import ExitStack

    runners, remarks = {}, []
    with ExitStack() as stack:
        for name in names:
            runner = stack.enter_context(process(ours.MODULES if name == "ours" else ("scipy.ndimage",)))
            try:
                runner(TOOLS[name].prepare or str)
                runners[name] = runner
            except ImportError as error:
                remarks.append(f"{name}: not run, {error}")
        yield runners, remarks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"one seed, 100 counts, and only: {'; '.join(QUICK)}")
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--counts", nargs="+", type=float, help="expected in the peak pixel of a metal column")
    parser.add_argument("--seeds", type=int, help="images of each kind; 2, or 1 with --quick")
    asked = parser.parse_args()
    counts = asked.counts or ([100.0] if asked.quick else [100.0, 10.0])
    rows = []
    with processes(asked.tools) as (runners, remarks):
        for kind, dose in product(QUICK if asked.quick else SCANS, counts):
            print(f"{kind}, {dose:g} counts", file=sys.stderr)
            images = [scene(SCANS[kind], dose, seed) for seed in range(asked.seeds or (1 if asked.quick else 2))]
            for name, run in runners.items():
                runs = [run(attempt, name, image.image, true_cell(image)) for image in images]
                rows.append(row((kind, dose), name, images, runs))
                failed = [each.outcome for each in runs if isinstance(each.outcome, str)]
                remarks += [f"{kind}, {dose:g} counts, {name}: {text}" for text in failed]
    print(headline(), f"{SIZE_PX[1]} x {SIZE_PX[0]} px", sep="; ", end="\n\n")
    print(table(HEAD, rows), *remarks, sep="\n\n")


if __name__ == "__main__":
    main()
