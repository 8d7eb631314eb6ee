"""Finding mislabelled training rows: how much of the noise an ordering of the rows uncovers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from influence.change import as_shares, check_range, row_positions
from influence.checks import check_whole
from influence.errors import InputError
from influence.result_html import result_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True, eq=False, repr=False)
class NoiseDetection:
    """How well an ordering of the training rows uncovers those with wrong labels.

    Attributes:
        fractions: Shares of the rows inspected that `to_frame` lists, shape (n_fractions,).
        found: Wrong labels among the first rows, shape (n_train,): found[k - 1] in the first k,
            most suspicious first and ties to the lower row.
        n_wrong: Number of wrong labels.
        roc_auc: Chance that a mislabelled row is more suspicious than a sound one, ties counting
            half: .5 = no better than chance; NaN where all rows are mislabelled.
        average_precision: Sum over the distinct suspicions of (gain in recall) x precision, as
            scikit-learn has it; chance gives n_wrong / n_train.
    """

    fractions: NDArray[np.float64]
    found: NDArray[np.int64]
    n_wrong: int
    roc_auc: float
    average_precision: float

    def __repr__(self) -> str:
        return (
            f"<NoiseDetection of {self.n_wrong} wrong labels in {len(self.found)} rows: ROC AUC "
            f"{self.roc_auc:.3f}, average precision {self.average_precision:.3f}, precision at "
            f"{self.n_wrong} {self.precision_at(self.n_wrong):.3f}>"
        )

    def _repr_html_(self) -> str:
        chance = self.n_wrong / len(self.found)
        reading = f"Most suspicious rows first. Chance: precision {chance:.3g}, ROC AUC 0.5."
        return result_html(repr(self)[1:-1], reading, self.to_frame())

    def precision_at(self, k: int) -> float:
        """Share of wrong labels among the k most suspicious rows."""
        check_whole("k", k)
        if not 1 <= k <= len(self.found):
            raise InputError(f"k must lie between 1 and {len(self.found)}, got {k}.")
        return float(self.found[k - 1] / k)

    def to_frame(self) -> pd.DataFrame:
        """One row for each fraction.

        Returns:
            `inspected` and `found` (numbers of rows), `recall` (found of all mislabelled) and
            `precision` (found of inspected).
        """
        inspected = np.maximum(1, np.rint(self.fractions * len(self.found)).astype(np.int64))
        found = self.found[inspected - 1]
        return pd.DataFrame(
            {
                "inspected": inspected,
                "found": found,
                "recall": found / self.n_wrong,
                "precision": found / inspected,
            }
        )

    def plot(self, ax: "Axes | None" = None, label: str | None = None) -> "Axes":
        """Share of the wrong labels found against the share of the rows inspected."""
        from influence.plotting import noise_curve

        inspected = np.arange(len(self.found) + 1) / len(self.found)
        return noise_curve(inspected, np.append(0, self.found) / self.n_wrong, ax, label=label)


def noise_detection(
    suspicion: ArrayLike, mislabelled: ArrayLike, fractions: Sequence[float] = FRACTIONS
) -> NoiseDetection:
    """Judges an ordering of the rows by the wrong labels it puts first.

    Args:
        suspicion: Larger = inspected earlier, e.g. `self_influence()`, shape (n_train,).
        mislabelled: Positions of the rows whose labels are wrong.
        fractions: Shares of the rows inspected, for the frame.

    Raises:
        InputError: Suspicions that are not finite, no mislabelled row, rows that are not there,
            or fractions outside 0 to 1.
    """
    try:
        values = np.asarray(suspicion, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"suspicion must be numbers of shape (n_train,): {error}.") from error
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(
            f"suspicion must be finite numbers of shape (n_train,), got shape {values.shape}."
        )
    rows = row_positions(mislabelled, "mislabelled")
    check_range(rows, len(values), "mislabelled")
    if not rows.size:
        raise InputError("mislabelled names no row, so there is nothing to find.")
    shares = as_shares(fractions)
    if not shares.all():
        raise InputError(f"fractions must lie above 0, got {shares.tolist()}.")
    wrong = np.zeros(len(values), dtype=bool)
    wrong[rows] = True
    order = np.argsort(-values, kind="stable")
    found = np.cumsum(wrong[order])
    return NoiseDetection(
        shares,
        found,
        len(rows),
        _roc_auc(values, wrong),
        _average_precision(values[order], found),
    )


def label_noise_curve(
    suspicion: ArrayLike, mislabelled: ArrayLike, fractions: Sequence[float] = FRACTIONS
) -> pd.DataFrame:
    """How many wrong labels are found when the most suspicious rows are inspected first.

    The frame of `noise_detection`, whose arguments it takes.

    Returns:
        One row for each fraction: `inspected` and `found` (numbers of rows), `recall` (found of
        all mislabelled) and `precision` (found of inspected).
    """
    return noise_detection(suspicion, mislabelled, fractions).to_frame()


def _roc_auc(suspicion: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """The Mann-Whitney statistic over the number of pairs."""
    n_wrong, n_sound = int(wrong.sum()), int((~wrong).sum())
    if not n_sound:
        return float("nan")
    ranks = rankdata(suspicion)[wrong].sum()
    return float((ranks - n_wrong * (n_wrong + 1) / 2) / (n_wrong * n_sound))


def _average_precision(suspicion: NDArray[np.float64], found: NDArray[np.int64]) -> float:
    """Of suspicions sorted from the largest; rows of equal suspicion are inspected together."""
    last = np.flatnonzero(np.append(np.diff(suspicion) != 0, True))
    gained = np.diff(np.append(0, found[last]))
    return float((gained * found[last] / (last + 1)).sum() / found[-1])
