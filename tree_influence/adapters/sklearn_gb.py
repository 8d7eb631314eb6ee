"""GradientBoostingClassifier and GradientBoostingRegressor."""

from typing import Any, Self, final

import numpy as np
import pandas as pd
import sklearn
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.dummy import DummyClassifier, DummyRegressor

from influence.errors import InputError, NotYetSupportedError
from tree_influence.adapters.base import Adapter, DataSet, LeafRecipe
from tree_influence.adapters.columns import check_all_classes
from tree_influence.adapters.sklearn_common import (
    checked_table,
    held_out_rows,
    inner_and_leaf_numbers,
    is_repeatable,
    loss_named,
    numeric_column,
)
from tree_influence.ensemble import MISSING_RIGHT, Tree, TreeEnsemble, stack
from tree_influence.losses import TrainingLoss

Floats = NDArray[np.float64]


@final
class GradientBoosting(Adapter):
    """scikit-learn's GradientBoosting.

    The raw score is the constant initial prediction + sum of learning_rate * leaf value. Rows are
    compared as float32 with float64 thresholds. With r = y - p, a leaf is sum(w r) / sum(w p(1-p))
    for two classes, (K-1)/K times that for K, and the mean of r for squared error; no l2.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.library = f"scikit-learn {sklearn.__version__}"
        self.classes = model.classes_ if is_classifier(model) else None
        names = getattr(model, "feature_names_in_", None)
        self.feature_names = None if names is None else list(names)
        self.ensemble = _ensemble(model)

    def features(self, X: Any) -> NDArray[np.float32]:
        """A float32 matrix, shape (n_rows, n_features)."""
        table = checked_table(X, self.feature_names, self.ensemble.n_features)
        matrix = np.empty(table.shape, dtype=np.float32)
        with np.errstate(over="ignore"):
            for j in range(table.shape[1]):
                matrix[:, j] = numeric_column(table.iloc[:, j])
        if not np.isfinite(matrix).all():
            row, j = np.argwhere(~np.isfinite(matrix))[0]
            raise InputError(
                f"GradientBoosting takes finite numbers in the range of float32, but row {row} "
                f"has {table.iloc[row, j]} in column {table.columns[j]}; impute it as in "
                "training."
            )
        return matrix

    def leaves(self, features: NDArray[np.float32]) -> NDArray[np.integer]:
        return self.ensemble.leaves(features)

    def library_raw(self, features: NDArray[np.float32]) -> Floats:
        return self._model._raw_predict(features)

    def library_leaves(self, features: NDArray[np.float32]) -> NDArray[np.integer]:
        # (n_rows, n_rounds) for regressors, else (n_rows, n_rounds, n_outputs)
        return self._model.apply(features).reshape(len(features), -1).astype(np.int64)

    def row_weights(self, target: Floats, sample_weight: Floats | None) -> Floats:
        n_rows, model = len(target), self._model
        weight = np.ones(n_rows) if sample_weight is None else sample_weight.copy()
        if model.n_iter_no_change is not None and is_repeatable(model.random_state):
            stratify = None if self.classes is None else target
            weight[
                held_out_rows(n_rows, model.validation_fraction, stratify, model.random_state)
            ] = 0.0
        return weight

    def offset(self, features: NDArray[np.float32]) -> Floats:
        return np.zeros((len(features), self.ensemble.n_outputs))

    def unpack(self, container: Any) -> DataSet | None:
        return None

    def loss(self) -> TrainingLoss:
        k = self.ensemble.n_outputs
        return loss_named(self._model.loss, k, hessian_scale=k / (k - 1) if k > 1 else 1.0)

    def recipe(
        self,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
        offset: Floats | None = None,
    ) -> LeafRecipe:
        model, n_trees = self._model, self.ensemble.n_trees
        inexact = []
        if model.subsample < 1.0:
            inexact.append(f"subsample={model.subsample}")
        if model.n_iter_no_change is not None and not is_repeatable(model.random_state):
            inexact.append("n_iter_no_change without an integer random_state")
        return LeafRecipe(
            loss=self.loss(),
            learning_rate=np.full(n_trees, float(model.learning_rate)),
            l2=np.zeros(len(self.ensemble.leaf_value)),
            start=self.ensemble.bias,
            folded=np.zeros(n_trees),
            inexact_because=tuple(inexact),
        )

    def refit(
        self,
        X: Any,
        y: NDArray[np.generic],
        sample_weight: Floats | None,
        offset: Floats | None = None,
    ) -> Self:
        check_all_classes(y, self.classes)
        features = self.features(X)
        model: Any = clone(self._model)
        model.set_params(
            n_estimators=self.ensemble.n_rounds, n_iter_no_change=None, warm_start=False
        )
        named = pd.DataFrame(features, columns=self.feature_names)
        model.fit(features if self.feature_names is None else named, y, sample_weight)
        return type(self)(model)


def _ensemble(model: Any) -> TreeEnsemble:
    rate, n_features = float(model.learning_rate), model.n_features_in_
    return stack(
        [_tree(fitted.tree_, rate, n_features) for fitted in model.estimators_.ravel()],
        bias=_constant_start(model),
        n_features=n_features,
        compares_float32=True,
    )


def _tree(tree: Any, rate: float, n_features: int) -> Tree:
    is_leaf = tree.children_left == -1
    inner, left, right = inner_and_leaf_numbers(
        tree.children_left, tree.children_right, tree.feature, is_leaf, n_features
    )
    return Tree(
        feature=tree.feature[inner],
        threshold=tree.threshold[inner],
        left=left,
        right=right,
        missing=np.full(len(inner), MISSING_RIGHT),  # the library takes no missing values
        leaf_value=rate * tree.value[is_leaf, 0, :],
        leaf_label=np.flatnonzero(is_leaf),
    )


def _constant_start(model: Any) -> Floats:
    """Raw score before the first tree, shape (n_outputs,)."""
    start = model.init_
    constant = isinstance(start, str) or (
        isinstance(start, DummyClassifier | DummyRegressor) and start.strategy != "stratified"
    )
    if not constant:
        raise NotYetSupportedError(
            "Expected a constant initial prediction (init=None or 'zero'), got "
            f"init={type(start).__name__}(): no code carries another model's share yet."
        )
    return model._raw_predict_init(np.zeros((1, model.n_features_in_), dtype=np.float32))[0]
