"""`LeafFactor`: a matrix that is zero except where rows share leaves, as sparse as it comes."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tree_influence import kernels

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class QueryLeaves:
    """The query side: its leaf in every tree and a coefficient there.

    Attributes:
        leaf: Shape (n_trees, n_queries).
        coefficient: Shape (n_trees, n_queries, n_values).
    """

    leaf: NDArray[np.integer]
    coefficient: Floats


@dataclass(frozen=True, eq=False)
class LeafFactor:
    """The training side: rows grouped by leaf, with a value for each row and tree.

    A B^T [j, q] = sum over trees of 1[j and q share a leaf] value_j . coefficient_q.

    Attributes:
        start: First place of each leaf in `order`, by tile, shape (n_tiles, n_trees, n_leaves + 1).
        order: Rows of each tile by leaf, shape (n_trees, n_train).
        value: Values in that order, shape (n_trees, n_train, n_values).
    """

    start: NDArray[np.int32]
    order: NDArray[np.uint16]
    value: Floats

    @classmethod
    def empty(cls, leaves: NDArray[np.integer], n_leaves: int, n_values: int) -> Self:
        """Groups the rows; values are set tree by tree with `set_values`."""
        n_trees, n_train = leaves.shape
        n_tiles = -(-n_train // kernels.TILE)
        start = np.empty((n_tiles, n_trees, n_leaves + 1), dtype=np.int32)
        order = np.empty((n_trees, n_train), dtype=np.uint16)
        kernels.sort_by_leaf(leaves, start, order)
        return cls(start, order, np.empty((n_trees, n_train, n_values)))

    def set_values(self, t: int, values: Floats) -> None:
        """Sets the values of tree t, given in the order of the rows, shape (n_train, n_values)."""
        kernels.gather_by_leaf(self.order[t], values, self.value[t])

    def add_product(self, other: QueryLeaves, out: Floats) -> None:
        """out += A B^T, with out of shape (n_train, n_queries)."""
        kernels.add_leaf_products(
            self.start, self.order, self.value, other.leaf, other.coefficient, out.T
        )

    def add_row_products(self, other: QueryLeaves, rows: slice, out: Floats) -> None:
        """out += sum over the columns of A[rows] * B, with out of shape (n_rows,)."""
        kernels.add_row_products(self.start, self.order, self.value, other.coefficient, rows, out)
