"""Losses: value and derivatives in the raw score, per row and unweighted.

| index | meaning |
|---|---|
| i     | row |
| k, m  | output; one for most losses, one for each class or target for the others |

`target` holds values for regression (shape (n_rows, n_outputs) for several targets) and class
positions for classification. A library's leaves are -G / (H + l2) with H the sum of `hessian`,
which is not always the second derivative: `curvature` is that. Constants of a row (log y! of the
Poisson likelihood ...) are left out of `value`. Losses on a log scale are in `losses_positive`,
those of CatBoost alone in `losses_catboost`, those made of other losses in `losses_wrapped`.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax

Floats = NDArray[np.float64]


class Derivatives(NamedTuple):
    """Derivatives of each row's loss, each of shape (n_rows, n_outputs).

    Attributes:
        gradient: g_k = dL/dF_k.
        curvature: dg_k/dF_k.
        hessian: h~_k, what the library adds up over a leaf.
        hessian_slope: dh~_k/dF_k; where outputs are coupled, dh~_k/dp_k.
        coupling: Class probabilities p where dg_k/dF_m = p_k (1[k=m] - p_m);
            None where outputs do not mix.
    """

    gradient: Floats
    curvature: Floats
    hessian: Floats
    hessian_slope: Floats
    coupling: Floats | None


class Loss(Protocol):
    """What a prediction is judged by."""

    @property
    def name(self) -> str: ...

    def value(self, target: Floats, raw: Floats) -> Floats:
        """Loss of each row, shape (n_rows,)."""
        ...


@runtime_checkable
class TrainingLoss(Loss, Protocol):
    """A training loss as the leaf formulas need it."""

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        """Derivatives in the raw score of shape (n_rows, n_outputs)."""
        ...


def uncoupled(gradient: Floats, curvature: Floats, third: Floats) -> Derivatives:
    """Derivatives where the library's leaf Hessian is the second derivative."""
    return Derivatives(gradient, curvature, curvature, third, None)


def columns(target: Floats, raw: Floats) -> Floats:
    """Target in the shape of the raw scores, (n_rows, n_outputs)."""
    return target.reshape(raw.shape)


@dataclass(frozen=True)
class SquaredError:
    """L = sum_k (F_k - y_k)^2 / 2."""

    name = "squared error"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return 0.5 * ((raw - columns(target, raw)) ** 2).sum(axis=1)

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        return uncoupled(raw - columns(target, raw), np.ones_like(raw), np.zeros_like(raw))


@dataclass(frozen=True)
class Logistic:
    """L = log(1 + exp(s F)) - y s F with y in [0, 1]: -log p(y), where p(1) = 1 / (1 + exp(-s F)).

    Attributes:
        slope: s, LightGBM's parameter `sigmoid`; 1 everywhere else.
    """

    slope: float = 1.0
    name = "logistic"

    def value(self, target: Floats, raw: Floats) -> Floats:
        score = self.slope * raw[:, 0]
        return np.logaddexp(0.0, score) - target * score

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        p = expit(self.slope * raw)
        curvature = self.slope**2 * p * (1 - p)
        gradient = self.slope * (p - columns(target, raw))
        return uncoupled(gradient, curvature, self.slope * curvature * (1 - 2 * p))


@dataclass(frozen=True)
class OneVsAll:
    """L = sum_k log(1 + exp(s F_k)) - s F_y: a logistic loss for each class against the others.

    Attributes:
        slope: s, LightGBM's parameter `sigmoid`; 1 everywhere else.
    """

    slope: float = 1.0
    name = "one-vs-all logistic"

    def value(self, target: Floats, raw: Floats) -> Floats:
        score = self.slope * raw
        own = score[np.arange(len(raw)), target.astype(np.int64)]
        return np.logaddexp(0.0, score).sum(axis=1) - own

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        p = expit(self.slope * raw)
        curvature = self.slope**2 * p * (1 - p)
        gradient = self.slope * (p - one_hot(target, raw.shape[1]))
        return uncoupled(gradient, curvature, self.slope * curvature * (1 - 2 * p))


@dataclass(frozen=True)
class Softmax:
    """L = -log p_y with p = softmax(F).

    Attributes:
        hessian_scale: phi in the library's leaf Hessian phi p (1 - p).
    """

    hessian_scale: float = 1.0
    name = "softmax"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return -log_softmax(raw, axis=1)[np.arange(len(raw)), target.astype(np.int64)]

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        p = softmax(raw, axis=1)
        curvature, phi = p * (1 - p), self.hessian_scale
        gradient = p - one_hot(target, raw.shape[1])
        return Derivatives(gradient, curvature, phi * curvature, phi * (1 - 2 * p), p)


@dataclass(frozen=True)
class Exponential:
    """L = y exp(-F) + (1 - y) exp(F) with y in {0, 1}: AdaBoost's loss."""

    name = "exponential"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return np.exp(np.where(target == 1, -1.0, 1.0) * raw[:, 0])

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        sign = np.where(columns(target, raw) == 1, -1.0, 1.0)
        loss = np.exp(sign * raw)
        return uncoupled(sign * loss, loss, sign * loss)


@dataclass(frozen=True)
class Huber:
    """L = x^2 / 2 where |x| <= delta, else delta (|x| - delta / 2), with x = F - y."""

    delta: float
    name = "huber"

    def value(self, target: Floats, raw: Floats) -> Floats:
        x = np.abs(raw[:, 0] - target)
        return np.where(x <= self.delta, 0.5 * x**2, self.delta * (x - 0.5 * self.delta))

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        x = raw - columns(target, raw)
        inside = (np.abs(x) <= self.delta).astype(np.float64)
        return uncoupled(np.clip(x, -self.delta, self.delta), inside, np.zeros_like(x))


@dataclass(frozen=True)
class PseudoHuber:
    """L = delta^2 (sqrt(1 + (x / delta)^2) - 1) with x = F - y."""

    delta: float = 1.0
    name = "pseudo-huber"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return self.delta**2 * (np.sqrt(1 + ((raw[:, 0] - target) / self.delta) ** 2) - 1)

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        x = raw - columns(target, raw)
        root = np.sqrt(1 + (x / self.delta) ** 2)
        return uncoupled(x / root, root**-3, -3 * x / (self.delta**2 * root**5))


@dataclass(frozen=True)
class Fair:
    """L = c^2 (|x| / c - log(1 + |x| / c)) with x = F - y."""

    c: float = 1.0
    name = "fair"

    def value(self, target: Floats, raw: Floats) -> Floats:
        x = np.abs(raw[:, 0] - target) / self.c
        return self.c**2 * (x - np.log1p(x))

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        x = raw - columns(target, raw)
        below = np.abs(x) + self.c
        third = -2 * np.sign(x) * self.c**2 / below**3
        return uncoupled(self.c * x / below, (self.c / below) ** 2, third)


@dataclass(frozen=True)
class LogCosh:
    """L = log cosh x with x = F - y."""

    name = "log-cosh"

    def value(self, target: Floats, raw: Floats) -> Floats:
        x = raw[:, 0] - target
        return np.logaddexp(x, -x) - np.log(2.0)

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        slope = np.tanh(raw - columns(target, raw))
        return uncoupled(slope, 1 - slope**2, -2 * slope * (1 - slope**2))


@dataclass(frozen=True)
class Expectile:
    """L = alpha x^2 where x = F - y < 0, else (1 - alpha) x^2."""

    alpha: float = 0.5
    name = "expectile"

    def value(self, target: Floats, raw: Floats) -> Floats:
        x = raw[:, 0] - target
        return np.where(x < 0, self.alpha, 1 - self.alpha) * x**2

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        x = raw - columns(target, raw)
        curvature = 2 * np.where(x < 0, self.alpha, 1 - self.alpha)
        return uncoupled(curvature * x, curvature, np.zeros_like(x))


@dataclass(frozen=True)
class AbsoluteError:
    """L = sum_k |F_k - y_k|; judges predictions, but leaves are medians and follow no formula."""

    name = "absolute error"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return np.abs(raw - columns(target, raw)).sum(axis=1)


@dataclass(frozen=True)
class Quantile:
    """L = max(alpha (y - F), (alpha - 1) (y - F)); judges predictions only."""

    alpha: float = 0.5
    name = "quantile"

    def value(self, target: Floats, raw: Floats) -> Floats:
        x = target - raw[:, 0]
        return np.maximum(self.alpha * x, (self.alpha - 1) * x)


@dataclass(frozen=True)
class Quantiles:
    """L = sum_k max(alpha_k (y - F_k), (alpha_k - 1) (y - F_k)); judges predictions only."""

    alphas: tuple[float, ...]
    name = "quantiles"

    def value(self, target: Floats, raw: Floats) -> Floats:
        x, alpha = target[:, None] - raw, np.asarray(self.alphas)
        return np.maximum(alpha * x, (alpha - 1) * x).sum(axis=1)


@dataclass(frozen=True)
class RelativeError:
    """L = |F - y| / max(1, |y|) (MAPE); judges predictions only."""

    name = "relative error"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return np.abs(raw[:, 0] - target) / np.maximum(1.0, np.abs(target))


@dataclass(frozen=True)
class LogProbability:
    """L = -log p_y of models whose raw scores are probabilities (forests); judges only.

    Forests may say 0, so p is kept above the float64 epsilon, as scikit-learn's log_loss does.
    """

    name = "log loss of probabilities"

    def value(self, target: Floats, raw: Floats) -> Floats:
        p = raw[np.arange(len(raw)), target.astype(np.int64)]
        return -np.log(np.clip(p, np.finfo(np.float64).eps, 1.0))


def one_hot(target: Floats, n_classes: int) -> Floats:
    """1 at each row's class, shape (n_rows, n_classes)."""
    return (target[:, None] == np.arange(n_classes)).astype(np.float64)
