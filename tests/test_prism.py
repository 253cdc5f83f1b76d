"""PRISM against the windowed multislice, and what it is where too few plane waves are taken."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("abtem") is None:
    pytest.skip("abTEM is a development extra", allow_module_level=True)

from stemfit.errors import NotAnalysable, UsageError
from stemfit.optics.probe import Probe
from stemfit.simulate import fast, multislice, prism
from stemfit.simulate.specimen import View, specimen

PROBE = Probe(60.0, 25.0, source_fwhm_A=0.8, coma_A=500.0, coma_deg=40.0)
VIEW, DETECTOR = View(0.25, (14, 12), (0.8, 0.6)), (50.0, 130.0)
A_A = 2.46
GRAPHENE = specimen(
    [6, 6], [[0, 0, 0], [A_A / 2, A_A / 12**0.5, 0]], [[A_A, 0], [A_A / 2, A_A * 3**0.5 / 2]], thermal_A=0.0
)


def ncc(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    return multislice.image(GRAPHENE, PROBE, DETECTOR, VIEW)


def test_graphene_as_multislice_has_it(exact: np.ndarray) -> None:
    """Through coma, so that a mirrored probe would be noticed."""
    image = prism.image(GRAPHENE, PROBE, DETECTOR, VIEW)
    assert ncc(image, exact) > 0.99999
    np.testing.assert_allclose(image, exact, rtol=0.01)  # columns and what is between them
    assert ncc(fast.image(GRAPHENE, PROBE, DETECTOR, VIEW), exact) > 0.99
    assert ncc(image[::-1], exact) < 0.95 and ncc(image[:, ::-1], exact) < 0.95


def test_too_few_plane_waves_cut_the_probe_off(exact: np.ndarray) -> None:
    """A sixth along each axis leaves a window of 3 A, less than the coma needs."""
    assert ncc(prism.image(GRAPHENE, PROBE, DETECTOR, VIEW, interpolation=6), exact) < 0.999


def test_slices_at_any_distance() -> None:
    """W 12 A under a Se, in focus between them; not the same where both are taken to lie in one plane."""
    optics = multislice.Optics(60e3, 25.0, *DETECTOR, {"C10": 6.0})
    grid = prism.grid_for(optics, 12.4, 12.4)
    yx, layer = np.array([[6.2, 6.2], [6.0, 6.6]]), np.array([0, 1])
    slices = multislice._transmission(np.array([34, 74]), yx, layer, optics, grid)
    wanted = np.hypot(*np.meshgrid(*(np.arange(grid.n) * grid.step_A - 6.2,) * 2)) < 1.0
    deep, flat = (prism.scan(slices, [gap], optics, grid, wanted)[wanted] for gap in (12.0, 0.01))
    true = multislice._scan(slices, [12.0], optics, grid, wanted)[wanted]
    np.testing.assert_allclose(deep, true, rtol=0.01)
    assert np.abs(flat / true - 1).max() > 0.1


def test_tiles_hold_every_place_once() -> None:
    wanted = np.random.default_rng(0).random((21, 21)) < 0.7
    at = prism.tiled(wanted)
    assert sorted(map(tuple, at.tolist())) == sorted(map(tuple, np.argwhere(wanted).tolist()))
    first = at[: wanted[: prism.TILE, : prism.TILE].sum()]
    assert first.max() < prism.TILE


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="interpolation of 0"):
        prism.image(GRAPHENE, PROBE, DETECTOR, VIEW, interpolation=0)
    monkeypatch.setattr(prism, "LARGEST_GB", 0.01)
    with pytest.raises(NotAnalysable, match=r"GB, the limit is 0\.01"):
        prism.image(GRAPHENE, PROBE, DETECTOR, VIEW)
