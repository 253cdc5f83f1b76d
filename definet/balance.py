"""Where pushed and held atoms come to rest: the minimum of a sum of springs, exactly and with its gradient.

Energy of displacements u: for every pair of connected atoms half of along (d.Du)^2 + across (Du^2 - (d.Du)^2), with Du
the difference of their displacements and d the direction between them; less force.u; and a weak anchor on every atom.
One linear system. The forces add up to zero in each structure before it is solved, so that nothing floats.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from definet.exceptions import ModelError

ANCHOR_eV_A2 = 0.02
"""Ties every atom to where it was. Bounds the range of elasticity at sqrt(stiffness / anchor), some 15 bonds, and with
it the number of iterations; the softest waves of an 8 x 8 cell are five times stiffer."""
DENSE = 400
"""Atoms up to which the matrix is factorised; beyond, conjugate gradients use what it is sparse."""
TOLERANCE = 1e-6
ITERATIONS = 3000


class Bonds(NamedTuple):
    """Connected pairs of atoms, each listed once, those of a structure before those of the next.

    source, target (B,) int64; direction (B, 3), unit; along, across (B,) stiffness, eV/A^2, not negative.
    """

    source: Tensor
    target: Tensor
    direction: Tensor
    along: Tensor
    across: Tensor


def rest(bonds: Bonds, force: Tensor, counts: Tensor) -> Tensor:
    """Displacements (N, 3) of the atoms of several structures under forces (N, 3), eV/A; counts (G,) atoms of each.

    Differentiable in the forces, the directions and both stiffnesses.
    """
    structure = torch.repeat_interleave(torch.arange(len(counts), device=force.device), counts)  # (N,)
    total = force.new_zeros(len(counts), 3).index_add(0, structure, force)  # (G, 3)
    balanced = force - (total / counts[:, None].to(force.dtype)).index_select(0, structure)  # (N, 3)
    moved: Tensor = _Rest.apply(*bonds, balanced, counts.tolist())  # type: ignore[no-untyped-call]
    return moved


def stored(bonds: Bonds, moved: Tensor) -> Tensor:
    """Energy (N,), eV, in the springs of each atom that moved by (N, 3), A; each end has half of a spring.

    Relaxing gains as much: the springs start unstretched, and at rest the forces have done twice that work.
    """
    apart = moved.index_select(0, bonds.target) - moved.index_select(0, bonds.source)  # (B, 3)
    along = (apart * bonds.direction).sum(1).square()  # (B,)
    half = (bonds.along * along + bonds.across * (apart.square().sum(1) - along)) / 4  # (B,)
    return half.new_zeros(len(moved)).index_add(0, bonds.target, half).index_add(0, bonds.source, half)


class _Rest(torch.autograd.Function):
    """u = H^-1 f. Backward is one more solution with the same matrix: dL/df = w = H^-1 g, dL/dH = -w u^T."""

    @staticmethod
    def forward(
        ctx: Any, source: Tensor, target: Tensor, direction: Tensor, along: Tensor, across: Tensor,
        force: Tensor, counts: list[int],
    ) -> Tensor:  # fmt: skip
        bonds = Bonds(source, target, direction, along, across)
        ctx.solve = _solver(bonds, counts)
        moved: Tensor = ctx.solve(force)
        ctx.save_for_backward(*bonds, moved)
        return moved

    @staticmethod
    def backward(
        ctx: Any, *gradient: Tensor
    ) -> tuple[None, None, Tensor, Tensor, Tensor, Tensor, None]:
        *parts, moved = ctx.saved_tensors
        bonds, answer = Bonds(*parts), ctx.solve(gradient[0])
        du = moved[bonds.target] - moved[bonds.source]  # (B, 3)
        dw = answer[bonds.target] - answer[bonds.source]  # (B, 3)
        u, w = ((d * bonds.direction).sum(1, keepdim=True) for d in (du, dw))  # (B, 1)
        along = (u * w).squeeze(1)  # (B,)
        turned = -(bonds.along - bonds.across)[:, None] * (u * dw + w * du)  # (B, 3)
        return None, None, turned, -along, along - (du * dw).sum(1), answer, None


class _Factorised:
    """Cholesky factors, one structure after the other."""

    def __init__(self, bonds: Bonds, counts: list[int]) -> None:
        ends = torch.tensor(counts, device=bonds.target.device).cumsum(0)
        structure = torch.searchsorted(ends, bonds.target, right=True)  # (B,)
        cuts = [0, *torch.bincount(structure, minlength=len(counts)).cumsum(0).tolist()]
        self.counts, first, self.factors = counts, 0, []
        for k, count in enumerate(counts):
            part = Bonds(*(value[cuts[k] : cuts[k + 1]] for value in bonds))
            local = part._replace(source=part.source - first, target=part.target - first)
            factor, wrong = torch.linalg.cholesky_ex(_matrix(local, count))
            if int(wrong):  # stiffnesses are not negative and every atom is anchored: only this can fail
                raise ModelError("the network predicts springs that are not finite")
            self.factors.append(factor)
            first += count

    def __call__(self, force: Tensor) -> Tensor:
        parts = force.split(self.counts)
        solved = [
            torch.cholesky_solve(f.reshape(-1, 1), factor).view(-1, 3)
            for f, factor in zip(parts, self.factors, strict=True)
        ]
        return torch.cat(solved)


class _Iterated:
    """Conjugate gradients preconditioned with the 3 x 3 blocks of the atoms, in float64, all structures at once."""

    def __init__(self, bonds: Bonds, counts: list[int]) -> None:
        n = sum(counts)
        blocks = _blocks(bonds).double()  # (B, 3, 3)
        own = blocks.new_zeros(n, 3, 3).index_add(0, bonds.target, blocks).index_add(0, bonds.source, blocks)
        own = own + ANCHOR_eV_A2 * torch.eye(3, dtype=own.dtype, device=own.device)
        self.inverse = torch.linalg.inv(own)
        axis = torch.arange(3, device=own.device)
        atom = torch.arange(n, device=own.device)
        rows = torch.cat([bonds.target, bonds.source, atom])[:, None, None] * 3 + axis[:, None]
        columns = torch.cat([bonds.source, bonds.target, atom])[:, None, None] * 3 + axis[None, :]
        values = torch.cat([-blocks, -blocks, own])
        index = torch.stack([rows.expand_as(values).flatten(), columns.expand_as(values).flatten()])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse", UserWarning)  # "in beta state"; what it gives is tested
            self.matrix = torch.sparse_coo_tensor(index, values.flatten(), (3 * n, 3 * n)).to_sparse_csr()

    def __call__(self, force: Tensor) -> Tensor:
        residual = force.double().flatten()
        moved = torch.zeros_like(residual)
        small = TOLERANCE * residual.norm()
        if not small.isfinite():
            raise ModelError("the network predicts springs that are not finite")
        step = descent = self._precondition(residual)
        slope = residual @ step
        for _ in range(ITERATIONS):
            if residual.norm() <= small:
                return moved.view(-1, 3).to(force.dtype)
            product = self.matrix @ descent
            length = slope / (descent @ product)
            moved = moved + length * descent
            residual = residual - length * product
            step = self._precondition(residual)
            slope, before = residual @ step, slope
            descent = step + slope / before * descent
        # Not that it took long: of positive stiffnesses with an anchor it takes some hundred.
        raise ModelError("the network predicts springs that do not come to rest")

    def _precondition(self, residual: Tensor) -> Tensor:
        own: Tensor = self.inverse @ residual.view(-1, 3, 1)
        return own.flatten()


def _solver(bonds: Bonds, counts: list[int]) -> _Factorised | _Iterated:
    return _Factorised(bonds, counts) if max(counts) <= DENSE else _Iterated(bonds, counts)


def _blocks(bonds: Bonds) -> Tensor:
    """Stiffness of each bond, (B, 3, 3)."""
    outer = bonds.direction[:, :, None] * bonds.direction[:, None]  # (B, 3, 3)
    identity = torch.eye(3, dtype=outer.dtype, device=outer.device)
    return (bonds.along - bonds.across)[:, None, None] * outer + bonds.across[:, None, None] * identity


def _matrix(bonds: Bonds, n: int) -> Tensor:
    """Stiffness matrix (3 n, 3 n) of one structure."""
    blocks = _blocks(bonds).flatten(1)  # (B, 9)
    matrix = blocks.new_zeros(n * n, 9)
    own = blocks.new_zeros(n, 9)
    for one, other in ((bonds.target, bonds.source), (bonds.source, bonds.target)):
        matrix = matrix.index_add(0, one * n + other, -blocks)
        own = own.index_add(0, one, blocks)
    diagonal = torch.arange(n, device=blocks.device) * (n + 1)
    matrix = matrix.index_add(0, diagonal, own)
    square = matrix.view(n, n, 3, 3).transpose(1, 2).reshape(3 * n, 3 * n)
    square.diagonal().add_(ANCHOR_eV_A2)
    return square
