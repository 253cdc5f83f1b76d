"""Images with known truth: Gaussian-column crystals, and what a microscope does to any noise-free image.

Positions are pixels (x, y): x right along axis 1, y down along axis 0, (0, 0) the centre of the top-left pixel.
Everything is drawn from one seed. Nothing here is shared with the simulation that analyses images, so that agreement
between the two means something.
"""

from __future__ import annotations

from stemfit.synthetic.acquisition import (
    Acquisition,
    Recording,
    ScanMap,
    SmoothField,
    acquire,
    as_micrograph,
    record,
    smooth_field,
)
from stemfit.synthetic.gaussians import (
    ColumnShape,
    Crystal,
    TrueColumns,
    TrueDefect,
    cell_vectors,
    crystal,
    fit_cell,
    lattice_sites,
    render,
)

__all__ = [
    "Acquisition",
    "ColumnShape",
    "Crystal",
    "Recording",
    "ScanMap",
    "SmoothField",
    "TrueColumns",
    "TrueDefect",
    "acquire",
    "as_micrograph",
    "cell_vectors",
    "crystal",
    "fit_cell",
    "lattice_sites",
    "record",
    "render",
    "smooth_field",
]
