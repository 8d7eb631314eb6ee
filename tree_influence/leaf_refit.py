"""`LeafRefit`: the exact refit of all leaf values on the structures of the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from influence.base import OneByOne
from influence.change import Change, Relabelled
from tree_influence.labels import NewLabels
from tree_influence.of_trees import OfTrees
from tree_influence.replay import Replay
from tree_influence.retrain import changed
from tree_influence.run import TreeQueries, TreeRun

Floats = NDArray[np.float64]


class LeafRefit(OfTrees, OneByOne[TreeRun, TreeQueries]):
    """Effect of a change when every leaf value is computed again and all structures stay.

    The boosting runs forward once more with weights w' and targets y'; for t = 1..T

        theta'_l = -sum_{j in l} w'_j g_j / (sum_{j in l} w'_j h~_j + lambda),   g, h~ at F'_{t-1}
        F'_t     = F'_{t-1} + eta theta'_{l(j)}

    with every detail of the library's own steps (l1, bounds, several leaf iterations, the full
    softmax Hessian), and effect = L_q(F'_T) - L_q(F_T), L_q(F_T) by the same refit without a
    change. This is what first-order methods approximate: nothing is linearised, and a group's
    effect is that of the group, not the sum over its rows. A leaf that loses all its rows has value
    0, with l2 or without.

    Held fixed: structures, start and bias, learning rates, the share of each step taken, and
    lambda, also where the library makes it of the rows (CatBoost: l2_leaf_reg times the mean
    weight; a leaf whose value the library held at 0 stays there), and what each class weighs: a
    relabelled row weighs what rows of its new class do.

    Where the formula does not reproduce the stored leaf values v (row subsampling, bounds: the
    result's provenance says so), only what the change moves is computed:

        v'_l = v_l + eta (theta'_l - theta_l),   theta_l by the formula at the model's own scores,
                                                 theta'_l by the formula at the scores that v' gives

    so that no change has no effect there either; such a leaf without rows keeps v_l - eta theta_l.

    Answers `Without` and `Reweighted` of any rows together, and `Relabelled`.
    Sign: positive = proponent. Unit: loss.
    Cost: fit and each change O(T n), one replay of the boosting; explain and self_influence
    O(T n^2), n refits; several run at a time with `n_jobs`, as threads that share the rows.
    Wrong in that splits would change, and the start.
    Refused where the leaves are not Newton values (`UnsupportedModelError`), and `Relabelled` where
    the weight of a row depends on a target that is a number (`UnsupportedChangeError`).

    Reference: Sharchilev et al., "Finding Influential Training Samples for Gradient Boosted
    Decision Trees", ICML 2018 (LeafRefit); here with the library's own formulas, in float64.
    """

    unchanged_: Replay

    def _fit(self, run: TreeRun) -> None:
        self.unchanged_ = run.replay.refit(run.target, run.weight, run.offset)

    def _effects(self, queries: TreeQueries) -> Callable[[Change], Floats]:
        return _Refit(self.run_, queries, _losses(self.unchanged_, queries))

    def predictions(self, change: Change, *queries: Any) -> NDArray[np.generic]:
        """What the model says of each query after the change: `TreeRun.predictions` of the refit.

        Args:
            change: `Without`, `Reweighted` or `Relabelled`.
            *queries: X_test, y_test.
        """
        run, asked = self._ask(*queries)
        refit = refitted(change, run)
        return run.said(refit.raw_after(asked.leaves, asked.offset))


@dataclass(frozen=True, eq=False)
class _Refit:
    """From a change to the change of each query's loss after a refit.

    Attributes:
        run: The run.
        queries: The queries.
        base: Loss of each query after a refit without a change, shape (n_queries,).
    """

    run: TreeRun
    queries: TreeQueries
    base: Floats
    prefers: ClassVar[str] = "threads"  # the compiled sums let go of the interpreter

    def __call__(self, change: Change) -> Floats:
        """Effects, shape (n_queries,)."""
        return _losses(refitted(change, self.run), self.queries) - self.base


def refitted(change: Change, run: TreeRun) -> Replay:
    """The boosting after a change, on the structures of the run's model."""
    multipliers, target = changed(change, run)
    if isinstance(change, Relabelled):
        new = NewLabels.of(change, run)
        multipliers[new.rows] = new.factor
    return run.replay.refit(target, multipliers * run.weight, run.offset)


def _losses(refit: Replay, queries: TreeQueries) -> Floats:
    """Loss of each query at the scores of a refit, shape (n_queries,)."""
    return refit.recipe.loss.value(queries.target, refit.raw_after(queries.leaves, queries.offset))
