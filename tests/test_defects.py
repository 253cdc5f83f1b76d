"""What is found on images with known defects, what is not invented, and what neighbours say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from chain import PIXEL_A, SHAPE, Chain, FloatArray, Site, pristine, redrawn, row_of, run, taken, vacancies
from handmade import unmeasured
from test_imaging import COLUMNS, SITES, planted

from stemfit.columns import Columns
from stemfit.defects import Defect, SitePosterior, can_tell_half, find_defects, hypotheses, label_rates, occupancy
from stemfit.defects.motifs import join
from stemfit.defects.types import type_of
from stemfit.hosts import INFERABLE, projected
from stemfit.imaging import fit_imaging
from stemfit.lattice import Brightness, Lattice
from stemfit.synthetic import Crystal, TrueDefect, crystal

HOST = projected("MoS2")


def sums(defect: Defect) -> float:
    return defect.probability + sum(p for _, p in defect.alternatives)


def at(found: Sequence[Defect], xy: FloatArray, reach_px: float = 3.0) -> Defect:
    here = [d for d in found if np.linalg.norm(d.center_px - xy) < reach_px]
    assert len(here) == 1, f"{len(here)} findings at {xy}"
    return here[0]


@cache
def marked() -> Chain:
    """A row of three V_S along a, a stray column in a hollow, a tungsten, and two V_S side by side along b."""
    sample = crystal((240, 260), pixel_size_A=PIXEL_A, rotation_deg=17.3, half_share=0.42, seed=2)
    row = [(-3, 2, "X"), (-2, 2, "X"), (-1, 2, "X")]
    pair = [(1, -3, "X"), (1, -2, "X")]
    tungsten = (-2, -1, "M")
    hollow = sample.origin_px + (2 + 2 / 3) * sample.a_px + (0 + 2 / 3) * sample.b_px
    changed = redrawn(sample, {**dict.fromkeys(row + pair, 0.42), tungsten: 1.9}, added=[(*hollow, 0.9)])
    names = [("LINE", "SVL-3", row), ("SV", "V_S", pair[:1]), ("SV", "V_S", pair[1:]), ("SUB", "W_Mo", [tungsten])]
    true = [TrueDefect(k, n, _centre(sample, s), tuple(s)) for k, n, s in names]
    image, truth = taken(changed)
    unknown = TrueDefect("UNKNOWN", "UNKNOWN", hollow, ())
    return run(replace(truth, defects=(*true, unknown)), image, "MoS2")


def _centre(sample: Crystal, sites: Sequence[Site]) -> FloatArray:
    return np.mean([sample.columns.xy_px[row_of(sample.columns, s)] for s in sites], axis=0)


def test_single_and_double_and_metal_vacancies_are_found_and_named() -> None:
    chain = vacancies()
    assert len(chain.truth.defects) == 5
    for true in chain.truth.defects:
        found = at(chain.found, true.center_px)
        assert (found.type, found.label) == (true.type, true.label)
        assert found.probability > 0.9
        assert found.log_bayes_factor > 3
    assert len(chain.found) == 5


def test_nothing_is_found_on_a_pristine_crystal() -> None:
    assert pristine().found == ()
    assert pristine().suspects == ()


def test_weaker_dose_gives_doubt_not_inventions() -> None:
    image, truth = taken(crystal(SHAPE, pixel_size_A=PIXEL_A, rotation_deg=8.6, seed=4), counts=12.0)
    chain = run(truth, image, "MoS2")
    assert chain.found == ()


def test_three_in_a_row_may_have_met_by_chance_and_two_are_two() -> None:
    """Where two more of two hundred sites are vacant side by side, vacancies keep together here."""
    chain = marked()
    line, first, second = chain.truth.defects[:3]
    found = at(chain.found, line.center_px)
    assert (found.type, found.label) == ("SV", "V_S")
    alike = [dict(d.alternatives) for d in chain.found if "SVL-3" in dict(d.alternatives)]
    assert len(alike) == 3
    assert all(0.02 < others["SVL-3"] < 0.5 for others in alike)
    for true in (first, second):
        assert (at(chain.found, true.center_px).type, at(chain.found, true.center_px).label) == ("SV", "V_S")


def test_a_heavier_metal_is_a_substitution() -> None:
    chain = marked()
    found = at(chain.found, chain.truth.defects[3].center_px)
    assert found.type == "SUB"
    labels = dict(found.alternatives) | {found.label: found.probability}
    # Re and W differ by one electron: together they explain it, either alone may not. An atom on top may, more rarely.
    assert labels["W_Mo"] + labels["Re_Mo"] > 0.9
    assert labels["W_Mo"] + labels["Re_Mo"] + labels["ADATOM"] > 0.99


def test_a_stray_column_on_an_intact_layer_is_an_adatom() -> None:
    chain = marked()
    found = at(chain.found, chain.truth.defects[4].center_px, 6.0)
    assert (found.type, found.label) == ("ADATOM", "ADATOM")
    assert dict(found.alternatives)["UNKNOWN"] > 0.05
    assert any(s[2] == "-" for s in found.sites)
    assert len(chain.found) == 7  # and nothing else


def test_everything_said_sums_to_one() -> None:
    for chain in (vacancies(), marked(), pristine()):
        for defect in chain.found + chain.suspects:
            assert sums(defect) == pytest.approx(1.0, abs=1e-9)
            assert "pristine" in dict(defect.alternatives)
        for posterior in chain.posteriors:
            assert np.allclose(posterior.probability.sum(1), 1.0)


def test_claims_are_probably_not_pristine_and_numbers_run_on() -> None:
    for chain in (vacancies(), marked()):
        assert all(dict(d.alternatives)["pristine"] < 0.5 for d in chain.found)
        assert all(dict(d.alternatives)["pristine"] >= 0.5 for d in chain.suspects)
        assert [d.id for d in chain.found + chain.suspects] == list(range(1, len(chain.found + chain.suspects) + 1))
        defective = [round(1 - dict(d.alternatives)["pristine"], 2) for d in chain.found]
        assert defective == sorted(defective, reverse=True)


def test_nothing_is_said_inside_a_mask() -> None:
    chain = vacancies()
    mask = np.zeros(chain.image.shape, np.uint8)
    hidden, seen = chain.truth.defects[:2]
    x, y = np.rint(hidden.center_px).astype(int)
    mask[y - 12 : y + 13, x - 12 : x + 13] = 1
    inside = mask[tuple(np.rint(chain.sites.xy_px[:, ::-1]).astype(int).T)] > 0
    sites = replace(chain.sites, analysed=chain.sites.analysed & ~inside)
    posteriors = [occupancy(sites, chain.brightness, chain.imaging, HOST, s) for s in ("M", "X")]
    found, suspects = find_defects(replace(chain.evidence, sites=sites, posteriors=tuple(posteriors), region_map=mask))
    assert all(np.linalg.norm(d.center_px - hidden.center_px) > 12 for d in found + suspects)
    assert at(found, seen.center_px).label == seen.label
    assert len(found) == len(chain.found) - 1


# From here on, brightness is planted: what the statistics make of it.


def posterior_of(value: FloatArray, sigma: FloatArray, sublattice: str = "X") -> SitePosterior:
    brightness = Brightness(value, sigma)
    imaging = fit_imaging(COLUMNS, SITES, brightness, HOST, 60.0, (60.0, 200.0))
    return occupancy(SITES, brightness, imaging, HOST, sublattice)


def column(posterior: SitePosterior, label: str) -> int:
    return next(k for k, h in enumerate(posterior.hypotheses) if h.label == label)


def chosen_chalcogens(count: int) -> FloatArray:
    use = np.flatnonzero((SITES.sublattice == "X") & SITES.analysed)
    return np.asarray(use[:: len(use) // count][:count])


def test_unresolved_halves_do_not_inflate_the_density() -> None:
    """Where noise hides the halves, the density must not follow the shape of the scatter."""
    seen = planted(error=0.35)  # the gap between half and full, 0.58, is 1.7 of this
    posterior = posterior_of(seen.value, seen.sigma)
    single = column(posterior, "V_S")
    assert posterior.probability[:, single].mean() < 0.04  # the prior's one per cent, and noise
    assert (posterior.probability[:, 0] > 0.5).mean() > 0.97


def test_density_is_learned_where_halves_are_resolved() -> None:
    seen = planted(error=0.05)
    value, rows = seen.value.copy(), chosen_chalcogens(60)
    value[rows] -= 0.58 * 420.0
    posterior = posterior_of(value, seen.sigma)
    share = len(rows) / len(posterior.site)
    assert label_rates([posterior])["V_S"] == pytest.approx(share, abs=0.03)
    single = column(posterior, "V_S")
    hit = np.isin(posterior.site, rows)
    assert (posterior.probability[hit, single] > 0.9).all()
    pristine = posterior.probability[~hit, 0]
    assert (pristine > 0.8).all()  # oxygen is as common as a column 3.8 sigma too dim: one of 447 is
    assert pristine.mean() > 0.999


@pytest.mark.parametrize("kept", [0.36, 0.48])
def test_the_half_column_is_learned_from_the_image(kept: float) -> None:
    seen = planted(error=0.03)
    value = seen.value.copy()
    value[chosen_chalcogens(40)] -= (1 - kept) * 420.0
    learned = posterior_of(value, seen.sigma).half
    assert learned is not None
    assert learned.value / 420.0 == pytest.approx(kept, abs=0.02)


def test_stated_probabilities_are_not_above_the_hit_rate() -> None:
    """Sites called defective with about p: a share p of them, or more, is halved. Noise of a third of the gap."""
    rng = np.random.default_rng(4)
    predicted, happened = [], []
    for seed in range(4):
        seen = planted(error=0.2, seed=seed)
        rows = (SITES.sublattice == "X") & SITES.analysed & (rng.random(len(SITES.ij)) < 0.06)
        posterior = posterior_of(seen.value - np.where(rows, 0.57 * 420.0, 0.0), seen.sigma)
        predicted.append(1 - posterior.probability[:, 0])
        happened.append(rows[posterior.site])
    p, true = np.concatenate(predicted), np.concatenate(happened)
    doubtful = (p > 0.1) & (p < 0.9)
    error = 0.5 / np.sqrt(doubtful.sum())
    assert doubtful.sum() > 30
    assert true[doubtful].mean() > p[doubtful].mean() - 2 * error
    # Caution has its price, and a limit: without any model error two thirds could be called, a third must be.
    assert (p[true] > 0.5).mean() > 0.33
    assert (p[~true] > 0.5).mean() < 0.005


def test_an_empty_site_is_a_double_vacancy_even_below_zero() -> None:
    seen = planted(error=0.05)
    value, rows = seen.value.copy(), chosen_chalcogens(4)
    value[rows] = [-60.0, -20.0, 0.0, 20.0]
    posterior = posterior_of(value, seen.sigma)
    double = column(posterior, "V_S2")
    assert (posterior.probability[np.isin(posterior.site, rows), double] > 0.9).all()


def test_what_fits_nothing_is_unknown() -> None:
    seen = planted(error=0.02)
    value, row = seen.value.copy(), chosen_chalcogens(1)
    value[row] = 420.0 * 11  # brighter than any column that may stand there
    posterior = posterior_of(value, seen.sigma)
    assert posterior.probability[posterior.site == row, -1][0] > 0.9
    assert posterior.hypotheses[-1].label == "UNKNOWN"


def test_separation_of_halves_is_told() -> None:
    sharp, noisy = (planted(error=e) for e in (0.05, 0.25))
    told = []
    for seen in (sharp, noisy):
        imaging = fit_imaging(COLUMNS, SITES, seen, HOST, 60.0, (60.0, 200.0))
        told.append(can_tell_half(occupancy(SITES, seen, imaging, HOST, "X"), seen, imaging, "X"))
    assert told[0] == pytest.approx(0.57 / 0.05, rel=0.25)
    assert told[1] == pytest.approx(0.57 / 0.25, rel=0.25)


@pytest.mark.parametrize("name", [*INFERABLE, "WTe2"])
def test_hypotheses_have_names_types_and_columns_that_agree(name: str) -> None:
    host = projected(name)
    for sublattice in host.sublattices:
        options = hypotheses(host, sublattice)
        labels = [h.label for h in options]
        assert len(set(labels)) == len(labels)
        assert (labels[0], labels[-1]) == ("pristine", "UNKNOWN")
        assert options[0].column == host.columns[host.sublattices.index(sublattice)]
        for h in options[1:-1]:
            assert type_of(h.label, h.type) == h.type
            assert h.column != options[0].column


PLAIN = unmeasured(
    Lattice(
        np.array([20.0, 0.0]), np.array([10.0, -17.3]), np.zeros(2), 1, np.eye(6) * 1e-4, np.zeros((2, 2, 2)),
        (200, 240), 0.3,
    )
)  # fmt: skip


def single(label: str, kind: str, site: tuple[int, int, str], p: float = 0.9) -> Defect:
    a, b = np.array([20.0, 0.0]), np.array([10.0, -17.3])
    third = 0 if site[2] == "M" else 1 / 3
    xy = (site[0] + third) * a + (site[1] + third) * b
    return Defect(0, kind, label, p, xy, (site,), xy[None], (("pristine", 0.04), ("UNKNOWN", 0.96 - p)), 5.0)


def test_a_stray_column_takes_in_what_is_wrong_beside_it() -> None:
    xy = np.array([14.0, -4.0])
    stray = Defect(0, "UNKNOWN", "UNKNOWN", 1.0, xy, ((0, 0, "-"),), xy[None], (("pristine", 0.0),), 30.0)
    far = single("V_S", "SV", (6, 0, "X"))
    joined = join([stray, single("V_S", "SV", (0, 0, "X")), far], PLAIN)
    assert sorted(d.label for d in joined) == ["UNKNOWN", "V_S"]
    unknown = next(d for d in joined if d.label == "UNKNOWN")
    assert len(unknown.sites) == 2
    assert sums(unknown) == pytest.approx(1.0)


def test_a_weak_stray_column_is_not_reported() -> None:
    chain = marked()
    stray = chain.truth.defects[4].center_px
    k = int(np.argmin(np.linalg.norm(chain.columns.xy_px - stray, axis=1)))
    intensity = chain.columns.intensity.copy()
    intensity[k] = 4.0 * np.sqrt(chain.columns.cov[k, 2, 2])
    weak = Columns(
        chain.columns.xy_px, intensity, chain.columns.cov, chain.columns.profile, chain.columns.background,
        chain.columns.model, chain.columns.noise,
    )
    found, _ = find_defects(replace(chain.evidence, columns=weak))
    assert all(np.linalg.norm(d.center_px - stray) > 6.0 for d in found)
    assert len(found) == len(chain.found) - 1


@pytest.mark.parametrize("level", [-9.0, 0.0, 25.0])
def test_a_double_vacancy_alone_does_not_redefine_the_half_column(level: float) -> None:
    seen = planted(error=0.015)
    value, rows = seen.value.copy(), chosen_chalcogens(2)
    value[rows] = level
    brightness = Brightness(value, seen.sigma)
    imaging = fit_imaging(COLUMNS, SITES, brightness, HOST, None, None)  # microscope unknown: S is 22 % uncertain
    posterior = occupancy(SITES, brightness, imaging, HOST, "X")
    assert (posterior.probability[np.isin(posterior.site, rows), column(posterior, "V_S2")] > 0.9).all()
    assert posterior.half is not None
    assert 0.25 < posterior.half.value / 420.0 < 0.6  # coherent scattering leaves a third, atoms apart a half


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("V_S", "SV"), ("V_S2", "DV"), ("V_SSe", "DV"), ("V_P", "SV"), ("V_C2", "DV"), ("V_BN", "DV"), ("V_Ga", "VM"),
        ("V_Ga2", "VM"), ("V_Re", "VM"), ("V_Fe2", "VM"), ("V_MoS3", "VM"), ("V_Te", "SV"), ("V_Sn", "VM"),
    ],
)  # fmt: skip
def test_vacancies_have_the_type_of_what_is_missing(label: str, kind: str) -> None:
    assert type_of(label, "") == kind


@pytest.mark.parametrize(("host", "metal", "other"), [("GaSe", "Ga", "Se"), ("InSe", "In", "Se")])
def test_columns_that_are_pairs_lose_one_atom_or_both(host: str, metal: str, other: str) -> None:
    for sublattice, e, kinds in (("M", metal, ("VM", "VM")), ("X", other, ("SV", "DV"))):
        options = {h.label: h for h in hypotheses(projected(host), sublattice)}
        assert (options[f"V_{e}"].type, options[f"V_{e}2"].type) == kinds
        assert (options[f"V_{e}"].column, options[f"V_{e}2"].column) == (e, "")
        assert options[f"V_{e}"].half_empty and not options[f"V_{e}2"].half_empty


def test_any_crystal_has_vacancies_and_what_is_unknown() -> None:
    assert [h.label for h in hypotheses(projected("blackP"), "C")] == ["pristine", "V_P", "ADATOM", "UNKNOWN"]
