"""`fields.npz`: what the microscope did from place to place, for whoever draws the image of a result again.

Arrays: `background` (image units) and `gain`, (H, W), rounded to a ten-thousandth of what they span so that the file is
small; `distortion_px` (GY, GX, 2), displacement (x, y) of the scan from the affine cell on a regular grid spanning the
image, corners included, without the jitter of rows; `row_offset_px` (H,), that jitter: row r shows at x + offset what
an unjittered scan shows at x; `row_width_px` (), width of the columns whose place is the mean over their rows;
`measured` (K, 4), x, y (px, without jitter), integral and 1 on a site, 0 beside, of the
columns that are drawn as they were measured because no structure tells of them; on sites, in place of its atoms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from stemfit.errors import InputError
from stemfit.result.findings import Findings

FloatArray = NDArray[np.float64]

NAME = "fields.npz"

STEPS = 10_000
"""In which what a field spans is divided."""


class Fields(NamedTuple):
    """The arrays of the file."""

    background: FloatArray
    gain: FloatArray
    distortion_px: FloatArray
    row_offset_px: FloatArray
    row_width_px: FloatArray
    measured: FloatArray


def write_fields(folder: Path, analysis: Findings) -> None:
    """Write the file, where the analysis knows of rows and measured columns."""
    if analysis.rows is None or analysis.measured is None:
        return
    fields = Fields(
        _rounded(analysis.imaging.background), _rounded(analysis.imaging.gain), analysis.lattice.distortion_px,
        analysis.rows.offset_px, np.array(analysis.rows.width_px), analysis.measured,
    )
    single: dict[str, Any] = {name: np.asarray(values, dtype=np.float32) for name, values in fields._asdict().items()}
    np.savez_compressed(folder / NAME, **single)


def read_fields(folder: Path) -> Fields | None:
    """Read the file; None where there is none.

    Raises
    ------
    InputError
        If it is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with np.load(path) as stored:
            found = Fields(*(np.asarray(stored[name], dtype=np.float64) for name in Fields._fields))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        what = f"cannot be read ({type(error).__name__})"
        raise InputError(what, remedy="analyse the image again", subject=path) from None
    whole = found.background.shape
    if len(whole) != 2 or found.gain.shape != whole or found.measured.shape[1:] != (4,) or len(
        found.row_offset_px
    ) != whole[0]:
        raise InputError("its arrays do not belong together", remedy="analyse the image again", subject=path)
    return found


def _rounded(field: FloatArray) -> FloatArray:
    step = float(np.ptp(field)) / STEPS
    low = float(field.min())
    return low + step * np.rint((field - low) / step) if step > 0 else field
