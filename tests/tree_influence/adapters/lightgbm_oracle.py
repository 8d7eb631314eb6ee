"""Rows for LightGBM, and its leaf values recomputed from the equations of its objectives."""

import lightgbm as lgb
import numpy as np
from scipy.special import expit, softmax

from tree_influence.adapters import parse

TASKS = ("regression", "binary", "multiclass")
SMALL = {
    "verbose": -1,
    "num_threads": 1,
    "min_data_in_leaf": 5,
    "min_data_per_group": 5,
    "num_leaves": 8,
}


def rows(task, seed=0, n=240, n_categories=6, missing=0.1):
    """Column 1 holds categories, column 0 has missing values, column 2 many zeros."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)).round(2)
    X[:, 1] = rng.integers(0, n_categories, n)
    X[rng.random(n) < 0.2, 2] = 0
    target = X[:, 0] + (X[:, 1] * 7 % 5) / 2 + 0.5 * rng.normal(size=n)
    X[rng.random(X.shape) < missing] = np.nan
    cuts = {"regression": None, "binary": [1.2], "multiclass": [0.5, 1.5]}[task]
    y = target + 4 if cuts is None else np.digitize(target, cuts).astype(float)
    return X, y, rng.uniform(0.2, 3.0, n)


def train(task, X, y, weight=None, rounds=6, init_score=None, **params):
    given = {**SMALL, "objective": task, **({"num_class": 3} if task == "multiclass" else {})}
    table = lgb.Dataset(X, y, weight=weight, init_score=init_score, categorical_feature=[1])
    return lgb.train({**given, **params}, table, rounds)


def derivatives(task, slope, target, raw):
    if task == "regression":
        return raw - target[:, None], np.ones_like(raw)
    if task == "binary":
        p = expit(slope * raw)
        return slope * (p - target[:, None]), slope**2 * p * (1 - p)
    p = softmax(raw, axis=1)
    return p - (target[:, None] == np.arange(raw.shape[1])), p * (1 - p)


def recompute(booster, task, X, y, weight=None, slope=1.0, model=None, params=None):
    """The recipe, and its largest error over the largest leaf.

    Leaves and what they add up to are the library's own; gradients before the first round are
    taken at the recipe's start.
    """
    adapter = parse(booster if model is None else model, params)
    features = adapter.features(X)
    weights = adapter.row_weights(y, weight)
    recipe = adapter.recipe(adapter.leaves(features), y, weights)
    trees = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    leaves = np.asarray(booster.predict(X, pred_leaf=True)).reshape(len(y), -1)
    n_outputs = 3 if task == "multiclass" else 1
    raw, errors, largest = np.tile(recipe.start, (len(y), 1)), [], np.finfo(float).tiny
    offset = 0
    for t, tree in enumerate(trees):
        k = t % n_outputs
        if k == 0:
            gradient, hessian = derivatives(task, slope, y, raw)
            found = recipe.loss.derivatives(y, raw).gradient
            np.testing.assert_allclose(found, gradient, rtol=1e-5, atol=1e-6)  # float32 labels
            raw = np.zeros_like(raw) if t == 0 else raw.copy()
        stored = leaf_values(tree)
        l2 = recipe.l2[offset : offset + len(stored)]
        g = np.bincount(leaves[:, t], weights * gradient[:, k], len(stored))
        h = np.bincount(leaves[:, t], weights * hessian[:, k], len(stored))
        theta = -g / (getattr(recipe.loss, "hessian_scale", 1.0) * h + l2)
        errors.append(recipe.learning_rate[t] * theta + recipe.folded[t] - stored)
        largest = max(largest, np.abs(stored).max())
        raw[:, k] += stored[leaves[:, t]]
        offset += len(stored)
    assert offset == len(recipe.l2), "l2 needs one value for each leaf of each tree"
    return recipe, np.abs(np.concatenate(errors)).max() / largest


def leaf_values(tree):
    """Values by leaf number of a tree of `dump_model`."""
    found = {}

    def walk(node):
        if "leaf_value" in node:
            found[node.get("leaf_index", 0)] = node["leaf_value"]
        else:
            walk(node["left_child"])
            walk(node["right_child"])

    walk(tree)
    return np.array([found[leaf] for leaf in range(len(found))])
