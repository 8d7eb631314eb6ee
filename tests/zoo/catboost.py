"""CatBoost in the zoo."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import catboost
import numpy as np

from influence.errors import InputError, MissingParameterError
from tests.reference import loss_values as losses
from tests.reference.loss_values import RowLoss
from tests.zoo import tables
from tests.zoo.case import (
    EXACT,
    Objective,
    Part,
    Verdict,
    Zoo,
    leaf_error,
    refused,
)
from tests.zoo.catboost_train import RANKING, train


def logistic_each(y, F):
    return (losses.log1p_exp(F) - y * F).sum(axis=1)


def focal(y, F, alpha, gamma):
    z = (2 * y - 1) * F[:, 0]
    share = np.where(y == 1, alpha, 1 - alpha)
    return share * (1 - 1 / (1 + np.exp(-z))) ** gamma * losses.log1p_exp(-z)


def power(y, F, q):
    return losses.absolute(F[:, 0] - y) ** q


def normal(y, F):
    return F[:, 1] + (F[:, 0] - y) ** 2 / (2 * np.exp(2 * F[:, 1]))


@dataclass(frozen=True)
class Pieces:
    """A loss with a kink or with powers near one: differences must be taken over short steps.

    Attributes:
        value: As in `RowLoss`.
        unit: As in `RowLoss`.
        step: Of the differences.
    """

    value: Callable
    unit: bool = False
    step: float = 1e-6

    def gradient(self, y, F):
        return RowLoss(self.value).gradient(y, F)

    def hessian(self, y, F):
        if self.unit:
            return np.ones(F.shape)
        return (self.gradient(y, F + self.step) - self.gradient(y, F - self.step)) / (2 * self.step)


def option(params, name):
    """A number out of "Huber:delta=1"."""
    given = dict(one.split("=") for one in params["loss_function"].split(":")[1].split(";"))
    return float(given[name])


def described(
    name,
    value,
    *,
    options=("",),
    verdict=EXACT,
    target="real",
    title="",
    kind: Callable[..., Any] = RowLoss,
    method="Newton",
    **params,
):
    """A line for one loss; `value` is of target, raw scores and drawn parameters."""

    def loss(p):
        unit = p.get("leaf_estimation_method", method) == "Gradient"
        return kind(lambda y, F: value(y, F, p), unit=unit)

    spelled = tuple(f"{name}:{one}" if one else name for one in options)
    drawn = {"loss_function": spelled, **params}
    return Objective(title or name, drawn, verdict, target=target, loss=value and loss)


def of(value):
    """A loss without options."""
    return lambda y, F, p: value(y, F)


def with_border(y, F, p):
    return losses.logistic((y > p["target_border"]).astype(float), F)


OBJECTIVES = (
    described("RMSE", of(losses.squared)),
    described("Logloss", of(losses.logistic), target="binary"),
    described("Logloss", with_border, title="Logloss, target_border", target_border=(-0.25, 0.5)),
    described("CrossEntropy", of(losses.logistic), target="share"),
    described(
        "Focal",
        lambda y, F, p: focal(y, F, option(p, "focal_alpha"), option(p, "focal_gamma")),
        options=("focal_alpha=0.3;focal_gamma=2", "focal_alpha=0.6;focal_gamma=1.5"),
        target="binary",
    ),
    described("MultiClass", of(losses.softmax), target="three classes"),
    described("MultiClassOneVsAll", of(losses.one_vs_all), target="three classes"),
    described("MultiRMSE", of(losses.squared), target="two targets"),
    described("MultiRMSEWithMissingValues", of(losses.squared), target="two targets"),
    described("MultiLogloss", of(logistic_each), target="two targets"),
    described("MultiCrossEntropy", of(logistic_each), target="two targets"),
    described("Poisson", of(losses.poisson), target="count"),
    described(
        "Tweedie",
        lambda y, F, p: losses.tweedie(y, F, option(p, "variance_power")),
        options=("variance_power=1.2", "variance_power=1.7"),
        target="count",
    ),
    described(
        "Huber",
        lambda y, F, p: losses.huber(y, F, option(p, "delta")),
        options=("delta=0.5", "delta=3"),
        kind=Pieces,
    ),
    described(
        "LogCosh",
        of(losses.log_cosh),
        title="LogCosh, Newton leaves",
        leaf_estimation_method=("Newton",),
    ),
    described(
        "Expectile",
        lambda y, F, p: losses.expectile(y, F, float(np.float32(option(p, "alpha")))),
        options=("alpha=0.2", "alpha=0.7"),
        kind=Pieces,
    ),
    described(
        "Lq",
        lambda y, F, p: power(y, F, option(p, "q")),
        options=("q=2", "q=3", "q=3.5"),
        kind=partial(Pieces, step=1e-4),
    ),
    described(
        "Lq",
        lambda y, F, p: power(y, F, option(p, "q")),
        options=("q=1.5", "q=1.2"),
        title="Lq with q < 2",
        method="Gradient",
    ),
    described("LogCosh", of(losses.log_cosh), verdict=refused("LogCosh")),
    described("MAE", of(losses.absolute_error), verdict=refused("MAE")),
    described(
        "Quantile",
        lambda y, F, p: losses.quantile(y, F, option(p, "alpha")),
        options=("alpha=0.3", "alpha=0.9"),
        verdict=refused("Quantile"),
    ),
    described("MultiQuantile", None, options=("alpha=0.2,0.7",), verdict=refused("MultiQuantile")),
    described("LogLinQuantile", None, target="positive", verdict=refused("LogLinQuantile")),
    described("MAPE", of(losses.relative_error), target="positive", verdict=refused("MAPE")),
    described("RMSEWithUncertainty", of(normal), verdict=refused("natural gradients")),
    described("QueryRMSE", None, verdict=refused("ranking")),
    described("QuerySoftMax", None, target="share", verdict=refused("ranking")),
    described("YetiRank", None, target="share", verdict=refused("ranking")),
    described("Cox", None, target="positive", verdict=refused("survival")),
    described("SurvivalAft", None, target="two targets", verdict=refused("survival")),
    described("custom", None, verdict=refused("custom objective")),
)
WITH_CLASSES = ("Logloss", "MultiClass", "MultiClassOneVsAll")
STARTED = ("container, starting scores",)  # CatBoost then shrinks nothing
UNSMOOTH = tuple(one.name for one in OBJECTIVES if one.verdict.kind == "refused")


def part(name: str, verdict: Verdict = EXACT, **params: Any) -> Part:
    """A setting of the name of its only parameter, or of several."""
    return Part(name, params or {name: ()}, verdict)


def values(name: str, *drawn: Any) -> Part:
    return Part(name, {name: drawn})


SETTINGS = (
    values("l2_leaf_reg", 0, 1e-3, 0.5, 20),
    values("learning_rate", 0.03, 1.0),
    values("depth", 1, 5),
    values("leaf_estimation_iterations", 2, 5),
    part(
        "leaf_estimation_backtracking='No'",
        leaf_estimation_iterations=(3,),
        leaf_estimation_backtracking=("No",),
    ),
    Part(
        "leaf_estimation_method='Gradient'",
        {"leaf_estimation_method": ("Gradient",)},
        never=("LogCosh", "LogCosh, Newton leaves"),
    ),
    part("grow_policy='Depthwise'", grow_policy=("Depthwise",), min_data_in_leaf=(1, 10)),
    part("grow_policy='Lossguide'", grow_policy=("Lossguide",), max_leaves=(3, 7)),
    values("boosting_type", "Ordered", "Plain"),
    Part(
        "approx_on_full_history",
        {"approx_on_full_history": (True,), "boosting_type": ("Ordered",)},
        never=RANKING,  # CatBoost itself crashes
    ),
    part("bootstrap_type='Bayesian'", bootstrap_type=("Bayesian",), bagging_temperature=(0.5, 5)),
    part("bootstrap_type='Bernoulli'", bootstrap_type=("Bernoulli",), subsample=(0.4, 0.8)),
    part("bootstrap_type='MVS'", bootstrap_type=("MVS",), subsample=(0.6, 0.9)),
    part("bootstrap_type='No'", bootstrap_type=("No",)),
    values("rsm", 0.5),
    values("random_strength", 0, 3),
    values("sampling_frequency", "PerTree", "PerTreeLevel"),
    values("score_function", "L2", "Cosine", "NewtonL2"),
    values("nan_mode", "Min", "Max"),
    values("border_count", 5, 40),
    values("has_time", True),
    values("fold_permutation_block", 4),
    values("feature_weights", {0: 0.3}),
    values("first_feature_use_penalties", {0: 2.0}),
    values("per_object_feature_penalties", {1: 0.1}),
    values("ignored_features", [1]),
    values("boost_from_average", True, False),
    Part("class_weights", {"class_weights": ((1, 3, 2),)}, only=WITH_CLASSES),
    Part(
        "auto_class_weights", {"auto_class_weights": ("Balanced", "SqrtBalanced")},
        only=WITH_CLASSES,
    ),
    Part("scale_pos_weight", {"scale_pos_weight": (0.4, 3.0)}, only=("Logloss",)),
    part("eval_fraction", eval_fraction=(0.1, 0.3), use_best_model=(True, False)),
    Part("early stopping", {"use_best_model": (True,)}, options={"eval_set": True}),
    Part("model_shrink_rate", {
        "model_shrink_rate": (0.02,), "model_shrink_mode": ("Constant", "Decreasing")},
        leaf_error("model_shrink_rate"), never=STARTED),
    Part("langevin", {"langevin": (True,), "diffusion_temperature": (1e4,)},
         leaf_error("model_shrink_rate"), never=STARTED),
    Part("posterior_sampling", {"posterior_sampling": (True,)},
         leaf_error("model_shrink_rate"), never=STARTED),
    Part("langevin, Gradient leaves", {
        "langevin": (True,), "diffusion_temperature": (1e4,), "model_shrink_rate": (0,),
        "leaf_estimation_method": ("Gradient",)}, leaf_error("langevin"),
        never=("Lq", "LogCosh", "LogCosh, Newton leaves")),
    part("monotone_constraints", leaf_error("monotone_constraints"),
         monotone_constraints=({0: 1}, {1: -1})),
    Part("init_model", verdict=leaf_error("continued from another model"),
         options={"continued": True}),
    Part("text_features", verdict=leaf_error("text or embeddings"), options={"text": True}),
    Part("embedding_features", verdict=leaf_error("text or embeddings"),
         options={"embedding": True}),
    Part("Pool", options={"pool": True}),
    Part("CatBoostClassifier and CatBoostRegressor", options={"estimator": True}),
    Part("saved as .cbm", options={"saved": "cbm"}),
    Part("saved as .json", options={"saved": "json"},
         never=("text_features", "embedding_features")),  # which JSON files leave out
    Part("set_scale_and_bias", verdict=refused("scale=1"), options={"rescaled": True},
         never=UNSMOOTH),
    Part("sum_models", verdict=refused("learning_rate", MissingParameterError),
         options={"summed": True},
         never=("Logloss, target_border",)),
    Part("quantized Pool", verdict=refused("quantized", InputError),
         options={"pool": True, "quantized": True}),
)  # fmt: skip

CATEGORIES = ("pandas, categories", "Arrow table, categories", "polars, categories")
DATA = (
    *(Part(kind) for kind in tables.KINDS if "categories" not in kind and "container" not in kind),
    *(Part(kind, {"one_hot_max_size": (10,)}, shown=f"{kind}, one-hot") for kind in CATEGORIES),
    *(
        Part(
            kind,
            {"one_hot_max_size": (1,), "iterations": (15,)},  # until a tree splits on one
            leaf_error("ordered target statistics"),
            shown=f"{kind}, target statistics",
        )
        for kind in CATEGORIES
    ),
    Part("container", options={"pool": True}, shown="Pool"),
    Part(
        "container, starting scores",
        options={"pool": True, "baseline": True},
        shown="Pool with baseline",
        never=("RMSEWithUncertainty", "MultiQuantile"),  # CatBoost itself crashes
    ),
)


ZOO = Zoo("catboost", OBJECTIVES, SETTINGS, DATA, train, catboost.__version__)
