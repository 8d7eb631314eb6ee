"""Targets and weights as users write them, turned into the numbers the formulas need."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from influence.errors import InputError

Floats = NDArray[np.float64]
Labels = NDArray[np.generic]


def are_shares(y: ArrayLike) -> bool:
    """Whether a target holds probabilities: numbers from 0 to 1, some of them in between."""
    target = np.asarray(y)
    if target.dtype.kind != "f" or not ((target >= 0) & (target <= 1)).all():
        return False
    return bool(((target > 0) & (target < 1)).any())


def resolve_classes(numbers: Labels, y: ArrayLike, takes_shares: bool) -> Labels | None:
    """The labels behind a model's outputs, where the model knows them as 0..K-1 only.

    Where the training labels are others, K of them, they are taken in sorted order, as every
    library's encoder does; the leaf check would show if that were wrong.

    Args:
        numbers: 0..K-1.
        y: Training target as the user gives it.
        takes_shares: The loss takes probabilities as well; then such a target has no classes.
    """
    if takes_shares and are_shares(y):
        return None
    found = pd.unique(np.asarray(y))
    unknown = pd.Index(found).difference(pd.Index(numbers)).size > 0
    if unknown and len(found) == len(numbers) and not pd.isna(found).any():
        return np.sort(found)
    return numbers


def encode_target(y: ArrayLike, classes: Labels | None, what: str, n_targets: int = 1) -> Floats:
    """Values for regression, positions in `classes` for classification, shape (n_rows,).

    Args:
        y: Target as the user gives it.
        classes: Labels in the order of the model's outputs; None for regression.
        what: Which rows these are, for messages.
        n_targets: Columns of y; where more than 1, the result is of shape (n_rows, n_targets).
    """
    labels = np.asarray(y)
    if classes is None:
        if labels.dtype.kind in "mMc":
            raise InputError(
                f"The model predicts numbers, but the {what} target has dtype {labels.dtype}. "
                "Give the target as the model was trained on it."
            )
        try:
            target = labels.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"The model predicts numbers, but the {what} target has dtype {labels.dtype}."
            ) from error
        finite = np.isfinite(target.reshape(len(target), n_targets)).all(axis=1)
        if not finite.all():
            row = int(finite.argmin())
            raise InputError(f"The {what} target must be finite, but row {row} is {target[row]}.")
        return target
    given = pd.Index(labels).infer_objects()
    if given.dtype.kind == "b" and classes.dtype.kind in "iuf":
        given = given.astype(np.int64)
    positions = pd.Index(classes).get_indexer(given)
    if (positions < 0).any():
        row = int(np.flatnonzero(positions < 0)[0])
        raise InputError(
            f"The {what} target of row {row} is {labels.tolist()[row]!r}, which is none of the "
            f"model's classes {classes[:10].tolist()}."
        )
    return positions.astype(np.float64)


def check_weight(sample_weight: ArrayLike, n_train: int) -> Floats:
    """Sample weights as finite non-negative floats, shape (n_train,)."""
    try:
        weight = np.array(sample_weight, dtype=np.float64)  # a copy: it is kept for retraining
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Sample weights must be numbers, got {error}. Give those the model was fitted with."
        ) from error
    if weight.shape != (n_train,):
        raise InputError(
            f"Expected one sample weight for each of {n_train} training rows, got shape "
            f"{weight.shape}."
        )
    if not np.isfinite(weight).all() or (weight < 0).any():
        row = int(np.flatnonzero(~np.isfinite(weight) | (weight < 0))[0])
        raise InputError(
            f"Sample weights must be finite and not negative, but row {row} has {weight[row]}."
        )
    if not weight.any():
        raise InputError("Sample weights must not all be zero: such rows train no model.")
    return weight
