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

from influence.errors import MissingParameterError, NotYetSupportedError, UnsupportedModelError
from tree_influence.adapters.base import Floats, LeafRecipe
from tree_influence.adapters.lightgbm_text import ModelText
from tree_influence.ensemble import TreeEnsemble
from tree_influence.losses import Logistic, Softmax, SquaredError, TrainingLoss

_MAIN_NAMES = {
    "eta": "learning_rate",
    "shrinkage_rate": "learning_rate",
    "reg_lambda": "lambda_l2",
    "lambda": "lambda_l2",
}
_RENEWED = ("regression_l1", "quantile", "mape")
_EPSILON = 1e-15  # LightGBM's kEpsilon
_SIX_DIGITS = 1e-5  # relative precision of numbers in the model's text


def main_parameters(
    text: ModelText, live: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, str]:
    """The parameters of the text, with all digits where somebody knows them.

    Args:
        text: The model.
        live: Parameters of the Booster in memory; taken where they agree with the text.
        given: Parameters of the user; always taken.
    """
    merged = dict(text.parameters)
    for name, value in live.items():
        main = _MAIN_NAMES.get(name, name)
        if isinstance(value, float) and merged.get(main) == f"{value:.6g}":
            merged[main] = merged[main] if value.is_integer() else repr(float(value))
    for name, value in given.items():
        merged[_MAIN_NAMES.get(name, name)] = str(int(value) if isinstance(value, bool) else value)
    return merged


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
        average = "average_output" in self.text.header
        return "rf" if average else self.parameters.get("boosting", "gbdt")

    def recipe(self, leaves: NDArray[np.integer], target: Floats, weight: Floats) -> LeafRecipe:
        """How the leaf values were computed.

        Args:
            leaves: Leaf of each training row, shape (n_trees, n_train).
            target: Values, or positions of the classes, shape (n_train,).
            weight: Weights with class and label weights, shape (n_train,).
        """
        self._refuse()
        recipe = LeafRecipe(
            loss=self.loss(),
            learning_rate=self._rates(),
            l2=self._l2(),
            start=np.zeros(self.ensemble.n_outputs),
            folded=self._constants(),
            inexact_because=self._inexact_because(),
        )
        return self._started(recipe, leaves, target, weight)

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

    def _is(self, name: str, default: str = "0") -> bool:
        return self.parameters.get(name, default) == "1"

    def _refuse(self) -> None:
        """Raises for leaves that are no Newton values, and for losses not known here."""
        objective = self.text.objective
        if not objective:
            raise UnsupportedModelError(
                "The model was trained with an objective of your own, whose derivatives it does "
                "not hold. Similarity methods and retraining still answer."
            )
        if self.boosting not in ("gbdt", "goss"):
            raise UnsupportedModelError(
                f"Trees of boosting={self.boosting!r} are averaged or scaled again later, so "
                "their leaves follow no formula. Train with boosting='gbdt'; similarity methods "
                "and retraining still answer."
            )
        if objective in _RENEWED:
            raise UnsupportedModelError(
                f"LightGBM replaces the leaves of objective={objective!r} by quantiles, which "
                "have no derivative. Similarity methods and retraining still answer."
            )
        known = ("regression", "binary", "multiclass")
        if self.text.header["objective"].endswith(" sqrt") or objective not in known:
            raise NotYetSupportedError(
                f"Expected one of the objectives {', '.join(known)}, got "
                f"{self.text.header['objective']!r}, which is not known yet. Similarity methods "
                "and retraining still answer."
            )

    def loss(self) -> TrainingLoss:
        """The training loss, with LightGBM's leaf Hessian."""
        if self.text.objective == "regression":
            return SquaredError()
        if self.text.objective == "multiclass":
            k = self.ensemble.n_outputs
            return Softmax(hessian_scale=k / (k - 1))
        return Logistic(slope=self.number("sigmoid"))

    def _rates(self) -> Floats:
        """Learning rate of each tree; the text tells it only where nothing was added later."""
        rate, told = self.number("learning_rate"), self.text.shrinkage
        if self.boosting not in ("gbdt", "goss"):
            return np.full(len(told), rate)
        first = np.arange(len(told)) < self.ensemble.n_outputs
        untold = (first & (told == 1)) | (self.ensemble.leaf_counts == 1)
        same = np.abs(told - rate) <= _SIX_DIGITS * rate
        return np.where(untold | same, rate, told)

    def _l2(self) -> Floats:
        """Regularisation of each leaf; cat_l2 joins below a split by a set of categories.

        A feature of few bins is split one category against the rest, without cat_l2.
        """
        ensemble = self.ensemble
        l2 = np.full(len(ensemble.leaf_value), self.number("lambda_l2"))
        l2[ensemble.leaf_start[:-1][ensemble.leaf_counts == 1]] = np.inf
        by_set = ensemble.category_start >= 0
        if by_set.any():
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

    def _average(self, target: Floats, weight: Floats) -> Floats:
        """What boost_from_average starts from, shape (n_outputs,); label weights do not count."""
        own = (weight / self.label_weight(target)).astype(np.float32).astype(np.float64)
        if self.text.objective == "regression":
            return np.array([own @ target.astype(np.float32).astype(np.float64) / own.sum()])
        if self.text.objective == "multiclass":
            mass = np.bincount(target.astype(np.int64), own, minlength=self.ensemble.n_outputs)
            return np.log(np.maximum(mass / own.sum(), _EPSILON))
        share = np.clip(own @ target / own.sum(), _EPSILON, 1 - _EPSILON)
        return np.array([np.log(share / (1 - share)) / self.number("sigmoid")])

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
        at_zero = replace(recipe, start=recipe.folded[:k])
        if constant.all() or not self._is("boost_from_average", "1"):
            return at_zero
        average = self._average(target, weight)
        start = np.where(constant, recipe.folded[:k], average)
        at_average = replace(recipe, start=start, folded=np.append(start, recipe.folded[k:]))
        if (told[~constant] == 1).all():
            if self.number("learning_rate") != 1:
                return at_average
            # Both fit to rounding where a full step without l2 forgets its start.
            errors = [
                self._first_error(tried, leaves, target, weight) for tried in (at_average, at_zero)
            ]
            if errors[0] <= 10 * errors[1] + _EPSILON:
                return at_average
        if np.abs(average).max() < _SIX_DIGITS:
            return at_zero
        return replace(at_zero, inexact_because=(*recipe.inexact_because, "init_score"))

    def _first_error(
        self,
        recipe: LeafRecipe,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
    ) -> float:
        """How far the leaves of the first round are from the recipe's, summed over them."""
        ensemble = self.ensemble
        at = recipe.loss.derivatives(target, np.tile(recipe.start, (len(target), 1)))
        gap = 0.0
        for t in range(ensemble.n_outputs):
            own = slice(*ensemble.leaf_start[t : t + 2])
            n_leaves = own.stop - own.start
            gradient = np.bincount(leaves[t], weight * at.gradient[:, t], n_leaves)
            hessian = np.bincount(leaves[t], weight * at.hessian[:, t], n_leaves)
            below = np.maximum(hessian + recipe.l2[own], _EPSILON)
            value = recipe.folded[t] - recipe.learning_rate[t] * gradient / below
            gap += float(np.abs(value - ensemble.leaf_value[own, 0]).sum())
        return gap

    def _inexact_because(self) -> tuple[str, ...]:
        """Settings that make leaf values differ from the formula, by name."""

        def number(name: str, default: float = 0.0) -> float:
            return float(self.parameters.get(name, default))

        names = ("lambda_l1", "max_delta_step", "path_smooth", "use_quantized_grad")
        reasons = [name for name in names if number(name) > 0]
        if "goss" in (self.boosting, self.parameters.get("data_sample_strategy")):
            reasons.append("data_sample_strategy=goss")
        else:
            parts = ("bagging_fraction", "pos_bagging_fraction", "neg_bagging_fraction")
            if number("bagging_freq") > 0 and min(number(part, 1.0) for part in parts) < 1:
                reasons.append("bagging_fraction")
        if set(self.parameters.get("monotone_constraints", "").split(",")) - {"", "0"}:
            reasons.append("monotone_constraints")
        if self.parameters.get("forcedsplits_filename"):
            reasons.append("forcedsplits_filename")
        if self.rate_changes():
            reasons.append("a learning rate that changes")
        return tuple(reasons)
