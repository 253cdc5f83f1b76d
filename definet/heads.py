"""What is read off the nodes at the end: springs between the atoms, and how uncertain each position is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from definet.blocks import Edges, ScaledSiLU, project

STIFFEST_eV_A2 = 40.0
"""Largest stiffness along an edge; a bond of these hosts has 5 to 25 (graphene 40), the sum over all shells in one."""
STIFFEST_ACROSS_eV_A2 = 10.0
PUSH_eV_A = 4.0
ANGULAR = 12
"""Channels of the angular functions."""


class Springs(NamedTuple):
    """Of every edge: force along it (E,), eV/A, positive apart; stiffness along and across it (E,), eV/A^2."""

    push: Tensor
    along: Tensor
    across: Tensor


class SpringHead(nn.Module):
    """How hard the two ends of each edge are pushed apart, and how stiffly they are held.

    Every function of an edge is symmetric in its ends, so that forces are central and opposite: they add up to no net
    force and no torque. Besides the product of both ends' scalars, an edge is told how it lies in the surroundings of
    its ends: their vectors along it, and (`degree` 2) the second moment of their neighbourhood, both summed over the
    ends. These angular invariants need no tensor products.
    """

    def __init__(self, channels: int, gaussians: int, degree: int) -> None:
        super().__init__()
        self.degree = degree
        self.x_proj = nn.Sequential(nn.Linear(channels, channels), ScaledSiLU(), nn.Linear(channels, channels))
        self.edge_proj = nn.Linear(gaussians, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, channels), ScaledSiLU(), nn.Linear(channels, 3))
        if degree >= 1:
            self.vec_proj = nn.Linear(channels, ANGULAR, bias=False)
        if degree >= 2:
            self.moment_proj = nn.Linear(channels, ANGULAR)
            self.moment_edge = nn.Linear(gaussians, ANGULAR)
        if degree >= 1:
            self.angular_proj = nn.Linear(ANGULAR * degree, channels)

    def forward(self, x: Tensor, vec: Tensor, edges: Edges) -> Springs:
        """Scalars (N, H), vectors (N, 3, H) -> springs of all edges."""
        source, target, fade = edges.sender % len(x), edges.target, edges.radial[:, -1]
        ends = self.x_proj(x)  # (N, H)
        both = ends.index_select(0, source) * ends.index_select(0, target)  # (E, H)
        both = both * project(self.edge_proj, edges.radial)
        angular: list[Tensor] = []
        if self.degree >= 1:
            own = self.vec_proj(vec)  # (N, 3, A)
            along = own.index_select(0, target) - own.index_select(0, source)  # (E, 3, A)
            angular.append((along * edges.direction[:, :, None]).sum(1))
        if self.degree >= 2:
            angular.append(self._second_moments(x, source, edges))
        if angular:
            both = both + self.angular_proj(torch.cat(angular, 1))
        push, along, across = self.mlp(both).to(fade.dtype).unbind(1)
        return Springs(
            PUSH_eV_A * push * fade,
            STIFFEST_eV_A2 * torch.sigmoid(along - 3) * fade,
            STIFFEST_ACROSS_eV_A2 * torch.sigmoid(across - 1) * fade,
        )

    def _second_moments(self, x: Tensor, source: Tensor, edges: Edges) -> Tensor:
        """Spherical harmonics of degree 2, summed over the neighbours of both ends, along the edge: (E, A)."""
        from e3nn.o3 import spherical_harmonics

        harmonics = spherical_harmonics(2, edges.direction, normalize=False, normalization="component")  # (E, 5)
        sent = self.moment_proj(x).index_select(0, source) * project(self.moment_edge, edges.radial)  # (E, A)
        parts = sent[:, None] * harmonics[:, :, None]  # (E, 5, A)
        moment = 0.2 * parts.new_zeros(len(x), *parts.shape[1:]).index_add(0, edges.target, parts)  # (N, 5, A)
        both = moment.index_select(0, edges.target) + moment.index_select(0, source)  # (E, 5, A)
        invariant: Tensor = (both * harmonics[:, :, None]).sum(1)
        return invariant


class SigmaHead(nn.Module):
    """Standard error of each position, from what the network knows of the node and how far it moved it.

    Reads detached values: asking for the uncertainty does not change the prediction.
    """

    HIDDEN = 16

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Linear(self.HIDDEN, 1)
        nn.init.constant_(last.bias, -4.0)
        self.mlp = nn.Sequential(nn.Linear(channels + 2, self.HIDDEN), ScaledSiLU(), last)

    def forward(self, x: Tensor, displacement: Tensor, mean_length: Tensor) -> Tensor:
        """Scalars (N, H), displacements (N, 3) A, their mean length in the structure of each node (N,) -> (N,) A."""
        lengths = torch.stack([displacement.norm(dim=1), mean_length], 1).detach()  # (N, 2)
        logs = torch.log(lengths + 1e-3) / 3
        value: Tensor = self.mlp(torch.cat([x.detach().to(logs.dtype), logs], 1))
        return torch.exp(value.squeeze(1).clamp(-9, 1))
