"""Whether the most probable of all that was thought of is good enough: or something else is there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

FloatArray = NDArray[np.float64]

WRONG = 100.0
"""A structure that is none of the candidates leaves up to this many times the misfit that is allowed to a right one:
what the perfect crystal leaves on a vacancy."""


class Misfit(NamedTuple):
    """How far the image is from a structure in the brightness and the positions of the columns at a defect.

    Attributes
    ----------
    chi2 : float
        Squared distance of the image, projected on these columns, from what the structure predicts, in units of its
        covariance: noise and everything that the structure does not fix.
    freedom : int
        Its expectation if the structure is right and the allowances are exact; they are upper bounds.
    """

    chi2: float
    freedom: int

    @property
    def log_bayes_factor(self) -> float:
        """Natural logarithm of the odds of "something else is here" against this structure, given the misfit.

        A structure that is wrong leaves a misfit larger by a factor of which nothing is known but that it lies between
        one and `WRONG`; its logarithm is integrated out. A right one may leave less than is allowed to it: its factor
        is the one below one that suits the misfit best.
        """
        if self.freedom == 0:
            return 0.0
        scale = np.linspace(0.0, np.log(WRONG), 200)
        wrong = float(logsumexp(self._log_likelihood(scale)) - np.log(len(scale)))
        return wrong - float(self._log_likelihood(np.minimum(np.log(max(self.chi2, 1e-3) / self.freedom), 0.0)))

    def _log_likelihood(self, log_scale: FloatArray) -> FloatArray:
        return np.asarray(-0.5 * self.freedom * log_scale - 0.5 * self.chi2 * np.exp(-log_scale))


def misfit_of(gram: FloatArray, projected: FloatArray, tested: NDArray[np.intp]) -> Misfit:
    """Distance of what was seen of some parameters from what is expected.

    The residual r of a right structure has the covariance W^-1 + J J^T (noise, and the parameters J with their prior
    widths), hence J_t^T W r has G_tt + G_ta G_at, with G = J^T W J: a score test.

    Parameters
    ----------
    gram : (P, P) array
        J^T W J of all parameters.
    projected : (P,) array
        J^T W r.
    tested : (K,) array of int
        Parameters t.
    """
    covariance = gram[np.ix_(tested, tested)] + gram[tested] @ gram[:, tested]
    seen = projected[tested]
    width = np.sqrt(np.diag(covariance))
    use = width > 1e-9 * width.max(initial=0.0)
    width, seen = width[use], seen[use]
    value, vector = np.linalg.eigh(covariance[np.ix_(use, use)] / np.outer(width, width))
    sound = value > 1e-3  # columns that overlap say the same thing twice
    return Misfit(float(np.sum((vector.T[sound] @ (seen / width)) ** 2 / value[sound])), int(sound.sum()))
