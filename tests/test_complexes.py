"""A metal and its chalcogens missing together."""

from __future__ import annotations

import numpy as np
import pytest
from planted_sites import EMPTY, VACANT, field, seen

from stemfit.defects import Defect, find_defects
from stemfit.defects.complexes import around, complex_rate

NO_METAL = {"V_Mo": 30.0}
CENTRE = (2, -1, "M")


def found(ring: list[dict[str, float]], polarity: int = 1, metal: dict[str, float] = NO_METAL) -> list[Defect]:
    sites = around(CENTRE, polarity)
    own = {sites[0]: metal} | dict(zip(sites[1:], ring, strict=False))
    return list(find_defects(seen(own, polarity))[0])


@pytest.mark.parametrize("polarity", [1, -1])
def test_the_three_bound_columns_are_the_nearest(polarity: int) -> None:
    _, sites = field(polarity)
    names = [(int(i), int(j), str(s)) for (i, j), s in zip(sites.ij, sites.sublattice, strict=True)]
    places = dict(zip(names, sites.xy_px, strict=True))
    others = sorted(
        (s for s in places if s[2] == "X"), key=lambda s: float(np.linalg.norm(places[s] - places[CENTRE]))
    )
    assert set(others[:3]) == set(around(CENTRE, polarity)[1:])


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize(("what", "label"), [(VACANT, "V_MoSe3"), (EMPTY, "V_MoSe6")])
def test_metal_and_ring_are_one_defect(polarity: int, what: dict[str, float], label: str) -> None:
    (one,) = found([what] * 3, polarity)
    assert (one.type, one.label) == ("VM", label)
    assert one.sites == around(CENTRE, polarity)
    assert one.probability > 0.99
    assert one.probability + sum(p for _, p in one.alternatives) == pytest.approx(1.0)
    assert one.log_bayes_factor == pytest.approx(105.0)
    assert np.allclose(one.center_px, one.extent_px.mean(0))


@pytest.mark.parametrize(
    ("ring", "expected"),
    [
        ([], ["V_Mo"]),
        ([VACANT, VACANT], ["V_Mo", "V_Se", "V_Se"]),  # two of three: no such name
        ([VACANT, VACANT, EMPTY], ["V_Mo", "V_Se", "V_Se", "V_Se2"]),
    ],
)
def test_part_of_a_complex_stays_apart(ring: list[dict[str, float]], expected: list[str]) -> None:
    assert sorted(d.label for d in found(ring)) == expected


def test_a_doubtful_member_is_decided_by_the_others() -> None:
    # Alone: 0.01 e^2 against 0.98: P = 0.07. In the complex: 1e-4 e^2 against 1e-3 (1e-2)^2.
    (one,) = found([VACANT, VACANT, {"V_Se": 2.0}])
    assert one.label == "V_MoSe3"
    assert one.probability > 0.9
    assert sorted(d.label for d in found([VACANT, VACANT, {"V_Se": -12.0}])) == ["V_Mo", "V_Se", "V_Se"]


def test_three_vacancies_round_a_metal_that_is_there_are_three() -> None:
    assert sorted(d.label for d in found([VACANT] * 3, metal={})) == ["V_Se"] * 3


def test_half_and_empty_rings_that_look_alike_stay_open() -> None:
    (one,) = found([{"V_Se": 20.0, "V_Se2": 20.4}] * 3)
    both = {one.label: one.probability} | dict(one.alternatives)
    assert both["V_MoSe3"] > 0.1 and both["V_MoSe6"] > 0.1


def test_rates_are_those_of_complexes() -> None:
    assert complex_rate("V_MoS3") is not None and complex_rate("V_WSe6") is not None
    assert [complex_rate(name) for name in ("V_Mo", "V_S2", "V_MoS2", "V_Se")] == [None] * 4
