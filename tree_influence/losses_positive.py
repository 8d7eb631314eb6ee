"""Losses of regression on a log scale: the model predicts mu = exp(F), or takes log(1 + F)."""

from dataclasses import dataclass

import numpy as np

from tree_influence.losses import Derivatives, Floats, columns, uncoupled


@dataclass(frozen=True)
class Poisson:
    """L = exp(F) - y F.

    Attributes:
        inflation: The library's Hessian is exp(F + inflation): max_delta_step of LightGBM's and
            XGBoost's objectives, 0 elsewhere.
    """

    inflation: float = 0.0
    name = "poisson"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return np.exp(raw[:, 0]) - target * raw[:, 0]

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        mean, hessian = np.exp(raw), np.exp(raw + self.inflation)
        return Derivatives(mean - columns(target, raw), mean, hessian, hessian, None)


@dataclass(frozen=True)
class Gamma:
    """L = F + y exp(-F)."""

    name = "gamma"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return raw[:, 0] + target * np.exp(-raw[:, 0])

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        ratio = columns(target, raw) * np.exp(-raw)
        return uncoupled(1 - ratio, ratio, -ratio)


@dataclass(frozen=True)
class Tweedie:
    """L = exp((2 - rho) F) / (2 - rho) - y exp((1 - rho) F) / (1 - rho), with 1 < rho < 2.

    Attributes:
        power: rho, the exponent of the variance.
    """

    power: float = 1.5
    name = "tweedie"

    def value(self, target: Floats, raw: Floats) -> Floats:
        a, b = 1 - self.power, 2 - self.power
        return np.exp(b * raw[:, 0]) / b - target * np.exp(a * raw[:, 0]) / a

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        a, b = 1 - self.power, 2 - self.power
        first, second = columns(target, raw) * np.exp(a * raw), np.exp(b * raw)
        return uncoupled(second - first, b * second - a * first, b**2 * second - a**2 * first)


@dataclass(frozen=True)
class SquaredLogError:
    """L = (log(1 + F) - log(1 + y))^2 / 2, with F taken for -1 + 1e-6 below that, as XGBoost does.

    Attributes:
        least_hessian: The library's Hessian is at least this (XGBoost: 1e-6).
    """

    least_hessian: float = 1e-6
    least_raw = -1 + 1e-6
    name = "squared log error"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return 0.5 * (np.log1p(np.maximum(raw[:, 0], self.least_raw)) - np.log1p(target)) ** 2

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        kept = np.maximum(raw, self.least_raw)
        gap, above = np.log1p(kept) - np.log1p(columns(target, raw)), 1 + kept
        curvature = (1 - gap) / above**2
        held = curvature < self.least_hessian
        fixed = raw < self.least_raw
        return Derivatives(
            gradient=gap / above,
            curvature=np.where(fixed, 0.0, curvature),
            hessian=np.where(held, self.least_hessian, curvature),
            hessian_slope=np.where(held | fixed, 0.0, (2 * gap - 3) / above**3),
            coupling=None,
        )
