"""`TreeEnsemble`: all trees of a model as one frozen struct of arrays.

One rule serves every library: a row goes left where its value is <= the node's threshold, or
where its category is in the node's set. Adapters translate (`<` becomes `<=` of the next smaller
float; a set that sends rows right swaps the children). What differs between libraries and cannot
be translated is held here: the precision in which features are compared, and what a missing value
does at each node.

| index | runs over |
|---|---|
| t     | trees, round by round; in a round output by output (unless leaves are vectors) |
| v     | inner nodes of all trees |
| l     | leaves; numbered from 0 within each tree, `leaf_start[t] + l` in the arrays |
| k     | outputs: 1, or one for each class |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from influence.errors import UnsupportedModelError
from tree_influence import kernels

# What a missing value does at a node. The last two also take |x| <= 1e-35 for missing.
MISSING_IS_ZERO, MISSING_LEFT, MISSING_RIGHT, ZERO_LEFT, ZERO_RIGHT = range(5)


@dataclass(frozen=True, eq=False)
class Tree:
    """One tree as an adapter reads it. Children >= 0 are nodes, < 0 are leaves (~child).

    Attributes:
        feature: Column of each node, shape (n_nodes,).
        threshold: A value <= threshold goes left, shape (n_nodes,); ignored at categorical nodes.
        left: Left children, shape (n_nodes,); node 0 is the root.
        right: Right children, shape (n_nodes,).
        missing: What a missing value does, one of the constants of this module, shape (n_nodes,).
        leaf_value: What a leaf adds to the raw score, shape (n_leaves, 1) or (n_leaves, n_outputs).
        leaf_label: The library's own number of each leaf, shape (n_leaves,).
        categories: For each categorical node, the category codes that go left.
    """

    feature: ArrayLike
    threshold: ArrayLike
    left: ArrayLike
    right: ArrayLike
    missing: ArrayLike
    leaf_value: NDArray[np.float64]
    leaf_label: ArrayLike
    categories: Mapping[int, ArrayLike] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """All trees of a fitted model.

    Attributes:
        feature: Column of each node, shape (n_nodes,).
        threshold: Threshold of each node, shape (n_nodes,).
        children: Left and right child, a node of these arrays or ~leaf, shape (n_nodes, 2).
        missing: What a missing value does at each node, shape (n_nodes,).
        category_start: First word of the node's bitset in `categories`; -1 at numeric nodes.
        category_words: Number of words of the node's bitset.
        categories: Bitsets of the categories that go left, shape (n_words,).
        root: First node of each tree, or ~0 for a tree of one leaf, shape (n_trees,).
        leaf_start: Offset of each tree's leaves, shape (n_trees + 1,).
        leaf_value: What each leaf adds to the raw score, shape (n_leaves, 1 or n_outputs).
        leaf_label: The library's own number of each leaf, shape (n_leaves,).
        bias: Raw score before the first tree, shape (n_outputs,).
        n_features: Number of columns.
        compares_float32: Features are rounded to float32 before they are compared.
        n_parallel: Consecutive rounds that start from the same scores (XGBoost's
            num_parallel_tree).
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    children: NDArray[np.int32]
    missing: NDArray[np.uint8]
    category_start: NDArray[np.int32]
    category_words: NDArray[np.int32]
    categories: NDArray[np.uint32]
    root: NDArray[np.int32]
    leaf_start: NDArray[np.int64]
    leaf_value: NDArray[np.float64]
    leaf_label: NDArray[np.int64]
    bias: NDArray[np.float64]
    n_features: int
    compares_float32: bool
    n_parallel: int = 1

    @property
    def n_trees(self) -> int:
        return len(self.root)

    @property
    def n_outputs(self) -> int:
        return len(self.bias)

    @property
    def vector_leaves(self) -> bool:
        """One tree a round with a value for every output, instead of one tree for each."""
        return self.leaf_value.shape[1] > 1

    @property
    def trees_per_round(self) -> int:
        return 1 if self.vector_leaves else self.n_outputs

    @property
    def n_rounds(self) -> int:
        """Rounds of one tree for each output (one in all where leaves are vectors)."""
        return self.n_trees // self.trees_per_round

    @property
    def leaf_counts(self) -> NDArray[np.int64]:
        """Number of leaves of each tree, shape (n_trees,)."""
        return np.diff(self.leaf_start)

    @property
    def leaf_dtype(self) -> type[np.uint16] | type[np.int32]:
        """Smallest integer type that numbers the leaves of a tree."""
        return np.uint16 if self.leaf_counts.max(initial=0) <= 2**16 else np.int32

    def leaves(self, X: NDArray[np.floating]) -> NDArray[np.integer]:
        """The leaf of every row in every tree.

        Args:
            X: Features as the adapter encodes them, shape (n_rows, n_features).

        Returns:
            Leaf numbers, shape (n_trees, n_rows).
        """
        X = np.ascontiguousarray(X, dtype=np.float32 if self.compares_float32 else np.float64)
        out = np.empty((self.n_trees, X.shape[0]), dtype=self.leaf_dtype)
        kernels.find_leaves(
            X, self.feature, self.threshold, self.children, self.missing,
            self.category_start, self.category_words, self.categories, self.root, out,
        )  # fmt: skip
        return out

    def raw(self, leaves: NDArray[np.integer]) -> NDArray[np.float64]:
        """Raw scores, bias + sum of the leaf values, summed in float64 in tree order.

        Args:
            leaves: Shape (n_trees, n_rows).

        Returns:
            Shape (n_rows, n_outputs).
        """
        raw = np.tile(self.bias, (leaves.shape[1], 1))
        for t in range(self.n_trees):
            values = self.tree_values(t)[leaves[t]]  # (n_rows, 1 or n_outputs)
            if self.vector_leaves:
                raw += values
            else:
                raw[:, t % self.n_outputs] += values[:, 0]
        return raw

    def tree_values(self, t: int) -> NDArray[np.float64]:
        """Leaf values of one tree, shape (n_leaves of it, 1 or n_outputs)."""
        return self.leaf_value[self.leaf_start[t] : self.leaf_start[t + 1]]

    def labels(self, leaves: NDArray[np.integer]) -> NDArray[np.int64]:
        """Leaf numbers turned into the library's own, shape (n_rows, n_trees)."""
        return self.leaf_label[leaves.T.astype(np.int64) + self.leaf_start[:-1]]


def stack(
    trees: Sequence[Tree],
    bias: ArrayLike,
    n_features: int,
    compares_float32: bool,
    n_parallel: int = 1,
) -> TreeEnsemble:
    """Puts trees into one ensemble, in the order they are applied (round by round).

    Raises:
        UnsupportedModelError: Leaf values that are not finite.
    """
    if not all(np.isfinite(tree.leaf_value).all() for tree in trees):
        raise UnsupportedModelError(
            "Expected finite leaf values, but training diverged: some are infinite or NaN, and so "
            "are predictions. Train with a smaller learning rate or more regularisation (l2)."
        )
    n_nodes = np.array([len(np.atleast_1d(tree.feature)) for tree in trees], dtype=np.int64)
    n_leaves = np.array([len(tree.leaf_value) for tree in trees], dtype=np.int64)
    node_start = np.concatenate([[0], np.cumsum(n_nodes)])
    children = [
        np.where(child >= 0, child + start, child)
        for tree, start in zip(trees, node_start, strict=False)
        for child in [np.column_stack([tree.left, tree.right]).astype(np.int64)]
    ]
    category_start = np.full(node_start[-1], -1, dtype=np.int32)
    category_words = np.zeros(node_start[-1], dtype=np.int32)
    words: list[NDArray[np.uint32]] = [np.zeros(0, dtype=np.uint32)]
    n_words = 0
    for tree, start in zip(trees, node_start, strict=False):
        for node, codes in tree.categories.items():
            bits = _bitset(codes)
            category_start[start + node], category_words[start + node] = n_words, len(bits)
            words.append(bits)
            n_words += len(bits)

    def joined(name: str, dtype: type) -> NDArray:
        return np.concatenate([np.atleast_1d(getattr(tree, name)) for tree in trees]).astype(dtype)

    return TreeEnsemble(
        feature=joined("feature", np.int32),
        threshold=joined("threshold", np.float64),
        children=np.ascontiguousarray(np.concatenate(children), dtype=np.int32).reshape(-1, 2),
        missing=joined("missing", np.uint8),
        category_start=category_start,
        category_words=category_words,
        categories=np.concatenate(words),
        root=np.where(n_nodes > 0, node_start[:-1], ~0).astype(np.int32),
        leaf_start=np.concatenate([[0], np.cumsum(n_leaves)]),
        leaf_value=joined("leaf_value", np.float64),
        leaf_label=joined("leaf_label", np.int64),
        bias=np.atleast_1d(np.asarray(bias, dtype=np.float64)),
        n_features=n_features,
        compares_float32=compares_float32,
        n_parallel=n_parallel,
    )


def _bitset(codes: ArrayLike) -> NDArray[np.uint32]:
    codes_array = np.asarray(codes, dtype=np.int64)
    bits = np.zeros(codes_array.max(initial=-1) // 32 + 1, dtype=np.uint32)
    np.bitwise_or.at(bits, codes_array // 32, np.uint32(1) << (codes_array % 32).astype(np.uint32))
    return bits
