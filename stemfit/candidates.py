"""The atomic structures that could explain each defect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from definet.structures import DefectStructure

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A periodic patch of the host with one hypothesis in it, and where it lies in the image.

    Attributes
    ----------
    id : str
        "<defect id>-<k>", k from 1.
    defect : int
        Id of the defect that it may explain.
    type, label : str
        As in Defect; label "pristine" for the perfect crystal.
    structure : DefectStructure
        Patch in the crystal frame (Angstrom, right-handed, y up), with defect markers.
    center_A : (2,) array
        Centre of the hypothesis in the patch.
    matrix, offset_px : (2, 2), (2,) array
        p_px = matrix @ r_A + offset_px at the defect, local distortion included.
    log_prior : float
        Natural logarithm; relative among the candidates of one defect.
    """

    id: str
    defect: int
    type: str
    label: str
    structure: DefectStructure
    center_A: FloatArray
    matrix: FloatArray
    offset_px: FloatArray
    log_prior: float
