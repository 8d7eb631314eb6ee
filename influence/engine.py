"""Sums of products of factors, A_1 B_1^T + A_2 B_2^T + ..., without caring what a factor is.

`contract` gives a dense block, `rowwise` the diagonal. Blocks of queries bound the memory; a
training side of any size is streamed by its own factor.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

OtherT = TypeVar("OtherT", contravariant=True)

BLOCK_BYTES = 512 * 2**20  # memory of one block of columns
BLOCK_COLUMNS = 256  # and no more than this, so that progress shows


class Factor(Protocol[OtherT]):
    """The training side of one step: a matrix A, shape (n_train, anything)."""

    def add_product(self, other: OtherT, out: NDArray[np.float64]) -> None:
        """out += A B^T, with out of shape (n_train, n_queries)."""
        ...

    def add_row_products(self, other: OtherT, rows: slice, out: NDArray[np.float64]) -> None:
        """out += sum over the columns of A[rows] * B, with out of shape (n_rows,)."""
        ...


@dataclass(frozen=True, eq=False)
class DenseFactor:
    """A factor held as an ordinary matrix, shape (n_rows, n_columns)."""

    matrix: NDArray[np.float64]

    def add_product(self, other: "DenseFactor", out: NDArray[np.float64]) -> None:
        out += self.matrix @ other.matrix.T

    def add_row_products(self, other: "DenseFactor", rows: slice, out: NDArray[np.float64]) -> None:
        out += np.einsum("ij,ij->i", self.matrix[rows], other.matrix)


def contract(pairs: Iterable[tuple[Factor[OtherT], OtherT]], out: NDArray[np.float64]) -> None:
    """Adds the sum over the steps of A B^T to out, shape (n_train, n_queries)."""
    for train, query in pairs:
        train.add_product(query, out)


def rowwise(pairs: Iterable[tuple[Factor[OtherT], OtherT]], rows: slice) -> NDArray[np.float64]:
    """Diagonal of `contract` where the queries are the training rows `rows`, shape (n_rows,)."""
    out = np.zeros(rows.stop - rows.start)
    for train, query in pairs:
        train.add_row_products(query, rows, out)
    return out


def columns_per_block(n_train: int, bytes_per_value: int = 8) -> int:
    """How many columns of n_train values fit into one block's memory; at least 1."""
    return max(1, min(BLOCK_COLUMNS, BLOCK_BYTES // max(1, n_train * bytes_per_value)))
