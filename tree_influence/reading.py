"""Users' rows, block by block: out of containers, through the model, against the library itself."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from influence.errors import InputError, ParityError
from influence.progress import track
from tree_influence.adapters.base import Adapter, GivenRows
from tree_influence.rows import in_blocks, indexable, plain, shape, take

Floats = NDArray[np.float64]

RAW_TOLERANCE = 1e-5  # XGBoost and CatBoost sum float32
LEAF_SAMPLE = 10_000  # rows whose leaves are compared; raw scores are compared on all


def unpack(
    adapter: Adapter, X: Any, y: ArrayLike | None, sample_weight: ArrayLike | None, what: str
) -> GivenRows:
    """Features, target and weights as the user gives them, or out of the library's container."""
    held = adapter.unpack(X)
    if held is not None:
        if y is not None or sample_weight is not None:
            raise InputError(
                f"A {type(X).__name__} holds target and weights itself; leave out those given "
                "beside it."
            )
        _check_lengths(shape(held.X)[0], held.y, adapter.n_targets, what)
        return held
    if y is None:
        ask = "" if what == "training" else ", e.g. y=run.predictions(X) for a classifier"
        raise InputError(
            f"The {what} target is missing: give y beside X{ask}, or a container of the model's "
            "own library that holds both."
        )
    rows, target = indexable(X), np.asarray(y)
    if adapter.n_targets == 1 and target.ndim == 2 and target.shape[1] == 1:
        target = target.ravel()  # as every library takes it
    _check_lengths(shape(rows)[0], target, adapter.n_targets, what)
    _check_order(X, y)
    weight = None if sample_weight is None else np.asarray(sample_weight)
    return GivenRows(rows, target, weight)


def read_rows(
    adapter: Adapter,
    prefix: Any,
    X: Any,
    given_offset: Floats | None,
    *,
    checked: bool,
    progress: bool = False,
) -> tuple[NDArray[np.integer], Floats]:
    """Leaf of each row, shape (n_trees, n_rows), and its offset, shape (n_rows, n_outputs).

    Args:
        adapter: The model.
        prefix: Fitted earlier steps of a Pipeline, or None.
        X: The rows, as `indexable` gives them.
        given_offset: Offset that came with the rows, of the same shape, or None.
        checked: Compare raw scores and leaves with the library's own.
        progress: Show a bar on many rows.
    """
    ensemble = adapter.ensemble
    n_rows = shape(X)[0]
    leaves = np.empty((ensemble.n_trees, n_rows), dtype=ensemble.leaf_dtype)
    offset = np.zeros((n_rows, ensemble.n_outputs))
    for block, features in feature_blocks(adapter, prefix, X, progress):
        leaves[:, block] = adapter.leaves(features)
        offset[block] = adapter.offset(features)
        if checked:
            share = (block.stop - block.start) / n_rows
            _check_parity(adapter, features, leaves[:, block], offset[block], block.start, share)
    if given_offset is not None:
        offset += given_offset
    return leaves, offset


def feature_blocks(
    adapter: Adapter, prefix: Any, X: Any, progress: bool = False
) -> Iterator[tuple[slice, Any]]:
    """Checked features, block by block, after the earlier steps of a Pipeline.

    The steps see all rows at once, as in the Pipeline: they may depend on the whole table.
    """
    inner = X if prefix is None else transformed(prefix.transform, X)
    if shape(inner)[0] != shape(X)[0]:
        raise InputError(
            f"Expected each row to stay one row in the Pipeline's earlier steps, but {shape(X)[0]} "
            f"became {shape(inner)[0]}. Pass the last step, with its own training rows."
        )
    listed = list(in_blocks(inner))
    for block in track(listed, "reading rows", len(listed), progress):
        try:
            features = adapter.features(plain(take(inner, block)))
        except InputError as error:
            if block.start == 0:
                raise
            raise InputError(f"{error} (Rows are counted from row {block.start}.)") from error
        yield block, features


def transformed(steps: Callable[..., Any], *given: Any) -> Any:
    """Rows after the earlier steps of a Pipeline.

    Args:
        steps: Their transform or fit_transform.
        *given: What it takes.

    Raises:
        InputError: They refuse these rows.
    """
    try:
        return indexable(steps(*given))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(
            "Expected rows that the Pipeline's earlier steps take, but they refuse these: "
            f"{type(error).__name__}: {error}. Give a table like the one it was fitted on."
        ) from error


def _check_parity(
    adapter: Adapter,
    features: Any,
    leaves: NDArray[np.integer],
    offset: Floats,
    first: int,
    share: float,
) -> None:
    """Our raw scores against the library's on all rows, and leaves on evenly spaced ones.

    Args:
        adapter: The model.
        features: A block of rows.
        leaves: Their leaves, shape (n_trees, n_rows).
        offset: What the adapter adds to their raw scores, shape (n_rows, n_outputs).
        first: Position of the block's first row, for messages.
        share: Share of all rows that are in the block.
    """
    ours, theirs = adapter.ensemble.raw(leaves) + offset, adapter.library_raw(features)
    gap = np.abs(ours - theirs).max(axis=1)
    leaf = float(np.abs(adapter.ensemble.leaf_value).max(initial=0.0))
    allowed = RAW_TOLERANCE * max(leaf, float(np.abs(theirs).max(initial=0.0)))
    worst = int(np.argmax(gap))
    if not gap[worst] <= allowed:
        raise ParityError(
            f"Expected the raw predictions of {adapter.library}, but row {first + worst} differs: "
            f"the library says {theirs[worst]}, the parsed trees say {ours[worst]}. Please report "
            "this with the model."
        )
    n_sampled = min(len(gap), max(1, round(LEAF_SAMPLE * share)))
    sample = np.unique(np.linspace(0, len(gap) - 1, n_sampled).astype(np.int64))
    labels = adapter.library_leaves(take(features, sample))
    if labels is None:
        return
    differs = (labels != adapter.ensemble.labels(leaves[:, sample])).any(axis=1)
    if differs.any():
        raise ParityError(
            f"Expected the leaves of {adapter.library}, but row {first + sample[differs][0]} falls "
            "into another leaf than the library says. Please report this with the model."
        )


def _check_lengths(n_rows: int, y: ArrayLike, n_targets: int, what: str) -> None:
    found = np.shape(y)
    if n_rows == 0:
        raise InputError(f"Expected at least one of the {what} rows, got none.")
    expected = (n_rows,) if n_targets == 1 else (n_rows, n_targets)
    if found != expected:
        raise InputError(
            f"Expected {'one target' if n_targets == 1 else f'{n_targets} targets'} for each of "
            f"the {n_rows} {what} rows, got y of shape {found}."
        )


def _check_order(X: Any, y: Any) -> None:
    """Refuses pandas rows and targets that carry the same labels in another order."""
    if not isinstance(X, pd.DataFrame) or not isinstance(y, pd.Series) or X.index.equals(y.index):
        return
    if X.index.is_unique and y.index.is_unique and y.index.isin(X.index).all():
        raise InputError(
            "X and y have the same index labels in another order; use y.loc[X.index], or "
            "y.to_numpy() if their order is right as it is."
        )


def row_labels(*tables: Any, n: int) -> pd.Index:
    """The caller's labels of the rows, taken from the first table that has any."""
    for table in tables:
        if isinstance(table, pd.DataFrame | pd.Series):
            return table.index
    return pd.RangeIndex(n)
