"""`lightgbm.Dataset`: the rows, labels, weights and starting scores it holds."""

from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np

from influence.errors import InputError
from tree_influence.adapters.base import Floats, GivenRows
from tree_influence.rows import indexable, plain, shape, take


def unpacked(rows: lightgbm.Dataset, n_outputs: int) -> GivenRows:
    """What a Dataset holds, whether it is constructed yet or not.

    Args:
        rows: The Dataset, or a subset of one.
        n_outputs: Columns of init_score.

    Raises:
        InputError: It has let go of its rows, reads them from a file, or has no labels.
    """
    whole, place = rows, None
    while whole.used_indices is not None and whole.reference is not None:
        own = np.asarray(whole.used_indices, dtype=np.int64)
        place = own if place is None else own[place]
        whole = whole.reference
    X = _features(whole)
    if place is not None:
        X = take(X, place)

    def field(read: Callable[[lightgbm.Dataset], Any]) -> Any:
        own = read(rows)
        if own is not None or place is None:
            return own
        of_whole = read(whole)
        return None if of_whole is None else of_whole[place]

    y = field(_labels)
    if y is None:
        raise InputError("Expected a Dataset with labels, got one without; give label=y.")
    offset = field(_scores)
    if offset is None:
        return GivenRows(X, y, field(_weights))
    if offset.size != len(y) * n_outputs:
        raise InputError(
            f"Expected init_score for each of {len(y)} rows and {n_outputs} outputs, got shape "
            f"{offset.shape}. Give it the shape ({len(y)}, {n_outputs})."
        )
    return GivenRows(X, y, field(_weights), offset)


def _features(rows: lightgbm.Dataset) -> Any:
    held: Any = rows.data
    if held is None:
        raise InputError(
            "Expected a Dataset that holds its rows, but LightGBM let go of them when it was "
            "constructed. Make it with free_raw_data=False, or give the rows and y instead."
        )
    if isinstance(held, list) and all(isinstance(part, np.ndarray) for part in held):
        return np.concatenate(held)
    try:
        found = indexable(held)
        shape(found)
    except InputError as error:
        raise InputError(
            "Expected a Dataset of an array, a sparse matrix or a table, got one of "
            f"{type(held).__name__}. Give the rows and y instead."
        ) from error
    return found


def _labels(rows: lightgbm.Dataset) -> Floats | None:
    label = rows.label if rows.label is not None else _field(rows, "label")
    return None if label is None else np.asarray(plain(label), dtype=np.float64).reshape(-1)


def _weights(rows: lightgbm.Dataset) -> Floats | None:
    weight = rows.weight if rows.weight is not None else _field(rows, "weight")
    return None if weight is None else np.asarray(plain(weight), dtype=np.float64)


def _scores(rows: lightgbm.Dataset) -> Floats | None:
    """init_score, but for one that LightGBM made itself of the model that training went on from.

    Those scores are predictions of trees that are part of the continued model.
    """
    if rows._predictor is not None:
        return None
    score = rows.init_score if rows.init_score is not None else _field(rows, "init_score")
    if score is None:
        return None
    found = np.asarray(plain(score), dtype=np.float64)
    labels = _labels(rows)
    n_rows = len(found) if labels is None else len(labels)
    if found.ndim == 1 and n_rows > 0 and found.size % n_rows == 0:
        return found.reshape(-1, n_rows).T  # a flat one is class by class
    return found


def _field(rows: lightgbm.Dataset, name: str) -> Any:
    """A field that only the library holds by now; None before it is constructed."""
    return None if rows._handle is None else rows.get_field(name)
