"""Judges predicted effects by real retraining: functions from a Change to effects, nothing more.

Leave-one-out correlation, the linear datamodelling score (LDS) and order prediction are the same
measure; they differ only in the list of changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from influence.errors import InputError
from influence.progress import track

Floats = NDArray[np.float64]
ChangeT = TypeVar("ChangeT")
Effect = Callable[[ChangeT], Floats]

RESAMPLES = 500


@dataclass(frozen=True, eq=False, repr=False)
class Agreement:
    """How well predicted effects agree with retrained ones, over a list of changes.

    Attributes:
        predicted: Predicted effects, shape (n_changes, n_queries).
        retrained: Effects after really retraining, same shape.
        spearman: Rank correlation over the changes, shape (n_queries,); NaN for a query whose
            loss no change moved.
        pearson: Linear correlation, shape (n_queries,).
        slope: Slope of the retrained on the predicted effects, shape (n_queries,): 1 = right
            scale, below 1 = effects are overstated. For predictions in units of loss.
        mae_over_sd: Mean absolute error over the standard deviation of the retrained effects,
            shape (n_queries,). For predictions in units of loss.
        mean: Mean Spearman correlation over the queries.
        interval: 95 % bootstrap interval of `mean`, resampling changes and queries.
    """

    predicted: Floats
    retrained: Floats
    spearman: Floats
    pearson: Floats
    slope: Floats
    mae_over_sd: Floats
    mean: float
    interval: tuple[float, float]

    def __repr__(self) -> str:
        low, high = self.interval
        n_changes, n_queries = self.predicted.shape
        return (
            f"<Agreement over {n_changes} changes and {n_queries} queries: mean Spearman "
            f"{self.mean:.3f} [{low:.3f}, {high:.3f}], Pearson {np.nanmean(self.pearson):.3f}>"
        )

    def to_frame(self) -> pd.DataFrame:
        """The measures, one row for each query."""
        names = ("spearman", "pearson", "slope", "mae_over_sd")
        return pd.DataFrame({name: getattr(self, name) for name in names})


def agreement(
    predict: Effect[ChangeT],
    retrain: Effect[ChangeT],
    changes: Sequence[ChangeT],
    *,
    n_jobs: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Agreement:
    """Compares predicted effects of changes with effects after really retraining.

    Args:
        predict: From a change to predicted effects, shape (n_queries,), e.g.
            `explained.predict` of an `Influence`.
        retrain: From a change to real effects, shape (n_queries,), e.g. a `retrainer`.
        changes: `leave_one_out(...)` for the LOO correlation, `random_subsets(...)` for the LDS.
        n_jobs: Retrainings at a time; None leaves it to `joblib.parallel_config`.
        seed: Seed of the bootstrap.
        progress: Show a bar.

    Returns:
        Correlations per query over the changes, their mean and its bootstrap interval.
    """
    if len(changes) < 3:
        raise InputError(f"A correlation needs at least 3 changes, got {len(changes)}.")
    predicted = np.stack([np.asarray(predict(change), dtype=np.float64) for change in changes])
    return compare(predicted, retrain_all(retrain, changes, n_jobs, progress), seed)


def retrain_all(
    retrain: Effect[ChangeT],
    changes: Sequence[ChangeT],
    n_jobs: int | None = None,
    progress: bool = True,
) -> Floats:
    """Retrains for every change, through joblib; shape (n_changes, n_queries)."""
    from joblib import Parallel, delayed

    jobs = (delayed(retrain)(change) for change in changes)
    effects: Any = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    return np.stack(list(track(effects, "retraining", len(changes), progress)))


def compare(predicted: Floats, retrained: Floats, seed: int = 0) -> Agreement:
    """`agreement` of effects already at hand, both of shape (n_changes, n_queries)."""
    if predicted.shape != retrained.shape or predicted.ndim != 2:
        raise InputError(
            "Expected predicted and retrained effects of one shape (n_changes, n_queries), got "
            f"{predicted.shape} and {retrained.shape}."
        )
    spearman = _correlation(rankdata(predicted, axis=0), rankdata(retrained, axis=0))
    deviation, real = _centred(predicted), _centred(retrained)
    error = np.abs(predicted - retrained).mean(axis=0)
    return Agreement(
        predicted,
        retrained,
        spearman,
        _correlation(predicted, retrained),
        _divide((deviation * real).sum(axis=0), (deviation**2).sum(axis=0)),
        _divide(error, np.sqrt((real**2).mean(axis=0))),
        _mean(spearman),
        _interval(predicted, retrained, seed),
    )


def _interval(predicted: Floats, retrained: Floats, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    n_changes, n_queries = predicted.shape
    means = np.empty(RESAMPLES)
    for b in range(RESAMPLES):
        cells = np.ix_(rng.integers(0, n_changes, n_changes), rng.integers(0, n_queries, n_queries))
        ranks = (rankdata(effects[cells], axis=0) for effects in (predicted, retrained))
        means[b] = _mean(_correlation(*ranks))
    low, high = np.nanquantile(means, [0.025, 0.975]) if np.isfinite(means).any() else [np.nan] * 2
    return float(low), float(high)


def _centred(effects: Floats) -> Floats:
    """Deviations from each column's mean; exactly 0 where only rounding varies."""
    varies = np.ptp(effects, axis=0) > 1e-12 * np.abs(effects).max(axis=0)
    return np.where(varies, effects - effects.mean(axis=0), 0.0)


def _correlation(a: Floats, b: Floats) -> Floats:
    """Pearson correlation of each column; NaN where one is constant."""
    a, b = _centred(a), _centred(b)
    return _divide((a * b).sum(axis=0), np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0)))


def _divide(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.full_like(b, np.nan), where=b > 0)


def _mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
