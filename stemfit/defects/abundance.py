"""Whether exchanged atoms are rare in this crystal, or so many that it is an alloy to some degree.

Below a tenth of guests a crystal is not called an alloy, and its guests are listed one by one. But where two hundred
columns are as bright as an exchanged atom, the next one is no antisite: elements that mix are abundant at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from stemfit.imaging import Amplitude
from stemfit.lattice.alloy import PRIORS

FloatArray = NDArray[np.float64]

MIXED = {frozenset(elements): share for elements, share in PRIORS.items()}
"""Share of the samples in which these are mixed, before the image is asked."""

DENSITIES = np.geomspace(1e-3, 0.2, 24)
"""Share of columns with a guest in a sample that is mixed, each as probable as the next beforehand."""


def abundance(elements: frozenset[str], rare: float, likelihood: FloatArray, otherwise: FloatArray) -> float:
    """Share of columns that hold a guest, by what all columns say.

    Parameters
    ----------
    elements : frozenset of str
        Guest and host element.
    rare : float
        The share in a sample that is not mixed.
    likelihood, otherwise : (K,) array
        Natural logarithm of the likelihood of each column with the guest, and with anything else.
    """
    mixed = MIXED.get(elements, 0.0)
    if mixed == 0.0:
        return rare
    density = np.append(rare, DENSITIES)
    prior = np.append(1 - mixed, np.full(len(DENSITIES), mixed / len(DENSITIES)))
    ratio = likelihood - otherwise
    evidence = [float(np.logaddexp(np.log1p(-d), np.log(d) + ratio).sum()) for d in density]
    weight = np.log(prior) + evidence
    return float(np.exp(weight - logsumexp(weight)) @ density)


def lighter_guests(
    level: Amplitude, empty: Amplitude, guests: Mapping[frozenset[str], Amplitude]
) -> dict[frozenset[str], float]:
    """Whether the columns that look as if they had lost an atom hold a lighter one that mixes with the host's instead.

    All of them are of one kind beforehand: which one, their common brightness says as well as the table allows.

    Parameters
    ----------
    level : Amplitude
        Brightness of the dim columns, as learned on the image.
    empty : Amplitude
        Of a column that lost one of its two atoms, from the table.
    guests : mapping of (guest, host element) to Amplitude
        Of a column that holds a guest, from the table.

    Returns
    -------
    dict of (guest, host element) to float
        Probability of each; what is missing to one is that of vacancies.
    """

    def likelihood(table: Amplitude) -> float:
        sigma = float(np.hypot(table.sigma, level.sigma))
        return float(np.exp(-0.5 * ((level.value - table.value) / sigma) ** 2) / sigma)

    mixed = {pair: MIXED.get(pair, 0.0) for pair in guests}
    weight = {pair: mixed[pair] * likelihood(table) for pair, table in guests.items()}
    total = sum(weight.values()) + (1 - sum(mixed.values())) * likelihood(empty)
    return {pair: w / total for pair, w in weight.items()} if total > 0 else dict.fromkeys(guests, 0.0)
