"""Numba code that goes between rows and leaves: sums over the rows of leaves, and back."""

import numba
import numpy as np
from numpy.typing import NDArray

from influence.run import blocks
from tree_influence.kernels import in_threads

ROWS = 4096  # rows of one block: their scores stay in the cache while the trees pass
TREES = 16  # trees of one block: enough to be worth handing to a thread

Floats = NDArray[np.float64]


@numba.njit(nogil=True, cache=True)
def _sum_by_leaf(leaves, start, values, out):
    for t in range(len(leaves)):
        leaf, own = leaves[t], out[start[t] : start[t + 1]]
        for j in range(len(leaf)):
            for v in range(values.shape[1]):
                own[leaf[j], v] += values[j, v]


def sum_by_leaf(leaves: NDArray[np.integer], start: NDArray[np.int64], values: Floats) -> Floats:
    """Sums of rows' values over every leaf, shape (n_leaves of all trees, n_values).

    Args:
        leaves: Leaf of each row, shape (n_trees, n_rows).
        start: First leaf of each tree, shape (n_trees + 1,).
        values: Shape (n_rows, n_values).
    """
    out = np.zeros((start[-1], values.shape[1]))
    values = np.ascontiguousarray(values)

    def work(trees: slice) -> None:
        _sum_by_leaf(leaves[trees], start[trees.start :], values, out)

    in_threads(work, blocks(len(leaves), TREES))
    return out


@numba.njit(nogil=True, cache=True)
def _add_of_leaf(leaves, start, table, out):
    for q in range(len(table)):
        row = out[q]
        for t in range(len(leaves)):
            own = table[q, start[t] : start[t + 1]]
            leaf = leaves[t]
            for j in range(len(row)):
                row[j] += own[leaf[j]]


def add_of_leaf(
    leaves: NDArray[np.integer], start: NDArray[np.int64], table: Floats, out: Floats
) -> None:
    """Adds to every row the values of its leaves: T n additions for each value.

    Args:
        leaves: Leaf of each row, shape (n_trees, n_rows).
        start: First leaf of each tree, shape (n_trees + 1,).
        table: Values of the leaves of all trees, shape (n_values, n_leaves).
        out: Added to, shape (n_values, n_rows).
    """
    table = np.ascontiguousarray(table)

    def work(rows: slice) -> None:
        _add_of_leaf(leaves[:, rows], start, table, out[:, rows])

    in_threads(work, blocks(leaves.shape[1], ROWS))
