"""The candidate splits of every tree: what else the trees could have split on, and how likely.

See `histogram_kernels` for the indices.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from influence.errors import NotYetSupportedError
from tree_influence import split_kernels
from tree_influence.binning import Bins
from tree_influence.kernels import in_threads
from tree_influence.labels import NewLabels
from tree_influence.losses import Derivatives
from tree_influence.replay import Replay
from tree_influence.run import TreeRun

Floats = NDArray[np.float64]

TREES_AT_ONCE = 16  # whose row terms are held


@dataclass(frozen=True, eq=False)
class TreeShape:
    """One tree by its nodes.

    Attributes:
        children: Nodes or ~leaf, shape (n_nodes, 2).
        choice: Choice of each node, shape (n_nodes,).
        nodes_first: First node of each choice, shape (n_choices + 1,).
        path_first: First place of each leaf in `path_node`, shape (n_leaves + 1,).
        path_node: Nodes above each leaf, root first.
    """

    children: NDArray[np.int32]
    choice: NDArray[np.int32]
    nodes_first: NDArray[np.int64]
    path_first: NDArray[np.int32]
    path_node: NDArray[np.int32]

    @classmethod
    def of(cls, run: TreeRun, t: int) -> Self:
        """The shape of tree t.

        Raises:
            NotYetSupportedError: Its library tells no nodes.
        """
        ensemble, symmetric = run.adapter.ensemble, run.adapter.symmetric
        n_leaves = int(ensemble.leaf_counts[t])
        if symmetric:
            children = _balanced(n_leaves)
        elif ensemble.root[t] >= 0:
            first = int(ensemble.root[t])
            children = ensemble.children[first : first + n_leaves - 1]
            children = np.where(children >= 0, children - first, children)
        elif n_leaves == 1:
            children = np.zeros((0, 2), dtype=np.int32)
        else:
            raise NotYetSupportedError(
                f"SplitInfluence needs the nodes of the trees, and {run.adapter.library} tells "
                "only the leaves of trees that are not symmetric where features are categories, "
                "texts or embeddings, or the grow_policy is another. LeafInfluence and BoostIn "
                "answer."
            )
        n_nodes = len(children)
        choice = np.arange(n_nodes)
        if symmetric:
            choice = np.log2(choice + 1).astype(np.int64)
        nodes_first = np.searchsorted(choice, np.arange(choice.max(initial=-1) + 2))
        children = np.ascontiguousarray(children, dtype=np.int32)
        path_first, path_node = split_kernels.trace_paths(children, n_leaves)
        return cls(
            children, choice.astype(np.int32), nodes_first.astype(np.int64),
            path_first, path_node,
        )  # fmt: skip


def _balanced(n_leaves: int) -> NDArray[np.int64]:
    """Nodes of a tree of as many levels as there are bits in a leaf's number."""
    n_nodes = n_leaves - 1
    below = 2 * np.arange(n_nodes)[:, None] + np.array([1, 2])
    return np.where(below < n_nodes, below, ~(below - n_nodes))


@dataclass(frozen=True, eq=False)
class TreeCandidates:
    """The candidates of one tree; see `split_kernels.find_candidates`.

    Attributes:
        count: Candidates of each choice, 0 where there is none, shape (n_choices,).
        feature: Column of each candidate, shape (n_choices, most).
        left: Bins that go left, as bits, shape (n_choices, most, 4).
        probability: p, shape (n_choices, most).
        temperature: tau, shape (n_choices,).
        value: theta of each side, shape (n_nodes, most, 2, n_values).
    """

    count: NDArray[np.int32]
    feature: NDArray[np.int32]
    left: NDArray[np.uint64]
    probability: Floats
    temperature: Floats
    value: Floats

    @classmethod
    def empty(cls, shape: TreeShape, most: int, n_values: int) -> Self:
        n_choices, n_nodes = len(shape.nodes_first) - 1, len(shape.choice)
        return cls(
            np.zeros(n_choices, dtype=np.int32), np.zeros((n_choices, most), dtype=np.int32),
            np.zeros((n_choices, most, 4), dtype=np.uint64), np.zeros((n_choices, most)),
            np.zeros(n_choices), np.zeros((n_nodes, most, 2, n_values)),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class SplitTerms:
    """What splits add up over rows, before one round; each of shape (n_train, n_outputs).

    Attributes:
        gradient: g.
        hessian: h~.
        curvature: dg/dF; not read where outputs are coupled.
        slope: dh~/dF; where outputs are coupled, dh~/dp.
        coupling: p, no rows where outputs do not mix.
    """

    gradient: Floats
    hessian: Floats
    curvature: Floats
    slope: Floats
    coupling: Floats

    @classmethod
    def of(cls, at: Derivatives) -> Self:
        coupling = np.zeros((0, at.gradient.shape[1])) if at.coupling is None else at.coupling
        return cls(at.gradient, at.hessian, at.curvature, at.hessian_slope, coupling)


def terms_backwards(replay: Replay) -> Iterator[SplitTerms]:
    """The terms before each round, from the last to the first."""
    raw = replay.raw
    for r in range(replay.ensemble.n_rounds - 1, -1, -1):
        if (r + 1) % replay.ensemble.n_parallel == 0:
            raw = raw - replay.added(r, replay.leaves)
        yield SplitTerms.of(replay.recipe.loss.derivatives(replay.target, raw))


def label_terms_backwards(replay: Replay, new: NewLabels) -> Iterator[SplitTerms]:
    """The same with g and h~ as they change with the labels; 0 for all other rows."""
    changed = replace(replay.of_rows(new.rows), target=new.target)
    factor = new.factor[:, None]
    for terms, other in zip(terms_backwards(replay), terms_backwards(changed), strict=True):
        gradient, hessian = np.zeros_like(terms.gradient), np.zeros_like(terms.hessian)
        gradient[new.rows] = terms.gradient[new.rows] - factor * other.gradient
        hessian[new.rows] = terms.hessian[new.rows] - factor * other.hessian
        yield replace(terms, gradient=gradient, hessian=hessian)


def find_candidates(
    run: TreeRun, shapes: list[TreeShape], bins: Bins, binned: NDArray[np.uint8], most: int
) -> list[TreeCandidates]:
    """The candidates of all trees.

    Args:
        run: The run, with its replay at the weights that the gains are asked at.
        shapes: Its trees.
        bins: Of its training rows.
        binned: Their bins, shape (n_features, n_train).
        most: Candidates of a choice.
    """
    replay, per_round = run.replay, run.replay.ensemble.trees_per_round
    n_values = replay.value.shape[2]
    found = [TreeCandidates.empty(shape, most, n_values) for shape in shapes]
    fewest = _fewest_rows(run)
    start = np.concatenate([[0], np.cumsum(bins.counts + 1)])
    waiting: list[tuple[int, SplitTerms]] = []

    def work(part: tuple[int, SplitTerms]) -> None:
        t, terms = part
        outputs = slice(None) if n_values > 1 else slice(t % per_round, t % per_round + 1)
        shape, into = shapes[t], found[t]
        split_kernels.find_candidates(
            replay.leaves[t], shape.children, run.adapter.symmetric, shape.nodes_first, binned,
            start, bins.categorical, np.ascontiguousarray(terms.gradient[:, outputs]),
            np.ascontiguousarray(terms.hessian[:, outputs]),
            replay.weight, replay.recipe.l1, _l2(replay, t), fewest, into.count, into.feature,
            into.left, into.probability, into.temperature, into.value,
        )  # fmt: skip

    before = replay.raw_before(replay.leaves, run.offset)
    for r, raw in zip(range(replay.ensemble.n_rounds), before, strict=False):
        terms = SplitTerms.of(replay.recipe.loss.derivatives(replay.target, raw))
        trees = replay.trees(r)
        waiting += [(t, terms) for t in range(trees.start, trees.stop)]
        if len(waiting) >= TREES_AT_ONCE or r + 1 == replay.ensemble.n_rounds:
            in_threads(work, waiting)
            waiting.clear()
    return found


def _l2(replay: Replay, t: int) -> float:
    """The regularisation of a tree's leaves; where it differs (categories), the smallest."""
    first, last = replay.ensemble.leaf_start[t : t + 2]
    return float(replay.recipe.l2[first:last].min())


def _fewest_rows(run: TreeRun) -> int:
    """Rows a side of a split needs: as many as the smallest leaf of all has.

    Symmetric trees are split whether their nodes hold rows or not.
    """
    if run.adapter.symmetric:
        return 1
    trained = run.weight > 0
    fewest = run.n_train
    for leaf in run.leaves:
        rows = np.bincount(leaf[trained])
        if (rows > 0).sum() > 1:
            fewest = min(fewest, int(rows[rows > 0].min()))
    return max(1, fewest)
