"""What scikit-learn's boosting and forests share: tables, trees, held-out rows, refusals."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.model_selection import train_test_split

from influence.errors import InputError, StorageError, UnsupportedModelError
from tree_influence.adapters.columns import check_count, check_names
from tree_influence.ensemble import MISSING_LEFT, MISSING_RIGHT, Tree
from tree_influence.losses import Loss, TrainingLoss

Floats = NDArray[np.float64]


def checked_table(X: Any, names: Sequence[str] | None, n_features: int) -> pd.DataFrame:
    """Features as a table with the model's own column names (0, 1, ... if it knows none)."""
    own_names = list(range(n_features)) if names is None else list(names)
    table = X if isinstance(X, pd.DataFrame) else pd.DataFrame(_array(X), copy=False)
    if names is not None and isinstance(X, pd.DataFrame):
        check_names(list(table.columns), own_names)
    check_count(table.shape[1], n_features)
    return table.set_axis(own_names, axis=1)


def plain_numbers(table: pd.DataFrame, dtype: type[np.floating]) -> NDArray[np.floating] | None:
    """All columns at once where they are plain numbers; None where some need a closer look."""
    if all(isinstance(kind, np.dtype) and kind.kind in "biuf" for kind in table.dtypes):
        return table.to_numpy(dtype=dtype)
    return None


def float32_matrix(
    X: Any, names: Sequence[str] | None, n_features: int, *, takes_missing: bool
) -> NDArray[np.float32]:
    """Features as scikit-learn's exact trees compare them, shape (n_rows, n_features).

    What is absent from a sparse matrix is 0, as in the library.

    Args:
        X: DataFrame, array or sparse matrix.
        names: Column names of training, or None.
        n_features: Number of columns of training.
        takes_missing: Whether the model takes NaN in dense rows.
    """
    with np.errstate(over="ignore"):
        if issparse(X):
            check_count(X.shape[1], n_features)
            matrix = X.astype(np.float32).toarray()
        else:
            table = checked_table(X, names, n_features)
            matrix = plain_numbers(table, np.float32)
            if matrix is None:
                matrix = np.empty(table.shape, dtype=np.float32)
                for j in range(n_features):
                    matrix[:, j] = numeric_column(table.iloc[:, j])
    missing_allowed = takes_missing and not issparse(X)
    refused = np.isinf(matrix) if missing_allowed else ~np.isfinite(matrix)
    if refused.any():
        row, j = np.argwhere(refused)[0]
        raise InputError(
            f"The model takes finite numbers in the range of float32"
            f"{' and missing values' if missing_allowed else ''}, but row {row} has "
            f"{matrix[row, j]} in column {j if names is None else names[j]}; impute it as in "
            "training."
        )
    return np.ascontiguousarray(matrix)


def named(features: NDArray[np.float32], names: Sequence[str] | None) -> Any:
    """A matrix as the library asks for it: with the column names of training."""
    return features if names is None else pd.DataFrame(features, columns=list(names), copy=False)


def _array(X: Any) -> NDArray[np.generic]:
    array = np.asarray(X)
    if array.ndim != 2:
        raise InputError(f"Features must be of shape (n_rows, n_features), got {array.shape}.")
    return array


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


def exact_tree(tree: Any, value: Floats, n_features: int) -> Tree:
    """A tree of `sklearn.tree`.

    Args:
        tree: The attribute `tree_` of a fitted one.
        value: What each node would add to the raw score, shape (n_all, n_values).
        n_features: Number of columns.
    """
    is_leaf = tree.children_left == -1
    inner, left, right = inner_and_leaf_numbers(
        tree.children_left, tree.children_right, tree.feature, is_leaf, n_features
    )
    return Tree(
        feature=tree.feature[inner],
        threshold=tree.threshold[inner],
        left=left,
        right=right,
        missing=np.where(tree.missing_go_to_left[inner] == 1, MISSING_LEFT, MISSING_RIGHT),
        leaf_value=value[is_leaf],
        leaf_label=np.flatnonzero(is_leaf),
    )


def fresh(model: Any, changed: dict[str, Any]) -> Any:
    """The unfitted estimator again, with a seed if it has none: refits differ by their rows alone.

    Args:
        model: A fitted estimator.
        changed: Parameters that are to differ.
    """
    again: Any = clone(model)
    again.set_params(**changed, warm_start=False)
    return again if again.random_state is not None else again.set_params(random_state=0)


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


def with_newton_leaves(loss: Loss, name: Any) -> TrainingLoss:
    """The loss again, as the leaf formulas need it.

    Raises:
        UnsupportedModelError: The library renews the leaves of this loss.
    """
    if name == "huber" or not isinstance(loss, TrainingLoss):  # huber's leaves are no steps on it
        raise UnsupportedModelError(
            f"Expected a loss whose leaves are Newton steps, got loss={name!r}, whose leaves are "
            "medians or other quantiles of the residuals and follow no such formula."
        )
    return loss
