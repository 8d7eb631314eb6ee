"""XGBoost: XGBClassifier, XGBRegressor, XGBRanker, Booster, and .json and .ubj files.

All of them go the same way, through the JSON of the model, which holds its trees, and the
Booster's own settings, which hold the training parameters as long as it was not saved and loaded.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray
from xgboost.callback import EarlyStopping

from influence.errors import (
    InputError,
    MissingParameterError,
    NotFittedError,
    StorageError,
    UnsupportedModelError,
)
from tree_influence.adapters.base import Adapter, Floats, GivenRows, LeafRecipe
from tree_influence.adapters.columns import check_all_classes, check_is_estimator
from tree_influence.adapters.xgboost_matrix import unpacked
from tree_influence.adapters.xgboost_objectives import response
from tree_influence.adapters.xgboost_params import read_params
from tree_influence.adapters.xgboost_recipe import Training
from tree_influence.adapters.xgboost_settings import parameters_of, recipe_of_file, trees_settings
from tree_influence.adapters.xgboost_table import Table, read_table
from tree_influence.adapters.xgboost_trees import Content, read
from tree_influence.losses import Loss
from tree_influence.target import are_shares, encode_target

SAME_MODEL = 1e-5  # over the largest raw prediction, which is float32
# Parameters of the estimators that say nothing of how a given number of rounds is trained.
_OF_ESTIMATORS = {"n_estimators", "early_stopping_rounds", "missing", "enable_categorical"}
# Of a tree's leaves, in JSON or UBJSON.
_LEAF_WIDTH = re.compile(rb'size_leaf_vector(?:"\s*:\s*"|SL.{8})(\d+)', re.DOTALL)


def load(path: str | os.PathLike[str]) -> xgboost.Booster:
    """Loads a .json or .ubj file; which of the two is read off its first bytes.

    Raises:
        StorageError: The file cannot be read, is truncated, or would end the process.
    """
    try:
        content = Path(path).read_bytes()
        if not content.rstrip().endswith(b"}"):  # XGBoost may fill the memory on such a file
            raise ValueError("it does not end where a model ends, so it is truncated")
        width = _LEAF_WIDTH.search(content)
        if width and int(width[1]) > 1 and b"leaf_weights" not in content and _version() >= (3, 2):
            raise ValueError(
                "it has vector leaves (multi_output_tree) as XGBoost before 3.2 stored them, and "
                f"loading it ends the process of XGBoost {xgboost.__version__}. Use 3.1"
            )
        return xgboost.Booster(model_file=bytearray(content))
    except (OSError, ValueError) as error:  # XGBoostError is a ValueError
        raise StorageError(
            f"Expected an XGBoost model (.json, .ubj) in {path}, but it cannot be read: {error}. "
            "Save it again."
        ) from error


def parse(model: Any, params: Mapping[str, Any]) -> "XGBoost":
    """Reads a fitted model.

    Args:
        model: XGBClassifier, XGBRegressor, XGBRanker or Booster.
        params: Training parameters that a saved model does not hold: reg_lambda, learning_rate,
            missing; and reg_alpha, max_delta_step, subsample, min_child_weight and
            monotone_constraints where they were set. Short names (lambda, eta, alpha) do as well.

    Raises:
        NotFittedError: No tree has been trained.
        UnsupportedModelError: Linear models, or no XGBoost model at all.
    """
    return XGBoost(model, params)


@final
class XGBoost(Adapter):
    """A fitted XGBoost model."""

    knows_labels = False  # classes are always 0, 1, ...
    offset_replaces_start = True

    def __init__(self, model: Any, params: Mapping[str, Any], table: Table | None = None) -> None:
        """Reads the model.

        Args:
            model: Estimator or Booster.
            params: Training parameters the user gives.
            table: Its columns, where it was trained on rows that were already turned into codes.
        """
        booster, n_iterations = _booster(model)
        content = read(booster, n_iterations)
        given = read_params(params)
        missing = given.get("missing", model.missing if _is_estimator(model) else np.nan)
        self.library = f"xgboost {xgboost.__version__}"
        self.ensemble = content.ensemble
        self._model, self._booster, self._params = model, booster, params
        self._content = content
        self._settings = json.loads(booster.save_config())["learner"]
        self._training = Training(
            content,
            given,
            trees_settings(self._settings)["tree_train_param"],
            has_metrics=bool(self._settings["metrics"]),
            custom_objective=_is_estimator(model) and callable(model.objective),
        )
        if table is None:
            table = read_table(content.learner, content.version, missing)
        self._table = table
        self.feature_names = table.names
        self.n_targets = content.n_targets
        self.classes = _classes(model, content)
        self.starts_at_average = self._training.estimates_start
        if content.objective == "binary:logitraw":
            self.border = 0.5  # XGBClassifier's predict cuts the margin itself
        self.takes_shares = isinstance(model, xgboost.Booster) and self.ensemble.n_outputs == 1

    def features(self, X: Any) -> NDArray[np.float32]:
        return self._table.matrix(X)

    def leaves(self, features: NDArray[np.float32]) -> NDArray[np.integer]:
        return self.ensemble.leaves(features)

    def library_raw(self, features: NDArray[np.float32]) -> Floats:
        raw = self._booster.predict(
            self._rows(features),
            output_margin=True,
            iteration_range=(0, self._content.n_iterations),
            strict_shape=True,
        )
        return np.asarray(raw, dtype=np.float64).reshape(len(features), self.ensemble.n_outputs)

    def library_leaves(self, features: NDArray[np.float32]) -> NDArray[np.integer]:
        leaves = self._booster.predict(
            self._rows(features),
            pred_leaf=True,
            iteration_range=(0, self._content.n_iterations),
        )  # no strict_shape, which fails on vector leaves
        flat = np.asarray(leaves).reshape(len(features), self.ensemble.n_trees)
        return flat[:, self._content.order].astype(np.int64)

    def row_weights(self, target: Floats, sample_weight: Floats | None) -> Floats:
        weight = np.ones(len(target)) if sample_weight is None else sample_weight
        return weight.astype(np.float32) * self._training.label_weight(target)

    def offset(self, features: NDArray[np.float32]) -> Floats:
        return np.zeros((len(features), self.ensemble.n_outputs))

    def unpack(self, container: Any) -> GivenRows | None:
        if not isinstance(container, xgboost.DMatrix):
            return None
        start = self.ensemble.bias
        return unpacked(container, self._booster, self._table, start, self.n_targets)

    def loss(self) -> Loss:
        return self._training.loss()

    def response(self, raw: Floats) -> Floats:
        return response(self._content, raw)

    def recipe(
        self,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
        offset: Floats | None = None,
    ) -> LeafRecipe:
        return self._training.recipe(leaves, target, weight, offset)

    def refit(
        self,
        X: Any,
        y: NDArray[np.generic],
        sample_weight: Floats | None,
        offset: Floats | None = None,
    ) -> Self:
        features = self.features(X)
        classes = None if self.takes_shares and are_shares(y) else self.classes
        target = encode_target(y, classes, "training", self.n_targets)
        self._check_refit(target, classes)
        margin = None if offset is None else self.ensemble.bias + offset
        if margin is not None and margin.shape[1] == 1:
            margin = margin[:, 0]
        if _is_estimator(self._model):
            fitted = self._refit_estimator(features, target, sample_weight, margin)
        else:
            parameters = dict(self.refit_settings())
            rows = self._rows(features, target, sample_weight, margin)
            rounds = self._content.n_iterations
            fitted = xgboost.train(parameters, rows, rounds, verbose_eval=False)
        return type(self)(fitted, self._params, self._table)

    def trained_by(
        self, parameters: Mapping[str, Any], X: Any, target: Floats, weight: Floats | None
    ) -> xgboost.Booster:
        """The model of a file, trained again, so that it knows its parameters.

        Args:
            parameters: Those it was trained with, where they were set; the file holds objective,
                start and number of rounds.
            X: Its training features.
            target: Encoded target, shape (n_train,).
            weight: Sample weights, shape (n_train,), or None.

        Raises:
            InputError: They give another model.
        """
        known = recipe_of_file(self._settings, self._content)
        features = self.features(X)
        rows = self._rows(features, target, weight)
        given = {name: value for name, value in parameters.items() if name not in _OF_ESTIMATORS}
        rounds = self._content.n_iterations
        booster = xgboost.train({**known, **given}, rows, rounds, verbose_eval=False)
        ours, theirs = booster.predict(rows, output_margin=True), self.library_raw(features)
        gap = float(np.abs(np.reshape(ours, theirs.shape) - theirs).max())
        if not gap <= SAME_MODEL * max(1.0, float(np.abs(theirs).max())):
            raise InputError(
                "Expected the training parameters given to train the saved model again, but their "
                f"raw predictions differ by {gap:.2g}. Give all that were set (max_depth, "
                "learning_rate, subsample, seed ...), as they were, and the same XGBoost version."
            )
        return booster

    def _check_refit(self, target: Floats, classes: NDArray[np.generic] | None) -> None:
        """Refuses what would become another model."""
        self._training.loss()
        if not self._training.is_live:
            raise MissingParameterError(
                "A saved XGBoost model does not hold its training parameters (max_depth, "
                "learning_rate ...), so nobody can train it again. Give the estimator or Booster "
                "as it was trained, instead of one that was saved and loaded; on the command line "
                "give what it was trained with, e.g. --recipe max_depth=3."
            )
        check_all_classes(target, classes)

    def _refit_estimator(
        self,
        features: NDArray[np.float32],
        target: Floats,
        sample_weight: Floats | None,
        margin: Floats | None,
    ) -> Any:
        estimator = self.unfitted().set_params(feature_types=self._booster.feature_types)
        names = self.feature_names
        table = features if names is None else pd.DataFrame(features, columns=names)
        return estimator.fit(
            table, target, sample_weight=sample_weight, base_margin=margin, verbose=False
        )

    def unfitted(self) -> Any:
        from sklearn.base import clone

        check_is_estimator(self._model, xgboost.XGBModel)
        estimator: Any = clone(self._model)
        callbacks = estimator.callbacks or []
        kept = [call for call in callbacks if not isinstance(call, EarlyStopping)]
        rounds = self._content.n_iterations
        if estimator.get_num_boosting_rounds() != rounds:
            estimator.set_params(n_estimators=rounds)
        return estimator.set_params(early_stopping_rounds=None, callbacks=kept or None)

    def refit_settings(self) -> Mapping[str, Any]:
        if _is_estimator(self._model):
            return self.unfitted().get_params()
        return parameters_of(self._settings, self._content)

    def _rows(
        self,
        features: NDArray[np.float32],
        label: Floats | None = None,
        weight: Floats | None = None,
        margin: Floats | None = None,
    ) -> xgboost.DMatrix:
        return xgboost.DMatrix(
            features,
            label,
            weight=weight,
            base_margin=margin,
            feature_names=self._booster.feature_names,
            feature_types=self._booster.feature_types,
            enable_categorical=True,
        )


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in xgboost.__version__.split(".")[:2])


def _is_estimator(model: Any) -> bool:
    return isinstance(model, xgboost.XGBModel)


def _booster(model: Any) -> tuple[xgboost.Booster, int | None]:
    """The Booster, and how many of its rounds the model predicts with; None for all.

    After early stopping an estimator predicts with the best rounds, also out of its file, a Booster
    with all.
    """
    if isinstance(model, xgboost.Booster):
        best = model.attr("best_iteration")
        of_estimator = model.attr("scikit_learn") is not None  # an estimator's file says so
        return model, int(best) + 1 if of_estimator and best is not None else None
    if not _is_estimator(model):
        raise UnsupportedModelError(
            "Expected XGBClassifier, XGBRegressor, XGBRanker or Booster, got "
            f"{type(model).__qualname__}."
        )
    if not model.__sklearn_is_fitted__():
        raise NotFittedError(f"Expected a fitted {type(model).__name__}; call its fit first.")
    booster = model.get_booster()
    best = booster.attr("best_iteration")
    return booster, None if best is None else int(best) + 1


def _classes(model: Any, content: Content) -> NDArray[np.generic] | None:
    """Positions of the classes; None where the target is a number, or numbers.

    XGBRegressor takes a target between 0 and 1 for a binary objective.
    """
    regresses = isinstance(model, xgboost.XGBRegressor) and content.ensemble.n_outputs == 1
    is_labelled = content.objective.startswith(("binary:", "multi:"))
    if content.n_targets > 1 or regresses:
        return None
    if not isinstance(model, xgboost.XGBClassifier) and not is_labelled:
        return None
    return np.arange(max(2, content.ensemble.n_outputs))
