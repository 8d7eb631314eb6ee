"""`Table`: the columns a LightGBM model was trained with, and rows turned into them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from influence.errors import InputError
from tree_influence.adapters.columns import check_count, check_names, numbers

Floats = NDArray[np.float64]

# What pandas calls the values of a column of objects that are all numbers.
_NUMBERS = ("boolean", "integer", "floating", "mixed-integer-float", "decimal", "complex", "empty")
_AS_THEY_ARE = (np.float32, np.float64)  # LightGBM rounds other arrays to float32, but no tables
SPACE = "_"  # what LightGBM saves for a space in a column's name
_ZERO = float(np.float32(1e-35))  # LightGBM takes values up to this for 0


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of the training table.

    Attributes:
        names: Column names as the model keeps them (no spaces); None if it knows none.
        n_features: Number of columns.
        categorical: Columns the model treats as categories.
        categories: Categories of each column that was of pandas' category dtype, in column order.
            The model does not say which columns those were.
        largest: Largest value of each column in training, for columns of categories the largest
            code; -inf where it never varied, shape (n_features,).
    """

    names: list[str] | None
    n_features: int
    categorical: list[int]
    categories: list[list[Any]]
    largest: Floats

    def matrix(self, X: Any) -> Floats:
        """Rows as the model compares them, categories as codes, shape (n_rows, n_features).

        Raises:
            InputError: Other columns than in training, or values the model cannot read.
        """
        if isinstance(X, pd.DataFrame):
            self._check_names(X)
            mapped = self._mapped(X)
            columns = [
                _codes(X.iloc[:, j], mapped[j]) if j in mapped else _numbers(X.iloc[:, j])
                for j in range(self.n_features)
            ]
            matrix = np.column_stack(columns)
        else:
            if issparse(X):
                check_count(X.shape[1], self.n_features)
                X = X.toarray()  # what is absent is 0
            matrix = numbers(X)
            check_count(matrix.shape[1], self.n_features)
            if np.asarray(X).dtype not in _AS_THEY_ARE:
                matrix = matrix.astype(np.float32).astype(np.float64)
        matrix[np.abs(matrix) <= _ZERO] = 0.0
        for j in self.categorical:
            np.trunc(matrix[:, j], out=matrix[:, j])  # as LightGBM reads a category
        return matrix

    def training_rows(self, X: Any) -> Any:
        """All rows for training again: as they are where the library reads them like `matrix`."""
        if issparse(X) or (isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype in _AS_THEY_ARE):
            check_count(X.shape[1], self.n_features)
            return csr_matrix(X) if issparse(X) else X
        return self.matrix(X)

    def _check_names(self, X: pd.DataFrame) -> None:
        if self.names is not None:
            check_names([str(name).replace(" ", SPACE) for name in X.columns], self.names)
        check_count(X.shape[1], self.n_features)

    def _mapped(self, X: pd.DataFrame) -> dict[int, list[Any]]:
        """Which columns are turned into codes, and the categories of each.

        They are the columns that hold categories or text here or that the model treats as
        categories; where these do not fit, some of the latter were numbers in training.
        """
        wordy = {j for j in range(X.shape[1]) if _is_wordy(X.iloc[:, j])}
        blank = {j for j in range(X.shape[1]) if _is_blank(X.iloc[:, j])}
        known = wordy | set(self.categorical)
        for columns in map(sorted, (known, wordy, known | blank, wordy | blank)):
            mapped = dict(zip(columns, self.categories, strict=False))
            fits = all(self.largest[j] < len(mapped[j]) for j in mapped)
            if len(columns) == len(self.categories) and fits:
                return mapped
        found = [str(X.columns[j]) for j in sorted(wordy)]
        raise InputError(
            f"The model was trained with {len(self.categories)} columns of pandas' category "
            f"dtype, got {len(wordy)} that hold categories or text: {found[:20]}. Give each "
            "column the dtype it had in training."
        )


def _is_wordy(column: pd.Series) -> bool:
    """Whether a column holds categories or text, be it in pandas' own types or in Arrow's."""
    dtype = column.dtype
    if isinstance(dtype, pd.ArrowDtype):
        return not _is_number(dtype)
    if dtype == np.dtype(object):  # numbers or booleans where some are missing, or text
        return pd.api.types.infer_dtype(column, skipna=True) not in _NUMBERS
    return isinstance(dtype, pd.CategoricalDtype | pd.StringDtype)


def _is_blank(column: pd.Series) -> bool:
    """Whether a column could hold anything: objects of which all are missing here."""
    return column.dtype == np.dtype(object) and bool(column.isna().all())


def _is_number(dtype: Any) -> bool:
    return pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)


def _codes(column: pd.Series, categories: Sequence[Any]) -> Floats:
    """Positions in `categories` by value; NaN where missing or unseen, as LightGBM does."""
    if isinstance(column.dtype, pd.ArrowDtype):
        column = column.astype(object)
    place, found = pd.factorize(column)
    found = np.asarray(found, dtype=object)
    known = pd.Index(categories, dtype=object).get_indexer(pd.Index(found, dtype=object))
    strange = len(found) > 0 and len(categories) > 0 and bool((known < 0).all())
    if strange and _are_text(categories) != _are_text(found):
        raise InputError(
            f"Column {column.name!r} was trained with categories such as {categories[0]!r}, got "
            f"{found[0]!r}; none is known. Give the column the type it had in training."
        )
    known = np.append(known, -1)[place].astype(np.float64)  # place is -1 where missing
    known[known < 0] = np.nan
    return known


def _are_text(values: Sequence[Any] | NDArray[np.object_]) -> bool:
    return all(isinstance(value, str) for value in values)


def _numbers(column: pd.Series) -> Floats:
    readable = _is_number(column.dtype) or column.dtype == object
    try:
        if not readable or pd.api.types.is_complex_dtype(column.dtype):
            raise TypeError(f"its dtype is {column.dtype}")
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The model was trained with numbers in column {column.name!r}, but {error}."
        ) from error
