"""LightGBM in the zoo."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np

from tests.reference import loss_values as losses
from tests.reference.loss_values import RowLoss
from tests.zoo import tables
from tests.zoo.case import (
    EXACT,
    LibraryRefuses,
    Model,
    Objective,
    Part,
    Trained,
    Verdict,
    Zoo,
    leaf_error,
    refused,
)

N_TEST = 5
READS_POLARS = tuple(map(int, lgb.__version__.split(".")[:2])) >= (4, 7)
LOG_LINK = ("poisson", "gamma", "tweedie")


def seen(y, p):
    """What training sees of a target: reg_sqrt takes its root."""
    return np.sign(y) * np.sqrt(np.abs(y)) if p.get("reg_sqrt") else y


def rooted(value):
    """A loss that reg_sqrt turns to the roots of the targets."""
    return lambda y, F, p: value(seen(y, p), F, p)


@dataclass(frozen=True)
class Fair(RowLoss):
    """Its second derivative has a kink, so that differences of the gradient will not do.

    Attributes:
        c: The constant of the loss.
        seen: What training sees of a target.
    """

    c: float = 1.0
    seen: Callable = np.asarray

    def hessian(self, y, F):
        return (self.c / (np.abs(F - self.seen(y)[:, None]) + self.c)) ** 2


def described(name, value, target="real", verdict=EXACT, title="", options=None, **params):
    """A line for one objective; `value` is of target, raw scores and drawn parameters."""

    def loss(p):
        scale = 1.0
        if name == "multiclass":
            scale = 1.5
        if name == "poisson":
            scale = np.exp(p.get("poisson_max_delta_step", 0.7))
        if name == "fair":
            return Fair(lambda y, F: value(y, F, p), c=p["fair_c"], seen=lambda y: seen(y, p))
        return RowLoss(lambda y, F: value(y, F, p), scale=scale, unit=name == "huber")

    if target == "three classes":
        params = {"num_class": (3,), **params}
    return Objective(
        title or name, {"objective": (name,), **params}, verdict, target=target,
        loss=value and loss, options=options or {},
    )  # fmt: skip


def of(value):
    """A loss without parameters."""
    return lambda y, F, p: value(y, F)


OBJECTIVES = (
    described("regression", rooted(of(losses.squared))),
    described("huber", lambda y, F, p: losses.huber(y, F, p["alpha"]), alpha=(0.5, 2.0)),
    described(
        "fair", rooted(lambda y, F, p: losses.fair(y, F, p["fair_c"])), fair_c=(0.4, 1.0, 3.0)
    ),
    described("poisson", of(losses.poisson), "count", poisson_max_delta_step=(0.2, 0.7)),
    described("gamma", of(losses.gamma), "positive"),
    described(
        "tweedie",
        lambda y, F, p: losses.tweedie(y, F, p["tweedie_variance_power"]),
        "count",
        tweedie_variance_power=(1.1, 1.8),
    ),
    described(
        "tweedie",
        of(losses.poisson),
        "count",
        title="tweedie, variance power 1",
        tweedie_variance_power=(1.0,),
    ),
    described("cross_entropy", of(losses.logistic), "share"),
    described("cross_entropy_lambda", of(losses.logistic), "share", options={"weighted": False}),
    described(
        "cross_entropy_lambda",
        None,
        "share",
        refused("cross_entropy_lambda"),
        title="cross_entropy_lambda, weights",
        options={"weighted": True},
    ),
    described("binary", lambda y, F, p: losses.logistic(y, F, p.get("sigmoid", 1.0)), "binary"),
    described("multiclass", of(losses.softmax), "three classes"),
    described(
        "multiclassova",
        lambda y, F, p: losses.one_vs_all(y, F, p.get("sigmoid", 1.0)),
        "three classes",
    ),
    described("regression_l1", rooted(of(losses.absolute_error)), verdict=refused("regression_l1")),
    described(
        "quantile",
        rooted(lambda y, F, p: losses.quantile(y, F, p["alpha"])),
        verdict=refused("quantile"),
        alpha=(0.3, 0.9),
    ),
    described("mape", rooted(of(losses.relative_error)), verdict=refused("mape")),
    described("lambdarank", None, "binary", refused("lambdarank")),
    described("rank_xendcg", None, "binary", refused("rank_xendcg")),
    described("custom", None, verdict=refused("custom objective")),
)
RANKING = ("lambdarank", "rank_xendcg")
UNNAMED = (*RANKING, "custom")
OF_ROOTS = ("regression", "fair", "regression_l1", "quantile", "mape")


def setting(name: str, *values: Any, verdict: Verdict = EXACT, **more: tuple[Any, ...]) -> Part:
    """A parameter under its own name, with others that go with it."""
    return Part(name, {**({name: values} if values else {}), **more}, verdict)


SETTINGS = (
    setting("lambda_l2", 0.5, 7.0),
    setting("lambda_l1", 0.317, 3.03),
    setting("max_delta_step", 0.0517, 0.487),
    setting("learning_rate", 0.03, 0.123456789, 1.0),
    setting("num_leaves", 2, 15),
    setting("max_depth", 1, 3),
    setting("min_data_in_leaf", 1, 15),
    setting("min_sum_hessian_in_leaf", 0, 3.0),
    setting("min_gain_to_split", 0.5),
    setting("max_bin", 4, 40),
    setting("feature_fraction", 0.5),
    setting("feature_fraction_bynode", 0.5),
    setting("extra_trees", True),
    setting("interaction_constraints", [[0, 1], [2, 3]]),
    setting("feature_contri", [0.5, 1, 1, 1]),
    setting("cegb_penalty_split", 0.001),
    setting("boost_from_average", False),
    setting("zero_as_missing", True),
    setting("use_missing", False),
    setting("cat_l2", 0.0, 3.0),
    setting("max_cat_to_onehot", 1, 20),
    setting("force_row_wise", True),
    Part("sigmoid", {"sigmoid": (0.5, 2.0)}, only=("binary", "multiclassova")),
    Part("is_unbalance", {"is_unbalance": (True,)}, only=("binary",)),
    Part("scale_pos_weight", {"scale_pos_weight": (0.3, 4.0)}, only=("binary",)),
    Part("is_unbalance of multiclassova", {"is_unbalance": (True,)}, refused("multiclassova"),
         only=("multiclassova",)),
    Part("scale_pos_weight of multiclassova", {"scale_pos_weight": (0.3, 4.0)},
         refused("multiclassova"), only=("multiclassova",)),
    Part("reg_sqrt", {"reg_sqrt": (True,)}, only=OF_ROOTS),
    setting("bagging_fraction", 0.6, 0.9, verdict=leaf_error("bagging_fraction"),
            bagging_freq=(1, 2)),
    Part("neg_bagging_fraction", {"neg_bagging_fraction": (0.7,), "pos_bagging_fraction": (1, 0.9),
         "bagging_freq": (1,)}, leaf_error("bagging_fraction"), only=("binary",)),
    setting("data_sample_strategy='goss'", verdict=leaf_error("goss"),
            data_sample_strategy=("goss",), learning_rate=(0.5,)),
    setting("path_smooth", 2.0, verdict=leaf_error("path_smooth")),
    setting("use_quantized_grad", True, verdict=leaf_error("use_quantized_grad")),
    setting("quant_train_renew_leaf", True, use_quantized_grad=(True,)),
    setting("monotone_constraints", [1, 0, -1, 0], verdict=leaf_error("monotone_constraints"),
            monotone_constraints_method=("basic", "intermediate", "advanced")),
    Part("forcedsplits_filename", options={"forced": True},
         never=("pandas, categories", "Arrow table, categories", "polars, categories")),
    Part("boosting='dart', trees dropped", {"boosting": ("dart",), "drop_rate": (1.0,),
         "skip_drop": (0.0,)}, refused("dart"), never=UNNAMED, options={"rounds": 3}),
    Part("boosting='dart', no tree dropped", {"boosting": ("dart",), "drop_rate": (0.0,),
         "xgboost_dart_mode": (True, False)}),
    Part("boosting='rf'", {"boosting": ("rf",), "bagging_fraction": (0.6,), "bagging_freq": (1,)},
         refused("rf"), never=UNNAMED),
    Part("linear_tree", {"linear_tree": (True,)}, refused("linear_tree"), never=("scipy CSC",)),
    Part("init_model", options={"continued": {}},
         never=("custom", "init_model, another learning rate")),
    Part("init_model, another learning rate", options={"continued": {"learning_rate": 0.45}},
         never=("custom", "boosting='dart', no tree dropped")),
    Part("early stopping", options={"stopped": True}, never=UNNAMED),
    Part("init_score that is not passed", verdict=leaf_error("init_score"),
         options={"hidden scores": True}, never=("boost_from_average", "learning_rate")),
    Part("LGBMRegressor and LGBMClassifier", options={"estimator": True}, never=UNNAMED),
    Part("saved as text", options={"saved": True}),
)  # fmt: skip

CONTAINERS = ("container", "container, starting scores")
DATA = (
    *(Part(kind) for kind in tables.KINDS if kind not in CONTAINERS),
    Part("container", options={"container": True}, shown="Dataset"),
    Part("container, starting scores", options={"container": True, "scores": True},
         shown="Dataset with init_score",
         never=("init_score that is not passed", "boosting='rf'", "init_model",
                "init_model, another learning rate")),
)  # fmt: skip


def squared_error(raw, rows):
    """An objective as a user writes it."""
    return raw - rows.get_label(), np.ones(len(raw))


def train(model: Model) -> Trained:
    try:
        return _train(model)
    except lgb.basic.LightGBMError as reason:
        raise LibraryRefuses(str(reason)) from reason


def _train(model: Model) -> Trained:
    n, has, kind = model.n_train, model.options, model.objective.target
    table, target, weight = tables.draw(model.data.name, kind, n + N_TEST, model.seed)
    X, X_test = tables.split(table.X, n)
    reads = not table.has_categories and ("polars" not in model.data.name or READS_POLARS)
    as_read = table.X if reads else tables.to_pandas(table.X)
    if model.data.name == "pandas, Arrow dtypes":  # LightGBM itself takes none
        as_read = as_read.astype(float)
    own, own_test = tables.split(as_read, n)
    n_outputs = 3 if kind == "three classes" else 1
    rng = np.random.default_rng([model.seed, 5])
    scores = rng.normal(size=(n + N_TEST, n_outputs)).round(2)
    weighted = has.get("weighted", model.weighted)
    first, last = (scores[:n], scores[n:]) if n_outputs > 1 else (scores[:n, 0], scores[n:, 0])
    given: dict[str, Any] = {
        "weight": weight[:n] if weighted else None,
        "init_score": first if has.get("scores") or has.get("hidden scores") else None,
        "group": np.full(n // 5, 5) if model.objective.name in RANKING else None,
    }
    if given["group"] is not None:
        given["group"][-1] += n % 5
    estimator = has.get("estimator", False)
    y = tables.labels(target, kind) if estimator else target
    fit = _fit_estimator if estimator else _fit_booster
    held = fit(model, own, y[:n], given, (own_test, y[n:]))
    booster = held.booster_ if estimator else held
    if has.get("saved"):
        held = lgb.Booster(model_str=booster.model_to_string())
        y = target
    raw = (_raw(booster, own, n_outputs), _raw(booster, own_test, n_outputs))
    trained = Trained(held, X, y[:n], given["weight"], X_test, y[n:], raw, target[:n], target[n:])
    if not has.get("container"):
        return trained
    shown = given if has.get("scores") else {**given, "init_score": None}
    return replace(
        trained,
        X=lgb.Dataset(X, target[:n], free_raw_data=False, **shown),
        y=None,
        sample_weight=None,
        X_test=lgb.Dataset(X_test, target[n:], init_score=last if has.get("scores") else None),
        y_test=None,
        offset=(scores[:n], scores[n:]) if has.get("scores") else None,
    )


def _parameters(model: Model, folder: Path) -> dict[str, Any]:
    params: dict[str, Any] = {
        "verbose": -1, "num_threads": 1, "num_leaves": 6, "min_data_in_leaf": 4,
        "min_data_per_group": 4, "cat_smooth": 1, "seed": model.seed, **model.params,
    }  # fmt: skip
    if params["objective"] == "custom":
        params["objective"] = squared_error
    if model.options.get("forced"):
        path = folder / "splits.json"
        path.write_text(json.dumps({"feature": 1, "threshold": 0.1}), encoding="utf-8")
        params["forcedsplits_filename"] = str(path)
    if model.data.name.endswith("categories"):
        for name in ("monotone_constraints", "feature_contri"):
            if name in params:
                params[name] = [*params[name], 1 if name == "feature_contri" else 0]
    return params


def _fit_booster(
    model: Model, X: Any, y: np.ndarray, given: dict[str, Any], held_out: tuple[Any, Any]
) -> lgb.Booster:
    has, n_rounds = model.options, model.options.get("rounds", model.n_trees)
    with tempfile.TemporaryDirectory() as folder:
        params = _parameters(model, Path(folder))
        more: dict[str, Any] = {}
        if has.get("continued") is not None:
            first = lgb.Dataset(X, y, free_raw_data=False, **given)
            more["init_model"] = lgb.train({**params, **has["continued"]}, first, 2)
        rows = lgb.Dataset(X, y, free_raw_data=False, **given)
        if has.get("stopped"):
            more["valid_sets"] = [lgb.Dataset(*held_out, reference=rows)]
            more["callbacks"] = [lgb.early_stopping(1, verbose=False)]
        return lgb.train(params, rows, n_rounds, **more)


def _fit_estimator(
    model: Model, X: Any, y: np.ndarray, given: dict[str, Any], held_out: tuple[Any, Any]
) -> Any:
    has, n_rounds = model.options, model.options.get("rounds", model.n_trees)
    kind = lgb.LGBMRegressor
    if model.objective.target in ("binary", "three classes"):
        kind = lgb.LGBMClassifier
    with tempfile.TemporaryDirectory() as folder:
        made = kind(n_estimators=n_rounds, **_parameters(model, Path(folder)))
        more: dict[str, Any] = {}
        if has.get("continued") is not None:
            first = kind(**{**made.get_params(), "n_estimators": 2, **has["continued"]})
            more["init_model"] = first.fit(X, y, given["weight"], given["init_score"])
        if has.get("stopped"):
            more["eval_set"] = [held_out]
            more["callbacks"] = [lgb.early_stopping(1, verbose=False)]
        return made.fit(X, y, given["weight"], given["init_score"], **more)


def _raw(booster: lgb.Booster, X: Any, n_outputs: int) -> np.ndarray:
    """Raw scores; of a random forest the mean, as its predictions are."""
    found = np.asarray(booster.predict(X, raw_score=True)).reshape(-1, n_outputs)
    forest = "\naverage_output\n" in booster.model_to_string()
    return found / (booster.num_trees() // n_outputs) if forest else found


ZOO = Zoo("lightgbm", OBJECTIVES, SETTINGS, DATA, train, lgb.__version__)
