"""Phase objects, of which the table of scattering is made, against exact elastic scattering by the same potential."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import eval_legendre, spherical_jn, spherical_yn

from stemfit.optics.electron import mass_ratio, wavelength_A

FloatArray = NDArray[np.float64]
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scattering_table.py"
REACH_A, STEP_A, VOLTAGE_KV = 4.0, 0.0008, 60.0
K = 2 * np.pi / wavelength_A(VOLTAGE_KV)


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    if importlib.util.find_spec("abtem") is None:
        pytest.skip("the published parameters come with abTEM")
    spec = importlib.util.spec_from_file_location("scattering_table", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def phase_shifts(maker: ModuleType, element: str) -> FloatArray:
    """Of all partial waves (L,): the radial equation by Numerov, relativistic mass and wavelength.

    The potential is the three-dimensional Fourier transform of Lobato's form factor, times 2 m e / hbar^2.
    """
    a, b = maker.published()[element][:, :, None]
    r = STEP_A * np.arange(1, int(REACH_A / STEP_A) + 1)
    decay = np.exp(-2 * np.pi * r / np.sqrt(b))
    potential = 4 * np.pi * mass_ratio(VOLTAGE_KV) * (a * (np.pi / (b * r) + np.pi**2 / b**1.5) * decay).sum(0)
    order = np.arange(int(0.9 * K * REACH_A))
    barrier = (order * (order + 1)).astype(float)
    # From far enough inside the centrifugal barrier that what is not regular has died out.
    inside = np.clip(1 - 4 / np.maximum(order, 1) ** 0.6, 0.02, 0.8)
    start = np.maximum(0, (np.sqrt(barrier) / K * inside / STEP_A).astype(int) - 1)
    before, here, weight_before = np.zeros(len(order)), np.zeros(len(order)), np.ones(len(order))
    square = STEP_A**2 / 12 * np.maximum(K**2 + potential[:, None] - barrier / r[:, None] ** 2, -6 / STEP_A**2)
    for i in range(len(r) - 1):
        here = np.where(start == i, 1e-12, here)
        after = np.where(i >= start, ((2 - 10 * square[i]) * here - weight_before * before) / (1 + square[i + 1]), 0.0)
        weight_before, before, here = 1 + square[i], here, after
        scale = np.where(np.abs(here) > 1e100, 1e-100, 1.0)
        before, here = before * scale, here * scale
    (j, y), (j_last, y_last) = ([f(order, K * at) for f in (spherical_jn, spherical_yn)] for at in r[-2:])
    slope = before / r[-2] / (here / r[-1])
    return np.asarray(np.arctan((j - slope * j_last) / (y - slope * y_last)))


@pytest.mark.parametrize("detector", [(60.0, 200.0), (40.0, 100.0)])
def test_phase_objects_scatter_like_atoms(maker: ModuleType, detector: tuple[float, float]) -> None:
    angle = np.linspace(*detector, 80) * 1e-3
    share = {}
    for element in ("S", "W"):
        shift = phase_shifts(maker, element)
        order = np.arange(len(shift))
        waves = (2 * order + 1) * np.exp(1j * shift) * np.sin(shift)
        exact = np.abs(waves @ eval_legendre(order[:, None], np.cos(angle)) / K) ** 2
        phase = np.abs(maker.amplitude_A(element, VOLTAGE_KV, 2 * np.sin(angle / 2) * K / (2 * np.pi))) ** 2
        born = (mass_ratio(VOLTAGE_KV) * maker.form_factor_A(element, 2 * np.sin(angle / 2) * K / (2 * np.pi))) ** 2
        share[element] = [float((f * np.sin(angle)).sum() / (exact * np.sin(angle)).sum()) for f in (phase, born)]
    assert share["W"][0] == pytest.approx(1, abs=0.04)
    assert share["W"][0] / share["S"][0] == pytest.approx(1, abs=0.015)
    assert share["W"][1] / share["S"][1] > 1.5  # the first Born approximation


def plain_abtem(numbers: list[int], heights_A: list[float], slice_A: float, projection: str) -> float:
    """Cross-section (A^2) from 60 to 200 mrad of atoms above each other for a plane wave: abTEM's own multislice."""
    import abtem
    from ase import Atoms

    box, depth = 8.0, 8 * slice_A * round(1.5 / slice_A)
    atoms = Atoms(numbers, [[4.007, 4.011, depth / 2 + z] for z in heights_A], cell=[box, box, depth], pbc=True)
    potential = abtem.Potential(atoms, sampling=0.025, slice_thickness=slice_A, projection=projection)
    wave = abtem.PlaneWave(energy=1e3 * VOLTAGE_KV).multislice(potential, lazy=False).array
    n = wave.shape[-1]
    frequency = np.fft.fftfreq(n, box / n)
    angle = 1e3 * np.hypot(*np.meshgrid(frequency, frequency)) * wavelength_A(VOLTAGE_KV)
    seen = (angle >= 60) & (angle < 200)
    return float((np.abs(np.fft.fft2(wave)[seen] / n**2) ** 2).sum() * box**2)


def test_slices_must_have_the_atoms_in_their_middle(maker: ModuleType) -> None:
    """Slices of half an Angstrom scatter as one whole atom does, unless their edge cuts through the nucleus.

    Each slice counts as flat, so that such an atom becomes two halves half an Angstrom apart: molybdenum seems a sixth
    brighter, and S2 in MoS2 (60 kV, 60 to 200 mrad) 0.46 of it instead of 0.55.
    """
    shift, angle = phase_shifts(maker, "Mo"), np.linspace(60.0, 200.0, 160) * 1e-3
    order = np.arange(len(shift))
    waves = (2 * order + 1) * np.exp(1j * shift) * np.sin(shift)
    exact = np.abs(waves @ eval_legendre(order[:, None], np.cos(angle)) / K) ** 2
    total = float(2 * np.pi * np.trapezoid(exact * np.sin(angle), angle))
    assert plain_abtem([42], [0.25], 0.5, "finite") == pytest.approx(total, rel=0.025)
    assert plain_abtem([42], [0.75], 1.5, "infinite") == pytest.approx(total, rel=0.025)
    assert plain_abtem([42], [0.0], 0.5, "finite") > 1.1 * total
