"""Losses: value and first to third derivatives in the raw score, per row and unweighted.

| index | meaning |
|---|---|
| i     | row |
| k, m  | output; one for squared error and logistic, one for each class for softmax |

`target` holds values for regression and class positions for classification.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax

Floats = NDArray[np.float64]


class Derivatives(NamedTuple):
    """Derivatives of each row's loss, each of shape (n_rows, n_outputs).

    Attributes:
        gradient: dL/dF_k.
        curvature: d2L/dF_k^2.
        third: d3L/dF_k^3.
        coupling: Class probabilities p where d2L/dF_k dF_m = p_k (1[k=m] - p_m);
            None where outputs do not mix.
    """

    gradient: Floats
    curvature: Floats
    third: Floats
    coupling: Floats | None


class Loss(Protocol):
    """A training loss as the leaf formulas need it."""

    @property
    def name(self) -> str: ...

    def value(self, target: Floats, raw: Floats) -> Floats:
        """Loss of each row, shape (n_rows,)."""
        ...

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        """Derivatives in the raw score of shape (n_rows, n_outputs)."""
        ...


@dataclass(frozen=True)
class SquaredError:
    """L = (F - y)^2 / 2.

    Attributes:
        rounds_target: Training rounds y to float32 (CatBoost): much, where y is far from zero.
    """

    rounds_target: bool = False
    name = "squared error"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return 0.5 * (raw[:, 0] - target) ** 2

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        seen = target.astype(np.float32) if self.rounds_target else target
        return Derivatives(raw - seen[:, None], np.ones_like(raw), np.zeros_like(raw), None)


@dataclass(frozen=True)
class Logistic:
    """L = log(1 + exp(s F)) - y s F with y in {0, 1}: -log p(y), where p(1) = 1 / (1 + exp(-s F)).

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
        gradient = self.slope * (p - target[:, None])
        return Derivatives(gradient, curvature, self.slope * curvature * (1 - 2 * p), None)


@dataclass(frozen=True)
class Softmax:
    """L = -log p_y with p = softmax(F)."""

    name = "softmax"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return -log_softmax(raw, axis=1)[np.arange(len(raw)), target.astype(np.int64)]

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        p = softmax(raw, axis=1)
        gradient = p.copy()
        gradient[np.arange(len(raw)), target.astype(np.int64)] -= 1.0
        curvature = p * (1 - p)
        return Derivatives(gradient, curvature, curvature * (1 - 2 * p), p)
