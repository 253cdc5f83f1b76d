"""Annular dark-field images of layers by abTEM's PRISM: plane waves go through the whole field once, probes are sums.

The scattering matrix (Ophus, Adv. Struct. Chem. Imaging 3, 13 (2017)) holds what becomes of every f-th plane wave of
the aperture in each direction, f being the interpolation. A probe is a sum of them, cut out round its place. That is
multislice where the window that is cut out, the box over f, holds the probe; slices, grids, thermal motion and what is
done with the scan are those of `stemfit.simulate.multislice`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from stemfit.errors import NotAnalysable, UsageError
from stemfit.optics.probe import Probe
from stemfit.optics.transfer import Detector
from stemfit.simulate import multislice  # before abTEM: it keeps it quiet, and says how to install it
from stemfit.simulate.multislice import Grid, Optics
from stemfit.simulate.specimen import Specimen, View

import abtem  # isort: skip
from abtem.core.energy import energy2sigma  # isort: skip

FloatArray = NDArray[np.float64]

TILE = 8
"""Positions along the side of a tile that is reduced at once: it needs a part of the matrix little wider than a window,
which is copied once for all of them."""

LARGEST_GB = 8.0
"""Of the scattering matrix. It grows with the area of the field, and with the fourth power of a defocused probe's."""

LAST_A = 1e-3
"""Way behind the last slice, which abTEM wants to be some: no angle is shifted by a hundredth of a pixel over it."""


def image(
    specimen: Specimen, probe: Probe, detector_mrad: Detector, view: View, *, interpolation: int | None = None,
    seed: int | None = 0, parametrization: str = "lobato",
) -> FloatArray:
    """Noise-free image (H, W): share of the beam that reaches the detector; arguments as of `multislice.image`.

    Parameters
    ----------
    specimen : Specimen
    probe : Probe
    detector_mrad : (inner, outer)
        Outside the bright-field disc.
    view : View
    interpolation : int, optional
        Every how many-th plane wave of the box is taken along each axis; by default so many are left out that the
        probe keeps the window that it has in multislice. Above that it is cut off.
    seed : int or None
        Of the thermal displacements.
    parametrization : "lobato" or "kirkland"
        Of the atoms' potentials.

    Raises
    ------
    UsageError
        For an interpolation below 1.
    NotAnalysable
        If the scattering matrix would be larger than 8 GB.
    """
    if interpolation is not None and interpolation < 1:
        raise UsageError(f"an interpolation of {interpolation} is none", remedy="give 1 (all plane waves) or more")

    def gridded(optics: Optics, at_least_A: float) -> Grid:
        return grid_for(optics, at_least_A, multislice.window_of(probe), interpolation)

    return multislice.imaged(specimen, probe, detector_mrad, view, gridded, scan, seed, parametrization)


def grid_for(optics: Optics, at_least_A: float, window_A: float, interpolation: int | None = None) -> Grid:
    """Grid whose box is a whole number of windows: of this size, or as many as the interpolation says."""
    grid = multislice.grid_for(optics, at_least_A)
    times = interpolation or math.ceil(at_least_A / window_A)
    side = at_least_A / times if interpolation else window_A
    n = times * scipy.fft.next_fast_len(math.ceil(side / grid.step_A))
    return replace(grid, n=n, window=n * grid.factor // times)


def scan(
    slices: list[NDArray[np.complex64]], gaps_A: Sequence[float], optics: Optics, grid: Grid,
    wanted: NDArray[np.bool_] | None = None,
) -> FloatArray:
    """Scattered fraction (n, n) of the beam, 0 where it is not sent: a `multislice.Scan`.

    The interpolation is the box over the window of the grid.
    """
    matrix = abtem.SMatrix(
        potential=_potential(slices, gaps_A, optics, grid), energy=optics.energy_eV,
        semiangle_cutoff=optics.semiangle_mrad, interpolation=grid.n * grid.factor // grid.window,
    )  # fmt: skip
    _check_size(matrix)
    ctf = abtem.CTF(
        energy=optics.energy_eV, semiangle_cutoff=optics.semiangle_mrad, aberration_coefficients=optics.aberrations
    )
    at = tiled(np.ones((grid.n, grid.n), dtype=bool) if wanted is None else wanted)
    found: Any = matrix.build(lazy=False).reduce(
        scan=abtem.CustomScan(at * grid.step_A), ctf=ctf, max_batch_reduction=TILE**2,
        detectors=abtem.AnnularDetector(optics.inner_mrad, optics.outer_mrad),
    )  # fmt: skip
    fraction = np.zeros((grid.n, grid.n))
    fraction[tuple(at.T)] = found.array
    return fraction


def _potential(
    slices: list[NDArray[np.complex64]], gaps_A: Sequence[float], optics: Optics, grid: Grid
) -> abtem.PotentialArray:
    """What abTEM turns into these transmission functions: their logarithm, complex as they are band-limited."""
    sigma = energy2sigma(optics.energy_eV)
    array = np.stack([-1j * np.log(t) / sigma for t in slices]).astype(np.complex64)
    return abtem.PotentialArray(array, slice_thickness=(*map(float, gaps_A), LAST_A), extent=grid.box_A)


def tiled(wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(P, 2) true places, those of a tile after each other."""
    at = np.argwhere(wanted)
    tile = at // TILE
    return np.asarray(at[np.lexsort((at[:, 1], at[:, 0], tile[:, 1], tile[:, 0]))], dtype=np.int64)


def _check_size(matrix: abtem.SMatrix) -> None:
    rows, columns = matrix.downsampled_gpts
    size = 8e-9 * len(matrix) * rows * columns
    if size > LARGEST_GB:
        what = f"the scattering matrix of {len(matrix)} waves would take {size:.2g} GB, the limit is {LARGEST_GB:g}"
        raise NotAnalysable(what, remedy="give a smaller field, or take the simulator multislice")
