"""All numba code: arrays in, arrays out, the caller allocates.

Every kernel is a serial function compiled with `nogil`; functions without an underscore that are
not compiled run theirs over blocks on a thread pool. Threads of our own instead of `prange`: they
compile faster, need no OpenMP or TBB on the user's machine, and may be called from
several threads at once. `numba.set_num_threads` and NUMBA_NUM_THREADS set their number; every
output element is written by one block in one order, so results do not depend on it.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from influence.run import blocks

Part = TypeVar("Part")

ROWS = 2048  # rows of one traversal block
TILE = 8192  # rows of one accumulation tile: its part of a column stays in the cache


def n_threads() -> int:
    """How many threads numba is set to use."""
    return numba.get_num_threads()


def in_threads(work: Callable[[Part], None], parts: Iterable[Part]) -> None:
    """Runs `work` on every part, on as many threads as numba is set to use."""
    listed = list(parts)
    workers = min(n_threads(), len(listed))
    if workers <= 1:
        for part in listed:
            work(part)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, listed):
            pass


@numba.njit(nogil=True, cache=True)
def _goes_left(x, v, threshold, missing, category_start, category_words, categories):
    """Where a row of value x goes at inner node v."""
    kind = missing[v]
    is_missing = np.isnan(x)
    if is_missing and kind == 0:
        x = type(x)(0)
        is_missing = False
    if is_missing or (kind >= 3 and abs(x) <= 1e-35):
        return kind == 1 or kind == 3
    start = category_start[v]
    if start < 0:
        return x <= threshold[v]
    if x < 0:
        return kind == 1 or kind == 3
    if x >= 32 * category_words[v]:
        return False
    code = np.int64(x)
    return (categories[start + (code >> 5)] >> np.uint32(code & 31)) & np.uint32(1) != 0


@numba.njit(nogil=True, cache=True)
def _find_leaves(
    X, feature, threshold, children, missing, category_start, category_words, categories, root,
    plain, start, stop, out,
):  # fmt: skip
    """Leaf of rows start..stop in every tree; `plain` where `x <= threshold` is the whole rule."""
    for t in range(len(root)):
        first = root[t]
        for i in range(start, stop):
            v = first
            if plain:
                while v >= 0:
                    v = children[v, 0 if X[i, feature[v]] <= threshold[v] else 1]
            else:
                while v >= 0:
                    left = _goes_left(
                        X[i, feature[v]], v, threshold, missing,
                        category_start, category_words, categories,
                    )  # fmt: skip
                    v = children[v, 0 if left else 1]
            out[t, i] = ~v


def find_leaves(
    X: NDArray[np.floating],
    feature: NDArray[np.int32],
    threshold: NDArray[np.float64],
    children: NDArray[np.int32],
    missing: NDArray[np.uint8],
    category_start: NDArray[np.int32],
    category_words: NDArray[np.int32],
    categories: NDArray[np.uint32],
    root: NDArray[np.int32],
    out: NDArray[np.integer],
) -> None:
    """Writes the leaf of every row in every tree to `out`, shape (n_trees, n_rows)."""
    no_zero_rule = bool((missing < 3).all())
    plain = no_zero_rule and bool((category_start < 0).all()) and not np.isnan(X).any()

    def work(rows: slice) -> None:
        _find_leaves(
            X, feature, threshold, children, missing, category_start, category_words, categories,
            root, plain, rows.start, rows.stop, out,
        )  # fmt: skip

    in_threads(work, blocks(len(X), ROWS))


@numba.njit(nogil=True, cache=True)
def _sort_by_leaf(leaf, start, order):
    """Rows of one tree and tile grouped by leaf: order[start[l]:start[l + 1]], ascending."""
    start[:] = 0
    for j in range(len(leaf)):
        start[leaf[j] + 1] += 1
    for v in range(len(start) - 1):
        start[v + 1] += start[v]
    place = start[:-1].copy()
    for j in range(len(leaf)):
        order[place[leaf[j]]] = j
        place[leaf[j]] += 1


def sort_by_leaf(
    leaves: NDArray[np.integer], start: NDArray[np.int32], order: NDArray[np.uint16]
) -> None:
    """Groups the rows of every tree by leaf, tile by tile.

    Args:
        leaves: Shape (n_trees, n_rows).
        start: Written: first place of each leaf within the tile, shape (n_tiles, n_trees,
            n_leaves + 1).
        order: Written: rows of each tile counted from its first, by leaf and ascending within
            each, shape (n_trees, n_rows).
    """

    def work(tile: slice) -> None:
        for t in range(len(leaves)):
            _sort_by_leaf(leaves[t, tile], start[tile.start // TILE, t], order[t, tile])

    in_threads(work, blocks(leaves.shape[1], TILE))


@numba.njit(nogil=True, cache=True)
def gather_by_leaf(order, values, out):
    """out[place] = the values of the row at that place, for one tree.

    Args:
        order: As `sort_by_leaf` writes it, shape (n_rows,).
        values: Shape (n_rows, n_values).
        out: Written, same shape.
    """
    for place in range(len(order)):
        out[place] = values[place // TILE * TILE + order[place]]


@numba.njit(nogil=True, cache=True)
def _add_leaf_products(start, order, value, leaf, coefficient, out):
    """out[q, j] += sum over trees of value_j . coefficient_q where j and q share a leaf."""
    n_trees, _, n_values = value.shape
    for q in range(len(out)):
        row = out[q]
        for t in range(n_trees):
            begin, end = start[t, leaf[t, q]], start[t, leaf[t, q] + 1]
            rows = order[t, begin:end]
            values = value[t, begin:end]
            for v in range(n_values):
                c = coefficient[t, q, v]
                for place in range(len(rows)):
                    row[rows[place]] += c * values[place, v]


def add_leaf_products(
    start: NDArray[np.int32],
    order: NDArray[np.uint16],
    value: NDArray[np.float64],
    leaf: NDArray[np.integer],
    coefficient: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Adds, for every pair of a row and a query, the products of the trees in which they meet.

    The work is one addition for every row of every leaf that a query falls in. Tiles of rows keep
    the part of `out` being written in the cache, where a whole column would not fit.

    Args:
        start: First place of each leaf, shape (n_tiles, n_trees, n_leaves + 1).
        order: Rows of each tile by leaf, shape (n_trees, n_rows).
        value: Value of each row, in the order of `order`, shape (n_trees, n_rows, n_values).
        leaf: Leaf of each query, shape (n_trees, n_queries).
        coefficient: Shape (n_trees, n_queries, n_values).
        out: Added to, shape (n_queries, n_rows).
    """

    def work(part: tuple[slice, slice]) -> None:
        rows, queries = part
        _add_leaf_products(
            start[rows.start // TILE], order[:, rows], value[:, rows], leaf[:, queries],
            coefficient[:, queries], out[queries, rows],
        )  # fmt: skip

    n_queries, n_rows = out.shape
    in_threads(work, [(r, q) for r in blocks(n_rows, TILE) for q in blocks(n_queries, 32)])


@numba.njit(nogil=True, cache=True)
def _add_row_products(start, order, value, coefficient, first, out):
    """out[i] += sum over trees of value . coefficient of row first + i of one tile."""
    n_trees, _, n_values = value.shape
    for t in range(n_trees):
        for leaf in range(start.shape[1] - 1):
            begin, end = start[t, leaf], start[t, leaf + 1]
            place = begin + np.searchsorted(order[t, begin:end], first)
            while place < end and order[t, place] < first + len(out):
                i = order[t, place] - first
                for v in range(n_values):
                    out[i] += coefficient[t, i, v] * value[t, place, v]
                place += 1


def add_row_products(
    start: NDArray[np.int32],
    order: NDArray[np.uint16],
    value: NDArray[np.float64],
    coefficient: NDArray[np.float64],
    rows: slice,
    out: NDArray[np.float64],
) -> None:
    """Adds each row's product with itself, where the queries are the training rows `rows`.

    Args:
        start: As for `add_leaf_products`, and so are order and value.
        order: Rows of each tile by leaf.
        value: Value of each row in that order.
        coefficient: Shape (n_trees, n_queries, n_values).
        rows: The training rows that the queries are.
        out: Added to, shape (n_queries,).
    """
    for tile in blocks(order.shape[1], TILE):
        first, last = max(rows.start, tile.start), min(rows.stop, tile.stop)
        if first < last:
            asked = slice(first - rows.start, last - rows.start)
            _add_row_products(
                start[tile.start // TILE], order[:, tile], value[:, tile],
                coefficient[:, asked], first - tile.start, out[asked],
            )  # fmt: skip
