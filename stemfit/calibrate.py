"""How large a pixel is: from the lattice constant that experiment has measured for the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stemfit.hosts import ProjectedHost
from stemfit.lattice import Lattice
from stemfit.micrograph import Micrograph

HOST_STRAIN = 0.003
"""Relative uncertainty of a real monolayer's lattice constant: strain, temperature, spread of published values."""


@dataclass(frozen=True)
class Calibration:
    """Pixel size in use.

    Attributes
    ----------
    pixel_size_A, pixel_size_sigma_A : float
    source : str
        "lattice", "metadata" or "user".
    metadata_pixel_size_A : float or None
    lattice_pixel_size_A : float
        What the host's lattice constant gives, whatever is used.
    """

    pixel_size_A: float
    pixel_size_sigma_A: float
    source: str
    metadata_pixel_size_A: float | None
    lattice_pixel_size_A: float


def calibrate(lattice: Lattice, host: ProjectedHost, micrograph: Micrograph, asked_A: float | None) -> Calibration:
    """Pixel size from the lattice, unless the user states one.

    Parameters
    ----------
    asked_A : float or None
        The user's pixel size, Angstrom.
    """
    value = host.a_A / lattice.a_px_iso
    sigma = value * float(np.hypot(HOST_STRAIN, _relative_error(lattice)))
    if asked_A is not None:
        return Calibration(asked_A, 0.0, "user", micrograph.metadata_pixel_size_A, value)
    return Calibration(value, sigma, "lattice", micrograph.pixel_size_A, value)


def _relative_error(lattice: Lattice) -> float:
    """Standard error of the isotropic lattice constant, from the covariance of the cell."""
    a, b = lattice.a_px, lattice.b_px
    area = a[0] * b[1] - a[1] * b[0]
    gradient = np.array([0.0, 0.0, b[1], -b[0], -a[1], a[0]]) / (2 * area)
    return float(np.sqrt(gradient @ lattice.cell_cov @ gradient))
