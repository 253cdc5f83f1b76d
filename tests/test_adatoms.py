"""Atoms on the layer: stray columns where it is intact, and more light on a site than an exchange explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from chain import pristine
from test_imaging import HOST, METAL, SITES, fitted, planted

from stemfit.defects import Defect, occupancy
from stemfit.defects.adatoms import adatoms


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
    assert (named, [d.label for d in left]) == ([], ["UNKNOWN", "V_S2"])
    # And where a column beside it has been displaced.
    column = chain.sites.column[near]
    xy = chain.columns.xy_px.copy()
    xy[column] += 0.15 * lattice.a_px
    moved = replace(evidence, columns=replace(chain.columns, xy_px=xy))
    assert adatoms([stray_at(hollow)], moved)[0] == []


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
