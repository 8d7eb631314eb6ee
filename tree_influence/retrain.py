"""`retrainer`: the real effect of a Change, by training the same recipe again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.change import Change, Relabelled, Reordered, Reweighted, Without
from influence.errors import InputError, UnsupportedChangeError
from tree_influence import adapters
from tree_influence.adapters.base import Adapter
from tree_influence.adapters.columns import check_all_classes
from tree_influence.reading import transformed
from tree_influence.rows import plain, shape, take
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
        queries: Query features and truth as the user gave them.
        base: Loss of each query after retraining on all rows, shape (n_queries,).
    """

    run: TreeRun
    queries: tuple[Any, ...]
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
        offset = run.given_offset
        if len(kept) < 2:
            raise InputError(
                f"Expected two rows or more to train on, but the change leaves {len(kept)} of "
                f"{run.n_train}. Keep more of them."
            )
        X, y = take(run.X, kept), target[kept]
        prefix = _unfitted(run.prefix)
        if prefix is not None:
            X = transformed(prefix.fit_transform, X, y)
        weight = None if weight is None else weight[kept]
        if _has_columns_of(run.adapter, X):
            offset = None if offset is None else offset[kept]
            adapter = run.adapter.refit(plain(X), y, weight, offset)
        else:
            check_all_classes(y, run.adapter.classes)
            model = run.adapter.unfitted()
            adapter = adapters.parse(model.fit(plain(X), y, sample_weight=weight))
        retrained = replace(run, adapter=adapter, prefix=prefix)
        return retrained.losses(retrained.queries(*self.queries))

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
            target = encode_target(
                change.apply(run.y), run.classes, "changed", run.adapter.n_targets
            )
        else:
            multipliers = 1.0 - change.removed(run.n_train)
        if run.classes is not None and run.adapter.knows_labels:
            return multipliers, run.classes[target.astype(np.int64)]
        return multipliers, target


def retrainer(run: TreeRun, X_test: Any, y_test: Any = None) -> Callable[[Change], Floats]:
    """The real effects of changes on the losses of queries.

    Args:
        run: A traced model.
        X_test: Query features, or the library's own container, which holds the truth too.
        y_test: Query truth, shape (n_queries,).

    Returns:
        A function from a Change (Without, Reweighted, Relabelled) to effects, shape (n_queries,).
        One training for each call, and one here.
    """
    asked = (X_test,) if y_test is None else (X_test, y_test)
    queries = run.queries(*asked)  # refuses bad queries before any training
    unchanged = Retrainer(run, asked, base=np.zeros(queries.n_queries))
    return replace(unchanged, base=unchanged.losses(Without([])))


def _has_columns_of(adapter: Adapter, X: Any) -> bool:
    """Whether the earlier steps of a Pipeline, fitted again, gave the columns they gave before."""
    names = adapter.feature_names
    if isinstance(X, pd.DataFrame) and names is not None and list(map(str, X.columns)) != names:
        return False
    return shape(X)[1] == adapter.ensemble.n_features


def _unfitted(prefix: Any) -> Any:
    """The earlier steps of a Pipeline, to be fitted again with the rows they see."""
    if prefix is None:
        return None
    from sklearn.base import clone

    return clone(prefix)
