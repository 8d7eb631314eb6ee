"""`sweep`: one reverse sweep along a replayed boosting, for a block of queries.

u, the adjoint of each leaf's value, is the query's own pull c where it falls in and the adjoints a
that training rows carry from later rounds; v = inverse u. Over all Newton steps, last to first,

    values_j += w_j v_{l(j)} direct_j,   a_j -= v_{l(j)} slope_j

What `direct` holds is what the values are derivatives by: weights (`LeafInfluence`), or labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influence.run import blocks
from tree_influence import sweep_kernels
from tree_influence.kernels import in_threads, n_threads
from tree_influence.replay import Replay, RowTerms

Floats = NDArray[np.float64]

VECTOR = 32  # queries swept side by side, at most
LANES = 8  # of which whole vectors are made


def sweep(
    replay: Replay,
    terms: Iterator[RowTerms],
    query_leaves: NDArray[np.integer],
    pull: Floats,
    values: Floats,
    *,
    through_self: bool = False,
) -> Floats:
    """Adds the values of the replay's rows, and returns what is left of the adjoints.

    Args:
        replay: Of all rows; with through_self of any rows.
        terms: Its row terms, last round first.
        query_leaves: Leaf of each query, shape (n_trees, n_queries).
        pull: c, derivative of what is asked by the query's final score, (n_queries, n_outputs).
        values: Added to, shape (n_rows, n_queries).
        through_self: A row's leaf carries only the row itself.

    Returns:
        Sum over the rows of a before the first round, shape (n_queries, n_outputs): the derivative
        by a start that all training rows share.
    """
    n_rows, n_outputs = replay.raw.shape
    n_queries = len(pull)
    parts = parts_of(n_queries, VECTOR)
    out = [np.zeros((n_rows, part.stop - part.start)) for part in parts]
    adjoint = [np.zeros((n_rows, n_outputs, part.stop - part.start)) for part in parts]
    parallel = replay.ensemble.n_parallel > 1
    moved = [np.zeros_like(one) for one in adjoint] if parallel else adjoint
    rounds = Rounds(replay, through_self)
    for some in terms:

        def work(i: int, some: RowTerms = some) -> None:
            leaf, c = query_leaves[:, parts[i]], pull[parts[i]]
            if parallel:
                rounds.back_parallel(some, leaf, c, adjoint[i], moved[i], out[i])
            else:
                rounds.back(some, leaf, c, adjoint[i], out[i])

        in_threads(work, range(len(parts)))
    for part, block in zip(parts, out, strict=True):
        values[:, part] += replay.weight[:, None] * block
    return np.concatenate([one.sum(axis=0).T for one in adjoint])


def parts_of(n_queries: int, most: int) -> list[slice]:
    """Parts of the queries to sweep side by side, at least one for each thread.

    Args:
        n_queries: Number of queries.
        most: Queries of one part, at most.
    """
    n_parts = max(-(-n_queries // most), min(n_threads(), n_queries))
    lanes = -(-n_queries // n_parts)
    return list(blocks(n_queries, -(-lanes // LANES) * LANES))


@dataclass(frozen=True, eq=False)
class Rounds:
    """Steps back over a few rounds of a replay, for one part of the queries."""

    replay: Replay
    through_self: bool

    def back_parallel(
        self,
        terms: RowTerms,
        query_leaf: NDArray[np.integer],
        pull: Floats,
        adjoint: Floats,
        moved: Floats,
        out: Floats,
    ) -> None:
        """Steps back over rounds of which several start from the same scores.

        Each of them sees the adjoint of what comes after them all; what they change in it is
        gathered in `moved`, and added where the first of them is reached.
        """
        for place in range(len(terms.direct) - 1, -1, -1):
            later = adjoint.copy()
            self.back(terms[place], query_leaf, pull, adjoint, out)
            moved += adjoint - later
            adjoint[:] = later
            if (terms.rounds.start + place) % self.replay.ensemble.n_parallel == 0:
                adjoint += moved
                moved[:] = 0.0

    def back(
        self,
        terms: RowTerms,
        query_leaf: NDArray[np.integer],
        pull: Floats,
        adjoint: Floats,
        out: Floats,
    ) -> None:
        """Steps back over rounds that each start where the last one ended."""
        replay = self.replay
        width = replay.ensemble.trees_per_round
        trees = slice(terms.rounds.start * width, terms.rounds.stop * width)
        leaf = np.ascontiguousarray(replay.leaves[trees])
        query_leaf = np.ascontiguousarray(query_leaf[trees])
        rate, inverse = replay.recipe.learning_rate[trees], replay.inverse[trees]
        n_rounds, n_outputs = len(terms.direct), pull.shape[1]
        if len(terms.coupling) == 0:
            kernel = sweep_kernels.sweep_own if self.through_self else sweep_kernels.sweep
            for k in range(n_outputs):
                own = slice(k % width, None, width)  # this output's tree of every round
                value = k if replay.ensemble.vector_leaves else 0
                kernel(
                    leaf[own], query_leaf[own], rate[own], inverse[own, :, :, value],
                    terms.direct[:, :, :, k], terms.slope[:, :, :, k], pull[:, k].copy(),
                    adjoint[:, k], out,
                )  # fmt: skip
            return
        if not replay.recipe.full_hessian:
            inverse = _on_diagonal(inverse, n_rounds)
        sweep_kernels.sweep_coupled(
            leaf.reshape(n_rounds, width, -1), query_leaf.reshape(n_rounds, width, -1),
            rate.reshape(n_rounds, width), inverse, terms.direct, terms.slope, terms.coupling,
            replay.weight, np.ascontiguousarray(pull.T), self.through_self,
            replay.recipe.full_hessian, adjoint, out,
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
