"""`Basis`: the directions of the weights in which `Galerkin` follows a training."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm_influence.order.rules import Partials

ENOUGH = 1 - 1e-6  # share of the paths' variance that the columns hold, if there are so many
MOST = 1e4  # times the median that a preconditioner counts at most
NEW = 1e-3  # part of a gradient beside all columns from which it adds one


@dataclass(frozen=True, eq=False)
class Basis:
    """K directions of the weights: w - w_t = sqrt(P) U x.

    Attributes:
        scale: sqrt(P), shape (n,).
        columns: U, orthonormal, shape (n, K).
    """

    scale: Tensor
    columns: Tensor

    @classmethod
    def of(cls, deviations: Tensor, scale: Tensor, most: int) -> Self:
        """The leading components of deviations of the weights, shape (n_deviations, n)."""
        left, sizes, _ = torch.linalg.svd((deviations * _power(scale, -1)).T, full_matrices=False)
        held = (sizes**2).cumsum(0) / (sizes**2).sum()
        return cls(scale, left[:, : min(int((held < ENOUGH).sum()) + 1, most)])

    def beside(self, gradients: Tensor, most: int) -> Self:
        """Columns for what gradients, shape (n_gradients, n), have beside those there are."""
        rest = normalize(gradients * self.scale).T
        for _ in range(2):  # once leaves rounding
            rest = rest - self.columns @ (self.columns.T @ rest)
        left, sizes, _ = torch.linalg.svd(rest, full_matrices=False)
        return type(self)(self.scale, left[:, : min(int((sizes > NEW).sum()), most)])

    def with_columns(self, other: Self) -> Self:
        return type(self)(self.scale, torch.cat([self.columns, other.columns], dim=1))

    @property
    def n(self) -> int:
        """Number of columns."""
        return self.columns.shape[1]

    @property
    def directions(self) -> Tensor:
        """sqrt(P) U as rows, shape (K, n)."""
        return (self.scale[:, None] * self.columns).T

    @property
    def inverse(self) -> Tensor:
        """U' / sqrt(P) as columns, shape (n, K)."""
        return _power(self.scale, -1)[:, None] * self.columns

    def slope(self, gradients: Tensor) -> Tensor:
        """Gradients by x, shape (..., K)."""
        return (gradients * self.scale) @ self.columns

    def moved(self, changes: Tensor) -> Tensor:
        """Changes of the weights as changes of x, shape (..., K)."""
        return changes @ self.inverse

    def inside(self, diagonal: Tensor | None, power: int) -> Tensor:
        """U' diag(d P^power) U, shape (K, K)."""
        if diagonal is None:
            return self.columns.new_zeros(self.n, self.n)
        if not power and bool((diagonal == diagonal[0]).all()):
            return diagonal[0] * torch.eye(self.n).to(diagonal)
        weight = diagonal * _power(self.scale, 2 * power)
        return self.columns.T @ (weight[:, None] * self.columns)


def preconditioner(steps: list[Partials], still: Tensor) -> Tensor:
    """What a unit of gradient moves a weight by, averaged over steps; 0 where a weight is still."""
    moves = [move.abs() for one in steps if (move := one.table[0][-2]) is not None]
    typical = torch.stack(moves).mean(dim=0)
    most = MOST * float(typical[~still].median()) if not bool(still.all()) else 0.0
    return torch.where(still, 0.0, typical.clamp(max=most))


def _power(scale: Tensor, power: int) -> Tensor:
    """A power where the scale is not 0, and 0 elsewhere."""
    return torch.where(scale > 0, torch.where(scale > 0, scale, 1.0) ** power, 0.0)
