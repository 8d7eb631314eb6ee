"""`LeafInfluence`: the derivative of the boosting on fixed structures, by one reverse sweep."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor, Relabels
from influence.change import Relabelled
from influence.errors import InputError
from tree_influence.labels import NewLabels, label_terms
from tree_influence.of_trees import OfTrees
from tree_influence.replay import Replay, RowTerms
from tree_influence.run import TreeQueries, TreeRun
from tree_influence.sweep import sweep

Floats = NDArray[np.float64]


class LeafInfluence(OfTrees, Attributor[TreeRun, TreeQueries], Relabels):
    """Influence through all leaf values of all rounds; structures and bias are held fixed.

    c = dL_q/dF at the final score, a_j = 0; for t = T..1:

        u_l  = c 1[q in l] + sum_{j in l} a_j
        I_j += u_{l(j)} eta (g_j + theta h~_j) / (H + lambda)
        a_j -= u_{l(j)} eta w_j (dg_j/dF + theta dh~_j/dF) / (H + lambda)

    and values[j, q] = w_j I_j, minus the derivative of the query's loss by row j's weight times
    the weight. Outputs of a softmax are coupled through p; the full leaf Hessian of CatBoost and
    its chain of Newton steps in one tree are differentiated as they are.

    predict(Relabelled(rows, labels)) is the sum over these rows of w_j I_j(y) - w'_j I_j(y'),
    where I_j(y) has g_j and h~_j at label y, with all else as trained: to first order in weights,
    the row left out with its label and added with the other one. Where g is linear in y and h~
    does not depend on it, that is y' - y times the derivative of the query's loss by the label.
    Class weights follow the label (w').

    Sign: positive = proponent. Unit: loss (first order).
    Cost: fit O(1); explain and a Relabelled O(T n) a query; self_influence O(T n^2) (use
    `BoostIn`'s on many rows).
    Wrong in that splits would change; on one row, the nonlinearity of leaving it out altogether:
    a row alone in its leaves without l2 has influence 0, since its weight cancels in their values,
    though leaving it out changes them.
    Refused where the leaves are not Newton values (`UnsupportedModelError`).

    Args:
        through: "all" rows pass on a row's influence to later rounds, or only the row "self".

    Reference: Sharchilev et al., "Finding Influential Training Samples for Gradient Boosted
    Decision Trees", ICML 2018 (LeafInfluence with the update sets AllPoints and SinglePoint; there
    forwards, O(T n^2) for all rows).
    """

    def __init__(self, through: Literal["all", "self"] = "all") -> None:
        if through not in ("all", "self"):
            raise InputError(f'through must be "all" or "self", got {through!r}.')
        self.through = through

    def _fit(self, run: TreeRun) -> None:
        _ = run.replay  # refuses here what cannot be answered

    def _add_columns(self, queries: TreeQueries, out: Floats) -> None:
        replay = self.run_.replay
        self._sweep(replay, replay.backwards(), queries, out)

    def _diagonal(self, train: TreeQueries, rows: slice) -> Floats:
        own = self.through == "self"
        replay = self.run_.replay.of_rows(rows) if own else self.run_.replay
        values = np.zeros((train.n_queries, len(replay.weight))).T
        self._sweep(replay, replay.backwards(), train, values)
        return np.diagonal(values if own else values[rows]).copy()

    def _relabelled(self, change: Relabelled, queries: TreeQueries) -> Floats:
        replay, new = self.run_.replay, NewLabels.of(change, self.run_)
        if len(new.rows) == 0:
            return np.zeros(queries.n_queries)
        if self.through == "self":
            replay, new = new.among(replay)
        values = np.zeros((queries.n_queries, len(replay.weight))).T
        self._sweep(replay, label_terms(replay, new), queries, values)
        return values[new.rows].sum(axis=0)

    def _bytes_per_value(self) -> int:
        return 8 * (2 + self.run_.replay.raw.shape[1])

    def _sweep(
        self, replay: Replay, terms: Iterator[RowTerms], queries: TreeQueries, values: Floats
    ) -> None:
        """Adds the values of the replay's rows to `values`, shape (n_rows, n_queries)."""
        raw = replay.raw_after(queries.leaves, queries.offset)
        pull = replay.recipe.loss.derivatives(queries.target, raw).gradient  # (n_queries, K)
        sweep(replay, terms, queries.leaves, pull, values, through_self=self.through == "self")
