"""Features of a few rows as a page shows them, whatever the user holds his rows in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import issparse

from tree_influence.binning import categorical_columns
from tree_influence.rows import indexable, plain, shape, take
from tree_influence.run import TreeQueries, TreeRun

MOST_COLUMNS = 60
SAMPLE = 10_000  # training rows that the spread of a feature is taken from


@dataclass(frozen=True, eq=False)
class ShownFeatures:
    """The features of the rows shown.

    Attributes:
        train: Of some training rows, shape (n_rows, n_shown_features); None if they are unreadable.
        queries: Of some queries, with the same columns.
        spreads: Standard deviation of each over the training rows; NaN where it is no number.
        note: What is left out, and why; empty where nothing is.
    """

    train: pd.DataFrame | None
    queries: pd.DataFrame | None
    spreads: NDArray[np.float64] | None
    note: str


def shown_features(
    run: TreeRun, asked: TreeQueries, rows: NDArray[np.int64], queries: NDArray[np.int64]
) -> ShownFeatures:
    """Columns of some training rows and queries, those first that the trees split on most.

    Args:
        run: The traced model.
        asked: All queries.
        rows: Positions of the training rows.
        queries: Positions of the queries.
    """
    X, other = indexable(run.given.X), indexable(asked.given.X)
    every = np.unique(np.linspace(0, run.n_train - 1, SAMPLE).astype(np.int64))
    try:
        of_train, of_queries, sample = (
            _table(take(held, which), run.adapter.feature_names)
            for held, which in ((X, rows), (other, queries), (X, every))
        )
    except (TypeError, AttributeError, ValueError) as error:
        kind = type(X).__name__
        return ShownFeatures(
            None, None, None, f"No features: those of a {kind} cannot be shown ({error})."
        )
    chosen = _most_used(run, shape(X)[1])[:MOST_COLUMNS]
    unordered = _categories(run, shape(X)[1])
    spreads = np.array(
        [np.nan if f in unordered else _spread(sample.iloc[:, f]) for f in chosen.tolist()]
    )
    hidden = shape(X)[1] - len(chosen)
    note = f"{hidden:,} features are not shown, those that the trees use least." if hidden else ""
    return ShownFeatures(of_train.iloc[:, chosen], of_queries.iloc[:, chosen], spreads, note)


def _table(rows: Any, names: list[str] | None) -> pd.DataFrame:
    """A few rows as a DataFrame."""
    held: Any = plain(rows)
    if isinstance(held, pd.DataFrame):
        return held
    if hasattr(held, "get_features"):  # CatBoost's Pool
        held = held.get_features()
    values = held.toarray() if issparse(held) else np.asarray(held)
    if names is None or len(names) != values.shape[1]:
        names = [f"feature {i}" for i in range(values.shape[1])]
    return pd.DataFrame(values, columns=pd.Index(names))


def _most_used(run: TreeRun, n_columns: int) -> NDArray[np.int64]:
    """Columns by the number of splits on them, ties in their order; as given after a Pipeline."""
    if not _sees(run, n_columns):
        return np.arange(n_columns)
    ensemble = run.adapter.ensemble
    counts = np.bincount(ensemble.feature[ensemble.feature >= 0], minlength=n_columns)
    return np.argsort(-counts, kind="stable")


def _categories(run: TreeRun, n_columns: int) -> list[int]:
    """Columns of categories, as the model tells; those after a Pipeline only their dtype tells."""
    return categorical_columns(run.adapter) if _sees(run, n_columns) else []


def _sees(run: TreeRun, n_columns: int) -> bool:
    """Whether the trees see the columns as they are given, not what a Pipeline makes of them."""
    return run.prefix is None and run.adapter.ensemble.n_features == n_columns


def _spread(column: pd.Series) -> float:
    """Standard deviation of the finite values; NaN of what is no number."""
    if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
        return np.nan
    values = column.to_numpy(dtype=float, na_value=np.nan)
    finite = values[np.isfinite(values)]
    return float(finite.std()) if finite.size else np.nan
