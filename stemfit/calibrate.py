"""How large a pixel is: from the lattice constant that experiment has measured for the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stemfit.hosts import INFERABLE, ProjectedHost, projected
from stemfit.lattice import Lattice
from stemfit.micrograph import Micrograph

LISTED_A = {name: projected(name).a_A for name in INFERABLE}
"""Lattice constants, Angstrom, of the hosts that an image may be taken for."""

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


def calibrate(
    lattice: Lattice, host: ProjectedHost, micrograph: Micrograph, asked_A: float | None,
    alternatives: Sequence[tuple[str, float]] = (),
) -> Calibration:
    """Pixel size from the lattice, unless the user states one.

    Parameters
    ----------
    asked_A : float or None
        The user's pixel size, Angstrom.
    alternatives : sequence of (name, probability)
        Other hosts that it may be: their lattice constants differ.
    """
    value = host.a_A / lattice.a_px_iso
    doubt = np.sqrt(sum(p * np.log(LISTED_A[name] / host.a_A) ** 2 for name, p in alternatives if name in LISTED_A))
    sigma = value * float(np.sqrt(HOST_STRAIN**2 + _relative_error(lattice) ** 2 + doubt**2))
    if asked_A is not None:
        return Calibration(asked_A, 0.0, "user", micrograph.metadata_pixel_size_A, value)
    return Calibration(value, sigma, "lattice", micrograph.pixel_size_A, value)


def _relative_error(lattice: Lattice) -> float:
    """Standard error of the isotropic lattice constant, from the covariance of the cell."""
    a, b = lattice.a_px, lattice.b_px
    area = a[0] * b[1] - a[1] * b[0]
    gradient = np.array([0.0, 0.0, b[1], -b[0], -a[1], a[0]]) / (2 * area)
    return float(np.sqrt(gradient @ lattice.cell_cov @ gradient))
