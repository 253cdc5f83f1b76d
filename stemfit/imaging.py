"""What the microscope did in this image: column shape, brightness of every column type, noise, background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemfit.columns import Noise, Profile

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Amplitude:
    """Integrated intensity of one column type.

    Attributes
    ----------
    value, sigma : float
        Image units x px^2, at relative gain 1.
    source : str
        "image" (measured on pristine columns here) or "table" (scattering table, scaled to this image).
    """

    value: float
    sigma: float
    source: str


@dataclass(frozen=True)
class Imaging:
    """Everything that turns columns into pixels here.

    Attributes
    ----------
    profile : Profile
        Image of one column (probe, source size, thermal motion together).
    noise : Noise
    background : (H, W) array
        Smooth background, image units.
    gain : (H, W) array
        Slow multiplicative variation of column brightness, mean 1 over the analysed area.
    amplitudes : dict of str to Amplitude
        By column type: ``"Mo"``, ``"S2"``, ``"S"``, ``"SSe"``, ...
    scatter : dict of str to float
        Relative brightness scatter of pristine columns beyond their measurement error, by sublattice.
    """

    profile: Profile
    noise: Noise
    background: FloatArray
    gain: FloatArray
    amplitudes: dict[str, Amplitude]
    scatter: dict[str, float]
