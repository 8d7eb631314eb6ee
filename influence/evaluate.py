"""Judges predicted effects by real retraining: functions from a Change to effects, nothing more.

Leave-one-out correlation, the linear datamodelling score (LDS) and order prediction are the same
measure; they differ only in the list of changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from influence.campaign import ChangeT, Effect, Floats, retrain_all
from influence.errors import InputError
from influence.result_html import result_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = NDArray[np.int64]

RESAMPLES = 500


@dataclass(frozen=True, eq=False, repr=False)
class Agreement:
    """How well predicted effects agree with retrained ones, over a list of changes.

    Attributes:
        predicted: Predicted effects, shape (n_changes, n_queries), without failed changes.
        retrained: Effects after really retraining, same shape.
        spearman: Rank correlation over the changes, shape (n_queries,); NaN for a query whose
            loss no change moved.
        pearson: Linear correlation, shape (n_queries,).
        slope: Slope of the retrained on the predicted effects, shape (n_queries,): 1 = right
            scale, below 1 = effects are overstated. For predictions in units of loss.
        mae_over_sd: Mean absolute error over the standard deviation of the retrained effects,
            shape (n_queries,). For predictions in units of loss.
        relative_error: Sum of the absolute errors over the sum of the absolute retrained effects,
            shape (n_queries,): 0 = exact, 1 = no better than predicting no effect. For predictions
            in units of loss.
        mean: Mean Spearman correlation over the queries.
        interval: 95 % bootstrap interval of `mean`, resampling changes and queries.
        failed: Positions of the changes that could not be trained, and are left out.
    """

    predicted: Floats
    retrained: Floats
    spearman: Floats
    pearson: Floats
    slope: Floats
    mae_over_sd: Floats
    relative_error: Floats
    mean: float
    interval: tuple[float, float]
    failed: tuple[int, ...] = ()

    def __repr__(self) -> str:
        low, high = self.interval
        n_changes, n_queries = self.predicted.shape
        failed = f" ({len(self.failed)} more failed)" if self.failed else ""
        return (
            f"<Agreement over {n_changes} changes{failed} and {n_queries} queries: mean Spearman "
            f"{self.mean:.3f} [{low:.3f}, {high:.3f}], Pearson {_mean(self.pearson):.3f}>"
        )

    def _repr_html_(self) -> str:
        reading = (
            "By query. Spearman: 1 = ranks the changes as really retraining does, 0 = chance. "
            "Slope: 1 = right size, below 1 = overstated; for predictions in units of loss."
        )
        return result_html(repr(self)[1:-1], reading, self.to_frame())

    def to_frame(self) -> pd.DataFrame:
        """The measures, one row for each query."""
        names = ("spearman", "pearson", "slope", "mae_over_sd", "relative_error")
        return pd.DataFrame({name: getattr(self, name) for name in names})

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Retrained against predicted effects, one point for each change and query."""
        from influence.plotting import effect_scatter

        return effect_scatter(self.predicted, self.retrained, ax)


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
        retrain: From a change to real effects, shape (n_queries,), e.g. a `retrainer`; or a
            `Campaign` of it, which keeps what is trained and can go on where a change fails
            (`on_error="nan"`: such changes are left out), and whose n_jobs and progress hold.
        changes: `leave_one_out(...)` for the LOO correlation, `random_subsets(...)` for the LDS.
        n_jobs: Retrainings at a time; None leaves it to `joblib.parallel_config`.
        seed: Seed of the bootstrap.
        progress: Show a bar.

    Returns:
        Correlations per query over the changes, their mean and its bootstrap interval.

    Raises:
        InputError: Fewer than 3 changes, or effects of other numbers of queries on the two sides.
        RetrainingError: A change could not be trained.
    """
    changes = list(changes)
    _check_number(len(changes))
    predicted = np.stack([np.asarray(predict(change), dtype=np.float64) for change in changes])
    if predicted.ndim != 2:
        raise InputError(
            "Expected predict to return one effect for each query, of shape (n_queries,), got "
            f"shape {predicted.shape[1:]}."
        )
    retrained = retrain_all(retrain, changes, n_jobs, progress, n_queries=predicted.shape[1])
    return compare(predicted, retrained, seed)


def noise_floor(
    first: Effect[ChangeT],
    second: Effect[ChangeT],
    changes: Sequence[ChangeT],
    *,
    n_jobs: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Agreement:
    """Agreement of two retrainings that differ by their seeds alone: how far effects are noise.

    With r the Pearson correlation of the two, a prediction that knew the mean effect over seeds
    exactly would correlate with one retraining at sqrt(r), the classical attenuation (Spearman
    1904), and no prediction does better on average. Where r is near 0, effects of this size cannot
    be judged: average each side over more seeds.

    Args:
        first: From a change to real effects, shape (n_queries,), or a `Campaign`.
        second: The same with another seed.
        changes: The changes.
        n_jobs: Retrainings at a time; None leaves it to `joblib.parallel_config`.
        seed: Seed of the bootstrap.
        progress: Show a bar.

    Raises:
        InputError: Fewer than 3 changes, or effects of other numbers of queries on the two sides.
        RetrainingError: A change could not be trained.
    """
    changes = list(changes)
    _check_number(len(changes))
    one = retrain_all(first, changes, n_jobs, progress)
    two = retrain_all(second, changes, n_jobs, progress, n_queries=one.shape[1])
    return compare(one, two, seed)


def compare(predicted: Floats, retrained: Floats, seed: int = 0) -> Agreement:
    """`agreement` of effects already at hand, both of shape (n_changes, n_queries).

    Changes whose effects are all NaN on one side are left out as failed.
    """
    if predicted.shape != retrained.shape or predicted.ndim != 2:
        raise InputError(
            "Expected predicted and retrained effects of one shape (n_changes, n_queries), got "
            f"{predicted.shape} and {retrained.shape}."
        )
    failed = np.isnan(predicted).all(axis=1) | np.isnan(retrained).all(axis=1)
    predicted, retrained = predicted[~failed], retrained[~failed]
    _check_number(len(predicted))
    for name, effects in (("predicted", predicted), ("retrained", retrained)):
        if not np.isfinite(effects).all():
            change, query = np.argwhere(~np.isfinite(effects))[0]
            raise InputError(
                f"Expected finite {name} effects, got {effects[change, query]} for change "
                f"{np.flatnonzero(~failed)[change]} and query {query}; leave that query out."
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
        _divide(error, np.abs(retrained).mean(axis=0)),
        _mean(spearman),
        _interval(predicted, retrained, seed),
        tuple(np.flatnonzero(failed).tolist()),
    )


def _check_number(n_changes: int) -> None:
    if n_changes < 3:
        raise InputError(f"A correlation needs at least 3 changes that train, got {n_changes}.")


def _interval(predicted: Floats, retrained: Floats, seed: int) -> tuple[float, float]:
    """Ends of the bootstrap interval of the mean rank correlation."""
    rng = np.random.default_rng(seed)
    n_changes, n_queries = predicted.shape
    sorted_both = _Sorted.of(predicted), _Sorted.of(retrained)
    means = np.empty(RESAMPLES)
    for b in range(RESAMPLES):
        times = np.bincount(rng.integers(0, n_changes, n_changes), minlength=n_changes)
        queries = rng.integers(0, n_queries, n_queries)
        first, second = (one.ranks(times) for one in sorted_both)
        means[b] = _mean(_correlation(first, second, times)[queries])
    low, high = np.nanquantile(means, [0.025, 0.975]) if np.isfinite(means).any() else [np.nan] * 2
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class _Sorted:
    """Effects in order: what ranks them among any drawn changes without sorting again.

    Attributes:
        order: Changes from the smallest effect, for each query, shape (n_changes, n_queries).
        first: First place of the effects equal to that in each place, same shape.
        last: Last place of them.
    """

    order: Rows
    first: Rows
    last: Rows

    @classmethod
    def of(cls, effects: Floats) -> Self:
        order = np.argsort(effects, axis=0, kind="stable")
        values = np.take_along_axis(effects, order, axis=0)
        place = np.arange(len(effects))[:, None]
        new = np.ones(effects.shape, dtype=bool)
        new[1:] = values[1:] != values[:-1]
        ends = np.ones(effects.shape, dtype=bool)
        ends[:-1] = new[1:]
        first = np.maximum.accumulate(np.where(new, place, 0), axis=0)
        last = np.minimum.accumulate(np.where(ends, place, len(effects))[::-1], axis=0)[::-1]
        return cls(order, first, last)

    def ranks(self, times: Rows) -> Floats:
        """Mean ranks where each change is drawn so many times, shape (n_changes, n_queries).

        Args:
            times: Shape (n_changes,).
        """
        so_far = np.zeros((len(times) + 1, self.order.shape[1]))
        np.cumsum(times[self.order], axis=0, out=so_far[1:])
        below = np.take_along_axis(so_far, self.first, axis=0)
        upto = np.take_along_axis(so_far, self.last + 1, axis=0)
        ranks = np.empty_like(below)
        np.put_along_axis(ranks, self.order, (below + upto + 1) / 2, axis=0)
        return ranks


def _centred(effects: Floats, times: Rows | None = None) -> Floats:
    """Deviations from each column's mean; exactly 0 where only rounding varies.

    Args:
        effects: Shape (n_changes, n_queries).
        times: How often each change counts, shape (n_changes,); None for once.
    """
    times = np.ones(len(effects), dtype=np.int64) if times is None else times
    there = effects[times > 0]
    varies = np.ptp(there, axis=0) > 1e-12 * np.abs(there).max(axis=0)
    return np.where(varies, effects - times @ effects / times.sum(), 0.0)


def _correlation(a: Floats, b: Floats, times: Rows | None = None) -> Floats:
    """Pearson correlation of each column; NaN where one is constant."""
    a, b = _centred(a, times), _centred(b, times)
    once = np.ones((len(a), 1)) if times is None else times[:, None]
    variances = (once * a**2).sum(axis=0) * (once * b**2).sum(axis=0)
    return _divide((once * a * b).sum(axis=0), np.sqrt(variances))


def _divide(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.full_like(b, np.nan), where=b > 0)


def _mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
