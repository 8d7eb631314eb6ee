"""What a page shows of an influence matrix, taken from its blocks without holding it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.base import Attributor, Estimator
from influence.errors import InputError
from influence.result import Influence, Provenance, check_k, strongest
from influence.run import Run
from influence.top import TopInfluence

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
RunT = TypeVar("RunT", bound=Run)


@runtime_checkable
class Explains(Protocol):
    """An estimator that has a value for every training row and query."""

    def explain(self, *queries: Any, progress: bool = True) -> Influence: ...


@dataclass(frozen=True, eq=False)
class Gathered:
    """The strongest rows of all queries, how the influence of some adds up, and sums over all.

    Attributes:
        top: The strongest rows of every query.
        shown: Positions of the queries to show, in the order of the page, shape (n_shown,).
        ranks: Numbers of rows that influence is added up to, shape (n_ranks,).
        helpful_sums: Sum of the so many largest positive values, shape (n_shown, n_ranks).
        harmful_sums: Sum of the so many smallest negative values, shape (n_shown, n_ranks).
        total: Sum over all queries, shape (n_train,).
    """

    top: TopInfluence
    shown: Positions
    ranks: Positions
    helpful_sums: Floats
    harmful_sums: Floats
    total: Floats

    def side(self, query: int, sign: float) -> list[tuple[int, float]]:
        """Training rows of one sign with their influence on a query, strongest first."""
        return self.top.side(query, sign)

    @property
    def rows(self) -> Positions:
        """All training rows that are shown with some query, ascending."""
        found = [row for q in self.shown for sign in (1.0, -1.0) for row, _ in self.side(q, sign)]
        return np.unique(np.array(found, dtype=np.int64))

    @property
    def limit(self) -> str:
        """What of the queries is shown; empty where all are."""
        n, shown = len(self.top.query_index), len(self.shown)
        if shown == n:
            return ""
        return f"{shown:,} of {n:,} queries are shown, those of largest loss; totals are over all."

    def suspects(self, own: Floats | None, n: int) -> Positions:
        """Training rows to list, most suspect first, and as many of the largest total among them.

        Args:
            own: Self-influence of every training row, which ranks them; None: the total does.
            n: How many.
        """
        rank = self.total if own is None else own
        strongest = np.argsort(-np.abs(self.total), kind="stable")[: n // 2]
        rows = np.union1d(np.argsort(-rank, kind="stable")[: n - n // 2], strongest)
        return rows[np.argsort(-rank[rows], kind="stable")]

    def about(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Method, parameters, unit and sign, facts of the run, versions and measured errors."""
        stated = self.top.provenance
        return {
            "method": stated.method,
            **{f"parameter {name}": value for name, value in stated.parameters.items()},
            "unit": stated.unit,
            "sign": stated.sign,
            **facts,
            **{name.replace("_", " "): value for name, value in stated.run.items()},
            "fingerprint": stated.fingerprint,
        }


def gather(
    blocks: Iterable[tuple[slice, Floats]],
    train_index: pd.Index,
    query_index: pd.Index,
    provenance: Provenance,
    *,
    shown: Positions,
    k: int,
) -> Gathered:
    """Goes through an influence matrix once, block by block of queries.

    Cost: O(n_train) for each query, and two sorts of its values for each that is shown.

    Args:
        blocks: Positions of some queries, and their values, shape (n_train, n_block).
        train_index: Labels of the training rows.
        query_index: Labels of the queries.
        provenance: Of the values.
        shown: Positions of the queries to show, in the order of the page.
        k: How many rows of each side to keep.
    """
    check_k(k)
    n_train, n_queries = len(train_index), len(query_index)
    ranks, total, held = _ranks(n_train), np.zeros(n_train), min(k, n_train)
    place = {int(query): at for at, query in enumerate(shown)}
    rows = np.zeros((2, n_queries, held), dtype=np.int64)
    values, sums = np.zeros((2, n_queries, held)), np.zeros((2, len(shown), len(ranks)))
    for block, columns in blocks:
        total += columns.sum(axis=1)
        for side, sign in enumerate((1.0, -1.0)):
            rows[side, block], values[side, block] = strongest(columns, held, sign)
            for query in range(block.start, block.stop):
                if query in place:
                    sums[side, place[query]] = _sums(columns[:, query - block.start], sign, ranks)
    top = TopInfluence(rows[0], values[0], rows[1], values[1], train_index, query_index, provenance)
    return Gathered(top, shown, ranks, sums[0], sums[1], total)


def asked_of(
    estimator: Any, queries: Sequence[Any], kind: type[RunT], package: str
) -> tuple[RunT, Any]:
    """The run of a fitted estimator, and the queries as it takes them.

    Args:
        estimator: What is to be reported on.
        queries: What its `explain` takes.
        kind: Of the runs that a page can be made of.
        package: Whose `trace` makes them.

    Raises:
        InputError: An estimator without `explain`, one of another kind of run, or no queries.
        NotFittedError: It is not fitted.
    """
    if not (isinstance(estimator, Estimator) and isinstance(estimator, Explains)):
        raise InputError(
            f"Expected an estimator of {package} with explain, got {type(estimator).__name__}; "
            "fit one that ranks the training rows of a query."
        )
    run: Any = estimator._fitted_run()
    if not isinstance(run, kind):
        raise InputError(
            f"Expected an estimator of a run made by {package}.trace, got one of a "
            f"{type(run).__name__}."
        )
    asked: Any = run.queries(*queries)
    if asked.n_queries == 0:  # a slice of examples that were checked before
        raise InputError("Expected queries to report on, got none; give at least one.")
    return run, asked


def blocks_of(
    estimator: Any, queries: Sequence[Any], progress: bool
) -> Iterable[tuple[slice, Floats]]:
    """The values of any estimator that explains, as `gather` takes them."""
    if isinstance(estimator, Attributor):
        return estimator.explain_blocks(*queries, progress=progress)
    values = estimator.explain(*queries, progress=progress).values
    return [(slice(0, values.shape[1]), values)]


def _ranks(n_train: int) -> Positions:
    """From 1 to all rows, evenly spaced in the logarithm."""
    return np.unique(np.geomspace(1, n_train, 40).round().astype(np.int64))


def _sums(column: Floats, sign: float, ranks: Positions) -> Floats:
    """Sums of the strongest values of one sign, at each rank."""
    of_side = np.sort(np.maximum(sign * column, 0.0))[::-1]
    return sign * np.cumsum(of_side)[ranks - 1]
