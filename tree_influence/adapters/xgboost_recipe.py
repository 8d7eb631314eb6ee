"""`Training`: how an XGBoost model's leaf values were computed.

A leaf holds -eta G / (H + lambda), over num_parallel_tree, but a saved model holds neither eta nor
lambda: a Booster loaded from a file tells the defaults as if they were its own. What it tells is
therefore believed only if it recomputes leaves of the first rounds. Else the two are solved for on
these leaves, and accepted only if they then recompute. Where the last round has another eta than
the first (a schedule, or training that was continued), every round is solved for its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from influence.errors import MissingParameterError, UnsupportedModelError
from tree_influence.adapters.base import Floats, LeafRecipe
from tree_influence.adapters.xgboost_objectives import BUILT_IN, loss_of, training_loss_of
from tree_influence.adapters.xgboost_params import BOUNDS
from tree_influence.adapters.xgboost_sums import FITS, LeafSums, TrainingRows
from tree_influence.adapters.xgboost_trees import Content
from tree_influence.losses import Loss

_DEFAULTS = {"lambda": 1.0, "eta": 0.3}

CLEARLY_BETTER = 0.1  # share of the error of defaults below which solved values replace them
BLURRED = 1e-4  # share of the largest leaf that float32 loses of the first score
FAINT = 1e-3  # H + lambda below which float32 may blur a leaf
BALANCED = 1e-3  # distance of a mean target from 0.5 below which the best constant may be 0.5
ENOUGH_LEAVES = 16  # leaves on which they are tested, as far as the model has as many


@dataclass(frozen=True, eq=False)
class Training:
    """How a model was trained.

    Attributes:
        content: The model.
        given: Parameters the user gives.
        told: Parameters the Booster tells; its own if it was trained in this process, defaults
            if it was loaded from a file.
        has_metrics: The Booster names metrics, which training sets and loading does not.
        custom_objective: The estimator was given a function.
    """

    content: Content
    given: Mapping[str, float]
    told: Mapping[str, str]
    has_metrics: bool
    custom_objective: bool

    @property
    def is_live(self) -> bool:
        """Whether what the Booster tells are its own parameters for all that can be known."""
        differs = any(
            np.float32(self.told[name]) != np.float32(value) for name, value in _DEFAULTS.items()
        )
        return self.has_metrics or differs

    @property
    def estimates_start(self) -> bool:
        """Whether training was not told where to start (base_score)."""
        return self.content.learner["learner_model_param"].get("boost_from_average") == "1"

    def loss(self) -> Loss:
        """The loss the model was trained on."""
        return loss_of(self.content, self.custom_objective)

    def label_weight(self, target: Floats) -> Floats:
        """What the objective multiplies the weight of each row by, shape (n_rows,)."""
        if self.content.n_targets > 1:
            return np.ones(len(target))
        return np.where(target == 1, self._scale_pos_weight, 1.0)

    @property
    def _scale_pos_weight(self) -> float:
        objective = self.content.learner["objective"]
        return float(objective.get("reg_loss_param", {}).get("scale_pos_weight", 1))

    def recipe(
        self, leaves: NDArray[np.integer], target: Floats, weight: Floats, offset: Floats | None
    ) -> LeafRecipe:
        """How the leaf values were computed.

        Args:
            leaves: Leaf of each training row, shape (n_trees, n_train).
            target: Values, or positions of the classes, shape (n_train,) or (n_train, n_targets).
            weight: Weights with label weights, shape (n_train,).
            offset: base_margin less the model's start, shape (n_train, n_outputs), or None.
        """
        ensemble, held = self.content.ensemble, self._held_at_zero()
        recipe = LeafRecipe(
            loss=training_loss_of(self.content, self.custom_objective),
            learning_rate=np.ones(ensemble.n_trees),
            l2=np.where(held if ensemble.vector_leaves else held[:, 0], np.inf, 0.0),
            start=ensemble.bias,
            folded=np.zeros(ensemble.n_trees),
            l1=self._number("alpha"),
            max_step=self._max_step(),
            inexact_because=self._inexact_because(held),
        )
        raw = np.tile(ensemble.bias, (leaves.shape[1], 1)) + (0.0 if offset is None else offset)
        rows = TrainingRows(ensemble, recipe, held, leaves, target, weight, raw)
        first = rows.first(ENOUGH_LEAVES)
        l2, rate = self._shrinkage(rows, first)
        rates, because = None, recipe.inexact_because
        blurred = self._may_blur(l2)
        if not because and (
            blurred or max(sums.error(l2, rate) for sums in (first, rows.last())) > FITS
        ):
            rates = self._rates(rows, l2, rate)
            if rates is None and blurred:
                because = ("Hessians too near 0 for XGBoost's float32",)
        return replace(
            recipe,
            l2=recipe.l2 + l2,
            learning_rate=np.full(ensemble.n_trees, rate) if rates is None else rates,
            inexact_because=because,
        )

    def _number(self, name: str) -> float:
        return self.given[name] if name in self.given else float(self.told[name])

    def _max_step(self) -> float:
        """max_delta_step; Poisson regression has its own default, and it is in its files."""
        poisson = self.content.learner["objective"].get("poisson_regression_param")
        given = self.given.get("max_delta_step")
        if poisson is not None and given is None:
            given = float(poisson["max_delta_step"])
        return (self._number("max_delta_step") if given is None else given) or np.inf

    def _held_at_zero(self) -> NDArray[np.bool_]:
        """Leaf values that are 0 since their Hessian is below min_child_weight.

        Returns:
            Shape (n_leaves, n_values). Vector leaves do not tell their Hessian, only its sum.
        """
        light = self.content.hessian < self._number("min_child_weight")
        return light[:, None] & (self.content.ensemble.leaf_value == 0)

    def _inexact_because(self, held: NDArray[np.bool_]) -> tuple[str, ...]:
        """Settings that make leaf values differ from the formula, by name."""
        reasons = ["subsample"] if self._number("subsample") < 1 else []
        if self.given.get(BOUNDS, "1" in self.told.get(BOUNDS, "")):
            reasons.append(BOUNDS)
        if self.content.n_targets > 1 and self._scale_pos_weight != 1:
            reasons.append("scale_pos_weight, which weighs each target of a row on its own")
        ensemble = self.content.ensemble
        largest = np.abs(ensemble.leaf_value).max()
        if np.finfo(np.float32).eps * np.abs(ensemble.bias).max() > BLURRED * largest > 0:
            reasons.append("scores too far from 0 for XGBoost's float32")
        return tuple(reasons)

    def _shrinkage(self, rows: TrainingRows, first: LeafSums) -> tuple[float, float]:
        """l2, and the learning rate of a tree of the first rounds, whose leaves are `first`.

        Raises:
            MissingParameterError: They are not known, and the leaves do not tell.
            UnsupportedModelError: An objective of the user's own, as far as can be seen.
        """
        l2, rate = self._number("lambda"), self._number("eta") / self.content.n_parallel
        both_given = "lambda" in self.given and "eta" in self.given
        explained = self.is_live and bool(rows.recipe.inexact_because)
        error = first.error(l2, rate)
        if self.is_live and error <= FITS:
            return l2, rate
        if both_given or explained:
            if error > FITS:
                self._refuse_unestimated_start(rows)
            return l2, rate
        for leaves in (first, rows.first(1)):  # the rate may change right after the first round
            found = self._solved(leaves, l2, rate)
            if found is not None:
                return found
        self._refuse_unestimated_start(rows)
        if self.is_live:
            return l2, rate
        raise MissingParameterError(
            "A saved XGBoost model holds neither reg_lambda nor learning_rate, and no values of "
            "them recompute its first leaves from these training rows. Give what it was trained "
            "with: params={'reg_lambda': ..., 'learning_rate': ...}, on the command line "
            "--param reg_lambda=1 --param learning_rate=0.3; and missing, reg_alpha, "
            "max_delta_step or subsample if they were set. If all are given, these are other rows "
            "than it was trained on, or sample_weight is missing, or base_margin: give the DMatrix "
            "that holds it."
        )

    def _solved(self, sums: LeafSums, l2: float, rate: float) -> tuple[float, float] | None:
        """Values that recompute these leaves much better than those told, or these if they do."""
        lambda_, eta = self.given.get("lambda"), self.given.get("eta")
        tried = [(lambda_, None if eta is None else eta / self.content.n_parallel)]
        if self.is_live:
            tried.insert(0, (l2, None))  # only the rate may have changed in training
        error = sums.error(l2, rate)
        for known in tried:
            solved = sums.solve(*known)
            if solved is not None and sums.error(*solved) < min(FITS, CLEARLY_BETTER * error):
                return solved
        return (l2, rate) if error <= FITS else None

    def _rates(self, rows: TrainingRows, l2: float, rate: float) -> Floats | None:
        """Learning rate of every tree, each round's its own, shape (n_trees,).

        None where none recomputes the leaves of some round.
        """
        rates = np.empty(rows.ensemble.n_trees)
        width = rows.ensemble.trees_per_round * rows.ensemble.n_parallel
        for i, sums in enumerate(rows.iterations()):
            own = _own_rate(sums, l2, rate)
            if own is None:
                self._refuse_unestimated_start(rows)
                return None
            rates[i * width : (i + 1) * width] = own
        return rates

    def _may_blur(self, l2: float) -> bool:
        """Whether float32 may show in leaves that divide by little: near p = 1 it loses 1 - p."""
        return bool((self.content.hessian + l2).min() < FAINT)

    def _refuse_unestimated_start(self, rows: TrainingRows) -> None:
        """Refuses a Booster that began at 0.5 without having been told to.

        That is what it does if xgboost.train was given an objective: the Booster then tells the
        default one. Told none, it would have begun at the best constant.
        """
        base = self.content.base_score
        estimated = self.estimates_start and self.content.ensemble.n_outputs == 1
        if not estimated or base[0] != 0.5:
            return
        if abs(np.average(rows.target, weights=rows.weight) - 0.5) > BALANCED:
            raise UnsupportedModelError(
                "The Booster tells objective="
                f"{self.content.objective!r}, but it began at 0.5, not at the best constant, and "
                "its leaves are no Newton values of that loss: it was trained with an objective of "
                f"your own (obj=...), whose derivatives it does not hold. {BUILT_IN}"
            )


def _own_rate(sums: LeafSums, l2: float, usual: float) -> float | None:
    """The learning rate of one iteration; None where none recomputes its leaves."""
    if sums.error(l2, usual) <= FITS:
        return usual
    own = sums.rate(l2)
    return own if own > 0 and sums.error(l2, own) <= FITS else None
