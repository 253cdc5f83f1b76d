"""The optimiser: blind to rotations of rows and columns, as Adam is not, and quick where they matter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from definet.train.soap import SOAP

Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


def soap(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return SOAP(parameters, lr=0.05, weight_decay=0.0, every=5)


def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.05)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def descend(optimizer: Optimizer, left: Tensor, right: Tensor, start: Tensor, goal: Tensor, steps: int) -> Tensor:
    """Weights after steps downhill on |left (W - goal) right|^2."""
    weights = start.clone().requires_grad_(True)
    method = optimizer([weights])
    for _ in range(steps):
        method.zero_grad()
        (left @ (weights - goal) @ right).square().sum().backward()
        method.step()
    return weights.detach()


def rotations(n: int) -> tuple[Tensor, Tensor]:
    return torch.linalg.qr(draw(n, n, seed=5))[0], torch.linalg.qr(draw(n, n, seed=6))[0]


@pytest.mark.parametrize(("optimizer", "blind"), [(soap, True), (adam, False)])
def test_rotated_weights_take_the_rotated_path(optimizer: Optimizer, blind: bool) -> None:
    left, right, start, goal = (draw(5, 5, seed=k) for k in range(4))
    u, v = rotations(5)
    plain = descend(optimizer, left, right, start, goal, 60)
    turned = descend(optimizer, left @ u.T, v.T @ right, u @ start @ v, u @ goal @ v, 60)
    apart = float((u @ plain @ v - turned).abs().max())
    assert (apart < 1e-3) if blind else (apart > 0.1)  # of squared condition numbers, rounding leaves 1e-5
    assert float((plain - start).abs().max()) > 0.5


def test_goes_further_than_adam_where_the_valley_is_narrow_and_slanted() -> None:
    u, v = rotations(6)
    left = torch.diag(torch.logspace(-1.5, 0.5, 6, dtype=torch.float64)) @ u
    right = v @ torch.diag(torch.logspace(-1.5, 0.5, 6, dtype=torch.float64))
    start, goal = torch.zeros(6, 6, dtype=torch.float64), draw(6, 6)
    far = {
        method: float((left @ (descend(method, left, right, start, goal, 150) - goal) @ right).square().sum())
        for method in (soap, adam)
    }
    assert far[soap] < 0.2 * far[adam]


def test_what_is_no_matrix_or_too_long_is_not_turned() -> None:
    parameters = [draw(4).requires_grad_(True), draw(1, 4).requires_grad_(True), draw(3, 9).requires_grad_(True)]
    method = SOAP(parameters, lr=0.01, weight_decay=0.1, largest=5)
    before = [value.detach().clone() for value in parameters]
    for _ in range(3):
        method.zero_grad()
        torch.stack([value.square().sum() for value in parameters]).sum().backward()
        method.step()
    bases = [{name for name in method.state[value] if name.startswith("basis")} for value in parameters]
    assert bases == [set(), set(), {"basis0"}]
    assert all(bool((now.abs() < old.abs()).all()) for now, old in zip(parameters[:2], before[:2], strict=True))


def test_tiny_gradients_of_few_rows_do_no_harm() -> None:
    """An embedding most of whose rows no structure has: single precision hardly holds the squares of its gradient."""
    for seed in range(30):
        weights = torch.zeros(118, 32, requires_grad=True)
        method = SOAP([weights], lr=0.01, weight_decay=0.0, every=1)
        weights.grad = torch.zeros(118, 32)
        size = 10**-10.5 * torch.logspace(0, -2, 4)[:, None]
        rows = torch.randn(4, 32, generator=torch.Generator().manual_seed(seed))
        weights.grad[[6, 16, 42, 74]] = size * rows
        for _ in range(4):
            method.step()
        basis = method.state[weights]["basis0"]
        torch.testing.assert_close(basis.T @ basis, torch.eye(118), rtol=0, atol=1e-4)
        assert weights.isfinite().all()
