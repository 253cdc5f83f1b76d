"""The windowed multislice, against abTEM's own scan and against an identity."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("abtem") is None:
    pytest.skip("abTEM is a development extra", allow_module_level=True)

from stemfit.optics.probe import Probe
from stemfit.simulate import fast, multislice
from stemfit.simulate.specimen import Specimen, View, specimen


def test_windows_equal_a_full_scan() -> None:
    """MoS2 columns in a box as large as a window: abTEM scans it on the fine grid, we on the coarse one."""
    import abtem
    from ase import Atoms

    optics = multislice.Optics(60e3, 30.0, 60.0, 140.0, {"C10": 8.0, "C12": 6.0, "phi12": 0.6})
    grid = multislice.grid_for(optics, 9.0)
    grid = replace(grid, window=grid.n * grid.factor)
    spacing = 1.565  # 3 x 1.565 / 1.565 rounds to more than 3: abTEM would make four slices of it
    numbers, layer = np.array([42, 16, 16]), np.array([1, 0, 2])
    yx = np.array([[4.1, 4.3], [5.9, 4.6], [5.9, 4.6]])

    slices = multislice._transmission(numbers, yx, layer, optics, grid)
    assert len(slices) == 3
    ours = multislice._scan(slices, [spacing, spacing], optics, grid)

    cell = [grid.box_A, grid.box_A, 3 * spacing]
    atoms = Atoms(numbers, np.column_stack([yx, (layer + 0.5) * spacing]), cell=cell, pbc=True)
    fine = grid.n * grid.factor * grid.fine
    potential = abtem.Potential(atoms, gpts=fine, slice_thickness=(spacing,) * 3, projection="infinite")
    at = np.round(np.array([yx[0], yx[1], [4.9, 4.4], yx[1] + 0.6]) / grid.step_A).astype(int)
    probe = abtem.Probe(energy=60e3, semiangle_cutoff=30.0, **optics.aberrations)
    detector = abtem.AnnularDetector(60.0, 140.0)
    theirs = probe.scan(potential, scan=abtem.CustomScan(at * grid.step_A), detectors=detector, lazy=False).array

    np.testing.assert_allclose(ours[at[:, 0], at[:, 1]], np.ravel(theirs), rtol=0.015)  # the last mrad of the detector


def test_brightness_is_the_same_everywhere_in_a_pixel() -> None:
    """An isolated W column; formed on the wave grid itself, the transmission function aliases."""
    optics = multislice.Optics(60e3, 30.0, 60.0, 200.0, {})
    grid = multislice.grid_for(optics, 10.0, window_A=9.0)
    corners = np.array([[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [0.23, 0.71]])

    def spread(fine: int) -> float:
        here = replace(grid, fine=fine)
        totals = []
        for corner in corners:
            at = grid.box_A / 2 + corner[None] * grid.sampling_A
            slices = multislice._transmission(np.array([74]), at, np.array([0]), optics, here)
            totals.append(multislice._scan(slices, [], optics, here).sum())
        return float(np.ptp(totals) / np.mean(totals))

    assert spread(grid.fine) < 0.01
    assert spread(1) > 0.02


def test_thermal_displacements_are_exact() -> None:
    turns = np.array([1, 1, 2, 1, 2])
    shift = multislice.thermal_displacements(turns, 0.07, seed=1)
    np.testing.assert_allclose(shift.mean(0), 0.0, atol=1e-15)
    covariance = np.einsum("kai,kaj->aij", shift, shift) / len(shift)
    np.testing.assert_allclose(covariance, np.broadcast_to(0.07**2 * np.eye(2), covariance.shape), atol=1e-15)
    for top, bottom in ((0, 2), (3, 4), (0, 4)):
        np.testing.assert_allclose(shift[:, top].T @ shift[:, bottom], 0.0, atol=1e-15)


def test_resampling_follows_the_fourier_series() -> None:
    grid = multislice.Grid(n=24, step_A=0.4, factor=5, fine=4, window=40)
    wave = 2 * np.pi * 3 / grid.box_A
    scan = 1 + 0.5 * np.cos(wave * np.arange(24) * 0.4)[:, None] * np.ones(24)
    pixels = multislice.resample(scan, grid, 0.11, (41, 41), source_fwhm_A=0.8)
    at = grid.box_A / 2 + (np.arange(41) - 20) * 0.11
    damped = 0.5 * np.exp(-((wave * 0.8) ** 2) / (16 * np.log(2)))
    np.testing.assert_allclose(pixels, (1 + damped * np.cos(wave * at))[:, None] * np.ones(41), atol=1e-12)


def test_atoms_of_a_column_take_turns() -> None:
    yx = np.array([[1.0, 1.0], [1.05, 1.0], [4.0, 1.0], [1.0, 1.02]])
    assert multislice.turns_of(yx, np.array([2, 0, 1, 5])).tolist() == [2, 1, 1, 3]
    shift = multislice.thermal_displacements(np.array([1, 2, 3]), np.array([0.05, 0.07, 0.1]), seed=3)
    np.testing.assert_allclose((shift**2).mean(0), np.array([0.05, 0.07, 0.1])[:, None] ** 2 * [1, 1])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        np.testing.assert_allclose(shift[:, first].T @ shift[:, second], 0.0, atol=1e-15)


def test_slices_follow_the_heights() -> None:
    z = np.array([7.0, 8.56, 5.44, 7.1, 5.3, 7.8, -3.0])
    layer, heights = multislice.slices(z)
    assert layer.tolist() == [2, 0, 3, 2, 3, 1, 4]
    np.testing.assert_allclose(heights, [8.56, 7.8, 7.05, 5.37, -3.0])


PROBE = Probe(60.0, 30.0, source_fwhm_A=0.7)


def test_in_focus_is_the_mean_height() -> None:
    """W 16 A under a hydrogen: half of that must be made up by underfocus; overfocus leaves it twice as far out."""
    pair = specimen([74, 1], [[0.5, 0.0, 0.0], [-1.5, 0.0, 16.0]], thermal_A=0.0)
    alone = specimen([74], [[0.5, 0.0, 0.0]], thermal_A=0.0)
    view = View(0.25, (3, 3), (0.5, 0.0))

    def peak(one: Specimen, defocus: float) -> float:
        probe = replace(PROBE, defocus_A=defocus)
        return float(multislice.image(one, probe, (60.0, 120.0), view)[1, 1])

    best = peak(alone, 0.0)
    assert peak(pair, 8.0) == pytest.approx(best, rel=0.01)
    assert peak(pair, -8.0) < 0.95 * best


def test_fast_and_multislice_agree_on_a_chiral_molecule() -> None:
    """Mo, S2 and Se at the corners of a triangle, through coma: as bright, and the same way round."""
    at = [[-1.6, -1.1, 0.0], [1.7, -0.9, 1.56], [1.7, -0.9, -1.56], [-0.4, 1.9, 0.3]]
    one = specimen([42, 16, 16, 34], at, thermal_A=0.0)  # one configuration
    probe = replace(PROBE, coma_A=400.0, coma_deg=35.0, astigmatism_A=15.0, astigmatism_deg=70.0)
    view = View(0.2, (26, 24), (0.0, 0.0))
    detector = (60.0, 120.0)
    quick, true = fast.image(one, probe, detector, view), multislice.image(one, probe, detector, view)

    def ncc(image: np.ndarray) -> float:
        return float(np.corrcoef(image.ravel(), true.ravel())[0, 1])

    assert ncc(quick) > 0.999
    assert quick.sum() == pytest.approx(true.sum(), rel=0.05)
    for broken in (quick[::-1], quick[:, ::-1], fast.image(one, replace(probe, coma_deg=215.0), detector, view)):
        assert ncc(broken) < 0.99
