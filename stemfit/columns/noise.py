"""Noise of an image, measured on what the model leaves over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stemfit.columns.types import Noise

FloatArray = NDArray[np.float64]


ENOUGH = 200_000
"""Pixels from which a variance is known to a percent in each of 24 bins; of larger images every n-th is taken."""


_HALF_PLANE = [(0, 1), (0, 2), *((dy, dx) for dy in (1, 2) for dx in (-2, -1, 0, 1, 2))]
"""Half of the lags up to 2 px; the other half is the same."""


def measure(
    image: FloatArray, model: FloatArray, free_parameters: int, margin_px: int = 0,
    trusted: NDArray[np.bool_] | None = None, enough: int = ENOUGH,
) -> Noise:
    """Fit ``variance = read^2 + gain (model - offset)`` to the residual.

    Residual variances are taken in 24 equal-population bins of the model, each winsorised at 4 robust sigmas so that
    adatoms and holes do not count as noise, and corrected for the fitted degrees of freedom. A border of `margin_px`
    is left out: atoms beyond the edge shed light there that no column accounts for. So is what is not `trusted`.
    """
    use = np.ones(image.shape, dtype=bool) if trusted is None else trusted.copy()
    if 0 < margin_px < min(image.shape) // 4:
        inner = np.zeros_like(use)
        inner[margin_px:-margin_px, margin_px:-margin_px] = True
        use &= inner
    if use.sum() < 24 * 24:
        use[:] = True
    free_parameters = round(free_parameters * use.sum() / image.size)
    residual = np.where(use, image - model, 0.0)
    seen, left = model[use], residual[use]
    stride = max(1, len(seen) // enough)
    seen, left, free_parameters = seen[::stride], left[::stride], free_parameters // stride
    order = np.argsort(seen)
    levels, variances = [], []
    for part in np.array_split(order, 24):
        levels.append(seen[part].mean())
        variances.append(_winsorised_variance(left[part]))
    level = np.array(levels)
    variance = np.array(variances) * len(seen) / max(len(seen) - free_parameters, 1)
    gain, constant, line_cov = _line(level, variance, len(seen) // 24)
    # Extrapolated to the dark, the line may promise pixels without noise, which would take all the weight: below half
    # the least variance that was seen it is cut off.
    floor = max(0.5 * float(variance.min()), 1e-300)
    offset = (floor - constant) / gain if gain > 0 and constant < floor else 0.0
    read = np.sqrt(max(constant, floor))
    noise = Noise(gain, offset, float(read), 1.0)
    at = np.array([offset, 1.0])
    read_error = float(np.sqrt(at @ line_cov @ at) / (2 * read))
    area = _correlation_area(residual, noise.variance(model))
    return replace(
        noise, pixels_per_sample=area, gain_error=float(np.sqrt(area * line_cov[0, 0])),
        read_sigma_error=float(np.sqrt(area)) * read_error,
    )


def _winsorised_variance(values: FloatArray) -> float:
    centred = values - np.median(values)
    # Of counts near zero most are equal: only the outer ones show the spread.
    of_normal = np.array([0.6745, 1.1503, 1.9600])
    robust = max(float((np.percentile(np.abs(centred), [50, 75, 95]) / of_normal).max()), 1e-12)
    return float(np.mean(np.clip(centred, -4 * robust, 4 * robust) ** 2))


def _line(level: FloatArray, variance: FloatArray, each: int) -> tuple[float, float, FloatArray]:
    """Weighted straight line through (level, variance) of `each` pixels a point, with covariance; it never falls."""
    sigma = variance * np.sqrt(2 / max(each, 2))  # of the variance of a normal sample
    (gain, constant), cov = np.polyfit(level, variance, 1, w=1 / sigma, cov="unscaled")
    if gain <= 0:
        flat = float(1 / np.sum(sigma**-2.0))
        return 0.0, float(np.average(variance, weights=sigma**-2.0)), np.diag([0.0, flat])
    return float(gain), float(constant), np.asarray(cov)


def _correlation_area(residual: FloatArray, variance: FloatArray) -> float:
    """Sum of the residual's autocorrelation over lags up to 2 px; never below 1.

    Apparent anticorrelation (what the fit took away) is not trusted to make error bars smaller.
    """
    z = np.clip(residual / np.sqrt(variance), -4, 4)
    z = z - z.mean()
    h, w = z.shape
    sums = [
        float(np.vdot(z[dy:, max(dx, 0) : w + min(dx, 0)], z[: h - dy, max(-dx, 0) : w - max(dx, 0)]))
        for dy, dx in _HALF_PLANE
    ]
    return float(max(1.0, 1 + 2 * sum(sums) / float(np.vdot(z, z))))
