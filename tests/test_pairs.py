"""Coherence of pairs that stand apart: nothing lost in line, everything far apart, and what multislice says between."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.testing import assert_allclose

from stemfit.optics.pairs import gap_A, loosened, stretched
from stemfit.optics.probe import Probe
from stemfit.optics.scattering import kernel
from stemfit.simulate import fast
from stemfit.simulate.specimen import View, specimen

MAADF = 80.0, 27.0, (47.0, 118.0)
RIM_A = 1.5
"""Of what is scanned round a view, which is the same round both of a ratio."""


def test_limits() -> None:
    assert_allclose(loosened("Se2", *MAADF, [0.0], [0.07]), 1.0)
    assert_allclose(loosened("Mo", *MAADF, [0.0, 0.5], [0.02, 0.1]), 1.0)
    apart = 2 * kernel("Se", *MAADF).amplitude_A2 / kernel("Se2", *MAADF).amplitude_A2
    assert_allclose(loosened("Se2", *MAADF, [0.0], [1.0]), apart, rtol=0.02)
    assert apart < 0.85
    falling = loosened("Se2", *MAADF, np.linspace(0, 0.25, 6), np.full(6, 0.07))
    assert (np.diff(falling) < 0).all()


def test_a_column_does_not_jump_where_it_is_torn() -> None:
    """Two Se 0.299 and 0.301 A apart are one column and two; as two single atoms they would be a tenth brighter."""
    probe, view = Probe(80.0, 27.0, source_fwhm_A=0.8), View(0.2, (30, 30), (0.0, 0.0))
    one, two = (
        fast.image(specimen([34, 34], [[-d / 2, 0, 1.67], [d / 2, 0, -1.67]]), probe, MAADF[2], view).sum()
        for d in (0.299, 0.301)
    )
    assert two == pytest.approx(one, rel=0.01)


@pytest.mark.skipif(find_spec("abtem") is None, reason="abTEM is a development extra")
def test_a_tilted_pair_in_multislice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness of two Se that are 0.14 A apart over that of two above each other: 6 % are lost, not none."""
    from stemfit.simulate import multislice

    monkeypatch.setattr(multislice, "FADE_A", RIM_A)
    probe, view = Probe(80.0, 27.0, source_fwhm_A=0.8), View(0.2, (6, 6), (0.0, 0.0))

    def ratio(image: Callable[..., np.ndarray]) -> float:
        tilted, straight = (
            image(specimen([34, 34], [[-d / 2, 0, 1.67], [d / 2, 0, -1.67]]), probe, MAADF[2], view)
            for d in (0.14, 0.0)
        )
        return float(tilted.mean() / straight.mean())

    true = ratio(multislice.image)
    assert true < 0.95
    assert ratio(fast.image) == pytest.approx(true, abs=0.02)


@pytest.mark.skipif(find_spec("abtem") is None, reason="abTEM is a development extra")
def test_pairs_at_rest_in_multislice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the table's motion has damped away at high angles cannot be had back by dividing: it was another third."""
    from stemfit.simulate import multislice

    monkeypatch.setattr(multislice, "FADE_A", RIM_A)
    probe, view, detector = Probe(80.0, 28.0, source_fwhm_A=0.8), View(0.3, (9, 9), (0.0, 0.0)), (60.0, 200.0)
    pair, alone = (specimen([34] * n, [[0, 0, 1.67], [0, 0, -1.67]][:n], thermal_A=0.0) for n in (2, 1))
    true, quick = (
        image(pair, probe, detector, view).sum() / image(alone, probe, detector, view).sum()
        for image in (multislice.image, fast.image)
    )
    assert quick == pytest.approx(true, rel=0.11)


def test_gaps() -> None:
    optics = 60.0, 32.0, (60.0, 200.0)
    assert gap_A("S2") == pytest.approx(3.13) and gap_A("SSe") == gap_A("SeS") and gap_A("Mo") is None
    assert stretched("Se2", *optics, 3.36) == 1.0 and stretched("Mo", *optics, 0.0) == 1.0
    # Two atoms in one plane are nearly one of twice the phase: twice as much as two atoms apart.
    flat = kernel("S2", *optics).amplitude_A2 * stretched("S2", *optics, 0.0)
    assert 2.2 * kernel("S", *optics).amplitude_A2 < flat < 4 * kernel("S", *optics).amplitude_A2


@pytest.mark.skipif(find_spec("abtem") is None, reason="abTEM is a development extra")
def test_selenium_in_gallium_selenide(monkeypatch: pytest.MonkeyPatch) -> None:
    """4.8 A apart instead of 3.4: an eighth less in multislice, and so it is here."""
    from stemfit.simulate import multislice

    monkeypatch.setattr(multislice, "FADE_A", RIM_A)
    probe, view, detector = Probe(60.0, 32.0, source_fwhm_A=0.8), View(0.3, (9, 9), (0.0, 0.0)), (60.0, 200.0)

    def ratio(image: Callable[..., np.ndarray]) -> float:
        wide, usual = (
            image(specimen([34, 34], [[0, 0, d / 2], [0, 0, -d / 2]]), probe, detector, view).sum()
            for d in (4.817, 3.36)
        )
        return float(wide / usual)

    true = ratio(multislice.image)
    assert true < 0.92
    assert ratio(fast.image) == pytest.approx(true, abs=0.02)
