"""`Training`: how an XGBoost model's leaf values were computed.

A leaf holds -eta G / (H + lambda), but a saved model holds neither eta nor lambda: a Booster
loaded from a file tells the defaults as if they were its own. What it tells is therefore believed
only if it recomputes leaves of the first rounds. Else the two are solved for on these leaves, and
accepted only if they then recompute.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence.errors import (
    InputError,
    MissingParameterError,
    NotYetSupportedError,
    UnsupportedModelError,
)
from tree_influence.adapters.base import Floats, LeafRecipe
from tree_influence.adapters.xgboost_trees import Content
from tree_influence.losses import Logistic, Softmax, SquaredError, TrainingLoss

LOSSES: dict[str, TrainingLoss] = {
    "reg:squarederror": SquaredError(),
    "binary:logistic": Logistic(),
    "binary:logitraw": Logistic(),
    "multi:softprob": Softmax(hessian_scale=2.0),
    "multi:softmax": Softmax(hessian_scale=2.0),
}
_RENEWED = ("reg:absoluteerror", "reg:quantileerror")
_DEFAULTS = {"lambda": 1.0, "eta": 0.3}
_SHORT_NAMES = {"reg_lambda": "lambda", "learning_rate": "eta", "reg_alpha": "alpha"}
_NUMBERS = (
    "lambda", "eta", "alpha", "max_delta_step", "subsample", "min_child_weight",
    "scale_pos_weight", "missing",
)  # fmt: skip
_BOUNDS = "monotone_constraints"

FITS = 1e-4  # largest leaf error, over the largest leaf, at which lambda and eta are believed
CLEARLY_BETTER = 0.1  # share of the error of defaults below which solved values replace them
BLURRED = 1e-4  # share of the largest leaf that float32 loses of the first score
ENOUGH_LEAVES = 16  # leaves on which they are tested, as far as the model has as many
DISTINCT = 1e-5  # ratio of singular values below which float32 leaves do not tell them apart


def read_params(params: Mapping[str, Any]) -> dict[str, float]:
    """Parameters the user gives, by XGBoost's short name; of bounds only whether there are any.

    Raises:
        InputError: A name that is not read, or a value that is no number.
    """
    given = {}
    for name, value in params.items():
        short = _SHORT_NAMES.get(name, name)
        if short == _BOUNDS:
            told = list(value.values()) if isinstance(value, Mapping) else value
            given[short] = float("1" in str(told))
            continue
        if short not in _NUMBERS:
            raise InputError(
                f"params names {name!r}, on which no answer depends; known are "
                f"{', '.join([*_SHORT_NAMES, *_NUMBERS, _BOUNDS])}."
            )
        try:
            given[short] = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"params[{name!r}] must be a number, got {value!r}.") from error
    return given


@dataclass(frozen=True, eq=False)
class LeafSums:
    """Leaves of the first rounds, with the sums of their rows.

    Attributes:
        value: Stored value, shape (n_leaves,).
        gradient: Weighted sum of gradients, shape (n_leaves,).
        hessian: Weighted sum of Hessians, with the library's factor, shape (n_leaves,).
    """

    value: Floats
    gradient: Floats
    hessian: Floats

    def error(self, l2: float, rate: float) -> float:
        """Largest error of the leaves with these parameters, over the largest leaf."""
        if not len(self.value):
            return 0.0
        found = -rate * self.gradient / (self.hessian + l2)
        scale = max(np.abs(self.value).max(), np.finfo(float).tiny)
        return float(np.abs(found - self.value).max() / scale)

    def solve(self, l2: float | None, rate: float | None) -> tuple[float, float] | None:
        """Least squares for value (H + l2) = -rate G; what is not None is known.

        Returns:
            l2 and rate, in the fewest decimals that fit as well; None where these leaves do not
            tell.
        """
        # Each leaf's equation over its H, so that it weighs what the leaf's value does.
        columns = np.column_stack([self.value, self.gradient]) / self.hessian[:, None]
        unknown = np.array([l2 is None, rate is None])
        target = -self.value - columns[:, ~unknown] @ np.array([l2, rate])[~unknown].astype(float)
        size = np.linalg.norm(columns[:, unknown], axis=0)
        if len(target) <= unknown.sum() or not (size > 0).all():
            return None
        scaled = columns[:, unknown] / size
        spread = np.linalg.svd(scaled, compute_uv=False)
        if spread[-1] < DISTINCT * spread[0]:
            return None
        solved = np.array([l2, rate], dtype=np.float64)
        solved[unknown] = np.linalg.lstsq(scaled, target, rcond=None)[0] / size
        solved[0] = max(solved[0], 0.0)
        return self._rounded(solved, unknown) if solved[1] > 0 else None

    def _rounded(self, solved: Floats, unknown: NDArray[np.bool_]) -> tuple[float, float]:
        """The same in the fewest decimals: people choose round numbers, float32 blurs them."""
        allowed = 2 * self.error(*solved)
        for decimals in range(9):
            rounded = np.where(unknown, np.round(solved, decimals), solved)
            if self.error(*rounded) <= allowed:
                return float(rounded[0]), float(rounded[1])
        return float(solved[0]), float(solved[1])


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

    def label_weight(self, target: Floats) -> Floats:
        """What the objective multiplies the weight of each row by, shape (n_rows,)."""
        objective = self.content.learner["objective"]
        stored = objective.get("reg_loss_param", {}).get("scale_pos_weight", 1)
        factor = self.given.get("scale_pos_weight", float(stored))
        return np.where(target == 1, factor, 1.0)

    def recipe(self, leaves: NDArray[np.integer], target: Floats, weight: Floats) -> LeafRecipe:
        """How the leaf values were computed.

        Args:
            leaves: Leaf of each training row, shape (n_trees, n_train).
            target: Values, or positions of the classes, shape (n_train,).
            weight: Weights with label weights, shape (n_train,).
        """
        self.refuse()
        ensemble = self.content.ensemble
        recipe = LeafRecipe(
            loss=self.loss(),
            learning_rate=np.ones(ensemble.n_trees),
            l2=np.where(self._held_at_zero(), np.inf, 0.0),
            start=ensemble.bias,
            folded=np.zeros(ensemble.n_trees),
            inexact_because=self._inexact_because(),
        )
        sums = self._first_sums(recipe, leaves, target, weight)
        (l2, rate), changes = self._shrinkage(sums)
        because = (*recipe.inexact_because, *(("a learning rate that changes",) * changes))
        return replace(
            recipe, l2=recipe.l2 + l2, learning_rate=rate * recipe.learning_rate,
            inexact_because=because,
        )  # fmt: skip

    def loss(self) -> TrainingLoss:
        """The training loss, with XGBoost's leaf Hessian."""
        if self.custom_objective or self.content.objective not in LOSSES:
            self.refuse()
        return LOSSES[self.content.objective]

    def refuse(self) -> None:
        """Raises for leaves that are no Newton values, and for losses not known here."""
        content = self.content
        others = "Similarity methods still answer."
        if self.custom_objective:
            raise UnsupportedModelError(
                "The model was trained with an objective of your own, whose derivatives it does "
                f"not hold. {others}"
            )
        if content.is_dart:
            raise UnsupportedModelError(
                "DART scales a tree again each time it is dropped, so the leaves follow no "
                f"formula. Train with booster='gbtree' and rate_drop=0. {others}"
            )
        if content.objective in _RENEWED:
            raise UnsupportedModelError(
                f"XGBoost replaces the leaves of objective={content.objective!r} by quantiles, "
                f"which have no derivative. {others}"
            )
        if content.n_parallel > 1:
            raise NotYetSupportedError(
                f"Boosted forests (num_parallel_tree={content.n_parallel}) are not known yet. "
                f"Train with num_parallel_tree=1. {others}"
            )
        if content.objective not in LOSSES or content.n_targets > 1:
            raise NotYetSupportedError(
                f"Expected one target and an objective of {', '.join(LOSSES)}, got "
                f"{content.n_targets} with {content.objective!r}, which is not known yet. {others}"
            )

    def _number(self, name: str) -> float:
        return self.given[name] if name in self.given else float(self.told[name])

    def _held_at_zero(self) -> NDArray[np.bool_]:
        """Leaves that are 0 since their Hessian is below min_child_weight, shape (n_leaves,)."""
        light = self.content.hessian < self._number("min_child_weight")
        return light & (self.content.ensemble.leaf_value[:, 0] == 0)

    def _inexact_because(self) -> tuple[str, ...]:
        """Settings that make leaf values differ from the formula, by name."""
        reasons = [name for name in ("alpha", "max_delta_step") if self._number(name) != 0]
        if self._number("subsample") < 1:
            reasons.append("subsample")
        if self.given.get(_BOUNDS, "1" in self.told.get(_BOUNDS, "")):
            reasons.append(_BOUNDS)
        ensemble = self.content.ensemble
        largest = np.abs(ensemble.leaf_value).max()
        if np.finfo(np.float32).eps * np.abs(ensemble.bias).max() > BLURRED * largest > 0:
            reasons.append("scores too far from 0 for XGBoost's float32")
        return tuple(reasons)

    def _shrinkage(self, sums: LeafSums) -> tuple[tuple[float, float], bool]:
        """l2 and learning rate, and whether the latter seems to have changed in training.

        Raises:
            MissingParameterError: They are not known, and the leaves do not tell.
        """
        own = self._number("lambda"), self._number("eta")
        both_given = "lambda" in self.given and "eta" in self.given
        explained = self.is_live and bool(self._inexact_because())
        error = sums.error(*own)
        if both_given or explained or (self.is_live and error <= FITS):
            return own, False
        solved = sums.solve(self.given.get("lambda"), self.given.get("eta"))
        if solved is not None and sums.error(*solved) < min(FITS, CLEARLY_BETTER * error):
            return solved, self.is_live
        if self.is_live or error <= FITS:
            return own, False
        raise MissingParameterError(
            "A saved XGBoost model holds neither reg_lambda nor learning_rate, and no values of "
            "them recompute its first leaves from these training rows. Give what it was trained "
            "with: params={'reg_lambda': ..., 'learning_rate': ...}, on the command line "
            "--param reg_lambda=1 --param learning_rate=0.3; and missing, reg_alpha, "
            "max_delta_step or subsample if they were set. If all are given, these are other rows "
            "than it was trained on, or sample_weight is missing."
        )

    def _first_sums(
        self, recipe: LeafRecipe, leaves: NDArray[np.integer], target: Floats, weight: Floats
    ) -> LeafSums:
        """Leaves of the first rounds, as many rounds as hold enough of them."""
        ensemble = self.content.ensemble
        raw = np.tile(recipe.start, (len(target), 1))
        parts, n_leaves = [], 0
        for t in range(ensemble.n_trees):
            k = t % ensemble.n_outputs
            if k == 0:
                if n_leaves >= ENOUGH_LEAVES:
                    break
                at = recipe.loss.derivatives(target, raw)
            own = slice(*ensemble.leaf_start[t : t + 2])
            value = ensemble.leaf_value[own, 0]
            gradient = np.bincount(leaves[t], weight * at.gradient[:, k], len(value))
            hessian = np.bincount(leaves[t], weight * at.hessian[:, k], len(value))
            told = (hessian > 0) & (recipe.l2[own] == 0)
            parts.append(np.array([value, gradient, hessian])[:, told])
            n_leaves += int((value[told] != 0).sum())
            raw[:, k] += value[leaves[t]]
        return LeafSums(*np.concatenate(parts, axis=1))
