"""Whether a name is as sure as the host that it belongs to, and what the defect is called under the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from chain import vacancies
from hypothesis import given, settings
from hypothesis import strategies as st

from stemfit.defects import Defect, Otherwise, otherwise, with_kinds, with_naming_doubt
from stemfit.hosts import projected
from stemfit.lattice import Identity
from stemfit.lattice.identify import Naming

CHAIN = vacancies()
THIRD = CHAIN.identity.metal_third


def called(*namings: tuple[str, int, float]) -> Identity:
    """An image that is (host, metal's sublattice) with these probabilities; the first is what it is taken for."""
    known = tuple(Naming(projected(name), where, p) for name, where, p in namings)
    return Identity(known[0].host, "inferred", known[0].probability, (), namings[0][1], 1.0, namings=known)


def others(identity: Identity) -> tuple[Otherwise, ...]:
    """Asked once for each naming."""
    return tuple(replace(asked(n.host.name, n.metal_third), probability=n.probability) for n in identity.namings[1:])


@cache
def asked(host: str, third: int) -> Otherwise:
    doubt = called(("MoS2", THIRD, 0.5), (host, third, 0.5))
    (one,) = otherwise(doubt, CHAIN.columns, CHAIN.sites, CHAIN.brightness, None, None)
    return one


def shared(
    defects: Sequence[Defect], identity: Identity, before: Sequence[Defect] = CHAIN.found
) -> tuple[Defect, ...]:
    return with_naming_doubt(defects, before, identity, others(identity), CHAIN.evidence)


def odds(defect: Defect) -> dict[str, float]:
    assert defect.label not in dict(defect.alternatives)
    return {defect.label: defect.probability, **dict(defect.alternatives)}


def of_metal() -> Defect:
    return next(d for d in CHAIN.found if d.label == "V_Mo")


def joined(label: str, kind: str, *alternatives: tuple[str, float]) -> Defect:
    """A defect of several sites."""
    sites = tuple(s for d in CHAIN.found[:2] for s in d.sites)
    extent = np.vstack([d.extent_px for d in CHAIN.found[:2]])
    p = 1 - sum(q for _, q in alternatives)
    return Defect(90, kind, label, p, extent.mean(0), sites, extent, alternatives, 10.0)


@pytest.mark.parametrize("p", [0.3, 0.53, 0.9])
def test_an_empty_metal_site_is_the_vacancy_of_either_metal(p: float) -> None:
    (one,) = shared([of_metal()], called(("MoS2", THIRD, p), ("WS2", THIRD, 1 - p)))
    sure = of_metal().probability
    assert sure > 0.95
    assert (one.type, one.label) == ("VM", "V_Mo")
    assert odds(one)["V_Mo"] == pytest.approx(p * sure, abs=1e-9)
    assert odds(one)["V_W"] == pytest.approx(1 - p, abs=0.06)


def test_sulphur_is_missing_whatever_the_metal_is() -> None:
    found = [d for d in CHAIN.found if d.label in ("V_S", "V_S2")]
    assert len(found) == 4
    for before, after in zip(found, shared(found, called(("MoS2", THIRD, 0.6), ("WS2", THIRD, 0.4))), strict=True):
        assert after.label == before.label
        assert after.probability == pytest.approx(before.probability, abs=0.05)


def test_a_sure_host_changes_nothing() -> None:
    assert shared(CHAIN.found, called(("MoS2", THIRD, 1.0))) == CHAIN.found
    assert shared(CHAIN.found, Identity(projected("MoS2"), "user", 1.0, (), THIRD, 1.0)) == CHAIN.found


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4), st.floats(0.0, 0.3), st.integers(0, 4))
def test_probabilities_sum_to_one(weights: list[float], nobody: float, which: int) -> None:
    """Also with hosts of other kinds, the sublattices the other way round, and crystals that nobody listed."""
    names = [("MoS2", THIRD), ("WSe2", THIRD), ("MoS2", 1 - THIRD), ("hBN", THIRD)]
    total = sum(weights)
    identity = called(*((n, t, (1 - nobody) * w / total) for (n, t), w in zip(names, weights, strict=True)))
    if which < 4:
        before = CHAIN.found[which]
    else:
        before = joined("V_MoS3", "VM", ("SVL-3", 0.2), ("UNKNOWN", 0.1), ("pristine", 0.05))
    (after,) = shared([before], identity)
    assert sum(odds(after).values()) == pytest.approx(1.0)
    assert min(odds(after).values()) >= 0.0
    assert odds(after).get("pristine", 0.0) == pytest.approx(odds(before).get("pristine", 0.0))


def test_a_type_is_as_probable_as_its_names_of_all_hosts_together() -> None:
    (one,) = shared([of_metal()], called(("MoS2", THIRD, 0.53), ("WS2", THIRD, 0.47)))
    said = odds(one)
    assert said["V_Mo"] < 0.6 and said["V_W"] > 0.3
    assert one.type_probability == pytest.approx(said["V_Mo"] + said["V_W"], abs=0.01)


def test_whether_sulphur_on_a_metal_site_is_foreign_depends_on_the_host() -> None:
    """The label does not say; the hypotheses of the host do."""
    extra = (("S_Mo", 0.3), ("Cr_Mo", 0.2), ("pristine", 0.1))
    guest = replace(of_metal(), type="SUB", label="vanadium_Mo", probability=0.4, alternatives=extra)
    known = with_kinds(guest, CHAIN.evidence.posteriors)
    assert known.kind_of("S_Mo") == "ANTI" and known.kind_of("Cr_Mo") == "SUB" and known.kind_of("pristine") is None
    assert known.type_probability == pytest.approx(0.6)


def test_complexes_take_the_elements_of_the_other_host_and_shapes_keep_their_names() -> None:
    doubt = called(("MoS2", THIRD, 0.5), ("WSe2", THIRD, 0.3), ("MoS2", 1 - THIRD, 0.2))
    complex_, line = shared([joined("V_MoS3", "VM", ("UNKNOWN", 0.1)), joined("SVL-4", "LINE", ("SVL-5", 0.2))], doubt)
    assert odds(complex_) == pytest.approx({"V_MoS3": 0.45, "V_WSe3": 0.27, "UNKNOWN": 0.28})
    assert odds(line) == pytest.approx({"SVL-4": 0.8, "SVL-5": 0.2})


def test_with_the_sublattices_turned_the_same_site_has_lost_the_other_element() -> None:
    (one,) = shared([of_metal()], called(("MoS2", THIRD, 0.7), ("MoS2", 1 - THIRD, 0.3)))
    assert odds(one)["V_Mo"] == pytest.approx(0.7, abs=0.03)
    assert sum(p for label, p in odds(one).items() if label in ("V_S", "V_S2")) == pytest.approx(0.3, abs=0.03)


def test_what_no_name_fits_gets_none_from_another_host() -> None:
    """The comparison of structures found a misfit: it would leave one with any metal's vacancy."""
    before = of_metal()
    after = replace(before, type="UNKNOWN", label="UNKNOWN", probability=0.97, alternatives=(("V_Mo", 0.03),))
    (one,) = shared([after], called(("MoS2", THIRD, 0.5), ("WS2", THIRD, 0.5)))
    assert (one.label, one.probability) == ("UNKNOWN", pytest.approx(0.97, abs=0.01))


def test_what_the_comparison_of_structures_ruled_out_is_ruled_out_for_its_namesake() -> None:
    before = of_metal()
    (doubted,) = shared([before], called(("MoS2", THIRD, 0.5), ("WS2", THIRD, 0.5)))
    share = {label: p for label, p in odds(before).items() if label not in ("V_Mo", "pristine", "UNKNOWN")}
    other = max(share, key=lambda label: share[label])
    swapped = replace(before, type="SUB", label=other, probability=0.99, alternatives=(("V_Mo", 0.01),))
    (one,) = shared([swapped], called(("MoS2", THIRD, 0.5), ("WS2", THIRD, 0.5)))
    assert odds(one).get("V_W", 0.0) < 0.1 < odds(doubted)["V_W"]


def test_exchanged_sublattices_of_equal_columns_change_no_name() -> None:
    """Graphene's two sublattices hold the same element: a pair of sites with a guest has one name."""
    from stemfit.defects.naming import _elements

    graphene, nitride, sulphide = (projected(name) for name in ("graphene", "hBN", "MoS2"))
    assert _elements(graphene, graphene, True) == {"C": "C"}
    assert _elements(nitride, nitride, True) == {"B": "N", "N": "B"}
    assert _elements(sulphide, sulphide, True) is None


@pytest.mark.parametrize(
    ("label", "exchanged", "as_graphene"),
    [("V_BN", "V_BN", "V_C2"), ("V_B2N", "V_N2B", "V_C3"), ("V_B", "V_N", "V_C"), ("N_B", "B_N", "UNKNOWN")],
)
def test_formulas_of_flat_hosts_stay_formulas(label: str, exchanged: str, as_graphene: str) -> None:
    from stemfit.defects.naming import _renamed

    assert _renamed(label, {"B": "N", "N": "B"}) == exchanged
    assert _renamed(label, {"B": "C", "N": "C"}) == as_graphene


@pytest.mark.parametrize(("p", "unknown", "pristine"), [(0.5, 0.5, 0.0), (0.3, 0.4, 0.3), (0.9, 0.1, 0.0)])
def test_what_namesakes_lose_alike_says_nothing_of_the_host(p: float, unknown: float, pristine: float) -> None:
    before = of_metal()
    after = replace(before, probability=p, alternatives=(("UNKNOWN", unknown), ("pristine", pristine)))
    (one,) = shared([after], called(("MoS2", THIRD, 0.5), ("WS2", THIRD, 0.5)), [before])
    assert odds(one)["V_Mo"] == pytest.approx(p / 2, abs=0.02)
    assert odds(one)["V_W"] == pytest.approx(p / 2, abs=0.02)


def test_a_line_among_the_alternatives_of_a_site_keeps_its_probability() -> None:
    before = next(d for d in CHAIN.found if d.label == "V_S")
    line = replace(before, probability=0.5, alternatives=(("SVL-3", 0.5), ("pristine", 0.0)))
    for p in (0.5, 0.2):
        (one,) = shared([line], called(("MoS2", THIRD, p), ("WS2", THIRD, 1 - p)))
        assert odds(one)["SVL-3"] == pytest.approx(0.5, abs=1e-6)


def test_names_of_one_type_speak_together_for_it() -> None:
    """Two foreign atoms under either name of the host: more than any antisite, each of which is more than one."""
    found = replace(
        of_metal(), type="ANTI", label="S2_Mo", probability=0.4, alternatives=(("Cr_Mo", 0.3), ("vanadium_Mo", 0.3))
    )
    (one,) = shared([found], called(("MoS2", THIRD, 0.999), ("WS2", THIRD, 0.001)), [found])
    assert (one.type, one.label, one.best_candidate) == ("SUB", "Cr_Mo", None)
    assert odds(one)["S2_Mo"] > odds(one)["Cr_Mo"]


def test_no_name_is_claimed_where_it_is_more_probable_than_every_type() -> None:
    found = replace(
        of_metal(), type="VM", label="V_Mo", probability=0.55, alternatives=(("UNKNOWN", 0.4), ("pristine", 0.05))
    )
    nobody = called(("MoS2", THIRD, 0.6))  # 0.4 that the crystal has no name
    (one,) = shared([found], nobody, [found])
    assert (one.type, one.label, one.best_candidate) == ("UNKNOWN", "UNKNOWN", None)
    assert one.probability == pytest.approx(0.6 * 0.4 + 0.4 * 0.95)
    (sure,) = shared([found], called(("MoS2", THIRD, 0.999)), [found])
    assert sure.label == "V_Mo"


def test_what_speaks_for_the_perfect_crystal_speaks_for_no_type() -> None:
    """A suspect, likely pristine: of what it may be otherwise, the likeliest type has the name."""
    found = replace(
        of_metal(), type="ADATOM", label="ADATOM", probability=0.3,
        alternatives=(("pristine", 0.65), ("Re_Mo", 0.04), ("UNKNOWN", 0.01)),
    )  # fmt: skip
    (one,) = shared([found], called(("MoS2", THIRD, 0.999), ("WS2", THIRD, 0.001)), [found])
    assert (one.type, one.label) == ("ADATOM", "ADATOM")
    rest = (("pristine", 0.6), ("UNKNOWN", 0.3))
    found = replace(found, type="SUB", label="Re_Mo", probability=0.1, alternatives=rest)
    (one,) = shared([found], called(("MoS2", THIRD, 0.999), ("WS2", THIRD, 0.001)), [found])
    assert one.label == "UNKNOWN"
