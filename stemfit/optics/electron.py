"""The beam electron: wavelength, and how strongly a potential turns its phase."""

from __future__ import annotations

import math

from scipy import constants


def wavelength_A(voltage_kV: float) -> float:
    """Relativistic de Broglie wavelength, Angstrom.

    ``h c / sqrt(E (E + 2 m c^2))``, E the kinetic energy: Kirkland, *Advanced Computing in Electron Microscopy*
    (2nd ed., 2010), eq. 2.5.
    """
    energy = voltage_kV * 1e3 * constants.e
    rest = constants.m_e * constants.c**2
    return constants.h * constants.c / math.sqrt(energy * (energy + 2 * rest)) * 1e10


def mass_ratio(voltage_kV: float) -> float:
    """Relativistic mass over rest mass."""
    return 1 + voltage_kV * 1e3 * constants.e / (constants.m_e * constants.c**2)


def interaction_parameter(voltage_kV: float) -> float:
    """Phase per projected potential, rad / (V A).

    ``sigma = 2 pi m e lambda / h^2`` with the relativistic mass: Kirkland (2010), eq. 5.6.
    """
    mass = mass_ratio(voltage_kV) * constants.m_e
    per_metre = 2 * math.pi * mass * constants.e * wavelength_A(voltage_kV) * 1e-10 / constants.h**2
    return per_metre * 1e-10
