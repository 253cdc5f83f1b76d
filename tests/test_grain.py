"""Thin dirt widens the errors of the columns in it, and of no others; what it shows off sites is none of theirs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from chain import Chain, FloatArray, pristine, row_of, vacancies
from scipy.ndimage import gaussian_filter

from stemfit.columns import Columns
from stemfit.defects import with_grain
from stemfit.lattice import Brightness

UNDER_DIRT = 100
"""Its rim, px from the left."""


def light_of_chalcogens(chain: Chain) -> float:
    return float(chain.imaging.amplitudes["S2"].value)


@cache
def dirty(dirt: float) -> FloatArray:
    """The recorded crystal with grains as wide as columns on its left, rms `dirt` of a chalcogen column's peak."""
    chain = pristine()
    h, w = chain.image.shape
    rough = gaussian_filter(np.random.default_rng(4).normal(size=(h, w)), chain.columns.profile.width_px)
    peak = light_of_chalcogens(chain) / (2 * np.pi * chain.columns.profile.width_px**2)
    return np.asarray(chain.image + dirt * peak * rough / rough.std() * (np.arange(w) < UNDER_DIRT))


def judged(chain: Chain, image: FloatArray, columns: Columns) -> tuple[Columns, Brightness, frozenset[int]]:
    return with_grain(
        columns, chain.brightness, chain.sites, chain.lattice, image, (chain.regions, chain.region_map)
    )


def with_strays(chain: Chain, xy_px: list[list[float]], light: float) -> Columns:
    seen = chain.columns
    return replace(
        seen, xy_px=np.vstack([seen.xy_px, xy_px]), intensity=np.append(seen.intensity, [light] * len(xy_px)),
        cov=np.concatenate([seen.cov, np.tile(np.median(seen.cov, axis=0), (len(xy_px), 1, 1))]),
    )


def test_in_a_clean_crystal_hardly_anything_changes() -> None:
    chain = pristine()
    columns, brightness, explained = judged(chain, chain.image, chain.columns)
    wider = brightness.sigma / chain.brightness.sigma
    assert np.mean(wider > 1.1) < 0.05 and wider.max() < 1.5
    assert not explained and np.array_equal(columns.xy_px, chain.columns.xy_px)


def test_errors_in_the_dirt_are_those_of_its_grain() -> None:
    chain = pristine()
    columns, brightness, _ = judged(chain, dirty(0.2), chain.columns)
    deep, far = (chain.sites.xy_px[:, 0] < UNDER_DIRT - 40), (chain.sites.xy_px[:, 0] > UNDER_DIRT + 60)
    added = np.sqrt(brightness.sigma**2 - chain.brightness.sigma**2) / light_of_chalcogens(chain)
    assert 0.05 < np.median(added[deep]) < 0.5, "a fifth of a column's peak, in grains as wide as a column"
    assert np.median(added[far]) < 0.02
    inside = columns.xy_px[:, 0] < UNDER_DIRT - 40
    assert np.median(columns.cov[inside, 2, 2]) > 4 * np.median(chain.columns.cov[inside, 2, 2])


def test_dirt_explains_light_off_sites_where_it_is_and_nowhere_else() -> None:
    chain = pristine()
    hollow = chain.lattice.positions(np.unique(chain.sites.ij, axis=0) + (1.0 - chain.lattice.basis[1]))
    inside = hollow[np.hypot(*(hollow - [40.0, chain.image.shape[0] / 2]).T).argmin()]
    outside = hollow[np.hypot(*(hollow - [chain.image.shape[1] - 60.0, chain.image.shape[0] / 2]).T).argmin()]
    columns = with_strays(chain, [list(inside), list(outside)], 0.3 * light_of_chalcogens(chain))
    assert judged(chain, dirty(0.2), columns)[2] == {len(chain.columns)}
    bright = with_strays(chain, [list(inside), list(outside)], 5.0 * light_of_chalcogens(chain))
    assert judged(chain, dirty(0.2), bright)[2] == frozenset(), "no grain is as bright"


def test_empty_and_half_empty_columns_are_no_dirt() -> None:
    chain = vacancies()
    _, brightness, _ = judged(chain, chain.image, chain.columns)
    for d in chain.found:
        (site,) = d.sites
        row = row_of(chain.sites, site)
        assert brightness.sigma[row] < 1.2 * chain.brightness.sigma[row]
