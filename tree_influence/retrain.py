"""`retrainer`: the real effect of a Change, by training the same recipe again."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.change import Change, Relabelled, Reordered, Reweighted, Without
from influence.errors import (
    InfluenceError,
    InputError,
    RetrainingError,
    TooFewRowsError,
    UnsupportedChangeError,
)
from influence.run import fingerprint
from tree_influence import adapters, identity
from tree_influence.adapters.base import Adapter, GivenRows
from tree_influence.adapters.columns import check_all_classes
from tree_influence.reading import transformed
from tree_influence.rows import plain, shape
from tree_influence.run import TreeQueries, TreeRun, tie

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Retrainer:
    """From a Change to the change of each query's loss after really retraining.

    Losses are compared with a retraining on all rows, so that whatever retraining alone changes
    (early stopping, seeds of the library) cancels, and changing nothing has no effect.

    Attributes:
        run: The traced model; its recipe is trained again, its Pipeline steps included.
        queries: The queries.
        base: Loss of each query after retraining on all rows, shape (n_queries,).
    """

    run: TreeRun
    queries: TreeQueries
    base: Floats

    def __call__(self, change: Change) -> Floats:
        """Effects, shape (n_queries,)."""
        return self.losses(change) - self.base

    def losses(self, change: Change) -> Floats:
        """Losses after retraining, shape (n_queries,)."""
        return Retrained.after(change, self.run).losses(self.queries)

    def flips(self, change: Change) -> NDArray[np.bool_]:
        """Whether retraining changes what the model says of each query, shape (n_queries,).

        For classifiers: whether the predicted class is another than after retraining on all rows,
        whatever the truth of the query. This is what `counterfactual` asks.

        Raises:
            InputError: A regression, which says no classes; compare its predictions yourself.
        """
        if self.run.classes is None:
            raise InputError(
                "Expected a classifier, whose predicted classes can flip, got a regression: give "
                "a function of your own, e.g. whether the loss rises above a bound."
            )
        return np.asarray(self._labels(change) != self._base_labels)

    @cached_property
    def _base_labels(self) -> NDArray[np.generic]:
        return self._labels(Without([]))

    def _labels(self, change: Change) -> NDArray[np.generic]:
        return Retrained.after(change, self.run).labels(self.queries)

    @property
    def n_train(self) -> int:
        """Number of training rows: changes can be checked before anything is trained."""
        return self.run.n_train

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides the effects besides the change: keys a cache of retrainings.

        The model, its library's version and every parameter, the earlier steps of a Pipeline, the
        training rows and queries as given, and the losses after retraining on all rows: a recipe
        that gives another model each time has another fingerprint each time, so that effects
        against different bases never meet in one cache.

        Raises:
            InputError: A setting or a column that cannot be told apart by a hash.
        """
        return fingerprint("retrainer", *identities(self.run, self.queries), self.base)


@dataclass(frozen=True, eq=False)
class Retrained:
    """The recipe of a run, trained again on changed rows.

    Attributes:
        run: The run whose recipe it is.
        adapter: The new model.
        prefix: The earlier steps of a Pipeline, fitted again, or None.
        kept: Positions of the rows it was trained on.
        rows: Those rows as it was given them.
    """

    run: TreeRun
    adapter: Adapter
    prefix: Any
    kept: NDArray[np.int64]
    rows: GivenRows

    @classmethod
    def after(cls, change: Change, run: TreeRun) -> Self:
        """Trains.

        Raises:
            UnsupportedChangeError: A change of order.
            TooFewRowsError: The change leaves fewer than two rows, or not all classes.
            RetrainingError: The library refuses these rows, weights or labels.
        """
        multipliers, encoded = changed(change, run)
        target: NDArray[np.generic] = encoded
        if run.classes is not None and run.adapter.knows_labels:
            target = run.classes[encoded.astype(np.int64)]
        kept = np.flatnonzero((multipliers > 0) & (run.weight > 0))
        if len(kept) < 2:
            raise TooFewRowsError(
                f"Expected two rows or more to train on, but the change leaves {len(kept)} of "
                f"{run.n_train}. Keep more of them."
            )
        weight = run.sample_weight
        if isinstance(change, Reweighted):
            weight = multipliers * (1.0 if weight is None else weight)
        rows = GivenRows(run.X, target, weight, run.given_offset)[kept]
        try:
            adapter, prefix = _trained(run, rows)
        except InfluenceError:
            raise
        except Exception as error:
            raise RetrainingError(
                f"Expected the recipe to train on the {len(kept)} rows that the change leaves, but "
                f"{run.adapter.library} refuses: {type(error).__name__}: {error}"
            ) from error
        return cls(run, adapter, prefix, kept, rows)

    def losses(self, queries: TreeQueries) -> Floats:
        """Loss of each query of the original run, shape (n_queries,)."""
        retrained, asked = self._asked(queries)
        return retrained.losses(asked)

    def labels(self, queries: TreeQueries) -> NDArray[np.generic]:
        """Predicted class of each query of the original run, shape (n_queries,)."""
        retrained, asked = self._asked(queries)
        return retrained.labels(asked)

    def _asked(self, queries: TreeQueries) -> tuple[TreeRun, TreeQueries]:
        """The new model in place of the run's, and the queries as read by it."""
        retrained = replace(self.run, adapter=self.adapter, prefix=self.prefix)
        return retrained, retrained.read(self.as_given(queries.given), queries.index)

    def traced(self) -> TreeRun:
        """A run of the new model on the rows it was trained on; its leaf error is stated."""
        rows, index = self.as_given(self.rows), self.run.train_index[self.kept]
        return tie(self.adapter, self.prefix, rows, index, allow_inexact=True)

    def as_given(self, rows: GivenRows) -> GivenRows:
        """Rows of the original run as they would be given to the new model."""
        return as_given(rows, self.run.adapter, self.adapter)


def as_given(rows: GivenRows, old: Adapter, new: Adapter) -> GivenRows:
    """Rows given to one model as they would be given to another of the same recipe."""
    if rows.offset is None or not new.offset_replaces_start:
        return rows
    return replace(rows, offset=rows.offset + old.ensemble.bias - new.ensemble.bias)


def retrainer(run: TreeRun, X_test: Any, y_test: Any = None) -> Retrainer:
    """The real effects of changes on the losses of queries.

    Args:
        run: A traced model.
        X_test: Query features, or the library's own container, which holds the truth too.
        y_test: Query truth, shape (n_queries,).

    Returns:
        A function from a Change (Without, Reweighted, Relabelled) to effects, shape (n_queries,).
        One training for each call, and one here.
    """
    if not isinstance(run, TreeRun):
        raise InputError(
            f"Expected a run made by trace(model, X_train, y_train), got a {type(run).__name__}."
        )
    return retrainer_of(run, run.queries(*((X_test,) if y_test is None else (X_test, y_test))))


def retrainer_of(run: TreeRun, queries: TreeQueries) -> Retrainer:
    """`retrainer` of queries already read."""
    unchanged = Retrainer(run, queries, base=np.zeros(queries.n_queries))
    return replace(unchanged, base=unchanged.losses(Without([])))


def identities(run: TreeRun, queries: TreeQueries) -> tuple[str, ...]:
    """All that decides what retrainings say of queries, besides the change and chance, as hashes.

    Raises:
        InputError: A setting or a column that cannot be told apart by a hash.
    """
    prefix = "none" if run.prefix is None else identity.of_settings({"prefix": run.prefix})
    settings = identity.of_settings(run.adapter.refit_settings())
    rows, asked = identity.of_rows(run.given), identity.of_rows(queries.given)
    return run.fingerprint, run.adapter.library, settings, prefix, rows, asked


def check_spare_rows(run: TreeRun) -> None:
    """Refuses a run of which some row cannot be left out, being the only one of its class.

    Raises:
        InputError: Names the class.
    """
    target = run.target[run.weight > 0]
    if run.classes is None:
        return
    n_rows = np.bincount(target.astype(np.int64), minlength=len(run.classes))
    alone = np.flatnonzero(n_rows == 1)
    if alone.size:
        label = run.classes[alone].tolist()[0]
        raise InputError(
            f"Expected two training rows or more of every class, so that any of them can be left "
            f"out, but class {label!r} has 1. Train without the class, or use a method that "
            "trains nothing again, such as LeafInfluence."
        )


def changed(change: Change, run: TreeRun) -> tuple[Floats, Floats]:
    """Multipliers of the row weights, shape (n_train,), and encoded target after a change.

    Raises:
        UnsupportedChangeError: A change of order, or no change at all.
    """
    multipliers, target = np.ones(run.n_train), run.target
    if isinstance(change, Reordered):
        raise UnsupportedChangeError(
            "A fitted tree ensemble has no order of training to change; it answers Without, "
            "Reweighted and Relabelled."
        )
    if isinstance(change, Relabelled):
        target = run.relabelled(change)
    elif isinstance(change, Without | Reweighted):
        multipliers = 1.0 - change.removed(run.n_train)
    else:
        raise UnsupportedChangeError(
            f"Expected a change such as Without(rows), got a {type(change).__name__}."
        )
    return multipliers, target


def _trained(run: TreeRun, rows: GivenRows) -> tuple[Adapter, Any]:
    """The run's recipe trained on rows, and the earlier steps of its Pipeline."""
    prefix, X = _unfitted(run.prefix), rows.X
    if prefix is not None:
        X = transformed(prefix.fit_transform, X, rows.y)
    if _has_columns_of(run.adapter, X):
        return run.adapter.refit(plain(X), rows.y, rows.sample_weight, rows.offset), prefix
    check_all_classes(rows.y, run.adapter.classes)
    model = run.adapter.unfitted()
    model.fit(plain(X), rows.y, sample_weight=rows.sample_weight)
    return adapters.parse(model), prefix


def _has_columns_of(adapter: Adapter, X: Any) -> bool:
    """Whether the earlier steps of a Pipeline, fitted again, gave the columns they gave before."""
    names = adapter.feature_names
    if isinstance(X, pd.DataFrame) and names is not None:
        kept = [str(name).replace(" ", adapter.space) for name in X.columns]
        return kept == names
    return shape(X)[1] == adapter.ensemble.n_features


def _unfitted(prefix: Any) -> Any:
    """The earlier steps of a Pipeline, to be fitted again with the rows they see."""
    if prefix is None:
        return None
    from sklearn.base import clone

    return clone(prefix)
