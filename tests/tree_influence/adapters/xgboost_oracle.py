"""Rows for XGBoost, and its own predictions and formulas as oracles."""

import json

import numpy as np
import pandas as pd
import xgboost

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


def check_parity(model, X, adapter=None):
    """Raw scores and leaves are the library's, asked with the user's own rows; and so is ours."""
    adapter = parse(model) if adapter is None else adapter
    features = adapter.features(X)
    booster, last = booster_of(model), 0
    if model is not booster:
        last = 1 + int(booster.attr("best_iteration") or -1)
    missing = np.nan if model is booster else model.missing
    rows = xgboost.DMatrix(X, missing=missing, enable_categorical=True)
    raw, theirs = (
        booster.predict(rows, iteration_range=(0, last), **kind).reshape(len(features), -1)
        for kind in ({"output_margin": True}, {"pred_leaf": True, "strict_shape": True})
    )
    if model is not booster:
        told = model.predict(X, output_margin=True).reshape(len(features), -1)
        np.testing.assert_array_equal(raw, told)
    np.testing.assert_array_equal(adapter.library_raw(features), raw, "encoding of the rows")
    leaves, ensemble = adapter.leaves(features), adapter.ensemble
    np.testing.assert_array_equal(adapter.library_leaves(features), theirs, "order of the trees")
    np.testing.assert_array_equal(
        ensemble.labels(leaves), theirs, "comparison, missing values, categories or pruned nodes"
    )
    np.testing.assert_allclose(
        ensemble.raw(leaves), raw, rtol=1e-5, atol=1e-5,
        err_msg="leaves agree but scores do not: bias, dropped trees or the order of outputs",
    )  # fmt: skip


def squared(raw, y, _):
    return raw - y, np.ones_like(raw)


def logistic(raw, y, _):
    p = 1 / (1 + np.exp(-raw))
    return p - y, p * (1 - p)


def softmax(raw, y, _):
    p = np.exp(raw - raw.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p - (y == np.arange(raw.shape[1])), 2 * p * (1 - p)


def pseudo_huber(raw, y, params):
    x, delta = raw - y, params.get("huber_slope", 1.0)
    root = np.sqrt(1 + (x / delta) ** 2)
    return x / root, 1 / root**3


def poisson(raw, y, params):
    return np.exp(raw) - y, np.exp(raw + params.get("max_delta_step", 0.7))


def gamma(raw, y, _):
    return 1 - y / np.exp(raw), y / np.exp(raw)


def tweedie(raw, y, params):
    rho = params.get("tweedie_variance_power", 1.5)
    low, high = y * np.exp((1 - rho) * raw), np.exp((2 - rho) * raw)
    return high - low, (2 - rho) * high - (1 - rho) * low


def squared_log(raw, y, _):
    gap = np.log1p(raw) - np.log1p(y)
    return gap / (raw + 1), np.maximum((1 - gap) / (raw + 1) ** 2, 1e-6)


# Gradient and Hessian of each row, as XGBoost's documentation of its objectives has them.
DERIVATIVES = {
    "reg:squarederror": squared, "reg:linear": squared, "reg:logistic": logistic,
    "reg:squaredlogerror": squared_log, "reg:pseudohubererror": pseudo_huber, "reg:gamma": gamma,
    "reg:tweedie": tweedie, "count:poisson": poisson, "binary:logistic": logistic,
    "binary:logitraw": logistic, "multi:softmax": softmax, "multi:softprob": softmax,
}  # fmt: skip


def stored_leaves(tree):
    """Numbers of a tree's leaves, and what a leaf adds by its number, (n_nodes, n_values)."""
    left, right, reached = tree["left_children"], tree["right_children"], [0]
    for v in reached:  # pruning leaves nodes behind
        reached += [left[v], right[v]] if left[v] >= 0 else []
    ids = np.array(sorted(v for v in reached if left[v] < 0))
    n_values = max(1, int(tree["tree_param"]["size_leaf_vector"]))
    if n_values == 1:
        return ids, np.array(tree["split_conditions"])[:, None]
    if "leaf_weights" not in tree:
        return ids, np.array(tree["base_weights"]).reshape(-1, n_values)
    value = np.zeros((len(tree["left_children"]), n_values))
    place = np.array(tree["right_children"])[ids]
    value[ids] = np.array(tree["leaf_weights"]).reshape(-1, n_values)[place]
    return ids, value


def leaf_error(model, X, y, weight=None, params=None, offset=None, settings=None):
    """The recipe, and the largest difference of recomputed and stored leaves over the largest leaf.

    Trees, leaves and what they add up to are the library's own; `y` holds values or positions, and
    `settings` what the objective was told.
    """
    adapter = parse(model, params)
    target = np.asarray(y, dtype=float)
    features, weights = adapter.features(X), adapter.row_weights(target, weight)
    recipe = adapter.recipe(adapter.leaves(features), target, weights, offset)
    leaves, trees = np.asarray(adapter.library_leaves(features)), stored_trees(model)
    trees = [trees[t] for t in adapter._content.order]
    n_outputs, n_parallel = len(recipe.start), adapter.ensemble.n_parallel
    rows = target.reshape(len(features), -1)
    raw = np.tile(recipe.start, (len(features), 1)) + (0 if offset is None else offset)
    errors, largest, first = [], np.finfo(float).tiny, 0
    derivatives = DERIVATIVES[adapter._content.objective]
    vectors = stored_leaves(trees[0])[1].shape[1] > 1
    together = n_parallel * (1 if vectors else n_outputs)
    added = np.zeros_like(raw)
    for t, tree in enumerate(trees):
        if t % together == 0:
            raw, added = raw + added, np.zeros_like(raw)
            gradient, hessian = derivatives(raw, rows, settings or {})
        ids, value = stored_leaves(tree)
        l2 = recipe.l2[first : first + len(ids)].reshape(len(ids), -1)  # one column for all values
        first += len(ids)
        for place, k in enumerate(range(n_outputs) if vectors else [t % n_outputs]):
            g = np.bincount(leaves[:, t], weights * gradient[:, k], len(value))[ids]
            h = np.bincount(leaves[:, t], weights * hessian[:, k], len(value))[ids]
            g = np.sign(g) * np.maximum(np.abs(g) - recipe.l1, 0)
            theta = np.clip(
                -g / (h + l2[:, min(place, l2.shape[1] - 1)]), -recipe.max_step, recipe.max_step
            )
            stored = value[ids, place]
            errors.append(np.abs(recipe.learning_rate[t] * theta - stored).max())
            largest = max(largest, np.abs(stored).max())
            added[:, k] += value[leaves[:, t], place]
    assert first == len(recipe.l2), "l2 needs one value for each leaf of each tree"
    return recipe, max(errors) / largest
