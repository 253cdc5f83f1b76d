"""What relaxation energies say beforehand of structures with the same name, for those who want to believe it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import constants
from scipy.special import logsumexp

from stemfit.candidates import Candidate
from stemfit.relax import Relaxed

BOLTZMANN_EV_K = constants.k / constants.e


def with_energies(
    candidates: Sequence[Candidate], relaxed: Sequence[Relaxed], temperature_K: float | None
) -> tuple[Candidate, ...]:
    """Candidates whose prior follows Boltzmann among structures of one defect with the same name and atoms.

    The probability of the name stays. Relaxers state how much energy a structure gives off, not what it had before:
    that is taken as equal, because structures of one name lack the same bonds. Under a beam nothing is in equilibrium.
    Hence off unless a temperature is given.

    Parameters
    ----------
    candidates : sequence of Candidate
    relaxed : sequence of Relaxed
        One for each; where one of a name has no energy, all of that name keep their prior.
    temperature_K : float or None
        At which the structures formed; None leaves all priors alone.
    """
    if temperature_K is None:
        return tuple(candidates)
    groups: defaultdict[tuple[int, str, bytes], list[int]] = defaultdict(list)
    for k, c in enumerate(candidates):
        atoms = np.sort(c.structure.numbers[c.structure.occupied])
        groups[c.defect, c.label, atoms.tobytes()].append(k)
    changed = list(candidates)
    for rows in groups.values():
        drops = [relaxed[k].energy_drop_eV for k in rows]
        known = np.array([drop for drop in drops if drop is not None])
        if len(known) < len(rows):
            continue
        before = np.array([candidates[k].log_prior for k in rows])
        after = before + known / (BOLTZMANN_EV_K * temperature_K)
        after += logsumexp(before) - logsumexp(after)
        for k, log_prior in zip(rows, after.tolist(), strict=True):
            changed[k] = replace(candidates[k], log_prior=log_prior)
    return tuple(changed)
