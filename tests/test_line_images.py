"""Lines in images: one object each, with its direction and length, in any host, orientation and polarity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from chain import PIXEL_A, Chain, FloatArray, redrawn, run, taken
from test_lines import real_rows

from stemfit.defects.complexes import around
from stemfit.defects.row_shapes import Row, Shape, row_of
from stemfit.synthetic import Crystal, crystal

Cell = tuple[int, int]


class Host(NamedTuple):
    """Multislice at 60 kV, 60 to 200 mrad: X2 over M, and what one of two X is worth."""

    species: tuple[str, str]
    pair: float
    half: float
    a_A: float


HOSTS = {
    "MoS2": Host(("Mo", "S2"), 0.46, 0.49, 3.160), "WSe2": Host(("W", "Se2"), 0.864, 0.47, 3.282),
    "MoSe2": Host(("Mo", "Se2"), 1.43, 0.50, 3.288), "WS2": Host(("W", "S2"), 0.139, 0.50, 3.153),
}  # fmt: skip
AT_20 = 20 * (PIXEL_A / 0.12) ** 2
"""Counts in the metal peak here that are 20 at 0.12 A a pixel."""

CONTRACTION_A = 0.2
"""How far the columns beside a line have moved towards it, fading over 2.5 A."""


def sample(name: str, polarity: int, seed: int, shape: tuple[int, int] = (300, 330)) -> Crystal:
    host = HOSTS[name]
    return crystal(
        shape, pixel_size_A=PIXEL_A, a_A=host.a_A, rotation_deg=7.0 + 19.0 * seed, polarity=polarity,
        species=host.species, brightness=(1.0, host.pair), half_share=host.half, position_rms_A=0.02, seed=seed,
    )  # fmt: skip


def chalcogens(bare: Crystal) -> dict[Cell, FloatArray]:
    c = bare.columns
    return {(int(i), int(j)): xy for (i, j), s, xy in zip(c.ij, c.sublattice, c.xy_px, strict=True) if s == "X"}


def placed(bare: Crystal, wanted: Sequence[tuple[str, int, tuple[int, ...], int]], seed: int) -> list[Shape]:
    """Lines (kind, direction, columns of the rows, shift) at random places, two and a half cells from each other."""
    rng = np.random.default_rng(seed)
    return next(shapes for _ in range(50) if (shapes := _attempt(bare, wanted, rng)))


def _attempt(
    bare: Crystal, wanted: Sequence[tuple[str, int, tuple[int, ...], int]], rng: np.random.Generator
) -> list[Shape]:
    """Empty if there was no room left for one of them."""
    places = chalcogens(bare)
    size = np.array(bare.image.shape[::-1])
    a_px = float(np.linalg.norm(bare.a_px))
    every, used, shapes = list(places), np.zeros((0, 2)), []
    for kind, direction, columns, shift in wanted:
        for _ in range(400):
            across, t = row_of(direction, every[rng.integers(len(every))])
            rows = (Row(direction, across + k, t + k * shift, t + k * shift + n - 1) for k, n in enumerate(columns))
            shape = Shape(kind, tuple(rows))
            if not all(cell in places for cell in shape.cells()):
                continue
            xy = np.array([places[cell] for cell in shape.cells()])
            near = np.linalg.norm(xy[:, None] - used[None], axis=2).min() if len(used) else np.inf
            if near > 2.5 * a_px and (xy > 1.5 * a_px).all() and (xy < size - 1.5 * a_px).all():
                break
        else:
            return []
        used, shapes = np.vstack([used, xy]), [*shapes, shape]
    return shapes


def drawn(bare: Crystal, shapes: Sequence[Shape], half: float) -> Crystal:
    """The crystal without the atoms of these lines, with the columns beside them drawn in."""
    places = chalcogens(bare)
    share = {(*cell, "X"): 0.0 if s.kind == "CVL" else half for s in shapes for cell in s.cells()}
    moved: dict[tuple[int, int, str], FloatArray] = {}
    for shape in shapes:
        xy = np.array([places[cell] for cell in shape.cells()])
        axis = (bare.a_px, bare.b_px, bare.a_px - bare.b_px)[shape.rows[0].direction]
        normal = np.array([-axis[1], axis[0]]) / np.linalg.norm(axis)
        for (i, j), s, here in zip(bare.columns.ij, bare.columns.sublattice, bare.columns.xy_px, strict=True):
            away = float(np.linalg.norm(here - xy, axis=1).min()) * PIXEL_A
            side = float((here - xy.mean(0)) @ normal)
            if 0.1 < away < 7.0 and abs(side) * PIXEL_A > 0.3:
                step = -np.sign(side) * CONTRACTION_A / PIXEL_A * np.exp(-max(away - 1.8, 0.0) / 2.5) * normal
                moved[(int(i), int(j), str(s))] = step
    return replace(redrawn(bare, share, moved), defects=())


def analysed(name: str, polarity: int, shapes: Sequence[tuple[str, int, tuple[int, ...], int]], counts: float,
             seed: int) -> tuple[Chain, list[Shape]]:  # fmt: skip
    bare = sample(name, polarity, seed)
    lines = placed(bare, shapes, seed)
    image, truth = taken(drawn(bare, lines, HOSTS[name].half), counts=counts, seed=seed)
    return run(truth, image, name), lines


def matched(chain: Chain, shape: Shape) -> tuple[bool, int]:
    """Whether a line is one object with the right kind and direction, and by how many columns its length is off."""
    xy = np.array([chalcogens(chain.truth)[cell] for cell in shape.cells()])
    reach = 0.35 * chain.lattice.a_px_iso
    here = [d for d in chain.found if np.linalg.norm(d.extent_px[:, None] - xy[None], axis=2).min() < reach]
    lines = [d for d in here if d.type == "LINE"]
    if len(lines) != 1 or not lines[0].label.startswith(shape.kind):
        return False, 0
    (line,) = lines
    shared = int((np.linalg.norm(line.extent_px[:, None] - xy[None], axis=2).min(0) < reach).sum())
    more = len(line.extent_px) - len(xy)
    return shared >= len(xy) - len(shape.rows), more


EVERY = [("SVL", 0, (5,), 0), ("DVL", 1, (4, 3), 0), ("CVL", 2, (4,), 0), ("SVL", 2, (3,), 0), ("DVL", 0, (3, 3), -1)]
OTHERS = [("SVL", 1, (8,), 0), ("DVL", 2, (4, 4), 1), ("CVL", 0, (3,), 0), ("SVL", 0, (4,), 0), ("CVL", 1, (5,), 0)]


@pytest.mark.parametrize(
    ("name", "polarity", "wanted", "counts", "exact"),
    [
        ("MoS2", -1, OTHERS, AT_20, 5), ("WSe2", -1, EVERY, AT_20, 5), ("MoSe2", 1, OTHERS, AT_20, 5),
        ("WS2", 1, EVERY, 2 * AT_20, 4), ("WSe2", 1, OTHERS, AT_20 / 4, 4),
    ],
)  # fmt: skip
def test_lines_of_all_kinds_are_found_in_images(
    name: str, polarity: int, wanted: list[tuple[str, int, tuple[int, ...], int]], counts: float, exact: int
) -> None:
    chain, lines = analysed(name, polarity, wanted, counts, seed=3)
    said = [matched(chain, shape) for shape in lines]
    assert all(found and abs(more) <= 1 for found, more in said)
    assert sum(more == 0 for _, more in said) >= exact
    assert sum(d.type == "LINE" for d in chain.found) == len(lines)
    for d in chain.found:
        assert d.probability + sum(p for _, p in d.alternatives) == pytest.approx(1.0)


def test_random_vacancies_are_vacancies_where_chance_makes_as_many_rows() -> None:
    bare = sample("MoSe2", 1, 5, (320, 340))
    places = list(chalcogens(bare))
    rng = np.random.default_rng(8)
    vacant = {cell for cell in places if rng.random() < 0.1}
    image, truth = taken(redrawn(bare, {(*cell, "X"): 0.5 for cell in vacant}), counts=AT_20, seed=8)
    chain = run(truth, image, "MoSe2")
    lines = sum(d.type == "LINE" for d in chain.found)
    assert sum(d.type == "SV" for d in chain.found) >= 8
    assert real_rows(vacant) and lines == 0


@pytest.mark.parametrize(("label", "left"), [("V_MoS3", 0.49), ("V_MoS6", 0.0)])
def test_metal_complexes_are_one_defect_in_images(label: str, left: float) -> None:
    bare = sample("MoS2", -1, 2, (220, 240))
    own = around((1, -1, "M"), -1)
    image, truth = taken(redrawn(bare, {own[0]: 0.0} | dict.fromkeys(own[1:], left)), counts=AT_20, seed=2)
    chain = run(truth, image, "MoS2")
    (one,) = [d for d in chain.found if d.type == "VM"]
    assert one.label == label
    where = next(
        xy for (i, j), s, xy in zip(bare.columns.ij, bare.columns.sublattice, bare.columns.xy_px, strict=True)
        if (int(i), int(j), str(s)) == own[0]
    )  # fmt: skip
    assert np.linalg.norm(one.center_px - where) * PIXEL_A < 0.3
    assert len(chain.found) == 1


def test_the_lines_of_a_multislice_image_are_found() -> None:
    """Relaxed with a potential, drawn by multislice, with jitter, drift and distortion: nothing in common with here."""
    samples = Path(__file__).parents[1] / "sample_images"
    truth = json.loads((samples / "mos2_line.json").read_text())
    chain = run(sample("MoS2", 1, 0, (60, 60)), tifffile.imread(samples / "mos2_line.tif").astype(float), "MoS2")
    assert sorted(d.label for d in chain.found) == sorted(d["label"] for d in truth["defects"])
    for true in truth["defects"]:
        (one,) = [d for d in chain.found if np.linalg.norm(d.center_px - true["center_px"]) < 3.0]
        assert one.label == true["label"] and one.probability > 0.9
        apart = np.linalg.norm(one.extent_px[:, None] - np.array(true["extent_px"])[None], axis=2)
        assert apart.min(1).max() < 5.0 and len(one.extent_px) == len(true["extent_px"])
