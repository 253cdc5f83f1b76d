"""What one atom scatters, with its phase: needed where waves of different atoms meet.

The atom is a phase object (Moliere 1947; Kirkland, *Advanced Computing in Electron Microscopy*, 2nd ed., 2010,
section 5.1), with the form factor of Lobato & Van Dyck, Acta Cryst. A 70, 636 (2014), whose parameters come with the
package. ``benchmarks/scattering_table.py`` makes the table of cross-sections from the same.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from scipy.special import j0, k0, k1

from stemfit.optics.electron import mass_ratio, wavelength_A

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

RADII_A = np.geomspace(1e-4, 8.0, 1600)
"""Beyond 8 A the phase is below 1e-6 rad; within 1e-4 A there is 1e-8 of the area of a core."""

STEP_PER_A = 0.04
"""Of the table over the scattering vector: form factors change over 0.3 / A or more."""


@lru_cache(maxsize=1)
def parameters() -> dict[str, FloatArray]:
    """Rows a (A) and b (A^2) of each element, (2, 5)."""
    with (files(__package__) / "form_factors.npz").open("rb") as stream, np.load(stream) as raw:
        rows = np.stack([raw["a_A"], raw["b_A2"]], 1)
        return dict(zip(raw["elements"].tolist(), rows, strict=True))


@lru_cache(maxsize=64)
def amplitude_A(element: str, voltage_kV: float, most_per_A: float) -> tuple[FloatArray, ComplexArray]:
    """Scattering vectors g = |k - q| (1/A) from 0 to `most_per_A`, and the amplitude there (A).

    The wave behind the atom is that before it times 1 + i lambda int f(g) exp(2 pi i g.r) d^2g.
    """
    a, b = parameters()[element][:, :, None]
    x = 2 * np.pi * RADII_A / np.sqrt(b)
    potential = (a * 2 * np.pi / b * (k0(x) + x / 2 * k1(x))).sum(0)  # transform of a (2 + b g^2) / (1 + b g^2)^2
    wave = np.exp(1j * mass_ratio(voltage_kV) * wavelength_A(voltage_kV) * potential) - 1
    measure = 2 * np.pi * RADII_A**2 * np.log(RADII_A[1] / RADII_A[0])
    g = np.linspace(0.0, most_per_A, 1 + int(np.ceil(most_per_A / STEP_PER_A)))
    return g, j0(2 * np.pi * g[:, None] * RADII_A) @ (wave * measure) / (1j * wavelength_A(voltage_kV))
