"""`NewLabels`: training rows whose label changes, and the terms of a boosting that change with it.

A row with another label is the row left out with its own label, and added with the other one. To
first order in its weight both are its `direct` term, taken at the two labels at the scores and
leaf values as trained, so a method answers `Relabelled` with

    w (g(y) + theta h~(y)) - w' (g(y') + theta h~(y'))

in place of w (g + theta h~). Where g is linear in y and h~ does not depend on it (squared error,
logistic, softmax, Poisson) and w' = w, that is also the derivative along the label, times y' - y.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from influence.change import Relabelled
from influence.errors import InputError, UnsupportedChangeError
from tree_influence.losses import Logistic, Loss
from tree_influence.losses_positive import Gamma, Poisson, SquaredLogError, Tweedie
from tree_influence.losses_wrapped import OnSeenTarget, SeveralTargets, UnitHessian
from tree_influence.replay import Replay, RowTerms
from tree_influence.run import TreeRun

Floats = NDArray[np.float64]

ROUNDED = 1e-6  # weights that a library holds in float32 differ from those given by less


@dataclass(frozen=True, eq=False)
class NewLabels:
    """Rows that training saw and whose label changes; others, asked for or not, have no effect.

    Attributes:
        rows: Their positions, shape (n_rows,).
        target: Their new target, encoded, shape (n_rows,) or (n_rows, n_targets).
        factor: w' / w, what class weights make of their weight, shape (n_rows,).
    """

    rows: NDArray[np.int64]
    target: Floats
    factor: Floats

    @classmethod
    def of(cls, change: Relabelled, run: TreeRun) -> Self:
        """Reads a change.

        Raises:
            InputError: A label that is none of the model's classes, of another shape, or outside
                what the loss is defined for.
            UnsupportedChangeError: The weight of a row depends on a target that is a number.
        """
        target, rows = run.relabelled(change), change.rows
        differs = np.atleast_2d((target[rows] != run.target[rows]).T).any(axis=0)
        rows = rows[differs & (run.weight[rows] > 0)]
        taken = np.atleast_2d(_takes(run.replay.recipe.loss, target[rows]).T).all(axis=0)
        if not taken.all():
            row = int(rows[~taken][0])
            raise InputError(
                f"Expected labels that the {run.replay.recipe.loss.name} loss is defined for, got "
                f"{target[row]} for row {row}. Give labels like those in training."
            )
        before, after = (_label_weight(run, of[rows]) for of in (run.target, target))
        return cls(rows, target[rows], after / before)

    def among(self, replay: Replay) -> tuple[Replay, Self]:
        """The replay of these rows alone, and they by their positions in it."""
        return replay.of_rows(self.rows), replace(self, rows=np.arange(len(self.rows)))


def label_terms(replay: Replay, new: NewLabels, shrunken: bool = False) -> Iterator[RowTerms]:
    """`Replay.backwards` with `direct` as it changes with the labels; 0 for all other rows.

    Args:
        replay: Of all rows, or of some (`NewLabels.among`).
        new: The changed rows, by their positions in it.
        shrunken: Put learning_rate * theta in place of theta in `direct`.
    """
    changed = replace(replay.of_rows(new.rows), target=new.target)
    chunk, factor = replay.chunk, new.factor[:, None]
    before, after = (some.backwards(shrunken, chunk) for some in (replay, changed))
    for terms, other in zip(before, after, strict=True):
        direct = np.zeros_like(terms.direct)
        direct[:, :, new.rows] = terms.direct[:, :, new.rows] - factor * other.direct
        yield replace(terms, direct=direct)


def _takes(loss: Loss, target: Floats) -> NDArray[np.bool_]:
    """Whether the libraries train on such targets with this loss, of the shape of the target."""
    while isinstance(loss, OnSeenTarget | SeveralTargets | UnitHessian):
        target = loss.seen(target) if isinstance(loss, OnSeenTarget) else target
        loss = loss.loss
    if isinstance(loss, Gamma):
        return target > 0
    if isinstance(loss, Poisson | Tweedie):
        return target >= 0
    if isinstance(loss, SquaredLogError):
        return target > -1
    shares = isinstance(loss, Logistic)
    return (target >= 0) & (target <= 1) if shares else np.isfinite(target)


def _label_weight(run: TreeRun, target: Floats) -> Floats:
    """What rows of these targets weigh, over their sample weight: class weights as in training.

    Args:
        run: The run.
        target: Encoded, shape (n_rows,) or (n_rows, n_targets).

    Returns:
        Shape (n_rows,).
    """
    given = np.ones(run.n_train) if run.sample_weight is None else run.sample_weight
    seen = (run.weight > 0) & (given > 0)
    factor = run.weight[seen] / (run.share * given[seen])
    if run.classes is not None:
        by_class = np.ones(len(run.classes))
        by_class[run.target[seen].astype(np.int64)] = factor
        return by_class[target.astype(np.int64)]
    if (np.abs(factor - 1) > ROUNDED).any():
        raise UnsupportedChangeError(
            "Expected rows that weigh what they were given, or class weights of labels that are "
            "classes, got weights that depend on a target that is a number (class_weights with "
            "target_border, scale_pos_weight with shares). Retraining answers Relabelled: "
            "tree_influence.retrainer."
        )
    return np.ones(len(target))
