"""Whether the image prefers the relaxed structure of a defect to the unrelaxed one, and whether it should."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from defect_atoms import TAPER
from defect_fields import Shot
from defect_kinds import moved
from defect_library import STORE, library
from defect_series import lattice_xy
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import logsumexp

from definet.crystals import host
from stemfit import relax
from stemfit.columns.stamps import render
from stemfit.score import columns_of, make_scene, position_scatter
from stemfit.score.fit import evidence_as_predicted
from stemfit.score.scene import relaxation_error_A

FloatArray = NDArray[np.float64]

NODE_A = 0.6
"""A node of a candidate is the node of the true structure that is at most so far away: gaps are closed by 0.1 A."""


ALLOWANCES_A = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""From what the best relaxers reach to the displacements of lines."""


class Compared(NamedTuple):
    """A relaxed structure against the unrelaxed one.

    Attributes
    ----------
    stated : float
        Difference of the log evidences of both geometries, same columns, same allowances: what is stated.
    any : float
        The same with the allowance integrated out for both: its logarithm lies anywhere between those of
        `ALLOWANCES_A`.
    near_chi2, near_chi2_rest : float
        As predicted, per pixel, within a lattice constant of the defect: relaxed, and on the sites of the crystal.
    """

    stated: float
    any: float
    near_chi2: float
    near_chi2_rest: float


class Relaxation(NamedTuple):
    """Of the candidate that is true.

    Attributes
    ----------
    network : Compared
    perfect : Compared or None
        With the positions that were drawn; None where the image shows others than those of SevenNet-0.
    error_A, moved_A : float
        rms of the network's error and of the true displacement, in the plane, of atoms within `BESIDE_A`.
    """

    network: Compared
    perfect: Compared | None
    error_A: float
    moved_A: float


BESIDE_A = 4.0


def relaxation_of(shot: Shot, number: int, one: Any, which: Sequence[int]) -> Relaxation:
    """Compare the relaxed and the unrelaxed structure of the candidates `which`, of which the likelier one counts."""
    k = max(which, key=lambda n: one.scores[n].posterior)
    candidate, relaxed = one.candidates[k], one.relaxed[k]
    image, columns, imaging, lattice, _, others = one.rest
    scene = make_scene(one.defect, image, columns, imaging, lattice, others)
    scene = scene._replace(relaxation_A=relaxation_error_A(list(zip(one.candidates, one.relaxed, strict=True))))
    scatter = position_scatter(columns, lattice)

    def chi2(of: Any) -> float:
        return _near_chi2(scene, scene.surroundings + render(of.xy, of.amplitude, scene.profile, scene.image.shape))

    def against(r: relax.Relaxed) -> Compared:
        own = columns_of(candidate, r, scene, imaging)
        gains = [_gain(own, scene, scatter, lattice)]
        for allowance in ALLOWANCES_A:
            here = scene._replace(relaxation_A=allowance)
            of = columns_of(candidate, replace(r, sigma_A=None), here, imaging)
            gains.append(_gain(of, here, scatter, lattice))
        moved, rest = (float(logsumexp([g[n] for g in gains[1:]])) for n in (0, 1))
        return Compared(gains[0][0] - gains[0][1], moved - rest, chi2(own), chi2(own.at_rest()))

    if "otherwise" in shot.field.view:
        return Relaxation(against(relaxed), None, np.nan, np.nan)
    true_A = true_positions_A(shot, number, candidate)
    near = candidate.structure.occupied & (_away_A(candidate) < BESIDE_A)
    error, whole = ((some - true_A)[near, :2] for some in (relaxed.positions_A, candidate.structure.nodes_A))
    return Relaxation(
        against(relaxed), against(replace(relaxed, positions_A=true_A, sigma_A=None)),
        float(np.sqrt(np.mean(error**2))), float(np.sqrt(np.mean(whole**2))),
    )


def _gain(of: Any, scene: Any, scatter: float, lattice: Any) -> tuple[float, float]:
    """Evidence of columns where they are predicted, and on the sites of the crystal."""
    moved, rest = (evidence_as_predicted(some, scene, scatter, lattice) for some in (of, of.at_rest()))
    return moved, rest


def _near_chi2(scene: Any, model: FloatArray) -> float:
    y, x = np.mgrid[: model.shape[0], : model.shape[1]]
    away = cKDTree(scene.extent).query(np.stack([x, y], -1))[0]
    use = (scene.weight > 0) & (away < scene.a_px)
    return float(np.mean((scene.weight * (scene.image - model) ** 2)[use]))


def _away_A(candidate: Any) -> FloatArray:
    nodes = candidate.structure.nodes_A
    return np.asarray(cKDTree(nodes[list(candidate.structure.sites), :2]).query(nodes[:, :2])[0])


def true_positions_A(shot: Shot, number: int, candidate: Any) -> FloatArray:
    """Nodes (N, 3) of a candidate where they stand in the field; those of other layers swapped if that fits better."""
    field, truth = shot.field, shot.field.defects[number]
    stamp, lib = library(field.view).stamps[truth.label], library(field.view)
    nodes_uv, above, shift_uv, empty = _true_nodes(lib.host, truth.label, _turn_of(field.view))
    base = truth.sites_px[0] - field.cell_px @ np.array(stamp.sites[0][:2])
    at_px = shot.recording.scan.to_image(nodes_uv @ field.cell_px.T + base)
    shift_px = shift_uv @ field.cell_px.T
    own = candidate.structure.nodes_A
    own_px = own[:, :2] @ candidate.matrix.T + candidate.offset_px
    side = np.sign(np.round(own[:, 2] - np.median(own[:, 2]), 1))
    gone = ~candidate.structure.occupied

    def matched(flip: float) -> tuple[FloatArray, float]:
        lift = 20 * NODE_A / field.pixel_A  # layers are apart
        tree = cKDTree(np.column_stack([at_px, lift * flip * above]))
        distance, nearest = tree.query(np.column_stack([own_px, lift * side]))
        known = np.asarray(distance) < NODE_A / field.pixel_A
        target = np.where(known[:, None], (at_px + shift_px)[nearest], own_px)
        return target, float(np.sum(known[gone] & empty[np.asarray(nearest)[gone]]))

    target, _ = max((matched(1.0), matched(-1.0)), key=lambda one: one[1])
    there = (target - candidate.offset_px) @ np.linalg.inv(candidate.matrix).T
    return np.column_stack([np.where(gone[:, None], own[:, :2], there), own[:, 2]])


def _turn_of(view: str) -> int:
    with np.load(STORE / f"{view}.npz") as kept:
        return int(json.loads(str(kept["about"]))["turn"])


def _true_nodes(
    name: str, label: str, turn: int
) -> tuple[FloatArray, FloatArray, FloatArray, NDArray[np.bool_]]:
    """As `defect_atoms` puts them, in units of the cell vectors, the middle of the defect near the origin.

    Returns perfect nodes (N, 2), side of the metals (N,), displacements (N, 2), and which nodes are empty.
    """
    patch, facts = moved(name, label), host(name)
    defect, shape = patch.defect, np.array(patch.defect.shape)
    count, basis = int(shape.prod()) * len(facts.basis), len(facts.basis)
    nodes = defect.structure.frac_coords[:, :2] * shape
    k = np.arange(count) % basis
    nodes[:count] = np.column_stack(np.divmod(np.arange(count) // basis, shape[1])) + [
        (facts.basis[n].u, facts.basis[n].v) for n in k
    ]
    nodes = nodes - np.floor(nodes[list(defect.sites)].mean(0))
    nodes -= np.round(nodes / shape) * shape
    shift = patch.shift
    for _ in range(turn % 3):
        nodes, shift = (np.column_stack([-uv.sum(1), uv[:, 0]]) for uv in (nodes, shift))
    at = nodes[list(defect.sites)]
    gaps = np.linalg.norm(lattice_xy(name, (nodes[:, None] - at).reshape(-1, 2)).reshape(len(nodes), -1, 2), axis=2)
    far = (gaps.min(1) / facts.a_exp_A - TAPER[0]) / (TAPER[1] - TAPER[0])
    shift = shift * (np.cos(np.pi / 2 * far.clip(0, 1)) ** 2)[:, None]
    z = defect.structure.cart_coords[:, 2]
    return nodes, np.sign(np.round(z - np.median(z), 1)), shift, ~defect.occupied
