"""LightGBM: LGBMClassifier, LGBMRegressor, LGBMRanker, Booster, and saved model files.

All of them go the same way, through the model's text, which holds the training parameters too. It
gives numbers six digits; a live model's own parameters have the rest.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from influence.errors import (
    InputError,
    MissingParameterError,
    NotFittedError,
    NotYetSupportedError,
    StorageError,
    UnsupportedModelError,
)
from tree_influence.adapters.base import Adapter, Floats, GivenRows, LeafRecipe
from tree_influence.adapters.columns import check_all_classes, check_is_estimator
from tree_influence.adapters.lightgbm_dataset import unpacked
from tree_influence.adapters.lightgbm_objectives import RANKING
from tree_influence.adapters.lightgbm_recipe import Training, main_parameters
from tree_influence.adapters.lightgbm_table import SPACE, Table
from tree_influence.adapters.lightgbm_text import ModelText, read
from tree_influence.ensemble import stack
from tree_influence.losses import Loss
from tree_influence.target import encode_target

# LightGBM's names of two settings that a refit replaces.
_ROUNDS = (
    "n_estimators", "num_iterations", "num_iteration", "n_iter", "num_tree", "num_trees",
    "num_round", "num_rounds", "nrounds", "num_boost_round", "max_iter",
)  # fmt: skip
_EARLY_STOPPING = (
    "early_stopping_round", "early_stopping_rounds", "early_stopping", "n_iter_no_change",
)  # fmt: skip
_NOT_FOR_REFIT = {"data", "valid", "metric", "categorical_feature", *_ROUNDS, *_EARLY_STOPPING}


def load(path: str | os.PathLike[str]) -> lightgbm.Booster:
    """Loads a model saved as text.

    Raises:
        StorageError: The file cannot be read, is truncated or was edited.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
        model = read(text, str(path))
        if not model.parameters and model.header.get("version") != "v2":
            raise ValueError("its training parameters are missing, so it is truncated")
        return lightgbm.Booster(model_str=text)
    except StorageError:
        raise
    except (OSError, ValueError, lightgbm.basic.LightGBMError) as error:
        raise StorageError(
            f"Expected a LightGBM model in {path}, but it cannot be read: {error}. Save it again."
        ) from error


def parse(model: Any, params: Mapping[str, Any]) -> "LightGBM":
    """Reads a fitted model.

    Args:
        model: LGBMClassifier, LGBMRegressor, LGBMRanker or Booster.
        params: Training parameters that the model's text lacks, or gives too few digits of.

    Raises:
        NotFittedError: No tree has been trained.
        UnsupportedModelError: Linear models in the leaves, or no LightGBM model at all.
    """
    return LightGBM(model, params)


@final
class LightGBM(Adapter):
    """A fitted LightGBM model."""

    def __init__(self, model: Any, params: Mapping[str, Any], table: Table | None = None) -> None:
        """Reads the model.

        Args:
            model: Estimator or Booster.
            params: Training parameters the user gives.
            table: Its columns, where it was trained on rows that were already turned into codes.
        """
        booster = _booster(model)
        text = read(booster.model_to_string(), "the Booster")
        if not text.trees:
            raise NotFittedError("Expected a trained LightGBM model, got one without trees.")
        if text.is_linear:
            raise UnsupportedModelError(
                "The leaves of this model hold linear models (linear_tree=True) instead of "
                "values. Train it with linear_tree=False."
            )
        self.library = f"lightgbm {lightgbm.__version__}"
        ensemble = stack(
            text.trees, np.zeros(text.trees_per_round), text.n_features, compares_float32=False
        )
        # A random forest predicts with the mean of its trees, though raw_score=True gives the sum.
        self._averages = ensemble.n_rounds if text.is_forest else 1
        self.ensemble = replace(ensemble, leaf_value=ensemble.leaf_value / self._averages)
        parameters = main_parameters(text, booster.params or {}, params)
        self._model, self._booster, self._params = model, booster, params
        self._training = Training(text, self.ensemble, parameters)
        self._table = _table(booster, text) if table is None else table
        self.feature_names, self.space = self._table.names, SPACE
        self.classes = _classes(model, text)
        self.knows_labels = isinstance(model, lightgbm.LGBMClassifier)
        self.starts_at_average = self._training.starts_at_average

    def features(self, X: Any) -> Floats:
        return self._table.matrix(X)

    def leaves(self, features: Floats) -> NDArray[np.integer]:
        return self.ensemble.leaves(features)

    def library_raw(self, features: Floats) -> Floats:
        raw = np.asarray(self._booster.predict(features, raw_score=True), dtype=np.float64)
        return raw.reshape(len(features), self.ensemble.n_outputs) / self._averages

    def library_leaves(self, features: Floats) -> NDArray[np.integer]:
        leaves = np.asarray(self._booster.predict(features, pred_leaf=True), dtype=np.int64)
        return leaves.reshape(len(features), self.ensemble.n_trees)

    def row_weights(self, target: Floats, sample_weight: Floats | None) -> Floats:
        weight = np.ones(len(target)) if sample_weight is None else sample_weight
        by_class = self._model.class_weight if _is_estimator(self._model) else None
        if by_class is not None:
            from sklearn.utils.class_weight import compute_sample_weight

            labels = target if self.classes is None else self.classes[target.astype(np.int64)]
            weight = weight * compute_sample_weight(by_class, labels)
        return weight * self._training.label_weight(target)

    def offset(self, features: Floats) -> Floats:
        return np.zeros((len(features), self.ensemble.n_outputs))

    def unpack(self, container: Any) -> GivenRows | None:
        if not isinstance(container, lightgbm.Dataset):
            return None
        held = unpacked(container, self.ensemble.n_outputs)
        if not self.knows_labels or self.classes is None or self.classes.dtype.kind in "biuf":
            return held
        # Its labels are the positions that LGBMClassifier gives to labels of text.
        if not np.isin(held.y, np.arange(len(self.classes))).all():
            raise InputError(
                f"Expected a Dataset whose labels are positions 0 to {len(self.classes) - 1} of "
                f"the classes {self.classes[:10].tolist()}, got {np.unique(held.y)[:10].tolist()}."
            )
        return replace(held, y=self.classes[held.y.astype(np.int64)])

    def loss(self) -> Loss:
        return self._training.loss()

    def response(self, raw: Floats) -> Floats:
        return self._training.objective.response(raw)

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
        if self._training.objective.name in RANKING:
            raise UnsupportedModelError(
                f"Expected a model that can be trained again on rows alone, got the ranking "
                f"objective {self._training.objective.name!r}, which needs their query groups. "
                "Train with an objective for single rows."
            )
        features = self._table.training_rows(X)
        scores = None if offset is None else offset if offset.shape[1] > 1 else offset[:, 0]
        if _is_estimator(self._model):
            fitted = self._refit_estimator(features, y, sample_weight, scores)
        else:
            fitted = self._refit_booster(features, y, sample_weight, scores)
        return type(self)(fitted, self._params, self._table)

    def _refit_estimator(
        self,
        features: Any,
        y: NDArray[np.generic],
        sample_weight: Floats | None,
        scores: Floats | None,
    ) -> Any:
        check_all_classes(y, self.classes)
        return self.unfitted().fit(
            features,
            y,
            sample_weight,
            init_score=scores,
            categorical_feature=self._table.categorical or "auto",
        )

    def unfitted(self) -> Any:
        from sklearn.base import clone

        check_is_estimator(self._model, lightgbm.LGBMModel)
        self._check_rate()
        estimator: Any = clone(self._model)
        given = estimator.get_params()
        changed = {name: self.ensemble.n_rounds for name in _ROUNDS if name in given}
        changed |= {name: 0 for name in _EARLY_STOPPING if name in given}
        return estimator.set_params(**changed)

    def _refit_booster(
        self,
        features: Any,
        y: NDArray[np.generic],
        sample_weight: Floats | None,
        scores: Floats | None,
    ) -> lightgbm.Booster:
        if not self._training.text.parameters:
            raise MissingParameterError(
                "The saved model does not hold its training parameters, so it cannot be trained "
                "again. Save it with a current LightGBM."
            )
        self._check_rate()
        if not self._training.text.objective:
            raise UnsupportedModelError(
                "The model was trained with an objective of your own, which a Booster does not "
                "hold. Use an estimator: LGBMRegressor(objective=...)."
            )
        rows = lightgbm.Dataset(
            features,
            label=encode_target(y, self.classes, "training"),
            weight=sample_weight,
            init_score=scores,
            categorical_feature=self._table.categorical,
        )
        params = {**self.refit_settings(), "metric": "None"}
        return lightgbm.train(params, rows, self.ensemble.n_rounds)

    def refit_settings(self) -> Mapping[str, Any]:
        if _is_estimator(self._model):
            return self.unfitted().get_params()
        return {
            name: float(self._training.parameters[name]) if isinstance(value, float) else value
            for name, value in _typed_parameters(self._booster).items()
            if name not in _NOT_FOR_REFIT and value not in ("", [])
        }

    def _check_rate(self) -> None:
        if self._training.rate_changes():
            raise NotYetSupportedError(
                "The learning rate of this model changed from round to round, by a schedule that "
                "the model does not hold. Train with one learning rate."
            )


def _is_estimator(model: Any) -> bool:
    return isinstance(model, lightgbm.LGBMModel)


def _booster(model: Any) -> lightgbm.Booster:
    if isinstance(model, lightgbm.Booster):
        return model
    if not _is_estimator(model):
        raise UnsupportedModelError(
            "Expected LGBMClassifier, LGBMRegressor, LGBMRanker or Booster, got "
            f"{type(model).__qualname__}."
        )
    if not model.__sklearn_is_fitted__():
        raise NotFittedError(f"Expected a fitted {type(model).__name__}; call its fit first.")
    return model.booster_


def _typed_parameters(booster: lightgbm.Booster) -> dict[str, Any]:
    """The parameters of the text with the types that training takes (true instead of 1)."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.txt"
        booster.save_model(path)
        return lightgbm.Booster(model_file=path).params


def _classes(model: Any, text: ModelText) -> NDArray[np.generic] | None:
    if isinstance(model, lightgbm.LGBMClassifier):
        return np.asarray(model.classes_)
    if text.objective == "binary":
        return np.arange(2)
    return np.arange(text.trees_per_round) if text.objective.startswith("multiclass") else None


def _table(booster: lightgbm.Booster, text: ModelText) -> Table:
    names = booster.feature_name()
    told = text.parameters.get("categorical_feature", "").split(",")
    categorical = {int(column) for column in told if column.isdigit()}
    return Table(
        names=None if names == [f"Column_{j}" for j in range(len(names))] else names,
        n_features=text.n_features,
        categorical=sorted(categorical | set(np.flatnonzero(text.n_bins).tolist())),
        categories=booster.pandas_categorical or [],
        largest=text.largest,
    )
