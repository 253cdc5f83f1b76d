"""How well each candidate explains the image, and how sure that makes us."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One candidate against the image.

    Attributes
    ----------
    candidate : str
        Id of the candidate.
    log_likelihood : float
        Natural logarithm of the evidence of the patch, nuisances marginalised; comparable within one defect.
    posterior : float
        Over the candidates of the defect.
    in_95_set : bool
        Member of the smallest set with 95 % of the posterior.
    ncc, ssim, reduced_chi2 : float
        Secondary measures on the patch.
    evidence_relaxed_minus_unrelaxed : float
        Natural logarithm.
    max_displacement_A : float
        Largest displacement of an atom by the relaxer.
    tie_with : tuple of str
        Candidates that this image cannot tell from this one.
    """

    candidate: str
    log_likelihood: float
    posterior: float
    in_95_set: bool
    ncc: float
    ssim: float
    reduced_chi2: float
    evidence_relaxed_minus_unrelaxed: float
    max_displacement_A: float
    tie_with: tuple[str, ...]
