"""`LOO`: what leaving a row out really does, by training without it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from influence.base import OneByOne
from influence.change import Change, Without
from tree_influence.of_trees import OfTrees
from tree_influence.retrain import check_spare_rows, retrainer_of
from tree_influence.run import TreeQueries, TreeRun

Floats = NDArray[np.float64]


class LOO(OfTrees, OneByOne[TreeRun, TreeQueries]):
    """Leave-one-out: the same recipe trained again without each row.

    values[i, q] = L_q(trained without row i) - L_q(trained on all rows)

    Both are retrainings, so whatever retraining alone changes (early stopping) cancels. `predict`
    trains for any Without, Reweighted or Relabelled; its effects do not add over rows.

    Sign: positive = proponent. Unit: loss (the real change). Rows of weight 0 have influence
    exactly 0 and cost nothing.
    Cost: explain n_train + 1 trainings, whatever the number of queries; self_influence as
    many; predict 2 trainings. For some rows only:
    `retrain_all(retrainer(run, X_test, y_test), leave_one_out(n_train, rows))`.
    Wrong in nothing, but noisy: one row moves splits by chance, and where a library draws rows or
    columns by a seed, one row fewer changes every later draw. `SubSample` averages over that.
    Answers every traced model, also those whose leaves follow no formula.
    Refused where a class has one row only (`InputError`): without it the outputs of a model would
    stand for other classes.
    """

    def _fit(self, run: TreeRun) -> None:
        check_spare_rows(run)

    def _effects(self, queries: TreeQueries) -> Callable[[Change], Floats]:
        run, retrain = self.run_, retrainer_of(self.run_, queries)

        def effect(change: Change) -> Floats:
            if (
                isinstance(change, Without)
                and not change.removed(run.n_train)[run.weight > 0].any()
            ):
                return np.zeros(queries.n_queries)
            return retrain(change)

        return effect
