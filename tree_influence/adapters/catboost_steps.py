"""Which of its Newton steps CatBoost took in each tree, read off the stored leaves.

With several leaf iterations CatBoost tests every step: where the loss over all rows does not fall,
the step is refused, and the next iteration tries half of it. It sums that loss with a logarithm
good to about 1e-5 (`FastLogf`), so that here and there a step is refused that was an improvement.
The outcome is stored nowhere, but each of the 2^n_steps possible ones ends elsewhere: the one that
ends at the stored leaf values, to rounding, is what happened. Those where whole steps are taken
until all others are refused are tried first: one run of the steps passes by all of their ends.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tree_influence.adapters.base import LeafRecipe
from tree_influence.ensemble import TreeEnsemble

Floats = NDArray[np.float64]

MOST_LEAVES = 8  # compared in each tree: the smallest, which converge last
MOST_TRIED = 2**21  # outcomes times rows of these leaves times (squared) outputs
UNSURE = -1  # there are outcomes that could not be tried
AGREES = 1e-7  # largest difference, in leaf scales
AGREES_FULL = 1e-6  # where CatBoost solves with a matrix


class Taken(NamedTuple):
    """What was found out.

    Attributes:
        taken: Share of each step, shape (n_trees, n_steps); None if some tree's is not known.
        unsure: Then: there are outcomes that were not tried. If False, none explains the leaves:
            these are not the rows they were computed from.
    """

    taken: Floats | None
    unsure: bool = False


class Tree(NamedTuple):
    """A tree, and where its training rows stood before it."""

    leaf: NDArray[np.integer]  # (n_train,)
    raw: Floats  # (n_train, n_outputs)
    target: Floats
    weight: Floats
    stored: Floats  # Newton values, (n_leaves, n_outputs)
    l2: Floats  # (n_leaves,)


class LeafRows(NamedTuple):
    """Rows of a few leaves of one tree, leaf by leaf."""

    raw: Floats  # (n_rows, n_outputs)
    target: Floats
    weight: Floats
    first: NDArray[np.int64]  # place of each leaf's first row, (n_leaves,)
    stored: Floats  # (n_leaves, n_outputs)
    l2: Floats  # (n_leaves, 1)


def taken_steps(
    ensemble: TreeEnsemble,
    recipe: LeafRecipe,
    leaves: NDArray[np.integer],
    target: Floats,
    weight: Floats,
    offset: Floats | None,
) -> Taken:
    """How much of each Newton step was taken: 1, a power of 1/2, or 0 where it was refused.

    Args:
        ensemble: Trees of one output, or with vector leaves.
        recipe: How their leaves were computed.
        leaves: Leaf of each training row, shape (n_trees, n_train).
        target: Encoded target, shape (n_train,) or (n_train, n_targets).
        weight: Row weights, shape (n_train,).
        offset: Baseline, shape (n_train, n_outputs), or None.
    """
    taken = np.ones((ensemble.n_trees, recipe.n_steps))
    theta = ensemble.leaf_value / recipe.learning_rate[0]
    tolerance = (AGREES_FULL if recipe.full_hessian else AGREES) * np.sqrt(np.mean(theta**2))
    raw = np.tile(recipe.start, (len(target), 1)) + (0.0 if offset is None else offset)
    for t in range(ensemble.n_trees):
        own = slice(ensemble.leaf_start[t], ensemble.leaf_start[t + 1])
        tree = Tree(leaves[t], raw, target, weight, theta[own], recipe.l2[own])
        with np.errstate(all="ignore"):  # steps that were not taken may lead anywhere
            outcome = _explain(tree, recipe, tolerance)
        if outcome is None or outcome == UNSURE:
            return Taken(None, unsure=outcome == UNSURE)
        taken[t] = _shares(outcome, recipe.n_steps)
        raw += ensemble.tree_values(t)[leaves[t]]
    return Taken(taken)


def _explain(tree: Tree, recipe: LeafRecipe, tolerance: float) -> int | None:
    """The outcome that ends at the stored Newton values, None if none does, or `UNSURE`.

    In outcome o, step s is refused where bit s of o is set.
    """
    n_steps, n_outputs = recipe.n_steps, tree.raw.shape[1]
    most = MOST_TRIED // n_outputs ** (2 if recipe.full_hessian else 1)
    rows = _smallest_leaves(tree, most // (n_steps + 1))
    error = _gap(_whole_ends(rows, recipe), rows.stored)
    if error.min() <= tolerance:
        taken = int(error.argmin())
        return (2**n_steps - 1) >> taken << taken
    rows = _smallest_leaves(tree, most // 2**n_steps)
    if len(rows.raw) > most // 2**n_steps:
        return UNSURE
    error = _gap(_all_ends(rows, recipe), rows.stored)
    return int(error.argmin()) if error.min() <= tolerance else None


def _smallest_leaves(tree: Tree, most_rows: int) -> LeafRows:
    """The leaves with the fewest rows (but some weight): one, or as many as fit."""
    counts = np.bincount(tree.leaf)
    order = np.argsort(counts, kind="stable")
    order = order[np.bincount(tree.leaf, tree.weight)[order] > 0][:MOST_LEAVES]
    chosen = order[: max(1, int((np.cumsum(counts[order]) <= most_rows).sum()))]
    rows = [np.flatnonzero(tree.leaf == leaf) for leaf in chosen]
    those = np.concatenate(rows)
    return LeafRows(
        tree.raw[those], tree.target[those], tree.weight[those],
        np.cumsum([0, *map(len, rows[:-1])]), tree.stored[chosen], tree.l2[chosen][:, None],
    )  # fmt: skip


def _gap(ends: Floats, stored: Floats) -> Floats:
    """Largest difference of each end, shape (n_outcomes,)."""
    gap = np.abs(ends - stored).max(axis=(1, 2))
    return np.where(np.isnan(gap), np.inf, gap)


def _whole_ends(rows: LeafRows, recipe: LeafRecipe) -> Floats:
    """Where 0, 1, ... whole steps lead, shape (n_steps + 1, n_leaves, n_outputs)."""
    value = np.zeros((1, len(rows.first), rows.raw.shape[1]))
    ends = [value]
    for _ in range(recipe.n_steps):
        value = value + _step(rows, recipe, value)
        ends.append(value)
    return np.concatenate(ends)


def _all_ends(rows: LeafRows, recipe: LeafRecipe) -> Floats:
    """Where every outcome ends, shape (2^n_steps, n_leaves, n_outputs)."""
    value = np.zeros((1, len(rows.first), rows.raw.shape[1]))
    share = np.ones((1, 1, 1))
    for _ in range(recipe.n_steps):
        moved = value + share * _step(rows, recipe, value)
        value = np.concatenate([moved, value])
        share = np.concatenate([np.ones_like(share), share / 2])
    return value


def _step(rows: LeafRows, recipe: LeafRecipe, value: Floats) -> Floats:
    """The whole next step from leaf values of shape (n_outcomes, n_leaves, n_outputs)."""
    sizes = np.diff([*rows.first, len(rows.raw)])
    inside = rows.raw + np.repeat(value, sizes, axis=1)  # (n_outcomes, n_rows, n_outputs)
    n_outputs = inside.shape[2]
    target = np.concatenate([rows.target] * len(value))
    at = recipe.loss.derivatives(target, inside.reshape(-1, n_outputs))

    def total(of_rows: Floats) -> Floats:
        weighted = rows.weight[:, None] * of_rows.reshape(inside.shape)
        return np.add.reduceat(weighted, rows.first, axis=1)

    gradient = total(at.gradient)
    if not recipe.full_hessian or at.coupling is None:
        return -gradient / (total(at.hessian) + rows.l2)
    p, eye = at.coupling, np.eye(n_outputs)
    hessian = np.stack([total(p[:, [m]] * (eye[m] - p)) for m in range(n_outputs)], axis=2)
    step = np.linalg.solve(hessian + rows.l2[:, :, None] * eye, gradient[..., None])[..., 0]
    return -np.asarray(step, dtype=np.float64)


def _shares(outcome: int, n_steps: int) -> list[float]:
    """How much of each step is taken in an outcome."""
    shares, share = [], 1.0
    for s in range(n_steps):
        refused = outcome >> s & 1
        shares.append(0.0 if refused else share)
        share = share / 2 if refused else 1.0
    return shares
