"""Losses as values alone, written from their definitions; derivatives are taken numerically.

Every function takes y of shape (n_rows,) (or (n_rows, n_targets)) and raw scores F of shape
(n_rows, n_outputs), which may be complex: gradients are complex steps, exact to rounding. `|x|` and
comparisons follow the real part.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

STEP = 1e-3
STENCIL = ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12))  # fourth order


def absolute(x):
    return np.where(np.real(x) < 0, -x, x)


def log1p_exp(x):
    """log(1 + exp(x)) for complex x without overflow."""
    return np.where(np.real(x) >= 0, x, 0) + np.log1p(np.exp(-absolute(x)))


def squared(y, F):
    return 0.5 * ((F - y.reshape(F.shape)) ** 2).sum(axis=1)


def squared_of_root(y, F):
    return squared(np.sign(y) * np.sqrt(np.abs(y)), F)


def logistic(y, F, slope=1.0):
    return log1p_exp(slope * F[:, 0]) - y * slope * F[:, 0]


def one_vs_all(y, F, slope=1.0):
    own = F[np.arange(len(F)), y.astype(int)]
    return log1p_exp(slope * F).sum(axis=1) - slope * own


def softmax(y, F):
    top = np.real(F).max(axis=1)
    total = np.log(np.exp(F - top[:, None]).sum(axis=1)) + top
    return total - F[np.arange(len(F)), y.astype(int)]


def exponential(y, F):
    return np.exp(-(2 * y - 1) * F[:, 0])


def huber(y, F, delta):
    x = absolute(F[:, 0] - y)
    return np.where(np.real(x) <= delta, x**2 / 2, delta * (x - delta / 2))


def pseudo_huber(y, F, delta=1.0):
    return delta**2 * (np.sqrt(1 + ((F[:, 0] - y) / delta) ** 2) - 1)


def fair(y, F, c=1.0):
    x = absolute(F[:, 0] - y)
    return c**2 * (x / c - np.log(1 + x / c))


def log_cosh(y, F):
    x = absolute(F[:, 0] - y)
    return x + np.log1p(np.exp(-2 * x)) - np.log(2)


def expectile(y, F, alpha):
    x = F[:, 0] - y
    return np.where(np.real(x) < 0, alpha, 1 - alpha) * x**2


def poisson(y, F):
    return np.exp(F[:, 0]) - y * F[:, 0]


def gamma(y, F):
    return F[:, 0] + y * np.exp(-F[:, 0])


def tweedie(y, F, power=1.5):
    a, b = 1 - power, 2 - power
    return np.exp(b * F[:, 0]) / b - y * np.exp(a * F[:, 0]) / a


def squared_log(y, F):
    return 0.5 * (np.log(1 + F[:, 0]) - np.log(1 + y)) ** 2


def absolute_error(y, F):
    return absolute(F[:, 0] - y)


def quantile(y, F, alpha=0.5):
    x = y - F[:, 0]
    return np.where(np.real(x) > 0, alpha * x, (alpha - 1) * x)


def relative_error(y, F):
    return absolute(F[:, 0] - y) / np.maximum(1, np.abs(y))


def probability(y, F):
    p = F[np.arange(len(F)), y.astype(int)]
    return -np.log(np.clip(p, np.finfo(float).eps, 1))


@dataclass(frozen=True)
class RowLoss:
    """A loss with the Hessian its library sums up in a leaf.

    Attributes:
        value: One of the functions above, its settings filled in.
        scale: The library's Hessian over the second derivative.
        unit: The library's Hessian is 1.
        least: The library's Hessian is at least this.
    """

    value: Callable
    scale: float = 1.0
    unit: bool = False
    least: float = -np.inf

    def gradient(self, y, F):
        """dL/dF by complex steps, (n_rows, n_outputs)."""
        out = np.empty(F.shape)
        for k in range(F.shape[1]):
            turned = F.astype(complex)
            turned[:, k] += 1e-30j
            out[:, k] = np.imag(self.value(y, turned)) / 1e-30
        return out

    def full_hessian(self, y, F):
        """d2L/dF_k dF_m by differences of the gradient, (n_rows, n_outputs, n_outputs)."""
        out = np.empty((*F.shape, F.shape[1]))
        for k in range(F.shape[1]):
            moved = np.zeros(F.shape[1])
            moved[k] = STEP
            out[:, k] = sum(c * self.gradient(y, F + m * moved) for m, c in STENCIL) / STEP
        return out

    def hessian(self, y, F):
        """What the library sums up, (n_rows, n_outputs)."""
        if self.unit:
            return np.ones(F.shape)
        own = np.stack(
            [
                sum(c * self._gradient_of(y, F, k, m * STEP) for m, c in STENCIL) / STEP
                for k in range(F.shape[1])
            ],
            axis=1,
        )
        return np.maximum(self.scale * own, self.least)

    def _gradient_of(self, y, F, k, moved):
        """dL/dF_k where F_k is moved, (n_rows,)."""
        turned = F.astype(complex)
        turned[:, k] += moved + 1e-30j
        return np.imag(self.value(y, turned)) / 1e-30
