from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from e3nn.o3 import spherical_harmonics
from e3nn.util.test import assert_equivariant
from torch import Tensor

from definet import model
from definet.balance import Bonds, rest
from definet.checkpoint import import_published, load_checkpoint, shipped
from definet.exceptions import ModelError
from definet.graph import DefectGraph, build_graph, collate, graph_mean
from definet.heads import quadrupoles
from definet.model import DefiNet, ModelConfig
from definet.structures import build, pristine, vacancy

DATA = Path(__file__).parent / "data"
CASES = ("h32_l4", "h48_l3")


def reference(case: str, dtype: torch.dtype) -> tuple[DefiNet, DefectGraph, dict[str, Tensor]]:
    """The authors' network with the published self edges, its input graph and its outputs."""
    facts = json.loads((DATA / f"case_{case}.json").read_text())
    with np.load(DATA / f"case_{case}.npz") as stored:
        values = {name: torch.tensor(stored[name]) for name in stored}
    graph = DefectGraph(
        values["numbers"].long(),
        values["positions"],
        values["marker"],
        values["cell"][None],
        torch.zeros(len(values["numbers"]), dtype=torch.int64),
        values["edge_index"],
        values["cell_offsets"],
    )
    net = import_published(DATA / f"ema_{case}.pt").network()
    assert (net.config.channels, net.config.layers) == (facts["hidden_channels"], facts["num_layers"])
    return net.to(dtype=dtype), graph.to("cpu", dtype), values


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layer_agrees_with_the_published_network(case: str, dtype: torch.dtype) -> None:
    net, graph, expected = reference(case, dtype)
    layers = torch.stack(net.layer_positions(graph))
    # The reference itself was rounded to float32 at coordinates of 20 A.
    torch.testing.assert_close(layers.float(), expected["positions_out_per_layer"], rtol=0, atol=1e-5)
    torch.testing.assert_close((graph.positions + net(graph)).float(), expected["positions_out"], rtol=0, atol=1e-5)


def test_layers_that_move_nothing_say_so() -> None:
    with pytest.raises(ModelError, match="elastic network"):
        network(elastic=True).layer_positions(build_graph(*crystal(), 4.0))
    assert len(network(elastic=False).layer_positions(build_graph(*crystal(), 4.0))) > 1


@pytest.mark.parametrize("case", CASES)
def test_agrees_without_self_edges_on_our_own_neighbours(case: str) -> None:
    """In float64: the vector activation jumps where l.g = 0, and float32 lands on the other side for one atom here."""
    net, given, expected = reference(case, torch.float64)
    graph = build_graph(given.numbers, given.positions, given.cell[0], given.marker, 6.0)
    moved = (graph.positions + net(graph)).float()
    torch.testing.assert_close(moved, expected["positions_out_without_self_edges"], rtol=0, atol=1e-5)
    assert (moved - expected["positions_out"]).abs().max() > 5e-5  # so the agreement says something


def test_published_size() -> None:
    """28,953,092 parameters in the configuration that the authors trained."""
    with torch.device("meta"):
        net = DefiNet(ModelConfig(512, 4, 128, 6.0, 30.0, 118, True, smooth=False, elastic=False))
    assert sum(p.numel() for p in net.parameters()) == 28_953_092


def crystal(n: int = 14, seed: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers, positions, cell and markers of a random skewed layer, float64."""
    generator = torch.Generator().manual_seed(seed)
    cell = torch.tensor([[7.3, 0.0, 0.0], [-3.1, 6.8, 0.0], [0.0, 0.0, 17.0]], dtype=torch.float64)
    fractional = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    positions = fractional * torch.tensor([1.0, 1.0, 0.2]) @ cell
    numbers = torch.tensor([16, 42, 74, 34])[torch.randint(0, 4, (n,), generator=generator)]
    marker = torch.randint(0, 3, (n,), generator=generator)
    return numbers, positions, cell, marker


def network(elastic: bool, dtype: torch.dtype = torch.float64, seed: int = 1) -> DefiNet:
    torch.manual_seed(seed)
    config = ModelConfig(channels=16, layers=3, gaussians=12, elastic=elastic)
    return DefiNet(config).to(dtype).requires_grad_(False)


both = pytest.mark.parametrize("elastic", [False, True])


def displaced(net: DefiNet, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    numbers, positions, cell, marker = crystal()

    def run(points: Tensor, lattice: Tensor) -> Tensor:
        return net(build_graph(numbers, points.to(dtype), lattice.to(dtype), marker, net.config.cutoff))

    return run, [positions, cell]


@pytest.fixture
def double() -> Iterator[None]:
    """Let e3nn build its rotations in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


# Rounding of float32 at coordinates of 30 A (translations included) is 2e-6 A; three layers amplify it.
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-10}


def test_angular_functions_are_those_of_e3nn() -> None:
    direction = torch.nn.functional.normalize(torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(2)), dim=-1)
    theirs = spherical_harmonics(2, direction, normalize=False, normalization="component")
    assert torch.allclose(quadrupoles(direction), theirs, atol=1e-6)
    assert not torch.allclose(quadrupoles(direction.flip(-1)), theirs, atol=1e-1)  # another axis is another function


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@both
def test_rotation_reflection_translation(elastic: bool, dtype: torch.dtype) -> None:
    run, arguments = displaced(network(elastic, dtype), dtype)
    assert run(*arguments).norm(dim=1).mean() > 0.01
    assert_equivariant(
        run, arguments, irreps_in=["cartesian_points", "1o"], irreps_out=["1o"], tolerance=TOLERANCE[dtype], ntrials=3
    )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@both
def test_a_network_with_a_preferred_axis_is_caught(elastic: bool, dtype: torch.dtype) -> None:
    """The broken twin: one part in a hundred more along z."""
    net = network(elastic, dtype)
    run, arguments = displaced(net, dtype)

    def tilted(points: Tensor, lattice: Tensor) -> Tensor:
        return run(points, lattice) * torch.tensor([1.0, 1.0, 1.01], dtype=dtype)

    with pytest.raises(AssertionError, match="equivariance"):
        assert_equivariant(
            tilted, arguments, irreps_in=["cartesian_points", "1o"], irreps_out=["1o"], tolerance=TOLERANCE[dtype]
        )


@both
def test_order_of_the_nodes_does_not_matter(elastic: bool) -> None:
    net, (numbers, positions, cell, marker) = network(elastic), crystal()
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(5))
    straight = net(build_graph(numbers, positions, cell, marker, 5.45))
    shuffled = net(build_graph(numbers[order], positions[order], cell, marker[order], 5.45))
    torch.testing.assert_close(shuffled, straight[order], rtol=0, atol=1e-12)
    assert (shuffled - straight).abs().max() > 1e-2


@both
def test_a_batch_gives_what_each_gives_alone(elastic: bool) -> None:
    net = network(elastic)
    graphs = [build_graph(*(c := crystal(n, n))[:3], c[3], 5.45) for n in (14, 6, 9)]
    alone = torch.cat([net(graph) for graph in graphs])
    torch.testing.assert_close(net(collate(graphs)), alone, rtol=0, atol=1e-12)


@both
def test_a_supercell_repeats_the_displacements(elastic: bool) -> None:
    net, (numbers, positions, cell, marker) = network(elastic), crystal()
    shifts = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0), torch.arange(1.0)).double() @ cell
    larger = cell * torch.tensor([[2.0], [3.0], [1.0]], dtype=torch.float64)
    copies = (positions[None] + shifts[:, None]).flatten(0, 1)
    small = net(build_graph(numbers, positions, cell, marker, 5.45))
    large = net(build_graph(numbers.repeat(6), copies, larger, marker.repeat(6), 5.45))
    torch.testing.assert_close(large, small.repeat(6, 1), rtol=0, atol=1e-11)


@both
def test_nodes_may_lie_outside_the_cell(elastic: bool) -> None:
    net, (numbers, positions, cell, marker) = network(elastic), crystal()
    jumps = torch.randint(-2, 3, (len(numbers), 3), generator=torch.Generator().manual_seed(2)).double() @ cell
    inside = net(build_graph(numbers, positions, cell, marker, 5.45))
    outside = net(build_graph(numbers, positions + jumps, cell, marker, 5.45))
    torch.testing.assert_close(outside, inside, rtol=0, atol=1e-11)


@both
def test_the_marker_matters(elastic: bool) -> None:
    net, (numbers, positions, cell, marker) = network(elastic), crystal()
    other = marker.clone()
    other[0] = (marker[0] + 1) % 3
    change = net(build_graph(numbers, positions, cell, marker, 5.45))
    change = change - net(build_graph(numbers, positions, cell, other, 5.45))
    assert change.abs().max() > 1e-3


def crossing(net: DefiNet, distance: float) -> Tensor:
    numbers, marker = torch.tensor([42, 16, 16]), torch.zeros(3, dtype=torch.int64)
    positions = torch.tensor([[0.0, 0.0, 0.0], [1.8, 0.0, 1.6], [distance, 0.3, 0.0]], dtype=torch.float64)
    cell = 40 * torch.eye(3, dtype=torch.float64)
    return net(build_graph(numbers, positions, cell, marker, net.config.cutoff))


def test_a_neighbour_leaves_smoothly() -> None:
    """The broken twin is the published form, with the same weights: it jumps."""
    smooth, elastic, published = network(elastic=False), network(elastic=True), network(elastic=False)
    edge = (smooth.config.cutoff**2 - 0.3**2) ** 0.5
    published.config = replace(published.config, smooth=False)
    jump = [
        (crossing(net, edge + 1e-6) - crossing(net, edge - 1e-6)).abs().max() for net in (smooth, elastic, published)
    ]
    assert max(jump[:2]) < 1e-6
    assert jump[2] > 1e-4


@both
def test_gradients_are_those_of_finite_differences(elastic: bool) -> None:
    net, (numbers, positions, cell, marker) = network(elastic), crystal(5)
    graph = build_graph(numbers, positions, cell, marker, 5.45)
    assert torch.autograd.gradcheck(lambda p: net(replace(graph, positions=p)), positions.requires_grad_(True))


def springs_about(label: str | None, monkeypatch: pytest.MonkeyPatch) -> tuple[Bonds, np.ndarray]:
    """Springs of a long cell with V_S at one end and, if asked, another defect 22 A away; distances to V_S (B,), A."""
    net = load_checkpoint(shipped()).network().double()
    built = vacancy(pristine("MoS2", 16, 8, a_A=3.194), "V_S", (0, 0))
    other = built if label is None else build(built, label, (8, 4))
    found: list[Bonds] = []
    monkeypatch.setattr(model, "rest", lambda bonds, *rest_: found.append(bonds) or rest(bonds, *rest_))
    structure = other.structure
    net(build_graph(
        torch.tensor(np.array(structure.atomic_numbers)), torch.tensor(structure.cart_coords),
        torch.tensor(structure.lattice.matrix), torch.tensor(other.marker), net.config.cutoff,
    ))  # fmt: skip
    [node] = built.sites
    away = structure.lattice.get_all_distances(structure.frac_coords[node], structure.frac_coords)[0][built.occupied]
    return found[0], away[found[0].target.numpy()]


def heard(monkeypatch: pytest.MonkeyPatch) -> float:
    """What another defect does to the springs beside V_S, as a share of the most that it does to any."""
    alone, away = springs_about(None, monkeypatch)
    both, _ = springs_about("Se2_S2", monkeypatch)
    change = (both.along - alone.along).abs()
    return float(change[away < 4].max() / change.max())


def test_far_apart_defects_do_not_interact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the node of the whole structure carries word so far; that of the broken twin listens to defects alone."""

    def listening(graph: DefectGraph, values: Tensor) -> Tensor:
        changed = graph.marker == 1
        return values[changed].mean(0, keepdim=True) if changed.any() else graph_mean(graph, values)

    assert heard(monkeypatch) < 1e-3
    monkeypatch.setattr(model, "graph_mean", listening)
    assert heard(monkeypatch) > 1e-2
