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


def credit_table(n_rows: int, *, seed: int, wrong: float = 0.08) -> PlantedTable:
    """Made-up loan applicants, of which a share is filed under the wrong outcome.

    Who defaults follows from the instalment's share of the income, late payments, the balance of
    the account, years in the job and other loans, and from some luck; the purpose, the housing and
    the age play no part.

    Args:
        n_rows: Number of applicants.
        seed: Seed of everything drawn; the same arguments give the same table.
        wrong: Share of the rows whose outcome is the other one, at random.

    Returns:
        A table of ten named columns, and "repaid" or "default", three in ten of them defaults.
    """
    if not 0 <= wrong < 1:
        raise ValueError(f"wrong must be a share in [0, 1); got {wrong}.")
    rng = np.random.default_rng(seed)
    age = rng.integers(21, 71, n_rows)
    income = np.round(rng.lognormal(7.7, 0.4, n_rows), -1)
    months = rng.choice([12, 18, 24, 36, 48, 60], n_rows)
    amount = np.round(rng.lognormal(8.3, 0.6, n_rows), -2)
    job_years = np.minimum(rng.geometric(0.15, n_rows) - 1, age - 18)
    late, loans = rng.poisson(0.7, n_rows), rng.integers(0, 4, n_rows)
    account, purpose, housing = (rng.integers(n, size=n_rows) for n in (4, 5, 3))
    burden = amount / months / income
    risk = 12.0 * burden + 1.1 * late - 0.12 * np.minimum(job_years, 10) + 0.5 * loans
    risk += np.array([1.5, 0.4, 0.0, -1.0])[account] + rng.normal(scale=0.3, size=n_rows)
    true_y = np.where(risk > np.quantile(risk, 0.7), "default", "repaid").astype(object)
    picked = np.sort(rng.choice(n_rows, size=round(wrong * n_rows), replace=False))
    y = true_y.copy()
    y[picked] = np.where(true_y[picked] == "repaid", "default", "repaid")
    known = {
        "age": age, "income": np.where(rng.random(n_rows) < 0.05, np.nan, income),
        "amount": amount, "months": months, "job_years": job_years, "late_payments": late,
        "other_loans": loans, "account": _named(account, "overdrawn low none savings"),
        "purpose": _named(purpose, "car furniture education business holiday"),
        "housing": _named(housing, "rents owns free"),
    }  # fmt: skip
    outcome, truth = pd.Series(y, name="outcome"), pd.Series(true_y, name="outcome")
    return PlantedTable(pd.DataFrame(known), outcome, truth, picked)


def _named(codes: NDArray[np.int64], names: str) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, categories=names.split())
