"""`Features`: what rows look like to methods that compare inputs, whatever table they come in."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from influence.errors import InputError
from tree_influence.reading import transformed
from tree_influence.rows import indexable, plain

Floats = NDArray[np.float64]

UNSEEN = -2  # a level no training row has; a missing level is -1


@dataclass(frozen=True, eq=False)
class Features:
    """Rows in standard units: numbers of mean 0 and variance 1, and codes of levels.

    Attributes:
        numbers: Shape (n_rows, n_numbers), an array or a scipy CSR matrix; missing values are 0,
            which is the mean.
        codes: Levels of the columns that are no numbers, shape (n_rows, n_codes).
        code_scale: 1 / variance of each one-hot coded column as a whole, shape (n_codes,): two
            random rows differ in it by as much as in a number, 2 in squares.
    """

    numbers: Any
    codes: NDArray[np.int64]
    code_scale: Floats

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(self.numbers[rows], self.codes[rows], self.code_scale)

    def squares(self) -> Floats:
        """Squared length of each row, levels one-hot coded, shape (n_rows,)."""
        own = self.numbers
        numbers = own.multiply(own).sum(axis=1) if issparse(own) else (own**2).sum(axis=1)
        return np.asarray(numbers, dtype=np.float64).ravel() + self.code_scale.sum()

    def squared_distances(self, other: Self) -> Floats:
        """Squared distance of each row to each other's, shape (n_rows, n_others).

        Each pair by itself, so that the rows beside it change no bit.
        """
        distances: Any
        if issparse(self.numbers):
            products = (self.numbers @ other.numbers.T).toarray()
            both = self.squares()[:, None] + other.squares() - 2 * self.code_scale.sum()
            distances = np.maximum(both - 2 * products, 0.0)
        else:
            from scipy.spatial.distance import cdist

            distances = cdist(self.numbers, other.numbers, "sqeuclidean")
        for c, scale in enumerate(self.code_scale):
            distances += 2 * scale * (self.codes[:, c, None] != other.codes[:, c])
        return distances


@dataclass(frozen=True, eq=False)
class Scale:
    """How features are brought to standard units, learned of the training rows.

    Attributes:
        prefix: Fitted earlier steps of a Pipeline, or None.
        columns: All columns of a table; None of an array or sparse matrix.
        sparse: Whether rows are kept sparse.
        names: Columns of numbers; None where all are.
        mean: Mean of each number, shape (n_numbers,); 0 for sparse rows, which stay sparse.
        factor: 1 / standard deviation of each, shape (n_numbers,); 0 where it is constant.
        levels: Column and levels of each column that is no number.
        code_scale: As `Features` has it.
    """

    prefix: Any
    columns: pd.Index | None
    sparse: bool
    names: list[Any] | None
    mean: Floats
    factor: Floats
    levels: list[tuple[Any, pd.Index]]
    code_scale: Floats

    @classmethod
    def of(cls, X: Any, prefix: Any) -> Self:
        """Learns from training rows.

        Args:
            X: Rows as the user gave them.
            prefix: Fitted earlier steps of a Pipeline, or None.

        Raises:
            InputError: The rows are in a container that gives no features back.
        """
        table = _table(X, prefix)
        if not isinstance(table, pd.DataFrame):
            mean, factor = _moments(table)
            return cls(prefix, None, issparse(table), None, mean, factor, [], np.empty(0))
        names = [name for name in table.columns if _is_number(table[name])]
        mean, factor = _moments(_as_floats(table[names]))
        levels, scales = [], []
        for name in table.columns.difference(names, sort=False):
            counts = table[name].astype(object).value_counts(dropna=False)
            share = counts.to_numpy() / len(table)
            variance = 1 - (share**2).sum()
            levels.append((name, counts.index[counts.index.notna()]))
            scales.append(1 / variance if len(counts) > 1 else 0.0)
        columns, code_scale = table.columns, np.array(scales)
        return cls(prefix, columns, False, names, mean, factor, levels, code_scale)

    def read(self, X: Any) -> Features:
        """Rows in standard units."""
        table = self._as_in_training(_table(X, self.prefix))
        codes = np.empty((table.shape[0], len(self.levels)), dtype=np.int64)
        for c, (name, levels) in enumerate(self.levels):
            column = table[name].astype(object)
            found = levels.get_indexer(pd.Index(column))
            codes[:, c] = np.where(column.isna(), -1, np.where(found < 0, UNSEEN, found))
        numbers = table if self.names is None else _as_floats(table[self.names])
        if issparse(numbers):
            return Features((numbers @ _diagonal(self.factor)).tocsr(), codes, self.code_scale)
        scaled = (numbers - self.mean) * self.factor
        return Features(np.where(np.isfinite(scaled), scaled, 0.0), codes, self.code_scale)

    def _as_in_training(self, table: Any) -> Any:
        """Rows in the form the training rows had; columns are known by their places."""
        if issparse(table) and not self.sparse:
            table = table.toarray()
        if self.columns is not None:
            return pd.DataFrame(table).set_axis(self.columns, axis=1)
        if isinstance(table, pd.DataFrame):
            table = _as_floats(table)
        return _finite_csr(table) if self.sparse else table


def _table(X: Any, prefix: Any) -> Any:
    """A CSR matrix or array of floats, or a table with columns of other kinds."""
    given = indexable(X) if prefix is None else transformed(prefix.transform, X)
    rows = plain(given)
    if issparse(rows):
        return _finite_csr(rows)
    if isinstance(rows, pd.DataFrame):
        return rows
    if not isinstance(rows, np.ndarray):
        raise InputError(
            f"Expected rows whose features can be compared, got a {type(rows).__module__}."
            f"{type(rows).__name__} with categories, texts or embeddings, which gives none back. "
            "Trace the model with the table it was made of, and ask with such a table."
        )
    if rows.dtype.kind in "biuf":
        return rows.astype(np.float64)
    return pd.DataFrame(rows).infer_objects()


def _finite_csr(rows: Any) -> Any:
    """Rows as a CSR matrix of floats; missing cells are 0."""
    finite = csr_matrix(rows, dtype=np.float64, copy=True)
    finite.data = np.where(np.isfinite(finite.data), finite.data, 0.0)
    return finite


def _is_number(column: Any) -> bool:
    return column.dtype.kind in "biuf" and not isinstance(column.dtype, pd.CategoricalDtype)


def _as_floats(table: Any) -> Floats:
    return table.to_numpy(dtype=np.float64, na_value=np.nan)


def _moments(numbers: Any) -> tuple[Floats, Floats]:
    """What to subtract from each column, and what to multiply it by."""
    if issparse(numbers):
        mean = np.asarray(numbers.mean(axis=0)).ravel()
        variance = np.asarray(numbers.multiply(numbers).mean(axis=0)).ravel() - mean**2
        varies = variance > 1e-12 * mean**2
        return np.zeros_like(mean), _inverse(np.sqrt(np.where(varies, variance, 0.0)))
    finite = np.where(np.isfinite(numbers), numbers, np.nan)
    known = np.isfinite(finite).any(axis=0)
    mean = np.zeros(finite.shape[1])
    spread = np.zeros(finite.shape[1])
    mean[known] = np.nanmean(finite[:, known], axis=0)
    spread[known] = np.nanstd(finite[:, known], axis=0)
    return mean, _inverse(np.where(spread > 1e-12 * np.abs(mean), spread, 0.0))


def _inverse(spread: Floats) -> Floats:
    return np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)


def _diagonal(factor: Floats) -> Any:
    from scipy.sparse import diags

    return diags(factor)
