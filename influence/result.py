"""`Influence`: the dense answer, and the provenance every answer carries."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence import storage
from influence.change import Change, removed_weight
from influence.errors import InputError
from influence.result_html import (
    SHOWN_QUERIES,
    SHOWN_ROWS,
    ranking_html,
    ranking_table,
    result_html,
)
from influence.rounding import rounding_floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGN = "positive = proponent: leaving the training row out raises the query's loss"


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from, and how far it can be trusted.

    Attributes:
        method: Name of the estimator.
        parameters: Its parameters.
        unit: "loss", "loss, up to scale" or "similarity".
        fingerprint: Hash of the model and its training data.
        run: Versions and measured errors of the run, as the run states them.
        sign: How to read the sign.
    """

    method: str
    parameters: Mapping[str, str | float | bool | None]
    unit: str
    fingerprint: str
    run: Mapping[str, str | float] = field(default_factory=dict)
    sign: str = SIGN

    @property
    def estimator(self) -> str:
        """The method with its parameters."""
        parameters = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"{self.method}({parameters})"

    def summary(self) -> str:
        """One line for a repr: method, unit, measured errors."""
        stated = [
            f"{name.replace('_', ' ')} {value if isinstance(value, str) else format(value, '.2g')}"
            for name, value in self.run.items()
            if isinstance(value, float) or "because" in name
        ]
        return "; ".join([self.estimator, f"unit: {self.unit}", *stated])


@dataclass(frozen=True, eq=False, repr=False)
class Influence:
    """Influence of every training row on every query.

    `values[i, j]` is the predicted change of query j's loss when training row i is left out:
    positive = proponent (the row helps the query), negative = opponent.

    Attributes:
        values: Shape (n_train, n_queries), in `provenance.unit`.
        train_index: Caller's labels of the training rows.
        query_index: Caller's labels of the queries.
        provenance: Method, parameters, unit, fingerprint, versions, measured errors.
    """

    values: NDArray[np.float64]
    train_index: pd.Index
    query_index: pd.Index
    provenance: Provenance

    def __post_init__(self) -> None:
        expected = (len(self.train_index), len(self.query_index))
        if self.values.shape != expected:
            raise InputError(f"values must have shape {expected}, got {self.values.shape}.")

    def __repr__(self) -> str:
        n_train, n_queries = self.values.shape
        return f"<Influence of {n_train} rows on {n_queries} queries; {self.provenance.summary()}>"

    def _repr_html_(self) -> str:
        n_train, n_queries = self.values.shape
        title = f"Influence of {n_train} rows on {n_queries} queries"
        shown = self.values[:, :SHOWN_QUERIES]
        try:
            sides = [strongest(shown, SHOWN_ROWS, sign) for sign in (1.0, -1.0)]
        except InputError as error:
            return result_html(title, str(error), self.provenance.summary())
        table = ranking_table(sides[0], sides[1], self.train_index, self.query_index, self._floor)
        return ranking_html(
            title, table, n_queries, self.provenance.summary(), self.provenance.unit
        )

    def proponents(self, k: int = 10) -> pd.DataFrame:
        """The k most helpful rows of each query, strongest first; only positive influence.

        What is no more than rounding (`influence.rounding`) has no sign.

        Returns:
            Columns query and train (the caller's index labels), rank (from 1) and influence.
        """
        return self._ranking(k, 1.0)

    def opponents(self, k: int = 10) -> pd.DataFrame:
        """The k most harmful rows of each query, strongest first; only negative influence."""
        return self._ranking(k, -1.0)

    def total(self) -> NDArray[np.float64]:
        """Sum over the queries, shape (n_train,)."""
        return self.values.sum(axis=1)

    def predict(self, change: Change) -> NDArray[np.float64]:
        """Effect of a change of row weights, sum_i (1 - r_i) values[i], shape (n_queries,)."""
        return removed_weight(change, self.values.shape[0]) @ self.values

    def to_frame(self) -> pd.DataFrame:
        """All values, training rows down, queries across."""
        return pd.DataFrame(self.values, index=self.train_index, columns=self.query_index)

    def plot(self, ax: "Axes | None" = None, query: int | None = None) -> "Axes":
        """How influence is spread over the rows, proponents and opponents apart.

        Args:
            ax: Axes to draw on.
            query: Position of one query; None draws the values of all together.

        Raises:
            InputError: No such query.
        """
        from influence.plotting import influence_distribution

        n_queries = self.values.shape[1]
        if query is not None and not 0 <= query < n_queries:
            raise InputError(f"query must lie between 0 and {n_queries - 1}, got {query}.")
        shown = self.values if query is None else self.values[:, query]
        return influence_distribution(shown, ax, unit=self.provenance.unit)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything to one file without pickle."""
        storage.write(
            path,
            "Influence",
            asdict(self.provenance),
            values=self.values,
            train_index=self.train_index,
            query_index=self.query_index,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what `save` wrote."""
        header, arrays = storage.read(path, "Influence")
        return cls(
            arrays["values"], arrays["train_index"], arrays["query_index"], Provenance(**header)
        )

    @cached_property
    def _floor(self) -> NDArray[np.float64]:
        """Size up to which values are rounding, shape (n_queries,)."""
        values = self.values
        return rounding_floor(values.max(axis=0, initial=0.0), values.min(axis=0, initial=0.0))

    def _ranking(self, k: int, sign: float) -> pd.DataFrame:
        rows, values = strongest(self.values, k, sign)
        there = sign * values > self._floor[:, None]
        return ranking_frame(rows, values, there, self.train_index, self.query_index)


def check_k(k: int) -> None:
    """How many rows to rank: a whole number from 1 on."""
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise InputError(f"k must be a whole number from 1 on, got {k!r}.")


def strongest(
    values: NDArray[np.float64], k: int, sign: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k largest `sign * values` of each column, ties to the lower row.

    Args:
        values: Shape (n_train, n_queries).
        k: How many; at most n_train are given.
        sign: +1 for the largest, -1 for the smallest.

    Returns:
        Rows and values, each of shape (n_queries, min(k, n_train)), strongest first.
    """
    check_k(k)
    n_train, n_queries = values.shape
    k = min(k, n_train)
    rows = np.empty((n_queries, k), dtype=np.int64)
    for j in range(n_queries):
        key = -sign * values[:, j]
        if not np.isfinite(key).all():
            raise InputError(f"The influence on query {j} is not finite, so it has no ranking.")
        bound = np.partition(key, k - 1)[k - 1]
        candidates = np.flatnonzero(key <= bound)  # ascending rows, so a stable sort breaks ties
        rows[j] = candidates[np.argsort(key[candidates], kind="stable")[:k]]
    return rows, values[rows, np.arange(n_queries)[:, None]]


def ranking_frame(
    rows: NDArray[np.int64],
    values: NDArray[np.float64],
    there: NDArray[np.bool_],
    train_index: pd.Index,
    query_index: pd.Index,
) -> pd.DataFrame:
    """A DataFrame of the ranked rows that are of the side asked for.

    Args:
        rows: Positions of training rows, shape (n_queries, k), strongest first.
        values: Their influence, same shape.
        there: Which of them are, same shape.
        train_index: Labels of the training rows.
        query_index: Labels of the queries.
    """
    query, place = np.nonzero(there)
    return pd.DataFrame(
        {
            "query": query_index[query],
            "rank": place + 1,
            "train": train_index[rows[query, place]],
            "influence": values[query, place],
        }
    )
