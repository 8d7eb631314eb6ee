"""The trees of a CatBoost model, out of its JSON export where they split on numbers only."""

import json
import tempfile
from pathlib import Path
from typing import Any

import catboost
import numpy as np
from numpy.typing import NDArray

from influence.errors import UnsupportedModelError
from tree_influence.ensemble import MISSING_LEFT, MISSING_RIGHT, Tree, TreeEnsemble, stack

Floats = NDArray[np.float64]


def exported_model(model: catboost.CatBoost) -> dict[str, Any]:
    """The model in CatBoost's own JSON format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        return json.loads(path.read_text(encoding="utf-8"))


def read_trees(
    model: catboost.CatBoost, exported: dict[str, Any] | None, n_features: int
) -> TreeEnsemble:
    """All trees: with their splits where `exported` is given, else as leaves only."""
    scale, bias = model.get_scale_and_bias()
    n_leaves = model.get_tree_leaf_counts().astype(np.int64)
    if len(n_leaves) == 0:
        raise UnsupportedModelError("The model has no trees; train it for one iteration or more.")
    values = scale * model.get_leaf_values()
    values = values.reshape(n_leaves.sum(), -1)  # (n_leaves, n_outputs)
    start = np.concatenate([[0], np.cumsum(n_leaves)])
    columns = {} if exported is None else _float_columns(exported)
    trees = []
    for t in range(len(n_leaves)):
        splits = [] if exported is None else exported["oblivious_trees"][t].get("splits") or []
        trees.append(_symmetric_tree(splits, columns, values[start[t] : start[t + 1]]))
    bias = np.broadcast_to(np.asarray(bias, dtype=np.float64), values.shape[1])
    return stack(trees, bias, n_features, compares_float32=True)


def _float_columns(exported: dict[str, Any]) -> dict[int, tuple[int, int]]:
    """Column of each float feature, and where its missing values go."""
    return {
        feature["feature_index"]: (
            feature["flat_feature_index"],
            MISSING_RIGHT if feature["nan_value_treatment"] == "AsTrue" else MISSING_LEFT,
        )
        for feature in exported["features_info"].get("float_features", [])
    }


def _symmetric_tree(
    splits: list[dict[str, Any]], columns: dict[int, tuple[int, int]], values: Floats
) -> Tree:
    """A balanced tree with the same split at every node of a level; without splits, its leaves.

    Bit i of a leaf's number is the outcome of split i, so the last split is the root's. Nodes are
    numbered level by level: those below v are 2v + 1 and 2v + 2, and leaves follow the nodes.
    """
    depth = len(splits)
    n_nodes = 2**depth - 1
    split_of = np.repeat(np.arange(depth)[::-1], 2 ** np.arange(depth))  # (n_nodes,)
    read = [columns[split["float_feature_index"]] for split in splits]
    below = 2 * np.arange(n_nodes)[:, None] + np.array([1, 2])  # (n_nodes, 2)
    children = np.where(below < n_nodes, below, ~(below - n_nodes))
    return Tree(
        feature=np.array([column for column, _ in read], dtype=np.int32)[split_of],
        threshold=np.array([split["border"] for split in splits], dtype=np.float32)[split_of],
        left=children[:, 0],
        right=children[:, 1],
        missing=np.array([missing for _, missing in read], dtype=np.uint8)[split_of],
        leaf_value=values,
        leaf_label=np.arange(len(values)),
    )
