"""`retrainer`: the real effect of a Change, by training the same recipe again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.change import Change, Relabelled, Reordered, Reweighted, Without
from influence.errors import UnsupportedChangeError
from tree_influence.run import TreeRun
from tree_influence.target import encode_target

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Retrainer:
    """From a Change to the change of each query's loss after really retraining.

    Losses are compared with a retraining on all rows, so that whatever retraining alone changes
    (early stopping, seeds of the library) cancels, and changing nothing has no effect.

    Attributes:
        run: The traced model; its recipe is trained again, its Pipeline steps included.
        X: Query features as the user gave them.
        y: Query truth as the user gave it.
        base: Loss of each query after retraining on all rows, shape (n_queries,).
    """

    run: TreeRun
    X: Any
    y: Any
    base: Floats

    def __call__(self, change: Change) -> Floats:
        """Effects, shape (n_queries,)."""
        return self.losses(change) - self.base

    def losses(self, change: Change) -> Floats:
        """Losses after retraining, shape (n_queries,)."""
        run = self.run
        multipliers, target = self._changed(change)
        kept = np.flatnonzero((multipliers > 0) & (run.weight > 0))
        weight = run.sample_weight
        if isinstance(change, Reweighted):
            weight = multipliers * (1.0 if weight is None else weight)
        X, y = _rows(run.X, kept), target[kept]
        prefix = _unfitted(run.prefix)
        if prefix is not None:
            X = prefix.fit_transform(X, y)
        adapter = run.adapter.refit(X, y, None if weight is None else weight[kept])
        queries = self.X if prefix is None else prefix.transform(self.X)
        raw = adapter.ensemble.raw(adapter.leaves(adapter.features(queries)))
        return run.replay.recipe.loss.value(encode_target(self.y, run.classes, "query"), raw)

    def _changed(self, change: Change) -> tuple[Floats, NDArray[np.generic]]:
        """Weight multipliers and training target after the change, both of shape (n_train,)."""
        run = self.run
        multipliers, target = np.ones(run.n_train), run.target
        if isinstance(change, Reordered):
            raise UnsupportedChangeError(
                "A fitted tree ensemble has no order of training to change; it answers Without, "
                "Reweighted and Relabelled."
            )
        if isinstance(change, Relabelled):
            target = encode_target(change.apply(run.y), run.classes, "changed")
        else:
            multipliers = 1.0 - change.removed(run.n_train)
        if run.classes is not None and run.adapter.knows_labels:
            return multipliers, run.classes[target.astype(np.int64)]
        return multipliers, target


def retrainer(run: TreeRun, X_test: Any, y_test: Any) -> Callable[[Change], Floats]:
    """The real effects of changes on the losses of queries.

    Args:
        run: A traced model.
        X_test: Query features.
        y_test: Query truth, shape (n_queries,).

    Returns:
        A function from a Change (Without, Reweighted, Relabelled) to effects, shape (n_queries,).
        One training for each call, and one here.
    """
    queries = run.queries(X_test, y_test)  # refuses bad queries before any training
    unchanged = Retrainer(run, X_test, y_test, base=np.zeros(queries.n_queries))
    return replace(unchanged, base=unchanged.losses(Without([])))


def _rows(X: Any, rows: NDArray[np.int64]) -> Any:
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else np.asarray(X)[rows]


def _unfitted(prefix: Any) -> Any:
    """The earlier steps of a Pipeline, to be fitted again with the rows they see."""
    if prefix is None:
        return None
    from sklearn.base import clone

    return clone(prefix)
