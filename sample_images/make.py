"""Remake the sample images: ``OMP_NUM_THREADS=1 python sample_images/make.py [--cache DIR] [NAME ...]``.

Needs the development extras (abTEM, CHGNet). Each field takes a few minutes on one core; the scattered fractions are
kept in the cache folder, so that a change of dose or drift does not cost a new multislice run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from ase.data import atomic_numbers
from fields import FIELDS, MARGIN, Field
from numpy.typing import NDArray
from structures import Layout, layout

from definet.crystals import host
from stemfit.simulate import multislice
from stemfit.synthetic import Recording, acquire, cell_vectors, fit_cell

HERE = Path(__file__).parent
SEAM_A = 4.0  # the periodic box cuts the crystal here, outside the image


class Scattered(NamedTuple):
    """Atoms of a field and the scattered fraction of the beam over its periodic box."""

    atoms: Layout
    grid: multislice.Grid
    fraction: NDArray[np.float64]


class Rendered(NamedTuple):
    """What the beam sees of a field: atoms, columns, the noise-free image and its value at a metal column."""

    atoms: Layout
    columns: dict[str, NDArray[np.generic]]
    ideal: NDArray[np.float64]
    brightest: float


def main() -> None:
    """Make the named fields, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(field.name for field in FIELDS)}; default all")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "stemfit-sample-images")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    wanted = [field for field in FIELDS if not arguments.names or field.name in arguments.names]
    if not wanted:
        sys.exit(f"no such field: {arguments.names}")
    for field in wanted:
        make(field, arguments.cache)
        print(field.name, flush=True)


def make(field: Field, cache: Path) -> None:
    """Render one field, record it and write image and truth."""
    write(field, *record(field, render(field, cache)), HERE)


def render(field: Field, cache: Path) -> Rendered:
    """Noise-free image of one field, margin included."""
    atoms, grid, fraction = scatter(field, cache)
    ideal = multislice.resample(fraction, grid, field.pixel_A, (field.size + 2 * MARGIN,) * 2, field.source_fwhm_A)
    return with_columns(field, atoms, ideal)


def scatter(field: Field, cache: Path, reach_A: float = math.inf) -> Scattered:
    """Multislice of one field up to `reach_A` from its middle; `cache` keeps relaxations and scattered fractions."""
    grid = multislice.grid_for(field.optics, (field.size + 2 * MARGIN) * field.pixel_A + 2 * SEAM_A, reach_A)
    atoms = atoms_of(field, grid.box_A, cache)
    return Scattered(atoms, grid, _fraction(field, atoms, grid, cache))


def atoms_of(field: Field, box_A: float, cache: Path) -> Layout:
    """All atoms of a field in a box of this side, and beyond."""
    reach = int(0.95 * box_A / host(field.host).a_exp_A) + 2
    return layout(field.host, field.defects, reach, cache, field.displaced)


def with_columns(field: Field, atoms: Layout, ideal: NDArray[np.float64]) -> Rendered:
    """Noise-free image together with the columns in it."""
    columns = _columns(field, atoms)
    return Rendered(atoms, columns, ideal, _metal_peak(field, ideal, columns))


def record(field: Field, seen: Rendered) -> tuple[Recording, dict[str, object]]:
    """Put dose, scan errors and electronics on a rendered field; the image and its truth."""
    recording = acquire(seen.ideal / seen.brightest, field.acquisition, field.seed)
    return recording, _truth(field, seen.atoms, seen.columns, recording, seen.brightest)


def _fraction(field: Field, atoms: Layout, grid: multislice.Grid, cache: Path) -> NDArray[np.float64]:
    """Scattered fraction on the scan grid, from the cache if the same atoms and optics were rendered before."""
    xy = to_xy_A(field, atoms.uv) + grid.box_A / 2
    inside = np.all((xy >= 0) & (xy < grid.box_A), axis=1)
    facts = host(field.host)
    spacing = float(np.ptp([atom.z_A for atom in facts.basis]) / 2) or 2.0  # a flat host is one slice of any height
    key = np.array([*atoms.number[inside], *xy[inside].ravel().round(4)])
    stored = cache / f"{field.name}.npz"
    if stored.exists():
        found = np.load(stored)
        if str(found["optics"]) == f"{field.optics}{grid}" and np.array_equal(found["key"], key):
            return np.asarray(found["fraction"])
    fraction = multislice.adf_image(
        atoms.number[inside], xy[inside][:, ::-1], atoms.layer[inside], spacing, field.optics, grid, field.seed
    )
    np.savez(stored, fraction=fraction, key=key, optics=f"{field.optics}{grid}")
    return fraction


def _cell(field: Field) -> NDArray[np.float64]:
    """Columns a, b as displayed (y downwards), Angstrom."""
    return np.column_stack(cell_vectors(host(field.host).a_exp_A, field.rotation_deg))


def to_xy_A(field: Field, uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """Crystal coordinates to displayed (x, y) from the middle of the field; polarity -1 is turned by 180 degrees."""
    return np.asarray(np.array(field.origin_A) + field.polarity * uv @ _cell(field).T)


def _to_ideal_px(field: Field, uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """Crystal coordinates to pixels of the noise-free array."""
    return to_xy_A(field, uv) / field.pixel_A + (field.size + 2 * MARGIN - 1) / 2


def _columns(field: Field, atoms: Layout) -> dict[str, NDArray[np.generic]]:
    """Atoms grouped into columns: mean relaxed position, species, ideal crystal coordinates."""
    sites, member = np.unique(np.round(3 * atoms.ideal).astype(int), axis=0, return_inverse=True)
    count = np.bincount(member.ravel())
    uv = np.column_stack([np.bincount(member.ravel(), axis) / count for axis in atoms.uv.T])
    elements = {atom.element for atom in host(field.host).basis}
    symbol = {atomic_numbers[element]: element for element in elements}
    number = np.zeros(len(sites), int)
    number[member.ravel()] = atoms.number
    species = np.array([symbol[z] + ("2" if n == 2 else "") for z, n in zip(number, count, strict=True)])
    return {"xy": _to_ideal_px(field, uv), "species": species, "thirds": sites}


def _site(field: Field, thirds: NDArray[np.int64]) -> list[object]:
    """[i, j, sublattice] in the contract's convention of a site given in thirds of the cell vectors, polarity +1."""
    first, second = ("M", "X") if len(host(field.host).basis) == 3 else ("A", "B")
    kind = int(thirds[0]) % 3
    i, j = (int(t) // 3 for t in thirds)
    letter = {0: first, 1: second, 2: "H"}[kind]
    if field.polarity < 0:
        i, j = (-i, -j) if kind == 0 else (-i - 1, -j - 1)
    return [i, j, letter]


def _metal_peak(field: Field, ideal: NDArray[np.float64], columns: dict[str, NDArray[np.generic]]) -> float:
    """Median value at the columns of the first sublattice that lie in the image."""
    at = np.round(columns["xy"][np.all(columns["thirds"] % 3 == 0, axis=1)]).astype(int)
    at = at[np.all((at >= MARGIN) & (at < MARGIN + field.size), axis=1)]
    return float(np.median(ideal[at[:, 1], at[:, 0]]))


def _truth(
    field: Field, atoms: Layout, columns: dict[str, NDArray[np.generic]], recording: Recording, brightest: float
) -> dict[str, object]:
    scan, facts = recording.scan, host(field.host)
    thirds = columns["thirds"]
    ideal_sites = thirds[np.all(thirds % 3 != 2, axis=1)]
    carried = scan.to_image(_to_ideal_px(field, ideal_sites / 3))
    seen = np.all((carried >= 0) & (carried <= field.size - 1), axis=1)
    labels = [_site(field, t) for t in ideal_sites[seen]]
    second = np.array([label[2] in ("X", "B") for label in labels])
    a, b, origin = fit_cell(np.array([label[:2] for label in labels]), second, carried[seen], field.polarity)
    iso = np.sqrt(2 * abs(a[0] * b[1] - a[1] * b[0]) / np.sqrt(3))
    how = field.acquisition
    return {
        "schema": "stemfit.sample/1",
        "image": f"{field.name}.tif",
        "simulated": "by abTEM multislice; not a photograph of anything",
        "host": field.host,
        "pixel_size_A": field.pixel_A,
        "lattice_pixel_size_A": round(facts.a_exp_A / iso, 6),
        "stated_pixel_size_A": None if field.stated_scale is None else round(field.pixel_A * field.stated_scale, 6),
        "a_A": facts.a_exp_A,
        "a_px": _rounded(a), "b_px": _rounded(b), "origin_px": _rounded(origin),
        "polarity": field.polarity,
        "optics": {
            "voltage_kV": field.optics.energy_eV / 1e3, "convergence_mrad": field.optics.semiangle_mrad,
            "detector_mrad": [field.optics.inner_mrad, field.optics.outer_mrad],
            "aberrations_A": field.optics.aberrations, "source_fwhm_A": field.source_fwhm_A,
            "thermal_rms_A": field.optics.thermal_A,
        },
        "dose": {
            "electrons_at_metal_peak": how.counts,
            "electrons_per_A2": round(how.counts / brightest / field.pixel_A**2, -3),
            "scattered_fraction_at_metal_peak": round(brightest, 6),
            "gain": recording.gain, "offset": recording.offset,
            "read_sigma_electrons": how.read_sigma / how.gain,
            "background_of_metal_peak": how.background,
        },
        "scan": {
            "jitter_rms_A": round(how.jitter_px * field.pixel_A, 4), "drift_px": list(how.drift_px),
            "distortion_rms_px": how.distortion_px,
        },
        "defects": _defects(field, atoms, scan),
        "relaxation": _distinct(atoms.minima),
        "columns": _column_rows(field, columns, scan),
    }


def _defects(field: Field, atoms: Layout, scan: object) -> list[dict[str, object]]:
    rows = []
    for placed, emptied, arrived in zip(field.defects, atoms.emptied, atoms.arrived, strict=True):
        uv = np.array([row[:2] for row in emptied] + list(arrived))
        extent = scan.to_image(_to_ideal_px(field, uv))
        rows.append({
            "type": _type(placed.label), "label": placed.label, "center_px": _rounded(extent.mean(0)),
            "sites": [_site(field, np.round(3 * p).astype(int)) for p in uv],
            "extent_px": [_rounded(p) for p in extent],
            "atoms_missing": [row[3] for row in emptied] + [-2] * len(arrived),
            "layer": placed.layer,
        })
    return rows


def _type(label: str) -> str:
    if label.startswith("T"):
        return "TREFOIL"
    if "VL-" in label:
        return "LINE"
    return "DV" if label.endswith("2") else "SV"


def _column_rows(field: Field, columns: dict[str, NDArray[np.generic]], scan: object) -> list[list[object]]:
    """[x_px, y_px, species, i, j, sublattice] of every column in the image, at its relaxed position."""
    at = scan.to_image(columns["xy"])
    seen = np.all((at >= 0) & (at <= field.size - 1), axis=1)
    return [
        [*_rounded(p), str(s), *_site(field, t)]
        for p, s, t in zip(at[seen], columns["species"][seen], columns["thirds"][seen], strict=True)
    ]


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]


def _distinct(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return list({str(row): row for row in rows}.values())


def write(field: Field, recording: Recording, truth: dict[str, object], folder: Path) -> None:
    """Image as TIFF and truth as JSON, named after the field."""
    stated = truth["stated_pixel_size_A"]
    scale = {} if stated is None else {"resolution": (10 / stated, 10 / stated), "metadata": {"unit": "nm"}}
    tifffile.imwrite(folder / f"{field.name}.tif", recording.image, imagej=stated is not None, **scale)
    text = json.dumps(truth, indent=1)
    lines = text.split('"columns": [')[0] + '"columns": [\n  '
    lines += ",\n  ".join(json.dumps(row) for row in truth["columns"]) + "\n ]\n}\n"
    (folder / f"{field.name}.json").write_text(lines)


if __name__ == "__main__":
    main()
