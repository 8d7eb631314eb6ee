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

from influence.change import Relabelled
from influence.errors import (
    InputError,
    TrainingDataError,
    UnsupportedModelError,
)
from influence.run import fingerprint
from tree_influence import adapters
from tree_influence.adapters.base import Adapter, GivenRows, LeafRecipe
from tree_influence.reading import read_rows, row_labels, unpack
from tree_influence.replay import Replay, replay_boosting
from tree_influence.rows import indexable
from tree_influence.target import check_weight, encode_target, resolve_classes

Floats = NDArray[np.float64]

INEXACT = 0.1  # median leaf error, in leaf scales, above which a run is refused
UNEXPLAINED = 0.01  # largest leaf error allowed where the model's settings give no reason for any


@dataclass(frozen=True, eq=False)
class TreeQueries:
    """Validated query rows of a `TreeRun`.

    Attributes:
        leaves: Leaf of each query, shape (n_trees, n_queries).
        target: Encoded target, shape (n_queries,) or (n_queries, n_targets).
        offset: Raw score besides bias and trees, shape (n_queries, n_outputs).
        index: The caller's labels of the queries.
        asked: The rows as the user gave them, of which these queries are some.
        first: Position of the first query in them.
    """

    leaves: NDArray[np.integer]
    target: Floats
    offset: Floats
    index: pd.Index
    asked: GivenRows
    first: int = 0

    @property
    def n_queries(self) -> int:
        return len(self.target)

    @property
    def given(self) -> GivenRows:
        """These queries as the user gave them: what another model can be asked."""
        return self.asked[slice(self.first, self.first + self.n_queries)]

    def __getitem__(self, block: slice) -> Self:
        start, stop, _ = block.indices(self.n_queries)
        rows = slice(start, stop)
        return type(self)(
            self.leaves[:, rows], self.target[rows], self.offset[rows], self.index[rows],
            self.asked, self.first + start,
        )  # fmt: skip


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
        target: Encoded target, shape (n_train,) or (n_train, n_targets).
        weight: Weight of each row in the leaf sums, shape (n_train,).
        leaves: Leaf of each row, shape (n_trees, n_train).
        offset: Raw score besides bias and trees, shape (n_train, n_outputs).
        given_offset: The part of it that came in a container of the library, or None.
        train_index: The caller's labels of the training rows.
        share: Share of the rows that the trees were grown on; below 1, all rows are held with as
            much of their weight.
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
    offset: Floats
    given_offset: Floats | None
    train_index: pd.Index
    _replay: Replay | UnsupportedModelError = field(repr=False)
    share: float = 1.0

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
            self.leaves, self.target, self.weight, self.offset,
        ]  # fmt: skip
        if isinstance(self._replay, Replay):
            recipe = self._replay.recipe
            parts += [recipe.learning_rate, recipe.l2, recipe.start]
            # A loss names all it is made of: its repr must not change from run to run.
            parts.append(f"{recipe.loss!r} {recipe.l1} {recipe.max_step} {recipe.n_steps}")
        return fingerprint(*parts)

    @property
    def provenance(self) -> Mapping[str, str | float]:
        stated: dict[str, str | float] = {"library": self.adapter.library}
        for package in ("influence-toolkit", "numpy", "numba"):
            stated[package] = _version(package)
        if isinstance(self._replay, Replay):
            stated["leaf_error_largest"] = self._replay.error.largest
            stated["leaf_error_median"] = self._replay.error.median
            if because := self._replay.recipe.inexact_because:
                stated["leaves_inexact_because"] = ", ".join(because)
        return stated

    def queries(self, *data: Any) -> TreeQueries:
        """Checks query rows against the model.

        Args:
            *data: X, features as the model takes them, and y, the truth; both of n_queries rows.
                Or the library's own container (Dataset, DMatrix, Pool), which holds both.
        """
        if len(data) not in (1, 2):
            raise InputError(f"Queries are X and y, got {len(data)} arguments.")
        rows = unpack(self.adapter, data[0], data[1] if len(data) == 2 else None, None, "query")
        return self.read(rows, row_labels(*data, n=len(rows.y)))

    def read(self, rows: GivenRows, index: pd.Index) -> TreeQueries:
        """Queries of this run, of rows that have been unpacked, e.g. those of another run.

        Args:
            rows: The rows.
            index: Their labels, shape (n_queries,).
        """
        leaves, offset = read_rows(self.adapter, self.prefix, rows.X, rows.offset, checked=False)
        target = encode_target(rows.y, self.classes, "query", self.adapter.n_targets)
        return TreeQueries(leaves, target, offset, index, rows)

    def relabelled(self, change: Relabelled) -> Floats:
        """Encoded target after a change of labels, of the shape of `target`.

        Raises:
            InputError: A label that is none of the model's classes, or of another shape.
        """
        return encode_target(change.apply(self.y), self.classes, "changed", self.adapter.n_targets)

    def train_queries(self) -> TreeQueries:
        """The training rows as queries."""
        return TreeQueries(self.leaves, self.target, self.offset, self.train_index, self.given)

    @property
    def given(self) -> GivenRows:
        """The training rows as the user gave them."""
        return GivenRows(self.X, self.y, self.sample_weight, self.given_offset)

    def predictions(self, X: Any) -> NDArray[np.generic]:
        """What the model says of these rows: numbers on the scale of the target, or labels.

        Returns:
            Shape (n_rows,), or (n_rows, n_outputs) where it says several numbers of a row.
        """
        leaves, offset = read_rows(self.adapter, self.prefix, indexable(X), None, checked=False)
        return self.said(self.adapter.ensemble.raw(leaves) + offset)

    def said(self, raw: Floats) -> NDArray[np.generic]:
        """What raw scores of shape (n_rows, n_outputs) say, as `predictions` gives it."""
        if self.classes is None:
            said = self.adapter.response(raw)
            return said if said.shape[1] > 1 else said[:, 0]
        return self._classes_of(raw)

    def labels(self, queries: TreeQueries) -> NDArray[np.generic]:
        """Predicted class of each query, shape (n_queries,); for classifiers."""
        return self._classes_of(self.adapter.ensemble.raw(queries.leaves) + queries.offset)

    def _classes_of(self, raw: Floats) -> NDArray[np.generic]:
        if self.classes is None:
            raise InputError("Expected a classifier, got a regression, which predicts no classes.")
        if raw.shape[1] > 1:
            return self.classes[raw.argmax(axis=1)]
        return self.classes[(raw[:, 0] > self.adapter.border).astype(int)]

    def losses(self, queries: TreeQueries) -> Floats:
        """Loss of each query as trained, per row and unweighted, shape (n_queries,)."""
        raw = self.adapter.ensemble.raw(queries.leaves) + queries.offset
        return self.adapter.loss().value(queries.target, raw)


def trace(
    model: Any,
    X_train: Any,
    y_train: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    allow_inexact: bool = False,
    progress: bool = False,
) -> TreeRun:
    """Ties a fitted model to its training rows, and checks both.

    The trees read here must give the library's own raw predictions and leaves, and the leaf
    values must recompute from the training rows.

    Args:
        model: Fitted LightGBM, XGBoost, CatBoost or scikit-learn boosting estimator, a Pipeline
            that ends in one, a native Booster, or the path of a saved model.
        X_train: Training features, in the order of y_train: an array, a scipy sparse matrix, or a
            pandas, Arrow or polars table; kept as it is for retraining, so do not change it. Or
            the Dataset, DMatrix or Pool the model was trained on, which holds target, weights and
            starting scores too.
        y_train: Training target, shape (n_train,); (n_train, n_targets) for several.
        sample_weight: Sample weights the model was fitted with, shape (n_train,).
        params: Training parameters a saved model does not hold (XGBoost: reg_lambda,
            learning_rate, missing).
        allow_inexact: Accept a model whose leaves do not recompute; the error is stated in every
            result.
        progress: Show a bar while many rows are read.

    Raises:
        TrainingDataError: The leaf values do not recompute: by more than a hundredth of the leaf
            scale where no setting of the model explains any difference, or with a median above a
            tenth where one does.
        ParityError: The trees disagree with the library's own predictions.
        UnsupportedModelError: The model is of no kind known here, or its training diverged.
    """
    if isinstance(model, str | os.PathLike):
        model = adapters.load(model)
    prefix, last = split_pipeline(model)
    if not isinstance(params or {}, Mapping):
        raise InputError(
            f"params takes names and values, e.g. {{'reg_lambda': 1}}, got {params!r}."
        )
    adapter = adapters.parse(last, dict(params or {}))
    if adapter.ensemble.n_trees == 0:
        raise InputError("The model has no trees, so no training row can have influenced it.")
    rows = unpack(adapter, X_train, y_train, sample_weight, "training")
    index = row_labels(X_train, y_train, n=len(rows.y))
    return tie(adapter, prefix, rows, index, allow_inexact=allow_inexact, progress=progress)


def tie(
    adapter: Adapter,
    prefix: Any,
    rows: GivenRows,
    index: pd.Index,
    *,
    allow_inexact: bool,
    progress: bool = False,
) -> TreeRun:
    """Ties a model to training rows that have been unpacked; errors as of `trace`.

    Args:
        adapter: The model.
        prefix: Fitted earlier steps of a Pipeline, or None.
        rows: The training rows.
        index: Their labels, shape (n_train,).
        allow_inexact: Accept a model whose leaves do not recompute.
        progress: Show a bar while many rows are read.
    """
    classes = adapter.classes
    if classes is not None and not adapter.knows_labels:
        classes = resolve_classes(classes, rows.y, adapter.takes_shares)
    target = encode_target(rows.y, classes, "training", adapter.n_targets)
    weights = rows.sample_weight
    weights = None if weights is None else check_weight(weights, len(target))
    leaves, offset = read_rows(
        adapter, prefix, rows.X, rows.offset, checked=True, progress=progress
    )
    weight = adapter.row_weights(target, weights)
    replay = _replay_or_reason(adapter, leaves, target, weight, rows.offset, offset)
    if isinstance(replay, Replay) and not allow_inexact:
        _check_leaves(replay)
    return TreeRun(
        adapter, prefix, rows.X, np.asarray(rows.y), weights, classes, target, weight, leaves,
        offset, rows.offset, index, replay,
    )  # fmt: skip


def _replay_or_reason(
    adapter: Adapter,
    leaves: NDArray[np.integer],
    target: Floats,
    weight: Floats,
    given_offset: Floats | None,
    offset: Floats,
) -> Replay | UnsupportedModelError:
    """The replay, or why there is none: kept, since other methods can still answer."""
    try:
        recipe: LeafRecipe = adapter.recipe(leaves, target, weight, given_offset)
        return replay_boosting(adapter.ensemble, recipe, leaves, target, weight, offset)
    except UnsupportedModelError as reason:
        return type(reason)(f"{reason}{_still_answering(adapter)}")


def _still_answering(adapter: Adapter) -> str:
    """The methods that need no leaf formula, as the end of a message."""
    if adapter.n_targets not in (1, adapter.ensemble.n_outputs):
        return ""  # intervals of survival times
    try:
        adapter.loss()
    except UnsupportedModelError:
        return " TreeSim still answers."
    return " TreeSim and retraining (tree_influence.retrainer) still answer."


def _check_leaves(replay: Replay) -> None:
    """Refuses leaves that differ by more than the model's own settings explain."""
    error, because = replay.error, ", ".join(replay.recipe.inexact_because)
    if error.median <= INEXACT and (because or error.largest <= UNEXPLAINED):
        return
    likely = (
        f"The model was trained with {because}, which the leaf formula leaves out."
        if because
        else "Nothing in the model explains that, so these are probably not the rows it was "
        "trained on (values, labels, order), sample_weight is missing, or scores "
        "to start from (init_score, base_margin, baseline: pass the Dataset, DMatrix or Pool)."
    )
    raise TrainingDataError(
        "Expected the leaf values to recompute from the training rows, but they differ: "
        f"{error}. {likely} trace(..., allow_inexact=True), or --allow-inexact on the command "
        "line, answers all the same and states the error."
    )


def split_pipeline(model: Any) -> tuple[Any, Any]:
    """The fitted earlier steps of a Pipeline (None if there are none) and its last step.

    A last step that is a Pipeline itself is split as well.
    """
    pipeline = sys.modules.get("sklearn.pipeline")
    steps: list[tuple[str, Any]] = []
    while pipeline is not None and isinstance(model, pipeline.Pipeline):
        steps += [(str(i), step) for i, (_, step) in enumerate(model.steps[:-1], len(steps))]
        model = model[-1]
    return (pipeline.Pipeline(steps) if pipeline is not None and steps else None), model


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
