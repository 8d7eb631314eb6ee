"""`TreeKernel`: how alike two rows are in the eyes of an ensemble, as sums over its leaves.

| kernel | phi of a row, for every tree | k(j, q) adds up over the trees |
|---|---|---|
| leaf_path | 1 at its leaf | 1 where both share the leaf |
| weighted_leaf_path | 1 / n at its leaf | 1 / n^2 of a shared leaf |
| leaf_output | the leaf's value at its leaf | value^2 of a shared leaf |
| tree_output | the leaf's value | the product of both leaves' values |
| feature_path | 1 at each node it passes and at its leaf | the nodes both pass |
| weighted_feature_path | 1 / n at each | 1 / n^2 of the nodes both pass |

n is the weight of the training rows in the leaf or node: their number where they weigh 1. Vector
leaves have a value for each output, and products are inner products.

All of them are phi_t(j) = B_t[l_t(j)], with a small sparse matrix B_t of a tree's leaves; k is
never made for all rows, and one-hot rows never at all.
"""

from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from influence.errors import InputError, UnsupportedModelError
from tree_influence import leaf_kernels
from tree_influence.ensemble import TreeEnsemble
from tree_influence.run import TreeRun

Floats = NDArray[np.float64]

Kernel = Literal[
    "leaf_path", "weighted_leaf_path", "leaf_output", "tree_output", "feature_path",
    "weighted_feature_path",
]  # fmt: skip


def check_kernel(kernel: str) -> None:
    """Refuses an unknown name."""
    if kernel not in get_args(Kernel):
        raise InputError(f"kernel must be one of {', '.join(get_args(Kernel))}; got {kernel!r}.")


@dataclass(frozen=True, eq=False)
class TreeKernel:
    """A kernel on the training rows of a run.

    Attributes:
        leaves: Leaf of each training row, shape (n_trees, n_train).
        start: First leaf of each tree, shape (n_trees + 1,).
        features: B, phi of every leaf of all trees, shape (n_leaves, n_features).
    """

    leaves: NDArray[np.integer]
    start: NDArray[np.int64]
    features: csr_array

    @classmethod
    def of(cls, run: TreeRun, kernel: Kernel) -> Self:
        """The kernel of a run.

        Raises:
            UnsupportedModelError: A path is asked of trees that are known by their leaves only.
        """
        ensemble = run.adapter.ensemble
        weight = run.weight[:, None]
        counts = leaf_kernels.sum_by_leaf(run.leaves, ensemble.leaf_start, weight)[:, 0]
        return cls(run.leaves, ensemble.leaf_start, _features(ensemble, kernel, counts))

    @property
    def n_features(self) -> int:
        return cast("tuple[int, int]", self.features.shape)[1]

    def scores(self, weights: Floats, leaves: NDArray[np.integer] | None = None) -> Floats:
        """Phi W of rows, shape (n_rows, n_outputs).

        Args:
            weights: W, shape (n_features, n_outputs).
            leaves: Leaf of each row, shape (n_trees, n_rows); None for the training rows.
        """
        leaves = self.leaves if leaves is None else leaves
        out = np.zeros((weights.shape[1], leaves.shape[1]))
        leaf_kernels.add_of_leaf(leaves, self.start, (self.features @ weights).T, out)
        return out.T

    def sums(self, values: Floats) -> Floats:
        """Phi^T V of the training rows, shape (n_features, n_values).

        Args:
            values: V, shape (n_train, n_values).
        """
        return self.features.T @ leaf_kernels.sum_by_leaf(self.leaves, self.start, values)

    def squared_sums(self, values: Floats) -> Floats:
        """The same with the squares of Phi's entries."""
        squares = self.features.multiply(self.features)
        return squares.T @ leaf_kernels.sum_by_leaf(self.leaves, self.start, values)

    def columns(self, leaves: NDArray[np.integer]) -> Floats:
        """k of every training row with these rows, shape (n_train, n_rows), columns contiguous.

        Args:
            leaves: Leaf of each row, shape (n_trees, n_rows).
        """
        weights = self.phi(leaves)
        out = np.zeros((leaves.shape[1], self.leaves.shape[1]))
        table = np.ascontiguousarray((weights @ self.features.T).toarray())  # (n_rows, n_leaves)
        leaf_kernels.add_of_leaf(self.leaves, self.start, table, out)
        return out.T

    def own(self, leaves: NDArray[np.integer] | None = None) -> Floats:
        """k of rows with themselves, shape (n_rows,); `leaves` as of `scores`."""
        leaves = self.leaves if leaves is None else leaves
        squares = self.features.multiply(self.features).sum(axis=1)
        out = np.zeros((1, leaves.shape[1]))
        leaf_kernels.add_of_leaf(leaves, self.start, np.reshape(squares, (1, -1)), out)
        return out[0]

    def phi(self, leaves: NDArray[np.integer]) -> csr_array:
        """Features of rows, shape (n_rows, n_features).

        Args:
            leaves: Leaf of each row, shape (n_trees, n_rows).
        """
        n_trees, n_rows = leaves.shape
        place = (leaves.T + self.start[:-1]).ravel()
        ones, begin = np.ones(n_trees * n_rows), np.arange(n_rows + 1) * n_trees
        shape = (n_rows, int(self.start[-1]))
        return csr_array(csr_array((ones, place, begin), shape) @ self.features)

    def bytes_per_value(self) -> int:
        """Memory of `columns` for each training row and query.

        8 bytes for k, and for every leaf 8 of the table and up to 12 of the sparse product.
        """
        n_train = self.leaves.shape[1]
        return 8 + 20 * -(-int(self.start[-1]) // n_train)


def _features(ensemble: TreeEnsemble, kernel: Kernel, counts: Floats) -> csr_array:
    """B of the kernel, shape (n_leaves, n_features)."""
    n_leaves = len(counts)
    leaf = np.arange(n_leaves)
    if kernel == "tree_output":
        n_values = ensemble.leaf_value.shape[1]
        tree = np.repeat(np.arange(ensemble.n_trees), ensemble.leaf_counts)
        column = tree[:, None] * n_values + np.arange(n_values)
        shape = (n_leaves, ensemble.n_trees * n_values)
        rows = np.repeat(leaf, n_values)
        return csr_array((ensemble.leaf_value.ravel(), (rows, column.ravel())), shape)
    if kernel in ("feature_path", "weighted_feature_path"):
        node, below = _paths(ensemble)
        at = np.bincount(node, counts[below], minlength=len(ensemble.feature))
        size = np.concatenate([counts, at]).astype(np.float64)
        column = np.concatenate([leaf, n_leaves + node])
        value = np.ones(len(column)) if kernel == "feature_path" else _inverse(size)[column]
        return csr_array(
            (value, (np.concatenate([leaf, below]), column)), (n_leaves, n_leaves + len(at))
        )
    value = {
        "leaf_path": np.ones(n_leaves),
        "weighted_leaf_path": _inverse(counts),
        "leaf_output": np.sqrt((ensemble.leaf_value**2).sum(axis=1)),
    }[kernel]
    return csr_array((value, (leaf, leaf)), (n_leaves, n_leaves))


def _paths(ensemble: TreeEnsemble) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every inner node on the path of every leaf: (node, leaf) pairs."""
    if ((ensemble.root < 0) & (ensemble.leaf_counts > 1)).any():
        raise UnsupportedModelError(
            "Expected trees whose splits are known, but those of this model are known by their "
            "leaves only (CatBoost's target statistics, texts, embeddings). Use a kernel of "
            "leaves, e.g. kernel='weighted_leaf_path'."
        )
    children, n_nodes = ensemble.children, len(ensemble.feature)
    tree = np.repeat(np.arange(ensemble.n_trees), ensemble.leaf_counts - 1)  # of each node
    parent = np.full(n_nodes, -1, dtype=np.int64)
    above = np.full(int(ensemble.leaf_start[-1]), -1, dtype=np.int64)  # parent of each leaf
    for side in children.T:
        inner = side >= 0
        parent[side[inner]] = np.flatnonzero(inner)
        above[ensemble.leaf_start[tree[~inner]] + ~side[~inner]] = np.flatnonzero(~inner)
    nodes, leaves = [], []
    leaf = np.flatnonzero(above >= 0)
    while leaf.size:
        nodes.append(above[leaf])
        leaves.append(leaf)
        above = np.where(above >= 0, parent[above], -1)
        leaf = np.flatnonzero(above >= 0)
    none = np.empty(0, dtype=np.int64)
    return np.concatenate([none, *nodes]), np.concatenate([none, *leaves])


def _inverse(size: Floats) -> Floats:
    """1 / size, and 0 where no training row counts."""
    return np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
