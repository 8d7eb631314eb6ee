"""Features as a CatBoost model reads them: numbers in float32, categories by value."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import issparse

from influence.errors import InputError


def table_of(X: Any) -> pd.DataFrame:
    """Rows as a table; what a sparse matrix leaves out is 0, as CatBoost has it."""
    array = X.toarray() if issparse(X) else np.asarray(X)
    if array.ndim != 2 or array.dtype.kind not in "biufOU":
        raise InputError(
            "Expected features of shape (n_rows, n_features) holding numbers, strings or objects, "
            f"got shape {array.shape} and dtype {array.dtype}."
        )
    return pd.DataFrame(array, copy=False)


def numbers(table: pd.DataFrame) -> NDArray[np.float32]:
    """Numeric features in the precision CatBoost compares them in, missing values as NaN."""
    if len(set(table.dtypes)) == 1 and isinstance(table.dtypes.iloc[0], np.dtype):
        values = table.to_numpy(copy=False)
        if values.dtype.kind in "biuf":
            with np.errstate(over="ignore"):
                return values.astype(np.float32, copy=False)
    columns = []
    for name, column in table.items():
        try:
            if column.dtype.kind not in "biufO":
                raise TypeError(f"dtype {column.dtype} is not numeric")
            with np.errstate(over="ignore"):  # beyond float32 is infinite, there as here
                columns.append(column.to_numpy(dtype=np.float32, na_value=np.nan))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"Expected numbers in column {name!r}, got dtype {column.dtype} ({error}); the "
                "model was not trained with this column in cat_features."
            ) from error
    return np.column_stack(columns)


def categories(column: pd.Series) -> pd.Series:
    """A categorical column by value: CatBoost hashes 1 and "1" alike, and refuses 1.0 and NaN."""
    missing = column.isna().to_numpy()
    if missing.any():
        raise InputError(
            f"Expected a category in every row of column {column.name!r}, but row "
            f"{int(missing.argmax())} is missing, which CatBoost refuses; fill it as for training, "
            "e.g. fillna('nan'), on the command line --fill nan."
        )
    if isinstance(column.dtype, pd.ArrowDtype) and column.dtype.kind not in "biuf":
        return column.astype(object)
    categorical = isinstance(column.dtype, pd.CategoricalDtype)
    if (column.cat.categories if categorical else column).dtype.kind != "f":
        return column
    numbers = column.to_numpy(dtype=np.float64)
    if np.isinf(numbers).any() or (numbers != np.rint(numbers)).any():
        raise InputError(
            f"Expected strings or whole numbers in the categorical column {column.name!r}, got "
            "fractions, which CatBoost refuses; write them as strings, as for training."
        )
    return pd.Series(numbers.astype(np.int64), index=column.index, name=column.name)
