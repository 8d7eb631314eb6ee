"""Columns of users' tables, checked against a model's and turned into numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence.errors import InputError, NotYetSupportedError, TooFewRowsError

Floats = NDArray[np.float64]


def check_names(given: Sequence[Any], expected: Sequence[Any]) -> None:
    """The same columns in the same order."""
    for place, (name, own) in enumerate(zip(given, expected, strict=False)):
        if name != own:
            raise InputError(
                f"Expected column {own!r} at position {place}, got {name!r}. The model was trained "
                f"with these columns, in this order: {list(expected[:20])}."
            )


def check_count(n_columns: int, n_features: int) -> None:
    """As many columns as the model was trained with."""
    if n_columns != n_features:
        raise InputError(f"The model was trained with {n_features} columns, got {n_columns}.")


def check_all_classes(y: NDArray[np.generic], classes: NDArray[np.generic] | None) -> None:
    """Rows of every class, so that the outputs of a new model stand for the same classes."""
    if classes is None:
        return
    absent = classes[~np.isin(classes, y)]
    if len(absent):
        raise TooFewRowsError(
            "Expected rows of every class to train on, but none is left of "
            f"{absent[:10].tolist()}; keep at least one of each."
        )


def check_is_estimator(model: Any, kind: type) -> None:
    """Refuses what is no estimator of the library's, and so was no step of a Pipeline."""
    if not isinstance(model, kind):
        raise NotYetSupportedError(
            f"Expected an estimator ({kind.__name__}) to train on other columns, got a "
            f"{type(model).__name__}. Train and trace the estimator."
        )


def numbers(X: Any) -> Floats:
    """A bare array of numbers as float64, shape (n_rows, n_features)."""
    array = np.asarray(X)
    try:
        if array.dtype.kind not in "biufO" or array.ndim != 2:
            raise TypeError(f"dtype {array.dtype} and shape {array.shape}")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Features must be a two-dimensional array of numbers, got {error}."
        ) from error
