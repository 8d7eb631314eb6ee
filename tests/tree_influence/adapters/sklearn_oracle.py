"""Rows for scikit-learn's estimators, and their own predictions and formulas as oracles."""

import numpy as np
import pandas as pd
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from tests.reference.derivatives import derivatives
from tree_influence.adapters import parse

TASKS = ["regression", "binary", "multiclass"]
LABELS = {"binary": np.array(["no", "yes"]), "multiclass": np.array(["a", "b", "c"])}


def estimator(kind, task, **params):
    classes = {
        "gb": (GradientBoostingRegressor, GradientBoostingClassifier),
        "hist": (HistGradientBoostingRegressor, HistGradientBoostingClassifier),
        "forest": (RandomForestRegressor, RandomForestClassifier),
        "extra": (ExtraTreesRegressor, ExtraTreesClassifier),
    }
    return classes[kind][task != "regression"](**params)


def rows(seed, n, task, n_numeric=3, categories=0, missing=0.0):
    """A table of numeric columns, two of categories on request, and a target that needs both."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({f"x{j}": rng.normal(size=n).round(2) for j in range(n_numeric)})
    signal = table["x0"].to_numpy() + 0.5 * rng.normal(size=n)
    if categories:
        words, numbers = rng.integers(0, categories, n), rng.integers(0, categories, n)
        signal = signal + (words % 2) - (numbers % 3 == 0)
        table.insert(1, "word", pd.Categorical([f"w{code}" for code in words]))
        table["number"] = pd.Categorical(10 * numbers)
    table = table.mask(pd.DataFrame(rng.random(table.shape) < missing, columns=table.columns))
    if task == "regression":
        return table, signal
    n_classes = len(LABELS[task])
    return table, LABELS[task][np.digitize(signal, np.linspace(-0.5, 1, n_classes + 1)[1:-1])]


def encoded(adapter, y):
    return y if adapter.classes is None else np.searchsorted(adapter.classes, y).astype(float)


def decision(model, X):
    raw = getattr(model, "decision_function", getattr(model, "predict_proba", model.predict))(X)
    return raw.reshape(X.shape[0], -1)


def derivatives_of(loss, raw, target):
    """Gradient and Hessian of a loss by its name in scikit-learn, each (n_rows, n_outputs)."""
    y, mean = target[:, None], np.exp(raw)
    if loss == "exponential":
        sign = 2 * y - 1
        return -sign * np.exp(-sign * raw), np.exp(-sign * raw)
    if loss == "poisson":
        return mean - y, mean
    if loss == "gamma":
        return 1 - y / mean, y / mean
    return derivatives(raw, target, loss == "log_loss")


def leaf_error(model, X, y, sample_weight=None, start=None):
    """Largest difference of recomputed and stored leaves over the largest leaf.

    `start` is the raw score of each row before the first round, if not the recipe's.
    """
    adapter = parse(model)
    features, target = adapter.features(X), encoded(adapter, y)
    weight = adapter.row_weights(target, sample_weight)
    recipe = adapter.recipe(adapter.leaves(features), target, weight)
    leaves, ensemble = adapter.leaves(features), adapter.ensemble
    raw, errors = np.tile(recipe.start, (len(target), 1)), []
    if start is not None:
        raw = start.reshape(raw.shape).copy()
    for t in range(ensemble.n_trees):
        k = t % ensemble.n_outputs
        if k == 0:
            gradient, hessian = derivatives_of(model.loss, raw, target)
        first, last = ensemble.leaf_start[t : t + 2]
        G = np.bincount(leaves[t], weight * gradient[:, k], minlength=last - first)
        H = np.bincount(leaves[t], weight * hessian[:, k], minlength=last - first)
        D = getattr(recipe.loss, "hessian_scale", 1.0) * H + recipe.l2[first:last]
        theta = np.divide(-G, D, out=np.zeros_like(G), where=D > 0)
        stored = ensemble.leaf_value[first:last, 0]
        errors.append(recipe.learning_rate[t] * theta + recipe.folded[t] - stored)
        raw[:, k] += stored[leaves[t]]
    return np.abs(np.concatenate(errors)).max() / max(np.abs(ensemble.leaf_value).max(), 1e-300)


def check_parity(model, X):
    adapter = parse(model)
    features = adapter.features(X)
    leaves = adapter.leaves(features)
    raw, theirs = adapter.ensemble.raw(leaves) + adapter.offset(features), decision(model, X)
    np.testing.assert_allclose(raw, theirs, rtol=1e-12, atol=1e-12, err_msg="thresholds or bias")
    np.testing.assert_array_equal(adapter.library_raw(features), theirs)
    ours, labels = adapter.ensemble.labels(leaves), adapter.library_leaves(features)
    np.testing.assert_array_equal(ours, labels, err_msg="comparison, missing values or categories")


def on_thresholds(adapter, rng, n, n_features):
    """Values at, just below and just above the thresholds, and far outside."""
    finite = adapter.ensemble.threshold[np.isfinite(adapter.ensemble.threshold)]
    values = np.concatenate([finite, np.nextafter(finite, np.inf), [0.0, 1e30, -1e30, 1e-40]])
    return rng.choice(values, size=(n, n_features))
