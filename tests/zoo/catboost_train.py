"""How the zoo trains CatBoost: as a user of each line would."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pandas as pd
import scipy.sparse

from tests.zoo import tables
from tests.zoo.case import LibraryRefuses, Model, Trained

N_TEST = 5
WORDS = ["red", "green", "blue", "old", "new"]
RANKING = ("QueryRMSE", "QuerySoftMax", "YetiRank")


class Custom:
    """Squared error, as a user writes it."""

    def calc_ders_range(self, approxes, targets, weights):
        return [(targets[i] - approxes[i], -1.0) for i in range(len(targets))]


@dataclass(frozen=True)
class Rows:
    """Rows to train on or to ask about.

    Attributes:
        given: Features as the user holds them.
        features: Features as CatBoost takes them.
        columns: Roles of the columns, for a Pool.
        target: Numbers or class positions.
        y: Target as the user writes it.
        weight: Row weights, or None.
        baseline: Starting scores, or None.
    """

    given: Any
    features: Any
    columns: dict[str, Any]
    target: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    baseline: np.ndarray | None

    def pool(self, **more: Any) -> catboost.Pool:
        held = {"weight": self.weight, "baseline": self.baseline, **self.columns}
        return catboost.Pool(self.features, self.y, **held, **more)


def train(model: Model) -> Trained:
    try:
        return _train(model)
    except catboost.CatBoostError as reason:
        raise LibraryRefuses(str(reason)) from reason


def _train(model: Model) -> Trained:
    has = model.options
    train, test = _drawn(model)
    fitted = _as_held(model, _fit(model, train, test))

    def raw(rows: Rows) -> np.ndarray:
        plain = catboost.Pool(rows.features, **rows.columns)
        return np.asarray(fitted.predict(plain, "RawFormulaVal")).reshape(len(rows.y), -1)

    offset = None
    if train.baseline is not None and test.baseline is not None:
        offset = (train.baseline, test.baseline)
    held = (train.given, train.y, train.weight, test.given, test.y)
    if has.get("pool"):
        pool = train.pool()
        if has.get("quantized"):
            pool.quantize()
        held = (pool, None, None, test.pool(), None)
    return Trained(fitted, *held, (raw(train), raw(test)), train.target, test.target, offset)


def _drawn(model: Model) -> tuple[Rows, Rows]:
    """Training rows and queries."""
    n, has = model.n_train, model.options
    drawn, target, weight = tables.draw(
        model.data.name, model.objective.target, n + N_TEST, model.seed
    )
    rng = np.random.default_rng([model.seed, 5])
    target = _target_of(model.objective.name, target)
    given, columns = drawn.X, {"cat_features": ["city"] if drawn.has_categories else None}
    if has.get("text"):
        given = _frame(given)
        given = given.assign(note=[" ".join(rng.choice(WORDS, 3)) for _ in range(n + N_TEST)])
        columns["text_features"] = ["note"]
    if has.get("embedding"):
        given = _frame(given)
        given = given.assign(vector=list(map(list, rng.normal(size=(n + N_TEST, 2)))))
        columns["embedding_features"] = ["vector"]
    y = tables.labels(target, model.objective.target)
    n_outputs = {"three classes": 3, "two targets": 2}.get(model.objective.target, 1)
    baseline = rng.normal(size=(n + N_TEST, n_outputs)).round(2) if has.get("baseline") else None
    target = target.astype(np.float32).astype(float)  # as every Pool has it
    parts = []
    for rows, part in zip(tables.split(given, n), (slice(n), slice(n, None)), strict=True):
        features = tables.to_pandas(rows)
        if scipy.sparse.issparse(features):
            features = scipy.sparse.csr_matrix(features)  # CatBoost takes no sparse arrays
        weighted = model.weighted and part.start is None
        parts.append(
            Rows(
                rows, features, columns, target[part], y[part],
                weight[part] if weighted else None,
                None if baseline is None else baseline[part],
            )
        )  # fmt: skip
    return parts[0], parts[1]


def _target_of(objective: str, target: np.ndarray) -> np.ndarray:
    if objective == "MultiLogloss":
        return (target > np.array([0.0, 0.5])).astype(float)
    if objective == "MultiCrossEntropy":
        return 1 / (1 + np.exp(-target))
    if objective == "SurvivalAft":
        return np.sort(np.exp(target / 3), axis=1)
    return target


def _frame(X: Any) -> pd.DataFrame:
    X = tables.to_pandas(X)
    X = X.toarray() if scipy.sparse.issparse(X) else X
    return X if isinstance(X, pd.DataFrame) else pd.DataFrame(X).rename(columns=str)


def _fit(model: Model, train: Rows, test: Rows) -> catboost.CatBoost:
    has = model.options
    params: dict[str, Any] = {
        "iterations": model.n_trees, "depth": 3, "learning_rate": 0.3, "thread_count": 1,
        "logging_level": "Silent", "allow_writing_files": False, "random_seed": model.seed,
        **model.params,
    }  # fmt: skip
    if params["loss_function"] == "custom":
        params |= {"loss_function": Custom(), "eval_metric": "RMSE"}
    if params.get("class_weights") and model.objective.target == "binary":
        params["class_weights"] = params["class_weights"][:2]
    if params.get("grow_policy") == "Lossguide":
        params.setdefault("max_leaves", 6)
    classes = model.objective.target in ("binary", "three classes")
    if not has.get("estimator"):
        made = catboost.CatBoost(params)
    else:
        kind = catboost.CatBoostClassifier if classes else catboost.CatBoostRegressor
        made = kind(**params)
    ranked = model.objective.name in RANKING
    pool = train.pool(group_id=np.arange(len(train.y)) // 5) if ranked else train.pool()
    fit: dict[str, Any] = {"eval_set": test.pool()} if has.get("eval_set") else {}
    if has.get("continued"):
        fit["init_model"] = catboost.CatBoost({**params, "iterations": 2}).fit(pool)
    made.fit(pool, **fit)
    if model.data.verdict.says == "ordered target statistics":
        _check_statistics(made)
    return made


def _check_statistics(made: catboost.CatBoost) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        made.save_model(str(path), format="json")
        features = json.loads(path.read_text(encoding="utf-8"))["features_info"]
    if not features.get("ctrs"):
        raise LibraryRefuses("no tree splits on a target statistic")


def _as_held(model: Model, fitted: catboost.CatBoost) -> catboost.CatBoost:
    """The model as the user of this line has it."""
    has = model.options
    if has.get("rescaled"):
        scale, bias = fitted.get_scale_and_bias()
        fitted.set_scale_and_bias(2 * scale, bias)
    if has.get("summed"):
        return catboost.sum_models([fitted, fitted])
    if not has.get("saved"):
        return fitted
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model")
        fitted.save_model(path, format=has["saved"])
        return catboost.CatBoost().load_model(path, format=has["saved"])
