"""The grid of a grain beside the analysed one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from stemfit.columns import Columns
from stemfit.columns.resample import averaged, coarse
from stemfit.lattice.cell import COARSE_SIGMA_PX, Grid, enlarged, of_spots
from stemfit.lattice.grains import turned
from stemfit.lattice.spots import polished
from stemfit.lattice.types import Lattice

FloatArray = NDArray[np.float64]


def fit_turned(
    image: FloatArray, columns: Columns, like: Lattice, turn_deg: float, area: NDArray[np.bool_]
) -> Grid:
    """Fit the grid of another grain of the same crystal.

    Parameters
    ----------
    image : (H, W) array
    columns : Columns
    like : Lattice
        Of the analysed grain.
    turn_deg : float
        By which the other is turned, counter-clockwise as displayed.
    area : (H, W) bool array
        Where it is.

    Raises
    ------
    NotAnalysable
        If there is no such lattice.
    """
    bins = max(1, int(columns.profile.width_px / COARSE_SIGMA_PX))
    small, there = averaged(image, bins), averaged(area.astype(np.float64), bins) > 0.5
    dual = bins * np.linalg.inv(np.column_stack([like.a_px, like.b_px]))
    flat = np.where(there, small, gaussian_filter(small, like.a_px_iso / bins))
    g = polished(flat, turned(np.stack([dual[0], dual[0] + dual[1]]), turn_deg))
    grid = of_spots(g, flat, there, coarse(columns, bins))
    return enlarged(grid, bins, (image.shape[0], image.shape[1])) if bins > 1 else grid
