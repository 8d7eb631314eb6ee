"""Tables and targets of the zoo, in every form users hold them.

Columns: two of real numbers, one of small whole numbers, one of many zeros, and for the kinds that
say so a column of categories; where a kind has missing values, a tenth of the first and third.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

NAMES = ["a", "b", "whole", "zeros"]
CITIES = ["Bern", "Oslo", "Riga", "Ulm", "Rom"]


@dataclass(frozen=True)
class Table:
    """A drawn table.

    Attributes:
        X: In the form of its kind.
        score: What the target is made of, (n_rows,).
        has_categories: One column holds categories.
    """

    X: Any
    score: np.ndarray
    has_categories: bool


def _numbers(rng, n, missing=False):
    X = np.column_stack(
        [
            rng.normal(size=n).round(2),
            rng.normal(size=n).round(3),
            rng.integers(-3, 4, n),
            np.where(rng.random(n) < 0.6, 0, rng.normal(size=n).round(1)),
        ]
    ).astype(np.float64)
    score = X[:, 0] + X[:, 1] * (X[:, 2] > 0) + 0.5 * X[:, 3] + 0.4 * rng.normal(size=n)
    if missing:
        hidden = rng.random((n, 4)) < np.array([0.1, 0, 0.1, 0])
        X[hidden] = np.nan
    return X, score


def _frame(rng, n, missing=False):
    X, score = _numbers(rng, n, missing)
    return pd.DataFrame(X, columns=NAMES), score


def _with_city(frame, score, rng):
    city = rng.choice(CITIES, len(frame), p=[0.3, 0.3, 0.2, 0.15, 0.05])
    return frame.assign(city=pd.Categorical(city, categories=CITIES)), score + (city == "Oslo")


def _nullable(frame):
    return frame.assign(
        a=frame["a"].astype("Float64"), whole=frame["whole"].astype("Int64"),
        zeros=frame["zeros"].astype("Float32"),
    )  # fmt: skip


def _arrow_dtypes(frame):
    import pyarrow as pa

    return frame.assign(
        a=frame["a"].astype(pd.ArrowDtype(pa.float64())),
        whole=frame["whole"].astype("Int64").astype(pd.ArrowDtype(pa.int32())),
    )


def _polars(frame):
    """Categories as Enum: since 3.3 XGBoost refuses polars' Categorical."""
    import polars

    columns = frame.select_dtypes("category").columns
    enums = {name: polars.Enum(frame[name].cat.categories.tolist()) for name in columns}
    return polars.from_pandas(frame).cast(enums)


def _arrow(frame):
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False)


def _plain(form: Callable[[Any], Any], missing: bool, frame: bool = False):
    def make(rng, n):
        X, score = (_frame if frame else _numbers)(rng, n, missing)
        return Table(form(X), score, has_categories=False)

    return make


def _categorical(form: Callable[[pd.DataFrame], Any], missing: bool):
    def make(rng, n):
        frame, score = _with_city(*_frame(rng, n, missing), rng)
        return Table(form(frame), score, has_categories=True)

    return make


def same(X: Any) -> Any:
    return X


KINDS: dict[str, Callable[[np.random.Generator, int], Table]] = {
    "array": _plain(same, missing=False),
    "array, missing values": _plain(same, missing=True),
    "float32 array": _plain(lambda X: X.astype(np.float32), missing=True),
    "integer array": _plain(lambda X: (10 * X).astype(np.int32), missing=False),
    "object array": _plain(lambda X: X.astype(object), missing=False),
    "pandas": _plain(same, missing=True, frame=True),
    "pandas, no missing values": _plain(same, missing=False, frame=True),
    "pandas, nullable dtypes": _plain(_nullable, missing=True, frame=True),
    "pandas, Arrow dtypes": _plain(_arrow_dtypes, missing=True, frame=True),
    "pandas, categories": _categorical(same, missing=True),
    "Arrow table": _plain(_arrow, missing=True, frame=True),
    "Arrow table, categories": _categorical(_arrow, missing=True),
    "polars": _plain(_polars, missing=True, frame=True),
    "polars, categories": _categorical(_polars, missing=True),
    "scipy CSR": _plain(scipy.sparse.csr_matrix, missing=False),
    "scipy CSC": _plain(scipy.sparse.csc_array, missing=False),
    # The library's own Dataset, DMatrix or Pool; the library's `train` makes it of an array.
    "container": _plain(same, missing=True),
    "container, starting scores": _plain(same, missing=True),
}

TARGETS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "real": lambda score, rng: score,
    "positive": lambda score, rng: np.exp(score / 2) + 0.01,
    "count": lambda score, rng: rng.poisson(np.exp(score / 2)).astype(float),
    "share": lambda score, rng: 1 / (1 + np.exp(-score)),
    "binary": lambda score, rng: (score > 0).astype(float),
    "three classes": lambda score, rng: np.digitize(score, [-0.6, 0.6]).astype(float),
    "two targets": lambda score, rng: np.column_stack([score, score**2]),
}


def labels(target: np.ndarray, kind: str) -> np.ndarray:
    """A target as users write it: words for three classes, whole numbers for two."""
    if kind == "three classes":
        return np.array(["low", "mid", "top"])[target.astype(int)]
    return target.astype(int) if kind == "binary" else target


def draw(kind: str, target: str, n: int, seed: int) -> tuple[Table, np.ndarray, np.ndarray]:
    """A table, its target in numbers, and row weights."""
    rng = np.random.default_rng([seed, 17])
    table = KINDS[kind](rng, n)
    y = TARGETS[target](table.score, rng)
    if target in ("binary", "three classes"):
        y[: 3 if target == "three classes" else 2] = np.arange(3 if target != "binary" else 2)
    return table, y, rng.uniform(0.3, 2.0, n)


def split(X: Any, n_train: int) -> tuple[Any, Any]:
    """The first rows and the others, in the form of X."""
    kind = type(X).__module__.split(".")[0]
    if kind == "pandas":
        return X.iloc[:n_train], X.iloc[n_train:]
    if kind == "pyarrow":
        return X.slice(0, n_train), X.slice(n_train)
    if kind == "scipy":
        rows = X.tocsr()
        return (
            rows[:n_train].asformat(X.format),
            rows[n_train:].asformat(X.format),
        )
    return X[:n_train], X[n_train:]


def to_pandas(X: Any) -> Any:
    """What a library that reads neither Arrow nor polars is trained on."""
    if type(X).__module__.split(".")[0] in ("pyarrow", "polars"):
        return X.to_pandas()
    return X
