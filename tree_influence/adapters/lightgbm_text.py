"""`read`: LightGBM's model text as arrays.

A model is a header of `key=value` lines, one block for each tree, `end of trees`, and the training
parameters as `[name: value]` lines. The header lists the size of each block, so a shortened or
edited text is told from a whole one.

| bits of decision_type | meaning |
|---|---|
| 1     | categorical: `threshold` numbers a bitset of the categories that go left |
| 2     | missing values go left |
| 4, 8  | which values are missing: 0 none (NaN is read as 0), 4 zero and NaN, 8 NaN |
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from influence.errors import StorageError
from tree_influence.ensemble import (
    MISSING_IS_ZERO,
    MISSING_LEFT,
    MISSING_RIGHT,
    ZERO_LEFT,
    ZERO_RIGHT,
    Tree,
)

_MISSING = np.array(  # [which values are missing, whether they go left]
    [[MISSING_IS_ZERO, MISSING_IS_ZERO], [ZERO_RIGHT, ZERO_LEFT], [MISSING_RIGHT, MISSING_LEFT]]
)


@dataclass(frozen=True, eq=False)
class ModelText:
    """A model as its text tells it.

    Attributes:
        header: Values by key.
        trees: The trees, round by round; leaf values include shrinkage.
        shrinkage: Learning rate of each tree, to six digits, shape (n_trees,); 1 where something
            was added to the leaves afterwards.
        is_linear: Leaves hold linear models, which are not read.
        parameters: Training parameters by LightGBM's main name; numbers have six digits.
    """

    header: dict[str, str]
    trees: list[Tree]
    shrinkage: NDArray[np.float64]
    is_linear: bool
    parameters: dict[str, str]

    @property
    def trees_per_round(self) -> int:
        return int(self.header["num_tree_per_iteration"])

    @property
    def n_features(self) -> int:
        return int(self.header["max_feature_idx"]) + 1

    @property
    def objective(self) -> str:
        """Name of the objective; "" for one the user wrote."""
        return self.header.get("objective", "").split(" ")[0]

    @property
    def is_forest(self) -> bool:
        """Whether predictions are the mean of the trees (boosting=rf)."""
        return "average_output" in self.header

    @property
    def is_before_3(self) -> bool:
        """Whether LightGBM 2 wrote it: it had no path_smooth yet."""
        knows = not self.parameters or "path_smooth" in self.parameters
        return self.header.get("version") == "v2" or not knows

    @property
    def n_bins(self) -> NDArray[np.int64]:
        """Bins of each categorical feature, one of them for missing and rare categories; else 0."""
        infos = self.header["feature_infos"].split()
        return np.array([0 if info[0] in "[n" else info.count(":") + 1 for info in infos], np.int64)

    @property
    def largest(self) -> NDArray[np.float64]:
        """Largest value or category of each feature in training; -inf where it never varied."""
        infos = [info.strip("[]").split(":") for info in self.header["feature_infos"].split()]
        return np.array([-np.inf if one == ["none"] else max(map(float, one)) for one in infos])


def read(text: str, source: str) -> ModelText:
    """Reads a model's text and checks that it is whole.

    Args:
        text: As saved by LightGBM.
        source: Where it comes from, for messages.

    Raises:
        StorageError: The text is truncated or was edited.
    """
    try:
        blocks, header, rest = _split(text)
        n_features = int(header["max_feature_idx"]) + 1
        trees = [_tree(block, n_features) for block in blocks]
        if len(header["feature_infos"].split()) != n_features:
            raise ValueError("feature_infos does not describe each feature")
        if len(trees) % int(header["num_tree_per_iteration"]):
            raise ValueError("the last round lacks trees")
        return ModelText(
            header=header,
            trees=trees,
            shrinkage=np.array([float(block["shrinkage"]) for block in blocks]),
            is_linear=any(block.get("is_linear") == "1" for block in blocks),
            parameters=_parameters(rest),
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise StorageError(
            f"Expected a whole LightGBM model in {source}, but it is truncated or was edited "
            f"({type(error).__name__}: {error}). Save the model again."
        ) from error


def _split(text: str) -> tuple[list[dict[str, str]], dict[str, str], str]:
    """Fields of each tree, fields of the header, and the text after the trees."""
    start = text.index("\n\n") + 2
    header = _fields(text[:start].splitlines())
    blocks = []
    for t, size in enumerate(header["tree_sizes"].split()):
        stop = start + int(size)
        lines = text[start:stop].rstrip("\n").split("\n")
        if lines[0] != f"Tree={t}" or not all("=" in line for line in lines):
            raise ValueError(f"tree {t} is not where the header says")
        blocks.append(_fields(lines))
        start = stop
    start = text.index("end of trees", start, start + 16)
    return blocks, header, text[start:]


def _fields(lines: list[str]) -> dict[str, str]:
    """Values by key; a line without one (average_output) has an empty value."""
    parts = (line.partition("=") for line in lines if line)
    return {key: value for key, _, value in parts}


def _parameters(rest: str) -> dict[str, str]:
    """Training parameters; none where the text never had any."""
    if "\nparameters:" not in rest:
        return {}
    start = rest.index("\nparameters:")
    lines = rest[start : rest.index("end of parameters", start)].splitlines()
    return dict(line[1:-1].split(": ", 1) for line in lines if line.startswith("["))


def _tree(block: dict[str, str], n_features: int) -> Tree:
    def numbers(key: str, dtype: type, n: int) -> NDArray:
        found = np.array(block[key].split(), dtype=dtype)
        if len(found) != n:
            raise ValueError(f"{key} of tree {block['Tree']} has {len(found)} values, not {n}")
        return found

    n_leaves = int(block["num_leaves"])
    n_nodes = n_leaves - 1
    feature = numbers("split_feature", np.int64, n_nodes)
    threshold = numbers("threshold", np.float64, n_nodes)
    decision = numbers("decision_type", np.int64, n_nodes)
    left = numbers("left_child", np.int64, n_nodes)
    right = numbers("right_child", np.int64, n_nodes)
    below = np.concatenate([np.arange(-n_leaves, 0), np.arange(1, n_nodes)])[: 2 * n_nodes]
    if not np.array_equal(np.sort(np.concatenate([left, right])), below):
        raise ValueError(f"tree {block['Tree']} does not reach each of its nodes once")
    if n_nodes and not (feature.min() >= 0 and feature.max() < n_features):
        raise ValueError(f"tree {block['Tree']} splits on a feature the model does not have")
    if n_nodes:  # not used here, but the library ends the process where they are damaged
        for key in ("split_gain", "internal_value", "internal_weight", "internal_count"):
            numbers(key, np.float64, n_nodes)
        for key in ("leaf_weight", "leaf_count"):
            numbers(key, np.float64, n_leaves)
    categorical = decision & 1 != 0
    missing = _MISSING[decision >> 2 & 3, decision >> 1 & 1]
    n_sets = int(block["num_cat"])
    codes = _category_sets(block) if n_sets else []
    return Tree(
        feature=feature,
        threshold=threshold,
        left=left,
        right=right,
        missing=np.where(categorical, MISSING_RIGHT, missing),
        leaf_value=numbers("leaf_value", np.float64, n_leaves)[:, None],
        leaf_label=np.arange(n_leaves),
        categories={int(v): codes[int(threshold[v])] for v in np.flatnonzero(categorical)},
    )


def _category_sets(block: dict[str, str]) -> list[NDArray[np.int64]]:
    """The categories that go left, for each bitset of a tree."""
    bounds = np.array(block["cat_boundaries"].split(), dtype=np.int64)
    words = np.array(block["cat_threshold"].split(), dtype=np.uint32)
    if bounds[-1] != len(words):
        raise ValueError(f"cat_threshold of tree {block['Tree']} has {len(words)} values")
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    return [np.flatnonzero(bits[32 * start : 32 * stop]) for start, stop in pairwise(bounds)]
