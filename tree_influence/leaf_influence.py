"""`LeafInfluence`: the derivative of the boosting on fixed structures, by one reverse sweep."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor
from influence.errors import InputError
from influence.run import blocks
from tree_influence import sweep_kernels
from tree_influence.kernels import in_threads, n_threads
from tree_influence.replay import RowTerms
from tree_influence.run import TreeQueries, TreeRun, trace

Floats = NDArray[np.float64]

VECTOR = 32  # queries swept side by side, at most
LANES = 8  # of which whole vectors are made


class LeafInfluence(Attributor[TreeRun, TreeQueries]):
    """Influence through all leaf values of all rounds; structures and bias are held fixed.

    c = dL_q/dF at the final score, a_j = 0; for t = T..1:

        u_l  = c 1[q in l] + sum_{j in l} a_j
        I_j += u_{l(j)} eta (g_j + theta h~_j) / (H + lambda)
        a_j -= u_{l(j)} eta w_j (dg_j/dF + theta dh~_j/dF) / (H + lambda)

    and values[j, q] = w_j I_j, minus the derivative of the query's loss by row j's weight times
    the weight. Outputs of a softmax are coupled through p; the full leaf Hessian of CatBoost and
    its chain of Newton steps in one tree are differentiated as they are.

    Sign: positive = proponent. Unit: loss (first order).
    Cost: fit O(1); explain O(T n) a query; self_influence O(T n^2) (use `BoostIn`'s on many rows).
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

    @staticmethod
    def _trace(model: Any, *data: Any) -> TreeRun:
        return trace(model, *data)

    def _fit(self, run: TreeRun) -> None:
        _ = run.replay  # refuses here what cannot be answered

    def _add_columns(self, queries: TreeQueries, out: Floats) -> None:
        self._sweep(queries, slice(0, self.run_.n_train), out)

    def _diagonal(self, train: TreeQueries, rows: slice) -> Floats:
        own = self.through == "self"
        swept = rows if own else slice(0, self.run_.n_train)
        values = np.zeros((train.n_queries, swept.stop - swept.start)).T
        self._sweep(train, swept, values)
        return np.diagonal(values if own else values[rows]).copy()

    def _bytes_per_value(self) -> int:
        return 8 * (2 + self.run_.replay.raw.shape[1])

    def _sweep(self, queries: TreeQueries, rows: slice, values: Floats) -> None:
        """Adds the values of the training rows `rows` to `values`, shape (n_rows, n_queries).

        With through="all" these must be all rows.
        """
        replay = self.run_.replay
        raw = replay.raw_after(queries.leaves, queries.offset)
        pull = replay.recipe.loss.derivatives(queries.target, raw).gradient  # (n_queries, K)
        n_parts = max(-(-queries.n_queries // VECTOR), min(n_threads(), queries.n_queries))
        lanes = -(-queries.n_queries // n_parts)
        parts = list(blocks(queries.n_queries, -(-lanes // LANES) * LANES))
        n_rows, n_outputs = rows.stop - rows.start, pull.shape[1]
        out = [np.zeros((n_rows, part.stop - part.start)) for part in parts]
        adjoint = [np.zeros((n_rows, n_outputs, part.stop - part.start)) for part in parts]
        parallel = replay.ensemble.n_parallel
        moved = [np.zeros_like(one) for one in adjoint] if parallel > 1 else adjoint
        for terms in replay.backwards():

            def work(i: int, terms: RowTerms = terms) -> None:
                leaf, c = queries.leaves[:, parts[i]], pull[parts[i]]
                if parallel == 1:
                    self._sweep_rounds(terms, rows, leaf, c, adjoint[i], out[i])
                else:
                    self._sweep_parallel(terms, rows, leaf, c, adjoint[i], moved[i], out[i])

            in_threads(work, range(len(parts)))
        for part, block in zip(parts, out, strict=True):
            values[:, part] += replay.weight[rows, None] * block

    def _sweep_parallel(
        self,
        terms: RowTerms,
        rows: slice,
        query_leaf: NDArray[np.integer],
        pull: Floats,
        adjoint: Floats,
        moved: Floats,
        out: Floats,
    ) -> None:
        """Sweeps back over rounds of which several start from the same scores.

        Each of them sees the adjoint of what comes after them all; what they change in it is
        gathered in `moved`, and added where the first of them is reached.
        """
        for place in range(len(terms.direct) - 1, -1, -1):
            later = adjoint.copy()
            self._sweep_rounds(terms[place], rows, query_leaf, pull, adjoint, out)
            moved += adjoint - later
            adjoint[:] = later
            if (terms.rounds.start + place) % self.run_.replay.ensemble.n_parallel == 0:
                adjoint += moved
                moved[:] = 0.0

    def _sweep_rounds(
        self,
        terms: RowTerms,
        rows: slice,
        query_leaf: NDArray[np.integer],
        pull: Floats,
        adjoint: Floats,
        out: Floats,
    ) -> None:
        """Sweeps one block of queries back over rounds that each start where the last one ended."""
        replay = self.run_.replay
        width = replay.ensemble.trees_per_round
        trees = slice(terms.rounds.start * width, terms.rounds.stop * width)
        leaf = np.ascontiguousarray(replay.leaves[trees, rows])
        query_leaf = np.ascontiguousarray(query_leaf[trees])
        rate, inverse = replay.recipe.learning_rate[trees], replay.inverse[trees]
        n_rounds, n_outputs = len(terms.direct), pull.shape[1]
        if len(terms.coupling) == 0:
            sweep = sweep_kernels.sweep if self.through == "all" else sweep_kernels.sweep_own
            for k in range(n_outputs):
                own = slice(k % width, None, width)  # this output's tree of every round
                value = k if replay.ensemble.vector_leaves else 0
                sweep(
                    leaf[own], query_leaf[own], rate[own], inverse[own, :, :, value],
                    terms.direct[:, :, rows, k], terms.slope[:, :, rows, k], pull[:, k].copy(),
                    adjoint[:, k], out,
                )  # fmt: skip
            return
        if not replay.recipe.full_hessian:
            inverse = _on_diagonal(inverse, n_rounds)
        sweep_kernels.sweep_coupled(
            leaf.reshape(n_rounds, width, -1), query_leaf.reshape(n_rounds, width, -1),
            rate.reshape(n_rounds, width), inverse, terms.direct[:, :, rows],
            terms.slope[:, :, rows], terms.coupling[:, :, rows], replay.weight[rows],
            np.ascontiguousarray(pull.T), self.through == "self", replay.recipe.full_hessian,
            adjoint, out,
        )  # fmt: skip


def _on_diagonal(inverse: Floats, n_rounds: int) -> Floats:
    """Inverses of a round's leaves as diagonal matrices over the outputs.

    Args:
        inverse: Shape (n_trees, n_steps, n_leaves, n_values).
        n_rounds: Number of rounds the trees belong to.

    Returns:
        Shape (n_rounds, n_steps, n_leaves, n_outputs, n_outputs).
    """
    n_steps, n_leaves = inverse.shape[1:3]
    by_round = inverse.reshape(n_rounds, -1, n_steps, n_leaves, inverse.shape[3])
    per_output = by_round.transpose(0, 2, 3, 1, 4).reshape(n_rounds, n_steps, n_leaves, -1)
    return per_output[..., None] * np.eye(per_output.shape[-1])
