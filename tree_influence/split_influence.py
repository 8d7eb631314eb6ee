"""`SplitInfluence`: `LeafInfluence` and the part that goes through the choice of splits."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor, Relabels
from influence.change import Relabelled
from tree_influence import split_sweep_kernels
from tree_influence.binning import Bins
from tree_influence.candidates import (
    SplitTerms,
    TreeCandidates,
    TreeShape,
    find_candidates,
    label_terms_backwards,
    terms_backwards,
)
from tree_influence.halves import half_weighted
from tree_influence.kernels import in_threads
from tree_influence.labels import NewLabels, label_terms
from tree_influence.of_trees import OfTrees
from tree_influence.replay import Replay, RowTerms
from tree_influence.run import TreeQueries, TreeRun
from tree_influence.sweep import Rounds, parts_of

Floats = NDArray[np.float64]

VECTOR = 64  # queries swept side by side, at most
MOST = 10  # candidates of a choice
DAMPED = 0.75  # share of the split part that is taken where models are averaged


class SplitInfluence(OfTrees, Attributor[TreeRun, TreeQueries], Relabels):
    """Influence through all leaf values of all rounds, and through the choice of splits.

    The sweep of `LeafInfluence` with all rows at weight 1/2, and in round t, before a changes, at
    every inner node v over its 10 best candidate splits b, with G and H sums over the rows of a
    side, theta_b = -G / (H + lambda) as if both sides were leaves, and the gain the sum of
    theta_b^2 (H + lambda) over both:

        D_bi    = d gain_b / d w_i = -2 theta_b(i) g_i - theta_b(i)^2 h~_i
        tau_v   = (1/2) sqrt(mean over b > 1 of sum_{i in v} w_i^2 (D_bi - D_1i)^2 / 4)
        p_b     = softmax(gain_b / tau_v), those below 1/1000 dropped
        L_b     = eta (sum_{j in v} a_j theta_b(j) + c 1[q in v] theta_b(q))
        kappa_b = s p_b (L_b - sum_b p_b L_b) / tau_v
        dL/dw_i += sum_b kappa_b D_bi
        dL/dF_i += (w_i / 2) sum_b kappa_b dD_bi/dF_i

    with w the fitted weights, s = 1, or 3/4 on the models of `Averaged`. A split is taken to be
    drawn among its candidates, with as much noise as half of what leaving out half of the node's
    rows gives their gains: a smoothing heuristic and no derivative. It is judged by how well sums
    of values rank retrainings on half of the rows (`python -m benchmarks.lds`).

    Candidates: numbers are cut at up to 127 places; missing values go to either side. Categories
    are cut in the order of their own theta, missing, rare and unknown ones together. Columns of
    texts or embeddings are never split on. A side needs as many rows as the smallest leaf of the
    model. Trees of symmetric CatBoost models have one choice a level, whose gain is the sum over
    its nodes. A softmax's trees each choose by the gain of their own output, vector leaves by the
    sum over outputs; what a changed score does to g and h~ of all outputs is followed. Where a
    tree takes several Newton steps or solves the full Hessian, leaves are treated as they are,
    candidates by one step with the diagonal. Leaf values at weight 1/2 are the formula's, also
    where the model's own are not (row subsampling, bounds: `leaf_error` says by how much). Gains
    are those of the formula, whatever the library adds to them (CatBoost's score and its noise,
    gain penalties, sampled columns).

    Answers `Relabelled`: other labels change g and h~ in a row's own D_bi and leaf terms, and
    nothing else.

    Sign: positive = proponent. Unit: loss (first order: among half subsets, where each row weighs
    twice as much, effects differ by about twice the sum of values).
    Cost: fit O(T n F) for the histograms; explain O(T n depth) a query, about eight times
    `LeafInfluence`; self_influence O(T n^2 depth).
    Wrong in that the subtree below another split is not grown again. On one row alone the values
    are as noisy as real retraining is; they are made for groups.
    Refused where the leaves are not Newton values, where a library tells no nodes (CatBoost trees
    that are not symmetric), and on Pools of categories (`UnsupportedModelError`).
    """

    bins_: Bins
    binned_: NDArray[np.uint8]
    shapes_: list[TreeShape]
    candidates_: list[TreeCandidates]
    half_: Replay  # at half weights
    share_: float

    def _fit(self, run: TreeRun) -> None:
        half = half_weighted(run)
        self.share_ = DAMPED if run.share < 1 else 1.0
        self.half_ = half.replay
        self.bins_ = Bins.of_run(run)
        self.binned_ = self.bins_.of(run.X)
        self.shapes_ = [TreeShape.of(run, t) for t in range(run.adapter.ensemble.n_trees)]
        self.candidates_ = find_candidates(half, self.shapes_, self.bins_, self.binned_, MOST)

    def _add_columns(self, queries: TreeQueries, out: Floats) -> None:
        replay = self.half_
        self._sweep(replay.backwards(), terms_backwards(replay), queries, out)

    def _relabelled(self, change: Relabelled, queries: TreeQueries) -> Floats:
        replay, new = self.half_, NewLabels.of(change, self.run_)
        if len(new.rows) == 0:
            return np.zeros(queries.n_queries)
        values = np.zeros((queries.n_queries, len(replay.weight))).T
        own = label_terms_backwards(replay, new)
        self._sweep(label_terms(replay, new), own, queries, values)
        return values[new.rows].sum(axis=0)

    def _sweep(
        self,
        chunks: Iterator[RowTerms],
        own: Iterator[SplitTerms],
        queries: TreeQueries,
        out: Floats,
    ) -> None:
        """Adds the values of all rows to `out`, shape (n_train, n_queries).

        Args:
            chunks: Terms of the leaves, last round first.
            own: Terms of the splits of each round, last round first.
            queries: The queries.
            out: Added to.
        """
        replay = self.half_
        raw = replay.raw_after(queries.leaves, queries.offset)
        pull = replay.recipe.loss.derivatives(queries.target, raw).gradient  # (n_queries, K)
        binned = self.bins_.of(queries.given.X)
        parts = [
            _Part(self, queries.leaves[:, block], binned[:, block], pull[block], block)
            for block in parts_of(queries.n_queries, VECTOR)
        ]
        for chunk in chunks:
            for place in range(len(chunk.direct) - 1, -1, -1):
                r = chunk.rounds.start + place
                cells = _Cells(self, r, next(own))

                def work(part: "_Part", terms: RowTerms = chunk[place], cells=cells) -> None:
                    part.back(terms, cells)

                in_threads(work, parts)
        for part in parts:
            out[:, part.block] += replay.weight[:, None] * part.out

    def _diagonal(self, train: TreeQueries, rows: slice) -> Floats:
        values = np.zeros((train.n_queries, self.run_.n_train)).T
        self._add_columns(train, values)
        return np.diagonal(values[rows]).copy()

    def _bytes_per_value(self) -> int:
        return 8 * (2 + self.half_.raw.shape[1])


class _Cells:
    """The cells of one round's trees.

    Attributes:
        trees: Which trees.
        terms: What the splits of the round add up.
        first: First place of each row in `cell`, shape (n_trees, n_train + 1).
        cell: Cells of each row in each tree.
        node, code: Of each cell.
        bounds: First cell of each tree, and the number of all.
    """

    def __init__(self, method: SplitInfluence, r: int, terms: SplitTerms) -> None:
        replay = method.half_
        self.trees, self.terms = replay.trees(r), terms
        trees = range(self.trees.start, self.trees.stop)
        above = [_above(method, t)[replay.leaves[t]] for t in trees]
        n_places = sum(int(one.sum()) for one in above)
        self.first = np.zeros((len(above), replay.leaves.shape[1] + 1), dtype=np.int64)
        self.cell = np.empty(n_places, dtype=np.int32)
        self.node = np.empty(n_places, dtype=np.int32)
        self.code = np.empty(n_places, dtype=np.int32)
        self.bounds = [0]
        for i, t in enumerate(trees):
            shape, known = method.shapes_[t], method.candidates_[t]
            self.first[i, 0] = self.first[i - 1, -1] if i else 0
            end = split_sweep_kernels.find_cells(
                replay.leaves[t], shape.path_first, shape.path_node, shape.choice, known.count,
                known.feature, known.left, method.binned_, self.bounds[-1],
                self.first[i], self.cell, self.node, self.code,
            )  # fmt: skip
            self.bounds.append(end)


def _above(method: SplitInfluence, t: int) -> NDArray[np.int64]:
    """Nodes with candidates above each leaf of tree t, shape (n_leaves,)."""
    shape = method.shapes_[t]
    chosen = method.candidates_[t].count[shape.choice] > 0
    before = np.concatenate([[0], np.cumsum(chosen[shape.path_node])])
    return np.diff(before[shape.path_first])


class _Part:
    """A block of queries on its way back through the rounds.

    Attributes:
        block: Which queries.
        out: Minus the derivative by each row's weight so far, shape (n_train, n_queries).
    """

    def __init__(
        self,
        method: SplitInfluence,
        leaves: NDArray[np.integer],
        binned: NDArray[np.uint8],
        pull: Floats,
        block: slice,
    ) -> None:
        replay = method.half_
        n_train, n_outputs = replay.raw.shape
        self.method, self.leaves, self.pull, self.block = method, leaves, pull, block
        self.binned = np.ascontiguousarray(binned)
        self.out = np.zeros((n_train, len(pull)))
        self.adjoint = np.zeros((n_train, n_outputs, len(pull)))
        self.moved = np.zeros_like(self.adjoint) if replay.ensemble.n_parallel > 1 else None

    def back(self, terms: RowTerms, cells: _Cells) -> None:
        """Goes back over one round.

        Of rounds that start from the same scores, each sees the adjoint of what comes after all of
        them; what they change in it is gathered in `moved`.
        """
        if self.moved is None:
            self._back(terms, cells)
            return
        later = self.adjoint.copy()
        self._back(terms, cells)
        self.moved += self.adjoint - later
        self.adjoint[:] = later
        if terms.rounds.start % self.method.half_.ensemble.n_parallel == 0:
            self.adjoint += self.moved
            self.moved[:] = 0.0

    def _back(self, terms: RowTerms, cells: _Cells) -> None:
        """Splits and leaves both read the adjoint of the rounds after this one."""
        replay = self.method.half_
        gathered = self._pull(cells)
        rounds = Rounds(replay, through_self=False)
        rounds.back(terms, self.leaves, self.pull, self.adjoint, self.out)
        at = cells.terms
        split_sweep_kernels.add_by_row(
            cells.first, cells.cell, gathered, at.gradient, at.hessian, at.curvature, at.slope,
            at.coupling, replay.weight, self.adjoint, self.out,
        )  # fmt: skip

    def _pull(self, cells: _Cells) -> Floats:
        """What the cells gather, shape (n_cells, n_values, 2 * n_queries)."""
        method, replay = self.method, self.method.half_
        n_values = replay.value.shape[2]
        n_cells, n_queries = cells.bounds[-1], len(self.pull)
        total = np.zeros((n_cells, n_values, n_queries))
        gathered = np.empty((n_cells, n_values, 2 * n_queries))
        for i, t in enumerate(range(cells.trees.start, cells.trees.stop)):
            shape, known = method.shapes_[t], method.candidates_[t]
            outputs = slice(None) if n_values > 1 else slice(i, i + 1)
            split_sweep_kernels.add_by_cell(
                cells.first[i], cells.cell, self.adjoint[:, outputs], total
            )
            split_sweep_kernels.pull_splits(
                np.array(cells.bounds[i : i + 2]), cells.node, cells.code, shape.choice,
                known.count, known.feature, known.left, known.probability, known.temperature,
                known.value, shape.path_first, shape.path_node,
                self.leaves[t], self.binned, np.ascontiguousarray(self.pull[:, outputs].T),
                method.share_ * replay.recipe.learning_rate[t], total, gathered,
            )  # fmt: skip
        return gathered
