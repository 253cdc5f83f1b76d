"""The defect-informed equivariant network: unrelaxed structure in, displacements to the relaxed one out.

Yang et al., *Modeling crystal defects using defect-informed neural networks*, arXiv:2503.15391 (npj Comput. Mater.,
2025). Scalars x (N, H) and vectors vec (N, 3, H) live on the nodes, a pair of the same kind (vx, vvec) on each
structure as a whole. Every node also carries the embedding of its defect marker, which gates each message, so that an
edge between a pristine atom and a vacancy is another kind of edge. The coordinates move after every layer.

Parameter names are those of the authors' checkpoints. Departures are switched by `ModelConfig`: the atoms may move to
where springs between them, whose forces and stiffnesses the network predicts, come to rest (`elastic`); the output may
be made continuous (`smooth`); the radial basis may be as short as the neighbourhood (published: 30 A over 6 A); and
zero-length self edges, an accident of the published neighbour search, may be left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from definet.balance import Bonds, rest, stored
from definet.blocks import (
    CoordUpdate,
    Edges,
    Embedding,
    Kinds,
    MessagePassing,
    MessageUpdate,
    RadialBasis,
    VirtualScalar,
    VirtualVector,
    drawn,
    envelope,
)
from definet.exceptions import ModelError
from definet.graph import DefectGraph, graph_mean, opposites, places
from definet.heads import EnergyHead, SigmaHead, SpringHead, Springs

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
        Neighbours closer than this are connected, Angstrom. Springs carry the rest: 5.45, which splits no shell of
        neighbours of the supported hosts, costs half as much again and learns less in the same time.
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
    elastic : bool
        Predict a quadratic energy of the displacements, and give its minimum, see `definet.balance`: long elastic waves
        need no layers, and the energy gained comes with it. As published (off), every layer moves the nodes itself.
    degree : int
        Of the angular functions that a spring knows of its surroundings, 0 to 2.
    """

    channels: int = 32
    layers: int = 2
    gaussians: int = 24
    cutoff: float = 4.5
    basis_cutoff: float = 4.5
    elements: int = 118
    self_edges: bool = False
    smooth: bool = True
    elastic: bool = True
    degree: int = 2


class Prediction(NamedTuple):
    """Displacements of all nodes (N, 3), A; those of vacancy nodes have no meaning.

    Of an elastic network also the energy gained by relaxing (G,), eV, and each coordinate's standard error (N,), A.
    """

    displacement: Tensor
    energy_drop: Tensor | None = None
    sigma: Tensor | None = None


class _Trace(NamedTuple):
    """Nodes after the last layer, edges of the first, coordinates after each layer (none if layers move nothing)."""

    x: Tensor
    vec: Tensor
    edges: Edges
    positions: list[Tensor]


class DefiNet(nn.Module):
    """The network. Deterministic and stateless: everything it knows is in `config` and the weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        h, k = config.channels, config.gaussians
        self.config = config
        self.atom_emb = Embedding(config.elements, h)
        self.defect_emb = Embedding(N_MARKERS, h)
        self.lin_comb = nn.Linear(2 * h, h)
        self.vn_emb = nn.Embedding(1, h, _weight=drawn(1, h))
        self.radial_basis = RadialBasis(k, config.basis_cutoff)
        self.virtual_scalar_layers = nn.ModuleList(VirtualScalar(h) for _ in range(config.layers))
        self.virtual_vector_layers = nn.ModuleList(VirtualVector(h) for _ in range(config.layers))
        self.message_passing_layers = nn.ModuleList(MessagePassing(h, k) for _ in range(config.layers))
        self.message_update_layers = nn.ModuleList(MessageUpdate(h) for _ in range(config.layers))
        if config.elastic:
            self.springs = SpringHead(h, k, config.degree)
            self.energy = EnergyHead(h)
            self.uncertainty = SigmaHead(h)
        else:
            self.coord_update_layers = nn.ModuleList(CoordUpdate(h, k) for _ in range(config.layers))
        nn.init.zeros_(self.vn_emb.weight)

    def forward(self, graph: DefectGraph) -> Tensor:
        """Predict displacements of all nodes, (N, 3) Angstrom; those of vacancy nodes have no meaning."""
        return self.predict(graph).displacement

    def predict(self, graph: DefectGraph) -> Prediction:
        """Displacements, and of an elastic network energy and uncertainty."""
        trace = self._trace(graph)
        if not self.config.elastic:
            return Prediction(trace.positions[-1] - graph.positions)
        displacement, energy = self._at_rest(graph, trace)
        means = (graph_mean(graph, values.detach()) for values in (trace.x, displacement.norm(dim=1)))
        mean_x, mean_length = (mean.index_select(0, graph.batch) for mean in means)  # (N, H), (N,)
        sigma = self.uncertainty(trace.x, mean_x, displacement, mean_length)
        return Prediction(displacement, energy, sigma)

    def layer_positions(self, graph: DefectGraph) -> list[Tensor]:
        """Coordinates after each layer, L tensors of (N, 3) Angstrom; edges stay those of the unrelaxed structure.

        Raises
        ------
        ModelError
            If the network is elastic: its layers move nothing.
        """
        if self.config.elastic:
            raise ModelError("the layers of an elastic network move no nodes", "Ask for its displacements: predict.")
        return self._trace(graph).positions

    def _trace(self, graph: DefectGraph) -> _Trace:
        kinds = Kinds(graph.marker, self.defect_emb.embeddings.weight)
        x = self.lin_comb(torch.cat([self.atom_emb(graph.numbers), self.defect_emb(graph.marker)], 1))  # (N, H)
        vec: Tensor | None = None  # (N, 3, H), zero until the first messages have come
        vx = self.vn_emb.weight.expand(graph.n_structures, -1)  # (G, H)
        vvec = x.new_zeros(graph.n_structures, 3, x.shape[1])  # (G, 3, H)
        cells = graph.cell[graph.batch[graph.edge_index[0]]]  # (E, 3, 3)
        shift = (graph.edge_offset[:, :, None] * cells).sum(1)  # (E, 3), no product that mixed precision would round
        positions, edges = graph.positions, self._edges(graph, graph.positions, shift)  # (N, 3)
        trace: list[Tensor] = []
        for k in range(self.config.layers):
            if trace and not self.config.smooth:
                edges = self._edges(graph, positions, shift)
            scalar, vector = self.virtual_scalar_layers[k], self.virtual_vector_layers[k]
            x = scalar.down(x, vx, graph.batch)  # type: ignore[operator]  # (N, H)
            if vec is not None:
                vec = vector.down(vec, vvec, graph.batch)  # type: ignore[operator]
            dx, dvec = self.message_passing_layers[k](x, vec, kinds, edges)
            x, vec = self.message_update_layers[k]((x + dx) / math.sqrt(2), dvec if vec is None else vec + dvec)
            if not self.config.elastic:
                positions = positions + self.coord_update_layers[k](x, vec, kinds, edges)  # (N, 3)
                trace.append(positions)
            vx = scalar.up(graph_mean(graph, x), vx)  # type: ignore[operator]  # (G, H)
            vvec = vector.up(graph_mean(graph, vec), vvec)  # type: ignore[operator]  # (G, 3, H)
        assert vec is not None  # there is at least one layer
        return _Trace(x, vec, edges, trace)

    def _edges(self, graph: DefectGraph, positions: Tensor, shift: Tensor) -> Edges:
        source, target = graph.edge_index
        vector = positions.index_select(0, source) + shift - positions.index_select(0, target)  # (E, 3)
        length = vector.square().sum(1).clamp(min=1e-8).sqrt()  # (E,)
        fade = envelope(length / self.config.cutoff) if self.config.smooth else torch.ones_like(length)  # (E,)
        radial = torch.cat([self.radial_basis(length), fade[:, None]], 1)  # (E, B + 1)
        place, width = places(target, len(positions))
        sender = graph.marker[target] * len(positions) + source  # (E,)
        filled = len(positions) * width
        return Edges(
            source.new_zeros(filled).index_copy(0, place, source),
            source.new_zeros(filled).index_copy(0, place, sender),
            vector.new_zeros(filled, 3).index_copy(0, place, -vector / length[:, None]).view(-1, width, 3),
            radial.new_zeros(filled, radial.shape[1]).index_copy(0, place, radial),
            place,
        )

    def _at_rest(self, graph: DefectGraph, trace: _Trace) -> tuple[Tensor, Tensor]:
        """Where the springs come to rest, (N, 3) A, and the energy gained (G,), eV.

        Empty sites push, but hold nothing.
        """
        opposite = opposites(graph)  # (E,)
        pair = (torch.arange(len(opposite), device=opposite.device) <= opposite).nonzero().squeeze(1)  # (P,)
        there, back = trace.edges.place[pair], trace.edges.place[opposite[pair]]
        springs: Springs = self.springs(trace.x, trace.vec, trace.edges, there, back)
        source, target = graph.edge_index.index_select(1, pair)
        direction = trace.edges.direction.flatten(0, 1).index_select(0, there)  # (P, 3)
        push = springs.push[:, None] * direction
        atoms = graph.occupied
        force = push.new_zeros(len(atoms), 3).index_add(0, target, push).index_add(0, source, -push)[atoms]  # (A, 3)
        number = atoms.long().cumsum(0) - 1
        held = (atoms[source] & atoms[target]).nonzero().squeeze(1)
        ends = (number[end.index_select(0, held)] for end in (source, target))
        bonds = Bonds(*ends, *(v.index_select(0, held) for v in (direction, springs.along, springs.across)))
        counts = torch.bincount(graph.batch[atoms], minlength=graph.n_structures)
        moved = rest(bonds, force, counts)  # (A, 3)
        gained = self.energy(trace.x[atoms], stored(bonds, moved))  # (A,)
        gained = gained.new_zeros(graph.n_structures).index_add(0, graph.batch[atoms], gained)
        everywhere = graph.positions.new_zeros(len(atoms), 3)
        return everywhere.index_copy(0, atoms.nonzero().squeeze(1), moved), gained
