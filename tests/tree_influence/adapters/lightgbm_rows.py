"""Small tables for LightGBM, models of them, and the library's own word on rows."""

import lightgbm as lgb
import numpy as np
import pandas as pd

from tree_influence.adapters import parse

TASKS = ("regression", "binary", "multiclass")
SMALL = {
    "verbose": -1,
    "num_threads": 1,
    "min_child_samples": 5,
    "min_data_per_group": 5,
    "cat_smooth": 1.0,
}
LABELS = {"binary": np.array(["no", "yes"]), "multiclass": np.array(["a", "b", "c"])}


def estimator(task, **params):
    kind = lgb.LGBMRegressor if task == "regression" else lgb.LGBMClassifier
    return kind(**{**SMALL, "n_estimators": 5, **params})


def labels(task, signal):
    if task == "regression":
        return signal
    return LABELS[task][np.digitize(signal, np.linspace(0, 1, len(LABELS[task]))[:-1])]


def positions(task, y):
    """The target as a Booster takes it."""
    found = y if task == "regression" else np.searchsorted(LABELS[task], y)
    return np.asarray(found, dtype=np.float64)


def numbers(task, seed=0, n=200, missing=0.1):
    """An array with a column of categories (1), many zeros (2) and missing values."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)).round(1)
    X[:, 1] = rng.integers(0, 40, n)
    X[rng.random(n) < 0.2, 2] = 0
    signal = X[:, 0] + X[:, 1] % 3 - X[:, 2] + 0.3 * rng.normal(size=n)
    X[rng.random(X.shape) < missing] = np.nan
    return X, labels(task, signal)


def table(task="regression", seed=0, n=300, missing=0.1):
    """A frame with categories of text, of integers, ordered ones, booleans and numbers."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 6, (n, 3))
    frame = pd.DataFrame(
        {
            "size in m": rng.normal(size=n).round(2),
            "town": pd.Categorical(np.array(list("fbdaec"))[codes[:, 0]]),
            "zone": pd.Categorical(codes[:, 1] * 10),
            "grade": pd.Categorical(
                np.array(["low", "mid", "high"])[codes[:, 2] // 2],
                categories=["low", "mid", "high"],
                ordered=True,
            ),
            "count": rng.integers(0, 9, n),
            "new": rng.random(n) < 0.5,
        }
    )
    signal = frame["size in m"].to_numpy() + codes[:, 0] % 2 - codes[:, 1] % 3 + codes[:, 2] // 2
    for j in range(4):
        frame.loc[rng.random(n) < missing, frame.columns[j]] = np.nan
    return frame, labels(task, signal)


def booster_of(model):
    return model if isinstance(model, lgb.Booster) else model.booster_


def check_parity(model, X, adapter=None):
    """Raw scores and leaves are those of the library, asked with the user's own rows."""
    adapter = parse(model) if adapter is None else adapter
    booster = booster_of(model)
    features = adapter.features(X)
    leaves, ensemble = adapter.leaves(features), adapter.ensemble
    raw = np.asarray(booster.predict(X, raw_score=True)).reshape(len(X), -1)
    if "\naverage_output\n" in booster.model_to_string():  # predictions are the mean of the trees
        raw = raw / (booster.num_trees() // raw.shape[1])
    theirs = np.asarray(booster.predict(X, pred_leaf=True)).reshape(len(X), -1)
    wrong = "missing values, zeros, thresholds or categories"
    np.testing.assert_array_equal(ensemble.labels(leaves), theirs, err_msg=wrong)
    np.testing.assert_allclose(ensemble.raw(leaves), raw, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(adapter.library_raw(features), raw, err_msg="encoding of rows")
    np.testing.assert_array_equal(adapter.library_leaves(features), theirs)
