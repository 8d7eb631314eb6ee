"""How CatBoost computes leaf values: -G / (H + l2 times the mean row weight), on all rows.

Bootstrap, sampling and the boosting type (Ordered) change how splits are chosen, not the leaves.
With vector leaves l2 is rounded to float32, and a softmax takes the full Hessian over the classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence.errors import UnsupportedModelError
from tree_influence.adapters.base import LeafRecipe
from tree_influence.adapters.catboost_losses import SQUARED, leaf_loss, loss_name
from tree_influence.adapters.catboost_parameters import float32, known
from tree_influence.adapters.catboost_steps import taken_steps
from tree_influence.ensemble import TreeEnsemble
from tree_influence.losses import Softmax

Floats = NDArray[np.float64]

TARGET_STATISTICS = (
    "ordered target statistics of categorical features (one_hot_max_size large enough avoids them)"
)
LEAST_L2 = 1e-9  # of a leaf's weight: without any l2 the full Hessian of a softmax is singular


@dataclass(frozen=True, eq=False)
class Trained:
    """What a model's leaf values depend on besides the rows.

    Attributes:
        parameters: Training parameters.
        ensemble: Its trees.
        scale: What the model multiplies its trees by.
        has_ctrs: It splits on target statistics of categories.
        has_estimated: It splits on features made of text or embeddings.
    """

    parameters: Mapping[str, Any]
    ensemble: TreeEnsemble
    scale: float
    has_ctrs: bool
    has_estimated: bool

    def recipe(
        self,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
        trained_on: NDArray[np.bool_],
        offset: Floats | None,
    ) -> LeafRecipe:
        """The leaf formula with this model's numbers.

        Args:
            leaves: Leaf of each row, shape (n_trees, n_rows).
            target: Encoded target, shape (n_rows,) or (n_rows, n_targets).
            weight: Row weights, 0 for rows held out, shape (n_rows,).
            trained_on: Which rows were not held out, shape (n_rows,).
            offset: Baseline, shape (n_rows, n_outputs), or None.
        """
        loss, ensemble = leaf_loss(self.parameters), self.ensemble
        if self.scale != 1:
            raise UnsupportedModelError(
                f"Expected scale=1, got {self.scale}: set_scale_and_bias changed the model after "
                "training, so its scores are no longer those it was trained at. Use the model as "
                "trained."
            )
        full = isinstance(loss, Softmax)  # gradient steps are wrapped
        recipe = LeafRecipe(
            loss=loss,
            learning_rate=self._learning_rates(),
            l2=self._l2(leaves, weight, weight.sum() / trained_on.sum(), full),
            start=ensemble.bias,
            folded=np.zeros(ensemble.n_trees),
            n_steps=int(known(self.parameters, "leaf_estimation_iterations")),
            full_hessian=full,
            inexact_because=self._why_inexact(),
        )
        tested = self.parameters.get("leaf_estimation_backtracking") != "No"
        if recipe.n_steps == 1 or not tested or loss_name(self.parameters) in SQUARED:
            return recipe
        untold = replace(
            recipe, inexact_because=(*recipe.inexact_because, "leaf_estimation_backtracking")
        )
        if recipe.inexact_because:
            return untold
        found = taken_steps(ensemble, recipe, leaves, target, weight, offset)
        return untold if found.unsure else replace(recipe, taken=found.taken)

    def _learning_rates(self) -> Floats:
        """What is left of each tree in the model, shape (n_trees,).

        With model_shrink_rate each round first shrinks the model so far, its bias included.
        """
        n_trees = self.ensemble.n_trees
        rate = float32(known(self.parameters, "learning_rate"))
        shrink = float32(self.parameters.get("model_shrink_rate") or 0)
        decreasing = self.parameters.get("model_shrink_mode") == "Decreasing"
        by_round = 1 / np.arange(1, n_trees) if decreasing else np.full(n_trees - 1, rate)
        left = np.ones(n_trees, dtype=np.float64)
        left[:-1] = np.cumprod(1 - shrink * by_round[::-1])[::-1]
        return rate * left

    def _l2(
        self, leaves: NDArray[np.integer], weight: Floats, mean_weight: float, full: bool
    ) -> Floats:
        """Regularisation of each leaf, shape (n_leaves,)."""
        ensemble = self.ensemble
        l2 = float32(known(self.parameters, "l2_leaf_reg")) * mean_weight
        newton = self.parameters.get("leaf_estimation_method", "Newton") == "Newton"
        if ensemble.vector_leaves and newton:
            l2 = float32(l2)
        each = np.full(len(ensemble.leaf_value), l2)
        if not full:
            return each
        for t, (first, last) in enumerate(
            zip(ensemble.leaf_start[:-1], ensemble.leaf_start[1:], strict=True)
        ):
            held = np.bincount(leaves[t], weight, minlength=last - first)
            np.maximum(each[first:last], LEAST_L2 * held, out=each[first:last])
        return each

    def _why_inexact(self) -> tuple[str, ...]:
        """What this model was trained with that the leaf formula leaves out."""
        set_to = self.parameters.get
        reasons = {
            TARGET_STATISTICS: self.has_ctrs,
            "features estimated from text or embeddings": self.has_estimated,
            "langevin": set_to("langevin") and set_to("leaf_estimation_method") == "Gradient",
            "monotone_constraints": set_to("monotone_constraints"),
            "model_shrink_rate": set_to("model_shrink_rate"),
            "task_type='GPU'": set_to("task_type") == "GPU",
            "training continued from another model":
                self.ensemble.n_trees > set_to("iterations", np.inf),
        }  # fmt: skip
        return tuple(reason for reason, holds in reasons.items() if holds)
