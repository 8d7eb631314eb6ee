"""CatBoost: estimators, `CatBoost` objects, and .cbm and .json files.

Leaves: float32(x) > float32(border) sets a bit, and the bits are the leaf's number. Models of
symmetric trees on numbers are read as splits. Trees on categories, text or embeddings, and those
grown depthwise or lossguide, are known by their leaves only: the library finds the leaf of a row.

Leaf values: one Newton step, or several inside one tree, with l2_leaf_reg times the mean row
weight. They are computed on all rows with plain weights, whatever the bootstrap and the boosting
type (Ordered changes how splits are chosen, not the leaves of the final model).
"""

import inspect
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import catboost
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from influence.errors import (
    InputError,
    MissingParameterError,
    NotFittedError,
    NotYetSupportedError,
    StorageError,
    UnsupportedModelError,
)
from tree_influence.adapters.base import Adapter, DataSet, LeafRecipe
from tree_influence.adapters.catboost_steps import MOST_STEPS, taken_steps
from tree_influence.adapters.catboost_tables import categories, numbers, table_of
from tree_influence.adapters.catboost_trees import exported_model, read_trees
from tree_influence.adapters.columns import check_all_classes, check_count, check_names
from tree_influence.losses import Logistic, Loss, Softmax, SquaredError, TrainingLoss

Floats = NDArray[np.float64]

LOSSES: dict[str, TrainingLoss] = {
    "RMSE": SquaredError(rounds_target=True),
    "Logloss": Logistic(),
    "MultiClass": Softmax(),
}
LABELLED = {"Logloss", "MultiClass", "MultiClassOneVsAll"}  # losses whose target is a class

NEUTRAL = {  # what leaves of a known loss still need in order to follow the formula
    "leaf_estimation_method": "Newton",
    "model_shrink_rate": 0,
    "eval_fraction": 0,
    "target_border": None,
    "scale": 1,
}

# What the stored parameters hold that is no part of the recipe.
NOT_RECIPE = {"use_best_model", "best_model_min_trees", "classes_count", "eval_fraction"}


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
    return CatBoostAdapter(model, {**_stored_parameters(model), **params})


class CatBoostAdapter(Adapter):
    """A fitted CatBoost model."""

    def __init__(self, model: catboost.CatBoost, parameters: dict[str, Any]) -> None:
        self._model = model
        self._parameters = parameters
        self._categorical = list(model.get_cat_feature_indices())
        self._text = list(model.get_text_feature_indices())
        self._embedding = list(model.get_embedding_feature_indices())
        exported = {} if self._text or self._embedding else exported_model(model)
        self._has_ctrs = bool(exported.get("features_info", {}).get("ctrs"))
        self._has_splits = "oblivious_trees" in exported and not self._categorical
        names: list[str] = list(model.feature_names_ or ())
        self.library = f"catboost {catboost.__version__}"
        self.feature_names = None if names == [str(i) for i in range(len(names))] else names
        self.ensemble = read_trees(model, exported if self._has_splits else None, len(names))
        self.classes = self._read_classes()

    def features(self, X: Any) -> Any:
        table = X if isinstance(X, pd.DataFrame) else table_of(X)
        check_count(table.shape[1], self.ensemble.n_features)
        if isinstance(X, pd.DataFrame) and self.feature_names is not None:
            check_names([str(name) for name in table.columns], self.feature_names)
        if not (self._categorical or self._text or self._embedding):
            return numbers(table)
        table = table.copy(deep=False)
        for place in self._categorical:
            table.isetitem(place, categories(table.iloc[:, place]))
        self._pool(table)  # refuses what the library refuses
        return table

    def leaves(self, features: Any) -> NDArray[np.integer]:
        if self._has_splits:
            return self.ensemble.leaves(features)
        return self.library_leaves(features).T.astype(self.ensemble.leaf_dtype, order="C")

    def library_raw(self, features: Any) -> Floats:
        raw = self._model.predict(self._pool(features), prediction_type="RawFormulaVal")
        return np.asarray(raw, dtype=np.float64).reshape(len(features), -1)

    def library_leaves(self, features: Any) -> NDArray[np.integer]:
        return self._model.calc_leaf_indexes(self._pool(features))

    def row_weights(self, target: Floats, sample_weight: Floats | None) -> Floats:
        given = np.ones(len(target)) if sample_weight is None else sample_weight
        weight = given.astype(np.float32)
        by_class = self._parameters.get("class_weights")  # scale_pos_weight, "Balanced": too
        if by_class and self.classes is not None:
            weight *= np.asarray(by_class, dtype=np.float32)[target.astype(np.int64)]
        return weight.astype(np.float64)

    def offset(self, features: Any) -> Floats:
        return np.zeros((features.shape[0], self.ensemble.n_outputs))

    def unpack(self, container: Any) -> DataSet | None:
        return None

    def loss(self) -> Loss:
        return self._loss()

    def recipe(
        self,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
        offset: Floats | None = None,
    ) -> LeafRecipe:
        loss = self._loss()
        n_trees, n_leaves = self.ensemble.n_trees, len(self.ensemble.leaf_value)
        l2 = _float32(self._known("l2_leaf_reg")) * weight.mean()
        recipe = LeafRecipe(
            loss=loss,
            learning_rate=np.full(n_trees, _float32(self._known("learning_rate"))),
            l2=np.full(n_leaves, l2),
            start=self.ensemble.bias,
            folded=np.zeros(n_trees),
            n_steps=int(self._known("leaf_estimation_iterations")),
            full_hessian=isinstance(loss, Softmax),
            inexact_because=self._why_inexact(),
        )
        tested = self._parameters.get("leaf_estimation_backtracking") != "No"
        if recipe.n_steps == 1 or not tested or isinstance(loss, SquaredError):
            return recipe  # a step on squared error is always an improvement: all are taken
        if recipe.inexact_because or recipe.n_steps > MOST_STEPS or isinstance(loss, Softmax):
            because = (*recipe.inexact_because, "leaf_estimation_backtracking")
            return replace(recipe, inexact_because=because)
        taken = taken_steps(self.ensemble, recipe, leaves, target, weight)
        return replace(recipe, taken=taken)

    def refit(
        self,
        X: Any,
        y: NDArray[np.generic],
        sample_weight: Floats | None,
        offset: Floats | None = None,
    ) -> Self:
        check_all_classes(y, self.classes)
        parameters = self._refit_parameters()
        pool = self._pool(self.features(X), label=y, weight=sample_weight)
        model = catboost.CatBoost(parameters).fit(pool)
        return type(self)(model, _stored_parameters(model))

    def _pool(
        self, features: Any, label: ArrayLike | None = None, weight: Floats | None = None
    ) -> catboost.Pool:
        try:
            return catboost.Pool(
                features,
                label,
                cat_features=self._categorical or None,
                text_features=self._text or None,
                embedding_features=self._embedding or None,
                weight=weight,
                feature_names=self.feature_names,
            )
        except (catboost.CatBoostError, TypeError) as error:
            raise InputError(
                f"Expected rows in the form the model was trained on, but {self.library} refuses "
                f"them: {error}"
            ) from error

    def _read_classes(self) -> NDArray[np.generic] | None:
        """Labels in the order of the outputs, or None where the target is a number."""
        loss, border = self._parameters.get("loss_function"), self._parameters.get("target_border")
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

    def _known(self, name: str) -> Any:
        """A training parameter."""
        if name not in self._parameters:
            raise MissingParameterError(
                f"The answer needs the training parameter {name}, which this CatBoost model does "
                f"not hold (a sum of models, or a file without its metadata): pass "
                f"params={{'{name}': ...}}."
            )
        return self._parameters[name]

    def _loss(self) -> TrainingLoss:
        """The training loss, of a model whose leaves follow the formula."""
        name = self._known("loss_function")
        method = self._parameters.get("leaf_estimation_method", "Newton")
        if name.startswith("PythonUserDefined") or method == "Exact":
            raise UnsupportedModelError(
                f"Expected the losses {', '.join(LOSSES)} with Newton leaves, got loss_function="
                f"{name!r} with leaf_estimation_method={method!r}: its leaves are no Newton step "
                "of a loss known here. TreeSim and retraining still answer."
            )
        if name not in LOSSES:
            raise NotYetSupportedError(
                f"Expected loss_function to be one of {', '.join(LOSSES)}, got {name!r}. TreeSim "
                "and retraining still answer."
            )
        settings = {**self._parameters, "scale": self._model.get_scale_and_bias()[0]}
        if name == "RMSE":
            settings["leaf_estimation_method"] = "Newton"  # "Gradient" is the same there
        for key, neutral in NEUTRAL.items():
            if settings.get(key, neutral) != neutral:
                raise NotYetSupportedError(
                    f"Expected {key}={neutral!r}, got {settings[key]!r}, under which leaves follow "
                    "another formula. TreeSim and retraining still answer."
                )
        return LOSSES[name]

    def _why_inexact(self) -> tuple[str, ...]:
        """What this model was trained with that the leaf formula leaves out."""
        known = self._parameters
        reasons = {
            "ordered target statistics of categorical features": self._has_ctrs,
            "features estimated from text or embeddings": bool(self._text or self._embedding),
            "langevin": known.get("langevin"),
            "monotone_constraints": known.get("monotone_constraints"),
            "task_type='GPU'": known.get("task_type") == "GPU",
            "training continued from another model":
                self.ensemble.n_trees > known.get("iterations", np.inf),
        }  # fmt: skip
        return tuple(reason for reason, holds in reasons.items() if holds)

    def _refit_parameters(self) -> dict[str, Any]:
        """The recipe as trained, with what CatBoost chose by itself (learning rate ...) fixed."""
        for name in ("loss_function", "learning_rate", "depth"):
            self._known(name)
        accepted = inspect.signature(catboost.CatBoostClassifier.__init__).parameters
        recipe = {
            name: value
            for name, value in self._parameters.items()
            if name in accepted and name not in NOT_RECIPE and value is not None
        }
        if recipe.get("auto_class_weights", "None") != "None":
            recipe.pop("class_weights", None)  # they follow from the rows
        if self.classes is not None:
            recipe["class_names"] = self.classes.tolist()
        recipe["learning_rate"] = _float32(recipe["learning_rate"])
        recipe["iterations"] = self.ensemble.n_trees
        recipe["thread_count"] = self._model.get_params().get("thread_count", -1)
        return {**recipe, "verbose": False, "allow_writing_files": False}


def _stored_parameters(model: catboost.CatBoost) -> dict[str, Any]:
    """All training parameters, defaults and CatBoost's own choices included; none if lost."""
    try:
        return model.get_all_params()
    except catboost.CatBoostError:
        return {}


def _float32(number: float) -> float:
    """A parameter as CatBoost holds it; files write ten digits of it."""
    return float(np.float32(number))
