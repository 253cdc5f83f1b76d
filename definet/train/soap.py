"""SOAP: Adam in the slowly turning eigenbasis of Shampoo's preconditioner.

Vyas et al., arXiv:2409.11321, Algorithm 3. For a matrix of weights with gradient G the moving averages of G G^T and
G^T G are followed; Adam works on G in the basis of their eigenvectors, which one step of orthogonal iteration now and
then keeps up to date. At equal time it brings this network further than AdamW: it is small, its matrices are cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-8


class SOAP(torch.optim.Optimizer):
    """Vectors, and sides of matrices longer than `largest`, are not turned.

    Parameters
    ----------
    parameters : iterable of Tensor
        Of one or two dimensions.
    lr, weight_decay : float
        The decay is AdamW's: apart from the gradient.
    betas : (float, float)
        Memory of the gradient and of its squares; the second is that of the preconditioner too.
    every : int
        Steps between two turns of the basis.
    largest : int
        Rows or columns.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, weight_decay: float,
        betas: tuple[float, float] = (0.95, 0.95), every: int = 20, largest: int = 512,
    ) -> None:  # fmt: skip
        settings = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "every": every, "largest": largest}
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; the first gradient only finds the basis."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    _update(weights, weights.grad, self.state[weights], group)


def _update(weights: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    slow, fast = group["betas"]
    if not state:
        state.update(step=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
        for side in _turned(gradient, group["largest"]):
            spread = _spread(gradient, side) * (1 - fast)
            state[f"spread{side}"], state[f"basis{side}"] = spread, _eigenvectors(spread)
        return
    sides = _turned(gradient, group["largest"])
    state["step"] += 1
    mean, square = state["mean"].lerp_(gradient, 1 - slow), state["square"]
    turned = _turn(gradient, state, sides)
    square.lerp_(turned.square(), 1 - fast)
    size = (square / (1 - fast ** state["step"])).sqrt() + EPSILON
    change = _turn(_turn(mean, state, sides) / size, state, sides, back=True) / (1 - slow ** state["step"])
    weights.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"])
    for side in sides:
        state[f"spread{side}"].lerp_(_spread(gradient, side), 1 - fast)
        if state["step"] % group["every"] == 0:
            _follow(state, side)


def _turned(gradient: Tensor, largest: int) -> list[int]:
    """Sides that have a basis: of matrices only, and not where there is but one row or column."""
    if gradient.dim() != 2 or min(gradient.shape) == 1:
        return []
    return [side for side in range(2) if gradient.shape[side] <= largest]


def _spread(gradient: Tensor, side: int) -> Tensor:
    return gradient.T @ gradient if side else gradient @ gradient.T


def _turn(values: Tensor, state: dict[str, Any], sides: list[int], back: bool = False) -> Tensor:
    """Into the basis of the sides, or out of it."""
    for side in sides:
        basis = state[f"basis{side}"].T if back else state[f"basis{side}"]
        values = values @ basis if side else basis.T @ values
    return values


def _follow(state: dict[str, Any], side: int) -> None:
    """One orthogonal iteration towards the present eigenvectors; largest first, as it sorts them itself."""
    spread, basis = state[f"spread{side}"], state[f"basis{side}"]
    order = (basis * (spread @ basis)).sum(0).argsort(descending=True, stable=True)
    state["square"] = state["square"].index_select(side, order)
    state[f"basis{side}"] = torch.linalg.qr(spread @ basis[:, order])[0]


def _eigenvectors(spread: Tensor) -> Tensor:
    """Largest first. LAPACK fails in single precision on small gradients most of whose rows are zero."""
    vectors: Tensor = torch.linalg.eigh(spread.double())[1].flip(1).to(spread.dtype)
    return vectors
