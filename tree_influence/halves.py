"""Models of random halves of the training rows, and runs that hold all rows at half their weight.

A sweep around weight 1/2 is a sweep around the average of all half subsets: every row has a value
in every model, whether its trees were grown on the row or not.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.change import Without
from influence.errors import InputError, UnsupportedModelError
from tree_influence.reading import feature_blocks, read_rows
from tree_influence.replay import Replay, replay_boosting
from tree_influence.retrain import Retrained
from tree_influence.run import TreeRun

HALF = 0.5


def random_halves(run: TreeRun, n: int, seed: int) -> list[Without]:
    """Changes that each keep a random half of the rows; every second one keeps the others.

    Rows are drawn by content, not by position, so that another order of the rows gives the same
    halves. Each class is halved by itself, since a half without one of the classes could not be
    trained; a class of one row is in every half. Rows of weight 0 are in none.

    Args:
        run: The run.
        n: Number of halves.
        seed: Seed of the draws.
    """
    order = _by_content(run)
    order = order[run.weight[order] > 0]
    classes = run.target[order] if run.classes is not None else np.zeros(len(order))
    strata = [order[classes == label] for label in np.unique(classes)]
    if max(map(len, strata)) < 2 or sum(max(1, len(rows) // 2) for rows in strata) < 2:
        raise InputError(
            f"Expected rows to halve, but the {len(order)} training rows that have any weight are "
            "too few, or all of different classes. Explain a model of more rows."
        )
    rng = np.random.default_rng(seed)
    halves: list[Without] = []
    while len(halves) < n:
        kept = np.zeros((2, run.n_train), dtype=bool)
        for rows in strata:
            shuffled = rng.permutation(rows)
            middle = len(rows) // 2 + (len(rows) % 2) * int(rng.integers(2))
            kept[0, shuffled[:middle]] = True
            kept[1, shuffled[middle:]] = True
            if len(rows) == 1:
                kept[:, rows] = True
        halves += [Without(np.flatnonzero(~half)) for half in kept]
    return halves[:n]


def half_weighted(run: TreeRun) -> TreeRun:
    """The run with the leaf sums of all its rows at weight 1/2; itself if it has them already."""
    if run.share == HALF:
        return run
    replay = _replayed(run, run.replay, run.leaves, run.offset)
    return replace(run, weight=HALF * run.weight, share=HALF, _replay=replay)


def half_run(run: TreeRun, change: Without) -> TreeRun:
    """The recipe trained on half of the rows, as a run of all rows at weight 1/2.

    Structures, rates and l2 are those of the new model. Leaf values are recomputed from all rows,
    so that the queries are asked of the average over the halves that these structures can have.
    """
    retrained = Retrained.after(change, run)
    adapter, prefix = retrained.adapter, retrained.prefix
    rows = retrained.as_given(run.given)
    leaves, offset = read_rows(adapter, prefix, rows.X, rows.offset, checked=False)
    try:
        replay = _replayed(run, retrained.traced().replay, leaves, offset)
    except UnsupportedModelError as reason:
        replay = reason
    return replace(
        run, adapter=adapter, prefix=prefix, weight=HALF * run.weight, leaves=leaves,
        offset=offset, given_offset=rows.offset, share=HALF, _replay=replay,
    )  # fmt: skip


def _replayed(
    run: TreeRun, known: Replay, leaves: NDArray[np.integer], offset: NDArray[np.float64]
) -> Replay:
    """The boosting of `known` from all rows of the run at half their weight.

    Its error is that of `known`, on the rows it was trained on.
    """
    replay = replay_boosting(
        known.ensemble, known.recipe, leaves, run.target, HALF * run.weight, offset, recompute=True
    )
    return replace(replay, error=known.error)


def _by_content(run: TreeRun) -> NDArray[np.int64]:
    """Positions of the rows in an order that their content decides, shape (n_train,)."""
    content = np.zeros(run.n_train, dtype=np.uint64)
    for block, features in feature_blocks(run.adapter, run.prefix, run.X):
        if isinstance(features, np.ndarray | pd.DataFrame):
            content[block] = _hashed(pd.DataFrame(features))
    some = run.leaves[:: max(1, len(run.leaves) // 8)]  # where the features cannot be read
    content ^= _hashed(pd.DataFrame(np.column_stack([run.target, run.weight, run.offset, some.T])))
    copy = pd.Series(content).groupby(content).cumcount().to_numpy()  # which of equal rows
    return np.lexsort((copy, content))


def _hashed(table: pd.DataFrame) -> NDArray[np.uint64]:
    pandas: Any = pd  # whose types do not name util
    return pandas.util.hash_pandas_object(table, index=False).to_numpy()
