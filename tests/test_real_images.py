"""Lattice constants of real micrographs, where they are at hand (set STEMFIT_REAL_IMAGES to their folder)."""

from __future__ import annotations

from pathlib import Path

import pytest

from stemfit.columns import find
from stemfit.lattice import Grid, fit_grid
from stemfit.micrograph import read

KNOWN = {
    "mose2_40kV": (25.21, 1.03),
    "wsse_100kV_nanohole": (18.47, 1.03),
    "mose2_boundary": (20.84, 1.03),
    "mos2_60kV_vdoped": (18.03, 1.19),
    "wse2_100kV": (39.55, 1.13),
}
"""Lattice constant in px and ratio of principal stretches, from the first-order spots of the Fourier transform (zero
padded where the image holds few periods)."""

CELLS = 14
"""Enough for the cell; a part of the image is faster."""


@pytest.fixture(scope="module", params=sorted(KNOWN))
def measured(request: pytest.FixtureRequest, real_images: Path) -> tuple[str, Grid, int]:
    """Fit the middle of one image."""
    image = read(real_images / f"{request.param}.tif").image
    h, w = (max(0, (n - round(CELLS * KNOWN[request.param][0])) // 2) for n in image.shape)
    part = image[h : image.shape[0] - h, w : image.shape[1] - w]
    columns = find(part)
    return request.param, fit_grid(part, columns), len(columns)


def test_lattice_constant(measured: tuple[str, Grid, int]) -> None:
    name, grid, _ = measured
    assert grid.a_px_iso == pytest.approx(KNOWN[name][0], rel=0.01)


def test_shear_of_the_scan(measured: tuple[str, Grid, int]) -> None:
    from stemfit.lattice import name_lattice

    name, grid, _ = measured
    # The reference is rounded to 0.01 and read off spots one bin wide: a bin is 0.03 to 0.05 of their frequency.
    assert name_lattice(grid, 0).anisotropy == pytest.approx(KNOWN[name][1], abs=0.03)


def test_most_columns_are_seen_and_follow_the_lattice(measured: tuple[str, Grid, int]) -> None:
    _, grid, count = measured
    cells = grid.shape_px[0] * grid.shape_px[1] / (0.75**0.5 * grid.a_px_iso**2)
    # two in a cell; weak sulphur may drown in noise, some metal too before the lattice is known; dirt adds
    assert 0.6 * cells < count < 2.6 * cells
    assert grid.residual_rms_px < 0.06 * grid.a_px_iso  # 0.2 A: row jitter and noise
