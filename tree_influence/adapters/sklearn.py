"""scikit-learn: loads skops files and picks the adapter of the two kinds of gradient boosting."""

import os
from typing import Any

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
from sklearn.exceptions import NotFittedError as SklearnNotFittedError
from sklearn.utils.validation import check_is_fitted

from influence.errors import (
    InputError,
    NotFittedError,
    NotYetSupportedError,
    StorageError,
    UnsupportedModelError,
    UntrustedFileError,
)
from tree_influence.adapters.base import Adapter
from tree_influence.adapters.sklearn_gb import GradientBoosting
from tree_influence.adapters.sklearn_hist import HistGradientBoosting

# What gradient boosting and the usual Pipeline steps hold beyond the types skops itself trusts.
# Named one by one: the packages also hold functions that run commands or load pickles. skops
# leaves out the two tree types since their node numbers are used unchecked in prediction;
# `parse` checks them.
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
TRUSTED_MODULES = ("sklearn._loss.link", "sklearn._loss.loss", "sklearn._loss._loss")

BOOSTING = "GradientBoosting* or HistGradientBoosting*"
_MEMBER = "pass one of model.estimators_, with the rows and target it was fitted on"
INSTEAD = {
    "BaseSearchCV": "pass model.best_estimator_",
    "Pipeline": "pass its last step, and features transformed by the earlier ones",
    "CalibratedClassifierCV": "pass one of [c.estimator for c in model.calibrated_classifiers_], "
    "with the rows of its fold",
    "TransformedTargetRegressor": "pass model.regressor_, with the transformed target",
    "BaseThresholdClassifier": "pass model.estimator_",
    "_BaseHeterogeneousEnsemble": _MEMBER,
    "BaggingClassifier": _MEMBER,
    "BaggingRegressor": _MEMBER,
    "OneVsRestClassifier": _MEMBER,
    "_MultiOutputEstimator": _MEMBER,
}


def load(path: str | os.PathLike[str]) -> Any:
    """Loads what skops.io.dump saved: an estimator, or a Pipeline.

    Raises:
        UntrustedFileError: The file holds types other than those of gradient boosting and of
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
    return model


def parse(model: Any, params: dict[str, Any]) -> Adapter:
    """Reads a fitted gradient boosting estimator.

    Args:
        model: GradientBoosting or HistGradientBoosting, classifier or regressor.
        params: Must be empty: these estimators hold all their parameters.

    Raises:
        NotFittedError: The estimator has not been fitted.
        NotYetSupportedError: A forest, or an initial estimator of the user's.
        UnsupportedModelError: Any other estimator; the message says what to pass instead.
    """
    adapter = _adapter_of(model)
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
    return adapter(model)


def _adapter_of(model: Any) -> type[GradientBoosting] | type[HistGradientBoosting]:
    if isinstance(model, GradientBoostingClassifier | GradientBoostingRegressor):
        return GradientBoosting
    if isinstance(model, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
        return HistGradientBoosting
    name = type(model).__name__
    forests = (
        RandomForestClassifier | RandomForestRegressor | ExtraTreesClassifier | ExtraTreesRegressor
    )
    if isinstance(model, forests):
        raise NotYetSupportedError(f"Expected {BOOSTING}, got {name}: no code reads forests yet.")
    ancestors = [ancestor.__name__ for ancestor in type(model).__mro__]
    advice = [INSTEAD[ancestor] for ancestor in ancestors if ancestor in INSTEAD]
    raise UnsupportedModelError(
        f"Expected {BOOSTING} of scikit-learn, got {name}; "
        + (advice[0] if advice else "no other estimator of scikit-learn can be answered")
        + "."
    )


def _is_trusted(name: str) -> bool:
    return name in TRUSTED or name.rpartition(".")[0] in TRUSTED_MODULES
