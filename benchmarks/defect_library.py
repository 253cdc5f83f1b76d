"""What was rendered for the benchmark of defects, read back, and images put together from it; needs no abTEM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from defect_series import Series, lattice_xy
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

FloatArray = NDArray[np.float64]

STORE = Path(__file__).parent / "data" / "stamps"
ABERRATED = STORE.parent / "aberrated"
"""Microscopes that are worse aligned, and few defects of each."""

FINER = 4
"""Stamps are interpolated by Fourier to so many times their sampling, and by cubic splines from there."""

PIXEL_A = 0.12


class Site(NamedTuple):
    """Crystal coordinates, sublattice (M, X, H for a hollow) and what stands there."""

    u: float
    v: float
    sublattice: str
    column: str


class Stamp(NamedTuple):
    """What a defect does to the image: samples from `corner_A` in steps of `step_A`, crystal frame."""

    change: FloatArray
    corner_A: FloatArray
    step_A: float
    sites: tuple[Site, ...]
    relaxed: dict[str, Any]


@dataclass(frozen=True)
class Library:
    """All that was rendered of one host under one microscope."""

    name: str
    host: str
    optics: dict[str, Any]
    crystal: Series
    stamps: dict[str, Stamp]


class Placed(NamedTuple):
    """A defect in a field: label and cell."""

    label: str
    i: int
    j: int


@cache
def library(name: str) -> Library:
    """Read what was rendered."""
    path = next(folder / f"{name}.npz" for folder in (STORE, ABERRATED) if (folder / f"{name}.npz").exists())
    with np.load(path) as kept:
        about = json.loads(str(kept["about"]))
        stamps = {}
        for key in kept.files:
            label, _, what = key.rpartition("/")
            if what != "change":
                continue
            facts = json.loads(str(kept[f"{label}/about"]))
            stamps[label] = Stamp(
                kept[key] * facts["scale"], np.array(facts["corner_A"]), facts["step_A"],
                tuple(Site(*site) for site in facts["sites"]), facts["relaxed"],
            )
        return Library(name, about["host"], about["optics"], Series(kept["series/k"], kept["series/terms"]), stamps)


def views(store: Path = STORE) -> list[str]:
    """Microscopes of which there are renderings."""
    return sorted(path.stem for path in store.glob("*.npz") if not path.stem.endswith(".part"))


def type_of(label: str) -> str:
    """Contract type of a label; shares no code with the analysis."""
    if "@" in label:
        return "ADATOM"
    if "VL-" in label:
        return "LINE"
    if label[0] == "T" and label[1].isdigit():
        return "TREFOIL"
    there, _, belongs = label.partition("_")
    metals = ("Mo", "W")
    if there == "V":
        return "VM" if belongs.startswith(metals) else "DV" if belongs.endswith("2") else "SV"
    return "SUB" if there.startswith(metals) == belongs.startswith(metals) else "ANTI"


class Frame(NamedTuple):
    """From crystal to pixels of the noise-free array: rotation, origin and scale."""

    turn_rad: float
    origin_A: FloatArray
    pixel_A: float
    size: int

    @property
    def matrix(self) -> FloatArray:
        """Rotation from the crystal's axes to the image's."""
        c, s = np.cos(self.turn_rad), np.sin(self.turn_rad)
        return np.array([[c, -s], [s, c]])

    def to_px(self, xy_A: FloatArray) -> FloatArray:
        """Crystal frame (..., 2) in Angstrom to pixels."""
        return np.asarray((xy_A @ self.matrix.T + self.origin_A) / self.pixel_A + (self.size - 1) / 2)

    def to_A(self, xy_px: FloatArray) -> FloatArray:
        """Pixels to the crystal frame."""
        return np.asarray(((xy_px - (self.size - 1) / 2) * self.pixel_A - self.origin_A) @ self.matrix)


# -- the image -----------------------------------------------------------------------------------------------------


def assemble(lib: Library, frame: Frame, placed: list[Placed], source_fwhm_A: float) -> FloatArray:
    """Noise-free image, scattered fraction of the beam."""
    sigma = source_fwhm_A / np.sqrt(8 * np.log(2))
    axis = np.arange(frame.size, dtype=float)
    image = np.stack([lib.crystal(frame.to_A(np.stack(np.meshgrid(axis, [y]), -1)[0]), sigma) for y in axis])
    finer = {label: _finer(lib.stamps[label], sigma) for label in {p.label for p in placed}}
    for one in placed:
        values, corner, step = finer[one.label]
        shift = lattice_xy(lib.host, np.array([[one.i, one.j]], float))[0]
        box = np.array([[0, 0], [values.shape[1], 0], [0, values.shape[0]], values.shape[::-1]]) * step
        rim = frame.to_px(box + corner + shift)
        low = np.maximum(np.floor(rim.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(rim.max(0)).astype(int) + 1, frame.size)
        if np.any(low >= high):
            continue
        grid = np.stack(np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1])), -1).astype(float)
        at = (frame.to_A(grid) - shift - corner) / step
        image[low[1] : high[1], low[0] : high[0]] += map_coordinates(
            values, [at[..., 1], at[..., 0]], order=3, mode="constant", prefilter=True
        )
    return np.asarray(np.maximum(image, 0.0))


def _finer(stamp: Stamp, sigma_A: float) -> tuple[FloatArray, FloatArray, float]:
    """Stamp blurred by the source on a finer grid, corner and step."""
    pad = int(np.ceil(4 * sigma_A / stamp.step_A)) + 3
    change = np.pad(stamp.change, pad)
    spectrum = np.fft.fftshift(np.fft.fft2(change))
    ky, kx = (np.fft.fftshift(np.fft.fftfreq(n, stamp.step_A)) for n in change.shape)
    spectrum *= np.exp(-2 * (np.pi * sigma_A) ** 2 * (ky[:, None] ** 2 + kx**2))
    shape = np.array(change.shape) * FINER
    whole = np.zeros(shape, complex)
    begin = shape // 2 - np.array(change.shape) // 2
    whole[begin[0] : begin[0] + change.shape[0], begin[1] : begin[1] + change.shape[1]] = spectrum
    values = np.fft.ifft2(np.fft.ifftshift(whole)).real * FINER**2
    return values, stamp.corner_A - pad * stamp.step_A, stamp.step_A / FINER


def peak(lib: Library, source_fwhm_A: float) -> float:
    """Scattered fraction at a perfect metal column."""
    return float(lib.crystal(np.zeros((1, 2)), source_fwhm_A / np.sqrt(8 * np.log(2)))[0])


@cache
def separation(view: str, label: str) -> tuple[float, str]:
    """Expected log-evidence for a single-site defect against the rival most like it, per count at the metal peak.

    Rivals are the perfect crystal and what else was rendered on this sublattice; brightness, position and all else are
    taken as known. For shot noise on a background of a tenth, at `PIXEL_A`; infinite where several sites are involved.
    """
    lib = library(view)
    frame = Frame(0.0, np.zeros(2), PIXEL_A, 120)

    def image(*labels: str) -> FloatArray:
        return assemble(lib, frame, [Placed(one, 0, 0) for one in labels], 0.8) / peak(lib, 0.8)

    (site, *others) = lib.stamps[label].sites
    if others or site.sublattice not in "MX":
        return np.inf, ""
    alone = {key for key, one in lib.stamps.items() if len(one.sites) == 1 and one.sites[0][:3] == site[:3]}
    own = image(label)
    gaps = {
        rival: float(np.sum((own - image(*([rival] if rival else []))) ** 2 / (own + 0.1)) / 2)
        for rival in [*sorted(alone - {label}), ""]
    }
    nearest = min(gaps, key=lambda rival: gaps[rival])
    return gaps[nearest], nearest or "pristine"
