"""XGBoost in the zoo."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import xgboost

from tests.reference import loss_values as losses
from tests.reference.loss_values import RowLoss
from tests.zoo import tables
from tests.zoo.case import EXACT, Objective, Part, Verdict, Zoo, leaf_error, refused
from tests.zoo.xgboost_train import train


def described(
    objective: str,
    value: Callable | None,
    *,
    target: str = "real",
    verdict: Verdict = EXACT,
    title: str = "",
    since: str = "",
    scale: Callable = lambda p: 1.0,
    least: float = -np.inf,
    options: dict[str, Any] | None = None,
    **params: tuple[Any, ...],
) -> Objective:
    """A line for one objective; `value` and `scale` of its Hessian know the drawn parameters."""

    def loss(p: Any) -> RowLoss:
        return RowLoss(lambda y, F: value(y, F, p), scale=scale(p), least=least)

    return Objective(
        title or objective, {"objective": (objective,), **params}, verdict, target=target,
        loss=value and loss, options=options or {}, since=since,
    )  # fmt: skip


def of(value: Callable) -> Callable:
    """A loss without parameters."""
    return lambda y, F, p: value(y, F)


def pseudo_huber(y, F, p):
    slope, rows = p.get("huber_slope", 1.0), y.reshape(F.shape)
    return sum(losses.pseudo_huber(rows[:, k], F[:, [k]], slope) for k in range(F.shape[1]))


def absolute_error(y, F):
    return losses.absolute(F - y.reshape(F.shape)).sum(axis=1)


def inflated(p):
    return np.exp(p.get("max_delta_step", 0.7))


def two_scales(p):
    return 2.0


NO_NEWTON = {"verdict": refused("which have no derivative")}
OBJECTIVES = (
    described("reg:squarederror", of(losses.squared)),
    described("reg:squaredlogerror", of(losses.squared_log), target="positive", least=1e-6),
    described("reg:logistic", of(losses.logistic), target="share"),
    described("reg:pseudohubererror", pseudo_huber, huber_slope=(0.4, 1.0, 3.0)),
    described("reg:gamma", of(losses.gamma), target="positive"),
    described(
        "reg:tweedie",
        lambda y, F, p: losses.tweedie(y, F, p["tweedie_variance_power"]),
        target="count",
        tweedie_variance_power=(1.1, 1.5, 1.9),
    ),
    described("count:poisson", of(losses.poisson), target="count", scale=inflated),
    described("binary:logistic", of(losses.logistic), target="binary"),
    described(
        "binary:logistic", of(losses.logistic), target="share",
        title="binary:logistic, probabilities as target",
    ),
    described("binary:logitraw", of(losses.logistic), target="binary"),
    described(
        "multi:softprob", of(losses.softmax), target="three classes", scale=two_scales,
        num_class=(3,),
    ),
    described(
        "multi:softmax", of(losses.softmax), target="three classes", scale=two_scales,
        num_class=(3,),
    ),
    described(
        "reg:squarederror", of(losses.squared), target="two targets",
        title="reg:squarederror, several targets",
    ),
    described(
        "reg:pseudohubererror", pseudo_huber, target="two targets", huber_slope=(0.7,),
        title="reg:pseudohubererror, several targets",
        since="3.2",  # before, the library itself trained on another row's target
    ),
    described("reg:absoluteerror", of(absolute_error), **NO_NEWTON),
    described(
        "reg:absoluteerror", of(absolute_error), target="two targets",
        title="reg:absoluteerror, several targets", **NO_NEWTON,
    ),
    described(
        "reg:quantileerror",
        lambda y, F, p: losses.quantile(y, F, p["quantile_alpha"]),
        quantile_alpha=(0.2, 0.9),
        **NO_NEWTON,
    ),
    described(
        "reg:quantileerror", None, title="reg:quantileerror, several quantiles",
        quantile_alpha=([0.2, 0.8],), verdict=refused("by quantiles"),
    ),
    described("binary:hinge", None, target="binary", verdict=refused("binary:hinge")),
    described("survival:cox", None, target="positive", verdict=refused("survival:cox")),
    described(
        "survival:aft", None, target="positive", verdict=refused("survival:aft"),
        options={"intervals": True},
    ),
    *(
        described(
            name, None, target="binary", verdict=refused(name), options={"groups": True},
        )
        for name in ("rank:pairwise", "rank:ndcg", "rank:map")
    ),
    described(
        "reg:squarederror", None, title="an objective of one's own", options={"own": True},
        verdict=refused("of your own"),
    ),
)  # fmt: skip


def names(*targets: str) -> tuple[str, ...]:
    """Objectives with such targets."""
    return tuple(one.name for one in OBJECTIVES if one.target in targets)


SEVERAL = names("three classes", "two targets")
SEVERAL_QUANTILES = ("reg:quantileerror, several quantiles",)
# The library's own estimators know no groups or intervals, and an objective as a parameter.
NATIVE = ("survival:aft", "rank:pairwise", "rank:ndcg", "rank:map", "an objective of one's own")
NO_LEAVES = tuple(one.name for one in OBJECTIVES if one.verdict.kind == "refused")
WEIGHS_ONES = (
    "reg:squarederror", "reg:logistic", "binary:logistic", "binary:logitraw", "reg:gamma",
)  # fmt: skip


def values(name: str, *drawn: Any, **more: Any) -> Part:
    """A setting of the name of its parameter."""
    return Part(name, {name: drawn}, **more)


def owner(name: str, never: tuple[str, ...] = (), **options: Any) -> Part:
    """Who holds the model, or how it was trained, which is no parameter."""
    return Part(name, never=never, options=options)


RF = "XGBRFClassifier and XGBRFRegressor"  # one round
FILES = ("saved as .json", "saved as .ubj")
SETTINGS = (
    values("learning_rate", 0.03, 1.0),
    values("reg_lambda", 0.0, 0.5, 20.0),
    values("reg_alpha", 0.3, 3.0),
    values("max_delta_step", 0.1, 0.7, never=("an objective of one's own",)),  # cut, all are alike
    values("gamma", 0.3, 1.0, never=("reg:squaredlogerror",)),
    values("min_child_weight", 0.0, 5.0),
    values("max_depth", 1, 5),
    Part("grow_policy='lossguide'", {"grow_policy": ("lossguide",), "max_leaves": (3, 6)}),
    values("tree_method", "exact", "approx", "hist"),
    values("max_bin", 4, 60),
    Part("colsample_bytree, bylevel, bynode", {
        "colsample_bytree": (0.6,), "colsample_bylevel": (0.7,), "colsample_bynode": (0.8,)}),
    Part("num_parallel_tree", {"num_parallel_tree": (2, 3), "colsample_bynode": (0.5,)}),
    values("interaction_constraints", "[[0, 1], [2, 3]]"),
    values("max_cat_to_onehot", 1, 8),
    values("base_score", 0.3, 0.5, never=(*SEVERAL, "an objective of one's own")),
    values("scale_pos_weight", 0.4, 3.0, only=WEIGHS_ONES),
    Part("multi_strategy='multi_output_tree'", {
        "multi_strategy": ("multi_output_tree",), "min_child_weight": (0.0, 1.0, 5.0),
        "tree_method": ("hist",)}, only=SEVERAL),
    Part("booster='dart', nothing dropped", {"booster": ("dart",), "rate_drop": (0.0,)}),
    Part("booster='dart'", {"booster": ("dart",), "rate_drop": (0.6,), "one_drop": (1,)},
         refused("DART"), options={"least_trees": 4},
         never=(*NO_LEAVES, "continued training", "refreshed leaves", "early stopping", RF)),
    Part("booster='gblinear'", {"booster": ("gblinear",)}, refused("gblinear"),
         never=(*SEVERAL_QUANTILES, "refreshed leaves", "continued training")),
    values("subsample", 0.6, 0.9, verdict=leaf_error("subsample")),
    Part("sampling_method='gradient_based'", {
        "sampling_method": ("gradient_based",), "subsample": (0.5,)}, leaf_error("subsample"),
        since="3.2"),
    Part("monotone_constraints", {"monotone_constraints": ("(1,-1)",)},
         leaf_error("monotone_constraints")),
    owner("a learning rate that changes", (*NATIVE, *FILES), schedule=True),
    owner("continued training", NATIVE, continued=True),
    owner("refreshed leaves", NATIVE, refreshed=True),
    owner("XGBClassifier and XGBRegressor", NATIVE, estimator=True),
    owner("early stopping", NATIVE, estimator=True, stopped=True),
    Part(RF, {"colsample_bylevel": (0.9,)},
         leaf_error("subsample"), never=(*NATIVE, "num_parallel_tree"),
         options={"estimator": True, "forest": True}),
    owner("saved as .json", saved="json"),
    owner("saved as .ubj", saved="ubj"),
)  # fmt: skip

HAS_POLARS = importlib.util.find_spec("polars") is not None
DATA = (
    *(
        Part(kind, since="3.0" if "Arrow table" in kind or "polars" in kind else "")
        for kind in tables.KINDS
        if "container" not in kind and (HAS_POLARS or "polars" not in kind)
    ),
    Part("container", options={"matrix": xgboost.DMatrix}, shown="DMatrix"),
    Part(
        "container, starting scores",
        options={"matrix": xgboost.DMatrix, "margin": True},
        shown="DMatrix with base_margin",
        never=("reg:squaredlogerror",),
    ),  # scores below -1 have no logarithm
    Part(
        "container",
        options={"matrix": xgboost.QuantileDMatrix},
        never=("tree_method",),
        shown="QuantileDMatrix",
    ),
)

ZOO = Zoo("xgboost", OBJECTIVES, SETTINGS, DATA, train, xgboost.__version__)
