"""Where the lattice goes on with another motif: inverted domains, second layers, steps.

The three first-order spots of a honeycomb with brightness P at (0, 0), Q at (1/3, 1/3) and H at (2/3, 2/3) have the
same structure factor F = P + Q w + H w^2, w = exp(-2 pi i / 3), up to phases that a shift of the crystal adds and that
cancel in the product of the three: its phase, the motif phase 3 arg F, is 0 where one third outshines the others, and
+-180 degrees where two are equal. An inverted domain has the opposite one, wherever it is shifted to; gain and
background do not enter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_opening, gaussian_filter1d, label

from stemfit.lattice.grains import NARROW, PRESENT, turned
from stemfit.lattice.windows import Points, Spectrum, amplitude, points, spectrum

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

SIGNIFICANT = 5.0
"""Distance of two motif phases in standard deviations, noise and the main crystal's own scatter together."""

LEAST_DEG = 45.0
"""Smaller distances are composition or damage: to lose a third of one of two equal sublattices turns the phase by so
much."""

SHARP = 0.5
"""Slope of the phase at the rim of a domain, over that which the window makes of a sudden change. Damage, tilt and
composition drift; a stacking changes along a line."""

ALIKE = 1.25
"""Factor up to which light is the same. The least second layer, M on M and X on X apart, adds more than half."""

DOUBLE = 1.6
"""Factor at the second-order spots, to which all columns add whatever the stacking, from which the brighter of two
domains is the second layer even where it is the larger one: nearer to 2 than to 1.25."""

MINORITY = 0.1
"""Share of the crystal that a monolayer needs to be analysed instead of the second layer that covers more."""

MOST = 20
"""Other motifs that are looked for."""

QUIET_DEG = (-29.0, -25.0, -21.0, 21.0, 25.0, 29.0)
"""Turns at which neither the main crystal (within 3 standard deviations) nor anything else but noise is expected."""

LEAST_CELLS = 30.0
"""Cells of a window of `NARROW`: smaller domains have no motif of their own."""


class Domain(NamedTuple):
    """Part of the crystal with another motif: kind of region, area (H, W) and the measured figures in words."""

    kind: str
    area: BoolArray
    reason: str


class Motif(NamedTuple):
    """What the spots say at the points `at`, arrays (h, w).

    Attributes
    ----------
    phase, sigma : array
        Motif phase and its error, degrees.
    first, second : array
        Mean amplitudes at the first-order and the second-order spots.
    """

    phase: FloatArray
    sigma: FloatArray
    first: FloatArray
    second: FloatArray
    at: Points


def motif(of: Spectrum, dual: FloatArray, a_px: float) -> Motif:
    """Read the motif in windows of `NARROW` cells.

    Parameters
    ----------
    of : Spectrum
    dual : (2, 2) array
        Reciprocal vectors dual to the cell (a, b), cycles per px.
    a_px : float
    """
    sigma = NARROW * a_px
    d0, d1 = dual
    first = np.stack([amplitude(of, k, sigma) for k in (d0, d1, -d0 - d1)])
    second = np.stack([amplitude(of, k, sigma) for k in (d0 - d1, d0 + 2 * d1, -2 * d0 - d1)])
    pair = np.stack([d0, d0 + d1])
    quiet = [turned(pair, t) for t in QUIET_DEG]
    noise = np.sqrt(np.mean([np.abs(amplitude(of, k, sigma)) ** 2 for g in quiet for k in (*g, g[1] - g[0])], axis=0))
    error = np.degrees(np.sqrt(np.sum(0.5 * (noise / np.maximum(np.abs(first), 1e-30)) ** 2, axis=0)))
    return Motif(
        np.degrees(np.angle(first.prod(0))), error, np.cbrt(np.abs(first).prod(0)), np.cbrt(np.abs(second).prod(0)),
        points(of, sigma),
    )


def domains(image: FloatArray, dual: FloatArray, a_px: float, crystal: BoolArray) -> tuple[Domain, ...]:
    """Domains whose motif is not that of the main crystal.

    Parameters
    ----------
    image : (H, W) array
    dual, a_px
        As of `motif`.
    crystal : (H, W) bool array
        Where the main grain is.
    """
    seen = motif(spectrum(image, NARROW * a_px), dual, a_px)
    inside = _sampled(crystal, seen.at)
    if not inside.any():
        return ()
    main = _light(seen, inside, _mode(seen.phase[inside]))
    parts = _unlike(seen, main, inside, a_px)
    for area, here in parts:
        if main.second > DOUBLE * here.second and area.sum() > MINORITY * inside.sum():
            main = here  # what covers more is two layers
            parts = _unlike(seen, main, inside, a_px)
            break
    return tuple(
        _named(here, main, seen.at.spread(area.astype(np.float64), (image.shape[0], image.shape[1])) > 0.5)
        for area, here in parts
    )


def _unlike(seen: Motif, main: Light, inside: BoolArray, a_px: float) -> list[tuple[BoolArray, Light]]:
    """Parts of the crystal whose motif is not the main one, at the points."""
    off = apart(seen.phase, main.phase)
    spread = 1.48 * float(np.median(off[inside & (off < LEAST_DEG)]))
    unlike = inside & (seen.first > PRESENT * main.first)
    unlike &= off > np.maximum(LEAST_DEG, SIGNIFICANT * np.hypot(seen.sigma, spread))
    found: list[tuple[BoolArray, Light]] = []
    for _ in range(MOST):
        if not unlike.any():
            break
        other = _mode(seen.phase[unlike])
        its = unlike & (apart(seen.phase, other) < LEAST_DEG)
        unlike &= ~its
        for area, here in _parts(seen, main, other, its, a_px):
            found.append((area, here))
            # At its rim a domain mixes with the main crystal to motifs that are nowhere.
            unlike &= ~binary_dilation(area, iterations=round(2 * NARROW * a_px / min(seen.at.step)))
    return found


def apart(one: FloatArray | float, two: FloatArray | float) -> FloatArray:
    """Distance of two angles on the circle, degrees."""
    return np.asarray(np.abs((np.asarray(one) - two + 180.0) % 360.0 - 180.0))


class Light(NamedTuple):
    """Motif phase in degrees and amplitudes of a domain."""

    phase: float
    first: float
    second: float

    @property
    def above_hollow(self) -> float:
        """Light of the three thirds above that of the darkest one, in units of `first`."""
        thirds = np.cos(np.radians(self.phase / 3 + np.array([0.0, 120.0, 240.0])))
        return float(-2 * self.first * thirds.min())


def _parts(
    seen: Motif, main: Light, phase: float, its: BoolArray, a_px: float
) -> list[tuple[BoolArray, Light]]:
    """Connected domains of one motif: area at the points, and light."""
    cell = 0.5 * np.sqrt(3) * a_px**2 / np.prod(seen.at.step)
    nearer = apart(seen.phase, phase) < apart(seen.phase, main.phase)
    # A line defect disturbs one window's width, 2.35 standard deviations; the domain has to be wider.
    nearer = _opened(nearer, 1.18 * NARROW * a_px, seen.at)
    labels, count = label(nearer)
    parts = []
    for k in range(1, count + 1):
        area = labels == k
        core = area & its
        if core.sum() < LEAST_CELLS * cell or _sharpness(seen, area, apart(phase, main.phase), a_px) < SHARP:
            continue
        area &= binary_dilation(core, iterations=round(2 * NARROW * a_px / min(seen.at.step)))
        parts.append((area, _light(seen, core, _mode(seen.phase[core]))))
    return parts


def _light(seen: Motif, where: BoolArray, phase: float) -> Light:
    """Of the points that show this motif phase."""
    own = where & (apart(seen.phase, phase) < LEAST_DEG)
    return Light(phase, float(np.median(seen.first[own])), float(np.median(seen.second[own])))


def _sharpness(seen: Motif, area: BoolArray, step_deg: FloatArray, a_px: float) -> float:
    """Slope of the phase along the rim over that of a sudden change seen through the window."""
    rim = area & binary_dilation(~area) & ~_border(area.shape)
    if not rim.any():
        return 0.0
    turn = np.exp(1j * np.radians(seen.phase))
    down, across = (np.abs(s) for s in np.gradient(turn, *seen.at.step))
    slope = np.degrees(np.hypot(down, across))
    return float(np.median(slope[rim])) * float(np.sqrt(2 * np.pi)) * NARROW * a_px / float(step_deg)


def _named(here: Light, main: Light, area: BoolArray) -> Domain:
    """Kind and reason from the motif and the light."""
    ratios = here.first / main.first, here.second / main.second, here.above_hollow / main.above_hollow
    first, second, above = ratios
    said = (
        f"motif phase {here.phase:.0f} degrees, {main.phase:.0f} in the analysed crystal; light above the hollows "
        f"{above:.2f}, amplitude of first-order spots {first:.2f} and of second-order spots {second:.2f} of the "
        "analysed crystal"
    )
    inverted = apart(here.phase, -main.phase) < LEAST_DEG
    if inverted and max(ratios) < ALIKE and min(ratios) > 1 / ALIKE:
        return Domain("twin", area, f"sublattices swapped: {said}")
    if max(above, second) > ALIKE:
        return Domain("second-layer", area, f"more light in another motif: {said}")
    return Domain("step", area, f"another motif without more light (stacking or composition changes): {said}")


def _mode(angles: FloatArray) -> float:
    """Most frequent of many angles on the circle, degrees: mean of those near the fullest tenth."""
    counts = np.histogram(angles, bins=72, range=(-180, 180))[0].astype(float)
    near = np.zeros(0)
    for width in (2.0, 0.1):  # between two clusters the smooth top may be empty
        top = 5.0 * float(np.argmax(gaussian_filter1d(counts, width, mode="wrap"))) - 177.5
        near = angles[apart(angles, top) < 25.0] if not len(near) else near
    return float(np.degrees(np.angle(np.mean(np.exp(1j * np.radians(near))))))


def _sampled(flags: BoolArray, at: Points) -> BoolArray:
    index = [
        np.minimum(np.rint(np.arange(c) * s).astype(int), n - 1)
        for c, s, n in zip(at.number, at.step, flags.shape, strict=True)
    ]
    return np.asarray(flags[np.ix_(*index)])


def _opened(flags: BoolArray, radius_px: float, at: Points) -> BoolArray:
    """Without what is narrower than a disc; the image's edge does not count as an end."""
    ry, rx = (max(1, round(radius_px / s)) for s in at.step)
    y, x = np.mgrid[-ry : ry + 1, -rx : rx + 1]
    disc = (y / (ry + 0.3)) ** 2 + (x / (rx + 0.3)) ** 2 <= 1
    padded = np.pad(flags, ((ry, ry), (rx, rx)), mode="edge")
    return np.asarray(binary_opening(padded, disc)[ry:-ry, rx:-rx])


def _border(shape: tuple[int, ...]) -> BoolArray:
    edge = np.ones(shape, dtype=bool)
    edge[1:-1, 1:-1] = False
    return edge
