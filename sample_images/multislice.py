"""Annular dark-field images of monolayers by abTEM multislice, a minute per field on one core.

Potentials, transmission functions, probe and propagator are abTEM's. What is done here is the scan: the field is far
larger than a probe, so every probe position gets its own small window of the transmission functions. Two sampling
rules carry the speed and the truth:

* exp(i sigma V) is formed on a grid of 0.02 A and then band-limited to the coarser wave grid. Formed on the wave grid
  it aliases, and the brightness of a column depends on where it lies between the pixels.
* The probe positions lie on the Nyquist grid of the intensity, lambda / (4 alpha). The box is periodic, so that the
  image between them follows exactly from its Fourier series.

Thermal motion: each atom takes five positions on a circle of radius sqrt(2) u about its site (mean exactly zero,
variance exactly u^2 per axis), and upper and lower chalcogen of a column go round at different speeds, which makes
their displacements uncorrelated. Random draws in so few configurations would shift columns by several pm.
"""

from __future__ import annotations

import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import dataclass

import abtem
import numpy as np
import pyfftw
import scipy.fft
from abtem.core.energy import energy2wavelength
from abtem.multislice import FresnelPropagator
from ase import Atoms
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

abtem.config.set({"device": "cpu", "diagnostics.progress_bar": False, "precision": "float32"})

CONFIGURATIONS = 5  # a five-fold circle is isotropic to fourth order, and 1 and 2 turns per cycle are orthogonal
FINE_SAMPLING_A = 0.022
WINDOW_A = 12.4
BATCH = 4  # stays in the processor cache


@dataclass(frozen=True)
class Optics:
    """Microscope: beam energy (eV), angles (mrad), aberrations as abTEM takes them (Angstrom), thermal rms (A)."""

    energy_eV: float
    semiangle_mrad: float
    inner_mrad: float
    outer_mrad: float
    aberrations: dict[str, float]
    thermal_A: float = 0.07

    @property
    def wavelength_A(self) -> float:
        """Relativistic electron wavelength."""
        return float(energy2wavelength(self.energy_eV))


@dataclass(frozen=True)
class Grid:
    """Nested grids of a square periodic box: scan (n, step), waves (factor finer), potential (fine times finer).

    Scan points farther than `reach_A` from the middle are left out.
    """

    n: int
    step_A: float
    factor: int
    fine: int
    window: int
    reach_A: float = math.inf

    @property
    def box_A(self) -> float:
        """Side of the box."""
        return self.n * self.step_A

    @property
    def sampling_A(self) -> float:
        """Of the waves."""
        return self.step_A / self.factor


def grid_for(optics: Optics, at_least_A: float, reach_A: float = math.inf) -> Grid:
    """Smallest periodic box of at least this side whose three grids nest and have fast transforms."""
    step = 0.93 * optics.wavelength_A / (4e-3 * optics.semiangle_mrad)  # the aperture edge is softened by one k pixel
    # two thirds of the wave grid's Nyquist frequency must hold the detector
    coarsest = 2 / 3 * optics.wavelength_A / (2e-3 * optics.outer_mrad)
    factor = int(np.ceil(step / coarsest))
    n = scipy.fft.next_fast_len(int(np.ceil(at_least_A / step)))
    fine = int(np.ceil(step / factor / FINE_SAMPLING_A))
    half_window = scipy.fft.next_fast_len(int(np.ceil(WINDOW_A * factor / step / 2)))
    return Grid(n, step, factor, fine, 2 * half_window, reach_A)


def thermal_displacements(layer: NDArray[np.int64], rms_A: float, seed: int | None) -> NDArray[np.float64]:
    """(configurations, atoms, 2) displacements in the plane; layer 2 goes round twice as fast as the others.

    Without a seed the atoms of a layer move together, and equal columns are equal to the last digit.
    """
    phase = np.zeros(len(layer)) if seed is None else np.random.default_rng(seed).uniform(0, 2 * np.pi, len(layer))
    turns = np.where(layer == 2, 2, 1) * np.arange(CONFIGURATIONS)[:, None]
    angle = phase + 2 * np.pi * turns / CONFIGURATIONS
    return np.sqrt(2) * rms_A * np.stack([np.cos(angle), np.sin(angle)], -1)


def adf_image(
    numbers: NDArray[np.int64],
    yx_A: NDArray[np.float64],
    layer: NDArray[np.int64],
    layer_spacing_A: float,
    optics: Optics,
    grid: Grid,
    seed: int | None = 0,
    wanted: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Scattered fraction of the beam at each scan position.

    Parameters
    ----------
    numbers : (N,) int array
        Atomic numbers.
    yx_A : (N, 2) array
        Positions in the box along axis 0 and axis 1.
    layer : (N,) int array
        0, 1, 2 from the top: the beam meets 0 first.
    layer_spacing_A : float
        Distance between layers.
    optics : Optics
    grid : Grid
    seed : int or None
        Of the thermal displacements, see `thermal_displacements`.
    wanted : (n, n) bool array, optional
        Where to send the beam, instead of what is within the grid's reach; of each row, all from first to last.

    Returns
    -------
    (n, n) array
        0 where the beam was not sent.
    """
    total = np.zeros((grid.n, grid.n))
    for shift in thermal_displacements(layer, optics.thermal_A, seed):
        slices = _transmission(numbers, yx_A + shift, layer, layer_spacing_A, optics, grid)
        total += _scan(slices, layer_spacing_A, optics, grid, wanted)
    return total / CONFIGURATIONS


def _transmission(
    numbers: NDArray[np.int64],
    yx_A: NDArray[np.float64],
    layer: NDArray[np.int64],
    spacing: float,
    optics: Optics,
    grid: Grid,
) -> list[NDArray[np.complex64]]:
    """One band-limited transmission function per layer, on the wave grid."""
    n_fine = grid.n * grid.factor * grid.fine
    depth = int(layer.max()) + 1
    height = (layer + 0.5) * spacing
    cell = [grid.box_A, grid.box_A, depth * spacing]
    atoms = Atoms(numbers, np.column_stack([yx_A % grid.box_A, height]), cell=cell, pbc=True)
    # one thickness per slice: given a single number abTEM divides, rounds up and may make one slice too many
    thickness = (spacing,) * depth
    potential = abtem.Potential(atoms, gpts=n_fine, slice_thickness=thickness, projection="infinite")
    assert len(potential) == depth
    return [
        _band_limit(piece.transmission_function(optics.energy_eV).array[0], grid.n * grid.factor)
        for piece in potential.generate_slices()
    ]


def _band_limit(fine: NDArray[np.complex64], n: int) -> NDArray[np.complex64]:
    """Keep two thirds of the coarse grid's frequencies, on the coarse grid."""
    half = n // 2
    keep = np.r_[0 : n - half, fine.shape[0] - half : fine.shape[0]]
    spectrum = scipy.fft.fft2(fine)[np.ix_(keep, keep)]
    k = np.fft.fftfreq(n)
    spectrum *= np.hypot(k[:, None], k) <= 1 / 3
    return np.asarray(scipy.fft.ifft2(spectrum) * (n / fine.shape[0]) ** 2, dtype=np.complex64)


def _scan(
    slices: list[NDArray[np.complex64]], spacing: float, optics: Optics, grid: Grid,
    wanted: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    window, extent = grid.window, grid.window * grid.sampling_A
    probe_waves = abtem.Probe(
        energy=optics.energy_eV,
        semiangle_cutoff=optics.semiangle_mrad,
        extent=extent,
        gpts=window,
        **optics.aberrations,
    ).build(abtem.CustomScan([[extent / 2, extent / 2]]), lazy=False)
    propagator = np.asarray(FresnelPropagator().get_array(probe_waves, spacing), dtype=np.complex64)
    probe = probe_waves.array.reshape(window, window).astype(np.complex64)
    probe /= np.sqrt(np.sum(np.abs(probe) ** 2) * window**2)  # the spectrum then sums to one

    # the centre of window (i, j) is scan point (i, j)
    half = window // 2
    padded = [np.pad(t, ((half, half), (half, half)), mode="wrap") for t in slices]
    views = [sliding_window_view(t, (window, window))[:: grid.factor, :: grid.factor] for t in padded]
    k = np.hypot(*np.meshgrid(*(np.fft.fftfreq(window, grid.sampling_A),) * 2)) * optics.wavelength_A * 1e3
    weights = np.repeat(((k >= optics.inner_mrad) & (k < optics.outer_mrad)).ravel(), 2).astype(np.float32)

    waves = pyfftw.empty_aligned((BATCH, window, window), dtype="complex64")
    forward = pyfftw.FFTW(waves, waves, axes=(1, 2), flags=("FFTW_MEASURE",))
    backward = pyfftw.FFTW(waves, waves, axes=(1, 2), direction="FFTW_BACKWARD", flags=("FFTW_MEASURE",))
    image = np.zeros((grid.n, grid.n))
    for i in range(grid.n):
        begin, end = _reached(i, grid) if wanted is None else _ends(wanted[i])
        for start in range(begin, end, BATCH):
            stop = min(start + BATCH, end)
            used = waves[: stop - start]
            waves[stop - start :] = 0  # transformed with the others: what a fuller batch left would grow
            np.multiply(views[0][i, start:stop], probe, out=used)
            for view in views[1:]:
                forward()
                waves *= propagator
                backward()
                used *= view[i, start:stop]
            forward()
            flat = used.reshape(len(used), -1).view(np.float32)
            image[i, start:stop] = np.square(flat) @ weights
    return image


def _reached(i: int, grid: Grid) -> tuple[int, int]:
    """First and last + 1 scan point of row i within reach of the middle of the box."""
    if math.isinf(grid.reach_A):
        return 0, grid.n
    half = math.sqrt(max(0.0, grid.reach_A**2 - (i * grid.step_A - grid.box_A / 2) ** 2))
    return math.ceil((grid.box_A / 2 - half) / grid.step_A), math.floor((grid.box_A / 2 + half) / grid.step_A) + 1


def _ends(row: NDArray[np.bool_]) -> tuple[int, int]:
    """First and last + 1 of what is true."""
    true = np.flatnonzero(row)
    return (int(true[0]), int(true[-1]) + 1) if len(true) else (0, 0)


def resample(
    image: NDArray[np.float64], grid: Grid, pixel_A: float, size: int, source_fwhm_A: float,
    centre_yx_A: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.float64]:
    """Fourier series of the periodic scan, blurred by the source, at `size` x `size` pixels.

    Their middle lies at `centre_yx_A` from the middle of the box.
    """
    frequency = np.fft.fftfreq(grid.n, grid.step_A)
    sigma = source_fwhm_A / np.sqrt(8 * np.log(2))
    blur = np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    at = grid.box_A / 2 + (np.arange(size) - (size - 1) / 2) * pixel_A
    down, across = (np.exp(2j * np.pi * np.outer(at + off, frequency)) * blur / grid.n for off in centre_yx_A)
    return np.asarray((down @ np.fft.fft2(image) @ across.T).real)
