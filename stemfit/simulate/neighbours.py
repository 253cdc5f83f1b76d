"""What neighbouring columns of a layer show together beyond the sum of each: a term of the fast image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from stemfit.hosts import column_type
from stemfit.optics.overlap import bond_image, column_image, positions
from stemfit.optics.probe import Probe, transfer
from stemfit.optics.scattering import kernel
from stemfit.optics.transfer import Detector
from stemfit.optics.waves import FARTHEST_A, Column
from stemfit.simulate.specimen import Atoms
from stemfit.simulate.spectrum import Frequencies

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ComplexArray = NDArray[np.complex128]

NEAREST_A = 0.8
"""Columns nearer than this are one that has been torn: see `stemfit.simulate.fast.TORN_A`."""

MATTERS_BELOW = 2.0
"""Inner angle of the detector over the convergence beyond which the term is left out. What two neighbours share on the
detector oscillates with k.D, and the aperture's directions average it out. Without the term ratios in boron nitride are
off by 6 % (mean) at 1.3 to 1.6 apertures, and by less than 0.5 % at 2.3 and 3.1, where pairs and the columns' own wings
make up for each other (``benchmarks/column_brightness.py``)."""

BOND_STEP_A = 0.06
"""Bonds that differ by less are given their mean: at the inner edge of such detectors half of it is 0.2 rad."""

HEIGHT_STEP_A = 0.25
"""To which heights are rounded: 0.1 rad of free flight between 0 and 100 mrad at 60 kV for half of it."""


def matters(probe: Probe, detector_mrad: Detector) -> bool:
    """Whether the detector begins so near to the aperture that neighbours show."""
    return detector_mrad[0] < MATTERS_BELOW * probe.convergence_mrad


class Bonds(NamedTuple):
    """Pairs of neighbours of one kind and, nearly, one vector.

    Attributes
    ----------
    one, other : Column
    apart_A : (2,) array
        Mean position of `one` less that of `other`, y up.
    pairs : (P,) int array
        Which.
    """

    one: Column
    other: Column
    apart_A: FloatArray
    pairs: IntArray


class Plane:
    """Fourier transforms of images of one column or bond at the frequencies of an image, source included."""

    def __init__(self, probe: Probe, detector_mrad: Detector, kx: FloatArray, ky: FloatArray) -> None:
        axis = positions(probe, detector_mrad)
        self.kx, self.ky, self.square = kx, ky, ky[:, None] ** 2 + kx**2
        self._columns, self._rows = (np.exp(-2j * np.pi * np.outer(axis, k)) for k in (kx, ky))
        sigma = float(probe.source_fwhm_A) / math.sqrt(8 * math.log(2))
        passed = np.exp(-2 * (np.pi * sigma) ** 2 * self.square) * (self.square < probe.cutoff_per_A**2)
        self._passed = (axis[1] - axis[0]) ** 2 * passed

    def transform(self, image: FloatArray) -> ComplexArray:
        """(n, n) to (Ky, Kx)."""
        return np.asarray((self._rows.T @ (image @ self._columns)) * self._passed)


def between_columns(
    columns: Sequence[Column], xy_A: FloatArray, probe: Probe, detector_mrad: Detector, at: Frequencies
) -> Tensor:
    """Fourier coefficients (Ky, Kx) of all pairs of neighbours, to be added to those of the columns.

    Parameters
    ----------
    columns : sequence of Column
        See `columns_of`.
    xy_A : (C, 2) array
        Middle of each column, y up.
    probe : Probe
    detector_mrad : (inner, outer)
    at : Frequencies
    """
    plane = Plane(probe, detector_mrad, at.kx.numpy(), at.ky.numpy())
    middle, groups = bonds(columns, xy_A)
    across, up = (np.exp(-2j * np.pi * np.outer(x, k)) for x, k in zip(middle.T, (plane.kx, plane.ky), strict=True))
    total = np.zeros(plane.square.shape, np.complex128)
    for group in groups:
        seen = bond_image(group.one, group.other, group.apart_A, probe, detector_mrad)
        total += plane.transform(seen) * (up[group.pairs].T @ across[group.pairs])
    return torch.from_numpy(total)


def transfers(
    columns: Sequence[Column], probe: Probe, detector_mrad: Detector, at: Frequencies
) -> dict[Column, Tensor]:
    """What takes the place of the probe's transfer, (Ky, Kx), for each kind of column.

    The table knows how the image of a column differs from that of the probe by a width, in focus. In truth waves that
    reach the detector from one side of the aperture count more than those from the other: the image has wings, and
    aberrations change it in another way than that of the probe. That is the image of the column as one thin object;
    its brightness in focus is left to the table, which knows what the atoms of a column do to each other.
    """
    plane = Plane(probe, detector_mrad, at.kx.numpy(), at.ky.numpy())
    found = {}
    for column in set(columns):
        amplitude, width = _gaussian(column, probe, detector_mrad)
        bright = _brightness(column, (probe.voltage_kV, probe.convergence_mrad), detector_mrad)
        shape = plane.transform(column_image(column, probe, detector_mrad))
        found[column] = torch.from_numpy(shape * np.exp(2 * (np.pi * width) ** 2 * plane.square) * bright / amplitude)
    return found


def _gaussian(column: Column, probe: Probe, detector_mrad: Detector) -> tuple[float, float]:
    """Amplitude (A^2) and width (A) of the table, thermal motion included."""
    name = column_type([atom[0] for atom in column.atoms])
    amplitude, width = kernel(name, probe.voltage_kV, probe.convergence_mrad, detector_mrad)
    return amplitude, math.sqrt(width**2 + float(np.mean([atom[2] for atom in column.atoms])))


@lru_cache(maxsize=256)
def _brightness(column: Column, beam: tuple[float, float], detector_mrad: Detector) -> float:
    """By how much the thin object is to be multiplied to look like the table's Gaussian where all is in focus."""
    probe = Probe(*beam)
    k = np.linspace(0.0, 0.98, 30) * probe.cutoff_per_A
    amplitude, width = _gaussian(column, probe, detector_mrad)
    aperture = transfer(probe, torch.from_numpy(k), torch.zeros(len(k), dtype=torch.float64)).real.numpy()
    known = amplitude * aperture * np.exp(-2 * (np.pi * width * k) ** 2)
    thin = Plane(probe, detector_mrad, k, np.zeros(1)).transform(column_image(column, probe, detector_mrad))[0].real
    return float((k * known) @ thin / ((k * thin) @ thin))


def bonds(columns: Sequence[Column], xy_A: FloatArray) -> tuple[FloatArray, list[Bonds]]:
    """Middle (P, 2) of every pair of neighbours, and the pairs in groups that look alike."""
    kinds = sorted(set(columns))
    number = {kind: k for k, kind in enumerate(kinds)}
    kind = np.array([number[column] for column in columns])
    first, second = cKDTree(xy_A).query_pairs(FARTHEST_A, output_type="ndarray").T
    apart = xy_A[first] - xy_A[second]
    # A pair may be taken from either end: the lighter kind first, of equal ones the upper.
    down = np.where(np.abs(apart[:, 1]) > 1e-6, apart[:, 1], apart[:, 0]) < 0
    swapped = np.where(kind[first] == kind[second], down, kind[first] > kind[second])
    first, second = np.where(swapped, second, first), np.where(swapped, first, second)
    apart = np.where(swapped[:, None], -apart, apart)
    label = np.column_stack([kind[first], kind[second], np.rint(apart / BOND_STEP_A).astype(np.int64)])
    whole = np.flatnonzero(np.hypot(*apart.T) > NEAREST_A)
    found, group = np.unique(label[whole], axis=0, return_inverse=True)
    order = whole[np.argsort(group.ravel(), kind="stable")]
    members = np.split(order, np.cumsum(np.bincount(group.ravel(), minlength=1))[:-1])
    return (xy_A[first] + xy_A[second]) / 2, [
        Bonds(kinds[a], kinds[b], apart[mine].mean(0), mine)
        for (a, b), mine in zip(found[:, :2].tolist(), members, strict=False)  # without a pair there is one empty part
    ]


def columns_of(atoms: Atoms, column_of_atom: IntArray, count: int) -> list[Column]:
    """What every column is made of, heights from the mean of all atoms, in which the probe is focused."""
    from ase.data import chemical_symbols

    height = np.rint((atoms.xyz_A[:, 2] - atoms.xyz_A[:, 2].mean()) / HEIGHT_STEP_A) * HEIGHT_STEP_A
    found: list[list[tuple[str, float, float]]] = [[] for _ in range(count)]
    for column, number, z, u in zip(column_of_atom, atoms.numbers, height, atoms.thermal_A, strict=True):
        found[column].append((chemical_symbols[number], float(z), float(u**2)))
    return [Column(tuple(sorted(each))) for each in found]
