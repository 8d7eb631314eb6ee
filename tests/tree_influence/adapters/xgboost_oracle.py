"""Rows for XGBoost, and its own predictions and formulas as oracles."""

import json

import numpy as np
import pandas as pd
import xgboost

from tests.reference.derivatives import derivatives
from tree_influence.adapters import parse

VERSION = tuple(int(part) for part in xgboost.__version__.split(".")[:2])
KNOWS_NAMES = VERSION >= (3, 1)  # of categories; before, a model only has their codes

OBJECTIVES = ("reg:squarederror", "binary:logistic", "multi:softprob")


def make_table(seed, n=150, missing=0.15):
    """Numbers with missing values, categories of text and of integers; and a score."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "x": rng.normal(size=n).round(2),
            "k": rng.integers(-3, 3, n),
            "city": pd.Categorical(rng.choice(["Bern", "Oslo", "Riga", "Ulm", "Rom"], n)),
            "zip": pd.Categorical(rng.choice([10, 30, 20], n)),
        }
    )
    score = table["x"] + (table["city"] == "Oslo") - (table["zip"] == 30)
    table.loc[rng.random(n) < missing, "x"] = np.nan
    table.loc[rng.random(n) < missing, "city"] = np.nan
    return table, (score + 0.5 * rng.normal(size=n)).to_numpy()


def target_of(score, objective):
    if objective.startswith("binary"):
        return (score > 0).astype(int)
    return np.digitize(score, [-0.5, 0.7]) if objective.startswith("multi") else score


def make_model(objective, **params):
    classifies = str(objective).startswith(("binary", "multi"))
    kind = xgboost.XGBClassifier if classifies else xgboost.XGBRegressor
    given = {"n_estimators": 4, "n_jobs": 1, "objective": objective, "enable_categorical": True}
    return kind(**{**given, **params})


def fit(objective, seed=0, n=150, weighted=False, columns=None, **params):
    """A fitted model with its table, target and weights."""
    table, score = make_table(seed, n)
    table = table if columns is None else table[columns]
    y = target_of(score, objective)
    weight = np.random.default_rng(seed + 1).uniform(0.3, 2, n) if weighted else None
    return make_model(objective, **params).fit(table, y, sample_weight=weight), table, y, weight


def booster_of(model):
    return model if isinstance(model, xgboost.Booster) else model.get_booster()


def stored_trees(model):
    """Trees as the library's JSON has them, in the library's order."""
    booster = json.loads(bytes(booster_of(model).save_raw("json")))["learner"]["gradient_booster"]
    return booster.get("gbtree", booster)["model"]["trees"]


def leaf_error(model, X, y, weight=None, params=None):
    """The recipe, and the largest difference of recomputed and stored leaves over the largest leaf.

    Trees, leaves and what they add up to are the library's own; `y` holds values or positions.
    """
    adapter = parse(model, params)
    features, target = adapter.features(X), np.asarray(y, dtype=float)
    weights = adapter.row_weights(target, weight)
    recipe = adapter.recipe(adapter.leaves(features), target, weights)
    leaves, trees = np.asarray(adapter.library_leaves(features)), stored_trees(model)
    n_outputs = len(recipe.start)
    raw, errors, largest = np.tile(recipe.start, (len(target), 1)), [], np.finfo(float).tiny
    offset = 0
    for t in range(leaves.shape[1]):
        k = t % n_outputs
        if k == 0:
            gradient, hessian = derivatives(raw, target, adapter.classes is not None)
        stored = np.array(trees[t]["split_conditions"])
        ids = np.flatnonzero(np.array(trees[t]["left_children"]) < 0)
        theta = np.zeros(len(stored))
        g = np.bincount(leaves[:, t], weights * gradient[:, k], len(stored))
        h = np.bincount(leaves[:, t], weights * hessian[:, k], len(stored))
        l2 = recipe.l2[offset : offset + len(ids)]
        theta[ids] = -g[ids] / (getattr(recipe.loss, "hessian_scale", 1.0) * h[ids] + l2)
        difference = recipe.learning_rate[t] * theta[ids] + recipe.folded[t] - stored[ids]
        errors.append(np.abs(difference).max())
        largest = max(largest, np.abs(stored[ids]).max())
        raw[:, k] += stored[leaves[:, t]]
        offset += len(ids)
    assert offset == len(recipe.l2), "l2 needs one value for each leaf of each tree"
    return recipe, max(errors) / largest
