"""Periodic neighbours of a defect structure; a batch of structures is the same type as one structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

VACANCY = 2
"""Marker of a vacancy node (0 pristine, 1 substitution): a site that is kept in the graph without an atom."""


@dataclass(frozen=True, eq=False)
class DefectGraph:
    """Nodes and directed edges j -> i of one or several structures.

    Attributes
    ----------
    numbers : (N,) int64
        Atomic number; for a vacancy node that of the missing atom.
    positions : (N, 3) float
        Cartesian, Angstrom, right-handed, not necessarily wrapped into the cell.
    marker : (N,) int64
        0 pristine, 1 substitution, 2 vacancy node.
    cell : (G, 3, 3) float
        Rows are the lattice vectors of each structure, Angstrom; all three are periodic.
    batch : (N,) int64
        Structure of each node, ascending.
    edge_index : (2, E) int64
        Row 0 the neighbour j, row 1 the centre i, ascending in i.
    edge_offset : (E, 3) float
        Integer image of the neighbour: the edge vector is positions[j] + edge_offset @ cell - positions[i].
    """

    numbers: Tensor
    positions: Tensor
    marker: Tensor
    cell: Tensor
    batch: Tensor
    edge_index: Tensor
    edge_offset: Tensor

    @property
    def n_structures(self) -> int:
        """Structures in the batch."""
        return len(self.cell)

    @property
    def occupied(self) -> Tensor:
        """(N,) bool: nodes that carry an atom."""
        return self.marker != VACANCY

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> DefectGraph:
        """Copy on `device`, real-valued fields in `dtype` where one is given."""
        real = dtype or self.positions.dtype
        return DefectGraph(
            self.numbers.to(device),
            self.positions.to(device, real),
            self.marker.to(device),
            self.cell.to(device, real),
            self.batch.to(device),
            self.edge_index.to(device),
            self.edge_offset.to(device, real),
        )


def build_graph(
    numbers: Tensor, positions: Tensor, cell: Tensor, marker: Tensor, cutoff: float, self_edges: bool = False
) -> DefectGraph:
    """Connect all nodes of one structure that are closer than `cutoff`, periodic images included.

    Parameters
    ----------
    numbers, marker : (N,) integer tensors
    positions : (N, 3) tensor
        Angstrom; its dtype and device become those of the graph.
    cell : (3, 3) tensor
        Rows are lattice vectors, Angstrom.
    cutoff : float
        Angstrom.
    self_edges : bool
        Append the zero-length edge of every node to itself, as the published training pipeline does.
    """
    pairs, offsets = neighbour_pairs(positions, cell, cutoff)
    if self_edges:
        loop = torch.arange(len(positions), device=pairs.device)
        pairs = torch.cat([pairs, loop.expand(2, -1)], dim=1)
        offsets = torch.cat([offsets, offsets.new_zeros(len(loop), 3)])
        order = torch.argsort(pairs[1], stable=True)
        pairs, offsets = pairs[:, order], offsets[order]
    real = positions.dtype
    batch = torch.zeros(len(positions), dtype=torch.int64, device=positions.device)
    return DefectGraph(numbers.long(), positions, marker.long(), cell[None].to(real), batch, pairs, offsets.to(real))


def collate(graphs: Sequence[DefectGraph]) -> DefectGraph:
    """Put several graphs side by side; no edge crosses from one to another."""
    nodes = torch.tensor([0, *(len(g.numbers) for g in graphs[:-1])]).cumsum(0)
    structures = torch.tensor([0, *(g.n_structures for g in graphs[:-1])]).cumsum(0)
    return DefectGraph(
        torch.cat([g.numbers for g in graphs]),
        torch.cat([g.positions for g in graphs]),
        torch.cat([g.marker for g in graphs]),
        torch.cat([g.cell for g in graphs]),
        torch.cat([g.batch + int(k) for g, k in zip(graphs, structures, strict=True)]),
        torch.cat([g.edge_index + int(k) for g, k in zip(graphs, nodes, strict=True)], dim=1),
        torch.cat([g.edge_offset for g in graphs]),
    )


def graph_mean(graph: DefectGraph, values: Tensor) -> Tensor:
    """Mean of a node quantity (N, ...) over each structure, (G, ...)."""
    total = values.new_zeros(graph.n_structures, *values.shape[1:]).index_add(0, graph.batch, values)
    counts = torch.bincount(graph.batch, minlength=graph.n_structures).to(values.dtype)
    return total / counts.view(-1, *[1] * (values.dim() - 1))


def without_drift(graph: DefectGraph, displacement: Tensor) -> Tensor:
    """Displacements (N, 3) less their mean over the atoms of each structure: a rigid shift costs no energy."""
    atoms = graph.occupied.to(displacement.dtype)[:, None]  # (N, 1)
    mean = graph_mean(graph, displacement * atoms) / graph_mean(graph, atoms)  # (G, 3)
    return displacement - mean.index_select(0, graph.batch)


def places(target: Tensor, nodes: int) -> tuple[Tensor, int]:
    """Lay the edges (E,), ascending in their target, out in rows of equal length, one for each node.

    Returns the place of each edge in the (N K,) places of the rows, and K, the largest number of edges of a node.
    """
    counts = torch.bincount(target, minlength=nodes)
    width = int(counts.max()) if len(target) else 0
    first = counts.cumsum(0) - counts  # (N,)
    rank = torch.arange(len(target), device=target.device) - first.index_select(0, target)
    return target * width + rank, width


def opposites(graph: DefectGraph) -> Tensor:
    """For each edge the number of the same pair's edge in the other direction, (E,) int64."""
    (source, target), offset = graph.edge_index, graph.edge_offset.long()
    n, reach = len(graph.numbers), 1 + int(offset.abs().max()) if len(offset) else 1
    base = torch.tensor([(2 * reach + 1) ** 2, 2 * reach + 1, 1], device=offset.device)
    size = int(base[0]) * (2 * reach + 1)
    middle = size // 2
    key = (target * n + source) * size + middle + (offset * base).sum(1)
    wanted = (source * n + target) * size + middle - (offset * base).sum(1)
    ordered, order = key.sort()
    found: Tensor = order[torch.searchsorted(ordered, wanted).clamp(max=max(0, len(key) - 1))]
    return found


def neighbour_pairs(positions: Tensor, cell: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """All pairs closer than `cutoff` in a crystal that is periodic along its three lattice vectors.

    A linked-cell search in fractional space: the cell is cut into bins at least `cutoff` thick (one bin where the
    cell itself is thinner), every node looks into the bins within reach, and a bin beyond the border is the image of
    one inside. Work grows with nodes times nodes per reach, not with nodes squared. Runs in float64 where the
    positions are.

    Returns
    -------
    pairs : (2, E) int64
        Neighbour j and centre i, ascending in i; both directions are listed; zero-length self pairs are not.
    offsets : (E, 3) int64
        Image of the neighbour: the pair vector is positions[j] + offsets @ cell - positions[i].
    """
    lattice = cell.double()
    fractional = positions.double() @ torch.linalg.inv(lattice)
    home = fractional.floor()
    bins, reach = _bins(lattice, cutoff)
    # Rounding can put a wrapped coordinate at exactly 1.
    index = ((fractional - home) * bins).long().minimum(bins - 1)  # (N, 3)
    centre, neighbour, image = _candidates(index, bins, reach)
    offsets = image + (home[centre] - home[neighbour]).long()
    vector = positions.double()[neighbour] - positions.double()[centre] + offsets.double() @ lattice
    keep = (vector.square().sum(1) < cutoff**2) & ((centre != neighbour) | (offsets != 0).any(1))
    return torch.stack([neighbour[keep], centre[keep]]), offsets[keep]


def _bins(lattice: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Bins along each axis, and how many bins away a neighbour can be, both (3,) int64."""
    spacing = 1.0 / torch.linalg.inv(lattice).norm(dim=0)  # distance between opposite faces
    bins = (spacing / cutoff).floor().clamp(min=1).long()
    return bins, (cutoff * bins / spacing).ceil().long()


def _candidates(index: Tensor, bins: Tensor, reach: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every node with every node of the bins in reach: centre (P,), neighbour (P,), image of the neighbour (P, 3)."""
    stride = torch.stack([bins[1] * bins[2], bins[2], torch.ones_like(bins[2])])
    flat = (index * stride).sum(1)
    by_bin = torch.argsort(flat, stable=True)
    filled = torch.bincount(flat, minlength=int(bins.prod()))
    start = filled.cumsum(0) - filled
    axes = [torch.arange(-int(r), int(r) + 1, device=index.device) for r in reach]
    target = index[:, None] + torch.cartesian_prod(*axes)[None]  # (N, K, 3)
    image = target.div(bins, rounding_mode="floor")
    looked = ((target - image * bins) * stride).sum(2).flatten()  # (N K,)
    rows = torch.repeat_interleave(filled[looked])
    rank = torch.arange(len(rows), device=rows.device)
    rank = rank - (filled[looked].cumsum(0) - filled[looked])[rows]
    neighbour = by_bin[start[looked][rows] + rank]
    return rows // target.shape[1], neighbour, image.flatten(0, 1)[rows]
