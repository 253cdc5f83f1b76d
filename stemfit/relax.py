"""The seam between image and theory: candidates in, relaxed structures out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stemfit.candidates import Candidate

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Relaxed:
    """Relaxed nodes of one candidate.

    Attributes
    ----------
    positions_A : (N, 3) array
        Cartesian, same order and frame as the candidate's structure (vacancy nodes included, unmoved).
    sigma_A : (N,) array or None
        Standard error of each position per axis, where the relaxer states one.
    relaxer : str
        "keep", "definet" or "teacher:<name>".
    checkpoint_sha256 : str or None
    """

    positions_A: FloatArray
    sigma_A: FloatArray | None
    relaxer: str
    checkpoint_sha256: str | None


Relaxer = Callable[[Sequence["Candidate"]], Sequence[Relaxed]]
