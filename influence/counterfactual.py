"""`counterfactual`: the fewest training rows found without which a prediction would be another."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from influence.change import Without
from influence.checks import check_whole
from influence.errors import InputError, TooFewRowsError
from influence.ranking import Ranks, Rows, proponents_of
from influence.result_html import result_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Flips = Callable[[Without], ArrayLike]


@dataclass(frozen=True, eq=False, repr=False)
class Counterfactual:
    """A set of training rows, and whether the prediction is another without them.

    Attributes:
        query: Position of the query.
        rows: Positions of the rows, strongest first; where nothing flipped, those tried last.
        flipped: Whether really retraining without them changed the prediction.
        n_retrainings: Retrainings spent.
        tried: Sizes of the sets retrained, in order, and whether each flipped.
    """

    query: int
    rows: Rows
    flipped: bool
    n_retrainings: int
    tried: tuple[tuple[int, bool], ...]

    def __repr__(self) -> str:
        does = "flips" if self.flipped else "does not flip"
        return (
            f"<Counterfactual: query {self.query} {does} without {len(self.rows)} rows; "
            f"{self.n_retrainings} retrainings>"
        )

    def _repr_html_(self) -> str:
        which = "Positions of the rows, strongest first."
        return result_html(repr(self)[1:-1], which, self.to_frame())

    def to_frame(self) -> pd.DataFrame:
        """The rows and their ranks, from 1."""
        return pd.DataFrame({"rank": np.arange(1, len(self.rows) + 1), "train": self.rows})

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The sets that were tried: their sizes, in order, and whether they flipped."""
        from influence.plotting import counterfactual_search

        sizes, flipped = zip(*self.tried, strict=True)
        return counterfactual_search(np.array(sizes), np.array(flipped), ax)


def counterfactual(
    influence: Ranks,
    flips: Flips,
    query: int = 0,
    *,
    budget: int = 50,
    max_rows: int | None = None,
) -> Counterfactual:
    """Searches the fewest rows whose removal changes the prediction of a query.

    First the shortest prefix of the ranking that flips: its length is doubled until it does, then
    halved in between. That is the shortest wherever longer prefixes flip, too. Then each row of the
    prefix, weakest first, is put back where the prediction stays flipped without it. Every step
    really retrains, so a set that is reported as flipping does flip. Fewest of all sets it need not
    be: finding those takes all subsets.

    Args:
        influence: What ranks the rows: an `Influence` or `TopInfluence` explained with the
            model's own prediction as the truth, or values of shape (n_train, n_queries) or
            (n_train,), positive = speaks for the prediction. Only rows of positive influence are
            removed.
        flips: From a change to whether each query's prediction is another one than now, shape
            (n_queries,), e.g. `tree_influence.retrainer(...).flips`.
        query: Position of the query, in influence and in what `flips` returns.
        budget: How many retrainings it may take; the first step needs about 2 log2 of the size.
        max_rows: Largest set to try; None tries up to all rows of positive influence. Sets without
            which no model can be trained (a class is gone) do not flip, and no larger is tried.

    Raises:
        InputError: No such query, no row of positive influence, or a budget below 1.
    """
    check_whole("query", query)
    check_whole("budget", budget, 1)
    if max_rows is not None:
        check_whole("max_rows", max_rows, 1)
    rows = proponents_of(influence, query)[:max_rows]
    if not rows.size:
        raise InputError(
            f"Expected training rows of positive influence on query {query} to remove, found "
            "none. Explain the query with the model's own prediction as the truth."
        )
    trial = _Trial(flips, query, budget)
    with suppress(_BudgetSpentError):
        _find_prefix(rows, trial)
        for row in trial.found[-2::-1]:  # the prefix without its last row is known not to flip
            trial(trial.found[trial.found != row])
    return trial.result()


class _BudgetSpentError(Exception):
    """No retraining is left."""


class _Trial:
    """Retrains without sets of rows, within the budget, and keeps the smallest that flipped."""

    def __init__(self, flips: Flips, query: int, budget: int) -> None:
        self.flips, self.query, self.budget = flips, query, budget
        self.tried: list[tuple[int, bool]] = []
        self.last = self.found = np.empty(0, dtype=np.int64)

    def __call__(self, rows: Rows) -> bool:
        """Whether smaller sets should be tried."""
        if len(self.tried) == self.budget:
            raise _BudgetSpentError
        try:
            said = np.asarray(self.flips(Without(rows)))
        except TooFewRowsError:
            self.tried.append((len(rows), False))
            return True  # too many, so that the search goes on among smaller sets
        if said.ndim != 1 or said.dtype != bool or not 0 <= self.query < len(said):
            raise InputError(
                "Expected flips to return a boolean for each query, of shape (n_queries,) with "
                f"query {self.query} among them, got dtype {said.dtype} and shape {said.shape}."
            )
        flipped = bool(said[self.query])
        self.tried.append((len(rows), flipped))
        self.last = rows
        if flipped and (not self.found.size or len(rows) < len(self.found)):
            self.found = rows
        return flipped

    def result(self) -> Counterfactual:
        flipped = self.found.size > 0
        rows = self.found if flipped else self.last
        return Counterfactual(self.query, rows, flipped, len(self.tried), tuple(self.tried))


def _find_prefix(rows: Rows, flips: Callable[[Rows], bool]) -> None:
    """Tries prefixes: doubles the length until one flips, then halves what lies in between."""
    below, length = 0, 1
    while not flips(rows[:length]):
        if length == len(rows):
            return
        below, length = length, min(2 * length, len(rows))
    while length - below > 1:
        middle = (below + length) // 2
        if flips(rows[:middle]):
            length = middle
        else:
            below = middle
