"""`Bins`: training rows and queries as small bin numbers, whatever table the model takes.

| bin | holds |
|---|---|
| 0 .. n - 1 | values up to an edge, in order; or one category each, the most frequent first |
| n          | missing values, and categories that are rare or were not there in training |

with n the bins of that column, at most 254.

A column that no number or category fills (texts, embeddings) has bin 0 in every row, so no split
of it is ever a candidate.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.errors import NotYetSupportedError
from tree_influence.adapters.base import Adapter
from tree_influence.reading import feature_blocks
from tree_influence.rows import shape, take
from tree_influence.run import TreeRun

Floats = NDArray[np.float64]

N_BINS = 128  # of numbers
MOST_CATEGORIES = 254
SAMPLE = 200_000  # rows, evenly spaced, that edges are found from


@dataclass(frozen=True, eq=False)
class Bins:
    """How the columns of a model's rows fall into bins.

    Attributes:
        adapter: The model.
        prefix: Fitted earlier steps of a Pipeline, or None.
        columns: For each column, the ascending upper edges of all bins but the last, or the
            categories by bin.
        counts: Bins of each column besides that of missing values, shape (n_features,).
        categorical: Whether a column's bins have no order, shape (n_features,).
    """

    adapter: Adapter
    prefix: Any
    columns: list[Floats | pd.Index]
    counts: NDArray[np.int64]
    categorical: NDArray[np.bool_]

    @classmethod
    def of_run(cls, run: TreeRun) -> Self:
        """Bins of the columns of the training rows that have any weight.

        Raises:
            NotYetSupportedError: The rows are in a container that does not give them back.
        """
        adapter = run.adapter
        n_features = adapter.ensemble.n_features
        rows = np.flatnonzero(run.weight > 0)
        rows = rows[:: -(-len(rows) // SAMPLE)]
        sampled = [
            take(
                _readable(features),
                rows[slice(*np.searchsorted(rows, [block.start, block.stop]))] - block.start,
            )
            for block, features in feature_blocks(adapter, run.prefix, run.X)
        ]
        categorical = np.zeros(n_features, dtype=bool)
        categorical[categorical_columns(adapter)] = True
        columns: list[Floats | pd.Index] = []
        for f in range(n_features):
            parts = [_column(features, f) for features in sampled]
            if f in adapter.unordered:
                columns.append(np.zeros(0))
            elif categorical[f]:
                columns.append(_categories(pd.concat(parts)))
            else:
                columns.append(_edges(pd.concat(parts).to_numpy(dtype=np.float64, na_value=np.nan)))
        counts = np.array([len(c) + (not isinstance(c, pd.Index)) for c in columns])
        return cls(adapter, run.prefix, columns, counts, categorical)

    def of(self, X: Any) -> NDArray[np.uint8]:
        """Bin of each value, shape (n_features, n_rows).

        Args:
            X: Rows as the user gives them.
        """
        out = np.zeros((len(self.columns), shape(X)[0]), dtype=np.uint8)
        for block, features in feature_blocks(self.adapter, self.prefix, X):
            table = _readable(features)
            for f, known in enumerate(self.columns):
                if f not in self.adapter.unordered:
                    out[f, block] = _bin(_column(table, f), known)
        return out


def _readable(features: Any) -> Any:
    if isinstance(features, np.ndarray | pd.DataFrame):
        return features
    raise NotYetSupportedError(
        f"Expected rows whose values can be read, but this {type(features).__name__} holds "
        "categories, texts or embeddings and gives none back. Trace the model with the table that "
        "it was made of, and ask it of a table."
    )


def _column(features: Any, f: int) -> pd.Series:
    return features.iloc[:, f] if isinstance(features, pd.DataFrame) else pd.Series(features[:, f])


def categorical_columns(adapter: Adapter) -> list[int]:
    """Columns that a model takes for categories, as far as it tells."""
    if adapter.categorical is not None:
        return list(adapter.categorical)
    ensemble = adapter.ensemble
    return np.unique(ensemble.feature[ensemble.category_start >= 0]).tolist()


def _edges(values: Floats) -> Floats:
    """Midpoints between few values, else quantiles of the different ones."""
    unique = np.unique(values[~np.isnan(values)])
    if len(unique) <= N_BINS:
        return (unique[1:] + unique[:-1]) / 2
    inner = np.linspace(0, 1, N_BINS + 1)[1:-1]
    return np.unique(np.nanquantile(values, inner, method="lower"))


def _categories(values: pd.Series) -> pd.Index:
    """The categories by falling frequency; among equally frequent ones in the order of names."""
    counts = values.astype(object).value_counts()
    order = sorted(counts.index, key=lambda category: (-counts[category], str(category)))
    return pd.Index(order[:MOST_CATEGORIES], dtype=object)


def _bin(values: pd.Series, known: Floats | pd.Index) -> NDArray[np.uint8]:
    if isinstance(known, pd.Index):
        found = known.get_indexer(pd.Index(values.astype(object)))
        return np.where(found < 0, len(known), found).astype(np.uint8)
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    found = np.searchsorted(known, numbers, side="left")
    return np.where(np.isnan(numbers), len(known) + 1, found).astype(np.uint8)
