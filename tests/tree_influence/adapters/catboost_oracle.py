"""The leaf values of CatBoost from its own equations, in plain numpy; and models to try them on."""

from typing import Any

import catboost
import numpy as np
import pandas as pd

TASKS = ["regression", "binary", "multiclass"]


def recomputed_leaves(leaves, stored, recipe, target, weight, score=None):
    """Leaf values of every tree from the scores that the stored leaves before it give.

    Args:
        leaves: Leaf of each row, shape (n_trees, n_rows).
        stored: For each tree, the stored leaf values, shape (n_leaves, n_outputs).
        recipe: A `LeafRecipe`; only its numbers and the name of its loss are used.
        target: Encoded target, shape (n_rows,).
        weight: Row weights, shape (n_rows,).
        score: Raw scores before the first of these trees; the recipe's start if None.
    """
    if score is None:
        score = np.tile(recipe.start, (len(target), 1))
    taken = np.ones((len(stored), recipe.n_steps)) if recipe.taken is None else recipe.taken
    first = np.cumsum([0, *map(len, stored)])
    values = []
    for t, (leaf, old) in enumerate(zip(leaves, stored, strict=True)):
        total = np.zeros_like(old)
        for s in range(recipe.n_steps):
            gradient, hessian = derivatives(recipe.loss.name, target, score + total[leaf])
            l2 = recipe.l2[first[t] : first[t + 1], None, None] * np.eye(old.shape[1])
            numerator = sums(leaf, weight[:, None] * gradient, len(old))
            denominator = sums(leaf, weight[:, None, None] * hessian, len(old)) + l2
            total = total - taken[t, s] * np.linalg.solve(denominator, numerator[..., None])[..., 0]
        values.append(recipe.learning_rate[t] * total)
        score = score + old[leaf]
    return values


def sums(leaf, rows, n_leaves):
    out = np.zeros((n_leaves, *rows.shape[1:]))
    np.add.at(out, leaf, rows)
    return out


def derivatives(loss, target, score):
    """Gradient (n_rows, K) and Hessian (n_rows, K, K)."""
    if loss == "squared error":
        return score - target[:, None], np.ones((len(target), 1, 1))
    if loss == "logistic":
        p = 1 / (1 + np.exp(-score))
        return p - target[:, None], (p * (1 - p))[..., None]
    p = np.exp(score - score.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    one_hot = np.eye(p.shape[1])[target.astype(int)]
    return p - one_hot, p[..., None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None, :]


def rows(seed, n, task, missing=0.1):
    """Three numeric columns with missing values, and a target: numbers or strings."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 3)).round(1), columns=["x0", "x1", "x2"])
    signal = X["x0"] + X["x1"] * X["x2"] + rng.normal(size=n)
    X = X.mask(rng.random((n, 3)) < missing)
    return X, targets(signal.to_numpy(), task)


def rows_with_categories(seed, n, task):
    """A column of strings, one of whole numbers and one of decimals, and a target."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "colour": rng.choice(["red", "green", "blue", "odd one"], n, p=[0.4, 0.3, 0.2, 0.1]),
            "size": rng.normal(size=n),
            "store": rng.integers(0, 6, n),
        }
    )
    signal = X["size"] + (X["colour"] == "red") + 0.3 * X["store"] + rng.normal(size=n)
    return X, targets(signal.to_numpy(), task)


def targets(signal, task):
    if task == "regression":
        return signal
    bounds = np.quantile(signal, [0.6] if task == "binary" else [0.3, 0.6])
    labels = np.array(["no", "yes"] if task == "binary" else ["low", "mid", "top"], dtype=object)
    return labels[np.digitize(signal, bounds)]


def trained(X, y, cat_features=None, sample_weight=None, iterations: int | None = 8, **params: Any):
    kind = catboost.CatBoostRegressor if y.dtype.kind == "f" else catboost.CatBoostClassifier
    model = kind(
        iterations=iterations, cat_features=cat_features, verbose=False, thread_count=1,
        allow_writing_files=False, **params,
    )  # fmt: skip
    return model.fit(X, y, sample_weight=sample_weight)
