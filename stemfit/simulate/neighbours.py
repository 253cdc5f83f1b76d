"""What neighbouring columns of a layer show together beyond the sum of each: a term of the fast image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from stemfit.optics.overlap import FARTHEST_A, Column, bond_transfer
from stemfit.optics.probe import Probe
from stemfit.optics.transfer import Detector
from stemfit.simulate.spectrum import Frequencies, spectrum
from stemfit.simulate.specimen import Atoms

FloatArray = NDArray[np.float64]

NEAREST_A = 0.8
"""Columns nearer than this are one that has been torn: see `stemfit.simulate.fast.TORN_A`."""

MATTERS_BELOW = 2.0
"""Inner angle of the detector over the convergence beyond which the term is left out. What two neighbours share on the
detector oscillates with k.D, and the aperture's directions average it out: columns of boron nitride change by 6 % at
1.5 apertures, and by less than 0.5 % at 2.3 and 3.1 (``benchmarks/column_brightness.py``)."""

BOND_STEP_A = 0.06
"""Bonds that differ by less are given their mean: at the inner edge of such detectors half of it is 0.2 rad."""

LENGTH_STEP_A = 0.02
"""To which lengths are rounded."""

HEIGHT_STEP_A = 0.25
"""To which heights are rounded: 0.1 rad of free flight between 0 and 100 mrad at 60 kV for half of it."""


def matters(probe: Probe, detector_mrad: Detector) -> bool:
    """Whether the detector begins so near to the aperture that neighbours show."""
    return detector_mrad[0] < MATTERS_BELOW * probe.convergence_mrad


def between_columns(
    atoms: Atoms, column_of_atom: NDArray[np.int64], xy_A: FloatArray, probe: Probe, detector_mrad: Detector,
    at: Frequencies,
) -> Tensor:
    """Fourier coefficients (Ky, Kx) of all pairs of neighbours, to be added to those of the columns.

    Parameters
    ----------
    atoms : Atoms
    column_of_atom : (N,) int array
    xy_A : (C, 2) array
        Middle of each column, y up.
    probe : Probe
    detector_mrad : (inner, outer)
    at : Frequencies
    """
    columns = _columns(atoms, column_of_atom, len(xy_A))
    kinds = sorted(set(columns))
    kind = np.array([kinds.index(column) for column in columns])
    pairs = cKDTree(xy_A).query_pairs(FARTHEST_A, output_type="ndarray")
    one, other = pairs[kind[pairs[:, 0]] <= kind[pairs[:, 1]]].T, pairs[kind[pairs[:, 0]] > kind[pairs[:, 1]]].T[::-1]
    first, second = np.concatenate([one, other], 1)
    apart = xy_A[first] - xy_A[second]
    back = (kind[first] == kind[second]) & ((apart[:, 1] < -1e-6) | ((np.abs(apart[:, 1]) <= 1e-6) & (apart[:, 0] < 0)))
    apart[back] *= -1
    middle = (xy_A[first] + xy_A[second]) / 2
    label = np.column_stack([kind[first], kind[second], np.rint(apart / BOND_STEP_A).astype(np.int64)])
    whole = np.hypot(*apart.T) > NEAREST_A
    groups, of_pair = np.unique(label[whole], axis=0, return_inverse=True)
    total = torch.zeros((len(at.ky), len(at.kx)), dtype=at.kx.dtype.to_complex())
    for number, group in enumerate(groups):
        mine = of_pair.ravel() == number
        mean = apart[whole][mine].mean(0)
        length = float(np.rint(np.hypot(*mean) / LENGTH_STEP_A) * LENGTH_STEP_A)
        through = bond_transfer(
            kinds[group[0]], kinds[group[1]], mean, length, probe, detector_mrad, at.kx.numpy(), at.ky.numpy()
        )
        centres = torch.from_numpy(middle[whole][mine])
        flat = torch.ones(len(centres), dtype=at.kx.dtype)
        total += torch.from_numpy(through) * spectrum(centres, flat, torch.zeros_like(flat), at)
    return total


def _columns(atoms: Atoms, column_of_atom: NDArray[np.int64], count: int) -> list[Column]:
    """What every column is made of, heights from the mean of all atoms, in which the probe is focused."""
    from ase.data import chemical_symbols

    height = np.rint((atoms.xyz_A[:, 2] - atoms.xyz_A[:, 2].mean()) / HEIGHT_STEP_A) * HEIGHT_STEP_A
    found: list[list[tuple[str, float, float]]] = [[] for _ in range(count)]
    for column, number, z, u in zip(column_of_atom, atoms.numbers, height, atoms.thermal_A, strict=True):
        found[column].append((chemical_symbols[number], float(z), float(u**2)))
    return [Column(tuple(sorted(each))) for each in found]
