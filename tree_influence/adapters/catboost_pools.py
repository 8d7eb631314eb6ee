"""`catboost.Pool`: what it holds, and what it cannot give back."""

from typing import Any

import catboost
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.errors import InputError, UnsupportedChangeError
from tree_influence.adapters.base import GivenRows
from tree_influence.adapters.columns import check_names

Floats = NDArray[np.float64]


def unpack_pool(pool: catboost.Pool, n_outputs: int) -> GivenRows:
    """Rows, target, weights and baseline of a Pool.

    A Pool of numbers gives its features back. One with categories, texts or embeddings does not,
    and stays what it is: the library alone can read it.
    """
    if pool.is_quantized():
        raise InputError(
            "Expected a Pool that holds its features, got a quantized one, which keeps only the "
            "borders they lie between. Make the Pool again and do not call quantize()."
        )
    label = pool.get_label()
    if label is None or not pool.has_label():
        raise InputError(
            "Expected a Pool with labels, got one without: give label= when making it."
        )
    weight = np.asarray(pool.get_weight(), dtype=np.float64)
    return GivenRows(
        X=_features(pool),
        y=np.asarray(label),
        sample_weight=None if (weight == 1).all() else weight,
        offset=_baseline(pool, n_outputs),
    )


def _read_by_library_only(pool: catboost.Pool) -> bool:
    """Whether some columns are categories, texts or embeddings."""
    return bool(
        pool.get_cat_feature_indices()
        or pool.get_text_feature_indices()
        or pool.get_embedding_feature_indices()
    )


def check_pool(pool: catboost.Pool, columns: dict[str, list[int]], names: list[str] | None) -> None:
    """Compares the columns of a Pool with those of the model."""
    found = {
        "cat_features": list(pool.get_cat_feature_indices()),
        "text_features": list(pool.get_text_feature_indices()),
        "embedding_features": list(pool.get_embedding_feature_indices()),
    }
    for kind, expected in columns.items():
        if found[kind] != expected:
            raise InputError(
                f"Expected a Pool with {kind}={expected}, as the model was trained, got "
                f"{found[kind]}; make the Pool the same way."
            )
    given = pool.get_feature_names()
    if names is not None and any(given):
        check_names(given, names)


def changed_pool(
    pool: catboost.Pool, y: NDArray[np.generic], weight: Floats | None, offset: Floats | None
) -> catboost.Pool:
    """The rows of a Pool with other weights.

    Raises:
        UnsupportedChangeError: Other labels: a Pool keeps its own, and gives no features back to
            make another of.
    """
    own = np.asarray(pool.get_label())
    numeric = own.dtype.kind in "biuf"
    kind = np.float32 if numeric else np.str_
    same = own.astype(kind) == y.astype(kind)
    if not same.all():
        raise UnsupportedChangeError(
            "A Pool with categories, texts or embeddings keeps its labels, so that it can be "
            "trained again Without rows or Reweighted, but not Relabelled. Trace the model with "
            "the table the Pool was made of."
        )
    changed = pool.slice(list(range(pool.num_row())))
    if weight is not None:
        changed.set_weight(weight)
    if offset is not None:
        changed.set_baseline(offset)
    return changed


def baseline_of(rows: Any, n_outputs: int) -> Floats:
    """What a prediction adds for the baseline in the rows, shape (n_rows, n_outputs)."""
    held = _baseline(rows, n_outputs) if isinstance(rows, catboost.Pool) else None
    return np.zeros((rows.shape[0], n_outputs)) if held is None else held


def _baseline(pool: catboost.Pool, n_outputs: int) -> Floats | None:
    """The baseline: training starts from it alone, and predictions add it to the model's."""
    baseline = np.asarray(pool.get_baseline(), dtype=np.float64)
    if baseline.size == 0:
        return None
    if baseline.shape[1] != n_outputs:
        raise InputError(
            f"Expected a baseline of {n_outputs} columns, one for each output of the model, got "
            f"shape {baseline.shape}."
        )
    return baseline


def _features(pool: catboost.Pool) -> Any:
    if not _read_by_library_only(pool):
        numbers, names = pool.get_features(), pool.get_feature_names()
        return pd.DataFrame(numbers, columns=names, copy=False) if any(names) else numbers
    if pool.get_group_id_hash() is not None:
        raise InputError(
            "Expected a Pool whose rows can be read one by one, got one with group_id beside "
            "categories, texts or embeddings. Give the table it was made of, and y."
        )
    return pool
