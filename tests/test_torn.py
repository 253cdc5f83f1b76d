"""Pairs that a line tears apart are all there; what is half gone stays half gone."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from chain import PIXEL_A, Chain, redrawn, run, taken

from stemfit.defects import find_defects, torn
from stemfit.synthetic import Crystal, crystal

HALF = 0.45
Site = tuple[int, int, str]
ROW = [(t, 0, "X") for t in range(-2, 2)]
"""Vacancies of one layer, along a."""


@cache
def bare() -> Crystal:
    return crystal((240, 260), pixel_size_A=PIXEL_A, rotation_deg=17.3, seed=2)


def beside() -> list[Site]:
    """Chalcogen sites next to the row, on both sides."""
    return [(t, j, "X") for j in (-1, 1) for t in range(-2, 3)]


@cache
def image_of(apart_A: float, counts: float, gone: tuple[Site, ...] = ()) -> Chain:
    """The row, and the atoms of the pairs beside it `apart_A` from each other across the row; some lack one atom."""
    sample = bare()
    normal = np.array([-sample.a_px[1], sample.a_px[0]]) / np.linalg.norm(sample.a_px)
    there = {(int(i), int(j), str(s)): k for k, ((i, j), s) in
             enumerate(zip(sample.columns.ij, sample.columns.sublattice, strict=True))}  # fmt: skip
    full = float(np.median(sample.columns.intensity[sample.columns.sublattice == "X"])) * sample.profile.peak()
    share = dict.fromkeys([*ROW, *gone], HALF)
    added = []
    for site in beside():
        if site not in gone and apart_A:
            share[site] = 0.0
            xy = sample.columns.xy_px[there[site]]
            added += [(*(xy + sign * apart_A / 2 / PIXEL_A * normal), full / 2) for sign in (-1, 1)]
    image, truth = taken(redrawn(sample, share, added=added), counts=counts)
    return run(truth, image, "MoS2")


def vacant(chain: Chain) -> set[Site]:
    """True sites of all that is claimed."""
    true = chain.truth.columns
    named = [(int(i), int(j), str(s)) for (i, j), s in zip(true.ij, true.sublattice, strict=True)]
    near = (np.linalg.norm(true.xy_px - xy, axis=1).argmin() for d in chain.found for xy in d.extent_px)
    return {named[int(k)] for k in near}


@pytest.mark.parametrize(("apart_A", "counts"), [(0.6, 400.0), (1.0, 400.0), (1.0, 60.0)])
def test_torn_pairs_are_no_vacancies(apart_A: float, counts: float) -> None:
    chain = image_of(apart_A, counts)
    assert [d.label for d in chain.found] == ["SVL-4"]
    assert vacant(chain) == set(ROW)


def test_without_a_second_look_they_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torn, "SURE", 0.0)  # no site is looked at again
    found, _ = find_defects(image_of(1.0, 400.0).evidence)
    assert len({tuple(xy) for d in found for xy in d.extent_px}) >= len(ROW) + 3


@pytest.mark.parametrize("counts", [400.0, 60.0])
def test_vacancies_beside_a_line_stay_vacancies(counts: float) -> None:
    gone = ((-1, 1, "X"), (2, -1, "X"))
    assert vacant(image_of(0.6, counts, gone)) == {*ROW, *gone}
