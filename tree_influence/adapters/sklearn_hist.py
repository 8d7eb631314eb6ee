"""HistGradientBoostingClassifier and HistGradientBoostingRegressor."""

import copy
from collections.abc import Mapping
from typing import Any, Self, final

import numpy as np
import pandas as pd
import sklearn
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

from influence.errors import InputError, StorageError, TrainingDataError, UnsupportedModelError
from tree_influence.adapters.base import Adapter, GivenRows, LeafRecipe
from tree_influence.adapters.columns import check_all_classes
from tree_influence.adapters.sklearn_common import (
    checked_table,
    fresh,
    held_out_rows,
    inner_and_leaf_numbers,
    numeric_column,
    plain_numbers,
    with_newton_leaves,
)
from tree_influence.ensemble import MISSING_LEFT, MISSING_RIGHT, Tree, TreeEnsemble, stack
from tree_influence.losses import (
    AbsoluteError,
    Logistic,
    Loss,
    Quantile,
    Softmax,
    SquaredError,
)
from tree_influence.losses_positive import Gamma, Poisson

Floats = NDArray[np.float64]


@final
class HistGradientBoosting(Adapter):
    """scikit-learn's HistGradientBoosting.

    The raw score is the baseline + sum of leaf values, which hold the learning rate. With
    categorical features the library reorders the columns, categorical ones first, and replaces
    categories by their positions in the sorted categories of the training rows, unknown ones by
    NaN; `features` gives that matrix, and `ensemble.feature` counts its columns. Gradients are
    float32, so leaves recompute to about 1e-6.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.library = f"scikit-learn {sklearn.__version__}"
        self.classes = model.classes_ if is_classifier(model) else None
        names = getattr(model, "feature_names_in_", None)
        self.feature_names = None if names is None else list(names)
        if self.classes is not None and len(self.classes) < 2:
            raise UnsupportedModelError(
                f"Expected a classifier of at least two classes, got one fitted on the label "
                f"{self.classes[0]!r} alone."
            )
        self.ensemble = _ensemble(model)
        self.starts_at_average = True

    def features(self, X: Any) -> Floats:
        """The library's own matrix, categorical columns first, shape (n_rows, n_features)."""
        table = self._table(X)
        try:
            return self._model._preprocess_X(table, reset=False)
        except ValueError as error:
            raise InputError(
                f"Expected rows that scikit-learn takes, but it refuses these: {error}. Give the "
                "columns the values they had in training."
            ) from error

    def leaves(self, features: Floats) -> NDArray[np.integer]:
        return self.ensemble.leaves(features)

    def library_raw(self, features: Floats) -> Floats:
        # The second half of `_raw_predict`; `features` was the first.
        model = self._model
        raw = np.zeros((len(features), self.ensemble.n_outputs), order="F")
        raw += model._baseline_prediction
        threads = _openmp_effective_n_threads()
        model._predict_iterations(features, model._predictors, raw, False, threads)
        return raw

    def library_leaves(self, features: Floats) -> NDArray[np.integer]:
        """Node numbers from the library's own traversal, of trees whose values are node numbers."""
        known, columns = self._model._bin_mapper.make_known_categories_bitsets()
        threads = _openmp_effective_n_threads()
        labels = np.empty((len(features), self.ensemble.n_trees), dtype=np.int64)
        for t, predictor in enumerate(_predictors(self._model)):
            numbered = copy.copy(predictor)
            numbered.nodes = predictor.nodes.copy()
            numbered.nodes["value"] = np.arange(len(predictor.nodes))
            labels[:, t] = numbered.predict(features, known, columns, threads)
        return labels

    def row_weights(self, target: Floats, sample_weight: Floats | None) -> Floats:
        # The library's own rule: a dict of class weights is looked up by encoded labels.
        weighted = self._model._finalize_sample_weight(sample_weight, target)
        weight = np.ones(len(target)) if weighted is None else np.array(weighted)
        weight[self._held_out(len(target), target)] = 0.0
        return weight

    def _held_out(self, n_rows: int, target: Floats) -> NDArray[np.intp]:
        """Rows not trained on; none if fit was given validation rows of their own."""
        model = self._model
        n_fitted = int(next(_predictors(model)).nodes["count"][0])
        if n_fitted == n_rows or not (model.do_early_stopping_ and model._use_validation_data):
            return np.zeros(0, dtype=np.intp)
        stratify = None if self.classes is None else target
        rows = held_out_rows(n_rows, model.validation_fraction, stratify, model._random_seed)
        if n_rows - len(rows) != n_fitted:
            raise TrainingDataError(
                f"Expected the rows given to fit, of which {n_fitted} were trained on and the "
                f"others held out to stop early, got {n_rows} rows, which would leave "
                f"{n_rows - len(rows)}; pass all rows, in the order of fit."
            )
        return rows

    def offset(self, features: Floats) -> Floats:
        return np.zeros((len(features), self.ensemble.n_outputs))

    def unpack(self, container: Any) -> GivenRows | None:
        return None

    def loss(self) -> Loss:
        model = self._model
        losses: dict[str, Loss] = {
            "squared_error": SquaredError(),
            "log_loss": Softmax() if self.ensemble.n_outputs > 1 else Logistic(),
            "poisson": Poisson(),
            "gamma": Gamma(),
            "absolute_error": AbsoluteError(),
            "quantile": Quantile(getattr(model, "quantile", None) or 0.5),
        }
        if not isinstance(model.loss, str):
            raise UnsupportedModelError(
                f"Expected a loss that scikit-learn names ({', '.join(losses)}), got "
                f"loss={type(model.loss).__name__}(), of which nothing more is known; fit with "
                "one of the names."
            )
        return losses[model.loss]

    def response(self, raw: Floats) -> Floats:
        return np.exp(raw) if self._model.loss in ("poisson", "gamma") else raw

    def recipe(
        self,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
        offset: Floats | None = None,
    ) -> LeafRecipe:
        model, ensemble = self._model, self.ensemble
        reasons = {
            "monotonic_cst": _has_monotonic_bounds(model.monotonic_cst),
            "a categorical feature of one category and missing values, which scikit-learn sends "
            "elsewhere in prediction than in training": any(
                _predicts_unlike_training(predictor) for predictor in _predictors(model)
            ),
        }
        # A tree without a split has value 0 whatever its gradients: an infinite l2.
        l2 = np.where(ensemble.leaf_counts == 1, np.inf, float(model.l2_regularization))
        return LeafRecipe(
            loss=with_newton_leaves(self.loss(), model.loss),
            learning_rate=np.full(ensemble.n_trees, float(model.learning_rate)),
            l2=np.repeat(l2, ensemble.leaf_counts),
            start=ensemble.bias,
            folded=np.zeros(ensemble.n_trees),
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
        table, model = self._table(X), self._model
        if isinstance(model.categorical_features, str) and model.is_categorical_ is not None:
            # "from_dtype"
            kinds = {table.columns[j]: "category" for j in np.flatnonzero(model.is_categorical_)}
            table = table.astype(kinds)
        return type(self)(self.unfitted().fit(table, y, sample_weight))

    def unfitted(self) -> Any:
        return fresh(self._model, {"max_iter": self.ensemble.n_rounds, "early_stopping": False})

    def refit_settings(self) -> Mapping[str, Any]:
        return self.unfitted().get_params()

    def _table(self, X: Any) -> pd.DataFrame:
        """Columns of the names and dtypes of training; float64, or categories by value."""
        if issparse(X):
            raise InputError(
                f"HistGradientBoosting takes no sparse matrix, got a {type(X).__name__}; pass "
                "X.toarray(), as in training."
            )
        table = checked_table(X, self.feature_names, self.ensemble.n_features)
        known = _known_categories(self._model)
        matrix = None if known else plain_numbers(table, np.float64)
        if matrix is not None:
            return pd.DataFrame(matrix, index=table.index, columns=table.columns, copy=False)
        columns = {
            j: _by_value(table.iloc[:, j], known[j])
            if j in known
            else numeric_column(table.iloc[:, j])
            for j in range(table.shape[1])
        }
        return pd.DataFrame(columns, index=table.index).set_axis(table.columns, axis=1)


def _predictors(model: Any) -> Any:
    """Trees round by round, output by output."""
    return (predictor for one_round in model._predictors for predictor in one_round)


def _ensemble(model: Any) -> TreeEnsemble:
    is_categorical = np.zeros(model._n_features, dtype=bool)  # in the library's column order
    if model._is_categorical_remapped is not None:
        is_categorical |= model._is_categorical_remapped
    return stack(
        [_tree(predictor, is_categorical) for predictor in _predictors(model)],
        bias=model._baseline_prediction.ravel(),
        n_features=model._n_features,
        compares_float32=False,
    )


def _tree(predictor: Any, is_categorical: NDArray[np.bool_]) -> Tree:
    nodes, bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
    is_leaf = nodes["is_leaf"].astype(bool)
    inner, left, right = inner_and_leaf_numbers(
        nodes["left"], nodes["right"], nodes["feature_idx"], is_leaf, len(is_categorical)
    )
    split = nodes[inner]
    by_category = np.flatnonzero(split["is_categorical"])
    sound = is_categorical[split["feature_idx"][by_category]].all()
    if not sound or (split["bitset_idx"][by_category] >= len(bitsets)).any():
        raise StorageError(
            "The model is damaged: a categorical split has no categories. Do not use the file it "
            "came from."
        )
    return Tree(
        feature=split["feature_idx"],
        threshold=split["num_threshold"],
        left=left,
        right=right,
        missing=np.where(split["missing_go_to_left"], MISSING_LEFT, MISSING_RIGHT),
        leaf_value=nodes["value"][is_leaf][:, None],
        leaf_label=np.flatnonzero(is_leaf),
        categories={int(v): _codes(bitsets[split["bitset_idx"][v]]) for v in by_category},
    )


def _codes(bitset: NDArray[np.uint32]) -> list[int]:
    """Categories in a bitset of 8 words."""
    codes = np.arange(32 * len(bitset), dtype=np.uint32)
    return np.flatnonzero(bitset[codes // 32] >> codes % 32 & 1).tolist()


def _predicts_unlike_training(predictor: Any) -> bool:
    """Whether a split of one category against missing values lost its category.

    scikit-learn takes such a split for one on missing values alone and stores no bitset. In
    training the category went where missing values did not.
    """
    nodes = predictor.nodes
    for v in np.flatnonzero((nodes["is_categorical"] == 1) & (nodes["num_threshold"] == np.inf)):
        category_left = 0 in _codes(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][v]])
        if category_left == bool(nodes["missing_go_to_left"][v]):
            return True
    return False


def _known_categories(model: Any) -> dict[int, NDArray[np.generic]]:
    """Sorted categories of each categorical column, by its place in the user's table."""
    if model._preprocessor is None:
        return {}
    encoder = model._preprocessor.named_transformers_["encoder"]
    places = np.flatnonzero(model.is_categorical_)
    return dict(zip(places.tolist(), encoder.categories_, strict=True))


def _by_value(column: pd.Series, known: NDArray[np.generic]) -> pd.Series:
    """A column in the type of the known categories, so that equal values are found equal.

    A table read from a file may hold integers where training had strings, or strings, integers
    or floats where training had integers. What is no known category counts as missing, as in the
    library.
    """
    values = column.astype(object)
    if known.dtype.kind in "biuf":
        return pd.Series(pd.to_numeric(values, errors="coerce"), dtype=np.float64)
    if not all(isinstance(category, str) for category in known if not pd.isna(category)):
        return values
    text = values.map(_text, na_action="ignore").astype(object)
    present = [value for value in values if not pd.isna(value)]
    if present and not isinstance(present[0], str) and not text.isin(known).any():
        raise InputError(
            f"Column {column.name!r} was trained with categories such as {known[0]!r}, got "
            f"{present[0]!r}; none is known. Give the values themselves, not codes."
        )
    return text


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _has_monotonic_bounds(constraints: Any) -> bool:
    if constraints is None:
        return False
    directions = constraints.values() if isinstance(constraints, dict) else constraints
    return any(direction != 0 for direction in directions)
