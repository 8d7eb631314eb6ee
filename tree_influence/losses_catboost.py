"""Losses that CatBoost alone trains on."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit

from tree_influence.losses import Derivatives, Floats, columns, uncoupled


@dataclass(frozen=True)
class PowerError:
    """L = |F - y|^q with q >= 1 (Lq)."""

    q: float
    name = "power of the error"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return np.abs(raw[:, 0] - target) ** self.q

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        q, x = self.q, raw - columns(target, raw)
        size, sign = np.abs(x), np.sign(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            curvature = np.where(size > 0, q * (q - 1) * size ** (q - 2), 2.0 * (q == 2))
            third = sign * q * (q - 1) * (q - 2) * np.where(size > 0, size ** (q - 3), 0.0)
        return uncoupled(q * sign * size ** (q - 1), curvature, third)


@dataclass(frozen=True)
class Focal:
    """L = -a_y (1 - p_y)^gamma log p_y with y in {0, 1}, a_1 = alpha, a_0 = 1 - alpha."""

    alpha: float
    gamma: float
    name = "focal"

    def value(self, target: Floats, raw: Floats) -> Floats:
        sign, a = 2 * target - 1, self._share(target)
        return -a * expit(-sign * raw[:, 0]) ** self.gamma * log_expit(sign * raw[:, 0])

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        y, c = columns(target, raw), self.gamma
        sign = 2 * y - 1
        p, q, log_p = expit(sign * raw), expit(-sign * raw), log_expit(sign * raw)
        front = self._share(y) * q**c
        inner = c * log_p * (q - c * p) + (2 * c + 1) * q  # the curvature is front p inner
        inner_slope = c * (q * (q - c * p) - (1 + c) * p * q * log_p) - (2 * c + 1) * p * q
        return uncoupled(
            gradient=sign * front * (c * p * log_p - q),
            curvature=front * p * inner,
            third=sign * front * p * ((q - c * p) * inner + inner_slope),
        )

    def _share(self, target: Floats) -> Floats:
        return np.where(target == 1, self.alpha, 1 - self.alpha)


@dataclass(frozen=True)
class NormalLikelihood:
    """L = log s + (F_0 - y)^2 / (2 s^2) with log s = F_1 (RMSEWithUncertainty); judges only.

    CatBoost takes natural gradients, which are the gradient of no loss.
    """

    name = "normal likelihood"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return raw[:, 1] + 0.5 * (raw[:, 0] - target) ** 2 * np.exp(-2 * raw[:, 1])


@dataclass(frozen=True)
class LogLinQuantile:
    """L = max(alpha x, (alpha - 1) x) with x = y - exp(F); judges predictions only."""

    alpha: float
    name = "quantile of exp"

    def value(self, target: Floats, raw: Floats) -> Floats:
        x = target - np.exp(raw[:, 0])
        return np.maximum(self.alpha * x, (self.alpha - 1) * x)
