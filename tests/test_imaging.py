"""Brightness of column types, gain and scatter, from planted brightness and from an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chain import pristine, vacancies

from stemfit.columns import Columns, Noise, Profile
from stemfit.errors import UsageError
from stemfit.hosts import projected
from stemfit.imaging import USUAL_TAIL, Amplitude, Imaging, Tail, fit_imaging, foreign_columns
from stemfit.lattice import Brightness, SiteMap
from stemfit.optics.scattering import column_elements
from stemfit.synthetic import cell_vectors, lattice_sites

SHAPE = (320, 360)
HOST = projected("MoS2")


def site_map() -> SiteMap:
    a, b = cell_vectors(15.0, 19.0)
    ij, sublattice, xy = lattice_sites(a, b, np.array([170.0, 150.0]), 1, SHAPE, -4.0)
    x, y = xy.T
    deep = (x > 12) & (y > 12) & (x < SHAPE[1] - 13) & (y < SHAPE[0] - 13)
    return SiteMap(ij, sublattice, xy, np.arange(len(xy)), deep)


SITES = site_map()
METAL = SITES.sublattice == "M"
FLAT = np.zeros(SHAPE)
COLUMNS = Columns(
    np.zeros((0, 2)), np.zeros(0), np.zeros((0, 3, 3)), Profile(np.eye(2) * 4.0, 5.0, 0.1), FLAT, FLAT,
    Noise(1.0, 0.0, 0.0, 1.0),
)


def planted(scatter: float = 0.0, error: float = 0.02, seed: int = 0) -> Brightness:
    """1000 on the metal, 420 on the chalcogen, with their own relative scatter and a measurement error."""
    rng = np.random.default_rng(seed)
    level = np.where(METAL, 1000.0, 420.0)
    true = level * rng.normal(1, scatter, len(level)) if scatter else level
    return Brightness(true + rng.normal(0, error * level), error * level)


def fitted(brightness: Brightness, sites: SiteMap = SITES) -> Imaging:
    return fit_imaging(COLUMNS, sites, brightness, HOST, 60.0, (60.0, 200.0))


def test_brightness_of_the_hosts_columns_is_measured_with_its_error() -> None:
    imaging = fitted(planted())
    for name, level in (("Mo", 1000.0), ("S2", 420.0)):
        found = imaging.amplitudes[name]
        assert found.source == "image"
        # the error of a median of some 470 sites at 2 % each, plus that of the common gain
        assert abs(found.value - level) < 5 * found.sigma + 0.002 * level
        assert 0.0005 * level < found.sigma < 0.003 * level


def test_a_tenth_of_vacancies_does_not_pull_the_brightness() -> None:
    seen = planted()
    value = seen.value.copy()
    rng = np.random.default_rng(8)
    chosen = rng.choice(np.flatnonzero(~METAL), (~METAL).sum() // 10, replace=False)
    value[chosen] *= 0.42
    found = fitted(Brightness(value, seen.sigma)).amplitudes["S2"].value
    assert found == pytest.approx(420.0, rel=0.01)
    mean = float(value[~METAL].mean())
    assert abs(mean - 420.0) > 0.04 * 420.0  # the broken twin: a plain mean


def test_scatter_is_what_exceeds_the_measurement_error() -> None:
    for scatter, error in ((0.0, 0.03), (0.06, 0.02)):
        found = fitted(planted(scatter, error)).scatter
        assert found["M"] == pytest.approx(scatter, abs=0.015)  # robust spread of 470: 4 % of 0.063, and its excess
        assert found["X"] == pytest.approx(scatter, abs=0.015)


def test_slow_gain_is_found_and_does_not_count_as_scatter() -> None:
    slope = 1 + 0.25 * (np.mgrid[: SHAPE[0], : SHAPE[1]][1] / SHAPE[1] - 0.5)
    at = np.rint(SITES.xy_px).astype(int)
    seen = planted()
    g = slope[at[:, 1], at[:, 0]]
    imaging = fitted(Brightness(seen.value * g, seen.sigma * g))
    assert imaging.gain.shape == SHAPE
    assert imaging.gain.mean() == pytest.approx(1.0)
    inner = (slice(50, -50), slice(50, -50))
    assert np.allclose(imaging.gain[inner], (slope / slope.mean())[inner], atol=0.02)
    assert imaging.gain[:, 330].mean() - imaging.gain[:, 30].mean() > 0.15
    assert max(imaging.scatter.values()) < 0.02


def test_one_empty_patch_of_three_does_not_make_the_gain_dip() -> None:
    seen = planted()
    value = seen.value.copy()
    nearest = np.argsort(np.hypot(*(SITES.xy_px - [180, 160]).T))
    value[nearest[:3]] = 0.0
    imaging = fitted(Brightness(value, seen.sigma))
    assert imaging.gain[160, 180] == pytest.approx(1.0, abs=0.02)


def test_columns_that_are_not_here_come_from_the_table_in_the_units_of_this_image() -> None:
    imaging = fitted(planted())
    doubled = fitted(Brightness(2 * planted().value, 2 * planted().sigma))
    for name in foreign_columns(HOST):
        assert imaging.amplitudes[name].source == "table"
        assert doubled.amplitudes[name].value == pytest.approx(2 * imaging.amplitudes[name].value)
    value = {name: a.value for name, a in imaging.amplitudes.items()}
    # one S is between a third and a half of a pair: between coherent and independent scattering
    assert 420 / 3 < value["S"] < 420 / 1.95
    assert value["O2"] < value["OS"] < 420 < value["SSe"] < value["Se2"]
    assert value["Nb"] == pytest.approx(1000, rel=0.1)  # one electron less
    assert 1.6 * 1000 < value["W"] < 3.1 * 1000  # below Rutherford's (74 / 42)^2; so strong an atom saturates at 60 kV
    assert value["V"] < 500


def test_every_named_hypothesis_has_a_brightness() -> None:
    from stemfit.defects import hypotheses

    for name in ("MoS2", "WSe2", "graphene", "hBN"):
        host = projected(name)
        sites = replace(SITES, sublattice=np.where(METAL, *host.sublattices))
        imaging = fit_imaging(COLUMNS, sites, planted(), host, None, None)
        wanted = {h.column for s in host.sublattices for h in hypotheses(host, s)} - {"", "?"}
        assert wanted <= set(imaging.amplitudes)


def test_an_unlisted_stack_is_the_sum_of_its_atoms_and_uncertain() -> None:
    imaging = fitted(planted())
    stack = imaging.amplitude("MoS2")
    atoms = sum(imaging.amplitudes[e].value for e in column_elements("MoS2"))
    assert stack.value == pytest.approx(atoms)
    assert stack.sigma == pytest.approx(0.25 * atoms)
    with pytest.raises(UsageError, match="Au"):
        imaging.amplitude("Au")


def test_scatter_belongs_to_the_sublattice_a_column_would_stand_on() -> None:
    none = Tail(0.0, 1.0)
    imaging = replace(fitted(planted()), scatter={"M": 0.02, "X": 0.05}, tails={"M": none, "X": none})
    assert [imaging.scatter_of(c) for c in ("W", "Mo", "S", "SSe", "MoS")] == [0.02, 0.02, 0.05, 0.05, 0.02]
    flat = replace(imaging, scatter={"A": 0.01, "B": 0.04}, tails={"A": none, "B": none})
    assert flat.scatter_of("C") == 0.04
    wider = replace(imaging, tails={"M": none, "X": Tail(0.25, 3.0)})
    assert wider.scatter_of("S") == pytest.approx(0.05 * np.sqrt(0.75 + 0.25 * 9))


def test_the_bright_side_tells_how_pristine_columns_scatter() -> None:
    seen = planted(scatter=0.04)
    assert fitted(seen).tails["X"].share < 0.06
    dim, mixed, doped = (seen.value.copy() for _ in range(3))
    chosen = np.random.default_rng(5).permutation(np.flatnonzero(~METAL))
    dim[chosen[:90]] *= 0.45  # vacancies are dim: they say nothing about the scatter of pristine columns
    assert fitted(Brightness(dim, seen.sigma)).tails["X"].share < 0.06
    mixed[chosen[:140]] *= 1.5  # a sublattice of two populations is not uniform
    found = fitted(Brightness(mixed, seen.sigma)).tails["X"]
    assert found.share > 0.25
    assert found.width > 5
    doped[chosen[:5]] *= 1.6  # a few bright columns are other atoms
    assert fitted(Brightness(doped, seen.sigma)).tails["X"].width < 1.2 * USUAL_TAIL.width


def test_one_bright_column_does_not_make_the_others_scatter() -> None:
    seen = planted(scatter=0.04, error=0.05)
    site = np.flatnonzero(METAL & SITES.analysed)[100]
    bright = seen.value.copy()
    bright[site] = 1350.0  # five spreads
    before, after = fitted(seen).tails["M"], fitted(Brightness(bright, seen.sigma)).tails["M"]
    assert after.share * after.width**2 == pytest.approx(before.share * before.width**2, rel=0.1)


def test_atoms_added_to_many_columns_do_not_make_the_others_scatter_where_the_dark_side_is_clean() -> None:
    seen = planted(scatter=0.03)
    more = seen.value.copy()
    chosen = np.random.default_rng(6).permutation(np.flatnonzero(METAL))[:40]
    more[chosen] *= 1.14  # three spreads: hardly any is far out
    assert fitted(Brightness(more, seen.sigma)).tails["M"].share < 0.04
    # Broken twin: as many made darker, and it is the scatter.
    both = more.copy()
    both[np.random.default_rng(6).permutation(np.flatnonzero(METAL))[40:80]] *= 0.86
    assert fitted(Brightness(both, seen.sigma)).tails["M"].share > 0.05


@pytest.mark.parametrize("chain", [pristine, vacancies])
def test_an_image_gives_the_brightness_that_was_drawn(chain) -> None:  # type: ignore[no-untyped-def]
    seen = chain()
    truth = seen.truth.columns
    counts = 100.0
    for name, sublattice in (("Mo", "M"), ("S2", "X")):
        full = (truth.sublattice == sublattice) & (truth.state == "full")
        drawn = counts * float(np.median(truth.intensity[full]))
        found: Amplitude = seen.imaging.amplitudes[name]
        # A tenth of each column is a tail wider than the spacing: their sum is nearly flat and may count as background.
        # That is common to all columns, hence the sharper line below.
        assert 0.88 * drawn < found.value < 1.03 * drawn
    ratio = seen.imaging.amplitudes["S2"].value / seen.imaging.amplitudes["Mo"].value
    assert ratio == pytest.approx(0.45, rel=0.03)
    # None was drawn. Brightness errors are stated too small by up to a third: 0.02 becomes 0.027 and leaves 0.02.
    assert max(seen.imaging.scatter.values()) < 0.04
    assert seen.imaging.noise.gain == pytest.approx(1.0, rel=0.1)  # counts are the image's units here



def test_a_uniform_image_has_uniform_gain() -> None:
    assert np.ptp(pristine().imaging.gain) < 0.06
