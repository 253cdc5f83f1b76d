"""The stages of stemfit up to the imaging parameters, as the pipeline calls them: the only file that knows them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from honeycombs import LATTICE_A, PIXEL_A, BoolArray, FloatArray
from peers import Found

if TYPE_CHECKING:
    from stemfit.columns import Columns

MODULES = ("stemfit.columns", "stemfit.lattice", "stemfit.calibrate", "stemfit.imaging", "stemfit.synthetic")


class Crystal(NamedTuple):
    """What is said of the crystal.

    Attributes
    ----------
    cell : (2, 2) array
        Rows a, b, px.
    cell_sigma : (2, 2) array
        Its standard errors.
    residual_px, column_sigma_px : float
        rms per axis of the columns about their sites, and of the errors that are stated for those on analysed sites.
    pixel_A, pixel_sigma_A : float
        Pixel size for the true lattice constant, and its stated error.
    pixel_fit_sigma_A : float
        The part of it that comes from the fit: without what is allowed for the strain of real monolayers.
    xy : (S, 2) array
        Sites, px.
    metal : (S,) bool array
    analysed : (S,) bool array
    """

    cell: FloatArray
    cell_sigma: FloatArray
    residual_px: float
    column_sigma_px: float
    pixel_A: float
    pixel_sigma_A: float
    pixel_fit_sigma_A: float
    xy: FloatArray
    metal: BoolArray
    analysed: BoolArray


def columns(image: FloatArray) -> Found:
    """Columns as an analysis reports them: found with no knowledge, then fitted again with the lattice known."""
    from stemfit import columns as column
    from stemfit import lattice as grids

    seen = column.find(image, calibrate=False)
    return _as_found(grids.survey(image, seen).columns)


def first_columns(image: FloatArray) -> Found:
    """Columns of the first fit, which knows nothing of a lattice."""
    from stemfit.columns import find

    return _as_found(find(image))


def _as_found(seen: Columns) -> Found:
    sigma = np.sqrt(np.einsum("kii->ki", seen.cov))
    return Found(seen.xy_px, seen.intensity, sigma[:, :2], sigma[:, 2])


def stages(image: FloatArray, imaging: bool = True) -> tuple[dict[str, float], int, Crystal]:
    """CPU seconds by stage, number of columns, and the crystal, told that it is MoS2."""
    from stemfit import columns as column
    from stemfit import lattice as grids
    from stemfit.calibrate import HOST_STRAIN, calibrate
    from stemfit.imaging import fit_imaging
    from stemfit.synthetic import as_micrograph

    seconds: dict[str, float] = {}
    with clock(seconds, "find"):
        seen = column.find(image, calibrate=False)
    found = len(seen)
    with clock(seconds, "lattice"):
        _, _, seen, grid, honey, brightness, _, _ = grids.survey(image, seen)
        identity = grids.identify(honey, brightness, grid.a_px_iso, asked="MoS2")
        lattice = grids.name_lattice(grid, identity.metal_third)
        sites = grids.name_sites(honey, identity.host, identity.metal_third)
        scale = calibrate(lattice, identity.host, as_micrograph(image, PIXEL_A), None)
    if imaging:
        with clock(seconds, "imaging"):
            fit_imaging(seen, sites, brightness, identity.host, None, None)
    variance = seen.cov[honey.column[honey.inside & (honey.column >= 0)]]
    strain = HOST_STRAIN * scale.pixel_size_A
    known = LATTICE_A / identity.host.a_A  # calibrate thinks of MoS2
    return seconds, found, Crystal(
        np.stack([lattice.a_px, lattice.b_px]), np.sqrt(np.diag(lattice.cell_cov))[2:].reshape(2, 2),
        lattice.residual_rms_px, float(np.sqrt(np.mean(variance[:, [0, 1], [0, 1]]))),
        known * scale.pixel_size_A, known * scale.pixel_size_sigma_A,
        known * float(np.sqrt(max(scale.pixel_size_sigma_A**2 - strain**2, 0.0))),
        sites.xy_px, np.asarray(sites.sublattice == "M"), sites.analysed,
    )  # fmt: skip


@contextmanager
def clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note the CPU time of what is done inside."""
    start = time.process_time()
    yield
    seconds[stage] = time.process_time() - start
