"""What hosts look like from above."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definet.crystals import HOSTS
from stemfit.errors import UnknownHost
from stemfit.hosts import INFERABLE, amplitude_ratio, column_type, letters, projected
from stemfit.optics.scattering import column_elements


@pytest.mark.parametrize(
    ("elements", "name"),
    [
        (["S", "S"], "S2"),
        (["Se", "S"], "SSe"),
        (["S", "Mo"], "MoS"),
        (["Mo"], "Mo"),
        (["Se", "Ga", "Se", "Ga"], "Ga2Se2"),
        ([], ""),
    ],
)
def test_column_type(elements, name):
    assert column_type(elements) == name


@given(st.lists(st.sampled_from(["B", "C", "Mo", "S", "Se", "Si", "W"]), min_size=1, max_size=6))
def test_a_column_type_names_its_atoms_in_any_order(elements):
    name = column_type(elements)
    assert column_elements(name) == tuple(sorted(elements))
    assert column_type(reversed(elements)) == name


@pytest.mark.parametrize(
    ("name", "columns", "sublattices"),
    [
        ("MoS2", ("Mo", "S2"), ("M", "X")),
        ("WSe2", ("W", "Se2"), ("M", "X")),
        ("MoTe2", ("Mo", "Te2"), ("M", "X")),
        ("graphene", ("C", "C"), ("A", "B")),
        ("hBN", ("B", "N"), ("A", "B")),
        ("GaSe", ("Ga2", "Se2"), ("M", "X")),
    ],
)
def test_projected(name, columns, sublattices):
    host = projected(name)
    assert (host.columns, host.sublattices, host.a_A) == (columns, sublattices, HOSTS[name].a_exp_A)


@pytest.mark.parametrize("name", ["mos2", "unobtainium"])
def test_other_hosts_are_refused_with_the_list(name):
    with pytest.raises(UnknownHost) as caught:
        projected(name)
    assert caught.value.exit_code == 2
    assert "WSe2" in str(caught.value)


def test_black_phosphorus_has_one_sublattice_for_each_atom():
    host = projected("blackP")
    assert (host.sublattices, host.columns) == (("A", "B", "C", "D"), ("P",) * 4)
    a, b = HOSTS["blackP"].a_exp_A, HOSTS["blackP"].b_exp_A
    # Dumbbells of 0.178 b = 0.775 A (Brown & Rundqvist), 4 columns in a b.
    assert host.cell.nearest == pytest.approx(2 * 0.08856 * b, rel=1e-6)
    assert host.a_A == pytest.approx((2 * a * b / 2 / 3**0.5) ** 0.5)
    assert host.cell.basis[0] == (0.0, 0.0)


@pytest.mark.parametrize("name", ["blackP", "GaSe"])
def test_turned_over_twice_is_the_same_layer(name):
    crystal = HOSTS[name]
    twice = crystal.turned_over().turned_over()
    assert [(p.element, p.z_A) for p in twice.basis] == [(p.element, p.z_A) for p in crystal.basis]
    assert all(abs(p.v - q.v) % 1 < 1e-12 for p, q in zip(twice.basis, crystal.basis, strict=True))


def test_sublattices_are_never_named_like_a_hollow_or_a_metal():
    names = letters(60)
    assert len(set(names)) == 60
    assert not {"H", "M", "X", "-"} & set(names)


def test_inferable_hosts_exist():
    assert len(set(INFERABLE)) == len(INFERABLE) == 9
    for name in INFERABLE:
        assert projected(name).name == name


def test_amplitude_ratios_order_the_hosts_as_every_microscopist_expects():
    found = {name: amplitude_ratio(projected(name), 60.0, (80.0, 200.0))[0] for name in INFERABLE}
    assert found["graphene"] == 1.0
    assert found["WS2"] < found["MoS2"] < found["WSe2"] < 1 < found["MoSe2"] < found["MoTe2"]
    assert found["hBN"] > 1  # nitrogen over boron


def test_unknown_conditions_widen_the_ratio_and_keep_the_known_one_inside():
    host = projected("MoS2")
    value, sigma = amplitude_ratio(host, None, None)
    for detector in ((50.0, 200.0), (60.0, 200.0), (90.0, 200.0)):
        known, known_sigma = amplitude_ratio(host, 80.0, detector)
        assert abs(known - value) < 2 * sigma
        assert known_sigma / known < sigma / value


def test_a_column_against_itself_has_no_error():
    assert amplitude_ratio(projected("graphene"), None, None) == (1.0, 0.0)
