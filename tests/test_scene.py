"""What candidates are compared on: beside the sites of a defect, every column drawn once, however the crystal lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from handmade import HOST, analysis, lattice, sites
from scipy.spatial import cKDTree

from stemfit.candidates import propose
from stemfit.columns.stamps import render
from stemfit.defects import Defect
from stemfit.relax import keep
from stemfit.result import Findings
from stemfit.score import Scene, columns_of, make_scene
from stemfit.score.fit import BEHIND, SLOWING, fit
from stemfit.score.others import Others
from stemfit.score.scene import REACH

LONG = tuple((i, 3, "X") for i in range(3, 9))
"""A row of six sites through the middle."""
SHEARS = ([[1.0, 0.0], [0.0, 1.0]], [[1.06, 0.05], [0.0, 0.94]], [[0.93, 0.0], [-0.06, 1.07]])


def crystal_of(
    shear: list[list[float]], named: tuple[tuple[int, int, str], ...], jitter: float = 0.0
) -> tuple[Findings, Defect]:
    """A crystal exactly as bright as its columns are said to be, and a claim about some sites.

    Its columns stand off their sites by up to `jitter` lattice constants per axis.
    """
    made, plain = analysis(), lattice()
    a, b = (np.array(shear) @ v for v in (plain.a_px, plain.b_px))
    crystal = replace(plain, a_px=a, b_px=b, distortion_px=np.zeros((2, 2, 2)), residual_rms_px=0.3)
    known = sites(plain)
    k = np.where(known.sublattice == "X", 1 / 3, 0.0)
    xy = crystal.origin_px + (known.ij + k[:, None]) @ np.stack([a, b])
    site_map = replace(known, xy_px=xy, column=np.arange(len(xy)), analysed=np.ones(len(xy), bool))
    off = jitter * crystal.a_px_iso * np.random.default_rng(2).uniform(-1, 1, xy.shape)
    value = np.where(known.sublattice == "X", 240.0, 250.0)
    profile = made.columns.profile
    columns = replace(
        made.columns, xy_px=xy + off, intensity=value, cov=np.tile(np.diag([0.01, 0.01, 25.0]), (len(xy), 1, 1)),
        model=made.columns.background + render(xy + off, value, profile, crystal.shape_px),
    )
    rows = {(int(i), int(j), str(s)): n for n, ((i, j), s) in enumerate(zip(known.ij, known.sublattice, strict=True))}
    at = np.array([xy[rows[site]] for site in named])
    kind = "SV" if len(named) == 1 else "LINE"
    label = "V_Se" if len(named) == 1 else f"SVL-{len(named)}"
    claim = Defect(1, kind, label, 0.9, at.mean(0), named, at, (("pristine", 0.05),), 9.0)
    return replace(made, columns=columns, lattice=crystal, sites=site_map), claim


def scene_of(made: Findings, claim: Defect) -> Scene:
    nobody = Others(np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    return make_scene(claim, made.columns.model, made.columns, made.imaging, made.lattice, nobody)


@pytest.mark.parametrize("named", [LONG[:1], LONG])
@pytest.mark.parametrize("shear", SHEARS)
def test_every_column_is_drawn_once(shear: list[list[float]], named: tuple[tuple[int, int, str], ...]) -> None:
    """The perfect crystal leaves little of an image with displaced columns: none is drawn twice, none left out."""
    made, claim = crystal_of(shear, named, 0.06)
    scene = scene_of(made, claim)
    perfect = propose(claim, HOST, made.lattice, made.sites, {"pristine": 0.98, "V_Se": 0.01})[0]
    assert perfect.label == "pristine"
    seen = columns_of(perfect, keep([perfect])[0], scene, made.imaging)
    lit = seen.amplitude > 0
    drawn = scene.surroundings + render(seen.xy[lit], seen.amplitude[lit], scene.profile, scene.image.shape)
    peak, edge = float(np.ptp(scene.image)), cKDTree(scene.extent).query(np.indices(scene.image.shape)[::-1].T)[0].T
    edge = edge < (REACH + 0.1) * scene.a_px
    assert np.abs(drawn - scene.image)[edge].max() < 0.35 * peak
    without = scene.surroundings + render(seen.xy[lit][1:], seen.amplitude[lit][1:], scene.profile, scene.image.shape)
    assert np.abs(without - scene.image).max() > 0.5 * peak


@pytest.mark.parametrize("outwards", [-0.1, 0.1])
def test_the_rim_lies_between_two_shells_of_sites(outwards: float) -> None:
    """Sites at 2.08 lattice constants are the candidate's, those at 2.31 the surroundings', moved by half the gap even.

    With a narrower rim the first are drawn twice or left out; with a wider one the others, or the candidate draws
    where its neighbours are what nobody compares with it, on sites from which the image knows that they have moved.
    """
    made, claim = crystal_of(SHEARS[0], LONG[2:3])
    apart = made.sites.xy_px - claim.center_px
    far = np.hypot(*apart.T)
    xy = made.sites.xy_px + outwards * made.lattice.a_px_iso * apart / np.maximum(far, 1e-9)[:, None]
    light = render(xy, made.columns.intensity, made.columns.profile, made.lattice.shape_px)
    made = replace(made, columns=replace(made.columns, xy_px=xy, model=made.columns.background + light))
    scene = scene_of(made, claim)
    far = np.hypot(*(apart @ scene.upright.T).T) / made.lattice.a_px_iso
    last, next_ = (np.abs(far - np.sqrt(of / 3)) < 1e-3 for of in (13, 16))
    assert (last.sum(), next_.sum()) == (6, 3)
    perfect = propose(claim, HOST, made.lattice, made.sites, {"pristine": 0.98, "V_Se": 0.01})[0]
    seen = columns_of(perfect, keep([perfect])[0], scene, made.imaging)
    drawn = cKDTree(seen.xy[seen.amplitude > 0] * scene.pixel + scene.corner).query(made.sites.xy_px)[0] < 1.0
    assert (drawn == (far < 2.2)).all()
    here = np.rint((xy - scene.corner) / scene.pixel).astype(int)
    shown = (here >= 0).all(1) & (here < scene.image.shape[::-1]).all(1)
    beside = (scene.surroundings - 10.0)[here[shown, 1], here[shown, 0]]
    share = beside / (scene.image - 10.0)[here[shown, 1], here[shown, 0]]
    assert (last & shown).any() and (next_ & shown).any()
    assert share[last[shown]].max() < 0.2  # a neighbour's flank
    assert share[next_[shown]].min() > 0.8


def test_a_line_is_compared_beside_its_sites_only() -> None:
    made, claim = crystal_of(SHEARS[0], LONG)
    scene = scene_of(made, claim)
    y, x = np.nonzero(scene.weight > 0)
    away = cKDTree(scene.extent).query(np.column_stack([x, y]))[0] / scene.a_px
    assert away.max() < REACH + 0.1
    y, x = np.nonzero(scene.weight == 0)
    assert cKDTree(scene.extent).query(np.column_stack([x, y]))[0].min() / scene.a_px > REACH - 0.1


def test_who_falls_behind_is_left_there() -> None:
    """Columns two widths off: with a leader far ahead they are left there, with one that they come near they go on."""
    made, claim = crystal_of(SHEARS[0], LONG[:1])
    scene = scene_of(made, claim)
    perfect = propose(claim, HOST, made.lattice, made.sites, {"pristine": 0.98, "V_Se": 0.01})[0]
    seen = columns_of(perfect, keep([perfect])[0], scene, made.imaging)
    off = seen.xy + 1.5 * scene.profile.width_px * np.array([1.0, -1.0]) * (np.arange(len(seen.xy)) % 2)[:, None]
    wrong = seen._replace(xy=off, place=np.full(len(off), scene.profile.width_px))
    to_the_end = fit(wrong, scene, 0.3, made.lattice)
    assert len(to_the_end.way) > 3 and to_the_end.way[-1] > to_the_end.way[0] + BEHIND
    best = to_the_end.way[-1]
    beside = fit(wrong, scene, 0.3, made.lattice, leader=(best + 0.5 * BEHIND,))
    assert beside.log_evidence == best
    behind = fit(wrong, scene, 0.3, made.lattice, leader=(best + 1e6,))
    assert len(behind.way) == 3
    assert behind.way == to_the_end.way[:3]
    hope = to_the_end.way[2] + SLOWING * abs(to_the_end.way[2] - to_the_end.way[1])
    hoping = fit(wrong, scene, 0.3, made.lattice, leader=(best + 1e6, hope + BEHIND - 1.0))
    assert hoping.way == to_the_end.way  # it may still come near
