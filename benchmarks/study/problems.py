"""A data set cut into training rows, queries and held-out rows, all as numbers."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.study.scales import Scale

LEVELS = 20  # of a categorical column: its most frequent ones; all others share none
TRAIN = 0.8
VALIDATION = 0.1

Rows = tuple[NDArray[np.float64], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Problem:
    """One data set, cut by a seed.

    Attributes:
        name: Its name.
        task: "binary", "multiclass" or "regression".
        train: Features (n_train, n_features) and target (n_train,): classes as 0, 1, ..., numbers
            in standard deviations from the mean.
        queries: Rows that are explained one by one.
        validation: Rows whose influence is summed.
        scored: Rows on which that sum is judged.
    """

    name: str
    task: str
    train: Rows
    queries: Rows
    validation: Rows
    scored: Rows

    def corrupted(self, share: float, seed: int) -> tuple["Problem", NDArray[np.int64]]:
        """The same with a share of the training labels wrong, and the rows that are.

        Another class, or a number drawn evenly between the smallest and the largest target.
        """
        X, y = self.train
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(len(y), round(share * len(y)), replace=False))
        wrong = y.copy()
        if self.task == "regression":
            wrong[rows] = rng.uniform(y.min(), y.max(), len(rows))
        else:
            n_classes = int(y.max()) + 1
            wrong[rows] = (y[rows] + rng.integers(1, n_classes, len(rows))) % n_classes
        return replace(self, train=(X, wrong)), rows


def missing_data(name: str) -> str:
    """Why a data set is not at hand; empty where it is."""
    fetch = _fetch_module()
    if name not in fetch.data_sets():
        return "not in datasets/registry.toml"
    folder = os.environ.get("INFLUENCE_DATA")
    if fetch.find(name).bundled is not None:
        return ""
    if not folder:
        return "INFLUENCE_DATA is not set"
    path = Path(folder) / "datasets" / "tabular" / f"{name}.csv.gz"
    return "" if path.is_file() else f"not in the folder of INFLUENCE_DATA: {path.name}"


def load(name: str, scale: Scale, seed: int) -> Problem:
    """Fetches a data set and cuts it.

    Args:
        name: A name of datasets/registry.toml.
        scale: Sizes.
        seed: Seed of the cut.
    """
    fetch = _fetch_module()
    task = fetch.find(name).task
    table, target = fetch.fetch(name)
    order = np.random.default_rng(seed).permutation(len(target))
    n_train = round(TRAIN * len(order))
    train, held = order[:n_train][: scale.n_train], order[n_train:]
    queries, others = held[: scale.n_queries], held[scale.n_queries :]
    n_validation = min(scale.n_validation, max(1, round(VALIDATION * len(others))))
    scored = others[n_validation:][: scale.n_scored]
    X, y = _numbers(table, train), _target(target, task, train)
    cut = [(X[rows], y[rows]) for rows in (train, queries, others[:n_validation], scored)]
    return Problem(name, task, *cut)


def _numbers(table: pd.DataFrame, train: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numeric columns as they are, categorical ones a column for each frequent level."""
    columns = []
    for name in table.columns:
        column: Any = table[name]
        if column.dtype == "category":
            for level in column.iloc[train].value_counts().index[:LEVELS]:
                columns.append((column == level).to_numpy(dtype=np.float64))
        else:
            columns.append(column.to_numpy(dtype=np.float64))
    # As single precision holds them, so that every library sees the same numbers.
    return np.column_stack(columns).astype(np.float32).astype(np.float64)


def _target(target: pd.Series, task: str, train: NDArray[np.int64]) -> NDArray[Any]:
    if task == "regression":
        y = target.to_numpy(dtype=np.float64)
        return (y - y[train].mean()) / y[train].std()
    return np.unique(target.astype(str), return_inverse=True)[1].astype(np.int64)


def _fetch_module() -> Any:
    """datasets/ is no package: see its README."""
    folder = str(Path(__file__).parents[2] / "datasets")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import fetch  # type: ignore[import-not-found]

    return fetch
