"""What both kinds of scikit-learn's gradient boosting share: tables, trees and held-out rows."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from influence.errors import InputError, NotYetSupportedError, StorageError, UnsupportedModelError
from tree_influence.adapters.columns import check_count, check_names
from tree_influence.losses import Logistic, Softmax, SquaredError, TrainingLoss

Floats = NDArray[np.float64]


def checked_table(X: Any, names: Sequence[str] | None, n_features: int) -> pd.DataFrame:
    """Features as a table with the model's own column names (0, 1, ... if it knows none)."""
    own_names = list(range(n_features)) if names is None else list(names)
    table = X if isinstance(X, pd.DataFrame) else _table_of_array(X)
    if names is not None and isinstance(X, pd.DataFrame):
        check_names(list(table.columns), own_names)
    check_count(table.shape[1], n_features)
    return table.set_axis(own_names, axis=1)


def _table_of_array(X: Any) -> pd.DataFrame:
    array = np.asarray(X)
    if array.ndim != 2:
        raise InputError(f"Features must be of shape (n_rows, n_features), got {array.shape}.")
    return pd.DataFrame(array)


def numeric_column(column: pd.Series) -> Floats:
    """A column as float64, NaN where a value is missing."""
    try:
        if column.dtype.kind == "O":  # objects, strings, categories: their values may be numbers
            column = pd.Series(pd.to_numeric(column.astype(object)), name=column.name)
        if column.dtype.kind in "biuf":
            return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise _not_numeric(column) from error
    raise _not_numeric(column)


def _not_numeric(column: pd.Series) -> InputError:
    return InputError(
        f"Expected numbers in column {column.name}, which the model was trained on as numeric, "
        f"got dtype {column.dtype}; encode it as in training."
    )


def inner_and_leaf_numbers(
    left: NDArray[np.integer],
    right: NDArray[np.integer],
    feature: NDArray[np.integer],
    is_leaf: NDArray[np.bool_],
    n_features: int,
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
    """Numbers nodes and leaves apart, as `ensemble.Tree` does.

    Args:
        left: Left children in the library's numbering, shape (n_all,); so is right.
        right: Right children.
        feature: Column of each node, shape (n_all,).
        is_leaf: Which nodes are leaves, shape (n_all,).
        n_features: Number of columns.

    Returns:
        The library's numbers of the inner nodes, and their left and right children in ours.

    Raises:
        StorageError: A node points outside: prediction would read foreign memory or never end.
    """
    inner = np.flatnonzero(~is_leaf)
    children = np.stack([left[inner], right[inner]]).astype(np.int64)
    # Both libraries number a parent before its children.
    sound = (children > inner) & (children < len(is_leaf))
    if not sound.all() or not ((feature[inner] >= 0) & (feature[inner] < n_features)).all():
        raise StorageError(
            "The model is damaged: a node of one of its trees points outside the tree. Do not "
            "use the file it came from."
        )
    own = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(~is_leaf) - 1)
    return inner, own[children[0]], own[children[1]]


def held_out_rows(
    n_rows: int, fraction: float, stratify: Floats | None, seed: Any
) -> NDArray[np.intp]:
    """Rows that fit held out to stop early, by the split both libraries make.

    Args:
        n_rows: Number of rows given to fit.
        fraction: The parameter `validation_fraction`.
        stratify: Positions of the labels for classifiers, None for regressors.
        seed: The integer the library passed as random_state.
    """
    rows = np.arange(n_rows)
    try:
        split = train_test_split(rows, test_size=fraction, stratify=stratify, random_state=seed)
    except ValueError as error:
        raise InputError(
            "Expected the rows the model was fitted with, but the early stopping split of fit "
            f"cannot be repeated on these: {error}"
        ) from error
    return np.asarray(split[1])


def is_repeatable(random_state: Any) -> bool:
    """Whether a `random_state` draws the same numbers each time it is used."""
    return isinstance(random_state, numbers.Integral)


def loss_named(name: Any, n_outputs: int, hessian_scale: float = 1.0) -> TrainingLoss:
    """The loss that a parameter `loss` names, for models of squared error or log loss."""
    if name == "squared_error":
        return SquaredError()
    if name == "log_loss":
        return Softmax(hessian_scale) if n_outputs > 1 else Logistic()
    expected = f"Expected loss='squared_error' or 'log_loss', got loss={name!r}"
    if name in ("exponential", "poisson", "gamma"):
        raise NotYetSupportedError(f"{expected}: no code has its derivatives yet.")
    if name in ("absolute_error", "huber", "quantile"):
        raise UnsupportedModelError(
            f"{expected}, whose leaves are medians or other quantiles of the residuals and follow "
            "no Newton formula. Similarity methods and retraining still answer."
        )
    raise UnsupportedModelError(f"{expected}, a custom loss whose derivatives are not known.")
