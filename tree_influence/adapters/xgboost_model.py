"""`ModelJson`: an XGBoost model as its JSON holds it, turned into trees, biases and categories."""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence.errors import (
    InfluenceError,
    NotFittedError,
    StorageError,
    UnsupportedModelError,
)
from tree_influence.ensemble import MISSING_LEFT, MISSING_RIGHT, Tree

Floats = NDArray[np.float64]

_LOGIT = {"binary:logistic", "reg:logistic", "binary:logitraw"}
_LOG = {"count:poisson", "reg:gamma", "reg:tweedie"}


@dataclass(frozen=True, eq=False)
class ModelJson:
    """What one model's JSON says.

    Attributes:
        objective: Name of the training loss.
        n_outputs: Number of raw scores.
        n_features: Number of columns.
        n_parallel: Trees of each output in one round.
        is_dart: Trees were dropped out and rescaled.
        scale_pos_weight: Weight of the positive class.
        base_score: As stored, in the units of the prediction, shape (n_outputs,).
        feature_names: Column names, or None.
        feature_types: "c" marks a categorical column; None where the model knows no types.
        categories: Categories of each column, in the order of their codes; None where the column
            was given as codes, or is numeric.
        trees: All trees, round by round, in each round output by output.
        places: Where each of those trees stands in the library's own order, shape (n_trees,).
    """

    objective: str
    n_outputs: int
    n_features: int
    n_parallel: int
    is_dart: bool
    scale_pos_weight: float
    base_score: Floats
    feature_names: list[str] | None
    feature_types: list[str] | None
    categories: list[list[Any] | None]
    trees: list[Tree]
    places: NDArray[np.int64]

    @property
    def bias(self) -> Floats:
        """Raw score before the first tree, shape (n_outputs,)."""
        if self.objective in _LOGIT:
            return np.log(self.base_score) - np.log1p(-self.base_score)
        return np.log(self.base_score) if self.objective in _LOG else self.base_score


def read(raw: bytes, n_rounds: int | None) -> ModelJson:
    """Reads a model's JSON.

    Args:
        raw: `Booster.save_raw("json")`.
        n_rounds: Rounds to keep; None keeps all.

    Raises:
        UnsupportedModelError: A linear booster, or trees with vectors as leaves.
        StorageError: The JSON has another form than any version known here writes.
    """
    learner = json.loads(raw)["learner"]
    try:
        return _read(learner, n_rounds)
    except InfluenceError:
        raise
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise StorageError(
            f"The XGBoost model has a form that is not known here ({error!r}); please report its "
            "version."
        ) from error


def _read(learner: dict[str, Any], n_rounds: int | None) -> ModelJson:
    booster = learner["gradient_booster"]
    if booster["name"] == "gblinear":
        raise UnsupportedModelError(
            'A linear model (booster="gblinear") has no trees; train it with booster="gbtree".'
        )
    told = learner["learner_model_param"]
    n_outputs = max(1, int(told["num_class"]), int(told.get("num_target", 1)))
    model = booster["gbtree"]["model"] if "gbtree" in booster else booster["model"]
    dropped = booster.get("weight_drop", model.get("weight_drop"))
    n_parallel = max(1, int(model["gbtree_model_param"].get("num_parallel_tree", 1)))
    n_trees = len(model["trees"])
    if n_rounds is not None:
        n_trees = min(n_trees, n_rounds * n_outputs * n_parallel)
    if n_trees == 0:
        raise NotFittedError("Expected a trained XGBoost model, got one without trees.")
    if any(int(tree["tree_param"].get("size_leaf_vector", 1)) > 1 for tree in model["trees"]):
        raise UnsupportedModelError(
            'Trees with vectors as leaves (multi_strategy="multi_output_tree") are not answered; '
            'train with multi_strategy="one_output_per_tree".'
        )
    places = _places(np.asarray(model["tree_info"][:n_trees]), n_outputs, n_parallel)
    weights = np.ones(n_trees) if dropped is None else np.asarray(dropped, dtype=np.float64)
    objective = learner.get("objective", {})
    n_features = int(told["num_feature"])
    return ModelJson(
        objective=objective.get("name", ""),
        n_outputs=n_outputs,
        n_features=n_features,
        n_parallel=n_parallel,
        is_dart=dropped is not None,
        scale_pos_weight=float(objective.get("reg_loss_param", {}).get("scale_pos_weight", 1)),
        base_score=_base_score(told["base_score"], n_outputs),
        feature_names=learner.get("feature_names") or None,
        feature_types=learner.get("feature_types") or None,
        categories=_categories(model.get("cats"), n_features),
        trees=[_tree(model["trees"][place], float(weights[place])) for place in places],
        places=places,
    )


def _places(outputs: NDArray[np.integer], n_outputs: int, n_parallel: int) -> NDArray[np.int64]:
    """The library's places of the trees, with the outputs of a round side by side.

    The library puts the parallel trees of one output next to each other.
    """
    rounds = np.arange(len(outputs)).reshape(-1, n_outputs, n_parallel)
    places = rounds.transpose(0, 2, 1).reshape(-1)
    if not np.array_equal(outputs[places], np.tile(np.arange(n_outputs), len(places) // n_outputs)):
        raise ValueError("trees are not in the order of their outputs")
    return places.astype(np.int64)


def _base_score(text: str, n_outputs: int) -> Floats:
    """The stored string, one number or a list of them, rounded to float32 as the library does."""
    scores = np.atleast_1d(np.asarray(json.loads(text), dtype=np.float32)).astype(np.float64)
    return np.broadcast_to(scores, n_outputs).copy()


def _tree(tree: dict[str, Any], weight: float) -> Tree:
    left, right = (np.asarray(tree[f"{side}_children"]) for side in ("left", "right"))
    is_leaf = left < 0
    number = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(~is_leaf) - 1)
    inner = np.flatnonzero(~is_leaf)
    condition = np.asarray(tree["split_conditions"], dtype=np.float32)
    left, right = number[left[inner]], number[right[inner]]
    missing_left = np.asarray(tree["default_left"])[inner].astype(bool)
    categories = {}
    for node, codes in _category_sets(tree).items():  # in the set = right: swap the sides
        v = number[node]
        categories[v] = codes
        left[v], right[v], missing_left[v] = right[v], left[v], not missing_left[v]
    return Tree(
        feature=np.asarray(tree["split_indices"])[inner],
        threshold=np.nextafter(condition[inner], np.float32(-np.inf)),  # x < t is x <= t-
        left=left,
        right=right,
        missing=np.where(missing_left, MISSING_LEFT, MISSING_RIGHT),
        leaf_value=weight * condition[is_leaf].astype(np.float64)[:, None],
        leaf_label=np.flatnonzero(is_leaf),
        categories=categories,
    )


def _category_sets(tree: dict[str, Any]) -> dict[int, list[int]]:
    """Categories that go right, by node."""
    listed = zip(
        tree.get("categories_nodes", []),
        tree.get("categories_segments", []),
        tree.get("categories_sizes", []),
        strict=True,
    )
    return {node: tree["categories"][start : start + size] for node, start, size in listed}


def _categories(stored: dict[str, Any] | None, n_features: int) -> list[list[Any] | None]:
    """Category lists of each column, where the model was trained on a data frame."""
    found: list[list[Any] | None] = [None] * n_features
    for j, column in enumerate((stored or {}).get("enc", [])):
        values = column["values"]
        if "offsets" in column:
            offsets, text = column["offsets"], np.asarray(values, dtype=np.int8).tobytes()
            found[j] = [
                text[start:stop].decode(errors="replace") for start, stop in pairwise(offsets)
            ] or None
        else:
            found[j] = list(values) or None
    return found
