"""What really happens to the queries when the rows ranked first are removed or relabelled.

Removal, targeted label edits and label poisoning are one measure; they differ in the change made of
a ranking's first rows, and in whether every query has its own ranking.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from influence.campaign import Effect, Floats, retrain_all
from influence.change import Relabelled, Without, as_shares
from influence.errors import InputError
from influence.ranking import Ranks, Rows, is_common, n_rankings, n_train_of, ranked_rows
from influence.result_html import EFFECT, result_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESAMPLES = 500
SINGLE = (0.0, 0.001, 0.005, 0.01, 0.015, 0.02)


@dataclass(frozen=True, eq=False, repr=False)
class EffectCurve:
    """Mean change of the queries' loss as more of the rows ranked first are changed.

    Attributes:
        what: What was done to the rows: "removed" or "relabelled".
        fractions: Shares of the training rows, shape (n_fractions,).
        n_rows: Numbers of rows, shape (n_fractions,).
        effects: Change of each query's loss, shape (n_fractions, n_queries); NaN where the
            change could not be trained and the campaign went on.
        mean: Mean over the queries, shape (n_fractions,): larger = the ranking found rows that
            matter more.
        low: Lower end of the 95 % bootstrap interval of `mean`, resampling queries; NaN for one
            query.
        high: Upper end.
    """

    what: str
    fractions: Floats
    n_rows: Rows
    effects: Floats
    mean: Floats
    low: Floats
    high: Floats

    def __repr__(self) -> str:
        return (
            f"<EffectCurve over {self.effects.shape[1]} queries: mean change of loss "
            f"{self.mean[-1]:+.4g} [{self.low[-1]:+.4g}, {self.high[-1]:+.4g}] with "
            f"{self.n_rows[-1]} rows ({self.fractions[-1]:.1%}) {self.what}>"
        )

    def _repr_html_(self) -> str:
        reading = f"Mean {EFFECT}; low and high: its 95 % interval."
        return result_html(repr(self)[1:-1], reading, self.to_frame())

    def to_frame(self) -> pd.DataFrame:
        """One row for each fraction."""
        columns = {"fraction": self.fractions, "n_rows": self.n_rows}
        return pd.DataFrame({**columns, "mean": self.mean, "low": self.low, "high": self.high})

    def plot(
        self, ax: "Axes | None" = None, label: str | None = None, *, reference: bool = False
    ) -> "Axes":
        """Mean and interval against the share of the rows.

        Args:
            ax: Axes to draw on, e.g. those of another method's curve.
            label: Name of the method.
            reference: Drawn as what must be beaten: grey and dashed.
        """
        from influence.plotting import removal_curve

        return removal_curve(
            self.fractions, self.mean, (self.low, self.high), ax,
            label=label, what=self.what, reference=reference,
        )  # fmt: skip


def removal_curve(
    influence: Ranks,
    retrain: Effect[Without],
    fractions: Sequence[float] = SINGLE,
    *,
    seed: int = 0,
) -> EffectCurve:
    """Change of loss after removing the rows ranked first, and retraining.

    Every query's own ranking (the single-query test) with values of two dimensions; one ranking
    for all queries (the multi-query test) with one: `explained.total()` of some queries, and a
    retrain function of others. The baseline is a random ranking, by the same function:
    `rng.random((n_train, n_queries))` or `rng.random(n_train)`.

    Args:
        influence: What ranks the rows, largest first and ties to the lower row: an `Influence`, a
            `TopInfluence` of enough rows, or values of shape (n_train, n_queries) or (n_train,).
        retrain: From a change to real effects, shape (n_queries,), or a `Campaign` of it.
        fractions: Shares of the training rows to remove, 0 to 1.
        seed: Seed of the bootstrap.

    Returns:
        The curve. Costs n_queries retrainings for each fraction, or one with a single ranking;
        equal changes are trained once.

    Raises:
        InputError: Fractions outside 0 to 1, or another number of queries than retrain has.
        RetrainingError: A change could not be trained, e.g. it removes a whole class.

    References:
        Brophy, Hammoudeh, Lowd: Adapting and evaluating influence-estimation methods for
        gradient-boosted decision trees. JMLR 24 (2023), section 5.
    """
    return _curve(influence, retrain, "removed", lambda rows, query: Without(rows), fractions, seed)


def relabelling_curve(
    influence: Ranks,
    retrain: Effect[Relabelled],
    labels: ArrayLike,
    fractions: Sequence[float] = SINGLE,
    *,
    seed: int = 0,
) -> EffectCurve:
    """Change of loss after giving the rows ranked first other labels, and retraining.

    Targeted label edits with values of two dimensions (every query's own proponents), label
    poisoning with one (`explained.total()`: the same rows for all queries).

    Args:
        influence: What ranks the rows, as of `removal_curve`.
        retrain: From a change to real effects, shape (n_queries,), or a `Campaign` of it.
        labels: The label each training row would get, shape (n_train,), e.g. `next_class(y)` or
            `far_end(y)`; or (n_train, n_queries) where it depends on the query.
        fractions: Shares of the training rows to relabel, 0 to 1.
        seed: Seed of the bootstrap.

    Returns:
        The curve; cost and errors as of `removal_curve`.
    """
    new = np.asarray(labels)
    n_train, n = n_train_of(influence), n_rankings(influence)
    if new.shape not in {(n_train,), (n_train, n)}:
        raise InputError(
            f"Expected labels of shape ({n_train},), a new one for each training row, or "
            f"({n_train}, {n}), one for each ranking as well; got {new.shape}."
        )

    def change(rows: Rows, query: int) -> Relabelled:
        return Relabelled(rows, new[rows] if new.ndim == 1 else new[rows, query])

    return _curve(influence, retrain, "relabelled", change, fractions, seed)


def next_class(y: ArrayLike) -> NDArray[np.generic]:
    """For every row the class after its own, in sorted order and in a circle; shape (n_train,).

    Of two classes, that is the other one.
    """
    labels = np.asarray(y)
    if pd.isna(labels).any():
        raise InputError("Expected a label for every row, got missing ones.")
    classes, code = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"Expected labels of two classes or more, got {classes.tolist()}.")
    return classes[(code + 1) % len(classes)]


def far_end(y: ArrayLike) -> Floats:
    """For every row of a regression the far end of the target's range, of the shape of y.

    The maximum for rows at or below the middle of the range, the minimum for those above; several
    targets, in columns, have a range each.
    """
    try:
        target = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected numbers ({error}); for classes there is next_class.") from error
    if not target.size or not np.isfinite(target).all():
        raise InputError("Expected finite numbers, got none, or some that are missing or infinite.")
    low, high = target.min(axis=0), target.max(axis=0)
    return np.where(target <= (low + high) / 2, high, low)


def _curve(
    influence: Ranks,
    retrain: Effect,
    what: str,
    make: Callable[[Rows, int], Without | Relabelled],
    fractions: Sequence[float],
    seed: int,
) -> EffectCurve:
    shares, n_train = as_shares(fractions), n_train_of(influence)
    expected = getattr(retrain, "n_train", None)
    if expected not in (None, n_train):
        raise InputError(
            f"Expected a ranking of the {expected} rows that retrain trains on, got one of "
            f"{n_train}. Rank and retrain the same run."
        )
    n_rows = np.rint(shares * n_train).astype(np.int64)
    rankings = ranked_rows(influence, int(n_rows.max()))
    changes = [make(rows[:k], j) for k in n_rows for j, rows in enumerate(rankings)]
    common = is_common(influence)
    found = retrain_all(retrain, changes, n_queries=None if common else len(rankings))
    if not common:  # of each change, only the effect on the query whose ranking it is
        found = found.reshape(len(n_rows), len(rankings), -1).diagonal(axis1=1, axis2=2)
    mean, low, high = _mean_interval(found, seed)
    return EffectCurve(what, shares, n_rows, found, mean, low, high)


def _mean_interval(effects: Floats, seed: int) -> tuple[Floats, Floats, Floats]:
    """Mean over the queries and the ends of its bootstrap interval, each (n_fractions,)."""
    if np.isinf(effects).any():
        raise InputError(
            f"Expected finite effects, but that on query {np.argwhere(np.isinf(effects))[0, 1]} "
            "is infinite, and so is every mean with it; leave that query out."
        )
    n_queries = effects.shape[1]
    drawn = np.random.default_rng(seed).integers(0, n_queries, (RESAMPLES, n_queries))
    counts = np.stack([np.bincount(row, minlength=n_queries) for row in drawn], axis=1)
    there = ~np.isnan(effects)
    sums, totals = np.where(there, effects, 0.0) @ counts, there @ counts
    means = np.divide(sums, totals, out=np.full_like(sums, np.nan), where=totals > 0)
    n_there = there.sum(axis=1)
    total = np.where(there, effects, 0.0).sum(axis=1)
    mean = np.divide(total, n_there, out=np.full_like(total, np.nan), where=n_there > 0)
    ends = np.full((2, len(effects)), np.nan)
    for f in np.flatnonzero(n_there > 1):
        ends[:, f] = np.nanquantile(means[f], [0.025, 0.975])
    return mean, ends[0], ends[1]
