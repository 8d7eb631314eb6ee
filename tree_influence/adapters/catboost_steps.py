"""Which of its Newton steps CatBoost took in each tree, read off the stored leaves.

With several leaf iterations CatBoost tests every step: where the loss over all rows does not fall,
the step is refused, and the next iteration tries half of it. It sums that loss with a logarithm
good to about 1e-5 (`FastLogf`), so that here and there a step is refused that was an improvement.
The outcome is stored nowhere, but each of the 2^n_steps possible ones ends elsewhere: the one that
ends at the stored leaf values, to rounding, is what happened.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tree_influence.adapters.base import LeafRecipe
from tree_influence.ensemble import TreeEnsemble

Floats = NDArray[np.float64]

MOST_STEPS = 10  # CatBoost's default; beyond, there are too many outcomes to try
MOST_LEAVES = 8  # compared in each tree: the smallest, which converge last
MOST_ROWS = 2048  # in those leaves
AGREES = 1e-7  # largest difference, in leaf scales


class LeafRows(NamedTuple):
    """Rows of a few leaves of one tree, leaf by leaf."""

    raw: Floats  # before the tree, (n_rows,)
    target: Floats
    weight: Floats
    first: NDArray[np.int64]  # place of each leaf's first row, (n_leaves,)


def taken_steps(
    ensemble: TreeEnsemble,
    recipe: LeafRecipe,
    leaves: NDArray[np.integer],
    target: Floats,
    weight: Floats,
) -> Floats | None:
    """How much of each Newton step was taken: 1, a power of 1/2, or 0 where it was refused.

    Args:
        ensemble: Trees of one output.
        recipe: How their leaves were computed, on the logistic loss.
        leaves: Leaf of each training row, shape (n_trees, n_train).
        target: Encoded target, shape (n_train,).
        weight: Row weights, shape (n_train,).

    Returns:
        Shape (n_trees, n_steps), or None if no outcome explains the leaves: then these are not
        the rows they were computed from.
    """
    taken = np.ones((ensemble.n_trees, recipe.n_steps))
    theta = ensemble.leaf_value[:, 0] / recipe.learning_rate[0]
    tolerance = AGREES * np.sqrt(np.mean(theta**2))
    raw = np.full(len(target), recipe.start[0])
    for t in range(ensemble.n_trees):
        chosen = _smallest_leaves(leaves[t])
        if len(chosen):
            rows = [np.flatnonzero(leaves[t] == leaf) for leaf in chosen]
            first = np.cumsum([0, *map(len, rows[:-1])])
            those = np.concatenate(rows)
            found = LeafRows(raw[those], target[those], weight[those], first)
            stored = theta[ensemble.leaf_start[t] + chosen]
            outcome = _explain(found, stored, recipe.l2[0], recipe.n_steps, tolerance)
            if outcome is None:
                return None
            taken[t] = _shares(outcome, recipe.n_steps)
        raw += ensemble.tree_values(t)[leaves[t], 0]
    return taken


def _smallest_leaves(leaf: NDArray[np.integer]) -> NDArray[np.int64]:
    """The leaves with the fewest rows (but some), as many as fit."""
    counts = np.bincount(leaf)
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0][:MOST_LEAVES]
    return order[np.cumsum(counts[order]) <= MOST_ROWS]


def _explain(
    rows: LeafRows, stored: Floats, l2: float, n_steps: int, tolerance: float
) -> int | None:
    """Number of the outcome that ends at the stored values; None if none does."""
    for every in (False, True):
        error = np.abs(_ends(rows, l2, n_steps, every) - stored).max(axis=1)  # (n_outcomes,)
        if error.min() <= tolerance:
            return int(error.argmin())
    return None


def _ends(rows: LeafRows, l2: float, n_steps: int, every: bool) -> Floats:
    """Where the steps of the leaves can end, shape (n_outcomes, n_leaves).

    In outcome o, step s is refused where bit s of o is set; only outcome 0 unless `every`.
    """
    sizes = np.diff([*rows.first, len(rows.raw)])
    value, share = np.zeros((1, len(sizes))), np.ones((1, 1))
    for _ in range(n_steps):
        p = expit(rows.raw + np.repeat(value, sizes, axis=1))  # (n_outcomes, n_rows)
        gradient = np.add.reduceat(rows.weight * (p - rows.target), rows.first, axis=1)
        hessian = np.add.reduceat(rows.weight * p * (1 - p), rows.first, axis=1)
        moved = value - share * gradient / (hessian + l2)
        value = np.concatenate([moved, value]) if every else moved
        share = np.concatenate([np.ones_like(share), share / 2]) if every else share
    return value


def _shares(outcome: int, n_steps: int) -> list[float]:
    """How much of each step is taken in an outcome."""
    shares, share = [], 1.0
    for s in range(n_steps):
        refused = outcome >> s & 1
        shares.append(0.0 if refused else share)
        share = share / 2 if refused else 1.0
    return shares
