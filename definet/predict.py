"""Relax defect structures in one forward pass per batch.

The network knows each host at the lattice constant of its teacher. A structure of another lattice constant is strained
to that one, and the displacements found there are added to the coordinates that were given: displacement fields carry
over between lattices, absolute positions do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from definet.checkpoint import Checkpoint, HostRange, kinds_of, sizes_of, width_A
from definet.exceptions import ModelError, OptionError
from definet.graph import DefectGraph, build_graph, collate, without_drift
from definet.model import DefiNet
from definet.structures import DefectStructure

FloatArray = NDArray[np.float64]


FEWEST = 10
"""A host with fewer training structures does not count as known: not even each kind of point defect fits in."""


@dataclass(frozen=True)
class Relaxed:
    """One relaxed structure.

    Attributes
    ----------
    positions_A : (N, 3) array
        Cartesian, in the cell and order of the nodes that were given; vacancy nodes unmoved. The mean displacement of
        the atoms is zero.
    in_range : bool
        Whether host, elements and kind of defect were in the training set.
    reason : str
        What was not; empty if in range.
    sigma_A : (N,) array or None
        Standard error of each position per axis, where the weights have an uncertainty head; zero at vacancy nodes.
    energy_drop_eV : float or None
        Unrelaxed less relaxed energy, where the weights have an energy head.
    """

    positions_A: FloatArray
    in_range: bool
    reason: str = ""
    sigma_A: FloatArray | None = None
    energy_drop_eV: float | None = None


def relax(
    structures: Sequence[DefectStructure], checkpoint: Checkpoint, device: str = "auto", max_nodes: int | None = None
) -> list[Relaxed]:
    """Predict relaxed positions.

    Parameters
    ----------
    structures : sequence of DefectStructure
        Unrelaxed, any lattice constant.
    checkpoint : Checkpoint
    device : str
        "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" ...
    max_nodes : int, optional
        Largest batch, default what suits the device (`capacity`); a larger single structure is a batch of its own.

    Returns
    -------
    list of Relaxed
        In the order given. A structure outside the training range is predicted all the same, and says so.

    Raises
    ------
    ModelError
        If the weights cannot be used, or hold no row for an element.
    OptionError
        If there is no such device.
    """
    place = resolve_device(device)
    return relax_by(lambda graphs: predictions(checkpoint.network(place), graphs, max_nodes), structures, checkpoint)


def relax_by(
    ask: Callable[[Sequence[DefectGraph]], list[Move]], structures: Sequence[DefectStructure], checkpoint: Checkpoint
) -> list[Relaxed]:
    """As `relax`, with a network of the same weights that is anywhere (`definet.service`)."""
    for structure in structures:
        check_elements(structure, checkpoint)
    moves = ask([network_graph(structure, checkpoint) for structure in structures])
    return [_relaxed(structure, move, checkpoint) for structure, move in zip(structures, moves, strict=True)]


@dataclass(frozen=True)
class Move:
    """What the network says of one graph.

    Attributes
    ----------
    displacement_A : (N, 3) array
        Zero mean over the atoms; of no meaning at vacancy nodes.
    sigma_A : (N,) array or None
        Standard error of each coordinate.
    energy_drop_eV : float or None
    """

    displacement_A: FloatArray
    sigma_A: FloatArray | None
    energy_drop_eV: float | None


def predictions(net: DefiNet, graphs: Sequence[DefectGraph], max_nodes: int | None = None) -> list[Move]:
    """Ask the network about graphs, on its device, in batches of at most `max_nodes` nodes (one graph at least)."""
    place = next(net.parameters()).device
    most = capacity(net, place) if max_nodes is None else max_nodes
    found: list[Move] = []
    for group in _groups([len(graph.numbers) for graph in graphs], most):
        batch = collate([graphs[k] for k in group]).to(place, torch.float32)
        sizes = [len(graphs[k].numbers) for k in group]
        with torch.inference_mode():
            said = net.predict(batch)
            moved = _parts(without_drift(batch, said.displacement), sizes)
        sigmas = [None] * len(sizes) if said.sigma is None else _parts(said.sigma, sizes)
        drops = [None] * len(sizes) if said.energy_drop is None else said.energy_drop.tolist()
        found += [Move(*one) for one in zip(moved, sigmas, drops, strict=True)]
    return found


CACHED = 400
"""Nodes per batch on a CPU: what is larger leaves its cache and takes longer per node."""


def capacity(net: DefiNet, place: torch.device) -> int:
    """Nodes of a batch that is fast on a CPU, or takes half of the free memory of a GPU."""
    if place.type != "cuda":
        return CACHED
    free, _ = torch.cuda.mem_get_info(place)
    # Some ten (E, 3, H) values at a time on 40 edges per node, in float32.
    return max(CACHED, free // 2 // (40 * 30 * net.config.channels * 4))


def _parts(values: torch.Tensor, sizes: Sequence[int]) -> list[FloatArray]:
    return [part.numpy() for part in values.double().cpu().split(list(sizes))]


def network_graph(structure: DefectStructure, checkpoint: Checkpoint) -> DefectGraph:
    """Connect the nodes of a structure at the lattice constant that the network knows its host at.

    They are wrapped into the cell first, so that float32 loses nothing to large coordinates.
    """
    crystal, stretch = structure.structure, np.ones(3)
    stretch[:2] = _strain(structure, checkpoint.hosts.get(structure.host))
    cell = crystal.lattice.matrix * stretch
    positions = (crystal.frac_coords % 1.0) @ cell
    return build_graph(
        torch.tensor(np.array(crystal.atomic_numbers)),
        torch.tensor(positions),
        torch.tensor(cell),
        torch.tensor(structure.marker),
        checkpoint.config.cutoff,
        checkpoint.config.self_edges,
    )


def out_of_range(structure: DefectStructure, checkpoint: Checkpoint) -> str:
    """Say what of a structure was not in the training set, or is not known to have been; empty if all was."""
    if not checkpoint.hosts:
        return "nothing is known of what these weights were trained on"
    seen = checkpoint.hosts.get(structure.host)
    if seen is None:
        return f"host {structure.host or 'unknown'} was not in the training set ({', '.join(checkpoint.hosts)})"
    if 0 < seen.structures < FEWEST:
        return f"{structure.host} had only {seen.structures} structures in the training set"
    strange = sorted({site.specie.symbol for site in structure.structure} - set(seen.elements))
    if strange:
        return f"{', '.join(strange)} in {structure.host} was not in the training set"
    novel = sorted(kinds_of(structure.label) - set(seen.kinds))
    if novel and seen.kinds:
        return f"{', '.join(novel)} in {structure.host} was not in the training set"
    for kind, size in sizes_of(structure.label).items():
        if size > seen.sizes.get(kind, size):
            return f"{kind} of {size} is larger than the {seen.sizes[kind]} of the training set of {structure.host}"
    a_A = _lattice_A(structure)
    wide = width_A(structure.structure.lattice.matrix) / a_A if a_A else seen.narrowest
    if wide < 0.99 * seen.narrowest:
        least = f"at least {seen.narrowest:.1f} in the training set: in narrower ones the images of a defect meet"
        return f"the supercell is {wide:.1f} lattice constants wide, {least}"
    share = 0.0 if sizes_of(structure.label) else float((structure.marker != 0).mean())
    if 0 < seen.density < share:
        most = f"at most {seen.density:.1%} in the training set of {structure.host}"
        return f"{share:.1%} of the nodes are changed, {most}"
    if novel and not seen.kinds:
        return f"which kinds of defects in {structure.host} were in the training set is not known"
    return ""


def resolve_device(name: str) -> torch.device:
    """Find a device by name; "auto" takes a GPU if there is one.

    Raises
    ------
    OptionError
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise OptionError(f"unknown device {name!r}", "Choose auto, cpu or cuda.")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"there is no device {name}", "Choose auto or cpu.")
    return device


def _strain(structure: DefectStructure, seen: HostRange | None) -> float:
    """Factor from the structure's in-plane lattice constant to that of the training set; 1 where either is unknown."""
    a_A = _lattice_A(structure)
    return 1.0 if seen is None or a_A is None else seen.a_A / a_A


def _lattice_A(structure: DefectStructure) -> float | None:
    """In-plane lattice constant, as it is said or as the supercell says."""
    if structure.a_A is not None or structure.shape[0] < 1:
        return structure.a_A
    return float(np.linalg.norm(structure.structure.lattice.matrix[0])) / structure.shape[0]


def _relaxed(structure: DefectStructure, move: Move, checkpoint: Checkpoint) -> Relaxed:
    reason = out_of_range(structure, checkpoint)
    moved = np.where(structure.occupied[:, None], move.displacement_A, 0.0)
    sigma = None if move.sigma_A is None else np.where(structure.occupied, move.sigma_A, 0.0)
    return Relaxed(structure.structure.cart_coords + moved, not reason, reason, sigma, move.energy_drop_eV)


def check_elements(structure: DefectStructure, checkpoint: Checkpoint) -> None:
    """See that the weights hold a row for every element.

    Raises
    ------
    ModelError
    """
    heaviest = max(structure.structure.atomic_numbers, default=0)
    if heaviest >= checkpoint.config.elements:
        raise ModelError(f"atomic number {heaviest} is beyond the {checkpoint.config.elements} rows of these weights")


def _groups(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Consecutive indices whose sizes add up to at most `limit`, at least one each."""
    group: list[int] = []
    total = 0
    for k, size in enumerate(sizes):
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(k)
        total += size
    if group:
        yield group
