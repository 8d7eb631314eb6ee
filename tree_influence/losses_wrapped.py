"""Losses made of other losses: another leaf Hessian, several targets, a target that is changed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tree_influence.losses import Derivatives, Floats, Loss, TrainingLoss, columns


@dataclass(frozen=True)
class UnitHessian:
    """Another loss whose leaves are -G / (W + l2), with W the sum of the row weights.

    Attributes:
        loss: That loss.
    """

    loss: TrainingLoss

    @property
    def name(self) -> str:
        return f"{self.loss.name}, gradient steps"

    def value(self, target: Floats, raw: Floats) -> Floats:
        return self.loss.value(target, raw)

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        at = self.loss.derivatives(target, raw)
        return at._replace(hessian=np.ones_like(raw), hessian_slope=np.zeros_like(raw))


@dataclass(frozen=True)
class SeveralTargets:
    """L = sum_k L_k(F_k, y_k), the same loss of one output for each of several targets.

    Attributes:
        loss: That loss.
    """

    loss: TrainingLoss

    @property
    def name(self) -> str:
        return f"{self.loss.name} of each target"

    def value(self, target: Floats, raw: Floats) -> Floats:
        y, outputs = columns(target, raw), range(raw.shape[1])
        return np.sum([self.loss.value(y[:, k], raw[:, [k]]) for k in outputs], axis=0)

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        return self.loss.derivatives(target, raw)  # which are taken output by output


@dataclass(frozen=True)
class OnSeenTarget:
    """Another loss, trained on a function of the target.

    Attributes:
        loss: That loss.
        seen: What training sees of a target.
        judged: Predictions are judged by what training sees, too; else by the target as it is.
    """

    loss: TrainingLoss
    seen: Callable[[Floats], Floats]
    judged: bool = False

    @property
    def name(self) -> str:
        return self.loss.name

    def value(self, target: Floats, raw: Floats) -> Floats:
        return self.loss.value(self.seen(target) if self.judged else target, raw)

    def derivatives(self, target: Floats, raw: Floats) -> Derivatives:
        return self.loss.derivatives(self.seen(target), raw)


@dataclass(frozen=True)
class Above:
    """1 where the target is above the border, else 0 (target_border)."""

    border: float

    def __call__(self, target: Floats) -> Floats:
        return (target.astype(np.float32) > np.float32(self.border)).astype(np.float64)


@dataclass(frozen=True)
class InFloat32:
    """The target rounded to float32, as a Pool holds it."""

    def __call__(self, target: Floats) -> Floats:
        return target.astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class SignedRoot:
    """sign(y) sqrt(|y|): what training sees of a target with reg_sqrt."""

    def __call__(self, target: Floats) -> Floats:
        root = np.sign(target) * np.sqrt(np.abs(target.astype(np.float32)))
        return root.astype(np.float64)


@dataclass(frozen=True)
class JudgedOnRoot:
    """Another loss that only judges, of the roots of the targets (reg_sqrt).

    Attributes:
        loss: That loss.
    """

    loss: Loss

    @property
    def name(self) -> str:
        return self.loss.name

    def value(self, target: Floats, raw: Floats) -> Floats:
        return self.loss.value(SignedRoot()(target), raw)
