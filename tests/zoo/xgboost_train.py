"""Trains a drawn XGBoost model, as a Booster or an estimator, with whatever it stands on."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from xgboost.callback import LearningRateScheduler

from tests.zoo import tables
from tests.zoo.case import LibraryRefuses, Model, Trained
from tree_influence import adapters

N_TEST = 5
# What a file does not hold and answers depend on.
NOT_SAVED = (
    "reg_lambda", "learning_rate", "reg_alpha", "max_delta_step", "subsample", "min_child_weight",
    "monotone_constraints",
)  # fmt: skip
DEFAULTS = {"reg_lambda": 1.0, "learning_rate": 0.3}
FOREST = {"reg_lambda": 1e-5, "learning_rate": 1.0, "subsample": 0.8}


def train(model: Model) -> Trained:
    n, options = model.n_train, model.options
    table, target, weight = tables.draw(
        model.data.name, model.objective.target, n + N_TEST, model.seed
    )
    X, X_test = tables.split(table.X, n)
    if model.data.name == "polars, categories" and not X_test["city"].is_in(X["city"]).all():
        raise LibraryRefuses("a category unseen in training")  # polars lists those that occur
    weighted = model.weighted and "groups" not in options
    margin = None
    if options.get("margin"):
        rng = np.random.default_rng(model.seed)
        n_outputs = {"three classes": 3, "two targets": 2}.get(model.objective.target, 1)
        margin = 0.3 * rng.normal(size=(n + N_TEST, n_outputs))
    rows = Rows(X, target[:n], weight[:n] if weighted else None, cut(margin, slice(0, n)), options)
    asked = Rows(X_test, target[n:], None, cut(margin, slice(n, None)), options)
    params = {"nthread": 1, "seed": model.seed, "max_depth": 3, **model.params}
    n_trees = max(model.n_trees, options.get("least_trees", 1))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = (_estimator if options.get("estimator") else _booster)(
                params, rows, asked, n_trees
            )
            holder, told = _held(fitted, model)
            raw = _raw(fitted, rows), _raw(fitted, asked)
    except (xgboost.core.XGBoostError, ValueError, TypeError, NotImplementedError) as reason:
        raise LibraryRefuses(str(reason)) from reason
    bare = options.get("matrix") is None
    offset = None
    if margin is not None:
        start = _start(fitted, rows)
        offset = margin[:n] - start, margin[n:] - start
    if bare:
        given = rows.X, rows.y, rows.weight, asked.X, asked.y
    else:
        matrix = rows.matrix()
        given = matrix, None, None, asked.matrix(matrix), None
    return Trained(holder, *given, raw, rows.y, asked.y, offset, told)


class Rows:
    """Rows as the user holds them, and as a DMatrix."""

    def __init__(self, X: Any, y: Any, weight: Any, margin: Any, options: dict[str, Any]) -> None:
        self.X, self.y, self.weight, self.margin, self.options = X, y, weight, margin, options

    def matrix(self, ref: xgboost.DMatrix | None = None) -> xgboost.DMatrix:
        """As a DMatrix; a QuantileDMatrix of queries takes its bins from the training rows'."""
        kind = self.options.get("matrix", xgboost.DMatrix)
        more = {"ref": ref} if kind is xgboost.QuantileDMatrix else {}
        made = kind(
            self.X, self.y, weight=self.weight, enable_categorical=True, base_margin=self.margin,
            **more,
        )  # fmt: skip
        n = len(self.y)
        if "groups" in self.options:
            made.set_group([n // 2, n - n // 2])
        if "intervals" in self.options:
            made.set_float_info("label_lower_bound", self.y)
            made.set_float_info("label_upper_bound", self.y + 1)
        return made


def cut(margin: Any, rows: slice) -> Any:
    if margin is None:
        return None
    return margin[rows, 0] if margin.shape[1] == 1 else margin[rows]


def _booster(params: dict[str, Any], rows: Rows, asked: Rows, n_trees: int) -> xgboost.Booster:
    matrix, options = rows.matrix(), rows.options
    more: dict[str, Any] = {"verbose_eval": False}
    if options.get("schedule"):
        more["callbacks"] = [LearningRateScheduler(lambda r: 0.5 / (r + 1))]
    if options.get("own"):
        more["obj"] = _log_cosh
        matrix.set_label(rows.y + 3)
        rows.y, asked.y = rows.y + 3, asked.y + 3
    fitted = xgboost.train(params, matrix, n_trees, **more)
    if options.get("continued"):
        fitted = xgboost.train(
            {**params, "learning_rate": 0.15}, matrix, 2, xgb_model=fitted, verbose_eval=False
        )
    if options.get("refreshed"):
        half = Rows(*tables.split(rows.X, len(rows.y) // 2)[:1], *_half(rows), rows.options)
        begun = xgboost.train(params, half.matrix(), n_trees, verbose_eval=False)
        update = {"process_type": "update", "updater": "refresh", "refresh_leaf": True}
        fitted = xgboost.train(
            {**params, **update}, matrix, n_trees, xgb_model=begun, verbose_eval=False
        )
    return fitted


def _half(rows: Rows) -> list[Any]:
    n = len(rows.y) // 2
    return [None if one is None else one[:n] for one in (rows.y, rows.weight, rows.margin)]


def _log_cosh(predicted: np.ndarray, matrix: xgboost.DMatrix) -> tuple[np.ndarray, np.ndarray]:
    slope = np.tanh(predicted - matrix.get_label().reshape(predicted.shape))
    return slope, 1 - slope**2 + 0.1


def _estimator(params: dict[str, Any], rows: Rows, asked: Rows, n_trees: int) -> Any:
    options = rows.options
    classifies = params["objective"].startswith(("binary", "multi"))
    kinds = (
        (xgboost.XGBRFRegressor, xgboost.XGBRFClassifier)
        if options.get("forest")
        else (xgboost.XGBRegressor, xgboost.XGBClassifier)
    )
    given = {name: value for name, value in params.items() if name not in ("nthread", "seed")}
    given.pop("num_class", None)
    more: dict[str, Any] = {}
    if options.get("stopped"):
        n_trees, more["early_stopping_rounds"] = 30, 2
    if options.get("schedule"):
        more["callbacks"] = [LearningRateScheduler(lambda r: 0.5 / (r + 1))]
    estimator = kinds[classifies](
        n_estimators=n_trees, n_jobs=1, random_state=params["seed"], enable_categorical=True,
        **given, **more,
    )  # fmt: skip
    fit: dict[str, Any] = {"sample_weight": rows.weight, "base_margin": rows.margin}
    if options.get("stopped"):
        fit |= {"eval_set": [(asked.X, asked.y)], "verbose": False}
        fit["base_margin_eval_set"] = None if asked.margin is None else [asked.margin]
    return estimator.fit(rows.X, rows.y, **fit)


def _booster_of(fitted: Any) -> tuple[xgboost.Booster, tuple[int, int]]:
    if isinstance(fitted, xgboost.Booster):
        return fitted, (0, 0)
    booster = fitted.get_booster()
    best = booster.attr("best_iteration")
    return booster, (0, 0 if best is None else int(best) + 1)


def _raw(fitted: Any, rows: Rows) -> np.ndarray:
    booster, rounds = _booster_of(fitted)
    plain = Rows(rows.X, rows.y, None, None, {})
    raw = booster.predict(plain.matrix(), output_margin=True, iteration_range=rounds)
    return np.asarray(raw, dtype=np.float64).reshape(len(rows.y), -1)


def _start(fitted: Any, rows: Rows) -> np.ndarray:
    """Raw score before the first tree, by the difference that base_margin makes."""
    booster, rounds = _booster_of(fitted)
    zero = np.zeros_like(rows.margin)
    plain = Rows(rows.X, rows.y, None, zero, {})
    moved = booster.predict(plain.matrix(), output_margin=True, iteration_range=rounds)
    return (_raw(fitted, rows) - moved.reshape(len(rows.y), -1)).mean(axis=0)


def _held(fitted: Any, model: Model) -> tuple[Any, dict[str, Any]]:
    """The model as the user holds it, and what a file does not tell of it."""
    kind = model.options.get("saved")
    if kind is None:
        return fitted, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{kind}"
        fitted.save_model(path)
        holder = adapters.load(path)
    used = {**(FOREST if "forest" in model.options else DEFAULTS), **model.params}
    return holder, {name: used[name] for name in NOT_SAVED if name in used}
