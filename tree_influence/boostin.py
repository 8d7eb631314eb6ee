"""`BoostIn`: TracIn for boosting, round by round, in the leaves a row and a query share."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from influence.base import InnerProduct, Relabels
from influence.change import Relabelled
from influence.errors import InputError
from tree_influence.factors import LeafFactor, QueryLeaves
from tree_influence.labels import NewLabels, label_terms
from tree_influence.of_trees import OfTrees
from tree_influence.replay import Replay, RowTerms
from tree_influence.run import TreeQueries, TreeRun

Floats = NDArray[np.float64]


class BoostIn(OfTrees, InnerProduct[TreeRun, TreeQueries], Relabels):
    """Influence through each round's leaf values, scores of other rows held fixed.

    values[j, q] = w_j sum_t 1[l(j) = l(q)] g_q(t) . eta (H + lambda)^-1 (g_j + theta h~_j)

    with g_q(t) the gradient of the query's loss before round t. Where a tree takes several Newton
    steps (CatBoost), the derivative of the whole chain of steps stands in place of one.

    Sign: positive = proponent. Unit: loss (first order); weighted variants up to scale.
    Cost: fit O(T n), and it holds 8 n_values + 2 bytes for each tree and row; explain adds once
    for every row of every leaf a query falls in; self_influence O(T n); a Relabelled
    O(T) a changed row and O(T) a query.
    Wrong in that it ignores how a row moves other rows' gradients in later rounds
    (`LeafInfluence` does not), and that splits would change (so does `LeafInfluence`).
    Refused where the leaves are not Newton values (`UnsupportedModelError`).

    Args:
        shrunken_leaves: Put the shrunken leaf value in place of theta, as the published code does.
        weighted: How often to divide the term of each leaf by n, the weight of the training rows in
            it (their number where they weigh 1): 0, 1 or 2. Leaves of few rows then count more.

    Reference: Brophy, Hammoudeh, Lowd, "Adapting and Evaluating Influence-Estimation Methods for
    Gradient-Boosted Decision Trees", JMLR 2023.
    """

    factor_: LeafFactor
    gain_: Floats
    scale_: Floats  # n^-weighted, (n_trees, n_leaves)

    def __init__(self, shrunken_leaves: bool = False, weighted: Literal[0, 1, 2] = 0) -> None:
        if weighted not in (0, 1, 2):
            raise InputError(f"weighted must be 0, 1 or 2, got {weighted!r}.")
        self.shrunken_leaves, self.weighted = shrunken_leaves, weighted
        self.unit = "loss, up to scale" if weighted else "loss"

    def _fit(self, run: TreeRun) -> None:
        replay = run.replay
        n_leaves, n_values = replay.value.shape[1:]
        factor, gain = LeafFactor.empty(run.leaves, n_leaves, n_values), replay.inverse.copy()
        for terms in replay.backwards(shrunken=self.shrunken_leaves):
            for place, t in _trees(replay, terms):
                gain[t] = _gains(replay, terms, place, t)
                factor.set_values(t, _row_values(replay, terms, place, t, gain[t]))
        self.factor_, self.gain_ = factor, gain
        rows = np.array([np.bincount(leaf, run.weight, n_leaves) for leaf in run.leaves])
        self.scale_ = np.where(rows > 0, rows, 1.0) ** -self.weighted

    def _relabelled(self, change: Relabelled, queries: TreeQueries) -> Floats:
        new = NewLabels.of(change, self.run_)
        effect = np.zeros(queries.n_queries)
        if len(new.rows) == 0:
            return effect
        replay, new = new.among(self.run_.replay)
        by_leaf = np.zeros_like(replay.value)  # (n_trees, n_leaves, n_values)
        for terms in label_terms(replay, new, self.shrunken_leaves):
            for place, t in _trees(replay, terms):
                values = _row_values(replay, terms, place, t, self.gain_[t])
                np.add.at(by_leaf[t], replay.leaves[t], values)
        ((_, asked),) = self._pairs(queries)
        for t, leaf in enumerate(asked.leaf):
            effect += (by_leaf[t, leaf] * asked.coefficient[t]).sum(axis=1)
        return effect

    def _pairs(self, queries: TreeQueries) -> Iterator[tuple[LeafFactor, QueryLeaves]]:
        replay = self.run_.replay
        coefficient = np.empty((*queries.leaves.shape, replay.value.shape[2]))
        rounds = range(replay.ensemble.n_rounds)
        before = replay.raw_before(queries.leaves, queries.offset)
        for r, raw in zip(rounds, before, strict=False):
            gradient = replay.recipe.loss.derivatives(queries.target, raw).gradient
            if replay.ensemble.vector_leaves:
                coefficient[r] = gradient
            else:
                coefficient[replay.trees(r), :, 0] = gradient.T
        scale = np.take_along_axis(self.scale_, queries.leaves.astype(np.int64), axis=1)
        yield self.factor_, QueryLeaves(queries.leaves, coefficient * scale[:, :, None])

    def _bytes_per_value(self) -> int:
        return 8


def _trees(replay: Replay, terms: RowTerms) -> Iterator[tuple[int, int]]:
    """The trees of a few rounds, each with the place of its round in their terms."""
    for place, r in enumerate(range(terms.rounds.start, terms.rounds.stop)):
        trees = replay.trees(r)
        for t in range(trees.start, trees.stop):
            yield place, t


def _row_values(replay: Replay, terms: RowTerms, place: int, t: int, gain: Floats) -> Floats:
    """Values of the replay's rows in tree t, shape (n_rows, n_values).

    Args:
        replay: The boosting.
        terms: Terms of these rows.
        place: The tree's round in them.
        t: The tree.
        gain: As `_gains` gives it.
    """
    n_values, output = replay.value.shape[2], t - replay.trees(terms.rounds.start + place).start
    outputs = slice(None) if n_values > 1 else slice(output, output + 1)
    values = np.zeros((len(replay.weight), n_values))
    for step, direct in zip(gain, terms.direct[place], strict=True):
        _add(step, replay.leaves[t], direct[:, outputs], values)
    return replay.weight[:, None] * values


def _gains(replay: Replay, terms: RowTerms, place: int, t: int) -> list[Floats]:
    """d(tree's contribution) / d(numerator of each step).

    Of shape (n_leaves, n_values), or (n_leaves, n_values, n_values) with the full Hessian. A
    step's effect passes through the later steps of the same tree, each of which loses
    inverse * sum_j slope_j of it.
    """
    rate, inverse = replay.recipe.learning_rate[t], replay.inverse[t]
    full = replay.recipe.full_hessian
    passed = rate * np.eye(inverse.shape[-1]) if full else rate
    gains = [rate * inverse[-1]]
    for s in range(len(inverse) - 1, 0, -1):
        if full:
            lost = _lost_coupled(replay, terms, place, s, t)
            passed = passed - passed @ inverse[s] @ lost
            gains.append(passed @ inverse[s - 1])
        else:
            passed = passed * (1 - inverse[s] * _lost(replay, terms, place, s, t))
            gains.append(passed * inverse[s - 1])
    return gains[::-1]


def _lost(replay: Replay, terms: RowTerms, place: int, s: int, t: int) -> Floats:
    """Sum over each leaf's rows of d(numerator) / dF, shape (n_leaves, n_values)."""
    leaf, n_leaves = replay.leaves[t], replay.inverse.shape[2]
    slope = terms.slope[place, s]
    sums = [np.bincount(leaf, column, minlength=n_leaves) for column in slope.T]
    return np.column_stack(sums).astype(np.float64)


def _lost_coupled(replay: Replay, terms: RowTerms, place: int, s: int, t: int) -> Floats:
    """The same with the full Hessian, shape (n_leaves, n_values, n_values)."""
    leaf, n_leaves = replay.leaves[t], replay.inverse.shape[2]
    slope = terms.slope[place, s]
    p = replay.weight[:, None] * terms.coupling[place, s]
    k = slope.shape[1]
    lost = np.empty((n_leaves, k, k))
    for a in range(k):
        for b in range(k):
            mixed = terms.coupling[place, s, :, a] * (slope[:, a] + slope[:, b] - 1)
            rows = p[:, b] * ((a == b) * slope[:, b] - mixed)
            lost[:, a, b] = np.bincount(leaf, rows, minlength=n_leaves)
    return lost


def _add(gain: Floats, leaf: NDArray[np.integer], direct: Floats, values: Floats) -> None:
    """values_j += gain of j's leaf times direct_j, both of shape (n_train, n_values)."""
    if gain.ndim == 2:
        values += gain[leaf] * direct
        return
    for m in range(direct.shape[1]):
        values += gain[:, :, m][leaf] * direct[:, m, None]
