"""The stored renderings of the benchmark of defects against their truth, and its scoring of answers that are known."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
VIEWS = sorted(path.stem for path in (BENCHMARKS / "data" / "stamps").glob("*.npz"))


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield SimpleNamespace(
            **{name: importlib.import_module(f"defect_{name}") for name in ("fields", "library", "scoring", "kinds")}
        )


@pytest.fixture(scope="module")
def field(benchmark: Any) -> Any:
    return benchmark.fields.build("f", "defects", "MoS2-60kV-haadf", ["T1", "SVL-4", *3 * ["V_S2"], *3 * ["V_S"]], 5)


@pytest.fixture(scope="module")
def shot(benchmark: Any, field: Any) -> Any:
    return benchmark.fields.record(field, 100.0, 1)


def at(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    return map_coordinates(image, np.asarray(xy)[..., ::-1].T, order=1)


@pytest.mark.parametrize("view", VIEWS)
def test_every_rendering_agrees_with_its_truth(benchmark: Any, view: str) -> None:
    """One of each kind beside perfect crystal: what is emptied is darker than it was, what is added is brighter."""
    library = benchmark.library.library(view)
    change = {"": -1, "S": -1, "Se": -1, "SSe": 1 if library.host.endswith("S2") else -1}
    metal = "Mo" if library.host.startswith("Mo") else "W"
    frame = benchmark.library.Frame(0.7, np.zeros(2), 0.12, 260)
    bare = benchmark.library.assemble(library, frame, [], 0.8)
    series = importlib.import_module("defect_series")
    for label, stamp in library.stamps.items():
        if stamp.sites[0].sublattice == "-":
            continue
        image = benchmark.library.assemble(library, frame, [benchmark.library.Placed(label, 0, 0)], 0.8)
        xy = frame.to_px(series.lattice_xy(library.host, np.array([site[:2] for site in stamp.sites])))
        off = (at(image, xy) - at(bare, xy)) / bare.max()
        for site, value in zip(stamp.sites, off, strict=True):
            if site.column in change and site.sublattice == "X":
                assert np.sign(value) == change[site.column], (label, site, value)
            if site.column == "" and site.sublattice == "M":
                assert value < -0.5, (label, site, value)
            if site.sublattice == "H" and site.column != "C":
                assert value > 0.02, (label, site, value)
            if site.column == metal and site.sublattice == "X":
                assert value > 0.0 or library.host.endswith("Se2"), (label, site, value)


@pytest.mark.parametrize("view", VIEWS)
def test_columns_are_where_the_truth_says(benchmark: Any, view: str) -> None:
    field = benchmark.fields.build("p", "pristine", view, [], 3, size=200)
    inside = np.all((field.columns_px > 10) & (field.columns_px < len(field.image) - 10), axis=1)
    metal, x = (at(field.image, field.columns_px[inside & (field.letters == letter)]) for letter in ("M", "X"))
    hollow = field.columns_px[inside & (field.letters == "M")] + field.cell_px @ [2 / 3, 2 / 3]
    dark = at(field.image, hollow[np.all(hollow < len(field.image) - 10, axis=1)])
    np.testing.assert_allclose(metal, 1.0, atol=0.02)
    assert x.min() > 1.15 * dark.max() and np.ptp(x) < 0.02


def test_displacements_are_relaxed_by_another_potential(benchmark: Any) -> None:
    for host, label in benchmark.kinds.known():
        moved = benchmark.kinds.moved(host, label)
        assert moved.ended["potential"] == "sevennet-0" and moved.ended["converged"], (host, label)
        assert len(moved.shift) == len(moved.defect.marker)
        assert 0 < np.abs(moved.shift[moved.defect.occupied]).max() < 0.5


def test_a_dead_end_is_no_answer(benchmark: Any) -> None:
    with pytest.raises(KeyError):
        benchmark.kinds.moved("MoS2", "V_S17")


def test_a_perfect_answer_scores_one(benchmark: Any, shot: Any) -> None:
    score = benchmark.scoring.score(shot, perfect(benchmark, shot))
    assert len(score.verdicts) == len(shot.defects) >= 6
    assert {verdict.outcome for verdict in score.verdicts} == {"right"} and score.false == []
    assert score.claimed == score.right and all(s.right and s.present for s in score.statements)
    assert 400 < score.columns < 1500


def test_an_empty_answer_scores_nothing(benchmark: Any, shot: Any) -> None:
    score = benchmark.scoring.score(shot, [])
    assert {verdict.outcome for verdict in score.verdicts} == {"missed"}
    assert not score.claimed and not score.right and benchmark.scoring.f1(8, 0, 0, 0) == 0


def test_what_is_wrong_is_counted(benchmark: Any, shot: Any) -> None:
    """A wrong label, a line that runs elsewhere, one too short, and claims of nothing."""
    scoring, claims = benchmark.scoring, perfect(benchmark, shot)
    line = next(claim for claim in claims if claim.type == "LINE")
    middle = line.center_px
    turned = (line.sites_px - middle) @ np.array([[0.5, np.sqrt(0.75)], [-np.sqrt(0.75), 0.5]]) + middle
    for sites in (turned, line.sites_px[:2]):
        assert outcome(scoring, shot, [line._replace(sites_px=sites)], "LINE") in ("wrong", "missed")
    single = next(claim for claim in claims if claim.type == "SV")
    assert outcome(scoring, shot, [single._replace(label="Se_S", type="SUB")], "SV") == "wrong"
    tie = single._replace(label="Se_S", type="SUB", alternatives={"V_S": 0.2, "pristine": 0.0})
    assert outcome(scoring, shot, [tie], "SV") == "tie"
    assert outcome(scoring, shot, [single._replace(type="UNKNOWN", label="UNKNOWN")], "SV") == "unknown"
    far = [single._replace(sites_px=xy[None]) for xy in shot.columns_px[::40] if away(shot, xy)]
    assert len(scoring.score(shot, far).false) == len(far) > 3


def test_a_defect_at_the_border_and_its_claim_are_on_the_same_side(benchmark: Any, shot: Any) -> None:
    """A claim a little off its defect must not fall to the other side of the line that sets the border apart."""
    scoring, size = benchmark.scoring, len(shot.recording.image)
    single = next(claim for claim in perfect(benchmark, shot) if claim.type == "SV")
    truth = next(d for d in shot.defects if np.allclose(d.sites_px.mean(0), single.center_px))
    border = scoring.EDGE_A / shot.field.pixel_A
    for beyond, counted in ((-2.0, 0), (2.0, 1)):
        to = np.array([border + beyond, size / 2]) - single.center_px
        moved = shot._replace(defects=[truth._replace(sites_px=truth.sites_px + to)])
        for off in (-3.0, 0.0, 3.0):
            score = scoring.score(moved, [single._replace(sites_px=single.sites_px + to + [off, 0.0])])
            assert [v.outcome for v in score.verdicts] == ["right"] * counted
            assert sum(score.claimed.values()) == counted and score.false == []
            assert score.in_areas[scoring.BORDER] == 1 - counted


def test_claims_in_a_film_are_counted_there(benchmark: Any) -> None:
    field = benchmark.fields.build("c", "contamination", "MoS2-60kV-haadf", [], 8, film=True)
    shot = benchmark.fields.record(field, 20.0, 1)
    middle = shot.areas[0].sites_px.mean(0)
    claim = benchmark.scoring.Stated("SV", "V_S", 0.9, middle[None], {"pristine": 0.1})
    score = benchmark.scoring.score(shot, [claim])
    assert +score.in_areas == {"contamination": 1} and score.false == [] and not score.claimed
    assert score.columns_in["contamination"] > 50


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("V_S", "SV"), ("V_Se2", "DV"), ("V_W", "VM"), ("V_MoS3", "VM"), ("SVL-4", "LINE"), ("T1", "TREFOIL"),
        ("W_Mo", "SUB"), ("Se2_S2", "SUB"), ("Mo_S2", "ANTI"), ("S_Mo", "ANTI"), ("W@H", "ADATOM"),
    ],
)  # fmt: skip
def test_labels_have_the_type_of_the_contract(benchmark: Any, label: str, kind: str) -> None:
    assert benchmark.library.type_of(label) == kind


def perfect(benchmark: Any, shot: Any) -> list[Any]:
    return [benchmark.scoring.Stated(d.type, d.label, 1.0, d.sites_px, {"pristine": 0.0}) for d in shot.defects]


def outcome(scoring: Any, shot: Any, claims: list[Any], kind: str) -> str:
    """Of the defect of a type that the first claim is about."""
    verdicts = [v for v in scoring.score(shot, claims).verdicts if v.truth.type == kind]
    near = [np.hypot(*(v.truth.sites_px.mean(0) - claims[0].center_px)) for v in verdicts]
    return str(verdicts[int(np.argmin(near))].outcome)


def away(shot: Any, xy: np.ndarray) -> bool:
    """In the scored part, and on no defect."""
    size, border = len(shot.recording.image), 6 / shot.field.pixel_A
    sites = np.vstack([defect.sites_px for defect in shot.defects])
    return bool(np.all((xy > border) & (xy < size - border)) and np.hypot(*(sites - xy).T).min() > border)
