"""The defect-informed equivariant network: unrelaxed structure in, displacements to the relaxed one out.

Yang et al., *Modeling crystal defects using defect-informed neural networks*, arXiv:2503.15391 (npj Comput. Mater.,
2025). Scalars x (N, H) and vectors vec (N, 3, H) live on the nodes, a pair of the same kind (vx, vvec) on each
structure as a whole. Every node also carries the embedding of its defect marker, which gates each message, so that an
edge between a pristine atom and a vacancy is another kind of edge. The coordinates move after every layer.

Parameter names are those of the authors' checkpoints. Departures are switched by `ModelConfig`: the output may be made
continuous (`smooth`), the radial basis may be as short as the neighbourhood (published: 30 A over 6 A), and zero-length
self edges, an accident of the published neighbour search, may be left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from definet.graph import DefectGraph, graph_mean

N_MARKERS = 3


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the function computed by a set of weights.

    Attributes
    ----------
    channels, layers : int
        Width H of scalars and vectors; number of message passing layers, each with its own weights.
    gaussians : int
        Radial basis functions K, equally spaced from 0 to `basis_cutoff`.
    cutoff : float
        Neighbours closer than this are connected, Angstrom. 5.45 splits no neighbour shell of the supported hosts.
    basis_cutoff : float
        Where the envelope of the messages reaches zero, Angstrom; 30 for the published configuration.
    elements : int
        Rows of the element embedding; row Z belongs to atomic number Z, so Z < elements.
    self_edges : bool
        Connect every node to itself, as weights from the published training pipeline expect.
    smooth : bool
        Let messages and pushes fade out at `cutoff`, and keep the geometry of the edges as it is in the unrelaxed
        structure. Then the output is continuous in the coordinates, and cheaper: as published (off), the biases of the
        projections act up to the cutoff and end there, and an edge lives on after its length has changed.
    """

    channels: int = 32
    layers: int = 3
    gaussians: int = 24
    cutoff: float = 5.45
    basis_cutoff: float = 5.45
    elements: int = 118
    self_edges: bool = False
    smooth: bool = True


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
        self.register_buffer("offset", torch.linspace(0, 1, gaussians), persistent=False)

    def forward(self, length: Tensor) -> Tensor:
        """(E,) Angstrom -> (E, K)."""
        x = length / self.cutoff  # (E,)
        gaussian = torch.exp(self.coefficient * (x[:, None] - self.offset).square())  # (E, K)
        return envelope(x)[:, None] * gaussian  # (E, K)


@dataclass(frozen=True, eq=False)
class Edges:
    """What a layer needs of the edges.

    `sender` (E,) points into a table (3 N) of every node as each of the three kinds of receiver sees it, `target` (E,)
    to the receiver. The last column of `radial` (E, K + 1) multiplies the biases of the projections.
    """

    sender: Tensor
    target: Tensor
    direction: Tensor
    radial: Tensor


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


def project(linear: nn.Linear, radial: Tensor) -> Tensor:
    """Linear map of the first K columns, its bias times the last one: (E, K + 1) -> (E, C)."""
    return radial @ torch.cat([linear.weight, linear.bias[:, None]], 1).T


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

    def forward(self, x: Tensor, vec: Tensor, kinds: Kinds, edges: Edges) -> tuple[Tensor, Tensor]:
        """Scalars (N, H), vectors (N, 3, H) -> updates of both."""
        n, h = x.shape
        markers = self.defect_proj(kinds.embedding)  # (3, 3H)
        table = seen_by_marker(
            self.x_proj(x) / math.sqrt(3), markers.index_select(0, kinds.marker), markers
        )  # (3N, 3H)
        message = table.index_select(0, edges.sender) * project(self.edge_proj, edges.radial)  # (E, 3H)
        along_vec, along_edge, scalar = message.split(h, dim=1)  # (E, H) each
        vector = vec.index_select(0, edges.sender % n) * along_vec[:, None]  # (E, 3, H)
        vector = torch.addcmul(vector, along_edge[:, None], edges.direction[:, :, None])  # (E, 3, H)
        dvec = vector.new_zeros(vec.shape).index_add(0, edges.target, vector) / math.sqrt(h)  # (N, 3, H)
        dx = scalar.new_zeros(x.shape).index_add(0, edges.target, scalar)  # (N, H)
        return dx, self.vec_activation(dvec)


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
        message = table.index_select(0, edges.sender) * project(self.edge_proj, edges.radial)  # (E, H)
        push = self.coord_mlp(message) * edges.radial[:, -1:] * edges.direction  # (E, 3)
        own: Tensor = self.lin_vec2coord(vec).squeeze(2)  # (N, 3)
        return 0.5 * own.to(push.dtype).index_add(0, edges.target, push)


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


Layer = tuple[VirtualScalar, VirtualVector, MessagePassing, MessageUpdate, CoordUpdate]


class DefiNet(nn.Module):
    """The network. Deterministic and stateless: everything it knows is in `config` and the weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        h, k = config.channels, config.gaussians
        self.config = config
        self.atom_emb = _Embedding(config.elements, h)
        self.defect_emb = _Embedding(N_MARKERS, h)
        self.lin_comb = nn.Linear(2 * h, h)
        self.vn_emb = nn.Embedding(1, h)
        self.radial_basis = RadialBasis(k, config.basis_cutoff)
        self.virtual_scalar_layers = nn.ModuleList(VirtualScalar(h) for _ in range(config.layers))
        self.virtual_vector_layers = nn.ModuleList(VirtualVector(h) for _ in range(config.layers))
        self.message_passing_layers = nn.ModuleList(MessagePassing(h, k) for _ in range(config.layers))
        self.message_update_layers = nn.ModuleList(MessageUpdate(h) for _ in range(config.layers))
        self.coord_update_layers = nn.ModuleList(CoordUpdate(h, k) for _ in range(config.layers))
        nn.init.zeros_(self.vn_emb.weight)

    def forward(self, graph: DefectGraph) -> Tensor:
        """Predict displacements of all nodes, (N, 3) Angstrom; those of vacancy nodes have no meaning."""
        return self.layer_positions(graph)[-1] - graph.positions

    def layer_positions(self, graph: DefectGraph) -> list[Tensor]:
        """Coordinates after each layer, L tensors of (N, 3) Angstrom; edges stay those of the unrelaxed structure."""
        kinds = Kinds(graph.marker, self.defect_emb.embeddings.weight)
        x = self.lin_comb(torch.cat([self.atom_emb(graph.numbers), self.defect_emb(graph.marker)], 1))  # (N, H)
        vec = x.new_zeros(len(x), 3, x.shape[1])  # (N, 3, H)
        vx = self.vn_emb.weight.expand(graph.n_structures, -1)  # (G, H)
        vvec = x.new_zeros(graph.n_structures, 3, x.shape[1])  # (G, 3, H)
        cells = graph.cell[graph.batch[graph.edge_index[0]]]  # (E, 3, 3)
        shift = (graph.edge_offset[:, :, None] * cells).sum(1)  # (E, 3), no product that mixed precision would round
        positions, edges = graph.positions, self._edges(graph, graph.positions, shift)  # (N, 3)
        trace: list[Tensor] = []
        for scalar, vector, message, update, coordinate in self._layers():
            if trace and not self.config.smooth:
                edges = self._edges(graph, positions, shift)
            x = scalar.down(x, vx, graph.batch)  # (N, H)
            vec = vector.down(vec, vvec, graph.batch)  # (N, 3, H)
            dx, dvec = message(x, vec, kinds, edges)
            x, vec = update((x + dx) / math.sqrt(2), vec + dvec)
            positions = positions + coordinate(x, vec, kinds, edges)  # (N, 3)
            vx = scalar.up(graph_mean(graph, x), vx)  # (G, H)
            vvec = vector.up(graph_mean(graph, vec), vvec)  # (G, 3, H)
            trace.append(positions)
        return trace

    def _layers(self) -> Iterator[Layer]:
        lists = (
            self.virtual_scalar_layers,
            self.virtual_vector_layers,
            self.message_passing_layers,
            self.message_update_layers,
            self.coord_update_layers,
        )
        return cast("Iterator[Layer]", zip(*lists, strict=True))

    def _edges(self, graph: DefectGraph, positions: Tensor, shift: Tensor) -> Edges:
        source, target = graph.edge_index
        vector = positions.index_select(0, source) + shift - positions.index_select(0, target)  # (E, 3)
        length = vector.square().sum(1).clamp(min=1e-8).sqrt()  # (E,)
        sender = graph.marker[target] * len(positions) + source  # (E,)
        fade = envelope(length / self.config.cutoff) if self.config.smooth else torch.ones_like(length)  # (E,)
        radial = torch.cat([self.radial_basis(length), fade[:, None]], 1)  # (E, K + 1)
        return Edges(sender, target, -vector / length[:, None], radial)


class _Embedding(nn.Module):
    """Table with rows drawn from U(-sqrt 3, sqrt 3), which has unit variance."""

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(rows, channels)
        nn.init.uniform_(self.embeddings.weight, -math.sqrt(3), math.sqrt(3))

    def forward(self, index: Tensor) -> Tensor:
        """(N,) -> (N, H)."""
        rows: Tensor = self.embeddings(index)
        return rows


def _two_layers(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * channels, channels), ScaledSiLU(), nn.Linear(channels, channels), ScaledSiLU())
