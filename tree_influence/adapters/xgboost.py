"""XGBoost: estimators, Boosters and saved files (.json, .ubj)."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray

from influence.errors import (
    InputError,
    MissingParameterError,
    NotFittedError,
    StorageError,
    UnsupportedModelError,
)
from tree_influence.adapters import columns
from tree_influence.adapters.base import Adapter, LeafRecipe
from tree_influence.adapters.xgboost_model import ModelJson, read
from tree_influence.adapters.xgboost_recipe import ALIASES, recipe
from tree_influence.ensemble import stack

Floats = NDArray[np.float64]

KNOWN_PARAMS = {
    "lambda", "eta", "alpha", "max_delta_step", "subsample", "monotone_constraints", "missing",
}  # fmt: skip


def load(path: str | os.PathLike[str]) -> xgboost.Booster:
    """Loads a saved model.

    Raises:
        StorageError: XGBoost cannot read the file.
    """
    try:
        return xgboost.Booster(model_file=bytearray(Path(path).read_bytes()))
    except xgboost.core.XGBoostError as error:
        reason = str(error).strip().splitlines()[-1]
        raise StorageError(
            f"XGBoost {xgboost.__version__} cannot read {path}: it is truncated or damaged "
            f"({reason})."
        ) from error


def parse(model: Any, params: Mapping[str, Any]) -> "XGBoostAdapter":
    """Reads a fitted estimator or Booster."""
    return XGBoostAdapter(model, params)


class XGBoostAdapter(Adapter):
    """A fitted XGBoost model.

    Features are a float32 matrix with categories as codes; XGBoost compares float32.
    """

    knows_labels = False

    def __init__(self, model: Any, params: Mapping[str, Any]) -> None:
        """Reads the model.

        Args:
            model: XGBModel or Booster.
            params: Training parameters a saved model does not hold.
        """
        self._booster, n_rounds = _booster(model)
        self._json: ModelJson = read(bytes(self._booster.save_raw("json")), n_rounds)
        self._model, self._params = model, params
        self._given = _given(params)
        self.library = f"xgboost {xgboost.__version__}"
        self.ensemble = stack(
            self._json.trees, self._json.bias, self._json.n_features, compares_float32=True
        )
        self.classes = None
        if self._json.objective.startswith(("binary:", "multi:")):
            self.classes = np.arange(max(2, self._json.n_outputs))
        self.feature_names = self._json.feature_names

    def features(self, X: Any) -> NDArray[np.float32]:
        names, n_features = self.feature_names, self._json.n_features
        if isinstance(X, pd.DataFrame):
            if names is not None:
                columns.check_names([str(name) for name in X.columns], names)
            columns.check_count(X.shape[1], n_features)
            table = np.column_stack([self._column(X, j) for j in range(n_features)])
        else:
            table = columns.matrix(X)
            columns.check_count(table.shape[1], n_features)
        missing = self._missing()
        if not np.isnan(missing):
            table[table == missing] = np.nan
        with np.errstate(over="ignore"):
            matrix = np.ascontiguousarray(table, dtype=np.float32)
        if np.isinf(matrix).any():
            row, column = np.argwhere(np.isinf(matrix))[0]
            raise InputError(
                f"XGBoost refuses infinite features (float32), but row {row} has one in column "
                f"{column if names is None else names[column]!r}."
            )
        return matrix

    def leaves(self, features: NDArray[np.float32]) -> NDArray[np.integer]:
        return self.ensemble.leaves(features)

    def library_raw(self, features: NDArray[np.float32]) -> Floats:
        raw = self._booster.predict(
            self._matrix(features), output_margin=True, iteration_range=self._range()
        )
        return np.asarray(raw, dtype=np.float64).reshape(len(features), -1)

    def library_leaves(self, features: NDArray[np.float32]) -> NDArray[np.integer]:
        leaves = self._booster.predict(
            self._matrix(features), pred_leaf=True, iteration_range=self._range()
        )
        leaves = np.asarray(leaves, dtype=np.int64).reshape(len(features), -1)
        return leaves[:, self._json.places]

    def row_weights(self, features: Any, target: Floats, sample_weight: Floats | None) -> Floats:
        weight = np.ones(len(target)) if sample_weight is None else sample_weight
        if self._json.objective.startswith("binary:"):
            return weight * np.where(target == 1, self._json.scale_pos_weight, 1.0)
        return weight

    def recipe(self, features: NDArray[np.float32], target: Floats, weight: Floats) -> LeafRecipe:
        leaves = self.leaves(features)
        told = _tree_params(self._booster)
        return recipe(self.ensemble, self._json, told, self._given, leaves, target, weight)

    def refit(self, X: Any, y: NDArray[np.generic], sample_weight: Floats | None) -> Self:
        features = self.features(X)
        if self.classes is not None:
            columns.check_all_classes(y, self.classes)
        if isinstance(self._model, xgboost.XGBModel):
            fitted = self._refit_estimator(features, y, sample_weight)
        else:
            fitted = self._refit_booster(features, y, sample_weight)
        again = type(self)(fitted, {"missing": self._missing()})
        again._json = replace(  # trained on codes, it does not know the user's columns
            again._json,
            feature_names=self._json.feature_names,
            feature_types=self._json.feature_types,
            categories=self._json.categories,
        )
        again.feature_names = self.feature_names
        return again

    def _column(self, X: pd.DataFrame, j: int) -> Floats:
        """One column as numbers, categories as the model's codes."""
        column, categories = X.iloc[:, j], self._json.categories[j]
        if categories is None:
            return columns.numbers(column)
        found = columns.codes(column, categories)
        if (found < 0).any():
            value = column.iloc[int(np.argmax(found < 0))]
            ascii_only = all(str(category).isascii() for category in categories)
            raise InputError(
                f"Column {column.name!r} holds {value!r}, a category unseen in training, which "
                f"XGBoost refuses; it knows {categories[:10]}."
                + ("" if ascii_only else " Models can hold names beyond ASCII cut short; then "
                   "pass an array with the codes of the categories.")
            )  # fmt: skip
        return found

    def _missing(self) -> float:
        if "missing" in self._given:
            return float(self._given["missing"])
        missing = self._model.missing if isinstance(self._model, xgboost.XGBModel) else None
        return float("nan") if missing is None else float(missing)

    def _matrix(
        self, features: NDArray[np.float32], y: Any = None, weight: Floats | None = None
    ) -> xgboost.DMatrix:
        return xgboost.DMatrix(
            features, y, weight=weight, feature_names=self._json.feature_names,
            feature_types=self._json.feature_types, enable_categorical=True,
        )  # fmt: skip

    def _range(self) -> tuple[int, int]:
        return 0, self.ensemble.n_rounds // self._json.n_parallel

    def _refit_estimator(
        self, features: NDArray[np.float32], y: NDArray[np.generic], weight: Floats | None
    ) -> Any:
        from sklearn.base import clone

        estimator: Any = clone(self._model)
        estimator.set_params(
            n_estimators=self._range()[1], early_stopping_rounds=None, callbacks=None,
            feature_types=self._json.feature_types, enable_categorical=True, missing=np.nan,
        )  # fmt: skip
        return estimator.fit(features, y, sample_weight=weight)

    def _refit_booster(
        self, features: NDArray[np.float32], y: NDArray[np.generic], weight: Floats | None
    ) -> xgboost.Booster:
        config = json.loads(self._booster.save_config())["learner"]
        told = _tree_params(self._booster)
        if _are_defaults(told) and not {"eta", "lambda"} <= set(self._given):
            raise MissingParameterError(
                "A Booster loaded from a file does not hold its training parameters, and this one "
                'reports defaults only: to train it again give params={"reg_lambda": ..., '
                '"learning_rate": ..., ...}, or use an estimator.'
            )
        given = {name: value for name, value in self._given.items() if name != "missing"}
        params = {
            **told, **given, "objective": self._json.objective,
            "seed": config["generic_param"]["seed"],
        }  # fmt: skip
        if self._json.scale_pos_weight != 1:
            params["scale_pos_weight"] = self._json.scale_pos_weight
        if self._json.n_outputs > 1:
            params["num_class"] = self._json.n_outputs
        if config["learner_model_param"].get("boost_from_average", "1") == "0":
            params["base_score"] = config["learner_model_param"]["base_score"]
        rows = self._matrix(features, np.asarray(y, dtype=np.float64), weight)
        return xgboost.train(params, rows, self._range()[1])


def _booster(model: Any) -> tuple[xgboost.Booster, int | None]:
    """The Booster, and the number of rounds its owner predicts with (None: all)."""
    if isinstance(model, xgboost.Booster):
        return model, None
    if not isinstance(model, xgboost.XGBModel):
        raise UnsupportedModelError(
            f"Expected an XGBoost estimator or Booster, got {type(model).__qualname__}."
        )
    try:
        booster = model.get_booster()
    except xgboost.core.XGBoostError as error:
        raise UnsupportedModelError(str(error)) from error
    except Exception as error:
        if type(error).__name__ != "NotFittedError":
            raise
        raise NotFittedError(
            f"Expected a fitted {type(model).__name__}; call its fit first."
        ) from error
    try:
        return booster, int(model.best_iteration) + 1
    except AttributeError:  # trained without early stopping
        return booster, None


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    """The user's parameters under the library's short names."""
    given = {ALIASES.get(name, name): value for name, value in params.items()}
    unknown = sorted(set(given) - KNOWN_PARAMS)
    if unknown:
        raise InputError(
            f"params names {unknown}, which no answer depends on; known are "
            f"{sorted(KNOWN_PARAMS | set(ALIASES))}."
        )
    for name, value in given.items():
        if name != "monotone_constraints" and not isinstance(value, int | float):
            raise InputError(f"params[{name!r}] must be a number, got {value!r}.")
    return given


def _tree_params(booster: xgboost.Booster) -> dict[str, Any]:
    """Tree parameters of the live configuration, defaults where the Booster was loaded."""
    learner = json.loads(booster.save_config())["learner"]
    trained = learner["gradient_booster"]
    if "tree_train_param" not in trained:
        trained = trained["gbtree"]
    return {**trained["tree_train_param"], **_tree_method(trained)}


def _tree_method(trained: dict[str, Any]) -> dict[str, Any]:
    method = trained.get("gbtree_train_param", {}).get("tree_method", "auto")
    return {"tree_method": method}


def _are_defaults(told: Mapping[str, Any]) -> bool:
    """What every loaded Booster reports."""
    defaults = {"lambda": 1.0, "eta": 0.3, "max_depth": 6.0, "subsample": 1.0, "alpha": 0.0}
    return all(np.isclose(float(told[name]), value) for name, value in defaults.items())
