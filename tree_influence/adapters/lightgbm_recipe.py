"""`Training`: what a LightGBM model's parameters say about its leaf values.

LightGBM starts at the average of the labels (`boost_from_average`) and adds it to the leaves of
the first round without saying so. It is computed once more here, by the library's own rule. A tree
that could not be split is no Newton step: its one leaf holds that average in the first round and 0
later, which an infinite l2 says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence.errors import InputError, MissingParameterError, UnsupportedModelError
from tree_influence.adapters.base import Floats, LeafRecipe
from tree_influence.adapters.lightgbm_objectives import EPSILON, Spelled
from tree_influence.adapters.lightgbm_text import ModelText
from tree_influence.ensemble import TreeEnsemble
from tree_influence.losses import Loss

_MAIN_NAMES = {
    "eta": "learning_rate",
    "shrinkage_rate": "learning_rate",
    "reg_lambda": "lambda_l2",
    "lambda": "lambda_l2",
    "l2_regularization": "lambda_l2",
    "reg_alpha": "lambda_l1",
    "l1_regularization": "lambda_l1",
    "max_tree_output": "max_delta_step",
    "max_leaf_output": "max_delta_step",
}
# Numbers on which an answer depends.
_NUMBERS = {
    "learning_rate", "lambda_l1", "lambda_l2", "cat_l2", "max_cat_to_onehot", "max_delta_step",
    "path_smooth", "bagging_freq", "bagging_fraction", "pos_bagging_fraction",
    "neg_bagging_fraction", "alpha", "fair_c", "poisson_max_delta_step", "scale_pos_weight",
    "sigmoid", "tweedie_variance_power",
}  # fmt: skip
# A reason that tells the way out, since the model does not hold the scores.
INIT_SCORE = "init_score (pass lightgbm.Dataset(X, y, init_score=..., free_raw_data=False))"
_SIX_DIGITS = 1e-5  # relative precision of numbers in the model's text


def main_parameters(
    text: ModelText, live: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, str]:
    """The parameters of the text, with all digits where somebody knows them.

    Args:
        text: The model.
        live: Parameters of the Booster in memory; taken where they agree with the text.
        given: Parameters of the user; always taken.

    Raises:
        InputError: A name of the user's that LightGBM does not have, or a text for a number.
    """
    merged = dict(text.parameters)
    for name, value in live.items():
        main = _MAIN_NAMES.get(name, name)
        if isinstance(value, float) and merged.get(main) == f"{value:.6g}":
            merged[main] = merged[main] if value.is_integer() else repr(float(value))
    for name, value in given.items():
        main = _MAIN_NAMES.get(name, name)
        if main not in _NUMBERS and main not in text.parameters:
            raise InputError(
                f"params names {name!r}, which is no training parameter of this model; known are "
                f"{', '.join(sorted(_NUMBERS | text.parameters.keys()))}."
            )
        if main in _NUMBERS and not isinstance(value, int | float | np.number):
            raise InputError(f"params[{name!r}] must be a number, got {value!r}.")
        merged[main] = _as_text(value)
    return merged


def _as_text(value: Any) -> str:
    """A parameter as LightGBM writes it: flags as numbers, lists with commas."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(int(value) if isinstance(value, bool) else value)


@dataclass(frozen=True, eq=False)
class Training:
    """How a model was trained.

    Attributes:
        text: The model.
        ensemble: Its trees.
        parameters: Training parameters by LightGBM's main name.
    """

    text: ModelText
    ensemble: TreeEnsemble
    parameters: Mapping[str, str]

    @property
    def boosting(self) -> str:
        return "rf" if self.text.is_forest else self.parameters.get("boosting", "gbdt")

    @property
    def objective(self) -> Spelled:
        spelled, k = self.text.header.get("objective", ""), self.ensemble.n_outputs
        return Spelled(spelled, k, before_3=self.text.is_before_3)

    @property
    def starts_at_average(self) -> bool:
        """Whether training starts from the average of the labels."""
        return self._is("boost_from_average", "1")

    def loss(self) -> Loss:
        """The training loss, with LightGBM's leaf Hessian."""
        return self.objective.loss(self.number)

    def recipe(
        self,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
        offset: Floats | None = None,
    ) -> LeafRecipe:
        """How the leaf values were computed.

        Args:
            leaves: Leaf of each training row, shape (n_trees, n_train).
            target: Values, or positions of the classes, shape (n_train,).
            weight: Weights with class and label weights, shape (n_train,).
            offset: init_score of each row, shape (n_train, n_outputs), or None.
        """
        self._refuse(weight)
        max_step = float(self.parameters.get("max_delta_step", "0"))
        recipe = LeafRecipe(
            loss=self.objective.leaf_loss(self.number),
            learning_rate=self._rates(),
            l2=self._l2(),
            start=self._constants()[: self.ensemble.n_outputs],
            folded=self._constants(),
            l1=float(self.parameters.get("lambda_l1", "0")),
            max_step=max_step if max_step > 0 else np.inf,
            inexact_because=self._inexact_because(),
        )
        return recipe if offset is not None else self._started(recipe, leaves, target, weight)

    def number(self, name: str) -> float:
        """A parameter as a number.

        Raises:
            MissingParameterError: Neither the model nor the user tells it.
        """
        if name not in self.parameters:
            raise MissingParameterError(
                f"The model does not hold its training parameter {name}. Give it: "
                f"params={{{name!r}: ...}}."
            )
        return float(self.parameters[name])

    def label_weight(self, target: Floats) -> Floats:
        """What the binary loss multiplies each row by, besides its weight; shape (n_rows,)."""
        if self.text.objective != "binary":
            return np.ones(len(target))
        by_class = np.ones(2)
        counts = np.bincount(target > 0, minlength=2)
        if self._is("is_unbalance") and counts.all():
            by_class = counts.max() / counts
        by_class[1] *= float(self.parameters.get("scale_pos_weight", "1"))
        return by_class[(target > 0).astype(np.int64)]

    def rate_changes(self) -> bool:
        """Whether a schedule changed the learning rate from round to round."""
        rates = self._rates()
        return bool((rates != self.number("learning_rate")).any())

    def _renews_rounded(self) -> bool:
        """Whether leaves of rounded gradients are computed once more from the exact ones."""
        return self._is("use_quantized_grad") and self._is("quant_train_renew_leaf")

    def _is(self, name: str, default: str = "0") -> bool:
        return self.parameters.get(name, default) == "1"

    def _refuse(self, weight: Floats) -> None:
        """Raises for leaves that are no Newton values of the loss."""
        boosting = self.boosting
        if boosting == "rf" or (boosting == "dart" and self._was_scaled()):
            raise UnsupportedModelError(
                f"Expected trees that keep their values, got boosting={boosting!r}, whose trees "
                f"are {'averaged' if boosting == 'rf' else 'dropped and scaled again'} later. "
                "Train with boosting='gbdt'."
            )
        objective = self.objective.name
        uneven = self._is("is_unbalance") or self.parameters.get("scale_pos_weight", "1") != "1"
        if objective == "multiclassova" and uneven:
            raise UnsupportedModelError(
                "Expected one weight for each row, got objective='multiclassova' with is_unbalance "
                "or scale_pos_weight, which weigh a row differently in each output. Give "
                "sample_weight or class_weight instead."
            )
        if objective == "cross_entropy_lambda" and (weight != 1).any():
            raise UnsupportedModelError(
                "Expected weights that multiply the loss, got objective='cross_entropy_lambda' "
                "with sample weights, which are part of its link. Train with "
                "objective='cross_entropy', or without weights."
            )

    def _was_scaled(self) -> bool:
        """Whether the trees' own word on their shrinkage is not the learning rate (DART)."""
        rate, told = self.number("learning_rate"), self.text.shrinkage
        first = np.arange(len(told)) < self.ensemble.n_outputs
        kept = (told == 1) & (first | (self.ensemble.leaf_counts == 1))
        return bool((~kept & (np.abs(told - rate) > _SIX_DIGITS * rate)).any())

    def _rates(self) -> Floats:
        """Learning rate of each tree; the text tells it only where nothing was added later."""
        rate, told = self.number("learning_rate"), self.text.shrinkage
        if self.boosting in ("rf", "dart"):
            return np.full(len(told), rate)
        first = np.arange(len(told)) < self.ensemble.n_outputs
        untold = (first & (told == 1)) | (self.ensemble.leaf_counts == 1)
        same = np.abs(told - rate) <= _SIX_DIGITS * rate
        return np.where(untold | same, rate, told)

    def _l2(self) -> Floats:
        """Regularisation of each leaf; cat_l2 joins below a split by a set of categories.

        A feature of few bins is split one category against the rest, without cat_l2, and leaves
        that are computed once more from the gradients before rounding leave it out, too.
        """
        ensemble = self.ensemble
        l2 = np.full(len(ensemble.leaf_value), self.number("lambda_l2"))
        l2[ensemble.leaf_start[:-1][ensemble.leaf_counts == 1]] = np.inf
        by_set = ensemble.category_start >= 0
        if by_set.any() and not self._renews_rounded():
            by_set &= self.text.n_bins[ensemble.feature] > self.number("max_cat_to_onehot")
            first_leaf = np.repeat(ensemble.leaf_start[:-1], ensemble.leaf_counts - 1)  # (n_nodes,)
            for child in ensemble.children.T:
                below = by_set & (child < 0)
                l2[first_leaf[below] + ~child[below]] += self.number("cat_l2")
        return l2

    def _constants(self) -> Floats:
        """Value of each tree of one leaf, 0 for the others, shape (n_trees,)."""
        first_leaf = self.ensemble.leaf_start[:-1]
        return np.where(
            self.ensemble.leaf_counts == 1, self.ensemble.leaf_value[first_leaf, 0], 0.0
        )

    def _started(
        self,
        recipe: LeafRecipe,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
    ) -> LeafRecipe:
        """The recipe with its start, and with what the leaves of the first round hold of it."""
        k = self.ensemble.n_outputs
        constant, told = self.ensemble.leaf_counts[:k] == 1, self.text.shrinkage[:k]
        at_zero = recipe
        if constant.all() or not self.starts_at_average:
            return at_zero
        own = weight / self.label_weight(target)
        average = self.objective.average(target, own, self.number)
        start = np.where(constant, recipe.folded[:k], average)
        at_average = replace(recipe, start=start, folded=np.append(start, recipe.folded[k:]))
        if self.rate_changes():  # the text then tells the last rate, and none of the first round
            steps = self._first_steps(at_average, leaves, target, weight)
            at_average = replace(at_average, learning_rate=self._with_first_rates(start, steps))
        near_zero = np.abs(average) < _SIX_DIGITS  # one of exactly 0 is not added
        if (constant | (told == 1) | near_zero).all() and (told[~constant] == 1).any():
            if self.number("learning_rate") != 1:
                return at_average
            # Both fit to rounding where a full step without l2 forgets its start.
            errors = [
                self._first_error(tried, leaves, target, weight) for tried in (at_average, at_zero)
            ]
            if errors[0] <= 10 * errors[1] + EPSILON:
                return at_average
        if near_zero.all():
            return at_zero
        return replace(at_zero, inexact_because=(*recipe.inexact_because, INIT_SCORE))

    def _first_error(
        self,
        recipe: LeafRecipe,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
    ) -> float:
        """How far the leaves of the first round are from the recipe's, summed over them."""
        gap = 0.0
        for t, theta in enumerate(self._first_steps(recipe, leaves, target, weight)):
            value = recipe.folded[t] + recipe.learning_rate[t] * theta
            gap += float(np.abs(value - self.ensemble.tree_values(t)[:, 0]).sum())
        return gap

    def _first_steps(
        self,
        recipe: LeafRecipe,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
    ) -> list[Floats]:
        """Newton values of the trees of the first round, each of shape (n_leaves of it,)."""
        ensemble = self.ensemble
        at = recipe.loss.derivatives(target, np.tile(recipe.start, (len(target), 1)))
        steps = []
        for t in range(ensemble.n_outputs):
            own = slice(*ensemble.leaf_start[t : t + 2])
            n_leaves = own.stop - own.start
            gradient = np.bincount(leaves[t], weight * at.gradient[:, t], n_leaves)
            hessian = np.bincount(leaves[t], weight * at.hessian[:, t], n_leaves)
            gradient -= np.clip(gradient, -recipe.l1, recipe.l1)
            theta = -gradient / np.maximum(hessian + recipe.l2[own], EPSILON)
            steps.append(theta.clip(-recipe.max_step, recipe.max_step))
        return steps

    def _with_first_rates(self, start: Floats, steps: list[Floats]) -> Floats:
        """Rates of all trees, those of the first round by least squares on their leaves."""
        rates = self._rates()
        for t, theta in enumerate(steps):
            if self.text.shrinkage[t] == 1 and theta @ theta > 0:
                rates[t] = (self.ensemble.tree_values(t)[:, 0] - start[t]) @ theta / (theta @ theta)
        own = self.number("learning_rate")
        return np.where(np.abs(rates - own) <= _SIX_DIGITS * own, own, rates)

    def _inexact_because(self) -> tuple[str, ...]:
        """Settings that make leaf values differ from the formula, by name."""

        def number(name: str, default: float = 0.0) -> float:
            return float(self.parameters.get(name, default))

        reasons = ["path_smooth"] if number("path_smooth") > 0 else []
        if self._is("use_quantized_grad") and not self._renews_rounded():
            reasons.append("use_quantized_grad")
        if "goss" in (self.boosting, self.parameters.get("data_sample_strategy")):
            reasons.append("data_sample_strategy=goss")
        else:
            parts = ("bagging_fraction", "pos_bagging_fraction", "neg_bagging_fraction")
            if number("bagging_freq") > 0 and min(number(part, 1.0) for part in parts) < 1:
                reasons.append("bagging_fraction")
        if set(self.parameters.get("monotone_constraints", "").split(",")) - {"", "0"}:
            reasons.append("monotone_constraints")
        by_set = (self.ensemble.category_start >= 0).any()
        if self.parameters.get("forcedsplits_filename") and by_set:  # these may lack cat_l2
            reasons.append("forcedsplits_filename")
        return tuple(reasons)
