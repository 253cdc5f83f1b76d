"""The image of a layer as a sum over its columns: cross-section and width of each, seen through the probe.

What scatters incoherently adds up, and for one layer this follows multislice (`stemfit.simulate.multislice`, which
takes the same arguments) as far as each column *type* has its own cross-section. Where the detector begins near the
aperture the waves of neighbours meet on it, and the image of a column is not that of the probe made wider: a term for
each pair, and a transfer for each type (`stemfit.simulate.neighbours`). Elsewhere heights play no part: the focus is
that of all columns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemfit.errors import UsageError
from stemfit.hosts import column_type
from stemfit.optics.pairs import loosened, stretched
from stemfit.optics.probe import Probe, transfer
from stemfit.optics.scattering import column_elements, kernel
from stemfit.optics.transfer import Detector, in_mrad, tabulated
from stemfit.simulate.image import project
from stemfit.simulate.neighbours import between_columns, columns_of, matters, transfers
from stemfit.simulate.specimen import Atoms, Specimen, View
from stemfit.simulate.spectrum import draw, frequencies, spectrum

FloatArray = NDArray[np.float64]


TORN_A = 0.8
"""Atoms of two columns closer than this in projection were one column: bonds are longer (1.4 A in graphene), and beside
lines of vacancies the atoms of a pair part by 0.6 A."""

SCALE, OFF, OFF_TORN, OFF_UNLIKE = 0.05, 0.06, 0.15, 0.09
"""How much brighter multislice was in all, how far columns and those of a torn pair were off beside that (5.6 and
14.3 %; `benchmarks/simulate.py`), and what it matters which of two unlike atoms is on top."""


class Scatterers(NamedTuple):
    """Columns in and round a view.

    Attributes
    ----------
    xy_A : (C, 2) array
        From the middle of the view, y up.
    types : tuple of str
        "Mo", "S2" ...
    amplitude_A2 : (C,) array
        Cross-section for scattering into the detector.
    width_A : (C,) array
        Standard deviation of where a column scatters, thermal motion included.
    """

    xy_A: FloatArray
    types: tuple[str, ...]
    amplitude_A2: FloatArray
    width_A: FloatArray


def image(
    specimen: Specimen, probe: Probe, detector_mrad: Detector, view: View, *, neighbours: bool | None = None
) -> FloatArray:
    """Noise-free image (H, W): share of the beam that reaches the detector.

    Parameters
    ----------
    specimen : Specimen
    probe : Probe
    detector_mrad : (inner, outer)
        Outside the bright-field disc.
    view : View
    neighbours : bool, optional
        With what neighbouring columns show beyond their sum, and wings of their own; else where it matters, see
        `stemfit.simulate.neighbours.MATTERS_BELOW`.

    Raises
    ------
    UsageError
        For a detector or a voltage outside the table of cross-sections.
    NotAnalysable
        If no atom is in the view.
    """
    check_detector(detector_mrad, probe)
    atoms = specimen.around(view, probe.reach_A)
    seen, column_of_atom = _columns(atoms, probe, detector_mrad)
    at = frequencies(view, probe.cutoff_per_A, probe.reach_A)
    xy, bright, width = (torch.from_numpy(a) for a in (seen.xy_A, seen.amplitude_A2, seen.width_A))
    with torch.no_grad():
        if not (matters(probe, detector_mrad) if neighbours is None else neighbours):
            return draw(transfer(probe, *at.plane) * spectrum(xy, bright, width, at), at, view).numpy()
        columns = columns_of(atoms, column_of_atom, len(xy))
        whole = between_columns(columns, seen.xy_A, probe, detector_mrad, at)
        for kind, through in transfers(columns, probe, detector_mrad, at).items():
            mine = torch.tensor([column == kind for column in columns])
            whole = whole + through * spectrum(xy[mine], bright[mine], width[mine], at)
        return draw(whole, at, view).numpy()


def scatterers(specimen: Specimen, probe: Probe, detector_mrad: Detector, view: View) -> Scatterers:
    """Columns that are seen in a view, each with what it scatters; errors as `image`."""
    check_detector(detector_mrad, probe)
    return _columns(specimen.around(view, probe.reach_A), probe, detector_mrad)[0]


def _columns(atoms: Atoms, probe: Probe, detector_mrad: Detector) -> tuple[Scatterers, NDArray[np.int64]]:
    """What each column scatters, and the column of each atom."""
    seen = project(atoms.numbers, atoms.xyz_A, np.eye(2), np.zeros(2))
    count = np.bincount(seen.column_of_atom)
    thermal = np.bincount(seen.column_of_atom, atoms.thermal_A**2) / count
    off = ((atoms.xyz_A[:, :2] - seen.xy_px[seen.column_of_atom]) ** 2).sum(1)
    square = np.bincount(seen.column_of_atom, off) / count  # of the atoms about the middle of their column
    optics = probe.voltage_kV, probe.convergence_mrad, detector_mrad
    bright, width = np.array([kernel(t, *optics) for t in seen.types]).T
    for name in set(seen.types):
        own = np.array(seen.types) == name
        bright[own] *= loosened(name, *optics, 2 * np.sqrt(square[own]), np.sqrt(thermal[own]))
    bright *= _stretched(atoms, seen.column_of_atom, seen.types, optics)
    _torn(seen.xy_px, seen.types, bright, thermal, optics)
    found = Scatterers(seen.xy_px, seen.types, bright, np.sqrt(width**2 + thermal + square / 2))
    return found, seen.column_of_atom


def _stretched(
    atoms: Atoms, column_of_atom: NDArray[np.int64], types: tuple[str, ...], optics: tuple[float, float, Detector]
) -> FloatArray:
    """What pairs show (C,) that are not as far apart along the beam as in the table."""
    top, bottom = np.full(len(types), -np.inf), np.full(len(types), np.inf)
    np.maximum.at(top, column_of_atom, atoms.xyz_A[:, 2])
    np.minimum.at(bottom, column_of_atom, atoms.xyz_A[:, 2])
    return np.array([stretched(t, *optics, d) for t, d in zip(types, (top - bottom).tolist(), strict=True)])


def _torn(
    xy_A: FloatArray, types: tuple[str, ...], bright: FloatArray, thermal_A2: FloatArray,
    optics: tuple[float, float, Detector],
) -> None:
    """Give pairs that are torn into two columns what is left of their coherence; changes `bright` in place."""
    names = np.array(types)
    for one, other in cKDTree(xy_A).query_pairs(TORN_A):
        pair = column_type([*column_elements(types[one]), *column_elements(types[other])])
        if len(column_elements(pair)) != 2 or not tabulated(column_elements(pair)):
            continue
        apart = np.hypot(*(xy_A[one] - xy_A[other]))
        whole = kernel(pair, *optics).amplitude_A2
        whole *= loosened(pair, *optics, [apart], [math.sqrt((thermal_A2[one] + thermal_A2[other]) / 2)])[0]
        bright[[one, other]] *= whole / sum(kernel(str(t), *optics).amplitude_A2 for t in names[[one, other]])


def doubt(specimen: Specimen, probe: Probe, detector_mrad: Detector, view: View) -> str:
    """How far columns of the fast image may be from multislice, as measured (`benchmarks/simulate.py`)."""
    seen = scatterers(specimen, probe, detector_mrad, view)
    inside = np.all(np.abs(seen.xy_A) <= np.array(view.shape)[::-1] * view.pixel_A / 2, axis=1)
    torn = len(cKDTree(seen.xy_A[inside]).query_pairs(TORN_A))
    unlike = any(len(set(column_elements(seen.types[k]))) > 1 for k in np.flatnonzero(inside))
    said = [f"columns to {100 * OFF:.0f} % of multislice, beside up to {100 * SCALE:.0f} % in all of them"]
    said += [f"unlike pairs to {100 * OFF_UNLIKE:.0f} %"] if unlike else []
    said += [f"pairs of atoms side by side ({torn}) to {100 * OFF_TORN:.0f} %"] if torn else []
    return "; ".join(said) + (": take --simulator multislice for them" if torn or unlike else "")


def check_detector(detector_mrad: Detector, probe: Probe) -> None:
    """Refuse what is no annulus in the dark field.

    Raises
    ------
    UsageError
    """
    inner, outer = detector_mrad
    if not 0 <= inner < outer < math.inf:
        what = f"detector {inner:g} to {outer:g} mrad is no annulus"
        raise UsageError(what, remedy="give the inner angle first, in mrad")
    if inner < probe.convergence_mrad and (meant := in_mrad(detector_mrad)):
        what = f"detector {inner:g} to {outer:g} mrad lies inside the bright field"
        raise UsageError(what, remedy=f"{meant}give mrad, not rad")
    if inner < probe.convergence_mrad:
        what = f"the detector begins at {inner:g} mrad, inside the bright field of {probe.convergence_mrad:g} mrad"
        raise UsageError(what, remedy="give an inner angle above the convergence: only dark field is simulated")
