"""What is read off the nodes at the end: springs between the atoms, and how uncertain each position is."""

from __future__ import annotations

import math
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
    """Of P pairs: force along them (P,), eV/A, positive apart; stiffness along and across (P,), eV/A^2."""

    push: Tensor
    along: Tensor
    across: Tensor


class SpringHead(nn.Module):
    """How hard the two ends of each edge are pushed apart, and how stiffly they are held.

    Computed once for each pair of opposite edges, and symmetric in their ends, so that forces are central and opposite:
    those between atoms add up to no net force and no torque (empty sites push, too, and nothing holds them). Besides
    the product of both ends' scalars, a pair is told how it lies in the surroundings of its ends: their vectors along
    it, and (`degree` 2) the second moment of their neighbourhood, both summed over the ends. These angular invariants
    need no tensor products.
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

    def forward(self, x: Tensor, vec: Tensor, edges: Edges, there: Tensor, back: Tensor) -> Springs:
        """Scalars (N, H), vectors (N, 3, H), places of all pairs' edges and of the opposite ones (P,) -> springs."""
        ends, radial = self.x_proj(x), edges.radial.index_select(0, there)  # (N, H), (P, B + 1)
        both = ends.index_select(0, edges.source[back]) * ends.index_select(0, edges.source[there])  # (P, H)
        both = both * project(self.edge_proj, radial)
        if self.degree:
            seen = self._surroundings(x, vec, edges).flatten(0, 1)  # (N K, A)
            both = both + self.angular_proj(seen.index_select(0, there) + seen.index_select(0, back))
        fade = radial[:, -1]
        push, along, across = self.mlp(both).to(fade.dtype).unbind(1)
        return Springs(
            PUSH_eV_A * push * fade,
            STIFFEST_eV_A2 * torch.sigmoid(along - 3) * fade,
            STIFFEST_ACROSS_eV_A2 * torch.sigmoid(across - 1) * fade,
        )

    def _surroundings(self, x: Tensor, vec: Tensor, edges: Edges) -> Tensor:
        """What the receiver of each edge knows of its direction: (N, K, A)."""
        own = self.vec_proj(vec)  # (N, 3, A)
        along = torch.bmm(edges.direction, own.to(edges.direction.dtype))  # (N, K, A)
        if self.degree < 2:
            return along
        harmonics = quadrupoles(edges.direction)  # (N, K, 5)
        sent = self.moment_proj(x).index_select(0, edges.source) * project(self.moment_edge, edges.radial)  # (N K, A)
        moment = 0.2 * torch.bmm(harmonics.transpose(1, 2), edges.rows(sent).to(harmonics.dtype))  # (N, 5, A)
        return torch.cat([along, torch.bmm(harmonics, moment)], 2)


def quadrupoles(direction: Tensor) -> Tensor:
    """Real spherical harmonics of degree 2 of (..., 3) unit vectors, mean square 1 over the sphere: (..., 5).

    Axis and order as in e3nn (`o3.spherical_harmonics`, normalization "component"), which the tests hold it against;
    importing that for five products costs more than all else that the network does for an image.
    """
    x, y, z = direction.unbind(-1)
    return torch.stack(
        [
            math.sqrt(15) * x * z, math.sqrt(15) * x * y, math.sqrt(5) * (y**2 - 0.5 * (x**2 + z**2)),
            math.sqrt(15) * y * z, 0.5 * math.sqrt(15) * (z**2 - x**2),
        ], -1,
    )  # fmt: skip


class EnergyHead(nn.Module):
    """Energy gained, from that of the springs: where they rest says only how their stiffnesses compare.

    Reads detached values, as every head that is not about positions: a loss of the energy that reaches the springs
    costs a third of the accuracy of the positions at equal time.
    """

    HIDDEN = 16

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Linear(self.HIDDEN, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(channels, self.HIDDEN), ScaledSiLU(), last)

    def forward(self, x: Tensor, stored: Tensor) -> Tensor:
        """Scalars (A, H), energy of the springs at each atom (A,), eV -> energy gained there (A,), eV."""
        scale: Tensor = self.mlp(x.detach()).squeeze(1)
        return stored.detach() * torch.exp(scale.to(stored.dtype).clamp(-5, 5))


class SigmaHead(nn.Module):
    """Standard error of each position, from what the network knows of the node and its structure, and how far it moved.

    Reads detached values: asking for the uncertainty does not change the prediction.
    """

    HIDDEN = 24

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Linear(self.HIDDEN, 1)
        nn.init.constant_(last.bias, -4.0)
        self.mlp = nn.Sequential(nn.Linear(2 * channels + 2, self.HIDDEN), ScaledSiLU(), last)

    def forward(self, x: Tensor, mean_x: Tensor, displacement: Tensor, mean_length: Tensor) -> Tensor:
        """Scalars (N, H), displacements (N, 3) A, and the mean of both in the structure of each node -> (N,) A."""
        lengths = torch.stack([displacement.norm(dim=1), mean_length], 1).detach()  # (N, 2)
        logs = torch.log(lengths + 1e-3) / 3
        known = torch.cat([x, mean_x], 1).detach().to(logs.dtype)  # (N, 2 H)
        value: Tensor = self.mlp(torch.cat([known, logs], 1))
        return torch.exp(value.squeeze(1).clamp(-9, 1))
