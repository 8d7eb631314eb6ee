"""The trees of an XGBoost model, read from the JSON in which the library saves it.

float32(x) < float32(threshold) goes left, which is `<=` of the next smaller float32. A node's set
of categories goes right, so its children change sides here, and with them its missing values.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from influence.errors import NotFittedError, StorageError, UnsupportedModelError
from tree_influence.ensemble import MISSING_LEFT, MISSING_RIGHT, Tree, TreeEnsemble, stack

Floats = NDArray[np.float64]

# Objectives whose base_score is a probability, and those whose base_score is a mean.
_LOGIT = ("binary:logistic", "reg:logistic")
_LOG = ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft")

_DAMAGED = "The XGBoost model is damaged; save it again"


@dataclass(frozen=True, eq=False)
class Content:
    """What a saved XGBoost model holds.

    Attributes:
        learner: The model without its trees, as the library's own JSON.
        version: Of the library that wrote the JSON.
        ensemble: The trees.
        order: Place of each of our trees among the library's, shape (n_trees,).
        hessian: Sum of the weighted Hessians of each leaf's rows, shape (n_leaves,); 0 where
            leaves are vectors, of whose outputs it is not told.
        objective: Name of the objective; of a custom one the model tells nothing.
        n_parallel: Trees that are grown side by side for each output and round.
        is_dart: Some trees were scaled down after others had been trained on them.
    """

    learner: dict[str, Any]
    version: tuple[int, ...]
    ensemble: TreeEnsemble
    order: NDArray[np.int64]
    hessian: Floats
    objective: str
    n_parallel: int
    is_dart: bool

    @property
    def n_iterations(self) -> int:
        """Boosting rounds as the library counts them."""
        return self.ensemble.n_rounds // self.n_parallel

    @property
    def n_targets(self) -> int:
        """Columns of the target; several quantiles have one target and many outputs."""
        if self.objective == "reg:quantileerror":
            return 1
        return int(self.learner["learner_model_param"].get("num_target", 1))

    @property
    def base_score(self) -> NDArray[np.float32]:
        """As it is stored: one, or one for every output; on the scale of the targets."""
        return _base_score(self.learner)


def read(booster: xgboost.Booster, n_iterations: int | None) -> Content:
    """Reads the trees of a model.

    Args:
        booster: The model.
        n_iterations: How many rounds predict; None for all.

    Raises:
        NotFittedError: No tree has been trained.
        UnsupportedModelError: A linear model, or training that diverged.
        StorageError: The trees are damaged.
    """
    saved = _saved(booster)
    learner = saved["learner"]
    booster_json = learner["gradient_booster"]
    if booster_json["name"] == "gblinear":
        raise UnsupportedModelError(
            "Expected trees, got a linear model (booster='gblinear'). Train with booster='gbtree'."
        )
    model = booster_json.get("gbtree", booster_json)["model"]  # "dart" wraps a "gbtree" before 3.4
    shrunken = booster_json.get("weight_drop") or model.get("weight_drop")
    n_outputs = _n_outputs(learner["learner_model_param"])
    n_parallel = int(model["gbtree_model_param"]["num_parallel_tree"])
    trees = model.pop("trees")
    n_trees = len(trees)
    if n_trees == 0:
        raise NotFittedError("Expected a trained XGBoost model, got one without trees.")
    trees_per_round = 1 if _n_values(trees[0]) > 1 else n_outputs
    if n_iterations is not None:
        n_trees = min(n_trees, n_iterations * trees_per_round * n_parallel)
    scales = np.asarray(shrunken or np.ones(n_trees), dtype=np.float32)[:n_trees]
    output = np.asarray(model["tree_info"][:n_trees])
    order = np.argsort(output, kind="stable").reshape(trees_per_round, -1).T.ravel()
    n_features = int(learner["learner_model_param"]["num_feature"])
    found = [_tree(trees[t], scales[t], n_features) for t in order]
    ensemble = stack(
        [tree for tree, _ in found], _bias(learner, n_outputs), n_features,
        compares_float32=True, n_parallel=n_parallel,
    )  # fmt: skip
    return Content(
        learner=learner,
        version=tuple(saved["version"]),
        ensemble=ensemble,
        order=order,
        hessian=np.concatenate([hessian for _, hessian in found]),
        objective=learner["objective"]["name"],
        n_parallel=n_parallel,
        is_dart=bool((scales != 1).any()),
    )


def _saved(booster: xgboost.Booster) -> dict[str, Any]:
    try:
        return json.loads(bytes(booster.save_raw("json")))
    except xgboost.core.XGBoostError as error:
        raise NotFittedError(
            f"Expected a trained XGBoost model, got a Booster that holds none: {error}"
        ) from error


def _n_outputs(facts: dict[str, str]) -> int:
    return max(1, int(facts["num_class"]), int(facts.get("num_target", 1)))


def _base_score(learner: dict[str, Any]) -> NDArray[np.float32]:
    told = json.loads(learner["learner_model_param"]["base_score"])
    return np.atleast_1d(np.asarray(told, dtype=np.float32))


def _bias(learner: dict[str, Any], n_outputs: int) -> Floats:
    """Raw score before the first tree, shape (n_outputs,); in float32, as the library does."""
    base = _base_score(learner)
    objective = learner["objective"]["name"]
    if objective in _LOGIT:
        base = np.clip(base, np.float32(1e-6), np.float32(1 - 1e-6))
        base = -np.log(1 / base - 1)
    elif objective in _LOG:
        base = np.log(base)
    return np.broadcast_to(base.astype(np.float64), (n_outputs,)).copy()


def _n_values(told: dict[str, Any]) -> int:
    """Values in each leaf of a tree; files that are older than vector leaves tell 0."""
    return max(1, int(told["tree_param"]["size_leaf_vector"]))


def _tree(told: dict[str, Any], scale: np.float32, n_features: int) -> tuple[Tree, Floats]:
    """One tree, and the sum of Hessians of each of its leaves."""
    left, right = np.asarray(told["left_children"]), np.asarray(told["right_children"])
    feature = np.asarray(told["split_indices"])
    value = np.asarray(told["split_conditions"], dtype=np.float32)  # of a leaf: what it adds
    reached = _reached(left, right)
    inner, leaves = np.flatnonzero(reached & (left >= 0)), np.flatnonzero(reached & (left < 0))
    if (feature[inner] < 0).any() or (feature[inner] >= n_features).any():
        raise StorageError(f"{_DAMAGED}: it splits on a feature that it does not have.")
    number = np.full(len(left), -1)  # stays so for nodes that were pruned away
    number[inner], number[leaves] = np.arange(len(inner)), ~np.arange(len(leaves))
    by_set = np.asarray(told["split_type"], dtype=bool)[inner]
    children = number[left[inner]], number[right[inner]]
    to_left = np.asarray(told["default_left"], dtype=bool)[inner] != by_set
    tree = Tree(
        feature=feature[inner],
        threshold=np.where(by_set, 0.0, np.nextafter(value[inner], np.float32(-np.inf))),
        left=np.where(by_set, children[1], children[0]),
        right=np.where(by_set, children[0], children[1]),
        missing=np.where(to_left, MISSING_LEFT, MISSING_RIGHT),
        leaf_value=(_leaf_values(told, value, leaves) * scale).astype(np.float64),
        leaf_label=leaves,
        categories={int(number[v]): codes for v, codes in _sets(told).items() if number[v] >= 0},
    )
    if _n_values(told) > 1:
        return tree, np.zeros(len(leaves))
    return tree, np.asarray(told["sum_hessian"], dtype=np.float64)[leaves]


def _leaf_values(
    told: dict[str, Any], value: NDArray[np.float32], leaves: NDArray[np.integer]
) -> NDArray[np.float32]:
    """What each leaf adds to every output, shape (n_leaves, 1 or n_outputs)."""
    n_values = _n_values(told)
    if n_values == 1:
        return value[leaves, None]
    if "leaf_weights" not in told:  # before 3.2
        return np.asarray(told["base_weights"], dtype=np.float32).reshape(-1, n_values)[leaves]
    place = np.asarray(told["right_children"])[leaves]
    return np.asarray(told["leaf_weights"], dtype=np.float32).reshape(-1, n_values)[place]


def _sets(told: dict[str, Any]) -> dict[int, list[int]]:
    """Categories that go right, by node."""
    places = zip(
        told["categories_nodes"], told["categories_segments"], told["categories_sizes"], strict=True
    )
    return {v: told["categories"][start : start + size] for v, start, size in places}


def _reached(left: NDArray[np.integer], right: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Nodes that belong to the tree; pruning leaves others behind, which look like leaves."""
    reached = np.zeros(len(left), dtype=bool)
    level = np.zeros(1, dtype=np.int64)
    while level.size:
        if level.min() < 0 or level.max() >= len(left):
            raise StorageError(f"{_DAMAGED}: a node of one of its trees points outside the tree.")
        if reached[level].any() or len(np.unique(level)) < level.size:
            raise StorageError(f"{_DAMAGED}: two nodes of one of its trees share a child.")
        reached[level] = True
        inner = level[left[level] >= 0]
        level = np.concatenate([left[inner], right[inner]])
    return reached
