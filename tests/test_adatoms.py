"""Atoms on the layer: stray columns where it is intact, and more light on a site than an exchange explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chain import PIXEL_A, Chain, pristine, redrawn, run, taken
from test_imaging import HOST, METAL, SITES, fitted, planted

from stemfit.defects import Defect, occupancy, offsets
from stemfit.defects.adatoms import adatoms
from stemfit.synthetic import crystal


def stray_at(xy: np.ndarray) -> Defect:
    return Defect(0, "UNKNOWN", "UNKNOWN", 1.0, xy, ((0, 0, "-"),), xy[None], (("pristine", 0.0),), 50.0)


def total(defect: Defect) -> float:
    return defect.probability + sum(p for _, p in defect.alternatives)


def test_a_stray_column_on_an_intact_layer_is_an_adatom_and_beside_a_vacancy_it_is_not() -> None:
    chain = pristine()
    evidence, lattice = chain.evidence, chain.lattice
    middle = np.array(chain.image.shape[::-1]) / 2
    cell = chain.sites.ij[int(np.argmin(np.hypot(*(chain.sites.xy_px - middle).T)))]
    hollow = evidence.xy_px((int(cell[0]), int(cell[1]), "H"))
    named, left = adatoms([stray_at(hollow)], evidence)
    assert ([d.label for d in named], left) == (["ADATOM"], [])
    assert abs(total(named[0]) - 1) < 1e-9
    assert "UNKNOWN" in dict(named[0].alternatives)
    # The same beside an empty site, which it may have left: nobody names it.
    near = int(np.argmin(np.hypot(*(chain.sites.xy_px - hollow).T)))
    site = (*(int(v) for v in chain.sites.ij[near]), str(chain.sites.sublattice[near]))
    gone = replace(stray_at(chain.sites.xy_px[near]), type="DV", label="V_S2", sites=(site,))
    named, left = adatoms([stray_at(hollow), gone], evidence)
    assert (named, sorted(d.label for d in left)) == ([], ["UNKNOWN", "V_S2"])
    # And where a column beside it has been displaced.
    column = chain.sites.column[near]
    xy = chain.columns.xy_px.copy()
    xy[column] += 0.15 * lattice.a_px
    moved = replace(evidence, columns=replace(chain.columns, xy_px=xy))
    assert adatoms([stray_at(hollow)], moved)[0] == []


def test_a_stray_column_where_all_columns_are_slightly_displaced_is_no_adatom() -> None:
    """None of them by as much as would be strange alone: the layer is torn there all the same."""
    chain = pristine()
    evidence, sites = chain.evidence, chain.sites
    middle = np.array(chain.image.shape[::-1]) / 2
    cell = sites.ij[int(np.argmin(np.hypot(*(sites.xy_px - middle).T)))]
    hollow = evidence.xy_px((int(cell[0]), int(cell[1]), "H"))
    placed = offsets(chain.columns, sites)
    named = {}
    for times in (1.0, 3.0):
        xy = chain.columns.xy_px.copy()
        near = np.flatnonzero(np.hypot(*(sites.xy_px - hollow).T) < 1.05 * chain.lattice.a_px_iso)
        for n, row in enumerate(near):
            out = (sites.xy_px[row] - hollow) / np.hypot(*(sites.xy_px[row] - hollow))
            unit = chain.lattice.a_px_iso / np.sqrt(3)
            step = times * placed.sigma[row] * unit * (out if n % 2 else np.array([-out[1], out[0]]))
            xy[sites.column[row]] = sites.xy_px[row] + step
        moved = replace(evidence, columns=replace(chain.columns, xy_px=xy))
        named[times] = adatoms([stray_at(hollow)], moved)[0]
    (usual,) = named[1.0]
    assert usual.probability > 0.8
    assert named[3.0] == []


def bridged(counts: float) -> tuple[Chain, np.ndarray]:
    """MoS2 with an atom as bright as Mo half way between a metal and a chalcogen column."""
    sample = crystal((200, 220), pixel_size_A=PIXEL_A, rotation_deg=23.1, seed=6)
    middle = np.array(sample.image.shape[::-1]) / 2
    metals, others = (sample.columns.xy_px[sample.columns.sublattice == s] for s in "MX")
    metal = metals[np.argmin(np.hypot(*(metals - middle).T))]
    place = (metal + others[np.argmin(np.hypot(*(others - metal).T))]) / 2
    image, truth = taken(redrawn(sample, {}, added=[(*place, 1.0)]), counts=counts)
    return run(truth, image, "MoS2"), place


@pytest.mark.parametrize("counts", [100.0, 20.0])
def test_an_atom_between_two_columns_is_one_adatom_and_no_exchange(counts: float) -> None:
    chain, place = bridged(counts)
    (only,) = chain.found
    assert only.label == only.type == "ADATOM"
    assert only.probability > 0.8
    assert np.hypot(*(only.center_px - place)) * PIXEL_A < 1.0
    assert abs(total(only) - 1) < 1e-9


def test_light_added_far_apart_is_two_adatoms() -> None:
    chain = pristine()
    evidence = chain.evidence
    inside = np.flatnonzero((chain.sites.sublattice == "M") & chain.sites.analysed)
    middle = np.array(chain.image.shape[::-1]) / 2
    away = np.hypot(*(chain.sites.xy_px[inside] - middle).T) / chain.lattice.a_px_iso
    first = int(inside[np.argmin(away)])
    apart = np.hypot(*(chain.sites.xy_px[inside] - chain.sites.xy_px[first]).T) / chain.lattice.a_px_iso
    second = int(inside[np.flatnonzero((apart > 1.5) & (apart < 2.1))[0]])
    found = [on_site(chain, row) for row in (first, second)]
    assert [len(d.sites) for d in adatoms(found, evidence)[0]] == [1, 1]
    # Side by side they are one: a second event beside the first is as rare as the first.
    near = np.hypot(*(chain.sites.xy_px - chain.sites.xy_px[first]).T) / chain.lattice.a_px_iso
    beside = int(np.flatnonzero((near > 0.4) & (near < 0.7))[0])
    (one,), left = adatoms([on_site(chain, row) for row in (first, beside)], evidence)
    assert (len(one.sites), left) == (2, [])
    assert one.probability > 0.99
    # And not where one of them cannot be an added atom.
    vacancy = replace(on_site(chain, beside), type="DV", label="V_S2", alternatives=(("pristine", 0.1),))
    named, left = adatoms([on_site(chain, first), vacancy], evidence)
    assert (named, sorted(d.label for d in left)) == ([], ["UNKNOWN", "V_S2"])


def on_site(chain: Chain, row: int) -> Defect:
    """More light on a site: an adatom or an exchanged atom."""
    site = (*(int(v) for v in chain.sites.ij[row]), str(chain.sites.sublattice[row]))
    xy = chain.sites.xy_px[row]
    others = (("W_Mo", 0.29), ("pristine", 0.01))
    return Defect(0, "ADATOM", "ADATOM", 0.7, xy, (site,), xy[None], others, 20.0)


def test_more_light_than_any_exchange_gives_is_an_adatom() -> None:
    seen = planted(scatter=0.02)
    site = int(np.flatnonzero(METAL & SITES.analysed)[40])
    seen.value[site] = 2750.0  # W would be 1900, an error of 20 taken
    seen.value[site + 4] = 1950.0 if METAL[site + 4] else seen.value[site + 4]
    posterior = occupancy(SITES, seen, fitted(seen), HOST, "M")
    labels = [h.label for h in posterior.hypotheses]
    p = dict(zip(labels, posterior.probability[posterior.site == site][0], strict=True))
    assert p["ADATOM"] > 0.5
    assert p["pristine"] < 0.01
    usual = posterior.probability[posterior.site != site]
    assert (usual[:, 0] > 0.5).mean() > 0.99
