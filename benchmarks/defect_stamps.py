"""Perfect crystals and defects by abTEM multislice, rendered once and kept: the parts of the fields of `defects.py`.

The dark-field image of a perfect layer is a short Fourier series with the periods of the lattice. A defect changes the
image only nearby; its *stamp* is that change on the Nyquist grid of the scan. Fields with any number of defects, at any
place and rotation, follow by adding (`defect_fields.py`, which needs no abTEM). Thermal motion moves the atoms of a
layer together, so that equal columns are equal and a stamp holds nothing but the defect.

Kept per microscope in `data/stamps/NAME.npz`: the series in double precision, each stamp in 16 bits with its own scale
(steps of less than 1e-4 of a metal column), its sites and what is true of them. Where the atoms are: `defect_kinds.py`.

Remake what is missing (needs abTEM; about 10 s to a minute of a core per stamp):
``OMP_NUM_THREADS=1 python benchmarks/defect_stamps.py [--views NAME,...] [--labels V_S,T1]``
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from defect_atoms import Atoms, atoms_of, extra_labels, perfect, together
from defect_kinds import known
from defect_series import Series, frequencies, lattice_xy
from numpy.typing import NDArray

from definet.crystals import host
from stemfit.simulate import multislice
from stemfit.simulate.multislice import Optics

FloatArray = NDArray[np.float64]

STORE = Path(__file__).parent / "data" / "stamps"
NEAR_A, FAR_A = 5.0, 7.5
"""A change is kept up to the first distance from the nearest site of the defect, and gone from the second."""

STIFF = 1.0
"""By how much less where no neighbour moves by more than 0.02 A (most substitutions, adatoms), Angstrom."""

CELLS_A, TRUSTED_A = 14.0, 3.5
"""Side of what is rendered of the perfect crystal, and the radius in which it is scanned: more than a cell."""

WINDOW_A = 6.2
"""Half a window of the multislice: crystal is needed so far around the scan."""


class View(NamedTuple):
    """A host under a microscope; the defects are turned by 120 degrees times `turn` within the crystal."""

    host: str
    optics: Optics
    turn: int


VIEWS = {
    "MoS2-60kV-haadf": View("MoS2", Optics(60e3, 31.0, 70.0, 150.0, {"C10": 6.0, "C12": 6.0, "phi12": 0.6}), 0),
    "WSe2-60kV-maadf": View("WSe2", Optics(60e3, 34.0, 52.0, 140.0, {"C10": -5.0, "C12": 5.0, "phi12": 1.9}), 1),
    "MoSe2-80kV-haadf": View("MoSe2", Optics(80e3, 28.0, 75.0, 150.0, {"C10": 8.0, "C12": 8.0, "phi12": 0.2}), 2),
    "WS2-60kV-maadf": View("WS2", Optics(60e3, 30.0, 50.0, 140.0, {"C10": -6.0, "C12": 4.0, "phi12": 0.9}), 0),
    "MoS2-80kV-maadf": View("MoS2", Optics(80e3, 30.0, 50.0, 140.0, {"C10": -8.0, "C12": 7.0, "phi12": 2.6}), 1),
    "WSe2-80kV-haadf": View("WSe2", Optics(80e3, 29.0, 75.0, 150.0, {"C10": 4.0, "C12": 6.0, "phi12": 1.1}), 2),
    "WS2-80kV-haadf": View("WS2", Optics(80e3, 33.0, 70.0, 150.0, {"C10": 5.0, "C12": 5.0, "phi12": -0.7}), 1),
    "MoSe2-60kV-maadf": View("MoSe2", Optics(60e3, 32.0, 55.0, 140.0, {"C10": -7.0, "C12": 5.0, "phi12": 2.2}), 0),
}


def _render(atoms: Atoms, view: View, grid: multislice.Grid, wanted: NDArray[np.bool_]) -> FloatArray:
    """Scattered fraction of atoms whose (x, y) count from the middle of the box."""
    xy = atoms.xy_A + grid.box_A / 2
    inside = np.all((xy >= 0) & (xy < grid.box_A), axis=1)
    return multislice.adf_image(
        atoms.number[inside], xy[inside][:, ::-1], atoms.layer[inside] - atoms.layer.min(), atoms.spacing_A,
        view.optics, grid, None, wanted,
    )


def _box_xy(grid: multislice.Grid) -> FloatArray:
    axis = np.arange(grid.n) * grid.step_A - grid.box_A / 2
    return np.stack(np.meshgrid(axis, axis), -1)


def series(view: View) -> Series:
    """Fourier series of the perfect layer, metal at the origin."""
    grid = multislice.grid_for(view.optics, CELLS_A + 4.0)
    xy = _box_xy(grid)
    wanted = np.hypot(*np.moveaxis(xy, -1, 0)) < TRUSTED_A
    fraction = _render(perfect(view.host, grid.box_A), view, grid, wanted)
    k = frequencies(view.host, 2.05e-3 * view.optics.semiangle_mrad / view.optics.wavelength_A)
    fitted = Series.fit(k, xy[wanted], fraction[wanted])
    off = np.abs(fitted(xy[wanted]) - fraction[wanted]).max() / fraction[wanted].max()
    if off > 0.004:
        raise RuntimeError(f"the perfect crystal is off its Fourier series by {100 * off:.2f} %")
    return fitted


def stamp(view: View, label: str, crystal: Series) -> dict[str, Any]:
    """What a defect changes, its middle in the middle of the box; sites and truth in crystal coordinates."""
    atoms = atoms_of(view.host, label, view.turn)
    sites = lattice_xy(view.host, atoms.sites_uv)
    middle = (sites.min(0) + sites.max(0)) / 2
    wider = atoms.spread_A - (STIFF if atoms.stiff else 0.0)
    near, far = NEAR_A + wider, FAR_A + wider
    side = 2 * (np.abs(sites - middle).max() + far + WINDOW_A)
    grid = multislice.grid_for(view.optics, side)
    xy = _box_xy(grid)
    distance = np.full(xy.shape[:2], np.inf)
    for site in sites - middle:
        distance = np.minimum(distance, np.hypot(*np.moveaxis(xy - site, -1, 0)))
    wanted = distance < far
    fraction = _render(atoms.around(middle, grid.box_A), view, grid, wanted)
    fade = np.cos(np.pi / 2 * ((distance - near) / (far - near)).clip(0, 1)) ** 2
    change = np.where(wanted, (fraction - crystal(xy + middle)) * fade, 0.0)
    rows, columns = (np.flatnonzero(np.any(wanted, axis=axis)) for axis in (1, 0))
    cut = change[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    corner = xy[rows[0], columns[0]] + middle
    scale = float(np.abs(cut).max()) / 32000
    about = {
        "label": label, "corner_A": corner.tolist(), "step_A": grid.step_A, "scale": scale,
        "sites": [[*map(float, uv), *what] for uv, what in zip(atoms.sites_uv, atoms.truth, strict=True)],
        "relaxed": atoms.relaxed,
    }  # fmt: skip
    return {f"{label}/change": np.round(cut / scale).astype(np.int16), f"{label}/about": json.dumps(about)}


def _save(path: Path, entries: dict[str, Any]) -> None:
    aside = path.with_suffix(".part.npz")
    np.savez_compressed(aside, **entries)
    aside.replace(path)


def render_view(name: str, wanted: list[str] | None) -> None:
    """Render what is missing of one microscope."""
    view, path = VIEWS[name], STORE / f"{name}.npz"
    kept = dict(np.load(path)) if path.exists() else {}
    if "series/k" not in kept:
        start = time.process_time()
        crystal = series(view)
        about = {"host": view.host, "turn": view.turn, "optics": view.optics.__dict__}
        kept |= {"series/k": crystal.k, "series/terms": crystal.terms, "about": json.dumps(about)}
        _save(path, kept)
        print(name, "series", f"{time.process_time() - start:.0f} s", flush=True)
    crystal = Series(kept["series/k"], kept["series/terms"])
    for label in [label for name, label in known() if name == view.host] + extra_labels(view.host):
        if f"{label}/change" in kept or (wanted is not None and label not in wanted):
            continue
        start = time.process_time()
        kept |= stamp(view, label, crystal)
        _save(path, kept)
        print(name, label, f"{time.process_time() - start:.0f} s", flush=True)


CHECKED = (("V_{x}", 0, 0), ("V_{x}2", 2, 0), ("{n}_{m}", -1, 2), ("V_{x}", 1, 3))
"""What is placed close together, 6 A and more, to compare the sum of stamps with one rendering of everything."""

CHECKED_A = 11.0
"""Radius of the comparison."""


def check(name: str) -> str:
    """Largest and rms difference, in per cent of a metal column, between stamps added up and one multislice."""
    from defect_library import Frame, Placed, assemble, library, peak

    view, lib = VIEWS[name], library(name)
    metal, x = (host(view.host).elements[letter] for letter in "MX")
    other = "W" if metal == "Mo" else "Mo"
    placed = [Placed(label.format(x=x, m=metal, n=other), i, j) for label, i, j in CHECKED]
    middle = lattice_xy(view.host, np.array([[(1 + 1 / 3) / 2 + 0.2, 1.5]]))[0]
    grid = multislice.grid_for(view.optics, 2 * (CHECKED_A + WINDOW_A))
    xy = _box_xy(grid)
    wanted = np.hypot(*np.moveaxis(xy, -1, 0)) < CHECKED_A
    everything = together(view.host, [(one.label, one.i, one.j) for one in placed], view.turn)
    direct = _render(everything.around(middle, grid.box_A), view, grid, wanted)
    frame = Frame(0.0, -middle + grid.step_A / 2, grid.step_A, grid.n)
    off = (assemble(lib, frame, placed, 0.0) - direct)[wanted] / peak(lib, 0.0)
    return f"{name}: {len(placed)} defects, rms {100 * off.std():.2f} %, at most {100 * np.abs(off).max():.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", default=",".join(VIEWS))
    parser.add_argument("--labels")
    parser.add_argument("--check", action="store_true", help="compare with a direct rendering of several defects")
    asked = parser.parse_args()
    STORE.mkdir(parents=True, exist_ok=True)
    for name in asked.views.split(","):
        if asked.check:
            print(check(name))
            continue
        render_view(name, asked.labels.split(",") if asked.labels else None)


if __name__ == "__main__":
    main()
