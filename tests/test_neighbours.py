"""The waves of neighbouring columns where they meet on the detector: against abTEM, and what must hold of any pair."""

from __future__ import annotations

import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.testing import assert_allclose

from stemfit.optics.amplitude import amplitude_A
from stemfit.optics.electron import wavelength_A
from stemfit.optics.overlap import bond_image, column_image, overlap, positions
from stemfit.optics.probe import Probe
from stemfit.optics.scattering import kernel
from stemfit.optics.waves import FARTHEST_A, MISSED, Column, beams, optics, ring, waves
from stemfit.simulate import fast
from stemfit.simulate.neighbours import bonds, matters
from stemfit.simulate.specimen import View, specimen

MAADF = (47.0, 118.0)
VIEW = View(0.15, (26, 30))
BORON, NITROGEN = (Column(((element, 0.0, 0.0036),)) for element in ("B", "N"))
WIDE_A = 16.0
"""Of the reference's window: its detector has pixels of 3 mrad then."""


def beyond(draw, numbers, xyz):
    """What two atoms at rest show beyond their sum."""
    view = View(VIEW.pixel_A, VIEW.shape, tuple(xyz[:, :2].mean(0)))
    parts = ([0, 1], [0], [1])
    both, one, other = (draw(specimen(numbers[k], xyz[k], thermal_A=0.0), view) for k in parts)
    return both - one - other


@pytest.mark.skipif(find_spec("abtem") is None, reason="abTEM is a development extra")
@pytest.mark.parametrize(("numbers", "xyz", "aberrations", "off"), [
    ((5, 7), ((0.0, 0.0, 0.0), (1.3, 0.63, 0.0)), {"astigmatism_A": 25.0, "astigmatism_deg": 25.0, "coma_A": 300.0},
     0.15),
    ((42, 16), ((0.0, 0.0, 0.0), (-0.9, 1.58, 0.0)), {"threefold_A": 250.0, "threefold_deg": 20.0}, 0.15),
])  # fmt: skip
def test_two_atoms_follow_multislice(numbers, xyz, aberrations, off, monkeypatch):
    """The reference's aperture has a soft edge, which makes the term stronger by a few percent."""
    from stemfit.simulate import multislice

    monkeypatch.setattr(multislice, "WINDOW_A", WIDE_A)
    monkeypatch.setattr(multislice, "FADE_A", 1.5)
    probe = Probe(60.0, 33.0, source_fwhm_A=0.5, **aberrations)
    numbers, xyz = np.array(numbers), np.array(xyz)
    true = beyond(lambda s, v: multislice.image(s, probe, MAADF, v, parametrization="kirkland"), numbers, xyz)
    found = beyond(lambda s, v: fast.image(s, probe, MAADF, v, neighbours=True), numbers, xyz)
    size = np.sqrt((true**2).sum())
    assert np.sqrt(((found - true) ** 2).sum()) < off * size
    assert np.sqrt(((found + true) ** 2).sum()) > 1.5 * size, "the sign is the right one"


def every_wave(column, at):
    """F(k, q) of each beam and direction, (B, K), as the formula has it."""
    voltage, convergence, detector, period = at
    q, k = beams(voltage, convergence, period).steps / period, ring(voltage, detector).k
    through = np.hypot(*(k - q[:, None]).transpose(2, 0, 1))
    flight = np.pi * wavelength_A(voltage) * ((k**2).sum(1) - (q**2).sum(1)[:, None])
    total = np.zeros(through.shape, complex)
    for element, height, square in column.atoms:
        g, f = amplitude_A(element, voltage, float(through.max()) + 0.1)
        total += np.exp(-2 * (np.pi * through) ** 2 * square - 1j * height * flight) * np.interp(through, g, f)
    return total


@pytest.mark.parametrize(("voltage", "detector"), [(60.0, MAADF), (60.0, (33.0, 90.0)), (200.0, (60.0, 130.0))])
def test_thin_products_are_the_sum_over_all_beams_and_directions(voltage, detector):
    at = optics(Probe(voltage, 33.0 if voltage < 100 else 24.0), detector)
    metal = Column((("W", 0.0, 0.0049),))
    pair = Column((("S", -1.5, 0.0049), ("Se", 1.75, 0.0049)))
    area, k = ring(voltage, detector).area, ring(voltage, detector).k[:, 0]
    one, other = every_wave(metal, at), every_wave(pair, at)
    alone = np.sqrt(np.linalg.norm((one * area) @ one.conj().T) * np.linalg.norm((other * area) @ other.conj().T))
    for column, full in ((metal, one), (pair, other)):
        kept = waves(column, at)
        missed = np.linalg.norm(kept.beams @ kept.onto - full * np.sqrt(area)) / np.linalg.norm(full * np.sqrt(area))
        assert missed < 2 * MISSED  # atoms and then their sum are made thin
        assert kept.beams.shape[1] < len(full) / 2
    for apart in (1.02, 2.413, 3.6):
        exact = (one * area * np.exp(-2j * np.pi * apart * k)) @ other.conj().T
        found = overlap(metal, pair, apart, at)
        assert np.linalg.norm(found - exact) < 0.01 * np.linalg.norm(exact)
        assert np.linalg.norm(found - exact) < 5e-4 * alone


def test_relaxed_distances_are_not_kept():
    """A relaxed structure has as many distances as bonds: what was kept for each was gigabytes at 200 kV."""
    probe, angle = Probe(200.0, 20.0), 0.3
    pair = [Column(((element, 0.0, 0.0049),)) for element in ("Mo", "S")]
    image = bond_image(*pair, 2.0 * np.array([np.cos(angle), np.sin(angle)]), probe, (38.0, 90.0))
    tracemalloc.start()
    try:
        for length in np.linspace(1.0, 3.6, 14):
            bond_image(*pair, length * np.array([np.cos(angle), np.sin(angle)]), probe, (38.0, 90.0))
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    of_one = 8 * len(beams(*optics(probe, (38.0, 90.0))[:2], optics(probe, (38.0, 90.0))[3]).steps) ** 2
    assert kept < of_one, "not even the matrix of one distance"
    assert np.isfinite(image).all()


def image_of_bond(apart, one=NITROGEN, other=BORON, detector=MAADF, **aberrations):
    apart = np.array(apart)
    return bond_image(one, other, apart, Probe(60.0, 33.0, **aberrations), detector)


def test_a_bond_has_two_ends():
    there = image_of_bond((0.9, 1.1), coma_A=300.0, coma_deg=30.0)
    back = image_of_bond((-0.9, -1.1), BORON, NITROGEN, coma_A=300.0, coma_deg=30.0)
    assert_allclose(there, back, atol=1e-3 * np.abs(there).max())
    wrong = image_of_bond((-0.9, -1.1), NITROGEN, BORON, coma_A=300.0, coma_deg=30.0)
    assert np.abs(there - wrong).max() > 0.02 * np.abs(there).max(), "coma tells the ends apart"


def test_a_bond_turned_by_a_right_angle_is_the_same_turned():
    lying, standing = image_of_bond((1.45, 0.0)), image_of_bond((0.0, 1.45))
    assert_allclose(standing, lying.T, atol=1e-6)
    assert np.abs(standing - lying).max() > 0.1 * np.abs(lying).max()


def test_far_columns_and_far_detectors_share_nothing():
    near = np.abs(image_of_bond((1.4, 0.3))).max()
    assert np.abs(image_of_bond((4.8, 1.0))).max() < 0.05 * near
    assert np.abs(image_of_bond((1.4, 0.3), detector=(110.0, 200.0))).max() < 0.05 * near
    assert matters(Probe(60.0, 33.0), MAADF)
    assert not matters(Probe(60.0, 33.0), (90.0, 200.0))


def test_one_column_is_its_cross_section():
    """The thin object and the table are made from the same form factors by different sums."""
    probe = Probe(60.0, 33.0)
    for element in ("B", "Mo"):
        step = float(np.diff(positions(probe, (60.0, 140.0)))[0])
        whole = column_image(Column(((element, 0.0, 0.0049),)), probe, (60.0, 140.0)).sum() * step**2
        assert whole == pytest.approx(kernel(element, 60.0, 33.0, (60.0, 140.0)).amplitude_A2, rel=0.04)


def test_amplitudes_obey_the_optical_theorem():
    """What a phase object takes out of the beam, 2 lambda Im f(0), is what it scatters anywhere, int |f|^2 dOmega."""
    lam = wavelength_A(60.0)
    g, f = amplitude_A("Mo", 60.0, 40.0)
    # in small angles dOmega = lambda^2 d^2g; what goes beyond 40 / A is less than a hundredth
    scattered = lam**2 * np.trapezoid(2 * np.pi * g * np.abs(f) ** 2, g)
    assert scattered == pytest.approx(2 * lam * f[0].imag, rel=0.03)


def test_every_pair_within_reach_is_in_one_group():
    rng = np.random.default_rng(4)
    xy = np.stack(np.meshgrid(np.arange(5) * 2.5, np.arange(4) * 2.2), -1).reshape(-1, 2) + rng.normal(0, 0.05, (20, 2))
    columns = [(BORON, NITROGEN)[k % 2] for k in range(20)]
    middle, groups = bonds(columns, xy)
    members = np.concatenate([group.pairs for group in groups])
    distance = np.hypot(*(xy[:, None] - xy).transpose(2, 0, 1))
    assert len(members) == len(set(members.tolist())) == len(middle) == (distance < FARTHEST_A).sum() // 2 - 10
    assert bonds(columns[:1], xy[:1])[1] == []


def test_a_sheet_needs_the_term():
    """Without it, boron in the image of its crystal is several percent too faint."""
    probe, view = Probe(60.0, 33.0, source_fwhm_A=0.8), View(0.2, (20, 20))
    a = 2.504 * np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
    steps = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 2), -1).reshape(-1, 2) @ a
    xyz = np.column_stack([np.concatenate([steps, steps + (a[0] + a[1]) / 3]), np.zeros(2 * len(steps))])
    sheet = specimen(np.repeat([5, 7], len(steps)), xyz)
    own, without = (fast.image(sheet, probe, MAADF, view, neighbours=n) for n in (None, False))
    assert np.ptp(own / own.mean() - without / without.mean()) > 0.02
    outside = fast.image(sheet, probe, (90.0, 200.0), view)
    assert_allclose(outside, fast.image(sheet, probe, (90.0, 200.0), view, neighbours=False))
