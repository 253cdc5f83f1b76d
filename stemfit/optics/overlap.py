"""Where the waves of two columns meet on the detector: what a pair shows beyond its columns by themselves.

The wave that reaches the direction k when the probe is at r is, for a column at R, sum_q A(q) exp(-2 pi i q.r) F(k, q)
exp(-2 pi i (k - q).R): A is the aperture function, F(k, q) what the column makes of the beam q. Of two columns at
M + D/2 and M - D/2 the detector shows, beside the intensities of both,

    2 Re sum_qq' A(q) A*(q') exp(-2 pi i (q - q').(r - M)) exp(2 pi i Q.D) int F1(k, q) F2*(k, q') exp(-2 pi i k.D) d^2k

with Q = (q + q') / 2 (thin objects; Kirkland, *Advanced Computing in Electron Microscopy*, 2nd ed., 2010, section 6.4):
a picture of the probe's amplitude at one column times that at the other, in the middle of the bond. Atoms that move
independently by u rms per axis weaken it by exp(-2 pi^2 (u1^2 |k - q|^2 + u2^2 |k - q'|^2)). An atom at height z above
the plane in focus contributes with the phase -pi lambda z (k^2 - q^2) of free flight; atoms of one column are summed,
what a second one makes of the wave of the first is left out. The integral depends on the aperture's aberrations nowhere
and on the direction of D not at all if the beams are turned with it: F is kept for each kind of column
(`stemfit.optics.waves`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from stemfit.optics.electron import wavelength_A
from stemfit.optics.probe import Probe, aberration_phase
from stemfit.optics.transfer import Detector
from stemfit.optics.waves import Column, Optics, beams, optics, ring, waves

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


def overlap(one: Column, other: Column, distance_A: float, at: Optics) -> NDArray[np.complex64]:
    """Integral over the detector for every pair of beams, (B, B), A^2 / A^2; `one` is ahead along the first axis."""
    first, second = waves(one, at), waves(other, at)
    phase = np.exp(-2j * np.pi * distance_A * ring(at[0], at[2]).k[:, 0]).astype(np.complex64)
    return np.asarray(first.beams @ ((first.onto * phase) @ second.onto.conj().T) @ second.beams.conj().T)


def positions(probe: Probe, detector_mrad: Detector) -> FloatArray:
    """Along both axes of `bond_image`, (n,), A from the middle; finer by a tenth than the image needs."""
    period = optics(probe, detector_mrad)[3]
    count = 2 * math.ceil(1.1 * period * probe.cutoff_per_A) + 1
    return (np.arange(count) - count // 2) * period / count


def bond_image(one: Column, other: Column, apart_A: FloatArray, probe: Probe, detector_mrad: Detector) -> FloatArray:
    """What two columns show beyond the sum of both, about the middle between them.

    Without the image of the source, with which everything is convolved; within one period of the lattice of beams.

    Parameters
    ----------
    one, other : Column
    apart_A : (2,) array
        Position of `one` less that of `other`, y up.
    probe : Probe
    detector_mrad : (inner, outer)

    Returns
    -------
    (n, n) array
        Share of the beam at `positions` up (rows) and to the right (columns).
    """
    right, up = apart_A / np.hypot(*apart_A)
    shared = overlap(one, other, float(np.hypot(*apart_A)), optics(probe, detector_mrad))
    return 2 * _image(shared, np.array([[right, up], [-up, right]]), apart_A, probe, detector_mrad)


def column_image(column: Column, probe: Probe, detector_mrad: Detector) -> FloatArray:
    """What one column shows by itself, (n, n), as `bond_image`.

    An atom interferes with itself however it moves, which makes its image wider, but not fainter; different ones in one
    column move independently.
    """
    at = optics(probe, detector_mrad)
    shared = overlap(column, column, 0.0, at)
    lattice = beams(at[0], at[1], at[3])
    square = ((lattice.steps[:, None] - lattice.steps) ** 2).sum(-1) * lattice.pitch_per_A**2
    for element, height, mean_square in column.atoms:
        moving, still = (Column(((element, height, u),)) for u in (mean_square, 0.0))
        spread = np.exp(-2 * np.pi**2 * mean_square * square).astype(np.float32)
        shared += overlap(still, still, 0.0, at) * spread - overlap(moving, moving, 0.0, at)
    return _image(shared, np.eye(2), np.zeros(2), probe, detector_mrad)


def _image(
    shared: NDArray[np.complex64], turn: FloatArray, apart_A: FloatArray, probe: Probe, detector_mrad: Detector
) -> FloatArray:
    """Real part of the sum over all pairs of beams, whose lattice has these axes (rows of `turn`)."""
    at = optics(probe, detector_mrad)
    lattice, lam = beams(at[0], at[1], at[3]), wavelength_A(probe.voltage_kV)
    turn = turn * lattice.pitch_per_A
    q = lattice.steps @ turn
    pairs = _incident(probe, q, lattice.share, apart_A) * shared
    if float(probe.focal_spread_A) > 0:
        square = (q**2).sum(1)
        pairs = pairs * np.exp(-0.5 * (np.pi * lam * float(probe.focal_spread_A) * (square[:, None] - square)) ** 2)
    real, imaginary = pairs.real.ravel(), pairs.imag.ravel()
    side = 4 * lattice.most + 1
    sums = np.bincount(lattice.differences, real, side**2) + 1j * np.bincount(lattice.differences, imaginary, side**2)
    # Of the series the real part counts: that of -q is the conjugate of that of q, and half of them do.
    half = 1 + side**2 // 2
    sums = (sums + sums[::-1].conj())[:half]
    sums[-1] /= 2
    used = np.flatnonzero(sums)
    steps, most = np.divmod(used, side), 2 * lattice.most
    axis = positions(probe, detector_mrad)
    turns = np.exp(-2j * np.pi * np.multiply.outer(turn, np.outer(np.arange(-most, most + 1), axis)))  # (2, 2, side, n)
    across, along = (turns[0, k, steps[0]] * turns[1, k, steps[1]] for k in (0, 1))  # (G, n): exp(-2 pi i g_k r_k)
    return np.asarray((lam / at[3]) ** 2 * ((along * sums[used][:, None]).T @ across).real)


def _incident(probe: Probe, q: FloatArray, share: FloatArray, apart_A: FloatArray) -> ComplexArray:
    """A(q) A*(q') exp(2 pi i Q.D), (B, B)."""
    lam = wavelength_A(probe.voltage_kV)
    with torch.no_grad():
        angle = torch.from_numpy(lam * q)
        chi = aberration_phase(probe, angle[:, 0], angle[:, 1]).numpy()
    wave = share / math.sqrt(share.sum()) * np.exp(-1j * chi)
    towards = np.exp(1j * np.pi * (q @ apart_A))
    return np.outer(wave * towards, (wave / towards).conj())
