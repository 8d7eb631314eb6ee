"""`TopInfluence`: the strongest rows of each query, found without holding train x query."""

import os
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence import storage
from influence.errors import InputError
from influence.result import Provenance, check_k, ranking_frame
from influence.result_html import ranking_html, ranking_table
from influence.rounding import rounding_floor


@dataclass(frozen=True, eq=False, repr=False)
class TopInfluence:
    """The k strongest proponents and opponents of every query.

    Attributes:
        highest_rows: Positions of the rows of largest influence, shape (n_queries, k).
        highest: Their influence, strongest first, same shape.
        lowest_rows: Positions of the rows of smallest influence, shape (n_queries, k).
        lowest: Their influence, strongest first, same shape.
        train_index: Caller's labels of the training rows.
        query_index: Caller's labels of the queries.
        provenance: Method, parameters, unit, fingerprint, versions, measured errors.
    """

    highest_rows: NDArray[np.int64]
    highest: NDArray[np.float64]
    lowest_rows: NDArray[np.int64]
    lowest: NDArray[np.float64]
    train_index: pd.Index
    query_index: pd.Index
    provenance: Provenance

    def __repr__(self) -> str:
        n_queries, k = self.highest.shape
        return (
            f"<TopInfluence, top {k} of {len(self.train_index)} rows for {n_queries} queries; "
            f"{self.provenance.summary()}>"
        )

    def _repr_html_(self) -> str:
        n_queries, k = self.highest.shape
        table = ranking_table(
            (self.highest_rows, self.highest), (self.lowest_rows, self.lowest),
            self.train_index, self.query_index, self._floor,
        )  # fmt: skip
        title = f"Top {k} of {len(self.train_index)} rows for {n_queries} queries"
        return ranking_html(
            title, table, n_queries, self.provenance.summary(), self.provenance.unit
        )

    def proponents(self, k: int | None = None) -> pd.DataFrame:
        """The k most helpful rows of each query, strongest first; only positive influence.

        What is no more than rounding (`influence.rounding`) has no sign.

        Returns:
            Columns query and train (the caller's index labels), rank (from 1) and influence.
        """
        return self._ranking(self.highest_rows, self.highest, k, 1.0)

    def opponents(self, k: int | None = None) -> pd.DataFrame:
        """The k most harmful rows of each query, strongest first; only negative influence."""
        return self._ranking(self.lowest_rows, self.lowest, k, -1.0)

    def side(self, query: int, sign: float) -> list[tuple[int, float]]:
        """Positions of one query's rows of one sign with their influence, strongest first.

        What is no more than rounding has no sign.

        Args:
            query: Position of the query.
            sign: +1 for proponents, -1 for opponents.
        """
        rows, values = (
            (self.highest_rows, self.highest) if sign > 0 else (self.lowest_rows, self.lowest)
        )
        ranked = zip(rows[query].tolist(), values[query].tolist(), strict=True)
        return [(row, value) for row, value in ranked if sign * value > self._floor[query]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything to one file without pickle."""
        storage.write(
            path,
            "TopInfluence",
            asdict(self.provenance),
            highest_rows=self.highest_rows,
            highest=self.highest,
            lowest_rows=self.lowest_rows,
            lowest=self.lowest,
            train_index=self.train_index,
            query_index=self.query_index,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what `save` wrote."""
        header, arrays = storage.read(path, "TopInfluence")
        return cls(**arrays, provenance=Provenance(**header))

    @cached_property
    def _floor(self) -> NDArray[np.float64]:
        """Size up to which values are rounding, shape (n_queries,)."""
        return rounding_floor(
            self.highest.max(axis=1, initial=0.0), self.lowest.min(axis=1, initial=0.0)
        )

    def _ranking(
        self, rows: NDArray[np.int64], values: NDArray[np.float64], k: int | None, sign: float
    ) -> pd.DataFrame:
        held = int(rows.shape[1])
        wanted = held if k is None else k
        check_k(wanted)
        if wanted > held and held < len(self.train_index):
            raise InputError(
                f"This result holds the top {held} rows of each query, {wanted} were asked for; "
                f"call explain_top with k={wanted}."
            )
        there = sign * values[:, :wanted] > self._floor[:, None]
        return ranking_frame(
            rows[:, :wanted], values[:, :wanted], there, self.train_index, self.query_index
        )
