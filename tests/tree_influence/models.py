"""Small fitted models of every library and task, with the facts the oracles need.

Facts come from the library itself or from what the model was asked for, never from our code.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.reference.boosting import Boosting

LIBRARIES = ("lightgbm", "xgboost", "catboost", "sklearn_gb", "sklearn_hist")
TASKS = ("squared", "logistic", "softmax")
N_CLASSES = 3
ETA, L2, DEPTH = 0.3, 1.3, 3


@dataclass
class Fitted:
    model: Any
    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def make_data(task, n_train=40, n_test=6, seed=0):
    """Features, target and weights of a small noisy problem."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_train + n_test, 4)).astype(np.float32).astype(np.float64)
    score = X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=len(X))
    if task == "squared":
        y = score
    elif task == "logistic":
        y = (score > 0).astype(int)
    else:
        y = np.digitize(score, [-0.6, 0.6])
    return X[:n_train], y[:n_train], X[n_train:], y[n_train:]


def fit(library, task, n_trees=3, n_train=40, seed=0, weighted=True):
    """A fitted model with its data."""
    X, y, X_test, y_test = make_data(task, n_train, seed=seed)
    weight = np.random.default_rng(seed + 1).uniform(0.3, 2.0, n_train)
    model = make(library, task, n_trees)
    model.fit(X, y, sample_weight=weight if weighted else None)
    return Fitted(model, X, y, weight if weighted else np.ones(n_train), X_test, y_test)


def make(library, task, n_trees):
    """An unfitted estimator with a known learning rate and L2."""
    regression = task == "squared"
    if library == "lightgbm":
        import lightgbm

        kind = lightgbm.LGBMRegressor if regression else lightgbm.LGBMClassifier
        return kind(
            n_estimators=n_trees, learning_rate=ETA, reg_lambda=L2, num_leaves=5,
            min_child_samples=3, min_child_weight=0, verbose=-1, n_jobs=1,
        )  # fmt: skip
    if library == "xgboost":
        import xgboost

        kind = xgboost.XGBRegressor if regression else xgboost.XGBClassifier
        return kind(
            n_estimators=n_trees, learning_rate=ETA, reg_lambda=L2, max_depth=DEPTH,
            base_score=0.5, n_jobs=1,
        )  # fmt: skip
    if library == "catboost":
        import catboost

        kind = catboost.CatBoostRegressor if regression else catboost.CatBoostClassifier
        loss = {"squared": "RMSE", "logistic": "Logloss", "softmax": "MultiClass"}[task]
        return kind(
            iterations=n_trees, learning_rate=ETA, l2_leaf_reg=L2, depth=DEPTH, verbose=False,
            loss_function=loss, allow_writing_files=False, thread_count=1,
            leaf_estimation_iterations=10 if task == "logistic" else 1,
            leaf_estimation_backtracking="No",  # so that the oracle knows: all steps are taken
        )  # fmt: skip
    from sklearn import ensemble

    if library == "sklearn_gb":
        kind = (
            ensemble.GradientBoostingRegressor if regression
            else ensemble.GradientBoostingClassifier
        )  # fmt: skip
        return kind(
            n_estimators=n_trees,
            learning_rate=ETA,
            max_depth=DEPTH,
            min_samples_leaf=3,
            random_state=0,
        )
    kind = (
        ensemble.HistGradientBoostingRegressor if regression
        else ensemble.HistGradientBoostingClassifier
    )  # fmt: skip
    return kind(
        max_iter=n_trees, learning_rate=ETA, l2_regularization=L2, max_leaf_nodes=5,
        min_samples_leaf=3, early_stopping=False,
    )  # fmt: skip


def library_leaves(library, model, X):
    """Leaf ids as the library tells them, (n_trees, n_rows), trees round by round."""
    if library == "lightgbm":
        return np.atleast_2d(model.predict(X, pred_leaf=True)).reshape(len(X), -1).T
    if library == "xgboost":
        return model.apply(X).reshape(len(X), -1).astype(int).T
    if library == "catboost":
        return model.calc_leaf_indexes(X).T
    if library == "sklearn_gb":
        return model.apply(X).reshape(len(X), -1).astype(int).T
    columns = []  # no routine tells leaf ids; walk the library's own node table
    for trees in model._predictors:
        for tree in trees:
            columns.append([walk(tree.nodes, row) for row in X])
    return np.array(columns)


def walk(nodes, row):
    v = 0
    while not nodes[v]["is_leaf"]:
        left = row[nodes[v]["feature_idx"]] <= nodes[v]["num_threshold"]
        v = nodes[v]["left"] if left else nodes[v]["right"]
    return v


def start(library, task, fitted):
    """Raw score before the first round, from the library or by its documented rule."""
    y, w = fitted.y, fitted.weight
    if library == "sklearn_gb":
        return fitted.model._raw_predict_init(fitted.X[:1])[0]
    if library == "sklearn_hist":
        return np.ravel(fitted.model._baseline_prediction)
    if library == "xgboost":
        return {"squared": np.array([0.5]), "logistic": np.zeros(1),
                "softmax": np.full(N_CLASSES, 0.5)}[task]  # fmt: skip
    if library == "catboost":
        mean = (w * y).sum() / w.sum()
        return {"squared": np.array([mean]), "logistic": np.zeros(1),
                "softmax": np.zeros(N_CLASSES)}[task]  # fmt: skip
    shares = np.array([w[y == k].sum() for k in range(N_CLASSES)]) / w.sum()
    if task == "squared":
        return np.array([(w * y).sum() / w.sum()])
    if task == "logistic":
        return np.array([np.log(shares[1] / shares[0])])
    return np.log(shares)


def describe(library, task, fitted):
    """The model as the oracle sees it, and the leaves of the queries in the same numbering."""
    n_outputs = N_CLASSES if task == "softmax" else 1
    full = library == "catboost" and task == "softmax"
    per_round = 1 if full else n_outputs
    both = np.concatenate([fitted.X, fitted.X_test])
    found = library_leaves(library, fitted.model, both)
    numbered = np.array([np.unique(row, return_inverse=True)[1] for row in found])
    rounds = numbered.reshape(-1, per_round, len(both))
    n_leaves = int(numbered.max()) + 1
    phi = 1.0
    if task == "softmax":
        phi = {"lightgbm": 1.5, "sklearn_gb": 1.5, "xgboost": 2.0}.get(library, 1.0)
    l2 = 0.0 if library == "sklearn_gb" else L2
    if library == "catboost":
        l2 = L2 * fitted.weight.mean()
    described = Boosting(
        loss=task, n_outputs=n_outputs, leaves=rounds[:, :, : len(fitted.X)], n_leaves=n_leaves,
        rate=np.full(rounds.shape[:2], ETA), l2=np.full((*rounds.shape[:2], n_leaves), l2),
        start=start(library, task, fitted), target=np.asarray(fitted.y, dtype=float),
        hessian_scale=phi, n_steps=10 if library == "catboost" and task == "logistic" else 1,
        full=full,
    )  # fmt: skip
    return described, rounds[:, :, len(fitted.X) :]


def raw(library, model, X):
    """The library's raw predictions, (n_rows, n_outputs)."""
    if library == "lightgbm":
        found = model.predict(X, raw_score=True)
    elif library == "xgboost":
        found = model.predict(X, output_margin=True)
    elif library == "catboost":
        found = model.predict(X, prediction_type="RawFormulaVal")
    else:
        found = getattr(model, "decision_function", model.predict)(X)
    return np.asarray(found).reshape(len(X), -1)
