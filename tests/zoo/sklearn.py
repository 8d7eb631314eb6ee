"""scikit-learn in the zoo."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import sklearn
import skops.io
from sklearn import ensemble, multioutput, tree
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from influence.errors import InputError, TrainingDataError
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
from tree_influence import adapters

N_TEST = 5
CLASSES = ("binary", "three classes")
LOG_SCALE = ("poisson", "gamma")
ESTIMATORS = {
    "GradientBoosting": (
        ensemble.GradientBoostingRegressor, ensemble.GradientBoostingClassifier,
    ),
    "HistGradientBoosting": (
        ensemble.HistGradientBoostingRegressor, ensemble.HistGradientBoostingClassifier,
    ),
    "RandomForest": (ensemble.RandomForestRegressor, ensemble.RandomForestClassifier),
    "ExtraTrees": (ensemble.ExtraTreesRegressor, ensemble.ExtraTreesClassifier),
}  # fmt: skip


def described(
    family: str,
    name: str,
    value: Callable | None,
    *,
    target: str = "real",
    scale: float = 1.0,
    verdict: Verdict = EXACT,
    **params: tuple[Any, ...],
) -> Objective:
    """A line for one loss of one family; `value` is of drawn parameters, target, raw scores."""

    def loss(drawn):
        assert value is not None
        return RowLoss(functools.partial(value, drawn), scale=scale)

    return Objective(
        f"{family} {name}", params, verdict, target=target, loss=value and loss,
        options={"family": family},
    )  # fmt: skip


def of(value):
    """A loss without options."""
    return lambda drawn, y, F: value(y, F)


def boosting(family, scale):
    """Losses that both kinds of gradient boosting have; `scale` is their softmax's."""
    return (
        described(family, "squared_error", of(losses.squared), loss=("squared_error",)),
        described(family, "log_loss", of(losses.logistic), target="binary", loss=("log_loss",)),
        described(family, "log_loss, several classes", of(losses.softmax), target="three classes",
                  scale=scale, loss=("log_loss",)),
        described(family, "absolute_error", of(losses.absolute_error),
                  verdict=refused("medians"), loss=("absolute_error",)),
    )  # fmt: skip


def forest(family):
    averages = refused("averages")
    return (
        described(family, "squared_error", of(losses.squared), verdict=averages),
        described(family, "absolute_error", of(losses.absolute_error), verdict=averages,
                  criterion=("absolute_error",)),
        described(family, "poisson", of(losses.squared), target="count", verdict=averages,
                  criterion=("poisson",)),
        described(family, "two targets", of(losses.squared), target="two targets",
                  verdict=averages),
        described(family, "two classes", of(losses.probability), target="binary",
                  verdict=averages),
        described(family, "several classes", of(losses.probability), target="three classes",
                  verdict=averages, criterion=("gini", "entropy", "log_loss")),
    )  # fmt: skip


GB, HIST = "GradientBoosting", "HistGradientBoosting"
OBJECTIVES = (
    *boosting(GB, 1.5),
    described(GB, "exponential", of(losses.exponential), target="binary", loss=("exponential",)),
    described(GB, "huber", None, verdict=refused("huber"), loss=("huber",), alpha=(0.5, 0.9)),
    described(GB, "quantile", lambda drawn, y, F: losses.quantile(y, F, drawn["alpha"]),
              verdict=refused("quantile"), loss=("quantile",), alpha=(0.2, 0.9)),
    *boosting(HIST, 1.0),
    described(HIST, "poisson", of(losses.poisson), target="count", loss=("poisson",)),
    described(HIST, "gamma", of(losses.gamma), target="positive", loss=("gamma",)),
    described(HIST, "quantile", lambda drawn, y, F: losses.quantile(y, F, drawn["quantile"]),
              verdict=refused("quantile"), loss=("quantile",), quantile=(0.2, 0.9)),
    *forest("RandomForest"),
    *forest("ExtraTrees")[:1],
    *forest("ExtraTrees")[-1:],
)  # fmt: skip


def names(*families: str, targets: tuple[str, ...] = (), one_output: bool = False):
    """Objectives of some families, and of some targets if any are given."""
    return tuple(
        one.name
        for one in OBJECTIVES
        if one.options["family"] in families and (not targets or one.target in targets)
        and not (one_output and one.target in ("three classes", "two targets"))
    )  # fmt: skip


FORESTS = names("RandomForest", "ExtraTrees")
BOOSTED = names(GB, HIST)


def part(name: str, only: tuple[str, ...], *values: Any, verdict: Verdict = EXACT, **more: Any):
    """A setting of the name of its parameter."""
    return Part(name, {name: values, **more}, verdict, only=only)


SETTINGS = (
    part("learning_rate", BOOSTED, 0.03, 1.0),
    part("max_depth", (*BOOSTED, *FORESTS), 1, 6),
    part("max_leaf_nodes", (*BOOSTED, *FORESTS), 3, 12),
    part("min_samples_leaf", (*BOOSTED, *FORESTS), 2, 15),
    part("max_features", (*BOOSTED, *FORESTS), 0.5),
    part("min_samples_split", (*names(GB), *FORESTS), 10),
    part("min_weight_fraction_leaf", (*names(GB), *FORESTS), 0.1),
    part("min_impurity_decrease", (*names(GB), *FORESTS), 0.02),
    part("ccp_alpha", (*names(GB), *FORESTS), 0.01),
    part("subsample", names(GB), 0.5, 0.9, verdict=leaf_error("subsample")),
    part("n_iter_no_change", names(GB), 1, 3, validation_fraction=(0.2,)),
    Part("n_iter_no_change without a seed", {"n_iter_no_change": (2,), "random_state": (None,)},
         leaf_error("n_iter_no_change"), only=names(GB)),
    Part("init='zero'", {"init": ("zero",)}, only=names(GB)),
    Part("init of the user's", only=names(GB), options={"init": True}, never=("init='zero'",)),
    Part("monitor", only=names(GB), options={"fit": {"monitor": lambda i, *_: i == 1}}),
    part("l2_regularization", names(HIST), 0.5, 20.0),
    part("max_bins", names(HIST), 5, 255),
    part("interaction_cst", names(HIST), "no_interactions", "pairwise"),
    Part("monotonic_cst", {"monotonic_cst": ([1, 0, 0, 0], [-1, 0, 1, 0])},
         leaf_error("monotonic_cst"), only=names(HIST, one_output=True),
         never=("pandas, categories", "Arrow table, categories", "polars, categories")),
    part("early_stopping", names(HIST), True, validation_fraction=(0.2,), n_iter_no_change=(1,)),
    Part("early stopping on the training rows",
         {"early_stopping": (True,), "validation_fraction": (None,)}, only=names(HIST)),
    Part("X_val, y_val", {"early_stopping": (True,)}, only=names(HIST), since="1.7",
         options={"validation": True}, never=("Pipeline", "Pipeline in a Pipeline")),
    Part("categorical_features", {"categorical_features": ([2],)}, only=names(HIST),
         never=("polars", "pandas, categories", "Arrow table, categories", "polars, categories")),
    part("class_weight", (*names(HIST, targets=CLASSES),
                          *names("RandomForest", "ExtraTrees", targets=CLASSES)), "balanced"),
    part("bootstrap", FORESTS, True, False),
    Part("oob_score", {"oob_score": (True,), "bootstrap": (True,)}, only=FORESTS),
    Part("max_samples", {"max_samples": (0.5,), "bootstrap": (True,)}, only=FORESTS),
    Part("warm_start", only=(*BOOSTED, *FORESTS), options={"continued": {}},
         never=("monitor",)),
    Part("warm_start with another learning_rate", {"learning_rate": (0.2,)},
         refused("differ", TrainingDataError), only=BOOSTED,
         options={"continued": {"learning_rate": 0.9}},
         never=("monitor", "n_iter_no_change", "n_iter_no_change without a seed", "subsample",
                "early_stopping", "early stopping on the training rows", "monotonic_cst",
                "X_val, y_val", "warm_start")),
    Part("Pipeline", options={"pipeline": True}),
    Part("Pipeline in a Pipeline", options={"pipeline": True, "nested": True},
         never=("Pipeline",)),
    Part("FrozenEstimator", options={"wrap": FrozenEstimator}),
    Part("saved with skops", options={"saved": True}, never=("monitor", "FrozenEstimator")),
)  # fmt: skip


def wrapper(name, says, made, *, classes=True, values=True, only=()):
    """An estimator around others, or another one altogether.

    They go with objectives that are refused anyway, so that most drawn models are answered.
    """
    targets = (*(CLASSES if classes else ()), *(("real",) if values else ()))
    fitting = only or names("RandomForest", targets=targets)
    return Part(name, verdict=refused(says), only=fitting,
                never=tuple(one.name for one in SETTINGS),
                options={"wrap": made, "unfitted": True})  # fmt: skip


BINARY = names("RandomForest", targets=("binary",))
WRAPPERS = (
    wrapper("GridSearchCV", "best_estimator_", lambda e: GridSearchCV(e, {}, cv=2)),
    wrapper("CalibratedClassifierCV", "calibrated_classifiers_",
            lambda e: CalibratedClassifierCV(e, cv=2), values=False),
    wrapper("FixedThresholdClassifier", "estimator_", FixedThresholdClassifier, only=BINARY),
    wrapper("BaggingClassifier", "estimators_samples_",
            lambda e: ensemble.BaggingClassifier(e, 2), values=False),
    wrapper("BaggingRegressor", "estimators_samples_",
            lambda e: ensemble.BaggingRegressor(e, 2), classes=False),
    wrapper("VotingClassifier", "estimators_",
            lambda e: ensemble.VotingClassifier([("e", e)]), values=False),
    wrapper("VotingRegressor", "estimators_",
            lambda e: ensemble.VotingRegressor([("e", e)]), classes=False),
    wrapper("StackingClassifier", "estimators_",
            lambda e: ensemble.StackingClassifier([("e", e)], cv=2), values=False),
    wrapper("StackingRegressor", "estimators_",
            lambda e: ensemble.StackingRegressor([("e", e)], cv=2), classes=False),
    wrapper("OneVsRestClassifier", "estimators_", OneVsRestClassifier, values=False),
    wrapper("MultiOutputRegressor", "y[:, i]",
            lambda e: multioutput.MultiOutputRegressor(ensemble.GradientBoostingRegressor()),
            only=names("RandomForest", targets=("two targets",))),
    wrapper("TransformedTargetRegressor", "regressor_",
            lambda e: TransformedTargetRegressor(e), classes=False),
    wrapper("AdaBoostClassifier", "weights", lambda e: ensemble.AdaBoostClassifier(e),
            values=False),
    wrapper("DecisionTreeClassifier", "RandomForestClassifier",
            lambda e: tree.DecisionTreeClassifier(), values=False),
    wrapper("DecisionTreeRegressor", "RandomForestRegressor",
            lambda e: tree.DecisionTreeRegressor(), classes=False),
    wrapper("IsolationForest", "no target", lambda e: ensemble.IsolationForest()),
)  # fmt: skip

HISTS = names(HIST)
SPARSE = ("scipy CSR", "scipy CSC")
DENSE_ONLY = (*HISTS, "Pipeline", "Pipeline in a Pipeline")
DATA = (
    *(Part(kind) for kind in tables.KINDS if "container" not in kind and kind not in SPARSE),
    *(Part(kind, never=DENSE_ONLY, shown=f"{kind} (but HistGradientBoosting)") for kind in SPARSE),
    *(Part(kind, verdict=refused("sparse", InputError), only=HISTS,
           shown=f"{kind} (HistGradientBoosting)",
           never=tuple(one.name for one in (*SETTINGS, *WRAPPERS)
                       if one.verdict.kind == "refused" or "Pipeline" in one.name))
      for kind in SPARSE),
)  # fmt: skip


def train(model: Model) -> Trained:
    n, has, target_kind = model.n_train, model.options, model.objective.target
    table, target, weight = tables.draw(model.data.name, target_kind, n + N_TEST, model.seed)
    y = tables.labels(target, target_kind)
    X, X_test = tables.split(table.X, n)
    fitted_on, tested_on = tables.split(_as_trained(model, table.X), n)
    weights = weight[:n] if model.weighted and not has.get("unfitted") else None
    made = _pipeline(model, table, _estimator(model, table))
    fit = dict(has.get("fit", {}))
    if has.get("validation"):
        fit |= {"X_val": tested_on, "y_val": y[n:]}
    try:
        held = _fit(model, made, fitted_on, y[:n], weights, fit)
    except (AttributeError, TypeError, ValueError) as reason:
        raise LibraryRefuses(str(reason)) from reason
    raw = (np.zeros((n, 1)), np.zeros((N_TEST, 1)))
    if not has.get("unfitted"):
        raw = (_raw(model, held, fitted_on), _raw(model, held, tested_on))
    if isinstance(held, Pipeline):
        X, X_test = fitted_on, tested_on
    return Trained(
        _as_held(model, held), X, y[:n], weights, X_test, y[n:], raw, target[:n], target[n:]
    )


def _as_trained(model: Model, X: Any) -> Any:
    """In the form that this estimator takes."""
    if model.options["family"] == HIST and scipy.sparse.issparse(X):
        return X.toarray()
    return X if type(X).__module__.startswith("polars") else tables.to_pandas(X)


def _estimator(model: Model, table: tables.Table) -> Any:
    family, has = model.options["family"], model.options
    classifies = model.objective.target in CLASSES
    params: dict[str, Any] = {"random_state": model.seed, **model.params}
    if family == HIST:
        params = {"max_iter": model.n_trees, "min_samples_leaf": 4, "max_leaf_nodes": 6} | params
    else:
        params = {"n_estimators": model.n_trees} | params
    if has.get("init"):
        params["init"] = LogisticRegression() if classifies else LinearRegression()
    if "continued" in has:
        params["warm_start"] = True
    made = ESTIMATORS[family][classifies](**params)
    return has["wrap"](made) if has.get("unfitted") else made


def _pipeline(model: Model, table: tables.Table, last: Any) -> Any:
    """With the steps that this table needs before this estimator, or that were drawn."""
    needs = model.options["family"] == GB
    steps: list[Any] = []
    if table.has_categories and model.options["family"] != HIST:
        whole = make_column_selector(dtype_exclude="number")
        rest = make_column_selector(dtype_include="number")
        if type(table.X).__module__.startswith("polars"):
            whole, rest = ["city"], tables.NAMES
        encode = OneHotEncoder(handle_unknown="ignore", sparse_output=bool(model.seed % 2))
        steps.append(ColumnTransformer([("word", encode, whole), ("rest", SimpleImputer(), rest)]))
    elif needs and not scipy.sparse.issparse(table.X) and _has_missing(table.X):
        steps.append(SimpleImputer())
    if model.options.get("pipeline") and not (steps or table.has_categories):
        steps.append(StandardScaler())
    if model.options.get("nested"):
        return make_pipeline(*steps, "passthrough", make_pipeline("passthrough", last))
    return make_pipeline(*steps, last) if steps else last


def _has_missing(X: Any) -> bool:
    return bool(pd.isna(pd.DataFrame(tables.to_pandas(X))).to_numpy().any())


def _fit(model: Model, made: Any, X: Any, y: Any, weights: Any, fit: dict[str, Any]) -> Any:
    def once(rounds_first: bool) -> Any:
        last, path = made, ""
        while isinstance(last, Pipeline):
            path += f"{last.steps[-1][0]}__"
            last = last[-1]
        name = "max_iter" if model.options["family"] == HIST else "n_estimators"
        if "continued" in model.options:
            rounds = model.n_trees + 2
            changed = {name: rounds} if rounds_first else {name: 2 * rounds}
            last.set_params(**changed, **({} if rounds_first else model.options["continued"]))
        given = {f"{path}{key}": value for key, value in fit.items()}
        if weights is not None:
            given[f"{path}sample_weight"] = weights
        return made.fit(X, y, **given)

    once(rounds_first=True)
    return once(rounds_first=False) if "continued" in model.options else made


def _raw(model: Model, held: Any, X: Any) -> np.ndarray:
    """Raw scores by the library's public methods."""
    if model.objective.target not in CLASSES:
        said = held.predict(X)
        if model.options["family"] == HIST and model.params["loss"] in LOG_SCALE:
            said = np.log(said)
    elif model.options["family"] in (GB, HIST):
        said = held.decision_function(X)
    else:
        said = held.predict_proba(X)
    return np.asarray(said).reshape(X.shape[0], -1)


def _as_held(model: Model, held: Any) -> Any:
    """The model, frozen or out of its saved file, as drawn."""
    if model.options.get("wrap") is FrozenEstimator:
        if not isinstance(held, Pipeline):
            return FrozenEstimator(held)
        name, last = held.steps[-1]
        held.steps[-1] = (name, _as_held(model, last))
        return held
    if not model.options.get("saved"):
        return held
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.skops"
        skops.io.dump(held, path)
        return adapters.load(path)


ZOO = Zoo("sklearn", OBJECTIVES, (*SETTINGS, *WRAPPERS), DATA, train, sklearn.__version__)
