"""Host and metal sublattice from brightness, scale and dim sites; honeycombs are put together by hand."""

from __future__ import annotations

import numpy as np
import pytest
from chain import pristine, vacancies
from hypothesis import given
from hypothesis import strategies as st

from stemfit.errors import UnknownHost
from stemfit.hosts import INFERABLE, amplitude_ratio, projected
from stemfit.lattice import Brightness, Grid, Honeycomb, Identity, identify, name_lattice, name_sites
from stemfit.lattice.types import iso
from stemfit.synthetic import cell_vectors

OPTICS = {"voltage_kV": 60.0, "detector_mrad": (60.0, 200.0)}
A_PX = 20.0


def honeycomb(cells: int = 8) -> Honeycomb:
    i, j, third = (k.ravel() for k in np.meshgrid(range(cells), range(cells), (0, 1), indexing="ij"))
    a, b = cell_vectors(A_PX, 14.0)
    xy = np.column_stack([i + third / 3, j + third / 3]) @ np.stack([a, b])
    return Honeycomb(np.column_stack([i, j]), third, xy, np.arange(len(i)), np.ones(len(i), dtype=bool))


SITES = honeycomb()


def brightness(q_over_p: float, dim: dict[int, int] | None = None, seed: int = 0) -> Brightness:
    """P at 100 and Q at `q_over_p` times that, 3 % scatter; `dim` says how many sites of each third are halved."""
    rng = np.random.default_rng(seed)
    value = np.where(SITES.third == 1, 100.0 * q_over_p, 100.0) * rng.normal(1, 0.03, len(SITES.third))
    for third, count in (dim or {}).items():
        value[np.flatnonzero(SITES.third == third)[3 : 3 + 5 * count : 5]] *= 0.45
    return Brightness(value, np.where(SITES.third == 1, 2.0 * q_over_p, 2.0))


def probabilities(identity: Identity) -> dict[str, float]:
    return {identity.host.name: identity.probability, **dict(identity.alternatives)}


def ratio_of(name: str) -> float:
    return amplitude_ratio(projected(name), 60.0, (60.0, 200.0))[0]


@pytest.mark.parametrize("name", ["WS2", "MoS2"])
def test_a_host_is_named_where_brightness_and_vacancies_agree(name: str) -> None:
    said = identify(SITES, brightness(ratio_of(name), {1: 7}), A_PX, **OPTICS)
    assert (said.host.name, said.source, said.metal_third) == (name, "inferred", 0)
    assert said.probability > 0.95
    assert said.metal_probability > 0.95


def test_a_ratio_and_its_inverse_are_both_thinkable() -> None:
    """X over M is 0.30 in WS2 and 3.3 in MoTe2: without a scale and without vacancies the image shows either."""
    found = probabilities(identify(SITES, brightness(ratio_of("WS2")), A_PX, **OPTICS))
    assert min(found["WS2"], found["MoTe2"]) > 0.2


@pytest.mark.parametrize("name", INFERABLE)
def test_every_host_is_thinkable_at_its_own_brightness(name: str) -> None:
    found = probabilities(identify(SITES, brightness(ratio_of(name)), A_PX, **OPTICS))
    # MoSe2 and hBN have the same ratio, graphene's lies at that of WSe2: a share is all that brightness alone can give.
    assert found[name] > 0.1 * np.exp(projected(name).log_prior)


def test_dim_sites_of_either_kind_speak_for_no_host() -> None:
    """Damage on both sublattices alike, as in graphene, does not make a dichalcogenide likelier than it was."""
    clean, damaged = (probabilities(identify(SITES, brightness(0.95, dim), A_PX)) for dim in ({}, {0: 3, 1: 3}))
    assert damaged["graphene"] > clean["graphene"]
    one_sided = probabilities(identify(SITES, brightness(0.95, {1: 6}), A_PX))
    assert one_sided["WSe2"] / one_sided["graphene"] > 5 * clean["WSe2"] / clean["graphene"]


def test_what_cannot_be_told_stays_spread() -> None:
    both = probabilities(identify(SITES, brightness(ratio_of("MoSe2")), A_PX, **OPTICS))
    assert 0.1 < both["MoSe2"] < 0.9
    assert 0.1 < both["hBN"] < 0.9
    dark = probabilities(identify(SITES, brightness(0.36), A_PX))  # between WS2 and MoS2, microscope unknown
    assert dark["MoS2"] < 0.9
    assert dark["WS2"] < 0.9


def test_knowing_the_microscope_sharpens_the_call() -> None:
    seen = brightness(ratio_of("MoS2"))
    known, unknown = (probabilities(identify(SITES, seen, A_PX, **how)) for how in (OPTICS, {}))
    assert known["MoS2"] > unknown["MoS2"] + 0.03


def test_a_stated_scale_tells_hosts_of_different_size() -> None:
    for name, vacancies_there in (("MoSe2", {1: 3}), ("hBN", {})):
        seen = brightness(ratio_of("MoSe2"), vacancies_there)
        said = identify(SITES, seen, A_PX, stated_pixel_A=projected(name).a_A / A_PX, **OPTICS)
        assert said.host.name == name
        assert said.probability > 0.95


def test_a_scale_wrong_by_a_tenth_does_not_overrule_the_brightness() -> None:
    scale = 1.10 * projected("WS2").a_A / A_PX  # nearer to MoTe2's lattice constant
    seen = brightness(ratio_of("WS2"), {1: 3})
    assert identify(SITES, seen, A_PX, stated_pixel_A=scale, **OPTICS).host.name == "WS2"


def test_the_users_word_on_the_scale_counts_for_more_than_the_files() -> None:
    seen, scale = brightness(ratio_of("MoSe2")), 1.04 * projected("MoSe2").a_A / A_PX
    file, user = (
        probabilities(identify(SITES, seen, A_PX, stated_pixel_A=scale, stated_by_user=u, **OPTICS))
        for u in (False, True)
    )
    # 4 % off: 1.3 sigma of a file, 2 of a user; hBN is 20 % off, which a file may be and a user may not.
    assert user["hBN"] < 1e-6 < file["hBN"] < 0.5


def test_probabilities_sum_to_one() -> None:
    for ratio in (0.2, 0.4, 0.7, 1.0, 1.9, 3.3):
        assert sum(probabilities(identify(SITES, brightness(ratio), A_PX)).values()) == pytest.approx(1.0)


@given(st.floats(0.15, 6.0), st.integers(0, 3), st.integers(0, 3))
def test_exchanging_the_sublattices_exchanges_only_the_metal(ratio: float, dim_p: int, dim_q: int) -> None:
    one = brightness(ratio, {0: dim_p, 1: dim_q})
    swapped = SITES._replace(third=1 - SITES.third)
    here, there = identify(SITES, one, A_PX), identify(swapped, one, A_PX)
    assert probabilities(here) == pytest.approx(probabilities(there))
    assert here.metal_probability == pytest.approx(there.metal_probability)
    if here.metal_probability > 0.5 + 1e-9:
        assert here.metal_third == 1 - there.metal_third


def test_brightest_is_not_the_metal_in_mose2() -> None:
    for q_over_p, metal in ((ratio_of("MoSe2"), 0), (1 / ratio_of("MoSe2"), 1)):
        said = identify(SITES, brightness(q_over_p), A_PX, asked="MoSe2", **OPTICS)
        assert said.metal_third == metal  # the dimmer one
        assert said.metal_probability > 0.95


def test_dim_sites_say_where_the_chalcogen_is_when_brightness_does_not() -> None:
    even = identify(SITES, brightness(1.0), A_PX, asked="WSe2")
    assert even.metal_probability < 0.9  # the two assignments are 0.3 sigma apart
    for chalcogen in (0, 1):
        said = identify(SITES, brightness(1.0, {chalcogen: 3}), A_PX, asked="WSe2")
        assert said.metal_third == 1 - chalcogen
        assert said.metal_probability > 0.95
    both = identify(SITES, brightness(1.0, {0: 3, 1: 3}), A_PX, asked="WSe2")
    assert both.metal_probability == pytest.approx(even.metal_probability, abs=0.05)


def test_dim_sites_do_not_overrule_a_clear_brightness() -> None:
    said = identify(SITES, brightness(ratio_of("WS2"), {0: 4}), A_PX, asked="WS2", **OPTICS)
    assert said.metal_third == 0


def test_a_stated_host_is_taken() -> None:
    said = identify(SITES, brightness(0.5), A_PX, asked="WTe2")
    assert (said.host.name, said.source, said.alternatives) == ("WTe2", "user", ())
    assert said.probability == pytest.approx(1.0)
    with pytest.raises(UnknownHost):
        identify(SITES, brightness(0.5), A_PX, asked="MoS3")


def test_sites_outside_the_analysed_area_have_no_say() -> None:
    seen = brightness(ratio_of("WS2"), {1: 3})
    outside = SITES.xy_px[:, 0] > np.percentile(SITES.xy_px[:, 0], 60)
    spoiled = Brightness(np.where(outside & (SITES.third == 1), 300.0, seen.value), seen.sigma)
    masked = SITES._replace(inside=~outside)
    assert identify(masked, spoiled, A_PX, **OPTICS) == identify(masked, seen, A_PX, **OPTICS)
    assert identify(SITES, spoiled, A_PX, **OPTICS) != identify(SITES, seen, A_PX, **OPTICS)


@pytest.mark.parametrize("metal", [0, 1])
def test_naming_puts_the_origin_on_a_metal_and_keeps_every_position(metal: int) -> None:
    a, b = cell_vectors(A_PX, 14.0)
    grid = Grid(
        np.zeros(2), a, b, np.eye(6) * 1e-6, np.zeros((2, 2, 2)), (200, 200), 0.1, np.ones((200, 200)), np.zeros(3)
    )
    lattice, sites = name_lattice(grid, metal), name_sites(SITES, projected("MoS2"), metal)
    assert lattice.polarity == (1 if metal == 0 else -1)
    assert (sites.sublattice[SITES.third == metal] == "M").all()
    assert (sites.sublattice[SITES.third != metal] == "X").all()
    where = lattice.positions(sites.ij + lattice.basis[(sites.sublattice == "X").astype(int)])
    assert np.allclose(where, SITES.xy_px, atol=1e-9)
    assert lattice.a_px_iso == pytest.approx(iso(a, b))


def test_images_of_both_polarities_are_named_right() -> None:
    for chain in (pristine(), vacancies()):
        assert chain.lattice.polarity == chain.truth.polarity
        assert chain.identity.metal_probability > 0.95


@given(st.floats(0.5, 1e6))
def test_a_model_that_leaves_much_speaks_for_a_crystal_of_no_list(chi2: float) -> None:
    said = identify(SITES, brightness(ratio_of("WS2")), A_PX, stated_pixel_A=0.158)
    left, further = said.left_with(chi2), said.left_with(1.5 * chi2)
    assert left.probability + sum(p for _, p in left.alternatives) == pytest.approx(1.0)
    assert sum(n.probability for n in left.namings) + dict(left.alternatives)["unlisted"] == pytest.approx(1.0)
    assert further.probability <= left.probability <= said.probability
    if chi2 < 1.8:
        assert left is said
    if chi2 > 5.0:
        assert dict(left.alternatives)["unlisted"] > 0.98
    stated = identify(SITES, brightness(0.5), A_PX, asked="WTe2")
    assert stated.left_with(chi2) is stated
