"""The waves of neighbouring columns where they meet on the detector: against abTEM, and what must hold of any pair."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from stemfit.optics.amplitude import amplitude_A
from stemfit.optics.electron import wavelength_A
from stemfit.optics.overlap import Column, bond_image
from stemfit.optics.probe import Probe
from stemfit.optics.scattering import kernel
from stemfit.simulate import fast, multislice
from stemfit.simulate.neighbours import bonds, matters
from stemfit.simulate.specimen import View, specimen

MAADF = (47.0, 118.0)
VIEW = View(0.15, (26, 30))
BORON, NITROGEN = (Column(((element, 0.0, 0.0036),)) for element in ("B", "N"))
WIDE_A = 20.0
"""Of the reference's window: its detector has pixels of 2.4 mrad then."""


def beyond(draw, numbers, xyz, probe):
    """What two atoms at rest show beyond their sum."""
    both = specimen(numbers, xyz, thermal_A=0.0)
    alone = [specimen(numbers[k : k + 1], xyz[k : k + 1], thermal_A=0.0) for k in (0, 1)]
    # Each alone stands in the middle of its image: the view is moved instead.
    middle = xyz[:, :2].mean(0)
    views = [View(VIEW.pixel_A, VIEW.shape, tuple(middle))] * 3
    return draw(both, probe, views[0]) - sum(draw(one, probe, at) for one, at in zip(alone, views[1:], strict=True))


@pytest.mark.parametrize(("numbers", "xyz", "aberrations"), [
    ((5, 7), ((0.0, 0.0, 0.0), (1.3, 0.63, 0.0)), {"astigmatism_A": 25.0, "astigmatism_deg": 25.0, "coma_A": 300.0}),
    ((42, 16), ((0.0, 0.0, 0.0), (-0.9, 1.58, 0.0)), {"threefold_A": 250.0, "threefold_deg": 20.0}),
])  # fmt: skip
def test_two_atoms_follow_multislice(numbers, xyz, aberrations, monkeypatch):
    monkeypatch.setattr(multislice, "WINDOW_A", WIDE_A)
    probe = Probe(60.0, 33.0, source_fwhm_A=0.5, **aberrations)
    numbers, xyz = np.array(numbers), np.array(xyz)

    def reference(one, probe, view):
        return multislice.image(one, probe, MAADF, view, parametrization="kirkland")

    def ours(one, probe, view):
        return fast.image(one, probe, MAADF, view, neighbours=True)

    true, found = beyond(reference, numbers, xyz, probe), beyond(ours, numbers, xyz, probe)
    print(np.corrcoef(true.ravel(), found.ravel())[0, 1], (true * found).sum() / (true**2).sum())
    left = np.sqrt(((found - true) ** 2).sum() / (true**2).sum())
    assert left < 0.2
    assert np.sqrt(((found + true) ** 2).sum() / (true**2).sum()) > 1.5, "with the sign reversed it would be worse"
