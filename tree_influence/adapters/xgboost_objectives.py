"""XGBoost's objectives: the losses they train, with their parameters out of the saved model."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from influence.errors import UnsupportedModelError
from tree_influence.adapters.base import Floats
from tree_influence.adapters.xgboost_trees import Content
from tree_influence.losses import (
    AbsoluteError,
    Logistic,
    Loss,
    PseudoHuber,
    Quantile,
    Quantiles,
    Softmax,
    SquaredError,
    TrainingLoss,
)
from tree_influence.losses_positive import Gamma, Poisson, SquaredLogError, Tweedie
from tree_influence.losses_wrapped import SeveralTargets

BUILT_IN = "Train with a built-in objective."

Stored = Mapping[str, Any]  # the objective in the model's JSON


def _tweedie(stored: Stored) -> TrainingLoss:
    """The family with its two ends, at which the general form divides by zero."""
    power = float(stored["tweedie_regression_param"]["tweedie_variance_power"])
    return {1.0: Poisson(), 2.0: Gamma()}.get(power, Tweedie(power))


def _quantile(stored: Stored) -> Loss:
    told = str(stored["quantile_loss_param"]["quantile_alpha"]).strip("[]()").split(",")
    return Quantiles(tuple(map(float, told))) if len(told) > 1 else Quantile(float(told[0]))


LOSSES: dict[str, Callable[[Stored], Loss]] = {
    "reg:squarederror": lambda stored: SquaredError(),
    "reg:linear": lambda stored: SquaredError(),
    "reg:squaredlogerror": lambda stored: SquaredLogError(),
    "reg:logistic": lambda stored: Logistic(),
    "reg:pseudohubererror": lambda stored: PseudoHuber(
        float(stored["pseudo_huber_param"]["huber_slope"])
    ),
    "reg:gamma": lambda stored: Gamma(),
    "reg:tweedie": _tweedie,
    "reg:absoluteerror": lambda stored: AbsoluteError(),
    "reg:quantileerror": _quantile,
    "count:poisson": lambda stored: Poisson(
        float(stored["poisson_regression_param"]["max_delta_step"])
    ),
    "binary:logistic": lambda stored: Logistic(),
    "binary:logitraw": lambda stored: Logistic(),
    "multi:softprob": lambda stored: Softmax(hessian_scale=2.0),
    "multi:softmax": lambda stored: Softmax(hessian_scale=2.0),
}
_NO_SUM_OVER_ROWS = {
    "binary:hinge": "its Hessian is no derivative, so the leaves are no Newton values",
    "survival:cox": "the loss of a row depends on the scores of all rows at risk",
    "survival:aft": "labels are intervals",
    "rank": "the loss of a row depends on the other rows of its group",
}


def _one_above_zero(raw: Floats) -> Floats:
    return (raw > 0).astype(np.float64)


_RESPONSES: dict[str, Callable[[Floats], Floats]] = {
    "reg:logistic": expit, "binary:logistic": expit,
    "reg:gamma": np.exp, "reg:tweedie": np.exp, "count:poisson": np.exp,
    "survival:cox": np.exp, "survival:aft": np.exp, "binary:hinge": _one_above_zero,
}  # fmt: skip


def response(content: Content, raw: Floats) -> Floats:
    """What predict says at raw scores of a target that is a number."""
    return _RESPONSES.get(content.objective, np.asarray)(raw)


def loss_of(content: Content, custom_objective: bool) -> Loss:
    """The loss a model was trained on, with XGBoost's leaf Hessian where leaves are Newton values.

    Args:
        content: The model.
        custom_objective: The estimator was given a function.

    Raises:
        UnsupportedModelError: An objective of the user's own, or none that is a sum over rows.
    """
    name = content.objective
    if custom_objective:
        raise UnsupportedModelError(
            "The model was trained with an objective of your own, whose derivatives it does not "
            f"hold. {BUILT_IN}"
        )
    if name not in LOSSES:
        reason = _NO_SUM_OVER_ROWS.get(name) or _NO_SUM_OVER_ROWS.get(name.split(":")[0])
        because = f": {reason}" if reason else ", which is not known here"
        raise UnsupportedModelError(
            f"Expected one of {', '.join(LOSSES)}, got objective={name!r}{because}. Train with "
            "one of these."
        )
    loss = LOSSES[name](content.learner["objective"])
    if content.n_targets > 1 and isinstance(loss, TrainingLoss):
        return SeveralTargets(loss)
    return loss


def training_loss_of(content: Content, custom_objective: bool) -> TrainingLoss:
    """The same, for leaves that follow from it.

    Raises:
        UnsupportedModelError: The leaves are no Newton values of a known loss.
    """
    loss = loss_of(content, custom_objective)
    if content.is_dart:
        raise UnsupportedModelError(
            "DART scales a tree again each time it is dropped, so the leaves follow no formula. "
            "Train with booster='gbtree', or with rate_drop=0."
        )
    if not isinstance(loss, TrainingLoss):
        raise UnsupportedModelError(
            f"XGBoost replaces the leaves of objective={content.objective!r} by quantiles, which "
            f"have no derivative. Train with 'reg:pseudohubererror' or another."
        )
    return loss
