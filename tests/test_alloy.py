"""Alloys from the brightness of columns put in by hand: multislice values at 60 kV, 60-200 mrad, no table of ours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_analysis import fake_analysis
from fake_result import result_of
from matplotlib.colors import to_rgb
from test_imaging import COLUMNS, METAL, SITES

from stemfit.defects import SitePosterior, find_defects, occupancies
from stemfit.defects.evidence import Evidence
from stemfit.figures.marks import blended, mixed_colours
from stemfit.hosts import projected
from stemfit.imaging import fit_imaging
from stemfit.lattice import Alloy, Brightness, Honeycomb, Lattice, Levels, Populations, find_alloy
from stemfit.lattice.populations import several, unmixed
from stemfit.result.document import document
from stemfit.result.field import frame
from stemfit.result.tables import columns_csv
from stemfit.synthetic import cell_vectors

MO = {"Mo": 1.0, "W": 1.85, "S": 0.224, "S2": 0.46, "SSe": 1.06, "Se2": 1.60, "": 0.0}
W = {"W": 1.0, "S": 0.11, "S2": 0.235, "SSe": 0.53, "Se": 0.408, "Se2": 0.864, "": 0.0}
HONEY = Honeycomb(SITES.ij, np.where(METAL, 0, 1), SITES.xy_px, np.arange(len(METAL)), SITES.analysed)
A, B = cell_vectors(15.0, 19.0)


def drawn(levels: dict[str, float], shares: dict[str, float], metal: dict[str, float], seed: int = 3) -> np.ndarray:
    """Column type of every site at random."""
    rng = np.random.default_rng(seed)
    x, m = (rng.choice(list(s), len(METAL), p=list(s.values())) for s in (shares, metal))
    assert set(shares) | set(metal) <= set(levels)
    return np.where(METAL, m, x)


def shown(types: np.ndarray, levels: dict[str, float], error: float = 0.05, scatter: float = 0.0) -> Brightness:
    """Brightness with a measurement error (of a metal column), and a relative scatter of each column on top."""
    rng = np.random.default_rng(11)
    value = np.array([levels[t] for t in types]) * (1 + scatter * rng.normal(size=len(types)))
    return Brightness(1000 * (value + rng.normal(0, error, len(types))), np.full(len(types), 1000.0 * error))


def found(brightness: Brightness, asked: str = "") -> Alloy | None:
    host = projected(asked) if asked else None
    return find_alloy(HONEY, brightness, (0.95, 0.05), host, 60.0, (60.0, 200.0), lambda a_A: 0.0)


@pytest.mark.parametrize(("share", "name"), [(0.25, "WS2"), (0.7, "WSe2")])
def test_composition_and_lattice_constant_of_a_chalcogen_alloy(share: float, name: str) -> None:
    pairs = {"S2": (1 - share) ** 2, "SSe": 2 * share * (1 - share), "Se2": share**2}
    types = drawn(W, pairs, {"W": 1.0})
    alloy = found(shown(types, W))
    assert alloy is not None
    assert (alloy.host.name, alloy.metal_third, set(alloy.populations)) == (name, 0, {"X"})
    true = np.mean([{"S2": 0.0, "SSe": 0.5, "Se2": 1.0}[t] for t in types[~METAL & SITES.analysed]])
    said, sigma = alloy.populations["X"].composition()["Se"]
    assert abs(said - true) < 0.02
    assert 0.005 < sigma < 0.03
    assert alloy.a_A == pytest.approx((1 - said) * 3.153 + said * 3.282, abs=0.002)


def test_a_janus_layer_and_a_metal_alloy() -> None:
    janus = found(shown(drawn(W, {"S2": 0.35, "SSe": 0.65}, {"W": 1.0}), W))
    assert janus is not None
    assert janus.populations["X"].composition()["Se"][0] == pytest.approx(0.325, abs=0.03)
    metals = found(shown(drawn(MO, {"S2": 1.0}, {"Mo": 0.6, "W": 0.4}), MO))
    assert metals is not None
    assert set(metals.populations) == {"M"}
    assert metals.populations["M"].composition()["W"][0] == pytest.approx(0.4, abs=0.05)


def test_vacancies_films_and_few_exchanges_are_no_alloy() -> None:
    pure = {"Mo": 1.0}
    assert found(shown(drawn(MO, {"S2": 0.89, "S": 0.08, "": 0.03}, pure), MO)) is None
    assert found(shown(drawn(MO, {"S2": 1.0}, pure), MO, scatter=0.3)) is None
    skew = shown(drawn(MO, {"S2": 1.0}, pure), MO)
    film = np.random.default_rng(0).exponential(150.0, len(METAL))
    assert found(skew._replace(value=skew.value + film)) is None
    assert found(shown(drawn(MO, {"S2": 0.92, "SSe": 0.08}, pure), MO)) is None
    assert found(shown(drawn(MO, {"S2": 0.5, "SSe": 0.5}, pure), MO, error=0.3)) is None  # drowned


def test_the_users_host_is_kept() -> None:
    types = drawn(W, {"S2": 0.16, "SSe": 0.48, "Se2": 0.36}, {"W": 1.0})
    alloy = found(shown(types, W), "WS2")
    assert alloy is not None
    assert (alloy.host.name, alloy.probability) == ("WS2", 1.0)


def test_one_population_has_no_valley() -> None:
    levels = Levels(("S2", "SSe", "Se2", "S", "Se", ""), np.array([1.0, 2.0, 3.0, 0.5, 1.5, 0.0]), np.zeros(6), 3, 2.0)
    share = np.array([0.5, 0.5, 0.0, 0.0, 0.0, 0.0])
    mix = Populations(levels, share, 0.1, 400.0, 0.0)
    rng = np.random.default_rng(2)
    assert several(np.concatenate([rng.normal(1, 0.25, 200), rng.normal(2, 0.25, 200)]), mix)
    assert not several(rng.normal(1.5, 0.5, 400), mix)
    assert not several(0.9 + rng.exponential(0.6, 400), mix)
    assert not several(rng.uniform(0.7, 2.3, 400), mix)


@pytest.mark.parametrize(("half", "told"), [(0.12, False), (0.30, True)])
def test_a_density_of_vacancies_is_learned_only_where_it_shows(half: float, told: bool) -> None:
    """Full columns at 0.2, 0.5 and 0.8 that scatter to the dark side; half-empty ones beside them, or apart."""
    rng = np.random.default_rng(6)
    level = np.array([0.2, 0.5, 0.8])
    value = level[rng.choice(3, 600, p=[0.45, 0.45, 0.1])] - 0.03 * rng.exponential(1.0, 600) + rng.normal(0, 0.03, 600)
    value[:60] = rng.normal(half, 0.03, 60)
    levels = Levels(("S2", "SSe", "Se2", "S", "Se", ""), np.array([*level, half, 0.36, 0.0]), np.full(6, 0.02), 3, 1.0)
    levels = levels._replace(sigma=np.where(levels.value > 0, levels.sigma, 0.0))
    mix = unmixed(value, np.full(600, 0.02), levels)
    assert mix is not None
    share = mix.share[3] + (mix.share[4] if told else 0.0)
    assert share == pytest.approx(0.1, abs=0.04) if told else share < 0.01


def test_columns_of_an_alloy_are_named_and_only_vacancies_are_listed() -> None:
    types = drawn(W, {"S2": 0.3, "SSe": 0.5, "Se2": 0.18, "": 0.02}, {"W": 1.0})
    brightness = shown(types, W, error=0.04)
    alloy = found(brightness)
    assert alloy is not None
    imaging = fit_imaging(COLUMNS, SITES, brightness, alloy.host, 60.0, (60.0, 200.0), alloy.populations)
    posteriors = occupancies(SITES, brightness, imaging, alloy.host)
    on_x = posteriors[1]
    assert np.allclose(on_x.probability.sum(1), 1.0)
    truth = types[on_x.site]
    full = truth != ""
    p = np.asarray(on_x.p_species)
    best = np.array(on_x.species)[p.argmax(1)]
    assert np.mean(best[full] == truth[full]) > 0.95
    assert abs(np.mean(best[full] == truth[full]) - p.max(1)[full].mean()) < 0.04  # a frequency
    polarity = Lattice(A, B, np.array([170.0, 150.0]), 1, np.zeros((6, 6)), np.zeros((2, 2, 2)), (320, 360), 0.1)
    none = np.zeros((320, 360), np.uint8)
    unmatched = replace(SITES, column=np.full(len(METAL), -1))
    evidence = Evidence(COLUMNS, unmatched, posteriors, polarity, alloy.host, none, imaging, COLUMNS.model)
    claims = [d for d in find_defects(evidence)[0] if d.type != "LINE"]
    gone = {tuple(SITES.xy_px[k].round(3)) for k in on_x.site[~full]}
    dark = {tuple(d.center_px.round(3)) for d in claims if d.label.startswith("V_") and d.label.endswith("2")}
    assert len(gone & dark) >= 0.8 * len(gone)
    assert len(claims) < len(gone) + 6
    assert not [d for d in claims if d.type == "SUB" and d.sites[0][2] == "X"]


def test_an_alloy_is_written_and_drawn() -> None:
    analysis = fake_analysis()
    rows = np.flatnonzero((analysis.sites.sublattice == "X") & analysis.sites.analysed)
    p = np.tile([0.7, 0.3, 0.0, 0.0, 0.0], (len(rows), 1))
    p[:3] = [0.0, 0.0, 1.0, 0.0, 0.0]
    columns = ("S2", "SSe", "Se2", "S", "Se")
    none = np.zeros((len(rows), 1))
    posterior = SitePosterior(rows, (), none, none, np.ones(1), None, columns, p)
    host = replace(analysis.host, composition={"X": {"S": (0.7, 0.01), "Se": (0.3, 0.01)}})
    analysis = replace(analysis, mixed=(posterior,), host=host)
    assert document(analysis, frame(analysis))["host"]["composition"] == {"X": {"S": [0.7, 0.01], "Se": [0.3, 0.01]}}
    lines = [line.split(",") for line in columns_csv(analysis).splitlines()[1:]]
    column = analysis.sites.column[rows]
    seen = column >= 0
    said = [(lines[c][9], lines[c][10]) for c in column[seen]]
    assert set(said[3:]) == {("S2", "0.7")}
    assert ("Se2", "1") in said
    result = result_of(analysis)
    colours = mixed_colours(result)["X"]
    assert len({colours[c] for c in ("S2", "SSe", "Se2")}) == 3
    between = blended(result)[int(column[seen][-1])]
    pure = blended(result)[int(column[:3][column[:3] >= 0][0])]
    assert np.allclose(pure, to_rgb(colours["Se2"]))
    assert not np.allclose(between, pure)
