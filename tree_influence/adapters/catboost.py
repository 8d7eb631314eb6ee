"""CatBoost: estimators, `CatBoost` objects, and .cbm and .json files.

Leaves: float32(x) > float32(border) sets a bit, and the bits are the leaf's number. Models of
symmetric trees on numbers are read as splits. Trees on categories, text or embeddings, and those
grown depthwise or lossguide, are known by their leaves only: the library finds the leaf of a row.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, final

import catboost
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from influence.errors import (
    InputError,
    NotFittedError,
    StorageError,
    UnsupportedModelError,
)
from tree_influence.adapters.base import Adapter, GivenRows, LeafRecipe
from tree_influence.adapters.catboost_losses import (
    LABELLED,
    SHARED,
    judging_loss,
    loss_name,
    n_targets,
    response,
)
from tree_influence.adapters.catboost_parameters import (
    check_given,
    refit_parameters,
    rows_trained_on,
    stored_parameters,
)
from tree_influence.adapters.catboost_pools import (
    baseline_of,
    changed_pool,
    check_pool,
    unpack_pool,
)
from tree_influence.adapters.catboost_recipe import Trained
from tree_influence.adapters.catboost_tables import categories, numbers, table_of
from tree_influence.adapters.catboost_trees import exported_model, read_trees
from tree_influence.adapters.columns import check_all_classes, check_count, check_names
from tree_influence.losses import Loss

Floats = NDArray[np.float64]


def load(path: str | os.PathLike[str]) -> catboost.CatBoost:
    """Loads a .cbm or .json file; which of the two is read off its first bytes."""
    try:
        content = Path(path).read_bytes()
        kind = "cbm" if content.startswith(b"CBM1") else "json"
        if kind == "json" and "features_info" not in json.loads(content):  # CatBoost reads on
            raise ValueError("it has no features_info")
        return catboost.CatBoost().load_model(str(path), format=kind)
    except (OSError, ValueError, catboost.CatBoostError) as error:
        raise StorageError(f"Expected a CatBoost model (.cbm, .json) in {path}: {error}") from error


def parse(model: Any, params: dict[str, Any]) -> "CatBoostAdapter":
    """Reads a fitted CatBoost model.

    Args:
        model: CatBoost, CatBoostClassifier or CatBoostRegressor.
        params: Training parameters by CatBoost's own names, for a model that has lost them.
    """
    if not isinstance(model, catboost.CatBoost):
        raise UnsupportedModelError(
            f"Expected a CatBoost model, got a {type(model).__qualname__}; pass the fitted model."
        )
    if not model.is_fitted():
        raise NotFittedError(f"This {type(model).__name__} is not fitted; call fit(X, y) first.")
    check_given(params)
    return CatBoostAdapter(model, {**stored_parameters(model), **params})


@final
class CatBoostAdapter(Adapter):
    """A fitted CatBoost model."""

    def __init__(self, model: catboost.CatBoost, parameters: dict[str, Any]) -> None:
        self._model = model
        self._parameters = parameters
        self._columns: dict[str, list[int]] = {
            "cat_features": list(model.get_cat_feature_indices()),
            "text_features": list(model.get_text_feature_indices()),
            "embedding_features": list(model.get_embedding_feature_indices()),
        }
        categorical, *estimated = self._columns.values()
        exported = {} if any(estimated) else exported_model(model)
        self.symmetric = (
            "oblivious_trees" in exported
            if exported
            else parameters.get("grow_policy", "SymmetricTree") == "SymmetricTree"
        )
        self.categorical = tuple(categorical)
        self.unordered = tuple(column for columns in estimated for column in columns)
        self._has_splits = "oblivious_trees" in exported and not categorical
        names: list[str] = list(model.feature_names_ or ())
        self.library = f"catboost {catboost.__version__}"
        self.feature_names = None if names == [str(i) for i in range(len(names))] else names
        self.ensemble = read_trees(model, exported if self._has_splits else None, len(names))
        self.classes = self._read_classes()
        self.n_targets = n_targets(parameters, self.ensemble.n_outputs)
        if self.classes is not None and self.ensemble.n_outputs == 1:
            self.border = float(logit(_probability_threshold(model)))
        self.starts_at_average = bool(parameters.get("boost_from_average"))
        self._trained = Trained(
            parameters=parameters,
            ensemble=self.ensemble,
            scale=model.get_scale_and_bias()[0],
            has_ctrs=bool(exported.get("features_info", {}).get("ctrs")),
            has_estimated=any(estimated),
        )

    def features(self, X: Any) -> Any:
        if isinstance(X, pd.DataFrame):
            self._check_order(X)
        table = X if isinstance(X, pd.DataFrame | catboost.Pool) else table_of(X)
        check_count(table.shape[1], self.ensemble.n_features)
        if isinstance(table, catboost.Pool):
            check_pool(table, self._columns, self.feature_names)
            return table
        if not any(self._columns.values()):
            return numbers(table)
        table = table.copy(deep=False)
        for place in self._columns["cat_features"]:
            table.isetitem(place, categories(table.iloc[:, place]))
        self._pool(table)  # refuses what the library refuses
        return table

    def _check_order(self, table: pd.DataFrame) -> None:
        """Refuses the model's own columns in another order; 0, 1, ... are names, too."""
        own, given = list(self._model.feature_names_ or ()), [str(name) for name in table.columns]
        if self.feature_names is not None or sorted(own) == sorted(given):
            check_count(len(given), len(own))
            check_names(given, own)

    def leaves(self, features: Any) -> NDArray[np.integer]:
        if self._has_splits and not isinstance(features, catboost.Pool):
            return self.ensemble.leaves(features)
        return self.library_leaves(features).T.astype(self.ensemble.leaf_dtype, order="C")

    def library_raw(self, features: Any) -> Floats:
        raw = catboost.CatBoost.predict(  # rankers have a predict of their own
            self._model, self._pool(features), prediction_type="RawFormulaVal"
        )
        raw = np.asarray(raw, dtype=np.float64).reshape(features.shape[0], -1)
        return raw - baseline_of(features, self.ensemble.n_outputs)

    def library_leaves(self, features: Any) -> NDArray[np.integer]:
        return self._model.calc_leaf_indexes(self._pool(features))

    def row_weights(self, target: Floats, sample_weight: Floats | None) -> Floats:
        given = np.ones(len(target)) if sample_weight is None else sample_weight
        weight = given.astype(np.float32)
        by_class = self._parameters.get("class_weights")  # scale_pos_weight, "Balanced": too
        border = self._parameters.get("target_border")
        if by_class and (self.classes is not None or border is not None):
            of = target if border is None else target.astype(np.float32) > np.float32(border)
            weight *= np.asarray(by_class, dtype=np.float32)[of.astype(np.int64)]
        return weight.astype(np.float64) * self._trained_on(target)

    def offset(self, features: Any) -> Floats:
        return np.zeros((features.shape[0], self.ensemble.n_outputs))

    def unpack(self, container: Any) -> GivenRows | None:
        if not isinstance(container, catboost.Pool):
            return None
        return unpack_pool(container, self.ensemble.n_outputs)

    def loss(self) -> Loss:
        return judging_loss(self._parameters)

    def response(self, raw: Floats) -> Floats:
        return response(self._parameters, raw)

    def recipe(
        self,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
        offset: Floats | None = None,
    ) -> LeafRecipe:
        return self._trained.recipe(leaves, target, weight, self._trained_on(target), offset)

    def refit(
        self,
        X: Any,
        y: NDArray[np.generic],
        sample_weight: Floats | None,
        offset: Floats | None = None,
    ) -> Self:
        check_all_classes(y, self.classes)
        features = self.features(X)
        if isinstance(features, catboost.Pool):
            pool = changed_pool(features, y, sample_weight, offset)
        else:
            pool = self._pool(features, label=y, weight=sample_weight, baseline=offset)
        model = self.unfitted().fit(pool)
        return type(self)(model, stored_parameters(model))

    def unfitted(self) -> Any:
        parameters = refit_parameters(self._parameters, self.ensemble.n_trees, self.classes)
        parameters["thread_count"] = self._model.get_params().get("thread_count", -1)
        return catboost.CatBoost(parameters)

    def refit_settings(self) -> Mapping[str, Any]:
        return self.unfitted().get_params()

    def _trained_on(self, target: Floats) -> NDArray[np.bool_]:
        """Which rows were not held out by eval_fraction, shape (n_rows,)."""
        label = target if self.classes is None else self.classes[target.astype(np.int64)]
        is_classifier = isinstance(self._model, catboost.CatBoostClassifier)
        stratified = is_classifier or loss_name(self._parameters) in LABELLED | SHARED
        return rows_trained_on(self._parameters, label, stratified)

    def _pool(
        self,
        features: Any,
        label: ArrayLike | None = None,
        weight: Floats | None = None,
        baseline: Floats | None = None,
    ) -> catboost.Pool:
        if isinstance(features, catboost.Pool):
            return features
        try:
            return catboost.Pool(
                features,
                label,
                cat_features=self._columns["cat_features"] or None,
                text_features=self._columns["text_features"] or None,
                embedding_features=self._columns["embedding_features"] or None,
                weight=weight,
                baseline=baseline,
                feature_names=self.feature_names,
            )
        except (catboost.CatBoostError, TypeError) as error:
            raise InputError(
                f"Expected rows in the form the model was trained on, but {self.library} refuses "
                f"them: {error}"
            ) from error

    def _read_classes(self) -> NDArray[np.generic] | None:
        """Labels in the order of the outputs, or None where the target is a number."""
        loss, border = loss_name(self._parameters), self._parameters.get("target_border")
        if border is not None or (loss is not None and loss not in LABELLED):
            return None
        labels = np.asarray(self._model.classes_)
        if labels.size == 0:
            return None
        if labels.size != max(2, self.ensemble.n_outputs):
            raise UnsupportedModelError(
                "Expected training rows of two classes or more, and of each class the model names, "
                f"got {labels.tolist()[:10]} for {self.ensemble.n_outputs} outputs; leave classes "
                "without rows out of class_names and classes_count."
            )
        return labels


def _probability_threshold(model: catboost.CatBoost) -> float:
    """Where predict cuts the probability of the second class (set_probability_threshold)."""
    held = model.get_metadata()
    key = "binclass_probability_threshold"
    return float(held[key]) if key in list(held) else 0.5
