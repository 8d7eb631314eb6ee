"""Columns of users' tables, checked against a model's and turned into numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.errors import InputError

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


def check_all_classes(y: NDArray[np.generic], classes: NDArray[np.generic]) -> None:
    """Rows of every class, so that the outputs of a new model stand for the same classes."""
    absent = classes[~np.isin(classes, y)]
    if len(absent):
        raise InputError(
            f"Expected rows of every class to train on, but none is left of {absent[:10].tolist()}."
        )


def numbers(column: pd.Series) -> Floats:
    """A column of numbers as float64, NaN where a value is missing."""
    try:
        numeric: Any = pd.to_numeric(column)
        return numeric.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The model was trained with numbers in column {column.name!r}, got dtype "
            f"{column.dtype} ({error})."
        ) from error


def matrix(X: Any) -> Floats:
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


def codes(column: pd.Series, categories: Sequence[Any]) -> Floats:
    """Positions in `categories` by value; NaN where missing, -1 where unseen.

    Numbers match across dtypes (2 and 2.0), and text matches numbers it spells.
    """
    place, found = pd.factorize(column)
    known = {_key(value): code for code, value in enumerate(categories)}
    table = np.array([known.get(_key(value), -1) for value in found] + [np.nan])
    return table[place].astype(np.float64)  # place is -1 where missing


def _key(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)
