"""How XGBoost computed its leaf values: -eta G / (H + lambda), with eta and lambda found out.

A live Booster tells them; one loaded from a file reports defaults, whatever it was trained with.
So what is told is checked against the leaves, and where it fails the two are solved for: each leaf
with rows gives one equation that is linear in both, value lambda + G eta = -value H.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence.errors import MissingParameterError, NotYetSupportedError, UnsupportedModelError
from tree_influence.adapters.base import LeafRecipe
from tree_influence.adapters.xgboost_model import ModelJson
from tree_influence.ensemble import TreeEnsemble
from tree_influence.losses import Logistic, Loss, Softmax, SquaredError

Floats = NDArray[np.float64]

LOSSES: dict[str, tuple[Loss, float]] = {  # loss, leaf Hessian over the loss's own
    "reg:squarederror": (SquaredError(), 1.0),
    "binary:logistic": (Logistic(), 1.0),
    "binary:logitraw": (Logistic(), 1.0),
    "multi:softprob": (Softmax(), 2.0),
    "multi:softmax": (Softmax(), 2.0),
}
RENEWED = {"reg:absoluteerror", "reg:quantileerror"}
NEUTRAL = {"alpha": 0.0, "max_delta_step": 0.0, "subsample": 1.0}
ALIASES = {"reg_lambda": "lambda", "learning_rate": "eta", "reg_alpha": "alpha"}

FITS = 1e-3  # largest leaf error, relative to the largest leaf, of settings that count as found
PROBED_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the rows of each leaf of the first rounds; only leaves that hold rows.

    Attributes:
        value: Stored leaf values, shape (n_leaves,); the others have the same shape.
        gradient: G.
        hessian: H.
    """

    value: Floats
    gradient: Floats
    hessian: Floats

    def error(self, eta: float, l2: float) -> float:
        """Largest error of the recomputed values, relative to the largest value."""
        found = -eta * self.gradient / np.maximum(self.hessian + l2, 1e-300)
        scale = np.abs(self.value).max(initial=0.0)
        return float(np.abs(found - self.value).max(initial=0.0) / max(scale, 1e-300))


def recipe(
    ensemble: TreeEnsemble,
    model: ModelJson,
    told: Mapping[str, Any],
    given: Mapping[str, Any],
    leaves: NDArray[np.integer],
    target: Floats,
    weight: Floats,
) -> LeafRecipe:
    """The recipe of an XGBoost model.

    Args:
        ensemble: Its trees.
        model: What its JSON says.
        told: Training parameters as the live configuration tells them.
        given: Training parameters as the user gives them, which win.
        leaves: Leaf of each training row, shape (n_trees, n_train).
        target: Encoded target.
        weight: Row weights.
    """
    loss, phi = _loss(model)
    sums = _sums(ensemble, loss, phi, leaves, target, weight)
    settings = {**told, **given}
    eta, l2 = float(settings["eta"]), float(settings["lambda"])
    because = [name for name, neutral in NEUTRAL.items() if float(settings[name]) != neutral]
    if any(character in "-1" for character in str(settings.get("monotone_constraints", ""))):
        because.append("monotone_constraints")
    if not because and not {"eta", "lambda"} <= set(given) and sums.error(eta, l2) > FITS:
        eta, l2 = _solved(sums, given, eta, l2)
    return LeafRecipe(
        loss=loss,
        learning_rate=np.full(ensemble.n_trees, eta),
        l2=np.full(len(ensemble.leaf_value), l2),
        start=ensemble.bias,
        folded=np.zeros(ensemble.n_trees),
        hessian_scale=phi,
        inexact_because=tuple(because),
    )


def _loss(model: ModelJson) -> tuple[Loss, float]:
    if model.is_dart:
        raise UnsupportedModelError(
            'DART (booster="dart") rescales earlier trees, so its leaves are not Newton values of '
            'the scores they saw. Train with booster="gbtree".'
        )
    if model.objective in RENEWED:
        raise UnsupportedModelError(
            f"The leaves of objective {model.objective!r} are quantiles of residuals instead of "
            "Newton values. Train with reg:squarederror."
        )
    if model.n_parallel > 1:
        raise NotYetSupportedError(
            f"Boosted forests (num_parallel_tree={model.n_parallel}) are not answered yet."
        )
    if model.objective not in LOSSES:
        raise NotYetSupportedError(
            f"Expected an objective of {', '.join(LOSSES)}, got {model.objective!r}."
        )
    return LOSSES[model.objective]


def _sums(
    ensemble: TreeEnsemble,
    loss: Loss,
    phi: float,
    leaves: NDArray[np.integer],
    target: Floats,
    weight: Floats,
) -> Sums:
    """Leaf sums of the first rounds at the scores the stored leaves give."""
    raw = np.tile(ensemble.bias, (len(target), 1))
    parts: list[tuple[Any, Any, Any]] = []
    for r in range(min(PROBED_ROUNDS, ensemble.n_rounds)):
        at = loss.derivatives(target, raw)
        raw = raw.copy()
        for k in range(ensemble.n_outputs):
            t = r * ensemble.n_outputs + k
            leaf, value = leaves[t], ensemble.tree_values(t)[:, 0]
            sums = [
                np.bincount(leaf, weight * rows, minlength=len(value))
                for rows in (at.gradient[:, k], phi * at.curvature[:, k])
            ]
            held = sums[1] > 0
            parts.append((value[held], sums[0][held], sums[1][held]))
            raw[:, k] += value[leaf]
    return Sums(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _solved(sums: Sums, given: Mapping[str, Any], eta: float, l2: float) -> tuple[float, float]:
    """eta and lambda from the leaves alone.

    Raises:
        MissingParameterError: No values of the two recompute the leaves.
    """
    equations = np.column_stack([sums.gradient, sums.value])
    if "eta" in given:
        equations = equations[:, 1:]
    elif "lambda" in given:
        equations = equations[:, :1]
    known = np.zeros_like(sums.value)
    known -= sums.gradient * eta if "eta" in given else 0.0
    known -= sums.value * l2 if "lambda" in given else 0.0
    found, _, rank, _ = np.linalg.lstsq(equations, known - sums.value * sums.hessian)
    solved = list(found)
    new_eta = eta if "eta" in given else float(solved.pop(0))
    new_l2 = l2 if "lambda" in given else max(0.0, float(solved.pop(0)))
    if rank == equations.shape[1] and new_eta > 0 and sums.error(new_eta, new_l2) <= FITS:
        return new_eta, new_l2
    raise MissingParameterError(
        f"Expected the leaves to recompute with learning_rate={eta:.6g} and reg_lambda={l2:.6g}, "
        "which is what the model reports, or with any other values, but none fit. A model loaded "
        'from a file reports defaults only: give trace(..., params={"reg_lambda": ..., '
        '"learning_rate": ...}), on the command line --param reg_lambda=1, with subsample, '
        "reg_alpha and max_delta_step if they were set. Otherwise these are not the rows the model "
        "was trained on (values, labels, order, sample_weight)."
    )
