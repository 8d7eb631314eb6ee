"""CatBoost's losses by name ("Huber:delta=1"): what judges a prediction, and what leaves follow."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from influence.errors import NotYetSupportedError, UnsupportedModelError
from tree_influence.adapters.catboost_parameters import known
from tree_influence.losses import (
    AbsoluteError,
    Expectile,
    Floats,
    Huber,
    LogCosh,
    Logistic,
    Loss,
    OneVsAll,
    Quantile,
    Quantiles,
    RelativeError,
    Softmax,
    SquaredError,
    TrainingLoss,
)
from tree_influence.losses_catboost import (
    Focal,
    LogLinQuantile,
    NormalLikelihood,
    PowerError,
)
from tree_influence.losses_positive import Poisson, Tweedie
from tree_influence.losses_wrapped import (
    Above,
    InFloat32,
    OnSeenTarget,
    SeveralTargets,
    UnitHessian,
)

Options = Mapping[str, str]


def _float32(text: str) -> float:
    return float(np.float32(text))


def _rounded(loss: TrainingLoss) -> TrainingLoss:
    return OnSeenTarget(loss, InFloat32())


LOSSES: dict[str, Callable[[Options], Loss]] = {
    "RMSE": lambda _: _rounded(SquaredError()),
    "MultiRMSE": lambda _: _rounded(SquaredError()),
    "MultiRMSEWithMissingValues": lambda _: _rounded(SquaredError()),
    "Logloss": lambda _: Logistic(),
    "CrossEntropy": lambda _: _rounded(Logistic()),
    "MultiClass": lambda _: Softmax(),
    "MultiClassOneVsAll": lambda _: OneVsAll(),
    "MultiLogloss": lambda _: SeveralTargets(Logistic()),
    "MultiCrossEntropy": lambda _: _rounded(SeveralTargets(Logistic())),
    "Focal": lambda o: Focal(float(o["focal_alpha"]), float(o["focal_gamma"])),
    "Poisson": lambda _: _rounded(Poisson()),
    "Tweedie": lambda o: _rounded(Tweedie(float(o["variance_power"]))),
    "Huber": lambda o: _rounded(Huber(float(o["delta"]))),
    "LogCosh": lambda _: _rounded(LogCosh()),
    "Expectile": lambda o: _rounded(Expectile(_float32(o.get("alpha", "0.5")))),
    "Lq": lambda o: _rounded(PowerError(float(o["q"]))),
    # Leaves of these follow no formula here: they judge predictions only.
    "MAE": lambda _: AbsoluteError(),
    "Quantile": lambda o: Quantile(float(o.get("alpha", "0.5"))),
    "MultiQuantile": lambda o: Quantiles(tuple(map(float, o.get("alpha", "0.5").split(",")))),
    "LogLinQuantile": lambda o: LogLinQuantile(float(o.get("alpha", "0.5"))),
    "MAPE": lambda _: RelativeError(),
    "RMSEWithUncertainty": lambda _: NormalLikelihood(),
}

SQUARED = {"RMSE", "MultiRMSE", "MultiRMSEWithMissingValues"}  # every step is an improvement
LABELLED = {"Logloss", "MultiClass", "MultiClassOneVsAll", "Focal"}  # the target is a class
SHARED = {"CrossEntropy", "MultiLogloss", "MultiCrossEntropy"}  # it is one or several shares
SEVERAL = {"MultiRMSE", "MultiRMSEWithMissingValues", "MultiLogloss", "MultiCrossEntropy"}

NO_SUM = {
    "custom": ("PythonUserDefinedPerObject", "PythonUserDefinedMultiTarget", "PythonUserDefined"),
    "ranking": (
        "QueryRMSE", "QuerySoftMax", "QueryCrossEntropy", "PairLogit", "PairLogitPairwise",
        "YetiRank", "YetiRankPairwise", "LambdaMart", "StochasticRank", "StochasticFilter",
        "GroupQuantile", "Combination", "UserQuerywiseMetric",
    ),
    "survival": ("Cox", "SurvivalAft"),
}  # fmt: skip
WHY = {
    "custom": "a custom objective, whose formula the model does not hold",
    "ranking": "a ranking loss over the rows of a group together, which is no sum over rows",
    "survival": "a survival loss over censored times",
}


_RESPONSES: dict[str, Callable[[Floats], Floats]] = {
    "Poisson": np.exp, "Tweedie": np.exp, "LogLinQuantile": np.exp,
    "CrossEntropy": expit, "MultiLogloss": expit, "MultiCrossEntropy": expit,
}  # fmt: skip


def response(parameters: Mapping[str, Any], raw: Floats) -> Floats:
    """What a raw score stands for where the target is a number: a mean, a probability."""
    return _RESPONSES.get(loss_name(parameters) or "", np.asarray)(raw)


def loss_name(parameters: Mapping[str, Any]) -> str | None:
    """The loss without its options; None where the model has lost it."""
    described = parameters.get("loss_function")
    return None if described is None else str(described).partition(":")[0]


def n_targets(parameters: Mapping[str, Any], n_outputs: int) -> int:
    """Columns of the target."""
    name = loss_name(parameters)
    return 2 if name == "SurvivalAft" else n_outputs if name in SEVERAL else 1


def judging_loss(parameters: Mapping[str, Any]) -> Loss:
    """What predictions are judged by."""
    described = str(known(parameters, "loss_function"))
    name, _, options = described.partition(":")
    for kind, names in NO_SUM.items():
        if any(name.startswith(one) if kind == "custom" else name == one for one in names):
            raise UnsupportedModelError(
                f"Expected a loss that is known for each row by itself, such as RMSE or Logloss, "
                f"got loss_function={described!r}: {WHY[kind]}. Train with a loss for each row, "
                "or use CatBoost's own tools."
            )
    if name not in LOSSES:
        raise NotYetSupportedError(
            f"Expected loss_function to be one of {', '.join(LOSSES)}, got {described!r}. Train "
            "with one of these."
        )
    given = dict(one.split("=", 1) for one in options.split(";") if "=" in one)
    loss = LOSSES[name](given)
    border = parameters.get("target_border")
    if border is not None and isinstance(loss, TrainingLoss):
        return OnSeenTarget(loss, Above(border), judged=True)
    return loss


def leaf_loss(parameters: Mapping[str, Any]) -> TrainingLoss:
    """The training loss with the Hessian that CatBoost divides by.

    Raises:
        UnsupportedModelError: Leaves are no Newton or gradient step of a loss.
    """
    loss = judging_loss(parameters)
    method = parameters.get("leaf_estimation_method", "Newton")
    if not isinstance(loss, TrainingLoss) or method not in ("Newton", "Gradient"):
        name = loss_name(parameters)
        what = (
            "takes natural gradients, which are the gradient of no loss"
            if name == "RMSEWithUncertainty"
            else "is answered only in Newton steps (leaf_estimation_method='Newton')"
            if isinstance(loss, TrainingLoss)
            else "has no second derivative: its leaves are quantiles or steps of signs"
        )
        raise UnsupportedModelError(
            f"Expected leaves that are Newton or gradient steps of a smooth loss, got "
            f"loss_function={parameters['loss_function']!r} with leaf_estimation_method="
            f"{method!r}: {name} {what}."
        )
    return loss if method == "Newton" else UnitHessian(loss)
