"""The weighted linear least-squares problem of one Gauss-Newton step, matrix-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stemfit.columns.stamps import Brush

Solve = Callable[[Tensor], Tensor]

ACCURACY = 1e-3
"""Conjugate gradients stop at this share of the initial residual (squared, in the metric of the preconditioner): the
outer loop linearises anew."""


@dataclass(frozen=True)
class Linear:
    """Derivative of the image with respect to all unknowns, as an operator.

    The unknowns are one flat vector: x, y, intensity of each of N columns, M background coefficients, P shared
    parameters of the profile.

    Attributes
    ----------
    brush : Brush
    intensity : (N,) tensor
    moving, lit : (N,) tensor
        1 where the position, the intensity is free, else 0.
    rows, cols : (H, MY), (W, MX) tensors
        Background basis.
    shared : (P, H, W) tensor
        Derivative images of the shared parameters.
    weight : (H, W) tensor
        Inverse variance of every pixel.
    ridge : (3 N + M + P,) tensor
        Inverse prior variance of every unknown.
    """

    brush: Brush
    intensity: Tensor
    moving: Tensor
    lit: Tensor
    rows: Tensor
    cols: Tensor
    shared: Tensor
    weight: Tensor
    ridge: Tensor

    @property
    def own(self) -> int:
        """Number of unknowns without the shared ones."""
        return len(self.ridge) - len(self.shared)

    def without(self, k: int) -> Linear:
        """The same problem, the k-th shared parameter held."""
        keep = [j for j in range(len(self.shared)) if j != k]
        ridge = torch.cat([self.ridge[: self.own], self.ridge[self.own :][keep]])
        return replace(self, shared=self.shared[keep], ridge=ridge)

    def forward(self, unknowns: Tensor) -> Tensor:
        """Change of the image (H, W) for a change of the unknowns."""
        n = len(self.intensity)
        dx, dy, di = unknowns[: 3 * n].reshape(n, 3).unbind(1)
        reach = self.intensity * self.moving
        stamps = self.brush.stamps
        windows = (reach * dx)[:, None] * stamps.grad_x
        windows.addcmul_((reach * dy)[:, None], stamps.grad_y).addcmul_((self.lit * di)[:, None], stamps.core)
        coef = unknowns[3 * n : self.own].reshape(self.rows.shape[1], self.cols.shape[1])
        image = self.brush.draw(windows) + self.rows @ coef @ self.cols.T
        return image + torch.tensordot(unknowns[self.own :], self.shared, 1) if len(self.shared) else image

    def adjoint(self, image: Tensor) -> Tensor:
        """Transpose of `forward`."""
        windows, stamps = self.brush.read(image), self.brush.stamps
        reach = self.intensity * self.moving
        x, y, i = ((windows * shape).sum(1) for shape in (stamps.grad_x, stamps.grad_y, stamps.core))
        columns = torch.stack([reach * x, reach * y, self.lit * i], 1).reshape(-1)
        background = (self.rows.T @ image @ self.cols).reshape(-1)
        return torch.cat([columns, background, torch.einsum("phw,hw->p", self.shared, image)])

    def normal(self, unknowns: Tensor) -> Tensor:
        """Product with the normal matrix."""
        return self.adjoint(self.weight * self.forward(unknowns)) + self.ridge * unknowns


def two_level(problem: Linear, solve: Solve) -> Solve:
    """Extend a preconditioner of columns and background to the shared parameters and to what all columns do together.

    The coarse space holds each shared derivative less what columns and background can imitate of it, the common
    brightness and the level of the background: brightness, background, width and tail nearly exchange, and no local
    matrix sees it. In it the normal matrix is exact (additive two-level Schwarz method).
    """
    n, p, total = problem.own, len(problem.shared), len(problem.ridge)
    coarse = problem.ridge.new_zeros(p + 3, total)
    coarse[p, 2 : 3 * len(problem.intensity) : 3] = problem.lit * problem.intensity
    coarse[p + 1, 2 : 3 * len(problem.intensity) : 3] = problem.lit
    coarse[p + 2, 3 * len(problem.intensity) : n] = 1.0
    for k, derivative in enumerate(problem.shared):
        coarse[k, :n] = -solve(problem.adjoint(problem.weight * derivative)[:n])
        coarse[k, n + k] = 1.0
    images = torch.stack([problem.forward(z) for z in coarse]).reshape(p + 3, -1)
    weighted = (images * problem.weight.reshape(-1)).double()
    gram = weighted @ images.double().T + (coarse * problem.ridge).double() @ coarse.double().T
    root = gram.diagonal().clamp(min=1e-300).sqrt()
    exact = torch.linalg.pinv(gram / root / root[:, None], hermitian=True, rtol=1e-7) / root / root[:, None]
    inverse = exact.to(problem.weight)

    def apply(right: Tensor) -> Tensor:
        answer: Tensor = coarse.T @ (inverse @ (coarse @ right))
        answer[:n] += solve(right[:n])
        return answer

    return apply


def conjugate_gradients(
    problem: Linear, right: Tensor, precondition: Solve, iterations: int, accuracy: float = ACCURACY
) -> Tensor:
    """Solve ``normal(x) = right``."""
    r = right
    z = precondition(r)
    x, d, rz = torch.zeros_like(r), z, float(r @ z)
    first = rz
    for _ in range(iterations):
        hd = problem.normal(d)
        step = rz / max(float(d @ hd), 1e-300)
        x, r = x + step * d, r - step * hd
        z = precondition(r)
        rz, before = float(r @ z), rz
        if not rz > accuracy * first:
            break
        d = z + (rz / before) * d
    return x
