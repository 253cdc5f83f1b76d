"""Where a given crystal lies in an image: which spot is which reflection, and which way round the crystal is.

The host's reciprocal cell is known, its scale, rotation and scan distortion are not. Every pair of spots and every
pair of strong reflections gives an affine map; those that explain the other spots are compared by how much of the
lattice's contrast the projected crystal explains (`factors`).
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from stemfit.hosts import ProjectedHost
from stemfit.lattice.factors import MISFIT, ComplexArray, Expected, half_plane, orders_of, overlay, structure_factors
from stemfit.lattice.spots import MAX_ANISOTROPY, signal_to_noise, strongest, windowed

FloatArray = NDArray[np.float64]

SPOTS, REFLECTIONS = 10, 8
"""Strongest spots and reflections that are paired: two right pairs among them are enough."""

MOST_SPOTS = 80
"""Spots that are looked at: a cell of some 40 A^2 has as many in a sharp image."""

MOST_MAPS = 24
"""Maps whose phases are looked at."""

WIDEST_PX = 400
"""Part of the image that is looked at first: over more of it a distorted scan loses the phase."""

USUAL_STRETCH = 0.08
"""Spread of the logarithm of a scan's anisotropy."""

SYMMETRIC_A = 0.08
"""Distance up to which two ways to lie have a column in one place: calculated structures keep symmetries to less."""


class Match(NamedTuple):
    """One way in which a crystal may lie in an image.

    Attributes
    ----------
    host : ProjectedHost
        Turned over where the image shows it from below.
    g : (2, 2) array
        Rows dual to a and b, cycles per px.
    overlap : float
        Correlation of the lattice's contrast with that of the crystal, column types as bright as fits best.
    strain : float
        How far that is from the table: half the sum of squares in standard errors.
    power : float
        Contrast on the reflections of this cell, image units squared, noise subtracted.
    stretch : float
        Anisotropy of the scan.
    blur : float
        Width of the columns over the one that was fitted.
    turned_over : bool
    """

    host: ProjectedHost
    g: FloatArray
    overlap: float
    strain: float
    power: float
    stretch: float
    blur: float
    turned_over: bool

    def misfit(self, power: float) -> float:
        """Share of `power`, the contrast of all that repeats in the image, that this leaves unexplained."""
        return 1.0 - self.overlap**2 * min(1.0, self.power / max(power, 1e-300))

    def evidence(self, power: float) -> float:
        """Natural logarithm, up to a constant."""
        return -self.misfit(power) / MISFIT - self.strain + stretch_evidence(self.stretch)


def stretch_evidence(stretch: float) -> float:
    """How likely a scan's anisotropy is, natural logarithm."""
    return -0.5 * float(np.log(stretch) / USUAL_STRETCH) ** 2


def matches(
    image: FloatArray, host: ProjectedHost, brightness: Expected, width_px: float
) -> tuple[list[Match], float]:
    """All ways in which a crystal may lie in an image, the most likely first; none where no spots fit.

    The second value is the contrast of all that repeats in the image, whatever crystal that is.

    Parameters
    ----------
    image : (H, W) array
    host : ProjectedHost
    brightness : Expected
    width_px : float
        Fitted width of the columns.
    """
    image = central(image)
    seen = _seen_spots(image)
    if len(seen.k) < 2:
        return [], 0.0
    found: list[Match] = []
    for below, side in ((False, host), (True, host.turned_over())):
        for g in _maps(seen, side, brightness, width_px, image.shape):
            # Spots do not tell a crystal from the same turned by 180 degrees; phases may.
            found += [_match(image, side, brightness, width_px, sign * g, below) for sign in (1, -1)]
    everything = float((np.abs(_amplitudes(windowed(image), seen.k)) ** 2).sum())
    power = max([everything, *(m.power for m in found)])
    return sorted(found, key=lambda m: -m.evidence(power)), power


def central(image: FloatArray) -> FloatArray:
    """The middle of an image, at most `WIDEST_PX` a side."""
    top, left = (max(0, (n - WIDEST_PX) // 2) for n in image.shape)
    return image[top : top + WIDEST_PX, left : left + WIDEST_PX]


# -- spots ---------------------------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    k: FloatArray  # (S, 2) cycles per px, sharpened below one bin, the strongest first
    weight: FloatArray  # (S,) amplitude


def _seen_spots(image: FloatArray) -> _Seen:
    """Spots that stand out of the noise, by amplitude: where that is low, weak orders stand out as much as strong."""
    snr = signal_to_noise(image)
    h, w = image.shape
    k = []
    for spot in strongest(snr, image.shape, MOST_SPOTS):
        col, row = round(float(spot[0]) * w) + w // 2, round(float(spot[1]) * h) + h // 2
        if not (0 < row < h - 1 and 0 < col < w - 1):
            continue
        near = np.log(np.maximum(snr[row - 1 : row + 2, col - 1 : col + 2], 1e-3))
        k.append([spot[0] + _summit(near[1]) / w, spot[1] + _summit(near[:, 1]) / h])
    found = np.array(k).reshape(-1, 2)
    weight = np.abs(_amplitudes(windowed(image), found))
    order = np.argsort(-weight)
    return _Seen(found[order], weight[order])


def _summit(three: FloatArray) -> float:
    """Offset of the summit of the parabola through three values one apart; a Hann window's peak is nearly one."""
    curve = three[0] - 2 * three[1] + three[2]
    return float(np.clip(0.5 * (three[0] - three[2]) / curve, -0.5, 0.5)) if curve < 0 else 0.0


# -- maps ----------------------------------------------------------------------------------------------------------


def _reciprocal(host: ProjectedHost) -> FloatArray:
    """Rows a*, b* of the host as displayed (y down), a along +x; cycles per Angstrom."""
    plane = np.array(host.cell.plane) * [1.0, -1.0]
    return np.asarray(np.linalg.inv(plane).T)


def _maps(
    seen: _Seen, host: ProjectedHost, brightness: Expected, width_px: float, shape: tuple[int, ...]
) -> list[FloatArray]:
    """Reciprocal cells (2, 2) px^-1 under which the strongest spots are reflections of the host, the best first."""
    star = _reciprocal(host)
    orders = half_plane(6)
    q = orders @ star
    decay = np.exp(-2 * (np.pi * 0.15 * host.cell.pitch) ** 2 * (q**2).sum(1))  # a probe of 0.15 pitches
    strength = np.abs(structure_factors(host, brightness, orders, decay).sum(1)) ** 2
    strength = strength / strength.max()
    strong = np.argsort(-strength)[:REFLECTIONS]
    strong = strong[strength[strong] > 0.03]
    raw = np.array(
        [
            np.linalg.solve(np.stack([q[m], q[n]]), np.stack([k1, s * k2]))
            for k1, k2 in combinations(seen.k[:SPOTS], 2) for s in (1, -1)
            for m in strong for n in strong if m != n and abs(np.linalg.det(np.stack([q[m], q[n]]))) > 1e-9
        ]
    ).reshape(-1, 2, 2)  # cycles per px = cycles per Angstrom @ raw
    stretch = np.linalg.svd(raw, compute_uv=False)
    pitch_px = host.cell.pitch / np.sqrt(np.maximum(stretch[:, 0] * stretch[:, 1], 1e-300))
    usable = (stretch[:, 0] < MAX_ANISOTROPY * stretch[:, 1]) & (np.linalg.det(raw) > 0)
    usable &= (pitch_px > 2.5 * width_px) & (pitch_px < 30 * width_px)
    order_weight = strength / strength.sum()
    scored = sorted(
        ((_spot_score(seen, m, star, orders, order_weight, shape), n) for n, m in enumerate(raw) if usable[n]),
        key=lambda item: -item[0],
    )
    kept: list[FloatArray] = []
    for _, n in scored:
        g = _fitted(seen, star @ raw[n], shape)
        if all(np.abs((g - other) * shape[::-1]).max() > 0.7 for known in kept for other in (known, -known)):
            kept.append(g)
        if len(kept) == MOST_MAPS // 2:
            break
    return kept


def _spot_score(
    seen: _Seen, raw: FloatArray, star: FloatArray, orders: NDArray[np.int64], weight: FloatArray,
    shape: tuple[int, ...],
) -> float:
    """Share of the spots that are reflections, times share of the reflections that are spots."""
    g = star @ raw
    off = (seen.k @ np.linalg.inv(g) - np.rint(seen.k @ np.linalg.inv(g))) @ g * shape[::-1]
    explained = np.abs(off).max(1) < 1.5
    predicted = (orders @ g) * shape[::-1]
    flip = np.vstack([seen.k, -seen.k]) * shape[::-1]
    apart = np.abs(predicted[:, None] - flip[None]).max(2).min(1)
    stretch = np.linalg.svd(raw, compute_uv=False)
    share = float(seen.weight[explained].sum() / seen.weight.sum())
    usual = float(np.exp(stretch_evidence(float(stretch[0] / stretch[1])) / 4))
    return share * float(weight[apart < 1.5].sum()) * usual


def _fitted(seen: _Seen, g: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Least squares over all spots that are reflections."""
    for _ in range(3):
        n = np.rint(seen.k @ np.linalg.inv(g))
        good = (np.abs(n @ g - seen.k) * shape[::-1] < 1.0).all(1) & (np.abs(n).sum(1) > 0)
        weight = np.sqrt(seen.weight[good])[:, None]
        if np.linalg.matrix_rank(n[good]) < 2:
            return g
        g = np.linalg.lstsq(n[good] * weight, seen.k[good] * weight, rcond=None)[0]
    return g


# -- phases --------------------------------------------------------------------------------------------------------


def _match(
    image: FloatArray, host: ProjectedHost, brightness: Expected, width_px: float, g: FloatArray, below: bool
) -> Match:
    """Compare phases and amplitudes."""
    orders = orders_of(g, width_px)
    data = windowed(image)
    seen = _amplitudes(data, orders @ g)
    power = _power(data, orders, g)
    found = overlay(seen, orders, host, brightness, g, width_px)
    raw = np.linalg.inv(_reciprocal(host)) @ g
    stretch = np.linalg.svd(raw, compute_uv=False)
    scale = float(np.sqrt((np.abs(seen) ** 2).sum() / power))
    ratio = float(stretch[0] / stretch[1])
    return Match(host, g, min(1.0, found.overlap * scale), found.strain, power, ratio, found.blur, below)


def contrast_of(image: FloatArray, g: FloatArray, width_px: float) -> float:
    """Contrast on the reflections of a cell, image units squared, noise subtracted; as `Match.power`."""
    data, orders = windowed(central(image)), orders_of(g, width_px)
    return _power(data, orders, g)


def _power(data: FloatArray, orders: NDArray[np.int64], g: FloatArray) -> float:
    nothing = np.abs(_amplitudes(data, (orders + np.array([0.5, 0.5])) @ g)) ** 2
    power = (np.abs(_amplitudes(data, orders @ g)) ** 2).sum()
    return max(float(power - len(orders) * np.median(nothing) / np.log(2)), 1e-300)


def _amplitudes(data: FloatArray, k: FloatArray) -> ComplexArray:
    """Fourier amplitudes of an image at (K, 2) cycles per px."""
    h, w = data.shape
    rows = np.exp(-2j * np.pi * np.outer(k[:, 1], np.arange(h)))
    cols = np.exp(-2j * np.pi * np.outer(k[:, 0], np.arange(w)))
    return np.asarray(((rows @ data) * cols).sum(1) / data.size)


def field_amplitudes(
    image: FloatArray, n: FloatArray, weight: FloatArray, orders: NDArray[np.int64], coarse_px: float
) -> ComplexArray:
    """The same along cell coordinates (2, H, W) that follow the scan."""
    flat = (image - gaussian_filter(image, coarse_px)) * weight
    wave = [np.exp(-2j * np.pi * n[0]), np.exp(-2j * np.pi * n[1])]
    total = np.array([np.sum(flat * wave[0] ** h * wave[1] ** k) for h, k in orders.tolist()], dtype=np.complex128)
    return np.asarray(total / max(float(weight.sum()), 1.0))


# -- what cannot be told -------------------------------------------------------------------------------------------


def alike(one: Match, other: Match) -> bool:
    """Whether two matches put the same columns in the same places, as far as directions go: a symmetry of the crystal.

    The columns about one of them are laid on those about every one of the other.
    """
    there, kinds = _around(other, 1.6)
    here, own = _around(one, 1.2)
    pixel_A = float(np.sqrt(abs(np.linalg.det(one.g)) * one.host.cell.area))
    tolerance = SYMMETRIC_A / pixel_A
    start = here[own == own[0]]
    first = start[int(np.argmin(np.hypot(*start.T)))]
    inner = there[(kinds == own[0]) & (np.hypot(*there.T) < 0.45 * np.hypot(*there.T).max())]
    for target in inner:
        off = np.hypot(*((here - first + target)[:, None] - there[None]).transpose(2, 0, 1))
        off[own[:, None] != kinds[None]] = np.inf
        if (off.min(1) < tolerance).mean() > 0.98:
            return True
    return False


def _around(match: Match, reach: float) -> tuple[FloatArray, NDArray[np.str_]]:
    """Columns (N, 2) px about the origin within `reach` cells, and their types."""
    vectors = np.linalg.inv(match.g).T  # rows a, b
    size = reach * float(np.linalg.norm(vectors, axis=1).max())
    n = int(np.ceil(2 * reach * np.linalg.norm(vectors, axis=1).max() / np.linalg.norm(vectors, axis=1).min()))
    i, j = (x.ravel() for x in np.mgrid[-n : n + 1, -n : n + 1])
    cells = np.column_stack([i, j])[:, None] + np.array(match.host.cell.basis)[None]
    xy = cells.reshape(-1, 2) @ vectors
    kinds = np.tile(np.array(match.host.columns), len(i))
    near = np.hypot(*xy.T) < size
    return xy[near], kinds[near]
