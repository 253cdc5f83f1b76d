"""Is the table of column brightness true? Columns of every type by multislice, alone and in crystals.

The reference shares nothing with the table but the physics: abTEM multislice with Kirkland's parametrisation of the
atoms, the table being made of Lobato's phase objects; voltages, apertures and detectors between the table's; thermal
displacements drawn anew. Every column is fitted as an analysis does it, with the image of the probe and one width for
all columns, and its brightness is compared to that of the host's metal column; of unlike atoms in a column the mean of
both orders counts. Beside the table: its kernels, each column fitted with a width of its own; atoms that add up without
coherence; and the exponent 1.75 of the atomic number.

Run: ``python benchmarks/column_brightness.py FOLDER [condition ...]`` (abTEM, a development extra); about five minutes
per condition on one core. FOLDER keeps the images.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import headline, table
from numpy.typing import NDArray
from scipy.special import j0

from stemfit.optics.electron import wavelength_A
from stemfit.optics.scattering import COMMON_WIDTH_A, column_elements, kernel, ratio

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # abTEM's imports are not ours
    import abtem
    from ase.data import atomic_numbers

    from stemfit.simulate import multislice

FloatArray = NDArray[np.float64]


class Condition(NamedTuple):
    """Microscope and specimen."""

    voltage_kV: float
    convergence_mrad: float
    detector_mrad: tuple[float, float]
    thermal_A: float

    @property
    def name(self) -> str:
        """As a file name."""
        low, high = self.detector_mrad
        return f"{self.voltage_kV:g}kV-{self.convergence_mrad:g}-{low:g}-{high:g}"


CONDITIONS = (
    Condition(60.0, 33.0, (52.0, 145.0), 0.07),
    Condition(80.0, 27.0, (85.0, 190.0), 0.07),
    Condition(60.0, 31.5, (43.0, 104.0), 0.07),
    Condition(80.0, 28.0, (41.0, 97.0), 0.07),
    Condition(70.0, 28.0, (65.0, 170.0), 0.06),
)
"""HAADF and MAADF at 60 and 80 kV, and one between."""

HEIGHT_A = {"O": 1.10, "S": 1.565, "Se": 1.68, "Te": 1.81}


class Host(NamedTuple):
    """Lattice constant, elements of its two columns, and what stands in their places."""

    a_A: float
    metal: str
    other: str
    on_metal: tuple[str, ...]
    on_other: tuple[str, ...]


HOSTS = {
    "MoS2": Host(3.16, "Mo", "S2", ("W", "Nb", "V", "Cr", "Re", "Mo2"),
                 ("S", "OS", "SSe", "Se2", "STe", "MoS", "Se", "Te2", "O2")),
    "WSe2": Host(3.28, "W", "Se2", ("Mo", "Nb", "V", "Re", "W2"), ("Se", "SSe", "S2", "SeTe", "SeW", "OSe", "Te2")),
    "graphene": Host(2.46, "C", "C", ("B", "N", "O", "Si"), ()),
    "hBN": Host(2.504, "B", "N", ("C", "Si"), ("C", "O")),
}  # fmt: skip
SINGLES = ("Mo", "W", "Nb", "V", "Cr", "Re", "O", "S", "Se", "Te", "B", "C", "N", "Si")
PAIRS = ("S2", "Se2", "Te2", "O2", "OS", "OSe", "SSe", "STe", "SeTe", "MoS", "SeW", "Mo2", "W2", "Ga2", "In2")
REFERENCE = {"B": "C", "C": "C", "N": "C", "O": "C", "Si": "C"}
"""Of isolated columns: molybdenum for the others."""

SCANNED_A, CLUSTER_A = 2.8, 9.0


def stack(column: str, host: Host | None) -> list[tuple[str, float]]:
    """Elements of a column and their heights, A."""
    atoms = column_elements(column)
    if len(atoms) == 1:
        above = HEIGHT_A.get(atoms[0], 0.0) if host and host.other.endswith("2") and atoms[0] in HEIGHT_A else 0.0
        return [(atoms[0], above)]
    metals = [a for a in atoms if a not in HEIGHT_A]
    if len(metals) == 2:
        gap = {"Ga": 2.471, "In": 2.834}.get(atoms[0], 2.4)
        return [(metals[0], gap / 2), (metals[1], -gap / 2)]
    if metals:
        chalcogen = next(a for a in atoms if a in HEIGHT_A)
        return [(metals[0], HEIGHT_A[chalcogen] / 2), (chalcogen, -HEIGHT_A[chalcogen])]
    return [(atoms[0], HEIGHT_A[atoms[0]]), (atoms[1], -HEIGHT_A[atoms[1]])]


def crystal(host: Host, column: str, on: str) -> list[tuple[str, FloatArray]]:
    """Columns (type, position) of a piece of crystal with this column in the middle."""
    a = np.array([[1.0, 0.0], [0.5, math.sqrt(0.75)]]) * host.a_A
    steps = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 2, indexing="ij"), -1).reshape(-1, 2) @ a
    third = (a[0] + a[1]) / 3
    columns = [(host.metal, at) for at in steps] + [(host.other, at + third) for at in steps]
    middle = np.zeros(2) if on == "metal" else third
    near = [(kind, at - middle) for kind, at in columns if np.hypot(*(at - middle)) < CLUSTER_A]
    return [(column if np.hypot(*at) < 0.1 else kind, at) for kind, at in near]


def image(
    columns: list[tuple[str, FloatArray]], host: Host | None, at: Condition, seed: int, turned: bool
) -> FloatArray:
    """Where the beam was sent, from the middle, and how much of it was scattered: (P, 3)."""
    optics = multislice.Optics(at.voltage_kV * 1e3, at.convergence_mrad, *at.detector_mrad, {}, at.thermal_A)
    grid = multislice.grid_for(optics, 2 * CLUSTER_A + 2.0 if host else 12.5, SCANNED_A)
    off = np.random.default_rng(seed).uniform(0, grid.step_A, 2)
    atoms = [(e, z, xy) for kind, xy in columns for e, z in stack(kind, host)]
    heights = np.array([-z if turned else z for _, z, _ in atoms])
    levels, layer = np.unique(np.round(-heights, 3), return_inverse=True)
    scan = multislice.adf_image(
        np.array([atomic_numbers[e] for e, _, _ in atoms]),
        np.array([xy for _, _, xy in atoms]) + grid.box_A / 2 + off, layer, np.diff(levels), optics, grid, seed,
        parametrization="kirkland",
    )  # fmt: skip
    axis = np.arange(grid.n) * grid.step_A - grid.box_A / 2
    points = np.stack(np.meshgrid(axis - off[0], axis - off[1], indexing="ij"), -1)
    return np.concatenate([points, scan[..., None]], -1)[scan > 0]


@cache
def probe(at: Condition) -> tuple[FloatArray, FloatArray]:
    """Frequencies (1/A) and transfer of the probe that abTEM makes, whose aperture has a soft edge."""
    wave = abtem.Probe(energy=at.voltage_kV * 1e3, semiangle_cutoff=at.convergence_mrad, extent=12.4, gpts=192)
    intensity = np.abs(np.squeeze(wave.build(lazy=False).array)) ** 2
    k = np.hypot(*np.meshgrid(*(np.fft.fftfreq(192, 12.4 / 192),) * 2))
    g = np.arange(0.0, 2.2e-3 * at.convergence_mrad / wavelength_A(at.voltage_kV), 1 / 12.4)
    near = np.abs(k - g[:, None, None]) < 0.5 / 12.4
    transfer = np.abs(np.fft.fft2(intensity)) / intensity.sum()
    return (near * k).sum((1, 2)) / near.sum((1, 2)), (near * transfer).sum((1, 2)) / near.sum((1, 2))


@cache
def profile(at: Condition, width_A: float) -> tuple[FloatArray, FloatArray]:
    """Radii (A) and image of a column of unit integral: aperture, thermal motion, and a Gaussian of this width."""
    frequency, transfer = probe(at)
    g = (np.arange(200) + 0.5) / 200 * frequency[-1]
    passed = np.interp(g, frequency, transfer) * np.exp(-2 * np.pi**2 * (at.thermal_A**2 + width_A**2) * g**2)
    near = np.linspace(0.0, 14.0, 1500)
    return near, j0(2 * np.pi * near[:, None] * g) @ (passed * 2 * np.pi * g * (g[1] - g[0]))


def brightness(
    columns: list[tuple[str, FloatArray]], points: FloatArray, at: Condition, own: bool
) -> float:
    """Integral of the middle column, A^2, all others of a type being equal; `own`: each with the table's width."""
    kinds = {kind: 1 + k for k, kind in enumerate(dict.fromkeys(kind for kind, xy in columns if np.hypot(*xy) > 0.1))}
    rows = np.zeros((len(points), 1 + len(kinds)))
    for kind, xy in columns:
        width = kernel(kind, at.voltage_kV, at.convergence_mrad, at.detector_mrad).width_A if own else COMMON_WIDTH_A
        spot = np.interp(np.hypot(*(points[:, :2] - xy).T), *profile(at, width))
        rows[:, 0 if np.hypot(*xy) < 0.1 else kinds[kind]] += spot
    return float(np.linalg.lstsq(rows, points[:, 2], rcond=None)[0][0])


def cases() -> Iterator[tuple[str, str, str]]:
    """Host ("" for isolated), column in the middle, sublattice."""
    for column in (*SINGLES, *PAIRS):
        yield "", column, ""
    for name, host in HOSTS.items():
        yield from ((name, c, "metal") for c in (host.metal, *host.on_metal))
        yield from ((name, c, "other") for c in ((host.other,) if host.other != host.metal else ()) + host.on_other)


def measured(folder: Path, at: Condition) -> dict[str, list[float]]:
    """Brightness of every case, with the common width and with its own; images are kept in one file each."""
    values = {}
    for seed, (name, column, on) in enumerate(cases()):
        host = HOSTS.get(name)
        columns = crystal(host, column, on) if host else [(column, np.zeros(2))]
        values[f"{name}:{column}:{on}"] = np.mean([
            [brightness(columns, points, at, own) for own in (False, True)]
            for points in images(folder / f"{at.name}-{name or 'alone'}-{column}-{on}.npy", columns, host, at, seed)
        ], 0).tolist()  # fmt: skip
    return values


def images(
    path: Path, columns: list[tuple[str, FloatArray]], host: Host | None, at: Condition, seed: int
) -> Iterator[FloatArray]:
    """Of one case, and of a column of unlike atoms the same turned over: which of them is on top shows."""
    middle = next(kind for kind, xy in columns if np.hypot(*xy) < 0.1)
    for turned in (False, True)[: len(set(column_elements(middle)))]:
        kept = path.with_stem(path.stem + turned * "turned")
        if not kept.exists():
            np.save(kept.with_suffix(".tmp.npy"), image(columns, host, at, seed, turned))
            kept.with_suffix(".tmp.npy").rename(kept)
            print(kept.stem, file=sys.stderr, flush=True)
        yield np.load(kept)


class Row(NamedTuple):
    """Relative errors of one column under one condition: of the table, its kernels, atoms that add up, and Z^1.75."""

    host: str
    column: str
    value: float
    errors: tuple[float, ...]
    stated: float


def judged(known: dict[str, list[float]], at: Condition) -> list[Row]:
    """Every case against its reference."""
    rows = []
    for name, column, on in cases():
        host = HOSTS.get(name)
        reference, under = (host.metal, "metal") if host else (REFERENCE.get(column, "Mo"), "")
        if (column, on) == (reference, under):
            continue
        both = zip(known[f"{name}:{column}:{on}"], known[f"{name}:{reference}:{under}"], strict=True)
        one_width, own_width = (a / b for a, b in both)
        value, sigma = _ratio(column, reference, at)
        own, of_reference = (
            kernel(c, at.voltage_kV, at.convergence_mrad, at.detector_mrad).amplitude_A2 for c in (column, reference)
        )
        apart = sum(_ratio(e, reference, at)[0] for e in column_elements(column))
        power = sum((atomic_numbers[e] / atomic_numbers[reference]) ** 1.75 for e in column_elements(column))
        off = (value / one_width, own / of_reference / own_width, apart / one_width, power / one_width)
        rows.append(Row(name or "alone", column, one_width, tuple(x - 1 for x in off), sigma))
    return rows


def _ratio(column: str, reference: str, at: Condition) -> tuple[float, float]:
    return ratio(column, reference, at.voltage_kV, at.detector_mrad, at.convergence_mrad)


def mean_line(rows: Sequence[Row], name: str, host: str) -> list[str]:
    """Mean absolute error of some columns, the worst of them, and the rms error in standard errors."""
    off = 100 * np.array([row.errors for row in rows])
    worst = max(rows, key=lambda row: abs(row.errors[0]))
    pull = np.sqrt(np.mean([(math.log1p(row.errors[0]) / row.stated) ** 2 for row in rows if row.stated]))
    means = (f"{x:.1f}" for x in np.abs(off).mean(0))
    return [name, host, str(len(rows)), *means, f"{worst.column} {100 * worst.errors[0]:+.1f}", f"{pull:.2f}"]


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [at for at in CONDITIONS if not sys.argv[2:] or at.name in sys.argv[2:]]
    by = {at: judged(measured(folder, at), at) for at in wanted}
    print(headline(), "\n")
    head = ["host", "column", *(f"{at.name}: true, table %" for at in wanted), "mean", "rms"]
    lines = []
    for same in zip(*by.values(), strict=True):
        off = np.array([row.errors[0] for row in same]) * 100
        each = (f"{row.value:.3f} {100 * row.errors[0]:+.1f}" for row in same)
        lines.append([same[0].host, same[0].column, *each, f"{off.mean():+.1f}", f"{np.sqrt((off**2).mean()):.1f}"])
    print(table(head, lines), "\n")
    hosts = dict.fromkeys(row.host for row in next(iter(by.values())))
    lines = [mean_line([r for r in rows if r.host == host], at.name, host) for at, rows in by.items() for host in hosts]
    lines += [mean_line([r for rows in by.values() for r in rows if r.host == host], "all", host) for host in hosts]
    head = ["condition", "host", "columns", "table", "kernels", "atoms apart", "Z^1.75", "worst", "error / sigma"]
    print(table(head, lines))


if __name__ == "__main__":
    main()
