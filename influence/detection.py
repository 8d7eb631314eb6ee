"""Finding mislabelled training rows: how much of the noise an ordering of the rows uncovers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from influence.change import check_range, row_positions
from influence.errors import InputError

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def label_noise_curve(
    suspicion: ArrayLike, mislabelled: ArrayLike, fractions: Sequence[float] = FRACTIONS
) -> pd.DataFrame:
    """How many wrong labels are found when the most suspicious rows are inspected first.

    Args:
        suspicion: Larger = inspected earlier, e.g. `self_influence()`, shape (n_train,).
        mislabelled: Positions of the rows whose labels are wrong.
        fractions: Shares of the rows inspected.

    Returns:
        One row for each fraction: `inspected` and `found` (numbers of rows), `recall` (found of
        all mislabelled) and `precision` (found of inspected).
    """
    order = np.argsort(-np.asarray(suspicion, dtype=np.float64), kind="stable")
    rows = row_positions(mislabelled, "mislabelled")
    check_range(rows, len(order), "mislabelled")
    if not rows.size:
        raise InputError("mislabelled names no row, so there is nothing to find.")
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise InputError(f"fractions must lie above 0 and up to 1, got {list(fractions)}.")
    wrong = np.zeros(len(order), dtype=bool)
    wrong[rows] = True
    inspected = np.array([max(1, round(fraction * len(order))) for fraction in fractions])
    found = np.cumsum(wrong[order])[inspected - 1]
    return pd.DataFrame(
        {
            "inspected": inspected,
            "found": found,
            "recall": found / wrong.sum(),
            "precision": found / inspected,
        }
    )
