"""Rows as users hold them: arrays, sparse matrices, and pandas, Arrow or polars tables.

Everything else sees them through these functions, a block of rows at a time, so that a table of
millions of rows is never copied as a whole. A container of a library's own that can be sliced
(CatBoost's Pool) passes through as it is.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import issparse

from influence.errors import InputError
from influence.run import blocks

BLOCK_BYTES = 64 * 2**20  # of a block of rows as float64


def indexable(X: Any) -> Any:
    """The same rows in a form whose blocks are alike.

    Lists become arrays and any sparse matrix CSR, which are quick to slice. Categories of Arrow and
    polars are settled for the whole table: their codes could differ from block to block.
    """
    if issparse(X):
        return X.tocsr()
    if isinstance(X, list | tuple):
        try:
            return np.asarray(X)
        except ValueError as error:
            raise InputError(
                f"Features must be rows of one length, but this {type(X).__name__} is none: "
                f"{error}. Make a table of it."
            ) from error
    if _library(X) == "pyarrow":
        return X.unify_dictionaries()
    return _with_settled_categories(X) if _library(X) == "polars" else X


def shape(X: Any) -> tuple[int, int]:
    """Number of rows and of columns.

    Raises:
        InputError: Not a table of two dimensions.
    """
    found = getattr(X, "shape", None)
    if found is None or len(found) != 2:
        raise InputError(
            f"Features must be a table of two dimensions, got {type(X).__name__} of shape "
            f"{found}; one row is X[[0]] or X.iloc[[0]]."
        )
    return int(found[0]), int(found[1])


def take(X: Any, rows: slice | NDArray[np.int64]) -> Any:
    """Some of the rows, in the form of X; a slice of an array or table is a view."""
    if isinstance(X, pd.DataFrame):
        return X.iloc[rows]
    library = _library(X)
    if library == "pyarrow":
        if isinstance(rows, slice):
            return X.slice(rows.start, rows.stop - rows.start)
        return X.take(rows)
    if library == "catboost":
        listed = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return X.slice(listed.tolist())
    return X[rows]


def plain(X: Any) -> Any:
    """A block as an adapter takes it: Arrow and polars as pandas, other types as they are."""
    if _library(X) in ("polars", "pyarrow"):
        return X.to_pandas()
    return X


def in_blocks(X: Any) -> Iterator[slice]:
    """Blocks of rows of bounded size."""
    n_rows, n_columns = shape(X)
    return blocks(n_rows, BLOCK_BYTES // (8 * max(1, n_columns)))


def _with_settled_categories(X: Any) -> Any:
    """A polars table with Enum in place of Categorical, in the order that pandas would have."""
    import polars

    settled = [
        polars.Series(name, X[name].cast(polars.String)).cast(
            polars.Enum(X[name].to_pandas().cat.categories.tolist())
        )
        for name, dtype in X.schema.items()
        if dtype == polars.Categorical
    ]
    return X.with_columns(settled)


def _library(X: Any) -> str:
    return type(X).__module__.split(".")[0]
