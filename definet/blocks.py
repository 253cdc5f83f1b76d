"""Building blocks of the network: radial functions, gated messages, updates, and the exchange with the whole structure.

Yang et al., arXiv:2503.15391. Parameter names are those of the authors' checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


class ScaledSiLU(nn.Module):
    """SiLU / 0.6, which keeps unit variance."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return silu(x) * (1 / 0.6)


class VectorActivation(nn.Module):
    """Nonlinearity on vectors: halve towards a learned direction where a channel points against it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lin_vec = nn.Linear(channels, channels, bias=False)
        self.lin_gvec = nn.Linear(channels, 1, bias=False)

    def forward(self, vec: Tensor) -> Tensor:
        """(N, 3, H) -> (N, 3, H)."""
        lin = self.lin_vec(vec)  # (N, 3, H)
        guide = self.lin_gvec(vec)  # (N, 3, 1)
        aligned = (lin * guide).sum(1, keepdim=True) >= 0  # (N, 1, H)
        return torch.where(aligned, lin, 0.5 * (lin + guide))  # (N, 3, H)


def envelope(x: Tensor) -> Tensor:
    """1 - 21 x^5 + 35 x^6 - 15 x^7, zero from x = 1 on with two continuous derivatives (Gasteiger et al., 2020)."""
    return torch.where(x < 1, 1 + x**5 * (-21 + x * (35 - 15 * x)), torch.zeros_like(x))


class RadialBasis(nn.Module):
    """Gaussians of the edge length under an envelope."""

    offset: Tensor

    def __init__(self, gaussians: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.coefficient = -0.5 * (gaussians - 1) ** 2
        self.register_buffer("offset", torch.linspace(0, 1, gaussians, device="cpu"), persistent=False)

    def forward(self, length: Tensor) -> Tensor:
        """(E,) Angstrom -> (E, K)."""
        x = length / self.cutoff  # (E,)
        gaussian = torch.exp(self.coefficient * (x[:, None] - self.offset).square())  # (E, K)
        return envelope(x)[:, None] * gaussian  # (E, K)


@dataclass(frozen=True, eq=False)
class Edges:
    """What a layer needs of the edges: for each node a row of K places, filled with the edges that end there.

    Rows of equal length let sums over neighbours be plain sums or matrix products. In an empty place everything is
    zero, so that it adds nothing.

    Attributes
    ----------
    source, sender : (N K,)
        Node at the other end; its place in a table (3 N) of every node as each of the three kinds of receiver sees it.
    direction : (N, K, 3)
        Unit vectors from the sender.
    radial : (N K, B + 1)
        Radial basis; the last column multiplies the biases of the projections.
    place : (E,)
        Of each edge of the graph.
    """

    source: Tensor
    sender: Tensor
    direction: Tensor
    radial: Tensor
    place: Tensor

    def rows(self, values: Tensor) -> Tensor:
        """(N K, ...) -> (N, K, ...)."""
        return values.view(*self.direction.shape[:2], *values.shape[1:])


class Kinds(NamedTuple):
    """Marker of each node (N,) and embedding of the three markers (3, H)."""

    marker: Tensor
    embedding: Tensor


def seen_by_marker(sent: Tensor, own: Tensor, markers: Tensor) -> Tensor:
    """Gate what nodes send by the sum of the marker projections of both ends, for each marker of the receiver.

    The published network adds the projections on every edge; three rows per node hold all sums that there are.

    (N, C), (N, C), (3, C) -> (3 N, C).
    """
    return (sent * (own + markers[:, None])).flatten(0, 1)


def project(linear: nn.Linear, radial: Tensor, first: int = 0) -> Tensor:
    """Linear map of all columns but the last, its bias times that one: (E, B + 1) -> (E, C), from output `first` on."""
    return radial @ torch.cat([linear.weight, linear.bias[:, None]], 1)[first:].T


class MessagePassing(nn.Module):
    """Scalar and vector messages from neighbours, gated by the markers of both ends."""

    def __init__(self, channels: int, gaussians: int) -> None:
        super().__init__()
        self.defect_proj = nn.Linear(channels, 3 * channels)
        self.x_proj = nn.Sequential(
            nn.Linear(channels, channels // 2), ScaledSiLU(), nn.Linear(channels // 2, 3 * channels)
        )
        self.edge_proj = nn.Linear(gaussians, 3 * channels)
        self.vec_activation = VectorActivation(channels)

    def forward(self, x: Tensor, vec: Tensor | None, kinds: Kinds, edges: Edges) -> tuple[Tensor, Tensor]:
        """Scalars (N, H), vectors (N, 3, H), or None while they are all zero -> updates of both."""
        h = x.shape[1]
        first = 0 if vec is not None else h  # what carries vectors on comes first
        markers = self.defect_proj(kinds.embedding)  # (3, 3H)
        sent = self.x_proj(x) / math.sqrt(3)  # (N, 3H)
        table = seen_by_marker(
            sent[:, first:], markers.index_select(0, kinds.marker)[:, first:], markers[:, first:]
        )  # (3N, C)
        message = table.index_select(0, edges.sender) * project(self.edge_proj, edges.radial, first)  # (N K, C)
        *along_vec, along_edge, scalar = edges.rows(message).split(h, dim=2)  # (N, K, H) each
        dvec = torch.bmm(edges.direction.transpose(1, 2), along_edge.to(edges.direction.dtype))  # (N, 3, H)
        if vec is not None:
            carried = edges.rows(vec.index_select(0, edges.source))  # (N, K, 3, H)
            dvec = dvec + (carried * along_vec[0][:, :, None]).sum(1)
        return scalar.sum(1), self.vec_activation(dvec / math.sqrt(h))


class MessageUpdate(nn.Module):
    """Scalars and vectors of one node mix."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.vec_proj = nn.Linear(channels, 2 * channels, bias=False)
        self.xvec_proj = nn.Sequential(
            nn.Linear(2 * channels, channels), ScaledSiLU(), nn.Linear(channels, 3 * channels)
        )
        self.vec_activation = VectorActivation(channels)

    def forward(self, x: Tensor, vec: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (N, H), vectors (N, 3, H) -> both updated."""
        h = x.shape[1]
        v1, v2 = self.vec_proj(vec).split(h, dim=2)  # (N, 3, H) each
        norm = torch.sqrt(v2.square().sum(1) + 1e-8)  # (N, H)
        p1, p2, p3 = self.xvec_proj(torch.cat([x, norm], 1)).split(h, dim=1)  # (N, H) each
        x = (x + p2 / math.sqrt(2) + x * torch.tanh(p3)) / math.sqrt(2)  # (N, H)
        return x, vec + self.vec_activation(p1[:, None] * v1)


class CoordUpdate(nn.Module):
    """How far each node moves: a vector channel plus pushes along the edges."""

    def __init__(self, channels: int, gaussians: int) -> None:
        super().__init__()
        self.lin_vec2coord = nn.Linear(channels, 1, bias=False)
        self.defect_proj = nn.Linear(channels, channels)
        self.x_proj = nn.Sequential(nn.Linear(channels, channels), ScaledSiLU(), nn.Linear(channels, channels))
        self.edge_proj = nn.Linear(gaussians, channels)
        self.coord_mlp = nn.Sequential(nn.Linear(channels, channels), ScaledSiLU(), nn.Linear(channels, 1))

    def forward(self, x: Tensor, vec: Tensor, kinds: Kinds, edges: Edges) -> Tensor:
        """Displacement of this layer, (N, 3) Angstrom."""
        markers = self.defect_proj(kinds.embedding)  # (3, H)
        table = seen_by_marker(self.x_proj(x), markers.index_select(0, kinds.marker), markers)  # (3N, H)
        message = table.index_select(0, edges.sender) * project(self.edge_proj, edges.radial)  # (N K, H)
        push = edges.rows(self.coord_mlp(message) * edges.radial[:, -1:]) * edges.direction  # (N, K, 3)
        own: Tensor = self.lin_vec2coord(vec).squeeze(2)  # (N, 3)
        return 0.5 * (own + push.sum(1))


class VirtualScalar(nn.Module):
    """Exchange between the scalars of the nodes and those of the structure as a whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp_vn = _two_layers(channels)
        self.mlp_node = _two_layers(channels)

    def down(self, x: Tensor, vx: Tensor, batch: Tensor) -> Tensor:
        """Structure to nodes: (N, H), (G, H) -> (N, H)."""
        update: Tensor = self.mlp_node(torch.cat([x, vx.index_select(0, batch)], 1))  # (N, H)
        return x + update

    def up(self, mean: Tensor, vx: Tensor) -> Tensor:
        """Nodes to structure: mean scalars (G, H), (G, H) -> (G, H)."""
        update: Tensor = self.mlp_vn(torch.cat([mean, vx], 1))  # (G, H)
        return vx + update


class VirtualVector(nn.Module):
    """Exchange between the vectors of the nodes and those of the structure as a whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp_vn = nn.Linear(channels, channels, bias=False)
        self.mlp_node = nn.Linear(channels, channels, bias=False)

    def down(self, vec: Tensor, vvec: Tensor, batch: Tensor) -> Tensor:
        """Structure to nodes: (N, 3, H), (G, 3, H) -> (N, 3, H)."""
        update: Tensor = self.mlp_node(vec + vvec.index_select(0, batch))  # (N, 3, H)
        return vec + update

    def up(self, mean: Tensor, vvec: Tensor) -> Tensor:
        """Nodes to structure: mean vectors (G, 3, H), (G, 3, H) -> (G, 3, H)."""
        update: Tensor = self.mlp_vn(mean + vvec)  # (G, 3, H)
        return vvec + update


def drawn(rows: int, columns: int) -> Tensor:
    """Normal values (rows, columns), as PyTorch draws for an embedding: a seed stands for the same network as ever.

    Without memory (the meta device, on which weights are loaded) drawing would load PyTorch's compiler, for a second.
    """
    values = torch.empty(rows, columns)
    return values if values.is_meta else values.normal_()


class Embedding(nn.Module):
    """Table with rows drawn from U(-sqrt 3, sqrt 3), which has unit variance."""

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(rows, channels, _weight=drawn(rows, channels))
        nn.init.uniform_(self.embeddings.weight, -math.sqrt(3), math.sqrt(3))

    def forward(self, index: Tensor) -> Tensor:
        """(N,) -> (N, H)."""
        rows: Tensor = self.embeddings(index)
        return rows


def _two_layers(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * channels, channels), ScaledSiLU(), nn.Linear(channels, channels), ScaledSiLU())
