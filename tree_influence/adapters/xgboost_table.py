"""`Table`: the columns an XGBoost model was trained with, and rows turned into them.

XGBoost knows a category by its code. Since 3.1 a model also holds the names of the codes where it
was trained on a table, and rows are turned into codes by name here. Older models, and those
trained on codes, take codes; a column of pandas' category dtype stands for its own, as it does in
the library.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.core.dtypes.dtypes import CategoricalDtypeType
from scipy.sparse import issparse

from influence.errors import InputError
from tree_influence.adapters.columns import check_count, check_names

Codes = NDArray[np.float32]

_NO_CATEGORY = 2**24  # a code in no set, that XGBoost takes like a negative one


@dataclass(frozen=True, eq=False)
class Categories:
    """Names of the categories of one column, in the order of their codes.

    Up to 3.3 XGBoost counts a name's characters and cuts its bytes there, so that names which are
    not ASCII shift, and the last ones are lost.

    Attributes:
        names: Text or whole numbers; None where a name is lost.
        stored: The model's bytes and cuts of text, to recognise a list of names with lost ones.
    """

    names: list[str | int | None]
    stored: tuple[bytes, list[int]] | None = None

    def codes(self, column: pd.Series) -> Codes:
        """Codes of a column's values, NaN where missing, shape (n_rows,).

        Raises:
            InputError: A value is no category of the model, as the library refuses.
        """
        if isinstance(column.dtype, pd.CategoricalDtype):
            listed = column.cat.categories
            if self.stored is not None and _as_cut(listed) == self.stored:
                return _own_codes(column)
        place, found = pd.factorize(column)
        found = np.asarray(found, dtype=object).tolist()
        place_of = {name: code for code, name in enumerate(self.names) if name is not None}
        is_text = any(isinstance(name, str) for name in self.names)
        known = [place_of.get(_as_text(value) if is_text else value, -1) for value in found]
        if -1 in known:
            raise InputError(
                f"Column {column.name!r} holds {found[known.index(-1)]!r}, a category unseen in "
                f"training, which XGBoost refuses; the model knows {self.names[:20]}. Leave such "
                "rows out, or give the column the values it had in training."
                + (_LOST if None in self.names else "")
            )
        codes = np.append(np.asarray(known, dtype=np.float32), np.float32(np.nan))
        return codes[place]  # place is -1 where missing


_LOST = (
    " XGBoost 3.1 to 3.3 lose names that are not ASCII (None): give the column the very list of "
    "categories it had in training."
)


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of the training table.

    Attributes:
        names: Column names; None if the model knows none.
        is_categorical: Which columns are categories, shape (n_features,).
        categories: Categories of each of these columns that the model knows by name.
        missing: The value that stands for a missing one, besides NaN.
    """

    names: list[str] | None
    is_categorical: NDArray[np.bool_]
    categories: dict[int, Categories]
    missing: float

    def matrix(self, X: Any) -> NDArray[np.float32]:
        """Rows as the model compares them, categories as codes, shape (n_rows, n_features).

        Arrays of numbers hold codes already; tables, and arrays of objects, hold categories. What
        a sparse matrix does not store is missing; a zero that it stores is a zero.

        Raises:
            InputError: Other columns than in training, or values the model cannot read.
        """
        if isinstance(X, pd.DataFrame):
            if self.names is not None:
                check_names([_name_of(name) for name in X.columns], self.names)
            check_count(X.shape[1], len(self.is_categorical))
            matrix = self._stacked(X)
        elif issparse(X):
            check_count(X.shape[1], len(self.is_categorical))
            matrix = _dense(X)
        else:
            array = np.asarray(X)
            self._check_shape(array)
            matrix = _float32(array) if array.dtype.kind in "biuf" else None
            if matrix is None:
                matrix = self._stacked(pd.DataFrame(array).infer_objects())
        matrix[matrix == np.float32(self.missing)] = np.nan
        if np.isinf(matrix).any():
            row, column = np.argwhere(np.isinf(matrix))[0]
            raise InputError(
                f"XGBoost takes no infinite values, nor such beyond float32, but row {row} has "
                f"one in column {self.name(column)!r}. Make it finite, or NaN for missing."
            )
        codes = matrix[:, self.is_categorical]
        matrix[:, self.is_categorical] = np.where(codes < 0, _NO_CATEGORY, codes)
        return matrix

    def _check_shape(self, array: NDArray[Any]) -> None:
        if array.ndim != 2 or array.dtype.kind not in "biufO":
            raise InputError(
                "Features must be a two-dimensional array of numbers or a DataFrame, got shape "
                f"{array.shape} and dtype {array.dtype}."
            )
        check_count(array.shape[1], len(self.is_categorical))

    def _stacked(self, X: pd.DataFrame) -> NDArray[np.float32]:
        matrix = np.empty(X.shape, dtype=np.float32)
        for j in range(X.shape[1]):
            column = _plain(X.iloc[:, j])
            if j in self.categories:
                matrix[:, j] = self.categories[j].codes(column)
            elif self.is_categorical[j] and isinstance(column.dtype, pd.CategoricalDtype):
                matrix[:, j] = _own_codes(column)
            else:
                matrix[:, j] = _numbers(column, bool(self.is_categorical[j]))
        return matrix

    def name(self, column: int) -> str | int:
        """Name of a column, or its number where the model knows none."""
        return self.names[column] if self.names else column


def read_table(learner: dict[str, Any], version: tuple[int, ...], missing: float) -> Table:
    """The columns of a saved model.

    Args:
        learner: The model as JSON.
        version: Of the library that wrote the JSON.
        missing: The value that stands for a missing one.
    """
    n_features = int(learner["learner_model_param"]["num_feature"])
    types = learner.get("feature_types") or ["q"] * n_features
    booster = learner["gradient_booster"]
    told = booster.get("gbtree", booster)["model"].get("cats", {}).get("enc", [])
    named = {j: _read_categories(enc, version) for j, enc in enumerate(told) if enc["values"]}
    is_categorical = np.array([kind == "c" for kind in types])
    return Table(learner.get("feature_names") or None, is_categorical, named, missing)


def _read_categories(told: dict[str, Any], version: tuple[int, ...]) -> Categories:
    if "offsets" not in told:
        return Categories(list(told["values"]))
    cuts = told["offsets"]
    content = np.asarray(told["values"], dtype=np.int8).tobytes()
    text: str | bytes = content
    if not content.isascii() and version < (3, 4):
        text = content.decode("utf-8", errors="ignore")  # the cuts count characters
    names: list[str | int | None] = []
    for start, stop in pairwise(cuts):
        piece = text[start:stop]
        name = piece.decode("utf-8", errors="replace") if isinstance(piece, bytes) else piece
        names.append(name if stop <= len(text) else None)
    return Categories(names, (content, cuts))


def _as_cut(categories: pd.Index) -> tuple[bytes, list[int]] | None:
    """Names of categories as XGBoost 3.1 to 3.3 store them; None if they are no text."""
    names = list(categories)
    if not all(isinstance(name, str) for name in names):
        return None
    text = "".join(names)
    return text.encode()[: len(text)], [0, *np.cumsum([len(name) for name in names]).tolist()]


def _as_text(value: Any) -> str:
    """A category that a file may have turned into a number, as text again."""
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value) if whole else value)


def _name_of(label: Any) -> str:
    """A column's name as XGBoost keeps it; the levels of a MultiIndex are joined."""
    return " ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _own_codes(column: pd.Series) -> Codes:
    codes = np.asarray(column.cat.codes, dtype=np.float32)
    return np.where(codes < 0, np.float32(np.nan), codes)


def _dense(X: Any) -> NDArray[np.float32]:
    """A sparse matrix with NaN where it stores nothing."""
    matrix = np.full(X.shape, np.nan, dtype=np.float32)
    entries = X.tocoo()
    matrix[entries.coords] = _float32(entries.data)
    return matrix


def _plain(column: pd.Series) -> pd.Series:
    """A dictionary of Arrow, or a sparse column, as pandas' own kind of it."""
    if isinstance(column.dtype, pd.SparseDtype):
        return column.sparse.to_dense()
    if isinstance(column.dtype, pd.ArrowDtype) and column.dtype.type is CategoricalDtypeType:
        import pyarrow as pa

        return pd.Series(pa.chunked_array(pa.array(column.array)).to_pandas(), name=column.name)
    return column


def _numbers(column: pd.Series, are_codes: bool) -> NDArray[np.float32]:
    dtype = column.dtype
    try:
        if isinstance(dtype, pd.CategoricalDtype | pd.StringDtype) or dtype.kind not in "biufO":
            raise TypeError(f"its dtype is {dtype}")
        if isinstance(dtype, np.dtype) and dtype.kind != "O":
            return _float32(column.to_numpy())
        return column.to_numpy(dtype=np.float32, na_value=np.nan)
    except (TypeError, ValueError) as error:
        expected = "codes of categories, whose names it does not know," if are_codes else "numbers"
        raise InputError(
            f"The model was trained with {expected} in column {column.name!r}, but {error}."
        ) from error


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return array.astype(np.float32)
