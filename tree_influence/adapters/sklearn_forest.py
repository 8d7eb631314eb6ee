"""RandomForest* and ExtraTrees*, classifiers and regressors."""

from collections.abc import Mapping
from typing import Any, Never, Self, final

import numpy as np
import sklearn
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.utils import compute_sample_weight

from influence.errors import UnsupportedModelError
from tree_influence.adapters.base import Adapter, GivenRows
from tree_influence.adapters.columns import check_all_classes
from tree_influence.adapters.sklearn_common import exact_tree, float32_matrix, fresh, named
from tree_influence.ensemble import TreeEnsemble, stack
from tree_influence.losses import AbsoluteError, LogProbability, Loss, SquaredError

Floats = NDArray[np.float64]


@final
class Forest(Adapter):
    """scikit-learn's forests.

    The raw score is the mean of the trees' leaves: values, or the probability of each class (two
    outputs for two classes). Leaves are averages of targets over rows drawn for each tree, not
    steps of a boosting, so no formula follows a row through them; `recipe` refuses.

    Classes are judged by their log probability. Values are judged by squared error whatever chose
    the splits, but for criterion='absolute_error', whose leaves are medians, by absolute error.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.library = f"scikit-learn {sklearn.__version__}"
        self.classes = _classes(model)
        self.n_targets = 1 if self.classes is not None else model.n_outputs_
        names = getattr(model, "feature_names_in_", None)
        self.feature_names = None if names is None else list(names)
        self.ensemble = _ensemble(model)
        # The rule differs between versions; the library asks its first tree too.
        self._takes_missing = model.estimators_[0]._support_missing_values(np.zeros((1, 1)))

    def features(self, X: Any) -> NDArray[np.float32]:
        """A float32 matrix, shape (n_rows, n_features)."""
        return float32_matrix(
            X,
            self.feature_names,
            self.ensemble.n_features,
            takes_missing=self._takes_missing,
        )

    def leaves(self, features: NDArray[np.float32]) -> NDArray[np.integer]:
        return self.ensemble.leaves(features)

    def offset(self, features: NDArray[np.float32]) -> Floats:
        return np.zeros((len(features), self.ensemble.n_outputs))

    def library_raw(self, features: NDArray[np.float32]) -> Floats:
        model, rows = self._model, named(features, self.feature_names)
        found = model.predict(rows) if self.classes is None else model.predict_proba(rows)
        return np.asarray(found, dtype=np.float64).reshape(len(features), -1)

    def library_leaves(self, features: NDArray[np.float32]) -> NDArray[np.integer]:
        return self._model.apply(named(features, self.feature_names)).astype(np.int64)

    def row_weights(self, target: Floats, sample_weight: Floats | None) -> Floats:
        """Sample weights times class weights, those of 'balanced_subsample' excepted.

        They and the number of times a row was drawn differ from tree to tree.
        """
        weight = np.ones(len(target)) if sample_weight is None else sample_weight.copy()
        class_weight = getattr(self._model, "class_weight", None)
        if class_weight == "balanced_subsample":
            class_weight = None if self._model.bootstrap else "balanced"
        if self.classes is not None and class_weight is not None:
            labels = self.classes[target.astype(np.int64)]
            weight *= compute_sample_weight(class_weight, labels)
        return weight

    def unpack(self, container: Any) -> GivenRows | None:
        return None

    def loss(self) -> Loss:
        if self.classes is not None:
            return LogProbability()
        return AbsoluteError() if self._model.criterion == "absolute_error" else SquaredError()

    def response(self, raw: Floats) -> Floats:
        return raw

    def recipe(
        self,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
        offset: Floats | None = None,
    ) -> Never:
        raise UnsupportedModelError(
            f"Expected boosted trees, whose leaves are Newton steps, got a "
            f"{type(self._model).__name__}, whose leaves are averages over rows drawn for each "
            "tree; no leaf formula applies."
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
        return type(self)(self.unfitted().fit(rows, y, sample_weight))

    def unfitted(self) -> Any:
        return fresh(self._model, {"n_estimators": self.ensemble.n_trees, "oob_score": False})

    def refit_settings(self) -> Mapping[str, Any]:
        return self.unfitted().get_params()


def _classes(model: Any) -> NDArray[np.generic] | None:
    """Labels in the order of the outputs; None for regression.

    Raises:
        UnsupportedModelError: Several targets of classes, or a single class.
    """
    if not is_classifier(model):
        return None
    if model.n_outputs_ > 1:
        raise UnsupportedModelError(
            f"Expected one target of classes, got a {type(model).__name__} fitted on "
            f"{model.n_outputs_}; fit one forest for each."
        )
    if len(model.classes_) < 2:
        raise UnsupportedModelError(
            f"Expected a classifier of at least two classes, got one fitted on the label "
            f"{model.classes_[0]!r} alone."
        )
    return model.classes_


def _ensemble(model: Any) -> TreeEnsemble:
    trees = []
    for fitted in model.estimators_:
        tree = fitted.tree_
        # (n_all, n_targets, 1) for values, (n_all, 1, n_classes) for classes
        value = tree.value.reshape(len(tree.value), -1) / len(model.estimators_)
        if is_classifier(model):
            # Multiples of 2^-52 up to 1 add without rounding: classes that are equally likely
            # stay so, and the first of them is predicted, as by the library.
            value = np.round(value * 2.0**52) / 2.0**52
        trees.append(exact_tree(tree, value, model.n_features_in_))
    return stack(
        trees,
        bias=np.zeros(trees[0].leaf_value.shape[1]),
        n_features=model.n_features_in_,
        compares_float32=True,
    )
