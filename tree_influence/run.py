"""`TreeRun` and `trace`: a fitted model and its training rows, checked against the library."""

import importlib.metadata
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from influence.errors import (
    InputError,
    NotYetSupportedError,
    ParityError,
    TrainingDataError,
    UnsupportedModelError,
)
from influence.run import fingerprint
from tree_influence import adapters
from tree_influence.adapters.base import Adapter, LeafRecipe
from tree_influence.replay import Replay, replay_boosting
from tree_influence.target import check_weight, encode_target, resolve_classes

Floats = NDArray[np.float64]

INEXACT = 0.1  # median leaf error, in leaf scales, above which a run is refused
UNEXPLAINED = 0.01  # largest leaf error allowed where the model's settings give no reason for any
RAW_TOLERANCE = 1e-5  # XGBoost and CatBoost sum float32
LEAF_SAMPLE = 10_000  # rows whose leaves are compared; raw scores are compared on all


@dataclass(frozen=True, eq=False)
class TreeQueries:
    """Validated query rows of a `TreeRun`.

    Attributes:
        leaves: Leaf of each query, shape (n_trees, n_queries).
        target: Encoded target, shape (n_queries,).
        index: The caller's labels of the queries.
    """

    leaves: NDArray[np.integer]
    target: Floats
    index: pd.Index

    @property
    def n_queries(self) -> int:
        return len(self.target)

    def __getitem__(self, block: slice) -> Self:
        return type(self)(self.leaves[:, block], self.target[block], self.index[block])


@dataclass(frozen=True, eq=False)
class TreeRun:
    """A fitted tree ensemble and the rows it was trained on; made by `trace`.

    Attributes:
        adapter: The model, as its library's adapter reads it.
        prefix: Fitted earlier steps of a Pipeline, or None.
        X: Training features as the user gave them.
        y: Training target as the user gave it, shape (n_train,).
        sample_weight: As the user gave it, shape (n_train,), or None.
        classes: Labels in the order of the outputs; None for regression.
        target: Encoded target, shape (n_train,).
        weight: Weight of each row in the leaf sums, shape (n_train,).
        leaves: Leaf of each row, shape (n_trees, n_train).
        train_index: The caller's labels of the training rows.
    """

    adapter: Adapter
    prefix: Any
    X: Any
    y: NDArray[np.generic]
    sample_weight: Floats | None
    classes: NDArray[np.generic] | None
    target: Floats
    weight: Floats
    leaves: NDArray[np.integer]
    train_index: pd.Index
    _replay: Replay | UnsupportedModelError = field(repr=False)

    def __repr__(self) -> str:
        ensemble = self.adapter.ensemble
        state = self._replay if isinstance(self._replay, Exception) else self._replay.error
        about = "no Newton leaves" if isinstance(state, Exception) else f"leaf error {state}"
        return (
            f"<TreeRun of {self.adapter.library}: {ensemble.n_trees} trees, "
            f"{self.n_train} training rows; {about}>"
        )

    @property
    def n_train(self) -> int:
        return len(self.target)

    @property
    def replay(self) -> Replay:
        """The boosting recomputed from the training rows.

        Raises:
            UnsupportedModelError: The leaves of this model follow no formula known here.
        """
        if isinstance(self._replay, UnsupportedModelError):
            raise self._replay
        return self._replay

    @property
    def fingerprint(self) -> str:
        """Hash of the trees and of where the training rows fall, with target and weight."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        ensemble = self.adapter.ensemble
        parts: list[Any] = [
            self.adapter.library, ensemble.feature, ensemble.threshold, ensemble.children,
            ensemble.missing, ensemble.categories, ensemble.leaf_value, ensemble.bias,
            self.leaves, self.target, self.weight,
        ]  # fmt: skip
        if isinstance(self._replay, Replay):
            recipe = self._replay.recipe
            parts += [recipe.learning_rate, recipe.l2, recipe.start]
            parts.append(f"{recipe.loss!r} {recipe.hessian_scale} {recipe.n_steps}")
        return fingerprint(*parts)

    @property
    def provenance(self) -> Mapping[str, str | float]:
        stated: dict[str, str | float] = {"library": self.adapter.library}
        for package in ("influence-toolkit", "numpy", "numba"):
            stated[package] = _version(package)
        if isinstance(self._replay, Replay):
            stated["leaf_error_largest"] = self._replay.error.largest
            stated["leaf_error_median"] = self._replay.error.median
            because = self._replay.recipe.inexact_because
            if because:
                stated["leaves_inexact_because"] = ", ".join(because)
        return stated

    def queries(self, *data: Any) -> TreeQueries:
        """Checks query rows against the model.

        Args:
            *data: X, features as the model takes them, and y, the truth; both of n_queries rows.
        """
        if len(data) != 2:
            raise InputError(
                f"Queries are X and y, got {len(data)} arguments. To explain what the model itself "
                "says, pass y=run.predictions(X)."
            )
        X, y = data
        features = self.adapter.features(_transform(self.prefix, X))
        leaves = self.adapter.leaves(features)
        _check_lengths(leaves.shape[1], y, "query")
        _check_order(X, y)
        target = encode_target(y, self.classes, "query")
        return TreeQueries(leaves, target, _index(X, y))

    def train_queries(self) -> TreeQueries:
        """The training rows as queries."""
        return TreeQueries(self.leaves, self.target, self.train_index)

    def predictions(self, X: Any) -> NDArray[np.generic]:
        """What the model says of these rows: values, or the most likely labels, shape (n_rows,)."""
        features = self.adapter.features(_transform(self.prefix, X))
        raw = self.adapter.ensemble.raw(self.adapter.leaves(features))
        if self.classes is None:
            return raw[:, 0]
        return self.classes[raw.argmax(axis=1) if raw.shape[1] > 1 else (raw[:, 0] > 0).astype(int)]

    def losses(self, queries: TreeQueries) -> Floats:
        """Loss of each query as trained, per row and unweighted, shape (n_queries,)."""
        raw = self.adapter.ensemble.raw(queries.leaves)
        return self.replay.recipe.loss.value(queries.target, raw)


def trace(
    model: Any,
    X_train: Any,
    y_train: ArrayLike,
    sample_weight: ArrayLike | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    allow_inexact: bool = False,
) -> TreeRun:
    """Ties a fitted model to its training rows, and checks both.

    The trees read here must give the library's own raw predictions and leaves, and the leaf
    values must recompute from the training rows.

    Args:
        model: Fitted LightGBM, XGBoost, CatBoost or scikit-learn boosting estimator, a Pipeline
            that ends in one, a native Booster, or the path of a saved model.
        X_train: Training features, in the order of y_train.
        y_train: Training target, shape (n_train,).
        sample_weight: Sample weights the model was fitted with, shape (n_train,).
        params: Training parameters a saved model does not hold (XGBoost: reg_lambda,
            learning_rate, missing).
        allow_inexact: Accept a model whose leaves do not recompute; the error is stated in every
            result.

    Raises:
        TrainingDataError: The leaf values do not recompute: by more than a hundredth of the leaf
            scale where no setting of the model explains any difference, or with a median above a
            tenth where one does.
        ParityError: The trees disagree with the library's own predictions.
        UnsupportedModelError: The model is of no kind known here.
    """
    if isinstance(model, str | os.PathLike):
        model = adapters.load(model)
    prefix, last = _split_pipeline(model)
    adapter = adapters.parse(last, dict(params or {}))
    if adapter.ensemble.n_trees == 0:
        raise InputError("The model has no trees, so no training row can have influenced it.")
    X = _transform(prefix, X_train)
    _check_lengths(_n_rows(X), y_train, "training")
    _check_order(X_train, y_train)
    classes = adapter.classes
    if classes is not None and not adapter.knows_labels:
        classes = resolve_classes(classes, y_train)
    target = encode_target(y_train, classes, "training")
    weights = None if sample_weight is None else check_weight(sample_weight, len(target))
    features = adapter.features(X)
    leaves = adapter.leaves(features)
    _check_parity(adapter, features, leaves)
    weight = adapter.row_weights(features, target, weights)
    replay = _replay_or_reason(adapter, features, leaves, target, weight)
    if isinstance(replay, Replay) and not allow_inexact:
        _check_leaves(replay)
    return TreeRun(
        adapter, prefix, X_train, np.asarray(y_train), weights, classes, target, weight, leaves,
        _index(X_train, y_train), replay,
    )  # fmt: skip


def _replay_or_reason(
    adapter: Adapter, features: Any, leaves: NDArray[np.integer], target: Floats, weight: Floats
) -> Replay | UnsupportedModelError:
    """The replay, or why there is none: kept, since other methods can still answer."""
    try:
        recipe: LeafRecipe = adapter.recipe(features, target, weight)
        return replay_boosting(adapter.ensemble, recipe, leaves, target, weight)
    except UnsupportedModelError as reason:
        return reason


def _check_leaves(replay: Replay) -> None:
    """Refuses leaves that differ by more than the model's own settings explain."""
    error, because = replay.error, ", ".join(replay.recipe.inexact_because)
    if error.median <= INEXACT and (because or error.largest <= UNEXPLAINED):
        return
    likely = (
        f"The model was trained with {because}, which the leaf formula leaves out."
        if because
        else "Nothing in the model explains that, so these are probably not the rows it was "
        "trained on (values, labels, order), or sample_weight is missing."
    )
    raise TrainingDataError(
        "Expected the leaf values to recompute from the training rows, but they differ: "
        f"{error}. {likely} trace(..., allow_inexact=True), or --allow-inexact on the command "
        "line, answers all the same and states the error."
    )


def _check_parity(adapter: Adapter, features: Any, leaves: NDArray[np.integer]) -> None:
    """Our raw scores against the library's on all rows, and leaves on evenly spaced ones."""
    ours, theirs = adapter.ensemble.raw(leaves), adapter.library_raw(features)
    gap = np.abs(ours - theirs).max(axis=1)
    leaf = float(np.abs(adapter.ensemble.leaf_value).max(initial=0.0))
    allowed = RAW_TOLERANCE * max(leaf, float(np.abs(theirs).max(initial=0.0)))
    worst = int(np.argmax(gap)) if len(gap) else 0
    if len(gap) and not gap[worst] <= allowed:
        raise ParityError(
            f"Expected the raw predictions of {adapter.library}, but row {worst} differs: the "
            f"library says {theirs[worst]}, the parsed trees say {ours[worst]}. Please report "
            "this with the model."
        )
    sample = np.unique(np.linspace(0, len(gap) - 1, min(len(gap), LEAF_SAMPLE)).astype(np.int64))
    labels = adapter.library_leaves(_take(features, sample))
    if labels is None:
        return
    differs = (labels != adapter.ensemble.labels(leaves[:, sample])).any(axis=1)
    if differs.any():
        raise ParityError(
            f"Expected the leaves of {adapter.library}, but row {int(sample[differs][0])} falls "
            "into another leaf than the library says. Please report this with the model."
        )


def _split_pipeline(model: Any) -> tuple[Any, Any]:
    """The fitted earlier steps of a Pipeline (None if there are none) and its last step."""
    pipeline = sys.modules.get("sklearn.pipeline")
    if pipeline is None or not isinstance(model, pipeline.Pipeline):
        return None, model
    return (model[:-1] if len(model) > 1 else None), model[-1]


def _transform(prefix: Any, X: Any) -> Any:
    """Rows as the model itself sees them, after the earlier steps of a Pipeline."""
    inner = X if prefix is None else prefix.transform(X)
    if issparse(inner):
        raise NotYetSupportedError(
            "Expected dense features, got a scipy sparse matrix; use .toarray(), or "
            "sparse_output=False in the Pipeline's encoder."
        )
    if len(getattr(inner, "shape", ())) != 2:
        raise InputError(
            f"Features must be a table of two dimensions, got {type(X).__name__} of shape "
            f"{getattr(inner, 'shape', None)}; one row is X[[0]] or X.iloc[[0]]."
        )
    return inner


def _take(features: Any, rows: NDArray[np.int64]) -> Any:
    return features.iloc[rows] if isinstance(features, pd.DataFrame) else features[rows]


def _n_rows(X: Any) -> int:
    return X.shape[0]


def _check_lengths(n_rows: int, y: ArrayLike, what: str) -> None:
    shape = np.shape(y)
    if n_rows == 0:
        raise InputError(f"Expected at least one of the {what} rows, got none.")
    if shape != (n_rows,):
        raise InputError(
            f"Expected one target for each of the {n_rows} {what} rows, got y of shape {shape}."
        )


def _check_order(X: Any, y: Any) -> None:
    """Refuses pandas rows and targets that carry the same labels in another order."""
    if not isinstance(X, pd.DataFrame) or not isinstance(y, pd.Series) or X.index.equals(y.index):
        return
    if X.index.is_unique and y.index.is_unique and y.index.isin(X.index).all():
        raise InputError(
            "X and y have the same index labels in another order; use y.loc[X.index], or "
            "y.to_numpy() if their order is right as it is."
        )


def _index(X: Any, y: Any) -> pd.Index:
    for table in (X, y):
        if isinstance(table, pd.DataFrame | pd.Series):
            return table.index
    return pd.RangeIndex(len(np.asarray(y)))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def feature_names(model: Any) -> list[str] | None:
    """Names of the columns a model or Pipeline takes; None if it knows none."""
    prefix, last = _split_pipeline(model)
    if prefix is None:
        return adapters.parse(last).feature_names
    names = getattr(model, "feature_names_in_", None)
    return None if names is None else list(names)
