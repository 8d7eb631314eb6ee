"""GradientBoostingClassifier and GradientBoostingRegressor."""

from collections.abc import Mapping
from typing import Any, Self, final

import numpy as np
import sklearn
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.dummy import DummyClassifier, DummyRegressor

from influence.errors import StorageError, UnsupportedModelError
from tree_influence.adapters.base import Adapter, GivenRows, LeafRecipe
from tree_influence.adapters.columns import check_all_classes
from tree_influence.adapters.sklearn_common import (
    exact_tree,
    float32_matrix,
    fresh,
    held_out_rows,
    is_repeatable,
    named,
    with_newton_leaves,
)
from tree_influence.ensemble import TreeEnsemble, stack
from tree_influence.losses import (
    AbsoluteError,
    Exponential,
    Huber,
    Logistic,
    Loss,
    Quantile,
    Softmax,
    SquaredError,
)

Floats = NDArray[np.float64]


@final
class GradientBoosting(Adapter):
    """scikit-learn's GradientBoosting.

    The raw score is the initial prediction + sum of learning_rate * leaf value. Rows are compared
    as float32 with float64 thresholds. With r = y - p, a leaf is sum(w r) / sum(w p(1-p)) for two
    classes, (K-1)/K times that for K, the mean of r for squared error, and with s = 1 - 2y
    sum(-w s exp(s F)) / sum(w exp(s F)) for the exponential loss; no l2.

    An initial estimator of the user's (`init`) is the rows' `offset`. Influence holds it fixed:
    what a row does to the initial estimator itself is left out; retraining fits it again.

    The huber loss chooses its delta anew each round, as a quantile of the residuals. Predictions
    are judged by the delta of the last round, models trained again by that of the model explained.
    """

    def __init__(self, model: Any, huber_delta: float | None = None) -> None:
        self._model = model
        if huber_delta is None:
            huber_delta = float(model._loss.closs.delta) if model.loss == "huber" else np.nan
        self._huber_delta = huber_delta
        self.library = f"scikit-learn {sklearn.__version__}"
        self.classes = model.classes_ if is_classifier(model) else None
        names = getattr(model, "feature_names_in_", None)
        self.feature_names = None if names is None else list(names)
        self.ensemble = _ensemble(model)
        start = model.init_
        self.starts_at_average = isinstance(start, DummyRegressor) and start.strategy == "mean"

    def features(self, X: Any) -> NDArray[np.float32]:
        """A float32 matrix, shape (n_rows, n_features)."""
        return float32_matrix(X, self.feature_names, self.ensemble.n_features, takes_missing=False)

    def leaves(self, features: NDArray[np.float32]) -> NDArray[np.integer]:
        return self.ensemble.leaves(features)

    def offset(self, features: NDArray[np.float32]) -> Floats:
        if _starts_constant(self._model):
            return np.zeros((len(features), self.ensemble.n_outputs))
        return self._model._raw_predict_init(features)

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

    def unpack(self, container: Any) -> GivenRows | None:
        return None

    def loss(self) -> Loss:
        model, k = self._model, self.ensemble.n_outputs
        losses: dict[str, Loss] = {
            "squared_error": SquaredError(),
            "log_loss": Softmax(k / (k - 1)) if k > 1 else Logistic(),
            "exponential": Exponential(),
            "absolute_error": AbsoluteError(),
            "quantile": Quantile(model.alpha),
            "huber": Huber(self._huber_delta),
        }
        return losses[model.loss]

    def response(self, raw: Floats) -> Floats:
        return raw

    def recipe(
        self,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
        offset: Floats | None = None,
    ) -> LeafRecipe:
        model, n_trees = self._model, self.ensemble.n_trees
        reasons = {
            f"subsample={model.subsample}": model.subsample < 1.0,
            "n_iter_no_change without an integer random_state": model.n_iter_no_change is not None
            and not is_repeatable(model.random_state),
        }
        return LeafRecipe(
            loss=with_newton_leaves(self.loss(), model.loss),
            learning_rate=np.full(n_trees, float(model.learning_rate)),
            l2=np.zeros(len(self.ensemble.leaf_value)),
            start=self.ensemble.bias,
            folded=np.zeros(n_trees),
            inexact_because=tuple(reason for reason, holds in reasons.items() if holds),
        )

    def refit(
        self,
        X: Any,
        y: NDArray[np.generic],
        sample_weight: Floats | None,
        offset: Floats | None = None,
    ) -> Self:
        check_all_classes(y, self.classes)
        rows = X if issparse(X) else named(self.features(X), self.feature_names)
        return type(self)(self.unfitted().fit(rows, y, sample_weight), self._huber_delta)

    def unfitted(self) -> Any:
        rounds = {"n_estimators": self.ensemble.n_rounds, "n_iter_no_change": None}
        return fresh(self._model, rounds)

    def refit_settings(self) -> Mapping[str, Any]:
        return self.unfitted().get_params()


def _ensemble(model: Any) -> TreeEnsemble:
    if model.n_trees_per_iteration_ != model.estimators_.shape[1]:
        raise StorageError(
            f"The model is damaged: it tells of {model.n_trees_per_iteration_} trees a round and "
            f"holds {model.estimators_.shape[1]}. Do not use the file it came from."
        )
    rate, n_features = float(model.learning_rate), model.n_features_in_
    return stack(
        [
            exact_tree(fitted.tree_, rate * fitted.tree_.value[:, 0, :], n_features)
            for fitted in model.estimators_.ravel()
        ],
        bias=_constant_start(model),
        n_features=n_features,
        compares_float32=True,
    )


def _constant_start(model: Any) -> Floats:
    """Raw score before the first tree, shape (n_outputs,); 0 if it differs between rows."""
    if not _starts_constant(model):
        return np.zeros(model.estimators_.shape[1])
    return model._raw_predict_init(np.zeros((1, model.n_features_in_), dtype=np.float32))[0]


def _starts_constant(model: Any) -> bool:
    """Whether all rows start from the same score.

    Raises:
        UnsupportedModelError: Each prediction draws the start anew.
    """
    start = model.init_
    if isinstance(start, DummyClassifier) and start.strategy == "stratified":
        raise UnsupportedModelError(
            "Expected an initial estimator whose predictions stay the same, got "
            "init=DummyClassifier(strategy='stratified'), which draws them at random; use "
            "strategy='prior' or init=None."
        )
    return isinstance(start, str | DummyClassifier | DummyRegressor)
