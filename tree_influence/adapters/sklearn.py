"""scikit-learn: loads skops files and picks the adapter of an estimator."""

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.exceptions import NotFittedError as SklearnNotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.tree import BaseDecisionTree
from sklearn.utils.validation import check_is_fitted

from influence.errors import (
    InputError,
    NotFittedError,
    StorageError,
    UnsupportedModelError,
    UntrustedFileError,
)
from tree_influence import adapters
from tree_influence.adapters.base import Adapter
from tree_influence.adapters.sklearn_common import inner_and_leaf_numbers
from tree_influence.adapters.sklearn_forest import Forest
from tree_influence.adapters.sklearn_gb import GradientBoosting
from tree_influence.adapters.sklearn_hist import HistGradientBoosting
from tree_influence.adapters.sklearn_wrappers import refusal

# What boosting, forests and the usual Pipeline steps hold beyond the types skops itself trusts.
# Named one by one: the packages also hold functions that run commands or load pickles. skops
# leaves out the two tree types since their node numbers are used unchecked in prediction; `load`
# checks those of every tree in the file.
TRUSTED = frozenset(
    {
        "builtins.object",
        "functools.partial",
        "numpy.dtype",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "scipy.interpolate._bsplines.BSpline",
        "sklearn.compose._column_transformer._RemainderColsList",
        "sklearn.compose._column_transformer.make_column_selector",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._mutual_info.mutual_info_classif",
        "sklearn.feature_selection._mutual_info.mutual_info_regression",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.impute._iterative.IterativeImputer",
        "sklearn.impute._iterative._ImputerTriplet",
        "sklearn.tree._tree.Tree",
        "sklearn.utils.validation.check_array",
    }
)
LINKS = (
    "HalfLogitLink", "IdentityLink", "Interval", "LogLink", "LogitLink", "MultinomialLogit",
)  # fmt: skip
LOSSES = (
    "AbsoluteError", "ExponentialLoss", "HalfBinomialLoss", "HalfGammaLoss", "HalfMultinomialLoss",
    "HalfPoissonLoss", "HalfSquaredError", "HuberLoss", "PinballLoss",
)  # fmt: skip
TRUSTED |= {f"sklearn._loss.link.{name}" for name in LINKS}
TRUSTED |= {f"sklearn._loss.loss.{name}" for name in LOSSES}
# What the compiled loss of scikit-learn before 1.7 calls itself. Trusted only while scikit-learn
# holds that module: else loading would look for a file of this name.
OWN_NAME = "_loss.CyHalfMultinomialLoss"

# The adapter of each estimator and of what is built on it.
ADAPTERS: dict[type, Callable[[Any], Adapter]] = {
    GradientBoostingClassifier: GradientBoosting,
    GradientBoostingRegressor: GradientBoosting,
    HistGradientBoostingClassifier: HistGradientBoosting,
    HistGradientBoostingRegressor: HistGradientBoosting,
    RandomForestClassifier: Forest,
    RandomForestRegressor: Forest,
    ExtraTreesClassifier: Forest,
    ExtraTreesRegressor: Forest,
}


def load(path: str | os.PathLike[str]) -> Any:
    """Loads what skops.io.dump saved: an estimator, or a Pipeline.

    Raises:
        UntrustedFileError: The file holds types other than those of boosting, forests and of
            scikit-learn's usual transformers.
        StorageError: The file cannot be read.
    """
    try:
        from skops import io
    except ImportError as error:
        raise StorageError(
            f"Reading {path} needs skops: pip install 'influence-toolkit[trees]'."
        ) from error
    try:
        unknown = io.get_untrusted_types(file=str(path))
        refused = [name for name in unknown if not _is_trusted(name)]
        model = None if refused else io.load(str(path), trusted=unknown)
    except Exception as error:  # skops promises no error types for damaged files
        raise StorageError(
            f"Expected a scikit-learn model saved with skops.io.dump, but {path} cannot be "
            f"loaded: {type(error).__name__}: {error}"
        ) from error
    if refused:
        raise UntrustedFileError(
            f"{path} holds types that are not known to be safe: {', '.join(refused)}. If you "
            f"trust them, pass the loaded model instead of the path: "
            f"skops.io.load(path, trusted={refused + [n for n in unknown if n not in refused]})."
        )
    check_trees(model)
    return model


def check_trees(model: Any) -> None:
    """Refuses a loaded object that holds a tree, anywhere, whose nodes point outside it.

    Raises:
        StorageError: Prediction would read foreign memory or never end.
    """
    seen: set[int] = set()
    left = [model]
    while left:
        held = left.pop()
        if id(held) in seen or isinstance(held, str | bytes | int | float | type(None)):
            continue
        seen.add(id(held))
        if isinstance(held, BaseDecisionTree) and "tree_" in vars(held):
            _check_tree(held.tree_, held.n_features_in_)
        elif isinstance(held, BaseHistGradientBoosting):
            for predictor in (one for each in vars(held).get("_predictors", []) for one in each):
                _check_predictor(predictor, held._n_features)
        if isinstance(held, dict):
            left += held.values()
        elif isinstance(held, list | tuple | set | frozenset):
            left += held
        elif isinstance(held, np.ndarray):
            left += held.ravel().tolist() if held.dtype == object else []
        else:
            left += vars(held).values() if getattr(held, "__dict__", None) else []


def _check_tree(tree: Any, n_features: int) -> None:
    is_leaf = tree.children_left == -1
    inner_and_leaf_numbers(
        tree.children_left, tree.children_right, tree.feature, is_leaf, n_features
    )


def _check_predictor(predictor: Any, n_features: int) -> None:
    nodes = predictor.nodes
    is_leaf = nodes["is_leaf"].astype(bool)
    inner_and_leaf_numbers(nodes["left"], nodes["right"], nodes["feature_idx"], is_leaf, n_features)


def parse(model: Any, params: dict[str, Any]) -> Adapter:
    """Reads a fitted boosting or forest, also inside a FrozenEstimator.

    Args:
        model: GradientBoosting, HistGradientBoosting, RandomForest or ExtraTrees, classifier or
            regressor.
        params: Must be empty: these estimators hold all their parameters.

    Raises:
        NotFittedError: The estimator has not been fitted.
        UnsupportedModelError: Any other estimator; the message says what to pass instead.
    """
    if isinstance(model, FrozenEstimator):
        if isinstance(model.estimator, Pipeline):
            raise UnsupportedModelError(
                "Expected a FrozenEstimator around a boosting or a forest, got one around a "
                "Pipeline; pass model.estimator."
            )
        return adapters.parse(model.estimator, params)
    readers = [ADAPTERS[ancestor] for ancestor in type(model).__mro__ if ancestor in ADAPTERS]
    if not readers:
        raise refusal(model)
    if params:
        raise InputError(
            f"Expected no params, since scikit-learn estimators hold them all, got {list(params)}."
        )
    try:
        check_is_fitted(model)
    except SklearnNotFittedError as error:
        raise NotFittedError(
            f"Expected a fitted {type(model).__name__}, got one without trees; call fit first."
        ) from error
    return readers[0](model)


def _is_trusted(name: str) -> bool:
    return name in TRUSTED or (name == OWN_NAME and "_loss" in sys.modules)
