"""What training minimises: errors of positions, of the energy gained, and of the stated uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from definet.graph import DefectGraph, without_drift
from definet.model import Prediction

ENERGY_A = 0.01
"""Weight of a relative error of the energy, in Angstrom: a tenth wrong costs what a picometre costs."""
SOFT_eV = 0.5
"""Energies below this count absolutely: a defect that gains little is not worth its relative error."""


class Target(NamedTuple):
    """Displacements to the relaxed places (N, 3), Angstrom, and energy gained (G,), eV; not a number if unknown."""

    displacement: Tensor
    energy_drop: Tensor


def errors(graph: DefectGraph, predicted: Tensor, wanted: Tensor) -> Tensor:
    """Position errors of the atoms (A, 3), Angstrom, rigid shifts aside."""
    return without_drift(graph, predicted - wanted)[graph.occupied]


def position_loss(error: Tensor) -> Tensor:
    """Mean length of errors (A, 3), Angstrom: the loss of Yang et al., arXiv:2503.15391."""
    return (error.square().sum(1) + 1e-12).sqrt().mean()


def total_loss(graph: DefectGraph, predicted: Prediction, target: Target) -> Tensor:
    """Sum of all terms, each a mean over the atoms: shares of a batch add up by their atoms."""
    error = errors(graph, predicted.displacement, target.displacement)  # (A, 3)
    value = position_loss(error)
    if predicted.energy_drop is not None:
        value = value + ENERGY_A * energy_loss(graph, predicted.energy_drop, target.energy_drop)
    if predicted.sigma is not None:
        value = value + sigma_loss(predicted.sigma[graph.occupied], error.detach())
    return value


def energy_loss(graph: DefectGraph, predicted: Tensor, wanted: Tensor) -> Tensor:
    """Relative error of energies (G,), soft at small ones, weighted by atoms; unknown ones do not count."""
    known = wanted.isfinite()
    wrong = (predicted - wanted.nan_to_num()).abs() / (SOFT_eV + wanted.nan_to_num().abs())  # (G,)
    return torch.where(known, wrong, torch.zeros_like(wrong))[graph.batch[graph.occupied]].mean()


def sigma_loss(sigma: Tensor, error: Tensor) -> Tensor:
    """Likelihood of errors (A, 3) that are normal with standard deviation sigma (A,) along each axis.

    Each term is weighted by sigma, so that atoms with small errors do not rule (Seitzer et al., ICLR 2022, beta-NLL).
    """
    squared = error.square().mean(1)  # (A,)
    likelihood = torch.log(sigma) + squared / (2 * sigma.square())
    return (sigma.detach() * likelihood).mean()


def excess(sigma: Tensor, error: Tensor) -> Tensor:
    """Squared errors in units of the stated variance, (A,): one on average if sigma is true."""
    return error.square().mean(1) / sigma.square()
