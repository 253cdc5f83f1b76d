"""What neighbouring columns of a layer show together beyond the sum of each: a term of the fast image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from stemfit.optics.overlap import FARTHEST_A, Column, bond_image, positions
from stemfit.optics.probe import Probe
from stemfit.optics.transfer import Detector
from stemfit.simulate.spectrum import Frequencies
from stemfit.simulate.specimen import Atoms

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

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


def between_columns(
    atoms: Atoms, column_of_atom: IntArray, xy_A: FloatArray, probe: Probe, detector_mrad: Detector, at: Frequencies
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
    kx, ky, axis = at.kx.numpy(), at.ky.numpy(), positions(probe, detector_mrad)
    middle, groups = bonds(_columns(atoms, column_of_atom, len(xy_A)), xy_A)
    across, up = (np.exp(-2j * np.pi * np.outer(place, k)) for place, k in zip(middle.T, (kx, ky), strict=True))
    columns, rows = (np.exp(-2j * np.pi * np.outer(axis, k)) for k in (kx, ky))
    total = np.zeros((len(ky), len(kx)), np.complex128)
    for group in groups:
        length = float(np.rint(np.hypot(*group.apart_A) / LENGTH_STEP_A) * LENGTH_STEP_A)
        seen = bond_image(group.one, group.other, group.apart_A, length, probe, detector_mrad)
        total += (rows.T @ (seen @ columns)) * (up[group.pairs].T @ across[group.pairs])
    sigma = float(probe.source_fwhm_A) / math.sqrt(8 * math.log(2))
    square = ky[:, None] ** 2 + kx**2
    passed = np.exp(-2 * (np.pi * sigma) ** 2 * square) * (square < probe.cutoff_per_A**2)
    return torch.from_numpy((axis[1] - axis[0]) ** 2 * total * passed)


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
        Bonds(kinds[a], kinds[b], apart[mine].mean(0), mine) for (a, b), mine in zip(found[:, :2].tolist(), members, strict=False)
    ]


def _columns(atoms: Atoms, column_of_atom: IntArray, count: int) -> list[Column]:
    """What every column is made of, heights from the mean of all atoms, in which the probe is focused."""
    from ase.data import chemical_symbols

    height = np.rint((atoms.xyz_A[:, 2] - atoms.xyz_A[:, 2].mean()) / HEIGHT_STEP_A) * HEIGHT_STEP_A
    found: list[list[tuple[str, float, float]]] = [[] for _ in range(count)]
    for column, number, z, u in zip(column_of_atom, atoms.numbers, height, atoms.thermal_A, strict=True):
        found[column].append((chemical_symbols[number], float(z), float(u**2)))
    return [Column(tuple(sorted(each))) for each in found]
