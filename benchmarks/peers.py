"""What we are measured against: plain loops, scipy, and the libraries' own routines."""

import numba
import numpy as np
import scipy.sparse


@numba.njit(nogil=True)
def plain_additions(start, order, value, leaf, coefficient, out):
    """BoostIn's floor: one addition for every row of every leaf that a query falls in.

    Args:
        start: First place of each leaf in `order`, shape (n_trees, n_leaves + 1).
        order: Rows by leaf, shape (n_trees, n_train).
        value: Value of each row in that order, shape (n_trees, n_train).
        leaf: Leaf of each query, shape (n_trees, n_queries).
        coefficient: Shape (n_trees, n_queries).
        out: Added to, shape (n_queries, n_train).
    """
    for q in range(leaf.shape[1]):
        row = out[q]
        for t in range(leaf.shape[0]):
            begin, end = start[t, leaf[t, q]], start[t, leaf[t, q] + 1]
            rows, values, c = order[t, begin:end], value[t, begin:end], coefficient[t, q]
            for place in range(len(rows)):
                row[rows[place]] += c * values[place]


def sort_rows(leaves, values):
    """Rows of each tree grouped by leaf, for `plain_additions`."""
    n_trees, _ = leaves.shape
    n_leaves = int(leaves.max()) + 1
    order = np.argsort(leaves, axis=1, kind="stable").astype(np.int32)
    start = np.zeros((n_trees, n_leaves + 1), dtype=np.int32)
    for t in range(n_trees):
        start[t, 1:] = np.cumsum(np.bincount(leaves[t], minlength=n_leaves))
    return start, order, np.take_along_axis(values, order, axis=1)


def scipy_sparse(leaves, values, query_leaves, coefficient):
    """The same sums as a product of two sparse matrices, (n_train, n_queries)."""
    n_leaves = int(max(leaves.max(), query_leaves.max())) + 1

    def one_hot(leaf, data):
        n_trees, n_rows = leaf.shape
        columns = leaf.T.astype(np.int64) + np.arange(n_trees) * n_leaves
        bounds = np.arange(0, n_trees * n_rows + 1, n_trees)
        shape = (n_rows, n_trees * n_leaves)
        return scipy.sparse.csr_matrix((data.T.ravel(), columns.ravel(), bounds), shape=shape)

    return (one_hot(leaves, values) @ one_hot(query_leaves, coefficient).T).toarray()
