"""Amplitudes of a crystal's reflections, and how well they agree with those of an image.

Phases included, with shift, blur and brightness of the column types free: a structure-factor fit as in electron
crystallography (Hovmoller, Ultramicroscopy 41, 121 (1992)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemfit.hosts import ProjectedHost

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

STEPS = 48
"""Shifts along a and b that are tried first: a tenth of an Angstrom apart."""

MOST_ORDERS = 120
"""Orders, from the lowest, over which image and crystal are compared."""

MISFIT = 0.01
"""Share of the contrast by which the right crystal may miss, brightness fitted: a probe that is not round, noise."""

BRIGHTNESS_ERROR = 0.06
"""Relative error of a column's brightness beyond that of the table: probe tails and background."""

BLURS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15)
"""Widths tried, relative to the fitted columns: those that are not resolved were fitted as one wide one."""


class Expected(NamedTuple):
    """Brightness (K,) of the column of each sublattice, any unit, and its relative standard error."""

    value: FloatArray
    sigma: FloatArray


def half_plane(reach: int) -> NDArray[np.int64]:
    """Orders (K, 2) up to `reach`, one of each pair of opposite ones."""
    h, k = (n.ravel() for n in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    keep = (k > 0) | ((k == 0) & (h > 0))
    return np.asarray(np.column_stack([h, k])[keep], dtype=np.int64)


def orders_of(g: FloatArray, width_px: float) -> NDArray[np.int64]:
    """Orders (K, 2) that the image resolves, from the lowest."""
    orders = half_plane(8)
    k = np.linalg.norm(orders @ g, axis=1)
    inside = (np.abs(orders @ g).max(1) < 0.45) & (2 * (np.pi * width_px * k) ** 2 < 5.0)
    return np.asarray(orders[inside][np.argsort(k[inside])][:MOST_ORDERS], dtype=np.int64)


def structure_factors(
    host: ProjectedHost, brightness: Expected, orders: NDArray[np.int64], decay: FloatArray
) -> ComplexArray:
    """Share (K, T) of each column type in the structure factors of (K, 2) orders, times their `decay` (K,)."""
    phase = np.exp(-2j * np.pi * orders @ np.array(host.cell.basis).T) * brightness.value * decay[:, None]
    kinds = list(dict.fromkeys(host.columns))
    return np.stack([phase[:, np.array(host.columns) == kind].sum(1) for kind in kinds], axis=1)


class Overlay(NamedTuple):
    """Correlation of crystal and image, strain and blur as in `Match`, shift (2,) in cell coordinates."""

    overlap: float
    strain: float
    blur: float
    shift: FloatArray


def overlay(
    seen: ComplexArray, orders: NDArray[np.int64], host: ProjectedHost, brightness: Expected, g: FloatArray,
    width_px: float,
) -> Overlay:
    """Lay the crystal on the image: shift, blur and brightness of its column types that explain the amplitudes best."""
    k2 = ((orders @ g) ** 2).sum(1)
    kinds = np.array(list(dict.fromkeys(host.columns)))
    sigma = np.hypot([brightness.sigma[host.columns.index(str(kind))] for kind in kinds], BRIGHTNESS_ERROR)
    best = Overlay(-1.0, 0.0, 1.0, np.zeros(2))
    for blur in BLURS:
        shares = structure_factors(host, brightness, orders, np.exp(-2 * (np.pi * blur * width_px) ** 2 * k2))
        factors = shares.sum(1)
        shift, strain = _coarse(orders, seen * factors.conj()), 0.0
        for _ in range(2):
            shift = _finer(seen, orders, shift, factors)
            factors, strain = _brightened(seen * np.exp(2j * np.pi * orders @ shift), shares, sigma)
        value = (np.exp(2j * np.pi * orders @ shift) @ (seen * factors.conj())).real
        overlap = float(value / max(_norm(seen) * _norm(factors), 1e-300))
        if overlap**2 / MISFIT - strain > best.overlap * abs(best.overlap) / MISFIT - best.strain:
            best = Overlay(overlap, strain, blur, shift)
    return best


def _coarse(orders: NDArray[np.int64], product: ComplexArray) -> FloatArray:
    """Shift (2,) with the best correlation, in steps of a cell over `STEPS`; the sum over all is a transform."""
    waves = np.zeros((STEPS, STEPS), dtype=np.complex128)
    waves[orders[:, 0] % STEPS, orders[:, 1] % STEPS] = product
    value = np.fft.ifft2(waves).real
    return np.asarray(np.array(np.unravel_index(int(np.argmax(value)), value.shape)) / STEPS)


def _brightened(seen: ComplexArray, shares: ComplexArray, sigma: FloatArray) -> tuple[ComplexArray, float]:
    """Structure factors (K,) with column types as bright as fits best within their errors, and half their chi squared.

    Linear least squares with a prior on the relative change of each type; the common scale is free.
    """
    known = shares.sum(1)
    scale = float((known.conj() @ seen).real) / max(_norm(known) ** 2, 1e-300)
    if scale <= 0 or shares.shape[1] == 1:
        return known, 0.0
    weight = 2.0 / (MISFIT * _norm(seen) ** 2)
    design, rest = scale * shares, seen - scale * known
    normal = weight * (design.conj().T @ design).real + np.diag(sigma**-2)
    change = np.linalg.solve(normal, weight * (design.conj().T @ rest).real)
    change = np.clip(change, -0.9, 4.0)
    return np.asarray(shares @ (1 + change)), 0.5 * float(((change / sigma) ** 2).sum())


def _finer(seen: ComplexArray, orders: NDArray[np.int64], shift: FloatArray, factors: ComplexArray) -> FloatArray:
    """Shift with the best correlation near a given one."""
    product, step = seen * factors.conj(), 0.5 / STEPS
    steps: Sequence[tuple[int, int]] = ((1, 0), (-1, 0), (0, 1), (0, -1))
    value = float((np.exp(2j * np.pi * orders @ shift) @ product).real)
    for _ in range(10):
        for move in steps:
            trial = shift + step * np.array(move)
            if (there := float((np.exp(2j * np.pi * orders @ trial) @ product).real)) > value:
                value, shift = there, trial
        step /= 2
    return shift


def _norm(values: ComplexArray) -> float:
    return float(np.sqrt((np.abs(values) ** 2).sum()))
