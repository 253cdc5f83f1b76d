"""The whole chain on images with known truth, and what must hold of every analysis."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain import PIXEL_A, redrawn, row_of, taken
from numpy.typing import NDArray

from stemfit.errors import NotAnalysable
from stemfit.micrograph import read
from stemfit.pipeline import Settings, analyze
from stemfit.relax import keep
from stemfit.result import Findings, agreement
from stemfit.synthetic import Crystal, TrueDefect, as_micrograph, crystal
from stemfit.synthetic.gaussians import render

FloatArray = NDArray[np.float64]
HOLE, HOLE_RADIUS = np.array([15.0, 185.0]), 62.0
SAMPLES = Path(__file__).parents[1] / "sample_images"


@cache
def small() -> tuple[Findings, Crystal]:
    """MoS2 with a V_S, a V_S2 and a V_Mo, a hole at the left edge, and a stated scale 9 % too large."""
    whole = crystal((230, 270), pixel_size_A=PIXEL_A, rotation_deg=34.2, polarity=-1, half_share=0.42, seed=11)
    places = {"V_S": (90.0, 60.0), "V_S2": (175.0, 90.0), "V_Mo": (190.0, 170.0)}
    share = {}
    for label, at in places.items():
        of_kind = whole.columns.sublattice == ("M" if label == "V_Mo" else "X")
        k = int(np.argmin(np.linalg.norm(whole.columns.xy_px - at, axis=1) + 1e6 * ~of_kind))
        site = (int(whole.columns.ij[k, 0]), int(whole.columns.ij[k, 1]), str(whole.columns.sublattice[k]))
        share[site] = 0.42 if label == "V_S" else 0.0
    gone = [
        (int(i), int(j), str(n))
        for (i, j), n, at in zip(whole.columns.ij, whole.columns.sublattice, whole.columns.xy_px, strict=True)
        if np.linalg.norm(at - HOLE) < HOLE_RADIUS
    ]
    sample = redrawn(whole, share | dict.fromkeys(gone, 0.0))
    names = {"V_S": "SV", "V_S2": "DV", "V_Mo": "VM"}
    true = [
        TrueDefect(names[label], label, whole.columns.xy_px[row_of(whole.columns, site)], (site,))
        for label, site in zip(places, share, strict=True)
    ]
    y, x = np.mgrid[:230, :270]
    sample.image[np.hypot(x - HOLE[0], y - HOLE[1]) < HOLE_RADIUS - 12] = 0.0  # columns beyond the edge shine in
    image, truth = taken(redrawn(sample, {}, defects=true))
    micrograph = as_micrograph(image, 1.09 * PIXEL_A)
    return analyze(micrograph, Settings(host="MoS2"), keep), truth


@cache
def sample(name: str) -> tuple[Findings, dict[str, Any]]:
    truth = json.loads((SAMPLES / f"{name}.json").read_text())
    return analyze(read(SAMPLES / f"{name}.tif"), Settings(host=truth["host"]), keep), truth


def everything() -> list[Findings]:
    return [small()[0], sample("mos2_sv")[0]]


def test_every_defect_is_found_and_named_and_none_invented() -> None:
    analysis, truth = small()
    assert len(truth.defects) == 3
    _assert_found(analysis, [(d.type, d.label, d.center_px) for d in truth.defects])


def test_the_sample_image_shows_what_was_put_in() -> None:
    analysis, truth = sample("mos2_sv")
    _assert_found(
        analysis, [(d["type"], d["label"], np.array(d["center_px"])) for d in truth["defects"]]
    )
    assert analysis.lattice.polarity == truth["polarity"]
    assert analysis.calibration.pixel_size_A == pytest.approx(truth["lattice_pixel_size_A"], rel=0.003)
    turned = np.degrees(np.arctan2(-truth["a_px"][1], truth["a_px"][0])) % 60
    assert analysis.lattice.rotation_deg == pytest.approx(turned, abs=1.0)


def _assert_found(analysis: Findings, true: list[tuple[str, str, FloatArray]]) -> None:
    """Each within 1 Angstrom and under its name; nothing else is claimed but what is missing at the rim of the hole."""
    reach = 1.0 / analysis.calibration.pixel_size_A
    left = [d for d in analysis.defects if not (analysis.regions and np.linalg.norm(d.center_px - HOLE) < HOLE_RADIUS)]
    for kind, label, at in true:
        near = [d for d in left if np.linalg.norm(d.center_px - at) < reach]
        assert [(d.type, d.label) for d in near] == [(kind, label)], f"at {at}"
        left.remove(near[0])
    assert left == []


def test_a_pristine_crystal_has_no_defects() -> None:
    micrograph = read(SAMPLES / "hbn_pristine.tif")
    part = as_micrograph(micrograph.image[60:300, 90:350], micrograph.pixel_size_A)
    analysis = analyze(part, Settings(host="hBN"), keep)
    assert analysis.defects == ()
    assert {c.defect for c in analysis.candidates} <= {s.id for s in analysis.suspects}  # doubted, not claimed
    # Boron (half of nitrogen, 25 electrons at the peak) stands too close for the peak search to seed every column.
    assert (analysis.sites.column[analysis.sites.analysed] >= 0).mean() > 0.95


@pytest.mark.parametrize(("apart_px", "listed"), [(0.0, True), (9.0, False)])
def test_a_crystal_of_no_list_gets_no_name_of_one(apart_px: float, listed: bool) -> None:
    """A honeycomb of the right size, every other column of which is a pair 1.4 A apart."""
    whole = crystal((230, 270), pixel_size_A=PIXEL_A, rotation_deg=12.0, seed=3)
    of = whole.columns.sublattice == "X"
    xy, light, shape = whole.columns.xy_px[of], whole.columns.intensity[of], (230, 270)
    step = np.array([0.5, 0.15]) * apart_px
    pairs = sum(render(xy + sign * step, 0.5 * light, whole.profile, shape) for sign in (1, -1))
    image, _ = taken(replace(whole, image=whole.image - render(xy, light, whole.profile, shape) + pairs), counts=400.0)
    found = analyze(as_micrograph(image, None), Settings(), keep)
    others = dict(found.host.alternatives)
    assert found.host.probability + sum(others.values()) == pytest.approx(1.0)
    if listed:
        assert others.get("unlisted", 0.0) < 0.05 and not found.defects
    else:
        assert others["unlisted"] > 0.99 and agreement(found)["reduced_chi2"] > 4
        assert all(d.type == "UNKNOWN" for d in found.defects)
        assert "no name can be relied on" in found.warnings[0]


def test_an_inverted_image_is_no_result() -> None:
    image, _ = taken(crystal((230, 270), pixel_size_A=PIXEL_A, rotation_deg=12.0, seed=3), counts=400.0)
    with pytest.raises(NotAnalysable, match="dark spots on a bright ground"):
        analyze(as_micrograph(image.max() - image, None), Settings(), keep)


def test_claims_are_claims_and_suspects_are_not() -> None:
    for analysis in everything():
        for claimed in analysis.defects:
            assert dict(claimed.alternatives)["pristine"] < 0.5
        for doubted in analysis.suspects:
            assert dict(doubted.alternatives)["pristine"] >= 0.5
        ids = [d.id for d in analysis.defects + analysis.suspects]
        assert len(set(ids)) == len(ids)
        assert min(ids, default=1) >= 1


def test_probabilities_of_every_defect_sum_to_one() -> None:
    for analysis in everything():
        for d in analysis.defects + analysis.suspects:
            assert d.probability + sum(p for _, p in d.alternatives) == pytest.approx(1.0, abs=1e-9)
            assert d.label not in dict(d.alternatives)
            assert np.allclose(d.center_px, d.extent_px.mean(0))
            assert np.isfinite(d.log_bayes_factor)


def test_candidates_relaxed_and_scores_go_together() -> None:
    for analysis in everything():
        assert len(analysis.candidates) == len(analysis.relaxed) == len(analysis.scores)
        assert [c.id for c in analysis.candidates] == [s.candidate for s in analysis.scores]
        for d in analysis.defects:
            own = [s for c, s in zip(analysis.candidates, analysis.scores, strict=True) if c.defect == d.id]
            if d.type == "UNKNOWN":
                assert d.best_candidate is None
                continue
            assert sum(s.posterior for s in own) == pytest.approx(1.0)
            best = next(c for c in analysis.candidates if c.id == d.best_candidate)
            assert (best.defect, best.label) == (d.id, d.label)


def test_no_column_serves_two_sites() -> None:
    for analysis in everything():
        used = analysis.sites.column[analysis.sites.column >= 0]
        assert len(np.unique(used)) == len(used)
        assert used.max() < len(analysis.columns)


def test_the_masked_area_is_left_blank_and_nothing_is_claimed_there() -> None:
    analysis, _ = small()
    assert [r.kind for r in analysis.regions] == ["vacuum"]
    masked = analysis.region_map > 0
    assert 0.05 < masked.mean() < 0.25
    assert np.isnan(analysis.simulated[masked]).all()
    assert np.isfinite(analysis.simulated[~masked]).all()
    for d in analysis.defects + analysis.suspects:
        x, y = np.rint(d.center_px).astype(int)
        assert not masked[y, x]


def test_the_model_explains_the_image_to_the_noise() -> None:
    for analysis in everything():
        margin = int(0.6 * analysis.lattice.a_px_iso)  # sites beyond the edge are not drawn
        inner = (slice(margin, -margin), slice(margin, -margin))
        image, model = analysis.micrograph.image[inner], analysis.simulated[inner]
        ok = np.isfinite(model)
        assert np.corrcoef(image[ok], model[ok])[0, 1] > 0.9
        variance = analysis.imaging.noise.variance(model[ok])
        # 1 if only noise is left. Jitter and distortion, which the drawn crystal lacks, may add as much again.
        assert np.mean((image[ok] - model[ok]) ** 2 / variance) < 2.0


def test_the_simulation_shows_the_defects() -> None:
    analysis, truth = small()
    for d in truth.defects:
        x, y = np.rint(d.center_px).astype(int)
        patch = (slice(y - 3, y + 4), slice(x - 3, x + 4))
        like = analysis.sites.analysed & (analysis.sites.sublattice == d.sites[0][2])
        at = np.rint(analysis.sites.xy_px[like]).astype(int)
        full = np.nanmedian([np.mean(analysis.simulated[v - 3 : v + 4, u - 3 : u + 4]) for u, v in at])
        assert analysis.simulated[patch].mean() < 0.75 * full
        assert analysis.simulated[patch].mean() == pytest.approx(analysis.micrograph.image[patch].mean(), rel=0.15)


def test_calibration_is_the_lattices_and_a_wrong_stated_scale_is_told() -> None:
    analysis, _ = small()
    assert analysis.calibration.source == "lattice"
    assert analysis.calibration.pixel_size_A == pytest.approx(PIXEL_A, rel=5e-4)
    assert analysis.calibration.metadata_pixel_size_A == pytest.approx(1.09 * PIXEL_A)
    assert any("9.0 % too large" in w for w in analysis.warnings)
    # 3 permil of strain and spread of published constants dominate
    assert 0.003 * PIXEL_A <= analysis.calibration.pixel_size_sigma_A < 0.005 * PIXEL_A
    honest, truth = sample("mos2_sv")
    assert not any("too large" in w or "too small" in w for w in honest.warnings), truth["stated_pixel_size_A"]


def test_doubts_are_kinds_of_the_warnings() -> None:
    begins = {
        "host": "the host cannot be told", "metal": "which sublattice is the metal", "misfit": "the model leaves",
        "vacancies": "single vacancies cannot be told",
    }  # fmt: skip
    for found in (*everything(), grainy()):
        for kind, beginning in begins.items():
            assert (kind in found.doubts) == any(text.startswith(beginning) for text in found.warnings)
        assert set(found.apart_sigma) == {"V_S"} and found.blind_to == ("V_S",) * (found.apart_sigma["V_S"] < 3)
    assert small()[0].doubts == () and {"host", "vacancies"} <= set(grainy().doubts)


@cache
def grainy() -> Findings:
    """MoS2 of so few electrons that nothing is sure."""
    image, _ = taken(crystal((200, 220), pixel_size_A=PIXEL_A, rotation_deg=21.0, seed=4), counts=2.5)
    return analyze(as_micrograph(image, PIXEL_A), Settings(), keep)


def test_stages_are_announced_in_order_and_timed() -> None:
    analysis, _ = small()
    assert list(analysis.timings_s) == [
        "columns", "lattice", "imaging", "defects", "candidates", "relax", "score", "names", "simulate",
    ]  # fmt: skip
    assert all(t >= 0 for t in analysis.timings_s.values())
    assert analysis.settings["host"] == "MoS2"


def test_an_image_without_atoms_is_refused() -> None:
    noise = np.random.default_rng(0).poisson(20.0, (160, 180)).astype(float)
    with pytest.raises(NotAnalysable):
        analyze(as_micrograph(noise, 0.1), Settings(), keep)
