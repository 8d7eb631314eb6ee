"""Synthetic tables whose truth is known: planted wrong labels, missing values, categories."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

N_CLASSES = {"binary": 2, "multiclass": 3}


@dataclass(frozen=True, eq=False)
class PlantedTable:
    """A table and what was done to it.

    Attributes:
        X: Features: columns n0, n1 ... numeric, c0, c1 ... of category dtype, both with missing
            values; shape (n_rows, n_numeric + n_categorical).
        y: Target as a model is to be trained on it, shape (n_rows,).
        true_y: Target before labels were made wrong, shape (n_rows,).
        wrong: Positions of the rows whose label is wrong, ascending.
    """

    X: pd.DataFrame
    y: pd.Series
    true_y: pd.Series
    wrong: NDArray[np.int64]


def planted_table(
    n_rows: int,
    *,
    seed: int,
    task: Literal["binary", "multiclass", "regression"] = "binary",
    n_numeric: int = 6,
    n_categorical: int = 2,
    missing: float = 0.05,
    wrong: float = 0.1,
) -> PlantedTable:
    """A table with a learnable target, of which a share of the labels is wrong.

    Args:
        n_rows: Number of rows.
        seed: Seed of everything drawn; the same arguments give the same table.
        task: Classes 0, 1 (and 2), or a real target.
        n_numeric: Number of numeric columns, at least 1.
        n_categorical: Number of categorical columns of five categories, a to e.
        missing: Share of the cells that are missing, at random.
        wrong: Share of the rows whose label is wrong: another class, or a target moved by three
            standard deviations.
    """
    if n_numeric < 1 or not (0 <= missing < 1 and 0 <= wrong < 1):
        raise ValueError(
            f"n_numeric must be at least 1, missing and wrong shares in [0, 1); got {n_numeric}, "
            f"{missing} and {wrong}."
        )
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(n_rows, n_numeric))
    codes = rng.integers(5, size=(n_rows, n_categorical))
    true_y = _target(numeric, codes, task, rng)
    picked = np.sort(rng.choice(n_rows, size=round(wrong * n_rows), replace=False))
    y = true_y.copy()
    y[picked] = _wrong_labels(true_y, picked, task, rng)
    X = _frame(numeric, codes, missing, rng)
    return PlantedTable(X, pd.Series(y, name="y"), pd.Series(true_y, name="y"), picked)


def _target(
    numeric: NDArray[np.float64], codes: NDArray[np.int64], task: str, rng: np.random.Generator
) -> NDArray[Any]:
    """A step, a slope, an interaction and the parity of the categories, with a little noise."""
    raw = 2.0 * (numeric[:, 0] > 0) + numeric[:, -1] + numeric[:, 0] * numeric[:, -1]
    raw = raw + (codes % 2).sum(axis=1) + rng.normal(scale=0.1, size=len(raw))
    if task == "regression":
        return raw
    bounds = np.quantile(raw, np.arange(1, N_CLASSES[task]) / N_CLASSES[task])
    return np.searchsorted(bounds, raw)


def _wrong_labels(
    true_y: NDArray[Any], rows: NDArray[np.int64], task: str, rng: np.random.Generator
) -> NDArray[Any]:
    if task == "regression":
        return true_y[rows] + 3.0 * true_y.std() * rng.choice([-1.0, 1.0], size=len(rows))
    n_classes = N_CLASSES[task]
    return (true_y[rows] + rng.integers(1, n_classes, size=len(rows))) % n_classes


def _frame(
    numeric: NDArray[np.float64],
    codes: NDArray[np.int64],
    missing: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    n_rows = len(numeric)
    numeric = np.where(rng.random(numeric.shape) < missing, np.nan, numeric)
    codes = np.where(rng.random(codes.shape) < missing, -1, codes)
    columns: dict[str, pd.Series] = {
        f"n{i}": pd.Series(column) for i, column in enumerate(numeric.T)
    }
    for i in range(codes.shape[1]):
        letters = pd.Categorical.from_codes(codes[:, i], categories=list("abcde"))
        columns[f"c{i}"] = pd.Series(letters)
    return pd.DataFrame(columns, index=pd.RangeIndex(n_rows))
