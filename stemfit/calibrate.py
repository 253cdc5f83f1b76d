"""How large a pixel is: from the lattice constant that experiment has measured for the host."""

from __future__ import annotations

import numpy as np

from stemfit.hosts import ProjectedHost
from stemfit.lattice import Lattice
from stemfit.micrograph import Micrograph
from stemfit.result import Calibration

HOST_STRAIN = 0.003
"""Relative uncertainty of a real monolayer's lattice constant: strain, temperature, spread of published values."""


def calibrate(lattice: Lattice, host: ProjectedHost, micrograph: Micrograph, asked_A: float | None) -> Calibration:
    """Pixel size from the lattice, unless the user states one.

    Parameters
    ----------
    asked_A : float or None
        The user's pixel size, Angstrom.
    """
    stated = micrograph.pixel_size_A if asked_A is None else None
    if asked_A is not None:
        return Calibration(asked_A, 0.0, "user", None)
    value = host.a_A / lattice.a_px_iso
    return Calibration(value, value * float(np.hypot(HOST_STRAIN, _relative_error(lattice))), "lattice", stated)


def _relative_error(lattice: Lattice) -> float:
    """Standard error of the isotropic lattice constant, from the covariance of the cell."""
    a, b = lattice.a_px, lattice.b_px
    area = a[0] * b[1] - a[1] * b[0]
    gradient = np.array([0.0, 0.0, b[1], -b[0], -a[1], a[0]]) / (2 * area)
    return float(np.sqrt(gradient @ lattice.cell_cov @ gradient))
