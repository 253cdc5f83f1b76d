from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.neighborlist import primitive_neighbor_list
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from definet.graph import (
    VACANCY,
    build_graph,
    collate,
    graph_mean,
    neighbour_pairs,
    opposites,
    places,
    without_drift,
)


def listed_by_ase(positions: np.ndarray, cell: np.ndarray, cutoff: float) -> set[tuple[int, ...]]:
    i, j, image = primitive_neighbor_list("ijS", (True, True, True), cell, positions, cutoff)
    return set(map(tuple, np.column_stack([j, i, image]).tolist()))


def listed_here(positions: np.ndarray, cell: np.ndarray, cutoff: float) -> list[tuple[int, ...]]:
    pairs, offsets = neighbour_pairs(torch.tensor(positions), torch.tensor(cell), cutoff)
    return list(map(tuple, torch.cat([pairs, offsets.T]).T.tolist()))


@st.composite
def crystals(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    """Slabs, skewed cells and cells thinner than the cutoff; nodes inside, outside and on the border of the cell."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges = [draw(st.floats(1.5, 14.0)), draw(st.floats(1.5, 14.0)), draw(st.floats(2.0, 30.0))]
    skew = draw(st.floats(0.0, 1.5))
    cell = np.diag(edges) + skew * np.tril(rng.uniform(-1, 1, (3, 3)), -1) * np.array(edges)[None]
    cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    n = draw(st.integers(1, 24))
    positions = rng.uniform(-1.5, 2.5, (n, 3)) @ cell
    positions[: n // 4] = rng.integers(-1, 2, (n // 4, 3)) @ cell + 1e-3 * rng.normal(size=(n // 4, 3))
    return positions, cell, draw(st.floats(1.0, 6.0))


@settings(max_examples=60, deadline=None)
@given(crystals())
def test_neighbours_are_those_of_ase(crystal: tuple[np.ndarray, np.ndarray, float]) -> None:
    positions, cell, cutoff = crystal
    # A pair at the cutoff itself (hypothesis likes a cell edge for a cutoff) may fall on either side by rounding.
    assume(listed_by_ase(positions, cell, cutoff - 1e-9) == listed_by_ase(positions, cell, cutoff + 1e-9))
    here = listed_here(*crystal)
    assert len(here) == len(set(here))
    assert set(here) == listed_by_ase(*crystal)
    assert [row[1] for row in here] == sorted(row[1] for row in here)


def test_lattice_site_on_the_border_is_found_once() -> None:
    """Coordinates of exactly 0 and 1, and just below by rounding, are the same site."""
    cell = 3.19 * np.array([[1.0, 0.0, 0.0], [-0.5, 0.75**0.5, 0.0], [0.0, 0.0, 6.3]])
    positions = np.array([[0.0, 0.0, 0.5], [1.0, -1e-17, 0.5], [1.0 / 3, 2.0 / 3, 1.0]]) @ cell
    positions[1, 0] += 0.7
    here = listed_here(positions, cell, 5.45)
    assert len(here) == len(set(here))
    assert set(here) == listed_by_ase(positions, cell, 5.45)


def test_work_grows_with_the_number_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates per node stay the same when the layer gets sixteen times larger."""
    import definet.graph

    looked: list[int] = []
    search = definet.graph._candidates

    def counted(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = search(*arguments)
        looked.append(len(found[0]))
        return found

    monkeypatch.setattr(definet.graph, "_candidates", counted)
    density = 0.35  # nodes per square Angstrom of a dichalcogenide
    for side in (60.0, 240.0):
        n = int(density * side**2)
        positions = torch.rand(n, 3, dtype=torch.float64) * torch.tensor([side, side, 3.0])
        neighbour_pairs(positions, torch.diag(torch.tensor([side, side, 20.0])), 5.45)
    assert looked[1] / looked[0] == pytest.approx(16, rel=0.2)


def layer(n: int, seed: int = 0, cutoff: float = 4.0, self_edges: bool = False):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    cell = torch.diag(torch.tensor([6.0, 7.0, 20.0], dtype=torch.float64))
    positions = torch.rand(n, 3, generator=generator, dtype=torch.float64) * torch.tensor([6.0, 7.0, 3.0])
    marker = torch.randint(0, 3, (n,), generator=generator)
    return build_graph(torch.full((n,), 42), positions, cell, marker, cutoff, self_edges)


def test_self_edges_are_one_per_node_and_of_length_zero() -> None:
    plain, looped = layer(9), layer(9, self_edges=True)
    source, target = looped.edge_index
    zero = (source == target) & (looped.edge_offset == 0).all(1)
    assert target[zero].tolist() == list(range(9))
    assert torch.equal(looped.edge_index[:, ~zero], plain.edge_index)


def test_batch_keeps_structures_apart() -> None:
    graphs = [layer(5, 1), layer(8, 2), layer(3, 3)]
    both = collate([collate(graphs[:2]), graphs[2]])
    assert both.n_structures == 3
    assert both.batch.tolist() == [0] * 5 + [1] * 8 + [2] * 3
    assert torch.equal(both.batch[both.edge_index[0]], both.batch[both.edge_index[1]])
    inside = both.batch[both.edge_index[1]] == 1
    assert torch.equal(both.edge_index[:, inside] - 5, graphs[1].edge_index)
    assert torch.equal(both.cell[1], graphs[1].cell[0])


def test_drift_is_the_mean_over_atoms_of_each_structure() -> None:
    both = collate([layer(6, 4), layer(7, 5)])
    values = torch.randn(13, 3, dtype=torch.float64)
    moved = values + torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.0, 1.0]], dtype=torch.float64)[both.batch]
    left = without_drift(both, moved)
    torch.testing.assert_close(left, without_drift(both, values))
    for k in range(2):
        here = both.batch == k
        torch.testing.assert_close(left[here & both.occupied].mean(0), torch.zeros(3, dtype=torch.float64))
        torch.testing.assert_close(graph_mean(both, values)[k], values[here].mean(0))
    assert (both.marker == VACANCY).any()


def test_each_edge_knows_its_opposite_and_its_place() -> None:
    """Also where a node neighbours several images of another, and its own."""
    small = layer(2, cutoff=7.0)
    graph = collate([layer(9, self_edges=True), small, layer(1, cutoff=6.0)])
    back = opposites(graph)
    source, target = graph.edge_index
    assert torch.equal(graph.edge_index[:, back], torch.stack([target, source]))
    assert torch.equal(graph.edge_offset[back], -graph.edge_offset)
    assert torch.equal(back[back], torch.arange(len(back)))
    assert (small.edge_offset.abs().max(0).values >= 1).any() and (small.edge_index[0] == small.edge_index[1]).any()
    place, width = places(target, len(graph.numbers))
    assert len(place.unique()) == len(place) and width == torch.bincount(target).max()
    assert torch.equal(place // width, target)
