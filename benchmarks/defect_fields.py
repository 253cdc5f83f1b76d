"""Fields of the benchmark of defects: put together from kept multislice renderings, then recorded as by a microscope.

Each field is a crystal under one of the microscopes of `defect_stamps.py`, at a drawn rotation, pixel size and focus of
the source, with defects at drawn places. `families`: fields of many defects, pristine ones, hard negatives: adatoms, a
hole, islands of a second layer below, a film of contamination (added to the image, not by multislice), and an alloy
region, in which a fifth of the chalcogen columns has one atom exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from defect_library import PIXEL_A, Frame, Library, Placed, assemble, library, peak, type_of, views
from defect_series import lattice_xy
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from definet.crystals import host
from stemfit.synthetic import Acquisition, Recording, acquire

FloatArray = NDArray[np.float64]

MARGIN = 12
SIZE = 480
APART_A = 7.0
"""Between the sites of two defects at least."""

COUNTS = (100.0, 20.0, 5.0)
"""Electrons at a metal column's brightest pixel, for pixels of `PIXEL_A`."""

ALLOYED = 0.2


class Defect(NamedTuple):
    """The truth: contract type, label and the sites (K, 2), (x, y) in the noise-free array or in the recorded image."""

    type: str
    label: str
    sites_px: FloatArray


@dataclass(frozen=True)
class Field:
    """A noise-free field.

    Attributes
    ----------
    name, family, view : str
    host : str
    image : (H + 2 margin, W + 2 margin) array
        A perfect metal column peaks at 1.
    pixel_A : float
    defects : list of Defect
    areas : list of Defect
        What is no monolayer or hides it: type is the kind of region, sites a polygon's corners.
    columns_px : (N, 2) array
        Sites of the perfect crystal.
    letters : (N,) array of str
        Their sublattices.
    alloyed : (N,) bool array
        Columns with one atom exchanged because the crystal is an alloy there.
    cell_px : (2, 2) array
        Columns a, b.
    """

    name: str
    family: str
    view: str
    host: str
    image: FloatArray
    pixel_A: float
    defects: list[Defect]
    areas: list[Defect]
    columns_px: FloatArray
    letters: NDArray[np.str_]
    alloyed: NDArray[np.bool_]
    cell_px: FloatArray


# -- what is where -------------------------------------------------------------------------------------------------


def _frame(rng: np.random.Generator, size: int) -> Frame:
    pixel = float(rng.uniform(0.11, 0.145))
    return Frame(float(rng.uniform(0, 2 * np.pi)), rng.uniform(-1.5, 1.5, 2), pixel, size + 2 * MARGIN)


def _places(rng: np.random.Generator, lib: Library, wanted: list[str], frame: Frame) -> list[Placed]:
    """A cell for each label, as long as there is room; nothing touches the image's border."""
    half = (frame.size / 2 - MARGIN) * frame.pixel_A
    reach = int(2 * half / host(lib.host).a_exp_A) + 2
    cells = np.stack(np.meshgrid(*(np.arange(-reach, reach + 1),) * 2), -1).reshape(-1, 2)
    taken = np.empty((0, 2))
    placed = []
    for label in wanted:
        uv = np.array([site[:2] for site in lib.stamps[label].sites])
        room = 4.0 + _reach_A(label)
        for i, j in rng.permutation(cells)[:400]:
            xy = lattice_xy(lib.host, uv + np.array([i, j]))
            inside = np.abs(frame.to_px(xy) - (frame.size - 1) / 2).max() * frame.pixel_A < half - room
            gaps = np.hypot(*np.moveaxis(xy[:, None] - taken, -1, 0))
            if inside and (gaps.size == 0 or gaps.min() > APART_A + _reach_A(label)):
                placed.append(Placed(label, int(i), int(j)))
                taken = np.vstack([taken, xy, *(xy + step for step in _rim(label))])
                break
    return placed


def _reach_A(label: str) -> float:
    return {"hole": 8.0, "island": 9.0}.get(label, 0.0)


def _rim(label: str) -> list[FloatArray]:
    """Steps from the middle of an area to its rim."""
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radius = _reach_A(label)
    return list(radius * np.column_stack([np.cos(angle), np.sin(angle)])) if radius else []


def build(
    name: str, family: str, view: str, wanted: list[str], seed: int, size: int = SIZE, alloy: bool = False,
    film: bool = False,
) -> Field:
    """Put a field together.

    Parameters
    ----------
    wanted : list of labels
        Placed as long as there is room.
    seed : int
    alloy : bool
        Exchange one atom in a fifth of the chalcogen columns of one half of the field.
    film : bool
        Put contamination on a part.
    """
    rng, lib = np.random.default_rng(seed), library(view)
    frame = _frame(rng, size)
    blur = float(rng.uniform(0.7, 0.9))
    placed = _places(rng, lib, wanted, frame)
    uv, letters = _sites(lib.host, frame)
    xy = lattice_xy(lib.host, uv)
    alloyed = np.zeros(len(uv), bool)
    if alloy:
        other = next(label for label in lib.stamps if label in ("Se_S", "S_Se"))
        side = frame.to_px(xy)[:, 0] > frame.size / 2
        taken = _site_xy(lib, placed)
        near = np.hypot(*np.moveaxis(xy[:, None] - taken, -1, 0)) if len(taken) else np.full((len(xy), 1), np.inf)
        alloyed = (letters == "X") & side & (rng.random(len(uv)) < ALLOYED) & (near.min(1) > 1.0)
        own = np.array(lib.stamps[other].sites[0][:2])  # of a stamp this is any of the crystal's sites
        extra = [Placed(other, *np.round(one - own).astype(int).tolist()) for one in uv[alloyed]]
    image = assemble(lib, frame, placed + (extra if alloy else []), blur) / peak(lib, blur)
    defects = [_truth(lib, one, frame) for one in placed if not _rim(one.label)]
    areas = [_area(lib, one, frame) for one in placed if _rim(one.label)]
    if film:
        image, patch = _contaminated(image, frame, rng)
        areas.append(patch)
    return Field(
        name, family, view, lib.host, image, frame.pixel_A, defects, areas, frame.to_px(xy), letters, alloyed,
        frame.matrix @ lattice_xy(lib.host, np.eye(2)).T / frame.pixel_A,
    )


def _sites(name: str, frame: Frame) -> tuple[FloatArray, NDArray[np.str_]]:
    """Crystal coordinates and sublattices of all sites in the array."""
    reach = int(frame.size * frame.pixel_A / host(name).a_exp_A) + 3
    cells = np.stack(np.meshgrid(*(np.arange(-reach, reach + 1),) * 2), -1).reshape(-1, 2).astype(float)
    uv = np.vstack([cells, cells + 1 / 3])
    letters = np.repeat(np.array(["M", "X"]), len(cells))
    at = frame.to_px(lattice_xy(name, uv))
    inside = np.all((at >= 0) & (at <= frame.size - 1), axis=1)
    return uv[inside], letters[inside]


def _site_xy(lib: Library, placed: list[Placed]) -> FloatArray:
    some = [np.array([s[:2] for s in lib.stamps[p.label].sites]) + np.array([p.i, p.j]) for p in placed]
    return lattice_xy(lib.host, np.vstack(some)) if some else np.empty((0, 2))


def _truth(lib: Library, one: Placed, frame: Frame) -> Defect:
    return Defect(type_of(one.label), one.label, frame.to_px(_site_xy(lib, [one])))


def _area(lib: Library, one: Placed, frame: Frame) -> Defect:
    rim = np.array([_site_xy(lib, [one])[0] + step for step in _rim(one.label)])
    return Defect({"hole": "hole", "island": "second-layer"}[one.label], one.label, frame.to_px(rim))


def _contaminated(image: FloatArray, frame: Frame, rng: np.random.Generator) -> tuple[FloatArray, Defect]:
    """Add a film as uneven as hydrocarbons are, on a disc in one quarter of the array."""
    radius, grain = 11.0 / frame.pixel_A, 3.0 / frame.pixel_A
    middle = frame.size / 2 + rng.choice([-1, 1], 2) * rng.uniform(0.15, 0.22, 2) * frame.size
    y, x = np.mgrid[: frame.size, : frame.size]
    rough = gaussian_filter(rng.normal(size=image.shape), grain)
    edge = np.hypot(x - middle[0], y - middle[1]) + 2.0 / frame.pixel_A * rough / rough.std()
    inside = 1 / (1 + np.exp((edge - radius) * frame.pixel_A / 0.7))
    film = rng.uniform(0.5, 0.9) * np.clip(1 + 0.35 * rough / rough.std(), 0.2, None) * inside
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rim = middle + (radius + 2.5 / frame.pixel_A) * np.column_stack([np.cos(angle), np.sin(angle)])
    return image + film, Defect("contamination", "film", rim)


# -- recording -----------------------------------------------------------------------------------------------------


class Shot(NamedTuple):
    """A recorded field with its truth carried along."""

    field: Field
    counts: float
    recording: Recording
    defects: list[Defect]
    areas: list[Defect]
    columns_px: FloatArray
    read_sigma: float  # image units


def record(field: Field, counts: float, seed: int) -> Shot:
    """Dose, scan errors, tails, background and electronics; `counts` at the metal peak for pixels of 0.12 A."""
    rng = np.random.default_rng([seed, round(counts)])
    pixel, side = field.pixel_A, len(field.image) - 2 * MARGIN
    gain = float(rng.uniform(50, 200))
    drift = rng.uniform(-0.012, 0.012, 2) * side
    how = Acquisition(
        counts=counts * (pixel / PIXEL_A) ** 2, jitter_px=float(rng.uniform(0.02, 0.07)) / pixel,
        drift_px=(float(drift[0]), float(drift[1])), distortion_px=float(rng.uniform(0.2, 0.6)),
        tail_fraction=float(rng.uniform(0, 0.08)), tail_sigma_px=float(rng.uniform(0.8, 1.6)) / pixel,
        background=float(rng.uniform(0.02, 0.2)), background_variation=float(rng.uniform(0.1, 0.4)),
        gain=gain, offset=float(rng.uniform(0, 2000)), read_sigma=float(rng.uniform(0.1, 0.3)) * gain,
        dtype=str(rng.choice(["uint16", "float32"])), margin_px=MARGIN,
    )  # fmt: skip
    if 2 * how.counts * gain > np.iinfo(np.uint16).max:  # no experiment is set up so that it saturates
        how = replace(how, dtype="float32")
    recording = acquire(field.image, how, int(rng.integers(2**31)))

    def carried(some: list[Defect]) -> list[Defect]:
        return [one._replace(sites_px=recording.scan.to_image(one.sites_px)) for one in some]

    columns = recording.scan.to_image(field.columns_px)
    return Shot(field, counts, recording, carried(field.defects), carried(field.areas), columns, how.read_sigma)


# -- the families --------------------------------------------------------------------------------------------------

SHARES = {"SV": 6, "DV": 4, "LINE": 2, "TREFOIL": 2, "SUB": 3, "VM": 2, "ANTI": 2}
"""How often each type is drawn for a field of defects."""

OBJECTS = 22


def drawn_labels(
    lib: Library, rng: np.random.Generator, count: int = OBJECTS, weights: Mapping[str, float] | None = None,
    shares: Mapping[str, float] = SHARES,
) -> list[str]:
    """Labels for a field, extended ones first while there is room; those of a type alike, or by weight."""
    by_type: dict[str, list[str]] = {}
    for label in sorted(lib.stamps):
        if "@" not in label and not _rim(label):
            by_type.setdefault(type_of(label), []).append(label)
    kinds = sorted(by_type)
    share = np.array([shares[kind] for kind in kinds], float)
    drawn = [
        _one_of(by_type[kind], rng, weights or {}) for kind in rng.choice(kinds, count, p=share / share.sum())
    ]
    return sorted(drawn, key=lambda label: -len(lib.stamps[label].sites))


def _one_of(some: list[str], rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    weight = np.array([weights.get(label, 1.0) for label in some])
    return str(rng.choice(some, p=weight / weight.sum()))


def families(seed: int, rounds: int) -> Iterator[Field]:
    """Fields of all microscopes: `rounds` with defects each, one pristine, and hard negatives in each round."""
    for turn in range(rounds):
        for number, view in enumerate(views()):
            lib, start = library(view), int(np.random.default_rng([seed, turn, number]).integers(2**31))
            rng = np.random.default_rng(start)
            yield build(f"{view}-{turn}", "defects", view, drawn_labels(lib, rng), start + 1)
            if turn == 0:
                yield build(f"{view}-pristine", "pristine", view, [], start + 2)
                yield from _negatives(lib, view, start + 3)


def _negatives(lib: Library, view: str, seed: int) -> Iterator[Field]:
    adatoms = [label for label in sorted(lib.stamps) if "@" in label]
    if adatoms:
        yield build(f"{view}-adatoms", "adatoms", view, 6 * adatoms, seed)
    areas = [label for label in ("hole", "island") if label in lib.stamps]
    if areas:
        yield build(f"{view}-areas", "hole and second layer", view, [*areas, *areas[-1:]], seed + 1)
    yield build(f"{view}-film", "contamination", view, [], seed + 2, film=True)
    if {"Se_S", "S_Se"} & set(lib.stamps):
        yield build(f"{view}-alloy", "alloy", view, [], seed + 3, alloy=True)
