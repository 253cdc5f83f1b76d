"""Annular dark-field images of layers by abTEM multislice: the reference for `stemfit.simulate.fast`, minutes a field.

Potentials, transmission functions, probe and propagator are abTEM's. What is done here is the scan: the field is far
larger than a probe, so every probe position gets its own small window of the transmission functions. Two sampling
rules carry the speed and the truth:

* exp(i sigma V) is formed on a grid of 0.02 A and then band-limited to the coarser wave grid. Formed on the wave grid
  it aliases, and the brightness of a column depends on where it lies between the pixels.
* The probe positions lie on the Nyquist grid of the intensity, lambda / (4 alpha). The box is periodic, so that the
  image between them follows exactly from its Fourier series.

Atoms of nearly equal height make a slice; there may be any number of slices at any distance, and a defect's atoms may
stand at heights of their own.

Thermal motion: each atom takes five positions on a circle of radius sqrt(2) u about its site (mean exactly zero,
variance exactly u^2 per axis), and the atoms of a column go round at different speeds, which makes their displacements
uncorrelated (with more than two in a column, on more positions). Random draws in so few configurations would shift
columns by several pm. Needs the extra ``stemfit[multislice]``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from stemfit.errors import ModelError
from stemfit.optics.probe import Probe
from stemfit.optics.transfer import Detector
from stemfit.simulate.fast import check_detector
from stemfit.simulate.image import project
from stemfit.simulate.specimen import Specimen, View

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # abTEM's imports are not ours
        import abtem
        import pyfftw
        from abtem.core.energy import energy2wavelength
        from abtem.integrals import ScatteringFactorProjectionIntegrals
        from abtem.multislice import FresnelPropagator
except ImportError as missing:
    raise ModelError(
        f"multislice needs abTEM, which is not installed ({missing})",
        remedy="pip install 'stemfit[multislice]', or take the fast simulator",
    ) from None

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

abtem.config.set({"device": "cpu", "diagnostics.progress_bar": False, "precision": "float32"})

CONFIGURATIONS = 5
"""Of thermal motion: a five-fold circle is isotropic to fourth order, and 1 and 2 turns per cycle are orthogonal."""

FINE_SAMPLING_A = 0.022
WINDOW_A = 12.4
"""Side of the window in which a probe in focus travels."""

BATCH = 4
"""Probes at once: they stay in the processor cache."""

SLICE_A = 0.6
"""Atoms within this height make one slice: relaxed layers are rougher by 0.3 A at most, and distinct ones are 0.75 A
apart or more. An electron of 60 kV at the edge of a 35 mrad aperture is shifted by 0.01 A across half of it."""

FADE_A = 3.0
"""Width of the rim round the image that is scanned, too, and fades to the mean: the box is periodic."""

DEFOCI = ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6))
"""Gauss-Hermite nodes (in standard deviations) and weights of the focal spread, exact to the fifth power."""


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


Scan = Callable[[list[NDArray[np.complex64]], Sequence[float], Optics, Grid, NDArray[np.bool_] | None], FloatArray]
"""Transmission functions, gaps between them, microscope, grid, where to send the beam: scattered fraction (n, n)."""


def grid_for(optics: Optics, at_least_A: float, reach_A: float = math.inf, window_A: float = WINDOW_A) -> Grid:
    """Smallest periodic box of at least this side whose three grids nest and have fast transforms."""
    step = 0.93 * optics.wavelength_A / (4e-3 * optics.semiangle_mrad)  # the aperture edge is softened by one k pixel
    # two thirds of the wave grid's Nyquist frequency must hold the detector
    coarsest = 2 / 3 * optics.wavelength_A / (2e-3 * optics.outer_mrad)
    factor = int(np.ceil(step / coarsest))
    n = scipy.fft.next_fast_len(int(np.ceil(at_least_A / step)))
    fine = int(np.ceil(step / factor / FINE_SAMPLING_A))
    half_window = scipy.fft.next_fast_len(int(np.ceil(window_A * factor / step / 2)))
    return Grid(n, step, factor, fine, 2 * half_window, reach_A)


def image(
    specimen: Specimen, probe: Probe, detector_mrad: Detector, view: View, *, seed: int | None = 0,
    parametrization: str = "lobato",
) -> FloatArray:
    """Noise-free image (H, W): share of the beam that reaches the detector; arguments as of `fast.image`.

    In focus is the mean height of the atoms that are seen.

    Parameters
    ----------
    specimen : Specimen
    probe : Probe
    detector_mrad : (inner, outer), outside the bright-field disc
    view : View
    seed : int or None
        Of the thermal displacements, see `thermal_displacements`.
    parametrization : "lobato" or "kirkland"
        Of the atoms' potentials.
    """
    window = window_of(probe)

    def gridded(optics: Optics, at_least_A: float) -> Grid:
        return grid_for(optics, at_least_A, window_A=window)

    return imaged(specimen, probe, detector_mrad, view, gridded, _scan, seed, parametrization)


def window_of(probe: Probe) -> float:
    """Side (A) of the square in which the electrons of this probe travel."""
    return WINDOW_A + 2 * float(probe.rays_A)


def imaged(
    specimen: Specimen, probe: Probe, detector_mrad: Detector, view: View,
    gridded: Callable[[Optics, float], Grid], scan: Scan, seed: int | None, parametrization: str,
) -> FloatArray:
    """What `image` returns, by any way of sending the beam through the slices on a grid of so many Angstrom."""
    check_detector(detector_mrad, probe)
    window = window_of(probe)
    atoms = specimen.around(view, FADE_A + window / 2)
    layer, heights = slices(atoms.xyz_A[:, 2])
    total = np.zeros(view.shape)
    for spread, weight in DEFOCI if float(probe.focal_spread_A) > 0 else ((0.0, 1.0),):
        optics = _optics(probe, detector_mrad, heights[0] - atoms.xyz_A[:, 2].mean(), spread)
        grid = gridded(optics, max(view.size_A) + FADE_A + window)
        axis = np.arange(grid.n) * grid.step_A - grid.box_A / 2
        across, up = (_fade(np.abs(axis), side / 2) for side in view.size_A)
        fraction = adf_image(
            atoms.numbers, atoms.xyz_A[:, :2] + grid.box_A / 2, layer, -np.diff(heights), optics, grid, seed,
            np.outer(across, up) > 0, thermal_A=atoms.thermal_A, parametrization=parametrization, scan=scan,
        )
        mean = fraction[np.outer(across, up) == 1].mean()
        faded = mean + (fraction - mean) * np.outer(across, up)
        shape = view.shape[1], view.shape[0]
        total += weight * resample(faded, grid, view.pixel_A, shape, float(probe.source_fwhm_A)).T[::-1]
    return total


def slices(z_A: FloatArray) -> tuple[IntArray, FloatArray]:
    """Slice of each atom, 0 at the top, and the mean height of each slice (descending)."""
    order = np.argsort(-z_A, kind="stable")
    slice_of, top, k = np.zeros(len(z_A), dtype=np.int64), math.inf, -1
    for atom in order.tolist():
        if z_A[atom] < top - SLICE_A:
            top, k = float(z_A[atom]), k + 1
        slice_of[atom] = max(k, 0)
    return slice_of, np.bincount(slice_of, z_A) / np.bincount(slice_of)


def _optics(probe: Probe, detector_mrad: Detector, depth_A: float, spread: float) -> Optics:
    """What abTEM calls a probe, focused at this depth under the first slice; its angles go from axis 0 to axis 1."""
    defocus = float(probe.defocus_A) + depth_A + spread * float(probe.focal_spread_A)
    aberrations = {
        "C10": -defocus, "C12": float(probe.astigmatism_A), "phi12": math.radians(float(probe.astigmatism_deg)),
        "C21": float(probe.coma_A), "phi21": math.radians(float(probe.coma_deg)), "C23": float(probe.threefold_A),
        "phi23": math.radians(float(probe.threefold_deg)), "C30": float(probe.c3_A),
    }  # fmt: skip
    return Optics(1e3 * probe.voltage_kV, probe.convergence_mrad, *detector_mrad, aberrations)


def _fade(distance: FloatArray, half: float) -> FloatArray:
    """1 up to half the side, 0 from the end of the rim (not what a cosine leaves there), a smooth step between."""
    out = (distance - half) / FADE_A
    return np.where(out < 1, np.cos(np.pi / 2 * out.clip(0, 1)) ** 2, 0.0)


def thermal_displacements(turns: IntArray, rms_A: float | FloatArray, seed: int | None) -> FloatArray:
    """(configurations, atoms, 2) displacements in the plane.

    Atoms with different `turns` (1, 2, ...) move independently of each other, others as their random phases are.
    Without a seed all of the same turns move together, and equal columns are equal to the last digit.
    """
    count = max(CONFIGURATIONS, 2 * int(turns.max()) + 1)
    phase = np.zeros(len(turns)) if seed is None else np.random.default_rng(seed).uniform(0, 2 * np.pi, len(turns))
    angle = phase + 2 * np.pi * turns * np.arange(count)[:, None] / count
    radius = np.sqrt(2) * np.broadcast_to(np.asarray(rms_A, dtype=np.float64), len(turns))
    return np.asarray(radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1))


def turns_of(yx_A: FloatArray, layer: IntArray) -> IntArray:
    """1 for the uppermost atom of each column, 2 for the next ..."""
    column = project(np.ones(len(layer)), np.column_stack([yx_A, layer]), np.eye(2), np.zeros(2)).column_of_atom
    order = np.lexsort((layer, column))
    first = np.r_[0, np.flatnonzero(np.diff(column[order])) + 1]
    turns = np.empty(len(layer), dtype=np.int64)
    turns[order] = np.arange(len(layer)) - np.repeat(first, np.diff(np.r_[first, len(layer)])) + 1
    return turns


def adf_image(
    numbers: IntArray,
    yx_A: FloatArray,
    layer: IntArray,
    gaps_A: float | Sequence[float] | FloatArray,
    optics: Optics,
    grid: Grid,
    seed: int | None = 0,
    wanted: NDArray[np.bool_] | None = None,
    *,
    thermal_A: FloatArray | None = None,
    parametrization: str = "lobato",
    scan: Scan | None = None,
) -> FloatArray:
    """Scattered fraction of the beam at each scan position.

    Parameters
    ----------
    numbers : (N,) int array of atomic numbers
    yx_A : (N, 2) array
        Positions in the box along axis 0 and axis 1.
    layer : (N,) int array
        0, 1, 2 ... from the top: the beam meets 0 first.
    gaps_A : float or (layers - 1,)
        Distance between layers: equal ones, or each.
    optics : Optics
    grid : Grid
    seed : int or None
        Of the thermal displacements, see `thermal_displacements`.
    wanted : (n, n) bool array, optional
        Where to send the beam, instead of what is within the grid's reach; of each row, all from first to last.
    thermal_A : (N,) array, optional
        rms displacement of each atom, instead of that of `optics`.
    parametrization : "lobato" or "kirkland"
    scan : Scan, optional
        Sends the beam through slices; else a window of them is taken for each position.

    Returns
    -------
    (n, n) array
        0 where the beam was not sent.
    """
    gaps = np.broadcast_to(np.asarray(gaps_A, dtype=np.float64), int(layer.max())).tolist()
    rms = optics.thermal_A if thermal_A is None else thermal_A
    shifts = thermal_displacements(turns_of(yx_A, layer), rms, seed)[: None if np.any(rms) else 1]
    total, integrator = np.zeros((grid.n, grid.n)), ScatteringFactorProjectionIntegrals(parametrization)
    for shift in shifts:
        slices = _transmission(numbers, yx_A + shift, layer, optics, grid, integrator)
        total += (scan or _scan)(slices, gaps, optics, grid, wanted)
    return total / len(shifts)


def _transmission(
    numbers: IntArray, yx_A: FloatArray, layer: IntArray, optics: Optics, grid: Grid,
    integrator: ScatteringFactorProjectionIntegrals | None = None,
) -> list[NDArray[np.complex64]]:
    """One band-limited transmission function per layer, on the wave grid; the integrator keeps atoms."""
    from ase import Atoms as Drawn

    depth, thickness = int(layer.max()) + 1, 2.0  # of any thickness: each atom is projected whole
    height = (layer + 0.5) * thickness
    cell = [grid.box_A, grid.box_A, depth * thickness]
    atoms = Drawn(numbers, np.column_stack([yx_A % grid.box_A, height]), cell=cell, pbc=True)
    # one thickness per slice: given a single number abTEM divides, rounds up and may make one slice too many
    gpts, each = grid.n * grid.factor * grid.fine, (thickness,) * depth
    potential = abtem.Potential(atoms, gpts=gpts, slice_thickness=each, projection="infinite", integrator=integrator)
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
    slices: list[NDArray[np.complex64]], gaps_A: Sequence[float], optics: Optics, grid: Grid,
    wanted: NDArray[np.bool_] | None = None,
) -> FloatArray:
    window, extent = grid.window, grid.window * grid.sampling_A
    probe_waves = abtem.Probe(
        energy=optics.energy_eV, semiangle_cutoff=optics.semiangle_mrad, extent=extent, gpts=window,
        aberrations=optics.aberrations,
    ).build(abtem.CustomScan([[extent / 2, extent / 2]]), lazy=False)  # fmt: skip
    propagators = [np.asarray(FresnelPropagator().get_array(probe_waves, g), dtype=np.complex64) for g in gaps_A]
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
        begin, end = _reached(i, grid) if wanted is None else ends(wanted[i])
        for start in range(begin, end, BATCH):
            stop = min(start + BATCH, end)
            used = waves[: stop - start]
            waves[stop - start :] = 0  # transformed with the others: what a fuller batch left would grow
            np.multiply(views[0][i, start:stop], probe, out=used)
            for view, propagator in zip(views[1:], propagators, strict=True):
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


def ends(row: NDArray[np.bool_]) -> tuple[int, int]:
    """First and last + 1 of what is true."""
    true = np.flatnonzero(row)
    return (int(true[0]), int(true[-1]) + 1) if len(true) else (0, 0)


def resample(
    image: FloatArray, grid: Grid, pixel_A: float, shape: tuple[int, int], source_fwhm_A: float,
    centre_yx_A: tuple[float, float] = (0.0, 0.0),
) -> FloatArray:
    """Fourier series of the periodic scan, blurred by the source, at `shape` pixels.

    Their middle lies at `centre_yx_A` from the middle of the box.
    """
    frequency = np.fft.fftfreq(grid.n, grid.step_A)
    sigma = source_fwhm_A / np.sqrt(8 * np.log(2))
    blur = np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    at = [(np.arange(n) - (n - 1) / 2) * pixel_A + off for n, off in zip(shape, centre_yx_A, strict=True)]
    down, across = (np.exp(2j * np.pi * np.outer(grid.box_A / 2 + a, frequency)) * blur / grid.n for a in at)
    return np.asarray((down @ np.fft.fft2(image) @ across.T).real)
