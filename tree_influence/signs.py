"""Which side of a query a training row is on: the sign of methods that compare rows.

| index | meaning |
|---|---|
| j     | training row |
| q     | query |
| k     | target, or output where one target has several |
"""

import numpy as np
from numpy.typing import NDArray

from influence.errors import UnsupportedModelError
from tree_influence.losses_catboost import NormalLikelihood
from tree_influence.run import TreeQueries, TreeRun

Floats = NDArray[np.float64]


def sides(run: TreeRun, queries: TreeQueries, rows: slice | NDArray[np.int64]) -> Floats:
    """+1 where a training row pulls the prediction of a query towards its truth, else -1.

    Classes: +1 where the labels are the same. Numbers, with f_q the model's prediction of the
    query on the scale of the target:

        +1 where sum_k (y_jk - f_qk) (y_qk - f_qk) >= 0

    The sum is over the targets; where a model predicts several quantiles of one target, over them.
    A query that is predicted without error has every row on its side. Where raw scores have no
    known scale (rankers, objectives of one's own), f_q is the weighted mean of all training
    targets.

    Args:
        run: The traced model.
        queries: The queries.
        rows: Training rows, or their positions.

    Returns:
        Shape (n_rows, n_queries); each column is contiguous. Cost: O(n_rows n_queries n_targets).

    Raises:
        UnsupportedModelError: The target is no number on the scale of the prediction (intervals of
            survival times).
    """
    if run.classes is not None:
        return np.where(queries.target[:, None] == run.target[rows], 1.0, -1.0).T
    predicted = _predicted(run, queries)  # (n_queries, n_outputs)
    own = run.target[rows].reshape(-1, run.adapter.n_targets)
    truth = queries.target.reshape(-1, run.adapter.n_targets)
    product = np.zeros((queries.n_queries, len(own)))
    for k in range(predicted.shape[1]):
        target = k if run.adapter.n_targets > 1 else 0
        away = truth[:, target] - predicted[:, k]
        product += (own[:, target] - predicted[:, k, None]) * away[:, None]
    return np.where(product >= 0, 1.0, -1.0).T


def _knows_scale(run: TreeRun) -> bool:
    """Whether raw scores can be put on the scale of the target."""
    try:
        run.adapter.loss()
    except UnsupportedModelError:
        return False
    return True


def _predicted(run: TreeRun, queries: TreeQueries) -> Floats:
    """What the model says of the queries on the scale of the target, shape (n_queries, n_outputs).

    A model of mean and spread says the mean.
    """
    adapter = run.adapter
    if adapter.n_targets not in (1, adapter.ensemble.n_outputs):
        raise UnsupportedModelError(
            f"Expected targets that the model's predictions can be compared with, got "
            f"{adapter.n_targets} columns of target for {adapter.ensemble.n_outputs} of "
            "predictions, as of intervals of survival times. Retraining "
            "(tree_influence.retrainer) takes no sides."
        )
    if not _knows_scale(run):
        target = run.target.reshape(run.n_train, -1)
        mean = np.average(target, axis=0, weights=run.weight)
        return np.tile(mean, (queries.n_queries, adapter.ensemble.n_outputs // len(mean)))
    said = adapter.response(adapter.ensemble.raw(queries.leaves) + queries.offset)
    if said.shape[1] > adapter.n_targets and isinstance(adapter.loss(), NormalLikelihood):
        return said[:, :1]
    return said
